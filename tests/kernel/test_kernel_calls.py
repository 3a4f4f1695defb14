"""Calls about files, descriptors and processes on the real kernel: how they succeed and fail."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, SyscallError, Unsupported
from onggi.kernel import abi, capabilities, namespaces, processes, syscalls
from onggi.kernel import constants as c
from onggi.kernel.descriptors import Descriptor


def errno_of(act: Callable[[], object]) -> int:
    with pytest.raises(SyscallError) as caught:
        act()
    return caught.value.errno


def exit_code_of(act: Callable[[], object]) -> int:
    """The exit code of a forked child: 0 if `act` returns true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if act() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# How a call is made


def test_a_call_this_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.uname().machine
    monkeypatch.setitem(abi.NUMBERS, machine, {"mount_setattr": 9999})
    with pytest.raises(SyscallError, match=r"ENOSYS.*needs Linux 5\.12 or newer") as caught:
        syscalls.mount_setattr(-1)
    assert caught.value.kind == "Unsupported"
    monkeypatch.delitem(abi.NUMBERS, machine)
    with pytest.raises(Unsupported, match="no system call number is known"):
        syscalls.syncfs(0)


def test_a_nul_inside_a_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="NUL inside"):
        syscalls.openat2(c.AT_FDCWD, "/etc\0/x", os.O_PATH)


def test_a_call_interrupted_by_a_signal_is_made_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def act() -> bool:
        interruptions = []

        def on_signal(number: int, frame: object) -> None:
            interruptions.append(number)
            if len(interruptions) == 2:
                os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
                signal.setitimer(signal.ITIMER_REAL, 0)

        signal.signal(signal.SIGALRM, on_signal)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        # Blocks until there is a writer, which only the second signal brings.
        with syscalls.openat2(c.AT_FDCWD, str(fifo), os.O_RDONLY):
            return len(interruptions) == 2

    assert exit_code_of(act) == 0


# Files and descriptors


def test_openat2(tmp_path: Path) -> None:
    with syscalls.openat2(c.AT_FDCWD, str(tmp_path), os.O_PATH) as directory:
        with syscalls.openat2(directory, "new", os.O_CREAT | os.O_WRONLY, mode=0o600) as file:
            assert os.get_inheritable(file) is False
        outside = errno_of(
            lambda: syscalls.openat2(directory, "..", os.O_PATH, resolve=c.RESOLVE_BENEATH)
        )
        assert outside == errno.EXDEV
    assert errno_of(lambda: syscalls.openat2(c.AT_FDCWD, "/nosuch", os.O_PATH)) == errno.ENOENT


def test_renameat2(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with Descriptor(os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)) as d:
        taken = errno_of(lambda: syscalls.renameat2(d, "a", d, "b", c.RENAME_NOREPLACE))
        assert taken == errno.EEXIST
        syscalls.renameat2(d, "a", d, "b", c.RENAME_EXCHANGE)
        assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("b", "a")
        syscalls.renameat2(d, "a", d, "c", c.RENAME_NOREPLACE)
        assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_syncfs(tmp_path: Path) -> None:
    with Descriptor(os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)) as directory:
        syscalls.syncfs(directory)
    assert errno_of(lambda: syscalls.syncfs(-1)) == errno.EBADF


def test_close_range() -> None:
    def act() -> bool:
        first = os.open("/", os.O_PATH)
        second = os.dup(first)
        syscalls.close_range(second, flags=c.CLOSE_RANGE_CLOEXEC)
        os.fstat(second)
        syscalls.close_range(first)
        return all(not os.path.exists(f"/proc/self/fd/{n}") for n in (first, second))

    assert exit_code_of(act) == 0
    assert errno_of(lambda: syscalls.close_range(9, 8)) == errno.EINVAL


