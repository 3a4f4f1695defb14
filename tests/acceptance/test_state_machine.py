"""Names, networks, ports, volumes and lifecycles against a model: whatever eight clients do in
whatever order, states are legal, nobody waits for ever, and a name is free when `rm` returns.

ONGGI_STEPS says how many steps each run has, ONGGI_RUNS how many runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from acceptance import rig, wire_rig
from acceptance.rig import Onggi, until
from onggi.errors import EngineError
from onggi.faces.cli.client import Client

NAMES = st.sampled_from(["a", "b", "c", "d"])
NETWORKS = st.sampled_from(["n1", "n2"])
PORTS = st.sampled_from([18301, 18302])
VOLUMES = st.sampled_from(["v1", "v2"])
STEPS = int(os.environ.get("ONGGI_STEPS", "25"))
RUNS = int(os.environ.get("ONGGI_RUNS", "4"))
#: From the model's point of view; `ended` may be created or exited.
RUNNING, PAUSED, ENDED = "running", "paused", "ended"
_onggi: Onggi


class Machine(RuleBasedStateMachine):
    """One engine and what it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.client: Client = wire_rig.client(_onggi)
        self.state: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.volumes: dict[str, str] = {}
        self.networks: set[str] = set()
        self.places: dict[str, set[str]] = {}

    def call(self, verb: str, /, **request: Any) -> Any:
        """The answer; None when it is refused."""
        try:
            return self.client.call(verb, request)
        except EngineError:
            return None

    @initialize()
    def empty(self) -> None:
        assert not self.client.call("containers.list", {"all": True})

    def _port_taken(self, port: int) -> bool:
        return any(
            p == port and self.state[n] != ENDED for n, p in self.ports.items() if n in self.state
        )

    @rule(
        name=NAMES, port=st.none() | PORTS, volume=st.none() | VOLUMES, network=st.none() | NETWORKS
    )
    def run(self, name: str, port: int | None, volume: str | None, network: str | None) -> None:
        spec: dict[str, Any] = {"name": name, "stop_signal": "KILL"}
        if port:
            spec["ports"] = [{"container_port": 80, "host_port": port}]
        if volume:
            spec["mounts"] = [{"kind": "volume", "source": volume, "target": "/v"}]
        if network:
            spec["endpoints"] = [{"network": network}]
        possible = (
            name not in self.state
            and not (port and self._port_taken(port))
            and (network is None or network in self.networks)
        )
        try:
            wire_rig.run(self.client, "sleep", "600", **spec)
            done = True
        except EngineError:
            done = False
        assert done == possible
        if done:
            self.state[name] = RUNNING
            self.places[name] = {network or "bridge"}
            if port:
                self.ports[name] = port
            if volume:
                self.volumes[name] = volume
        elif volume and name not in self.state:
            self.call("volumes.remove", name=volume, force=True)

    @rule(name=NAMES)
    def start(self, name: str) -> None:
        state = self.state.get(name)
        port = self.ports.get(name)
        try:
            wire_rig.start(self.client, name)
            done = True
        except EngineError:
            done = False
        free = state != ENDED or not (port and self._port_taken(port))
        alive = all(n in self.networks or n == "bridge" for n in self.places.get(name, set()))
        assert done == (state is not None and free and (alive or state != ENDED))
        if done and state == ENDED:
            self.state[name] = RUNNING

    @rule(name=NAMES)
    def stop(self, name: str) -> None:
        done = self.call("containers.stop", target=name, timeout_s=0) is not None
        assert done == (name in self.state)
        if done:
            self.state[name] = ENDED

    @rule(name=NAMES)
    def pause(self, name: str) -> None:
        done = self.call("containers.pause", target=name) is not None
        assert done == (self.state.get(name) == RUNNING)
        if done:
            self.state[name] = PAUSED

    @rule(name=NAMES)
    def unpause(self, name: str) -> None:
        done = self.call("containers.unpause", target=name) is not None
        assert done == (self.state.get(name) == PAUSED)
        if done:
            self.state[name] = RUNNING

    @rule(name=NAMES, force=st.booleans())
    def remove(self, name: str, force: bool) -> None:
        done = self.call("containers.remove", target=name, force=force) is not None
        state = self.state.get(name)
        assert done == (state is not None and (force or state == ENDED))
        if done:
            for kept in (self.state, self.ports, self.volumes, self.places):
                kept.pop(name, None)

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        done = self.call("containers.rename", target=name, name=new) is not None
        assert done == (name in self.state and new not in self.state)
        if done:
            for kept in (self.state, self.ports, self.volumes, self.places):
                if name in kept:
                    kept[new] = kept.pop(name)  # type: ignore[attr-defined]

    @rule(network=NETWORKS)
    def make_network(self, network: str) -> None:
        done = self.call("networks.create", name=network) is not None
        assert done == (network not in self.networks)
        self.networks.add(network)

    @rule(network=NETWORKS)
    def remove_network(self, network: str) -> None:
        used = any(network in places for places in self.places.values())
        done = self.call("networks.remove", name=network) is not None
        assert done == (network in self.networks and not used)
        if done:
            self.networks.discard(network)

    @rule(name=NAMES, network=NETWORKS)
    def connect(self, name: str, network: str) -> None:
        done = (
            self.call("networks.connect", container=name, endpoint={"network": network}) is not None
        )
        possible = name in self.state and network in self.networks
        assert done == (possible and network not in self.places[name])
        if done:
            self.places[name].add(network)

    @rule(name=NAMES, network=NETWORKS)
    def disconnect(self, name: str, network: str) -> None:
        done = self.call("networks.disconnect", container=name, network=network) is not None
        assert done == (name in self.state and network in self.places[name])
        if done:
            self.places[name].discard(network)

    @rule()
    def kill_engine(self) -> None:
        _onggi.kill_engine()
        until(lambda: self.call("engine.status") is not None, "the next engine answers")

    @invariant()
    def what_is_told_is_what_should_be(self) -> None:
        told = {
            row["name"]: {"exited": ENDED, "created": ENDED}.get(row["state"], row["state"])
            for row in self.client.call("containers.list", {"all": True})
        }
        assert told == self.state

    def teardown(self) -> None:
        for name in list(self.state):
            wire_rig.remove(self.client, name)
        for network in list(self.networks):
            self.client.call("networks.remove", {"name": network})
        for row in self.client.call("volumes.list", {}):
            self.client.call("volumes.remove", {"name": row["name"]})
        until(lambda: not rig.left_behind(_onggi), lambda: "; ".join(rig.left_behind(_onggi)))


