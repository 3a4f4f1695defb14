"""onggi-runtime run by an ordinary user: whose ids are whose, and what of the host is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faces.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Console, read_all
from faces.rootless_rig import Config, Rootless, granted, rootless
from visitor_rig import GRANTED, NAME, UID, write_files

pytestmark = [
    NEEDS_ROOT_AND_BUSYBOX,
    pytest.mark.skipif(
        shutil.which("newuidmap") is None or not os.path.exists("/etc/subuid"),
        reason="host feature missing: newuidmap, /etc/subuid",
    ),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Rootless]:
    with rootless() as made:
        yield made


@pytest.fixture
def visitor(place: Rootless) -> Iterator[Rootless]:
    yield place
    place.clean()
    assert place.leftovers() == []


def test_root_inside_is_the_user_and_nobody_else_is_there(visitor: Rootless) -> None:
    uid, map_, groups, owner = visitor.runs(
        "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/setgroups; ls -ln /bin/busybox"
    )
    assert uid == "0"
    assert map_.split() == ["0", str(UID), "1"]
    assert groups == "deny"
    assert owner.split()[2] == "0"


def test_granted_ids_are_mapped_and_groups_can_be_set(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        granted(config)
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7, 65536]}

    lines = visitor.runs("sh", "-c", "id; cat /proc/self/gid_map; echo $HOME", change=change)
    assert lines[0].split() == ["uid=1000(u)", "gid=1000", "groups=7,65536"]
    assert lines[2].split() == ["1", str(GRANTED), "65536"]


def test_root_inside_may_be_a_granted_id_for_whom_the_home_is_closed(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        maps = [{"containerID": 0, "hostID": GRANTED, "size": 1000}]
        config["linux"] |= {"uidMappings": maps, "gidMappings": maps}
        config["mounts"].append(
            {
                "destination": "/tmp",
                "type": "bind",
                "source": str(visitor.home),
                "options": ["bind"],
            }
        )

    first, second, third = visitor.runs(
        "sh", "-c", "id -u; cat /proc/self/uid_map; ls /tmp 2>&1; true", change=change
    )
    assert first == "0"
    assert second.split() == ["0", str(GRANTED), "1000"]
    assert "Permission denied" in third


def test_ids_that_were_not_granted_are_refused_by_the_line_that_is_missing(
    visitor: Rootless,
) -> None:
    write_files(visitor.place, f"{NAME}:{GRANTED}:1000")
    try:
        said = visitor.refuses(granted)
    finally:
        write_files(visitor.place)
    assert "uid range" in said
    assert said.rstrip().endswith(f"a line of /etc/subuid: {NAME}:{GRANTED}:65536")


def test_groups_that_were_not_granted_are_told_apart_from_users(visitor: Rootless) -> None:
    (visitor.place / "subgid").write_text("")
    try:
        said = visitor.refuses(granted)
    finally:
        write_files(visitor.place)
    assert said.rstrip().endswith(f"a line of /etc/subgid: {NAME}:{GRANTED}:65536")


def test_without_newuidmap_more_than_the_own_id_is_refused(visitor: Rootless) -> None:
    visitor.before = "mount --bind /dev/null /usr/bin/newuidmap"
    said = visitor.refuses(granted)
    assert "$.linux.uidMappings" in said
    assert "newuidmap is needed" in said
    assert visitor.runs("id", "-u") == ["0"]  # the own id needs no helper


def test_a_newuidmap_of_the_users_own_is_not_run(visitor: Rootless) -> None:
    trap, mark = visitor.home / "newuidmap", visitor.home / "mark"
    trap.write_text(f"#!/bin/sh\ntouch {mark}\n")
    trap.chmod(0o755)
    visitor.environment["PATH"] = f"{visitor.home}:/usr/bin:/bin"
    assert visitor.runs("id", "-u", change=granted) == ["0"]
    assert not mark.exists()
    visitor.before = f"mount --bind {trap} /usr/bin/newuidmap; chown {UID} {trap}"
    assert "newuidmap is needed" in visitor.refuses(granted)
    assert not mark.exists()


@pytest.mark.parametrize("helper", ["newuidmap", "newgidmap"])
def test_a_helper_that_says_done_is_not_believed(visitor: Rootless, helper: str) -> None:
    visitor.before = f"mount --bind /bin/true /usr/bin/{helper}"
    said = visitor.refuses(granted)
    assert f"/usr/bin/{helper} says that it is done" in said


def test_a_map_that_is_wider_than_asked_for_is_refused(visitor: Rootless, tmp_path: Path) -> None:
    """A helper that gives the container the host's root."""
    liar = visitor.place / "liar"
    source = tmp_path / "liar.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\nint main(int n, char **word) { char path[64];\n"
        'snprintf(path, sizeof path, "/proc/%s/uid_map", word[1]); FILE *f = fopen(path, "w");\n'
        'return n < 2 || !f || fputs("0 0 4294967295\\n", f) < 0 || fclose(f) || setuid(0); }\n'
    )
    subprocess.run(["cc", "-o", liar, source], check=True)
    liar.chmod(0o4755)
    visitor.before = f"mount --bind {liar} /usr/bin/newuidmap"
    said = visitor.refuses(granted)
    assert "/usr/bin/newuidmap says that it is done, and uid_map is another" in said


