"""The id maps of a new user namespace, and who may write them.

Root writes any. A user in a namespace of podman's writes what that one has, and gives up setgroups.
An ordinary user of the host writes the own id alone, newuidmap and newgidmap what was granted.
Source: user_namespaces(7) "Defining user and group ID mappings", newuidmap(1).
"""

from __future__ import annotations

from collections.abc import Sequence

from onggi.errors import SpecError, Unsupported
from onggi.runtime.host import HostFacts
from onggi.runtime.namespaces import Namespaces, map_text
from onggi.runtime.own_ids import IdPool
from onggi.runtime.steps import WriteIdMaps
from onggi.specs.runtime import IdMapping, Linux


def require_standing(namespaces: Namespaces, host: HostFacts) -> None:
    """Refuse what an ordinary user cannot have at all.

    Raises:
        SpecError: no user namespace. Unsupported: a new time namespace.
    """
    if host.own_ids is None:
        return
    if not namespaces.own_users:
        raise SpecError(
            "$.linux.namespaces",
            "a container of an ordinary user needs a user namespace (rootless): "
            "`spec --rootless` writes one",
            section="config-linux.md#namespaces",
        )
    if "time" in namespaces.new:
        raise Unsupported(
            "$.linux.namespaces: a time namespace is made by root of the host only",
            hint="leave it out, or run as root",
        )


def map_steps(linux: Linux, namespaces: Namespaces, host: HostFacts) -> list[WriteIdMaps]:
    """The maps of a new user namespace.

    Raises:
        Unsupported: an ordinary user asks for more than the own id, and there is no helper.
    """
    if "user" not in namespaces.new:
        return []
    uid_helper, gid_helper = _helpers(linux, host)
    own = host.own_ids
    return [
        WriteIdMaps(
            uid_map=map_text(linux.uid_mappings),
            gid_map=map_text(linux.gid_mappings),
            setgroups="deny" if denies_groups(linux, namespaces, host) else "",
            uid_helper=uid_helper,
            gid_helper=gid_helper,
            uid_grants=_grants(linux.uid_mappings, own.name, own.uid, own.uid_ranges)
            if own and uid_helper
            else (),
            gid_grants=_grants(linux.gid_mappings, own.name, own.gid, own.gid_ranges)
            if own and gid_helper
            else (),
        )
    ]


def denies_groups(linux: Linux, namespaces: Namespaces, host: HostFacts) -> bool:
    """Whether setgroups(2) is given up: the kernel wants that of who writes a map of groups without
    being allowed to by the host."""
    if "user" not in namespaces.new:
        return False
    own = host.own_ids
    if own is None:
        return host.unprivileged
    return _is_own(linux.gid_mappings, own.gid)


def _helpers(linux: Linux, host: HostFacts) -> tuple[str, str]:
    own = host.own_ids
    if own is None:
        return "", ""
    return (
        _helper("uidMappings", linux.uid_mappings, own.uid, "newuidmap", own.uid_helper),
        _helper("gidMappings", linux.gid_mappings, own.gid, "newgidmap", own.gid_helper),
    )


def _helper(field: str, mappings: Sequence[IdMapping], own: int, program: str, helper: str) -> str:
    """Who writes the map; empty: the user. Raises: Unsupported."""
    if _is_own(mappings, own):
        return ""
    if not helper:
        raise Unsupported(
            f"$.linux.{field}: maps more than the id {own} of the user, for which {program} is "
            "needed, and this host has none",
            hint="install the package uidmap (shadow-utils, shadow), or map the own id alone",
        )
    return helper


def _is_own(mappings: Sequence[IdMapping], own: int) -> bool:
    """Whether a map is the one line that needs nobody's leave."""
    return len(mappings) == 1 and mappings[0].host_id == own and mappings[0].size == 1


def _grants(
    mappings: Sequence[IdMapping], name: str, own: int, ranges: Sequence[IdPool]
) -> tuple[str, ...]:
    """What /etc/subuid lacks for these mappings, as lines of it.

    newuidmap asks each mapping to lie within one line, or to be the own id.
    """
    return tuple(
        f"{name}:{m.host_id}:{m.size}"
        for m in mappings
        if not (m.host_id == own and m.size == 1)
        and not any(r.start <= m.host_id and m.host_id + m.size <= r.start + r.size for r in ranges)
    )
