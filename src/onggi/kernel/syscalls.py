"""Linux system calls that Python's `os` lacks, typed, with errors that say what to do.

Arguments named `…fd` and `tree` are borrowed numbers; what is returned as a `Descriptor` is the
caller's to close, and is always close-on-exec. Each function is one call, and every failure is a
`SyscallError` (a NUL inside a text: `InvalidArgument`). There is no clone3: Python never forks a
container's process, keel does (ARCHITECTURE.md).
"""

from __future__ import annotations

import errno
import os
import struct

from onggi.errors import SyscallError
from onggi.kernel import constants as c
from onggi.kernel.abi import failed, invoke
from onggi.kernel.descriptors import Descriptor

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


#: _LINUX_CAPABILITY_VERSION_3.
_CAPABILITY_VERSION = 0x20080522

# Mounts


def fsopen(fstype: str) -> Descriptor:
    """A context in which a file system is configured, before it is mounted.

    Source: fsopen(2).
    """
    return Descriptor(invoke("fsopen", fstype.encode(), c.FSOPEN_CLOEXEC, text=repr(fstype)))


def fspick(dirfd: int, path: str = "") -> Descriptor:
    """A context in which the superblock under a mount is reconfigured; "" is `dirfd` itself.

    Source: fspick(2).
    """
    flags = c.FSPICK_CLOEXEC | c.FSPICK_SYMLINK_NOFOLLOW | (0 if path else c.FSPICK_EMPTY_PATH)
    return Descriptor(
        invoke("fspick", dirfd, os.fsencode(path), flags, text=f"{_at(dirfd)}, {path!r}")
    )


def fsconfig_flag(fsfd: int, key: str) -> None:
    """Set an option without a value, `ro` for instance. Source: fsconfig(2)."""
    _fsconfig(fsfd, c.FSCONFIG_SET_FLAG, f"SET_FLAG, {key!r}", key)


def fsconfig_string(fsfd: int, key: str, value: str) -> None:
    """Set an option to a text of at most 255 bytes. Source: fsconfig(2)."""
    text = f"SET_STRING, {key!r}, {value!r}"
    _fsconfig(fsfd, c.FSCONFIG_SET_STRING, text, key, value=os.fsencode(value))


def fsconfig_descriptor(fsfd: int, key: str, value: int) -> None:
    """Set an option to an open descriptor. Source: fsconfig(2)."""
    _fsconfig(fsfd, c.FSCONFIG_SET_FD, f"SET_FD, {key!r}, fd {value}", key, auxiliary=value)


def fsconfig_create(fsfd: int) -> None:
    """Make the superblock, or find the one that fits. Source: fsconfig(2)."""
    _fsconfig(fsfd, c.FSCONFIG_CMD_CREATE, "CMD_CREATE")


def fsconfig_reconfigure(fsfd: int) -> None:
    """Give the superblock picked with `fspick` the options set since. Source: fsconfig(2)."""
    _fsconfig(fsfd, c.FSCONFIG_CMD_RECONFIGURE, "CMD_RECONFIGURE")


def fsmount(fsfd: int, attributes: int = 0) -> Descriptor:
    """A detached mount of what was created; `attributes` are MOUNT_ATTR_* bits.

    Source: fsmount(2).
    """
    return Descriptor(
        invoke("fsmount", fsfd, c.FSMOUNT_CLOEXEC, attributes, text=f"fd {fsfd}, {attributes:#x}")
    )


def open_tree(
    dirfd: int, path: str = "", *, clone: bool = True, recursive: bool = False
) -> Descriptor:
    """A detached copy of a mount (`clone`) or a handle on it; "" is `dirfd` itself.

    The last component of `path` is followed if it is a symbolic link. Source: open_tree(2).
    """
    flags = os.O_CLOEXEC | (c.OPEN_TREE_CLONE if clone else 0)
    flags |= (c.AT_RECURSIVE if recursive else 0) | (0 if path else c.AT_EMPTY_PATH)
    text = f"{_at(dirfd)}, {path!r}, {flags:#x}"
    return Descriptor(invoke("open_tree", dirfd, os.fsencode(path), flags, text=text))


def move_mount(tree: int, dirfd: int, path: str = "") -> None:
    """Attach the mount `tree` at a path; "" is `dirfd` itself. Links are not followed.

    Source: move_mount(2).
    """
    flags = c.MOVE_MOUNT_F_EMPTY_PATH | (0 if path else c.MOVE_MOUNT_T_EMPTY_PATH)
    text = f"fd {tree}, {_at(dirfd)}, {path!r}"
    invoke("move_mount", tree, b"", dirfd, os.fsencode(path), flags, text=text)


