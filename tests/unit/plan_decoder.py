"""keel's reading of a plan, in Python: for tests of the encoding. Strict, as decode.c is."""

from __future__ import annotations

import struct
from typing import Any

from onggi.runtime.steps import STEPS, Plan, Step
from onggi.runtime.steps.base import MAGIC


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        assert len(piece) == size, "the plan ends early"
        self.at += size
        return piece

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def string(self) -> bytes:
        raw = self.take(self.number("<I"))
        assert self.take(1) == b"\0", "no NUL behind a string"
        return raw

    def text(self) -> str:
        raw = self.string()
        assert b"\0" not in raw, "a NUL inside a string"
        return raw.decode("utf-8", "surrogateescape")

    def field(self, code: str, blob: bool) -> Any:
        match code:
            case "u":
                return self.number("<Q")
            case "i":
                return self.number("<q")
            case "s":
                return self.string() if blob else self.text()
            case "l":
                return tuple(self.text() for _ in range(self.number("<I")))
            case "n":
                return tuple(self.number("<Q") for _ in range(self.number("<I")))
        raise AssertionError(f"unknown code {code}")


def decode_step(reader: Reader) -> Step:
    opcode, flags, length = struct.unpack("<HHI", reader.take(8))
    cls = STEPS[opcode]
    payload = Reader(reader.take(length))
    names = cls.encoded_fields()
    values = {
        name: payload.field(code, blob=cls.__annotations__[name] == "bytes")
        for code, name in zip(cls.signature, names, strict=True)
    }
    assert payload.at == length, "bytes left in a step"
    assert flags in (0, 1)
    return cls(optional=bool(flags), **values)


def decode_plan(data: bytes) -> Plan:
    reader = Reader(data)
    assert reader.take(8) == MAGIC
    steps = tuple(decode_step(reader) for _ in range(reader.number("<I")))
    assert reader.at == len(data), "bytes behind the last step"
    return Plan(steps)
