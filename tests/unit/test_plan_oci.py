"""What a configuration may say beside namespaces and mounts: hooks, agents, schedulers, labels."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from onggi.errors import FailedPrecondition, SpecError, Unsupported
from onggi.kernel.capabilities import BITS
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.runtime import steps as s
from onggi.runtime.failure import explain_failure
from onggi.runtime.plan import plan, plan_exec
from onggi.runtime.plan_schedule import parse_list
from onggi.specs.runtime import (
    Config,
    CpuAffinity,
    Hook,
    Hooks,
    IntelRdt,
    IoPriority,
    MemoryPolicy,
    Mount,
    NetDevice,
    Personality,
    Scheduler,
    Seccomp,
    SeccompRule,
    parse_config,
    section_of,
)
from unit.plan_cases import (
    EXEC,
    HOST,
    HYBRID,
    LINKS,
    OVERLAY,
    default_config,
    namespaces,
    process,
    with_process,
)
from unit.test_plan_rules import HOSTS_USERS, of

replace = msgspec.structs.replace
REQUEST = replace(OVERLAY, container_id="c1", bundle="/b")
NOTIFYING = Seccomp(
    "SCMP_ACT_ALLOW",
    listener_path="/run/agent",
    listener_metadata="m",
    syscalls=(SeccompRule(("mkdir",), "SCMP_ACT_NOTIFY"),),
)


def kinds_of(made: s.Plan) -> list[str]:
    return [type(step).__name__ for step in made.steps]


# -- hooks -------------------------------------------------------------------------------------


def hooked(**hooks: tuple[Hook, ...]) -> Config:
    return replace(default_config(), hooks=Hooks(**hooks), annotations={"a": "b"})


def test_hooks_stand_between_the_mounts_and_the_pivot() -> None:
    made = plan(
        hooked(
            start_container=(Hook("/s"),),
            create_container=(Hook("/c"),),
            create_runtime=(Hook("/r"),),
            prestart=(Hook("/p1"), Hook("/p2")),
            poststart=(Hook("/never"),),
            poststop=(Hook("/never"),),
        ),
        HOST,
        REQUEST,
    )
    names = kinds_of(made)
    pivot = names.index("PivotRoot")
    assert names[pivot - 4 : pivot] == ["RunHostHook"] * 3 + ["RunHook"]
    assert [step.path for step in of(s.RunHostHook, made)] == ["/p1", "/p2", "/r"]
    assert [step.path for step in of(s.RunHook, made)] == ["/c", "/s"]
    assert max(i for i, name in enumerate(names) if name.startswith("Bind")) < pivot - 4


def test_a_program_of_the_image_runs_when_all_rights_are_gone() -> None:
    for privileges in (False, True):
        config = hooked(start_container=(Hook("/s"),))
        made = plan(with_process(config, no_new_privileges=privileges), HOST, REQUEST)
        names = kinds_of(made)
        assert names[-2:] == ["RunHook", "Execute"]
        assert {"BecomeUser", "LoadSeccomp"} <= set(names[:-2])


def test_the_state_is_whole_but_for_the_pid() -> None:
    made = plan(hooked(create_runtime=(Hook("/r"),), start_container=(Hook("/s"),)), HOST, REQUEST)
    for kind, status in ((s.RunHostHook, "creating"), (s.RunHook, "created")):
        (step,) = of(kind, made)
        assert json.loads("77".join(step.state)) == {
            "ociVersion": "1.3.0",
            "id": "c1",
            "status": status,
            "pid": 77,
            "bundle": "/b",
            "annotations": {"a": "b"},
        }


def test_arguments_environment_and_time_of_a_hook() -> None:
    made = plan(
        hooked(prestart=(Hook("/p"), Hook("/q", ("name", "x"), ("A=1",), 5))), HOST, REQUEST
    )
    first, second = of(s.RunHostHook, made)
    assert (first.arguments, first.environment, first.timeout_ms) == (("/p",), (), 0)
    assert (second.arguments, second.environment, second.timeout_ms) == (
        ("name", "x"),
        ("A=1",),
        5000,
    )
    assert first.directory == "/b"
    assert second.describe() == "run prestart hook /q (at most 5 s)"


def test_hooks_run_in_a_joined_mount_namespace_too() -> None:
    kinds = namespaces("uts", mount="/proc/7/ns/mnt")
    config = replace(
        default_config(**{**HOSTS_USERS, "namespaces": kinds}),
        hooks=Hooks(create_runtime=(Hook("/r"),), create_container=(Hook("/c"),)),
    )
    made = plan(config, HOST, REQUEST)
    assert [step.path for step in of(s.RunHostHook, made)] == ["/r"]
    assert [step.path for step in of(s.RunHook, made)] == ["/c"]


class Report(msgspec.Struct, frozen=True):
    step_index: int
    opcode: int
    errno: int
    call: str
    detail: str
    facts: dict[str, str] = {}


@pytest.mark.parametrize(
    ("errno", "words"),
    [(125, "the prestart hook /p exited with 1: no"), (2, "its path must name a program on the")],
)
def test_what_is_said_of_a_hook_that_failed(errno: int, words: str) -> None:
    made = plan(hooked(prestart=(Hook("/p"),)), HOST, REQUEST)
    (step,) = of(s.RunHostHook, made)
    detail = "prestart hook /p exited with 1: no\x1b[m" if errno == 125 else "/p"
    report = Report(made.steps.index(step), step.opcode, errno, "hook", detail)
    error = explain_failure(report, made)
    assert words in str(error)
    assert "\x1b" not in str(error)
    assert isinstance(error, FailedPrecondition) == (errno == 125)


# -- the agent of a filter -----------------------------------------------------------------------


def test_an_agent_is_connected_to_on_the_host_and_told_by_the_load() -> None:
    made = plan(default_config(seccomp=NOTIFYING), HOST, REQUEST)
    (connect,), (load,) = of(s.ConnectAgent, made), of(s.LoadSeccomp, made)
    assert (connect.slot, connect.state_slot, connect.path) == (
        load.agent,
        load.state,
        "/run/agent",
    )
    names = kinds_of(made)
    assert names.index("CloneInto") < names.index("ConnectAgent") < names.index("LoadSeccomp")
    document = json.loads("5".join(connect.state))
    assert (document["pid"], document["state"]["pid"]) == (5, 5)
    assert (document["fds"], document["metadata"]) == (["seccompFd"], "m")
    slots = {step.slot for step in of(s.OpenTree, made)}
    assert not slots & {connect.slot, connect.state_slot}


def test_a_filter_without_an_agent_connects_to_nobody() -> None:
    made = plan(default_config(), HOST, REQUEST)
    assert not of(s.ConnectAgent, made)
    assert of(s.LoadSeccomp, made)[0].agent == s.NO_SLOT


def test_an_exec_has_an_agent_of_its_own_that_knows_the_container() -> None:
    request = replace(EXEC, container_id="c1", bundle="/b", container_pid=99, cgroup_slot=1)
    made = plan_exec(process(), default_config(seccomp=NOTIFYING), HOST, request)
    (connect,) = of(s.ConnectAgent, made)
    assert {connect.slot, connect.state_slot} == {2, 3}
    document = json.loads("5".join(connect.state))
    assert (document["pid"], document["state"]["pid"]) == (5, 99)
    assert document["state"]["status"] == "running"


# -- schedulers, personalities, policies -----------------------------------------------------------


def test_how_a_process_is_run() -> None:
    config = with_process(
        default_config(
            personality=Personality("LINUX32"),
            memory_policy=MemoryPolicy("MPOL_BIND", "0-1", ("MPOL_F_STATIC_NODES",)),
        ),
        scheduler=Scheduler("SCHED_RR", nice=-5, priority=9, flags=("SCHED_FLAG_RESET_ON_FORK",)),
        io_priority=IoPriority("IOPRIO_CLASS_BE", 3),
        exec_cpu_affinity=CpuAffinity("0", "1"),
    )
    made = plan(config, HOST, REQUEST)
    assert of(s.SetScheduler, made) == [s.SetScheduler(policy=2, flags=1, nice=-5, priority=9)]
    assert of(s.SetIoPriority, made) == [s.SetIoPriority(priority=2 << 13 | 3)]
    assert of(s.SetMemoryPolicy, made) == [s.SetMemoryPolicy(mode=2 | 1 << 15, nodes=(0, 1))]
    assert of(s.SetPersonality, made) == [s.SetPersonality(persona=8)]
    assert not of(s.SetCpuAffinity, made)  # of a process that is added only


def test_the_cpus_of_a_process_that_is_added() -> None:
    added = process(exec_cpu_affinity=CpuAffinity("0-1", "3"))
    made = plan_exec(added, default_config(), HOST, EXEC)
    first, last = of(s.SetCpuAffinity, made)
    assert (first.cpus, last.cpus) == ((0, 1), (3,))
    clone = kinds_of(made).index("CloneInto")
    assert made.steps.index(first) < clone < made.steps.index(last)
    with pytest.raises(SpecError) as caught:
        plan_exec(process(exec_cpu_affinity=CpuAffinity("1-0")), default_config(), HOST, EXEC)
    assert caught.value.path == "$.execCPUAffinity.initial"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", ()), ("0", (0,)), ("0-2,7", (0, 1, 2, 7)), (" 3 , 1 ", (1, 3)), ("8191", (8191,))],
)
def test_lists_of_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_list(text, "$", "") == numbers


@pytest.mark.parametrize("text", [",", "1,", "-1", "2-1", "a", "1-", "8192", "0-99999", "٣"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(SpecError):
        parse_list(text, "$", "")


# -- labels --------------------------------------------------------------------------------------


def test_labels_are_written_first_or_the_start_fails() -> None:
    config = with_process(default_config(), apparmor_profile="p", selinux_label="l:s0")
    made = plan(config, replace(HOST, lsms=("apparmor", "selinux")), REQUEST)
    labels = of(s.SetLabel, made)
    assert [(step.file, step.fallback, step.label) for step in labels] == [
        ("apparmor/exec", "exec", "exec p"),
        ("exec", "", "l:s0"),
    ]
    assert not any(step.optional for step in labels)
    names = kinds_of(made)
    assert names.index("PivotRoot") < names.index("SetLabel") < names.index("BecomeUser")
    for lsms in ((), ("apparmor",), ("selinux",)):
        with pytest.raises(Unsupported, match="cannot be applied"):
            plan(config, replace(HOST, lsms=lsms), REQUEST)


def test_unconfined_needs_no_module() -> None:
    config = with_process(default_config(), apparmor_profile="unconfined", selinux_label="")
    assert not of(s.SetLabel, plan(config, HOST, REQUEST))
    made = plan(config, replace(HOST, lsms=("apparmor",)), REQUEST)
    assert of(s.SetLabel, made)[0].label == "exec unconfined"


# -- the rest ------------------------------------------------------------------------------------


def test_resctrl_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"\$\.linux\.intelRdt"):
        plan(default_config(intel_rdt=IntelRdt()), HOST, REQUEST)


def test_a_root_that_cannot_be_pivoted_to_is_moved() -> None:
    made = plan(default_config(), HOST, replace(REQUEST, no_pivot=True))
    assert of(s.PivotRoot, made) == [s.PivotRoot(how=1)]
    assert of(s.PivotRoot, plan(default_config(), HOST, REQUEST)) == [s.PivotRoot()]


def test_a_host_that_may_not_make_nodes_binds_them() -> None:
    host = replace(HOST, capabilities=HOST.capabilities & ~(1 << BITS["CAP_MKNOD"]))
    assert not of(s.MakeDevice, plan(default_config(**HOSTS_USERS), host, REQUEST))


def test_links_into_a_joined_network_only_for_devices_that_are_moved() -> None:
    kinds = namespaces("mount", "pid", "uts", network="/run/netns/x")
    linux = {**HOSTS_USERS, "namespaces": kinds}
    request = replace(REQUEST, links=LINKS)
    without = plan(default_config(**linux), HOST, request)
    assert not of(s.SendNetlink, without)
    made = plan(default_config(**linux, net_devices={"eth7": NetDevice()}), HOST, request)
    assert of(s.SendNetlink, made)
    assert of(s.ConfigureNetwork, made)
    assert not of(s.RaiseLoopback, made)


@pytest.mark.parametrize("own", [True, False])
def test_a_cgroup2_by_name(own: bool) -> None:
    linux = {} if own else {"namespaces": namespaces("mount", "uts", "user")}
    config = replace(default_config(**linux), mounts=(Mount("/c", "cgroup2", "cgroup2"),))
    made = plan(config, replace(HOST, cgroups=HYBRID), REQUEST)
    targets = {step.target for step in of(s.MountFilesystem, made)}
    assert ("/c" in targets) is own
    assert own or any(step.path == "/sys/fs/cgroup/unified" for step in of(s.OpenTree, made))
    only_v1 = CgroupLayout((Hierarchy(1, "/sys/fs/cgroup/memory", ("memory",)),), kernel=(6, 18))
    with pytest.raises(Unsupported, match="cgroup2 is not mounted"):
        plan(config, replace(HOST, cgroups=only_v1), REQUEST)


# -- reading -------------------------------------------------------------------------------------


def test_null_is_as_absent() -> None:
    """As Go's encoder writes what is not there, and its decoder takes it for any value."""
    text = (
        b'{"ociVersion": "1.0.0", "mounts": null, "hooks": {"prestart": null}, "process": '
        b'{"cwd": "/", "env": null, "terminal": null, "user": {"additionalGids": null}}, '
        b'"linux": {"namespaces": [{"type": "mount", "path": null}], "sysctl": null}}'
    )
    config = parse_config(text)
    assert config.mounts == ()
    assert config.hooks == Hooks()
    assert config.process is not None
    assert (config.process.env, config.process.terminal) == ((), False)
    assert config.linux is not None
    assert config.linux.sysctl == {}
    with pytest.raises(SpecError) as caught:
        parse_config(b'{"ociVersion": "1.0.0", "mounts": null, "process": {"cwd": 1}}')
    assert caught.value.path == "$.process.cwd"


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("$", "config.md"),
        ("$.process.user.uid", "config.md#process"),
        ("$.mounts[3].options[0]", "config.md#mounts"),
        ("$.hooks.prestart[0].path", "config.md#posix-platform-hooks"),
        ("$.linux.resources.memory.limit", "config-linux.md#control-groups"),
        ("$.linux.timeOffsets", "config-linux.md"),
        ("$.nothing.like.it", "config.md"),
    ],
)
def test_the_section_about_a_path(path: str, section: str) -> None:
    assert section_of(path) == section


@pytest.mark.parametrize("number", [True, "1", 1.5, [], {}])
def test_wrong_types_name_path_and_section(number: Any) -> None:
    text = json.dumps({"ociVersion": "1.0.0", "linux": {"resources": {"pids": {"limit": number}}}})
    with pytest.raises(SpecError) as caught:
        parse_config(text.encode())
    assert caught.value.path == "$.linux.resources.pids.limit"
    assert caught.value.section == "config-linux.md#control-groups"
