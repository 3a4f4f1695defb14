"""One container's cgroup over all hierarchies of the host: made, limited, watched, ended, removed.

It touches only the cgroup that it is named for, that cgroup's own descendants, and its parents on
the way. On v2 the one thing it changes in a parent that is not Onggi's is to enable controllers.
"""

from __future__ import annotations

import errno
import os

from msgspec import structs

from onggi.errors import EngineError, NotFound, Unavailable, Unsupported
from onggi.kernel.cgroups import controllers, making, reading, tasks, unified
from onggi.kernel.cgroups.controllers import CONTROLLERS, Controller
from onggi.kernel.cgroups.directory import Directories, Directory, remove_tree
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.kernel.cgroups.rule import NO_FILES, Change, Lacking, Write
from onggi.kernel.cgroups.stats import CgroupStats, OomEvents
from onggi.kernel.cgroups.undo import Undo, inverse
from onggi.kernel.cgroups.writing import carry_out, refusal
from onggi.specs.runtime import Resources

FREEZE_TIMEOUT_S = 2.0
_NO_RESOURCES = Resources()
_ROUNDS = 64


class Cgroup:
    """The cgroup `path` (`onggi/4f2a…`), relative to the root of every hierarchy.

    It holds no descriptor and remembers nothing: another process may make the next call.
    """

    __slots__ = ("layout", "path")

    def __init__(self, layout: CgroupLayout, path: str) -> None:
        """Raises: InvalidArgument: the path is absolute or leads elsewhere."""
        self.layout = layout
        self.path = making.checked_path(path)

    def create(self, resources: Resources = _NO_RESOURCES, *, everywhere: bool = False) -> None:
        """Make the cgroup in every hierarchy that `resources` need, or `everywhere`; parents are
        made on demand.

        What is left of an earlier cgroup of that name is replaced, if it has no process.
        When it fails, nothing that it made is left but parents.

        Raises:
            AlreadyExists: processes live in a cgroup of that name.
            EngineError: the host refuses.
        """
        made: list[str] = []
        try:
            needed = controllers.hierarchies(self.layout, resources)
            for hierarchy in self.layout.hierarchies if everywhere else needed:
                self._make(hierarchy, resources)
                made.append(self._dir(hierarchy))
            if everywhere:
                self._make_named()
        except BaseException:
            for path in made:
                remove_tree(path)
            raise

    def complete(self, resources: Resources = _NO_RESOURCES) -> None:
        """Make it where `resources` need it and whoever else has made it (systemd) has not.

        Raises:
            EngineError: the host refuses; what was made stays, for `remove`.
        """
        present = self._present()
        for hierarchy in controllers.hierarchies(self.layout, resources):
            if hierarchy not in present:
                self._make(hierarchy, resources)

    def _make_named(self) -> None:
        """Also in hierarchies that limit nothing, so that one which is not ours is done without."""
        for hierarchy in self.layout.named:
            try:
                making.make(hierarchy, self.path, (), frozenset())
            except EngineError:
                continue

    @property
    def exists(self) -> bool:
        """Whether it is there in any hierarchy."""
        return bool(self._present())

    def remove(self) -> bool:
        """Remove it, and cgroups made below it, from every hierarchy. Never waits.

        False: a process is still in it; kill it and call again. A missing cgroup is a removed one.

        Raises:
            EngineError: the host refuses.
        """
        try:
            left = [h for h in self.layout.every if not remove_tree(self._dir(h))]
        except OSError as error:
            raise refusal(error, f"removing cgroup {self.path}") from error
        return not left

    def remove_parent_if_empty(self) -> bool:
        """Remove the parents that are Onggi's and have become empty; True when none is left."""
        hierarchies = self.layout.every
        left = [h for h in hierarchies if not making.remove_own_parents(h, self.path)]
        return not left

    def apply(self, resources: Resources) -> tuple[str, ...]:
        """Put the resources in force; returns one warning for each that this host lacks.

        May be called again: what is not named stays as it is. A hierarchy that was not needed until
        now is joined by all processes of the cgroup. Everything is checked before the first write.

        Raises:
            NotFound: the cgroup does not exist.
            InvalidArgument: resources that are wrong.
            Unsupported: resources that this version cannot hold.
            EngineError: the kernel refuses a value; changes before it are in force.
        """
        with Directories() as directories:
            todo, warnings = self._todo(resources, directories)
            for directory, changes in todo:
                warnings += carry_out(directory, changes)
            self._unify(resources, directories)
        return tuple(warnings)

    def update(self, resources: Resources) -> tuple[tuple[str, ...], Undo]:
        """`apply` for limits of what runs: when a value is refused, those before are put back.

        Returns the warnings, and what `restore` takes. Rules of devices stay as they are: they
        cannot be read back.

        Raises: as `apply`; what was in force before is in force then.
        """
        resources = structs.replace(resources, devices=())
        with Directories() as directories:
            todo, warnings = self._todo(resources, directories)
            undo = tuple((d.path, inverse(changes, d)) for d, changes in reversed(todo))
            try:
                for directory, changes in todo:
                    warnings += carry_out(directory, changes)
            except EngineError:
                self.restore(undo)
                raise
        return tuple(warnings), undo

    def restore(self, undo: Undo) -> None:
        """Put back what an `update` has changed.

        Raises:
            EngineError: the kernel refuses a value that it had before.
        """
        for path, writes in undo:
            with Directory(path) as directory:
                carry_out(directory, writes)

    def _todo(
        self, resources: Resources, directories: Directories
    ) -> tuple[list[tuple[Directory, tuple[Change, ...]]], list[str]]:
        """What to do where; and a warning for each thing that this host lacks altogether."""
        if not self.exists:
            raise self._missing()
        self._check_unified(resources)
        if self.layout.v2:
            making.enable(self.layout.v2, self.path, *self._v2_controllers(resources))
        todo: list[tuple[Directory, tuple[Change, ...]]] = []
        warnings: list[str] = []
        for controller in CONTROLLERS:
            hierarchy = controllers.place(self.layout, controller)
            if hierarchy is None:
                warnings += self._not_here(controller, resources)
            else:
                directory = directories.get(self._dir(hierarchy))
                changes = self._changes(controller, resources, hierarchy, directory)
                todo.append((directory, changes))
        return todo, warnings

    def _unify(self, resources: Resources, directories: Directories) -> None:
        v2 = self.layout.v2
        if resources.unified and v2:
            lacking = carry_out(directories.get(self._dir(v2)), unified.writes(resources))
            if lacking:
                raise Unsupported(f"unified resource: {lacking[0]}")

    def procs_paths(self) -> tuple[str, ...]:
        """Every absolute `cgroup.procs` into which a process id is written from outside.

        The first of such writes waits for an RCU grace period, 5 to 25 ms. `open_v2` and
        `task_paths` together are the way that does not wait.
        """
        return tuple(f"{self._dir(h)}/cgroup.procs" for h in self._present())

    def task_paths(self) -> tuple[str, ...]:
        """Every absolute v1 `tasks` file: a process of one thread joins by writing "0" itself.

        Such a write waits for nobody (10 µs). v2 is joined with `open_v2` when cloning. Whoever
        opened the file must be root on the host, not whoever writes.
        Source: linux kernel/cgroup/cgroup.c, cgroup_procs_write_start.
        """
        return tuple(f"{self._dir(h)}/tasks" for h in self._present() if h.version == 1)

    def open_v2(self) -> int | None:
        """A descriptor for CLONE_INTO_CGROUP, owned by the caller; None where v2 is not mounted.

        Raises:
            NotFound: the cgroup does not exist.
        """
        if self.layout.v2 is None:
            return None
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._dir(self.layout.v2), flags)
        except FileNotFoundError:
            raise self._missing() from None

    def processes(self) -> tuple[int, ...]:
        """Ids of all processes in it and in cgroups below it, ascending; none when it is gone."""
        found = {pid for h in self._present() for pid in tasks.processes(self._dir(h))}
        return tuple(sorted(found))

    def stats(self) -> CgroupStats:
        """What has been used so far; None for a part that the host does not count.

        Raises:
            NotFound: the cgroup does not exist.
        """
        if not self.exists:
            raise self._missing()
        return reading.read_stats(self.layout, self.path)

    def oom(self) -> OomEvents | None:
        """How many processes the kernel killed here for memory; None when the host cannot tell."""
        return reading.read_oom(self.layout, self.path)

    def freeze(self, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
        """Stop every process; on return all stand still.

        Raises:
            NotFound: the cgroup does not exist.
            Unavailable: a process did not stop in time; all go on.
            Unsupported: the host has no freezer.
        """
        hierarchy = self._freezer()
        with Directory(self._dir(hierarchy)) as directory:
            try:
                tasks.freeze(directory, version=hierarchy.version, timeout_s=timeout_s)
            except FileNotFoundError:
                raise self._missing() from None
            except OSError as error:
                raise refusal(error, f"freezing cgroup {self.path}") from error

    def frozen(self) -> bool:
        """Whether its processes stand still, or are about to, by whichever freezer; False where
        none could."""
        for hierarchy in self._freezers():
            with Directory(self._dir(hierarchy)) as directory:
                if tasks.freezing(directory, version=hierarchy.version):
                    return True
        return False

    def freezer_file(self) -> str:
        """Where it is written whether it stands still: `cgroup.freeze` or v1's `freezer.state`.

        Raises:
            Unsupported: the host has no freezer.
        """
        hierarchy = self._freezer()
        name = "cgroup.freeze" if hierarchy.version == 2 else "freezer.state"
        return f"{self._dir(hierarchy)}/{name}"

    def thaw(self) -> None:
        """Let every process go on, also where another freezer of the host holds it. Idempotent.

        Raises:
            NotFound: the cgroup does not exist.
            Unsupported: the host has no freezer.
        """
        for hierarchy in self._freezers() or [self._freezer()]:
            with Directory(self._dir(hierarchy)) as directory:
                try:
                    tasks.thaw(directory, version=hierarchy.version)
                except FileNotFoundError:
                    raise self._missing() from None
                except OSError as error:
                    raise refusal(error, f"thawing cgroup {self.path}") from error

    def kill(self) -> None:
        """Send SIGKILL to every process in it and below it, frozen ones and ones being forked too.

        Does not wait for their end. A cgroup that does not exist has nobody to kill.

        Raises:
            Unavailable: processes are forked faster than they can be killed.
            EngineError: the host refuses.
        """
        swept = self._kill_v2()
        rest = [h for h in self._present() if not (swept and h.version == 2)]
        if not rest:
            return
        frozen = not swept and self._try_freeze()
        try:
            self._kill_each(rest)
        finally:
            if frozen:
                self.thaw()

    def _dir(self, hierarchy: Hierarchy) -> str:
        return f"{hierarchy.mount_point}/{self.path}"

    def _present(self) -> list[Hierarchy]:
        return [h for h in self.layout.every if os.path.isdir(self._dir(h))]

    def _missing(self) -> NotFound:
        return NotFound(f"cgroup {self.path} does not exist")

    def _v2_controllers(self, resources: Resources) -> tuple[tuple[str, ...], frozenset[str]]:
        """Those to enable, and those of them without which the resources cannot be applied."""
        asked = {c.v2_name for c in CONTROLLERS if controllers.asked_for(self.layout, c, resources)}
        wanted = controllers.v2_controllers(self.layout, resources)
        return wanted, frozenset(asked.union(unified.controllers(resources)))

    def _make(self, hierarchy: Hierarchy, resources: Resources) -> None:
        if hierarchy.version == 2:
            making.make(hierarchy, self.path, *self._v2_controllers(resources))
        else:
            making.make(hierarchy, self.path, (), frozenset())

    def _changes(
        self,
        controller: Controller,
        resources: Resources,
        hierarchy: Hierarchy,
        directory: Directory,
    ) -> tuple[Change, ...]:
        """What to do for one controller, in a hierarchy which the cgroup has joined by then."""
        rule = controllers.rule(self.layout, controller)
        changes = rule(resources, directory)
        if all(isinstance(c, Lacking) for c in changes) or directory.exists:
            return changes
        self._make(hierarchy, resources)
        self._move_into(directory)
        return rule(resources, directory)

    def _move_into(self, directory: Directory) -> None:
        """Bring every process of the cgroup into a hierarchy that it joins late."""
        for _ in range(_ROUNDS):
            outside = set(self.processes()) - tasks.members(directory.path)
            if not outside:
                return
            for pid in outside:
                try:
                    directory.write("cgroup.procs", str(pid))
                except ProcessLookupError:
                    continue
                except OSError as error:
                    raise refusal(error, f"moving process {pid} to {directory.path}") from error
        raise Unavailable(f"processes of {self.path} are forked faster than they can be moved")

    def _not_here(self, controller: Controller, resources: Resources) -> list[str]:
        changes = controllers.rule(self.layout, controller)(resources, NO_FILES)
        name = controller.v2_name if self.layout.mode == "v2" else controller.v1_name
        why = self.layout.why_missing(name)
        return [
            c.text
            if isinstance(c, Lacking)
            else f"no {name} controller on this host ({why}): {_shown(c)} is not applied"
            for c in changes
        ]

    def _check_unified(self, resources: Resources) -> None:
        unified.writes(resources)
        offered = self.layout.v2.controllers if self.layout.v2 else ()
        for name in unified.controllers(resources):
            if name not in offered:
                raise Unsupported(
                    f"unified resource of the {name} controller, which is not on cgroup v2 here",
                    hint="use the resource's own field, or a host with cgroup v2 alone",
                )

    def _freezers(self) -> list[Hierarchy]:
        """Those of the host that it is in, ours first."""
        places = [self.layout.v2] if self.layout.core_freezer and self.layout.v2 else []
        if first := self.layout.hierarchy("freezer", ""):
            places.append(first)
        return [hierarchy for hierarchy in places if os.path.isdir(self._dir(hierarchy))]

    def _freezer(self) -> Hierarchy:
        if self.layout.core_freezer and self.layout.v2:
            return self.layout.v2
        found = self.layout.hierarchy("freezer", "")
        if found is None:
            raise Unsupported(
                f"cgroup {self.path} cannot be frozen: {self.layout.why_missing('freezer')}",
                hint="mount the v1 freezer hierarchy, or use Linux 5.2 with cgroup v2",
            )
        return found

    def _kill_v2(self) -> bool:
        """One write kills the subtree, forks included (Linux 5.14). False: not possible here."""
        if self.layout.v2 is None:
            return False
        with Directory(self._dir(self.layout.v2)) as directory:
            try:
                directory.write("cgroup.kill", "1")
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return False
                raise refusal(error, f"killing cgroup {self.path}") from error
        return True

    def _try_freeze(self) -> bool:
        """Hold everyone still while they are killed one by one; without it, forks are chased."""
        try:
            self.freeze()
        except (Unsupported, Unavailable, NotFound):
            return False
        return True

    def _kill_each(self, hierarchies: list[Hierarchy]) -> None:
        killed: set[int] = set()
        for _ in range(_ROUNDS):
            before = len(killed)
            for hierarchy in hierarchies:
                killed |= tasks.kill_each(self._dir(hierarchy), killed)
            if len(killed) == before:
                return
        raise Unavailable(
            f"processes of {self.path} are forked faster than they can be killed",
            hint="set a pids limit, then kill again",
        )


def _shown(change: Change) -> str:
    return f"{change.file} = {change.value}" if isinstance(change, Write) else "a device program"
