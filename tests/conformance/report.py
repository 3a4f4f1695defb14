"""The table, and where Onggi's runtime differs from its peers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .running import Result
from .suites import FAIL, PASS, SKIP

OURS = "onggi-runtime"
EXCEPTIONS = Path(__file__).with_name("exceptions.txt")


@dataclass(frozen=True)
class Outcome:
    """One case, with what each runtime came to."""

    suite: str
    name: str
    verdicts: dict[str, str]

    @property
    def title(self) -> str:
        """As the list of exceptions has it."""
        return f"{self.suite}: {self.name}"

    def falls_behind(self) -> bool:
        """True when a peer passes it and ours does not."""
        peers = [word for runtime, word in self.verdicts.items() if runtime != OURS]
        return self.verdicts.get(OURS) in (FAIL, SKIP) and PASS in peers


def outcomes(results: list[Result]) -> list[Outcome]:
    """The results, a case at a time."""
    cases: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        key = (result.case.suite, result.case.name)
        cases.setdefault(key, {})[result.runtime] = result.verdict
    return [Outcome(suite, name, verdicts) for (suite, name), verdicts in cases.items()]


def exceptions(text: str) -> dict[str, str]:
    """Title of a case → why it does not pass here: lines `TITLE -- REASON`."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            title, separator, reason = line.partition(" -- ")
            if not separator or not reason:
                raise ValueError(f"{EXCEPTIONS.name}: no reason in: {line}")
            found[title] = reason
    return found


def unexplained(cases: list[Outcome], listed: dict[str, str], *, whole: bool) -> list[str]:
    """What makes a run fail: cases that fall behind and are not listed, and lists that are old."""
    behind = {case.title for case in cases if case.falls_behind()}
    passing = {case.title for case in cases if case.verdicts.get(OURS) == PASS}
    known = {case.title for case in cases}
    wrong = [f"falls behind: {title}" for title in sorted(behind - set(listed))]
    wrong += [f"listed but passes: {title}" for title in sorted(passing & set(listed))]
    if whole:
        wrong += [f"listed but no case: {title}" for title in sorted(set(listed) - known)]
    return wrong


def table(results: list[Result]) -> str:
    """Suite, runtime, and how many cases came to what."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        key = (result.case.suite, result.runtime)
        counts.setdefault(key, Counter())[result.verdict] += 1
    lines = [f"{'suite':14} {'runtime':14} {PASS:>5} {FAIL:>5} {SKIP:>5}"]
    for (suite, runtime), count in sorted(counts.items()):
        lines.append(f"{suite:14} {runtime:14} {count[PASS]:5} {count[FAIL]:5} {count[SKIP]:5}")
    return "\n".join(lines)


def say(results: list[Result], out: Path, *, whole: bool) -> int:
    """Print and write down everything; 0 when nothing is unexplained."""
    cases = outcomes(results)
    listed = exceptions(EXCEPTIONS.read_text())
    out.write_text(json.dumps([case.__dict__ for case in cases], indent=1) + "\n")
    print(f"\n{table(results)}\n")
    for case in cases:
        if case.falls_behind():
            words = ", ".join(f"{runtime} {word}" for runtime, word in case.verdicts.items())
            print(f"{case.title}: {words}\n    {listed.get(case.title, 'NO REASON LISTED')}")
    wrong = unexplained(cases, listed, whole=whole) if OURS in {r.runtime for r in results} else []
    for line in wrong:
        print(line)
    return 1 if wrong else 0
