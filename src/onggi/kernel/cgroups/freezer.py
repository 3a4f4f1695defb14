"""Stop and go on: the freezer controller of v1, the core's `cgroup.freeze` on v2 (Linux 5.2).

A frozen process stays until it is thawed; on v1 not even SIGKILL ends it before, on v2 it does.
Source: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst,
cgroup-v2.rst#core-interface-files.
"""

from __future__ import annotations

from onggi.kernel.cgroups.rule import Files, Write, flat_keyed

FREEZE_V1 = Write("freezer.state", "FROZEN")
THAW_V1 = Write("freezer.state", "THAWED")
FREEZE_V2 = Write("cgroup.freeze", "1")
THAW_V2 = Write("cgroup.freeze", "0")


def frozen_v1(files: Files) -> bool:
    """Whether every task stands still. FREEZING is not yet; reading the file also moves it on."""
    return (files.read("freezer.state") or "").strip() == "FROZEN"


def frozen_v2(files: Files) -> bool:
    """Whether every task stands still."""
    return flat_keyed(files.read("cgroup.events")).get("frozen") == 1
