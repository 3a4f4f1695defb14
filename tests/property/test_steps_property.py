"""What is encoded is what keel decodes, for every step and every value."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from onggi.runtime.steps import STEPS, Plan, Step
from unit.plan_decoder import decode_plan

U64 = st.integers(0, 2**64 - 1)
TEXT = st.binary(max_size=40).map(
    lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "u": U64,
    "i": st.integers(-(2**63), 2**63 - 1),
    "s": TEXT,
    "l": st.lists(TEXT, max_size=5).map(tuple),
    "n": st.lists(U64, max_size=5).map(tuple),
}


@st.composite
def any_step(draw: st.DrawFn) -> Step:
    cls = STEPS[draw(st.sampled_from(sorted(STEPS)))]
    fields = dict(zip(cls.encoded_fields(), cls.signature, strict=True))
    values = {
        name: draw(st.binary(max_size=64) if cls.__annotations__[name] == "bytes" else VALUES[code])
        for name, code in fields.items()
    }
    return cls(optional=draw(st.booleans()), **values)


@given(st.lists(any_step(), max_size=8))
def test_a_plan_survives_its_encoding(steps: list[Step]) -> None:
    plan = Plan(tuple(steps))
    assert decode_plan(plan.encode()) == plan
    assert decode_plan(plan.encode()).encode() == plan.encode()
