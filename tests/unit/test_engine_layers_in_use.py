"""What counts as in use for those who delete layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from onggi.engine.core import Core


def core_of(containers: dict[str, Any]) -> Core:
    """One that knows containers, and nothing else."""
    core = Core.__new__(Core)
    core.claims = {}
    core.tasks = {}
    core.records = SimpleNamespace(containers=containers)  # type: ignore[assignment]
    return core


def test_it_is_what_is_used_when_it_is_looked_at() -> None:
    containers: dict[str, Any] = {}
    in_use = core_of(containers).layers_in_use()
    assert (list(in_use), len(in_use)) == ([], 0)
    containers["c"] = SimpleNamespace(id="c", state="created", chain_ids=("a", "b"))
    assert (set(in_use), len(in_use)) == ({"a", "b"}, 2)
    assert "a" in in_use
    containers["c"].state = "removing"
    assert "a" not in in_use


def test_a_claim_counts_until_it_ends() -> None:
    core = core_of({})
    in_use = core.layers_in_use()
    with core.claimed(("a",)), core.claimed(("a", "b")):
        assert set(in_use) == {"a", "b"}
        with pytest.raises(LookupError), core.claimed(("c",)):
            raise LookupError
        assert "c" not in in_use
    assert list(in_use) == []
