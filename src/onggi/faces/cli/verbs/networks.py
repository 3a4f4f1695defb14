"""`network create`, `ls`, `connect`, `disconnect`, `rm` and `prune`."""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli import addresses, human
from onggi.faces.cli.confirm import agreed
from onggi.faces.cli.environment import label
from onggi.faces.cli.networkflags import alias, network_name
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.several import each
from onggi.faces.cli.subnetflags import bridge_options, driver, reserved, subnets
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("NETWORK ID", "ID"),
    Column("NAME", "Name"),
    Column("DRIVER", "Driver"),
    Column("SUBNETS", "Subnets", shrinks=True),
    Column("CONTAINERS", "Containers", shrinks=True),
)
_SHORT_ID = 12


def _create(context: Context, parsed: Parsed) -> int:
    request: dict[str, Any] = {"name": parsed.arguments[0], **bridge_options(parsed.many("opt"))}
    ranges = subnets(parsed)
    if ranges:
        request["subnets"] = ranges
    for key in ("internal", "ipv6"):
        if parsed.get(key) is not None:
            request[key] = parsed.on(key)
    if parsed.many("label"):
        request["labels"] = dict(parsed.many("label"))
    if not parsed.get("ipv4", True):
        raise InvalidArgument("a network always has IPv4; --ipv6 adds the other family")
    if parsed.get("ipv6") is False and any(":" in one["subnet"] for one in ranges):
        raise InvalidArgument("--ipv6=false contradicts a --subnet of IPv6")
    context.out.line(context.client.call("networks.create", request)["id"])
    return 0


def _row(network: dict[str, Any], wide: bool) -> dict[str, Any]:
    created = network["created_ns"]
    identity = network["id"]
    return {
        "ID": identity if wide else identity[:_SHORT_ID],
        "Name": network["name"],
        "Driver": network["driver"],
        "Scope": "local",
        "Subnets": ", ".join(one["subnet"] for one in network.get("subnets", ())),
        "Containers": ", ".join(one["container"] for one in network.get("endpoints", ())),
        "CreatedAt": human.timestamp(created) if created else "",
        "IPv6": str(network.get("ipv6", False)).lower(),
        "Internal": str(network.get("internal", False)).lower(),
        "Labels": ",".join(f"{k}={v}" for k, v in network.get("labels", {}).items()),
        "Bridge": network.get("bridge", ""),
    }


def _list(context: Context, parsed: Parsed) -> int:
    found = context.client.call("networks.list", {"filters": parsed.many("filter")})
    form, wide = parsed.text("format"), parsed.on("no-trunc")
    rows = [_row(network, wide) for network in found]
    if parsed.on("quiet") and not form:
        context.out.text("".join(f"{row['ID']}\n" for row in rows))
        return 0
    show(context.out, _COLUMNS, rows, form, wide=wide)
    return 0


def _name(text: str) -> str:
    try:
        return network_name(text)
    except BadValueError as error:
        raise InvalidArgument(error.reason, hint="onggi network ls lists all") from None


def _connect(context: Context, parsed: Parsed) -> int:
    network, container = parsed.arguments
    endpoint: dict[str, Any] = {"network": _name(network)}
    for key, field in (
        ("alias", "aliases"), ("ip", "ipv4"), ("ip6", "ipv6"), ("mac-address", "mac"),
        ("link-local-ip", "link_local"),
    ):  # fmt: skip
        if parsed.get(key):
            endpoint[field] = parsed.get(key)
    context.client.call("networks.connect", {"container": container, "endpoint": endpoint})
    return 0


def _disconnect(context: Context, parsed: Parsed) -> int:
    network, container = parsed.arguments
    request = {"container": container, "network": _name(network), "force": parsed.on("force")}
    context.client.call("networks.disconnect", request)
    return 0


def _remove(context: Context, parsed: Parsed) -> int:
    def remove(name: str) -> None:
        context.client.call("networks.remove", {"name": name, "force": parsed.on("force")})

    return each(context, parsed.arguments, remove)


