"""Changes of a container that is there already: limits, name, files, ports."""

from __future__ import annotations

from typing import Literal

from onggi.engine.api.base import Value
from onggi.engine.api.spec import PortSpec, ResourceSpec, RestartSpec


class RenameRequest(Value, frozen=True):
    target: str
    name: str


class UpdateRequest(Value, frozen=True):
    """What is None stays. `resources`: fields that are not at their default replace the old ones.

    `publish`: ports to add, `unpublish`: `[ADDRESS:]PORT[/PROTOCOL]` of the host to take away.
    """

    target: str
    resources: ResourceSpec | None = None
    restart: RestartSpec | None = None
    publish: tuple[PortSpec, ...] = ()
    unpublish: tuple[str, ...] = ()


class UpdateAnswer(Value, frozen=True):
    warnings: tuple[str, ...] = ()


class RestartRequest(Value, frozen=True):
    """Stop (as StopRequest) and start again."""

    target: str
    timeout_s: float | None = None
    signal: str = ""


class CopyOutRequest(Value, frozen=True):
    """A tar of `path` is written to the request's descriptor. `follow`: a link's target itself."""

    target: str
    path: str
    follow: bool = False


class CopyInRequest(Value, frozen=True):
    """A tar, the request's descriptor, is unpacked in the directory `path`.

    `archive`: keep the owners that the tar names. `overwrite`: a directory may take a file's place
    and the other way round.
    """

    target: str
    path: str
    archive: bool = False
    overwrite: bool = False


class PathRequest(Value, frozen=True):
    target: str
    path: str


class PathAnswer(Value, frozen=True):
    """What is at a path of a container. `link_target`: empty unless it is a link."""

    name: str
    kind: Literal["file", "directory", "symlink", "other"]
    mode: int
    size_bytes: int
    modified_ns: int
    link_target: str = ""


class PortRow(Value, frozen=True):
    """One published port as `port` shows it."""

    container_port: int
    protocol: str
    host_address: str
    host_port: int


class SweepRequest(Value, frozen=True):
    """`container prune`, `volume prune`, `network prune`. `every`: also volumes with names."""

    every: bool = False
    filters: tuple[str, ...] = ()


class SweepAnswer(Value, frozen=True):
    removed: tuple[str, ...] = ()
    freed_bytes: int = 0


class CheckRequest(Value, frozen=True):
    """Compare records and kernel. `repair`: make them agree."""

    repair: bool = False


class CheckRow(Value, frozen=True):
    """One difference. `kind`: cgroup, link, rule, process, directory, record …"""

    kind: str
    subject: str
    what: str
    repaired: bool = False
