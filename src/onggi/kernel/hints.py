"""What to do when a system call fails: hints by call, errno and arguments.

Pure: nothing is probed. The texts are also for failures that keel reports, so calls that only keel
makes are here too.
"""

from __future__ import annotations

import errno as e

#: The first kernel that has a call.
SINCE: dict[str, str] = {
    "clone3": "5.3",
    "close_range": "5.9",
    "fsconfig": "5.2",
    "fsmount": "5.2",
    "fsopen": "5.2",
    "fspick": "5.2",
    "move_mount": "5.2",
    "mount_setattr": "5.12",
    "open_tree": "5.2",
    "openat2": "5.6",
    "pidfd_getfd": "5.6",
    "pidfd_open": "5.3",
    "pidfd_send_signal": "5.1",
}

_NO_USER_NAMESPACES = (
    "user namespaces are disabled on this host; enable them with "
    "`sysctl user.max_user_namespaces=15000`, on Debian kernels also "
    "`kernel.unprivileged_userns_clone=1`, under AppArmor also "
    "`kernel.apparmor_restrict_unprivileged_userns=0`"
)
_TOO_MANY_NAMESPACES = (
    "too many namespaces, or nested deeper than 32; raise the limits `sysctl user` lists"
)
_NOT_ADMINISTRATOR = "it needs CAP_SYS_ADMIN: run as root, or inside a user namespace of your own"
_NO_IDMAP = (
    "this file system takes no ID-mapped mounts on this kernel (ext4, xfs, btrfs: 5.12 to 5.15, "
    "overlay's layers: 5.19, tmpfs: 6.3), or the mount is attached already"
)

_NO_PLACE = (
    "a directory goes on a directory and a file on a file, both in this mount namespace, and "
    "nothing goes on a symbolic link"
)

#: (call, errno, text the arguments must contain) → hint. The first that fits is taken.
_HINTS: tuple[tuple[str, int, str, str], ...] = (
    ("clone3", e.EPERM, "NEWUSER", _NO_USER_NAMESPACES),
    ("clone3", e.EPERM, "", _NOT_ADMINISTRATOR),
    ("clone3", e.ENOSPC, "", _TOO_MANY_NAMESPACES),
    ("clone3", e.EUSERS, "", _TOO_MANY_NAMESPACES),
    ("clone3", e.EAGAIN, "", "a limit on processes is reached (pids cgroup, RLIMIT_NPROC)"),
    ("clone3", e.EBUSY, "", "the cgroup has controllers for its children: use a leaf cgroup"),
    ("unshare", e.EPERM, "NEWUSER", _NO_USER_NAMESPACES),
    ("unshare", e.EPERM, "", _NOT_ADMINISTRATOR),
    ("unshare", e.ENOSPC, "", _TOO_MANY_NAMESPACES),
    ("unshare", e.EUSERS, "", _TOO_MANY_NAMESPACES),
    ("unshare", e.EINVAL, "NEWUSER", "a process with threads cannot leave its user namespace"),
    ("setns", e.EPERM, "", "it needs CAP_SYS_ADMIN in the user namespace that owns the target"),
    ("setns", e.EINVAL, "", "not a namespace of that kind, or the caller has threads"),
    ("setns", e.ESRCH, "", "the process whose namespaces were to be joined has ended"),
    ("fsopen", e.ENODEV, "", "this kernel does not know the file system; load its module"),
    ("fsopen", e.EPERM, "", _NOT_ADMINISTRATOR),
    ("fsconfig", e.EPERM, "", "this file system cannot be mounted in a user namespace"),
    ("fsconfig", e.EBUSY, "", "its source or a layer is in use by another mount"),
    ("mount_setattr", e.EINVAL, "IDMAP", _NO_IDMAP),
    ("mount_setattr", e.EOPNOTSUPP, "IDMAP", _NO_IDMAP),
    ("mount_setattr", e.EPERM, "IDMAP", "the mount has an ID mapping already, or is not ours"),
    ("mount_setattr", e.EPERM, "", "a locked attribute of a mount from outside cannot be cleared"),
    ("mount_setattr", e.EINVAL, "", "the path is not the root of a mount, or bits contradict"),
    ("open_tree", e.EINVAL, "", "unbindable, or it has mounts below that a copy would uncover"),
    ("open_tree", e.EPERM, "", _NOT_ADMINISTRATOR),
    ("open_tree", e.ENOSPC, "", "too many mounts; raise `sysctl fs.mount-max`"),
    ("move_mount", e.ENOSPC, "", "too many mounts; raise `sysctl fs.mount-max`"),
    ("move_mount", e.EINVAL, "", _NO_PLACE),
    ("move_mount", e.ENOTDIR, "", _NO_PLACE),
    ("move_mount", e.ELOOP, "", "the target lies inside the tree that was to be moved"),
    ("umount2", e.EBUSY, "", "something below it is in use; `fuser -vm` names it"),
    ("umount2", e.EINVAL, "", "not a mount point, or one locked from outside"),
    ("pivot_root", e.EINVAL, "", "the new root is no mount point, or its parent mount is shared"),
    ("pivot_root", e.EBUSY, "", "the new root is on the mount that is the root already"),
    ("openat2", e.EXDEV, "", "the path leads out of where it must stay"),
    ("openat2", e.ELOOP, "", "a symbolic link where none may be, a loop, or a link of procfs"),
    ("openat2", e.EAGAIN, "", "something on this host keeps renaming directories; try again"),
    ("pidfd_open", e.ESRCH, "", "the process has ended"),
    ("pidfd_open", e.EINVAL, "", "it is a thread, not a process"),
    ("pidfd_getfd", e.EPERM, "", "it needs the right to ptrace the process"),
    ("pidfd_send_signal", e.ESRCH, "", "the process has ended"),
    ("waitid", e.ECHILD, "", "not a child of this process, or reaped already"),
    ("memfd_create", e.EACCES, "", "executable memfds are forbidden: `sysctl vm.memfd_noexec=1`"),
    ("keyctl", e.EDQUOT, "", "too many keys; raise `sysctl kernel.keys.maxkeys`"),
)


def hint_for(call: str, arguments: str, errno: int) -> str | None:
    """What a person can do about it, where that is known; `arguments` is the call's text."""
    if errno == e.ENOSYS:
        since = f"needs Linux {SINCE[call]} or newer, and " if call in SINCE else "needs "
        return since + "a seccomp filter around this process that allows it"
    for of_call, of_errno, part, text in _HINTS:
        if of_call == call and of_errno == errno and part in arguments:
            return text
    if errno in (e.EMFILE, e.ENFILE):
        return "too many open files; raise RLIMIT_NOFILE (`ulimit -n`) or `sysctl fs.file-max`"
    return None
