"""Mounts as values: option strings to bits, and /proc/PID/mountinfo to rows.

Everything here is pure but `read_mountinfo`. This room does not mount (`syscalls` does), and it
does not know which options a container may have (`runtime` does).
"""

from __future__ import annotations

import os
import re

import msgspec

from onggi.kernel.procfs import read_process_file

# Bits of mount_setattr(2) and fsmount(2), linux/mount.h.
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

# Propagation, as in mount(2) and in `propagation` of struct mount_attr.
MS_REC = 1 << 14
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

#: Option → (bits to set, bits to clear). The recursive form of each is its name behind an `r`.
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    # The access time mode is one field of the mask: the kernel wants all of it cleared before
    # any of it is set (mount_setattr(2), EINVAL otherwise).
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "relatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
}

#: Option → the access time mode that it takes back; what remains is the kernel's own, relatime.
ATTRIBUTE_NEGATIONS: dict[str, int] = {
    "atime": MOUNT_ATTR_NOATIME,
    "nostrictatime": MOUNT_ATTR_STRICTATIME,
}

PROPAGATIONS: dict[str, int] = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

#: Words of mount(8) which say what is already so: relatime is what a mount has unless told
#: otherwise, and the new mount API logs to its descriptor instead of the kernel's log.
#: ACLs and inode versions are what file systems decide themselves; the rest is for mount(8) alone.
WITHOUT_EFFECT = frozenset(
    "defaults norelatime rnorelatime silent loud acl noacl iversion noiversion "
    "auto noauto user nouser users nousers owner noowner group nogroup nofail _netdev".split()
)


class MountOptions(msgspec.Struct, frozen=True):
    """What a list of mount options asks for.

    `attributes_*` are MOUNT_ATTR_* bits for the mount itself, `recursive_*` for it and every mount
    below it (apply those with AT_RECURSIVE, after the others). The same bits can stand in set and
    clear only for the access time mode. `propagation` is one MS_* type, with MS_REC where it is
    recursive; 0 leaves it alone. `data` are the options for the file system, in order; superblock
    flags of the VFS (`sync`, `dirsync`, `lazytime`, `mand` and their opposites) are among them,
    because fsconfig(2) takes them by name. `ro` is the mount's only, never the superblock's.
    """

    attributes_set: int = 0
    attributes_clear: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: int = 0
    bind: bool = False
    recursive: bool = False
    idmap: bool = False
    recursive_idmap: bool = False
    copy_up: bool = False
    data: tuple[str, ...] = ()
    remount: bool = False


_SWITCHES: dict[str, dict[str, bool]] = {
    "bind": {"bind": True},
    "rbind": {"bind": True, "recursive": True},
    "idmap": {"idmap": True},
    "ridmap": {"idmap": True, "recursive_idmap": True},
    "tmpcopyup": {"copy_up": True},
    "remount": {"remount": True},
}


def parse_options(options: tuple[str, ...]) -> MountOptions:
    """Sort options as mount(8) and config.json write them; where two contradict, the last one wins.

    An element may hold several options between commas; quotes and backslashes protect a comma.
    Unknown options are taken for the file system's own: only it can tell.

    Source: runtime-spec config.md#linux-mount-options, mount(8), mount_setattr(2).
    """
    switches: dict[str, bool] = {}
    own, below = (0, 0), (0, 0)
    propagation = 0
    data: list[str] = []
    for option in (part for element in options for part in split_options(element)):
        if option in _SWITCHES:
            switches |= _SWITCHES[option]
        elif option in PROPAGATIONS:
            propagation = PROPAGATIONS[option]
        elif _is_attribute(option):
            own = _apply(own, option)
        elif option[:1] == "r" and _is_attribute(option[1:]):
            below = _apply(below, option[1:])
        elif option not in WITHOUT_EFFECT:
            data.append(option)
    return MountOptions(*own, *below, propagation, data=tuple(data), **switches)


def _is_attribute(option: str) -> bool:
    return option in ATTRIBUTES or option in ATTRIBUTE_NEGATIONS


def _apply(bits: tuple[int, int], option: str) -> tuple[int, int]:
    """The (set, clear) pair after one more option."""
    to_set, to_clear = bits
    if option in ATTRIBUTES:
        new_set, new_clear = ATTRIBUTES[option]
        return (to_set & ~new_clear) | new_set, (to_clear & ~new_set) | new_clear
    if to_set & MOUNT_ATTR__ATIME & ~ATTRIBUTE_NEGATIONS[option]:
        return bits  # another mode was asked for: there is nothing to take back
    return to_set & ~MOUNT_ATTR__ATIME, to_clear | MOUNT_ATTR__ATIME


_OPTION = re.compile(r'(?:[^,"\\]|\\.|"[^"]*"|["\\])+', re.DOTALL)


def split_options(text: str) -> list[str]:
    """Split `a,b=c` at its commas, but not inside double quotes or behind a backslash.

    Quotes are taken off; backslashes stay, since overlay reads them itself.
    """
    return [part.replace('"', "") for part in _OPTION.findall(text)]


class MountInfo(msgspec.Struct, frozen=True):
    """One line of /proc/PID/mountinfo, unescaped. `optional` holds `shared:N`, `master:N` and such.

    Paths are as seen by the process whose file it is; bytes that are not UTF-8 are surrogates, so
    `os.fsencode` gives them back. `root` ends with `//deleted` where the mounted directory is gone.

    Source: proc_pid_mountinfo(5).
    """

    mount_id: int
    parent_id: int
    major: int
    minor: int
    root: str
    mount_point: str
    options: tuple[str, ...]
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


_ESCAPE = re.compile(rb"\\([0-7]{3})")


def unescape(field: bytes) -> str:
    r"""Undo the kernel's octal escapes (`\040` is a space) in one field."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), field))


def parse_mountinfo(content: bytes) -> tuple[MountInfo, ...]:
    """Every line, in the kernel's order.

    Raises:
        ValueError: a line that no kernel writes.
    """
    return tuple(_parse_line(line) for line in content.split(b"\n") if line)


def _parse_line(line: bytes) -> MountInfo:
    # A source may be empty, which shows as two spaces: split at every single one.
    fields = line.split(b" ")
    try:
        separator = fields.index(b"-", 6)
        fstype, source, super_options = fields[separator + 1 :]
        major, _, minor = fields[2].partition(b":")
        return MountInfo(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            major=int(major),
            minor=int(minor),
            root=unescape(fields[3]),
            mount_point=unescape(fields[4]),
            options=tuple(os.fsdecode(fields[5]).split(",")),
            optional=tuple(os.fsdecode(field) for field in fields[6:separator]),
            fstype=unescape(fstype),
            source=unescape(source),
            super_options=tuple(unescape(option) for option in super_options.split(b",")),
        )
    except ValueError as error:
        raise ValueError(f"not a line of mountinfo: {line!r}") from error


def read_mountinfo(pid: int | str = "self") -> tuple[MountInfo, ...]:
    """The mounts in the mount namespace of a process, which it can reach from its root.

    Raises:
        NotFound: no such process. PermissionDenied: not ours to look at.
    """
    return parse_mountinfo(read_process_file(pid, "mountinfo"))
