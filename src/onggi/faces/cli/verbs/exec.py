"""`exec`."""

from __future__ import annotations

import os

from onggi.faces.cli import values
from onggi.faces.cli.options import Option
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _exec(context: Context, parsed: Parsed) -> int:
    from onggi.faces.cli.foreground import first_session, terminal_size, watch  # noqa: PLC0415
    from onggi.faces.cli.runspec import variables  # noqa: PLC0415
    from onggi.faces.cli.session import DETACH_KEYS, Streams  # noqa: PLC0415

    detach = parsed.on("detach")
    streams = Streams(
        stdin=parsed.on("interactive") and not detach,
        tty=parsed.on("tty"),
        detach_keys=parsed.get("detach-keys", DETACH_KEYS),
        sig_proxy=True,
    )
    target, *command = parsed.arguments
    request = {
        "target": target,
        "command": command,
        "env": variables(parsed, context.environ),
        "user": parsed.text("user"),
        "workdir": parsed.text("workdir"),
        "tty": streams.tty,
        "stdin_open": streams.stdin >= 0,
        "privileged": parsed.on("privileged"),
        "detach": detach,
        "size": terminal_size(streams),
    }
    with context.client.open("containers.exec", request) as call:
        _, fd = first_session(call, context)
        if detach:
            if fd >= 0:
                os.close(fd)
            return 0
        return watch(call, fd, streams, context)


VERBS = {
    "exec": Verb(
        _exec,
        arguments="CONTAINER COMMAND [ARGUMENT…]",
        least=2,
        interspersed=False,
        options=(
            Option("-i --interactive", "keep stdin open"),
            Option("-t --tty", "give it a terminal"),
            Option("-d --detach", "leave it running in the background"),
            Option("-e --env", "variable as KEY=VALUE, or KEY to pass yours on",
                   value="VARIABLE", many=True),
            Option("--env-file", "file of variables", value="FILE", many=True, complete="file"),
            Option("-u --user", "user (or uid), with :GROUP if wanted", value="USER"),
            Option("-w --workdir", "working directory inside", value="DIR"),
            Option("--privileged", "give it every capability of the container's user namespace"),
            Option("--detach-keys", "keys that leave it running (ctrl-p,ctrl-q)", value="KEYS",
                   parse=values.detach_keys),
        ),
        complete="container",
        examples=(
            ("onggi exec -it web sh", "look around in a running container"),
            ("onggi exec -u 1000 -w /srv web ls -l", "as another user, in another directory"),
        ),
    )
}  # fmt: skip
