"""Log drivers, and `logs` with docker's options: what is kept, what is told instead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import rig
from acceptance.rig import Onggi, until
from onggi.engine.log_target import JOURNAL_SOCKET

NONE = ("--network", "none")
SAYS = "echo one; echo two >&2; echo three"


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_files(onggi: Onggi, driver: str) -> None:
    onggi.run("run", *NONE, "--name", "says", "--log-driver", driver, "--log-opt", "tag=t1",
              "busybox", "sh", "-c", SAYS)  # fmt: skip
    done = onggi.run("logs", "says")
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    last = onggi.run("logs", "--tail", "2", "says")
    assert len((last.stdout + last.stderr).splitlines()) == 2
    assert onggi.out("logs", "--details", "says") == "tag=t1 one\ntag=t1 three"
    options = json.loads(onggi.out("inspect", "-f", "{{json .HostConfig.LogConfig}}", "says"))
    assert options == {
        "Type": driver,
        "Config": {"tag": "t1", "max-size": "20000000", "max-file": "5"},
    }
    onggi.run("rm", "says")


def test_none_keeps_nothing_and_says_so(onggi: Onggi) -> None:
    onggi.run("run", *NONE, "--name", "mute", "--log-driver", "none", "busybox", "echo", "x")
    path = Path(onggi.out("inspect", "-f", "{{.LogPath}}", "mute"))
    assert not path.is_file()
    for words in (("logs", "mute"), ("logs", "-f", "mute")):
        done = onggi.run(*words, check=False)
        assert done.returncode == 125
        assert "configured logging driver does not support reading" in done.stderr
    onggi.run("rm", "mute")


def test_a_host_without_a_journal_is_told(onggi: Onggi) -> None:
    if Path(JOURNAL_SOCKET).exists():
        pytest.skip("this host has a journal")
    done = onggi.run("run", *NONE, "--log-driver", "journald", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "this host has no journal for the log driver journald" in done.stderr
    done = onggi.run("run", *NONE, "--log-opt", "mode=fast", "busybox", "true", check=False)
    assert done.returncode == 125


def test_moments(onggi: Onggi) -> None:
    onggi.run("run", *NONE, "--name", "clock", "busybox", "sh", "-c", "echo a; sleep 1; echo b")
    stamped = onggi.out("logs", "-t", "clock").splitlines()
    first, second = (line.split()[0] for line in stamped)
    assert [line.split()[1] for line in stamped] == ["a", "b"]
    seconds = int(time.time())
    assert onggi.out("logs", "--since", second, "clock") == "b"
    assert onggi.out("logs", "--until", first, "clock") == "a"
    for since in ("1h", "2001-01-31", "2001-01-31T10:00:00", "2001-01-31T10:00:00+09:00", "1.5",
                  str(seconds - 3600)):  # fmt: skip
        assert onggi.out("logs", "--since", since, "clock") == "a\nb", since
    assert onggi.out("logs", "--until", "1h", "clock") == ""
    assert onggi.out("logs", "--since", str(seconds + 3600), "clock") == ""
    assert onggi.run("logs", "--since", "yesterday", "clock", check=False).returncode == 125
    onggi.run("rm", "clock")


def test_follow_ends_with_the_container(onggi: Onggi) -> None:
    onggi.run("run", "-d", *NONE, "--name", "ends", "-i", "busybox", "sh", "-c", "echo a; cat")
    follower = subprocess.Popen(onggi.words("logs", "-f", "ends"), stdout=subprocess.PIPE)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"a\n"
    onggi.run("kill", "ends")
    assert follower.wait(20) == 0
    follower.stdout.close()
    onggi.run("rm", "ends")


@pytest.mark.parametrize("by", ["policy", "command"])
def test_follow_goes_on_over_a_restart(onggi: Onggi, by: str) -> None:
    policy = ("--restart", "on-failure:1") if by == "policy" else ()
    script = "echo began; trap 'exit 3' TERM; while :; do usleep 10000; done"
    onggi.run("run", "-d", *NONE, "--name", "again", *policy, "busybox", "sh", "-c", script)
    follower = subprocess.Popen(onggi.words("logs", "-f", "again"), stdout=subprocess.PIPE)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"began\n"
    if by == "policy":
        os.kill(onggi.pid("again"), signal.SIGTERM)
    else:
        onggi.run("restart", "again")
    assert follower.stdout.readline() == b"began\n"
    onggi.run("stop", "again")
    assert follower.wait(20) == 0
    follower.stdout.close()
    onggi.run("rm", "again")


JOURNAL = '''#!{python}
"""Answers as `journalctl -o json` does, from a file that the test writes."""
import json, os, sys, time
words = sys.argv[1:]
place = os.path.dirname(os.path.abspath(__file__))
with open(place + "/asked", "a") as asked:
    asked.write(json.dumps(words) + "\\n")
wanted = words[-1].partition("=")[2]
seen = 0
while True:
    with open(place + "/entries") as entries:
        for line in entries.readlines()[seen:]:
            seen += 1
            if wanted in line:
                print(line, end="", flush=True)
    if "--follow" not in words:
        break
    time.sleep(0.01)
'''


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Onggi, Path]]:
    """An engine that finds our journalctl first."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "journalctl").write_text(JOURNAL.format(python=os.sys.executable))  # type: ignore[attr-defined]
    (place / "journalctl").chmod(0o755)
    (place / "entries").touch()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    with rig.engine(tmp_path / "root") as onggi:
        yield onggi, place


