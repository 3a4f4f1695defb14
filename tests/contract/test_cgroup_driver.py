"""What a cgroup driver promises, on the real kernel: as the host is, v1 alone, v2 alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from onggi.errors import AlreadyExists, NotFound
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout
from onggi.specs.runtime import Resources

PARENT = f"onggi-contract-{os.getpid()}"
IDLE = "import signal; print(flush=True); signal.pause()"
SPIN = "print(flush=True)\nwhile True: pass"
# A process that is never the same one for long: each forks its successor and ends.
RUNNER = "import os; print(flush=True)\nwhile True:\n  if os.fork(): os._exit(0)"

Start = Callable[[str], subprocess.Popen[bytes]]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


@pytest.fixture(params=["host", "v1", "v2"])
def layout(request: pytest.FixtureRequest) -> CgroupLayout:
    host = CgroupLayout.probe()
    if request.param == "host":
        return host
    version = 1 if request.param == "v1" else 2
    chosen = tuple(h for h in host.hierarchies if h.version == version)
    if not chosen:
        pytest.skip(f"this host has no cgroup {request.param} hierarchy")
    return CgroupLayout(chosen, kernel=host.kernel)


@pytest.fixture
def cgroup(layout: CgroupLayout) -> Iterator[Cgroup]:
    made = Cgroup(layout, f"{PARENT}/one")
    made.create()
    yield made
    made.kill()
    until(made.remove)
    assert made.remove_parent_if_empty()
    for hierarchy in layout.hierarchies:
        assert not os.path.exists(f"{hierarchy.mount_point}/{PARENT}")


@pytest.fixture
def start(cgroup: Cgroup) -> Iterator[Start]:
    """Start a Python program which is in the cgroup before its first line."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(program: str) -> subprocess.Popen[bytes]:
        gate = f"import sys; sys.stdin.read(1)\n{program}"
        process = subprocess.Popen(
            [sys.executable, "-Sc", gate], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        for path in cgroup.procs_paths():
            with open(path, "w") as file:
                file.write(str(process.pid))
        assert process.stdin and process.stdout
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.readline()
        return process

    yield starter
    cgroup.kill()
    for process in started:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe
            pipe.close()


def ticks(pid: int) -> int:
    """The CPU time of a process, as the host sees it."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0])


def test_it_is_made_in_every_hierarchy_that_is_needed(cgroup: Cgroup) -> None:
    assert cgroup.exists
    assert cgroup.procs_paths()
    for path in cgroup.procs_paths():
        assert os.path.isfile(path)
        assert path.endswith(f"/{PARENT}/one/cgroup.procs")
    assert cgroup.processes() == ()


def test_a_process_is_in_it_everywhere(cgroup: Cgroup, start: Start) -> None:
    process = start(IDLE)
    assert cgroup.processes() == (process.pid,)
    with open(f"/proc/{process.pid}/cgroup") as file:
        assert file.read().count(f":/{PARENT}/one\n") == len(cgroup.procs_paths())


def test_a_process_of_one_thread_joins_v1_by_itself(cgroup: Cgroup) -> None:
    paths = cgroup.task_paths()
    if not paths:
        assert cgroup.layout.mode == "v2"
        return
    loop = 'for file in "$@"; do echo 0 > "$file" || exit 1; done; echo; read line'
    with subprocess.Popen(
        ["sh", "-c", loop, "sh", *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert cgroup.processes() == (process.pid,)
        with open(f"/proc/{process.pid}/cgroup") as file:
            assert file.read().count(f":/{PARENT}/one\n") == len(paths)


def test_the_descriptor_for_clone_is_its_v2_directory(cgroup: Cgroup) -> None:
    fd = cgroup.open_v2()
    if cgroup.layout.v2 is None:
        assert fd is None
        return
    assert fd is not None
    try:
        assert os.readlink(f"/proc/self/fd/{fd}").endswith(f"/{PARENT}/one")
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_a_cgroup_with_processes_is_not_taken_over(cgroup: Cgroup, start: Start) -> None:
    process = start(IDLE)
    with pytest.raises(AlreadyExists):
        Cgroup(cgroup.layout, cgroup.path).create()
    assert cgroup.processes() == (process.pid,)


def test_what_is_left_of_an_earlier_one_is_replaced(cgroup: Cgroup) -> None:
    before = [os.stat(path).st_ino for path in cgroup.procs_paths()]
    os.mkdir(os.path.dirname(cgroup.procs_paths()[0]) + "/below")
    cgroup.create()
    after = [os.stat(path).st_ino for path in cgroup.procs_paths()]
    assert not set(before) & set(after)


def test_remove_says_busy_and_does_not_wait(cgroup: Cgroup, start: Start) -> None:
    start(IDLE)
    assert not cgroup.remove()
    assert cgroup.exists
    cgroup.kill()
    until(cgroup.remove)
    assert not cgroup.exists
    assert cgroup.remove()


def test_remove_takes_what_was_made_below(cgroup: Cgroup) -> None:
    for path in cgroup.procs_paths():
        os.makedirs(f"{os.path.dirname(path)}/a/b")
        os.mkdir(f"{os.path.dirname(path)}/c")
    assert cgroup.remove()
    assert not cgroup.exists


def test_the_parent_stays_while_another_lives_in_it(cgroup: Cgroup) -> None:
    other = Cgroup(cgroup.layout, f"{PARENT}/two")
    other.create()
    assert not cgroup.remove_parent_if_empty()
    assert other.exists
    assert other.remove()


def test_frozen_processes_stand_still_and_go_on(cgroup: Cgroup, start: Start) -> None:
    process = start(SPIN)
    cgroup.freeze()
    frozen = ticks(process.pid)
    for _ in range(20):
        time.sleep(0.002)
        assert ticks(process.pid) == frozen
    cgroup.thaw()
    until(lambda: ticks(process.pid) > frozen)
    cgroup.thaw()


def test_kill_ends_all_of_them(cgroup: Cgroup, start: Start) -> None:
    children = [start(IDLE) for _ in range(3)]
    cgroup.kill()
    assert [child.wait() for child in children] == [-signal.SIGKILL] * 3
    until(lambda: cgroup.processes() == ())


def test_kill_ends_frozen_ones(cgroup: Cgroup, start: Start) -> None:
    child = start(IDLE)
    cgroup.freeze()
    cgroup.kill()
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_kill_ends_those_in_cgroups_below(cgroup: Cgroup, start: Start) -> None:
    child = start(IDLE)
    for path in cgroup.procs_paths():
        below = f"{os.path.dirname(path)}/below"
        os.mkdir(below)
        with open(f"{below}/cgroup.procs", "w") as file:
            file.write(str(child.pid))
    assert cgroup.processes() == (child.pid,)
    cgroup.kill()
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_kill_ends_one_that_keeps_changing_its_id(cgroup: Cgroup, start: Start) -> None:
    start(RUNNER)
    until(lambda: bool(cgroup.processes()))
    cgroup.kill()
    until(lambda: cgroup.processes() == ())
    until(cgroup.remove)


def test_another_cgroup_is_left_alone(cgroup: Cgroup, start: Start) -> None:
    """Neither a sibling whose name begins alike, nor this very process."""
    sibling = Cgroup(cgroup.layout, f"{PARENT}/one-more")
    sibling.create()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for path in sibling.procs_paths():
            with open(path, "w") as file:
                file.write(str(bystander.pid))
        start(IDLE)
        cgroup.kill()
        until(cgroup.remove)
        assert bystander.poll() is None
        assert sibling.processes() == (bystander.pid,)
    finally:
        bystander.kill()
        bystander.wait()
        until(sibling.remove)


def test_without_resources_nothing_is_warned_of(cgroup: Cgroup) -> None:
    assert cgroup.apply(Resources()) == ()


def test_a_missing_cgroup(layout: CgroupLayout) -> None:
    missing = Cgroup(layout, f"{PARENT}/none")
    assert not missing.exists
    assert missing.remove()
    assert missing.processes() == ()
    assert missing.procs_paths() == ()
    assert missing.oom() is None
    missing.kill()
    for call in (missing.stats, missing.freeze, missing.thaw, lambda: missing.apply(Resources())):
        with pytest.raises(NotFound):
            call()
