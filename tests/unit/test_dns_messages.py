"""DNS messages, names of containers, and what is answered without asking others."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from onggi.network.dns import messages, upstreams
from onggi.network.dns.answers import own_answer
from onggi.network.dns.messages import AAAA, ANY, PTR, A, Rejected, read_query
from onggi.network.dns.upstreams import Standing, Upstreams, parse
from onggi.network.dns.zones import Zones

TXT, AXFR, HTTPS = 16, 252, 65


def question(
    name: str,
    kind: int = A,
    *,
    number: int = 7,
    flags: int = 0x100,
    edns: int = 0,
    opt_ttl: int = 0,
    options: bytes = b"",
) -> bytes:
    """A question as clients send it, the name's case kept; `edns`: the size that it takes."""
    head = struct.pack("!HHHHHH", number, flags, 1, 0, 0, 1 if edns else 0)
    wire = b"".join(bytes((len(x),)) + x.encode() for x in name.split(".") if x) + b"\0"
    opt = b"\0" + struct.pack("!HHIH", messages.OPT, edns, opt_ttl, len(options)) + options
    return head + wire + struct.pack("!HH", kind, 1) + (opt if edns else b"")


def code(answer: bytes) -> int:
    return answer[3] & 0xF


def counts(answer: bytes) -> tuple[int, ...]:
    return struct.unpack_from("!HHHH", answer, 4)


def data_of(answer: bytes) -> list[bytes]:
    """The data of all answer records, whose owners must point to the question."""
    _, count, _, _ = counts(answer)
    at = answer.index(b"\0", 12) + 5
    found = []
    for _ in range(count):
        assert answer[at : at + 2] == b"\xc0\x0c"
        (length,) = struct.unpack_from("!H", answer, at + 10)
        found.append(answer[at + 12 : at + 12 + length])
        at += 12 + length
    return found


def packed(*addresses: str) -> list[bytes]:
    return [socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in addresses]


_OPT = b"\0\0\x29\2\0" + bytes(6)
TWO_OPTS = question("a")[:11] + b"\2" + question("a")[12:] + _OPT * 2


# -- reading ---------------------------------------------------------------------------------


def test_a_question_is_read_without_regard_to_case_and_repeated_to_the_letter() -> None:
    query = read_query(question("Db.Example", AAAA, number=300))
    assert (query.name, query.top, query.kind) == (b"\2db\7example\0", b"example", AAAA)
    assert query.question == b"\2Db\7Example\0\0\x1c\0\1"
    assert (query.size_bytes, query.opt) == (512, b"")
    assert read_query(question("", 2)).name == b"\0"


def test_the_size_that_a_client_takes_is_bounded() -> None:
    sizes = [read_query(question("a", edns=n)).size_bytes for n in (100, 600, 4096)]
    assert sizes == [512, 600, 1232]


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", None),
        (question("a")[:11], None),
        (question("a", flags=0x8100), None),
        (question("a", flags=0x2900), messages.NOTIMP),
        (question("a")[:-1], messages.FORMERR),
        (question("a") + b"x", messages.FORMERR),
        (question("a")[:12] + b"\xc0\x0c\0\1\0\1", messages.FORMERR),
        (question("a")[:12] + b"\1a\xc0\x0c\0\1\0\1", messages.FORMERR),
        (question("a")[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", messages.FORMERR),
        (question("a")[:12] + b"\5a", messages.FORMERR),
        (question("a")[:4] + b"\0\0" + question("a")[6:], messages.FORMERR),
        (question("a")[:4] + b"\0\2" + question("a")[6:], messages.FORMERR),
        (question("a")[:6] + b"\0\1" + question("a")[8:], messages.FORMERR),
        (question("a")[:10] + b"\xff\xff" + question("a")[12:], messages.FORMERR),
        (TWO_OPTS, messages.FORMERR),
        (question("a", edns=512).replace(b"\0\0\x29", b"\1b\0\0\x29"), messages.FORMERR),
        (question("a", edns=512)[:-2] + b"\0\x09", messages.FORMERR),
        (question("a")[:-1] + b"\3", messages.REFUSED),
        (question("a", AXFR), messages.NOTIMP),
        (question(".".join(["x" * 63] * 4)), messages.FORMERR),
        (question("a", edns=512, opt_ttl=1 << 16), messages.NOERROR),
    ],
)  # fmt: skip
def test_what_is_no_question_is_answered_with_its_code(packet: bytes, expected: int | None) -> None:
    with pytest.raises(Rejected) as caught:
        read_query(packet)
    answer = caught.value.answer
    assert (answer == b"") == (expected is None)
    if expected is not None:
        assert answer[:2] == packet[:2] and answer[2] & 0x80
        assert code(answer) == expected


