"""Container Device Interface specifications as frozen types, and their parser.

Source: CDI SPEC.md v1.0.0. A field nobody knows is an error, as it is to the reference
implementation: what a device needs would be left out. Nothing here knows what a field does.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from onggi.errors import SpecError
from onggi.specs.runtime import located

MAX_SPEC_BYTES = 4 * 1024 * 1024
VERSIONS = frozenset("0.1.0 0.2.0 0.3.0 0.4.0 0.5.0 0.6.0 0.7.0 0.8.0 1.0.0".split())
_SECTION = "CDI SPEC.md"
_VENDOR = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_CLASS = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_KINDS = ("", "b", "c", "u")

_Id = Annotated[int, Meta(ge=0, le=0xFFFFFFFE)]
_Number = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
_Mode = Annotated[int, Meta(ge=0, le=0o777777)]


class _Cdi(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Base of every type of the specification."""


class DeviceNode(_Cdi, frozen=True):
    """`host_path` empty: the same as `path`. What is not said is the host's node's."""

    path: str
    host_path: str = ""
    type: str = ""
    major: _Number | None = None
    minor: _Number | None = None
    file_mode: _Mode | None = None
    permissions: str = ""
    uid: _Id | None = None
    gid: _Id | None = None


class CdiMount(_Cdi, frozen=True):
    host_path: str
    container_path: str
    type: str = ""
    options: tuple[str, ...] = ()


class Hook(_Cdi, frozen=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class ContainerEdits(_Cdi, frozen=True):
    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[_Id, ...] = ()
    intel_rdt: dict[str, Any] | None = None


class CdiDevice(_Cdi, frozen=True):
    name: str
    container_edits: ContainerEdits
    annotations: dict[str, str] = {}


class CdiSpec(_Cdi, frozen=True):
    """One file: the devices of one kind, `vendor.com/class`, and edits for each of them."""

    cdi_version: str
    kind: str
    devices: tuple[CdiDevice, ...]
    container_edits: ContainerEdits = ContainerEdits()
    annotations: dict[str, str] = {}


def parse_cdi(data: bytes, *, yaml: bool = False) -> CdiSpec:
    """Read a specification, as JSON or YAML.

    Raises:
        SpecError: not one, or not one that can be used; with the path.
    """
    if len(data) > MAX_SPEC_BYTES:
        raise SpecError("$", f"{len(data)} bytes, more than {MAX_SPEC_BYTES}")
    try:
        spec = msgspec.convert(_yaml(data) if yaml else msgspec.json.decode(data), CdiSpec)
    except msgspec.ValidationError as error:
        raise located(error, _SECTION) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError("$", f"not valid JSON: {str(error).rstrip('.')}") from None
    except RecursionError:
        raise SpecError("$", "nested deeper than any specification is") from None
    _check(spec)
    return spec


def _yaml(data: bytes) -> Any:
    """A YAML document as plain values. References are refused: a few bytes could mean gigabytes."""
    import yaml  # noqa: PLC0415 - most hosts have no such file

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(
                    problem=f"*{event.anchor} refers to another part of the document",
                    problem_mark=event.start_mark,
                )
            return super().compose_node(parent, index)

    try:
        return yaml.load(data.decode(), Loader)  # noqa: S506 - a SafeLoader, and stricter
    except UnicodeDecodeError as error:
        raise SpecError("$", f"not utf-8 text: byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SpecError("$", f"not valid YAML: {where}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        text = str(error).splitlines()
        raise SpecError("$", f"not valid YAML: {text[0] if text else 'no reason'}") from None


def _check(spec: CdiSpec) -> None:
    """What a type cannot say. Raises: SpecError."""
    if spec.cdi_version.removeprefix("v") not in VERSIONS:
        raise SpecError(
            "$.cdiVersion", f"{spec.cdi_version!r} is not one of 0.1.0 to 1.0.0", section=_SECTION
        )
    vendor, _, group = spec.kind.partition("/")
    if not (_VENDOR.fullmatch(vendor) and _CLASS.fullmatch(group)):
        raise SpecError("$.kind", f"{spec.kind!r} is not VENDOR/CLASS", section=_SECTION)
    if not spec.devices:
        raise SpecError("$.devices", "is empty", section=_SECTION)
    seen: set[str] = set()
    for number, device in enumerate(spec.devices):
        path = f"$.devices[{number}]"
        if not _NAME.fullmatch(device.name):
            raise SpecError(f"{path}.name", f"{device.name!r} is no name", section=_SECTION)
        if device.name in seen:
            raise SpecError(f"{path}.name", f"{device.name!r} is there twice", section=_SECTION)
        seen.add(device.name)
        _check_edits(device.container_edits, f"{path}.containerEdits")
    _check_edits(spec.container_edits, "$.containerEdits")


def _check_edits(edits: ContainerEdits, path: str) -> None:
    for number, entry in enumerate(edits.env):
        if entry.find("=") < 1 or "\0" in entry:
            raise SpecError(f"{path}.env[{number}]", f"{entry!r} is not NAME=VALUE")
    for number, node in enumerate(edits.device_nodes):
        where = f"{path}.deviceNodes[{number}]"
        _absolute(node.path, f"{where}.path")
        if node.host_path:
            _absolute(node.host_path, f"{where}.hostPath")
        if node.type not in _KINDS:
            raise SpecError(f"{where}.type", f"{node.type!r} is not b, c or u")
        if set(node.permissions) - set("rwm"):
            raise SpecError(f"{where}.permissions", f"{node.permissions!r} is not made of r, w, m")
    for number, mount in enumerate(edits.mounts):
        where = f"{path}.mounts[{number}]"
        _absolute(mount.container_path, f"{where}.containerPath")
        if mount.type in ("", "bind", "none"):
            _absolute(mount.host_path, f"{where}.hostPath")


def _absolute(text: str, path: str) -> None:
    if not text.startswith("/") or "\0" in text or not text.strip("/"):
        raise SpecError(path, f"{text!r} is not the absolute path of something", section=_SECTION)


def unsupported(edits: ContainerEdits, path: str) -> str | None:
    """Where the edits ask for what no container of ours can be given; None: nowhere."""
    if edits.hooks:
        return f"{path}.hooks[0] ({edits.hooks[0].hook_name} {edits.hooks[0].path})"
    return f"{path}.intelRdt" if edits.intel_rdt is not None else None
