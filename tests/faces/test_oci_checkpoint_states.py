"""`checkpoint` and `restore` with a program in CRIU's place: states, errors, and what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faces import criu_stand_in
from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Console, Runtime, eventually, processes_below
from onggi.sandbox.oci.criu_messages import CGROUP_MODES, DUMP, RESTORE, SINGLE_PRE_DUMP

pytestmark = NEEDS_ROOT_AND_BUSYBOX


class World(Runtime):
    """A runtime that finds the stand-in under the name of criu."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.bin = place / "criu"
        self.bin.mkdir()
        program = self.bin / "criu"
        text = Path(criu_stand_in.__file__).read_text()
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
        self.environment["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        self.behave("")

    def behave(self, words: str) -> None:
        (self.bin / "behaviour").write_text(words)

    def asked(self) -> tuple[list[str], int, dict[str, list[Any]]]:
        """argv, the kind of request, and options."""
        argv, kind, options = json.loads((self.bin / "asked").read_text())
        return argv, kind, options

    def running(self, name: str = "a", **options: Any) -> str:
        """A container that runs."""
        container = self.create(name, self.bundle("/bin/sleep", "1000", **options))
        self.call("start", container)
        return container

    def images(self) -> Path:
        """A checkpoint as the stand-in makes it."""
        place = self.place / "images"
        place.mkdir()
        (place / "descriptors.json").write_text('["file[1:2]","pipe:[3]","pipe:[3]"]')
        return place

    def restore(self, *words: str, name: str = "r", check: bool = True, **options: Any) -> str:
        container = self.name(name)
        with open(self.place / f"{name}.out", "w") as out:
            self.call(
                "restore", "--image-path", str(self.place / "images"), *words, container,
                check=check, stdout=out, stderr=out, **options,
            )  # fmt: skip
        return container


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.clean()
    assert world.leftovers() == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    stand_ins = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path).encode() in _content(path)
    ]
    assert stand_ins == []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_flags_become_criu_s_options(world: World) -> None:
    container = world.running()
    images, work = world.place / "i", world.place / "w"
    (world.place / "before").mkdir()
    flags = ("--tcp-established", "--tcp-skip-in-flight", "--ext-unix-sk", "--shell-job")
    flags += ("--file-locks", "--auto-dedup", "--lazy-pages", "--leave-running")
    world.call(
        "checkpoint", *flags, "--image-path", str(images), "--work-path", str(work),
        "--parent-path", "../before", "--manage-cgroups-mode", "full", "--empty-ns", "network",
        "--page-server", "[::1]:27", container,
    )  # fmt: skip
    argv, kind, options = world.asked()
    assert (argv, kind) == (["swrk", "3"], DUMP)
    cgroups = Path(f"/proc/{world.state(container)['pid']}/cgroup").read_text().splitlines()
    rows = [line.split(":", 2) for line in cgroups]
    own = {n for _, names, path in rows if path.endswith(container) for n in names.split(",")}
    assert set(options["cgroup_dump_controller"]) == own  # elsewhere it is among the host's
    for flag in flags:
        assert options[flag.removeprefix("--").replace("-", "_")] == [1]
    assert options["pid"] == [world.state(container)["pid"]]
    assert options["parent_img"] == ["../before"]
    assert options["track_mem"] == [1]
    assert options["manage_cgroups_mode"] == [CGROUP_MODES["full"]]
    assert options["empty_ns"] == [0x40000000]
    assert options["ps"] == [["::1", 27]]
    assert options["log_file"] == ["dump.log"]
    assert (images / "core-1.img").exists()
    assert world.state(container)["status"] == "running"


