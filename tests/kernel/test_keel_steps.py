"""keel's mounts and paths on the real kernel, seen from inside the container and from the host."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.keel_run import (
    ALL_CAPABILITIES,
    ALL_NEW,
    FIRST_ID,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
    NEEDS_ROOT_AND_BUSYBOX,
    NEW_PID,
    NEW_USER,
    NODEV,
    NOEXEC,
    NOSUID,
    RDONLY,
    Box,
    become,
    run,
)
from onggi.runtime.steps import (
    AttachRoot,
    BindTree,
    ChangeDirectory,
    CloneInto,
    Execute,
    IdmapTree,
    MakeDevice,
    MakeDirectory,
    MakeSymlink,
    MaskPath,
    MountFilesystem,
    MountOverlay,
    OpenTree,
    PivotRoot,
    Plan,
    RaiseLoopback,
    SetDomainname,
    SetHostname,
    SetPathReadonly,
    SetRootPropagation,
    SetRootReadonly,
    Supervise,
    WriteIdMaps,
    WriteSysctl,
)
from onggi.sandbox.keel import Keel

pytestmark = NEEDS_ROOT_AND_BUSYBOX

TMPFS_DEV = MountFilesystem(
    fstype="tmpfs", source="tmpfs", target="/dev", attributes=NOSUID, options=("mode=755",)
)


@pytest.fixture(scope="module")
def keel() -> Iterator[Keel]:
    with Keel() as program:
        yield program


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def bind_null() -> tuple[OpenTree, BindTree]:
    return OpenTree(slot=1, path="/dev/null"), BindTree(slot=1, target="/dev/null")


def test_overlay_keeps_owners_unshifted_and_root_inside_owns_everything(
    keel: Keel, box: Box
) -> None:
    os.chown(box.layer / "etc", 7, 8)
    script = "stat -c %u:%g / /etc; touch /new && echo x > /etc/made && stat -c %u:%g /new"
    outcome = run(keel, box.plan("sh", "-c", script))
    assert outcome.succeed() == "0:0\n7:8\n0:0\n"
    made = (box.upper / "new").stat()
    assert (made.st_uid, made.st_gid) == (0, 0)
    assert (box.upper / "etc").stat().st_uid == 7
    assert not (box.layer / "new").exists()


def test_many_layers_the_topmost_first(keel: Keel, box: Box, tmp_path: Path) -> None:
    layers = [tmp_path / f"layer{n}" for n in range(20)]
    for n, layer in enumerate(layers):
        layer.mkdir(mode=0o755)
        (layer / "who").write_text(str(n))
        (layer / f"only{n}").write_text("")
    id_map = f"0 {FIRST_ID} 65536"
    slots = range(len(layers))
    plan = Plan(
        (
            Supervise(run_dir=str(box.run_dir)),
            *(OpenTree(slot=n, path=str(layer)) for n, layer in enumerate(layers)),
            OpenTree(slot=100, path=str(box.layer)),
            CloneInto(flags=ALL_NEW),
            WriteIdMaps(uid_map=id_map, gid_map=id_map, setgroups="deny"),
            *(IdmapTree(slot=n) for n in (*slots, 100)),
            SetRootPropagation(flags=MS_REC | MS_PRIVATE),
            MountOverlay(slot=102, lowers=(*slots, 100), options=("userxattr",)),
            AttachRoot(slot=102, path=str(box.place)),
            PivotRoot(),
            Execute(
                arguments=("sh", "-c", "cat /who; ls -d /only*; touch /x"),
                environment=(),
                candidates=("/bin/sh",),
            ),
        )
    )
    outcome = run(keel, plan)
    assert outcome.out.split("\n")[0].startswith("0/only0")
    assert outcome.out.count("/only") == 20
    assert "Read-only file system" in outcome.err


OLD_KERNEL = """
import ctypes, struct, sys
from pathlib import Path
from kernel.keel_run import Box, run
from onggi.sandbox.keel import Keel
# fsconfig(fd, FSCONFIG_SET_FD = 5, ...) answers EINVAL, as overlayfs does before Linux 6.13
code = [(0x20, 0, 0, 0), (0x15, 0, 3, 431), (0x20, 0, 0, 24), (0x15, 0, 1, 5)]
code += [(0x06, 0, 0, 0x00050000 | 22), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in code))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
with Keel() as keel:
    script = "touch /x; stat -c %u /x; cat /proc/self/mountinfo"
    print(run(keel, Box(Path(sys.argv[1])).plan("sh", "-c", script)).succeed())
