"""Changes of a container that is there: its name, its limits, its restart policy, its ports.

A change of a running container is in the kernel first and in the record then; what fails leaves
what was before. Source: docker-update(1), docker-rename(1).
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from onggi.engine.api.changes import RenameRequest, UpdateAnswer, UpdateRequest
from onggi.engine.api.requests import Nothing
from onggi.engine.api.spec import ContainerSpec, ResourceSpec
from onggi.engine.core import Core
from onggi.engine.devices import throttle_numbers
from onggi.engine.names import check_name
from onggi.engine.records import ContainerRecord
from onggi.engine.resources import check_host, compose_resources
from onggi.engine.restarts import check_restart
from onggi.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from onggi.kernel.cgroups.cpuset import online
from onggi.kernel.cgroups.undo import Undo
from onggi.specs.runtime import Linux, Resources, encode_config, parse_config


class Changing:
    """Changes of one engine's containers; each public coroutine is a call of `engine.api`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # -- its name ----------------------------------------------------------------------------

    async def rename(self, request: RenameRequest, _fds: list[int]) -> Nothing:
        """Give a container another name; the old one is free at once.

        Raises:
            AlreadyExists: the name is taken. InvalidArgument: it is none, or the same.
        """
        core = self._core
        record = core.records.find_container(request.target)
        name = check_name(request.name, "container")
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            if name == record.name:
                raise InvalidArgument(f"container {name} has that name already")
            holder = core.records.names.get(name)
            if holder is not None:
                raise AlreadyExists(
                    f"the name {name!r} is taken by container {holder[:12]}",
                    hint=f"remove it with onggi rm {name}, or choose another name",
                )
            renamed = msgspec.structs.replace(record, name=name)
            core.records.update_container(renamed)
            if core.running(record.id) is not None:
                for place in renamed.endpoints:
                    core.endpoints.name(renamed, place)
        core.tell(renamed, "rename", oldName=record.name)
        return Nothing()

    # -- limits, policy, ports ---------------------------------------------------------------

    async def update(self, request: UpdateRequest, _fds: list[int]) -> UpdateAnswer:
        """Change limits, restart policy and published ports, now and for later starts: all of it,
        or nothing and an error.

        Raises:
            InvalidArgument: limits that contradict each other. FailedPrecondition: more memory is
            in use than the new limit. EngineError: the kernel refuses a limit, or a port is taken.
        """
        core = self._core
        record = core.records.find_container(request.target)
        async with core.lock(record.id):
            record = core.records.find_container(record.id)
            spec = _changed(record.spec, request)
            limits = _limits(spec)
            living = core.running(record.id) is not None
            warnings: tuple[str, ...] = ()
            undo: Undo = ()
            if request.resources is not None and living:
                self._check_memory(record, request.resources)
                cgroup = core.cgroup(record.id)
                warnings, undo = await asyncio.to_thread(cgroup.update, limits)
            if request.publish or request.unpublish:
                spec = await self._publish(record.id, spec, request, undo)
            self._store(record.id, spec, request, limits)
        core.tell(record, "update")
        return UpdateAnswer(warnings=warnings)

    async def _publish(
        self, container_id: str, spec: ContainerSpec, request: UpdateRequest, undo: Undo
    ) -> ContainerSpec:
        core = self._core
        try:
            record = core.publishing.change(
                core.records.containers[container_id], request.publish, request.unpublish
            )
        except BaseException:
            await asyncio.to_thread(core.cgroup(container_id).restore, undo)
            raise
        return msgspec.structs.replace(spec, ports=record.spec.ports)

    def _check_memory(self, record: ContainerRecord, wanted: ResourceSpec) -> None:
        """cgroup v2 takes any limit, and kills for it; v1 takes back what it can and refuses."""
        used = self._core.cgroup(record.id).stats().memory
        if used is None or not wanted.memory_bytes:
            return
        held_bytes = used.anon_bytes
        if 0 < wanted.memory_bytes < held_bytes and not used.swap_bytes:
            raise FailedPrecondition(
                f"a memory limit of {wanted.memory_bytes} bytes is below the {held_bytes} bytes "
                f"that container {record.name} holds",
                hint="choose a higher limit, or restart the container with it",
            )

    def _store(
        self, container_id: str, spec: ContainerSpec, request: UpdateRequest, limits: Resources
    ) -> None:
        core = self._core
        record = core.records.containers[container_id]
        fields: dict[str, Any] = {"spec": spec}
        if request.resources is not None and record.config:
            fields["config"] = _with_limits(record.config, limits)
        if request.restart is not None and core.running(container_id) is None:
            # A policy holds from the next start on, and one that waits goes by its new one.
            waits = core.restarts.waits(container_id) and spec.restart.policy != "no"
            if not waits:
                core.restarts.forget(container_id)
                fields["stopped_by_user"] = True
        core.records.update_container(msgspec.structs.replace(record, **fields))


def _changed(spec: ContainerSpec, request: UpdateRequest) -> ContainerSpec:
    """The specification as the request wants it. Raises: InvalidArgument."""
    if request.restart is not None:
        spec = msgspec.structs.replace(spec, restart=request.restart)
        check_restart(spec)
    if request.resources is not None:
        limits = merged(spec.resources, request.resources)
        check_host(limits, *online())
        spec = msgspec.structs.replace(spec, resources=limits)
    return spec


def _with_limits(config: bytes, limits: Resources) -> bytes:
    """A runtime configuration with these limits in place of its own."""
    parsed = parse_config(config)
    linux = parsed.linux or Linux()
    devices = linux.resources.devices if linux.resources else ()
    resources = msgspec.structs.replace(limits, devices=devices)
    linux = msgspec.structs.replace(linux, resources=resources)
    return encode_config(msgspec.structs.replace(parsed, linux=linux))


def merged(old: ResourceSpec, new: ResourceSpec) -> ResourceSpec:
    """The old limits with those that the new ones name. `--cpus` and a quota replace each other."""
    given = {
        field.name: value
        for field in msgspec.structs.fields(ResourceSpec)
        if (value := getattr(new, field.name)) != field.default
    }
    if "nano_cpus" in given:
        old = msgspec.structs.replace(old, cpu_quota_us=0, cpu_period_us=0)
    elif given.keys() & {"cpu_quota_us", "cpu_period_us"}:
        old = msgspec.structs.replace(old, nano_cpus=0)
    if "memory_bytes" in given and "memory_swap_bytes" not in given and old.memory_swap_bytes > 0:
        old = msgspec.structs.replace(old, memory_swap_bytes=0)
    return msgspec.structs.replace(old, **given)


def _limits(spec: ContainerSpec) -> Resources:
    """The limits without rules of devices, which are not changed. Raises: as compose_resources."""
    resources = compose_resources(spec, (), throttle_numbers(spec), {})
    return msgspec.structs.replace(resources, devices=())
