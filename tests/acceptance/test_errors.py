"""Whatever is asked wrongly or lacking: one line that says what, where and what to do, the exit
code that a shell would expect, and nothing left behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import rig
from acceptance import wire_rig as wire
from acceptance.rig import Onggi, alive, left_behind, until
from onggi.faces.cli.place import SocketAddress

ELF = Path(rig.APPLETS_OF)


def refused(onggi: Onggi, *words: str, code: int = 125, stdin: bytes = b"") -> str:
    """Run what must fail; its one line."""
    done = onggi.run(*words, check=False, stdin=stdin)
    assert done.returncode == code, done
    line = wire.one_line(done.stderr)
    assert "defect" not in line
    assert line == line.rstrip(". \n")
    return line


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "onggi" in request.fixturenames:
        onggi = request.getfixturevalue("onggi")
        assert onggi.out("ps", "-aq") == ""
        until(lambda: not left_behind(onggi), "nothing is left")


# -- programs that cannot be executed


@pytest.fixture(scope="module")
def strange(onggi: Onggi) -> str:
    """An image with a program of every kind that does not start."""
    elf = ELF.read_bytes()
    foreign = bytearray(elf[:8192])
    foreign[18] = 0xB7  # e_machine: aarch64
    programs = {
        "no-interpreter": b"#!/usr/bin/python3\n",
        "crlf": b"#!/bin/sh\r\necho hi\r\n",
        "no-shebang": b"echo hi\n",
        "empty": b"",
        "foreign": bytes(foreign),
        "garbage": b"\x01\x02\x03\x04" * 50,
        "dynamic": Path(shutil.which("ls") or "/bin/ls").read_bytes(),
    }
    base = rig.busybox_tar(onggi.root.parent)
    packed = io.BytesIO(base)
    with tarfile.open(fileobj=packed, mode="a") as tar:
        for name, content in programs.items():
            add(tar, f"s/{name}", content, 0o755)
        add(tar, "s/not-executable", b"#!/bin/sh\n", 0o644)
        directory = tarfile.TarInfo("s/directory")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        link = tarfile.TarInfo("s/dangling")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere"
        tar.addfile(link)
    onggi.run("import", "-", "strange", stdin=packed.getvalue())
    return "strange"


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(("program", "code", "said"), [
    ("/s/no-interpreter", 127, "a script whose interpreter /usr/bin/python3 is not in the image"),
    ("/s/crlf", 127, "carriage return (CRLF)"),
    ("/s/no-shebang", 126, "begin it with #!/bin/sh"),
    ("/s/empty", 126, "is empty"),
    ("/s/foreign", 126, "built for aarch64, this machine is"),
    ("/s/garbage", 126, "not a program for linux"),
    ("/s/dynamic", 127, "needs the loader /lib"),
    ("/s/not-executable", 126, "is not executable (mode 0644)"),
    ("/s/directory", 126, "is a directory"),
    ("/s/dangling", 127, "no such file in the container"),
    ("/no/such/file", 127, "no such file in the container"),
    ("nosuch", 127, "not found in the container's PATH (/usr/local/sbin:"),
    ("echo hello", 127, "pass each word on its own"),
])  # fmt: skip
def test_a_program_that_cannot_be_executed(
    onggi: Onggi, strange: str, program: str, code: int, said: str
) -> None:
    assert said in refused(onggi, "run", "--rm", strange, program, code=code)
    onggi.run("run", "-d", "--name", "on", strange, "sleep", "1000")
    assert said in refused(onggi, "exec", "on", program, code=code)
    onggi.run("rm", "-f", "on")


def test_a_failed_start_of_a_created_container_can_be_read_afterwards(
    onggi: Onggi, strange: str
) -> None:
    onggi.run("create", "--name", "made", strange, "nosuch")
    assert "not found" in onggi.run("start", "made", check=False).stderr
    state = onggi.inspect("made")["State"]
    assert state["Status"] == "created"
    assert state["ExitCode"] == 127
    assert "not found" in state["Error"]
    onggi.run("rm", "made")


def test_a_program_on_a_noexec_mount(onggi: Onggi, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "noexec", "noexec") as place:
        shutil.copy(ELF, place / "box")
        line = refused(
            onggi, "run", "--rm", "-v", f"{place}:/m", "busybox", "/m/box", "true", code=126
        )
    assert "noexec" in line


@contextlib.contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# -- images that are not right


def blob(content: bytes, kind: str) -> dict[str, object]:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return {
        "mediaType": f"application/vnd.oci.image.{kind}",
        "digest": digest,
        "size": len(content),
    }


def oci_archive(layer: bytes, architecture: str = "amd64", claimed: bytes | None = None) -> bytes:
    """An OCI archive of one layer; `claimed`: what its config says that the layer is."""
    config = json.dumps({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [
            "sha256:" + hashlib.sha256(claimed or layer).hexdigest()]},
    }).encode()  # fmt: skip
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(config, "config.v1+json"), "layers": [blob(layer, "layer.v1.tar")],
    }).encode()  # fmt: skip
    described = blob(manifest, "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "made:1"}
    index = json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add(tar, "index.json", index)
        for content in (config, manifest, layer):
            add(tar, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)
    return packed.getvalue()


def test_an_image_for_another_machine(onggi: Onggi) -> None:
    archive = oci_archive(rig.busybox_tar(onggi.root.parent), architecture="arm64")
    done = onggi.run("load", stdin=archive, check=False)
    run = ("run", "--rm", "--pull", "never", "made:1")
    said = done.stderr if done.returncode else refused(onggi, *run)
    assert "linux/arm64" in said
    assert "linux/amd64" in said or os.uname().machine in said
    onggi.run("rmi", "made:1", check=False)


def test_a_layer_that_is_not_what_its_image_says(onggi: Onggi) -> None:
    tar = rig.busybox_tar(onggi.root.parent)
    done = onggi.run("load", stdin=oci_archive(tar, claimed=b"other"), check=False)
    run = ("run", "--rm", "--pull", "never", "made:1")
    said = done.stderr if done.returncode else refused(onggi, *run)
    assert "has the content of sha256:" in said
    onggi.run("rmi", "made:1", check=False)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x1f\x8b garbage", os.urandom(4096)])
def test_an_archive_that_is_none(onggi: Onggi, content: bytes) -> None:
    before = onggi.out("images", "-q")
    refused(onggi, "load", stdin=content)
    assert onggi.out("images", "-q") == before


def test_an_archive_that_is_cut_short(onggi: Onggi) -> None:
    whole = oci_archive(rig.busybox_tar(onggi.root.parent))
    refused(onggi, "load", stdin=whole[: len(whole) // 2])
    refused(onggi, "run", "--rm", "--pull", "never", "made:1")


def test_a_root_file_system_that_is_no_tar(onggi: Onggi) -> None:
    refused(onggi, "import", "-", "broken", stdin=b"garbage" * 1000)
    refused(onggi, "run", "--rm", "--pull", "never", "broken", "true")


# -- words that are not right


@pytest.mark.parametrize(("words", "code", "said"), [
    (("run", "--pull", "never", "nosuch", "true"), 125, "image 'nosuch' is not here — bring it"),
    (("run", "UPPER/Case", "x"), 125, "repository names are lower case"),
    (("run", "busybox:a b", "x"), 125, "'a b' is not a tag"),
    (("run", "busybox@sha256:12", "x"), 125, "busybox@sha256:12"),
    (("run", "-m", "much", "busybox"), 125, 'invalid value "much" for -m'),
    (("run", "-m", "1m", "busybox"), 125, "--memory 1048576 is less than"),
    (("run", "--name", "-x", "busybox"), 125, "invalid container name '-x'"),
    (("run", "--cap-add", "EVERYTHING", "busybox"), 125, "unknown capability 'EVERYTHING'"),
    (("run", "--ulimit", "nofile=10:5", "busybox"), 125, "the soft limit is above the hard one"),
    (("run", "--security-opt", "seccomp=/no/such", "busybox"), 125, "/no/such"),
    (("run", "--security-opt", "nonsense", "busybox"), 125, "unknown --security-opt 'nonsense'"),
    (("run", "--mount", "type=bind,source=/no/such,target=/x", "busybox"), 125, "/no/such"),
    (("run", "--device", "/dev/nosuch", "busybox"), 125, "/dev/nosuch"),
    (("run", "--device", "/etc/passwd", "busybox"), 125, "is not a device node"),
    (("run", "--sysctl", "vm.swappiness=1", "busybox"), 125, "is not namespaced"),
    (("run", "--cpuset-cpus", "4000", "busybox"), 125, "cpus"),
    (("run", "-u", "nobody-here", "busybox"), 125, "user 'nobody-here' is not in the image's"),
    (("run", "-u", "0:none-here", "busybox"), 125, "group 'none-here' is not in the image's"),
    (("run", "-u", "99999999", "busybox"), 125, "99999999 is outside the 65,536 ids"),
    (("run", "-w", "/bin/busybox", "busybox"), 126, "the working directory /bin/busybox is not"),
    (("run", "--hostname", "a" * 100, "busybox"), 125, "hostname"),
    (("run", "--network", "container:nosuch", "busybox"), 125, "nosuch"),
    (("run", "--nosuch", "busybox"), 125, "onggi run has no option --nosuch"),
    (("run",), 125, "usage: onggi run"),
    (("exec", "nosuch", "true"), 125, "no such container: nosuch"),
    (("start", "nosuch"), 1, "no such container: nosuch"),
    (("logs", "nosuch"), 125, "no such container: nosuch"),
    (("kill", "-s", "NOSUCH", "x"), 125, 'invalid value "NOSUCH" for -s'),
    (("volume", "rm", "nosuch"), 1, "no such volume: nosuch"),
    (("volume", "create", "../up"), 125, "invalid volume name '../up'"),
    (("rmi", "nosuch"), 1, "image 'nosuch' is not here"),
    (("tag", "busybox", "Not A Name"), 125, "Not A Name"),
    (("ps", "--filter", "colour=red"), 125, "unknown filter 'colour'"),
    (("frobnicate",), 125, "there is no command frobnicate"),
    (("rnu", "busybox"), 125, "did you mean onggi run?"),
], ids=lambda words: " ".join(words)[:40] if isinstance(words, tuple) else None)  # fmt: skip
def test_words_that_are_not_right(
    onggi: Onggi, words: tuple[str, ...], code: int, said: str
) -> None:
    assert said in refused(onggi, *words, code=code)


def test_a_name_that_is_taken(onggi: Onggi) -> None:
    identity = onggi.out("run", "-d", "--name", "taken", "busybox", "sleep", "1000")
    for verb in (("run", "-d"), ("create",)):
        line = refused(onggi, *verb, "--name", "taken", "busybox", "true")
        assert f"the name 'taken' is taken by container {identity[:12]}" in line
        assert "onggi rm taken" in line
    onggi.run("rm", "-f", "taken")


def test_what_is_in_use_is_not_removed(onggi: Onggi) -> None:
    onggi.run("run", "-d", "--name", "user", "-v", "store:/data", "busybox", "sleep", "1000")
    assert "stop it first, or use onggi rm -f" in refused(onggi, "rm", "user", code=1)
    assert "is used by" in refused(onggi, "rmi", "busybox", code=1)
    assert "is used by user" in refused(onggi, "volume", "rm", "store", code=1)
    onggi.run("rm", "-f", "user")
    onggi.run("volume", "rm", "store")


def test_a_refused_container_leaves_no_anonymous_volume(onggi: Onggi) -> None:
    volumes = onggi.out("volume", "ls", "-q")
    words = ("-v", "/data", "--mount", "type=bind,source=/no/such,target=/x")
    refused(onggi, "run", *words, "busybox", "true")
    refused(onggi, "run", "-v", "/data", "busybox", "nosuch", code=127)
    assert onggi.out("volume", "ls", "-q") == volumes


# -- a host and a disk that are not right


@contextlib.contextmanager
def small_root(place: Path, size: str) -> Iterator[Onggi]:
    """An engine on a file system of a few megabytes."""
    with tmpfs(place, f"size={size}") as small, rig.engine(small / "root") as onggi:
        yield onggi


def fill(place: Path) -> Path:
    """Take all the space there is, and what becomes free while the engine still tidies up."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for _ in range(10):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            time.sleep(0.05)
    return filler


