"""From a bundle to a container that is held, or runs: `create` and `run`.

Order: the record says that it is being made; cgroup; plan; keel; the record says who it is; only
then does keel let go. Killed in between, keel kills what it made, and the record tells `delete` of
the rest. A failure leaves nothing.
"""

from __future__ import annotations

import datetime
import os
import pwd
import socket
from contextlib import ExitStack

from msgspec import structs

from onggi.errors import AlreadyExists, SpecError, from_os_error
from onggi.kernel.liveness import boot_id, own_identity
from onggi.runtime.host import HostFacts, probe
from onggi.runtime.plan import plan
from onggi.runtime.request import Caller, LinkSetup, StartRequest
from onggi.runtime.steps import Plan
from onggi.sandbox.messages import Started
from onggi.sandbox.oci import caller, ending, hooks, limits, readiness
from onggi.sandbox.oci.consoles import (
    check_terminal,
    connect_console,
    send_terminal,
    settle_terminal,
)
from onggi.sandbox.oci.home import with_home
from onggi.sandbox.oci.offspring import Offspring
from onggi.sandbox.oci.records import (
    CONFIG_NAME,
    SOCKET_NAME,
    Directory,
    Record,
    Store,
    write_whole,
)
from onggi.specs.runtime import MAX_CONFIG_BYTES, SPEC_VERSION, Config, Linux, Process, parse_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from onggi.kernel.cgroups.driver import Cgroup

FIRST_PRESERVED_FD = 3


class Order:
    """What `create` and `run` are told.

    `preserved`: how many descriptors from 3 on the application gets. `waits`: the caller stays
    until the end, and takes the terminal itself. `connect`: what brings in the network devices
    that the configuration takes from the host. `cgroups`: who makes them, `cgroupfs` (we),
    `systemd`, `systemd-user`, or nobody (`disabled`). `lenient`: cgroups that
    cannot be had are done without; None: if this is a user.
    """

    __slots__ = (
        "bundle",
        "cgroups",
        "config_path",
        "connect",
        "console_socket",
        "id",
        "keyring",
        "lenient",
        "no_pivot",
        "pid_file",
        "preserved",
        "waits",
        "warn",
    )

    def __init__(
        self,
        container_id: str,
        bundle: str,
        warn: Callable[[str], None],
        *,
        config_path: str = "",
        console_socket: str = "",
        pid_file: str = "",
        preserved: int = 0,
        keyring: bool = True,
        no_pivot: bool = False,
        connect: Callable[[Config], LinkSetup | None] = lambda _: None,
        waits: bool = False,
        cgroups: str = "cgroupfs",
        lenient: bool | None = None,
    ) -> None:
        self.id = container_id
        self.bundle = os.path.abspath(bundle)
        self.config_path = config_path or f"{self.bundle}/{CONFIG_NAME}"
        self.console_socket = console_socket
        self.pid_file = pid_file
        self.preserved = preserved
        self.keyring = keyring
        self.no_pivot = no_pivot
        self.connect = connect
        self.waits = waits
        self.cgroups = cgroups
        self.lenient = lenient
        self.warn = warn


class Made:
    """A container that has been made. `terminal`: its master, owned by the caller; or -1."""

    __slots__ = ("config", "offspring", "pidfd", "record", "terminal")

    def __init__(
        self, record: Record, config: Config, offspring: Offspring, started: Started
    ) -> None:
        self.record = record
        self.config = config
        self.offspring = offspring
        self.pidfd = started.pidfd if started.pidfd is not None else -1
        self.terminal = started.sockets[0] if started.sockets else -1


def create(store: Store, order: Order) -> Made:
    """Make a container; the caller closes what is in the answer.

    Raises:
        AlreadyExists: the id is taken. SpecError: the configuration is wrong.
        StartFailed: the application is not there. EngineError: the host refuses.
    """
    text = read_config(order.config_path)
    config = parse_config(text)
    check_terminal(
        config.process is not None and config.process.terminal,
        order.console_socket,
        detached=not order.waits,
    )
    host = probe(caller.current.pid)
    with ExitStack() as stack:
        directory = stack.enter_context(store.claim(order.id))
        directory.lock()
        record = first_record(order, config)
        try:
            directory.write(record)
            directory.write_file(CONFIG_NAME, text)
            return _make(directory, record, order, config, host)
        except BaseException:
            ending.clean(directory, record)
            raise


