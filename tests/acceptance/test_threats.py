"""Attacks from inside a container, from an image and from a name, on a whole engine.

THREAT_MODEL.md names these tests beside its entries. What each step of keel refuses by itself is in
tests/kernel; what must hold for isolation in general is in test_isolation.
"""

from __future__ import annotations

import fcntl
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from acceptance import wire_rig
from acceptance.kernel_side import memory_limit, uid_range
from acceptance.rig import Onggi, busybox_tar, until
from onggi.errors import EngineError, InvalidArgument

F_GET_SEALS = 1034
WRITE_SEALS = 0x0008 | 0x0004 | 0x0002  # F_SEAL_WRITE, F_SEAL_GROW, F_SEAL_SHRINK
FIRST_SLOTS = range(3, 64)


@pytest.fixture
def victim(onggi: Onggi) -> Iterator[str]:
    """A running container with a volume `shared` at /shared."""
    name = "victim"
    onggi.run("run", "-d", "--name", name, "-v", "shared:/shared", "busybox", "sleep", "1000")
    yield name
    onggi.run("rm", "-f", name)
    onggi.run("volume", "rm", "shared")


def image_with(onggi: Onggi, name: str, *changes: str, **members: tarfile.TarInfo | bytes) -> None:
    """Import busybox with `members` put over it (`__` in a keyword stands for a slash)."""
    archive = io.BytesIO(busybox_tar(onggi.root.parent))
    replaced = {f"./{key.replace('__', '/')}": member for key, member in members.items()}
    out = io.BytesIO()
    with tarfile.open(fileobj=archive) as source, tarfile.open(fileobj=out, mode="w") as target:
        for entry in source:
            if not any(entry.name == p or entry.name.startswith(f"{p}/") for p in replaced):
                target.addfile(entry, source.extractfile(entry) if entry.isreg() else None)
        for path, member in replaced.items():
            _add(target, path, member)
    words = [word for change in changes for word in ("-c", change)]
    onggi.run("import", "-c", 'CMD ["sh"]', *words, "-", name, stdin=out.getvalue())


def _add(target: tarfile.TarFile, path: str, member: tarfile.TarInfo | bytes) -> None:
    if isinstance(member, bytes):
        info = tarfile.TarInfo(path)
        info.size = len(member)
        target.addfile(info, io.BytesIO(member))
    else:
        member.name = path
        target.addfile(member)


def symlink(target: str) -> tarfile.TarInfo:
    """A symbolic link for an image."""
    info = tarfile.TarInfo()
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def fifo() -> tarfile.TarInfo:
    """A named pipe for an image."""
    info = tarfile.TarInfo()
    info.type, info.mode = tarfile.FIFOTYPE, 0o666
    return info


