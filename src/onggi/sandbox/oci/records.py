"""What is known of a container between two command lines: `<root>/<id>/state.json`.

The record is written before anything is made for the container, so that whatever a killed command
line left can be found and removed. It is replaced whole; a reader finds the old one or the new one.
Whether the process lives is never read from the record: pid, start time and boot id are compared
with the kernel.
"""

from __future__ import annotations

import fcntl
import os

from onggi.errors import (
    AlreadyExists,
    Conflict,
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    from_os_error,
)
from onggi.kernel.liveness import Look, boot_id, look_at
from onggi.specs import jsontext

TYPE_CHECKING = False  # typing's own costs 9 ms to import
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

RECORD_NAME = "state.json"
CONFIG_NAME = "config.json"
SOCKET_NAME = "start.sock"
NOTIFY_NAME = "notify"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")
_MAX_ID_BYTES = 1024
_MAX_RECORD_BYTES = 32 * 1024 * 1024


class Record:
    """One container. Times in clock ticks are since boot.

    `creator`: pid and start time of the command that makes it, as long as it does (`pid` is 0).
    `notify`: where it sees the directory of its notify socket, empty: nowhere.
    `cgroup`: below the root of each hierarchy, empty: none. `freezer`: the file that says whether
    it stands still, empty: nothing can. `systemd`: its unit, empty: none. `hooks`: which kinds of
    hooks later verbs have to run.
    `restored`: what was once executed goes on, in a process that was only forked.
    """

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup",
        "created",
        "creator",
        "freezer",
        "hooks",
        "id",
        "notify",
        "oci_version",
        "owner",
        "owns_pids",
        "pid",
        "preserved",
        "restored",
        "rootfs",
        "running_boot",
        "start_time",
        "systemd",
        "terminal",
    )

    def __init__(self, **fields: Any) -> None:
        self.id: str = fields["id"]
        self.oci_version: str = fields["oci_version"]
        self.bundle: str = fields["bundle"]
        self.rootfs: str = fields["rootfs"]
        self.created: str = fields["created"]
        self.owner: str = fields["owner"]
        self.annotations: dict[str, str] = fields["annotations"]
        self.running_boot: str = fields["running_boot"]
        self.creator: tuple[int, int] = tuple(fields["creator"])
        self.pid: int = fields.get("pid", 0)
        self.start_time: int = fields.get("start_time", 0)
        self.cgroup: str = fields.get("cgroup", "")
        self.systemd: str = fields.get("systemd", "")
        self.notify: str = fields.get("notify", "")
        self.freezer: str = fields.get("freezer", "")
        self.hooks: list[str] = fields.get("hooks", [])
        self.owns_pids: bool = fields.get("owns_pids", True)
        self.terminal: bool = fields.get("terminal", False)
        self.preserved: int = fields.get("preserved", 0)
        self.restored: bool = fields.get("restored", False)

    def encode(self) -> bytes:
        """The record as it is on disk."""
        return jsontext.encode({name: getattr(self, name) for name in self.__slots__})


