"""`--change` of import and commit: Dockerfile instructions that alter an image's configuration.

Source: docker-import(1) --change; Dockerfile reference.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

import msgspec
from msgspec import structs

from onggi.errors import InvalidArgument
from onggi.specs.image import ContainerConfig, Healthcheck

_HINT = (
    "known are CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"
)
_CHECK = "write HEALTHCHECK [--interval=30s --timeout=… --retries=3] CMD …, or HEALTHCHECK NONE"
_TIMES = ("interval", "timeout", "start_period", "start_interval")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


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


def _healthcheck(_config: ContainerConfig, text: str) -> tuple[str, object]:
    fields: dict[str, int] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option[2:].replace("-", "_", 1).partition("=")
        if name in _TIMES:
            fields[name] = _nanoseconds(value)
        elif name == "retries" and value.isascii() and value.isdigit():
            fields[name] = int(value)
        else:
            raise InvalidArgument(f"invalid HEALTHCHECK option {option!r}", hint=_CHECK)
        text = text.lstrip()
    kind, _, command = text.partition(" ")
    words = _json_list(command.strip())
    if kind.upper() == "NONE" and not command and not fields:
        test: tuple[str, ...] = ("NONE",)
    elif kind.upper() == "CMD" and command.strip():
        test = ("CMD-SHELL", command.strip()) if words is None else ("CMD", *words)
    else:
        raise InvalidArgument(f"invalid HEALTHCHECK {text!r}", hint=_CHECK)
    return "healthcheck", Healthcheck(test=test, **fields)


def _nanoseconds(text: str) -> int:
    parts = _TIME.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(f"{text!r} is not a time", hint="write 30s, 1m30s, or 500ms")
    return sum(int(float(number) * _UNIT_NS[unit]) for number, unit in parts)


def _volume(config: ContainerConfig, text: str) -> tuple[str, object]:
    parsed = _json_list(text)
    paths: dict[str, dict[str, str]] = {p: {} for p in (parsed or tuple(text.split()))}
    return "volumes", {**(config.volumes or {}), **paths}


_INSTRUCTIONS: dict[str, Callable[[ContainerConfig, str], tuple[str, object]]] = {
    "CMD": lambda _, text: ("cmd", _command(text)),
    "ENTRYPOINT": lambda _, text: ("entrypoint", _command(text)),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
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
