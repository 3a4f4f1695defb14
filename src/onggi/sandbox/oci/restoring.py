"""`restore`: a container whose processes come from CRIU's files instead of from a plan.

Order as in `creation`: the record says that it is being made; cgroup; CRIU, born in it, so that
whatever is left of one that was killed is found there; the record says who it is; only then does
CRIU let it run. A failure leaves nothing. CRIU looks for the root in a mount namespace of this
process's own, which nothing outlives.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    SyscallError,
    from_os_error,
)
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.constants import AT_FDCWD, CLONE_NEWNS
from onggi.kernel.descriptors import Descriptor
from onggi.kernel.liveness import look_at
from onggi.kernel.mounts import MS_SLAVE
from onggi.kernel.namespaces import FILES, open_namespace_path
from onggi.kernel.paths import create_file, make_directories, open_in_root
from onggi.kernel.syscalls import mount_setattr, move_mount, open_tree, pidfd_open, unshare
from onggi.runtime.host import probe
from onggi.runtime.validate import validate
from onggi.sandbox.messages import Exited
from onggi.sandbox.oci import ending, hooks, limits, outside
from onggi.sandbox.oci.checkpointing import config_file
from onggi.sandbox.oci.consoles import (
    check_terminal,
    connect_console,
    send_terminal,
    settle_terminal,
)
from onggi.sandbox.oci.creation import Order, first_record, make_place, read_config
from onggi.sandbox.oci.criu import FIRST_LENT_FD, Criu, Place
from onggi.sandbox.oci.criu_messages import RESTORE, Value
from onggi.sandbox.oci.records import CONFIG_NAME, Directory, Record, Store, write_whole
from onggi.specs import jsontext
from onggi.specs.runtime import Config, Linux, Mount, parse_config

LOG_NAME = "restore.log"
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_NAMES_BYTES = 64 * 1024


class Restore:
    """What `restore` is told beside what `create` is. `options`: CRIU's own, by name."""

    __slots__ = ("images", "options", "program", "work")

    def __init__(self, program: str, images: str, work: str, options: Mapping[str, Value]) -> None:
        self.program = program
        self.images = images
        self.work = work
        self.options = options


class Restored:
    """A container's first process, this process's child. `terminal`: its master, or -1."""

    __slots__ = ("pid", "pidfd", "terminal")

    def __init__(self) -> None:
        self.pid = 0
        self.pidfd = -1
        self.terminal = -1

    def fileno(self) -> int:
        return self.pidfd

    def exited(self) -> Exited:
        """How it ended. Waits: `fileno` is readable when it has."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return Exited(max(code, -1), max(-code, 0), os.WCOREDUMP(status), time.time_ns(), 0)

    def close(self) -> None:
        """Nothing is held: `pidfd` and `terminal` are the caller's."""


def restore(store: Store, create: Order, order: Restore) -> Restored:
    """Make a container of the processes in a checkpoint; the caller closes what is in the answer.

    Raises:
        AlreadyExists: the id is taken. SpecError: the configuration is wrong.
        NotFound: there is no checkpoint. Unavailable: CRIU fails; nothing is left.
    """
    text = read_config(create.config_path)
    config = parse_config(text)
    validate(config)
    outside.check(config)
    check_terminal(
        config.process is not None and config.process.terminal,
        create.console_socket,
        detached=not create.waits,
    )
    leave_mounts()
    with ExitStack() as stack:
        place = stack.enter_context(Place(order.images, order.work, LOG_NAME, make=False))
        names = read_names(place)
        directory = stack.enter_context(store.claim(create.id))
        directory.lock()
        record = first_record(create, config)
        record.restored = True
        try:
            directory.write(record)
            directory.write_file(CONFIG_NAME, text)
            making = _Making(directory, record, create, config)
            making.run(order, place, names)
            return making.made
        except BaseException:
            ending.clean(directory, record)
            raise


