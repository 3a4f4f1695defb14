"""No parser answers hostile bytes with anything but an EngineError; the fuzzers' quick sibling."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.corpora import FOUND, found, seeds
from fuzz.targets import TARGETS, TARS, feed, with_checksums

MAX_SECONDS = 1.0
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_what_was_found(target: str) -> None:
    taken = 0
    for data in seeds(target) + found(target):
        began = time.monotonic()
        taken += feed(target, data)
        assert time.monotonic() - began < MAX_SECONDS
    assert taken, "no seed gets through: the fuzzer would start from nothing"


def test_what_was_found_belongs_to_a_target() -> None:
    assert {path.name for path in FOUND.iterdir() if path.is_dir()} <= TARGETS.keys()


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """A seed with pieces taken out, doubled and overwritten."""
    data = draw(st.sampled_from(seeds(target)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 600)))
        what = draw(st.integers(0, 3))
        if what == 0:
            data = data[:at] + data[end:]
        elif what == 1:
            data = data[:at] + data[at:end] * 2 + data[end:]
        else:
            new = draw(st.binary(max_size=12))
            data = data[:at] + new + data[at + (len(new) if what == 2 else 0) :]
    return with_checksums(data) if target in TARS and draw(st.integers(0, 7)) else data


@pytest.mark.parametrize("target", TARGETS)
def test_near_misses(target: str) -> None:
    @QUICK
    @given(mutated(target))
    def run(data: bytes) -> None:
        feed(target, data)

    run()


@pytest.mark.parametrize("target", TARGETS)
def test_noise(target: str) -> None:
    @QUICK
    @given(st.binary(max_size=1200))
    def run(data: bytes) -> None:
        feed(target, data)

    run()


def test_checksums_are_made_right() -> None:
    damaged = bytearray(seeds("tar")[1])
    damaged[100:108] = b"0000600\0"
    assert not feed("tar", bytes(damaged))
    assert feed("tar", with_checksums(bytes(damaged)))
