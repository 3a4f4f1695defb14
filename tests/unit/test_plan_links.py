"""Where the steps of a container's links stand in a plan, and when there are none."""

from __future__ import annotations

import errno

import msgspec
import pytest

from onggi.runtime.explain import explain
from onggi.runtime.failure import StepError, explain_failure
from onggi.runtime.plan import plan
from onggi.runtime.steps import (
    BecomeUser,
    BindSockets,
    CloneInto,
    ConfigureNetwork,
    Plan,
    RaiseLoopback,
    SendNetlink,
    Supervise,
    WriteIdMaps,
)
from onggi.specs.runtime import Config
from unit.plan_cases import HOST, LINKS, OVERLAY, default_config, namespaces

replace = msgspec.structs.replace
NETWORK_STEPS = (SendNetlink, ConfigureNetwork, BindSockets)


class Report(msgspec.Struct, frozen=True):
    step_index: int
    opcode: int
    errno: int
    call: str
    detail: str = "message 1 of 2"
    facts: dict[str, str] = {}


def linked(config: Config | None = None, **changes: object) -> Plan:
    links = replace(LINKS, **changes)
    return plan(config or default_config(), HOST, replace(OVERLAY, links=links))


def index(made: Plan, kind: type) -> int:
    (found,) = [number for number, step in enumerate(made.steps) if isinstance(step, kind)]
    return found


def test_steps_come_when_what_they_need_is_there() -> None:
    made = linked()
    places = [
        index(made, kind)
        for kind in (
            CloneInto,
            WriteIdMaps,
            SendNetlink,
            RaiseLoopback,
            ConfigureNetwork,
            BindSockets,
            BecomeUser,
        )
    ]
    assert places == sorted(places)
    assert places[2] == places[1] + 1
    assert places[3:6] == [places[3], places[3] + 1, places[3] + 2]


def test_messages_arrive_as_they_are() -> None:
    made = linked()
    send, configure, bind = (made.steps[index(made, kind)] for kind in NETWORK_STEPS)
    assert isinstance(send, SendNetlink)
    assert isinstance(configure, ConfigureNetwork)
    assert isinstance(bind, BindSockets)
    assert (send.messages, send.pid_offsets) == (LINKS.host_messages, LINKS.pid_offsets)
    assert configure.messages == LINKS.inside_messages
    assert bind.sockets == LINKS.sockets


def test_a_person_reads_links_and_addresses_not_bytes() -> None:
    rows = {row.what for row in explain(linked())}
    assert any(what.startswith("plug in eth0: ov1 on bridge og1") for what in rows)
    assert (
        "configure the network: eth0: address 10.89.0.2/24, everything else through 10.89.0.1; "
        "eth1: address 10.90.0.2/24, no way out"
    ) in rows
    assert "bind udp:127.0.0.11:53 and tcp:127.0.0.11:53 for the engine to answer" in rows


def test_what_is_not_asked_for_is_no_step() -> None:
    made = linked(host_messages=b"", inside_messages=b"", sockets=())
    assert not [step for step in made.steps if isinstance(step, NETWORK_STEPS)]
    assert made == plan(default_config(), HOST, OVERLAY)


@pytest.mark.parametrize("joined", [{}, {"network": "/proc/7/ns/net"}])
def test_a_network_of_another_is_left_alone(joined: dict[str, str]) -> None:
    kinds = namespaces("mount", "ipc", "pid", "uts", "user", "cgroup", **joined)
    made = linked(default_config(namespaces=kinds))
    assert not [step for step in made.steps if isinstance(step, NETWORK_STEPS)]
    assert [warning for warning in made.warnings if "network" in warning]


def test_the_journal_reaches_the_monitor() -> None:
    supervision = replace(
        OVERLAY.supervision, log_name="", journal_socket="/run/j", journal_fields=("A=b",)
    )
    made = plan(default_config(), HOST, replace(OVERLAY, supervision=supervision))
    first = made.steps[0]
    assert isinstance(first, Supervise)
    assert (first.journal_socket, first.journal_fields) == ("/run/j", ("A=b",))
    assert "log to the journal at /run/j" in first.describe()


@pytest.mark.parametrize(
    ("kind", "call", "number", "words"),
    [
        (SendNetlink, "netlink RTM_NEWLINK", errno.EEXIST, "is on the host already"),
        (SendNetlink, "netlink RTM_NEWLINK", errno.EINVAL, "the bridge of the network is gone"),
        (SendNetlink, "netlink RTM_NEWLINK", errno.EXFULL, "1,023 ports"),
        (SendNetlink, "netlink RTM_NEWLINK", errno.ENFILE, "too many links"),
        (SendNetlink, "netlink RTM_NEWLINK", errno.ENOSPC, "too many links"),
        (SendNetlink, "netlink RTM_NEWLINK", errno.EPERM, "CAP_NET_ADMIN"),
        (SendNetlink, "socket", errno.ENFILE, "open files"),
        (ConfigureNetwork, "netlink RTM_NEWADDR", errno.EEXIST, "has this address already"),
        (ConfigureNetwork, "netlink RTM_NEWADDR", errno.EACCES, "IPv6 is disabled"),
        (ConfigureNetwork, "netlink RTM_NEWROUTE", errno.ENETUNREACH, "in no subnet"),
        (BindSockets, "bind", errno.EADDRINUSE, "is taken"),
        (BindSockets, "bind", errno.EADDRNOTAVAIL, "no address of the container"),
        (BindSockets, "socket", errno.EAFNOSUPPORT, "no IPv6"),
    ],
)
def test_failures_say_what_to_do(kind: type, call: str, number: int, words: str) -> None:
    made = linked()
    place = index(made, kind)
    error = explain_failure(Report(place, made.steps[place].opcode, number, call), made)
    assert isinstance(error, StepError)
    assert error.hint is not None
    assert words in error.hint
    assert error.message.startswith(f"cannot {made.steps[place].describe().split(':')[0]}")
