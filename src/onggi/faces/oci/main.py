"""`onggi-runtime`: runc's command line. Finds the verb, imports it, answers with its exit code.

Reads argv, environment and descriptors inside `main` only. What each verb needs is imported by the
verb: this room and those that it imports are on every caller's path.
"""

from __future__ import annotations

import os
import sys

from onggi.errors import EngineError, InvalidArgument, from_os_error
from onggi.faces.oci.arguments import SWITCH, VALUE, parse
from onggi.faces.oci.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onggi.faces.oci.arguments import Arguments

GLOBAL = {
    "root": VALUE,
    "log": VALUE,
    "log-format": VALUE,
    "debug": SWITCH,
    "systemd-cgroup": SWITCH,
    "rootless": VALUE,
    "cgroup-manager": VALUE,
    "criu": VALUE,
    "v version": SWITCH,
    "h help": SWITCH,
}
#: Verb → the room that has it.
ROOMS = {
    "create": "making",
    "run": "making",
    "start": "changing",
    "kill": "changing",
    "delete": "changing",
    "pause": "changing",
    "resume": "changing",
    "state": "looking",
    "list": "looking",
    "ps": "looking",
    "exec": "executing",
    "update": "limiting",
    "events": "limiting",
    "spec": "describing",
    "features": "describing",
    "checkpoint": "checkpointing",
    "restore": "checkpointing",
}
#: Verbs that the front hands to the plain command line: what CRIU restores must be its child.
COLD = frozenset(("checkpoint", "restore"))
_ROOTLESS = {"auto": None, "true": True, "false": False}
_WITHOUT_RECORDS = ("spec", "features")
_FAILED = 1
_EXEC_FAILED = 255


class Context:
    """What every verb is told besides its own arguments. `cgroups`: who makes them."""

    __slots__ = ("cgroups", "criu", "log", "root", "rootless")

    def __init__(
        self, root: str, log: Log, cgroups: str, *, criu: str = "", rootless: bool | None = None
    ) -> None:
        self.root = root
        self.log = log
        self.cgroups = cgroups
        self.criu = criu
        self.rootless = rootless


def main(argv: list[str] | None = None) -> int:
    """Carry out one command line (without the program's name); its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_standard_descriptors()
    log = Log()
    verb = ""
    try:
        before = parse(GLOBAL, words)
        log = Log(before.text("log"), before.text("log-format"), debug=before.on("debug"))
        verb = before.rest[0] if before.rest else ""
        return _command(before, log)
    except EngineError as error:
        log.error(_told(error))
    except OSError as error:
        log.error(str(from_os_error(error, "the command failed")))
    except ImportError as error:  # the disk does not give it, or no descriptor is left
        log.error(f"a part of onggi-runtime cannot be loaded: {error}")
    except KeyboardInterrupt:
        log.error("interrupted")
    return _EXEC_FAILED if verb == "exec" else _FAILED


def _command(before: Arguments, log: Log) -> int:
    if before.on("version") or (before.rest and before.rest[0] == "version"):
        from onggi.faces.oci.about import print_version  # noqa: PLC0415

        return print_version()
    name = before.rest[0] if before.rest else "help"
    if before.on("help") or name in ("help", "h"):
        from onggi.faces.oci.about import print_help  # noqa: PLC0415

        return print_help(before.rest[1:] if name in ("help", "h") else before.rest)
    if name not in ROOMS:
        raise InvalidArgument(f"no such command: {name}", hint="onggi-runtime help lists them")
    table, run = load(name)
    # What follows the id of these is a command line of its own.
    arguments = parse(
        {**table, "h help": SWITCH}, before.rest[1:], anywhere=name not in ("exec", "ps")
    )
    if arguments.on("help"):
        from onggi.faces.oci.about import print_help  # noqa: PLC0415

        return print_help([name])
    context = Context(
        _root(before, name),
        log,
        _cgroup_manager(before),
        criu=before.text("criu"),
        rootless=_is_rootless(before),
    )
    log.debug(f"{name} {' '.join(arguments.rest)}: in {context.root}")
    code = int(run(context, arguments) or 0)
    log.debug(f"{name}: answers {code}")
    return code


def load(name: str) -> tuple[dict[str, str], Callable[[Context, Arguments], int | None]]:
    """A verb's options and what carries it out."""
    room: Any = __import__(f"onggi.faces.oci.{ROOMS[name]}", fromlist=["VERBS"])
    table, run = room.VERBS[name]
    return table, run


def _root(before: Arguments, name: str) -> str:
    """Where the records are: `--root`, or by the rules of runc with our own name."""
    if given := before.text("root"):
        return os.path.abspath(given)
    if name in _WITHOUT_RECORDS:
        return ""
    if os.geteuid() != 0 or (os.environ.get("XDG_RUNTIME_DIR") and _is_users_root()):
        from onggi.faces.oci.place import user_root  # noqa: PLC0415

        return user_root()
    return "/run/onggi-runtime"


def _is_users_root() -> bool:
    """Whether this is a user, root in a namespace of podman's, who has kept the own name."""
    with open("/proc/self/uid_map", "rb", buffering=0) as file:
        inside, outside, _ = file.read(64).split(None, 2)
    return inside != outside and os.environ.get("USER") != "root"


def _is_rootless(before: Arguments) -> bool | None:
    """Whether cgroups that cannot be had are done without; None: as it is with users.

    Raises:
        InvalidArgument: another word than those.
    """
    word = before.text("rootless", "auto")
    if word not in _ROOTLESS:
        raise InvalidArgument(f"--rootless is auto, true or false, not {word!r}")
    return _ROOTLESS[word]


def _cgroup_manager(before: Arguments) -> str:
    """`cgroupfs`, `disabled`, `systemd`, or `systemd-user` for the systemd of an ordinary user."""
    manager = before.text("cgroup-manager")
    if manager not in ("", "cgroupfs", "systemd", "disabled"):
        raise InvalidArgument(
            f"unknown cgroup manager {manager!r}", hint="cgroupfs, systemd and disabled are known"
        )
    if before.on("systemd-cgroup") or manager == "systemd":
        return "systemd-user" if os.geteuid() != 0 or _is_users_root() else "systemd"
    return manager or "cgroupfs"


def _told(error: EngineError) -> str:
    """The error in the words by which callers tell what kind it is.

    podman and dockerd look for these phrases to choose between exit codes 126 and 127.
    """
    code = getattr(error, "exit_code", None)
    if code == 127:
        return (
            f"unable to start container process: exec: executable file not found in $PATH: {error}"
        )
    if code == 126 and "permission" not in str(error):
        return f"unable to start container process: exec: permission denied: {error}"
    return str(error)


def _open_standard_descriptors() -> None:
    """What is opened later must not become the container's stdio by its number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest that is free: this one


def load_all() -> None:
    """Import everything that a verb which the warm process carries out may need."""
    for name in ROOMS:
        if name not in COLD:
            load(name)
    for room in ("foreground", "about"):
        __import__(f"onggi.faces.oci.{room}")


def command() -> None:
    """The console script. The next command finds a warm process, if it is to have one."""
    code = main()
    if "ONGGI_RUNTIME_WARM" in os.environ:
        from onggi.faces.oci.warming import begin  # noqa: PLC0415

        begin()
    sys.exit(code)


if __name__ == "__main__":
    command()
