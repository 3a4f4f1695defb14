"""What docker's volume driver `local` can be told: `type`, `device` and `o`, as for mount(8).

A directory of the host as a volume is a bind. Other file systems would have to be mounted in the
host's own table, which no container of ours adds to. Source: docker-volume-create(1).
"""

from __future__ import annotations

import msgspec

from onggi.engine.api.spec import MountSpec
from onggi.errors import InvalidArgument, Unsupported

_KEYS = ("type", "device", "o")
_FLAGS = frozenset("bind rbind ro rw".split())


def check_options(options: dict[str, str]) -> None:
    """Refuse what cannot be, and say what instead.

    Raises:
        InvalidArgument, Unsupported.
    """
    if not options:
        return
    unknown = next((key for key in options if key not in _KEYS), None)
    if unknown is not None:
        raise InvalidArgument(
            f"a volume has no option {unknown}", hint=f"known are: {', '.join(_KEYS)}"
        )
    kind, device, flags = options.get("type", "none"), options.get("device", ""), _flags(options)
    if kind == "tmpfs":
        raise Unsupported(
            "a volume of type tmpfs is not there",
            hint="--tmpfs TARGET:size=64m gives one container memory of its own",
        )
    if kind not in ("", "none", "bind"):
        raise Unsupported(
            f"a volume of type {kind} is not mounted by the engine",
            hint="mount it on the host, then: -v /mnt/…:TARGET, or type=none,device=/mnt/…,o=bind",
        )
    if not device.startswith("/") or (kind != "bind" and not {"bind", "rbind"} & set(flags)):
        raise InvalidArgument(
            "a volume's options name no directory of the host",
            hint="type=none, device=/srv/data, o=bind",
        )
    odd = next((flag for flag in flags if flag not in _FLAGS), None)
    if odd is not None:
        raise InvalidArgument(
            f"a volume that is a bind has no option {odd!r}", hint="o=bind, o=rbind, o=bind,ro"
        )


def _flags(options: dict[str, str]) -> list[str]:
    return [flag for flag in options.get("o", "").split(",") if flag]


def as_mounted(mount: MountSpec, options: dict[str, str]) -> MountSpec:
    """The mount of a volume with these options."""
    if not options:
        return mount
    flags = _flags(options)
    return msgspec.structs.replace(
        mount,
        read_only=mount.read_only or "ro" in flags,
        recursive=mount.recursive and "rbind" in flags,
        copy_up=False,  # what the image has is not put into a directory of the host's
    )