def read_config(path: str) -> bytes:
    """The configuration's text.

    Raises:
        NotFound: there is none. SpecError: longer than any configuration is.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise from_os_error(error, "JSON specification file config.json not found: open") from None
    except OSError as error:
        raise from_os_error(error, "open") from None
    with open(fd, "rb", buffering=0) as file:
        data = b""
        while len(data) <= MAX_CONFIG_BYTES and (more := file.read(1 << 20)):
            data += more
    if len(data) > MAX_CONFIG_BYTES:
        raise SpecError("$", f"configuration is longer than {MAX_CONFIG_BYTES} bytes")
    return data


def first_record(order: Order, config: Config) -> Record:
    """What is known before anything is made."""
    root = config.root.path if config.root else ""
    now = datetime.datetime.now(datetime.UTC)
    return Record(
        id=order.id,
        oci_version=SPEC_VERSION,
        bundle=order.bundle,
        rootfs=os.path.normpath(os.path.join(order.bundle, root)),
        created=now.strftime("%Y-%m-%dT%H:%M:%S.%f000Z"),
        owner=_owner(),
        annotations=dict(config.annotations),
        running_boot=boot_id(),
        creator=own_identity(),
        owns_pids=any(n.type == "pid" and not n.path for n in (config.linux or Linux()).namespaces),
        terminal=config.process is not None and config.process.terminal,
        preserved=order.preserved,
        hooks=hooks.later(config),
        notify=readiness.place_of(os.environ.get(readiness.VARIABLE, "")),
    )


def _owner() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _make(
    directory: Directory, record: Record, order: Order, config: Config, host: HostFacts
) -> Made:
    with ExitStack() as stack:
        place = stack.enter_context(make_place(directory, record, order, config, host))
        cgroup = place.cgroup
        record.cgroup = cgroup.path if cgroup else ""
        record.freezer = limits.freezer_file(cgroup) if cgroup else ""
        console = stack.enter_context(connect_console(order.console_socket))
        slots = Slots(stack)
        request = start_request(record, order, slots, cgroup, order.connect(config))
        slots.add(bind_socket(directory, stack))
        if record.notify:
            readiness.make_directory(directory)
        made = plan_start(config, host, request, directory, record)
        for warning in made.warnings:
            order.warn(warning)
        offspring = Offspring(made, slots.fds, order.warn)
        try:
            return _record(directory, record, order, config, offspring, console, place)
        except BaseException:
            offspring.close()
            raise


def make_place(
    directory: Directory, record: Record, order: Order, config: Config, host: HostFacts
) -> limits.Place:
    """The container's cgroup, on record before it is made."""
    if order.cgroups == "disabled":
        return limits.Place(None)
    if order.cgroups != "cgroupfs":
        from onggi.sandbox.oci.systemd.place import ScopePlace  # noqa: PLC0415 - D-Bus: 15 ms

        user = order.cgroups == "systemd-user"
        return ScopePlace(directory, record, config, host, order.warn, user=user)
    record.cgroup = limits.path_of(config, record.id, host.cgroups)
    directory.write(record)
    try:
        made = limits.make(record.cgroup, config, host, order.warn, lenient=order.lenient)
        return limits.Place(made)
    except AlreadyExists:
        record.cgroup = ""  # it is another's, and not to be cleaned up
        raise


def plan_start(
    config: Config, host: HostFacts, request: StartRequest, directory: Directory, record: Record
) -> Plan:
    """The plan of the container's first process, which is told HOME and of its descriptors."""
    if config.process is not None:
        process = with_listen_fds(with_home(config.process, record.rootfs))
        config = structs.replace(config, process=process)
    if record.notify:
        config = readiness.with_socket(config, directory, record.notify)
    return plan(config, host, request)


def handed_down(asked: int) -> int:
    """How many descriptors from 3 on the application gets: those asked for, and its sockets.

    Closed ones at the end are none; an application knows the others by their numbers.
    """
    count = asked + listened_fds()
    while count and not _is_open(FIRST_PRESERVED_FD + count - 1):
        count -= 1
    return count


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def listened_fds() -> int:
    """How many sockets, from 3 on, the caller's manager has opened for the application.

    Source: sd_listen_fds(3).
    """
    count, pid = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID", "")
    for_us = not pid or pid == str(os.getpid())
    return int(count) if for_us and count.isdecimal() and len(count) < 4 else 0


