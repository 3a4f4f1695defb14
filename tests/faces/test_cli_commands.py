"""Whole commands, `main(argv)`, against the fake engine: what is asked, printed and answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.cli_rig import IDENTITY, Rig, frame, rig
from onggi.faces.cli import catalogue
from onggi.faces.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.delenv("ONGGI_ROOT", raising=False)
    with rig(tmp_path / "r") as found:
        yield found


def onggi(found: Rig, *argv: str) -> int:
    return main(["--root", found.root, *argv])


def process(found: Rig, *argv: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onggi", "--root", found.root, *argv]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


def test_run_shows_output_and_answers_with_the_code(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "run", "echo") == 3
    assert capfd.readouterr() == ("out\n", "err\n")


def test_run_says_why_it_was_killed(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "run", "oom") == 137
    expected = "onggi: killed by the out-of-memory killer at 64 MiB\n"
    assert capfd.readouterr() == ("", expected)


def test_a_start_that_fails_has_the_shells_code(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "run", "missing") == 127
    assert capfd.readouterr().err == "onggi: /bin/nope is not there — see the image\n"


def test_run_detached_prints_the_id(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "run", "-d", "x") == 0
    assert capfd.readouterr().out == f"{IDENTITY}\n"


def test_cidfile(running: Rig, tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "cid"
    assert onggi(running, "create", "--cidfile", str(path), "x") == 0
    assert path.read_text() == IDENTITY
    assert "warning: no swap here" in capfd.readouterr().err
    assert onggi(running, "run", "--cidfile", str(path), "echo") == 125
    assert path.read_text() == IDENTITY
    path.unlink()
    assert onggi(running, "run", "--cidfile", str(path), "missing") == 127
    assert not path.exists()


def test_stdin_reaches_the_container_and_its_end_too(running: Rig) -> None:
    # More than every buffer on the way: a pump that waits for one side would stand still.
    data = os.urandom(3_000_000)
    with process(running, "run", "-i", "cat") as command:
        out, err = command.communicate(data, timeout=20)
    assert (out, err, command.returncode) == (data, b"", 0)


def test_nobody_reads(running: Rig) -> None:
    with process(running, "run", "flood") as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.wait(10) == 141
        assert command.stderr is not None
        assert command.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(running: Rig, number: signal.Signals) -> None:
    with process(running, "run", "signalled") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(number)
        assert command.wait(10) == 128 + number


def test_no_sig_proxy(running: Rig) -> None:
    with process(running, "run", "--sig-proxy=false", "signalled") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(signal.SIGTERM)
        assert command.wait(10) == -signal.SIGTERM
    assert running.engine.ended.wait(5)


def test_exec(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "exec", "-e", "A=1", "echo", "ls", "-l") == 3
    request = running.engine.asked[-1][1]
    assert (request.command, request.env, request.stdin_open) == (("ls", "-l"), ("A=1",), False)
    assert capfd.readouterr().out == "out\n"


def test_ps_forms(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "ps", "-a") == 0
    head, line = capfd.readouterr().out.splitlines()
    assert head.split("   ")[0] == "CONTAINER ID"
    assert IDENTITY[:12] in line
    assert "Exited (137, out of memory)" in line
    assert "\x1b" not in line
    assert onggi(running, "ps", "-aq", "--no-trunc") == 0
    assert capfd.readouterr().out == f"{IDENTITY}\n"
    assert onggi(running, "ps", "--format", "json") == 0
    assert json.loads(capfd.readouterr().out)["Names"] == "box"
    assert onggi(running, "ps", "-a", "--format", "{{.Names}}\\t{{.ID}}") == 0
    assert capfd.readouterr().out == f"box\t{IDENTITY[:12]}\n"
    assert onggi(running, "ps", "--format", "table {{.Names}}\\t{{.State}}") == 0
    assert capfd.readouterr().out.split() == ["NAMES", "STATE", "box", "exited"]
    assert onggi(running, "ps", "--format", "{{if .X}}") == 125
    assert onggi(running, "ps", "--format", "{{.Nope}}") == 125


def test_several_targets_each_tried(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "stop", "gone", "slow") == 1
    found = capfd.readouterr()
    assert found.out == "slow\n"
    assert found.err == "onggi: no container is named gone — onggi ps -a\n"


def test_wait(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "wait", "x") == 0
    assert capfd.readouterr().out == "7\n"


def test_logs_go_to_both_streams(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "logs", "-t", "x") == 0
    assert capfd.readouterr() == ("T1 out\n", "T2 err\n")


def test_stats(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "stats", "--no-stream") == 0
    out = capfd.readouterr().out
    assert "1MiB / 64MiB" in out
    assert "12.50%" in out


def test_load_and_save(running: Rig, tmp_path: Path, capfd: Capture) -> None:
    archive = tmp_path / "a"
    assert onggi(running, "save", "-o", str(archive), "one", "two") == 0
    assert archive.read_bytes() == b"one,two"
    assert onggi(running, "load", "-i", str(archive)) == 0
    assert capfd.readouterr().out == "Loaded image: one,two\n"
    assert onggi(running, "load", "-i", str(tmp_path / "none")) == 125


def test_a_session_outlives_its_engine(running: Rig) -> None:
    with process(running, "run", "outlives") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        running.stop()
        with rig(running.root):
            (monitor,) = running.engine.kept
            monitor.setblocking(True)
            monitor.sendall(frame(1, b"later\n"))
            monitor.close()
            assert command.stdout.readline() == b"later\n"
            assert command.wait(10) == 7  # what the successor knows


def test_an_exec_that_loses_its_engine_says_so(running: Rig) -> None:
    with process(running, "exec", "outlives", "x") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        running.stop()
        running.engine.kept[0].close()
        assert command.wait(10) == 125
        assert command.stderr is not None
        assert b"not known" in command.stderr.read()


def test_without_an_engine_signals_end_the_command_again(running: Rig) -> None:
    with process(running, "exec", "outlives", "x") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        running.stop()
        status = Path(f"/proc/{command.pid}/status")
        deadline = time.monotonic() + 10
        while int(_field(status, "SigCgt"), 16) & 1 << (signal.SIGTERM - 1):
            assert time.monotonic() < deadline
        command.send_signal(signal.SIGTERM)
        assert command.wait(10) == -signal.SIGTERM
        running.engine.kept[0].close()


def _field(status: Path, name: str) -> str:
    return next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[
        1
    ]


def test_help_for_everything(capfd: Capture) -> None:
    for name in catalogue.entries():
        assert main([*name.split(), "--help"]) == 0
        assert f"Usage: onggi {name}" in capfd.readouterr().out
    for name in catalogue.FAMILIES:
        assert main([name, "--help"]) == 0
        assert main([name]) == 125
    assert main(["--help"]) == 0
    assert main(["help", "run"]) == 0
    assert main([]) == 125


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["rnu"], "did you mean onggi run?"),
        (["image", "lss"], "did you mean onggi image ls?"),
        (["run"], "usage: onggi run IMAGE"),
        (["tag", "a", "b", "c"], "too many"),
        (["run", "-m", "12x", "i"], 'invalid value "12x" for -m'),
        (["--rot", "x"], "--root"),
    ],
)
def test_mistakes_are_one_line_and_125(argv: list[str], words: str, capfd: Capture) -> None:
    assert main(argv) == 125
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capfd: Capture) -> None:
    assert main(["completion", shell]) == 0
    out = capfd.readouterr().out
    assert "--memory-swap" in out.replace("-l memory-swap", "--memory-swap")


def test_bash_completion_completes(running: Rig, tmp_path: Path, capfd: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "c"
    script.write_text(capfd.readouterr().out)

    def complete(*words: str) -> list[str]:
        text = (
            f"source {script}; "
            f'onggi() {{ {sys.executable} -m onggi --root {running.root} "$@"; }}; '
            f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _onggi; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("onggi", "expl") == ["explain"]
    assert complete("onggi", "volume", "cr") == ["create"]
    assert "--memory-swap" in complete("onggi", "run", "--mem")
    assert complete("onggi", "stop", "") == ["box"]
    assert complete("onggi", "run", "--ipc", "sh") == ["shareable"]


def test_view_and_explain_fit_the_width() -> None:
    from onggi.faces.cli.verbs.view import render

    view = {
        "id": IDENTITY, "name": "web", "image": "busybox", "state": "running",
        "host_hostname": "big", "inner_hostname": "web", "host_kernel": "6.18",
        "processes": [{"host_pid": 77, "inner_pid": 1, "host_uid": 100000, "inner_uid": 0,
                       "command": "httpd " + "x" * 200}],
        "namespaces": [{"kind": "pid", "inode": 2, "host_inode": 1}], "cgroups": ["/onggi/x"],
        "uid_map": "0 100000 65536", "host_root": "/var/lib/" + "y" * 150,
        "host_mounts": [], "inner_mounts": [{"target": "/", "fstype": "overlay", "source": "o",
                                             "options": "rw\x1b[2J"}],
        "host_interfaces": [], "inner_interfaces": [
            {"name": "lo", "addresses": ["127.0.0.1/8"], "state": "up"}],
        "capabilities": ["chown"], "seccomp": "filter", "limits": {"memory": "64 MiB"},
        "usage": {"memory_usage_bytes": 1 << 20, "memory_limit_bytes": 64 << 20,
                  "memory_peak_bytes": 2 << 20, "cpu_percent": 1.0, "cpu_usage_ns": 5,
                  "pids": 1, "pids_limit": 0},
    }  # fmt: skip
    for width in (44, 60, 72, 80, 101, 140):
        lines = render(view, width, full=False)
        assert {len(line) for line in lines} == {width}, width
        assert "\x1b" not in "".join(lines)
    assert any("77" in line and "pid 1" in line for line in render(view, 100, full=False))


def test_long_ids_are_shortened_only_whole() -> None:
    from onggi.faces.cli.output import short_ids

    identity = "ab" * 32
    assert short_ids(f"/x/{identity}/fs sha256:{identity}") == (
        f"/x/{identity[:12]}…/fs sha256:{identity[:12]}…"
    )
    assert short_ids(f"{identity}0 cafe") == f"{identity}0 cafe"


def test_events_end_with_their_reader(running: Rig) -> None:
    command = process(running, "events", "--format", "{{.Action}} {{.Actor.ID}}")
    with command:
        assert command.stdout is not None
        assert command.stdout.readline() == f"start {IDENTITY}\n".encode()
        command.stdout.close()
        assert command.wait(10) == 141
    assert running.engine.ended.wait(5)


def test_main_reads_its_world_when_it_is_called(
    running: Rig, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setenv("ONGGI_ROOT", running.root)
    assert main(["ps", "-q"]) == 0
    assert capfd.readouterr().out == f"{IDENTITY[:12]}\n"
    assert main(["create", "-e", "CALLED", "x"]) == 0
    monkeypatch.setenv("CALLED", "late")
    assert main(["create", "-e", "CALLED", "-v", ".:/d", "x"]) == 0
    first, second = [request for name, request in running.engine.asked if name == "create"]
    assert (first.env, second.env) == ((), ("CALLED=late",))
    assert second.mounts[0].source == os.getcwd()


def test_commands_at_once(running: Rig) -> None:
    codes: list[int] = []

    def one() -> None:
        with process(running, "run", "echo") as command:
            command.communicate(timeout=20)
            codes.append(command.returncode)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [3] * 6


ALLOWED = {
    "_json", "_socket", "errno", "select", "termios", "signal", "fcntl",
}  # fmt: skip


@pytest.mark.parametrize(
    "argv", [["run", "echo"], ["run", "-it", "echo"], ["exec", "echo", "x"], ["ps"]]
)
def test_cold_paths_import_nothing_heavy(running: Rig, argv: list[str]) -> None:
    script = (
        "import sys; before = set(sys.modules); from onggi.faces.cli.main import main\n"
        f"main(['--root', {running.root!r}, *{argv!r}])\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    found = {m for m in done.stderr.split() if m != "err" and not m.startswith("onggi")}
    assert found <= {*ALLOWED, "__future__"}, found