class Store:
    """The containers below one root directory."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def claim(self, container_id: str) -> Directory:
        """Take an id that nobody has; its directory, locked.

        Raises:
            AlreadyExists: there is a container of this id. InvalidArgument: not an id.
        """
        check_id(container_id)
        path = f"{self.root}/{container_id}"
        try:
            os.makedirs(self.root, 0o1700, exist_ok=True)  # sticky: not to be tidied away (XDG)
            os.mkdir(path, 0o711)
        except FileExistsError:
            raise AlreadyExists(
                f"container with id exists: {container_id}",
                hint="delete it, or choose another id",
            ) from None
        except OSError as error:
            raise from_os_error(error, "make a container's directory") from error
        return Directory(path, container_id)

    def open(self, container_id: str) -> Directory:
        """The directory of a container.

        Raises:
            NotFound: there is none of this id. InvalidArgument: not an id.
        """
        check_id(container_id)
        return Directory(f"{self.root}/{container_id}", container_id)

    def read(self, container_id: str) -> Record:
        """The record of a container.

        Raises:
            NotFound: there is none of this id. DataLoss: it cannot be read.
        """
        with self.open(container_id) as directory:
            return directory.read()

    def ids(self) -> list[str]:
        """Every id that is taken, sorted."""
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if is_id(name))


class Directory:
    """A container's directory, open. A context manager."""

    __slots__ = ("fd", "id", "path")

    def __init__(self, path: str, container_id: str) -> None:
        self.path = path
        self.id = container_id
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(path, flags)
        except FileNotFoundError:
            raise missing(container_id) from None
        except OSError as error:
            raise from_os_error(error, "open a container's directory") from error

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it, and of its lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lock(self, *, wait: bool = False) -> None:
        """Be the only one who changes this container, until it is closed.

        Raises:
            Conflict: another command is at it. NotFound: it was removed meanwhile.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Conflict(f"another command is at work on container {self.id}") from None
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except FileNotFoundError:
            same = False
        if not same:  # what is there now, if anything, is a container of its own
            raise missing(self.id)

    def read(self) -> Record:
        """Its record.

        Raises:
            NotFound: nothing has been written yet. DataLoss: what is there is no record.
        """
        try:
            value = jsontext.decode(self.read_file(RECORD_NAME))
            return Record(**{name: value[name] for name in Record.__slots__ if name in value})
        except FileNotFoundError:
            raise missing(self.id) from None
        except (KeyError, TypeError) as error:
            raise DataLoss(
                f"the record {self.path}/{RECORD_NAME} is damaged: {error}",
                hint="remove what is left with delete --force",
            ) from None

    def write(self, record: Record) -> None:
        """Replace the record.

        Raises:
            ResourceExhausted: no space is left.
        """
        self.write_file(RECORD_NAME, record.encode())

    def read_file(self, name: str) -> bytes:
        """A file of the directory. Raises: OSError, DataLoss."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            size = os.fstat(fd).st_size
            if size > _MAX_RECORD_BYTES:
                raise DataLoss(f"{self.path}/{name} is longer than {_MAX_RECORD_BYTES} bytes")
            data = os.read(fd, size + 1)
            while more := os.read(fd, 1 << 20):
                data += more
            return data
        finally:
            os.close(fd)

    def write_file(self, name: str, data: bytes) -> None:
        """Put a file in place, whole. What is left of one that was not finished is replaced.

        Raises:
            ResourceExhausted: no space is left.
        """
        write_whole(self.fd, name, data, 0o600)

    def remove(self) -> None:
        """Remove the directory and what is in it. What is gone already is gone."""
        try:
            names = os.listdir(self.fd)
        except FileNotFoundError:
            names = []
        # the record last: as long as there is something, it can be found
        names.sort(key=lambda name: name == RECORD_NAME)
        try:
            for name in names:
                if name == NOTIFY_NAME:
                    import shutil  # noqa: PLC0415 - who sees it has been inside

                    shutil.rmtree(name, dir_fd=self.fd)
                else:
                    os.unlink(name, dir_fd=self.fd)
            os.rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os_error(error, "remove a container's directory") from error


def write_whole(dirfd: int | None, name: str, data: bytes, mode: int) -> None:
    """Write a file under a temporary name and put it in place.

    Raises:
        ResourceExhausted: no space is left.
    """
    folder, slash, last = name.rpartition("/")
    temporary = f"{folder}{slash}.{last}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(temporary, flags, mode, dir_fd=dirfd)
        try:
            if os.write(fd, data) != len(data):
                raise ResourceExhausted(f"no space is left for {name}")
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)
    except OSError as error:
        raise from_os_error(error, "write") from error


def missing(container_id: str) -> NotFound:
    """The error that callers know a missing container by."""
    return NotFound(f'container "{container_id}" does not exist: container does not exist')


def is_id(text: str) -> bool:
    """Whether a text can be an id: it becomes a directory's name."""
    return (
        0 < len(text) <= _MAX_ID_BYTES
        and _NAME_CHARACTERS.issuperset(text)
        and text not in (".", "..")
    )


def check_id(text: str) -> None:
    """Raises: InvalidArgument: not an id."""
    if not is_id(text):
        raise InvalidArgument(
            f"invalid id format: {text[:64]!r}", hint="letters, digits and _ + . - are an id's"
        )


def process_of(record: Record, pid: int = 0, start_time: int = 0) -> Look | None:
    """The container's process if it lives (or another's of the record's boot); else None."""
    pid, start_time = (pid, start_time) if pid else (record.pid, record.start_time)
    if not pid or record.running_boot != boot_id():
        return None
    look = look_at(pid)
    return look if look and look.start_time == start_time and not look.ended else None


def status_of(record: Record) -> str:
    """`creating`, `created`, `running`, `paused` or `stopped`: what the kernel says now.

    Source: runtime-spec runtime.md#state.
    """
    if not record.pid:
        return "creating" if process_of(record, *record.creator) else "stopped"
    look = process_of(record)
    if look is None:
        return "stopped"
    if not look.executed and not record.restored:
        return "created"
    return "paused" if _is_frozen(record.freezer) else "running"


def _is_frozen(path: str) -> bool:
    """Whether somebody has told the cgroup to stand still, on v1 or on v2."""
    if not path:
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(16).strip() in (b"FROZEN", b"FREEZING", b"1")
    except OSError:
        return False
