"""How a container does, as the results of its health checks tell: pure.

A check's results become a condition: starting, healthy or unhealthy. Nothing is executed here and
no clock is read. Source: docker-run(1) --health-*, Docker Engine API v1.51 Health.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from onggi.engine.api.spec import ContainerSpec, HealthSpec
from onggi.engine.timestamps import rfc3339
from onggi.errors import InvalidArgument
from onggi.specs.image import ContainerConfig, Healthcheck

Status = Literal["starting", "healthy", "unhealthy"]
KEPT_RESULTS = 5
KEPT_OUTPUT_BYTES = 4096
#: The code of a check that took too long, or could not be started.
NO_CODE = -1
_SHELL = ("/bin/sh", "-c")
_LEAST_S = 0.001
_MOST_S = 10 * 365 * 24 * 3600.0


class Check(Struct, frozen=True):
    """A complete check: what is executed, and when. Times in seconds."""

    command: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    start_interval_s: float = 5.0
    retries: int = 3
    on_failure: str = "none"

    def wait_s(self, status: Status, age_s: float) -> float:
        """The time to the next check of a container that has run for `age_s`."""
        early = status == "starting" and age_s < self.start_period_s
        return self.start_interval_s if early else self.interval_s


class Result(Struct, frozen=True):
    """One check that was made. Times: Unix, in nanoseconds."""

    started_ns: int
    ended_ns: int
    code: int
    output: str


class Condition(Struct, frozen=True):
    """How a container does. `streak`: failures in a row."""

    status: Status = "starting"
    streak: int = 0
    results: tuple[Result, ...] = ()

    def after(self, result: Result, check: Check, age_s: float) -> Condition:
        """The condition after one more result of a check that began `age_s` after the start.

        In the start period failures do not count; a success ends it.
        """
        results = (*self.results, result)[-KEPT_RESULTS:]
        if result.code == 0:
            return Condition("healthy", 0, results)
        if self.status == "starting" and age_s < check.start_period_s:
            return Condition("starting", self.streak, results)
        streak = self.streak + 1
        return Condition("unhealthy" if streak >= check.retries else self.status, streak, results)

    def shown(self) -> dict[str, Any]:
        """As `State.Health` of docker's inspect."""
        return {
            "Status": self.status,
            "FailingStreak": self.streak,
            "Log": [
                {
                    "Start": rfc3339(result.started_ns),
                    "End": rfc3339(result.ended_ns),
                    "ExitCode": result.code,
                    "Output": result.output,
                }
                for result in self.results
            ],
        }


def with_image_health(spec: ContainerSpec, image: ContainerConfig | None) -> ContainerSpec:
    """The specification with the image's check where the user said nothing.

    Raises:
        InvalidArgument: a check that is none.
    """
    own = (image and image.healthcheck) or Healthcheck()
    asked = spec.health
    test = asked.test or own.test or ()
    shell = image.shell if image else None
    if test[:1] == ("CMD-SHELL",) and shell:
        test = ("CMD", *shell, *test[1:])

    def seconds(said: float | None, of_image_ns: int) -> float | None:
        return said if said is not None else of_image_ns / 1e9 or None

    health = HealthSpec(
        test=test,
        interval_s=seconds(asked.interval_s, own.interval),
        timeout_s=seconds(asked.timeout_s, own.timeout),
        start_period_s=seconds(asked.start_period_s, own.start_period),
        start_interval_s=seconds(asked.start_interval_s, own.start_interval),
        retries=asked.retries if asked.retries is not None else own.retries or None,
        on_failure=asked.on_failure,
    )
    check_of(health)
    return msgspec.structs.replace(spec, health=health)


def check_of(health: HealthSpec) -> Check | None:
    """The check with docker's defaults for what is not said. None: there is none.

    Raises:
        InvalidArgument: a check that is none, or a time that cannot be.
    """
    kind, *words = health.test or ("NONE",)
    if kind == "NONE":
        return None
    if not words or (kind == "CMD-SHELL" and len(words) > 1) or kind not in ("CMD", "CMD-SHELL"):
        raise InvalidArgument(
            f"health check {list(health.test)!r:.80} is none",
            hint='write ["CMD", PROGRAM, …], ["CMD-SHELL", COMMAND] or ["NONE"]',
        )
    times = {
        name: value
        for name in ("interval_s", "timeout_s", "start_period_s", "start_interval_s")
        if (value := getattr(health, name))
    }
    for name, value in times.items():
        if not _LEAST_S <= value <= _MOST_S:
            raise InvalidArgument(
                f"health check: {name.removesuffix('_s')} of {value:g} s",
                hint="write between a millisecond and ten years, or 0 for docker's default",
            )
    if health.retries is not None and health.retries < 0:
        raise InvalidArgument(f"health check: {health.retries} retries")
    return Check(
        command=(*_SHELL, *words) if kind == "CMD-SHELL" else tuple(words),
        retries=health.retries or 3,
        on_failure=health.on_failure,
        **times,
    )
