"""Health checks in real containers: what they say, what follows, and that they leave nothing."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from acceptance import wire_rig as wire
from acceptance.rig import Onggi, alive, until
from onggi.faces.cli.client import Client


@pytest.fixture
def calls(onggi: Onggi) -> Iterator[Client]:
    client = wire.client(onggi)
    yield client
    for row in client.call("containers.list", {"all": True}):
        wire.remove(client, row["id"])


def check(command: str, **fields: Any) -> dict[str, Any]:
    quick = {"interval_s": 0.05, "retries": 2}
    return {"network": "none", "health": {"test": ["CMD-SHELL", command], **quick, **fields}}


def health(calls: Client, name: str = "a") -> dict[str, Any]:
    state = calls.call("containers.inspect", {"target": name})["State"]
    found: dict[str, Any] = state.get("Health", {})
    return found


def status(calls: Client, name: str = "a") -> str:
    return str(health(calls, name).get("Status", ""))


def processes(onggi: Onggi, name: str, word: str) -> list[int]:
    """Processes of a container whose command line has the word."""
    found = []
    for path in Path("/sys/fs/cgroup").rglob(f"*/{onggi.inspect(name)['Id']}/cgroup.procs"):
        for pid in path.read_text().split():
            line = Path(f"/proc/{pid}/cmdline")
            if line.exists() and word.encode() in line.read_bytes():
                found.append(int(pid))
    return sorted(set(found))


def test_from_starting_over_healthy_to_unhealthy_and_back(onggi: Onggi, calls: Client) -> None:
    began_ns = time.time_ns()
    wire.run(calls, "sleep", "600", name="a", **check("echo seen; test ! -e /ill", interval_s=0.1))
    assert status(calls) == "starting"
    assert onggi.out("ps", "--format", "{{.Status}}").endswith("(health: starting)")
    until(lambda: status(calls) == "healthy", "it is healthy")
    onggi.run("exec", "a", "touch", "/ill")
    until(lambda: status(calls) == "unhealthy", "it is unhealthy")
    seen = health(calls)
    assert seen["FailingStreak"] >= 2
    assert seen["Log"][-1]["ExitCode"] == 1
    assert seen["Log"][-1]["Output"] == "seen\n"
    assert onggi.out("ps", "-q", "--filter", "health=unhealthy") != ""
    onggi.run("exec", "a", "rm", "/ill")
    until(lambda: status(calls) == "healthy", "it is healthy again")
    until(lambda: len(health(calls)["Log"]) == 5, "five results are kept")
    told = onggi.out("events", "--since", str(began_ns / 1e9), "--until", str(time.time()),
                     "--format", "{{.Action}}").splitlines()  # fmt: skip
    assert [row for row in told if row.startswith("health_status")] == [
        "health_status: healthy", "health_status: unhealthy", "health_status: healthy",
    ]  # fmt: skip
    assert not [row for row in told if row.startswith("exec")][3:], "checks are no news"


def test_output_is_kept_up_to_a_bound(calls: Client) -> None:
    loud = "yes 0123456789 | head -c 1000000; echo end >&2; exit 1"
    wire.run(calls, "sleep", "600", name="a", **check(loud))
    until(lambda: health(calls)["Log"], "it was checked")
    output = health(calls)["Log"][0]["Output"]
    assert len(output) == 4096 + len("...")
    assert output.startswith("0123456789\n")


def test_a_check_that_takes_too_long_ends_with_all_it_started(onggi: Onggi, calls: Client) -> None:
    hangs = "sleep 7777 & trap '' TERM; echo partly; sleep 7777"
    wire.run(calls, "sleep", "600", name="a", **check(hangs, timeout_s=0.2, retries=1))
    until(lambda: processes(onggi, "a", "7777"), "it hangs")
    until(lambda: status(calls) == "unhealthy", "it is given up")
    result = health(calls)["Log"][0]
    assert result["ExitCode"] == -1
    assert result["Output"] == "partly\nhealth check exceeded timeout (0.2s)"
    onggi.run("pause", "a")  # no more of them begin
    onggi.run("unpause", "a")
    calls.call("containers.update", {"target": "a", "restart": {"policy": "no"}})
    before = set(processes(onggi, "a", "7777"))
    until(lambda: not before & set(processes(onggi, "a", "7777")), "they are gone")


def test_a_check_that_cannot_be_executed_says_why(calls: Client) -> None:
    wire.run(calls, "sleep", "600", name="a", network="none",
             health={"test": ["CMD", "/no/such"], "interval_s": 0.05, "retries": 1})  # fmt: skip
    until(lambda: status(calls) == "unhealthy", "it is unhealthy")
    result = health(calls)["Log"][0]
    assert result["ExitCode"] != 0
    assert "/no/such" in result["Output"]


@pytest.mark.parametrize("what", ["restart", "stop", "kill"])
def test_what_befalls_an_unhealthy_one(onggi: Onggi, calls: Client, what: str) -> None:
    wire.run(calls, "sleep", "600", name="a", stop_timeout_s=0,
             restart={"policy": "on-failure", "maximum": 1},
             **check("test -e /tmp/fine", on_failure=what, interval_s=0.1))  # fmt: skip
    pid = onggi.pid("a")
    until(lambda: not alive(pid), "it is ended")
    if what == "stop":
        until(lambda: onggi.inspect("a")["State"]["Status"] == "exited", "it stays")
        assert "its health check" in onggi.inspect("a")["State"]["Error"]
        assert onggi.inspect("a")["RestartCount"] == 0
    else:
        until(lambda: onggi.pid("a") not in (0, pid), "it is back")
        assert onggi.inspect("a")["RestartCount"] == (1 if what == "kill" else 0)


def test_one_that_stands_still_is_not_checked(onggi: Onggi, calls: Client) -> None:
    wire.run(calls, "sleep", "600", name="a",
             **check("echo >>/checks; true", timeout_s=0.2, retries=1))  # fmt: skip
    until(lambda: status(calls) == "healthy", "it is healthy")
    onggi.run("pause", "a")
    time.sleep(0.5)
    assert status(calls) == "healthy"
    seen = health(calls)["Log"]
    assert seen == health(calls)["Log"]
    onggi.run("unpause", "a")
    until(lambda: health(calls)["Log"] != seen, "it is checked again")
    assert status(calls) == "healthy"


def test_the_images_check_and_none(onggi: Onggi, calls: Client, tmp_path: Path) -> None:
    image = with_health(onggi, tmp_path, {"Test": ["CMD", "true"], "Interval": 50_000_000})
    wire.run(calls, "sleep", "600", name="a", image=image, network="none")
    until(lambda: status(calls) == "healthy", "the image's check counts")
    wire.run(calls, "sleep", "600", name="b", image=image, network="none",
             health={"test": ["NONE"]})  # fmt: skip
    assert health(calls, "b") == {}
    wire.run(calls, "sleep", "600", name="c", image=image, **check("false"))
    until(lambda: status(calls, "c") == "unhealthy", "the user's goes before")


def with_health(onggi: Onggi, place: Path, healthcheck: dict[str, Any]) -> str:
    """The busybox image with a HEALTHCHECK; its name."""
    saved = place / "image.tar"
    onggi.run("save", "--format", "docker", "-o", str(saved), "busybox")
    out = place / "changed.tar"
    with tarfile.open(saved) as old, tarfile.open(out, "w") as new:
        for member in old:
            if member.name in ("oci-layout", "index.json"):  # its other reading, unchanged
                continue
            content = old.extractfile(member)
            data = content.read() if content else b""
            if member.name == "manifest.json":
                (entry,) = json.loads(data)
                config = old.extractfile(entry["Config"])
                assert config is not None
                value = json.loads(config.read())
                value["config"]["Healthcheck"] = healthcheck
                text = json.dumps(value).encode()
                _add(new, "config.json", text)
                data = json.dumps([{**entry, "Config": "config.json", "RepoTags": ["checked:1"]}])
                data = data.encode()
            _add(new, member.name, data) if content else new.addfile(member)
    onggi.run("load", "-i", str(out))
    return "checked:1"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, BytesIO(data))


def test_health_survives_the_engine(own_onggi: Onggi) -> None:
    calls = wire.client(own_onggi)
    wire.run(calls, "sleep", "600", name="a", **check("true", start_period_s=600.0,
             start_interval_s=0.05, interval_s=600.0))  # fmt: skip
    until(lambda: status(calls) == "healthy", "it is healthy")
    pid = wire.engine_pid(own_onggi)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the engine is gone")
    # The guard's, or ours: a call before that may still meet the last one's socket.
    until(lambda: wire.engine_pid(own_onggi) not in (None, pid), "there is another engine")
    assert status(calls) == "healthy"
    assert health(calls)["Log"] == []
    own_onggi.run("restart", "-t", "0", "a")
    assert status(calls) in ("starting", "healthy")
    wire.remove(calls, "a")


def test_the_engine_answers_while_many_are_checked(onggi: Onggi, calls: Client) -> None:
    """No check, started or under way, holds up a call."""
    for number in range(12):
        wire.run(calls, "sleep", "600", name=f"m{number}", **check("sleep 0.2", interval_s=0.01))
    until(lambda: status(calls, "m11") == "healthy", "the last is checked")
    slowest_s = 0.0
    for _ in range(20):
        began_s = time.monotonic()
        calls.call("containers.list", {})
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    assert slowest_s < 2.0
    pid = wire.engine_pid(onggi)
    onggi.run("engine", "stop")
    until(lambda: not wire.engines(onggi), "it ends although checks are under way")
    assert pid != wire.engine_pid(onggi)
