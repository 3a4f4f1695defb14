"""The documents say what is there: options, paths, tests; the two READMEs say the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from onggi.engine.settings import parse_settings
from onggi.faces.cli import catalogue, runflags
from onggi.faces.cli.options import Option, parse
from onggi.faces.oci import main as runtime_main
from onggi.image.settings import ImageSettings, RegistrySettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "keel/README.md"],
    key=str,
)
FOR_USERS = [path for path in DOCUMENTS if path.parent.name == "docs" or "README" in path.name]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
#: Options of other programs that the documents mention.
FOREIGN = {"--strict"}
#: Of other programs, in what is about onggi-runtime.
CALLERS = {
    "--runtime", "--rm", "--runc-binary", "--add-runtime", "--lent-share", "--scope",
    "--export", "--import", "--name",
}  # fmt: skip
RUNTIME = "docs/runtime.md"
GLOBAL = {"--root", "--version", "--help"}
LINK = re.compile(r"\]\(([^)#\s]+)")
PATH = re.compile(r"`((?:src|tests|docs|keel|bench|scripts|front)/[\w./-]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
ENTRY = re.compile(r"^\| ([A-Z]\d+) \|")
TEST = re.compile(r"`(test_\w+)`")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(content: str) -> list[str]:
    """Code blocks, with their language."""
    return re.findall(r"^```(.*?)^```", content, re.MULTILINE | re.DOTALL)


def prose(content: str) -> str:
    return re.sub(r"^```.*?^```", "", content, flags=re.MULTILINE | re.DOTALL)


def all_options() -> dict[str, tuple[Option, ...]]:
    """Every verb's options."""
    return {name: catalogue.load(entry).options for name, entry in catalogue.entries().items()}


def runtime_options() -> set[str]:
    """Every long option of onggi-runtime."""
    tables = [runtime_main.GLOBAL, *(runtime_main.load(verb)[0] for verb in runtime_main.ROOMS)]
    return {names.split()[-1] for table in tables for names in table}


def test_every_verb_and_option_of_the_runtime_is_in_its_document() -> None:
    content = text(RUNTIME)
    said = {flag.removeprefix("--") for flag in FLAG.findall(content)}
    assert runtime_options() - said - {"version", "help"} == set()
    assert [verb for verb in runtime_main.ROOMS if f"`{verb}" not in content] == []


def test_the_readmes_say_the_same() -> None:
    english, korean = text("README.md"), text("README.ko.md")
    assert fences(english) == fences(korean)
    for mark in (r"^(#+) ", r"^(- )", r"^(\|)", r"(<!-- \w+ -->)"):
        assert re.findall(mark, prose(english), re.MULTILINE) == re.findall(
            mark, prose(korean), re.MULTILINE
        ), mark
    assert LINK.findall(english)[1:] == LINK.findall(korean)[1:]  # the first is the other one
    assert FLAG.findall(english) == FLAG.findall(korean)


