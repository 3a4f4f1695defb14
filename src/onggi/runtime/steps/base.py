"""What a step is: a frozen value that describes and encodes itself; and the plan made of them.

A plan is a flat tuple of steps. Two actors walk it in turns (keel/README.md): the *monitor* stays
on the host, *init* is the cloned child. `CloneInto` makes init; every later step is carried out by
the actor its class names. Descriptors that pass from step to step live in numbered *slots*.
`keel/steps.def` is the same table for the C side. Nothing here probes the host.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import msgspec

MAGIC = b"KEEL\x01\x00\x00\x00"
NO_SLOT = 255
#: The number that the first borrowed descriptor, slot 0, has in keel (keel/README.md).
FIRST_SLOT_FD = 5

CLONE_FLAGS: dict[str, int] = {
    "time": 0x00000080,
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}

Actor = Literal["monitor", "init"]


def namespace_names(flags: int) -> str:
    """The names of the namespaces in a clone mask, in a fixed order."""
    return " ".join(name for name, flag in CLONE_FLAGS.items() if flags & flag) or "none"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `optional`: a failure is reported as a warning and the walk goes on.

    Class facts: `opcode` and `signature` as in keel/steps.def; `actor`; `concerns` (the namespace,
    cgroup or credential it touches), `section` (who asks for it), `protects` (what from; may be
    empty). Fields after `optional` are encoded in the order they are declared; one that the
    signature has no more letter for is not keel's: it is there to describe the step.
    """

    opcode: ClassVar[int] = 0
    signature: ClassVar[str] = ""
    actor: ClassVar[Actor] = "init"
    concerns: ClassVar[str] = ""
    section: ClassVar[str] = ""
    protects: ClassVar[str] = ""

    optional: bool = False

    def describe(self) -> str:
        """One line for a person: what this step does with which values."""
        raise NotImplementedError

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - steps are values; most recur in every start
    def encode(self) -> bytes:
        """The step as keel reads it: header (opcode, flags, payload length) and payload.

        Raises:
            TypeError: a field's value is not of the type that the signature says.
            ValueError: a string holds a NUL, which no system call could be told.
            struct.error: a number does not fit 64 bits, or is none.
        """
        payload = b"".join(
            _ENCODERS[code](getattr(self, name))
            for code, name in zip(self.signature, self.encoded_fields(), strict=True)
        )
        return _HEADER.pack(self.opcode, int(self.optional), len(payload)) + payload

    @classmethod
    def encoded_fields(cls) -> tuple[str, ...]:
        """The names of the fields that keel reads."""
        return cls.__struct_fields__[1 : 1 + len(cls.signature)]

    def to_builtins(self) -> dict[str, Any]:
        """The step as plain JSON values; bytes become their length and SHA-256."""
        fields = {name: _plain(getattr(self, name)) for name in self.__struct_fields__[1:]}
        return {
            "step": type(self).__name__,
            "actor": self.actor,
            "optional": self.optional,
            "fields": fields,
        }


class Plan(msgspec.Struct, frozen=True):
    """Everything keel does for one start, and the warnings met while planning."""

    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Magic, number of steps, steps."""
        body = b"".join([step.encode() for step in self.steps])
        return MAGIC + struct.pack("<I", len(self.steps)) + body

    def describe(self) -> str:
        """The numbered steps, one a line, with who carries them out."""
        return "".join(
            f"{number:3} {step.actor:7} {step.describe()}{' (optional)' if step.optional else ''}\n"
            for number, step in enumerate(self.steps)
        )

    def to_builtins(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "steps": [step.to_builtins() for step in self.steps],
            "warnings": list(self.warnings),
        }


_HEADER = struct.Struct("<HHI")
_LENGTH = struct.Struct("<I")


def _encode_text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise ValueError(f"a string of a step holds a NUL: {value!r}")
    return _LENGTH.pack(len(raw)) + raw + b"\0"


def _encode_string(value: str | bytes) -> bytes:
    """A string, or a blob: only a blob may hold a NUL."""
    if isinstance(value, str):
        return _encode_text(value)
    if isinstance(value, bytes):
        return _LENGTH.pack(len(value)) + value + b"\0"
    raise TypeError(f"a {type(value).__name__} does not encode as a string")


def _encode_list(value: tuple[str, ...]) -> bytes:
    return _LENGTH.pack(len(value)) + b"".join([_encode_text(item) for item in value])


def _encode_numbers(value: tuple[int, ...]) -> bytes:
    return struct.pack(f"<I{len(value)}Q", len(value), *value)


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "u": struct.Struct("<Q").pack,
    "i": struct.Struct("<q").pack,
    "s": _encode_string,
    "l": _encode_list,
    "n": _encode_numbers,
}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return {"length": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return list(value) if isinstance(value, tuple) else value
