"""What a hostile program in a container tries and does not get: the host's kernel, disks, clock and
settings. The filter stands first; behind it, without the filter and with every capability, the
user namespace still holds."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import kernel_side
from acceptance.probe import Probe
from acceptance.rig import Onggi

CALLS = (
    "unshare_user", "unshare_mount", "unshare_net", "clone_user", "keyring", "new_key",
    "load_kernel", "load_module", "delete_module", "bpf_program", "set_time", "reboot_keys",
    "mount_tmpfs", "bind_proc", "remount_sys", "unmask_proc", "by_handle", "swap", "accounting",
    "host_name", "kernel_log", "performance", "page_faults", "io_ring", "quota", "ports",
)  # fmt: skip
#: What the kernel refuses to all but the host's own root, with or without a filter.
OF_THE_HOST = (
    "load_kernel", "load_module", "delete_module", "bpf_program", "set_time", "by_handle", "swap",
    "accounting", "kernel_log", "ports",
)  # fmt: skip
REFUSED = {errno.EPERM, errno.EACCES}
#: Settings of the whole machine, with what may be written without harm if it were let through.
SETTINGS = {
    "/proc/sys/kernel/panic": "0", "/proc/sys/vm/drop_caches": "4",
    "/proc/sys/kernel/core_pattern": "core", "/proc/sys/kernel/modprobe": "/sbin/modprobe",
    "/proc/sys/fs/file-max": "9223372036854775807", "/proc/sysrq-trigger": "h",
    "/sys/kernel/mm/transparent_hugepage/enabled": "madvise", "/sys/power/state": "none",
}  # fmt: skip
ALL_RIGHTS = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined",
              "--security-opt", "systempaths=unconfined")  # fmt: skip


@pytest.fixture(scope="module")
def plain(onggi: Onggi, probe: Probe) -> Iterator[str]:
    """A container as anybody gets it."""
    onggi.run("run", "-d", "--name", "plain", "-v", probe.bind, "busybox", "sleep", "1000")
    yield "plain"
    onggi.run("rm", "-f", "plain")


@pytest.fixture(scope="module")
def mighty(onggi: Onggi, probe: Probe) -> Iterator[str]:
    """One with every capability, no filter and nothing masked; its ids are still its own."""
    words = ("--name", "mighty", *ALL_RIGHTS, "-v", probe.bind, "busybox", "sleep", "1000")
    onggi.run("run", "-d", *words)
    yield "mighty"
    onggi.run("rm", "-f", "mighty")


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_refused(onggi: Onggi, plain: str, probe: Probe, call: str) -> None:
    assert probe.inside(onggi, plain, call)[call] == errno.EPERM


@pytest.mark.parametrize("call", OF_THE_HOST)
def test_the_user_namespace_refuses_it_too(
    onggi: Onggi, mighty: str, probe: Probe, call: str
) -> None:
    # ENOSYS: this kernel was built without the call.
    assert probe.inside(onggi, mighty, call)[call] in REFUSED | {errno.ENOSYS}


def test_the_probe_itself_can_tell(onggi: Onggi, mighty: str, probe: Probe) -> None:
    # What a container may do when it has all rights in its own namespaces passes: no answer above
    # comes from a probe that is broken.
    allowed = ("unshare_user", "unshare_mount", "host_name", "mount_tmpfs", "keyring")
    assert probe.inside(onggi, mighty, *allowed) == dict.fromkeys(allowed, 0)


def test_the_filter_is_there(onggi: Onggi, plain: str, mighty: str) -> None:
    assert kernel_side.status(onggi.pid(plain), "Seccomp") == "2"
    assert onggi.view(plain)["seccomp"] == "filter"
    assert kernel_side.status(onggi.pid(mighty), "Seccomp") == "0"
    assert onggi.view(mighty)["seccomp"] == "none"


@pytest.mark.parametrize("container", ["plain", "mighty"])
def test_settings_of_the_machine_stay(
    onggi: Onggi, plain: str, mighty: str, container: str
) -> None:
    present = [path for path in SETTINGS if Path(path).exists()]
    before = {path: Path(path).read_bytes() for path in present if os.access(path, os.R_OK)
              and path not in ("/proc/sysrq-trigger", "/proc/sys/vm/drop_caches")}  # fmt: skip
    for path in present:
        script = f"mount -o remount,rw,bind {path} 2>/dev/null; echo {SETTINGS[path]} > {path}"
        done = onggi.run("exec", container, "sh", "-c", script, check=False)
        assert done.returncode != 0, path
        assert any(w in done.stderr for w in ("Read-only", "denied", "nonexistent")), done.stderr
    assert {path: Path(path).read_bytes() for path in before} == before


@pytest.mark.parametrize("container", ["plain", "mighty"])
def test_the_clock_stays(onggi: Onggi, plain: str, mighty: str, container: str) -> None:
    done = onggi.run("exec", container, "date", "-s", "2001-01-01", check=False)
    assert "not permitted" in done.stderr
    assert time.gmtime().tm_year > 2001


@pytest.mark.parametrize("container", ["plain", "mighty"])
def test_the_hosts_disks_are_out_of_reach(
    onggi: Onggi, plain: str, mighty: str, probe: Probe, container: str, tmp_path: Path
) -> None:
    disk = kernel_side.disk_of(tmp_path)
    if disk is None:
        pytest.skip("the file system of the temporary directory is on no block device")
    number = Path(disk).stat().st_rdev
    assert probe.inside(onggi, container, f"disk_node={number}")["disk_node"] == errno.EPERM
    assert onggi.run("exec", container, "ls", disk, check=False).returncode != 0
    # A node that somebody made on the host and bound in, open to all: the devices cgroup refuses.
    node = tmp_path / "node"
    os.mknod(node, 0o60666, number)
    node.chmod(0o666)
    reading = ("run", "--rm", "-v", f"{node}:/disk", "busybox", "head", "-c", "1", "/disk")
    done = onggi.run(*reading, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not permitted" in done.stderr


def test_what_is_masked_shows_nothing(onggi: Onggi, plain: str) -> None:
    masked = ("kcore", "keys", "timer_list", "interrupts", "sched_debug", "scsi", "acpi")
    for name in masked:
        path = Path("/proc") / name
        if path.exists():
            script = f"cat {path} 2>/dev/null; ls {path}/ 2>/dev/null | grep -v {path}"
            assert onggi.run("exec", plain, "sh", "-c", script, check=False).stdout == "", path
    assert onggi.out("exec", plain, "sh", "-c", "ls /sys/firmware | wc -l") == "0"


def test_the_hosts_processes_are_not_the_containers_to_end(
    onggi: Onggi, mighty: str, probe: Probe
) -> None:
    answers = probe.inside(
        onggi, mighty, *(f"{c}={os.getpid()}" for c in ("signal_to", "attach_to"))
    )
    assert set(answers.values()) <= {errno.ESRCH, errno.EPERM}
    # Even where their numbers are seen: root of another user namespace may not.
    words = ("--pid", "host", *ALL_RIGHTS, "-v", probe.bind, "busybox", "/probe")
    calls = (f"signal_to={os.getpid()}", f"attach_to={os.getpid()}", f"read_memory={os.getpid()}")
    told = onggi.out("run", "--rm", *words, *calls)
    assert {line.split()[1] for line in told.splitlines()} == {str(errno.EPERM)}
    look = ("sh", "-c", f"cat /proc/{os.getpid()}/environ; ls /proc/{os.getpid()}/root/")
    done = onggi.run("run", "--rm", "--pid", "host", *ALL_RIGHTS, "busybox", *look, check=False)
    assert done.stdout == ""


def test_a_reboot_is_the_containers_own(onggi: Onggi) -> None:
    # reboot(2) in a pid namespace ends its first process; the host's uptime goes on.
    before_s = float(Path("/proc/uptime").read_text().split()[0])
    refused = onggi.run("run", "--rm", "busybox", "reboot", "-f", check=False)
    assert "not permitted" in refused.stderr
    onggi.run("run", "--rm", *ALL_RIGHTS, "busybox", "sh", "-c", "reboot -f; sleep 9", check=False)
    assert float(Path("/proc/uptime").read_text().split()[0]) >= before_s


def test_a_set_user_id_program_gives_the_containers_root_only(
    onggi: Onggi, probe: Probe, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    script = "cp /probe /shared/probe && chmod 4755 /shared/probe"
    binds = ("-v", probe.bind, "-v", f"{shared}:/shared")
    onggi.run("run", "--rm", *binds, "busybox", "sh", "-c", script)
    status = (shared / "probe").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o4755)
    # Root inside, which is no more than an id outside; and not even that where it is ruled out.
    words = ("-u", "1000", *binds, "busybox", "/shared/probe", "be_root", "set_time")
    assert onggi.out("run", "--rm", *words).split() == ["be_root", "0", "set_time", "1"]
    held = onggi.out("run", "--rm", "--security-opt", "no-new-privileges", *words)
    assert held.split() == ["be_root", str(errno.EPERM), "set_time", "1"]
