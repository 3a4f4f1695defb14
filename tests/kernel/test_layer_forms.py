"""Layers kept as EROFS: what a container over them sees and does, and who holds the mounts."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from image_tars import END, member, pax
from kernel.keel_run import APPLETS, BUSYBOX, NEEDS_ROOT_AND_BUSYBOX, Outcome, Task, run
from onggi.engine.prepare import find_image_user
from onggi.engine.system import storage
from onggi.engine.volume_content import fill
from onggi.errors import EngineError, SyscallError, Unsupported
from onggi.image.archive import export
from onggi.image.layer_mounts import LayerMounts
from onggi.image.merged import MergedView
from onggi.image.snapshots import Rootfs, Snapshotter
from onggi.kernel.capabilities import DEFAULT
from onggi.kernel.mounts import read_mountinfo
from onggi.kernel.seccomp.profile import default_profile
from onggi.runtime.explain import explain
from onggi.runtime.host import HostFacts, probe
from onggi.runtime.plan import plan
from onggi.runtime.request import Overlay, StartRequest, Supervision
from onggi.runtime.steps import Plan
from onggi.sandbox.keel import Keel
from onggi.specs.runtime import Config, User
from unit.plan_cases import MOUNTS, default_config, with_process

pytestmark = NEEDS_ROOT_AND_BUSYBOX

PROGRAM = '#include <stdio.h>\n#include <unistd.h>\nint main(void){printf("%d\\n",geteuid());}\n'


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture(scope="module")
def host() -> HostFacts:
    return probe()


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Snapshotter]:
    with closing(Snapshotter(str(tmp_path / "snapshots"))) as made:
        if made.form_reason:
            pytest.skip(f"host feature missing: {made.form_reason}")
        yield made


def apply(snapshots: Snapshotter, data: bytes, parent: str | None = None) -> str:
    name = "sha256:" + hashlib.sha256(data).hexdigest()
    chain_id = snapshots.apply(parent, io.BytesIO(data).read, name)
    snapshots.settle()  # as long as it is being synced, there is one more descriptor
    return chain_id


def busybox(directory: Path) -> bytes:
    """Members of a root file system: busybox, and a program that tells whose rights it has."""
    (directory / "euid.c").write_text(PROGRAM)
    compiler = shutil.which("cc") or pytest.skip("host feature missing: a C compiler")
    words = [compiler, "-static", "-o", directory / "euid", directory / "euid.c"]
    subprocess.run(words, check=True)
    program = (directory / "euid").read_bytes()
    members = [member(b"./", b"5", mode=0o755), member(b"bin/", b"5", mode=0o755)]
    members += [member(b"%s/" % name, b"5", mode=0o755) for name in (b"proc", b"sys", b"dev")]
    members += [member(b"tmp/", b"5", mode=0o1777), member(b"etc/", b"5", mode=0o755)]
    members.append(member(b"bin/busybox", data=BUSYBOX.read_bytes(), mode=0o755))
    links = (*APPLETS, "rm", "rmdir", "mkdir", "mv", "cp", "wc", "find", "md5sum", "ln", "chmod")
    members += [member(b"bin/" + n.encode(), b"2", link=b"busybox") for n in links]
    members.append(member(b"bin/euid", data=program, mode=0o4755))
    return b"".join(members)


class Room:
    """Starts containers over layers of a snapshotter, as the engine does."""

    def __init__(
        self, keel: Keel, host: HostFacts, directory: Path, snapshots: Snapshotter
    ) -> None:
        self.keel = keel
        self.host = host
        self.directory = directory
        self.snapshots = snapshots
        self.base = busybox(directory)

    def plan(self, rootfs: Rootfs, name: str, script: str, **process: Any) -> Plan:
        profile = default_profile(frozenset(DEFAULT), self.host.machine, self.host.kernel)
        words = ("sh", "-c", script)
        config: Config = with_process(
            default_config(seccomp=profile), args=words, env=("PATH=/bin",), **process
        )
        config = msgspec.structs.replace(config, mounts=MOUNTS[:7])
        for place in ("run", "place"):
            (self.directory / name / place).mkdir(parents=True)
        request = StartRequest(
            supervision=Supervision(run_dir=str(self.directory / name / "run"), record_name=""),
            root_mountpoint=str(self.directory / name / "place"),
            overlay=Overlay(rootfs.lowers, rootfs.upper),
        )
        return plan(config, self.host, request)

    def run(self, chain: tuple[str, ...], script: str, name: str = "c1", **process: Any) -> Outcome:
        rootfs = self.snapshots.prepare(name, chain)
        return run(self.keel, self.plan(rootfs, name, script, **process))


@pytest.fixture
def room(keel: Keel, host: HostFacts, tmp_path: Path, snapshots: Snapshotter) -> Iterator[Room]:
    before = read_mountinfo()
    yield Room(keel, host, tmp_path, snapshots)
    assert read_mountinfo() == before, "a mount got into the host's table"


SECOND = (
    member(b"etc/.wh.gone")
    + member(b"etc/new", data=b"new\n", mode=0o640, uid=11, gid=12)
    + member(b"over/.wh..wh..opq")
    + member(b"over/top", data=b"top\n")
    + member(b"tmp/one", data=b"linked\n")
    + member(b"tmp/two", b"1", link=b"tmp/one")
    + END
)


def two_layers(room: Room) -> tuple[str, str]:
    below = member(b"etc/gone", data=b"old\n") + member(b"over/", b"5", mode=0o755)
    below += member(b"over/bottom", data=b"bottom\n") + member(b"etc/big", data=b"0123456789" * 999)
    first = apply(room.snapshots, room.base + below + END)
    return first, apply(room.snapshots, SECOND, first)


def test_a_container_sees_and_changes_its_layers(room: Room) -> None:
    chain = two_layers(room)
    assert storage(room.snapshots) == "overlay over erofs"
    assert {room.snapshots.record(layer).form for layer in chain} == {"erofs"}
    script = """
        set -e
        ls etc over; cat etc/new over/top
        stat -c '%u %g %a' etc/new bin tmp tmp/one
        echo more >> etc/big; wc -c < etc/big; echo mine > etc/mine; chmod 700 etc/new
        stat -c %h tmp/one; rm tmp/two; mv over/top over/moved; rm -r over; mkdir over; ls -A over
        ln tmp/one tmp/three; stat -c %h tmp/three; cat tmp/three
    """
    outcome = room.run(chain, script)
    assert outcome.succeed().split("\n") == [
        *("etc:", "big", "new", "", "over:", "top", "new", "top"),
        *("11 12 640", "0 0 755", "0 0 1777", "0 0 644"),
        *("9995", "2", "2", "linked", ""),
    ], (outcome.out, outcome.err)
    upper = room.snapshots.rootfs("c1", chain)
    with MergedView((f"{upper.upper}/fs", *upper.lowers)) as view:
        assert view.read_file("/etc/mine", 10) == b"mine\n"
        assert view.read_file("/etc/big", 10_000) == b"0123456789" * 999 + b"more\n"
        assert not view.exists("/tmp/two")
        assert view.list_directory("/over") == []
        status = view.stat("/etc/new")
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (11, 0o700)


def test_a_set_user_id_file_gives_its_owner(room: Room) -> None:
    (chain,) = (apply(room.snapshots, room.base + END),)
    user = User(uid=1000, gid=1000)
    assert room.run((chain,), "id -u; euid", user=user).succeed().split() == ["1000", "0"]
    outcome = room.run((chain,), "euid", "c2", user=user, no_new_privileges=True)
    assert outcome.succeed() == "1000\n"


def test_containers_share_one_superblock(room: Room) -> None:
    """A single layer without an upper is shown as it is, so its device number is the layer's."""
    chain = (apply(room.snapshots, room.base + END),)
    rootfs = Rootfs(room.snapshots.lowers(chain), "")
    outs = [
        run(room.keel, room.plan(rootfs, name, "stat -c '%d %i' /bin/euid")).succeed()
        for name in ("c1", "c2")
    ]
    status = Path(rootfs.lowers[0], "bin/euid").stat()
    assert outs == [f"{status.st_dev} {status.st_ino}\n"] * 2


