"""Every rule of a configuration: what breaks it is named by its JSON path and section."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from onggi.errors import SpecError
from onggi.runtime.validate import validate, validate_process
from onggi.specs.runtime import (
    Config,
    ConsoleSize,
    Device,
    IdMapping,
    Mount,
    Namespace,
    Rlimit,
    Root,
    TimeOffset,
    User,
)
from unit.plan_cases import MAPPING, default_config, namespaces, process, spec_example

replace = msgspec.structs.replace


def ids(container: int, host: int, size: int) -> IdMapping:
    return IdMapping(container_id=container, host_id=host, size=size)


def config(**changes: Any) -> Config:
    return replace(default_config(), **changes)


def with_linux(**changes: Any) -> Config:
    return default_config(**changes)


def with_process(**changes: Any) -> Config:
    return config(process=process(**changes))


def test_good_configurations() -> None:
    validate(default_config())
    validate(spec_example())
    for version in ("1.0.0", "1.2.0-rc.1", "1.0.2-dev+build.5", "0.5.0-dev"):
        validate(config(oci_version=version))


OVERLAPPING = (ids(0, 1000, 10), ids(9, 5000, 10))
OVERLAPPING_OUTSIDE = (ids(0, 1000, 10), ids(20, 1009, 10))
USER = namespaces("mount", "user", "uts")

BAD: list[tuple[str, Config]] = [
    ("$.ociVersion", config(oci_version="2.0.0")),
    ("$.ociVersion", config(oci_version="1.0")),
    ("$.ociVersion", config(oci_version="")),
    ("$.root", config(root=None)),
    ("$.root.path", config(root=Root(path=""))),
    ("$.process", config(process=None)),
    ("$.process.args", with_process(args=())),
    ("$.process.args[0]", with_process(args=("",))),
    ("$.process.cwd", with_process(cwd="relative")),
    ("$.process.cwd", with_process(cwd="")),
    ("$.process.env[1]", with_process(env=("A=1", "B"))),
    ("$.process.env[0]", with_process(env=("=1",))),
    ("$.process.oomScoreAdj", with_process(oom_score_adj=1001)),
    ("$.process.consoleSize", with_process(terminal=True, console_size=ConsoleSize(65536, 1))),
    ("$.process.user.uid", with_process(user=User(uid=-1))),
    ("$.process.user.gid", with_process(user=User(gid=2**32 - 1))),
    ("$.process.user.additionalGids[1]", with_process(user=User(additional_gids=(1, 2**32)))),
    ("$.process.user.umask", with_process(user=User(umask=0o1000))),
    ("$.process.rlimits[0].type", with_process(rlimits=(Rlimit("RLIMIT_X", 1, 1),))),
    ("$.process.rlimits[1]", with_process(rlimits=(Rlimit("RLIMIT_AS", 1, 1),) * 2)),
    ("$.process.rlimits[0]", with_process(rlimits=(Rlimit("RLIMIT_AS", 2, 1),))),
    ("$.process.rlimits[0]", with_process(rlimits=(Rlimit("RLIMIT_AS", -1, 1),))),
    ("$.process.args[0]", with_process(args=("a\0b",))),
    ("$.process.env[0]", with_process(env=("A=\ud800",))),
    ("$.process.oomScoreAdj", with_process(oom_score_adj=2**70)),
    ("$.process.user.uid", with_process(user=User(uid=2**70))),
    ("$.hostname", config(hostname="x" * 65)),
    ("$.hostname", config(hostname="x", linux=with_linux(namespaces=USER[:2]).linux)),
    ("$.domainname", config(hostname=None, domainname="ü" * 33)),
    ("$.mounts[0].destination", config(mounts=(Mount(""),))),
    ("$.linux.namespaces", config(linux=None, hostname=None)),
    ("$.linux.namespaces", with_linux(namespaces=namespaces("user", "uts"))),
    ("$.linux.namespaces[2].type", with_linux(namespaces=namespaces("mount", "uts", "x"))),
    ("$.linux.namespaces[3]", with_linux(namespaces=(*USER, Namespace("mount")))),
    ("$.linux.namespaces[3].path", with_linux(namespaces=(*USER, Namespace("pid", "x")))),
    ("$.linux.uidMappings", with_linux(namespaces=namespaces("mount", "uts"))),
    ("$.linux.uidMappings", with_linux(namespaces=USER, uid_mappings=())),
    ("$.linux.gidMappings", with_linux(namespaces=USER, gid_mappings=())),
    ("$.linux.uidMappings", with_linux(namespaces=USER, uid_mappings=OVERLAPPING)),
    ("$.linux.gidMappings", with_linux(namespaces=USER, gid_mappings=OVERLAPPING_OUTSIDE)),
    ("$.linux.uidMappings[0]", with_linux(namespaces=USER, uid_mappings=(ids(0, 0, 0),))),
    ("$.linux.uidMappings[0]", with_linux(namespaces=USER, uid_mappings=(ids(0, -1, 1),))),
    ("$.linux.uidMappings[0]", with_linux(namespaces=USER, uid_mappings=(ids(1, 1, 2**32),))),
    (
        "$.linux.uidMappings",
        with_linux(namespaces=USER, uid_mappings=tuple(ids(i, i, 1) for i in range(341))),
    ),
    ("$.linux.timeOffsets", with_linux(time_offsets={"boottime": TimeOffset(1)})),
    (
        "$.linux.timeOffsets",
        with_linux(namespaces=namespaces("mount", "time", "user", "uts"),
                   time_offsets={"realtime": TimeOffset(1)}),
    ),
    (
        "$.linux.timeOffsets.boottime",
        with_linux(namespaces=namespaces("mount", "time", "user", "uts"),
                   time_offsets={"boottime": TimeOffset(1, 10**9)}),
    ),
    ("$.linux.devices[0].path", with_linux(devices=(Device("null", "c", 1, 3),))),
    ("$.linux.devices[0].type", with_linux(devices=(Device("/dev/x", "cc", 1, 3),))),
    ("$.linux.devices[0]", with_linux(devices=(Device("/dev/x", "c", -1, 3),))),
    ("$.linux.devices[0]", with_linux(devices=(Device("/dev/x", "c", 1, 2**20),))),
    ("$.linux.devices[0].fileMode", with_linux(devices=(Device("/dev/x", "c", 1, 1, -1),))),
    ("$.linux.devices[0].uid", with_linux(devices=(Device("/dev/x", "c", 1, 1, 0, -1),))),
    ("$.linux.maskedPaths[0]", with_linux(masked_paths=("proc",))),
    ("$.linux.readonlyPaths[1]", with_linux(readonly_paths=("/a", "b"))),
    ("$.linux.rootfsPropagation", with_linux(rootfs_propagation="sideways")),
    ("$.linux.sysctl.a", with_linux(sysctl={"a": "x\0"})),
]  # fmt: skip


@pytest.mark.parametrize(("path", "bad"), BAD)
def test_a_violation_is_named_by_its_path(path: str, bad: Config) -> None:
    with pytest.raises(SpecError) as caught:
        validate(bad)
    assert caught.value.path == path
    assert caught.value.section
    assert not caught.value.message.endswith(".")


def test_what_only_looks_like_a_nul_is_fine() -> None:
    validate(with_process(env=("A=\\u0000",)))


def test_console_size_is_ignored_without_a_terminal() -> None:
    validate(with_process(console_size=ConsoleSize(99999, 1)))


def test_adjacent_ranges_do_not_overlap() -> None:
    validate(with_linux(namespaces=USER, uid_mappings=(ids(10, 2000, 5), ids(0, 1000, 10))))
    assert MAPPING


def test_a_process_alone_starts_at_its_own_root() -> None:
    validate_process(process())
    with pytest.raises(SpecError) as caught:
        validate_process(process(user=User(uid=-5)))
    assert caught.value.path == "$.user.uid"
