"""Whatever the configuration: a plan that keel can read, or one located error; always the same."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from onggi.errors import EngineError, InvalidArgument, SpecError, Unsupported
from onggi.kernel.capabilities import DEFAULT, NAMES
from onggi.runtime.explain import explain
from onggi.runtime.host import HostFacts
from onggi.runtime.own_ids import OwnIds
from onggi.runtime.plan import plan, plan_exec
from onggi.runtime.request import StartRequest
from onggi.runtime.steps import (
    BindTree,
    CloneInto,
    Execute,
    IdmapTree,
    MakeNode,
    OpenTree,
    PivotRoot,
    Plan,
    Step,
    Supervise,
    TakeTree,
)
from onggi.specs.runtime import (
    Capabilities,
    Config,
    ConsoleSize,
    Device,
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    TimeOffset,
    User,
)
from unit.plan_cases import (
    BUNDLE,
    EXEC,
    FILTER,
    HOST,
    HYBRID,
    MOUNTS,
    OVERLAY,
    UNIFIED,
    VISITOR,
    default_config,
)
from unit.plan_decoder import decode_plan

KINDS = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
PATHS = st.sampled_from(["/", "/dev", "/dev/", "/dev/pts", "/data", "/sys", "rel", "", "/a/../b"])
PATHS = PATHS | WORDS.map(lambda word: f"/{word}")
SMALL = st.integers(-1, 70000)
ANY_ID = SMALL | st.integers(0, 2**32)
OPTIONS = st.lists(
    st.sampled_from(
        ["ro", "rw", "rro", "rbind", "bind", "private", "rshared", "slave", "idmap", "ridmap",
         "tmpcopyup", "nosuid", "rnoexec", "noatime", "strictatime", "gid=5", "gid=99999", "size=1",
         "remount", "mode=755", "x"]
    ) | WORDS,
    max_size=4,
).map(tuple)  # fmt: skip


def several(element: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, max_size=most).map(tuple)


MAPPINGS = several(
    st.builds(IdMapping, container_id=SMALL, host_id=ANY_ID, size=st.integers(0, 70000))
)
GOOD_MAPPINGS = st.just((IdMapping(container_id=0, host_id=100000, size=65536),))
MOUNT = st.sampled_from(MOUNTS) | st.builds(
    Mount,
    destination=PATHS,
    source=st.none() | PATHS,
    type=st.none()
    | st.sampled_from(["bind", "tmpfs", "sysfs", "proc", "mqueue", "cgroup", "none"]),
    options=OPTIONS,
    uid_mappings=st.just(()) | MAPPINGS,
)
NAMESPACE = st.builds(
    Namespace,
    type=st.sampled_from(KINDS) | WORDS,
    path=st.none() | st.sampled_from(["/proc/7/ns/x", "rel", ""]),
)
NAMESPACES = st.lists(NAMESPACE, max_size=8, unique_by=lambda n: n.type).map(
    lambda found: (*(n for n in found if n.type != "mount"), Namespace("mount"))
) | several(NAMESPACE, 8)
CAPABILITY_NAMES = several(st.sampled_from([*NAMES, "CAP_NONE"]), 6) | st.just(DEFAULT)
PROCESS = st.builds(
    Process,
    cwd=st.just("/") | PATHS,
    args=st.just(("sh",)) | several(WORDS),
    env=several(st.sampled_from(["A=1", "PATH=/x:", "PATH=", "B"]) | WORDS),
    terminal=st.booleans(),
    console_size=st.none() | st.builds(ConsoleSize, SMALL, SMALL),
    user=st.builds(
        User,
        uid=st.just(0) | ANY_ID,
        gid=st.just(0) | ANY_ID,
        umask=st.none() | SMALL,
        additional_gids=several(SMALL),
    ),
    capabilities=st.none()
    | st.builds(
        Capabilities,
        bounding=CAPABILITY_NAMES,
        effective=CAPABILITY_NAMES,
        inheritable=CAPABILITY_NAMES,
        permitted=CAPABILITY_NAMES,
        ambient=CAPABILITY_NAMES,
    ),
    rlimits=several(
        st.builds(
            Rlimit,
            st.sampled_from(["RLIMIT_NOFILE", "RLIMIT_AS", "X"]),
            st.integers(-1, 2**65),
            st.integers(0, 2**64 - 1),
        ),
        2,
    ),
    no_new_privileges=st.booleans(),
    oom_score_adj=st.none() | st.integers(-1001, 1001),
    apparmor_profile=st.none() | WORDS,
)
LINUX = st.builds(
    Linux,
    namespaces=NAMESPACES,
    uid_mappings=st.just(()) | GOOD_MAPPINGS | MAPPINGS,
    gid_mappings=st.just(()) | GOOD_MAPPINGS | MAPPINGS,
    time_offsets=st.dictionaries(
        st.sampled_from(["monotonic", "boottime", "x"]), st.builds(TimeOffset, SMALL, SMALL)
    ),
    devices=several(
        st.builds(
            Device,
            path=PATHS,
            type=st.sampled_from("bcupx"),
            major=SMALL,
            minor=SMALL,
            file_mode=st.none() | SMALL,
            uid=st.none() | SMALL,
        )
    ),
    rootfs_propagation=st.none() | st.sampled_from(["shared", "rslave", "x"]),
    seccomp=st.none() | st.just(FILTER),
    sysctl=st.dictionaries(
        st.sampled_from(["net.a", "kernel.sem", "vm.x", "net/a.b/c"]) | WORDS, WORDS, max_size=2
    ),
    masked_paths=several(PATHS, 2),
    readonly_paths=several(PATHS, 2),
    mount_label=st.none() | WORDS,
)
CONFIG = st.builds(
    Config,
    oci_version=st.just("1.2.0") | WORDS,
    root=st.none() | st.builds(Root, path=PATHS, readonly=st.booleans()),
    process=st.none() | PROCESS,
    hostname=st.none() | WORDS,
    domainname=st.none() | WORDS,
    mounts=several(MOUNT, 5),
    linux=st.none() | LINUX,
)


@st.composite
def likely_configs(draw: st.DrawFn) -> Config:
    """The default configuration with a few parts that are generated: mostly valid ones."""
    config = default_config()
    assert config.linux is not None
    parts = {name: draw(part) for name, part in draw(CHANGES).items()}
    linux = {name[6:]: value for name, value in parts.items() if name.startswith("linux_")}
    rest = {name: value for name, value in parts.items() if not name.startswith("linux_")}
    linux_value = msgspec.structs.replace(config.linux, **linux)
    return msgspec.structs.replace(config, linux=linux_value, **rest)


CHANGES = st.dictionaries(
    st.sampled_from(["process", "mounts", "linux_namespaces", "linux_devices", "linux_sysctl"]),
    st.none(),
    max_size=3,
).map(lambda chosen: {name: PARTS[name] for name in chosen})
GOOD_PATHS = st.sampled_from(["/dev", "/data", "/sys", "/a/../b", "/x y"])
GOOD_MOUNT = st.sampled_from(MOUNTS) | st.builds(
    Mount,
    destination=GOOD_PATHS,
    source=st.just("/srv"),
    type=st.sampled_from(["bind", "tmpfs", "sysfs", "proc", "mqueue", "cgroup"]),
    options=several(st.sampled_from(["ro", "rro", "rbind", "rshared", "nosuid", "gid=5", "x"])),
)
GOOD_PROCESS = st.builds(
    Process,
    cwd=st.sampled_from(["/", "/work"]),
    args=st.sampled_from([("sh",), ("./a", "b")]),
    env=several(st.sampled_from(["A=1", "PATH=/x:", "PATH="])),
    user=st.builds(User, uid=st.integers(0, 65535), additional_gids=several(st.integers(0, 65535))),
    capabilities=st.builds(
        Capabilities,
        bounding=CAPABILITY_NAMES,
        effective=CAPABILITY_NAMES,
        ambient=CAPABILITY_NAMES,
    ),
    rlimits=several(st.builds(Rlimit, st.just("RLIMIT_AS"), st.just(1), st.integers(1, 9)), 1),
    no_new_privileges=st.booleans(),
    oom_score_adj=st.none() | st.integers(-1000, 1000),
)
GOOD_NAMESPACES = st.lists(
    st.builds(
        Namespace,
        type=st.sampled_from(["cgroup", "ipc", "network", "pid", "time", "mount"]),
        path=st.none() | st.just("/proc/7/ns/x"),
    ),
    unique_by=lambda namespace: namespace.type,
).map(
    lambda found: (
        Namespace("user"),
        Namespace("uts"),
        *found,
        *([] if any(n.type == "mount" for n in found) else [Namespace("mount")]),
    )
)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "process": GOOD_PROCESS | PROCESS,
    "mounts": several(GOOD_MOUNT, 6) | several(MOUNT, 6),
    "linux_namespaces": GOOD_NAMESPACES | GOOD_NAMESPACES | NAMESPACES,
    "linux_devices": several(
        st.builds(Device, st.just("/dev/x"), st.sampled_from("bcup"), SMALL, SMALL), 1
    ),
    "linux_sysctl": st.dictionaries(st.sampled_from(["net.a.b", "kernel.sem", "vm.x"]), WORDS),
}
HOSTS = st.builds(
    lambda layout, standing, missing, caps: msgspec.structs.replace(
        HOST,
        cgroups=layout,
        unprivileged=standing is not None,
        own_ids=standing if isinstance(standing, OwnIds) else None,
        namespaces=HOST.namespaces - missing,
        capabilities=caps,
    ),
    st.sampled_from([HYBRID, UNIFIED]),
    st.sampled_from([None, "root of a namespace of podman's", VISITOR]),
    st.sets(st.sampled_from(KINDS), max_size=1) | st.just(set()),
    st.sampled_from([HOST.capabilities, 0]),
)
REQUESTS = st.sampled_from([OVERLAY, BUNDLE])


def attempt(config: Config, host: HostFacts, request: StartRequest) -> Plan | EngineError:
    try:
        return plan(config, host, request)
    except (SpecError, Unsupported, InvalidArgument) as error:
        return error


def check(made: Plan, borrowed: int) -> None:
    """What keel's decoder and walk demand of every plan."""
    kinds = [type(step) for step in made.steps]
    assert kinds[0] is Supervise
    assert kinds[-1] is Execute
    assert kinds.count(CloneInto) == kinds.count(Execute) == kinds.count(Supervise) == 1
    clone = kinds.index(CloneInto)
    assert all(step.actor == "monitor" for step in made.steps[: clone + 1])
    taken = [n for n, kind in enumerate(kinds) if kind is TakeTree]
    if taken:  # before init is root, and nothing is taken from outside
        first = next(n for n, step in enumerate(made.steps) if step.actor == "init")
        assert taken == list(range(first, first + len(taken)))
        assert OpenTree not in kinds
        assert IdmapTree not in kinds
    filled: set[int] = set(range(borrowed))
    for step in made.steps:
        check_slots(step, filled)
    if PivotRoot in kinds:
        after = made.steps[kinds.index(PivotRoot) :]
        assert not any(isinstance(step, BindTree) for step in after)