def read_names(place: Place) -> list[str]:
    """What stdio was called when it was kept.

    Raises:
        DataLoss: the file is damaged. EngineError: there is none.
    """
    name = outside.DESCRIPTORS_NAME
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=place.images)
    except OSError as error:
        raise from_os_error(error, f"no whole checkpoint: open {name}") from None
    with open(fd, "rb", buffering=0) as file:
        names = jsontext.decode(file.read(_MAX_NAMES_BYTES))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataLoss(f"{name} of the checkpoint is not a list of names")
    return names[:3]


class _Making:
    """One restore. `made`: what has come of it."""

    def __init__(self, directory: Directory, record: Record, create: Order, config: Config) -> None:
        self.directory = directory
        self.record = record
        self.create = create
        self.config = config
        self.made = Restored()

    def run(self, order: Restore, place: Place, names: Sequence[str]) -> None:
        record, create = self.record, self.create
        try:
            with ExitStack() as stack:
                self._place = stack.enter_context(
                    make_place(self.directory, record, create, self.config, probe())
                )
                cgroup = self._place.cgroup
                record.cgroup = cgroup.path if cgroup else ""
                record.freezer = limits.freezer_file(cgroup) if cgroup else ""
                self.directory.write(record)
                self._console = stack.enter_context(connect_console(create.console_socket))
                lent, named = self._namespaces(stack)
                root = os.path.realpath(record.rootfs)
                make_places(self.config, root, create.bundle)
                let_root_read(self.config, place.images)
                mount_root(root)
                running = stack.enter_context(Criu(order.program, (0, 1, 2), lent))
                options = {
                    **self._options(cgroup, running.pid, order),
                    "root": root,
                    "inherit_fd": [*_stdio(names), *named],
                }
                running.ask(RESTORE, options, place, self._notified)
                if not self.made.pid:
                    raise FailedPrecondition("criu restored nothing that it told of")
        except BaseException:
            self._undo()
            raise

    def _options(self, cgroup: Cgroup | None, pid: int, order: Restore) -> dict[str, Value]:
        record = self.record
        return {
            "rst_sibling": True,
            "manage_cgroups": True,
            "evasive_devices": True,
            "orphan_pts_master": True,
            "ext_masters": True,
            "external": outside.sources(self.config, record.bundle, cgroup),
            "join_ns": [
                {1: FILES[kind], 2: path}
                for kind, path in outside.namespaces_of_others(self.config)
                if kind not in outside.EXTERNAL_NAMESPACES
            ],
            "cg_root": _enter_cgroup(cgroup, pid),
            **config_file(self.config),
            **order.options,
        }

    def _namespaces(self, stack: ExitStack) -> tuple[list[int], list[Value]]:
        """Those of others that CRIU is lent: descriptors, and their names."""
        lent: list[int] = []
        named: list[Value] = []
        for kind, path in outside.namespaces_of_others(self.config):
            if key := outside.EXTERNAL_NAMESPACES.get(kind):
                named.append({1: key, 2: FIRST_LENT_FD + len(lent)})
                lent.append(stack.enter_context(open_namespace_path(path, kind)))
        return lent, named

    def _notified(self, stage: str, pid: int, fd: int) -> None:
        if stage == "setup-namespaces":
            for kind in ("prestart", "createRuntime"):
                hooks.require(kind, pid, self.directory, self.record)
        elif stage == "orphan-pts-master" and fd >= 0:
            self._take_terminal(fd)
        elif stage == "post-restore":
            self._put_on_record(pid)

    def _take_terminal(self, master: int) -> None:
        """One terminal goes to the caller. A container may have made more: nobody reads those."""
        if self.create.console_socket:
            try:
                send_terminal(self._console, master)
            finally:
                os.close(master)
            self.create.console_socket = ""
        elif self.create.waits and self.made.terminal < 0:
            settle_terminal(master)
            self.made.terminal = master
        else:
            os.close(master)

    def _put_on_record(self, pid: int) -> None:
        """Who it is, before it runs."""
        record, made = self.record, self.made
        made.pidfd = pidfd_open(pid).detach()
        made.pid = pid
        look = look_at(pid)
        record.pid, record.start_time = pid, look.start_time if look else 0
        self.directory.write(record)
        if self.create.pid_file:
            write_whole(None, self.create.pid_file, str(pid).encode(), 0o644)
        self._place.settle()

    def _undo(self) -> None:
        """Before the record is cleaned away: what was made is this process's child."""
        made = self.made
        if made.pid:
            with suppress(OSError):
                os.kill(made.pid, ending.SIGKILL)
                os.waitpid(made.pid, 0)
        for fd in (made.pidfd, made.terminal):
            if fd >= 0:
                os.close(fd)


