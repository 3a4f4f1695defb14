"""`--filter`: keys, values, labels and bounded patterns; and the PORTS column's ranges."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.engine.api.answers import Event
from onggi.engine.events import _matches
from onggi.engine.filters import Filters
from onggi.engine.image_filters import _fits
from onggi.engine.prune_filters import parse_prune_filters
from onggi.errors import InvalidArgument
from onggi.faces.cli.porttext import ports
from onggi.faces.cli.verbs.logs import moment

KEYS = ("name", "label", "label!", "status", "dangling")
VALUES = {"status": ("running", "exited")}


def filters(*texts: str) -> Filters:
    return Filters(texts, KEYS, values=VALUES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name", "write --filter KEY=VALUE"),
        ("nmae=x", "this list knows: dangling, label, label!, name, status"),
        ("status=up", "there are: running, exited"),
        ("dangling=maybe", "there are: true, false"),
        ("x" * 500 + "=1", "unknown filter"),
    ],
)
def test_what_is_wrong_names_what_there_is(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        filters(text)
    assert words in str(found.value)
    assert len(str(found.value)) < 300


def test_values_of_a_key_are_either_keys_are_both() -> None:
    both = filters("status=running", "status=exited", "name=web")
    assert both.accepts("status", "exited")
    assert both.accepts("status", "running")
    assert both.accepts_part("name", "my-web-1")
    assert not both.accepts_part("name", "db")
    assert filters().accepts("status", "paused")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("web", "my-web", True),
        ("^web", "my-web", False),
        ("^/web$", "web", True),
        ("^web$", "web-1", False),
        ("web-[0-9]+", "web-12", True),
        ("a.*z", "abcz", True),
        ("db|web", "web", True),
        ("/web", "web", True),
        ("(a|b)c", "bc", True),
        ("", "web", True),
    ],
)
def test_a_name_is_a_pattern(pattern: str, name: str, fits: bool) -> None:
    assert filters(f"name={pattern}").accepts_part("name", name) is fits


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "a*b*c*d*", "x" * 300, "(?=a)", r"(a)\1", "[", "a{9}{9}{9}{9}"]
)
def test_no_pattern_keeps_the_engine_busy(pattern: str) -> None:
    with pytest.raises(InvalidArgument):
        filters(f"name={pattern}").accepts_part("name", "a" * 255)


@given(st.text(alphabet="ab*+?.^$()[]{}|\\/1,-", max_size=30))
def test_any_pattern_is_answered_soon(pattern: str) -> None:
    began = time.process_time()
    try:
        filters(f"name={pattern}").accepts_part("name", "ab" * 127)
    except InvalidArgument as error:
        assert "\n" not in str(error)
    assert time.process_time() - began < 2


def test_every_label_must_hold() -> None:
    labels = {"a": "1", "b": "2"}
    assert filters("label=a", "label=b=2").accepts_label(labels)
    assert not filters("label=a", "label=c").accepts_label(labels)
    assert not filters("label=b=3").accepts_label(labels)
    assert filters("label!=c").accepts_label(labels)
    assert filters("label!=a=2").accepts_label(labels)
    assert not filters("label!=a=1").accepts_label(labels)
    assert not filters("label!=b").accepts_label(labels)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("busybox", True), ("busybox:1.36", True), ("busy*", True), ("busy*:1.*", True),
        ("b?sybox", True), ("*:1.36", True), ("busybox:2", False), ("*/busybox", False),
        ("alpine", False),
    ],
)  # fmt: skip
def test_a_reference_is_a_path_pattern(pattern: str, fits: bool) -> None:
    assert _fits(pattern, "docker.io/library/busybox:1.36") is fits
    assert _fits("me/*:latest", "docker.io/me/app:latest")
    assert not _fits("*", "docker.io/me/app:latest")


@pytest.mark.parametrize(
    ("texts", "accepted"),
    [
        (("container=web",), True),
        (("container=abc",), True),
        (("container=db",), False),
        (("image=busybox",), True),
        (("image=debian",), False),
        (("event=health_status",), True),
        (("event=health_status: healthy",), True),
        (("event=die",), False),
        (("type=container", "event=health_status"), True),
        (("type=image",), False),
        (("network=web",), False),
        (("scope=local",), True),
        (("scope=swarm",), False),
        (("label=role=front",), True),
        (("label!=role",), False),
    ],
)
def test_events(texts: tuple[str, ...], accepted: bool) -> None:
    keys = ("container", "daemon", "event", "image", "label", "label!", "network", "scope", "type",
            "volume")  # fmt: skip
    event = Event(
        time_ns=1,
        kind="container",
        action="health_status: healthy",
        id="abcdef",
        attributes={"name": "web", "image": "busybox", "role": "front"},
    )
    assert _matches(Filters(texts, keys), event) is accepted


def test_a_container_of_a_sweep_is_never_dangling() -> None:
    with pytest.raises(InvalidArgument, match="known are until, label, label!"):
        parse_prune_filters(("dangling=true",), ("until", "label", "label!"))
    left = parse_prune_filters(("label!=keep", "until=10m"))
    now_ns = time.time_ns()
    assert left.accept(now_ns - 3600 * 10**9, {})
    assert not left.accept(now_ns - 3600 * 10**9, {"keep": ""})
    assert not left.accept(now_ns, {})


def test_neighbouring_ports_are_one() -> None:
    texts = ("0.0.0.0:8000->80/tcp", "[::]:8000->80/tcp", "0.0.0.0:8001->81/tcp",
             "[::]:8001->81/tcp", "0.0.0.0:53->53/udp", "90/tcp", "91/tcp",
             "95-96/tcp")  # fmt: skip
    assert ports(texts) == (
        "0.0.0.0:8000-8001->80-81/tcp, [::]:8000-8001->80-81/tcp, 0.0.0.0:53->53/udp, "
        "90-91/tcp, 95-96/tcp"
    )
    assert ports(()) == ""


def test_a_moment_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "KST-9")
    time.tzset()
    try:
        utc = moment("2026-01-31T10:00:00Z")
        assert moment("2026-01-31T19:00:00") == utc
        assert moment("2026-01-31T19:00:00+09:00") == utc
        assert moment("2026-01-31") == utc - 19 * 3600 * 10**9
        assert moment(str(utc // 10**9)) == utc
        before_ns = time.time_ns() - 600 * 10**9
        assert before_ns <= moment("10m") <= time.time_ns() - 600 * 10**9
    finally:
        monkeypatch.undo()
        time.tzset()