def test_a_container_outlives_the_mount_it_was_started_from(room: Room) -> None:
    chain = (apply(room.snapshots, room.base + END),)
    script = "trap 'md5sum < /bin/busybox; exit' USR1; echo up; while :; do sleep 0.02; done"
    made = room.plan(room.snapshots.prepare("c1", chain), "c1", script)
    with Task(room.keel, made) as task:
        started = task.until_started()
        task.until(lambda: "up" in task.outcome.out)
        room.snapshots.remove_layer(chain[0])
        room.snapshots.close()
        os.kill(started.pid, signal.SIGUSR1)
        out = task.finish().succeed()
    assert out.split()[1] == hashlib.md5(BUSYBOX.read_bytes()).hexdigest()


def test_layers_of_both_forms_and_the_plan_in_words(room: Room) -> None:
    first = apply(room.snapshots, room.base + END)
    with closing(Snapshotter(room.snapshots.root, "overlay")) as others:
        second = apply(others, SECOND, first)
    rootfs = room.snapshots.prepare("c1", (first, second))
    made = room.plan(rootfs, "c1", "cat /over/top /tmp/one")
    assert run(room.keel, made).succeed() == "top\nlinked\n"
    said = [row.what for row in explain(made)]
    assert f"take the layer held mounted at {rootfs.lowers[1]}" in said
    assert f"take the mount at {rootfs.lowers[0]}" in said


