"""A plan as rows for a person: which step, who does it, who asks for it, what it protects from.

Pure. How rows look on a terminal or as JSON is the face's.
"""

from __future__ import annotations

import re

from msgspec import Struct

from onggi.runtime.printable import printable
from onggi.runtime.steps import (
    BindTree,
    IdmapTree,
    MakeNode,
    MountOverlay,
    OpenTree,
    Plan,
    Step,
    TakeTree,
)

_MAX_WHAT = 200
_HELD = re.compile(r"/proc/\d+/fd/\d+")


class ExplainedStep(Struct, frozen=True):
    """One row. `number` counts from 0, as in keel's reports."""

    number: int
    actor: str
    what: str
    concerns: str
    section: str
    protects: str
    optional: bool


def explain(plan: Plan) -> tuple[ExplainedStep, ...]:
    """Every step of a plan in order; slots are named by what is in them."""
    held: dict[int, str] = {}
    rows = []
    for number, step in enumerate(plan.steps):
        rows.append(
            ExplainedStep(
                number=number,
                actor=step.actor,
                what=printable(_what(step, held), _MAX_WHAT),
                concerns=step.concerns,
                section=step.section,
                protects=step.protects,
                optional=step.optional,
            )
        )
    return tuple(rows)


def describe_step(plan: Plan, number: int) -> str:
    """One step of a plan in words, its slots named by what is in them; for errors.

    A number that is no step of the plan gives `step N`.
    """
    if not 0 <= number < len(plan.steps):
        return f"step {number}"
    return explain(Plan(plan.steps[: number + 1]))[-1].what


def _what(step: Step, held: dict[int, str]) -> str:
    """`held`: slot → what is in it; kept up to date."""
    match step:
        case OpenTree():
            held[step.slot] = step.source or step.path
            # What the engine holds by a descriptor has no better name than the descriptor's.
            kind = "layer held mounted" if _HELD.fullmatch(held[step.slot]) else "mount"
            below = " and those below it" * bool(step.recursive)
            return f"take the {kind} at {held[step.slot]}{below}"
        case MakeNode():
            held[step.slot] = f"device {step.major}:{step.minor}"
        case TakeTree():
            held[step.slot] = step.path
            below = " and those below it" * bool(step.recursive)
            return f"take the mount at {step.path}{below}"
        case IdmapTree() if step.slot in held:
            return f"map the owners of {held[step.slot]}"
        case BindTree() if step.slot in held:
            return step.describe().replace(f"slot {step.slot}", held[step.slot], 1)
        case MountOverlay():
            held[step.slot] = "the overlay"
            upper = held.get(step.upper, "")
            return f"stack {len(step.lowers)} layers" + (
                f", writes go to {upper}" if upper else ", read-only"
            )
    described = step.describe()
    for slot, name in held.items():
        described = described.replace(f"slot {slot} at", f"{name} at", 1)
    return described