def test_keel_cannot_be_overwritten(onggi: Onggi, victim: str) -> None:
    """CVE-2019-5736: neither by who executes it again nor by who waits for an exec."""
    monitor = wire_rig.monitor_pid(onggi, onggi.inspect(victim)["Id"])
    with open(f"/proc/{monitor}/exe", "rb") as program:
        seals = fcntl.fcntl(program, F_GET_SEALS)
    assert seals & WRITE_SEALS == WRITE_SEALS
    with pytest.raises(OSError):
        os.open(f"/proc/{monitor}/exe", os.O_WRONLY)
    again = onggi.run("run", "--rm", "busybox", "/proc/self/exe", check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("usage: keel")


def test_who_waits_for_an_exec_never_gets_hold_of_keel(onggi: Onggi, victim: str) -> None:
    """CVE-2019-5736, CVE-2016-9962: until execve, a newcomer's /proc entries are closed to all."""
    look = (
        "while [ ! -e /stop ]; do for p in /proc/[0-9]*; do"
        ' case "$(readlink $p/exe)" in *keel*) echo $p >>/caught;; esac;'
        " for f in $p/fd/*; do case $(readlink $f) in *memfd*) echo $f >>/caught;; esac; done;"
        " done 2>/dev/null; echo >/looked; done; echo >/stopped"
    )
    onggi.run("exec", "-d", victim, "sh", "-c", look)
    until(lambda: onggi.run("exec", victim, "test", "-e", "/looked", check=False).returncode == 0,
          "the watcher looks")  # fmt: skip
    client = wire_rig.client(onggi)
    for _ in range(20):
        with client.open("containers.exec", {"target": victim, "command": ["true"]}) as call:
            for _item in call.items():
                pass
    onggi.run("exec", victim, "touch", "/stop")
    until(lambda: onggi.run("exec", victim, "test", "-e", "/stopped", check=False).returncode == 0,
          "the watcher has stopped")  # fmt: skip
    assert onggi.run("exec", victim, "cat", "/caught", check=False).returncode == 1


def _refusals(onggi: Onggi, call: str, request: Any) -> list[str]:
    """The directories, of those a descriptor may lead to, in which the program was started."""
    client, entered = wire_rig.client(onggi), []
    for number in FIRST_SLOTS:
        path = f"/proc/self/fd/{number}"
        try:
            with client.open(call, request(path)) as running:
                for _ in running.items():
                    pass
        except EngineError as error:
            assert path in error.message
        else:
            entered.append(path)
    return entered


def test_no_descriptor_of_keel_is_a_working_directory(onggi: Onggi, victim: str) -> None:
    """CVE-2024-21626: a leaked descriptor of the host as the working directory."""

    def start(path: str) -> dict[str, Any]:
        spec = {"image": "busybox", "command": ["pwd"], "auto_remove": True, "workdir": path}
        return {"spec": spec}

    def execute(path: str) -> dict[str, Any]:
        return {"target": victim, "command": ["pwd"], "workdir": path}

    assert _refusals(onggi, "containers.run", start) == []
    assert _refusals(onggi, "containers.exec", execute) == []


def test_a_working_directory_that_is_swapped_stays_inside(onggi: Onggi, victim: str) -> None:
    """CVE-2024-21626, variant 3b: a link that changes its aim while others exec into it."""
    swap = "while :; do ln -sfn /proc/self/fd/5 /w; ln -sfn /tmp /w; ln -sfn /proc/1/cwd /w; done"
    onggi.run("exec", "-d", victim, "sh", "-c", swap)
    told = set()
    for _ in range(15):
        done = onggi.run(
            "exec", "-w", "/w", victim, "sh", "-c", "pwd -P; ls -d ../bin", check=False
        )
        told.add(done.stdout or done.stderr.split(" /w ")[0])
    assert told <= {"/tmp\n../bin\n", "onggi: the working directory"}


SYS_ADMIN = """
mount -t cgroup -o memory none /mnt && { echo mounted; echo /x >/mnt/release_agent; }
umount /mnt
mount -o remount,rw,bind /proc/sys && { echo writable; echo '|/x' >/proc/sys/kernel/core_pattern; }
echo 1 >/proc/sysrq-trigger
mount -o remount,rw,bind /sys && { echo writable; echo /x >/sys/kernel/uevent_helper; }
for d in /sys/fs/cgroup /sys/fs/cgroup/memory; do
    mount -o remount,rw,bind $d
    echo 9000000000 >$d/memory.limit_in_bytes; echo max >$d/memory.max; mkdir $d/below
done
mount -t debugfs none /mnt; mount -t securityfs none /mnt; mount -t bpf none /mnt
mount $1 /mnt; mknod /disk b $2 && cat /disk; nsenter -t 1 -m true && echo 'same mounts'
"""


def test_an_administrator_inside_changes_nothing_of_the_host(onggi: Onggi, tmp_path: Path) -> None:
    """CVE-2022-0492, and the other ways from CAP_SYS_ADMIN to the host: all meet its owner ids."""
    watched = ["/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper"]
    watched += map(str, Path("/sys/fs/cgroup").glob("*/release_agent"))
    before = {path: Path(path).read_bytes() for path in watched if os.path.exists(path)}
    device = tmp_path.stat().st_dev
    onggi.run(
        "run", "-d", "--name", "admin", "-m", "64m", "--cap-add", "ALL",
        "--security-opt", "seccomp=unconfined", "busybox", "sleep", "1000",
    )  # fmt: skip
    mounts = Path("/proc/self/mountinfo").read_text()
    words = ["sh", "-c", SYS_ADMIN, "sh", "/dev/root", f"{os.major(device)} {os.minor(device)}"]
    said = onggi.run("exec", "admin", *words, check=False)
    assert (
        said.stdout.count("writable") == 2
    )  # it undid the mounts' flags: the attack had what it needs
    after = {path: Path(path).read_bytes() for path in before}
    assert memory_limit(onggi.pid("admin")) == 64 << 20
    onggi.run("rm", "-f", "admin")
    assert after == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert "EXT4" not in said.stdout


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory of the host that nothing may touch."""
    place = tmp_path / "canary"
    place.mkdir()
    (place / "secret").write_text("secret\n")
    return place


HOSTILE_LINKS = ("proc", "sys", "dev", "etc", "tmp", "data", "etc__hosts", "etc__passwd", "bin__sh")


@pytest.mark.parametrize("path", HOSTILE_LINKS)
@pytest.mark.parametrize("form", ["{}", "../../../../../../../..{}", "/proc/1/root{}"])
def test_a_link_in_an_image_leads_nowhere(onggi: Onggi, canary: Path, path: str, form: str) -> None:
    """CVE-2019-19921, CVE-2021-30465, CVE-2025-52565: mount points that are links."""
    image_with(onggi, "hostile", **{path: symlink(form.format(canary))})
    script = "cat /tmp/secret /data/secret /etc/secret /etc/passwd /etc/hosts; echo x >/data/x"
    words = ["run", "--rm", "-v", "kept:/data", "--tmpfs", "/tmp/t", "-w", "/data/w"]
    done = onggi.run(*words, "hostile", "/bin/busybox", "sh", "-c", script, check=False)
    onggi.run("volume", "rm", "-f", "kept")
    onggi.run("rmi", "hostile")
    assert "secret\n" not in done.stdout
    assert [entry.name for entry in canary.iterdir()] == ["secret"]
    assert done.returncode in (0, 1) or done.stderr.startswith("onggi: ")


@pytest.mark.parametrize("path", ["etc__passwd", "etc__group"])
def test_a_fifo_as_the_list_of_users_holds_nobody_up(onggi: Onggi, path: str) -> None:
    """CVE-2024-9676: an engine that opens it blocks for ever."""
    image_with(onggi, "hostile", **{path: fifo()})
    done = onggi.run("run", "--rm", "-u", "user:extra", "hostile", "id", check=False, timeout_s=20)
    onggi.run("rmi", "hostile")
    assert done.returncode == 125
    assert "not a regular file" in done.stderr


@pytest.mark.parametrize("user", ["4294967296", "4294967295", "0:4294967296", "-1", "65536"])
def test_an_image_cannot_name_a_user_that_becomes_root(onggi: Onggi, user: str) -> None:
    """CVE-2024-40635: a number that wraps to 0."""
    image_with(onggi, "hostile", f"USER {user}")
    done = onggi.run("run", "--rm", "hostile", "id", check=False)
    onggi.run("rmi", "hostile")
    assert (done.returncode, done.stdout) == (125, "")


def test_a_volume_in_an_image_does_not_uncover_proc(onggi: Onggi) -> None:
    """CVE-2019-16884: an image that has an empty directory put over /proc."""
    image_with(onggi, "hostile", 'VOLUME ["/proc", "/proc/self"]')
    done = onggi.run("run", "--rm", "hostile", "sh", "-c", "id -u; cat /proc/kcore", check=False)
    onggi.run("rmi", "hostile")
    assert done.returncode != 0


def test_a_racing_container_does_not_redirect_a_mount(
    onggi: Onggi, victim: str, canary: Path
) -> None:
    """CVE-2021-30465: the mount point lies in a volume where another container swaps links."""
    swap = (
        f"cd /shared; mkdir -p d/x; ln -s ../../../../../../../../..{canary} l;"
        " while :; do mv d t; mv l d; mv d l; mv t d; done"
    )
    onggi.run("exec", "-d", victim, "sh", "-c", swap)
    client, ended = wire_rig.client(onggi), 0
    for _ in range(30):
        mounts = [
            {"kind": "volume", "source": "shared", "target": "/s"},
            {"kind": "tmpfs", "target": "/s/d/x"},
        ]
        try:
            container = wire_rig.run(client, "true", mounts=mounts)
        except EngineError:
            continue  # it met a link, or nothing
        wire_rig.remove(client, container)
        ended += 1
    assert ended > 0
    assert [entry.name for entry in canary.iterdir()] == ["secret"]


def test_no_process_has_inheritable_capabilities(onggi: Onggi, victim: str) -> None:
    """CVE-2022-29162, CVE-2022-24769: files with inheritable capabilities would give them back."""
    read = ("grep", "-E", "CapInh|CapAmb", "/proc/self/status")
    none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000"
    assert onggi.out("run", "--rm", "--cap-add", "ALL", "busybox", *read) == none
    assert onggi.out("run", "--rm", "-u", "user", "busybox", *read) == none
    assert onggi.out("exec", victim, *read) == none
    assert onggi.out("exec", "--privileged", victim, *read) == none


def test_a_user_has_its_own_groups_and_no_rights_of_roots(onggi: Onggi, victim: str) -> None:
    """CVE-2022-2989: groups that stay behind when root becomes a user."""
    assert onggi.out("exec", "-u", "user", victim, "id", "-G") == "1000 2000"
    assert onggi.out("exec", "-u", "1234:5", victim, "id", "-G") == "5"
    held = onggi.out(
        "exec", "-u", "user", victim, "grep", "-E", "Cap(Prm|Eff)", "/proc/self/status"
    )
    assert {line.split()[1] for line in held.splitlines()} == {"0000000000000000"}


def _open_to_others(root: Path) -> list[str]:
    """The files below `root` that an ordinary user of the host can read, or run, or write to."""
    found, directories = [], [root]
    while directories:
        for entry in directories.pop().iterdir():
            mode = entry.lstat().st_mode
            if stat.S_ISDIR(mode):
                directories += [entry] if mode & stat.S_IXOTH else []
            elif mode & 0o007 and not stat.S_ISLNK(mode):
                found.append(str(entry.relative_to(root)))
    return found


def test_other_users_of_the_host_reach_nothing(onggi: Onggi, victim: str) -> None:
    """CVE-2021-41103: a set-user-id file in a layer is root's on the host's disk as well."""
    script = "cp /bin/busybox /mine; cp /mine /shared; chmod 4777 /mine /shared/mine"
    onggi.run("exec", victim, "sh", "-c", script)
    files = list(onggi.root.rglob("mine"))
    assert len(files) == 2
    assert all(file.stat().st_mode & stat.S_ISUID and file.stat().st_uid == 0 for file in files)
    assert _open_to_others(onggi.root) == []


def test_a_set_user_id_file_in_a_bind_mount_is_roots(onggi: Onggi, tmp_path: Path) -> None:
    """The known weakness, as with docker: owners are not shifted, so root inside is root there."""
    script = "cp /bin/busybox /b/su; chmod 4755 /b/su"
    onggi.run("run", "--rm", "-v", f"{tmp_path}:/b", "busybox", "sh", "-c", script)
    status = (tmp_path / "su").stat()
    assert status.st_uid == 0
    assert status.st_mode & stat.S_ISUID


def test_no_socket_of_onggis_is_abstract(onggi: Onggi, victim: str) -> None:
    """CVE-2020-15257: whoever shares the host's network could connect to an abstract socket."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    names = [row[7] for row in rows if len(row) > 7]
    assert any(str(onggi.root) in name for name in names)
    assert [name for name in names if name.startswith("@") and "onggi" in name] == []


HOSTILE_NAMES = ("../x", "/x", ".", "..", "a/../../x", "a\n", "a\0b", "\x1b[31m", "-x", "x" * 5000)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_is_a_path(onggi: Onggi, name: str) -> None:
    """A client that skips the command line: what becomes a path is checked by the engine."""
    client = wire_rig.client(onggi)
    mount = {"kind": "volume", "source": name, "target": "/v"}
    for call, request in (
        ("containers.create", {"image": "busybox", "name": name}),
        ("containers.create", {"image": "busybox", "mounts": [mount]}),
        ("volumes.create", {"name": name}),
        ("images.tag", {"source": "busybox", "target": name}),
    ):
        with pytest.raises(InvalidArgument):
            client.call(call, request)
    assert onggi.out("ps", "-aq") == ""
    assert onggi.out("volume", "ls", "-q") == ""


def test_hostile_texts_do_not_control_the_terminal(onggi: Onggi) -> None:
    """Arguments, process names and labels are a container's; a terminal obeys escape codes."""
    escape = "\x1b]0;owned\x07\x1b[31m"
    words = ["--name", "loud", "--label", f"a={escape}", "-e", f"A={escape}"]
    onggi.run("run", "-d", *words, "busybox", "sh", "-c", "sleep 1000; :", escape)
    looks = (["ps", "--no-trunc"], ["top", "loud"], ["view", "loud"], ["inspect", "loud"],
             ["ps", "--format", "{{.Command}} {{.Labels}}"])  # fmt: skip
    shown = [onggi.out(*look) for look in looks]
    onggi.run("rm", "-f", "loud")
    assert all("owned" in text for text in shown)
    assert [c for text in shown for c in text if c != "\n" and not c.isprintable()] == []


def test_an_id_range_is_lent_to_one_container_only(onggi: Onggi, victim: str) -> None:
    """Also by an engine that did not start those which run; and nothing on disk keeps the ids."""
    client = wire_rig.client(onggi)
    others = [wire_rig.run(client, "sleep", "1000") for _ in range(2)]
    onggi.kill_engine()
    until(lambda: wire_rig.engine_pid(onggi) is None, "nobody listens")
    others += [wire_rig.run(client, "sh", "-c", "echo x >/mine; sleep 1000") for _ in range(2)]
    ranges = [uid_range(onggi.pid(name)) for name in (victim, *others)]
    until(lambda: list(onggi.root.rglob("mine")), "a file is written inside")
    owners = {path.lstat().st_uid for path in onggi.root.rglob("*") if path.exists()}
    onggi.run("rm", "-f", *others)
    starts = sorted(lent.start for lent in ranges)
    assert all(len(lent) == 65536 for lent in ranges)
    assert all(later - start >= 65536 for start, later in pairwise(starts))
    assert owners == {0}


def test_a_device_node_in_an_image_does_not_open(onggi: Onggi) -> None:
    """Neither one that the devices cgroup would allow, nor with every capability."""
    node = tarfile.TarInfo()
    node.type, node.mode, node.devmajor, node.devminor = tarfile.CHRTYPE, 0o666, 1, 5
    image_with(onggi, "hostile", zero=node)
    words = ["run", "--rm", "--cap-add", "ALL", "hostile", "head", "-c", "1", "/zero"]
    done = onggi.run(*words, check=False)
    onggi.run("rmi", "hostile")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
