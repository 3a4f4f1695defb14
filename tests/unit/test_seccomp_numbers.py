"""The tables of system call numbers against the headers and the libseccomp of this host."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from pathlib import Path

import pytest

from onggi.kernel.seccomp.architectures import ARCHITECTURES, MACHINES, SPECIFIED, syscall_table
from onggi.kernel.seccomp.syscall_numbers import RUNS, parse_runs

HEADERS = {"x86_64": "unistd_64.h", "x86": "unistd_32.h", "x32": "unistd_x32.h"}
HEADER_FOLDERS = ("/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm")
SCMP_TOKENS = {
    "x86_64": 0xC000_003E,
    "x86": 0x4000_0003,
    "x32": 0x4000_003E,
    "aarch64": 0xC000_00B7,
    "arm": 0x4000_0028,
    "riscv64": 0xC000_00F3,
}


def test_runs_count_on_from_the_number_before_them() -> None:
    assert parse_runs("0 read write 7 poll\n9 mmap") == {
        "read": 0,
        "write": 1,
        "poll": 7,
        "mmap": 9,
    }


def test_every_architecture_has_a_table_and_every_machine_its_architectures() -> None:
    assert {a.table for a in ARCHITECTURES.values()} == set(RUNS)
    assert {name for names in MACHINES.values() for name in names} == set(ARCHITECTURES)
    assert set(ARCHITECTURES) <= SPECIFIED


def test_calls_since_5_1_have_one_number_everywhere() -> None:
    for name, number in (("pidfd_send_signal", 424), ("clone3", 435), ("listxattrat", 465)):
        assert {syscall_table(table)[name] for table in RUNS} == {number}


@pytest.mark.parametrize("table", HEADERS)
def test_the_tables_agree_with_the_headers_of_this_host(table: str) -> None:
    found = [p for f in HEADER_FOLDERS if (p := Path(f) / HEADERS[table]).exists()]
    if not found:
        pytest.skip(f"asm/{HEADERS[table]} (x86 kernel headers) is not installed")
    pattern = r"#define __NR_(\w+) (?:\(__X32_SYSCALL_BIT \+ )?(\d+)\)?\n"
    entries = re.findall(pattern, found[0].read_text())
    assert len(entries) > 300
    ours = syscall_table(table)
    assert {n: ours.get(n) for n, _ in entries} == {n: int(number) for n, number in entries}


@pytest.mark.parametrize("table", SCMP_TOKENS)
def test_the_tables_agree_with_libseccomp(table: str) -> None:
    library = ctypes.util.find_library("seccomp")
    if library is None:
        pytest.skip("libseccomp is not installed")
    resolve = ctypes.CDLL(library).seccomp_syscall_resolve_name_arch
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    ours = syscall_table(table)
    base = 0x4000_0000 if table == "x32" else 0
    compared = 0
    for name in {name for other in RUNS for name in syscall_table(other)}:
        number = resolve(SCMP_TOKENS[table], name.encode())
        if number >= 0:  # negative: not here, not yet known to it, or behind socketcall
            assert ours.get(name) == number - base, name
            compared += 1
    assert compared > 250
