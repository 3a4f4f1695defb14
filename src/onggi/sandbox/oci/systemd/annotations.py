"""`org.systemd.property.NAME` of a configuration's annotations: properties of the scope.

Pure. Only those that concern the scope itself and how it ends: others start, stop and order
foreign units, reboot the host, leave the slice, or take processes in.
Source: runc docs/systemd.md "Auxiliary properties"; GVariant text format.
"""

from __future__ import annotations

import re

from onggi.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.sandbox.oci.systemd.properties import Properties

_PREFIX = "org.systemd.property."
#: Property → its D-Bus signature.
ALLOWED = {
    "After": "as",
    "Before": "as",
    "CollectMode": "s",
    "DefaultDependencies": "b",
    "FinalKillSignal": "i",
    "KillMode": "s",
    "KillSignal": "i",
    "ManagedOOMMemoryPressure": "s",
    "ManagedOOMPreference": "s",
    "ManagedOOMSwap": "s",
    "OOMPolicy": "s",
    "RuntimeMaxUSec": "t",
    "SendSIGHUP": "b",
    "SendSIGKILL": "b",
    "TimeoutStopUSec": "t",
}
_TYPES = frozenset("byte int16 uint16 int32 uint32 handle int64 uint64 double string".split())
_MAX_VALUE_CHARACTERS = 1024
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,9})?")
_STRING = re.compile(r"'[^'\\]*'|\"[^\"\\]*\"")
_LIST = re.compile(rf"\[\s*(({_STRING.pattern})\s*(,\s*({_STRING.pattern})\s*)*)?\]")
_SECOND_US = 1_000_000


def properties_of(annotations: dict[str, str]) -> Properties:
    """The properties that annotations ask for.

    Raises:
        SpecError: one that may not be set, or a value that is not of its type.
    """
    found: Properties = {}
    for key, text in annotations.items():
        name = key.removeprefix(_PREFIX)
        if name != key:
            found |= _property(key, name, text)
    return found


def _property(key: str, name: str, text: str) -> Properties:
    where = f"$.annotations.{key[:80]}"
    in_seconds = name.endswith("Sec") and not name.endswith("USec")
    name = f"{name.removesuffix('Sec')}USec" if in_seconds else name
    signature = ALLOWED.get(name)
    if signature is None:
        known = " ".join(ALLOWED)
        raise SpecError(where, f"this property of a unit may not be set; these may: {known}")
    value = _value(text)
    if in_seconds and type(value) in (int, float) and abs(value) < 1 << 40:
        value = int(value * _SECOND_US)
    if not _fits(signature, value):
        raise SpecError(where, f"{text[:80]!r} is no value of type {signature}")
    return {name: (signature, value)}


def _value(text: str) -> Any:
    """The value of a GVariant's text, as far as the allowed types go; None: none."""
    word, _, rest = text.strip().partition(" ")
    if word in _TYPES or word.startswith("@"):
        text = rest
    text = text.strip()
    if len(text) > _MAX_VALUE_CHARACTERS:
        return None
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    if _STRING.fullmatch(text):
        return text[1:-1]
    if _LIST.fullmatch(text):
        return [item[1:-1] for item in _STRING.findall(text)]
    return None


def _fits(signature: str, value: Any) -> bool:
    match signature:
        case "b":
            return type(value) is bool
        case "i":
            return type(value) is int and 0 < value <= 64
        case "t":
            return type(value) is int and 0 <= value < 1 << 64
        case "as":
            return type(value) is list and all(_is_text(item) for item in value)
        case _:
            return _is_text(value)


def _is_text(value: Any) -> bool:
    return type(value) is str and value.isprintable()
