"""`features` says what is true: by the schema, and by the tables that do the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT4

from onggi.errors import SpecError
from onggi.kernel.mounts import parse_options
from onggi.kernel.seccomp.compiler import compile_profile
from onggi.runtime.features import features, mount_options
from onggi.runtime.plan import plan
from onggi.specs.runtime import Seccomp, SeccompArg, SeccompRule, parse_config
from unit.plan_cases import BUNDLE, GOLDEN, HOST, OVERLAY, default_config, namespaces

SCHEMA = Path(__file__).parent / "schema"
replace = msgspec.structs.replace


def validator(name: str) -> jsonschema.Draft4Validator:
    """The schema of the specification's repository, version 1.3, whose files name one another."""
    registry: Registry[Any] = Registry().with_resources(
        (path.name, DRAFT4.create_resource(json.loads(path.read_text())))
        for path in SCHEMA.glob("*.json")
    )
    schema = json.loads((SCHEMA / name).read_text())
    return jsonschema.Draft4Validator(schema, registry=registry)


def test_the_document_is_by_the_schema() -> None:
    document = features(replace(HOST, lsms=("apparmor",)))
    validator("features-schema.json").validate(document)
    assert document == json.loads(json.dumps(document))
    with pytest.raises(jsonschema.ValidationError):
        validator("features-schema.json").validate({**document, "hooks": [1]})


@pytest.mark.parametrize("option", mount_options())
def test_an_option_that_is_listed_never_reaches_a_file_system_that_might_not_know_it(
    option: str,
) -> None:
    of_every_superblock = {"async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"}
    assert set(parse_options((option,)).data) <= of_every_superblock


def test_everything_about_filters_compiles() -> None:
    listed = features(HOST)["linux"]["seccomp"]
    assert listed["enabled"]
    for action in listed["actions"]:
        for op in listed["operators"]:
            rule = SeccompRule(("mkdir",), action, args=(SeccompArg(0, 1, op),))
            compile_profile(
                Seccomp(
                    "SCMP_ACT_LOG",
                    architectures=tuple(listed["archs"]),
                    flags=tuple(listed["supportedFlags"]),
                    listener_path="/run/agent",
                    syscalls=(rule,),
                )
            )
    assert not features(replace(HOST, seccomp=False))["linux"]["seccomp"]["enabled"]


def test_every_namespace_that_is_listed_can_be_planned() -> None:
    kinds = [kind for kind in features(HOST)["linux"]["namespaces"] if kind != "mount"]
    plan(default_config(namespaces=namespaces("mount", *kinds)), HOST, OVERLAY)
    less = replace(HOST, namespaces=HOST.namespaces - {"time"})
    assert "time" not in features(less)["linux"]["namespaces"]


def test_every_version_between_the_two_that_are_listed() -> None:
    document = features(HOST)
    for version in (
        document["ociVersionMin"],
        "1.1.0",
        "1.2.1",
        document["ociVersionMax"],
        "1.9.9",
    ):
        plan(replace(default_config(), oci_version=version), HOST, OVERLAY)
    with pytest.raises(SpecError):
        plan(replace(default_config(), oci_version="2.0.0"), HOST, OVERLAY)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_configurations_of_callers_are_by_the_schema_and_planned(path: Path) -> None:
    """So that the golden cases are what the specification means, too."""
    document = json.loads(path.read_text())
    validator("config-schema.json").validate(document)
    host = replace(HOST, lsms=("apparmor", "selinux"))
    assert plan(parse_config(path.read_bytes()), host, BUNDLE).steps
