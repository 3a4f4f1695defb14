"""The rules of an engine's networks, as the text that nft(8) reads: pure.

The text depends on the instance's names and on whether the host is guarded, on nothing else: which
bridges, ranges and ports there are is in sets and maps, so that a thousand published ports are no
rule more than one, and changes need no text. Rules carry their reason, for whoever runs
`nft list ruleset`. Elements are `elements`' affair.

A new packet to a published port is not translated where it arrives. It goes on to the host's own
input rules; when it has passed them, chain `late` sends a copy into the turnstile, a veth pair of
ours, and only at its other end the copy is translated. So a published port keeps to the host's
policy. Connection tracking then translates all that follows, on the direct way.
Source: nft(8).
"""

from __future__ import annotations

import zlib

from msgspec import Struct

#: What `dup` sends to: addresses that only the turnstile's neighbour table knows.
TURN4, TURN6 = "192.0.0.10", "fe80::9"
#: What bridges, and a turnstile's outer ends, of every instance begin with.
BRIDGE_PREFIX, TURN_OUT_PREFIX = "og", "oto"


class Names(Struct, frozen=True):
    """What an instance's kernel objects are called: the two tables, and the turnstile's ends."""

    table: str
    turn_in: str
    turn_out: str


def names_for(instance: str) -> Names:
    """The names that belong to an instance, told apart from those of every other."""
    table = instance if instance.partition("-")[0] == "onggi" else f"onggi-{instance}"
    tag = f"{zlib.crc32(table.encode()):08x}"
    return Names(table=table, turn_in=f"oti{tag}", turn_out=f"{TURN_OUT_PREFIX}{tag}")


class _Family(Struct, frozen=True):
    """What differs between the two tables. Rules: of `arriving`; of `sources`, for what may have a
    source that the host has no route to; of `forward`, for what of that is forwarded if nobody
    forbids it; of `turn`, for what stays the host's own."""

    name: str
    address: str
    turn: str
    arriving: tuple[str, ...]
    neighbours: tuple[str, ...]
    staying: tuple[str, ...]
    own: tuple[str, ...]


_IPV4 = _Family(
    name="ip",
    address="ipv4_addr",
    turn=TURN4,
    arriving=(
        # Bridges have route_localnet, or 127.0.0.1 could not be a container's client.
        'iifname @bridges ip daddr 127.0.0.0/8 drop comment "the loopback is the host\'s own"',
        # dup forbids it, and a datagram longer than the bridge's MTU could not go on.
        'iifname "$OUT$" meta l4proto udp ip frag-off set 0 comment "copies may be fragmented"',
    ),
    neighbours=('ip saddr 169.254.0.0/16 accept comment "stays within the network"',),
    staying=('iifname @bridges ip saddr 169.254.0.0/16 drop comment "for neighbours only"',),
    own=('iif != "lo" ip daddr 127.0.0.0/8 drop comment "the loopback is the host\'s own"',),
)
_IPV6 = _Family(
    name="ip6",
    address="ipv6_addr",
    turn=TURN6,
    arriving=(),
    neighbours=(
        "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, "
        "mld-listener-report, mld-listener-done, mld2-listener-report } "
        'accept comment "before there is an address"',
        'ip6 saddr fe80::/10 accept comment "stays within the network"',
    ),
    staying=(),
    own=(
        'ip6 saddr fe80::/10 accept comment "never forwarded: better refused than lost"',
        'ip6 daddr ::1 accept comment "never routed: the engine itself listens there"',
    ),
)


def ruleset(names: Names, *, ipv4_guard: bool, ipv6_guard: bool, ipv6: bool = True) -> str:
    """The whole text, which replaces what an earlier one made; without elements.

    `ipv4_guard`, `ipv6_guard`: this host forwards only because of us, so it is kept from routing
    for others. `ipv6`: this kernel has IPv6.
    """
    text = _table(names, _IPV4, ipv4_guard)
    return text + _table(names, _IPV6, ipv6_guard) if ipv6 else text


def _table(names: Names, family: _Family, guard: bool) -> str:
    chains = "\n".join(
        (
            _sets(),
            _arriving(family),
            _local(family),
            _late(family),
            _forward(family, guard),
            _translation(),
        )
    )
    # Added first: to delete what is not there is an error before Linux 6.3.
    text = f"add table $F$ $T$\ndelete table $F$ $T$\ntable $F$ $T$ {{\n{chains}\n}}\n"
    words = {
        "F": family.name,
        "T": names.table,
        "IN": names.turn_in,
        "OUT": names.turn_out,
        "ADDRESS": family.address,
        "TURN": family.turn,
        "FLOW": "$F$ saddr . th sport . $F$ daddr . th dport",
        "OWN": "$F$ daddr . meta l4proto . th dport",
        "ANY": "meta l4proto . th dport",
    }
    for word in ("FLOW", "OWN", "ANY", *words):
        text = text.replace(f"${word}$", words[word])
    return text


def _block(kind: str, *lines: str) -> str:
    return "\n".join((f"  {kind} {{", *(f"    {line}" for line in lines), "  }"))


def _base(name: str, hook: str, *lines: str) -> str:
    return _block(f"chain {name}", f"type {hook}; policy accept;", *lines)