def test_rooms_that_read_layers(room: Room, tmp_path: Path) -> None:
    """A new volume's content and an export come out of mounted layers as out of directories."""
    chain = two_layers(room)
    with closing(Snapshotter(str(tmp_path / "plain"), "overlay")) as plain:
        tars = [room.snapshots.open_tar(layer) for layer in chain]
        parent: str | None = None
        for tar, layer in zip(tars, chain, strict=True):
            assert tar is not None
            with tar:
                parent = plain.apply(parent, tar.read, room.snapshots.record(layer).diff_id)
        exported = []
        for lowers in (room.snapshots.lowers(chain), plain.lowers(chain)):
            out = bytearray()
            export(lowers, out.extend)
            exported.append(bytes(out))
    assert exported[0] == exported[1]
    assert len(exported[0]) > 10_000
    volume = tmp_path / "volume"
    volume.mkdir()
    fill(str(volume), room.snapshots.lowers(chain), "/etc")
    assert (volume / "new").read_text() == "new\n"
    assert (volume / "new").stat().st_uid == 11


# Who holds the mounts.


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_mount_is_made_once_and_let_go(snapshots: Snapshotter) -> None:
    before = descriptors()
    chain = apply(snapshots, SECOND)
    assert descriptors() == before, "nothing is mounted before it is asked for"
    (path,) = snapshots.lowers((chain,))
    with open(f"{path}/etc/new") as held:
        assert snapshots.lowers((chain,)) == (path,)
        assert descriptors() == before + 2
        snapshots.remove_layer(chain)
        assert held.read() == "new\n"
    assert descriptors() == before
    apply(snapshots, SECOND)
    snapshots.lowers((chain,))
    assert descriptors() == before + 1
    snapshots.close()
    assert descriptors() == before


def test_a_layer_made_anew_is_mounted_anew(snapshots: Snapshotter) -> None:
    chain = apply(snapshots, SECOND)
    (path,) = snapshots.lowers((chain,))
    with closing(Snapshotter(snapshots.root)) as others:
        others.remove_layer(chain)
        apply(others, SECOND)
    (again,) = snapshots.lowers((chain,))
    assert os.stat(path).st_dev != os.stat(again).st_dev
    assert Path(again, "etc/new").read_text() == "new\n"


def test_forgotten_without_a_word(tmp_path: Path, snapshots: Snapshotter) -> None:
    before = descriptors()
    chain = apply(snapshots, SECOND)
    other = Snapshotter(snapshots.root)
    other.lowers((chain,))
    assert descriptors() == before + 1
    del other
    assert descriptors() == before


