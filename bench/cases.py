"""What is measured on engines: run, exec, ps, twenty at once, memory, and growth with numbers."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

from bench.peers import Engine, memory_kb
from bench.timing import command, in_turns, middle

Result = dict[str, Any]


def run_and_remove(engines: list[Engine], rounds: int) -> Result:
    """Milliseconds of `run --rm --network none busybox true`, from command to prompt."""
    actions = {
        e.name: command(e.words(*e.run_words("--rm", "busybox", "true")), e.env) for e in engines
    }
    return {name: middle(times) for name, times in in_turns(actions, rounds).items()}


def exec_true(engines: list[Engine], rounds: int) -> Result:
    """Milliseconds of `exec CONTAINER true`."""
    for engine in engines:
        engine.run(*engine.run_words("-d", "--name", "bench-exec", "busybox", "sleep", "600"))
    actions = {e.name: e.action("exec", "bench-exec", "true") for e in engines}
    try:
        return {name: middle(times) for name, times in in_turns(actions, rounds).items()}
    finally:
        for engine in engines:
            engine.run("rm", "-f", "bench-exec")


def list_running(engines: list[Engine], rounds: int) -> Result:
    """Milliseconds of `ps`."""
    actions = {e.name: e.action("ps") for e in engines}
    return {name: middle(times) for name, times in in_turns(actions, rounds).items()}


def twenty_at_once(engines: list[Engine], rounds: int) -> Result:
    """Containers per second: 20 detached starts issued together; the best of the rounds."""
    best: Result = {}
    for engine in engines:
        for number in range(max(1, rounds)):
            rate = _start_together(engine, 20, f"bench-par-{number}")
            best[engine.name] = max(best.get(engine.name, 0.0), rate)
    return best


def _start_together(engine: Engine, count: int, prefix: str) -> float:
    names = [f"{prefix}-{n}" for n in range(count)]
    starts = [
        engine.action(*engine.run_words("-d", "--name", name, "busybox", "sleep", "600"))
        for name in names
    ]
    before = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(start) for start in starts]:
            future.result()
    taken = time.perf_counter() - before
    engine.run("rm", "-f", *names)
    return count / taken


def memory(engines: list[Engine], _rounds: int) -> Result:
    """Kilobytes: of the resident engine, and beside the application of one running container."""
    result: Result = {}
    for engine in engines:
        engine.run(*engine.run_words("-d", "--name", "bench-mem", "busybox", "sleep", "600"))
        time.sleep(0.5)
        beside = [memory_kb(pid) for pid in engine.beside("bench-mem")]
        resident = [memory_kb(pid) for pid in engine.resident()]
        engine.run("rm", "-f", "bench-mem")
        result[engine.name] = {
            "container_dirty": sum(m["dirty"] for m in beside),
            "container_private": sum(m["dirty"] + m["clean"] for m in beside),
            "engine_proportional": sum(m["proportional"] for m in resident),
        }
    return result


def growth(engine: Engine, count: int) -> Result:
    """One engine with many containers: the first and the last starts, and `ps` at the end."""
    times = []
    for number in range(count):
        start = engine.action(
            *engine.run_words("-d", "--name", f"bench-n{number}", "busybox", "sleep", "3600")
        )
        before = time.perf_counter()
        start()
        times.append((time.perf_counter() - before) * 1000)
    listed = in_turns({"ps": engine.action("ps")}, 11)["ps"]
    names = [f"bench-n{number}" for number in range(count)]
    for first in range(0, count, 50):
        engine.run("rm", "-f", *names[first : first + 50])
    return {
        "count": count,
        "first_ms": middle(times[:25]),
        "last_ms": middle(times[-25:]),
        "ratio": middle(times[-25:]) / middle(times[:25]),
        "ps_ms": middle(listed),
    }


def engine_share(engine: Engine, rounds: int) -> Result:
    """Milliseconds from the request on the wire to the exit seen, from a warm client."""
    from bench.wire import request_to_exit  # noqa: PLC0415

    times = request_to_exit(str(engine.place), rounds)
    return {"median_ms": middle(times), "fastest_ms": min(times)}
