"""The three files that tell a container its name and how to resolve others: pure text.

Source: hosts(5), resolv.conf(5), hostname(5); docker-run(1) --add-host, --dns.
"""

from __future__ import annotations

import ipaddress

from onggi.errors import InvalidArgument

_LOOPBACK = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def hosts(
    hostname: str, add_hosts: tuple[str, ...], addresses: tuple[str, ...] = ("127.0.1.1",)
) -> str:
    """Text of /etc/hosts: loopback, the `NAME:ADDRESS` extras, and the container itself.

    Raises:
        InvalidArgument: an extra that is not NAME:ADDRESS.
    """
    extras = "".join(f"{address}\t{name}\n" for name, address in map(_split_host, add_hosts))
    own = "".join(f"{address}\t{hostname}\n" for address in addresses)
    return f"{_LOOPBACK}{extras}{own}"


def _split_host(entry: str) -> tuple[str, str]:
    for separator in ("=", ":"):
        name, found, address = entry.partition(separator)
        if found and name:
            break
    else:
        address = ""
    try:
        ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        raise InvalidArgument(
            f"invalid --add-host {entry!r}", hint="write NAME:ADDRESS, for instance db:10.0.0.5"
        ) from None
    return name, address.strip("[]")


def resolv_conf(
    host_text: str,
    dns: tuple[str, ...],
    search: tuple[str, ...],
    options: tuple[str, ...],
    *,
    isolated: bool,
) -> str:
    """Text of /etc/resolv.conf.

    What the user names replaces the host's lines of that kind. `isolated`: the container has no
    way to the host's resolver, so only what the user named is written.
    """
    kept = {"nameserver": [], "search": [], "options": []}  # type: dict[str, list[str]]
    for line in [] if isolated else host_text.splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword in kept and rest.strip():
            kept[keyword].append(rest.strip())
    lines = [f"nameserver {server}" for server in dns or kept["nameserver"]]
    if search != (".",):
        lines += (
            [f"search {' '.join(search)}"] if search else [f"search {s}" for s in kept["search"]]
        )
    lines += (
        [f"options {' '.join(options)}"] if options else [f"options {o}" for o in kept["options"]]
    )
    return "".join(line + "\n" for line in lines)
