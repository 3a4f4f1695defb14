"""Plans as the planner makes them, carried out by the real keel, seen from inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kernel.keel_run import NEEDS_ROOT_AND_BUSYBOX, Box, Outcome, Task, run
from onggi.errors import StartFailed
from onggi.kernel.capabilities import DEFAULT
from onggi.kernel.seccomp.profile import default_profile
from onggi.runtime.failure import explain_failure
from onggi.runtime.host import HostFacts, probe
from onggi.runtime.plan import plan, plan_exec
from onggi.runtime.request import ExecRequest, Overlay, StartRequest, Supervision
from onggi.runtime.steps import BindTree, OpenTree, Plan
from onggi.sandbox.keel import Keel
from onggi.sandbox.messages import Warned
from onggi.specs.runtime import Config, Mount, Rlimit, Root, TimeOffset, User
from unit.plan_cases import MOUNTS, default_config, namespaces, with_process

pytestmark = NEEDS_ROOT_AND_BUSYBOX
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return probe()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


class Room:
    """A box, a keel and a host: start a configuration in it, and look."""

    def __init__(self, keel: Keel, host: HostFacts, box: Box) -> None:
        self.keel = keel
        self.host = host
        self.box = box
        data = box.run_dir.parent / "data"
        data.mkdir()
        (data / "file").write_text("hello\n")
        self.data = Mount("/data", str(data), "bind", ("rbind", "ro"))

    def config(self, script: str, **linux: Any) -> Config:
        profile = default_profile(frozenset(DEFAULT), self.host.machine, self.host.kernel)
        config = with_process(
            default_config(**{"seccomp": profile, **linux}),
            args=("sh", "-c", script),
            env=("PATH=/bin",),
        )
        return replace(config, mounts=(*MOUNTS[:7], self.data))

    def plan(self, config: Config, **request: Any) -> Plan:
        fields: dict[str, Any] = {
            "supervision": Supervision(run_dir=str(self.box.run_dir), record_name=""),
            "root_mountpoint": str(self.box.place),
            "overlay": Overlay((str(self.box.layer),), str(self.box.snapshot)),
        }
        return plan(config, self.host, StartRequest(**{**fields, **request}))

    def run(self, config: Config, **request: Any) -> Outcome:
        outcome = run(self.keel, self.plan(config, **request))
        assert not [event for event in outcome.events if isinstance(event, Warned)]
        return outcome


@pytest.fixture
def room(keel: Keel, host: HostFacts, box: Box) -> Room:
    return Room(keel, host, box)


def mounts_of(text: str) -> dict[str, tuple[str, str]]:
    """Mount point → (type, options of the mount) from a mountinfo."""
    rows = {}
    for line in text.splitlines():
        fields = line.split(" ")
        rows[fields[4]] = (fields[fields.index("-") + 1], fields[5])
    return rows


def test_the_default_container(room: Room) -> None:
    config = room.config("id -u; hostname; cat /data/file; cat /proc/self/mountinfo")
    lines = room.run(config, keyring="onggi-test").succeed()
    uid, name, data, *rows = lines.splitlines()
    assert (uid.split()[0], name, data) == ("0", "box", "hello")
    mounts = mounts_of("\n".join(rows))
    assert mounts["/"][0] == "overlay"
    assert mounts["/proc"][0] == "proc"
    assert mounts["/sys"] == ("sysfs", "ro,nosuid,nodev,noexec,relatime")
    assert mounts["/data"][1].startswith("ro,")
    assert "idmapped" in mounts["/data"][1]
    assert mounts["/sys/firmware"] == ("tmpfs", "ro,nosuid,nodev,noexec,relatime")
    assert mounts["/proc/sys"][1].startswith("ro,")
    assert "/sys/fs/cgroup" in mounts


def test_credentials_filter_and_devices(room: Room) -> None:
    script = "cat /proc/self/status; echo x >/dev/null && ls -l /dev/fd/1 /dev/ptmx && umask"
    out = room.run(with_process(room.config(script), no_new_privileges=True)).succeed()
    status = dict(line.split(":", 1) for line in out.splitlines() if ":\t" in line)
    assert int(status["CapBnd"], 16).bit_count() == len(DEFAULT)
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert out.splitlines()[-1] == "0022"


def test_another_user_in_a_directory_that_is_made(room: Room) -> None:
    config = with_process(
        room.config("id; pwd; ulimit -n; cat /proc/self/oom_score_adj"),
        user=User(uid=1000, gid=1000, additional_gids=(5,)),
        cwd="/made/here",
        rlimits=(Rlimit("RLIMIT_NOFILE", 77, 77),),
        oom_score_adj=321,
    )
    config = replace(config, root=Root("rootfs", readonly=True))
    out = room.run(config).succeed().splitlines()
    assert out[0] == "uid=1000 gid=1000 groups=5"
    assert out[1:] == ["/made/here", "77", "321"]


@pytest.mark.parametrize("missing", ["network", "pid", "cgroup"])
def test_a_namespace_of_the_hosts(room: Room, missing: str) -> None:
    kinds = ("mount", "network", "ipc", "pid", "uts", "user", "cgroup")
    config = room.config(
        "ls -d /sys/class/net /proc/self /dev/mqueue && ls -l /proc/self/ns",
        namespaces=namespaces(*(kind for kind in kinds if kind != missing)),
    )
    out = room.run(config).succeed()
    file = {"network": "net"}.get(missing, missing)
    assert os.readlink(f"/proc/self/ns/{file}") in out
    assert os.readlink("/proc/self/ns/user") not in out


def test_a_message_queue_file_system_that_the_host_has_not_mounted(room: Room) -> None:
    kinds = namespaces("mount", "network", "pid", "uts", "user", "cgroup")
    made = room.plan(room.config("ls -l /proc/self/ns", namespaces=kinds))
    outcome = run(room.keel, made)
    assert os.readlink("/proc/self/ns/ipc") in outcome.succeed()
    warned = {type(made.steps[warning.step_index]) for warning in outcome.warned}
    assert warned == (set() if os.path.exists("/dev/mqueue") else {OpenTree, BindTree})


def test_without_a_user_namespace_nodes_are_made(room: Room) -> None:
    config = room.config(
        "ls -l /dev/null; cat /proc/self/uid_map",
        namespaces=namespaces("mount", "network", "ipc", "pid", "uts", "cgroup"),
        uid_mappings=(),
        gid_mappings=(),
    )
    out = room.run(config).succeed()
    assert "1,   3" in out
    assert "4294967295" in out


def test_sysctls_of_every_namespace(room: Room) -> None:
    settings = {
        "net.ipv4.ip_unprivileged_port_start": "7",
        "net/ipv4/conf/lo/forwarding": "1",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "9",
        "kernel.domainname": "example",
    }
    names = [key.replace(".", "/") for key in settings]
    config = room.config("cat " + " ".join(f"/proc/sys/{name}" for name in names), sysctl=settings)
    assert room.run(config).succeed().split() == list(settings.values())


def test_a_terminal(room: Room) -> None:
    config = with_process(room.config("ls /dev/console && test -t 0 && test -t 1"), terminal=True)
    supervision = Supervision(run_dir=str(room.box.run_dir), record_name="", rows=5, columns=6)
    assert room.run(config, supervision=supervision).exited.code == 0


def test_a_time_namespace_with_an_offset(room: Room) -> None:
    kinds = namespaces("mount", "network", "ipc", "pid", "uts", "user", "time")
    script = "cat /proc/self/timens_offsets"
    offsets = {"boottime": TimeOffset(secs=864000)}
    config = room.config(script, namespaces=kinds, time_offsets=offsets)
    assert "864000" in room.run(config).succeed()
    plain = room.config(script, namespaces=kinds)
    assert "864000" not in room.run(plain).succeed()


def test_a_bundle(room: Room, host: HostFacts) -> None:
    box = room.box
    box.layer.rename(box.layer.parent / "rootfs")
    config = room.config(
        "touch /bin/x; echo $?; ls /bin/sh",
        namespaces=namespaces("mount", "pid", "uts"),
        uid_mappings=(),
        gid_mappings=(),
    )
    config = replace(config, root=Root("rootfs", readonly=True))
    out = room.run(config, overlay=None, bundle=str(box.layer.parent))
    assert out.succeed().split() == ["1", "/bin/sh"]
    assert "Read-only file system" in out.err


def test_an_exec_enters_the_container(room: Room, host: HostFacts) -> None:
    config = room.config("echo up; exec sleep 60")
    with Task(room.keel, room.plan(config)) as task:
        started = task.until_started()
        assert started.pidfd is not None
        assert config.process is not None
        process = replace(config.process, args=("sh", "-c", "hostname; id -u; cat /data/file"))
        exec_dir = room.box.run_dir.parent / "exec"
        exec_dir.mkdir()
        supervision = Supervision(run_dir=str(exec_dir), record_name="")
        made = plan_exec(process, config, host, ExecRequest(supervision=supervision))
        outcome = run(room.keel, made, (started.pidfd,))
        assert [line.split()[0] for line in outcome.succeed().splitlines()] == ["box", "0", "hello"]


@pytest.mark.parametrize(
    ("name", "content", "mode", "words", "code"),
    [
        ("absent", None, 0, "not found in the container's PATH (/bin)", 127),
        ("tool", b"#!/bin/bash\n", 0o755, "interpreter /bin/bash is not in the image", 127),
        ("crlf", b"#!/bin/sh\r\n", 0o755, "carriage return", 127),
        ("mode", b"#!/bin/sh\n", 0o644, "is not executable (mode 0644)", 126),
        ("empty", b"", 0o755, "is empty", 126),
        ("text", b"echo hi\n", 0o755, "text without a first line", 126),
        (
            "arm",
            b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xb7\0",
            0o755,
            "built for aarch64",
            126,
        ),
    ],
)
def test_an_application_that_cannot_be_executed(
    room: Room, name: str, content: bytes | None, mode: int, words: str, code: int
) -> None:
    if content is not None:
        file = room.box.layer / "bin" / name
        file.write_bytes(content)
        file.chmod(mode)
    made = room.plan(with_process(room.config(""), args=(name,)))
    error = explain_failure(run(room.keel, made).failed, made, machine="x86_64")
    assert isinstance(error, StartFailed)
    assert words in error.message
    assert error.exit_code == code
