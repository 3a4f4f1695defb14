"""`--restart`, `--health-*`, `--log-*`, `--secret`, CDI devices and `--platform`."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.engine.api.spec import (
    ContainerSpec,
    DeviceSpec,
    HealthSpec,
    RestartSpec,
    SecretSpec,
)
from onggi.errors import InvalidArgument
from onggi.faces.cli import healthflags, secretflags
from onggi.faces.cli.options import BadValueError, parse
from onggi.faces.cli.runflags import CONTAINER
from onggi.faces.cli.runspec import container_spec


def spec(*words: str) -> ContainerSpec:
    parsed = parse("run", CONTAINER, [*words, "img"], interspersed=False)
    return msgspec.convert(container_spec(parsed, {}, "/cwd"), ContainerSpec)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("no", RestartSpec()),
        ("always", RestartSpec("always")),
        ("unless-stopped", RestartSpec("unless-stopped")),
        ("on-failure", RestartSpec("on-failure")),
        ("on-failure:5", RestartSpec("on-failure", 5)),
        ("on-failure:0", RestartSpec("on-failure")),
    ],
)
def test_restart(text: str, policy: RestartSpec) -> None:
    assert spec("--restart", text).restart == policy


def test_health() -> None:
    found = spec(
        "--health-cmd", "curl -f localhost || exit 1", "--health-interval=1m30s",
        "--health-timeout", "500ms", "--health-start-period", "10s", "--health-start-interval",
        "2s", "--health-retries", "4", "--health-on-failure", "restart",
    ).health  # fmt: skip
    assert found == HealthSpec(
        ("CMD-SHELL", "curl -f localhost || exit 1"), 90.0, 0.5, 10.0, 2.0, 4, "restart"
    )
    assert spec("--no-healthcheck").health == HealthSpec(("NONE",))
    # 0 is docker's way to say: the image's, or the default.
    assert spec("--health-interval", "0", "--health-retries", "0").health == HealthSpec()


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("none", ["NONE"]),
        ("[ -f /run/ok ]", ["CMD-SHELL", "[ -f /run/ok ]"]),
        ('["/bin/check", "-q"]', ["CMD", "/bin/check", "-q"]),
        ('["CMD", "/bin/check"]', ["CMD", "/bin/check"]),
        ('["CMD-SHELL", "a || b"]', ["CMD-SHELL", "a || b"]),
        ("[1]", ["CMD-SHELL", "[1]"]),
        ("[\udce9]", ["CMD-SHELL", "[\udce9]"]),
    ],
)
def test_health_commands(text: str, test: list[str]) -> None:
    assert healthflags.health_test(text) == test


def test_logs() -> None:
    found = spec("--log-driver", "local", "--log-opt", "max-size=1m", "--log-opt", "tag={{.Name}}")
    assert (found.log_driver, found.log_max_bytes) == ("local", 1 << 20)
    assert found.log_tag == "{{.Name}}"
    assert spec("--log-opt", "mode=blocking", "--log-opt", "compress=false") == spec()
    assert spec("--log-driver", "journald", "--log-opt", "tag=x").log_driver == "journald"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("./a/pw", SecretSpec("/cwd/a/pw", "pw")),
        ("/a/pw,target=db,mode=0444", SecretSpec("/a/pw", "db", mode=0o444)),
        ("source=pw,target=/etc/pw,uid=1,gid=2", SecretSpec("/cwd/pw", "/etc/pw", 1, 2)),
        ("id=db,src=/a/pw", SecretSpec("/a/pw", "db")),
        ("type=mount,src=/a/pw", SecretSpec("/a/pw", "pw")),
    ],
)
def test_secrets(text: str, secret: SecretSpec) -> None:
    assert spec("--secret", text).secrets == (secret,)


def test_devices_by_their_cdi_name() -> None:
    assert spec("--device", "nvidia.com/gpu=all").devices == (DeviceSpec("nvidia.com/gpu=all", ""),)
    assert spec("--device", "/dev/a=b:rw").devices == (DeviceSpec("/dev/a=b", "/dev/a=b", "rw"),)


def test_this_hosts_platform() -> None:
    own = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    assert spec("--platform", f"linux/{own}") == spec()
    with pytest.raises(InvalidArgument, match="this host's platform"):
        spec("--platform", "linux/s390x" if own != "s390x" else "linux/amd64")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--restart", "sometimes"), "none of no, on-failure"),
        (("--restart", "always:3"), "no number of tries"),
        (("--restart", "on-failure:x"), "not a number of tries"),
        (("--restart", "always", "--rm"), "--rm"),
        (("--no-healthcheck", "--health-cmd", "x"), "--no-healthcheck"),
        (("--health-cmd", " "), "--no-healthcheck"),
        (("--health-cmd", '["CMD"]'), "CMD without its command"),
        (("--health-interval", "disable"), "--no-healthcheck"),
        (("--health-interval", "1us"), "millisecond"),
        (("--health-interval", "-1s"), "not a duration"),
        (("--health-timeout", "99999999h"), "ten years"),
        (("--health-retries", "-1"), "--health-retries"),
        (("--health-on-failure", "pray"), "none of none, restart, stop, kill"),
        (("--log-driver", "syslog"), "journald"),
        (("--log-driver", "fluentd"), "json-file, local, journald, none"),
        (("--log-driver", "none", "--log-opt", "max-size=1m"), "none has no option max-size"),
        (("--log-driver", "journald", "--log-opt", "max-size=1m"), "journald has no option"),
        (("--log-opt", "labels=a"), "max-size and max-file"),
        (("--log-opt", "mode=non-blocking"), "no buffer to lose"),
        (("--log-opt", "max-file=0"), "max-file=0"),
        (("--log-opt", "tag"), "KEY=VALUE"),
        (("--secret", "target=x"), "no source"),
        (("--secret", "a,target=../x"), "neither a name nor an absolute path"),
        (("--secret", "a,target=/"), "root"),
        (("--secret", "a,mode=8"), "octal"),
        (("--secret", "a,mode=4755"), "octal"),
        (("--secret", "a,uid=-1"), "not a number"),
        (("--secret", "id=a,env=B"), "-e passes"),
        (("--secret", "a,type=env"), "-e passes"),
        (("--secret", "a", "--secret", "b/a"), "/run/secrets/a"),
        (("--device", "nvidia.com=all"), "CDI"),
        (("--device", "nvidia.com/gpu="), "CDI"),
        (("--gpus", "all"), "CDI specification"),
        (("--cgroup-parent", "x"), "cgroup of its own"),
        (("--link", "db"), "--network"),
        (("-a", "stdout"), "unless -d"),
        (("--volumes-from", "x:y"), "unknown option"),
    ],
)
def test_refusals_are_one_line(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        spec(*words)
    assert why in str(found.value)
    assert "\n" not in str(found.value)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    readers: tuple[Any, ...] = (
        healthflags.restart, healthflags.health_test, healthflags.duration,
        lambda t: secretflags.secret(t, "/c"),
    )  # fmt: skip
    for read in readers:
        try:
            read(text)
        except BadValueError as error:
            assert error.reason