"""


def test_layers_are_named_where_the_kernel_takes_no_descriptors(tmp_path: Path) -> None:
    path = os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))
    done = subprocess.run(
        [sys.executable, "-c", OLD_KERNEL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split()[0], done.stderr) == ("0", "")
    assert " - overlay " in done.stdout
    assert str(tmp_path) not in done.stdout
    assert (tmp_path / "snapshot/fs/x").stat().st_uid == 0


def test_the_container_is_not_told_where_its_layers_are(keel: Keel, box: Box) -> None:
    out = run(keel, box.plan("cat", "/proc/self/mountinfo")).succeed()
    assert "lowerdir+=/,upperdir=/fs,workdir=/work," in out
    assert str(box.place) not in out


def test_an_overlay_that_may_fail_leaves_the_root_where_it_was(keel: Keel, box: Box) -> None:
    before = (OpenTree(slot=1, path=str(box.layer)), OpenTree(slot=2, path=str(box.layer)))
    plan = box.plan("cat", "/proc/self/mountinfo", before=before)
    steps = list(plan.steps)
    at = next(n for n, step in enumerate(steps) if isinstance(step, MountOverlay))
    steps.insert(at, MountOverlay(slot=3, lowers=(1, 2), options=("nonsense",), optional=True))
    outcome = run(keel, Plan(tuple(steps)))
    assert [(w.call, w.errno) for w in outcome.warned] == [("fsconfig", errno.EINVAL)]
    assert str(box.place) not in outcome.succeed()


def test_a_single_layer_without_an_upper_is_read_only(keel: Keel, box: Box) -> None:
    opened, mapped, _ = box.root_steps()
    plan = Plan(
        (
            Supervise(run_dir=str(box.run_dir)),
            *opened,
            CloneInto(flags=ALL_NEW),
            *mapped,
            SetRootPropagation(flags=MS_REC | MS_PRIVATE),
            MountOverlay(slot=102, lowers=(100,)),
            AttachRoot(slot=102, path=str(box.place)),
            PivotRoot(),
            Execute(arguments=("touch", "/x"), environment=(), candidates=("/bin/touch",)),
        )
    )
    assert "Read-only file system" in run(keel, plan).err
    assert not (box.layer / "x").exists()


def test_the_host_is_out_of_reach_and_sees_no_mount(keel: Keel, box: Box) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    outcome = run(keel, box.plan("sh", "-c", "cat /proc/self/mounts; ls /..; ls /proc"))
    lines = outcome.succeed().splitlines()
    assert [line.split()[1] for line in lines if line.count(" ") == 5] == ["/", "/proc"]
    assert "home" not in lines
    assert [line for line in lines if line.isdigit()] == ["1", "4"] or "1" in lines
    assert Path("/proc/self/mountinfo").read_text() == before


def test_names_loopback_and_sysctls(keel: Keel, box: Box) -> None:
    inside = (SetHostname(name="jar"), SetDomainname(name="kiln"), RaiseLoopback())
    late = (
        WriteSysctl(key="net.ipv4.ip_forward", value="1"),
        WriteSysctl(key="kernel/shm_rmid_forced", value="1"),
    )
    script = (
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward"
        " /proc/sys/kernel/shm_rmid_forced; cat /proc/net/if_inet6"
    )
    out = run(keel, box.plan("sh", "-c", script, inside=inside, late=late)).succeed().split()
    assert out[:4] == ["jar", "kiln", "1", "1"]
    assert out[4] == "0" * 31 + "1"  # ::1 is there only when lo is up
    assert os.uname().nodename != "jar"


def test_file_systems_options_and_attributes(keel: Keel, box: Box) -> None:
    inside = (
        TMPFS_DEV,
        MountFilesystem(
            fstype="devpts",
            source="devpts",
            target="/dev/pts",
            attributes=NOSUID | NOEXEC,
            options=("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        MountFilesystem(fstype="mqueue", source="mqueue", target="/dev/mqueue"),
        MountFilesystem(
            fstype="sysfs",
            source="sysfs",
            target="/sys",
            attributes=NOSUID | NODEV | NOEXEC | RDONLY,
            propagation=MS_SLAVE | MS_REC,
        ),
    )
    out = run(keel, box.plan("cat", "/proc/self/mounts", inside=inside)).succeed()
    options = {line.split()[1]: line.split()[3] for line in out.splitlines()}
    assert "gid=1000005,mode=620,ptmxmode=666" in options["/dev/pts"]
    assert options["/sys"].startswith("ro,nosuid,nodev,noexec")
    assert "/dev/mqueue" in options


def test_the_kernels_words_are_in_the_failure(keel: Keel, box: Box) -> None:
    bad = MountFilesystem(fstype="tmpfs", source="t", target="/tmp", options=("size=much",))
    failed = run(keel, box.plan("true", inside=(bad,))).failed
    assert (failed.opcode, failed.call, failed.errno) == (24, "fsconfig", errno.EINVAL)
    assert failed.detail.startswith("size=much: e tmpfs: Bad value for 'size'")


def test_copy_up_brings_what_lay_below(keel: Keel, box: Box) -> None:
    below = box.layer / "data"
    (below / "deep").mkdir(parents=True)
    (below / "deep/file").write_text("text")
    (below / "deep/file").chmod(0o4750)
    os.chown(below / "deep/file", 3, 4)
    os.chmod(below / "deep/file", 0o4750)
    (below / "link").symlink_to("deep/file")
    copied = MountFilesystem(fstype="tmpfs", source="t", target="/data", copy_up=1)
    script = "cat /data/link; stat -c ' %a %u:%g' /data/deep/file; touch /data/new"
    out = run(keel, box.plan("sh", "-c", script, inside=(copied,))).succeed()
    assert out == "text 4750 3:4\n"
    assert not (box.upper / "data").exists()


def test_binds_make_their_targets_and_take_attributes(keel: Keel, box: Box, tmp_path: Path) -> None:
    source = tmp_path / "volume"
    source.mkdir(mode=0o755)
    (source / "file").write_text("hello")
    before = (
        OpenTree(slot=1, path=str(source)),
        OpenTree(slot=2, path=str(source / "file")),
        OpenTree(slot=3, path=str(source)),
    )
    after = (IdmapTree(slot=2), IdmapTree(slot=3))
    inside = (
        BindTree(slot=1, target="/a/b/dir", attributes_set=RDONLY | NOSUID),
        BindTree(slot=2, target="/c/file", attributes_set=RDONLY, propagation=MS_PRIVATE),
        BindTree(slot=3, target="/mapped"),
    )
    script = (
        "cat /a/b/dir/file /c/file; stat -c %u /a/b/dir /mapped; touch /mapped/made;"
        " touch /a/b/dir/x; echo >> /c/file"
    )
    outcome = run(keel, box.plan("sh", "-c", script, before=before, after=after, inside=inside))
    assert outcome.out == "hellohello65534\n0\n"
    assert outcome.err.count("Read-only file system") == 2
    assert (source / "made").stat().st_uid == 0
    assert stat.S_ISREG((box.upper / "c/file").stat().st_mode)


def test_directories_links_and_devices(keel: Keel, box: Box) -> None:
    (box.layer / "etc/old").symlink_to("elsewhere")
    inside = (
        MakeDirectory(path="/deep/er/here", mode=0o1770, uid=5, gid=6),
        MakeDirectory(path="/etc"),
        MakeSymlink(target="/proc/self/fd", path="/deep/fd"),
        MakeSymlink(target="new", path="/etc/old"),
        MakeDevice(path="/deep/pipe", kind=ord("p"), major=0, minor=0, mode=0o640, uid=1, gid=2),
    )
    script = "stat -c '%a %u:%g %F' /deep/er/here /deep/er /deep/pipe; ls -l /deep/fd /etc/old"
    out = run(keel, box.plan("sh", "-c", script, inside=inside)).succeed()
    assert out.splitlines()[:3] == ["1770 5:6 directory", "755 0:0 directory", "640 1:2 fifo"]
    assert "/deep/fd -> /proc/self/fd" in out
    assert "/etc/old -> elsewhere" in out


def test_devices_without_a_user_namespace(keel: Keel, box: Box) -> None:
    (box.layer / "dev/zero").write_text("not a device")
    good = MakeDevice(path="/dev/full", kind=ord("c"), major=1, minor=7, mode=0o622)
    flags = ALL_NEW & ~NEW_USER
    plan = box.plan("stat", "-c", "%a %t:%T", "/dev/full", flags=flags, inside=(good, good))
    assert run(keel, plan).succeed() == "622 1:7\n"
    bad = MakeDevice(path="/dev/zero", kind=ord("c"), major=1, minor=5)
    failed = run(keel, box.plan("true", flags=flags, inside=(bad,))).failed
    assert (failed.call, failed.errno) == ("mknodat", errno.EEXIST)


def test_masked_and_read_only_paths(keel: Keel, box: Box) -> None:
    before, bound = bind_null()
    (box.layer / "secret").mkdir()
    (box.layer / "secret/key").write_text("k")
    late = (
        MaskPath(path="/proc/interrupts"),
        MaskPath(path="/secret"),
        MaskPath(path="/etc"),
        MaskPath(path="/not/there"),
        SetPathReadonly(path="/proc/sys"),
        SetPathReadonly(path="/not/there"),
    )
    script = (
        "cat /proc/interrupts; ls -A /secret /etc; touch /secret/x;"
        " echo 1 > /proc/sys/net/ipv4/ip_forward; true"
    )
    plan = box.plan("sh", "-c", script, before=(before,), inside=(TMPFS_DEV, bound), late=late)
    outcome = run(keel, plan)
    assert outcome.succeed() == "/etc:\n\n/secret:\n"
    assert outcome.err.count("Read-only file system") == 2


def test_a_mask_takes_nothing_but_the_null_device(keel: Keel, box: Box) -> None:
    """CVE-2025-31133: an image whose /dev/null leads elsewhere."""
    (box.layer / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    failed = run(keel, box.plan("true", late=(MaskPath(path="/proc/interrupts"),))).failed
    assert (failed.opcode, failed.errno) == (33, errno.ENODEV)


def test_a_read_only_root(keel: Keel, box: Box) -> None:
    assert "Read-only" in run(keel, box.plan("touch", "/x", late=(SetRootReadonly(),))).err


def test_a_working_directory_is_made(keel: Keel, box: Box) -> None:
    late = (ChangeDirectory(path="/srv/app", create=1),)
    assert run(keel, box.plan("sh", "-c", "pwd", late=late)).succeed() == "/srv/app\n"


@pytest.mark.parametrize("path", ["/proc/self/fd/5", "/proc/self/fd/../cwd", "/proc/1/root"])
def test_a_working_directory_through_a_magic_link(keel: Keel, box: Box, path: str) -> None:
    """CVE-2024-21626."""
    failed = run(keel, box.plan("true", late=(ChangeDirectory(path=path),))).failed
    assert failed.opcode == 39
    assert failed.errno in {errno.ELOOP, errno.ENOENT}


@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
def test_proc_and_sys_are_not_mounted_through_links(keel: Keel, box: Box, fstype: str) -> None:
    (box.layer / "trap").symlink_to("/tmp")
    mount = MountFilesystem(fstype=fstype, source=fstype, target="/trap")
    failed = run(keel, box.plan("true", inside=(mount,))).failed
    assert (failed.call, failed.errno) == ("openat2", errno.ELOOP)


def test_links_of_the_image_never_lead_to_the_host(keel: Keel, box: Box, tmp_path: Path) -> None:
    """/dev and /dev/console of the image name places of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (box.layer / "dev").rmdir()
    (box.layer / "dev").symlink_to(outside)
    (box.layer / "up").symlink_to("../../../../../.." + str(outside))
    before, bound = bind_null()
    inside = (
        TMPFS_DEV,
        bound,
        MakeDirectory(path="/up/made"),
        MakeSymlink(target="x", path="/up/link"),
    )
    script = f"stat -c %F /dev/null; ls {outside}"
    out = run(keel, box.plan("sh", "-c", script, before=(before,), inside=inside)).succeed()
    assert out == "character special file\nlink\nmade\nnull\n"
    assert list(outside.iterdir()) == []


