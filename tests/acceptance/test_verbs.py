"""The verbs for containers that exist: exec, top, logs, attach, wait, kill, stop, ps, inspect,
events, export, with the exit codes that scripts rely on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from acceptance import kernel_side
from acceptance.rig import Onggi, until

SPOKEN = (
    "for i in 1 2 3; do echo out $i; echo err $i >&2; done; sleep 0.05; echo up; exec sleep 1000"
)


@pytest.fixture(scope="module")
def box(onggi: Onggi) -> Iterator[str]:
    """A container that has written some lines and sleeps."""
    words = ("--name", "box", "-e", "GIVEN=1", "-w", "/home", "-l", "kind=box")
    onggi.run("run", "-d", *words, "busybox", "sh", "-c", SPOKEN)
    until(lambda: "up" in onggi.out("logs", "box"), "it has spoken")
    yield "box"
    onggi.run("rm", "-f", "box")


@contextlib.contextmanager
def meanwhile(onggi: Onggi, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on during the block, and never beyond it."""
    process = subprocess.Popen(onggi.words(*words), stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """What it prints."""
    assert process.stdout
    return process.stdout


# -- exec ------------------------------------------------------------------------------------


def test_exec_has_the_containers_world(onggi: Onggi, box: str) -> None:
    script = "pwd; echo $GIVEN $HOME; id -u; hostname; readlink /proc/self/ns/pid"
    pwd, variables, uid, host, pid = onggi.out("exec", box, "sh", "-c", script).splitlines()
    assert (pwd, variables, uid) == ("/home", "1 /root", "0")
    assert host == onggi.inspect(box)["Id"][:12]
    assert pid == os.readlink(f"/proc/{onggi.pid(box)}/ns/pid")


def test_exec_with_a_world_of_its_own(onggi: Onggi, box: str) -> None:
    words = ("exec", "-e", "GIVEN=2", "-e", "MORE=3", "-w", "/tmp", "-u", "user", box)
    script = "echo $GIVEN $MORE $HOME; pwd; id; grep CapEff /proc/self/status"
    variables, pwd, who, rights = onggi.out(*words, "sh", "-c", script).splitlines()
    assert (variables, pwd) == ("2 3 /home", "/tmp")
    assert who == "uid=1000(user) gid=1000(user) groups=2000(extra)"
    assert int(rights.split()[1], 16) == 0


def test_exec_with_every_right(onggi: Onggi, box: str) -> None:
    look = ("grep", "-E", "CapEff|Seccomp:", "/proc/self/status")
    rows = dict(r.split() for r in onggi.out("exec", "--privileged", box, *look).splitlines())
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert int(rows["CapEff:"], 16) == (2 << last) - 1
    rows = dict(r.split() for r in onggi.out("exec", box, *look).splitlines())
    assert (rows["CapEff:"], rows["Seccomp:"]) == ("00000000800405fb", "2")


def test_exec_is_counted_and_limited_with_the_container(onggi: Onggi, box: str) -> None:
    onggi.run("exec", "-d", box, "sleep", "777")
    members = kernel_side.cgroup_file(onggi.pid(box), "pids", "cgroup.procs", "cgroup.procs")

    def pids() -> list[int]:
        found = map(int, members.read_text().split())
        return [p for p in found if b"777" in Path(f"/proc/{p}/cmdline").read_bytes()]

    until(pids, "the exec is in the container's cgroup")
    (pid,) = pids()
    # Nothing keeps it but the container: it ends with it, not with the command that began it.
    assert kernel_side.status(pid, "Uid").split()[0] == str(kernel_side.uid_range(pid).start)
    assert "sleep 777" in onggi.out("top", box)
    onggi.run(
        "exec", box, "pkill" if False else "kill", kernel_side.status(pid, "NSpid").split()[-1]
    )
    until(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("true",), 0, ""),
        (("sh", "-c", "exit 7"), 7, ""),
        (("no-such-program",), 127, "not found"),
        (("/no/such/program",), 127, "/no/such/program"),
        (("/etc/passwd",), 126, "not executable"),
        (("/etc",), 126, "directory"),
        (("sh", "-c", "kill -TERM $$"), 143, "SIGTERM"),
        (("sh", "-c", "kill -KILL $$"), 137, "SIGKILL"),
    ],
)
def test_exit_codes(
    onggi: Onggi, box: str, command: tuple[str, ...], code: int, words: str
) -> None:
    for how in (("exec", box), ("run", "--rm", "--init", "busybox")):
        done = onggi.run(*how, *command, check=False)
        assert done.returncode == code, (how, done)
        assert done.stderr.count("\n") <= 1
        if code in (126, 127):
            assert words in done.stderr
    done = onggi.run("exec", box, *command, check=False)
    assert words in done.stderr


