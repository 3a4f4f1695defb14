"""Ids and names, signals, filters, and where things live."""

from __future__ import annotations

import signal

import pytest

from onggi.engine.filters import Filters
from onggi.engine.layout import layout_for
from onggi.engine.names import check_name, new_id, new_name
from onggi.engine.places import Places
from onggi.engine.signal_names import parse_signal
from onggi.errors import InvalidArgument


def test_ids_are_64_hexadecimal_digits_and_differ() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) == 64 and set(i) <= set("0123456789abcdef") for i in ids)


def test_a_new_name_is_valid_and_free() -> None:
    name = new_name(())
    assert check_name(name, "container") == name

    class Everything:
        """All short names are taken."""

        def __contains__(self, name: object) -> bool:
            return str(name).count("_") == 1

    crowded = new_name(Everything())  # type: ignore[arg-type]
    assert crowded.count("_") == 2
    assert check_name(crowded, "container") == crowded


@pytest.mark.parametrize("name", ["a", "9", "web-1", "A.b_c", "a" * 128])
def test_names(name: str) -> None:
    assert check_name(name, "container") == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".", "..", "_a", "a/b", "../a", "a b", "a\n", "a\0", "ü", "a:b"]
)
def test_no_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid container name .* — use letters"):
        check_name(name, "container")


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(InvalidArgument, match="aaa… has 129 characters — use 128 at most"):
        check_name("a" * 129, "container")


@pytest.mark.parametrize(("text", "number"), [
    ("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("15", 15), ("kill", 9), ("HUP", 1), ("1", 1),
    ("RTMIN", signal.SIGRTMIN), ("rtmin+3", signal.SIGRTMIN + 3), ("64", 64),
])  # fmt: skip
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "SIG", "NOSUCH", "TERM+", "RTMIN+99", "15x", "_DFL", "٩", "²"]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown signal"):
        parse_signal(text)


def test_filters_of_one_key_are_alternatives_and_keys_add_up() -> None:
    filters = Filters(("a=1", "a=2", "b=x=y"), ("a", "b", "c"))
    assert filters.has("a")
    assert not filters.has("c")
    assert filters.get("b") == ["x=y"]
    assert [filters.accepts("a", value) for value in ("1", "2", "3")] == [True, True, False]
    assert filters.accepts("c", "anything")
    assert filters.accepts_part("b", "-x=y-")
    assert not filters.accepts_part("b", "x")


def test_filters_by_id_and_label() -> None:
    filters = Filters(("id=ab", "id=", "label=k", "label=v=1"), ("id", "label"))
    assert filters.accepts_id("id", "abc", "name")
    assert not filters.accepts_id("id", "cba", "name")
    assert filters.accepts_label({"k": "", "v": "1", "more": ""})
    assert not filters.accepts_label({"k": "", "v": "2"})
    assert not filters.accepts_label({"v": "1"})


def test_wrong_filters_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid filter 'a' — write --filter KEY=VALUE"):
        Filters(("a",), ("a",))
    with pytest.raises(InvalidArgument, match="unknown filter 'z' — this list knows: a, b"):
        Filters(("z=1",), ("b", "a"))


def test_layouts() -> None:
    system = layout_for(None, 0, {})
    assert (system.data, system.run, system.instance) == ("/var/lib/onggi", "/run/onggi", "onggi")
    assert system.socket == "/run/onggi/onggi.sock"
    user = layout_for(None, 1000, {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert (user.data, user.run) == ("/home/u/.local/share/onggi", "/run/user/1000/onggi")
    other = layout_for(None, 1000, {"XDG_DATA_HOME": "/x", "XDG_RUNTIME_DIR": "/y"})
    assert (other.data, other.run) == ("/x/onggi", "/y/onggi")


def test_two_roots_have_nothing_in_common() -> None:
    one, two = layout_for("/a", 0, {}), layout_for("/b", 0, {})
    assert len({one.instance, two.instance, "onggi"}) == 3
    assert layout_for("/a/../a/", 0, {}) == one
    assert one.data.startswith("/a/")
    assert one.run.startswith("/a/")


def test_every_place_is_below_its_root_and_named_after_the_container() -> None:
    places = Places(layout_for("/a", 0, {}))
    for path in (places.container("c1"), places.task("c1"), places.volume("c1")):
        assert path.startswith("/a/")
        assert "c1" in path.split("/")
    assert places.cgroup("c1").endswith("/c1")
