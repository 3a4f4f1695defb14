"""`port`: where a container's published ports are on the host."""

from __future__ import annotations

from onggi.errors import NotFound
from onggi.faces.cli.options import BadValueError, invalid
from onggi.faces.cli.portflags import bracketed, port_and_protocol
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context


def _port(context: Context, parsed: Parsed) -> int:
    target, *rest = parsed.arguments
    wanted = _wanted(rest[0]) if rest else None
    rows = context.client.call("containers.ports", {"target": target})
    if wanted is None:
        context.out.text("".join(f"{_inside(row)} -> {_outside(row)}\n" for row in rows))
        return 0
    found = [row for row in rows if (row["container_port"], row["protocol"]) == wanted]
    if not found:
        number, protocol = wanted
        raise NotFound(
            f"container {target} does not publish {number}/{protocol}",
            hint=f"onggi port {target} shows what it publishes while it runs",
        )
    context.out.text("".join(f"{_outside(row)}\n" for row in found))
    return 0


def _wanted(text: str) -> tuple[int, str]:
    try:
        return port_and_protocol(text)
    except BadValueError as error:
        raise invalid("the port", text, error) from None


def _inside(row: dict[str, Any]) -> str:
    return f"{row['container_port']}/{row['protocol']}"


def _outside(row: dict[str, Any]) -> str:
    return f"{bracketed(row['host_address'])}:{row['host_port']}"


VERBS = {
    "port": Verb(
        _port,
        arguments="CONTAINER [PORT[/PROTOCOL]]",
        least=1,
        most=2,
        complete="container",
        examples=(
            ("onggi port web", "every published port"),
            ("onggi port web 80", "where port 80 of it is reached"),
        ),
    )
}
