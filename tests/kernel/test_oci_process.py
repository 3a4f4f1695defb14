"""The process of a configuration: who it is, how it is run, what limits it; and what is refused."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
from pathlib import Path
from typing import Any

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle
from onggi.kernel.capabilities import BITS, host_capabilities
from onggi.kernel.cgroups.layout import CgroupLayout

pytestmark = NEEDS_ROOT_AND_BUSYBOX
__all__ = ["bundle"]

SCHED_DEADLINE = 6


def status(bundle: Bundle) -> dict[str, str]:
    rows = (line.partition(":\t") for line in bundle.out("cat /proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in rows}


@pytest.mark.parametrize("uid", [0, 1000, 2**31 - 1, 2**31, 2**32 - 2])
def test_users_are_who_they_are(bundle: Bundle, uid: int) -> None:
    """No number wraps round to another user (CVE-2024-40635)."""
    bundle.process["user"] = {"uid": uid, "gid": uid, "additionalGids": [uid, 7]}
    found = status(bundle)
    assert found["Uid"].split() == [str(uid)] * 4
    assert found["Gid"].split() == [str(uid)] * 4
    assert set(found["Groups"].split()) == {str(uid), "7"}


@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32, 2**64, -(2**31), "0", 1.5])
def test_numbers_that_are_nobody(bundle: Bundle, field: str, number: object) -> None:
    bundle.process["user"] = {"uid": 0, "gid": 0, field: number}
    assert f"$.process.user.{field}" in bundle.refused()


def test_a_user_that_the_namespace_does_not_map(bundle: Bundle) -> None:
    bundle.map_users(size=1000)
    bundle.process["user"] = {"uid": 1000, "gid": 0}
    said = bundle.refused()
    assert "$.process.user.uid: 1000 is not mapped" in said
    assert "config-linux.md#user-namespace-mappings" in said


def test_umask_and_no_new_privileges(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 0, "gid": 0, "umask": 0o027}
    assert bundle.out("umask").strip() == "0027"
    assert status(bundle)["NoNewPrivs"] == "1"
    bundle.process["noNewPrivileges"] = False
    assert status(bundle)["NoNewPrivs"] == "0"


def test_capabilities_that_the_host_does_not_hold_are_left_out_with_a_warning(
    bundle: Bundle,
) -> None:
    asked = [*BITS, "CAP_OF_TOMORROW"]
    bundle.process["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "permitted", "inheritable", "ambient"), asked
    )
    done = bundle.run("cat /proc/self/status")
    rows = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    held = host_capabilities()
    assert {int(rows[name], 16) for name in ("CapBnd", "CapEff", "CapAmb")} == {held}
    assert "no capability is called 'CAP_OF_TOMORROW'" in done.stderr
    for name, bit in BITS.items():
        if not held >> bit & 1:
            assert name in done.stderr


def test_no_capabilities_at_all(bundle: Bundle) -> None:
    del bundle.process["capabilities"]
    found = status(bundle)
    assert {found[name] for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")} == {
        "0" * 16
    }


def test_limits_and_what_may_not_be_raised(bundle: Bundle) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 2**64 - 1, "hard": 2**64 - 1},
    ]
    done = bundle.run("cat /proc/self/limits")
    rows = {line[:26].strip(): line[26:].split()[:2] for line in done.stdout.splitlines()}
    assert rows["Max open files"] == ["100", "200"]
    assert rows["Max core file size"] == ["0", "0"]
    may = host_capabilities() >> BITS["CAP_SYS_RESOURCE"] & 1 or hard == resource.RLIM_INFINITY
    assert rows["Max processes"] == (["unlimited"] * 2 if may else [str(hard)] * 2)
    assert ("needs CAP_SYS_RESOURCE" in done.stderr) is not bool(may)


def test_how_readily_it_is_killed(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 321
    assert bundle.out("cat /proc/self/oom_score_adj").strip() == "321"


def test_a_personality(bundle: Bundle) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("host feature missing: x86_64")
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert bundle.out("uname -m").strip() == "i686"
    bundle.linux["personality"] = {"domain": "LINUX"}
    assert bundle.out("uname -m").strip() == "x86_64"
    bundle.linux["personality"] = {"domain": "XENIX"}
    assert "$.linux.personality.domain" in bundle.refused()


def test_schedulers(bundle: Bundle) -> None:
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    with bundle.held() as pid:
        assert os.sched_getscheduler(pid) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    if os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        # Where real time is shared out by cgroup, a new one has none.
        times = {"realtimePeriod": 1_000_000, "realtimeRuntime": 10_000}
        bundle.linux["resources"]["cpu"] = times
    flags = ["SCHED_FLAG_RESET_ON_FORK"]
    bundle.process["scheduler"] = {"policy": "SCHED_FIFO", "priority": 3, "flags": flags}
    with bundle.held() as pid:
        assert os.sched_getscheduler(pid) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        assert os.sched_getparam(pid).sched_priority == 3
    bundle.process["scheduler"] = {
        "policy": "SCHED_DEADLINE",
        "runtime": 1_000_000,
        "deadline": 10_000_000,
        "period": 10_000_000,
        "flags": flags,
    }
    with bundle.held() as pid:
        assert os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == SCHED_DEADLINE


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("scheduler", {"policy": "SCHED_FAST"}, "$.process.scheduler.policy"),
        ("scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "$.process.scheduler.nice"),
        ("scheduler", {"policy": "SCHED_FIFO", "priority": 100}, "$.process.scheduler.priority"),
        ("scheduler", {"policy": "SCHED_OTHER", "runtime": 1}, "$.process.scheduler"),
        (
            "scheduler",
            {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]},
            "$.process.scheduler.flags[0]",
        ),
        ("ioPriority", {"class": "IOPRIO_CLASS_X"}, "$.process.ioPriority.class"),
        (
            "ioPriority",
            {"class": "IOPRIO_CLASS_BE", "priority": 8},
            "$.process.ioPriority.priority",
        ),
    ],
)
def test_schedulers_that_cannot_be(bundle: Bundle, field: str, value: Any, path: str) -> None:
    bundle.process[field] = value
    assert path in bundle.refused()


@pytest.mark.parametrize(
    ("kind", "priority", "expected"),
    [("IOPRIO_CLASS_BE", 5, 2 << 13 | 5), ("IOPRIO_CLASS_IDLE", 0, 3 << 13)],
)
def test_io_priorities(bundle: Bundle, kind: str, priority: int, expected: int) -> None:
    bundle.process["ioPriority"] = {"class": kind, "priority": priority}
    with bundle.held() as pid:
        libc = ctypes.CDLL(None, use_errno=True)
        number = {"x86_64": 252, "aarch64": 31}[platform.machine()]
        assert libc.syscall(number, 1, pid, 0) == expected


def test_memory_policies(bundle: Bundle) -> None:
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    done = bundle.run("grep -m1 bind:0 /proc/self/numa_maps")
    if "CONFIG_NUMA" in done.stderr:
        pytest.skip("host feature missing: memory policies (CONFIG_NUMA)")
    assert "bind:0" in done.stdout, done.stderr
    bundle.linux["memoryPolicy"] = {
        "mode": "MPOL_INTERLEAVE",
        "nodes": "0",
        "flags": ["MPOL_F_STATIC_NODES"],
    }
    assert "interleave=static:0" in bundle.out("cat /proc/self/numa_maps")
    for wrong, path in (
        ({"mode": "MPOL_FIRST"}, "mode"),
        ({"mode": "MPOL_BIND", "nodes": "0-"}, "nodes"),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["X"]}, "flags[0]"),
    ):
        bundle.linux["memoryPolicy"] = wrong
        assert f"$.linux.memoryPolicy.{path}" in bundle.refused()
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND"}
    assert "the mode and the flags do not fit" in bundle.refused()


def test_cache_and_bandwidth_groups_are_refused_clearly(bundle: Bundle) -> None:
    bundle.linux["intelRdt"] = {"closID": "guaranteed", "l3CacheSchema": "L3:0=ffff0"}
    assert "$.linux.intelRdt: this version does not use resctrl" in bundle.refused()


@pytest.mark.parametrize(
    ("field", "module"), [("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")]
)
def test_labels_of_a_module_that_is_not_there_are_refused(
    bundle: Bundle, field: str, module: str
) -> None:
    try:
        with open("/sys/kernel/security/lsm") as file:
            active = file.read().split(",")
    except FileNotFoundError:
        active = []
    if module in active:
        pytest.skip(f"host feature missing: a kernel without {module}")
    bundle.process[field] = "container-default"
    assert f"$.process.{field}: 'container-default' cannot be applied" in bundle.refused()


def test_kernel_parameters(bundle: Bundle) -> None:
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345"}
    assert bundle.out("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax").split() == [
        "1",
        "12345",
    ]
    for name, words in (
        ("kernel.panic", "is not namespaced"),
        ("vm.swappiness", "is not namespaced"),
        ("kernel.hostname", "is set by $.hostname"),
        ("net.ipv4.nothing_like_it", "this kernel has no such parameter"),
    ):
        bundle.linux["sysctl"] = {name: "1"}
        assert words in bundle.refused()
    bundle.namespaces("mount", "pid", "ipc")
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert "would change the host: it needs a network namespace" in bundle.refused()


def test_names(bundle: Bundle) -> None:
    bundle.config["hostname"], bundle.config["domainname"] = "mine", "example"
    assert bundle.out("hostname; cat /proc/sys/kernel/domainname").split() == ["mine", "example"]
    assert os.uname().nodename != "mine"


def test_fields_that_nobody_knows_are_ignored(bundle: Bundle) -> None:
    bundle.config |= {"ociVersion": "1.99.0-dev", "windows": {"x": [1]}, "org.example": None}
    bundle.process["user"] = {"uid": 0, "gid": 0, "username": "of windows"}
    bundle.linux["frobnication"] = {"deep": [[[{}]]]}
    assert bundle.out("echo hi") == "hi\n"


def test_the_cpus_of_a_process_that_is_added(bundle: Bundle) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("host feature missing: two CPUs")
    first, *_, last = sorted(os.sched_getaffinity(0))
    added = {
        "cwd": "/",
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "env": ["PATH=/bin"],
        "execCPUAffinity": {"initial": str(first), "final": str(last)},
    }
    (bundle.directory / "process.json").write_text(json.dumps(added))
    with bundle.held(["sleep", "100"]):
        assert bundle.call("start", bundle.name).returncode == 0
        done = bundle.call("exec", "--process", "process.json", bundle.name)
        assert done.stdout.split() == ["Cpus_allowed_list:", str(last)], done.stderr
        added["execCPUAffinity"] = {"initial": str(first)}
        (bundle.directory / "process.json").write_text(json.dumps(added))
        done = bundle.call("exec", "--process", "process.json", bundle.name)
        assert done.stdout.split() == ["Cpus_allowed_list:", str(first)], done.stderr


def test_a_root_that_is_moved_instead_of_pivoted_to(bundle: Bundle) -> None:
    self_admin = bundle.process["capabilities"]
    for name in ("bounding", "effective", "permitted"):
        self_admin[name] = [*self_admin[name], "CAP_SYS_CHROOT"]
    done = bundle.run("ls /; cat /proc/self/mountinfo; chroot /proc/1/root ls /", "--no-pivot")
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert {"bin", "proc", "tmp"} <= set(names)
    assert "usr" not in names
    assert not any(" /usr" in line or " /home" in line for line in done.stdout.splitlines())


def test_resources_of_every_controller(bundle: Bundle) -> None:
    bundle.linux["resources"] |= {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 77},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        "blockIO": {"weight": 100},
    }
    with bundle.held() as pid:
        found = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(",") if names else ["unified"]:
                found[name] = path
        layout = CgroupLayout.probe()

        def read(controller: str, v2: str, file: str) -> str | None:
            place = layout.hierarchy(controller, v2)
            if place is None:
                return None
            path = found[place.controllers[0] if place.version == 1 else "unified"]
            text = Path(f"{place.mount_point}{path}/{file}").read_text()
            return text.strip()

        v1 = layout.hierarchy("memory", "memory")
        assert v1 is not None
        if v1.version == 1:
            assert read("memory", "", "memory.limit_in_bytes") == str(64 << 20)
            assert read("cpu", "", "cpu.cfs_quota_us") == "50000"
            assert read("cpu", "", "cpu.shares") == "512"
        else:
            assert read("", "memory", "memory.max") == str(64 << 20)
            assert read("", "cpu", "cpu.max") == "50000 100000"
        assert read("pids", "pids", "pids.max") == "77"
        assert read("cpuset", "cpuset", "cpuset.cpus") in ("0", None)
        if layout.hierarchy("", "hugetlb"):
            assert read("", "hugetlb", "hugetlb.2MB.max") == str(4 << 20)


def test_files_of_cgroup_v2_by_their_own_names(bundle: Bundle) -> None:
    layout = CgroupLayout.probe()
    offered = layout.v2.controllers if layout.v2 else ()
    bundle.linux["resources"]["unified"] = {"hugetlb.2MB.max": "2097152"}
    if "hugetlb" not in offered:
        assert "unified resource" in bundle.refused()
        return
    with bundle.held() as pid:
        rows = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        path = next(row.split(":", 2)[2] for row in rows if row.startswith("0::"))
        assert layout.v2 is not None
        file = Path(f"{layout.v2.mount_point}{path}/hugetlb.2MB.max")
        assert file.read_text() == "2097152\n"
    bundle.linux["resources"]["unified"] = {"cgroup.procs": "1"}
    assert "'cgroup.procs' is not a limit" in bundle.refused()


def test_devices_that_the_cgroup_does_not_allow(bundle: Bundle) -> None:
    """The default devices are always usable, others by rule only, in the order of the rules."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("host feature missing: /dev/fuse")
    bundle.linux["devices"] = [
        {"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o666}
        for path, major, minor in (("/dev/other", 10, 229), ("/dev/zero2", 1, 5))
    ]
    script = "head -c1 /dev/zero2 >/dev/null && echo zero; head -c0 /dev/other && echo other; true"
    done = bundle.run(script)
    assert done.stdout.split() == ["zero"], done.stderr
    assert "Operation not permitted" in done.stderr
    allow = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"}
    bundle.linux["resources"]["devices"].append(allow)
    assert bundle.out(script).split() == ["zero", "other"]
    bundle.linux["resources"]["devices"].append({**allow, "allow": False})
    assert bundle.out(script).split() == ["zero"]