def test_out_of_disk(tmp_path: Path) -> None:
    with small_root(tmp_path / "small", "12m") as onggi:
        onggi.run("run", "-d", "--name", "on", "busybox", "sh", "-c", wire.COUNT)
        big = refused(onggi, "import", "-", "big", stdin=os.urandom(16 << 20))
        assert "No space left on device" in big
        inside = onggi.run("run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/big", check=False)
        assert inside.returncode == 1
        assert "No space left on device" in inside.stderr
        until(lambda: len(wire.made_things(onggi)) == 1, "what was written is gone")

        filler = fill(tmp_path / "small")
        for words in (("run", "--rm", "busybox", "true"), ("create", "busybox"),
                      ("volume", "create", "v")):  # fmt: skip
            line = refused(onggi, *words)
            assert "full" in line or "No space left" in line
            assert "free some space" in line
        assert onggi.out("exec", "on", "echo", "hi") == "hi"
        pid = onggi.pid("on")
        assert onggi.run("stop", "-t", "0", "on").returncode == 0
        assert not alive(pid)
        assert onggi.out("ps", "-a", "--format", "{{.State}}") == "exited"

        filler.unlink()
        assert onggi.out("run", "--rm", "busybox", "echo", "hi") == "hi"
        onggi.kill_engine()
        assert onggi.out("ps", "-a", "--format", "{{.State}}") == "exited"
        assert onggi.out("wait", "on") == "137"
        numbers = [int(line) for line in onggi.out("logs", "on").splitlines()]
        assert numbers == sorted(set(numbers))