def test_kept_it_is_gone_with_its_cgroup_and_poststop_hooks_have_run(world: World) -> None:
    def hook(config: dict[str, Any]) -> None:
        path = world.place / "hook"
        script = f"#!/bin/sh\ncat >{world.place}/told\n"
        path.write_text(script)
        path.chmod(0o755)
        config["hooks"] = {"poststop": [{"path": str(path)}]}

    container = world.running(change=hook)
    world.call("checkpoint", "--image-path", str(world.place / "i"), container)
    assert world.leftovers() == []
    assert json.loads((world.place / "told").read_text())["status"] == "stopped"
    assert (world.place / "i").stat().st_mode & 0o777 == 0o700


def test_a_pre_dump_and_a_status_descriptor(world: World) -> None:
    container = world.running()
    reader, writer = os.pipe()
    world.call(
        "checkpoint", "--pre-dump", "--status-fd", str(writer), "--image-path",
        str(world.place / "i"), container, pass_fds=(writer,),
    )  # fmt: skip
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == b"\0"
    assert world.asked()[1] == SINGLE_PRE_DUMP
    assert world.state(container)["status"] == "running"


def test_what_is_the_host_s_is_named(world: World) -> None:
    shared = world.place / "shared"
    shared.mkdir()

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(bind(shared, "/data/x"))
        config["linux"]["namespaces"][1]["path"] = "/proc/self/ns/net"

    container = world.running(change=change)
    world.call("checkpoint", "--image-path", str(world.place / "i"), container)
    words = world.asked()[2]["external"]
    assert "mnt[/data/x]:/data/x" in words
    assert f"net[{os.stat('/proc/self/ns/net').st_ino}]:extRootNetNS" in words
    assert not [word for word in words if word.startswith(("mnt[/proc", "mnt[/dev]", "mnt[/sys"))]
    names = json.loads((world.place / "i/descriptors.json").read_text())
    assert [name.partition("[")[0] for name in names] == ["file", "file", "file"]
    assert set(names) <= set(words)


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    words = ["bind", *options]
    return {"destination": destination, "type": "bind", "source": str(source), "options": words}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--parent-path", "/x"), "--parent-path must be relative"),
        (("--parent-path", "x"), "invalid --parent-path: "),
        (("--page-server", "x"), "--page-server takes ADDRESS:PORT"),
        (("--manage-cgroups-mode", "x"), "--manage-cgroups-mode: unknown mode 'x'"),
        (("--empty-ns", "ipc"), "--empty-ns: criu cannot leave out a ipc namespace"),
        (("--status-fd", "77"), "invalid --status-fd argument 77"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(
    world: World, words: tuple[str, ...], said: str
) -> None:
    container = world.running()
    done = world.call("checkpoint", *words, container, check=False, cwd=world.place)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(said)
    assert not (world.bin / "asked").exists()


def test_only_what_runs_can_be_kept(world: World) -> None:
    container = world.create("a", world.bundle("/bin/sleep", "1000"))
    done = world.call("checkpoint", container, check=False)
    assert done.stderr == "container cannot be checkpointed in created state\n"
    world.call("kill", container, "KILL")
    world.wait(container, "stopped")
    done = world.call("checkpoint", container, check=False)
    assert done.stderr == "container cannot be checkpointed in stopped state\n"
    gone = world.call("checkpoint", world.name("nobody"), check=False)
    assert "container does not exist" in gone.stderr


def test_without_criu_the_package_is_named(world: World) -> None:
    container = world.running()
    world.environment["PATH"] = str(world.place)
    world.images()
    done = world.call("checkpoint", container, check=False)
    assert done.stderr == (
        "criu is not there: checkpoint and restore are done by CRIU — install the package criu\n"
    )
    world.restore(name="r", check=False)
    assert "install the package criu" in world.output("r")
    assert world.state(container)["status"] == "running"


def test_criu_s_reason_is_told_and_the_container_goes_on(world: World) -> None:
    container = world.running()
    world.behave("fail")
    images = world.place / "i"
    done = world.call("checkpoint", "--image-path", str(images), container, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"criu failed: (criu/x.c:1): no such thing?[2J — its log is {images}/dump.log\n"
    )
    assert world.state(container)["status"] == "running"


def test_a_killed_criu_does_not_leave_it_frozen(world: World) -> None:
    container = world.running()
    world.behave("freeze-and-die")
    words = ("checkpoint", "--image-path", str(world.place / "i"), container)
    assert "it ended without an answer" in world.call(*words, check=False).stderr
    assert world.state(container)["status"] == "running"
    world.call("pause", container)
    world.call(*words, check=False)
    assert world.state(container)["status"] == "paused"


def test_features_say_whether_criu_works(world: World) -> None:
    def said() -> str:
        document = json.loads(world.call("features").stdout)
        return str(document["annotations"]["org.opencontainers.runc.checkpoint.enabled"])

    assert said() == "true"
    world.behave("no")
    assert said() == "false"
    (world.bin / "criu").unlink()
    world.environment["PATH"] = str(world.bin)
    assert said() == "false"
    world.environment["PATH"] = f"{world.bin}:{os.environ['PATH']}"


def test_an_option_that_the_kernel_lacks_is_refused_by_its_name(world: World) -> None:
    container = world.running()
    world.behave("no")
    done = world.call("checkpoint", "--pre-dump", container, check=False)
    assert done.stderr.startswith("--pre-dump needs mem_dirty_track, which criu does not find")


def test_what_criu_cannot_keep_is_refused_before_it_is_asked(world: World) -> None:
    mapping = [{"containerID": 0, "hostID": 1000, "size": 1}]

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {**bind(world.place, "/x"), "uidMappings": mapping, "gidMappings": mapping}
        )

    world.images()
    bundle = world.bundle("/bin/true", change=change)
    world.restore("-b", str(bundle), check=False)
    assert world.output("r").startswith("$.mounts[4]: criu does not know mounts with mapped ids")


