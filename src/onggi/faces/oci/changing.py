"""`start`, `kill`, `delete`, `pause`, `resume`: what changes a container that there is."""

from __future__ import annotations

import os

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound
from onggi.faces.oci.arguments import SWITCH, one_id
from onggi.sandbox.oci import ending, starting
from onggi.sandbox.oci.records import Directory, Record, Store, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context
    from onggi.sandbox.oci.readiness import Readiness

_SIGTERM = 15


def start(context: Context, arguments: Arguments) -> None:
    """Let the application of a created container begin, and be ready if it is to say so."""
    readiness = begin(context, one_id(arguments))
    if readiness is not None:
        with readiness:
            readiness.wait()


def begin(context: Context, container_id: str) -> Readiness | None:
    """Start a created container; what will say that it is ready, if somebody waits for that.

    Raises:
        FailedPrecondition: it is not created. StartFailed: it cannot be executed.
    """
    with Store(context.root).open(container_id) as directory:
        directory.lock(wait=True)
        record = directory.read()
        readiness = _listen(context, directory, record)
        try:
            starting.start(directory, record, context.log.warn)
        except BaseException:
            if readiness is not None:
                readiness.__exit__()
            raise
        if record.hooks:
            run_hooks(context, "poststart", directory, record)
    return readiness


def _listen(context: Context, directory: Directory, record: Record) -> Readiness | None:
    if not record.notify or "NOTIFY_SOCKET" not in os.environ or status_of(record) != "created":
        return None
    from onggi.sandbox.oci.readiness import Readiness  # noqa: PLC0415 - few are waited for

    return Readiness(directory, record, context.log.warn)


def kill(context: Context, arguments: Arguments) -> None:
    """Send a signal, SIGTERM if none is named."""
    if not 1 <= len(arguments.rest) <= 2:
        raise InvalidArgument("a container id and a signal are needed, and nothing more")
    number = signal_number(arguments.rest[1]) if len(arguments.rest) > 1 else _SIGTERM
    store = Store(context.root)
    for container_id in _named(store, arguments.rest[0], arguments):
        ending.send_signal(store.read(container_id), number, everyone=arguments.on("all"))


def delete(context: Context, arguments: Arguments) -> None:
    """Remove a container that has ended; with --force end it first."""
    for container_id in _named(Store(context.root), one_id(arguments), arguments):
        remove(context, container_id, force=arguments.on("force"))


def _named(store: Store, text: str, arguments: Arguments) -> list[str]:
    """The containers that a command is for: one, or with --regex all whose id has the expression.

    Raises:
        InvalidArgument: it is no expression.
    """
    if not arguments.on("regex"):
        return [text]
    import re  # noqa: PLC0415 - callers of the everyday verbs do not wait for it

    try:
        expression = re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"{text!r} is no regular expression: {error}") from None
    return [container_id for container_id in store.ids() if expression.search(container_id)]


def remove(context: Context, container_id: str, *, force: bool) -> None:
    """Remove a container. Forced, one that is not there is a removed one.

    Raises:
        NotFound, FailedPrecondition, Conflict.
    """
    try:
        with Store(context.root).open(container_id) as directory:
            ending.delete(
                directory,
                force=force,
                before=lambda record: run_hooks(context, "poststop", directory, record),
            )
    except NotFound:
        if not force:
            raise


def run_hooks(context: Context, kind: str, directory: Directory, record: Record) -> None:
    """Run the hooks of a kind, if there are any."""
    if kind in record.hooks:
        from onggi.sandbox.oci import hooks  # noqa: PLC0415

        status = "running" if kind == "poststart" else "stopped"
        hooks.run(kind, status, directory, record, context.log.warn)


def pause(context: Context, arguments: Arguments) -> None:
    """Let every process of the container stand still."""
    record = _with_status(context, arguments, ("running", "created"))
    ending.cgroup_of(record).freeze()


def resume(context: Context, arguments: Arguments) -> None:
    """Let every process of a paused container go on."""
    record = _with_status(context, arguments, ("paused",))
    ending.cgroup_of(record).thaw()


def _with_status(context: Context, arguments: Arguments, wanted: tuple[str, ...]) -> Record:
    record = Store(context.root).read(one_id(arguments))
    status = status_of(record)
    if status not in wanted:
        raise FailedPrecondition(f"container {record.id} is {status}, not {' or '.join(wanted)}")
    if not record.cgroup:
        raise FailedPrecondition(
            f"container {record.id} has no cgroup", hint="only those with one can be paused"
        )
    return record


def signal_number(text: str) -> int:
    """The number of a signal: `9`, `KILL`, `SIGKILL`, `RTMIN+3`.

    Raises:
        InvalidArgument: there is no such signal.
    """
    if text.isascii() and text.isdecimal() and int(text) <= 64:
        return int(text)
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - `signal` costs 3 ms

    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    number = getattr(_signal, f"SIG{base}", None)
    if (
        base.isalnum()
        and isinstance(number, int)
        and (not plus or (base == "RTMIN" and offset.isdecimal()))
    ):
        return number + int(offset or 0)
    raise InvalidArgument(f"unknown signal {text!r}", hint="write it as KILL, SIGKILL or 9")


VERBS = {
    "start": ({}, start),
    "kill": ({"a all": SWITCH, "r regex": SWITCH}, kill),
    "delete": ({"f force": SWITCH, "r regex": SWITCH}, delete),
    "pause": ({}, pause),
    "resume": ({}, resume),
}