def test_a_root_on_a_disk_too_small_for_anything(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "tiny", "size=16k") as place:
        done = Onggi(place / "root").run("ps", check=False)
    assert done.returncode == 125
    line = wire.one_line(done.stderr)
    assert "free some space" in line


def test_a_read_only_root(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "fixed", "ro") as place:
        line = refused(Onggi(place / "root"), "ps")
    assert "read-only file system" in line.lower()


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    line = refused(Onggi(tmp_path / "root"), "ps")
    assert str(tmp_path / "root") in line


def test_a_root_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "root/data").mkdir(parents=True)
    (tmp_path / "root/data").chmod(0o777)
    line = refused(Onggi(tmp_path / "root"), "ps")
    assert f"chmod go-w {tmp_path}/root/data" in line


def test_records_that_are_damaged(tmp_path: Path) -> None:
    with rig.engine(tmp_path / "root") as onggi:
        onggi.run("engine", "stop")
        until(lambda: not wire.engines(onggi), "the engine has ended")
        records = onggi.root / "data/records.sqlite"
        whole = records.read_bytes()
        for damaged in (b"this is no database" * 1000, whole[:100] + b"\xff" * (len(whole) - 100)):
            records.write_bytes(damaged)
            line = refused(onggi, "ps")
            assert str(records) in line
            assert "restore it from a copy, or move it away" in line
        records.write_bytes(whole)
        assert onggi.out("ps", "-aq") == ""