def _prune(context: Context, parsed: Parsed) -> int:
    if not parsed.on("force") and not agreed("all networks that no container is in"):
        return 0
    answer = context.client.call("networks.prune", {"filters": parsed.many("filter")})
    if answer.get("removed"):
        context.out.line("Deleted Networks:")
    for name in answer.get("removed", ()):
        context.out.line(name)
    return 0


_FILTER = Option("-f --filter", "KEY=VALUE: name, id, label, driver, type, dangling",
                 value="FILTER", many=True)  # fmt: skip
_CREATE = (
    Option("-d --driver", "bridge, the only one", value="DRIVER", parse=driver,
           complete="bridge"),
    Option("--subnet", "its addresses: 10.7.0.0/24, one range of each family", value="RANGE",
           many=True),
    Option("--gateway", "the host's address in it (the first)", value="IP", many=True),
    Option("--ip-range", "the part that is given out: 10.7.0.128/25", value="RANGE", many=True),
    Option("--aux-address", "an address that is not given out: router=10.7.0.5", value="IP",
           many=True, parse=reserved),
    Option("--ipv6", "IPv6 too (as the host can); --ipv6=false for none"),
    Option("--ipv4", "IPv4, always so"),
    Option("--internal", "no way out and none in"),
    Option("-l --label", "label as KEY=VALUE", value="LABEL", many=True, parse=label),
    Option("-o --opt", "mtu=1400, com.docker.network.bridge.name=br7", value="OPTION", many=True),
    Option("--ipam-driver", "default, the only one", value="DRIVER",
           parse=lambda text: driver(text, "default"), complete="default"),
)  # fmt: skip
_CONNECT = (
    Option("--alias", "one more name of the container there", value="NAME", many=True,
           parse=alias),
    Option("--ip", "its IPv4 address there", value="IP", parse=addresses.ipv4),
    Option("--ip6", "its IPv6 address there", value="IP", parse=addresses.ipv6),
    Option("--link-local-ip", "one more address, of 169.254.0.0/16 or fe80::/10", value="IP",
           many=True, parse=addresses.link_local),
    Option("--mac-address", "hardware address of the interface", value="MAC",
           parse=addresses.mac),
)  # fmt: skip

VERBS = {
    "create": Verb(
        _create,
        arguments="NAME",
        least=1,
        most=1,
        options=_CREATE,
        examples=(
            ("onggi network create back", "then: onggi run --network back …"),
            ("onggi network create --subnet 10.7.0.0/24 --internal safe",
             "addresses of your choice, and no way out"),
        ),
    ),
    "ls": Verb(
        _list,
        most=0,
        options=(
            Option("-q --quiet", "ids only"),
            _FILTER,
            Option("--no-trunc", "whole ids"),
            Option("--format", "table, json, or a template: '{{.Name}}'", value="FORM"),
        ),
        examples=(("onggi network ls --filter dangling=true", "those that nobody is in"),),
    ),
    "connect": Verb(
        _connect,
        arguments="NETWORK CONTAINER",
        least=2,
        most=2,
        options=_CONNECT,
        complete="network",
        examples=(("onggi network connect --alias db back postgres", "also while it runs"),),
    ),
    "disconnect": Verb(
        _disconnect,
        arguments="NETWORK CONTAINER",
        least=2,
        most=2,
        options=(Option("-f --force", "no error when it is not in it"),),
        complete="network",
    ),
    "rm": Verb(
        _remove,
        arguments="NETWORK…",
        least=1,
        options=(Option("-f --force", "no error when it is not there"),),
        complete="network",
    ),
    "prune": Verb(
        _prune,
        most=0,
        options=(
            Option("-f --force", "do not ask"),
            Option("--filter", "KEY=VALUE: until, label, label!", value="FILTER", many=True),
        ),
        examples=(("onggi network prune --filter until=24h", "those older than a day"),),
    ),
}  # fmt: skip