def test_a_container_cannot_have_one_bind_restored_as_another(world: World) -> None:
    """It renames what is above two binds: by its destination, the one to read would be writable."""
    for name in ("secret", "own"):
        (world.place / name).mkdir()

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += [
            bind(world.place / "secret", "/p/m", "ro"),
            bind(world.place / "own", "/q/m"),
        ]
        config["process"]["args"] = [
            "/bin/sh", "-c", "busybox mv /p /t; busybox mv /q /p; busybox mv /t /q; "
            "echo done >/tmp/moved; sleep 1000",
        ]  # fmt: skip

    container = world.running(change=change)
    eventually((world.rootfs / "tmp/moved").exists)
    assert (world.rootfs / "p").exists()
    done = world.call("checkpoint", container, check=False, cwd=world.place)
    assert done.stderr.startswith("$.mounts[4]: what is mounted at /p/m is not ro any more")
    assert not (world.bin / "asked").exists()


def test_what_is_restored_runs_and_is_killed_and_deleted(world: World) -> None:
    world.images()
    bundle = world.bundle("/bin/sleep", "1000")
    pid_file = world.place / "pid"
    container = world.restore("-d", "-b", str(bundle), "--pid-file", str(pid_file))
    state = world.state(container)
    assert (state["status"], state["pid"]) == ("running", int(pid_file.read_text()))
    eventually(lambda: world.output("r") == "restored\n")
    cgroups = Path(f"/proc/{state['pid']}/cgroup").read_text()
    assert f"/{container}\n" in cgroups
    _, kind, options = world.asked()
    assert kind == RESTORE
    assert options["root"] == [str(world.rootfs)]
    assert sorted(options["inherit_fd"]) == [["file[1:2]", 0], ["pipe:[3]", 1]]
    assert {f"/{container}"} <= {root[-1] for root in options["cg_root"]}
    assert "start an already running" in world.call("start", container, check=False).stderr
    busy = world.call("delete", container, check=False)
    assert "not stopped: running" in busy.stderr
    world.call("pause", container)
    assert world.state(container)["status"] == "paused"
    world.call("resume", container)
    world.call("kill", container, "KILL")
    world.wait(container, "stopped")
    world.call("delete", container)


