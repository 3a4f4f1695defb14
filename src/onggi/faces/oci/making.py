"""`create` and `run`."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument
from onggi.faces.oci.arguments import SWITCH, VALUE
from onggi.faces.oci.changing import begin, remove
from onggi.sandbox.oci import creation
from onggi.sandbox.oci.creation import Made, Order
from onggi.sandbox.oci.records import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context
    from onggi.runtime.request import LinkSetup
    from onggi.specs.runtime import Config

_BOTH = {
    "b bundle": VALUE,
    "f config": VALUE,
    "console-socket": VALUE,
    "pid-file": VALUE,
    "no-pivot": SWITCH,
    "no-new-keyring": SWITCH,
    "preserve-fds": VALUE,
    "no-subreaper": SWITCH,
}


def create(context: Context, arguments: Arguments) -> None:
    """Make a container that waits for `start`."""
    made = creation.create(Store(context.root), _order(context, arguments))
    _leave(made)


def run(context: Context, arguments: Arguments) -> int:
    """Make a container and start it; unless detached, stay until it has ended and delete it."""
    detached = arguments.on("detach")
    order = _order(context, arguments, waits=not detached)
    made = creation.create(Store(context.root), order)
    from onggi.faces.oci.foreground import keep_signals, stay  # noqa: PLC0415

    if not detached:
        keep_signals()
    try:
        readiness = begin(context, order.id)
    except BaseException:
        _leave(made)
        remove(context, order.id, force=True)
        raise
    if detached:
        _leave(made)
        if readiness is not None:
            with readiness:
                readiness.wait()
        return 0
    code = stay(made.offspring, made.pidfd, made.terminal, readiness)
    if not arguments.on("keep"):
        remove(context, order.id, force=False)
    return code


def _order(context: Context, arguments: Arguments, *, waits: bool = False) -> Order:
    if len(arguments.rest) != 1:
        raise InvalidArgument("a container id is needed, and nothing more")
    return Order(
        arguments.rest[0],
        arguments.text("bundle") or os.getcwd(),
        context.log.warn,
        config_path=arguments.text("config"),
        console_socket=arguments.text("console-socket"),
        pid_file=arguments.text("pid-file"),
        preserved=creation.handed_down(arguments.number("preserve-fds")),
        keyring=not arguments.on("no-new-keyring"),
        no_pivot=arguments.on("no-pivot"),
        connect=_connect,
        cgroups=context.cgroups,
        waits=waits,
        lenient=context.rootless,
    )


def _connect(config: Config) -> LinkSetup | None:
    """The devices that the configuration takes from the host."""
    if not (config.linux and config.linux.net_devices):
        return None
    from onggi.network.moving import move_devices  # noqa: PLC0415
    from onggi.runtime.validate import validate  # noqa: PLC0415

    validate(config)  # names go to the kernel before there is a plan
    return move_devices(config.linux.net_devices)


def _leave(made: Made) -> None:
    """The container is its caller's from here on."""
    os.close(made.pidfd)
    made.offspring.close()


VERBS = {
    "create": (_BOTH, create),
    "run": ({**_BOTH, "d detach": SWITCH, "keep": SWITCH}, run),
}