def test_the_korean_readme_has_the_headings_of_the_english_one_in_korean() -> None:
    headings = re.findall(r"^#+ (.+)$", prose(text("README.ko.md")), re.MULTILINE)
    assert headings
    assert all(re.search("[가-힣]", heading) for heading in headings)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_exists(name: str) -> None:
    content, place = text(name), (ROOT / name).parent
    links = [link for link in LINK.findall(content) if "://" not in link]
    missing = [link for link in links if not (place / link).exists()]
    missing += [path for path in PATH.findall(prose(content)) if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("path", FOR_USERS, ids=lambda path: path.name)
def test_every_option_exists(path: Path) -> None:
    known = {name for options in all_options().values() for o in options for name in o.names}
    if path == ROOT / RUNTIME:
        known = {f"--{name}" for name in runtime_options()} | CALLERS
    said = set(FLAG.findall(path.read_text(encoding="utf-8")))
    assert said - known - GLOBAL - FOREIGN == set()


def commands(content: str) -> list[list[str]]:
    """The words of every `onggi` command line in code blocks, up to a pipe."""
    lines = [line.removeprefix("$ ") for block in fences(content) for line in block.splitlines()]
    found = []
    for line in lines:
        if line.startswith("onggi ") and not re.search(r"[\[…│]|^onggi: ", line):
            found.append(shlex.split(line.partition(" | ")[0])[1:])
    return found


@pytest.mark.parametrize("path", FOR_USERS, ids=lambda path: path.name)
def test_every_command_is_one_that_is_understood(path: Path) -> None:
    options = all_options()
    for words in commands(path.read_text(encoding="utf-8")):
        size = 2 if " ".join(words[:2]) in options else 1
        name = " ".join(words[:size])
        assert name in options, words
        verb = catalogue.load(catalogue.entries()[name])
        parsed = parse(name, verb.options, words[size:], interspersed=verb.interspersed)
        assert len(parsed.arguments) >= verb.least, words


def test_the_commands_are_found() -> None:
    assert len(commands(text("README.md"))) > 6


def test_every_option_of_run_is_in_the_documents() -> None:
    said = set(FLAG.findall(text("docs/running.md")))
    every = (*runflags.CONTAINER, *runflags.ATTACH, *runflags.DETACH)
    assert [option.long for option in every if option.long not in said] == []


def test_every_command_is_in_the_documents() -> None:
    said = "\n".join(path.read_text(encoding="utf-8") for path in FOR_USERS)
    missing = [
        name
        for name in catalogue.entries()
        if not name.startswith("container ") and not re.search(rf"\bonggi {name}(?![\w-])", said)
    ]
    # `onggi image pull` is `onggi pull`: one of the two is enough.
    entries = catalogue.entries()
    told = {entries[name] for name in entries if name not in missing}
    assert [name for name in missing if entries[name] not in told] == []


def test_every_setting_of_images_is_in_the_documents() -> None:
    document = text("docs/registries.md")
    told = set(re.findall(r"^\| `(\w+)` \|", document, re.MULTILINE))
    settings = {*ImageSettings.__struct_fields__, *RegistrySettings.__struct_fields__}
    assert told == settings


def test_the_configuration_in_the_documents_is_one() -> None:
    examples = [b for b in fences(text("docs/registries.md")) if b.startswith("toml\n")]
    assert len(examples) == 1
    image = parse_settings(examples[0].removeprefix("toml\n").encode(), "registries.md").image
    shown = set(re.findall(r"^(\w+) =|\[image\.(\w+)", examples[0], re.MULTILINE))
    assert set(ImageSettings.__struct_fields__) <= {word for pair in shown for word in pair}
    assert image.registries["docker.io"].mirrors
    defaults = ImageSettings()
    for key in ("default_registry", "short_names", "snapshotter", "discard_blobs", "parallel",
                "store_limit_bytes", "certificate_directories"):  # fmt: skip
        assert getattr(image, key) == getattr(defaults, key), key


def test_every_threat_names_tests_that_exist() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    exist = set(re.findall(r"^\s*(?:async )?def (test_\w+)\(", sources, re.MULTILINE))
    entries = [line for line in text("THREAT_MODEL.md").splitlines() if ENTRY.match(line)]
    ids = [line.split("|")[1].strip() for line in entries]
    assert len(entries) > 30
    assert len(set(ids)) == len(ids)
    assert [line for line in entries if not TEST.findall(line.split("|")[-2])] == []
    assert set(TEST.findall(text("THREAT_MODEL.md"))) - exist == set()


@pytest.mark.parametrize(
    ("name", "said"),
    [("two-views.svg", ("HOST VIEW", "CONTAINER VIEW")), ("layers.svg", ("EROFS", "OVERLAY"))],
)
def test_the_pictures_are_some(name: str, said: tuple[str, ...]) -> None:
    root = ElementTree.parse(ROOT / "docs" / name).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    assert [word for word in said if word not in words] == []