def test_it_is_the_offspring_of_the_caller_and_nothing_else_stays(world: World) -> None:
    images, bundle = world.images(), world.bundle("/bin/sleep", "1000")
    script = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "pid = int(open('p').read())\n"
        "children = open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split()\n"
        "assert children == [str(pid)], children\n"
        "os.kill(pid, 15)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    words = [*world.words, "--root", str(world.root), "restore", "-d", "--image-path", str(images)]
    words += ["-b", str(bundle), "--pid-file", "p", world.name("x")]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=world.place,
        env=world.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("7\n", 0), done.stderr


def test_the_warm_process_has_no_part_in_it(world: World) -> None:
    """By the installed program: the parent is the caller's, not a process that stays."""
    front = Path(sys.executable).parent / "onggi-runtime"
    world.words = [str(front)]
    del world.environment["ONGGI_NO_WARM"]
    world.images()
    world.call("list")  # the next finds a warm process
    script = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"
    words = [str(front), "--root", str(world.root), "restore", "-d", "--image-path",
             str(world.place / "images"), "-b", str(world.bundle("/bin/true")), "--pid-file",
             str(world.place / "p"), world.name("x")]  # fmt: skip
    check = (
        f"{script}\nimport os, subprocess\n"
        f"subprocess.run({words!r}, check=True, stdout=subprocess.DEVNULL)\n"
        f"pid = int(open({str(world.place / 'p')!r}).read())\n"
        "assert open(f'/proc/{pid}/stat').read().split()[3] == str(os.getpid())\n"
    )
    subprocess.run([sys.executable, "-c", check], env=world.environment, check=True)


