"""The steps in Python against keel/steps.def, and their encoding against bytes written by hand."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import msgspec
import pytest

from onggi.runtime import steps
from onggi.runtime.steps import (
    STEPS,
    CloneInto,
    ConfigureNetwork,
    Execute,
    LoadSeccomp,
    OpenTree,
    Plan,
    SendNetlink,
    SetHostname,
    SetOomScore,
    Step,
    Supervise,
    WriteIdMaps,
)
from unit.plan_decoder import decode_plan

DEFINITION = Path(__file__).parents[2] / "keel" / "steps.def"


def screaming(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def test_every_step_is_in_keels_table_and_the_other_way_round() -> None:
    rows = re.findall(r'^STEP\((\d+), (\w+), "(\w*)"\)$', DEFINITION.read_text(), re.MULTILINE)
    defined = {int(opcode): (name, signature) for opcode, name, signature in rows}
    ours = {opcode: (screaming(cls.__name__), cls.signature) for opcode, cls in STEPS.items()}
    assert len(rows) == len(defined)
    assert ours == defined


@pytest.mark.parametrize("cls", STEPS.values(), ids=lambda cls: cls.__name__)
def test_a_step_knows_all_about_itself(cls: type[Step]) -> None:
    assert len(cls.encoded_fields()) == len(cls.signature)
    told = cls.__struct_fields__[1 + len(cls.signature) :]
    for_people = {
        SendNetlink: ("lines",),
        ConfigureNetwork: ("lines",),
        OpenTree: ("source",),
        WriteIdMaps: ("uid_grants", "gid_grants"),
    }
    assert told == for_people.get(cls, ())
    assert cls.__struct_fields__[0] == "optional"
    assert cls.concerns
    assert cls.section
    assert cls.actor == ("init" if 16 <= cls.opcode < 64 else "monitor")
    assert getattr(steps, cls.__name__) is cls


def test_opcodes_are_unique() -> None:
    def all_below(cls: type[Step]) -> list[type[Step]]:
        return [each for sub in cls.__subclasses__() for each in (sub, *all_below(sub))]

    opcodes = [cls.opcode for cls in all_below(Step)]
    assert sorted(opcodes) == sorted(set(opcodes)) == sorted(STEPS)


def test_bytes_are_those_of_the_contract() -> None:
    assert SetHostname(name="bö").encode() == b"\x14\0\0\0\x08\0\0\0\x03\0\0\0b\xc3\xb6\0"
    assert SetOomScore(value=-1, optional=True).encode() == b"\x08\0\x01\0\x08\0\0\0" + b"\xff" * 8
    assert CloneInto(flags=1, joins=("a",), pidfd_joins=(0, 2)).encode() == (
        b"\x04\0\0\0\x2e\0\0\0"
        b"\x01\0\0\0\0\0\0\0"
        b"\x01\0\0\0\x01\0\0\0a\0"
        b"\x02\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0" + b"\xff" * 8
    )
    plan = Plan((Supervise(run_dir="/r"),))
    assert plan.encode().startswith(b"KEEL\x01\0\0\0\x01\0\0\0\x01\0")


def test_a_blob_may_hold_nul_and_a_string_may_not() -> None:
    blobs: tuple[Step, ...] = (
        LoadSeccomp(flags=0, program=b"\0\0\0\0\0\0\0\0"),
        SendNetlink(messages=b"\0\1\0", pid_offsets=(1, 2)),
        ConfigureNetwork(messages=b"\0"),
    )
    assert decode_plan(Plan(blobs).encode()).steps == blobs
    for step in (
        SetHostname(name="a\0b"),
        Execute(arguments=("a\0",), environment=(), candidates=()),
    ):
        with pytest.raises(ValueError, match="NUL"):
            step.encode()


def test_lines_are_told_and_not_sent() -> None:
    step = SendNetlink(messages=b"12345678", pid_offsets=(4,), lines=("eth0: a wire",))
    assert step.describe() == "plug in eth0: a wire"
    assert step.encode() == msgspec.structs.replace(step, lines=()).encode()
    assert step.to_builtins()["fields"]["lines"] == ["eth0: a wire"]
    assert "8 bytes" in ConfigureNetwork(messages=b"12345678").describe()


def test_a_path_that_is_not_utf8_arrives_as_it_is() -> None:
    assert b"/\xff\0" in OpenTree(slot=0, path="/\udcff").encode()


def test_a_plan_is_json_with_the_filter_as_its_digest() -> None:
    plan = Plan((LoadSeccomp(flags=1, program=b"12345678"), SetHostname(name="x")), ("careful",))
    value = json.loads(json.dumps(plan.to_builtins()))
    assert value["warnings"] == ["careful"]
    assert value["steps"][0]["fields"] == {
        "flags": 1,
        "program": {"length": 8, "sha256": hashlib.sha256(b"12345678").hexdigest()},
        "agent": 255,
        "state": 255,
    }
    assert value["steps"][1] == {
        "step": "SetHostname",
        "actor": "init",
        "optional": False,
        "fields": {"name": "x"},
    }
