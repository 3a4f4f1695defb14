"""The runner of strangers' suites: what an output says, and when a run fails."""

from __future__ import annotations

import pytest

from conformance.report import EXCEPTIONS, OURS, Outcome, exceptions, unexplained
from conformance.suites import FAIL, PASS, SKIP, verdict


@pytest.mark.parametrize(
    ("output", "code", "word"),
    [
        ("1..1\nok 1 - a\n", 0, PASS),
        ("1..2\nok 1 - a\nnot ok 2 - b\n", 0, FAIL),
        ("1..1\nok 1 - a\n", 1, FAIL),
        ("1..0\n", 0, FAIL),
        ("", 0, FAIL),
        ("1..1\nok 1 - a #SKIP\n", 0, SKIP),
        ("1..1\nok 1 a # skip no systemd\n", 0, SKIP),
        ("1..2\nok 1 # SKIP x\nok 2 - b\n", 0, PASS),
        ("1..2\nok 1 - a\nnot ok 2 # TODO - b\n", 0, PASS),
        ("1..1\nok 1 - a\n  not ok 1 - of the container\n", 0, PASS),
    ],
)
def test_what_an_output_says(output: str, code: int, word: str) -> None:
    assert verdict(output, code) == word


def outcome(name: str, ours: str, runc: str, crun: str) -> Outcome:
    return Outcome("s", name, {OURS: ours, "runc": runc, "crun": crun})


def test_a_run_fails_for_what_is_unexplained_and_for_lists_that_are_old() -> None:
    cases = [
        outcome("good", PASS, PASS, PASS),
        outcome("hard", FAIL, FAIL, SKIP),
        outcome("behind", FAIL, FAIL, PASS),
        outcome("skipped", SKIP, PASS, PASS),
        outcome("known", FAIL, PASS, PASS),
        outcome("mended", PASS, PASS, FAIL),
    ]
    listed = {"s: known": "why", "s: mended": "why", "s: gone": "why"}
    wrong = ["falls behind: s: behind", "falls behind: s: skipped", "listed but passes: s: mended"]
    assert unexplained(cases, listed, whole=False) == wrong
    assert unexplained(cases, listed, whole=True) == [*wrong, "listed but no case: s: gone"]


def test_every_exception_has_a_reason() -> None:
    assert exceptions(EXCEPTIONS.read_text())
    with pytest.raises(ValueError, match="no reason"):
        exceptions("runc: a case\n")