def entry(container: str, message: object, **fields: str) -> str:
    """One entry as journalctl prints it."""
    known = {"__REALTIME_TIMESTAMP": "1700000000123456", "CONTAINER_ID_FULL": container,
             "PRIORITY": "6", "MESSAGE": message, "__CURSOR": "s=1"}  # fmt: skip
    return json.dumps({**known, **fields}) + "\n"


def test_the_journal_is_read_back(journal: tuple[Onggi, Path]) -> None:
    onggi, place = journal
    onggi.run("create", *NONE, "--name", "j", "--log-driver", "journald", "busybox", "true")
    identity = onggi.out("inspect", "-f", "{{.Id}}", "j")
    (place / "entries").write_text(
        entry(identity, "hello")
        + entry("f" * 64, "somebody else's")
        + entry(identity, "wrong", PRIORITY="3")
        + entry(identity, "a part, ", CONTAINER_PARTIAL_MESSAGE="true")
        + entry(identity, [0x68, 0xFF, 0x69])
    )
    done = onggi.run("logs", "j")
    assert (done.stdout, done.stderr) == ("hello\na part, h\ufffdi\n", "wrong\n")
    said = onggi.out("logs", "-t", "--since", "1.5", "--until", "1h", "-n", "4", "j")
    assert said.startswith("2023-11-14T22:13:20.123456000Z hello")
    asked = json.loads((place / "asked").read_text().splitlines()[-1])
    assert {"--output=json", "--lines=4", "--since=@1.500000"} <= set(asked)
    assert asked[-1] == f"CONTAINER_ID_FULL={identity}"
    (place / "entries").write_text(entry(identity, "x") + f"{identity} is no json\n")
    assert "cannot be read" in onggi.run("logs", "j", check=False).stderr
    (place / "journalctl").write_text("#!/bin/sh\necho 'No journal files' >&2\nexit 1\n")
    assert "journalctl failed: No journal files" in onggi.run("logs", "j", check=False).stderr
    (place / "journalctl").unlink()


def test_following_the_journal_ends_and_leaves_no_process(journal: tuple[Onggi, Path]) -> None:
    onggi, place = journal
    onggi.run("create", *NONE, "--name", "j", "--log-driver", "journald", "busybox", "true")
    identity = onggi.out("inspect", "-f", "{{.Id}}", "j")
    (place / "entries").write_text(entry(identity, "all there is"))
    assert onggi.out("logs", "-f", "j") == "all there is"
    until(lambda: not readers(identity), "journalctl has ended")


def readers(identity: str) -> list[str]:
    """Processes that read this container's journal."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"CONTAINER_ID_FULL={identity}".encode() in words:
            found.append(path.parent.name)
    return found