def test_one_record_that_is_damaged_or_of_a_later_version(tmp_path: Path) -> None:
    with rig.engine(tmp_path / "root") as onggi:
        onggi.run("create", "--name", "one", "busybox")
        onggi.run("engine", "stop")
        until(lambda: not wire.engines(onggi), "the engine has ended")
        records = onggi.root / "data/records.sqlite"

        def change(statement: str, *values: object) -> None:
            with contextlib.closing(sqlite3.connect(records)) as database:
                database.execute(statement, values)
                database.commit()

        with contextlib.closing(sqlite3.connect(records)) as database:
            (row,) = database.execute("SELECT record FROM containers").fetchone()
        change("UPDATE containers SET record='{'")
        assert "is damaged" in refused(onggi, "ps")
        change("UPDATE containers SET record=?", row)
        change("PRAGMA user_version=99")
        assert "use the newer onggi that wrote them" in refused(onggi, "ps")
        change("PRAGMA user_version=1")
        assert onggi.out("ps", "-a", "--format", "{{.Names}}") == "one"


def test_a_damaged_blob_is_named(tmp_path: Path) -> None:
    with rig.engine(tmp_path / "root") as onggi:
        kept = onggi.root / "data/image"
        for path in (kept / "snapshots/layers").iterdir():
            shutil.rmtree(path)
        layer = max((kept / "content/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        content = bytearray(layer.read_bytes())
        content[len(content) // 2] ^= 1
        layer.chmod(0o644)
        layer.write_bytes(content)
        line = refused(onggi, "run", "--rm", "busybox", "true")
        assert layer.name in line
        onggi.import_busybox("fresh")
        assert onggi.out("run", "--rm", "fresh", "echo", "hi") == "hi"


def test_a_damaged_log_line_does_not_hide_the_others(tmp_path: Path) -> None:
    with rig.engine(tmp_path / "root") as onggi:
        onggi.run("run", "--name", "talker", "busybox", "echo", "first")
        log = next(onggi.root.glob("data/containers/*/*-json.log"))
        whole = log.read_bytes()
        log.write_bytes(b"\0" * 50 + b"\n" + whole)
        done = onggi.run("logs", "talker")
        assert done.stdout == "first\n"
        assert "a damaged line" in done.stderr


def test_garbage_on_the_socket(onggi: Onggi) -> None:
    engine = wire.engine_pid(onggi)
    assert engine is not None
    before = wire.settled_descriptors(engine)
    for sent in (
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("<I", 2**32 - 1),
        struct.pack("<I", 5) + b"{}",
        struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc",
        packet(b'{"call":"containers.nosuch"}'),
        packet(b'{"call":"containers.stop","args":{"target":5}}'),
        packet(b'{"call":"containers.stop","args":' + b"[" * 100_000),
        packet(b'{"call":"containers.list","args":{"colour":"red"}}'),
        os.urandom(2000),
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            with SocketAddress(f"{onggi.root}/run/onggi.sock") as address:
                sock.connect(address)
            with contextlib.suppress(OSError):
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
            sock.settimeout(10)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    answer += piece
            assert b"Internal" not in answer
    assert onggi.out("ps", "-q") == ""
    assert wire.engine_pid(onggi) == engine
    until(lambda: wire.descriptors(engine) <= before, "every connection is closed")


def packet(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def test_a_request_beyond_all_bounds(onggi: Onggi) -> None:
    many = [f"V{n}={'x' * 100_000}" for n in range(100)]
    error = wire.quietly(wire.run, wire.client(onggi), "true", env=many)
    assert error is not None
    assert error.kind in ("InvalidArgument", "Unavailable")
    large = [f"V{n}={'x' * 100_000}" for n in range(40)]
    error = wire.quietly(wire.run, wire.client(onggi), "true", env=large)
    assert error is not None
    assert "too long" in str(error)


def test_one_engine_for_a_root(onggi: Onggi) -> None:
    words = [onggi.words()[0], "-m", "onggi.faces.resident", "--root", str(onggi.root)]
    second = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (second.returncode, second.stderr) == (0, "busy\n")
    assert len(wire.engines(onggi)) == 1


@contextlib.contextmanager
def other_host(root: Path, before: str) -> Iterator[Onggi]:
    """An engine that lives in a mount namespace of its own, changed by a line of shell."""
    with rig.engine(root) as onggi:
        onggi.run("engine", "stop")
        until(lambda: not wire.engines(onggi), "the engine has ended")
        script = f'{before} && exec "$@"'
        words = ["unshare", "-m", "sh", "-c", script, "sh", *onggi.words("ps")]
        subprocess.run(words, check=True, capture_output=True)
        yield onggi


def test_a_host_whose_proc_is_not_whole(tmp_path: Path) -> None:
    with other_host(tmp_path / "root", "mount -t tmpfs none /proc/fs") as onggi:
        line = refused(onggi, "run", "--rm", "busybox", "true")
        assert "cannot mount proc on /proc" in line
        assert "only where the host's /proc is whole" in line
        assert onggi.out("run", "--rm", "--privileged", "busybox", "echo", "hi") == "hi"


def test_a_host_without_a_controller(tmp_path: Path) -> None:
    memory = Path("/sys/fs/cgroup/memory")
    if not memory.is_mount():
        pytest.skip("needs the memory controller in a v1 hierarchy of its own")
    with other_host(tmp_path / "root", f"umount {memory}") as onggi:
        done = onggi.run("run", "--rm", "-m", "64m", "busybox", "echo", "hi")
        assert done.stdout == "hi\n"
        assert "memory controller" in done.stderr
        assert "is not applied" in done.stderr


def test_a_name_stays_when_an_import_under_it_fails(onggi: Onggi) -> None:
    before = onggi.out("images", "-q", "--no-trunc")
    refused(onggi, "import", "-", "busybox", stdin=b"garbage" * 1000)
    assert onggi.out("images", "-q", "--no-trunc") == before
    assert onggi.out("run", "--rm", "busybox", "echo", "hi") == "hi"


def test_a_file_that_asks_for_capabilities(onggi: Onggi) -> None:
    """As Debian's ping is one: only who has them may execute it at all."""
    net_raw = struct.pack("<5I", 0x02000000 | 1, 1 << 13, 0, 0, 0)
    for name, more, code in (("without", (), 126), ("with", ("--cap-add", "NET_RAW"), 0)):
        onggi.run("run", "-d", "--name", name, *more, "busybox", "sleep", "1000")
        try:
            onggi.run("exec", name, "cp", "/bin/busybox", "/true")
            upper = onggi.out("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", name)
            os.setxattr(f"{upper}/true", "security.capability", net_raw)
            done = onggi.run("exec", name, "/true", check=False)
            assert done.returncode == code, done
            assert ("--cap-add NET_RAW, or take them" in done.stderr) == (code != 0)
        finally:
            onggi.run("rm", "-f", name)
