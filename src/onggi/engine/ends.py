"""How a container's run ended, in words a person would use: pure.

Source: docker-run(1) exit status, signal(7).
"""

from __future__ import annotations

import signal

from onggi.engine.api.answers import ExitStatus
from onggi.kernel.cgroups.stats import OomEvents
from onggi.sandbox.messages import Exited

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def describe_end(event: Exited | None, oom: OomEvents | None, killed_by: str) -> ExitStatus:
    """The exit status and its explanation. `event` None: the monitor was lost, the code unknown.

    `killed_by`: the request of ours that sent the signal it ended by, empty for anybody else's.
    """
    if event is None:
        return ExitStatus(
            code=None, explanation="ended unwatched: its monitor was lost, the exit code is unknown"
        )
    oom_killed = bool(oom and oom.kills)
    code = 128 + event.signal if event.signal else event.code
    return ExitStatus(
        code=code,
        signal=event.signal,
        oom_killed=oom_killed,
        explanation=_explain(code, event.signal, oom, killed_by),
        finished_ns=event.realtime_ns,
    )


def _explain(code: int, number: int, oom: OomEvents | None, killed_by: str) -> str:
    if oom and oom.kills and code == 128 + signal.SIGKILL:
        at = f" at its limit of {human_bytes(oom.limit_bytes)}" if oom.limit_bytes else ""
        return f"killed by the kernel: out of memory{at}"
    if oom and oom.kills:
        return f"{oom.kills} of its processes were killed by the kernel: out of memory"
    if number:
        name = signal.Signals(number).name if number in list(signal.Signals) else str(number)
        return f"ended by {name}" + (f" from {killed_by}" if killed_by else "")
    return ""


def human_bytes(size_bytes: int) -> str:
    """`64 MiB`."""
    for unit, name in _UNITS:
        if size_bytes >= unit:
            value = size_bytes / unit
            return f"{value:.0f} {name}" if value == int(value) else f"{value:.1f} {name}"
    return f"{size_bytes} B"
