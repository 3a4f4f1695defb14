"""Every command and option that the docker command lists (28.2, `docker COMMAND --help`, beside
this file) is there, or is answered in one line that says what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from onggi.errors import InvalidArgument
from onggi.faces.cli import catalogue, instead
from onggi.faces.cli import main as face
from onggi.faces.cli.options import Option, parse

LINES = (Path(__file__).parent / "docker_options.txt").read_text().splitlines()
DOCKERS = {name: options.split() for name, _, options in (line.partition(":") for line in LINES)}


def options_of(name: str) -> tuple[Option, ...]:
    if not name:
        return face.GLOBAL
    entry = catalogue.entry_of(name)
    return catalogue.load(entry).options if entry else ()


def test_the_list_is_docker_s() -> None:
    assert len(DOCKERS) > 100
    assert "--publish" in DOCKERS["run"] and "--no-stdin" in DOCKERS["attach"]


@pytest.mark.parametrize("name", [name for name in DOCKERS if name])
def test_every_command_is_there_or_answered(name: str) -> None:
    assert (catalogue.entry_of(name) is not None) != (instead.command(name) is not None)


@pytest.mark.parametrize("name", DOCKERS)
def test_every_option_is_there_or_answered(name: str) -> None:
    if instead.command(name):
        return
    options = options_of(name)
    known = {spelling for option in options for spelling in option.names}
    for spelling in DOCKERS[name]:
        assert spelling in known or instead.hint(name, spelling), spelling


@pytest.mark.parametrize("name", ["", "volume create", "image rm", "container start"])
def test_the_answer_is_one_line(name: str) -> None:
    known = {spelling for option in options_of(name) for spelling in option.names}
    unknown = next(spelling for spelling in DOCKERS[name] if spelling not in known)
    with pytest.raises(InvalidArgument) as found:
        parse(name, options_of(name), [unknown, "x"])
    text = str(found.value)
    assert text.startswith(f"{f'onggi {name}'.strip()} has no option {unknown} — ")
    assert "\n" not in text and len(text) < 200


def test_answers_are_of_what_is_not_there() -> None:
    """An answer would hide a command that has come meanwhile."""
    assert not [name for name in instead._COMMANDS if catalogue.entry_of(name)]
    for name, table in instead._OF_VERB.items():
        known = {spelling for option in options_of(name) for spelling in option.names}
        assert not known & table.keys(), name
