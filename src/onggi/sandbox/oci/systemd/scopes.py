"""A container's scope, from its start to its end.

A scope needs a process from the first. That is not yet the container's: keel waits in it (`hold`)
until the container's own process was born there, and ends. So the limits are in force before that
process is made, as with cgroups that are made directly; and if we are killed, keel ends, the scope
is empty, and systemd takes it away.
Source: systemd.scope(5), systemd.io/CGROUP_DELEGATION, org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os

from onggi.errors import AlreadyExists, FailedPrecondition, Unavailable
from onggi.sandbox.keel import Keel, spawn
from onggi.sandbox.oci.systemd.bus import TIMEOUT_S, Bus, RefusedError, connect
from onggi.sandbox.oci.systemd.properties import limits_of, scope_properties

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.sandbox.oci.systemd.properties import Properties
    from onggi.sandbox.oci.systemd.units import Unit
    from onggi.specs.runtime import Resources

_NAME = "org.freedesktop.systemd1."
_NO_SUCH_UNIT = f"{_NAME}NoSuchUnit"
_UNIT_EXISTS = f"{_NAME}UnitExists"


class Holder:
    """A process that does nothing, and ends with us at the latest. A context manager."""

    def __init__(self) -> None:
        """Raises: ResourceExhausted: no descriptors, memory or processes left."""
        theirs, self._ours = os.pipe2(os.O_CLOEXEC)
        nothing = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
        try:
            with Keel() as keel:
                self.pid = spawn(keel, "hold", [theirs], nothing)
        except BaseException:
            os.close(self._ours)
            raise
        finally:
            os.close(theirs)

    def end(self) -> None:
        """Let it end, and wait for it. Idempotent."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1
            os.waitpid(self.pid, 0)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Scope:
    """What asks systemd about one unit. A context manager that owns the connection."""

    def __init__(self, unit: Unit, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s`: of each answer, and of each job.

        Raises:
            Unsupported, Unavailable, RefusedError: as `bus.connect`.
        """
        self.unit = unit
        self._bus: Bus = connect(user=unit.user, timeout_s=timeout_s)

    def __enter__(self) -> Scope:
        return self

    def __exit__(self, *error: object) -> None:
        self._bus.__exit__(*error)

    def path(self) -> str:
        """Where its cgroup is to be, below the root of the hierarchy."""
        return f"{self._bus.property('ControlGroup')}/{self.unit.path}".lstrip("/")

    def start(
        self,
        description: str,
        pid: int,
        resources: Resources,
        others: Properties,
        *,
        unified: bool,
    ) -> None:
        """Start the scope around a process, with limits and other properties; wait until it is.

        What is left of a failed one of that name is cleared away.

        Raises:
            AlreadyExists: a unit of that name is active. InvalidArgument: a limit is wrong.
            FailedPrecondition: systemd cannot. Unavailable: it does not in time.
        """
        properties = scope_properties(description, self.unit.slice, pid, unified=unified)
        properties |= others
        properties |= self._limits(resources, unified=unified)
        body: tuple[Any, ...] = (self.unit.name, "replace", _encoded(properties), [])
        try:
            (job,) = self._bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except RefusedError as error:
            if error.name != _UNIT_EXISTS:
                raise
            self._reset()
            job = self._again(body)
        self._wait(job)

    def update(self, resources: Resources, *, unified: bool) -> bool:
        """Tell systemd of new limits, until the next boot; False: it has no words for any.

        Raises:
            RefusedError: it refuses; nothing is changed. InvalidArgument: a limit is wrong.
        """
        properties = self._limits(resources, unified=unified)
        if properties:
            body = (self.unit.name, True, _encoded(properties))
            self._bus.call("SetUnitProperties", "sba(sv)", body)
        return bool(properties)

    def description(self) -> str:
        """What the unit of this name says that it is; empty: there is none."""
        try:
            (path,) = self._bus.call("GetUnit", "s", (self.unit.name,))
        except RefusedError as error:
            if error.name != _NO_SUCH_UNIT:
                raise
            return ""
        return self._bus.property("Description", path, "Unit")

    def remove(self) -> None:
        """Stop the unit, and have it forgotten. One that is not there is a removed one.

        Raises:
            Unavailable: it does not stop in time. RefusedError: not to us.
        """
        try:
            (job,) = self._bus.call("StopUnit", "ss", (self.unit.name, "replace"))
            self._bus.end_of(job)
        except RefusedError as error:
            if error.name != _NO_SUCH_UNIT:
                raise
        self._reset()

    def _limits(self, resources: Resources, *, unified: bool) -> Properties:
        return limits_of(resources, unified=unified, version=_number(self._bus.property("Version")))

    def _again(self, body: tuple[Any, ...]) -> str:
        try:
            (job,) = self._bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except RefusedError as error:
            if error.name != _UNIT_EXISTS:
                raise
            raise AlreadyExists(
                f"systemd has an active unit {self.unit.name}",
                hint=f"is a container of that name running? else: systemctl stop {self.unit.name}",
            ) from None
        return str(job)

    def _wait(self, job: str) -> None:
        try:
            result = self._bus.end_of(job)
        except Unavailable as error:
            raise Unavailable(
                f"unit {self.unit.name} is not started: {error.message}", hint=error.hint
            ) from None
        if result != "done":
            raise FailedPrecondition(
                f"systemd cannot start unit {self.unit.name}: its job ended with {result!r}",
                hint=f"journalctl -u {self.unit.name} has systemd's reason",
            )

    def _reset(self) -> None:
        """A unit that failed stays until somebody has seen it."""
        try:
            self._bus.call("ResetFailedUnit", "s", (self.unit.name,))
        except RefusedError as error:
            if error.name != _NO_SUCH_UNIT:
                raise


def _encoded(properties: Properties) -> list[tuple[str, tuple[str, Any]]]:
    return list(properties.items())


def _number(version: str) -> int:
    """`252.39-1~deb12u2`, `v245` → the number."""
    digits = version.lstrip("v")
    end = next((n for n, character in enumerate(digits) if not character.isdecimal()), len(digits))
    return int(digits[:end] or 0)
