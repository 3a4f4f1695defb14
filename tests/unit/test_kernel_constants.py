"""Our numbers are the kernel headers' numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from onggi.kernel import abi, capabilities, constants, mounts

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
INCLUDES = """
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/keyctl.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/stat.h>
"""
#: Of glibc's headers, which clash with those above; and those newer than Debian 12's.
ELSEWHERE = {"MNT_DETACH": 2, "UMOUNT_NOFOLLOW": 8}
NEWER = {"MFD_NOEXEC_SEAL", "MFD_EXEC"}


@pytest.mark.parametrize("machine", abi.NUMBERS)
def test_system_call_numbers(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"the kernel's header {header} is not installed")
    found = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text()))
    assert {call: int(found[call]) for call in abi.NUMBERS[machine]} == abi.NUMBERS[machine]


def test_both_machines_know_the_same_calls() -> None:
    assert abi.NUMBERS["x86_64"].keys() == abi.NUMBERS["aarch64"].keys()


def test_constants(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    ours = {
        name: value
        for room in (constants, mounts)
        for name, value in vars(room).items()
        if isinstance(value, int) and name.isupper() and name != "TYPE_CHECKING"
    } | capabilities.BITS
    assert ELSEWHERE.items() <= ours.items()
    checks = [
        f'_Static_assert((long long){name} == {value}LL, "{name}");'
        for name, value in ours.items()
        if name not in ELSEWHERE | dict.fromkeys(NEWER) and not name.startswith("AT_FDCWD")
    ]
    assert len(checks) > 80
    checks.append(f'_Static_assert(CAP_LAST_CAP + 1 == {len(capabilities.NAMES)}, "last");')
    source = tmp_path / "constants.c"
    source.write_text(INCLUDES + "\n".join(checks))
    result = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
