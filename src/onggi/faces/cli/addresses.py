"""IP and MAC addresses as users write them. Pure; each parser raises BadValueError.

Written on inet_pton(3): the module `ipaddress` costs milliseconds to import.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from onggi.faces.cli.options import BadValueError

_MAC_EXAMPLE = "92:d0:c6:0a:29:33"


def _packed(text: str) -> tuple[int, bytes]:
    """(family, bytes); (0, b"") for what is no address."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        return family, inet_pton(family, text)
    except (OSError, ValueError):  # ValueError: a null character or text that is not ASCII
        return 0, b""


def ip_address(text: str, example: str) -> str:
    """An address of either family, in its canonical spelling."""
    family, packed = _packed(text)
    if not packed:
        if text == "localhost":
            raise BadValueError("names are not looked up here, write 127.0.0.1", example)
        raise BadValueError(f"{text!r} is not an IP address", example)
    return str(inet_ntop(family, packed))


def name_server(text: str) -> str:
    """An address of either family that answers for names."""
    return ip_address(text, "10.0.0.53")


def ipv4(text: str) -> str:
    """An IPv4 address that one container can have."""
    return _usable(text, AF_INET, "IPv4", "10.7.0.10")


def ipv6(text: str) -> str:
    """An IPv6 address that one container can have."""
    return _usable(text, AF_INET6, "IPv6", "fd00:7::10")


def _usable(text: str, wanted: int, name: str, example: str) -> str:
    family, packed = _packed(text)
    if family != wanted:
        if "/" in text and _packed(text.partition("/")[0])[0] == wanted:
            raise BadValueError("an address without /LENGTH: its network knows the length", example)
        raise BadValueError(f"not an {name} address", example)
    several = packed[0] >= 224 if wanted == AF_INET else packed[0] == 0xFF
    own = packed[0] == 127 if wanted == AF_INET else packed == b"\0" * 15 + b"\1"
    if several or own or not any(packed):
        raise BadValueError("not an address that one container can have", example)
    return str(inet_ntop(family, packed))


def link_local(text: str) -> str:
    """An address of 169.254.0.0/16 or fe80::/10. Source: RFC 3927, RFC 4291 section 2.5.6."""
    family, packed = _packed(text)
    if not packed or not (
        packed[:2] == b"\xa9\xfe"
        if family == AF_INET
        else packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    ):
        raise BadValueError("not an address of 169.254.0.0/16 or fe80::/10", "169.254.7.7")
    return str(inet_ntop(family, packed))


def mac(text: str) -> str:
    """`92:d0:c6:0a:29:33`, also with `-`: lower case with colons, of one station."""
    parts = text.lower().replace("-", ":").split(":")
    if len(parts) != 6 or not all(
        len(p) == 2 and not set(p) - set("0123456789abcdef") for p in parts
    ):
        raise BadValueError("not a MAC address of six bytes", _MAC_EXAMPLE)
    if int(parts[0], 16) & 1:
        raise BadValueError("the address of a group, not of one station", _MAC_EXAMPLE)
    if set(parts) == {"00"}:
        raise BadValueError("all zeros is no station's address", _MAC_EXAMPLE)
    return ":".join(parts)