def test_a_sealed_memfd_holds_what_it_was_given_for_ever() -> None:
    content = os.urandom(100_000)
    with syscalls.sealed_memfd("plan", content) as memfd:
        assert os.read(memfd, 200_000) == content
        with pytest.raises(PermissionError):
            os.pwrite(memfd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(memfd, 0)
        with pytest.raises(PermissionError):
            subprocess.run([f"/proc/self/fd/{memfd}"], pass_fds=(memfd,), check=True)


def test_an_executable_memfd_runs() -> None:
    program = Path(shutil.which("true") or "/bin/true").read_bytes()
    with syscalls.sealed_memfd("program", program, executable=True) as memfd:
        path = f"/proc/self/fd/{memfd}"
        assert subprocess.run([path], pass_fds=(memfd,), check=False).returncode == 0
        with pytest.raises(OSError, match=r"denied|not permitted|busy"):
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def test_a_memfd_name_that_is_too_long() -> None:
    assert errno_of(lambda: syscalls.sealed_memfd("x" * 300, b"")) == errno.EINVAL


# Processes


def test_a_pidfd_signals_waits_and_ends() -> None:
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    with syscalls.pidfd_open(pid) as pidfd:
        assert namespaces.pid_of(pidfd) == pid
        syscalls.pidfd_send_signal(pidfd, 0)
        assert syscalls.pidfd_wait(pidfd, os.WEXITED | os.WNOHANG) is None
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        result = syscalls.pidfd_wait(pidfd)
        assert result is not None
        assert (result.si_code, result.si_status) == (os.CLD_KILLED, signal.SIGKILL)
        assert errno_of(lambda: syscalls.pidfd_send_signal(pidfd, 0)) == errno.ESRCH
        assert errno_of(lambda: syscalls.pidfd_wait(pidfd)) == errno.ECHILD
        assert errno_of(lambda: namespaces.pid_of(pidfd)) == errno.ESRCH
        for kind in namespaces.FILES:
            with pytest.raises(SyscallError):
                namespaces.open_namespace(pidfd, kind)
    with pytest.raises(SyscallError, match="the process has ended"):
        syscalls.pidfd_open(pid)


def test_pidfd_getfd(tmp_path: Path) -> None:
    with (
        syscalls.pidfd_open(os.getpid()) as pidfd,
        Descriptor(os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)) as directory,
    ):
        with syscalls.pidfd_getfd(pidfd, directory) as copy:
            assert copy != directory
            assert os.path.samestat(os.fstat(copy), os.fstat(directory))
        assert errno_of(lambda: syscalls.pidfd_getfd(pidfd, 1_000_000)) == errno.EBADF


def test_namespaces_are_left_and_joined() -> None:
    def act() -> bool:
        before = namespaces.namespace_ids()
        with syscalls.pidfd_open(os.getpid()) as pidfd:
            old = namespaces.open_namespace(pidfd, "uts")
        syscalls.unshare(c.CLONE_NEWUTS | c.CLONE_NEWIPC)
        after = namespaces.namespace_ids()
        changed = {kind for kind in before if before[kind] != after[kind]}
        with old as uts:
            syscalls.setns(uts, c.CLONE_NEWUTS)
            assert errno_of(lambda: syscalls.setns(uts, c.CLONE_NEWNET)) == errno.EINVAL
        return changed == {"uts", "ipc"} and namespaces.namespace_id("self", "uts") == before["uts"]

    assert exit_code_of(act) == 0
    assert errno_of(lambda: syscalls.setns(-1, 0)) == errno.EBADF
    assert errno_of(lambda: syscalls.unshare(1)) == errno.EINVAL


def test_prctl() -> None:
    def act() -> bool:
        before = syscalls.prctl(c.PR_GET_NO_NEW_PRIVS)
        syscalls.prctl(c.PR_SET_NO_NEW_PRIVS, 1)
        return (before, syscalls.prctl(c.PR_GET_NO_NEW_PRIVS)) == (0, 1)

    assert exit_code_of(act) == 0
    with pytest.raises(SyscallError, match=r"prctl\(999999, 1\): EINVAL"):
        syscalls.prctl(999999, 1)
    # All 64 bits reach the kernel: half of them would be signal 0, which is allowed.
    assert errno_of(lambda: syscalls.prctl(c.PR_SET_PDEATHSIG, 1 << 32)) == errno.EINVAL


def test_a_session_keyring_is_joined() -> None:
    def act() -> bool:
        named = syscalls.join_session_keyring("onggi-test")
        keys = Path("/proc/keys").read_text().splitlines()
        found = [key.split() for key in keys if int(key.split()[0], 16) == named]
        # The same name again is another keyring: nobody can be drawn into one by guessing it.
        others = {syscalls.join_session_keyring("onggi-test"), syscalls.join_session_keyring()}
        return found[0][7:9] == ["keyring", "onggi-test:"] and len(others | {named}) == 3

    assert exit_code_of(act) == 0
    assert errno_of(lambda: syscalls.join_session_keyring(".builtin")) == errno.EPERM


def test_capabilities_from_both_interfaces() -> None:
    sets = capabilities.held()
    assert syscalls.capget() == (sets.effective, sets.permitted, sets.inheritable)
    assert capabilities.held(os.getpid()) == sets
    assert capabilities.host_capabilities() & ~sets.bounding == 0
    assert errno_of(lambda: syscalls.capget(2**22 + 1)) == errno.ESRCH
    with pytest.raises(NotFound, match="no process"):
        capabilities.held(2**22 + 1)


def test_capabilities_that_a_child_gave_up_are_not_held() -> None:
    def act() -> bool:
        syscalls.prctl(c.PR_CAPBSET_DROP, capabilities.BITS["CAP_NET_RAW"])
        net_raw = capabilities.mask_of(["net_raw"])
        sets = capabilities.held()
        return not sets.bounding & net_raw and not capabilities.host_capabilities() & net_raw

    assert exit_code_of(act) == 0


# Namespaces


