"""`start`: tell the init that is held to go on, and hear whether it could.

The planner is brought in only when something has to be explained.
"""

from __future__ import annotations

import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket

from onggi.errors import EngineError, FailedPrecondition
from onggi.sandbox.oci.ending import cgroup_of, not_running
from onggi.sandbox.oci.records import CONFIG_NAME, SOCKET_NAME, Directory, Record, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_GO = (1).to_bytes(4, sys.byteorder)
_PACKET_BYTES = 64 * 1024
_WARNED = 67


def start(directory: Directory, record: Record, warn: Callable[[str], None]) -> None:
    """Let the application of a created container begin.

    Raises:
        FailedPrecondition: it is not in the state `created`. StartFailed: it cannot be executed.
    """
    status = status_of(record)
    if status != "created":
        raise _not_created(status)
    connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        try:
            connection.connect(f"/proc/self/fd/{directory.fd}/{SOCKET_NAME}")
            connection.send(_GO)
        except OSError:
            raise not_running() from None
        while packet := _receive(connection):
            if int.from_bytes(packet[:4], sys.byteorder) != _WARNED:
                raise _explain(packet, directory, record)
            warn(_explain_warning(packet, directory, record))
    finally:
        connection.close()


def _receive(connection: socket) -> bytes:
    """A packet; empty: the application runs."""
    try:
        return connection.recv(_PACKET_BYTES)
    except ConnectionResetError:
        return connection.recv(_PACKET_BYTES)


def _not_created(status: str) -> FailedPrecondition:
    if status == "stopped":
        return FailedPrecondition("cannot start a container that has stopped")
    if status == "creating":
        return FailedPrecondition("cannot start a container that is being created")
    return FailedPrecondition("cannot start an already running container")


def _explain(packet: bytes, directory: Directory, record: Record) -> EngineError:
    from onggi.runtime.failure import explain_failure  # noqa: PLC0415
    from onggi.sandbox import messages  # noqa: PLC0415

    event = messages.decode(packet)
    assert isinstance(event, messages.Failed)
    return explain_failure(event, _plan_again(directory, record))


def _explain_warning(packet: bytes, directory: Directory, record: Record) -> str:
    from onggi.runtime.failure import explain_warning  # noqa: PLC0415
    from onggi.sandbox import messages  # noqa: PLC0415

    event = messages.decode(packet)
    assert isinstance(event, messages.Warned)
    return explain_warning(event, _plan_again(directory, record))


def _plan_again(directory: Directory, record: Record):  # type: ignore[no-untyped-def]
    """The plan that init carries out: planning is a pure function of what is on record."""
    from contextlib import ExitStack  # noqa: PLC0415

    from onggi.runtime.host import probe  # noqa: PLC0415
    from onggi.runtime.request import LinkSetup  # noqa: PLC0415
    from onggi.sandbox.oci import creation  # noqa: PLC0415
    from onggi.specs.runtime import parse_config  # noqa: PLC0415

    config = parse_config(directory.read_file(CONFIG_NAME))
    order = creation.Order(record.id, record.bundle, print, preserved=record.preserved)
    cgroup = cgroup_of(record) if record.cgroup else None
    with ExitStack() as stack:
        devices = config.linux.net_devices if config.linux else {}
        # only that there are such steps counts: they have been carried out
        links = LinkSetup(b"-", (), b"-") if devices else None
        request = creation.start_request(record, order, creation.Slots(stack), cgroup, links)
        return creation.plan_start(config, probe(), request, directory, record)
