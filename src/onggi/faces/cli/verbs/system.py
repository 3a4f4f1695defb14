"""`info`, `version`, `engine start`, `engine status` and `engine stop`."""

from __future__ import annotations

import os

from onggi import __version__
from onggi.errors import PermissionDenied, Unavailable
from onggi.faces.cli import human
from onggi.faces.cli.options import Option
from onggi.faces.cli.table import liner
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_FORMAT = Option(
    "-f --format", "json, or a template: '{{.version}}'", value="FORM", complete="json"
)


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return human.size(value, binary=True)
    if name.endswith("_ns"):
        return human.timestamp(value)
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _print(
    context: Context, fields: dict[str, Any], form: str, more: dict[str, Any] | None = None
) -> None:
    """Lines for a person; for a program also `more`, what is there under docker's names."""
    if form not in ("", "table"):
        context.out.line(liner(form)({**fields, **(more or {})}))
        return
    width = max(len(name) for name in fields) + 1
    for name, value in fields.items():
        label = name.removesuffix("_bytes").removesuffix("_ns").replace("_", " ")
        context.out.line(f"{label + ':':<{width}} {_shown(name, value)}")


def _info(context: Context, parsed: Parsed) -> int:
    fields = context.client.call("system.info", {})
    warnings = fields.pop("warnings", ())
    _print(context, fields, parsed.text("format"), _as_docker(fields, warnings))
    context.warn(warnings)
    return 0


def _as_docker(fields: dict[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """Source: Docker Engine API v1.51 SystemInfo."""
    unified = fields["cgroup_layout"] == "unified"
    return {
        "ServerVersion": fields["version"],
        "Driver": "overlay",
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if unified else "1",
        "KernelVersion": fields["kernel"],
        "OperatingSystem": "linux",
        "OSType": "linux",
        "Architecture": fields["machine"],
        "NCPU": fields["cpus"],
        "MemTotal": fields["memory_bytes"],
        "DockerRootDir": fields["root"],
        "Name": os.uname().nodename,
        "Containers": fields["containers"],
        "ContainersRunning": fields["running"],
        "ContainersStopped": fields["containers"] - fields["running"],
        "Images": fields["images"],
        "Warnings": list(warnings),
    }


def _version(context: Context, parsed: Parsed) -> int:
    fields = {"command": __version__}
    try:
        fields["engine"] = context.client.call("engine.status", {}, start=False)["version"]
    except Unavailable:
        fields["engine"] = "not running"
    known = fields["engine"] if fields["engine"] != "not running" else ""
    more = {name: {"Version": version, "Os": "linux"}
            for name, version in (("Client", __version__), ("Server", known))}  # fmt: skip
    _print(context, fields, parsed.text("format"), more)
    return 0


def _status(context: Context, parsed: Parsed) -> int:
    try:
        fields = context.client.call("engine.status", {}, start=False)
    except Unavailable:
        context.out.line(f"not running (socket {context.client.path})")
        return 1
    _print(context, fields, parsed.text("format"))
    return 0


def _start(context: Context, parsed: Parsed) -> int:
    """Any call starts it, and it looks after containers from then on."""
    context.client.call("engine.status", {})
    return 0


def _stop(context: Context, parsed: Parsed) -> int:
    try:
        pid = context.client.call("engine.status", {}, start=False).get("pid")
        pidfd = _pidfd_of(pid)
        context.client.call("engine.stop", {}, start=False)
    except Unavailable:
        _tell_guard(context)
        context.out.line("not running")
        return 0
    _wait_gone(context)
    if pidfd is not None:
        _wait_ended(pidfd)
    return 0


def _pidfd_of(pid: object) -> int | None:
    """The engine's process, if it is one that is seen from here."""
    try:
        return os.pidfd_open(pid) if isinstance(pid, int) else None
    except OSError:
        return None


def _wait_ended(pidfd: int) -> None:
    """Return when nothing of the engine touches its files any more."""
    import select  # noqa: PLC0415

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = poll.poll(10_000)
    os.close(pidfd)
    if not ended:
        raise Unavailable("the engine listens no more, but has not ended", hint="look at its log")


def _tell_guard(context: Context) -> None:
    """A guard that is about to bring the engine back looks whether the lock's file was touched."""
    lock = os.path.join(os.path.dirname(context.client.path), "engine.lock")
    try:
        os.utime(lock)
    except FileNotFoundError:
        return
    except PermissionError:
        raise PermissionDenied(
            f"{lock} belongs to somebody else, whose engine may come back by itself",
            hint="stop it as the user who started it",
        ) from None


def _wait_gone(context: Context) -> None:
    """Return when the engine no longer listens: the next command then starts a new one."""
    import time  # noqa: PLC0415

    from onggi.faces.cli.client import dial  # noqa: PLC0415

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        sock = dial(context.client.path)
        if sock is None:
            return
        sock.close()
        time.sleep(0.01)
    raise Unavailable("the engine was told to stop, but still listens", hint="look at its log")


VERBS = {
    "info": Verb(_info, most=0, options=(_FORMAT,)),
    "version": Verb(_version, most=0, options=(_FORMAT,)),
    "status": Verb(_status, most=0, options=(_FORMAT,)),
    "start": Verb(
        _start,
        most=0,
        examples=(("onggi engine start", "what a boot calls: restart policies hold from here"),),
    ),
    "stop": Verb(
        _stop,
        most=0,
        examples=(("onggi engine stop && onggi ps", "start a fresh one; containers run on"),),
    ),
}