def _sets() -> str:
    return "\n".join(
        (
            _block("set bridges", "type ifname"),
            _block("set internal", "type ifname"),
            _block("set pairs", "type ifname . ifname"),
            _block("set subnets", "type $ADDRESS$", "flags interval"),
            _block("set any_port", "type inet_proto . inet_service"),
            _block("map any_target", "type inet_proto . inet_service : $ADDRESS$ . inet_service"),
            _block("set own_port", "type $ADDRESS$ . inet_proto . inet_service"),
            _block(
                "map own_target",
                "type $ADDRESS$ . inet_proto . inet_service : $ADDRESS$ . inet_service",
            ),
            # Flows of clients on this host that the input rules have let through.
            _block(
                "set judged",
                "type $ADDRESS$ . inet_service . $ADDRESS$ . inet_service",
                "flags dynamic,timeout",
                "timeout 10s",
                "size 65536",
            ),
        )
    )


def _arriving(family: _Family) -> str:
    sources = _base(
        "sources",
        "filter hook prerouting priority mangle",
        'iifname != @bridges accept comment "below: what containers send"',
        "ct state established,related accept",
        *family.neighbours,
        'fib saddr . iif oif missing drop comment "forged: no such source is behind it"',
    )
    arriving = _base("arriving", "filter hook prerouting priority raw", *family.arriving)
    return f"{arriving}\n{sources}" if family.arriving else sources


def _local(family: _Family) -> str:
    """What clients on this host send to it. Tracked, it would have its entry, without translation,
    before a rule of input has seen it."""
    except_loopback = (
        ['ip6 daddr ::1 accept comment "the engine listens there"'] if family.name == "ip6" else []
    )
    reason = 'comment "not tracked until the input rules have judged it"'
    return "\n".join(
        (
            _block(
                "chain unjudged",
                f"tcp flags & (fin | syn | rst | ack) == syn notrack {reason}",
                f"meta l4proto udp $FLOW$ != @judged notrack {reason}",
            ),
            _base(
                "local_raw",
                "filter hook output priority raw",
                'oif != "lo" accept comment "below: what this host says to itself"',
                *except_loopback,
                "$OWN$ @own_port goto unjudged",
                "$ANY$ @any_port goto unjudged",
            ),
            _base(
                "local_again",
                "nat hook output priority -100",
                'oif != "lo" accept',
                'meta l4proto != udp accept comment "below: judged, but its entry has gone"',
                *except_loopback,
                "dnat to $OWN$ map @own_target",
                "dnat to $ANY$ map @any_target",
            ),
            _base(
                "local_forged",
                "filter hook output priority filter",
                'oifname "$IN$" ct state != untracked drop comment "for copies only"',
            ),
        )
    )


def _late(family: _Family) -> str:
    turn = _block(
        "chain turn",
        'iifname @internal drop comment "internal networks lead nowhere"',
        *family.own,
        'iif "lo" meta l4proto udp update @judged { $FLOW$ }',
        'dup to $TURN$ device "$IN$"',
        'drop comment "its copy goes on, in chain published"',
    )
    late = _base(
        "late",
        "filter hook input priority 200",
        'ct state != { new, untracked } accept comment "below: passed the host\'s input rules"',
        'iifname "$OUT$" drop comment "a copy whose port is published no more"',
        'fib daddr type != local accept comment "broadcast and multicast are the host\'s"',
        "$OWN$ @own_port goto turn",
        "$ANY$ @any_port goto turn",
    )
    return f"{turn}\n{late}"


def _forward(family: _Family, guard: bool) -> str:
    lines = [
        'oifname "$IN$" drop comment "for copies only: others would get past the input rules"',
        "ct state established,related accept",
        'iifname . oifname @pairs accept comment "within one network"',
        'iifname @internal drop comment "internal networks lead nowhere"',
        'oifname @internal drop comment "internal networks are reached from nowhere"',
        'oifname @bridges ct status dnat accept comment "published ports"',
        'oifname @bridges drop comment "networks are reached by published ports only"',
        'iifname @bridges ct state invalid drop comment "it would leave untranslated"',
        *family.staying,
        'iifname @bridges accept comment "the way out"',
        'iifname "$OUT$" drop comment "copies go to networks only"',
    ]
    if guard:
        others = f'"{BRIDGE_PREFIX}*"'
        lines += [
            f'iifname {others} accept comment "of another root"',
            f'oifname {others} accept comment "of another root"',
            f'iifname "{TURN_OUT_PREFIX}*" accept comment "of another root"',
            'ct status dnat accept comment "somebody wants it so"',
            'drop comment "forwarding is on for containers only: this host is no router"',
        ]
    return _base("forward", "filter hook forward priority filter", *lines)


def _translation() -> str:
    published = _base(
        "published",
        "nat hook prerouting priority dstnat",
        'iifname != "$OUT$" accept comment "not judged by the input rules yet"',
        "fib daddr type != local accept",
        "dnat to $OWN$ map @own_target",
        "dnat to $ANY$ map @any_target",
    )
    masked = _base(
        "masked",
        "nat hook postrouting priority srcnat",
        'oif "lo" accept comment "this host with itself"',
        'oifname != @bridges $F$ saddr @subnets masquerade comment "the way out"',
        "oifname != @bridges accept",
        "ct status & dnat == 0 accept",
        # Or the answer would not come back to us, but go to a loopback address or to a neighbour.
        'fib saddr type local masquerade comment "a published port used by this host"',
        '$F$ saddr @subnets masquerade comment "a published port used by a container"',
    )
    return f"{published}\n{masked}"