def test_in_the_foreground_it_answers_with_the_exit_code(world: World) -> None:
    world.images()
    words = [*world.words, "--root", str(world.root), "restore", "--image-path"]
    words += [str(world.place / "images"), "-b", str(world.bundle("/bin/true"))]
    with subprocess.Popen(
        [*words, world.name("r")],
        env=world.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "restored\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 7
    assert world.leftovers() == []


def test_the_terminal_goes_to_the_console_socket(world: World) -> None:
    def terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    world.images()
    world.behave("terminal")
    console = Console(world.place / "c")
    bundle = world.bundle("/bin/true", change=terminal)
    world.restore("-d", "-b", str(bundle), "--console-socket", console.path)
    master = console.take()
    console.close()
    assert b"restored" in os.read(master, 100)
    os.close(master)


def test_hooks_of_the_runtime_run_again_and_stop_a_restore(world: World) -> None:
    hook = world.place / "hook"

    def hooks(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": str(hook)}]}

    world.images()
    bundle = world.bundle("/bin/true", change=hooks)
    for code in (0, 3):
        hook.write_text(f"#!/bin/sh\ncat >{world.place}/told\nexit {code}\n")
        hook.chmod(0o755)
        container = world.restore("-d", "-b", str(bundle), check=False)
        told = json.loads((world.place / "told").read_text())
        assert (told["id"], told["status"]) == (container, "creating")
        if code == 0:
            assert told["pid"] == world.state(container)["pid"]
            world.call("delete", "--force", container)
    assert world.output("r") == f"$.hooks.createRuntime[0]: {hook} answered 3\n"
    assert world.leftovers() == []


@pytest.mark.parametrize(
    "behaviour",
    ["fail", "fail-late", "die-at-setup-namespaces", "die-at-post-restore", "die-at-orphan"],
)
def test_a_failed_restore_leaves_nothing(world: World, behaviour: str) -> None:
    world.images()
    world.behave(behaviour if behaviour != "die-at-orphan" else "terminal die-at-orphan-pts-master")
    world.restore("-d", "-b", str(world.bundle("/bin/true")), check=False)
    assert world.output("r").startswith("criu failed: ")
    assert world.call("list", "-q").stdout == ""
    assert world.leftovers() == []
    assert not [line for line in processes_below(str(world.place)) if "python" in line]


def test_a_cgroup_that_others_live_in_stays_theirs(world: World) -> None:
    world.images()
    first = world.restore("-d", "-b", str(world.bundle("/bin/true")))
    cgroups = Path(f"/proc/{world.state(first)['pid']}/cgroup").read_text().split()
    place = next(path for path in cgroups if path.endswith(first)).split(":", 2)[2]

    def same(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = place

    bundle = world.bundle("/bin/true", change=same)
    world.restore("-d", "-b", str(bundle), name="s", check=False)
    assert "exists and has processes" in world.output("s")
    assert world.state(first)["status"] == "running"


@pytest.mark.parametrize("words", [("--pid-file", "/proc/nobody/x"), ("--console-socket", "/x")])
def test_a_caller_s_own_mistake_leaves_nothing(world: World, words: tuple[str, str]) -> None:
    def terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = words[0] == "--console-socket"

    world.images()
    bundle = world.bundle("/bin/true", change=terminal)
    world.restore("-d", "-b", str(bundle), *words, check=False)
    assert len(world.output("r").splitlines()) == 1
    assert world.leftovers() == []


@pytest.mark.parametrize("stage", ["setup-namespaces", "post-restore"])
def test_killed_in_between_delete_removes_what_is_left(world: World, stage: str) -> None:
    world.images()
    world.behave(f"wait-at-{stage}")
    container = world.name("r")
    words = [*world.words, "--root", str(world.root), "restore", "-d", "--image-path"]
    words += [str(world.place / "images"), "-b", str(world.bundle("/bin/true")), container]
    with subprocess.Popen(words, env=world.environment, stdin=subprocess.DEVNULL) as process:
        eventually((world.bin / "asked").exists)
        wanted = "creating" if stage == "setup-namespaces" else "running"
        eventually(lambda: _status(world, container) == wanted)
        process.kill()
    world.call("delete", "--force", container)
    assert world.leftovers() == []


def _status(world: World, container: str) -> str:
    done = world.call("state", container, check=False)
    return str(json.loads(done.stdout)["status"]) if done.returncode == 0 else ""


def test_places_of_mounts_are_made_and_no_link_leads_out(world: World) -> None:
    (world.place / "outside").mkdir()
    (world.place / "file").touch()
    (world.rootfs / "link").symlink_to(world.place / "outside")

    def good(config: dict[str, Any]) -> None:
        config["mounts"] += [
            bind(world.place / "outside", "/new/place"),
            bind(world.place / "file", "/new/file"),
            bind(world.place / "outside", "/new/place/below"),
        ]

    def bad(config: dict[str, Any]) -> None:
        config["mounts"].append(bind(world.place / "outside", "/link/x"))

    world.images()
    world.restore("-d", "-b", str(world.bundle("/bin/true", change=good)))
    assert (world.rootfs / "new/file").is_file()
    assert list((world.rootfs / "new/place").iterdir()) == []
    (world.place / "outside/below").rmdir()  # made in what is bound there, as `create` does
    assert f"mnt[/new/file]:{world.place}/file" in world.asked()[2]["external"]
    world.restore("-d", "-b", str(world.bundle("/bin/true", change=bad)), name="s", check=False)
    assert "is a symbolic link to nothing" in world.output("s")
    assert list((world.place / "outside").iterdir()) == []


def test_images_that_are_none(world: World) -> None:
    bundle = world.bundle("/bin/true")
    world.restore("-b", str(bundle), check=False)
    assert "open the directory of the images" in world.output("r")
    shutil.rmtree(world.images())
    (world.place / "images").mkdir()
    world.restore("-b", str(bundle), check=False)
    assert "no whole checkpoint: open descriptors.json" in world.output("r")
    (world.place / "images/descriptors.json").write_text('{"a": 1}')
    world.restore("-b", str(bundle), check=False)
    assert "is not a list of names" in world.output("r")
    assert world.leftovers() == []