def test_a_later_version_of_edns_is_told_which_one_there_is() -> None:
    with pytest.raises(Rejected) as caught:
        read_query(question("a", edns=512, opt_ttl=1 << 16))
    assert caught.value.answer.endswith(b"\0\0\x29\x04\xd0\1\0\0\0\0\0")  # 16: BADVERS


def test_the_longest_name_is_read() -> None:
    name = ".".join(["x" * 63] * 3 + ["x" * 61])
    assert len(read_query(question(name)).name) == 255
    assert messages.wire_name(name) == read_query(question(name)).name
    with pytest.raises(ValueError, match="is no name"):
        messages.wire_name(name + "x")


# -- writing ---------------------------------------------------------------------------------


def test_an_answer_repeats_number_question_and_flags() -> None:
    query = read_query(question("Db", edns=1232, opt_ttl=0x8000, flags=0x0110))
    answer = messages.reply(query, records=(messages.address_record(packed("10.0.0.2")[0]),))
    assert answer[:12] == b"\0\7\x85\x90\0\1\0\1\0\0\0\1"
    assert answer[12:] == (
        b"\2Db\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\0\0\2"
        + b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
    )  # fmt: skip


def test_records_that_do_not_fit_are_left_out_and_tc_says_so() -> None:
    query = read_query(question("all", edns=700))
    records = tuple(messages.address_record(bytes((10, 0, 0, n))) for n in range(60))
    answer = messages.reply(query, records=records, limit_bytes=query.size_bytes)
    assert len(answer) <= 700 < len(answer) + 16
    assert answer[2] & 2 and counts(answer)[3] == 1
    assert data_of(answer) == [bytes((10, 0, 0, n)) for n in range(counts(answer)[1])]
    whole = messages.reply(query, records=records)
    assert not whole[2] & 2 and counts(whole)[1] == 60
    assert counts(messages.truncated(query)) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("5.0.89.10.in-addr.arpa", "10.89.0.5"),
        ("300.0.89.10.in-addr.arpa", None),
        ("05.0.89.10.in-addr.arpa", None),
        ("0.89.10.in-addr.arpa", None),
        (".".join("5" + "0" * 27 + "00df") + ".ip6.arpa", "fd00::5"),
        (".".join("g" + "0" * 31) + ".ip6.arpa", None),
        (".".join(" " + "0" * 31) + ".ip6.arpa", None),
        ("example.com", None),
    ],
)
def test_reverse_names(name: str, address: str | None) -> None:
    found = messages.read_reverse(read_query(question(name)).name)
    assert found == (packed(address)[0] if address else None)


# -- what others answer ----------------------------------------------------------------------


def honest(asked: bytes, address: str = "192.0.2.7") -> bytes:
    """What an honest server says to a question."""
    return messages.reply(read_query(asked), records=(messages.address_record(*packed(address)),))


def test_edns_goes_along_but_for_a_size_beyond_ours() -> None:
    asked = question("a", edns=4096, opt_ttl=0x8000, options=b"\0\x0a\0\2xy")
    passed = messages.passed_on(read_query(asked), b"\1\2")
    assert passed == b"\1\2" + question("a", edns=1232, opt_ttl=0x8000, options=b"\0\x0a\0\2xy")[2:]
    assert messages.passed_on(read_query(question("a")), b"\1\2") == b"\1\2" + question("a")[2:]


def test_an_answer_counts_only_for_the_question_that_was_asked() -> None:
    query, number = read_query(question("Db.test")), b"\0\7"
    good = honest(question("dB.test"))
    assert messages.answers(query, number, good)
    assert not messages.answers(query, b"\0\6", good)
    assert not messages.answers(query, number, honest(question("dc.test")))
    assert not messages.answers(query, number, honest(question("db.test", AAAA)))
    assert not messages.answers(query, number, question("db.test"))
    assert not messages.answers(query, number, good[:11])
    bare = number + b"\x81\x05" + bytes(8)
    assert messages.answers(query, number, bare)
    assert not messages.answers(query, number, number + b"\x81\x80" + bytes(8))


def test_a_server_that_cannot_tell_and_one_that_sends_half_have_failed() -> None:
    good = honest(question("a"))
    assert messages.failure(good) == 0
    assert messages.failure(good[:3] + b"\x83" + good[4:]) == 0, "no such name is an answer"
    assert messages.failure(good[:3] + b"\x85" + good[4:]) == messages.REFUSED
    assert messages.failure(good[:3] + b"\x8a" + good[4:]) == messages.SERVFAIL
    assert messages.failure(good[:-1]) == messages.SERVFAIL
    assert messages.failure(good[:7] + b"\2" + good[8:]) == messages.SERVFAIL


