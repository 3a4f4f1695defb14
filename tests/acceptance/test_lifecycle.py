"""Containers that are changed, paused, renamed, restarted: by hand and by their policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.kernel_side import cgroup_file
from acceptance.rig import Onggi, until


def sleeper(onggi: Onggi, name: str, *words: str) -> None:
    onggi.run("run", "-d", "--network", "none", "--name", name, *words, "busybox", "sleep", "600")


def state(onggi: Onggi, name: str) -> str:
    return str(onggi.inspect(name)["State"]["Status"])


def test_pause_stops_every_process_and_unpause_lets_them_go_on(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--network", "none", "--name", "a", "busybox",
              "sh", "-c", "while :; do echo x; done >/tmp/out")  # fmt: skip
    onggi.run("pause", "a")
    assert state(onggi, "a") == "paused"
    assert "Paused" in onggi.out("ps", "--format", "{{.Status}}")
    size = "stat -c %s /proc/{}/root/tmp/out".format(onggi.pid("a"))
    before = Path(f"/proc/{onggi.pid('a')}/root/tmp/out").stat().st_size
    assert Path(f"/proc/{onggi.pid('a')}/root/tmp/out").stat().st_size == before, size
    refused = onggi.run("exec", "a", "true", check=False)
    assert "is paused" in refused.stderr and "onggi unpause a" in refused.stderr
    assert "is paused already" in onggi.run("pause", "a", check=False).stderr
    onggi.run("unpause", "a")
    until(
        lambda: Path(f"/proc/{onggi.pid('a')}/root/tmp/out").stat().st_size > before, "it goes on"
    )
    assert "is not paused" in onggi.run("unpause", "a", check=False).stderr
    onggi.run("rm", "-f", "a")


def test_a_paused_container_can_be_stopped_and_removed(onggi: Onggi) -> None:
    for verb in (("stop", "-t", "0"), ("kill",), ("rm", "-f")):
        sleeper(onggi, "a")
        onggi.run("pause", "a")
        onggi.run(*verb, "a")
        onggi.run("rm", "-f", "a", check=False)


def test_a_pause_survives_the_engine(own_onggi: Onggi) -> None:
    onggi = own_onggi
    sleeper(onggi, "a")
    onggi.run("pause", "a")
    onggi.kill_engine()
    assert state(onggi, "a") == "paused"
    onggi.run("unpause", "a")
    assert onggi.out("exec", "a", "echo", "alive") == "alive"
    onggi.run("rm", "-f", "a")


def test_what_stood_still_for_a_copy_goes_on(own_onggi: Onggi) -> None:
    """An engine that dies during a commit leaves the cgroup frozen, and no record of a pause."""
    onggi = own_onggi
    sleeper(onggi, "a")
    pid = onggi.pid("a")
    unified = cgroup_file(pid, "", "", "cgroup.freeze")  # of the core, in a hybrid layout too
    file = unified if unified.exists() else cgroup_file(pid, "freezer", "freezer.state", "")
    onggi.kill_engine()
    file.write_text("1" if file == unified else "FROZEN")
    assert state(onggi, "a") == "running"
    assert onggi.out("exec", "a", "echo", "alive") == "alive"
    onggi.run("rm", "-f", "a")


def test_a_name_moves_at_once(onggi: Onggi) -> None:
    sleeper(onggi, "old")
    onggi.run("rename", "old", "new")
    sleeper(onggi, "old")
    assert onggi.inspect("new")["Name"] == "/new"
    taken = onggi.run("rename", "new", "old", check=False)
    assert "the name 'old' is taken" in taken.stderr
    onggi.run("rm", "-f", "old", "new")


def test_limits_change_in_the_kernel_and_at_the_next_start(onggi: Onggi) -> None:
    sleeper(onggi, "a", "--memory", "64m", "--pids-limit", "50")

    def limit() -> str:
        return onggi.out("exec", "a", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

    if not Path("/sys/fs/cgroup/memory").is_dir():
        onggi.run("rm", "-f", "a")
        return
    assert limit() == str(64 << 20)
    onggi.run("update", "--memory", "128m", "a")
    assert limit() == str(128 << 20)
    onggi.run("restart", "-t", "0", "a")
    assert limit() == str(128 << 20)
    assert onggi.inspect("a")["HostConfig"]["PidsLimit"] == 50
    assert "nothing to change" in onggi.run("update", "a", check=False).stderr
    onggi.run("rm", "-f", "a")


def test_restart_keeps_the_container_and_changes_the_process(onggi: Onggi) -> None:
    sleeper(onggi, "a")
    onggi.run("exec", "a", "touch", "/kept")
    before = onggi.pid("a")
    onggi.run("restart", "-t", "0", "a")
    assert onggi.pid("a") != before
    onggi.run("exec", "a", "ls", "/kept")
    onggi.run("rm", "-f", "a")


def test_a_policy_brings_a_container_back_until_a_user_stops_it(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--network", "none", "--restart", "always", "--name", "a", "busybox",
              "sh", "-c", "sleep 0.05; exit 3")  # fmt: skip
    until(lambda: onggi.inspect("a")["RestartCount"] >= 2, "it was restarted twice")
    onggi.run("stop", "-t", "0", "a")
    count = onggi.inspect("a")["RestartCount"]
    assert state(onggi, "a") == "exited"
    onggi.run("start", "a")
    assert onggi.inspect("a")["RestartCount"] <= count
    onggi.run("rm", "-f", "a")


def test_on_failure_tries_so_often_and_no_more(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--network", "none", "--restart", "on-failure:2", "--name", "bad",
              "busybox", "false")  # fmt: skip
    until(lambda: onggi.inspect("bad")["RestartCount"] == 2, "two tries")
    until(lambda: state(onggi, "bad") == "exited", "it stays ended")
    onggi.run("run", "-d", "--network", "none", "--restart", "on-failure", "--name", "good",
              "busybox", "true")  # fmt: skip
    onggi.run("wait", "good")
    assert onggi.inspect("good")["RestartCount"] == 0
    onggi.run("rm", "-f", "bad", "good")


def test_the_next_engine_goes_on_with_policies(own_onggi: Onggi) -> None:
    onggi = own_onggi
    onggi.run("run", "-d", "--network", "none", "--restart", "unless-stopped", "--name", "a",
              "busybox", "sleep", "600")  # fmt: skip
    sleeper(onggi, "stopped", "--restart", "unless-stopped")
    onggi.run("stop", "-t", "0", "stopped")
    pid = onggi.pid("a")
    onggi.kill_engine()
    import os
    import signal

    os.kill(pid, signal.SIGKILL)  # ends while no engine lives
    until(lambda: state(onggi, "a") == "running" and onggi.pid("a") != pid, "it is back")
    assert state(onggi, "stopped") == "exited"
    onggi.run("rm", "-f", "a", "stopped")


def cgroup_value(onggi: Onggi, name: str, *files: str) -> str:
    """The first of these files of a container's cgroup that the host has."""
    for cgroup in onggi.view(name)["cgroups"]:
        for file in files:
            if (path := Path(cgroup, file)).exists():
                return path.read_text().strip()
    pytest.skip(f"this host has no {files}")


