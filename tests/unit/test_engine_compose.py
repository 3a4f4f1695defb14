"""From what a person asked for to a runtime configuration: rule by rule."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from onggi.engine import defaults
from onggi.engine.api.spec import ContainerSpec, MountSpec, UlimitSpec
from onggi.engine.compose import Hardware, Resolved, arguments, capabilities, compose, environment
from onggi.errors import EngineError, InvalidArgument
from onggi.kernel.capabilities import DEFAULT, NAMES
from onggi.specs.image import ContainerConfig
from onggi.specs.runtime import Config, Device, Linux, Mount, Process, User

ID = "0123456789abcdef" * 4
IMAGE = ContainerConfig(env=("PATH=/image", "A=image", "B=image"), cmd=("sh",), working_dir="/w")
FOUND = Resolved(
    user=User(uid=0, gid=0),
    home="/root",
    id_base=131072,
    files=(("/etc/hosts", "/data/hosts"),),
    volumes={"v": "/volumes/v/_data"},
    cgroups_path="/onggi/x",
)


def composed(image: ContainerConfig = IMAGE, found: Resolved = FOUND, **spec: Any) -> Config:
    return compose(ContainerSpec(image="busybox", **spec), image, found, ID)


def linux(config: Config) -> Linux:
    assert config.linux is not None
    return config.linux


def process(config: Config) -> Process:
    assert config.process is not None
    return config.process


def kinds(config: Config) -> dict[str, str | None]:
    return {namespace.type: namespace.path for namespace in linux(config).namespaces}


def mount_at(config: Config, target: str) -> Mount:
    found = [mount for mount in config.mounts if mount.destination == target]
    assert len(found) == 1, found
    return found[0]


def test_a_container_has_every_namespace_and_ids_of_its_own() -> None:
    config = composed()
    assert kinds(config) == dict.fromkeys(
        ("mount", "network", "ipc", "pid", "uts", "user", "cgroup")
    )
    assert [(m.container_id, m.host_id, m.size) for m in linux(config).uid_mappings] == [
        (0, 131072, 65536)
    ]
    assert linux(config).gid_mappings == linux(config).uid_mappings
    assert linux(config).masked_paths == defaults.MASKED_PATHS
    assert linux(config).readonly_paths == defaults.READONLY_PATHS
    assert config.hostname == ID[:12]


@pytest.mark.parametrize(
    "user", [User(uid=65536, gid=0), User(uid=0, gid=70000), User(additional_gids=(5, 65536))]
)
def test_a_user_that_the_range_does_not_have(user: User) -> None:
    found = msgspec.structs.replace(FOUND, user=user)
    with pytest.raises(InvalidArgument, match="the 65,536 ids .* --userns host"):
        composed(found=found)
    composed(found=msgspec.structs.replace(found, id_base=None), userns="host")


@pytest.mark.parametrize(("field", "missing"), [
    ("network", "network"), ("ipc", "ipc"), ("pid", "pid"), ("uts", "uts"), ("cgroupns", "cgroup"),
])  # fmt: skip
def test_the_hosts_namespace_is_a_missing_one(field: str, missing: str) -> None:
    assert missing not in kinds(composed(**{field: "host"}))


def test_the_hosts_name_is_not_changed() -> None:
    config = composed(uts="host", hostname="x", domainname="y")
    assert (config.hostname, config.domainname) == (None, None)


def test_joined_namespaces_are_paths_and_their_users_come_along() -> None:
    joins = {"network": "/n", "user": "/u"}
    config = composed(found=msgspec.structs.replace(FOUND, joins=joins), network="container:x")
    assert kinds(config)["network"] == "/n"
    assert kinds(config)["user"] == "/u"
    assert linux(config).uid_mappings == ()


def test_without_ids_there_is_no_user_namespace() -> None:
    assert "user" not in kinds(composed(found=msgspec.structs.replace(FOUND, id_base=None)))


@pytest.mark.parametrize(("entrypoint", "command", "image", "expected"), [
    (None, (), (None, ("c",)), ("c",)),
    (None, ("x",), (None, ("c",)), ("x",)),
    (None, (), (("e",), ("c",)), ("e", "c")),
    (None, ("x",), (("e",), ("c",)), ("e", "x")),
    (("y",), (), (("e",), ("c",)), ("y",)),
    (("y",), ("x",), (("e",), ("c",)), ("y", "x")),
    ((), ("x",), (("e",), ("c",)), ("x",)),
])  # fmt: skip
def test_what_is_executed(
    entrypoint: tuple[str, ...] | None,
    command: tuple[str, ...],
    image: tuple[tuple[str, ...] | None, tuple[str, ...]],
    expected: tuple[str, ...],
) -> None:
    spec = ContainerSpec(image="i", entrypoint=entrypoint, command=command)
    assert arguments(spec, ContainerConfig(entrypoint=image[0], cmd=image[1])) == expected


@pytest.mark.parametrize("entrypoint", [None, (), ("",)])
def test_nothing_to_execute_is_said(entrypoint: tuple[str, ...] | None) -> None:
    with pytest.raises(InvalidArgument, match="image i names no command to execute — write one"):
        arguments(ContainerSpec(image="i", entrypoint=entrypoint), ContainerConfig())


def test_the_environment_is_merged_by_name() -> None:
    config = composed(env=("A=mine", "C=x=y", "B"), tty=True)
    env = dict(entry.split("=", 1) for entry in process(config).env)
    assert env == {
        "PATH": "/image", "HOSTNAME": ID[:12], "TERM": "xterm", "HOME": "/root",
        "A": "mine", "C": "x=y",
    }  # fmt: skip


def test_the_environment_has_a_path_where_the_image_has_none() -> None:
    env = environment((), (), home="/", hostname="h", terminal=False)
    assert env == (f"PATH={defaults.PATH}", "HOSTNAME=h", "HOME=/")


def test_capabilities() -> None:
    plain = capabilities((), (), privileged=False, uid=0)
    assert set(plain.bounding) == set(DEFAULT)
    assert plain.effective == plain.permitted == plain.bounding
    assert plain.inheritable == plain.ambient == ()
    one = capabilities(("net_admin",), ("all",), privileged=False, uid=0)
    assert one.bounding == ("CAP_NET_ADMIN",)
    most = capabilities(("ALL",), ("CAP_SYS_ADMIN",), privileged=False, uid=0)
    assert set(most.bounding) == set(NAMES) - {"CAP_SYS_ADMIN"}
    user = capabilities((), (), privileged=False, uid=1000)
    assert set(user.bounding) == set(DEFAULT)
    assert user.effective == user.permitted == ()
    assert set(capabilities((), (), privileged=True, uid=0).bounding) == set(NAMES)
    with pytest.raises(InvalidArgument, match="everything"):
        capabilities(("everything",), (), privileged=False, uid=0)


def test_a_privileged_container_sees_and_writes_everything() -> None:
    config = composed(privileged=True)
    assert linux(config).masked_paths == linux(config).readonly_paths == ()
    assert "ro" not in mount_at(config, "/sys").options
    resources = linux(config).resources
    assert resources is not None
    assert [(rule.allow, rule.access) for rule in resources.devices] == [(True, "rwm")]


def test_the_users_mount_replaces_a_default_one() -> None:
    config = composed(mounts=(MountSpec("bind", "/dev/shm", "/host/shm"),))
    assert mount_at(config, "/dev/shm").source == "/host/shm"


@pytest.mark.parametrize(
    ("mount", "options"),
    [
        ({}, ("rbind", "rprivate")),
        # One word for the mount and what is below: else submounts would stay the host's peers.
        ({"propagation": "slave"}, ("rbind", "rslave")),
        ({"propagation": "rshared", "recursive": False}, ("bind", "rshared")),
        ({"propagation": "private", "read_only": True}, ("rbind", "rprivate", "rro")),
        ({"read_only": True, "read_only_below": False}, ("rbind", "rprivate", "ro")),
        ({"chown": True, "options": ("rnoexec",)}, ("rbind", "rprivate", "idmap", "rnoexec")),
    ],
)
def test_the_words_of_a_bind(mount: dict[str, Any], options: tuple[str, ...]) -> None:
    found = mount_at(composed(mounts=(MountSpec("bind", "/a", "/x", **mount),)), "/a")
    assert found.options == options


def test_owners_need_no_map_where_ids_are_the_hosts() -> None:
    own = msgspec.structs.replace(FOUND, id_base=None)
    mounts = (MountSpec("bind", "/a", "/x", chown=True), MountSpec("tmpfs", "/t", chown=True))
    config = composed(found=own, mounts=mounts)
    assert "idmap" not in mount_at(config, "/a").options
    user = FOUND.user
    assert {f"uid={user.uid}", f"gid={user.gid}"} <= set(mount_at(config, "/t").options)


def test_a_part_of_a_volume_is_named_below_it() -> None:
    config = composed(mounts=(MountSpec("volume", "/a", "v", subpath="b/c"),))
    assert mount_at(config, "/a").source == "/volumes/v/_data/b/c"


def test_what_a_device_brings_along() -> None:
    bind = Mount(destination="/opt", type="bind", source="/x", options=("rbind",))
    hardware = Hardware(
        devices=(Device(path="/dev/x", type="c", major=10, minor=200),),
        access={"/dev/x": "r"},
        env=("A=device",),
        mounts=(bind,),
    )
    found = msgspec.structs.replace(FOUND, hardware=hardware)
    config = composed(found=found, env=("A=user",))
    assert config.process is not None
    assert "A=device" in config.process.env
    assert mount_at(config, "/opt") == bind
    resources = linux(config).resources
    assert resources is not None
    assert [rule.access for rule in resources.devices if rule.minor == 200] == ["r"]
    with pytest.raises(InvalidArgument, match="two mounts have the target /opt"):
        composed(found=found, mounts=(MountSpec("tmpfs", "/opt"),))


def test_mounts_come_after_those_that_they_lie_in() -> None:
    asked = (
        MountSpec("bind", "/a/b/c", "/x"), MountSpec("volume", "/a", "v"),
        MountSpec("tmpfs", "/a/b"), MountSpec("bind", "/a/b/c/d", "/y"), MountSpec("tmpfs", "/etc"),
    )  # fmt: skip
    targets = [mount.destination for mount in composed(mounts=asked).mounts]
    assert [t for t in targets if t.startswith("/a")] == ["/a", "/a/b", "/a/b/c", "/a/b/c/d"]
    assert targets.index("/etc") < targets.index("/etc/hosts")
    assert mount_at(composed(mounts=asked), "/a").source == "/volumes/v/_data"


def test_a_read_only_bind_is_read_only_to_its_depth() -> None:
    options = mount_at(
        composed(mounts=(MountSpec("bind", "/m", "/x", read_only=True),)), "/m"
    ).options
    assert "rro" in options
    assert "rbind" in options
    flat = mount_at(composed(mounts=(MountSpec("bind", "/m", "/x", recursive=False),)), "/m")
    assert flat.options[:2] == ("bind", "rprivate")


def test_tmpfs_options() -> None:
    asked = MountSpec("tmpfs", "/t", tmpfs_size_bytes=4096, tmpfs_mode=0o1777, read_only=True)
    options = mount_at(composed(mounts=(asked,)), "/t").options
    assert {"nosuid", "nodev", "noexec", "size=4096", "mode=1777", "ro"} <= set(options)


@pytest.mark.parametrize(("text", "expected"), [
    ("no-new-privileges", True), ("no-new-privileges=true", True), ("no-new-privileges:true", True),
    ("no-new-privileges=false", False), ("seccomp=unconfined", False),
])  # fmt: skip
def test_no_new_privileges(text: str, expected: bool) -> None:
    assert process(composed(security_opt=(text,))).no_new_privileges is expected


def test_unmasked_paths_must_be_asked_for() -> None:
    config = composed(security_opt=("systempaths=unconfined",))
    assert linux(config).masked_paths == ()


def test_limits_without_a_limit() -> None:
    (limit,) = process(composed(ulimits=(UlimitSpec("nofile", -1, -1),))).rlimits
    assert (limit.type, limit.soft, limit.hard) == ("RLIMIT_NOFILE", 2**64 - 1, 2**64 - 1)


def test_a_device_is_made_and_allowed() -> None:
    device = Device(path="/dev/x", type="c", major=10, minor=200)
    config = composed(found=msgspec.structs.replace(FOUND, hardware=Hardware(devices=(device,))))
    assert linux(config).devices == (device,)
    resources = linux(config).resources
    assert resources is not None
    assert (resources.devices[-1].major, resources.devices[-1].minor) == (10, 200)


@pytest.mark.parametrize("option", ["nonsense", "nonsense=1", ""])
def test_an_unknown_security_option_is_refused(option: str) -> None:
    with pytest.raises(EngineError, match="unknown --security-opt"):
        composed(security_opt=(option,))


@pytest.mark.parametrize(("asked", "image", "expected"), [
    ("", "", "/"), ("", "/w", "/w"), ("/mine", "/w", "/mine"),
])  # fmt: skip
def test_the_working_directory(asked: str, image: str, expected: str) -> None:
    config = composed(ContainerConfig(cmd=("x",), working_dir=image), workdir=asked)
    assert process(config).cwd == expected
