"""Which specification describes a device: directories, conflicts, `all`, files that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from onggi.engine.cdi import edits_for
from onggi.errors import Conflict, NotFound, Unsupported

KIND = "vendor.com/class"


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    """Two directories, the second one before the first."""
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    return str(tmp_path / "etc"), str(tmp_path / "run")


def write(directory: str, name: str, *devices: str, mark: str = "", **common: Any) -> str:
    """A specification whose devices set `NAME=MARK`."""
    spec = {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [
            {"name": one, "containerEdits": {"env": [f"D_{one}={mark}"]}} for one in devices
        ],
        "containerEdits": common,
    }
    path = f"{directory}/{name}"
    Path(path).write_text(json.dumps(spec))
    return path


def test_of_two_directories_the_later_one_wins(places: tuple[str, str]) -> None:
    write(places[0], "a.json", "0", "1", mark="etc")
    write(places[1], "b.yaml", "1", mark="run")
    names = (f"{KIND}=0", f"{KIND}=1")
    assert edits_for(names, places).env == ("D_0=etc", "D_1=run")
    assert edits_for(names, places[::-1]).env == ("D_0=etc", "D_1=etc")


def test_two_files_of_one_directory_conflict(places: tuple[str, str]) -> None:
    write(places[1], "a.json", "0")
    write(places[1], "b.json", "0", "1")
    with pytest.raises(Conflict) as found:
        edits_for((f"{KIND}=0",), places)
    assert f"{places[1]}/a.json and {places[1]}/b.json" in str(found.value)
    assert edits_for((f"{KIND}=1",), places).env == ("D_1=",)
    write(places[0], "c.json", "0", mark="c")
    assert edits_for((f"{KIND}=0",), (places[1], places[0])).env == ("D_0=c",)


def test_all_is_a_name_or_every_device(places: tuple[str, str]) -> None:
    write(places[0], "a.json", "0", "1", env=["COMMON=1"], additionalGids=[0, 7, 7])
    every = edits_for((f"{KIND}=all",), places)
    assert every.env == ("COMMON=1", "D_0=", "D_1=")
    assert every.groups == (7,)
    # Once, however often a device is named.
    assert edits_for((f"{KIND}=0", f"{KIND}=0"), places).env == ("COMMON=1", "D_0=")
    write(places[0], "b.json", "all", mark="b")
    assert edits_for((f"{KIND}=all",), places).env == ("D_all=b",)


def test_what_is_missing_is_told_with_what_is_there(places: tuple[str, str]) -> None:
    nothing = "a program that writes its specification"
    for name, why in ((f"{KIND}=0", nothing), (f"{KIND}=all", nothing), ("\x1b/x=y", "�/x=y")):
        with pytest.raises(NotFound) as found:
            edits_for((name,), (*places, "/no/such/directory"))
        assert why in str(found.value)
        assert places[0] in str(found.value)
    write(places[0], "a.json", *map(str, range(12)))
    with pytest.raises(NotFound, match=r"vendor.com/class has 0, 1, 10, 11, 2, 3, 4, 5, …"):
        edits_for((f"{KIND}=12",), places)


def test_files_that_are_none_are_told_and_hold_nothing_up(places: tuple[str, str]) -> None:
    write(places[0], "good.json", "0")
    os.mkfifo(f"{places[0]}/fifo.json")
    Path(places[0], "loop.json").symlink_to("loop.json")
    Path(places[0], "directory.json").mkdir()
    Path(places[0], "large.json").write_bytes(b" " * (5 << 20))
    Path(places[0], "broken.yaml").write_text("kind: [")
    Path(places[0], "odd\nname.json").write_text("{}")
    Path(places[0], "ignored.txt").write_text("{")
    found = edits_for((f"{KIND}=0",), places)
    assert found.env == ("D_0=",)
    assert len(found.warnings) == 6
    assert all("\n" not in warning for warning in found.warnings)
    told = " ".join(found.warnings)
    for words in (
        "fifo.json: not a regular file",
        "loop.json: Too many",
        "more than 4194304",
        "broken.yaml: $: not valid YAML: line 1",
        "odd�name.json: $: object missing",
    ):
        assert words in told
    with pytest.raises(NotFound, match="broken.yaml"):
        edits_for((f"{KIND}=1",), places)


@pytest.mark.parametrize(
    "edit",
    [{"hooks": [{"hookName": "createRuntime", "path": "/x"}]}, {"intelRdt": {"closID": "a"}}],
)
def test_hooks_and_classes_are_refused(places: tuple[str, str], edit: dict[str, Any]) -> None:
    path = write(places[0], "a.json", "0", **edit)
    with pytest.raises(Unsupported) as found:
        edits_for((f"{KIND}=0",), places)
    assert f"{path}: $.containerEdits.{next(iter(edit))}" in str(found.value)