def test_streams_stay_apart(onggi: Onggi, box: str) -> None:
    data = bytes(range(256)) * 1000
    script = "cat; echo problem >&2"
    for how in (("exec", "-i", box), ("run", "--rm", "-i", "busybox")):
        done = subprocess.run(
            onggi.words(*how, "sh", "-c", script), input=data, capture_output=True, check=True
        )
        assert done.stdout == data
        assert done.stderr == b"problem\n"
    # Without -i there is nothing to read.
    assert onggi.run("exec", box, "cat", stdin=b"unheard").stdout == ""
    assert onggi.run("run", "--rm", "busybox", "cat", stdin=b"unheard").stdout == ""


# -- what it says and does -------------------------------------------------------------------


def test_top(onggi: Onggi, box: str) -> None:
    head, *rows = onggi.out("top", box).splitlines()
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    pid = onggi.pid(box)
    first = next(row.split() for row in rows if row.split()[1] == str(pid))
    assert first[0] == kernel_side.status(pid, "Uid").split()[0]
    assert first[-2:] == ["sleep", "1000"]


def test_logs(onggi: Onggi, box: str) -> None:
    done = onggi.run("logs", box)
    assert done.stdout == "out 1\nout 2\nout 3\nup\n"
    assert done.stderr == "err 1\nerr 2\nerr 3\n"
    last = onggi.run("logs", "--tail", "2", box)  # of both streams, as they came in
    assert (last.stdout + last.stderr).count("\n") == 2
    assert onggi.run("logs", "-n", "0", box).stdout == ""
    stamped = onggi.out("logs", "-t", box).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", line) for line in stamped)
    assert onggi.out("logs", "--since", "1h", box) == onggi.out("logs", box)
    assert onggi.out("logs", "--since", "2099-01-01", box) == ""
    assert onggi.out("logs", "--until", "2001-01-01", box) == ""
    assert onggi.out("logs", "--since", stamped[-1].split()[0], box) == "up"


def test_logs_follow_until_the_end(onggi: Onggi) -> None:
    script = "echo first; read line; echo heard $line; exit 5"
    onggi.run("run", "-d", "-i", "--name", "spoken", "busybox", "sh", "-c", script)
    with meanwhile(onggi, "logs", "-f", "spoken") as following:
        assert lines(following).readline() == b"first\n"
        done = onggi.run("attach", "spoken", stdin=b"you\n", check=False)
        assert (done.returncode, done.stdout) == (5, "heard you\n")
        assert lines(following).read() == b"heard you\n"
        assert following.wait(10) == 0
    assert onggi.out("wait", "spoken") == "5"
    assert onggi.out("start", "spoken") == "spoken"
    onggi.run("rm", "-f", "spoken")


def test_attach_passes_signals_on(onggi: Onggi) -> None:
    script = "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.02; done"
    onggi.run("run", "-d", "--name", "caught", "busybox", "sh", "-c", script)
    with meanwhile(onggi, "attach", "--no-stdin", "caught") as attached:
        until(lambda: "up" in onggi.out("logs", "caught"), "it is up")
        # Handlers are set once it has connected; a signal before would end the command itself.
        until(lambda: _catches(attached.pid, signal.SIGINT), "it passes signals on")
        attached.send_signal(signal.SIGINT)
        assert lines(attached).read() == b"caught\n"
        assert attached.wait(10) == 3
    onggi.run("rm", "caught")


def _catches(pid: int, number: int) -> bool:
    caught = int(kernel_side.status(pid, "SigCgt"), 16) & (1 << (number - 1))
    # Python itself catches SIGINT: all that it passes on are set together.
    return bool(caught and int(kernel_side.status(pid, "SigCgt"), 16) & (1 << (signal.SIGUSR1 - 1)))


def test_kill_stop_and_wait(onggi: Onggi) -> None:
    script = "trap 'echo hup' HUP; trap 'exit 6' TERM; echo up; while :; do sleep 0.02; done"
    onggi.run("run", "-d", "--name", "ended", "busybox", "sh", "-c", script)
    until(lambda: "up" in onggi.out("logs", "ended"), "it is up")
    with meanwhile(onggi, "wait", "ended") as waiting:
        assert onggi.out("kill", "-s", "HUP", "ended") == "ended"
        until(lambda: "hup" in onggi.out("logs", "ended"), "it has heard")
        assert onggi.inspect("ended")["State"]["Running"] is True
        assert onggi.out("stop", "ended") == "ended"
        assert waiting.communicate(timeout=10)[0] == b"6\n"
    assert onggi.out("wait", "ended") == "6"
    assert onggi.run("stop", "ended").returncode == 0  # it has ended: nothing to do
    done = onggi.run("kill", "ended", check=False)
    assert (done.returncode, "does not run" in done.stderr) == (1, True)
    onggi.run("start", "ended")
    onggi.run("kill", "ended")
    assert onggi.out("wait", "ended") == "137"
    state = onggi.inspect("ended")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (137, False)
    assert "onggi kill" in state["Error"]
    assert onggi.out("rm", "ended") == "ended"
    assert onggi.run("wait", "ended", check=False).returncode != 0