def check_slots(step: Step, filled: set[int]) -> None:
    if isinstance(step, (OpenTree, TakeTree, MakeNode)):
        assert step.slot not in filled
        filled.add(step.slot)
    if isinstance(step, (BindTree, IdmapTree)):
        assert step.slot in filled


@given(CONFIG | likely_configs() | likely_configs(), HOSTS, REQUESTS)
@settings(max_examples=300, deadline=None)
def test_a_plan_or_one_located_error_and_always_the_same(
    config: Config, host: HostFacts, request: StartRequest
) -> None:
    made = attempt(config, host, request)
    again = attempt(config, host, request)
    event("refused" if isinstance(made, EngineError) else "planned")
    if isinstance(made, EngineError):
        assert str(again) == str(made)
        if isinstance(made, SpecError):
            assert made.path.startswith("$")
        return
    assert again == made
    check(made, request.borrowed)
    # words for people are not encoded
    assert decode_plan(made.encode()).encode() == made.encode()
    assert len(explain(made)) == len(made.steps)
    assert all(isinstance(warning, str) and warning for warning in made.warnings)
    msgspec.json.encode(made.to_builtins())


@given(PROCESS, likely_configs(), HOSTS)
@settings(max_examples=100, deadline=None)
def test_an_exec_too(process: Process, config: Config, host: HostFacts) -> None:
    try:
        made = plan_exec(process, config, host, EXEC)
    except SpecError as error:
        assert error.path.startswith("$")
        return
    except Unsupported as error:  # a label, on a host that has no such module
        assert error.message.startswith("$.")
        return
    assert plan_exec(process, config, host, EXEC) == made
    check(made, 1)
    assert decode_plan(made.encode()).steps == made.steps
