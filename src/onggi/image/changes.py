"""`--change` of import and commit: Dockerfile instructions that alter an image's configuration.

Source: docker-import(1) --change; Dockerfile reference.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

import msgspec
from msgspec import structs

from onggi.errors import InvalidArgument
from onggi.specs.image import ContainerConfig

_HINT = "known are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """The configuration with each instruction applied in order.

    Raises:
        InvalidArgument: an instruction that is unknown or malformed.
    """
    for change in changes:
        config = _apply(config, change)
    return config


def _apply(config: ContainerConfig, change: str) -> ContainerConfig:
    instruction, _, rest = change.strip().partition(" ")
    rest = rest.strip()
    read = _INSTRUCTIONS.get(instruction.upper())
    if not rest or read is None:
        raise InvalidArgument(f"invalid --change {change!r}", hint=_HINT)
    field, value = read(config, rest)
    return structs.replace(config, **{field: value})


def _env(config: ContainerConfig, text: str) -> tuple[str, object]:
    merged = {e.partition("=")[0]: e for e in (*(config.env or ()), *_pairs(text))}
    return "env", tuple(merged.values())


def _label(config: ContainerConfig, text: str) -> tuple[str, object]:
    labels = dict(pair.split("=", 1) for pair in _pairs(text))
    return "labels", {**(config.labels or {}), **labels}


def _expose(config: ContainerConfig, text: str) -> tuple[str, object]:
    ports: dict[str, dict[str, str]] = {p if "/" in p else f"{p}/tcp": {} for p in text.split()}
    return "exposed_ports", {**(config.exposed_ports or {}), **ports}


def _volume(config: ContainerConfig, text: str) -> tuple[str, object]:
    parsed = _json_list(text)
    paths: dict[str, dict[str, str]] = {p: {} for p in (parsed or tuple(text.split()))}
    return "volumes", {**(config.volumes or {}), **paths}


_INSTRUCTIONS: dict[str, Callable[[ContainerConfig, str], tuple[str, object]]] = {
    "CMD": lambda _, text: ("cmd", _command(text)),
    "ENTRYPOINT": lambda _, text: ("entrypoint", _command(text)),
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "STOPSIGNAL": lambda _, text: ("stop_signal", text),
    "USER": lambda _, text: ("user", text),
    "VOLUME": _volume,
    "WORKDIR": lambda _, text: ("working_dir", text),
}


def _command(text: str) -> tuple[str, ...]:
    """The JSON form, or a shell line."""
    parsed = _json_list(text)
    return ("/bin/sh", "-c", text) if parsed is None else parsed


def _json_list(text: str) -> tuple[str, ...] | None:
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _pairs(text: str) -> list[str]:
    """`A=1 B="two words"`, or the old form `A words`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid --change {text!r}: {error}") from None
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        words = [f"{name}={value.strip()}"] if value.strip() else [""]
    if any("=" not in word[1:] for word in words):
        raise InvalidArgument(f"invalid --change {text!r}", hint="write NAME=VALUE")
    return words
