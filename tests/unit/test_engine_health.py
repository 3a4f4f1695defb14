"""What results of checks make of a container, and what a check is: pure."""

from __future__ import annotations

import pytest

from onggi.engine.api.spec import ContainerSpec, HealthSpec
from onggi.engine.conditions import (
    KEPT_RESULTS,
    NO_CODE,
    Check,
    Condition,
    Result,
    check_of,
    with_image_health,
)
from onggi.errors import InvalidArgument
from onggi.specs.image import ContainerConfig, Healthcheck

CHECK = Check(("true",), retries=3, start_period_s=10, start_interval_s=1, interval_s=30)
OK, BAD, LATE = (Result(1, 2, code, "") for code in (0, 1, NO_CODE))


def walk(*steps: tuple[Result, float], check: Check = CHECK) -> Condition:
    condition = Condition()
    for result, age_s in steps:
        condition = condition.after(result, check, age_s)
    return condition


def test_the_first_success_makes_it_healthy() -> None:
    assert Condition().status == "starting"
    assert walk((BAD, 0), (OK, 1)).status == "healthy"


def test_so_many_failures_in_a_row_make_it_unhealthy() -> None:
    after = walk((OK, 0), (BAD, 30), (LATE, 60))
    assert (after.status, after.streak) == ("healthy", 2)
    after = after.after(BAD, CHECK, 90)
    assert (after.status, after.streak) == ("unhealthy", 3)
    assert after.after(OK, CHECK, 91) == Condition("healthy", 0, (OK, BAD, LATE, BAD, OK))


def test_failures_do_not_count_in_the_start_period() -> None:
    after = walk(*[(BAD, age_s) for age_s in range(10)])
    assert (after.status, after.streak) == ("starting", 0)
    assert walk(*[(BAD, 9.0)] * 5, *[(BAD, 10.0)] * 3).status == "unhealthy"


def test_a_success_ends_the_start_period() -> None:
    assert walk((OK, 1), (BAD, 2), (BAD, 3), (BAD, 4)).status == "unhealthy"


def test_the_last_results_are_kept() -> None:
    results = [Result(n, n, 1, str(n)) for n in range(9)]
    kept = walk(*[(result, 0) for result in results]).results
    assert kept == tuple(results[-KEPT_RESULTS:])


def test_the_wait_is_short_while_it_starts() -> None:
    assert CHECK.wait_s("starting", 9.9) == 1
    assert CHECK.wait_s("starting", 10) == 30
    assert CHECK.wait_s("healthy", 1) == 30


def test_it_is_shown_as_docker_shows_it() -> None:
    shown = walk((Result(0, 1_000_000_000, 1, "no\n"), 11)).shown()
    assert shown == {
        "Status": "starting",
        "FailingStreak": 1,
        "Log": [{"Start": "0001-01-01T00:00:00Z", "End": "1970-01-01T00:00:01.000000000Z",
                 "ExitCode": 1, "Output": "no\n"}],
    }  # fmt: skip


def of_image(user: HealthSpec | None = None, **fields: object) -> Check | None:
    image = ContainerConfig(healthcheck=Healthcheck(**fields))  # type: ignore[arg-type]
    spec = ContainerSpec(image="i", health=user or HealthSpec())
    return check_of(with_image_health(spec, image).health)


def test_without_anything_said_there_is_none() -> None:
    assert check_of(with_image_health(ContainerSpec(image="i"), None).health) is None
    assert of_image() is None
    assert of_image(test=("NONE",)) is None
    assert of_image(HealthSpec(test=("NONE",)), test=("CMD", "ok")) is None


def test_the_user_goes_before_the_image_and_the_image_before_docker() -> None:
    user = HealthSpec(timeout_s=7.0, retries=9)
    check = of_image(user, test=("CMD", "ok", "-v"), interval=2 * 10**9, timeout=10**9, retries=4)
    assert check == Check(("ok", "-v"), interval_s=2.0, timeout_s=7.0, retries=9)
    assert of_image(test=("CMD", "ok")) == Check(("ok",), 30.0, 30.0, 0.0, 5.0, 3)


def test_a_shell_command_is_for_the_images_shell() -> None:
    user = ContainerSpec(image="i", health=HealthSpec(test=("CMD-SHELL", "a && b")))
    check = check_of(with_image_health(user, ContainerConfig()).health)
    assert check is not None
    assert check.command == ("/bin/sh", "-c", "a && b")
    image = ContainerConfig(shell=("/bin/bash", "-ec"))
    check = check_of(with_image_health(user, image).health)
    assert check is not None
    assert check.command == ("/bin/bash", "-ec", "a && b")


@pytest.mark.parametrize(
    "health",
    [
        HealthSpec(test=("CMD",)),
        HealthSpec(test=("CMD-SHELL", "a", "b")),
        HealthSpec(test=("RUN", "a")),
        HealthSpec(test=("CMD", "a"), interval_s=1e-9),
        HealthSpec(test=("CMD", "a"), timeout_s=-1),
        HealthSpec(test=("CMD", "a"), timeout_s=float("nan")),
        HealthSpec(test=("CMD", "a"), start_period_s=float("inf")),
        HealthSpec(test=("CMD", "a"), retries=-1),
    ],
)
def test_checks_that_are_none_are_refused(health: HealthSpec) -> None:
    with pytest.raises(InvalidArgument):
        with_image_health(ContainerSpec(image="i", health=health), None)
