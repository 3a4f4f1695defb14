"""Devices by name: which specification of the host's directories describes one, and what it gives.

Source: CDI SPEC.md v1.0.0, and its reference implementation for what the specification leaves
open: of two directories the later one wins, two files of one directory that describe the same
device are a conflict, and what a file has for all its devices is given once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from msgspec import Struct

from onggi.errors import Conflict, EngineError, InvalidArgument, NotFound, Unsupported
from onggi.runtime.printable import printable
from onggi.specs.cdi import (
    MAX_SPEC_BYTES,
    CdiMount,
    CdiSpec,
    ContainerEdits,
    DeviceNode,
    parse_cdi,
    unsupported,
)

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_SUFFIXES = (".json", ".yaml")
_SHOWN = 8


class Edits(Struct, frozen=True):
    """What devices bring along. A node or mount that two of them have is there once.

    `warnings`: specifications that were left out, because they are none.
    """

    env: tuple[str, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    groups: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


class _File(Struct, frozen=True):
    """A specification and where it is; `directory`: the number of its directory."""

    path: str
    directory: int
    spec: CdiSpec


def edits_for(names: Sequence[str], directories: Sequence[str]) -> Edits:
    """What the devices called `vendor.com/class=name` bring along.

    `all` is every device of its kind, unless one has that name.

    Raises:
        NotFound: no specification has it. Conflict: two have it. Unsupported: it needs what a
        container cannot be given.
    """
    files, broken = _read(directories)
    found: dict[str, list[ContainerEdits]] = {}
    for name in names:
        for file, device in _find(name, files, directories, broken):
            spec = file.spec
            edits = found.setdefault(file.path, [_usable(file, spec.container_edits, "$")])
            number = [one.name for one in spec.devices].index(device)
            edit = _usable(file, spec.devices[number].container_edits, f"$.devices[{number}]")
            if edit not in edits:
                edits.append(edit)
    every = [edit for edits in found.values() for edit in edits]
    return Edits(
        env=tuple(entry for edit in every for entry in edit.env),
        nodes=tuple({n.path: n for edit in every for n in edit.device_nodes}.values()),
        mounts=tuple({m.container_path: m for edit in every for m in edit.mounts}.values()),
        # 0 would be the group root, which the reference implementation leaves out.
        groups=tuple(dict.fromkeys(g for edit in every for g in edit.additional_gids if g)),
        warnings=tuple(f"{text} (left out)" for text in broken),
    )


def _usable(file: _File, edits: ContainerEdits, path: str) -> ContainerEdits:
    where = unsupported(edits, f"{path}.containerEdits")
    if where is not None:
        raise Unsupported(
            f"CDI {file.path}: {where}: the engine runs no hooks and sets no Intel RDT classes",
            hint="give the container's nodes and libraries by hand: --device /dev/…, -v",
        )
    return edits


def _find(
    name: str, files: Iterable[_File], directories: Sequence[str], broken: Sequence[str]
) -> list[tuple[_File, str]]:
    kind, _, wanted = name.partition("=")
    by_device: dict[str, list[_File]] = {}
    for file in files:
        if file.spec.kind == kind:
            for device in file.spec.devices:
                by_device.setdefault(device.name, []).append(file)
    devices = list(by_device) if wanted == "all" and "all" not in by_device else [wanted]
    if not devices or not all(device in by_device for device in devices):
        raise _not_found(name, by_device, directories, broken)
    return [(_one(by_device[device], f"{kind}={device}"), device) for device in devices]


def _one(files: list[_File], name: str) -> _File:
    """The file of the last directory. Raises: Conflict: it has two."""
    last = [file for file in files if file.directory == files[-1].directory]
    if len(last) > 1:
        raise Conflict(
            f"--device {name}: {last[0].path} and {last[1].path} both describe it",
            hint="remove it from one of them",
        )
    return last[0]


def _not_found(
    name: str, known: Iterable[str], directories: Sequence[str], broken: Sequence[str]
) -> NotFound:
    near = sorted(known)
    if broken:
        hint = f"{broken[0]}"
    elif near:
        more = ", …" if len(near) > _SHOWN else ""
        hint = f"{name.partition('=')[0]} has {', '.join(near[:_SHOWN])}{more}"
    else:
        hint = "the device's vendor has a program that writes its specification"
    return NotFound(
        f"--device {printable(name, 200)}: no CDI specification in {' or '.join(directories)}"
        " has that device",
        hint=hint,
    )


def _read(directories: Sequence[str]) -> tuple[list[_File], list[str]]:
    """Every specification, in the order of the directories; and what is wrong with the others."""
    files, broken = [], []
    for number, directory in enumerate(directories):
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            broken.append(f"CDI {directory}: {error.strerror}")
            continue
        for name in names:
            if not name.endswith(_SUFFIXES):
                continue
            path = f"{directory}/{name}"
            try:
                spec = parse_cdi(_content(path), yaml=name.endswith(".yaml"))
            except EngineError as error:
                broken.append(f"CDI {printable(path, 200)}: {printable(error.message, 400)}")
            except OSError as error:
                broken.append(f"CDI {printable(path, 200)}: {error.strerror}")
            else:
                files.append(_File(path, number, spec))
    return files, broken


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgument("not a regular file")
        data = bytearray()
        while len(data) <= MAX_SPEC_BYTES and (part := file.read(1 << 20)):
            data += part
    return bytes(data)