def test_an_end_by_its_own_hand_is_not_laid_on_us(onggi: Onggi) -> None:
    script = "trap 'kill -SEGV $$' HUP; echo up; while :; do sleep 0.02; done"
    onggi.run("run", "-d", "--init", "--name", "own", "busybox", "sh", "-c", script)
    until(lambda: "up" in onggi.out("logs", "own"), "it is up")
    onggi.run("kill", "-s", "HUP", "own")
    assert onggi.out("wait", "own") == "139"
    assert "onggi kill" not in onggi.inspect("own")["State"]["Error"]
    onggi.run("rm", "own")


def test_ps(onggi: Onggi, box: str) -> None:
    onggi.run("create", "--name", "made", "busybox", "true")
    onggi.run("run", "--name", "failed", "busybox", "sh", "-c", "exit 4", check=False)
    assert onggi.out("ps", "--format", "{{.Names}}").split() == ["box"]
    assert onggi.out("ps", "-a", "--format", "{{.Names}}").split() == ["failed", "made", "box"]
    for words, names in {
        "status=exited": "failed", "status=created": "made", "status=running": "box",
        "exited=4": "failed", "name=ade": "made", "label=kind=box": "box", "label=kind=other": "",
        "ancestor=busybox": "failed made box", f"id={onggi.inspect('made')['Id'][:12]}": "made",
        "before=made": "box", "since=made": "failed",
    }.items():  # fmt: skip
        found = onggi.out("ps", "-a", "--filter", words, "--format", "{{.Names}}")
        assert found.split() == names.split(), words
    assert onggi.out("ps", "-ql") == onggi.inspect("failed")["Id"][:12]
    assert "Exited (4)" in onggi.out("ps", "-a", "--filter", "name=failed")
    row = json.loads(onggi.out("ps", "--format", "json"))
    assert (row["Names"], row["State"], row["Image"]) == ("box", "running", "busybox")
    onggi.run("rm", "made", "failed")


