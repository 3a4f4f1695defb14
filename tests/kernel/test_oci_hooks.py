"""Hooks: who runs them, where, when, with which state; and what a failing one does to a start."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle

pytestmark = NEEDS_ROOT_AND_BUSYBOX
__all__ = ["bundle"]

#: Each hook in the order of the specification, with the status that it is told.
OF_A_START = (
    ("prestart", "creating"),
    ("createRuntime", "creating"),
    ("createContainer", "creating"),
    ("startContainer", "created"),
)


def script(text: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", text], **more}


def ns(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_each_at_its_moment_with_its_state(bundle: Bundle) -> None:
    """The state comes on stdin; the host's hooks see the host's pid, the others their own."""
    bundle.config["annotations"] = {"org.example": "yes"}
    seen = bundle.directory / "seen"
    bundle.mount("/seen", "bind", seen, "bind", "rw")
    seen.mkdir()
    where = {kind: seen for kind, _ in OF_A_START} | {"startContainer": Path("/seen")}
    note = (
        "cat > {0}/{1}.json; {{ readlink /proc/self/ns/mnt; readlink /proc/self/ns/net; pwd; "
        "ls {2}; }} > {0}/{1}.facts 2>/dev/null; exit 0"
    )
    bundle.config["hooks"] = {
        kind: [script(note.format(where[kind], kind, bundle.directory))] for kind, _ in OF_A_START
    }
    inside = bundle.out("readlink /proc/self/ns/mnt; readlink /proc/self/ns/net; echo $$").split()
    for kind, status in OF_A_START:
        state = json.loads((seen / f"{kind}.json").read_text())
        facts = (seen / f"{kind}.facts").read_text().split()
        assert state["status"] == status
        assert state["id"] == bundle.name
        assert state["bundle"] == str(bundle.directory)
        assert state["annotations"] == {"org.example": "yes"}
        on_host = kind in ("prestart", "createRuntime")
        assert (state["pid"] == 1) == (not on_host), kind
        assert facts[:2] == ([ns("self", "mnt"), ns("self", "net")] if on_host else inside[:2]), (
            kind
        )
        starts_in = {"createContainer": f"{bundle.directory}/rootfs", "startContainer": "/"}
        assert facts[2] == starts_in.get(kind, str(bundle.directory))
        assert ("rootfs" in facts) == (kind != "startContainer")


def test_in_the_order_of_the_configuration_before_the_application(bundle: Bundle) -> None:
    log = bundle.directory / "log"
    log.touch()
    bundle.mount("/log", "bind", log, "bind", "rw")
    bundle.config["hooks"] = {
        kind: [
            script(f"echo {kind}{n} >> {'/log' if kind == 'startContainer' else log}")
            for n in (1, 2)
        ]
        for kind, _ in reversed(OF_A_START)
    }
    bundle.out("echo application >> /log")
    expected = [f"{kind}{n}" for kind, _ in OF_A_START for n in (1, 2)]
    assert log.read_text().split() == [*expected, "application"]


def test_everything_is_mounted_and_the_host_still_in_sight(bundle: Bundle) -> None:
    """A hook on the host may enter the namespaces by pid and add to the root, as GPU hooks do."""
    text = (
        "pid=$(sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p'); "
        f"nsenter -t $pid -m sh -c 'mountpoint -q {bundle.rootfs}/proc && "
        f"mount -t tmpfs hooked {bundle.rootfs}/tmp'"
    )
    bundle.config["hooks"] = {"createRuntime": [script(text, env=["PATH=/usr/bin:/bin"])]}
    assert "hooked /tmp tmpfs" in bundle.out("mount -t tmpfs; cat /proc/mounts")


@pytest.mark.parametrize("kind", [kind for kind, _ in OF_A_START])
def test_one_that_fails_ends_the_start(bundle: Bundle, kind: str) -> None:
    ran = bundle.rootfs / "ran"
    bundle.config["hooks"] = {kind: [script("echo no disk >&2; exit 3")]}
    said = bundle.refused("touch /ran")
    assert f"{kind} hook /bin/sh exited with 3: no disk" in said
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_one_that_is_not_there(bundle: Bundle, kind: str) -> None:
    bundle.config["hooks"] = {kind: [{"path": "/nowhere/hook"}]}
    said = bundle.refused()
    assert f"{kind} hook /nowhere/hook" in said
    assert "No such file" in said


def test_one_that_takes_too_long_is_killed_with_all_of_its_kind(bundle: Bundle) -> None:
    mark = f"314{os.getpid()}"
    slow = script(f"sleep {mark} & sleep {mark}", timeout=1)
    bundle.config["hooks"] = {"createRuntime": [slow]}
    assert "ran for more than 1000 ms" in bundle.refused()
    deadline = time.monotonic() + 10
    while any(mark in line for line in command_lines()):
        assert time.monotonic() < deadline, "the hook lives on"
        time.sleep(0.01)


def command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace"))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return lines


def test_one_that_leaves_somebody_behind_is_not_waited_for(bundle: Bundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [script("sleep 3 & exit 0")]}
    begun = time.monotonic()
    assert bundle.out("echo hi") == "hi\n"
    assert time.monotonic() - begun < 3


def test_much_output_and_an_environment_of_its_own(bundle: Bundle) -> None:
    """More than a pipe holds; and nothing of the caller's environment."""
    text = "head -c 300000 /dev/zero; env | sort > here; exit $A"
    bundle.config["hooks"] = {"prestart": [script(text, env=["A=0", "B=two"])]}
    bundle.out("true")
    names = {line.split("=")[0] for line in (bundle.directory / "here").read_text().splitlines()}
    assert names >= {"A", "B"}
    assert not names & {"HOME", "PYTEST_CURRENT_TEST"}


def test_a_program_of_the_image_has_no_more_rights_than_the_application(bundle: Bundle) -> None:
    """startContainer's path is the image's choice: it runs as the application would."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    (bundle.rootfs / "tmp").chmod(0o777)
    bundle.config["hooks"] = {
        "startContainer": [script("cat /proc/self/status > /tmp/status", env=["PATH=/bin"])]
    }
    own = facts_of(bundle.out("cat /proc/self/status"))
    hook = facts_of((bundle.rootfs / "tmp/status").read_text())
    assert own == hook
    assert own["Uid"].split()[0] == "1000"


def facts_of(status: str) -> dict[str, str]:
    rows = dict(line.split(":", 1) for line in status.splitlines())
    return {
        name: rows[name] for name in ("Uid", "Gid", "CapBnd", "CapEff", "NoNewPrivs", "Seccomp")
    }


@pytest.mark.parametrize(
    ("hook", "path"),
    [
        ({"path": "relative"}, "$.hooks.prestart[0].path"),
        ({"path": "/bin/true", "timeout": 0}, "$.hooks.prestart[0].timeout"),
        ({"path": "/bin/true", "args": "x"}, "$.hooks.prestart[0].args"),
        ({"args": []}, "$.hooks.prestart[0]"),
    ],
)
def test_hooks_that_cannot_be(bundle: Bundle, hook: dict[str, Any], path: str) -> None:
    bundle.config["hooks"] = {"prestart": [hook]}
    said = bundle.refused()
    assert path in said
    assert "config.md#posix-platform-hooks" in said
