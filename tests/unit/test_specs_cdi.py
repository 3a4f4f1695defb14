"""CDI specifications: what is one, where a mistake is, and that nothing else comes out of noise."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import SpecError
from onggi.specs.cdi import (
    MAX_SPEC_BYTES,
    CdiMount,
    ContainerEdits,
    DeviceNode,
    Hook,
    parse_cdi,
    unsupported,
)

WHOLE: dict[str, Any] = {
    "cdiVersion": "1.0.0",
    "kind": "vendor.com/class",
    "annotations": {"a": "b"},
    "devices": [
        {
            "name": "gpu0:1",
            "annotations": {"c": "d"},
            "containerEdits": {
                "env": ["A=1", "B="],
                "deviceNodes": [
                    {"path": "/dev/v0", "hostPath": "/dev/real", "type": "c", "major": 1,
                     "minor": 3, "fileMode": 432, "permissions": "rw", "uid": 1, "gid": 2}
                ],
                "mounts": [
                    {"hostPath": "/lib/v.so", "containerPath": "/lib/v.so", "type": "bind",
                     "options": ["ro", "nosuid"]}
                ],
                "additionalGids": [5],
            },
        },
        {"name": "0", "containerEdits": {}},
    ],
    "containerEdits": {"env": ["C=3"]},
}  # fmt: skip
AS_YAML = """
cdiVersion: "1.0.0"
kind: vendor.com/class
annotations: {a: b}
devices:
- name: "gpu0:1"
  annotations:
    c: d
  containerEdits:
    env: [A=1, B=]
    deviceNodes:
    - path: /dev/v0
      hostPath: /dev/real
      type: c
      major: 1
      minor: 3
      fileMode: 0660
      permissions: rw
      uid: 1
      gid: 2
    mounts:
    - hostPath: /lib/v.so
      containerPath: /lib/v.so
      type: bind
      options: [ro, nosuid]
    additionalGids: [5]
- name: "0"
  containerEdits: {}
containerEdits:
  env:
  - C=3
