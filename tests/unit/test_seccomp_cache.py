"""Programs that are kept: used again, and used only if they can be trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from onggi.errors import FailedPrecondition
from onggi.kernel.seccomp import cache
from onggi.kernel.seccomp.cache import cached_program, profile_key
from onggi.kernel.seccomp.compiler import SeccompProgram, compile_profile
from onggi.specs.runtime import Seccomp, SeccompRule

PROFILE = Seccomp("SCMP_ACT_ERRNO", syscalls=(SeccompRule(("read", "nonsuch"), "SCMP_ACT_ALLOW"),))
EXPECTED = compile_profile(PROFILE)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Seccomp]]:
    seen: list[Seccomp] = []

    def counted(profile: Seccomp, machine: str) -> SeccompProgram:
        seen.append(profile)
        return compile_profile(profile, machine)

    monkeypatch.setattr(cache, "compile_profile", counted)
    cached_program.cache_clear()
    yield seen
    cached_program.cache_clear()


def test_an_equal_profile_is_compiled_once(compilations: list[Seccomp]) -> None:
    again = Seccomp("SCMP_ACT_ERRNO", syscalls=PROFILE.syscalls)
    assert cached_program(PROFILE) == cached_program(again) == EXPECTED
    assert len(compilations) == 1


def test_a_successor_finds_the_program_on_disk(tmp_path: Path, compilations: list[Seccomp]) -> None:
    directory = tmp_path / "state" / "seccomp"
    assert cached_program(PROFILE, "x86_64", directory) == EXPECTED
    cached_program.cache_clear()
    assert cached_program(PROFILE, "x86_64", directory) == EXPECTED
    assert len(compilations) == 1
    assert os.listdir(directory) == [profile_key(PROFILE, "x86_64")]
    assert directory.stat().st_mode & 0o777 == 0o700


def test_machine_and_profile_have_their_own_programs() -> None:
    other = Seccomp("SCMP_ACT_ALLOW", syscalls=PROFILE.syscalls)
    keys = {profile_key(p, m) for p in (PROFILE, other) for m in ("x86_64", "aarch64")}
    assert len(keys) == 4


def _spoil_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _put_another(path: Path) -> None:
    other = Seccomp("SCMP_ACT_ALLOW")
    cached_program(other, "x86_64", path.parent)
    os.rename(path.parent / profile_key(other, "x86_64"), path)


def _open_to_all(path: Path) -> None:
    path.chmod(0o666)


def _make_link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [_spoil_a_bit, _truncate, _empty, _put_another, _open_to_all, _make_link, _make_fifo],
)
def test_a_file_that_cannot_be_trusted_is_made_anew(
    spoil: object, tmp_path: Path, compilations: list[Seccomp]
) -> None:
    assert callable(spoil)
    cached_program(PROFILE, "x86_64", tmp_path)
    spoil(tmp_path / profile_key(PROFILE, "x86_64"))
    for _ in range(2):
        cached_program.cache_clear()
        assert cached_program(PROFILE, "x86_64", tmp_path) == EXPECTED
    assert compilations.count(PROFILE) == 2


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cached_program.cache_clear()
    with pytest.raises(FailedPrecondition, match="written by others"):
        cached_program(PROFILE, "x86_64", tmp_path)


def test_a_program_that_cannot_be_kept_is_still_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[Seccomp]
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    program = cached_program(PROFILE, "x86_64", tmp_path)
    assert program.program == EXPECTED.program
    assert "No space left" in program.warnings[-1]
    assert os.listdir(tmp_path) == []
    assert len(compilations) == 1
