"""`--network` and the flags beside it: which networks a container is in, and as whom.

Pure: gives `network` and `endpoints` of ContainerSpec. Whether a network exists, and whether an
address is free in it, is the engine's business. Source: docker-run(1) --network, podman-run(1).
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli import addresses
from onggi.faces.cli.options import BadValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onggi.faces.cli.options import Parsed

_EXAMPLE = "name=back,alias=db,ip=10.7.0.10"
_DEFAULT = ("bridge", "default")
_SHARED = "container:"
#: What is no network of ours, and what is meant by it.
_FOREIGN = {
    "slirp4netns": "the default, a network of its own, needs no slirp4netns",
    "pasta": "the default, a network of its own, needs no pasta",
    "private": "leave --network out for a network of its own",
    "ns": "--network container:NAME joins a container's; a path is not joined",
}
#: Keys of the long form → (field of EndpointSpec, parser, whether it collects).
_KEYS: dict[str, tuple[str, Callable[[str], str], bool]] = {
    "ip": ("ipv4", addresses.ipv4, False),
    "ip6": ("ipv6", addresses.ipv6, False),
    "mac-address": ("mac", addresses.mac, False),
    "link-local-ip": ("link_local", addresses.link_local, True),
}
_ALIASES = {"ipv4": "ip", "ipv6": "ip6", "mac": "mac-address"}
_ALWAYS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def network(text: str) -> dict[str, Any]:
    """One `--network`: `{"mode": …}` for none, host and container:NAME, else EndpointSpec's fields.

    A network with options is `name=NAME,alias=A,ip=…` (docker) or `NAME:alias=A,ip=…` (podman).
    """
    if text in ("none", "host"):
        return {"mode": text}
    if text.startswith(_SHARED):
        if text == _SHARED:
            raise BadValueError("no container is named", "container:web")
        return {"mode": text}
    name, colon, rest = text.partition(":")
    if name in _FOREIGN:
        raise BadValueError(_FOREIGN[name])
    if colon and "=" not in name:
        return _with_options(name, rest)
    if "=" not in text:
        return {"network": network_name(text)}
    words = text.split(",")
    names = [word[5:] for word in words if word.startswith("name=")]
    if len(names) != 1:
        raise BadValueError("not exactly one name=NETWORK", _EXAMPLE)
    return _with_options(names[0], ",".join(w for w in words if not w.startswith("name=")))


def _with_options(name: str, options: str) -> dict[str, Any]:
    if name in ("none", "host"):
        raise BadValueError(f"{name} is no network that could have options", _EXAMPLE)
    found: dict[str, Any] = {"network": network_name(name)}
    for word in options.split(",") if options else ():
        key, equals, value = word.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if key == "alias" and equals:
            found.setdefault("aliases", []).append(alias(value))
        elif key in _KEYS and equals:
            _place(found, key, value)
        elif key in ("gw-priority", "driver-opt", "interface_name"):
            raise BadValueError(f"{key} is not supported: {_WITHOUT[key]}", _EXAMPLE)
        else:
            known = ", ".join(("alias", *_KEYS))
            raise BadValueError(f"{word!r} is none of {known}", _EXAMPLE)
    return found


_WITHOUT = {
    "gw-priority": "the first network that leads outside has the default route",
    "driver-opt": "a bridge's interfaces have no options",
    "interface_name": "interfaces are eth0, eth1 … in the order of the networks",
}


def _place(found: dict[str, Any], key: str, value: str) -> None:
    field, parse, collects = _KEYS[key]
    if collects:
        found.setdefault(field, []).append(parse(value))
    elif field in found:
        raise BadValueError(f"{key} is given twice", _EXAMPLE)
    else:
        found[field] = parse(value)


def network_name(text: str) -> str:
    """A network's name or id; `default` is the default network, `bridge`."""
    if text in _DEFAULT:
        return "bridge"
    if not text or text[0] not in _ALWAYS or set(text) - _ALWAYS - set("_.-"):
        raise BadValueError(
            f"{text!r} is no network's name (nor none, host or container:NAME)", "--network back"
        )
    return text


def alias(text: str) -> str:
    """One more name of a container in a network. Source: RFC 1123 section 2.1, RFC 1035 2.3.4."""
    labels = text.split(".")
    if len(text) > 253 or not all(labels) or any(len(label) > 63 for label in labels):
        raise BadValueError("not a host's name", "db")
    if any(set(label) - _ALWAYS - set("_-") or label[0] == "-" for label in labels):
        raise BadValueError("not a host's name", "db")
    return text


#: The flags beside `--network`: option key → field of EndpointSpec.
_BESIDE = {
    "network-alias": "aliases", "ip": "ipv4", "ip6": "ipv6", "mac-address": "mac",
    "link-local-ip": "link_local",
}  # fmt: skip


def network_fields(parsed: Parsed) -> dict[str, Any]:
    """`network` and `endpoints` of ContainerSpec, as far as something was said.

    `--ip`, `--network-alias` and so on belong to the first network that is named.

    Raises: InvalidArgument: what was said contradicts itself.
    """
    wanted = parsed.many("network")
    beside = {field: value for key, field in _BESIDE.items() if (value := parsed.get(key))}
    modes = [one["mode"] for one in wanted if "mode" in one]
    if modes:
        _check_alone(modes[0], len(wanted), beside, parsed)
        return {"network": modes[0]}
    if not wanted:
        if not beside:
            return {}
        for key in ("ip", "ip6"):
            if parsed.get(key):
                raise InvalidArgument(
                    f"--{key} needs a --network whose range it is of",
                    hint="onggi network create --subnet 10.7.0.0/24 back, then --network back",
                )
        wanted = [{"network": "bridge"}]
    first = _joined(wanted[0], beside)
    endpoints = [first, *wanted[1:]]
    _check_names([one["network"] for one in endpoints])
    if endpoints == [{"network": "bridge"}]:
        return {"network": "bridge"}
    return {"network": "bridge", "endpoints": endpoints}


def _check_alone(mode: str, count: int, beside: dict[str, Any], parsed: Parsed) -> None:
    if count > 1:
        raise InvalidArgument(f"--network {mode} goes with no other network")
    for key, field in _BESIDE.items():
        if field in beside:
            raise InvalidArgument(
                f"--{key} with --network {mode}: the container has no interface of its own there",
                hint="--network NAME gives it one",
            )
    ports = "publish" if parsed.many("publish") else "publish-all"
    if parsed.get(ports):
        raise InvalidArgument(f"--{ports} with --network {mode}: {_no_ports(mode)}")


def _no_ports(mode: str) -> str:
    if mode == "host":
        return "its ports are the host's already, leave the option out"
    if mode == "none":
        return "nothing outside could reach it, leave --network out"
    return f"publish on the container whose network it is ({mode.removeprefix(_SHARED)})"


def _joined(first: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    joined = dict(first)
    for field, value in beside.items():
        if isinstance(value, list):
            joined[field] = [*joined.get(field, ()), *value]
        elif field in joined:
            raise InvalidArgument(f"{joined[field]} and {value} are both given for one network")
        else:
            joined[field] = value
    return joined


def _check_names(names: list[str]) -> None:
    for at, name in enumerate(names):
        if name in names[:at]:
            raise InvalidArgument(f"--network {name} is given twice")
