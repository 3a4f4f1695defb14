"""`checkpoint`: the processes of a running container, kept in files by CRIU.

A failure leaves the container as it was. What belongs to the host is in `outside`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from onggi.errors import EngineError, FailedPrecondition
from onggi.sandbox.oci import outside
from onggi.sandbox.oci.criu import Criu, Place
from onggi.sandbox.oci.criu_messages import DUMP, SINGLE_PRE_DUMP, Value
from onggi.sandbox.oci.ending import cgroup_of, open_process
from onggi.sandbox.oci.records import CONFIG_NAME, Directory, Record, status_of, write_whole
from onggi.specs import jsontext
from onggi.specs.runtime import Config, parse_config

LOG_NAME = "dump.log"
#: Where CRIU itself lets the machine's owner add options; an annotation names another file.
CONFIG_ANNOTATION, CONFIG_FILE = "org.criu.config", "/etc/criu/runc.conf"


class Checkpoint:
    """What `checkpoint` is told. `options`: CRIU's own, by name.

    `status_fd`: what gets a zero byte when pages can be asked for; -1: none.
    """

    __slots__ = ("images", "options", "pre_dump", "program", "status_fd", "work")

    def __init__(
        self,
        program: str,
        images: str,
        work: str,
        options: Mapping[str, Value],
        *,
        pre_dump: bool = False,
        status_fd: int = -1,
    ) -> None:
        self.program = program
        self.images = images
        self.work = work
        self.options = options
        self.pre_dump = pre_dump
        self.status_fd = status_fd


def checkpoint(directory: Directory, record: Record, order: Checkpoint) -> None:
    """Keep a container's processes; those that CRIU is not told to leave running are ended by it.

    Raises:
        FailedPrecondition: it does not run. Unsupported: a setting that CRIU cannot keep.
        Unavailable: CRIU fails; the container goes on.
    """
    status = status_of(record)
    if status not in ("running", "paused"):
        raise FailedPrecondition(f"container cannot be checkpointed in {status} state")
    config = parse_config(directory.read_file(CONFIG_NAME))
    outside.check(config)
    with ExitStack() as stack:
        stack.enter_context(open_process(record))
        place = stack.enter_context(Place(order.images, order.work, LOG_NAME, make=True))
        options = {**_options(record, config), **order.options}
        if not order.pre_dump:
            names = outside.descriptors(record.pid)
            files = [name for name in dict.fromkeys(names) if name.startswith("file[")]
            options["external"] = [*_external(record, config), *files]
            text = jsontext.encode(names)
            write_whole(place.images, outside.DESCRIPTORS_NAME, text, 0o600)
        try:
            _ask(order, options, place)
        except BaseException:
            if status == "running":
                _let_go_on(record)
            raise


def _ask(order: Checkpoint, options: Mapping[str, Value], place: Place) -> None:
    def notified(stage: str, _pid: int, _fd: int) -> None:
        if stage == "status-ready" and order.status_fd >= 0:
            os.write(order.status_fd, b"\0")

    with open(os.devnull, "r+b", buffering=0) as null:
        stdio = [null.fileno()] * 3
        with Criu(order.program, stdio) as running:
            kind = SINGLE_PRE_DUMP if order.pre_dump else DUMP
            running.ask(kind, options, place, notified)


def _options(record: Record, config: Config) -> dict[str, Value]:
    options: dict[str, Value] = {
        "pid": record.pid,
        "manage_cgroups": True,
        "orphan_pts_master": True,
        # a bind that follows the host's mounts
        "ext_masters": True,
        **config_file(config),
    }
    if record.freezer:
        # also stops what `exec` brought in, which is not below init
        options["freeze_cgroup"] = os.path.dirname(record.freezer)
    if controllers := _own_controllers(record):
        options["cgroup_dump_controller"] = controllers
    return options


def _own_controllers(record: Record) -> list[str]:
    """Those whose hierarchies the container has a cgroup of its own in; "" is v2.

    Of others CRIU would keep, and make again, all that is below: every cgroup of the host.
    """
    if not record.cgroup:
        return []
    cgroup = cgroup_of(record)
    found: list[str] = []
    for hierarchy in cgroup.layout.every:
        if os.path.isdir(f"{hierarchy.mount_point}/{cgroup.path}"):
            found += hierarchy.controllers if hierarchy.version == 1 else [""]
    return found


def config_file(config: Config) -> dict[str, Value]:
    """Where CRIU reads more options, which take precedence; an empty annotation: nowhere."""
    path = config.annotations.get(CONFIG_ANNOTATION, CONFIG_FILE)
    return {"config_file": path} if path else {}


def _external(record: Record, config: Config) -> list[str]:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    root = os.open(f"/proc/{record.pid}/root", flags)
    try:
        mounts = outside.external_mounts(config, record.pid, root)
    finally:
        os.close(root)
    return [*mounts, *outside.external_namespaces(config, record.pid)]


def _let_go_on(record: Record) -> None:
    """A CRIU that was killed leaves a frozen cgroup behind."""
    if record.freezer:
        try:
            cgroup_of(record).thaw()
        except EngineError:
            return  # it has ended: what went wrong before is what is told
