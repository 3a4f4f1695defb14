"""The front finds the same run directory as the engine and the command line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from faces.front_rig import build
from onggi.engine.layout import layout_for
from onggi.faces.cli.main import GLOBAL
from onggi.faces.cli.options import parse
from onggi.faces.cli.place import run_directory


@pytest.fixture(scope="module")
def printer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("front"), "print_run_directory")


def _by_front(printer: Path, uid: int, words: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        [printer, str(uid), *words], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.rstrip("\n")


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"ONGGI_ROOT": "/srv/a"},
        {"ONGGI_ROOT": ""},
        {"XDG_RUNTIME_DIR": "/run/user/7"},
        {"XDG_RUNTIME_DIR": "", "ONGGI_ROOT": "/srv/b b"},
    ],
)
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["ps"],
        ["--root", "/x", "ps"],
        ["--root=/x", "ps"],
        ["--root=", "ps"],
        ["--root", "/x", "--root", "/y", "ps"],
        ["--version", "--root", "/x"],
        ["-v", "--root=/x"],
        ["ps", "--root", "/x"],
        ["run", "image", "--root=/x"],
        ["--", "--root", "/x"],
        ["-", "--root", "/x"],
        ["--root", "--version"],
        ["--root", "/with\nnewline", "ps"],
    ],
)
def test_front_and_python_agree(
    printer: Path, uid: int, environ: dict[str, str], words: list[str]
) -> None:
    root = parse("", GLOBAL, words, interspersed=False).get("root") or environ.get("ONGGI_ROOT")
    expected = run_directory(root or None, uid, environ)
    found = _by_front(printer, uid, words, environ)
    # The front leaves links to the kernel, and Python does not.
    assert os.path.realpath(found) == os.path.realpath(expected)
    assert layout_for(root or None, uid, environ).run == expected


def test_root_through_a_link(printer: Path, tmp_path: Path) -> None:
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    found = _by_front(printer, 0, [f"--root={tmp_path}/link", "ps"], {})
    assert Path(found).samefile(layout_for(f"{tmp_path}/link", 0, {}).run)


def test_a_root_too_long_is_no_place(printer: Path) -> None:
    done = subprocess.run([printer, "0", "--root", "/x" * 5000], check=False)
    assert done.returncode == 1
