"""A command behind the front finds the world that its user gave it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faces.front_rig import Rig, build, children_of, eventually, warm


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    front = Path(os.environ.get("ONGGI_FRONT") or build(tmp_path_factory.mktemp("front")))
    with warm(tmp_path_factory.mktemp("root"), front) as found:
        yield found


def _world(rig: Rig, *words: str | bytes, **options: Any) -> dict[str, Any]:
    done = rig.run("world", *words, **options)
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert found["parent"] == rig.pid
    return found


@pytest.mark.parametrize("code", [0, 1, 125, 255, 256])
def test_exit_code(rig: Rig, code: int) -> None:
    done = rig.run("exit", str(code))
    assert (done.returncode, done.stdout, done.stderr) == (code & 0xFF, b"", b"")


def test_exception_and_exit_with_a_text(rig: Rig) -> None:
    failed = rig.run("raise")
    assert failed.returncode == 1
    assert failed.stderr.endswith(b"ValueError: boom\n")
    sorry = rig.run("exit-text")
    assert (sorry.returncode, sorry.stderr) == (1, b"sorry\n")


def test_arguments_as_they_are(rig: Rig) -> None:
    words = [b"", b"two\nlines", b"\xff\xfe", "한국".encode(), b"-", b"--", b"a b"]
    found = _world(rig, *words)
    assert [bytes.fromhex(word) for word in found["argv"][3:]] == words


def test_many_and_long_arguments(rig: Rig) -> None:
    words = [b"x" * 100_000, *(b"%d" % n for n in range(5000))]
    found = _world(rig, *words, env={f"V{n}": "y" * 10_000 for n in range(80)})
    assert [bytes.fromhex(word) for word in found["argv"][3:]] == words
    assert len(found["environment"]) == 80


def test_environment_is_replaced(rig: Rig) -> None:
    given = {b"A": b"1", b"EMPTY": b"", b"BYTES": b"\xff=\n", b"TZ": b"XYZ-3"}
    found = _world(rig, env=given)
    assert {bytes.fromhex(k): bytes.fromhex(v) for k, v in found["environment"].items()} == given
    assert found["timezone"] == "XYZ"
    assert _world(rig, env={})["environment"] == {}


def test_of_a_doubled_variable_the_first_counts(rig: Rig, tmp_path: Path) -> None:
    # Only exec can give the same name twice.
    source = tmp_path / "twice.c"
    source.write_text(
        "#include <unistd.h>\n"
        "int main(int c, char **v) { (void)c;"
        ' char *e[] = {"A=1", "A=2", "noequals", "=x", 0}; return execve(v[1], v + 1, e); }\n'
    )
    subprocess.run(["gcc", "-o", tmp_path / "twice", source], check=True)
    done = subprocess.run([tmp_path / "twice", *rig.argv("world")], capture_output=True, check=True)
    found = json.loads(done.stdout)["environment"]
    assert {bytes.fromhex(k): bytes.fromhex(v) for k, v in found.items()} == {b"A": b"1"}


def test_directory_and_umask(rig: Rig, tmp_path: Path) -> None:
    place = tmp_path / "a\nb"
    place.mkdir()
    found = _world(rig, cwd=place, umask=0o027)
    assert bytes.fromhex(found["cwd"]) == os.fsencode(place)
    assert found["umask"] == 0o027


def test_ignored_signals_stay_ignored(rig: Rig) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)

    python = {signal.SIGPIPE, signal.SIGXFSZ}
    assert set(_world(rig)["ignored"]) == python
    assert set(_world(rig, preexec_fn=ignore)["ignored"]) == python | {
        signal.SIGHUP,
        signal.SIGQUIT,
    }


def test_no_descriptors_but_the_three_and_the_connection(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    with (tmp_path / "in").open() as stdin, (tmp_path / "err").open("w") as stderr:
        done = subprocess.run(
            rig.argv("world"), stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, check=True
        )
    found = json.loads(done.stdout)["fds"]
    assert (found.pop("0"), found.pop("2")) == (f"{tmp_path}/in", f"{tmp_path}/err")
    assert found.pop("1").startswith("pipe:")
    (connection,) = found.values()
    assert connection.startswith("socket:")


def test_streams_are_new_and_in_utf_8(rig: Rig) -> None:
    assert _world(rig, env={"LANG": "C"})["buffered"] == ["utf-8", False, True]
    done = rig.run("print")
    assert (done.stdout, done.stderr) == (b"on stdout\n", b"on stderr\n")


def test_a_megabyte_through(rig: Rig) -> None:
    data = os.urandom(1 << 20)
    done = rig.run("copy", input=data)
    assert done.stdout == data
    assert done.stderr == b"end"


def test_nobody_reads_stdout(rig: Rig) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(rig.argv("print"), stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (120, b"on stderr\n")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_streams_answer_ebadf(rig: Rig, closed: int) -> None:
    words = ["read"] if closed == 0 else ["write", str(closed)]
    done = rig.run(*words, preexec_fn=lambda: os.close(closed))
    assert done.returncode == errno.EBADF


def test_all_streams_closed(rig: Rig) -> None:
    def close() -> None:
        os.closerange(0, 3)

    assert rig.run("exit", "5", preexec_fn=close).returncode == 5


def test_a_directory_as_stdin(rig: Rig) -> None:
    fd = os.open("/", os.O_RDONLY)
    done = subprocess.run(rig.argv("exit", "4"), stdin=fd, check=False)
    os.close(fd)
    assert done.returncode == 4


def test_eight_at_once_and_nothing_left(rig: Rig) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{rig.pid}/fd"))

    before = eventually(lambda: len(children_of(rig.pid)) == 1 and descriptors())
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: rig.run("exit", str(n)).returncode, range(32)))
    assert codes == list(range(32))
    # No zombies, one spare, and what was open is closed.
    eventually(lambda: len(children_of(rig.pid)) == 1 and descriptors() == before)


def test_every_command_has_a_process_of_its_own(rig: Rig) -> None:
    assert len({_world(rig)["pid"] for _ in range(3)}) == 3


def test_front_under_another_name_and_through_a_link(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "tool").symlink_to(rig.front)
    argv = [str(tmp_path / "tool"), *rig.argv("exit", "3")[1:]]
    assert subprocess.run(argv, check=False).returncode == 3
    plain = subprocess.run(argv, env={"ONGGI_NO_WARM": "1"}, capture_output=True, check=False)
    assert plain.stdout == f"plain --root {rig.root} exit 3\n".encode()