def mount_setattr(
    dirfd: int,
    path: str = "",
    *,
    attributes_set: int = 0,
    attributes_clear: int = 0,
    propagation: int = 0,
    userns_fd: int | None = None,
    recursive: bool = False,
) -> None:
    """Change a mount's attributes, all or (recursively) none of them; "" is `dirfd` itself.

    `propagation` is one MS_* type without MS_REC. `userns_fd` maps owners through a user
    namespace, which a mount can be given once, while it is detached. A final link is not followed.

    Source: mount_setattr(2).
    """
    if userns_fd is not None:
        attributes_set |= c.MOUNT_ATTR_IDMAP
    attributes = bytearray(
        struct.pack("=4Q", attributes_set, attributes_clear, propagation, userns_fd or 0)
    )
    flags = (c.AT_RECURSIVE if recursive else 0) | (0 if path else c.AT_EMPTY_PATH)
    flags |= c.AT_SYMLINK_NOFOLLOW
    text = (
        f"{_at(dirfd)}, {path!r}, set {attributes_set:#x}, clear {attributes_clear:#x}"
        f"{f', propagation {propagation:#x}' if propagation else ''}"
        f"{f', IDMAP fd {userns_fd}' if userns_fd is not None else ''}"
    )
    invoke("mount_setattr", dirfd, os.fsencode(path), flags, attributes, len(attributes), text=text)