def test_threads_mount_a_layer_once(snapshots: Snapshotter) -> None:
    chain = apply(snapshots, SECOND)
    before = descriptors()
    gate = threading.Barrier(8)
    paths: set[str] = set()

    def ask() -> None:
        gate.wait()
        paths.update(snapshots.lowers((chain,)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 1
    assert descriptors() == before + 1


def test_a_forked_child_has_its_own(snapshots: Snapshotter) -> None:
    chain = apply(snapshots, SECOND)
    (path,) = snapshots.lowers((chain,))
    child = os.fork()
    if child == 0:
        try:
            (own,) = snapshots.lowers((chain,))
            sound = own != path and Path(own, "etc/new").read_text() == "new\n"
            snapshots.remove_layer(chain)
            snapshots.close()
            os._exit(0 if sound else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Path(path, "etc/new").read_text() == "new\n"


def test_users_are_remembered_by_layers_not_by_paths(snapshots: Snapshotter) -> None:
    """A path through /proc is another layer's once its descriptor is closed."""
    for uid in (5, 6):
        passwd = b"me:x:%d:1::/:/bin/sh\n" % uid
        layer = member(b"etc/", b"5") + member(b"etc/passwd", data=passwd) + END
        chain = (apply(snapshots, layer),)
        user, _ = find_image_user(snapshots, "me", chain, ())
        assert user.uid == uid
        snapshots.remove_layer(chain[0])


# What a form cannot do.


def test_what_erofs_cannot_express_becomes_a_directory(snapshots: Snapshotter) -> None:
    """Pieces of a sparse file that do not begin at a block."""
    first = apply(snapshots, member(b"left/", b"5", mode=0o700, uid=5) + END)
    records = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"left/sparse"),
        (b"GNU.sparse.realsize", b"2000"),
    )
    sparse_map = b"1\n700\n5\n".ljust(512, b"\0")
    data = pax(*records) + member(b"left/sparse", data=sparse_map + b"piece") + END
    chain = apply(snapshots, data, first)
    assert snapshots.record(chain).form == "overlay"
    (path, _) = snapshots.lowers((first, chain))
    assert Path(path, "left/sparse").read_bytes() == bytes(700) + b"piece" + bytes(1295)
    assert Path(path, "left").stat().st_uid == 5
    place = Path(path).parent
    assert sorted(os.listdir(place)) == ["fs", "layer.json"]
    snapshots.verify(chain, lambda: io.BytesIO(data).read)


def test_a_host_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onggi.image.layer_store.probe", lambda place: "EROFS: not here")
    chosen = Snapshotter(str(tmp_path / "a"))
    assert (chosen.form, chosen.form_reason) == ("overlay", "EROFS: not here")
    assert chosen.record(apply(chosen, SECOND)).form == "overlay"
    assert storage(chosen) == "overlay over directories (EROFS: not here)"
    with pytest.raises(Unsupported, match="EROFS: not here"):
        apply(Snapshotter(str(tmp_path / "b"), "erofs"), SECOND)


def test_layers_brought_to_a_host_that_cannot(
    snapshots: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = apply(snapshots, SECOND)

    def mount(*_: object) -> None:
        raise SyscallError("fsopen", "'erofs'", errno.ENODEV)

    monkeypatch.setattr("onggi.image.layer_mounts.mount_layer", mount)
    with closing(Snapshotter(snapshots.root)) as moved, pytest.raises(SyscallError):
        moved.lowers((chain,))
    monkeypatch.setattr("onggi.image.layer_store.probe", lambda place: "EROFS: not here")
    with closing(Snapshotter(snapshots.root)) as moved:
        with pytest.raises(Unsupported, match="kept as erofs"):
            moved.lowers((chain,))
        moved.remove_layer(chain)
        assert moved.record(apply(moved, SECOND)).form == "overlay"


def test_damaged_metadata_is_an_error_not_a_layer(snapshots: Snapshotter) -> None:
    chain = apply(snapshots, SECOND)
    metadata = Path(snapshots.root, "layers", chain[7:], "layer.erofs")
    metadata.write_bytes(bytes(metadata.stat().st_size))
    before = descriptors()
    with pytest.raises(EngineError):
        snapshots.lowers((chain,))
    assert descriptors() == before
    assert len(LayerMounts()) == 0


def test_new_layers_are_spread_over_the_disk(tmp_path: Path) -> None:
    """Where the file system is ext4: the flag is there, and a second opening leaves it."""
    for _ in range(2):
        Snapshotter(str(tmp_path / "s"), "overlay").close()
    staging = tmp_path / "s" / "staging"
    done = subprocess.run(
        ["lsattr", "-d", str(staging)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("host feature missing: a file system with inode flags")
    assert "T" in done.stdout.split()[0]
