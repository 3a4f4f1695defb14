"""`srun --container=BUNDLE`: a one-node Slurm of Debian's packages runs bundles through us."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance import callers_rig as callers
from registry_rig import need
from visitor_rig import write_runtime

NOBODY = 65534

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SelectType=select/cons_tres
NodeName=localhost CPUs=1 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES State=UP
"""
# As Slurm's page on containers has it: containers are run in the foreground by their step.
CONTAINERS = """
RunTimeQuery="{runtime} --root={place}/oci/%u state %n.%u.%j.%s.%t"
RunTimeKill="{runtime} --root={place}/oci/%u kill -a %n.%u.%j.%s.%t"
RunTimeDelete="{runtime} --root={place}/oci/%u delete --force %n.%u.%j.%s.%t"
RunTimeRun="{runtime} --root={place}/oci/%u run --bundle %b %n.%u.%j.%s.%t"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The cluster's directory, with a bundle in it."""
    need("slurmctld", "slurmctld")
    need("slurmd", "slurmd")
    need("munged", "munge")
    with callers.place() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def srun(place: Path) -> Iterator[callers.Caller]:
    """A cluster of one node, idle."""
    _write(place)
    munge = ["munged", "--foreground", "--force", f"--key-file={place}/munge.key"]
    munge += [f"--socket={place}/munge.sock", f"--pid-file={place}/munged.pid"]
    munge += [f"--log-file={place}/munged", f"--seed-file={place}/munge.seed"]
    configuration = str(place / "slurm.conf")
    environment = {"SLURM_CONF": configuration}
    info = callers.Caller(["sinfo", "--noheader", "--format=%T"], environment)

    def answers() -> bool:
        return info.run(check=False).returncode == 0

    def idle() -> bool:
        return info.run(check=False).stdout.strip() == "idle"

    node = ["slurmd", "-f", configuration, "-N", "localhost", "-D"]
    with (
        _resolvable(),
        callers.daemon(munge, place, (place / "munge.sock").exists),
        callers.daemon(["slurmctld", "-f", configuration, "-D"], place, answers, **environment),
        callers.daemon(node, place, idle, **environment),
    ):
        yield callers.Caller(["srun", "--quiet"], environment)


@contextlib.contextmanager
def _resolvable() -> Iterator[None]:
    """Slurm asks for names only of families of which a host has an address besides 127.0.0.1."""
    words = ["192.0.2.1/32", "dev", "lo"]
    subprocess.run(["ip", "address", "add", *words], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "del", *words], check=True)


def _write(place: Path) -> None:
    ports = []
    with socket.socket() as one, socket.socket() as two:
        for listener in (one, two):
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    for name in ("state", "spool", "oci", "bundle"):
        (place / name).mkdir()
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o600)
    (place / "slurm.conf").write_text(CONFIGURATION.format(place=place, ports=ports))
    for name in ("root", "nobody"):
        (place / "oci" / name).mkdir()
        shutil.chown(place / "oci" / name, name)
    runtime = place / "runtime"
    others = write_runtime(place)
    of_root = f'[ $(id -u) = 0 ] && exec {callers.RUNTIME} "$@"'
    runtime.write_text(f'#!/bin/sh\n{of_root}\nexec {others} "$@"\n')
    runtime.chmod(0o755)
    (place / "oci.conf").write_text(CONTAINERS.format(place=place, runtime=runtime))
    callers.bundle(place / "bundle", "true")


def test_a_step_runs_in_the_bundle(srun: callers.Caller, place: Path) -> None:
    container = f"--container={place}/bundle"
    said = srun.out(container, "sh", "-c", "echo from $0; readlink /proc/self/ns/pid", "inside")
    word, namespace = said.splitlines()
    assert word == "from inside"
    assert namespace != os.readlink("/proc/self/ns/pid")


def test_its_exit_code_is_the_steps(srun: callers.Caller, place: Path) -> None:
    done = srun.run(f"--container={place}/bundle", "sh", "-c", "exit 3", check=False)
    assert done.returncode == 3


def test_nothing_stays(srun: callers.Caller, place: Path) -> None:
    srun.run(f"--container={place}/bundle", "true")
    callers.until(
        lambda: not list((place / "oci/root").iterdir()), "the step's container is deleted"
    )


def test_an_ordinary_users_step(srun: callers.Caller, place: Path) -> None:
    """Slurm calls the runtime as the user, who is in no namespace of the own."""
    bundle = place / "users"
    bundle.mkdir()
    callers.root_file_system(bundle / "rootfs")
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", bundle], check=True)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    write = [*as_nobody, place / "runtime", "spec", "--rootless", "--bundle", bundle]
    subprocess.run(write, check=True)
    user = callers.Caller([*as_nobody, *srun.words], srun.environment)
    said = user.out(f"--container={bundle}", "--chdir=/", "cat", "/proc/self/uid_map")
    assert said.split() == ["0", str(NOBODY), "1"]
    _nothing_stays_in(place / "oci/nobody")


def _nothing_stays_in(root: Path) -> None:
    callers.until(lambda: not list(root.iterdir()), f"containers are deleted from {root}")