def _stdio(names: Sequence[str]) -> list[Value]:
    """Our own 0 to 2 in the places of what was there; one thing in two places is one name."""
    first = {name: fd for fd, name in reversed(list(enumerate(names))) if outside.is_given(name)}
    return [{1: name, 2: fd} for name, fd in first.items()]


def _enter_cgroup(cgroup: Cgroup | None, pid: int) -> list[Value]:
    """Put CRIU where the container is to be; where that is in each hierarchy, for what it moves."""
    try:
        for path in cgroup.procs_paths() if cgroup else ():
            with open(path, "w", encoding="ascii") as file:
                file.write(str(pid))
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError as error:
        raise from_os_error(error, "put criu into the container's cgroup") from error
    roots: list[Value] = []
    for _, names, path in rows:
        if not names:
            roots.append({2: path})  # v2, and whatever is not named
        roots += [{1: name, 2: path} for name in names.split(",") if name]
    return roots


def make_places(config: Config, rootfs: str, bundle: str) -> None:
    """Where mounts go, as `create` makes them.

    What is below a bind is made in its source, unless that is only to be read; what is below a
    mount of CRIU's comes with its content.

    Raises:
        SyscallError: a place cannot be made.
    """
    roots = {"": rootfs}
    for mount in config.mounts:
        place = outside.place_of(mount)
        covers = max((root for root in roots if place.startswith(f"{root}/")), key=len)
        if roots[covers]:
            _make_place(roots[covers], place.removeprefix(covers), mount, bundle)
        writable = outside.is_bind(mount) and not outside.is_read_only(mount)
        roots[place] = _source(mount, bundle) if writable else ""


def _source(mount: Mount, bundle: str) -> str:
    return os.path.join(bundle, mount.source or "")


def _make_place(root: str, place: str, mount: Mount, bundle: str) -> None:
    try:
        fd = Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise from_os_error(error, f"open {root!r}, where {mount.destination!r} goes") from error
    with fd as directory:
        if not outside.is_bind(mount) or os.path.isdir(_source(mount, bundle)):
            make_directories(directory, place).close()
            return
        try:
            open_in_root(directory, place, os.O_PATH).close()
        except SyscallError:
            with make_directories(directory, os.path.dirname(place)) as parent:
                create_file(parent, os.path.basename(place)).close()


def let_root_read(config: Config, images: int) -> None:
    """The images' group becomes that of root inside a user namespace, who opens them for CRIU.

    To read, not to write: they say what is restored.
    """
    mappings = (config.linux or Linux()).gid_mappings
    gid = next((m.host_id - m.container_id for m in mappings if m.container_id == 0), 0)
    if not gid:
        return
    try:
        os.fchown(images, -1, gid)
        os.fchmod(images, os.fstat(images).st_mode & 0o7777 | 0o010)
        for name in os.listdir(images):
            with Descriptor(os.open(name, _LOOK, dir_fd=images)) as fd:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.fchown(fd, -1, gid)
                    os.fchmod(fd, os.fstat(fd).st_mode & 0o7777 | 0o040)
    except OSError as error:
        raise from_os_error(error, "let root of the container read the images") from error


def leave_mounts() -> None:
    """A mount namespace of this process's own, before anything is opened that CRIU mounts on.

    Mounts of the host still arrive, and none goes back.
    """
    unshare(CLONE_NEWNS)
    mount_setattr(AT_FDCWD, "/", propagation=MS_SLAVE, recursive=True)


def mount_root(rootfs: str) -> None:
    """The root over itself: CRIU wants a mount. Source: criu(8) --root."""
    with open_tree(AT_FDCWD, rootfs, clone=True, recursive=True) as tree:
        move_mount(tree, AT_FDCWD, rootfs)