def test_inspect(onggi: Onggi, box: str) -> None:
    found = onggi.inspect(box)
    assert Path(f"/proc/{found['State']['Pid']}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert (found["Path"], found["Args"]) == ("sh", ["-c", SPOKEN])
    assert Path(found["LogPath"]).is_file()
    assert found["Config"]["WorkingDir"] == "/home"
    assert onggi.out("inspect", "-f", "{{.State.Status}} {{json .Config.Labels}}", box) == (
        'running {"kind":"box"}'
    )
    assert onggi.inspect(found["Id"][:6])["Id"] == found["Id"]
    done = onggi.run("inspect", "no-such-container", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_events(onggi: Onggi) -> None:
    started_s = time.time()
    words = (
        "events",
        "--format",
        "json",
        "--filter",
        "container=seen",
        "--since",
        f"{started_s:f}",
    )
    with meanwhile(onggi, *words) as listening:
        onggi.run("run", "--name", "seen", "-d", "busybox", "sleep", "1000")
        onggi.run("exec", "seen", "true")
        onggi.run("rm", "-f", "seen")
        events = []
        while not events or events[-1]["Action"] != "destroy":
            events.append(json.loads(lines(listening).readline()))
    assert [e["Action"] for e in events] == ["create", "start", "exec_start", "die", "destroy"]
    assert {e["Type"] for e in events} == {"container"}
    assert all(started_s <= e["timeNano"] / 1e9 <= time.time() for e in events)


def test_export(onggi: Onggi, tmp_path: Path) -> None:
    onggi.run(
        "run",
        "--name",
        "full",
        "busybox",
        "sh",
        "-c",
        "echo new > /new; rm /bin/vi; chown 1000 /new",
    )
    done = subprocess.run(onggi.words("export", "full"), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        names = {member.name.removeprefix("./"): member for member in tar}
        assert "bin/busybox" in names
        assert "bin/vi" not in names
        assert names["new"].uid == 1000
    onggi.run("export", "-o", str(tmp_path / "tar"), "full")
    assert (tmp_path / "tar").read_bytes() == done.stdout
    onggi.run("rm", "full")


def test_what_does_not_exist(onggi: Onggi) -> None:
    for verb in ("start", "stop", "kill", "rm", "logs", "attach", "wait", "top", "view", "export"):
        done = onggi.run(verb, "no-such-container", check=False)
        assert done.returncode in (1, 125), verb
        assert "no-such-container" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_forced_removal_of_what_is_not_there(onggi: Onggi) -> None:
    """It is said, and is no failure: docker's scripts begin with it."""
    for words in (("rm", "-f"), ("rmi", "-f")):
        done = onggi.run(*words, "no-such", check=False)
        assert (done.returncode, done.stdout) == (0, ""), done
        assert "no-such" in done.stderr and done.stderr.count("\n") == 1
        assert onggi.run(words[0], "no-such", check=False).returncode == 1


def test_events_tell_what_they_are_about(onggi: Onggi) -> None:
    """Every event of a container has its name, image and labels, so that filters find them all."""
    began_s = time.time()
    onggi.run("run", "-d", "--name", "told", "--label", "of=told", "busybox", "sleep", "1000")
    onggi.run("exec", "told", "true")
    onggi.run("pause", "told")
    onggi.run("unpause", "told")
    onggi.run("restart", "-t", "0", "told")
    onggi.run("stop", "-t", "0", "told")
    onggi.run("rm", "told")
    rows = onggi.out("events", "--since", str(began_s), "--until", "0s", "-f", "label=of=told",
                     "-f", "image=busybox", "-f", "container=told", "--format", "json")  # fmt: skip
    events = [json.loads(row) for row in rows.splitlines()]
    assert [event["Action"] for event in events if event["Action"] != "destroy"] == [
        "create", "start", "exec_start", "pause", "unpause", "kill", "kill", "die", "stop",
        "start", "restart", "kill", "kill", "die", "stop",
    ]  # fmt: skip
    assert {event["Actor"]["Attributes"]["name"] for event in events} == {"told"}


def test_inspect_size_and_what_was_asked_for(onggi: Onggi) -> None:
    onggi.run("run", "--name", "asked", "-p", "127.0.0.1::80", "--expose", "53/udp",
              "-v", "/opt:/o:ro", "-v", "/anonymous", "--ulimit", "nofile=99:100",
              "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=3")  # fmt: skip
    try:
        found = onggi.inspect("asked")
        assert "SizeRw" not in found
        host = found["HostConfig"]
        assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        assert "/opt:/o:ro" in host["Binds"]
        assert host["Ulimits"] == [{"Name": "nofile", "Soft": 99, "Hard": 100}]
        assert found["Config"]["ExposedPorts"] == {"53/udp": {}}
        assert list(found["Config"]["Volumes"]) == ["/anonymous"]
        upper = onggi.out("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "asked")
        assert (Path(upper) / "big").stat().st_size == 3 << 20
        sizes = onggi.out("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "asked").split()
        assert 3 << 20 <= int(sizes[0]) < int(sizes[1])
    finally:
        onggi.run("rm", "-fv", "asked")


def test_volume_prune(onggi: Onggi) -> None:
    onggi.run("volume", "create", "--driver", "local", "named")
    nameless = onggi.out("volume", "create")
    onggi.run("run", "-d", "--name", "user", "-v", "used:/v", "busybox", "sleep", "1000")
    try:
        assert nameless in onggi.out("volume", "prune", "-f")
        assert set(onggi.out("volume", "ls", "-q").split()) >= {"named", "used"}
        said = onggi.out("volume", "prune", "--all", "--force").splitlines()
        assert "named" in said and "used" not in said
        assert "used" in onggi.out("volume", "ls", "-q").split()
    finally:
        onggi.run("rm", "-f", "user")
        onggi.run("volume", "rm", "-f", "named", "used")


@pytest.mark.parametrize("pause", [True, False])
def test_commit_of_a_running_container(onggi: Onggi, pause: bool) -> None:
    """Nothing is written while it stands still, and it goes on after that."""
    script = "while :; do i=$((i+1)); for f in a b; do echo $i > /new && mv /new /$f; done; done"
    onggi.run("run", "-d", "--name", "busy", "busybox", "sh", "-c", script)
    try:
        there = ("exec", "busy", "test", "-e", "/b")
        until(lambda: onggi.run(*there, check=False).returncode == 0, "both files")
        onggi.run("commit", f"--pause={str(pause).lower()}", "busy", "busy:1")
        assert onggi.inspect("busy")["State"]["Status"] == "running"
        before = onggi.out("exec", "busy", "cat", "/a")
        until(lambda: onggi.out("exec", "busy", "cat", "/a") != before, "it goes on")
        if pause:
            a, b = onggi.out("run", "--rm", "busy:1", "cat", "/a", "/b").split()
            assert int(a) - int(b) in (0, 1)
    finally:
        onggi.run("rm", "-f", "busy")
        onggi.run("rmi", "-f", "busy:1")
