"""The life of an ordinary user's container: its verbs, its cgroups, its records' place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, eventually
from faces.rootless_rig import Config, Rootless, granted, rootless
from onggi.kernel.cgroups.layout import CgroupLayout
from visitor_rig import UID

pytestmark = NEEDS_ROOT_AND_BUSYBOX
LAYOUT = CgroupLayout.probe()
ON_V1 = pytest.mark.skipif(LAYOUT.mode == "v2", reason="host feature missing: cgroup v1")
WAITS = "trap 'exit 3' TERM; sleep 1000 & wait"


@pytest.fixture(scope="module")
def place() -> Iterator[Rootless]:
    with rootless() as made:
        yield made


@pytest.fixture
def visitor(place: Rootless) -> Iterator[Rootless]:
    environment = dict(place.environment)
    yield place
    place.environment = environment
    place.clean()
    assert place.leftovers() == []


def test_from_create_to_delete(visitor: Rootless) -> None:
    visitor.creates("one", "sh", "-c", WAITS)
    state = visitor.state("one")
    assert (state["status"], state["owner"]) == ("created", "visitor")
    visitor.calls("start", "one")
    assert visitor.state("one")["status"] == "running"
    assert os.stat(f"/proc/{state['pid']}").st_uid == UID
    visitor.calls("kill", "one")
    visitor.waits("one", "stopped")
    visitor.calls("delete", "one")
    assert "does not exist" in visitor.calls("state", "one", check=False).stderr


def test_one_with_granted_ids_too(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        granted(config)
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    visitor.creates("one", "sh", "-c", WAITS, change=change)
    visitor.calls("start", "one")
    said = visitor.calls("exec", "--user", "7:8", "one", "id").stdout
    assert said.split()[:2] == ["uid=7", "gid=8"]
    visitor.calls("kill", "one", "KILL")
    visitor.waits("one", "stopped")
    visitor.calls("delete", "one")


def test_exec_enters_it_and_lands_in_its_namespaces(visitor: Rootless) -> None:
    visitor.creates("one", "sh", "-c", WAITS)
    visitor.calls("start", "one")
    pid = visitor.state("one")["pid"]
    done = visitor.calls("exec", "one", "sh", "-c", "readlink /proc/self/ns/user; id -u; exit 5",
                         check=False)  # fmt: skip
    assert done.returncode == 5
    assert done.stdout.split() == [os.readlink(f"/proc/{pid}/ns/user"), "0"]


def test_what_waits_to_be_started_cannot_be_entered(visitor: Rootless) -> None:
    visitor.creates("one", "true")
    done = visitor.calls("exec", "one", "true", check=False)
    assert done.returncode == 255
    assert "waits to be started" in done.stderr


def test_limits_and_score_of_the_process_and_of_one_more(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["process"] |= {
            "oomScoreAdj": 321,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 101}],
        }

    show = "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn"
    visitor.creates("one", "sh", "-c", f"{show}; sleep 1000", change=change)
    visitor.calls("start", "one")
    shown = eventually(lambda: len(found := visitor.output("one").split()) == 3 and found)
    assert shown == ["321", "100", "101"]
    assert visitor.calls("exec", "one", "sh", "-c", show).stdout.split() == shown


def test_a_score_or_limit_that_a_user_may_not_have_is_a_warning(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["process"] |= {
            "oomScoreAdj": -900,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 2**40, "hard": 2**40}],
        }

    done = visitor.calls("run", "-b", visitor.bundle("true", change=change), "one")
    assert "oomScoreAdj: -900 is" in done.stderr
    assert "rlimits[0]: RLIMIT_NOFILE" in done.stderr


def test_its_processes_without_a_cgroup(visitor: Rootless) -> None:
    visitor.creates("one", "sh", "-c", WAITS)
    assert json.loads(visitor.calls("ps", "-f", "json", "one").stdout) == [
        visitor.state("one")["pid"]
    ]
    visitor.calls("start", "one")
    pids = eventually(
        lambda: len(p := json.loads(visitor.calls("ps", "-f", "json", "one").stdout)) == 2 and p
    )
    assert {os.readlink(f"/proc/{pid}/ns/pid") for pid in pids} == {
        os.readlink(f"/proc/{visitor.state('one')['pid']}/ns/pid")
    }
    visitor.calls("kill", "--all", "one", "KILL")
    visitor.waits("one", "stopped")


@pytest.mark.skipif(
    subprocess.run(["ps", "-ef"], capture_output=True, check=False).returncode != 0,
    reason="host feature missing: a ps that works on this kernel",
)
def test_the_hosts_table_of_them(visitor: Rootless) -> None:
    visitor.creates("one", "sleep", "1000")
    visitor.calls("start", "one")
    assert len(visitor.calls("ps", "one").stdout.splitlines()) == 2


def test_what_needs_a_cgroup_says_so(visitor: Rootless) -> None:
    visitor.creates("one", "sleep", "1000")
    visitor.calls("start", "one")
    for words in (("pause", "one"), ("events", "--stats", "one"), ("update", "one")):
        done = visitor.calls(*words, check=False)
        assert done.returncode == 1
        assert "container one has no cgroup" in done.stderr


def _asks_for_pids(config: Config) -> None:
    config["linux"]["resources"] = {"pids": {"limit": 20}}


def test_limits_are_refused_where_there_is_no_cgroup(visitor: Rootless) -> None:
    said = visitor.refuses(_asks_for_pids)
    assert "cannot set a pids limit: container could not join or create cgroup" in said
    assert "not" in visitor.refuses(_asks_for_pids, globals_=["--rootless", "maybe"])


def test_rules_of_devices_are_no_limits(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}

    assert visitor.runs("id", "-u", change=change) == ["0"]


def test_not_rootless_means_that_a_cgroup_is_needed(visitor: Rootless) -> None:
    said = visitor.refuses(lambda _: None, globals_=["--rootless", "false"])
    assert "making cgroup" in said
    assert "delegated to this user" in said


@contextlib.contextmanager
def delegated(visitor: Rootless, *names: str) -> Iterator[str]:
    """Commands are carried out in a cgroup that is the user's, in the hierarchies of these
    controllers (none: in all)."""
    name = f"rl{os.getpid()}"
    kept = [h for h in LAYOUT.hierarchies if not names or set(names) & set(h.controllers)]
    made = [Path(h.mount_point) / name for h in LAYOUT.hierarchies]
    for directory in made:
        directory.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, on v1
            if (directory / file).exists() and (directory / "tasks").exists():
                (directory / file).write_text((directory.parent / file).read_text())
        owned = str(directory.parent) in {h.mount_point for h in kept}
        for path in (directory, directory / "cgroup.procs", directory / "tasks"):
            if owned and path.exists():
                os.chown(path, UID, UID)
    visitor.before = "".join(f"echo 0 >{directory}/cgroup.procs\n" for directory in made)
    try:
        yield name
    finally:
        visitor.clean()
        for directory in made:
            eventually(lambda d=directory: _gone(d))


def _gone(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@ON_V1
def test_a_delegated_cgroup_is_used_and_leaves_with_the_container(visitor: Rootless) -> None:
    with delegated(visitor) as name:
        visitor.creates("one", "sleep", "1000", change=_asks_for_pids)
        visitor.calls("start", "one")
        place = Path(LAYOUT.hierarchy("pids", "pids").mount_point) / name / "one"  # type: ignore[union-attr]
        assert (place / "pids.max").read_text() == "20\n"
        assert (place / "cgroup.procs").read_text().split() == [str(visitor.state("one")["pid"])]
        assert visitor.calls("exec", "one", "grep", ":pids:", "/proc/self/cgroup").stdout.endswith(
            f"{name}/one\n"
        )
        visitor.calls("update", "--pids-limit", "30", "one")
        assert (place / "pids.max").read_text() == "30\n"
        visitor.calls("pause", "one")
        assert visitor.state("one")["status"] == "paused"
        visitor.calls("resume", "one")
        visitor.calls("delete", "--force", "one")
        assert not place.exists()


@ON_V1
def test_what_is_not_delegated_is_done_without_but_its_limits_are_refused(
    visitor: Rootless,
) -> None:
    def memory(config: Config) -> None:
        config["linux"]["resources"] = {"memory": {"limit": 1 << 27}}

    with delegated(visitor, "pids") as name:
        shown = visitor.runs("cat", "/proc/self/cgroup", change=_asks_for_pids)
        assert [row.split(":")[1] for row in shown if row.endswith(f"{name}/one")] == ["pids"]
        assert "cannot set a memory limit" in visitor.refuses(memory)


def test_a_runtime_directory_of_others_is_refused(visitor: Rootless) -> None:
    for owner, mode, why in ((0, 0o700, "belongs to user 0"), (UID, 0o777, "written to by others")):
        place = visitor.place / f"place{mode:o}"
        place.mkdir()
        place.chmod(mode)
        os.chown(place, owner, owner)
        visitor.environment["XDG_RUNTIME_DIR"] = str(place)
        done = visitor.calls("list", check=False)
        assert done.returncode == 1
        assert why in done.stderr
        assert list(place.iterdir()) == []


def test_without_one_there_is_a_place_in_tmp_that_nobody_can_have_laid_out(
    visitor: Rootless,
) -> None:
    del visitor.environment["XDG_RUNTIME_DIR"]
    place = Path(f"/tmp/onggi-runtime-{UID}")
    made = visitor.does("mkdir", str(place), check=False).returncode == 0
    known = made and place.stat().st_uid == UID
    if made:
        place.rmdir()
    if not known:
        pytest.skip("host feature missing: a /tmp that takes directories, and knows owners")
    try:
        visitor.calls("list")
        facts = place.stat()
        assert (facts.st_uid, facts.st_mode & 0o7777) == (UID, 0o700)
        place.rmdir()
        place.symlink_to(visitor.home)
        assert "is not a directory" in visitor.calls("list", check=False).stderr
        place.unlink()
        place.mkdir(mode=0o777)
        assert "belongs to user 0" in visitor.calls("list", check=False).stderr
    finally:
        shutil.rmtree(place)


def test_records_are_not_tidied_away(visitor: Rootless) -> None:
    """A sticky directory stays, where others go after some hours (XDG base directories)."""
    assert visitor.runs("true") == []
    assert (visitor.run / "onggi-runtime").stat().st_mode & 0o7777 == 0o1700


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_that_waits_for_start_ends_when_asked(visitor: Rootless, number: int) -> None:
    visitor.creates("one", "sleep", "1000")
    visitor.calls("kill", "one", str(number))
    visitor.waits("one", "stopped")
    visitor.calls("delete", "one")


def test_a_signal_that_is_no_end_leaves_it_waiting(visitor: Rootless) -> None:
    visitor.creates("one", "true")
    visitor.calls("kill", "one", "USR1")
    assert visitor.state("one")["status"] == "created"
    visitor.calls("start", "one")
    visitor.waits("one", "stopped")


def test_init_is_not_inspectable_once_it_waits(visitor: Rootless) -> None:
    """It was, for as long as its ids were mapped."""
    visitor.creates("one", "true")
    pid = visitor.state("one")["pid"]
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0
    assert "denied" in visitor.does("readlink", "-v", f"/proc/{pid}/exe", check=False).stderr
