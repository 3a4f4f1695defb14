"""Where keel is found, and that its copy in memory cannot be changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onggi.errors import NotFound, Unsupported
from onggi.sandbox.keel import LOWEST_HELD_FD, Keel, keel_path


def test_copy_is_sealed_and_survives_its_file(tmp_path: Path) -> None:
    program = tmp_path / "keel"
    program.write_bytes(b"\x7fELF and more")
    with Keel(program) as keel:
        program.unlink()
        fd = keel.fileno()
        assert fd >= LOWEST_HELD_FD
        assert not os.get_inheritable(fd)
        assert os.pread(fd, 100, 0) == b"\x7fELF and more"
        for attempt in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0)):
            with pytest.raises(PermissionError):
                attempt()


def test_environment_names_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONGGI_KEEL", str(tmp_path / "mine"))
    with pytest.raises(NotFound, match="make -C keel"):
        keel_path()
    (tmp_path / "mine").write_text("not a program")
    assert keel_path() == tmp_path / "mine"
    with pytest.raises(Unsupported, match="not a program"):
        Keel()


def test_packaged_program_is_beside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import onggi

    monkeypatch.delenv("ONGGI_KEEL", raising=False)
    expected = Path(onggi.__file__).parent / "bin" / "keel"
    if expected.is_file():
        assert keel_path() == expected
    else:
        with pytest.raises(NotFound, match=str(expected)):
            keel_path()
