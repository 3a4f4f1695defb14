"""The root filesystem of a BusyBox image, out of the program alone.

Knows nothing of where the program comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onggi.errors import InvalidArgument
from onggi.image.tar_reader import DIRECTORY, HARD_LINK, REGULAR, Entry

#: The table of applet names in the program starts with these two.
_TABLE = b"\0[\0[[\0"
_MAX_APPLETS = 1000

_DIRECTORIES = (
    ("", 0o755),
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var", 0o755),
    ("var/spool", 0o755),
    ("var/spool/mail", 0o755),
    ("var/www", 0o755),
)
_FILES = (
    (
        "etc/group",
        0o644,
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\n"
        "wheel:x:10:root\nwww-data:x:33:\nutmp:x:43:\nstaff:x:50:\nusers:x:100:\n"
        "nogroup:x:65534:\n",
    ),
    ("etc/hostname", 0o644, ""),
    ("etc/hosts", 0o644, ""),
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "bin:x:2:2:bin:/bin:/bin/false\nsys:x:3:3:sys:/dev:/bin/false\n"
        "mail:x:8:8:mail:/var/spool/mail:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    ),
    ("etc/resolv.conf", 0o644, ""),
    ("etc/shadow", 0o600, "root:*:::::::\n"),
)


def applets_of(program: bytes) -> tuple[str, ...]:
    """The applet names that are compiled into a BusyBox, sorted.

    Raises:
        InvalidArgument: not an ELF program, or one without applets.
    """
    start = program.find(_TABLE)
    if not program.startswith(b"\x7fELF") or start < 0:
        raise InvalidArgument("not a BusyBox program: no table of applets in it")
    table = program[start + 1 : program.find(b"\0\0", start + 1)]
    names = table.split(b"\0")[:_MAX_APPLETS]
    if any(not name or not name.isascii() or b"/" in name for name in names):
        raise InvalidArgument("not a BusyBox program: its table of applets is damaged")
    return tuple(sorted(name.decode() for name in names))


def rootfs_entries(
    program: bytes, applets: Sequence[str], mtime_s: int
) -> Iterator[tuple[Entry, bytes]]:
    """The members of the root filesystem's tar; every applet is a hard link to the program."""
    for path, mode in _DIRECTORIES:
        yield _entry(path or "./", DIRECTORY, mode, mtime_s), b""
    yield _entry("bin/busybox", REGULAR, 0o755, mtime_s, len(program)), program
    for name in applets:
        if name != "busybox":
            link = _entry(f"bin/{name}", HARD_LINK, 0o755, mtime_s)
            link.link = b"bin/busybox"
            yield link, b""
    for path, mode, text in _FILES:
        data = text.encode()
        yield _entry(path, REGULAR, mode, mtime_s, len(data)), data


def _entry(path: str, kind: int, mode: int, mtime_s: int, size_bytes: int = 0) -> Entry:
    owner = 0
    return Entry(path.encode(), kind, mode, owner, owner, size_bytes, mtime_s * 10**9, b"")