@pytest.fixture
def state_onggi(tmp_path: Path) -> Iterator[Onggi]:
    with rig.engine(tmp_path / "root") as running:
        yield running


@pytest.mark.timeout(120 + 4 * STEPS * RUNS)
def test_no_order_of_commands_leads_to_an_illegal_state(state_onggi: Onggi) -> None:
    global _onggi  # noqa: PLW0603 - hypothesis makes the machines itself
    _onggi = state_onggi
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_eight_clients_at_once_end_in_a_legal_state(state_onggi: Onggi) -> None:
    """Everybody wants the same few names, networks and ports; somebody is always refused."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        client = wire_rig.client(state_onggi)
        for turn in range(6):
            name, network = f"x{(number + turn) % 3}", f"m{(number + turn) % 2}"
            for call, request in (
                ("networks.create", {"name": network}),
                ("containers.stop", {"target": name, "timeout_s": 0}),
                ("containers.pause", {"target": name}),
                ("networks.connect", {"container": name, "endpoint": {"network": network}}),
                ("containers.unpause", {"target": name}),
                ("networks.disconnect", {"container": name, "network": network}),
                ("containers.remove", {"target": name, "force": True}),
                ("networks.remove", {"name": network}),
            ):
                try:
                    if call == "containers.stop":
                        port = {"container_port": 80, "host_port": 18310 + turn % 2}
                        wire_rig.run(
                            client,
                            "sleep",
                            "600",
                            name=name,
                            auto_remove=bool(turn % 2),
                            ports=[port],
                        )
                    client.call(call, request)
                except EngineError as error:
                    if error.kind in ("Internal", "DataLoss"):
                        errors.append(error)
                except BaseException as error:
                    errors.append(error)
                    raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    assert not errors, errors[:3]
    client = wire_rig.client(state_onggi)
    for row in client.call("containers.list", {"all": True}):
        assert row["state"] in ("running", "paused", "exited", "created")
        wire_rig.remove(client, row["name"])
    for network in client.call("networks.list", {}):
        if network["name"].startswith("m"):
            client.call("networks.remove", {"name": network["name"]})