def test_an_answer_is_handed_back_under_the_clients_number_and_spelling() -> None:
    query = read_query(question("DB.test", number=0x1234))
    back = messages.handed_back(query, honest(question("db.TEST")), 512)
    assert back[:2] == b"\x12\x34" and query.question in back
    assert data_of(back) == packed("192.0.2.7")
    assert counts(messages.handed_back(query, honest(question("db.test")), 20)) == (1, 0, 0, 0)


# -- names of containers ---------------------------------------------------------------------


def holders(zones: Zones, networks: tuple[str, ...], name: str) -> list[list[bytes]] | None:
    found = zones.find(networks, messages.wire_name(name))
    return None if found is None else [list(found.addresses(n)) for n in (4, 16)]


def test_zones_know_names_aliases_and_addresses_of_their_networks_only() -> None:
    zones = Zones()
    zones.set_endpoint("n", "1", ("Web1", "web"), ("10.0.0.2", "fd00::2"))
    zones.set_endpoint("n", "2", ("web2", "WEB", "a..b", "x" * 64), ("10.0.0.3",))
    zones.set_endpoint("m", "3", ("web3", "web", "only-m"), ("10.0.1.2",))
    assert holders(zones, ("n",), "web1") == [packed("10.0.0.2"), packed("fd00::2")]
    assert holders(zones, ("n",), "only-m") is None
    assert holders(zones, ("n", "m"), "only-m") == [packed("10.0.1.2"), []]
    assert zones.names(("n",), *packed("10.0.0.3")) == ("web2", "WEB")
    assert zones.names(("m",), *packed("10.0.0.3")) == ()
    zones.remove_endpoint("n", "1")
    zones.remove_endpoint("n", "1")
    zones.remove_endpoint("nowhere", "1")
    assert holders(zones, ("n",), "web1") is None
    assert holders(zones, ("n", "m"), "web") == [packed("10.0.0.3"), []], "the first network's"
    zones.remove_network("n")
    zones.remove_network("n")
    assert holders(zones, ("n", "m"), "web") == [packed("10.0.1.2"), []]


def test_those_who_share_a_name_take_turns_in_each_family() -> None:
    zones = Zones()
    for n in (1, 2, 3):
        zones.set_endpoint("n", str(n), ("all",), (f"10.0.0.{n}", f"fd00::{n}"))
    found = zones.find(("n",), messages.wire_name("all"))
    assert found is not None
    for length in (4, 16):  # asked in pairs, as resolvers do
        assert {found.addresses(length)[0][-1] for _ in range(3)} == {1, 2, 3}
    first = []
    for _ in range(4):
        first.append(found.addresses(4)[0][-1])
        found.addresses(16)
    assert first == [1, 2, 3, 1]


def test_an_address_belongs_to_whom_it_was_given_last() -> None:
    zones = Zones()
    zones.set_endpoint("n", "old", ("old",), ("10.0.0.2",))
    zones.set_endpoint("n", "new", ("new",), ("10.0.0.2",))
    zones.remove_endpoint("n", "old")
    assert zones.names(("n",), *packed("10.0.0.2")) == ("new",)
    zones.set_endpoint("n", "new", ("newer",), ("10.0.0.3",))
    assert holders(zones, ("n",), "new") is None
    assert zones.names(("n",), *packed("10.0.0.2")) == ()


def test_ranges_of_networks() -> None:
    zones = Zones()
    zones.set_network("n", ("10.89.0.0/24", "fd00:1::/64"))
    zones.set_network("m", ("10.89.1.0/24",))
    inside, outside = ("10.89.0.9", "fd00:1::9", "10.89.1.9"), ("10.89.2.9", "fd00:2::9")
    assert all(map(zones.covers, packed(*inside))) and not any(map(zones.covers, packed(*outside)))
    zones.set_network("m", ("10.89.2.0/24",))
    assert zones.covers(*packed("10.89.2.1")) and not zones.covers(*packed("10.89.1.1"))
    zones.remove_network("m")
    assert zones.covers(*packed("10.89.0.1")) and not zones.covers(*packed("10.89.2.1"))


# -- answers of our own ----------------------------------------------------------------------


@pytest.fixture
def zones() -> Zones:
    zones = Zones()
    zones.set_network("n", ("10.89.0.0/24",))
    zones.set_endpoint("n", "1", ("db.net", "db", "a1b2"), ("10.89.0.2", "fd00::2"))
    zones.set_endpoint("n", "2", ("four",), ("10.89.0.3",))
    zones.set_endpoint("m", "3", ("elsewhere",), ("10.89.1.2",))
    return zones


