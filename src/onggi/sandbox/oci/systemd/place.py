"""A container's place in a scope: made, limited by systemd and directly, and settled.

What systemd has no words for (rates of devices, `unified`, device nodes, v1 hierarchies that it
leaves alone) is put in force as in cgroups that are made directly, in the cgroup of the scope; the
rest once more too, because systemd rounds.
"""

from __future__ import annotations

from contextlib import ExitStack

from msgspec import structs

from onggi.errors import AlreadyExists, EngineError
from onggi.kernel.cgroups.driver import Cgroup
from onggi.runtime.printable import printable
from onggi.sandbox.oci import limits
from onggi.sandbox.oci.systemd.annotations import properties_of
from onggi.sandbox.oci.systemd.properties import device_names, devices_of
from onggi.sandbox.oci.systemd.scopes import Holder, Scope
from onggi.sandbox.oci.systemd.units import named, unit_of
from onggi.specs.runtime import Config, Linux, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from onggi.runtime.host import HostFacts
    from onggi.sandbox.oci.records import Directory, Record
    from onggi.sandbox.oci.systemd.properties import Properties

_TASKS_FILE = "pids.max"


class ScopePlace(limits.Place):
    """A place in a scope. A context manager: left, nothing holds the place but the container."""

    def __init__(
        self,
        directory: Directory,
        record: Record,
        config: Config,
        host: HostFacts,
        warn: Callable[[str], None],
        *,
        user: bool,
    ) -> None:
        """Make the scope. On record before that is what `remove` needs.

        Raises:
            SpecError: a path or an annotation that is wrong. AlreadyExists: the unit's name is
            taken; nothing is on record then. EngineError: systemd or the host refuses.
        """
        unit = unit_of((config.linux or Linux()).cgroups_path, record.id, user=user)
        others = properties_of(record.annotations) | _devices(config, host)
        self._first, self._last = _without_tasks(limits.resources_of(config), host)
        self._warn = warn
        self._unified = host.cgroups.mode == "v2"
        self._unprivileged = host.unprivileged
        with ExitStack() as stack:
            self._scope = stack.enter_context(Scope(unit))
            record.systemd, record.cgroup = str(unit), self._scope.path()
            directory.write(record)
            cgroup = Cgroup(host.cgroups, record.cgroup)
            super().__init__(cgroup)
            self._holder = stack.enter_context(Holder())
            try:
                self._scope.start(
                    description_of(directory),
                    self._holder.pid,
                    self._first,
                    others,
                    unified=self._unified,
                )
            except AlreadyExists:
                record.systemd = record.cgroup = ""  # it is another's
                raise
            self._apply(self._first)
            limits.delegate(cgroup, config, host, warn)
            self._stack = stack.pop_all()

    def settle(self) -> None:
        """The container's process is there: nobody else is to be, and processes are counted."""
        self._holder.end()
        if self._last != Resources():
            self._scope.update(self._last, unified=self._unified)
            # with one limit systemd writes them all once more, rounded
            self._apply(structs.replace(self._first, devices=()))
            self._apply(self._last)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _apply(self, resources: Resources) -> None:
        assert self.cgroup is not None
        try:
            self.cgroup.complete(resources)
            for warning in self.cgroup.apply(resources):
                self._warn(warning)
        except EngineError as error:
            if not self._unprivileged:
                raise
            self._warn(f"not every limit is in force: {error}")


def description_of(directory: Directory) -> str:
    """What systemd calls the unit, and by which it is told from others of its name."""
    return f"onggi-runtime container {printable(directory.path)}"


def _devices(config: Config, host: HostFacts) -> Properties:
    """On v1 systemd allows all of them at its next reload, unless it knows better."""
    found = host.cgroups.hierarchy("devices", "")
    if found is None or found.version == 2:
        return {}
    with open("/proc/devices", encoding="utf-8") as file:
        return devices_of(limits.resources_of(config).devices, device_names(file.read()))


def _without_tasks(resources: Resources, host: HostFacts) -> tuple[Resources, Resources]:
    """All but the limit of processes, of which there is one more at first; and that limit."""
    files = resources.unified
    last = {name: value for name, value in files.items() if name == _TASKS_FILE}
    first = {name: value for name, value in files.items() if name != _TASKS_FILE}
    devices = () if host.unprivileged else resources.devices  # a program is not a user's to load
    return (
        structs.replace(resources, pids=None, unified=first, devices=devices),
        Resources(pids=resources.pids, unified=last),
    )


def update(record: Record, cgroup: Cgroup, resources: Resources) -> tuple[str, ...]:
    """Change limits in the cgroup and in systemd; what is refused by either changes nothing.

    Raises:
        EngineError: a value is refused, or systemd does not answer.
    """
    warnings, undo = cgroup.update(resources)
    try:
        with Scope(named(record.systemd)) as scope:
            told = scope.update(resources, unified=cgroup.layout.mode == "v2")
    except BaseException:
        cgroup.restore(undo)
        raise
    if told:
        cgroup.update(resources)  # once more: systemd has written its own, rounded
    return warnings


def remove(directory: Directory, record: Record, empty: Callable[[], None]) -> None:
    """Remove a container's unit; `empty` ends what is in its cgroup, and removes that.

    If it was never found out whether the unit could be made, one that is another's is left alone.

    Raises:
        EngineError: systemd refuses, or does not answer.
    """
    with Scope(named(record.systemd)) as scope:
        if record.pid or scope.description() in ("", description_of(directory)):
            empty()
            scope.remove()
