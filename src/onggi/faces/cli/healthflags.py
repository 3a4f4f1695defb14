"""`--restart` and `--health-*`: how a container is looked after while it runs.

Pure: gives RestartSpec's and HealthSpec's fields. Source: docker-run(1), podman-run(1).
"""

from __future__ import annotations

from onggi.errors import DataLoss, InvalidArgument
from onggi.faces.cli.options import BadValueError, invalid
from onggi.faces.cli.values import count, duration_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed

_POLICIES = ("no", "on-failure", "always", "unless-stopped")
_FAILURES = ("none", "restart", "stop", "kill")
_MOST_SECONDS = 10 * 365 * 24 * 3600
#: Option key → field of HealthSpec.
_FIELDS = {
    "health-interval": "interval_s",
    "health-timeout": "timeout_s",
    "health-start-period": "start_period_s",
    "health-start-interval": "start_interval_s",
    "health-retries": "retries",
    "health-on-failure": "on_failure",
}


def restart(text: str) -> dict[str, Any]:
    """`no`, `on-failure[:TRIES]`, `always`, `unless-stopped`; also for `update`."""
    policy, colon, tries = text.partition(":")
    if policy not in _POLICIES:
        raise BadValueError(f"none of {', '.join(_POLICIES)}", "on-failure:5")
    if colon and policy != "on-failure":
        raise BadValueError(f"{policy} takes no number of tries, only on-failure", "on-failure:5")
    found: dict[str, Any] = {"policy": policy}
    if colon:
        if not tries.isascii() or not tries.isdigit() or len(tries) > 9:
            raise BadValueError(f"{tries!r} is not a number of tries", "on-failure:5")
        found["maximum"] = int(tries)
    return found


def check_restart(parsed: Parsed) -> None:
    """Raises: InvalidArgument: `--rm` and a restart policy want opposite things."""
    policy = (parsed.get("restart") or {}).get("policy", "no")
    if policy != "no" and parsed.on("rm"):
        raise InvalidArgument(
            f"--rm removes at the end what --restart {policy} would start again",
            hint="leave one of them out",
        )


def duration(text: str) -> float | None:
    """Seconds of at least a millisecond; None for 0: docker's default."""
    if text == "disable":
        raise BadValueError("to have no check say --no-healthcheck", "30s")
    size_ns = duration_ns(text)
    if 0 < size_ns < 1_000_000 or size_ns > _MOST_SECONDS * 10**9:
        raise BadValueError("not between a millisecond and ten years", "30s")
    return size_ns / 1e9 or None


def retries(text: str) -> int | None:
    """Failures in a row; None for 0: docker's default."""
    number = count(text)
    if number > 1_000_000:
        raise BadValueError("more than a million", "3")
    return number or None


def on_failure(text: str) -> str:
    """What happens to a container that becomes unhealthy, as podman has it."""
    if text not in _FAILURES:
        raise BadValueError(f"none of {', '.join(_FAILURES)}", "restart")
    return text


def health_test(text: str) -> list[str]:
    """A command for the shell; a JSON list is a program with its arguments; `none` is no check."""
    if not text.strip():
        raise BadValueError("no command; --no-healthcheck turns a check off", "curl -f localhost")
    if text.strip().lower() == "none":
        return ["NONE"]
    words = _json_words(text)
    if words is None:
        return ["CMD-SHELL", text]
    if words[:1] in (["CMD"], ["CMD-SHELL"]):
        if len(words) < 2 or (words[0] == "CMD-SHELL" and len(words) > 2):
            raise BadValueError(f"{words[0]} without its command", '["CMD", "/bin/check"]')
        return words
    return ["NONE"] if words == ["NONE"] else ["CMD", *words]


def _json_words(text: str) -> list[str] | None:
    """The strings of a JSON list; None for anything else: `[ -f x ]` is a shell's command."""
    if not text.lstrip().startswith("["):
        return None
    from onggi.specs import jsontext  # noqa: PLC0415

    try:
        words = jsontext.decode(text.encode())
    except (DataLoss, UnicodeEncodeError):
        return None
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        return None
    return words


def health_fields(parsed: Parsed) -> dict[str, Any]:
    """HealthSpec's fields, as far as something was said.

    Raises: InvalidArgument: `--no-healthcheck` together with a check.
    """
    found = {
        field: value for key, field in _FIELDS.items() if (value := parsed.get(key)) is not None
    }
    command = parsed.get("health-cmd")
    if parsed.on("no-healthcheck"):
        if found or command is not None:
            raise InvalidArgument("--no-healthcheck contradicts the other --health options")
        return {"test": ["NONE"]}
    if command is not None:
        try:
            found["test"] = health_test(command)
        except BadValueError as error:
            raise invalid("--health-cmd", command, error) from None
    return found
