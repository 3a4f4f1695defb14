"""`update`: limits, restart policy and published ports of containers, running or not."""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli.healthflags import restart
from onggi.faces.cli.options import Option
from onggi.faces.cli.portflags import all_published, publish, unpublish
from onggi.faces.cli.runflags import CONTAINER
from onggi.faces.cli.runspec import resources_of
from onggi.faces.cli.several import each
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_LIMITS = frozenset(
    "memory memory-swap memory-reservation cpus cpu-shares cpu-period cpu-quota cpuset-cpus"
    " cpuset-mems pids-limit blkio-weight".split()
)


def _update(context: Context, parsed: Parsed) -> int:
    request: dict[str, Any] = {}
    limits = resources_of(parsed)
    if limits:
        request["resources"] = limits
    if parsed.get("restart") is not None:
        request["restart"] = parsed.get("restart")
    if parsed.many("publish"):
        request["publish"] = all_published(parsed.many("publish"))
    if parsed.many("unpublish"):
        request["unpublish"] = parsed.many("unpublish")
    if not request:
        raise InvalidArgument(
            "nothing to change is named", hint="for instance --memory 1g, --restart always"
        )

    def change(target: str) -> None:
        answer = context.client.call("containers.update", {"target": target, **request})
        context.warn(answer.get("warnings", ()))

    return each(context, parsed.arguments, change)


VERBS = {
    "update": Verb(
        _update,
        arguments="CONTAINER…",
        least=1,
        options=(
            *(option for option in CONTAINER if option.key in _LIMITS),
            Option("--restart", "no, on-failure[:N], always, unless-stopped", value="POLICY",
                   parse=restart, complete="no on-failure always unless-stopped"),
            Option("-p --publish", "one more port: 8080:80", value="PORT", many=True,
                   parse=publish),
            Option("--unpublish", "a port of the host to take away: 8080[/udp]", value="PORT",
                   many=True, parse=unpublish),
        ),
        complete="container",
        examples=(
            ("onggi update --memory 1g --cpus 2 db", "now, and at later starts"),
            ("onggi update --publish 8443:443 web", "one more port, without a restart"),
        ),
    ),
}  # fmt: skip