def test_namespace_descriptors_by_pidfd_and_by_procfs() -> None:
    with syscalls.pidfd_open(os.getpid()) as pidfd:
        for kind in namespaces.FILES:
            inode = namespaces.namespace_id("self", kind)
            for opened in (
                namespaces.open_namespace(pidfd, kind),
                namespaces._open_through_procfs(pidfd, kind),
                namespaces.open_namespace_path(f"/proc/self/ns/{namespaces.FILES[kind]}", kind),
            ):
                with opened as namespace:
                    assert os.fstat(namespace).st_ino == inode
                    assert namespaces.kind_of(namespace) == kind
                    assert os.get_inheritable(namespace) is False


def test_a_namespace_of_who_took_the_pid_over_is_not_given_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    before = os.listdir("/proc/self/fd")
    with syscalls.pidfd_open(child) as pidfd:
        os.waitpid(child, 0)
        # As if the child had been alive when asked for its pid, and this process had it now.
        monkeypatch.setattr(namespaces, "pid_of", lambda pidfd: os.getpid())
        with pytest.raises(SyscallError, match="ESRCH"):
            namespaces._open_through_procfs(pidfd, "network")
    assert os.listdir("/proc/self/fd") == before


def test_a_path_that_is_no_such_namespace(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="a uts namespace, expected a network namespace"):
        namespaces.open_namespace_path("/proc/self/ns/uts", "network")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FailedPrecondition, match="not a namespace"):
        namespaces.open_namespace_path(str(tmp_path / "fifo"), "network")
    with pytest.raises(FailedPrecondition, match="not a namespace"):
        namespaces.open_namespace_path(str(tmp_path), "network")
    with pytest.raises(SyscallError, match="ENOENT"):
        namespaces.open_namespace_path(str(tmp_path / "nosuch"), "network")
    with pytest.raises(InvalidArgument, match="not a pidfd"):
        namespaces.pid_of(0)


def test_who_is_in_a_pid_namespace() -> None:
    """A small pid namespace, seen from the host: its init, what runs in it, nobody else."""
    script = (
        "import os, signal\n"
        "from onggi.kernel import syscalls\n"
        "syscalls.unshare(0x20000000)\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        print('ready', flush=True)\n"
        "    signal.pause()\n"
        "os.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "an argument"], stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdout is not None
        try:
            assert outer.stdout.readline() == "ready\n"
            (init,) = (p for p in processes.list_pids() if _parent(p) == outer.pid)
            inode = namespaces.namespace_id(init, "pid")
            inside = namespaces.processes_in("pid", inode)
            views = [processes.view(pid) for pid in inside]
            assert [view.status.pids[-1] for view in views] == [1, 2]
            assert [view.stat.parent_pid for view in views] == [outer.pid, init]
            assert all(view.arguments[-1] == "an argument" for view in views)
            assert os.getpid() not in inside
        finally:
            # The end of a pid namespace's init ends all in it.
            for pid in processes.list_pids():
                if _parent(pid) == outer.pid:
                    os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int:
    try:
        return processes.read_stat(pid).parent_pid
    except NotFound:
        return -1


# Processes by their facts


def test_facts_of_this_process() -> None:
    view = processes.view(os.getpid())
    assert view.stat.pid == os.getpid()
    assert view.stat.parent_pid == os.getppid()
    assert view.stat.session == os.getsid(0)
    assert view.stat.resident_pages > 100
    assert view.status.uids == (*os.getresuid(), os.geteuid())
    assert view.status.pids == (os.getpid(),)
    assert view.arguments
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - (
        view.stat.start_time_ticks / os.sysconf("SC_CLK_TCK")
    )
    assert age_s >= 0
    assert len(processes.boot_id()) == 36
    assert os.getpid() in processes.list_pids()


def test_a_hostile_name_and_endless_arguments() -> None:
    script = (
        "import os\n"
        "open('/proc/self/comm', 'wb').write(b') R 1 1 (\\n\\r\\xff')\n"
        "print('ready', flush=True)\n"
        "os.read(0, 1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *["x" * 100_000] * 3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
        view = processes.view(child.pid)
        assert view.stat.comm == ") R 1 1 (\n\r\udcff"
        assert view.stat.parent_pid == os.getpid()
        assert sum(len(a) + 1 for a in view.arguments) <= processes.MAX_ARGUMENTS_BYTES + 1
        child.stdin.close()


def test_the_same_process_or_none() -> None:
    pid = os.getpid()
    started = processes.start_time_ticks(pid)
    with processes.open_same_process(pid, started) as pidfd:
        assert namespaces.pid_of(pidfd) == pid
    with pytest.raises(NotFound, match="its number is another's now"):
        processes.open_same_process(pid, started - 1)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(NotFound, match="has ended"):
        processes.open_same_process(child, started)
    with pytest.raises(NotFound, match=f"no process {child}"):
        processes.read_arguments(child)
    with pytest.raises(NotFound, match=f"no process {child}"):
        namespaces.namespace_ids(child)


def test_a_zombie_is_seen_as_one() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert processes.read_stat(child).state == "Z"
        assert processes.read_arguments(child) == ()
        with pytest.raises(NotFound):
            namespaces.namespace_id(child, "mount")
    finally:
        os.waitpid(child, 0)
