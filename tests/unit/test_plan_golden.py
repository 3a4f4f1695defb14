"""Plans compared with what they were when a person last read them, word for word.

`ONGGI_WRITE_GOLDEN=1 pytest tests/unit/test_plan_golden.py` writes them anew: read the difference.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import msgspec
import pytest

from onggi.kernel.capabilities import NAMES
from onggi.runtime.plan import plan, plan_exec
from onggi.runtime.steps import Plan
from onggi.specs.runtime import IdMapping, parse_config
from unit.plan_cases import (
    BUNDLE,
    EXEC,
    GOLDEN,
    HOST,
    HYBRID,
    LINKS,
    OVERLAY,
    VISITOR,
    capabilities,
    default_config,
    namespaces,
    process,
    spec_example,
    with_process,
)

replace = msgspec.structs.replace


def default() -> Plan:
    return plan(default_config(), HOST, OVERLAY)


def default_on_hybrid() -> Plan:
    files = tuple(f"{h.mount_point}/onggi/c1/cgroup.procs" for h in HYBRID.hierarchies)
    request = replace(OVERLAY, cgroup_files=files)
    return plan(default_config(), replace(HOST, cgroups=HYBRID), request)


def privileged() -> Plan:
    config = default_config(
        namespaces=namespaces("mount", "network", "ipc", "pid", "uts"),
        uid_mappings=(),
        gid_mappings=(),
        masked_paths=(),
        readonly_paths=(),
        seccomp=None,
    )
    config = with_process(config, capabilities=capabilities(*NAMES))
    return plan(config, replace(HOST, cgroups=HYBRID), replace(OVERLAY, reap=True))


def network_host() -> Plan:
    kinds = namespaces("mount", "ipc", "pid", "uts", "user", "cgroup")
    return plan(default_config(namespaces=kinds), HOST, OVERLAY)


def networks() -> Plan:
    """Two networks, names answered by the engine, output to the journal."""
    supervision = replace(OVERLAY.supervision, log_name="", journal_socket="/run/journal")
    return plan(default_config(), HOST, replace(OVERLAY, links=LINKS, supervision=supervision))


def joined() -> Plan:
    """A container in another's namespaces, its user namespace among them."""
    kinds = namespaces(
        "mount",
        "uts",
        "cgroup",
        network="/proc/7/ns/net",
        pid="/proc/7/ns/pid",
        user="/proc/7/ns/user",
    )
    config = default_config(namespaces=kinds, uid_mappings=(), gid_mappings=())
    return plan(config, HOST, OVERLAY)


def terminal_unprivileged() -> Plan:
    config = with_process(
        default_config(time_offsets={}), terminal=True, no_new_privileges=True, oom_score_adj=-500
    )
    return plan(config, replace(HOST, unprivileged=True), replace(OVERLAY, reap=True))


def rootless() -> Plan:
    """An ordinary user, with ids that root has granted."""
    mapping = (IdMapping(0, 4242, 1), IdMapping(1, 300000, 65536))
    config = with_process(
        default_config(uid_mappings=mapping, gid_mappings=mapping), oom_score_adj=500
    )
    return plan(config, replace(HOST, unprivileged=True, own_ids=VISITOR), BUNDLE)


def example() -> Plan:
    return plan(spec_example(), replace(HOST, lsms=("apparmor", "selinux")), BUNDLE)


def exec_() -> Plan:
    return plan_exec(process(terminal=True, cwd="/tmp"), default_config(), HOST, EXEC)


def of_a_caller(name: str) -> Plan:
    """What `runc spec`, `ctr oci spec`, podman 4.3 and Docker write; ids and paths made short."""
    config = parse_config((GOLDEN / f"caller-{name}.json").read_bytes())
    return plan(config, replace(HOST, cgroups=HYBRID), replace(BUNDLE, container_id="c1"))


CASES: dict[str, Callable[[], Plan]] = {
    "default": default,
    "default-hybrid": default_on_hybrid,
    "privileged": privileged,
    "network-host": network_host,
    "networks": networks,
    "joined": joined,
    "terminal-unprivileged": terminal_unprivileged,
    "rootless": rootless,
    "spec-example": example,
    "exec": exec_,
    **{
        f"caller-{name}": functools.partial(of_a_caller, name)
        for name in ("runc", "containerd", "podman", "docker", "docker-privileged")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_the_one_that_was_read(name: str) -> None:
    made = CASES[name]()
    text = made.describe() + "".join(f"warning: {warning}\n" for warning in made.warnings)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("ONGGI_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