def umount2(path: str, flags: int = c.UMOUNT_NOFOLLOW) -> None:
    """Unmount what is mounted at a path; MNT_DETACH even if it is in use. Source: umount2(2)."""
    invoke("umount2", os.fsencode(path), flags, text=f"{path!r}, {flags:#x}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root of this mount namespace. Source: pivot_root(2)."""
    invoke(
        "pivot_root",
        os.fsencode(new_root),
        os.fsencode(put_old),
        text=f"{new_root!r}, {put_old!r}",
    )


def mount_identity(dirfd: int, path: str = "") -> tuple[int, bool]:
    """The id of the mount that a path is on, and whether the path is that mount's root.

    The id is mountinfo's, and is reused once the mount is gone. "" is `dirfd` itself; a final link
    is not followed.

    Source: statx(2), STATX_MNT_ID (Linux 5.8).
    """
    buffer = bytearray(256)
    flags = c.AT_SYMLINK_NOFOLLOW | (0 if path else c.AT_EMPTY_PATH)
    text = f"{_at(dirfd)}, {path!r}"
    invoke("statx", dirfd, os.fsencode(path), flags, c.STATX_MNT_ID, buffer, text=text)
    attributes: int = struct.unpack_from("=Q", buffer, 8)[0]
    mount_id: int = struct.unpack_from("=Q", buffer, 144)[0]
    return mount_id, bool(attributes & c.STATX_ATTR_MOUNT_ROOT)


# Files


def openat2(dirfd: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> Descriptor:
    """Open a path with a say in how it is resolved (RESOLVE_*). Source: openat2(2)."""
    how = bytearray(struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve))
    text = f"{_at(dirfd)}, {path!r}, {flags:#o}"
    return Descriptor(invoke("openat2", dirfd, os.fsencode(path), how, len(how), text=text))


def renameat2(old_dirfd: int, old: str, new_dirfd: int, new: str, flags: int) -> None:
    """Rename atomically without replacing, or exchange two names (RENAME_*). Source: rename(2)."""
    text = f"{_at(old_dirfd)}, {old!r}, {_at(new_dirfd)}, {new!r}, {flags:#x}"
    invoke("renameat2", old_dirfd, os.fsencode(old), new_dirfd, os.fsencode(new), flags, text=text)


def syncfs(fd: int) -> None:
    """Write everything out of the file system that `fd` is on. Source: syncfs(2)."""
    invoke("syncfs", fd, text=f"fd {fd}")


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close every descriptor in a range (CLOSE_RANGE_CLOEXEC: at the next execve).

    Source: close_range(2).
    """
    invoke("close_range", first, last, flags, text=f"{first}, {last}, {flags:#x}")


def sealed_memfd(name: str, content: bytes, *, executable: bool = False) -> Descriptor:
    """A file in memory which nobody can change any more, at offset 0.

    Source: memfd_create(2), fcntl(2) F_ADD_SEALS.
    """
    memfd = Descriptor(_create_memfd(name, c.MFD_EXEC if executable else c.MFD_NOEXEC_SEAL))
    try:
        number = memfd.fileno()
        text = f"memfd {name!r}, {len(content)} bytes"
        _as_syscall("write", text, lambda: _fill_and_seal(number, content))
    except BaseException:
        memfd.close()
        raise
    return memfd


def _create_memfd(name: str, mode: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return _as_syscall("memfd_create", repr(name), lambda: os.memfd_create(name, flags | mode))
    except SyscallError as error:
        if error.errno != errno.EINVAL:
            raise
    # Linux before 6.3 knows neither MFD_EXEC nor MFD_NOEXEC_SEAL: every memfd can be executed.
    return _as_syscall("memfd_create", repr(name), lambda: os.memfd_create(name, flags))


def _fill_and_seal(fd: int, content: bytes) -> None:
    import fcntl  # noqa: PLC0415 - few who import this room need it

    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


# Processes


def setns(fd: int, kinds: int) -> None:
    """Move this thread into a namespace, or (a pidfd) into several: CLONE_NEW* mask.

    Source: setns(2).
    """
    invoke("setns", fd, kinds, text=f"fd {fd}, {kinds:#x}")


def unshare(flags: int) -> None:
    """Move this thread into new namespaces (CLONE_NEW* mask). Source: unshare(2)."""
    new_user = " NEWUSER" if flags & c.CLONE_NEWUSER else ""
    invoke("unshare", flags, text=f"{flags:#x}{new_user}")


def pidfd_open(pid: int) -> Descriptor:
    """A handle on a process, which no process that gets its number later can take over.

    Source: pidfd_open(2).
    """
    return Descriptor(_as_syscall("pidfd_open", str(pid), lambda: os.pidfd_open(pid)))


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal; 0 only asks whether the process is there. Source: pidfd_send_signal(2)."""
    import signal  # noqa: PLC0415 - it loads enum

    _as_syscall(
        "pidfd_send_signal",
        f"fd {pidfd}, {number}",
        lambda: signal.pidfd_send_signal(pidfd, number),
    )


def pidfd_getfd(pidfd: int, target: int) -> Descriptor:
    """A copy of descriptor `target` of another process. Source: pidfd_getfd(2)."""
    return Descriptor(invoke("pidfd_getfd", pidfd, target, 0, text=f"fd {pidfd}, {target}"))


def pidfd_wait(pidfd: int, options: int = os.WEXITED) -> os.waitid_result | None:
    """Wait for a child; None only with WNOHANG, while it runs. Source: waitid(2) P_PIDFD."""
    return _as_syscall("waitid", f"P_PIDFD, {pidfd}", lambda: os.waitid(os.P_PIDFD, pidfd, options))


def prctl(option: int, *arguments: int) -> int:
    """Ask or change something of this thread or process (PR_*). Source: prctl(2)."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return invoke("prctl", option, *padded, text=", ".join(map(str, (option, *arguments))))


def join_session_keyring(name: str | None = None) -> int:
    """Give this process a session keyring (None: a new one without a name); returns its serial.

    Source: keyctl(2) KEYCTL_JOIN_SESSION_KEYRING.
    """
    value = None if name is None else name.encode()
    return invoke("keyctl", c.KEYCTL_JOIN_SESSION_KEYRING, value, text=f"JOIN_SESSION, {name!r}")


def capget(pid: int = 0) -> tuple[int, int, int]:
    """The effective, permitted and inheritable bit sets of a process; 0 is this thread.

    Source: capget(2).
    """
    header = bytearray(struct.pack("=Ii", _CAPABILITY_VERSION, pid))
    data = bytearray(24)
    invoke("capget", header, data, text=str(pid))
    words = struct.unpack("=6I", data)
    effective, permitted, inheritable = (words[i] | words[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


def set_filesystem_ids(uid: int, gid: int) -> None:
    """Give what this thread makes an owner, and let it keep its capabilities.

    The kernel takes those on files away from a thread whose file system user id leaves root; they
    are asked for again. Source: setfsuid(2), capabilities(7) "Effect of user ID changes".
    """
    effective, permitted, inheritable = capget()
    for call, value in (("setfsgid", gid), ("setfsuid", uid)):
        invoke(call, value, text=str(value))
        if invoke(call, -1, text="-1") != value:  # it fails without a word
            raise failed(call, str(value), errno.EPERM)
    sets = (effective, permitted, inheritable)
    words = [bits >> shift & 0xFFFFFFFF for shift in (0, 32) for bits in sets]
    header = bytearray(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    invoke("capset", header, bytearray(struct.pack("=6I", *words)), text="this thread")


# What the calls above share


def _fsconfig(
    fsfd: int,
    command: int,
    text: str,
    key: str | None = None,
    *,
    value: bytes | None = None,
    auxiliary: int = 0,
) -> None:
    name = None if key is None else os.fsencode(key)
    try:
        invoke("fsconfig", fsfd, command, name, value, auxiliary, text=text)
    except SyscallError as error:
        said = read_context_log(fsfd)
        if not said:
            raise
        raise SyscallError("fsconfig", text, error.errno, hint="; ".join(said)) from None


def read_context_log(fsfd: int) -> tuple[str, ...]:
    """What the kernel has written into a mount context since the last time, oldest first.

    Source: fsopen(2) message retrieval.
    """
    messages: list[str] = []
    while True:
        try:
            message = os.read(fsfd, 4096)
        except OSError:  # ENODATA: no more; any other: there is nothing to be had either
            return tuple(messages)
        messages.append(message.decode("utf-8", "replace").strip())


def _as_syscall(call: str, text: str, act: Callable[[], T]) -> T:
    """Do it with Python's own wrapper, but fail as every call here does."""
    try:
        return act()
    except OSError as error:
        raise failed(call, text, error.errno or 0) from None


def _at(dirfd: int) -> str:
    return "AT_FDCWD" if dirfd == c.AT_FDCWD else f"fd {dirfd}"
