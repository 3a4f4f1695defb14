"""The pure parts of hints, capabilities, namespaces, processes and descriptors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import InvalidArgument, SyscallError
from onggi.kernel import capabilities, hints, namespaces, processes
from onggi.kernel.abi import failed
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.namespaces import IdRange

# hints


def test_a_known_failure_says_what_to_do() -> None:
    error = failed("clone3", "NEWUSER|NEWNS", errno.EPERM)
    assert isinstance(error, SyscallError)
    assert "user namespaces are disabled on this host" in str(error)
    assert "CAP_SYS_ADMIN" in str(failed("clone3", "NEWNS", errno.EPERM))
    assert "load its module" in (hints.hint_for("fsopen", "'x'", errno.ENODEV) or "")
    assert "ID-mapped" in (hints.hint_for("mount_setattr", "fd 3, IDMAP", errno.EINVAL) or "")
    assert "not the root of a mount" in (hints.hint_for("mount_setattr", "", errno.EINVAL) or "")


def test_a_missing_call_names_the_kernel_that_has_it() -> None:
    assert "Linux 5.12 or newer" in (hints.hint_for("mount_setattr", "", errno.ENOSYS) or "")
    assert "seccomp" in (hints.hint_for("keyctl", "", errno.ENOSYS) or "")


def test_an_unknown_failure_has_no_hint() -> None:
    assert hints.hint_for("syncfs", "", errno.EIO) is None


# capabilities


def test_the_default_set_is_podmans() -> None:
    assert len(capabilities.DEFAULT) == 11
    assert capabilities.names_of(capabilities.mask_of(capabilities.DEFAULT)) == (
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
        *("CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"),
        *("CAP_SYS_CHROOT", "CAP_SETFCAP"),
    )


@pytest.mark.parametrize(
    "name", ["CAP_NET_RAW", "NET_RAW", "net_raw", "cap_net_raw", "Cap_Net_Raw"]
)
def test_every_way_to_write_a_capability(name: str) -> None:
    assert capabilities.canonical(name) == "CAP_NET_RAW"
    assert capabilities.mask_of([name]) == 1 << 13


@pytest.mark.parametrize("name", ["", "CAP_", "ALL", "CAP_CAP_NET_RAW", "NET RAW", "CAP_41"])
def test_an_unknown_capability_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown capability"):
        capabilities.mask_of([name])


@given(st.integers(0, capabilities.ALL))
def test_masks_and_names_are_the_same_thing(mask: int) -> None:
    assert capabilities.mask_of(capabilities.names_of(mask)) == mask


def test_a_capability_newer_than_the_table_is_shown_by_number() -> None:
    assert capabilities.names_of(1 << 41 | 1) == ("CAP_CHOWN", "CAP_41")


STATUS = (
    b"Name:\tx\rCapEff:\t1\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"
    b"Groups:\t9 10 \nNSpid:\t77\t1\n"
    b"CapInh:\t0000000000000000\nCapPrm:\t0000000000000003\nCapEff:\t0000000000000002\n"
    b"CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n"
)


def test_sets_from_a_status_whose_name_is_hostile() -> None:
    assert capabilities.parse_status(STATUS) == capabilities.CapabilitySets(
        inheritable=0, permitted=3, effective=2, bounding=capabilities.ALL, ambient=0
    )
    # Without its true line, the one that the name pretends must not count.
    without = STATUS.replace(b"CapEff:\t0000000000000002\n", b"")
    with pytest.raises(ValueError, match="CapEff"):
        capabilities.parse_status(without)


# processes


def test_ids_from_a_status() -> None:
    status = processes.parse_status(STATUS)
    assert (status.uids, status.gids) == ((1, 2, 3, 4), (5, 6, 7, 8))
    assert (status.groups, status.pids) == ((9, 10), (77, 1))
    # Without its true line, the one that a hostile name pretends must not count.
    pretending = STATUS.replace(b"NSpid", b"x").replace(b"CapEff:\t1", b"NSpid:\t1")
    with pytest.raises(ValueError, match="NSpid"):
        processes.parse_status(pretending)


@given(st.binary(max_size=15).filter(lambda name: b"\0" not in name))
def test_no_name_can_shift_the_fields_of_a_stat(comm: bytes) -> None:
    line = (
        b"12 (%s) S 3 12 9 34816 12 4194304 1 2 3 4 50 60 0 0 20 0 7 0 4242 1000 33 18446744" % comm
    )
    stat = processes.parse_stat(line)
    assert stat == processes.ProcessStat(
        pid=12,
        comm=os.fsdecode(comm),
        state="S",
        parent_pid=3,
        session=9,
        terminal=34816,
        user_ticks=50,
        system_ticks=60,
        threads=7,
        start_time_ticks=4242,
        resident_pages=33,
    )


@pytest.mark.parametrize("line", [b"", b"1 (x)", b"1 (x) S 1 2", b"no parentheses here"])
def test_what_is_no_stat_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a /proc/PID/stat"):
        processes.parse_stat(line)


def test_arguments() -> None:
    assert processes.parse_arguments(b"") == ()
    assert processes.parse_arguments(b"a\0\0b c\0") == ("a", "", "b c")
    assert processes.parse_arguments(b"nginx: master") == ("nginx: master",)
    assert processes.parse_arguments(b"\xff\0") == ("\udcff",)


# namespaces


def test_ids_through_a_map() -> None:
    ranges = namespaces.parse_id_map(
        "         0     100000      65536\n     65536       1000     1\n"
    )
    assert ranges == (IdRange(0, 100000, 65536), IdRange(65536, 1000, 1))
    assert namespaces.to_outside(ranges, 65535) == 165535
    assert namespaces.to_outside(ranges, 65536) == 1000
    assert namespaces.to_outside(ranges, 65537) is None
    assert namespaces.to_inside(ranges, 1001) is None
    assert namespaces.to_inside(ranges, 99999) is None


@given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2), st.integers(1, 2**32 - 1), st.data())
def test_a_map_there_and_back(inside: int, outside: int, size: int, data: st.DataObject) -> None:
    ranges = (IdRange(inside, outside, size),)
    one = data.draw(st.integers(inside, inside + size - 1))
    there = namespaces.to_outside(ranges, one)
    assert there is not None
    assert namespaces.to_inside(ranges, there) == one


# descriptors


def test_a_descriptor_is_closed_at_the_end_of_its_block() -> None:
    owner = Descriptor(os.open("/", os.O_PATH))
    with owner as number:
        os.fstat(number)
        assert owner.fileno() == number
    assert owner.closed
    owner.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(ValueError, match="closed"):
        owner.fileno()


def test_a_detached_descriptor_is_the_callers() -> None:
    owner = Descriptor(os.open("/", os.O_PATH))
    number = owner.detach()
    owner.close()
    os.fstat(number)
    os.close(number)


def test_a_forgotten_descriptor_is_closed_and_told() -> None:
    number = os.open("/", os.O_PATH)
    owner = Descriptor(number)
    with pytest.warns(ResourceWarning, match=f"unclosed Descriptor\\({number}\\)"):
        del owner
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


# cost


def test_system_calls_are_cheap_to_import() -> None:
    script = "import sys, onggi.kernel.syscalls; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & {
        "ctypes",
        "typing",
        "msgspec",
        "dataclasses",
        "re",
        "enum",
    }
