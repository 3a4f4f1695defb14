"""Two containers and the host, seen from all three: none sees the processes, mounts, names, objects
and interfaces of another, and root inside is nobody outside."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import kernel_side
from acceptance.probe import Probe
from acceptance.rig import Onggi, until

KEY = 0x0E661


@pytest.fixture(scope="module")
def pair(onggi: Onggi, probe: Probe) -> Iterator[tuple[str, str]]:
    """Two containers that were given nothing to share."""
    names = ("left", "right")
    for name in names:
        onggi.run(
            "run", "-d", "--name", name, "--hostname", f"host-{name}", "-v", probe.bind,
            "--tmpfs", f"/only-{name}", "--cpuset-cpus", "0", "busybox", "sleep", "1000",
        )  # fmt: skip
    yield names
    onggi.run("rm", "-f", *names)


def inside(onggi: Onggi, container: str, script: str) -> str:
    """What a shell in the container prints; whatever its exit code."""
    return onggi.run("exec", container, "sh", "-c", script, check=False).stdout.strip()


# -- one namespace each ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uts", "ipc", "pid", "mount", "network", "user", "cgroup"])
def test_a_namespace_of_its_own(onggi: Onggi, pair: tuple[str, str], kind: str) -> None:
    seen = {"host": kernel_side.namespace("self", kind)}
    for name in pair:
        seen[name] = kernel_side.namespace(onggi.pid(name), kind)
        link = inside(onggi, name, f"readlink /proc/1/ns/{kernel_side.NAMESPACES[kind]}")
        assert link.endswith(f"[{seen[name]}]")
        shown = {row["kind"]: row for row in onggi.view(name)["namespaces"]}
        row = shown[kind]
        assert (row["inode"], row["host_inode"]) == (seen[name], seen["host"])
        assert row.get("shared_with", []) == []
    assert len(set(seen.values())) == 3


def test_the_hosts_time_namespace_is_shown_as_shared(onggi: Onggi, pair: tuple[str, str]) -> None:
    shown = {row["kind"]: row for row in onggi.view(pair[0])["namespaces"]}
    if "time" not in shown:
        pytest.skip("the kernel has no time namespaces")
    assert kernel_side.namespace(onggi.pid(pair[0]), "time") == shown["time"]["host_inode"]
    assert "host" in shown["time"]["shared_with"]


# -- what each would show --------------------------------------------------------------------


def test_host_names(onggi: Onggi, pair: tuple[str, str]) -> None:
    ours = socket.gethostname()
    for name in pair:
        assert inside(onggi, name, "hostname; cat /etc/hostname").split() == [f"host-{name}"] * 2
        shown = onggi.view(name)
        assert (shown["inner_hostname"], shown["host_hostname"]) == (f"host-{name}", ours)
    changing = ("--cap-add", "SYS_ADMIN", "busybox", "sh", "-c", "hostname other; hostname")
    assert onggi.out("run", "--rm", *changing) == "other"
    assert socket.gethostname() == ours
    assert inside(onggi, pair[0], "hostname other; hostname") == "host-left"


def test_processes(onggi: Onggi, pair: tuple[str, str], probe: Probe) -> None:
    left, right = map(onggi.pid, pair)
    listed = inside(onggi, pair[0], "ls -d /proc/[0-9]*; cat /proc/1/cmdline | tr '\\0' ' '")
    assert re.fullmatch(r"/proc/1\n(/proc/\d+\n)*sleep 1000", listed), listed
    assert len(listed.splitlines()) <= 4  # the first, the shell, and what it runs
    assert kernel_side.status(left, "NSpid").split() == [str(left), "1"]
    # By the numbers that the host knows them under, neither the other nor the host is reachable.
    for pid in (right, os.getpid()):
        tried = (f"signal_to={pid}", f"attach_to={pid}", f"read_memory={pid}")
        answers = probe.inside(onggi, pair[0], *tried)
        assert set(answers.values()) <= {errno.ESRCH, errno.EPERM}, answers
    shown = onggi.view(pair[0])["processes"]
    assert [(p["host_pid"], p["inner_pid"], p["command"]) for p in shown] == [
        (left, 1, "sleep 1000")
    ]


def test_mounts(onggi: Onggi, pair: tuple[str, str]) -> None:
    targets = {}
    for name in pair:
        table = inside(onggi, name, "cat /proc/self/mountinfo")
        targets[name] = {line.split()[4] for line in table.splitlines()}
        assert targets[name] == {m["target"] for m in onggi.view(name)["inner_mounts"]}
        assert onggi.view(name)["host_mounts"] == []
    assert "/only-left" in targets["left"] - targets["right"]
    assert "/only-right" in targets["right"] - targets["left"]
    host = Path("/proc/self/mountinfo").read_text()
    assert "/only-left" not in host
    assert str(onggi.root) not in host
    places = (Path("/var"), Path("/home"), Path("/root"))
    for place in places:
        inside(onggi, "left", f"echo secret > {place}/of-left")
        assert inside(onggi, "left", f"cat {place}/of-left") == "secret"
        assert inside(onggi, "right", f"ls {place}") == ""
        assert not (place / "of-left").exists()
    # The processes' roots are no way out: each is its own container's.
    assert (
        inside(onggi, "left", "ls /proc/1/root/../../../../only-left /proc/1/cwd/..").count("bin")
        == 1
    )


def test_ipc(onggi: Onggi, pair: tuple[str, str], probe: Probe) -> None:
    made = probe.inside(onggi, "left", f"make_shm={KEY}", "make_queue")
    assert made == {"make_shm": 0, "make_queue": 0}
    inside(onggi, "left", "echo secret > /dev/shm/of-left")
    found = (f"find_shm={KEY}", "find_queue")
    assert probe.inside(onggi, "left", *found) == {"find_shm": 0, "find_queue": 0}
    nothing = {"find_shm": errno.ENOENT, "find_queue": errno.ENOENT}
    assert probe.inside(onggi, "right", *found) == nothing
    assert probe.outside(*found) == nothing
    look = "ls /dev/shm /dev/mqueue; tail -n +2 /proc/sysvipc/shm | wc -l"
    assert inside(onggi, "left", look).split() == [
        "/dev/mqueue:",
        "probe",
        "/dev/shm:",
        "of-left",
        "1",
    ]
    assert inside(onggi, "right", look).split() == ["/dev/mqueue:", "/dev/shm:", "0"]
    assert not Path("/dev/shm/of-left").exists()


def test_interfaces(onggi: Onggi, pair: tuple[str, str]) -> None:
    for name in pair:
        assert inside(onggi, name, "ls /sys/class/net; ip -o link | wc -l").split() == [
            "eth0",
            "lo",
            "2",
        ]
        shown = onggi.view(name)
        assert [i["name"] for i in shown["inner_interfaces"]] == ["lo", "eth0"]
        ours = {name for _, name in socket.if_nameindex()}
        assert {i["name"] for i in shown["host_interfaces"]} == ours
    # A server in one, on a port where the host has one too: nobody else meets it.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        onggi.run("exec", "-d", "left", "nc", "-l", "-p", str(port))
        listens = f"grep -qi ':{port:04x} .* 0A ' /proc/net/tcp /proc/net/tcp6"
        until(lambda: inside(onggi, "left", f"{listens} && echo yes") == "yes", "left listens")
        call = f"nc -w 1 127.0.0.1 {port} < /dev/null && echo there || echo none"
        assert inside(onggi, "right", f"{listens} || echo none") == "none"
        assert inside(onggi, "right", call) == "none"
        assert inside(onggi, "left", call) == "there"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_root_inside_is_not_root_outside(onggi: Onggi, pair: tuple[str, str]) -> None:
    ranges = []
    for name in pair:
        pid = onggi.pid(name)
        ranges.append(kernel_side.uid_range(pid))
        assert len(ranges[-1]) == 65536
        assert 0 not in ranges[-1]
        assert inside(onggi, name, "id -u; cat /proc/self/uid_map").split()[:2] == ["0", "0"]
        outside = {int(u) for u in kernel_side.status(pid, "Uid").split()}
        assert outside == {ranges[-1].start}
        assert {int(g) for g in kernel_side.status(pid, "Gid").split()} <= set(ranges[-1])
        (row,) = onggi.view(name)["processes"]
        assert (row["inner_uid"], row["host_uid"]) == (0, ranges[-1].start)
        assert onggi.inspect(name)["Onggi"]["IdBase"] == ranges[-1].start
    assert not set(ranges[0]) & set(ranges[1])


def test_a_user_inside_has_its_id_of_the_range(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--name", "plain", "-u", "1000:1000", "busybox", "sleep", "1000")
    pid = onggi.pid("plain")
    base = kernel_side.uid_range(pid).start
    assert kernel_side.status(pid, "Uid").split() == [str(base + 1000)] * 4
    assert onggi.view("plain")["processes"][0]["inner_uid"] == 1000
    onggi.run("rm", "-f", "plain")


def test_cgroups(onggi: Onggi, pair: tuple[str, str]) -> None:
    ids = {name: onggi.inspect(name)["Id"] for name in pair}
    for name in pair:
        for line in inside(onggi, name, "cat /proc/self/cgroup").splitlines():
            assert line.endswith(":/"), line
        assert ids[name] in Path(f"/proc/{onggi.pid(name)}/cgroup").read_text()
        assert not any(
            found in inside(onggi, name, "find /sys/fs/cgroup") for found in ids.values()
        )
        denied = (
            "for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 1 > $f && echo wrote; done"
        )
        assert inside(onggi, name, denied) == ""
    # One that joins no cpuset of its own must not be shown the root of the others' instead.
    looking = ("sh", "-c", "find /sys/fs/cgroup; cat /proc/self/mountinfo")
    seen = onggi.out("run", "--rm", "busybox", *looking)
    assert not any(found in seen for found in ids.values())
    assert "release_agent" not in seen


def test_an_exec_is_in_all_of_them(onggi: Onggi, pair: tuple[str, str]) -> None:
    links = " ".join(f"/proc/self/ns/{file}" for file in kernel_side.NAMESPACES.values())
    script = f"readlink {links}; cat /proc/self/cgroup; grep -E '^(Cap|Seccomp)' /proc/self/status"
    first = script.replace("/self/", "/1/")
    assert inside(onggi, "left", script) == inside(onggi, "left", first)


# -- what may be shared when asked for -------------------------------------------------------


@pytest.mark.parametrize(("option", "kind"), [
    ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--network", "network"),
    ("--userns", "user"), ("--cgroupns", "cgroup"),
])  # fmt: skip
def test_the_hosts_namespace_when_asked_for(onggi: Onggi, option: str, kind: str) -> None:
    onggi.run("run", "-d", "--name", f"host-{kind}", option, "host", "busybox", "sleep", "1000")
    pid = onggi.pid(f"host-{kind}")
    assert kernel_side.namespace(pid, kind) == kernel_side.namespace("self", kind)
    shown = {row["kind"]: row for row in onggi.view(f"host-{kind}")["namespaces"]}
    row = shown[kind]
    assert "host" in row["shared_with"]
    others = {"pid", "ipc", "uts", "network", "user", "cgroup", "mount"} - {kind}
    for other in others:
        assert kernel_side.namespace(pid, other) != kernel_side.namespace("self", other)
    onggi.run("rm", "-f", f"host-{kind}")


@pytest.mark.parametrize(("option", "kind"), [
    ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--network", "network"),
])  # fmt: skip
def test_anothers_namespace_when_asked_for(
    onggi: Onggi, pair: tuple[str, str], option: str, kind: str
) -> None:
    name, peer = f"joins-{kind}", "left"
    if kind == "ipc":  # which its owner must have agreed to
        peer = "shares"
        onggi.run("run", "-d", "--name", peer, "--ipc", "shareable", "busybox", "sleep", "1000")
    onggi.run("run", "-d", "--name", name, option, f"container:{peer}", "busybox", "sleep", "1000")
    pid, left = onggi.pid(name), onggi.pid(peer)
    assert kernel_side.namespace(pid, kind) == kernel_side.namespace(left, kind)
    assert kernel_side.namespace(pid, "user") == kernel_side.namespace(left, "user")
    for other in {"pid", "ipc", "uts", "network", "mount"} - {kind}:
        assert kernel_side.namespace(pid, other) != kernel_side.namespace(left, other)
    shown = {row["kind"]: row for row in onggi.view(name)["namespaces"]}
    assert shown[kind]["shared_with"] == [peer]
    onggi.run("rm", "-f", name)
    assert onggi.inspect(peer)["State"]["Running"] is True
    if peer != "left":
        onggi.run("rm", "-f", peer)


def test_joining_what_does_not_run_is_refused(onggi: Onggi) -> None:
    onggi.run("create", "--name", "asleep", "busybox", "true")
    done = onggi.run("run", "--rm", "--pid", "container:asleep", "busybox", "true", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert "asleep does not run" in done.stderr
    onggi.run("rm", "asleep")