def test_an_update_is_whole_or_nothing(onggi: Onggi) -> None:
    hold = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo held; sleep 600; :"
    onggi.run("run", "-d", "--network", "none", "--name", "a", "--memory", "128m", "--cpu-shares",
              "512", "busybox", "sh", "-c", hold)  # fmt: skip
    until(lambda: onggi.out("logs", "a") == "held", "it holds its memory")

    def limits() -> tuple[str, ...]:
        return (
            cgroup_value(onggi, "a", "memory.limit_in_bytes", "memory.max"),
            cgroup_value(onggi, "a", "cpu.shares", "cpu.weight"),
            cgroup_value(onggi, "a", "pids.max"),
            str(onggi.inspect("a")["HostConfig"]["CpuShares"]),
        )

    before = limits()
    refused = onggi.run(
        "update", "--memory", "8m", "--cpu-shares", "100", "--pids-limit", "9", "a", check=False
    )
    assert refused.returncode == 1
    assert "memory" in refused.stderr
    assert limits() == before
    # A container without a network publishes nothing: its limits stay as they were, too.
    refused = onggi.run("update", "--cpu-shares", "100", "-p", "18377:80", "a", check=False)
    assert "no network" in refused.stderr
    assert limits() == before
    onggi.run("update", "--cpu-shares", "100", "--pids-limit", "9", "--restart", "always", "a")
    assert limits()[2:] == ("9", "100")
    assert onggi.inspect("a")["HostConfig"]["RestartPolicy"]["Name"] == "always"
    onggi.run("rm", "-f", "a")


def test_a_port_of_one_that_ended_is_its_next_holders(onggi: Onggi) -> None:
    for name in ("a", "b"):
        onggi.run(
            "run", "-d", "--name", name, "-p", "127.0.0.1:18378:80", "busybox", "sleep", "600"
        )
        if name == "a":
            onggi.run("stop", "-t", "0", name)
    onggi.run("rm", "a")
    taken = onggi.run("run", "-d", "-p", "127.0.0.1:18378:80", "busybox", "true", check=False)
    assert taken.returncode != 0, "the port is b's, whatever a has had"
    onggi.run("rm", "-f", "b")
