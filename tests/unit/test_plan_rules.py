"""What a plan must hold whatever its words: order, refusals, degradations and their warnings."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import pytest

from onggi.errors import SpecError, Unsupported
from onggi.kernel.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
)
from onggi.runtime import steps as s
from onggi.runtime.explain import describe_step, explain
from onggi.runtime.namespaces import Namespaces
from onggi.runtime.plan import plan, plan_exec
from onggi.runtime.plan_process import candidates
from onggi.runtime.plan_sysctls import plan_sysctls
from onggi.runtime.request import Caller, Overlay
from onggi.specs.runtime import (
    Capabilities,
    Config,
    ConsoleSize,
    Device,
    IdMapping,
    Mount,
    Rlimit,
    Root,
    TimeOffset,
    User,
)
from unit.plan_cases import (
    BUNDLE,
    EXEC,
    HOST,
    HYBRID,
    MAPPING,
    MOUNTS,
    OVERLAY,
    capabilities,
    default_config,
    namespaces,
    process,
    with_process,
)

replace = msgspec.structs.replace
HOSTS_USERS = {
    "namespaces": namespaces("mount", "network", "ipc", "pid", "uts", "cgroup"),
    "uid_mappings": (),
    "gid_mappings": (),
}


StepType = TypeVar("StepType", bound=s.Step)


def of(kind: type[StepType], made: s.Plan) -> list[StepType]:
    return [step for step in made.steps if isinstance(step, kind)]


def with_mounts(*mounts: Mount, **linux: Any) -> Config:
    return replace(default_config(**linux), mounts=mounts)


def refused(config: Config, request: Any = OVERLAY, host: Any = HOST) -> SpecError:
    with pytest.raises(SpecError) as caught:
        plan(config, host, request)
    return caught.value


# -- order ------------------------------------------------------------------------------------


def index(made: s.Plan, kind: type[s.Step]) -> int:
    return next(i for i, step in enumerate(made.steps) if isinstance(step, kind))


def test_what_must_come_before_what() -> None:
    config = with_process(
        default_config(sysctl={"net.ipv4.ip_forward": "1"}),
        terminal=True,
        rlimits=(Rlimit("RLIMIT_NOFILE", 10, 10),),
    )
    config = replace(config, root=Root("rootfs", readonly=True))
    made = plan(config, HOST, OVERLAY)
    order = [
        s.Supervise,
        s.OpenTree,
        s.JoinCgroups,
        s.CloneInto,
        s.WriteIdMaps,
        s.IdmapTree,
        s.SetRootPropagation,
        s.JoinKeyring,
        s.UnshareCgroup,
        s.MountOverlay,
        s.AttachRoot,
        s.MountFilesystem,
        s.OpenTerminal,
        s.PivotRoot,
        s.WriteSysctl,
        s.SetPathReadonly,
        s.MaskPath,
        s.ChangeDirectory,
        s.SetRootReadonly,
        s.SetRlimit,
        s.SetUmask,
        s.LoadSeccomp,
        s.BecomeUser,
        s.Execute,
    ]
    found = [index(made, kind) for kind in order]
    assert found == sorted(found)
    assert isinstance(made.steps[-1], s.Execute)


def test_with_no_new_privileges_the_filter_is_the_last_thing_before_the_application() -> None:
    made = plan(with_process(default_config(), no_new_privileges=True), HOST, OVERLAY)
    kinds = [type(step) for step in made.steps[-4:]]
    assert kinds == [s.SetNoNewPrivileges, s.BecomeUser, s.LoadSeccomp, s.Execute]


def test_slots_start_behind_those_that_are_borrowed_and_none_is_used_twice() -> None:
    made = plan(default_config(), HOST, replace(OVERLAY, borrowed=3, cgroup_slot=2))
    slots = [step.slot for step in of(s.OpenTree, made)] + [of(s.MountOverlay, made)[0].slot]
    assert sorted(slots) == list(range(3, 3 + len(slots)))
    assert of(s.CloneInto, made)[0].cgroup_slot == 2


def test_more_mounts_than_slots_are_refused() -> None:
    mounts = tuple(Mount(f"/m{i}", "/srv", "bind") for i in range(260))
    assert refused(with_mounts(*mounts)).path.startswith("$.mounts[")


# -- namespaces -------------------------------------------------------------------------------


def test_cgroup_and_time_namespaces_are_not_made_by_the_clone() -> None:
    config = default_config(
        namespaces=namespaces("mount", "user", "uts", "cgroup", "time"),
        time_offsets={"boottime": TimeOffset(secs=-5, nanosecs=7)},
    )
    made = plan(config, HOST, OVERLAY)
    assert s.namespace_names(of(s.CloneInto, made)[0].flags) == "mount uts user"
    assert of(s.SetTimeOffsets, made)[0].offsets == "boottime -5 7\n"
    assert len(of(s.UnshareCgroup, made)) == 1


def test_a_time_namespace_without_offsets_still_writes_a_line_the_kernel_takes() -> None:
    made = plan(
        default_config(namespaces=namespaces("mount", "user", "uts", "time")), HOST, OVERLAY
    )
    assert of(s.SetTimeOffsets, made)[0].offsets == "monotonic 0 0\n"


def test_joined_namespaces_are_named_as_under_proc() -> None:
    config = default_config(namespaces=namespaces("mount", "user", "uts", network="/run/ns/a"))
    made = plan(config, HOST, OVERLAY)
    assert of(s.CloneInto, made)[0].joins == ("net:/run/ns/a",)
    assert not of(s.RaiseLoopback, made)


def test_a_namespace_that_the_kernel_lacks_is_refused_by_name() -> None:
    for missing in ("user", "cgroup"):
        with pytest.raises(Unsupported, match=missing):
            plan(default_config(), replace(HOST, namespaces=HOST.namespaces - {missing}), OVERLAY)


def test_a_joined_mount_namespace_keeps_its_tree() -> None:
    config = default_config(namespaces=namespaces("user", "uts", mount="/proc/7/ns/mnt"))
    made = plan(with_process(config, terminal=True), HOST, OVERLAY)
    assert not of(s.PivotRoot, made) + of(s.MaskPath, made) + of(s.OpenTree, made)
    assert of(s.OpenTerminal, made)[0].existing == 1
    assert "$.mounts: are those of the mount namespace that is joined" in made.warnings


def test_exec_enters_what_the_container_has_and_nothing_of_the_hosts() -> None:
    made = plan_exec(process(), default_config(), HOST, replace(EXEC, pidfd_slot=4, keyring="k"))
    clone = of(s.CloneInto, made)[0]
    flags = sum(s.CLONE_FLAGS[n.type] for n in default_config().linux.namespaces)  # type: ignore[union-attr]
    assert (clone.flags, clone.pidfd_joins) == (0, (4, flags))
    assert of(s.JoinKeyring, made)[0].name == "k"
    assert not of(s.MountFilesystem, made)
    assert of(s.ChangeDirectory, made)[0].create == 0


def test_exec_names_errors_from_the_process() -> None:
    with pytest.raises(SpecError) as caught:
        plan_exec(process(args=()), default_config(), HOST, EXEC)
    assert caught.value.path == "$.args"


# -- root and mounts --------------------------------------------------------------------------


def test_an_overlay_is_idmapped_whole_or_fails() -> None:
    made = plan(default_config(), HOST, OVERLAY)
    overlay = of(s.MountOverlay, made)[0]
    mapped = {step.slot for step in of(s.IdmapTree, made) if not step.optional}
    assert mapped == {*overlay.lowers, overlay.upper}
    assert overlay.work == overlay.upper
    assert overlay.options == ("userxattr",)


def test_an_overlay_without_upper_is_a_view_and_volatile_is_asked_for() -> None:
    view = plan(default_config(), HOST, replace(OVERLAY, overlay=Overlay(("/a",))))
    assert of(s.MountOverlay, view)[0].upper == s.NO_SLOT
    volatile = plan(default_config(), HOST, replace(OVERLAY, overlay=Overlay(("/a",), "/u", True)))
    assert of(s.MountOverlay, volatile)[0].options == ("userxattr", "volatile")


def test_without_a_user_namespace_nothing_is_idmapped() -> None:
    assert not of(s.IdmapTree, plan(default_config(**HOSTS_USERS), HOST, OVERLAY))


def test_a_bundles_root_is_relative_to_it() -> None:
    made = plan(default_config(), HOST, BUNDLE)
    assert of(s.OpenTree, made)[0].path == "/bundle/rootfs"
    assert of(s.OpenTree, made)[0].recursive == 1
    assert refused(default_config(), replace(BUNDLE, bundle="")).path == "$.root.path"


def test_the_roots_propagation_is_set_after_the_pivot() -> None:
    made = plan(default_config(rootfs_propagation="rshared"), HOST, OVERLAY)
    first, last = of(s.SetRootPropagation, made)
    assert (first.flags, last.flags) == (MS_SLAVE | MS_REC, MS_SHARED | MS_REC)
    assert made.steps.index(last) == index(made, s.PivotRoot) + 1
    assert of(s.AttachRoot, made)[0].propagation == MS_PRIVATE | MS_REC


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (0, 0, 0, 0, MS_PRIVATE | MS_REC)),
        (("ro",), (MOUNT_ATTR_RDONLY, 0, 0, 0, MS_PRIVATE | MS_REC)),
        (("rbind", "rro"), (0, 0, MOUNT_ATTR_RDONLY, 0, MS_PRIVATE | MS_REC)),
        (("bind", "slave"), (0, 0, 0, 0, MS_SLAVE)),
        (
            ("rbind", "rw", "rro"),
            (0, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RDONLY, 0, MS_PRIVATE | MS_REC),
        ),
        (
            ("rbind", "ro", "rnosuid", "rexec"),
            (MOUNT_ATTR_RDONLY, 0, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOEXEC, MS_PRIVATE | MS_REC),
        ),
    ],
)
def test_options_of_a_bind_mount(options: tuple[str, ...], expected: tuple[int, ...]) -> None:
    made = plan(with_mounts(Mount("/d", "/srv", "bind", options)), HOST, OVERLAY)
    bind = next(step for step in of(s.BindTree, made) if step.target == "/d")
    own = bind.attributes_set, bind.attributes_clear
    assert (*own, bind.below_set, bind.below_clear, bind.propagation) == expected


def test_a_bind_mount_is_idmapped_if_it_can_be() -> None:
    config = with_mounts(Mount("/d", "/srv", "bind", ("rbind",)))
    step = of(s.IdmapTree, plan(config, HOST, OVERLAY))[-1]
    assert (step.optional, step.recursive) == (True, 1)
    plain = plan(config, HOST, replace(OVERLAY, idmap_sources=False))
    assert all(not step.optional for step in of(s.IdmapTree, plain))


def test_an_idmap_that_is_asked_for_is_required() -> None:
    for mount in (
        Mount("/d", "/srv", "bind", ("bind", "idmap")),
        Mount("/d", "/srv", "bind", ("bind",), MAPPING, MAPPING),
    ):
        step = of(s.IdmapTree, plan(with_mounts(mount), HOST, OVERLAY))[-1]
        assert (step.optional, step.recursive) == (False, 0)
    recursive = Mount("/d", "/srv", "bind", ("rbind", "ridmap"))
    assert of(s.IdmapTree, plan(with_mounts(recursive), HOST, OVERLAY))[-1].recursive == 1
    other = (IdMapping(container_id=0, host_id=5, size=1),)
    mount = Mount("/d", "/srv", "bind", ("bind",), other, other)
    for config in (with_mounts(mount), with_mounts(mount, **HOSTS_USERS)):
        step = of(s.IdmapTree, plan(config, HOST, OVERLAY))[-1]
        assert (step.uid_map, step.gid_map) == ("0 5 1\n", "0 5 1\n")
    overlapping = (*other, *other)
    mount = Mount("/d", "/srv", "bind", ("bind",), overlapping, other)
    assert refused(with_mounts(mount)).path == "$.mounts[0].uidMappings"
    mount = Mount("/d", "/srv", "bind", ("idmap",))
    assert refused(with_mounts(mount, **HOSTS_USERS)).path == "$.mounts[0]"


@pytest.mark.parametrize(
    ("fstype", "kind", "source"),
    [("sysfs", "network", "/sys"), ("proc", "pid", "/proc"), ("mqueue", "ipc", "/dev/mqueue")],
)
def test_a_file_system_of_anothers_namespace_is_bound(fstype: str, kind: str, source: str) -> None:
    others = [k for k in ("mount", "user", "uts", "network", "pid", "ipc") if k != kind]
    for kinds in (namespaces(*others), namespaces(*others, **{kind: "/run/ns/x"})):
        made = plan(with_mounts(Mount("/x", fstype, fstype), namespaces=kinds), HOST, OVERLAY)
        bind = next(step for step in of(s.BindTree, made) if step.target == "/x")
        tree = next(step for step in of(s.OpenTree, made) if step.slot == bind.slot)
        assert (tree.path, tree.recursive) == (source, 1)
        assert bool(bind.below_set & MOUNT_ATTR_RDONLY) == (fstype == "sysfs")
        assert bool(made.warnings) == (fstype == "sysfs")
    # the host's root may mount it
    config = with_mounts(
        Mount("/x", fstype, fstype), **{**HOSTS_USERS, "namespaces": namespaces("mount", "uts")}
    )
    assert of(s.MountFilesystem, plan(config, HOST, OVERLAY))[0].fstype == fstype


def test_a_tmpfs_with_all_its_options() -> None:
    options = ("nosuid", "size=64m,mode=1777", "tmpcopyup", "rprivate")
    made = plan(with_mounts(Mount("/t", "tmpfs", "tmpfs", options)), HOST, OVERLAY)
    step = of(s.MountFilesystem, made)[0]
    assert step.options == ("size=64m", "mode=1777")
    assert (step.attributes, step.copy_up) == (MOUNT_ATTR_NOSUID, 1)
    assert step.propagation == MS_PRIVATE | MS_REC


def test_a_tmpfs_without_a_mode_takes_that_of_what_it_covers() -> None:
    for fstype, options, expected in (
        ("tmpfs", (), 2),
        ("tmpfs", ("mode=700",), 0),
        ("tmpfs", ("tmpcopyup",), 1),
        ("proc", (), 0),
    ):
        mount = Mount("/t", fstype, fstype, options)
        assert of(s.MountFilesystem, plan(with_mounts(mount), HOST, OVERLAY))[0].copy_up == expected


def test_a_remount_changes_what_is_there() -> None:
    mount = Mount("/d", None, None, ("remount", "bind", "ro", "rnodev", "slave", "size=1"))
    made = plan(with_mounts(mount), HOST, OVERLAY)
    assert of(s.ChangeMount, made) == [
        s.ChangeMount(
            target="/d",
            attributes_set=MOUNT_ATTR_RDONLY,
            below_set=MOUNT_ATTR_NODEV,
            propagation=MS_SLAVE,
        )
    ]
    assert any("size=1" in warning for warning in made.warnings)


def test_a_file_system_of_a_disk_is_read_only_itself() -> None:
    mount = Mount("/d", "/dev/vdb", "ext4", ("ro", "data=journal"))
    step = of(s.MountFilesystem, plan(with_mounts(mount), HOST, OVERLAY))[0]
    assert (step.options, step.attributes) == (("data=journal", "ro"), MOUNT_ATTR_RDONLY)


def test_a_bind_follows_the_roots_propagation() -> None:
    for name, flags in (
        ("rslave", MS_SLAVE | MS_REC),
        ("shared", MS_SHARED | MS_REC),
        ("private", MS_PRIVATE | MS_REC),
        ("unbindable", MS_PRIVATE | MS_REC),
    ):
        config = with_mounts(Mount("/d", "/srv", "bind", ("bind",)), rootfs_propagation=name)
        bind = next(b for b in of(s.BindTree, plan(config, HOST, OVERLAY)) if b.target == "/d")
        assert bind.propagation == flags


def test_a_label_for_file_systems_where_there_is_selinux() -> None:
    config = with_mounts(Mount("/t", "tmpfs", "tmpfs"), mount_label="a:b:c:s0,c1")
    step = of(s.MountFilesystem, plan(config, replace(HOST, lsms=("selinux",)), OVERLAY))[0]
    assert step.options == ("context=a:b:c:s0,c1",)
    without = plan(config, HOST, OVERLAY)
    assert of(s.MountFilesystem, without)[0].options == ()
    assert any("$.linux.mountLabel" in warning for warning in without.warnings)


def test_a_terminal_group_that_is_not_mapped_is_left_out() -> None:
    one = (IdMapping(container_id=0, host_id=1000, size=1),)
    made = plan(default_config(uid_mappings=one, gid_mappings=one), HOST, OVERLAY)
    devpts = next(step for step in of(s.MountFilesystem, made) if step.fstype == "devpts")
    assert "gid=5" not in devpts.options
    assert any("group 5 is not mapped" in warning for warning in made.warnings)


def test_cgroups_without_a_namespace_of_their_own() -> None:
    kinds = namespaces("mount", "network", "ipc", "pid", "uts", "user")
    config = with_mounts(MOUNTS[4], namespaces=kinds)
    procs = ("/sys/fs/cgroup/memory/onggi/c1/cgroup.procs",)
    request = replace(OVERLAY, cgroup_files=procs)
    made = plan(config, replace(HOST, cgroups=HYBRID), request)
    trees = {step.slot: step.path for step in of(s.OpenTree, made)}
    bound = {step.target: trees[step.slot] for step in of(s.BindTree, made)}
    assert bound["/sys/fs/cgroup/memory"] == "/sys/fs/cgroup/memory/onggi/c1"
    assert bound["/sys/fs/cgroup/unified"] == "/sys/fs/cgroup/unified"
    assert "/sys/fs/cgroup/cpu,cpuacct" not in bound


def test_a_hierarchy_that_is_not_joined_is_not_shown() -> None:
    procs = ("/sys/fs/cgroup/memory/onggi/c1/cgroup.procs",)
    request = replace(OVERLAY, cgroup_files=procs)
    made = plan(with_mounts(MOUNTS[4]), replace(HOST, cgroups=HYBRID), request)
    mounted = {step.target for step in of(s.MountFilesystem, made)}
    assert "/sys/fs/cgroup/memory" in mounted
    assert "/sys/fs/cgroup/cpu,cpuacct" not in mounted


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        (Mount("/d", None, "bind"), "$.mounts[0].source"),
        (Mount("/d", "relative", "bind"), "$.mounts[0].source"),
        (Mount("/d", "x", None), "$.mounts[0].type"),
        (Mount("/d", "x", "none"), "$.mounts[0].type"),
        (Mount("/", "/srv", "bind"), "$.mounts[0].destination"),
        (Mount("/a/..//", "/srv", "bind"), "$.mounts[0].destination"),
        (Mount("", "/srv", "bind"), "$.mounts[0].destination"),
        (Mount("/d", "tmpfs", "tmpfs", ("idmap",)), "$.mounts[0]"),
        (Mount("/d", "/srv", "bind", (), MAPPING, ()), "$.mounts[0]"),
    ],
)
def test_mounts_that_cannot_be(mount: Mount, path: str) -> None:
    assert refused(with_mounts(mount)).path == path


# -- devices and terminal ---------------------------------------------------------------------


def test_nodes_are_bound_in_a_user_namespace_and_made_without() -> None:
    bound = plan(default_config(), HOST, OVERLAY)
    assert not of(s.MakeDevice, bound)
    made = plan(default_config(**HOSTS_USERS), HOST, OVERLAY)
    assert [step.path for step in of(s.MakeDevice, made)] == [
        "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
    ]  # fmt: skip
    asked = plan(default_config(**HOSTS_USERS), HOST, replace(OVERLAY, bind_devices=True))
    assert not of(s.MakeDevice, asked)


def test_a_device_that_is_asked_for() -> None:
    device = Device("/dev/xvda", "b", 8, 0, file_mode=0o60660, uid=0, gid=6)
    made = plan(default_config(devices=(device,), **HOSTS_USERS), HOST, OVERLAY)
    step = of(s.MakeDevice, made)[0]
    assert (step.kind, step.major, step.mode, step.gid) == (ord("b"), 8, 0o660, 6)
    request = replace(OVERLAY, device_sources=(("/dev/xvda", "/dev/sda"),))
    bound = plan(default_config(devices=(device,)), HOST, request)
    assert "/dev/sda" in [step.path for step in of(s.OpenTree, bound)]
    assert any("/dev/xvda is bound from the host" in warning for warning in bound.warnings)


def test_a_callers_device_is_made_outside_with_its_owner() -> None:
    device = Device("/dev/foo", "b", 1, 5, file_mode=0o640, uid=10, gid=11)
    config = default_config(devices=(device,))
    caller = replace(OVERLAY, supervision=Caller())
    made = plan(config, HOST, caller)
    (step,) = of(s.MakeNode, made)
    assert (step.kind, step.major, step.minor, step.mode) == (ord("b"), 1, 5, 0o640)
    assert (step.uid, step.gid) == (100010, 100011)
    assert ("/dev/foo", step.slot) in [(b.target, b.slot) for b in of(s.BindTree, made)]
    assert not of(s.MakeNode, plan(config, HOST, OVERLAY))  # the engine's names the host's node
    for host in (replace(HOST, unprivileged=True), replace(HOST, capabilities=0)):
        assert not of(s.MakeNode, plan(config, host, caller))
    nobodys = replace(device, uid=65536)
    assert not of(s.MakeNode, plan(default_config(devices=(nobodys,)), HOST, caller))


def test_a_source_that_is_held_is_taken_by_its_descriptor() -> None:
    config = with_mounts(
        Mount("/x", "/volume/part", "bind", ("rbind",)), Mount("/y", "/other", "bind", ("rbind",))
    )
    request = replace(OVERLAY, mount_sources=(("/x", "/proc/7/fd/9"),))
    trees = {step.path: step for step in of(s.OpenTree, plan(config, HOST, request))}
    assert {"/proc/7/fd/9", "/other"} <= set(trees)
    assert "/volume/part" not in trees
    assert "open tree /volume/part recursively" in trees["/proc/7/fd/9"].describe()


def test_a_fifo_is_made_anywhere() -> None:
    made = plan(default_config(devices=(Device("/dev/pipe", "p"),)), HOST, OVERLAY)
    assert of(s.MakeDevice, made)[0].kind == ord("p")


def test_a_dev_that_is_bound_is_left_alone() -> None:
    config = with_mounts(
        Mount("/dev/", "/dev", "bind", ("rbind",)), devices=(Device("/dev/a", "c"),)
    )
    made = plan(with_process(config, terminal=True), HOST, OVERLAY)
    assert not of(s.MakeSymlink, made)
    assert len(of(s.OpenTerminal, made)) == 1
    assert "$.linux.devices: are those of the /dev that is bound" in made.warnings


def test_a_read_only_dev_is_read_only_when_its_nodes_are_made() -> None:
    made = plan(with_mounts(Mount("/dev", "tmpfs", "tmpfs", ("ro",))), HOST, OVERLAY)
    assert of(s.MountFilesystem, made)[0].attributes == 0
    change = of(s.ChangeMount, made)[0]
    assert (change.target, change.attributes_set) == ("/dev", MOUNT_ATTR_RDONLY)
    steps = list(made.steps)
    last_node = max(i for i, step in enumerate(steps) if isinstance(step, s.MakeSymlink))
    assert last_node < steps.index(change)


def test_a_terminal_needs_a_devpts_and_has_a_size() -> None:
    config = with_process(default_config(), terminal=True, console_size=ConsoleSize(10, 20))
    terminal = of(s.OpenTerminal, plan(config, HOST, OVERLAY))[0]
    assert (terminal.rows, terminal.columns) == (10, 20)
    supervision = replace(OVERLAY.supervision, rows=1, columns=2)
    terminal = of(s.OpenTerminal, plan(config, HOST, replace(OVERLAY, supervision=supervision)))[0]
    assert (terminal.rows, terminal.columns) == (1, 2)
    bare = replace(config, mounts=MOUNTS[:2])
    assert refused(bare).path == "$.process.terminal"


# -- process ----------------------------------------------------------------------------------


def test_capabilities_are_bit_sets_within_what_the_host_has() -> None:
    sets = Capabilities(
        bounding=("CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_KILL"),
        permitted=("CAP_CHOWN", "CAP_SYS_RESOURCE"),
        effective=("CAP_CHOWN", "CAP_KILL"),
        inheritable=("CAP_CHOWN", "CAP_NET_RAW"),
        ambient=("CAP_CHOWN", "CAP_KILL"),
    )
    made = plan(with_process(default_config(**HOSTS_USERS), capabilities=sets), HOST, OVERLAY)
    user = of(s.BecomeUser, made)[0]
    assert user.bounding == 1 << 0 | 1 << 5
    assert user.permitted == user.effective == user.inheritable == user.ambient == 1
    assert made.warnings == (
        "$.process.capabilities: this host cannot grant CAP_SYS_RESOURCE",
        "$.process.capabilities.effective: CAP_KILL left out: not in permitted",
        "$.process.capabilities.inheritable: CAP_NET_RAW left out: not in bounding",
        "$.process.capabilities.ambient: CAP_KILL left out: not in permitted",
    )


def test_a_user_namespace_grants_what_the_host_lacks_but_not_what_the_kernel_does() -> None:
    config = with_process(
        default_config(), capabilities=capabilities("CAP_SYS_RESOURCE", "CAP_BPF", "CAP_NONE")
    )
    made = plan(config, replace(HOST, last_capability=37), OVERLAY)
    assert of(s.BecomeUser, made)[0].bounding == 1 << 24
    assert any("cannot grant CAP_BPF" in warning for warning in made.warnings)
    assert any("no capability is called 'CAP_NONE'" in warning for warning in made.warnings)


def test_no_capabilities_means_none() -> None:
    made = plan(with_process(default_config(), capabilities=None), HOST, OVERLAY)
    user = of(s.BecomeUser, made)[0]
    assert user.bounding | user.permitted | user.effective | user.inheritable | user.ambient == 0


def test_limits_beyond_the_engines_own_are_lowered() -> None:
    limits = (Rlimit("RLIMIT_NOFILE", 2**64 - 1, 2**64 - 1), Rlimit("RLIMIT_CORE", 1, 2))
    config = with_process(default_config(), rlimits=limits)
    made = plan(config, HOST, OVERLAY)
    assert [(r.resource, r.soft, r.hard) for r in of(s.SetRlimit, made)] == [
        (7, 20000, 20000),
        (4, 1, 2),
    ]
    assert any("RLIMIT_NOFILE unlimited is 20000 instead" in warning for warning in made.warnings)
    able = plan(config, replace(HOST, capabilities=1 << 24), OVERLAY)
    assert of(s.SetRlimit, able)[0].hard == 2**64 - 1


def test_the_oom_score_is_lowered_only_by_who_may() -> None:
    config = with_process(default_config(), oom_score_adj=-999)
    assert of(s.SetOomScore, plan(config, replace(HOST, oom_score_adj=-5), OVERLAY))[0].value == -5
    able = plan(config, replace(HOST, capabilities=1 << 24), OVERLAY)
    assert of(s.SetOomScore, able)[0].value == -999
    higher = plan(with_process(default_config(), oom_score_adj=7), HOST, OVERLAY)
    assert of(s.SetOomScore, higher)[0].value == 7
    assert not higher.warnings


@pytest.mark.parametrize(
    ("user", "place"),
    [
        (User(uid=65536), "uid"),
        (User(gid=70000), "gid"),
        (User(additional_gids=(1, 65536)), "additionalGids[1]"),
    ],
)
def test_ids_must_be_mapped(user: User, place: str) -> None:
    config = with_process(default_config(), user=user)
    assert refused(config).path == f"$.process.user.{place}"
    plan(with_process(default_config(**HOSTS_USERS), user=user), HOST, OVERLAY)


def test_an_ordinary_user_gives_up_groups() -> None:
    config = with_process(default_config(), user=User(additional_gids=(1,)))
    made = plan(config, replace(HOST, unprivileged=True), OVERLAY)
    assert of(s.WriteIdMaps, made)[0].setgroups == "deny"
    assert of(s.BecomeUser, made)[0].groups == ()
    assert any("additionalGids" in warning for warning in made.warnings)


def test_a_kernel_without_filters_is_refused() -> None:
    with pytest.raises(Unsupported, match="filters"):
        plan(default_config(), replace(HOST, seccomp=False), OVERLAY)


def test_umask() -> None:
    made = plan(with_process(default_config(), user=User(umask=0o077)), HOST, OVERLAY)
    assert of(s.SetUmask, made)[0].mask == 0o077


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"args": ("/bin/a",)}, ("/bin/a",)),
        ({"args": ("./a",), "cwd": "/w"}, ("/w/./a",)),
        ({"args": ("a",), "env": ("PATH=/x:/y:/x",)}, ("/x/a", "/y/a")),
        ({"args": ("a",), "env": ("PATH=/x", "PATH=/y")}, ("/y/a",)),
        ({"args": ("a",), "env": ("PATH=:rel",), "cwd": "/w"}, ("/w/a", "/w/rel/a")),
        ({"args": ("a",), "env": ("PATH=",)}, 6),
        ({"args": ("a",), "env": ()}, 6),
    ],
)
def test_where_the_application_is_looked_for(changes: dict[str, Any], expected: Any) -> None:
    found = candidates(process(**changes))
    assert (len(found) if isinstance(expected, int) else found) == expected


# -- sysctls ----------------------------------------------------------------------------------


def test_sysctls_of_the_containers_own_namespaces() -> None:
    made = plan_sysctls(
        {
            "net.ipv4.ip_forward": "1",
            "net/ipv4/conf/eth0.1/forwarding": "1",
            "net.ipv4.conf.eth0/1.forwarding": "0",
            "kernel.shmmax": "5",
            "fs.mqueue.msg_max": "9",
            "kernel.domainname": "d",
        },
        Namespaces(frozenset({"network", "ipc", "uts"}), ()),
    )
    assert made[-1] == s.SetDomainname(name="d")
    assert [step.key for step in made if isinstance(step, s.WriteSysctl)] == [
        "net.ipv4.ip_forward",
        "net/ipv4/conf/eth0.1/forwarding",
        "net/ipv4/conf/eth0.1/forwarding",
        "kernel.shmmax",
        "fs.mqueue.msg_max",
    ]


@pytest.mark.parametrize(
    "key",
    [
        "kernel.panic", "vm.swappiness", "kernel.hostname", "net.ipv4..x", "net.//.x", "net.",
        "net/../kernel/core_pattern", "net./../kernel", "", "fs.mqueue.", "kernel.shmmaxx",
    ],
)  # fmt: skip
def test_sysctls_that_are_the_hosts(key: str) -> None:
    error = refused(default_config(sysctl={key: "1"}))
    assert error.path == f"$.linux.sysctl.{key}"
    assert error.section == "config-linux.md#sysctl"


@pytest.mark.parametrize(
    ("key", "kind"), [("net.core.x", "network"), ("kernel.sem", "ipc"), ("fs.mqueue.a", "ipc")]
)
def test_a_sysctl_needs_the_namespace(key: str, kind: str) -> None:
    with pytest.raises(SpecError, match=f"{kind} namespace"):
        plan_sysctls({key: "1"}, Namespaces(frozenset({"mount"}), ()))


# -- explain ----------------------------------------------------------------------------------


def test_rows_name_what_is_in_a_slot() -> None:
    made = plan(default_config(), HOST, OVERLAY)
    rows = explain(made)
    assert [row.number for row in rows] == list(range(len(made.steps)))
    assert "bind /srv/data on /data read-only" in [row.what for row in rows]
    assert "attach the overlay at /run/root as the root" in [row.what for row in rows]
    assert not [row.what for row in rows if "slot" in row.what]
    assert all(row.section and row.concerns for row in rows)
    number = index(made, s.BindTree)
    assert describe_step(made, number) == rows[number].what
    assert describe_step(made, 999) == "step 999"


def test_rows_are_one_line_and_harmless_on_a_terminal() -> None:
    config = with_process(default_config(), args=("sh", "-c", "a\nb\x1b[31m" + "x" * 500))
    what = explain(plan(config, HOST, OVERLAY))[-1].what
    assert what.isprintable()
    assert len(what) == 200
    assert what.endswith("…")


# -- shared memory ----------------------------------------------------------------------------


def test_shared_memory_of_another_container_is_taken_before_the_clone() -> None:
    request = replace(OVERLAY, shared_memory="/proc/7/fd/9")
    made = plan(default_config(), HOST, request)
    (peer,) = of(s.OpenPeerTree, made)
    assert (peer.namespace, peer.path, peer.optional) == ("/proc/7/fd/9", "/dev/shm", False)
    (bound,) = [step for step in of(s.BindTree, made) if step.slot == peer.slot]
    assert bound.target == "/dev/shm"
    assert bound.attributes_set & MOUNT_ATTR_NOSUID
    order = [made.steps.index(step) for step in (peer, of(s.CloneInto, made)[0], bound)]
    assert order == sorted(order)
    assert made.steps.index(bound) > max(
        made.steps.index(step) for step in of(s.MountFilesystem, made) if step.target == "/dev"
    )
    assert not of(s.OpenPeerTree, plan(default_config(), HOST, OVERLAY))
