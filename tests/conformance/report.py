"""The table, and where Onggi's runtime differs from its peers."""

from __future__ import annotations

from collections import Counter

from tests.conformance.running import Result


def say(results: list[Result], *, whole: bool) -> int:
    """Print; 0 when nothing differs that is not listed."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        key = (result.case.suite, result.runtime)
        counts.setdefault(key, Counter())[result.verdict] += 1
    print(f"\n{'suite':14} {'runtime':14} {'pass':>5} {'fail':>5} {'skip':>5}")
    for (suite, runtime), count in counts.items():
        print(f"{suite:14} {runtime:14} {count['pass']:5} {count['fail']:5} {count['skip']:5}")
    return 0
