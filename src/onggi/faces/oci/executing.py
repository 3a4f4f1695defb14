"""`exec`: flags or a file → the process to run in a running container."""

from __future__ import annotations

import os

from msgspec import structs

from onggi.errors import InvalidArgument
from onggi.faces.oci.arguments import MANY, SWITCH, VALUE
from onggi.sandbox.oci.creation import handed_down
from onggi.sandbox.oci.execution import ExecOrder, execute
from onggi.sandbox.oci.records import Store
from onggi.specs.runtime import Capabilities, Config, Process, User, parse_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.oci.arguments import Arguments
    from onggi.faces.oci.main import Context


def run_exec(context: Context, arguments: Arguments) -> int:
    """Run a process; unless detached, stay until it has ended and answer with its exit code."""
    if not arguments.rest:
        raise InvalidArgument("a container id is needed")
    detached = arguments.on("detach")
    order = ExecOrder(
        context.log.warn,
        console_socket=arguments.text("console-socket"),
        pid_file=arguments.text("pid-file"),
        preserved=handed_down(arguments.number("preserve-fds")),
        detached=detached,
        ignore_paused=arguments.on("ignore-paused"),
        cgroups=tuple(arguments.many("cgroup")),
    )
    from onggi.faces.oci.foreground import keep_signals, stay  # noqa: PLC0415

    if not detached:
        keep_signals()
    with Store(context.root).open(arguments.rest[0]) as directory:
        running = execute(directory, lambda config: process_of(config, arguments), order)
    if detached:
        os.close(running.pidfd)
        running.offspring.close()
        return 0
    return stay(running.offspring, running.pidfd, running.terminal)


def process_of(config: Config, arguments: Arguments) -> Process:
    """The process that a command line describes.

    Raises:
        InvalidArgument: there is nothing to run, or a value is wrong. SpecError: the file is.
    """
    if path := arguments.text("process"):
        with open(path, "rb") as file:
            return parse_process(file.read())
    if len(arguments.rest) < 2:
        raise InvalidArgument("a command is needed, or --process")
    base = config.process or Process(cwd="/")
    process = structs.replace(
        base,
        args=tuple(arguments.rest[1:]),
        terminal=arguments.on("tty"),
        console_size=None,
        cwd=arguments.text("cwd") or base.cwd,
        env=environment(base.env, arguments.many("env")),
        user=_user(base.user, arguments),
        capabilities=_capabilities(base.capabilities, arguments.many("cap")),
    )
    changes: dict[str, object] = {}
    if "no-new-privs" in arguments.values:
        changes["no_new_privileges"] = arguments.on("no-new-privs")
    if label := arguments.text("process-label"):
        changes["selinux_label"] = label
    if profile := arguments.text("apparmor"):
        changes["apparmor_profile"] = profile
    return structs.replace(process, **changes)


def environment(base: tuple[str, ...], added: list[str]) -> tuple[str, ...]:
    """The base with more variables, each of which takes the place of one of its name."""
    names = {entry.partition("=")[0] for entry in added}
    return (*(entry for entry in base if entry.partition("=")[0] not in names), *added)


def _user(base: User, arguments: Arguments) -> User:
    groups = tuple(_id(text) for text in arguments.many("additional-gids"))
    text = arguments.text("user")
    if not text:
        return structs.replace(base, additional_gids=(*base.additional_gids, *groups))
    uid, colon, gid = text.partition(":")
    return User(
        uid=_id(uid),
        gid=_id(gid) if colon else base.gid,
        umask=base.umask,
        additional_gids=(*base.additional_gids, *groups),
    )


def _id(text: str) -> int:
    """A user or group: a number, never a name (CVE-2024-40635)."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 10:
        raise InvalidArgument(f"{text!r} is not an id", hint="write numbers: 1000 or 1000:1000")
    return int(text)


def _capabilities(base: Capabilities | None, added: list[str]) -> Capabilities | None:
    """More in every set but the inheritable one, which a process would leave to its programs."""
    if not added:
        return base
    names = tuple(n if n.startswith("CAP_") else f"CAP_{n}" for n in (a.upper() for a in added))
    base = base or Capabilities()
    return structs.replace(
        base,
        bounding=(*base.bounding, *names),
        effective=(*base.effective, *names),
        permitted=(*base.permitted, *names),
        ambient=(*base.ambient, *names),
    )


VERBS = {
    "exec": (
        {
            "console-socket": VALUE,
            "cwd": VALUE,
            "e env": MANY,
            "t tty": SWITCH,
            "u user": VALUE,
            "g additional-gids": MANY,
            "p process": VALUE,
            "d detach": SWITCH,
            "pid-file": VALUE,
            "process-label": VALUE,
            "apparmor": VALUE,
            "no-new-privs": SWITCH,
            "c cap": MANY,
            "preserve-fds": VALUE,
            "cgroup": MANY,
            "ignore-paused": SWITCH,
        },
        run_exec,
    ),
}