"""


def test_a_whole_specification() -> None:
    spec = parse_cdi(json.dumps(WHOLE).encode())
    assert spec == parse_cdi(AS_YAML.encode(), yaml=True)
    assert (spec.kind, [device.name for device in spec.devices]) == (
        "vendor.com/class", ["gpu0:1", "0"],
    )  # fmt: skip
    edits = spec.devices[0].container_edits
    assert edits.device_nodes == (DeviceNode("/dev/v0", "/dev/real", "c", 1, 3, 0o660, "rw", 1, 2),)
    assert edits.mounts == (CdiMount("/lib/v.so", "/lib/v.so", "bind", ("ro", "nosuid")),)
    assert (edits.env, edits.additional_gids) == (("A=1", "B="), (5,))


def changed(**more: Any) -> bytes:
    return json.dumps(WHOLE | more).encode()


def edits(**more: Any) -> bytes:
    return changed(devices=[{"name": "a", "containerEdits": more}])


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"", "$: not valid JSON"),
        (b"{", "$: not valid JSON"),
        (b"\xff\xfe", "$: "),
        (b"[]", "$: "),
        (b"[" * 100_000, "$: nested deeper"),
        (b"{}", "$: object missing required field `cdiVersion`"),
        (changed(cdiVersion="1.1.0"), "$.cdiVersion: '1.1.0'"),
        (changed(cdiVersion=1), "$.cdiVersion: expected `str`"),
        (changed(kind="vendor.com"), "$.kind"),
        (changed(kind="../etc/passwd"), "$.kind"),
        (changed(kind="v/c=x"), "$.kind"),
        (changed(devices=[]), "$.devices: is empty"),
        (changed(devices=[{"name": "a"}]), "$.devices[0]: object missing"),
        (changed(devices=[{"name": "-", "containerEdits": {}}]), "$.devices[0].name"),
        (changed(devices=[{"name": "a", "containerEdits": {}}] * 2), "$.devices[1].name: 'a' is"),
        (changed(unknown=1), "$: object contains unknown field `unknown`"),
        (edits(env=["=x"]), "$.devices[0].containerEdits.env[0]"),
        (edits(env=["A=1", "noequals"]), "$.devices[0].containerEdits.env[1]"),
        (edits(env=["A=\0"]), "$.devices[0].containerEdits.env[0]"),
        (edits(deviceNodes=[{"path": "dev/x"}]), "deviceNodes[0].path"),
        (edits(deviceNodes=[{"path": "/"}]), "deviceNodes[0].path"),
        (edits(deviceNodes=[{"path": "/x", "hostPath": "y"}]), "deviceNodes[0].hostPath"),
        (edits(deviceNodes=[{"path": "/x", "type": "p"}]), "deviceNodes[0].type"),
        (edits(deviceNodes=[{"path": "/x", "permissions": "rx"}]), "deviceNodes[0].permissions"),
        (edits(deviceNodes=[{"path": "/x", "major": -1}]), "deviceNodes[0].major"),
        (edits(deviceNodes=[{"path": "/x", "uid": 2**32}]), "deviceNodes[0].uid"),
        (edits(deviceNodes=[{"path": "/x", "size": 1}]), "deviceNodes[0]: object contains unknown"),
        (edits(mounts=[{"hostPath": "/a", "containerPath": "b"}]), "mounts[0].containerPath"),
        (edits(mounts=[{"hostPath": "a", "containerPath": "/b"}]), "mounts[0].hostPath"),
        (edits(mounts=[{"hostPath": "/a\0", "containerPath": "/b"}]), "mounts[0].hostPath"),
        (edits(hooks=[{"hookName": "x"}]), "hooks[0]: object missing required field `path`"),
        (edits(additionalGids=[-1]), "additionalGids[0]"),
        (b" " * (MAX_SPEC_BYTES + 1), "$: 4194305 bytes, more"),
    ],
)
def test_a_mistake_is_located(data: bytes, path: str) -> None:
    with pytest.raises(SpecError) as found:
        parse_cdi(data)
    assert path in str(found.value)
    assert "\n" not in str(found.value)


def test_the_reader_of_yaml_is_imported_for_yaml_alone() -> None:
    script = (
        "import sys, onggi.engine.engine; from onggi.specs.cdi import parse_cdi; "
        "seen = 'yaml' in sys.modules; parse_cdi(sys.stdin.buffer.read(), yaml=True); "
        "print(seen, 'yaml' in sys.modules)"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, input=AS_YAML.encode(), capture_output=True, check=True)
    assert done.stdout == b"False True\n"


BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}]\n"
    for p, c in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "line 2, column 8: *a refers"),
        ("a: [", "not valid YAML: line 1"),
        ("a: !!python/object/apply:os.system [x]", "not valid YAML: line 1"),
        ("a: 1\n---\nb: 2", "not valid YAML: line 2"),
        ("\0", "not valid YAML"),
        ("\tx", "not valid YAML: line 1"),
        ("[" * 100_000, "nested deeper"),
        ("", "expected `object`, got `null`"),
        ("a: 2001-99-99", "not valid YAML"),
        (AS_YAML.replace('"0"', "0"), "$.devices[1].name: expected `str`, got `int`"),
    ],
)
def test_yaml_is_read_without_its_dangers(text: str, why: str) -> None:
    with pytest.raises(SpecError) as found:
        parse_cdi(text.encode(), yaml=True)
    assert why in str(found.value)
    assert "\n" not in str(found.value)


def test_what_no_container_is_given_is_told() -> None:
    hook = Hook("createContainer", "/usr/bin/vendor-hook", ("a",))
    assert unsupported(ContainerEdits(), "$.x") is None
    assert unsupported(ContainerEdits(hooks=(hook,)), "$.x") == (
        "$.x.hooks[0] (createContainer /usr/bin/vendor-hook)"
    )
    assert unsupported(ContainerEdits(intel_rdt={}), "$.x") == "$.x.intelRdt"


_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_EDITS = st.dictionaries(
    st.sampled_from(("env", "deviceNodes", "mounts", "hooks", "additionalGids", "name", "x")),
    _LEAVES | st.lists(_LEAVES, max_size=2),
    max_size=3,
)
_DEVICES = st.lists(
    st.fixed_dictionaries({"name": _LEAVES, "containerEdits": _EDITS | _LEAVES}), max_size=2
)
_VALUES = _LEAVES | st.lists(_LEAVES, max_size=3) | _EDITS | _DEVICES


@given(st.sampled_from(sorted(WHOLE)), _VALUES, st.booleans())
def test_any_value_anywhere_is_read_or_refused(key: str, value: Any, yaml: bool) -> None:
    try:
        parse_cdi(json.dumps(WHOLE | {key: value}).encode(), yaml=yaml)
    except SpecError as error:
        assert str(error).startswith("$")


@given(st.binary(max_size=64) | st.text(max_size=64).map(str.encode), st.booleans())
def test_noise_is_refused(data: bytes, yaml: bool) -> None:
    with pytest.raises(SpecError):
        parse_cdi(data, yaml=yaml)
