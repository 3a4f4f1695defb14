"""The options of `run`, each as a docker user expects it: what the application meets, and what the
host's kernel says of it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import kernel_side
from acceptance.rig import Onggi, until

#: podman's eleven. Source: ARCHITECTURE.md, safe by default.
DEFAULT_CAPABILITIES = 0x800405FB
NET_ADMIN, CHOWN = 1 << 12, 1 << 0


def sh(onggi: Onggi, *options: str, script: str) -> str:
    """What a shell prints that `run --rm` was given these options for."""
    return onggi.out("run", "--rm", *options, "busybox", "sh", "-c", script)


@contextlib.contextmanager
def running(
    onggi: Onggi, *options: str, command: tuple[str, ...] = ("sleep", "1000")
) -> Iterator[str]:
    """The id of a container that runs meanwhile."""
    found = onggi.out("run", "-d", *options, "busybox", *command)
    try:
        yield found
    finally:
        onggi.run("rm", "-f", found)


def refused(onggi: Onggi, *words: str) -> str:
    """The one line that a request which is refused ends with; nothing was made."""
    before = onggi.out("ps", "-aq")
    done = onggi.run("run", *words, check=False)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    assert onggi.out("ps", "-aq") == before
    return done.stderr


def test_devices_below_a_directory(onggi: Onggi, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mknod(tmp_path / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(tmp_path / "in/fuse", 0o666 | stat.S_IFCHR, os.makedev(10, 229))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev/fuse")
    given = ("--device", f"{tmp_path}:/dev/given:rw")
    shown = sh(onggi, *given, script="find /dev/given -type c; find /dev/given | wc -l")
    assert shown.split() == ["/dev/given/zero", "/dev/given/in/fuse", "4"]
    assert sh(onggi, *given, script=": <> /dev/given/in/fuse && echo open") == "open"
    (tmp_path / "none").mkdir()
    said = refused(onggi, "--rm", "--device", str(tmp_path / "none"), "busybox", "true")
    assert f"there is no device below {tmp_path}/none" in said


# -- process ---------------------------------------------------------------------------------


def test_variables(onggi: Onggi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\n\nFROM_FILE=a b\nBOTH=file\nPASSED\n")
    monkeypatch.setenv("PASSED", "mine")
    monkeypatch.delenv("NOT_THERE", raising=False)
    words = ("--env-file", str(file), "-e", "BOTH=flag", "-e", "EMPTY=", "-e", "NOT_THERE")
    with running(onggi, *words) as container:
        got = Path(f"/proc/{onggi.pid(container)}/environ").read_text().split("\0")
        found = dict(entry.split("=", 1) for entry in got if entry)
        assert found == {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME": container[:12], "HOME": "/root", "FROM_FILE": "a b", "BOTH": "flag",
            "PASSED": "mine", "EMPTY": "",
        }  # fmt: skip
        assert set(onggi.inspect(container)["Config"]["Env"]) == {e for e in got if e}


def test_a_working_directory_is_made_when_missing(onggi: Onggi) -> None:
    assert sh(onggi, "-w", "/a/b/c", script="pwd; stat -c %u:%g:%a /a/b") == "/a/b/c\n0:0:755"
    assert sh(onggi, "-w", "/tmp", script="pwd") == "/tmp"
    assert "not an absolute path" in refused(onggi, "-w", "relative", "busybox", "true")


@pytest.mark.parametrize(
    ("options", "expected", "outside"),
    [
        (("-u", "user"), "1000 1000 2000 /home", (1000, 1000, {2000})),
        (("-u", "1000"), "1000 1000 2000 /home", (1000, 1000, {2000})),
        (("-u", "1234"), "1234 0  /", (1234, 0, set())),
        (("-u", "1234:4321"), "1234 4321  /", (1234, 4321, set())),
        (("-u", "user:extra"), "1000 2000  /home", (1000, 2000, set())),
        (("-u", "1234:4321", "--group-add", "extra", "--group-add", "77"), "1234 4321 77,2000 /",
         (1234, 4321, {77, 2000})),
    ],
)  # fmt: skip
def test_a_user(
    onggi: Onggi, options: tuple[str, ...], expected: str, outside: tuple[int, int, set[int]]
) -> None:
    with running(onggi, *options) as container:
        look = "grep Groups: /proc/1/status | cut -f2 | tr ' ' ,; id -u; id -g; echo $HOME"
        groups, uid, gid, home = onggi.out("exec", container, "sh", "-c", look).splitlines()
        numbers = ",".join(sorted(groups.strip(",").split(","), key=lambda n: int(n or 0)))
        assert f"{uid} {gid} {numbers} {home}" == expected or numbers.split(",")[0] == gid
        pid = onggi.pid(container)
        base = kernel_side.uid_range(pid).start
        assert int(kernel_side.status(pid, "Uid").split()[0]) - base == outside[0]
        assert int(kernel_side.status(pid, "Gid").split()[0]) - base == outside[1]
        held = {int(g) - base for g in kernel_side.status(pid, "Groups").split()}
        assert held - {outside[1]} == outside[2]


def test_a_user_that_the_image_lacks(onggi: Onggi) -> None:
    assert "'nobody-here' is not in the image's /etc/passwd" in refused(
        onggi, "-u", "nobody-here", "busybox", "true"
    )


def test_entrypoint(onggi: Onggi) -> None:
    assert onggi.out("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b") == "a b"
    assert "no command" in refused(onggi, "--entrypoint", "", "busybox")


def test_init_reaps_and_forwards(onggi: Onggi) -> None:
    trap = "trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.02; done"
    for options, zombies in ((("--init",), False), ((), True)):
        with running(
            onggi, *options, command=("sh", "-c", "echo up; exec sleep 1000")
        ) as container:
            # Its parent ends at once: without --init a `sleep` as PID 1 never waits for it.
            onggi.run("exec", container, "sh", "-c", "(true &)")
            count = "cat /proc/[0-9]*/stat | grep -c ') Z '"
            look = ("exec", container, "sh", "-c", count)
            until(lambda: onggi.out(*look, check=False) == ("1" if zombies else "0"), "settled")  # noqa: B023
    with running(onggi, "--init", command=("sh", "-c", trap)) as container:
        until(lambda: "up" in onggi.out("logs", container), "it is up")
        assert onggi.out("exec", container, "cat", "/proc/1/comm") != "sh"
        onggi.run("stop", container)
        assert onggi.out("wait", container) == "9"
        assert onggi.out("logs", container) == "up\ngot"


def test_ulimits(onggi: Onggi) -> None:
    with running(onggi, "--ulimit", "nofile=100:200", "--ulimit", "core=0") as container:
        limits = Path(f"/proc/{onggi.pid(container)}/limits").read_text().splitlines()
        rows = {row[:26].strip(): row[26:].split()[:2] for row in limits}
        assert rows["Max open files"] == ["100", "200"]
        assert rows["Max core file size"] == ["0", "0"]
    assert sh(onggi, "--ulimit", "nofile=100:200", script="ulimit -n; ulimit -Hn") == "100\n200"
    assert "is not a limit" in refused(onggi, "--ulimit", "nothing=1", "busybox", "true")


# -- names and networks ----------------------------------------------------------------------


def test_host_and_domain_names(onggi: Onggi) -> None:
    words = ("--hostname", "box", "--domainname", "example")
    look = (
        "hostname; cat /proc/sys/kernel/domainname /etc/hostname; "
        "grep -c 'box$' /etc/hosts; echo $HOSTNAME"
    )
    assert sh(onggi, *words, script=look).split() == ["box", "example", "box", "2", "box"]


def test_hosts_and_name_servers(onggi: Onggi) -> None:
    words = ("--add-host", "db:10.1.2.3", "--add-host", "six:::1", "--dns", "192.0.2.9",
             "--dns-search", "a.example", "--dns-option", "ndots:3")  # fmt: skip
    told = sh(onggi, *words, script="cat /etc/hosts /etc/resolv.conf").splitlines()
    assert {"10.1.2.3\tdb", "::1\tsix", "127.0.0.1\tlocalhost"} <= set(told)
    assert told[-3:] == ["nameserver 127.0.0.11", "search a.example", "options ndots:3"]
    assert "NAME:ADDRESS" in refused(onggi, "--add-host", "nonsense", "busybox", "true")


def test_the_hosts_interfaces_when_asked_for(onggi: Onggi) -> None:
    ours = sorted(os.listdir("/sys/class/net"))
    assert sh(onggi, "--network", "host", script="ls /sys/class/net").split() == ours


def test_shared_memory(onggi: Onggi) -> None:
    assert sh(onggi, "--shm-size", "8m", script="df -k /dev/shm | tail -n 1").split()[1] == "8192"
    assert sh(onggi, script="df -k /dev/shm | tail -n 1").split()[1] == "65536"
    assert sh(onggi, "--ipc", "none", script="ls -d /dev/shm 2>/dev/null || echo none") == "none"
    if not Path("/dev/shm").is_dir():
        pytest.skip("the host has no /dev/shm")
    with running(onggi, "--ipc", "host") as container:
        name = f"onggi-test-{container[:12]}"
        file = Path("/dev/shm") / name
        try:
            onggi.run("exec", container, "sh", "-c", f"echo shared > /dev/shm/{name}")
            assert file.read_text() == "shared\n"
        finally:
            file.unlink(missing_ok=True)


def test_shared_memory_of_another_container(onggi: Onggi) -> None:
    with running(onggi, "--ipc", "shareable", "--shm-size", "8m") as one:
        onggi.run("exec", one, "sh", "-c", "echo shared > /dev/shm/of-one")
        joins = ("--ipc", f"container:{one}")
        look = "cat /dev/shm/of-one; echo back > /dev/shm/of-two; stat -c %u:%a /dev/shm/of-one"
        assert sh(onggi, *joins, script=look).split() == ["shared", "0:644"]
        assert onggi.out("exec", one, "cat", "/dev/shm/of-two") == "back"
        assert sh(onggi, *joins, script="df -k /dev/shm | tail -n 1").split()[1] == "8192"
        mounted = sh(onggi, *joins, script="grep ' /dev/shm ' /proc/self/mounts").split()[3]
        assert {"nosuid", "nodev", "noexec", "rw"} <= set(mounted.split(","))
        # One mount only: it sees nothing else of the other's files.
        onggi.run("exec", one, "sh", "-c", "echo x > /of-one-only")
        assert sh(onggi, *joins, script="ls /of-one-only 2>&1; true").endswith(
            "No such file or directory"
        )
        own = ("--tmpfs", "/dev/shm")
        assert sh(onggi, *joins, *own, script="ls /dev/shm") == ""


def test_shared_memory_lives_as_long_as_somebody_has_it(onggi: Onggi) -> None:
    with running(onggi, "--ipc", "shareable") as one:
        onggi.run("exec", one, "sh", "-c", "echo shared > /dev/shm/of-one")
        with running(onggi, "--ipc", f"container:{one}") as two:
            onggi.run("stop", "-t", "0", one)
            assert onggi.out("exec", two, "cat", "/dev/shm/of-one") == "shared"


def test_shared_memory_through_a_link(onggi: Onggi) -> None:
    """What the other one makes of its /dev/shm is resolved in its own root, or not at all."""
    with running(onggi, "--ipc", "shareable", "--cap-add", "SYS_ADMIN",
                 "--security-opt", "seccomp=unconfined") as one:  # fmt: skip
        swap = "umount /dev/shm && rmdir /dev/shm && ln -s /proc/1/root/etc /dev/shm"
        onggi.run("exec", one, "sh", "-c", swap)
        failed = onggi.run(
            "run", "--rm", "--ipc", f"container:{one}", "busybox", "true", check=False
        )
        assert failed.returncode == 125
        assert "/dev/shm of another container" in failed.stderr
        onggi.run("exec", one, "sh", "-c", "rm /dev/shm && ln -s /../../../../etc /dev/shm")
        shown = sh(onggi, "--ipc", f"container:{one}", script="ls /dev/shm")
        assert "passwd" in shown.split() and "machine-id" not in shown.split()


@pytest.mark.parametrize("mode", ["private", "none"])
def test_memory_that_is_not_for_others(onggi: Onggi, mode: str) -> None:
    with running(onggi, "--ipc", mode) as one:
        failed = onggi.run(
            "run", "--rm", "--ipc", f"container:{one}", "busybox", "true", check=False
        )
        assert failed.returncode == 125
        assert f"its ipc is {mode} — make it with --ipc shareable" in failed.stderr
        # With its processes its memory is seen anyway: `onggi debug` works so.
        joins = ("--ipc", f"container:{one}", "--pid", f"container:{one}")
        assert "sleep 1000" in sh(onggi, *joins, script="test -d /dev/shm && ps")


def test_sysctls(onggi: Onggi) -> None:
    before = Path("/proc/sys/net/core/somaxconn").read_text()
    words = ("--sysctl", "net.core.somaxconn=77", "--sysctl", "kernel.shmmax=12345678")
    look = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax"
    assert sh(onggi, *words, script=look) == "77\n12345678"
    assert Path("/proc/sys/net/core/somaxconn").read_text() == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--sysctl", "vm.swappiness=3"), "not namespaced"),
        (("--sysctl", "kernel.hostname=x"), "hostname"),
        (("--network", "host", "--sysctl", "net.ipv4.ip_forward=1"), "would change the host"),
        (("--cap-add", "FOO"), "unknown capability 'FOO'"),
        (("--security-opt", "nonsense"), "unknown --security-opt"),
        (("--security-opt", "seccomp=/no/such/profile.json"), "/no/such/profile.json"),
        (("--device", "/dev/no-such-device"), "no such device"),
        (("--network", "bridge2"), "no such network: bridge2"),
        (("--pid", "container:no-such"), "no-such"),
        (("--stop-signal", "NONSENSE"), "not a signal"),
        (("--no-such-option",), "no option"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    onggi: Onggi, words: tuple[str, ...], why: str
) -> None:
    assert why in refused(onggi, *words, "busybox", "true")


# -- rights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "bounding"),
    [
        ((), DEFAULT_CAPABILITIES),
        (
            ("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"),
            DEFAULT_CAPABILITIES & ~CHOWN | NET_ADMIN,
        ),
        (("--cap-add", "CAP_NET_ADMIN", "--cap-drop", "all"), NET_ADMIN),
        (("--cap-drop", "ALL"), 0),
    ],
)
def test_capabilities(onggi: Onggi, options: tuple[str, ...], bounding: int) -> None:
    for user, effective in (("0", bounding), ("1000", 0)):
        with running(onggi, *options, "-u", user) as container:
            pid = onggi.pid(container)
            sets = {
                n: int(kernel_side.status(pid, f"Cap{n}"), 16)
                for n in ("Eff", "Prm", "Bnd", "Inh", "Amb")
            }
            assert sets == {"Eff": effective, "Prm": effective, "Bnd": bounding, "Inh": 0, "Amb": 0}
            assert len(onggi.view(container)["capabilities"]) == effective.bit_count()


def test_every_capability(onggi: Onggi) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    with running(onggi, "--cap-add", "ALL") as container:
        assert int(kernel_side.status(onggi.pid(container), "CapBnd"), 16) == (2 << last) - 1
        assert kernel_side.uid_range(onggi.pid(container)).start != 0


def test_no_new_privileges(onggi: Onggi) -> None:
    for options, expected in (((), "0"), (("--security-opt", "no-new-privileges"), "1")):
        with running(onggi, *options) as container:
            assert kernel_side.status(onggi.pid(container), "NoNewPrivs") == expected


def test_a_filter_of_ones_own(onggi: Onggi, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    words = ("--security-opt", f"seccomp={profile}")
    assert "No space left" in sh(onggi, *words, script="mkdir /tmp/x 2>&1; true")
    with running(onggi, "--security-opt", "seccomp=unconfined") as container:
        assert kernel_side.status(onggi.pid(container), "Seccomp") == "0"


def test_unmasked_paths_when_asked_for(onggi: Onggi) -> None:
    look = "grep -c ' /proc/' /proc/mounts; true"
    assert sh(onggi, "--security-opt", "systempaths=unconfined", script=look) == "0"
    assert int(sh(onggi, script=look)) > 3


def test_privileged(onggi: Onggi) -> None:
    with running(onggi, "--privileged") as container:
        pid = onggi.pid(container)
        own = int(kernel_side.status(os.getpid(), "CapBnd"), 16)
        assert int(kernel_side.status(pid, "CapEff"), 16) == own
        assert kernel_side.status(pid, "Seccomp") == "0"
        assert kernel_side.namespace(pid, "user") == kernel_side.namespace("self", "user")
        for kind in ("pid", "mount", "network", "ipc", "uts"):
            assert kernel_side.namespace(pid, kind) != kernel_side.namespace("self", kind)
        look = (
            "test -w /proc/sys/kernel/panic && ls /dev | wc -l; "
            "grep ' /sys ' /proc/mounts | cut -c1-14"
        )
        devices, sysfs = onggi.out("exec", container, "sh", "-c", look).splitlines()
        assert int(devices) > 30
        assert sysfs == "sysfs /sys sys"


def test_a_device(onggi: Onggi, tmp_path: Path) -> None:
    if not Path("/sys/dev/char/10:229").exists():
        pytest.skip("the kernel has no fuse device (10:229)")
    node = tmp_path / "fuse"
    os.mknod(node, 0o20666, os.makedev(10, 229))
    node.chmod(0o666)
    opening = "(exec 3<>/dev/mine) 2>/dev/null && echo opened; true"
    look = f"stat -c '%F %t:%T' /dev/mine; {opening}"
    given = ("--device", f"{node}:/dev/mine")
    assert sh(onggi, *given, script=look) == "character special file a:e5\nopened"
    assert sh(onggi, *given[:1], f"{given[1]}:r", script=opening) == ""
    # The same node, bound as a file: there, and of no use.
    assert sh(onggi, "-v", f"{node}:/dev/mine", script=look) == "character special file a:e5"


def test_a_device_that_is_roots_alone(onggi: Onggi, tmp_path: Path) -> None:
    if not Path("/sys/dev/char/10:229").exists():
        pytest.skip("the kernel has no fuse device (10:229)")
    node = tmp_path / "fuse"
    os.mknod(node, 0o20600, os.makedev(10, 229))
    look = "stat -c %u:%g:%a /dev/mine; (exec 3<>/dev/mine) && echo opened"
    given = ("--device", f"{node}:/dev/mine")
    done = onggi.run("run", "--rm", *given, "busybox", "sh", "-c", look)
    assert (done.stdout, done.stderr) == ("0:0:600\nopened\n", "")
    # Root's alone: nobody else inside; and what a container does to its node, it does to its own.
    assert (
        onggi.run(
            "run", "--rm", "-u", "1000", *given, "busybox", "sh", "-c", look, check=False
        ).stdout
        == "0:0:600\n"
    )
    sh(onggi, *given, script="chmod 666 /dev/mine; chown 1000 /dev/mine")
    assert (node.stat().st_uid, node.stat().st_mode & 0o777) == (0, 0o600)


# -- the container ---------------------------------------------------------------------------


def test_labels(onggi: Onggi, tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text("from=file\nboth=file\n")
    with running(onggi, "--label-file", str(file), "-l", "both=flag", "-l", "bare") as container:
        expected = {"from": "file", "both": "flag", "bare": ""}
        assert onggi.inspect(container)["Config"]["Labels"] == expected
        for match in ("label=bare", "label=both=flag"):
            assert onggi.out("ps", "-q", "--no-trunc", "--filter", match) == container
        assert onggi.out("ps", "-q", "--filter", "label=both=file") == ""


def test_the_id_goes_to_a_file(onggi: Onggi, tmp_path: Path) -> None:
    file = tmp_path / "id"
    with running(onggi, "--cidfile", str(file)) as container:
        assert file.read_text() == container
        assert "File exists" in refused(onggi, "--cidfile", str(file), "busybox", "true")
    other = tmp_path / "other"
    refused(onggi, "--cidfile", str(other), "--pull", "never", "no-such-image")
    assert not other.exists()


def test_the_signal_and_the_time_of_a_stop(onggi: Onggi) -> None:
    trap = ("sh", "-c", "trap 'echo got; exit 9' USR1; echo up; while :; do sleep 0.02; done")
    with running(onggi, "--stop-signal", "USR1", command=trap) as container:
        until(lambda: onggi.out("logs", container) == "up", "it is up")
        onggi.run("stop", container)
        assert onggi.out("wait", container) == "9"
        assert onggi.inspect(container)["Config"]["StopSignal"] == "USR1"
    deaf = ("sh", "-c", "trap '' TERM; while :; do sleep 0.02; done")
    with running(onggi, "--stop-timeout", "0", command=deaf) as container:
        onggi.run("stop", container)
        assert onggi.out("wait", container) == "137"
        assert onggi.inspect(container)["Config"]["StopTimeout"] == 0


def test_a_root_that_cannot_be_written(onggi: Onggi) -> None:
    script = (
        "for d in / /etc /tmp /dev/shm /run/made; do touch $d/x 2>/dev/null && echo $d; done; "
        "stat -c %a /run/made; df -k /run/made | tail -n 1; mount -o remount,rw / 2>/dev/null"
    )
    words = ("--read-only", "--tmpfs", "/run/made:size=1m,mode=1770")
    done = onggi.run("run", "--rm", *words, "busybox", "sh", "-c", script, check=False)
    rows = done.stdout.splitlines()
    assert rows[:3] == ["/dev/shm", "/run/made", "1770"]
    assert rows[3].split()[1] == "1024"
    assert done.returncode != 0