def test_without_a_user_namespace_there_is_no_container(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        linux = config["linux"]
        linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != "user"]
        del linux["uidMappings"], linux["gidMappings"]

    said = visitor.refuses(change)
    assert said.startswith("$.linux.namespaces: a container of an ordinary user needs a user names")


def test_somebody_elses_id_is_not_mapped(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]

    assert f"/etc/subuid: {NAME}:0:1" in visitor.refuses(change)


def test_groups_are_left_out_where_they_cannot_be_set(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["process"]["user"]["additionalGids"] = [0]

    done = visitor.calls("run", "-b", visitor.bundle("id", "-G", change=change), "one")
    assert done.stdout == "0\n"
    assert "additionalGids: are left out" in done.stderr


def test_an_unmapped_group_of_terminals_is_left_out(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        pts = next(m for m in config["mounts"] if m["type"] == "devpts")
        pts["options"].append("gid=5")

    done = visitor.calls("run", "-b", visitor.bundle("true", change=change), "one")
    assert "$.mounts[2].options: group 5 is not mapped" in done.stderr


def test_devices_queues_and_shared_memory(visitor: Rootless) -> None:
    commands = (
        "echo x >/dev/null; head -c 2 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c;"
        "grep -c mqueue /proc/self/mountinfo; echo y >/dev/shm/z && cat /dev/shm/z"
    )
    assert visitor.runs("sh", "-c", commands) == ["2", "3", "1", "y"]


def test_sysfs_is_new_with_a_network_of_its_own_and_the_hosts_without(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "network"})
        config["mounts"][5] = {"destination": "/sys", "type": "sysfs", "source": "sysfs"}
        del config["mounts"][6:]

    assert visitor.runs("ls", "/sys/class/net", change=change) == ["lo"]
    of_host = sorted(path.name for path in Path("/sys/class/net").iterdir())

    def hosts(config: Config) -> None:
        change(config)
        config["linux"]["namespaces"].pop()

    assert sorted(visitor.runs("ls", "/sys/class/net", change=hosts)) == of_host
    readonly = visitor.runs("sh", "-c", "mkdir /sys/x 2>&1; true", change=hosts)
    assert "Read-only" in readonly[0]


def test_a_bind_of_what_has_mounts_below_it_is_explained(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/tmp", "type": "bind", "source": "/dev", "options": ["bind"]}
        )

    assert "only together with them: rbind" in visitor.refuses(change)


def test_a_terminal(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["process"]["terminal"] = True

    console = Console(visitor.place / "console")
    os.chmod(visitor.place / "console", 0o777)
    try:
        bundle = visitor.bundle("sh", "-c", "tty; ls -ln /dev/console", change=change)
        visitor.calls("create", "-b", bundle, "--console-socket", console.path, "one")
        master = console.take()
    finally:
        console.close()
    visitor.calls("start", "one")
    visitor.waits("one", "stopped")
    first, second = read_all(master).split("\r\n")[:2]
    assert first == "/dev/pts/0"
    assert second.split()[2] == "0"
    os.close(master)


def test_hooks_run_on_the_host_as_the_user(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        script = f"id -u >{visitor.home}/said; readlink /proc/self/ns/user >>{visitor.home}/said"
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    assert visitor.runs("echo", "ran", change=change) == ["ran"]
    said = (visitor.home / "said").read_text().split()
    assert said == [str(UID), os.readlink("/proc/self/ns/user")]


@pytest.mark.skipif(
    not os.path.exists("/proc/self/ns/time"), reason="host feature missing: time namespaces"
)
def test_a_time_namespace_is_refused(visitor: Rootless) -> None:
    def change(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "time"})

    assert "a time namespace is made by root of the host only" in visitor.refuses(change)