def own(zones: Zones, packet: bytes, *, leave: bool = True) -> bytes | None:
    return own_answer(zones, ("n",), read_query(packet), 512, leave=leave)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("db", A, ["10.89.0.2"]),
        ("DB.", A, ["10.89.0.2"]),
        ("a1b2", AAAA, ["fd00::2"]),
        ("db.net", ANY, ["10.89.0.2", "fd00::2"]),
        ("four", AAAA, []),
        ("db", TXT, []),
        ("db", HTTPS, []),
        ("localhost", A, ["127.0.0.1"]),
        ("any.LocalHost", AAAA, ["::1"]),
        ("localhost", TXT, []),
    ],
)
def test_what_is_ours_is_answered_whatever_the_type(
    zones: Zones, name: str, kind: int, expected: list[str]
) -> None:
    answer = own(zones, question(name, kind))
    assert answer is not None and code(answer) == messages.NOERROR
    assert data_of(answer) == packed(*expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("db.example.com", A), ("other", A), ("elsewhere", A), ("", 2), ("notlocalhost", A),
     ("9.0.0.10.in-addr.arpa", PTR), ("2.1.89.10.in-addr.arpa", PTR), ("arpa", 2)],
)  # fmt: skip
def test_what_is_not_ours_is_asked_of_others_where_there_is_a_way(
    zones: Zones, name: str, kind: int
) -> None:
    assert own(zones, question(name, kind)) is None
    answer = own(zones, question(name, kind), leave=False)
    assert answer is not None and code(answer) == messages.NXDOMAIN
    assert counts(answer) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2.0.89.10.in-addr.arpa", b"\2db\3net\0"),
        (".".join("2" + "0" * 27 + "00df") + ".ip6.arpa", b"\2db\3net\0"),
        ("1.0.0.127.in-addr.arpa", b"\x09localhost\0"),
        (".".join("1" + "0" * 31) + ".ip6.arpa", b"\x09localhost\0"),
        ("9.0.89.10.in-addr.arpa", None),
        ("11.0.0.127.in-addr.arpa", None),
        ("x.invalid", None),
        ("x.onion", None),
    ],
)
def test_addresses_of_ours_have_names_or_none_and_nobody_is_asked(
    zones: Zones, name: str, expected: bytes | None
) -> None:
    answer = own(zones, question(name, PTR))
    assert answer is not None
    assert code(answer) == (messages.NXDOMAIN if expected is None else 0)
    assert data_of(answer) == ([] if expected is None else [expected])


# -- the host's servers ----------------------------------------------------------------------


def test_resolvers_of_the_host() -> None:
    text = "# x\nnameserver 10.0.0.1\nnameserver\tfe80::1%eth0 # y\nnameserver no\nsearch a b\n"
    assert parse(text) == ("10.0.0.1", "fe80::1%eth0")
    assert (
        len(parse("".join(f"nameserver 10.0.0.{n}\nnameserver 10.0.0.1\n" for n in range(9)))) == 3
    )


def test_resolvers_are_read_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "resolv.conf", tmp_path / "behind"
    servers = Upstreams(str(first), str(second))
    monkeypatch.setattr(upstreams, "_LOOK_S", 0.0)
    assert servers() == ()
    first.write_text("nameserver 10.0.0.1\n")
    assert servers() == ("10.0.0.1",)
    first.write_text("nameserver 127.0.0.53\n")
    assert servers() == ("127.0.0.53",), "the stub, where nothing else is known"
    second.write_text("nameserver 10.0.0.2\n")
    assert servers() == ("10.0.0.2",)
    os.unlink(first)
    assert servers() == ()


def test_resolvers_are_not_looked_at_more_than_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(upstreams.time, "monotonic", lambda: 5.0)
    servers = Upstreams(str(path), str(path))
    assert servers() == ()
    path.write_text("nameserver 10.0.0.1\n")
    assert servers() == ()
    monkeypatch.setattr(upstreams.time, "monotonic", lambda: 6.0)
    assert servers() == ("10.0.0.1",)


def test_a_server_that_fails_is_asked_last_for_a_while() -> None:
    standing = Standing()
    assert standing.ordered(("a", "b"), 0) == ("a", "b")
    standing.failed("a", 0)
    assert standing.ordered(("a", "b"), 9) == ("b", "a")
    assert standing.ordered(("a", "b"), 11) == ("a", "b")
    standing.failed("a", 20)
    standing.answered("a", 21)
    assert standing.ordered(("a", "b"), 21) == ("a", "b")


def test_one_slow_name_does_not_condemn_a_server_that_answers_others() -> None:
    standing = Standing()
    standing.answered("a", 5)
    standing.silent("a", asked_s=4, now_s=6)
    assert standing.ordered(("a", "b"), 6) == ("a", "b")
    standing.silent("a", asked_s=5.5, now_s=7)
    assert standing.ordered(("a", "b"), 7) == ("b", "a")