def with_listen_fds(process: Process) -> Process:
    """The process with the variables by which it knows its sockets, if there are any."""
    count = listened_fds()
    if not count:
        return process
    added = (f"LISTEN_FDS={count}", "LISTEN_PID=1")
    return structs.replace(process, env=(*process.env, *added))


class Slots:
    """The descriptors that keel borrows, by slot."""

    __slots__ = ("fds", "stack")

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.fds: list[int] = []

    def add(self, fd: int) -> int:
        """Lend a descriptor; its slot."""
        self.fds.append(fd)
        return len(self.fds) - 1

    def add_cgroup(self, cgroup: Cgroup | None) -> int:
        """Lend the v2 cgroup; its slot, or -1."""
        fd = cgroup.open_v2() if cgroup else None
        if fd is None:
            return -1
        self.stack.callback(os.close, fd)
        return self.add(fd)

    def add_directory(self, path: str) -> int:
        """Lend a directory; its slot."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.stack.callback(os.close, fd)
        return self.add(fd)

    def add_preserved(self, count: int) -> tuple[int, ...]:
        """Lend descriptors from 3 on, which whoever called us left open."""
        return tuple(self.add(FIRST_PRESERVED_FD + n) for n in range(count))


def start_request(
    record: Record,
    order: Order,
    slots: Slots,
    cgroup: Cgroup | None,
    links: LinkSetup | None = None,
) -> StartRequest:
    """What the planner is told of this host and caller. The socket to hold at comes last."""
    cgroup_slot = slots.add_cgroup(cgroup)
    preserved = slots.add_preserved(order.preserved)
    hold_slot = len(slots.fds)
    return StartRequest(
        supervision=Caller(waits=order.waits, preserved=preserved, hold_slot=hold_slot),
        # the root is attached over itself, in the container's mount namespace only
        root_mountpoint=record.rootfs,
        bundle=record.bundle,
        cgroup_files=cgroup.task_paths() if cgroup else (),
        cgroup_slot=cgroup_slot,
        borrowed=hold_slot + 1,
        idmap_sources=False,
        keyring=f"_ses.{record.id}" if order.keyring else "",
        container_id=record.id,
        no_pivot=order.no_pivot,
        views=_views_of_the_kernel(record.rootfs) if order.no_pivot else (),
        environment=tuple(f"{name}={value}" for name, value in os.environ.items()),
        links=links,
    )


def _views_of_the_kernel(rootfs: str) -> tuple[str, ...]:
    """Where this mount namespace shows a procfs or a sysfs outside of the root, the last first."""
    from onggi.kernel.mounts import read_mountinfo  # noqa: PLC0415

    rows = [row for row in read_mountinfo() if row.fstype in ("proc", "sysfs")]
    places = [row.mount_point for row in reversed(rows)]
    return tuple(place for place in places if not f"{place}/".startswith(f"{rootfs}/"))


def bind_socket(directory: Directory, stack: ExitStack) -> int:
    """The socket that init will wait at. Init listens, so that a connection names its process."""
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    try:
        listener.bind(f"/proc/self/fd/{directory.fd}/{SOCKET_NAME}")
    except OSError as error:
        raise from_os_error(error, "bind the start socket") from error
    return listener.fileno()


def _record(
    directory: Directory,
    record: Record,
    order: Order,
    config: Config,
    offspring: Offspring,
    console: socket.socket,
    place: limits.Place,
) -> Made:
    started = offspring.started()
    made = Made(record, config, offspring, started)
    try:
        record.pid, record.start_time = started.pid, started.start_time
        directory.write(record)
        if order.console_socket:
            send_terminal(console, made.terminal)
            os.close(made.terminal)
            made.terminal = -1
        elif made.terminal >= 0:
            settle_terminal(made.terminal)
        if order.pid_file:
            write_whole(None, order.pid_file, str(record.pid).encode(), 0o644)
        place.settle()
        offspring.recorded()
    except BaseException:
        for fd in (made.pidfd, made.terminal):
            if fd >= 0:
                os.close(fd)
        raise
    return made
