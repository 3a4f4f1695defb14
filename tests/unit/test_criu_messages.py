"""CRIU's protocol: bytes as its own library writes them, round-trips, noise; its log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import Unavailable
from onggi.sandbox.oci.criu import telling_lines
from onggi.sandbox.oci.criu_messages import (
    DUMP,
    NOTIFY,
    Response,
    Value,
    answer,
    decode,
    encode,
    fields_of,
    request,
)


def test_known_bytes() -> None:
    """By hand, from the encoding's description: tag, then a number, or a length and bytes."""
    asked = request(DUMP, {"pid": 300, "leave_running": True, "external": ["a", "bc"]})
    options = b"\x10\xac\x02" + b"\x18\x01" + b"\xaa\x02\x01a" + b"\xaa\x02\x02bc"
    assert asked == b"\x08\x01" + b"\x12" + bytes([len(options)]) + options
    assert answer(success=True) == b"\x08\x06\x18\x01"
    assert encode({1: -1}) == b"\x08" + b"\xff" * 9 + b"\x01"


def test_a_notification_and_a_failure() -> None:
    notified = Response(b"\x08\x06\x10\x01" + b"\x2a\x06" + b"\x0a\x02ok" + b"\x10\x07")
    assert (notified.type, notified.success, notified.script, notified.pid) == (
        NOTIFY, True, "ok", 7,
    )  # fmt: skip
    failed = Response(b"\x08\x01\x10\x00" + b"\x38\x16" + b"\x4a\x03why")
    assert (failed.type, failed.success, failed.message) == (DUMP, False, "why")


NUMBERS = st.integers(0, 2**64 - 1)
FIELDS = st.dictionaries(st.integers(1, 1000), NUMBERS | st.binary(max_size=300))


@given(FIELDS)
def test_what_is_encoded_is_decoded(fields: dict[int, Value]) -> None:
    assert decode(encode(fields)) == fields


@given(st.binary(max_size=60))
def test_noise_is_a_message_or_an_error(data: bytes) -> None:
    try:
        found = list(fields_of(data))
    except Unavailable:
        return
    assert sum(1 for _ in found) <= len(data)


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05x", b"\x0b", b"\x80" * 11, b"\x0d\x00"])
def test_what_ends_too_early_or_is_of_no_type(data: bytes) -> None:
    with pytest.raises(Unavailable):
        decode(data)


def test_the_last_errors_of_a_log() -> None:
    lines = [f"(00.{n}) {n}: Error (criu/x.c:{n}): reason {n}\x1b" for n in range(5)]
    log = "\n".join(["(00.1) Warn  (criu/y.c:1): a warning", *lines, "(00.9) the end"])
    assert telling_lines(log) == [f"(criu/x.c:{n}): reason {n}?" for n in (2, 3, 4)]
    assert telling_lines("") == []
    assert len(telling_lines("Error (" + "x" * 10000)[0]) <= 300