def test_a_link_within_proc_is_no_mount_point(keel: Keel, box: Box, tmp_path: Path) -> None:
    (box.layer / "mine").symlink_to("/proc/mounts")
    (tmp_path / "file").write_text("")
    before = (OpenTree(slot=1, path=str(tmp_path / "file")),)
    for target in ("/proc/self/status", "/mine", "/proc/self/fd/0"):
        inside = (BindTree(slot=1, target=target),)
        failed = run(keel, box.plan("true", before=before, inside=inside)).failed
        assert (failed.opcode, failed.errno) == (25, errno.ELOOP)


def test_dangling_links_are_completed_inside(keel: Keel, box: Box, tmp_path: Path) -> None:
    (box.layer / "etc/resolv.conf").symlink_to("../run/resolved/stub.conf")
    (box.layer / "loop").symlink_to("/loop")
    (tmp_path / "file").write_text("nameserver")
    before = (OpenTree(slot=1, path=str(tmp_path / "file")),)
    inside = (BindTree(slot=1, target="/etc/resolv.conf"),)
    plan = box.plan("cat", "/run/resolved/stub.conf", before=before, inside=inside)
    assert run(keel, plan).succeed() == "nameserver"
    inside = (BindTree(slot=1, target="/loop/x"),)
    failed = run(keel, box.plan("true", before=before, inside=inside)).failed
    assert failed.errno == errno.ELOOP


def test_sysctls_are_written_to_procfs_only(keel: Keel, box: Box, tmp_path: Path) -> None:
    """CVE-2025-52881: something else mounted over the file."""
    trap = tmp_path / "trap"
    trap.write_text("")
    before = (OpenTree(slot=1, path=str(trap)),)
    inside = (BindTree(slot=1, target="/proc/sys/net/ipv4/ip_forward"),)
    late = (WriteSysctl(key="net.ipv4.ip_forward", value="1"),)
    failed = run(keel, box.plan("true", before=before, inside=inside, late=late)).failed
    assert (failed.opcode, failed.errno) == (31, errno.EXDEV)
    assert trap.read_text() == ""


def test_an_application_with_every_capability_cannot_reach_the_host(keel: Keel, box: Box) -> None:
    script = "mount -t proc proc /tmp && ls -d /tmp/1; ls /proc/1/root/home; echo $$"
    late = (become(0, 0, ALL_CAPABILITIES),)
    outcome = run(keel, box.plan("sh", "-c", script, flags=ALL_NEW | NEW_PID, late=late))
    assert outcome.out.splitlines() == ["/tmp/1", "1"]
