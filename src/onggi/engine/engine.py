"""The one place where things are wired together: an engine over one root directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from onggi.engine.changing import Changing
from onggi.engine.checking import Checking
from onggi.engine.containers import Containers
from onggi.engine.copying import Copying
from onggi.engine.core import Core
from onggi.engine.ending import Ending
from onggi.engine.execs import Execs
from onggi.engine.health import Health
from onggi.engine.image_calls import ImageCalls
from onggi.engine.layout import Layout
from onggi.engine.listing import Listing
from onggi.engine.logs import Logs
from onggi.engine.measure import Measure
from onggi.engine.networks import Networks
from onggi.engine.pausing import Pausing
from onggi.engine.places import Places
from onggi.engine.reconcile import reconcile
from onggi.engine.records import LIVING, Records
from onggi.engine.registry_calls import RegistryCalls
from onggi.engine.remote_calls import RemoteCalls
from onggi.engine.restarts import Restarts
from onggi.engine.runs import Runs
from onggi.engine.settings import read_settings
from onggi.engine.store_calls import StoreCalls
from onggi.engine.sweeping import Sweeping
from onggi.engine.system import System
from onggi.engine.value_calls import ValueCalls
from onggi.engine.views import Views
from onggi.engine.volumes import Volumes
from onggi.image.images import ImageStore
from onggi.runtime.host import probe
from onggi.sandbox.keel import Keel


class Engine:
    """Everything one root directory holds. The caller holds the root's lock."""

    def __init__(self, core: Core) -> None:
        self._core = core
        volumes, measure, networks = Volumes(core), Measure(core), Networks(core)
        self._runs = Runs(core)
        containers = Containers(core, self._runs, volumes, networks)
        core.restarts = Restarts(core, containers.start_again)
        ending = Ending(core, self._runs, containers.start_anew)
        execs = Execs(core)
        core.health = Health(core, execs, ending.react)
        self._runs.on_start += [core.restarts.started, core.health.watch]
        self._runs.on_end += [lambda record, _: core.health.forget(record.id), core.restarts.ended]
        self._handlers = _handlers(core, containers, execs, volumes, networks, measure)
        self._handlers |= _lifecycle(core, ending)

    @classmethod
    async def open(cls, layout: Layout) -> Engine:
        """Open the root, and make records and kernel agree.

        Raises:
            EngineError: the root cannot be used.
        """
        places = Places(layout)
        places.prepare()
        settings = read_settings(layout.config)
        images = ImageStore(places.images, settings=settings.image)
        core = Core(layout, probe(), Records(places.records), images, Keel(), settings)
        engine = cls(core)
        await reconcile(core, engine._runs)
        core.restarts.resume()
        return engine

    def handlers(self) -> Mapping[str, Callable[..., Any]]:
        """Call name → handler, as `engine.api.calls.CALLS` declares them."""
        return self._handlers

    @property
    def stopping(self) -> asyncio.Event:
        """Set when somebody asked the engine to end."""
        return self._core.stopping

    def watch_need(self, tell: Callable[[bool], None]) -> None:
        """Tell, now and whenever it may have changed, whether containers need a living engine:
        whether any runs, or waits to be restarted."""
        core = self._core

        def look(*_: object) -> None:
            tell(bool(core.ends) or core.restarts.any)

        self._runs.on_start.append(look)
        self._runs.on_end.append(look)
        core.restarts.changed = look
        look()

    async def close(self) -> None:
        """Let go of everything; containers run on under their monitors."""
        self._core.stopping.set()
        self._core.restarts.close()
        self._core.health.close()
        await self._core.drain()
        for task in list(self._core.tasks.values()):
            task.detach()
        core = self._core
        if core.fabric.used and not any(
            r.state in LIVING for r in core.records.containers.values()
        ):
            core.fabric.remove_all(core.records.networks.values())
        core.fabric.close()
        # Only an empty one goes: whose containers run on, its cgroup stays.
        self._core.cgroup("none").remove_parent_if_empty()
        self._core.records.close()
        self._core.keel.close()


def _lifecycle(core: Core, ending: Ending) -> dict[str, Callable[..., Any]]:
    changing, pausing = Changing(core), Pausing(core)
    return {
        "containers.signal": ending.signal_session,
        "containers.stop": ending.stop,
        "containers.kill": ending.kill,
        "containers.restart": ending.restart,
        "containers.pause": pausing.pause,
        "containers.unpause": pausing.unpause,
        "containers.rename": changing.rename,
        "containers.update": changing.update,
    }


def _handlers(
    core: Core,
    containers: Containers,
    execs: Execs,
    volumes: Volumes,
    networks: Networks,
    measure: Measure,
) -> dict[str, Callable[..., Any]]:
    listing, logs, copying = Listing(core), Logs(core), Copying(core)
    images, views, system = ImageCalls(core), Views(core, measure), System(core)
    registries, remote = RegistryCalls(core), RemoteCalls(core)
    values, store = ValueCalls(core), StoreCalls(core)
    return {
        "containers.create": containers.create,
        "containers.run": containers.run,
        "containers.start": containers.start,
        "containers.exec": execs.exec,
        "containers.attach": containers.attach,
        "containers.resize": containers.resize,
        "containers.wait": containers.wait,
        "containers.remove": containers.remove,
        "containers.prune": Sweeping(core, containers).containers,
        "containers.list": listing.list_containers,
        "containers.inspect": listing.inspect,
        "containers.top": listing.top,
        "containers.logs": logs.logs,
        "containers.stats": measure.stats,
        "containers.export": images.export,
        "containers.path": copying.path,
        "containers.copy_out": copying.copy_out,
        "containers.copy_in": copying.copy_in,
        "containers.explain": views.explain,
        "containers.view": views.view,
        "images.list": images.list_images,
        "images.inspect": images.inspect,
        "images.tag": images.tag,
        "images.remove": images.remove,
        "images.load": images.load,
        "images.save": images.save,
        "images.import": images.import_,
        "images.bootstrap": images.bootstrap,
        "images.pull": registries.pull,
        "images.push": registries.push,
        "images.copy": registries.copy,
        "images.history": values.history,
        "images.tree": values.tree,
        "images.compare": values.compare,
        "images.validate": values.validate,
        "images.sbom": values.sbom,
        "images.mutate": values.mutate,
        "images.prune": store.prune,
        "images.fsck": store.fsck,
        "containers.commit": values.commit,
        "containers.changes": values.changes,
        "registries.of": registries.registries_of,
        "registries.login": registries.login,
        "remote.tags": remote.tags,
        "remote.catalog": remote.catalog,
        "remote.delete": remote.delete,
        "remote.referrers": remote.referrers,
        "remote.attach": remote.attach,
        "system.usage": store.usage,
        "system.usage_details": store.usage_details,
        "volumes.create": volumes.create,
        "volumes.list": volumes.list_volumes,
        "volumes.inspect": volumes.inspect,
        "volumes.remove": volumes.remove,
        "volumes.prune": volumes.prune,
        "networks.create": networks.create,
        "networks.list": networks.list_networks,
        "networks.inspect": networks.inspect,
        "networks.connect": networks.connect,
        "networks.disconnect": networks.disconnect,
        "networks.remove": networks.remove,
        "networks.prune": networks.prune,
        "containers.ports": core.publishing.ports,
        "events": core.events.listen,
        "system.check": Checking(core).check,
        "system.info": system.info,
        "engine.status": system.status,
        "engine.stop": system.stop,
    }
