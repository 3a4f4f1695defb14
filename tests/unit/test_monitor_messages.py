"""The control socket's packets, byte for byte, and damaged ones."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from onggi.errors import DataLoss
from onggi.sandbox import messages
from onggi.sandbox.messages import Exited, Failed, MessageType, Started, Warned


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def test_requests() -> None:
    assert messages.go() == b"\1\0\0\0"
    assert messages.attach(stdin=True, stdout=False, stderr=True) == struct.pack("<II", 2, 5)
    assert messages.resize(24, 80) == struct.pack("<III", 3, 24, 80)
    assert messages.resize(-1, 1 << 40) == struct.pack("<III", 3, 0, 0xFFFF)
    assert messages.close_stdin() == b"\4\0\0\0"
    assert messages.info() == b"\5\0\0\0"


def test_started() -> None:
    packet = struct.pack("<IIQQ", 65, 12, 34, 56)
    assert messages.decode(packet, 9) == Started(12, 34, 56, 9)
    assert messages.decode(packet, 9, (10, 11)) == Started(12, 34, 56, 9, (10, 11))


def test_exited() -> None:
    packet = struct.pack("<IiiIQQ", 68, -1, 11, 1, 7, 8)
    assert messages.decode(packet) == Exited(-1, 11, True, 7, 8)


@pytest.mark.parametrize(("number", "kind"), [(66, Failed), (67, Warned)])
def test_failure(number: int, kind: type[Failed] | type[Warned]) -> None:
    facts = b"path=/bin/a=b\nhead=7f45\n\nodd\ninterpreter=/bin/sh\r\n"
    packet = (
        struct.pack("<IIIi", number, 3, 40, 2) + text(b"execve") + text(b"\xff/x") + text(facts)
    )
    event = messages.decode(packet)
    expected = {"path": "/bin/a=b", "head": "7f45", "odd": "", "interpreter": "/bin/sh\r"}
    assert event == kind(3, 40, 2, "execve", "\udcff/x", expected)


@pytest.mark.parametrize(
    "packet",
    [
        b"\1",
        struct.pack("<I", 1),
        struct.pack("<I", 999),
        struct.pack("<II", 65, 1),
        struct.pack("<IIIi", 66, 0, 0, 0) + text(b"call") + struct.pack("<I", 1 << 31),
        struct.pack("<IIIi", 66, 0, 0, 0) + text(b"") * 3 + b"x",
        struct.pack("<IIIi", 66, 0, 0, 0) + text(b""),
    ],
)
def test_damaged_packets_are_a_loss(packet: bytes) -> None:
    with pytest.raises(DataLoss):
        messages.decode(packet)


def test_numbers_are_those_of_the_c_side() -> None:
    header = Path(__file__).parents[2] / "keel" / "keel.h"
    numbers = dict(re.findall(r"KEEL_([A-Z_]+) = (\d+)", header.read_text()))
    assert f"enum {{ MAX_SOCKETS = {messages.MAX_SOCKETS} }}" in header.read_text()
    assert {kind.name: str(kind.value) for kind in MessageType} == numbers
