"""The facts of this host against what other parts of the kernel say of it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from onggi.kernel.capabilities import held
from onggi.runtime import host
from onggi.runtime.host import IdPool, probe


def test_a_probe_tells_what_the_kernel_tells() -> None:
    facts = probe()
    assert os.uname().release.startswith(f"{facts.kernel[0]}.{facts.kernel[1]}")
    assert facts.machine == os.uname().machine
    assert facts.page_size_bytes == os.sysconf("SC_PAGESIZE")
    assert facts.capabilities == held().permitted & held().bounding
    assert facts.holds(21) == bool(held().permitted >> 21 & 1)
    assert facts.last_capability == int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert {"proc", "tmpfs"} <= facts.filesystems
    assert {"mount", "pid", "network"} <= facts.namespaces
    assert facts.cgroups.hierarchies
    assert facts.oom_score_adj == int(Path("/proc/self/oom_score_adj").read_text())
    assert facts.unprivileged == (os.geteuid() != 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert facts.hard_limit(resource.RLIMIT_NOFILE) == hard & (2**64 - 1)
    assert facts.hard_limit(99) is None


def test_two_probes_agree_and_leave_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    assert probe() == probe()
    assert os.listdir("/proc/self/fd") == before


def test_probing_opens_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read = host._read
    monkeypatch.setattr(host, "_read", lambda path: opened.append(path) or read(path))
    probe()
    assert opened
    assert not [path for path in opened if not path.startswith(("/proc/", "/sys/", "/etc/sub"))]


def test_versions() -> None:
    assert host.kernel_version("6.18.44-fc-v657") == (6, 18)
    assert host.kernel_version("5.4-rc1") == (5, 4)
    assert host.kernel_version("odd") == (0, 0)


def test_filesystems_with_and_without_a_device() -> None:
    assert host.parse_filesystems("nodev\tsysfs\n\text4\nnodev\tfuse.x\n") == {
        "sysfs",
        "ext4",
        "fuse.x",
    }


def test_lsms() -> None:
    assert host.parse_lsms("capability,landlock,apparmor\n") == (
        "capability",
        "landlock",
        "apparmor",
    )
    assert host.parse_lsms("") == ()


def test_the_initial_map_is_told_from_others() -> None:
    assert host.is_initial_map("         0          0 4294967295\n")
    assert not host.is_initial_map("0 0 4294967294\n")
    assert not host.is_initial_map("0 1000 1\n1 100000 65536\n")


def test_subordinate_ids_largest_first_and_nonsense_left_out() -> None:
    text = "root:1:5\nonggi:100:10\nonggi:5000:65536\nonggi:x:1\nonggi\nother:1:999999\n"
    assert host.parse_subids(text, frozenset({"onggi"})) == IdPool(5000, 65536)
    assert host.parse_subids(text, frozenset({"nobody"})) is None


def test_ids_inside_a_user_namespace_do_not_include_its_root() -> None:
    assert host.inside_pool("0 1000 1\n1 100000 65536\n") == IdPool(1, 65536)
    assert host.inside_pool("0 1000 65536\n") == IdPool(1, 65535)
    assert host.inside_pool("0 1000 1\n") is None
