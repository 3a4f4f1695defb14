"""How a run ended, in words; and whose ids are whose."""

from __future__ import annotations

import pytest

from onggi.engine.ends import describe_end, human_bytes
from onggi.engine.idranges import IdRanges
from onggi.errors import ResourceExhausted, Unsupported
from onggi.kernel.cgroups.stats import OomEvents
from onggi.runtime.host import IdPool
from onggi.sandbox.messages import Exited

SIZE = 65536


def exited(code: int = 0, signal: int = 0) -> Exited:
    return Exited(code=code, signal=signal, core_dumped=False, realtime_ns=7, runtime_ns=5)


@pytest.mark.parametrize(("event", "oom", "by", "code", "said"), [
    (exited(0), None, "", 0, ""),
    (exited(3), OomEvents(0, None, None), "", 3, ""),
    (exited(-1, 15), None, "", 143, "ended by SIGTERM"),
    (exited(-1, 15), None, "onggi stop", 143, "ended by SIGTERM from onggi stop"),
    (exited(-1, 9), OomEvents(1, 64 << 20, None), "", 137,
     "killed by the kernel: out of memory at its limit of 64 MiB"),
    (exited(-1, 9), OomEvents(1, None, None), "", 137, "killed by the kernel: out of memory"),
    (exited(137), OomEvents(1, None, None), "", 137, "killed by the kernel: out of memory"),
    (exited(0), OomEvents(2, None, None), "", 0,
     "2 of its processes were killed by the kernel: out of memory"),
    (exited(-1, 64), None, "", 192, "ended by SIGRTMAX"),
    (exited(-1, 40), None, "", 168, "ended by 40"),
])  # fmt: skip
def test_ends(event: Exited, oom: OomEvents | None, by: str, code: int, said: str) -> None:
    status = describe_end(event, oom, by)
    assert (status.code, status.explanation, status.finished_ns) == (code, said, 7)
    assert status.oom_killed is bool(oom and oom.kills)
    assert status.signal == event.signal


def test_an_end_that_nobody_saw_is_unknown_and_never_0() -> None:
    status = describe_end(None, None, "")
    assert status.code is None
    assert "unknown" in status.explanation


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"),
    (3 << 29, "1.5 GiB"),
])  # fmt: skip
def test_sizes(size: int, text: str) -> None:
    assert human_bytes(size) == text


def ranges(count: int) -> IdRanges:
    return IdRanges(IdPool(start=10 * SIZE, size=count * SIZE + 5), "onggi")


def test_a_range_is_lent_to_one_at_a_time() -> None:
    pool = ranges(4)
    bases = {owner: pool.lend(owner) for owner in "abcd"}
    assert sorted(bases.values()) == [SIZE * n for n in range(10, 14)]
    with pytest.raises(ResourceExhausted, match="all 4 id ranges of this host are in use"):
        pool.lend("e")
    pool.give_back("b")
    assert pool.lend("e") == bases["b"]


def test_a_range_given_back_twice_stays_the_next_owners() -> None:
    pool = ranges(1)
    base = pool.lend("a")
    pool.give_back("a")
    assert pool.lend("b") == base
    pool.give_back("a")
    with pytest.raises(ResourceExhausted):
        pool.lend("c")


def test_a_range_is_not_lent_again_at_once() -> None:
    pool = ranges(3)
    first = pool.lend("a")
    pool.give_back("a")
    assert pool.lend("b") != first


def test_what_a_running_container_has_is_kept() -> None:
    pool = ranges(2)
    pool.keep("running", 10 * SIZE)
    assert pool.lend("a") == 11 * SIZE
    with pytest.raises(ResourceExhausted):
        pool.lend("b")
    pool.give_back("running")
    assert pool.lend("b") == 10 * SIZE


@pytest.mark.parametrize("pool", [None, IdPool(start=100, size=SIZE - 1)])
def test_a_user_without_ids_is_told(pool: IdPool | None) -> None:
    with pytest.raises(Unsupported, match="no ids to give to containers — add a line"):
        IdRanges(pool, "onggi").lend("a")
