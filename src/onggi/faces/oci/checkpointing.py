"""`checkpoint` and `restore`: flags → what CRIU is asked for."""

from __future__ import annotations

import fcntl
import os

from onggi.errors import InvalidArgument, Unsupported
from onggi.faces.oci.arguments import MANY, SWITCH, VALUE, one_id
from onggi.faces.oci.changing import remove
from onggi.kernel.constants import CLONE_NEWNET
from onggi.sandbox.oci import criu
from onggi.sandbox.oci.checkpointing import Checkpoint
from onggi.sandbox.oci.checkpointing import checkpoint as keep
from onggi.sandbox.oci.creation import Order
from onggi.sandbox.oci.criu_messages import CGROUP_MODES, Value
from onggi.sandbox.oci.records import Store
from onggi.sandbox.oci.restoring import Restore
from onggi.sandbox.oci.restoring import restore as bring_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context

_DEFAULT_IMAGES = "checkpoint"
#: Flags that are CRIU's own options.
_SWITCHES = (
    "tcp-established",
    "ext-unix-sk",
    "shell-job",
    "file-locks",
    "lazy-pages",
    "auto-dedup",
)
#: What the kernel must have for an option, as `criu check --feature` names it.
_NEEDED = {
    "pre-dump": "mem_dirty_track",
    "parent-path": "mem_dirty_track",
    "lazy-pages": "uffd-noncoop",
}
_OF_CHECKPOINT = ("leave-running", "tcp-skip-in-flight")
_OF_RESTORE = ("lsm-profile", "lsm-mount-context")


def checkpoint(context: Context, arguments: Arguments) -> None:
    """Keep a container's processes in files, and remove it unless it is to go on."""
    container_id = one_id(arguments)
    _check_user("checkpoint")
    pre_dump = arguments.on("pre-dump")
    order = Checkpoint(
        "",
        arguments.text("image-path") or _DEFAULT_IMAGES,
        arguments.text("work-path"),
        {
            **_options(arguments, (*_SWITCHES, *_OF_CHECKPOINT)),
            **_parent(arguments),
            **_page_server(arguments),
        },
        pre_dump=pre_dump,
        status_fd=_status_fd(arguments),
    )
    with Store(context.root).open(container_id) as directory:
        directory.lock(wait=True)
        record = directory.read()
        order.program = criu.find(context.criu)
        for flag, feature in _NEEDED.items():
            if arguments.on(flag) or arguments.text(flag):
                criu.require(order.program, feature, f"--{flag}")
        keep(directory, record, order)
    if not (pre_dump or arguments.on("leave-running")):
        remove(context, container_id, force=True)


def restore(context: Context, arguments: Arguments) -> int:
    """Make a container of what was kept; unless detached, stay until it has ended."""
    container_id = one_id(arguments)
    _check_user("restore")
    if context.cgroups.startswith("systemd"):
        raise Unsupported(
            "restore: scopes of systemd are not there yet", hint="let the caller use cgroupfs"
        )
    if arguments.on("no-pivot"):
        raise Unsupported("--no-pivot: criu always pivots")
    detached = arguments.on("detach")
    create = Order(
        container_id,
        arguments.text("bundle") or os.getcwd(),
        context.log.warn,
        console_socket=arguments.text("console-socket"),
        pid_file=arguments.text("pid-file"),
        cgroups=context.cgroups,
        waits=not detached,
    )
    options = _options(arguments, _SWITCHES)
    for name in _OF_RESTORE:
        if arguments.text(name):
            options[name.replace("-", "_")] = arguments.text(name)
    images, work = arguments.text("image-path") or _DEFAULT_IMAGES, arguments.text("work-path")
    from onggi.faces.oci.foreground import keep_signals, stay  # noqa: PLC0415

    if not detached:
        keep_signals()
    order = Restore(criu.find(context.criu), images, work, options)
    made = bring_back(Store(context.root), create, order)
    if detached:
        os.close(made.pidfd)
        return 0
    code = stay(made, made.pidfd, made.terminal)
    remove(context, container_id, force=False)
    return code


def _check_user(verb: str) -> None:
    """Raises: Unsupported: CRIU serves only the superuser."""
    if os.geteuid() != 0:
        raise Unsupported(f"{verb}: criu needs the superuser", hint="run it as root")


def _options(arguments: Arguments, switches: tuple[str, ...]) -> dict[str, Value]:
    options: dict[str, Value] = {
        name.replace("-", "_"): True for name in switches if arguments.on(name)
    }
    if mode := arguments.text("manage-cgroups-mode"):
        if mode not in CGROUP_MODES:
            raise InvalidArgument(
                f"--manage-cgroups-mode: unknown mode {mode!r}",
                hint=f"{', '.join(CGROUP_MODES)} are known",
            )
        options["manage_cgroups_mode"] = CGROUP_MODES[mode]
    for kind in arguments.many("empty-ns"):
        if kind != "network":
            raise InvalidArgument(
                f"--empty-ns: criu cannot leave out a {kind} namespace", hint="only network"
            )
        options["empty_ns"] = CLONE_NEWNET
    return options


def _parent(arguments: Arguments) -> dict[str, Value]:
    """The images that this pre-dump or dump adds to.

    Raises:
        InvalidArgument: not a directory, or not relative to the images.
    """
    path = arguments.text("parent-path")
    if not path:
        return {}
    if os.path.isabs(path):
        raise InvalidArgument("--parent-path must be relative", hint="to the image path")
    images = arguments.text("image-path") or _DEFAULT_IMAGES
    criu.make_private(images)  # `..` leads on only from what is there
    if not os.path.isdir(os.path.join(images, path)):
        raise InvalidArgument(
            f"invalid --parent-path: there is no directory {path!r} beside the images",
            hint="name one relative to the image path",
        )
    return {"parent_img": path, "track_mem": True}


def _page_server(arguments: Arguments) -> dict[str, Value]:
    text = arguments.text("page-server")
    if not text:
        return {}
    address, colon, port = text.rpartition(":")
    if not (address and colon and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidArgument(f"--page-server takes ADDRESS:PORT, not {text!r}")
    return {"ps": {1: address.strip("[]"), 2: int(port)}}


def _status_fd(arguments: Arguments) -> int:
    """Raises: InvalidArgument: nothing that can be written to."""
    number = arguments.number("status-fd", -1)
    if number < 0:
        return -1
    try:
        writable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        writable = False
    if not writable:
        raise InvalidArgument(f"invalid --status-fd argument {number}: not open for writing")
    return number


_BOTH = {
    **dict.fromkeys(("image-path", "work-path", "manage-cgroups-mode"), VALUE),
    **dict.fromkeys(_SWITCHES, SWITCH),
    "empty-ns": MANY,
}
VERBS = {
    "checkpoint": (
        {
            **_BOTH,
            **dict.fromkeys((*_OF_CHECKPOINT, "pre-dump"), SWITCH),
            **dict.fromkeys(("parent-path", "page-server", "status-fd"), VALUE),
        },
        checkpoint,
    ),
    "restore": (
        {
            **_BOTH,
            **dict.fromkeys(("d detach", "no-subreaper", "no-pivot"), SWITCH),
            **dict.fromkeys(("b bundle", "console-socket", "pid-file", *_OF_RESTORE), VALUE),
        },
        restore,
    ),
}
