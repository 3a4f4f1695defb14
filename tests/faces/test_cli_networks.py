"""Commands on networks and ports against a fake engine: what is asked, printed and answered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faces import cli_rig
from faces.cli_rig import IDENTITY, FakeEngine, Rig, rig
from onggi.engine.api.changes import PortRow, SweepAnswer
from onggi.engine.api.networks import EndpointAnswer, NetworkSummary, SubnetSpec
from onggi.engine.api.requests import Nothing
from onggi.engine.api.spec import EndpointSpec, PortSpec
from onggi.errors import Conflict, NotFound
from onggi.faces.cli.main import main

Capture = pytest.CaptureFixture[str]
BACK = NetworkSummary(
    id="fe" * 32, name="back", driver="bridge", created_ns=1, bridge="og1", ipv6=True, mtu=1500,
    subnets=(SubnetSpec("10.7.0.0/24", "10.7.0.1"), SubnetSpec("fd00:7::/64", "fd00:7::1")),
    labels={"team": "blue"},
    endpoints=(EndpointAnswer(IDENTITY, "box", "10.7.0.2/24"),),
)  # fmt: skip
NONE = NetworkSummary(id="none".ljust(64, "0"), name="none", driver="null", created_ns=0)


class NetworkEngine(FakeEngine):
    """A network `back` with a container `box` that publishes ports."""

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return super().handlers() | {
            "networks.create": self.answer(BACK),
            "networks.list": self.answer((BACK, NONE)),
            "networks.inspect": self.answer({"Name": "back", "Internal": False}),
            "networks.connect": self.answer(Nothing()),
            "networks.disconnect": self.answer(Nothing()),
            "networks.remove": self.remove,
            "networks.prune": self.answer(SweepAnswer(removed=("old", "older"))),
            "containers.ports": self.answer((
                PortRow(80, "tcp", "0.0.0.0", 8080), PortRow(80, "tcp", "::", 8080),
                PortRow(53, "udp", "127.0.0.1", 5353),
            )),
            "containers.inspect": self.no_container,
            "images.inspect": self.no_container,
            "volumes.inspect": self.no_container,
        }  # fmt: skip

    def answer(self, value: Any) -> Callable[..., Any]:
        async def call(request: Any, _fds: list[int]) -> Any:
            self.asked.append(("network", request))
            return value

        return call

    async def remove(self, request: Any, _fds: list[int]) -> Nothing:
        self.asked.append(("network", request))
        if request.name == "back":
            raise Conflict("network back is used by box", hint="disconnect it first")
        return Nothing()

    async def no_container(self, request: Any, _fds: list[int]) -> Any:
        raise NotFound(f"nothing is named {request.target}")


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.delenv("ONGGI_ROOT", raising=False)
    monkeypatch.setattr(cli_rig, "FakeEngine", NetworkEngine)
    with rig(tmp_path / "r") as found:
        yield found


def onggi(found: Rig, line: str) -> int:
    return main(["--root", found.root, *line.split()])


def asked(found: Rig) -> Any:
    return found.engine.asked[-1][1]


def test_create(running: Rig, capfd: Capture) -> None:
    line = "network create --subnet 10.7.0.0/24 --internal --ipv6=false -l team=blue -o mtu=1400 b"
    assert onggi(running, line) == 0
    assert capfd.readouterr().out == f"{BACK.id}\n"
    request = asked(running)
    assert (request.name, request.internal, request.ipv6, request.mtu) == ("b", True, False, 1400)
    assert request.subnets == (SubnetSpec("10.7.0.0/24"),)
    assert request.labels == {"team": "blue"}
    assert onggi(running, "network create b") == 0
    assert (asked(running).ipv6, asked(running).subnets) == (None, ())
    assert onggi(running, "network create --ipv6 --subnet fd00:7::/64 b") == 0
    assert asked(running).ipv6 is True


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("network create", "usage: onggi network create NAME"),
        ("network create --ipv4=false b", "always has IPv4"),
        ("network create --ipv6=false --subnet fd00:7::/64 b", "contradicts"),
        ("network create -d overlay b", "one host"),
        ("network connect back", "usage: onggi network connect NETWORK CONTAINER"),
        ("network connect --gw-priority 1 back box", "default route"),
        ("network connect a/b box", "no network's name"),
        ("network prune", "say --force"),
        ("network lss", "did you mean onggi network ls?"),
        ("port box 81/tcp", "does not publish 81/tcp"),
        ("port box http", 'invalid value "http" for the port'),
    ],
)
def test_mistakes_are_one_line(running: Rig, line: str, words: str, capfd: Capture) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onggi", "--root", running.root, *line.split()],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_list(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "network ls --filter name=b") == 0
    assert asked(running).filters == ("name=b",)
    head, back, none = capfd.readouterr().out.splitlines()
    assert head.split() == ["NETWORK", "ID", "NAME", "DRIVER", "SUBNETS", "CONTAINERS"]
    assert back.split() == [BACK.id[:12], "back", "bridge", "10.7.0.0/24,", "fd00:7::/64", "box"]
    assert none.split() == [NONE.id[:12], "none", "null"]
    assert onggi(running, "network list -q --no-trunc") == 0
    assert capfd.readouterr().out == f"{BACK.id}\n{NONE.id}\n"
    assert onggi(running, "network ls --format {{.Name}}/{{.Scope}}/{{.IPv6}}/{{.Labels}}") == 0
    assert capfd.readouterr().out == "back/local/true/team=blue\nnone/local/false/\n"
    assert onggi(running, "network ls --format json") == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["Driver"] == "bridge"


def test_inspect(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "network inspect back") == 0
    assert json.loads(capfd.readouterr().out) == [{"Name": "back", "Internal": False}]
    assert onggi(running, "inspect --type network -f {{.Name}} back") == 0
    assert onggi(running, "inspect -f {{.Name}} back") == 0
    assert capfd.readouterr().out == "back\nback\n"


def test_connect_and_disconnect(running: Rig) -> None:
    line = "network connect --alias db --alias sql --ip 10.7.0.9 --ip6 fd00:7::9 back box"
    assert onggi(running, line) == 0
    assert asked(running).container == "box"
    assert asked(running).endpoint == EndpointSpec("back", ("db", "sql"), "10.7.0.9", "fd00:7::9")
    assert onggi(running, "network connect default box") == 0
    assert asked(running).endpoint == EndpointSpec("bridge")
    assert onggi(running, "network disconnect -f back box") == 0
    assert (asked(running).network, asked(running).force) == ("back", True)


def test_remove_and_prune(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "network rm -f back other") == 1
    out, err = capfd.readouterr()
    assert out == "other\n"
    assert err == "onggi: network back is used by box — disconnect it first\n"
    assert asked(running).force
    assert onggi(running, "network prune -f --filter until=24h") == 0
    assert capfd.readouterr().out == "Deleted Networks:\nold\nolder\n"
    assert asked(running).filters == ("until=24h",)


def test_port(running: Rig, capfd: Capture) -> None:
    assert onggi(running, "port box") == 0
    assert capfd.readouterr().out == (
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n53/udp -> 127.0.0.1:5353\n"
    )
    assert onggi(running, "container port box 80") == 0
    assert capfd.readouterr().out == "0.0.0.0:8080\n[::]:8080\n"
    assert onggi(running, "port box 53/udp") == 0
    assert capfd.readouterr().out == "127.0.0.1:5353\n"
    assert onggi(running, "port box 53") == 125


def test_run_sends_ports_and_networks(running: Rig) -> None:
    assert onggi(running, "run -d -p 8080:80 -p [::1]::53/udp --network back x") == 0
    spec = asked(running).spec
    assert spec.ports == (PortSpec(80, host_port=8080), PortSpec(53, "udp", "::1"))
    assert (spec.network, spec.endpoints) == ("bridge", (EndpointSpec("back"),))


def test_networks_are_completed(running: Rig, tmp_path: Path, capfd: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "c"
    script.write_text(capfd.readouterr().out)
    text = (
        f"source {script}; "
        f'onggi() {{ {sys.executable} -m onggi --root {running.root} "$@"; }}; '
        "COMP_WORDS=(onggi run --network ''); COMP_CWORD=3; _onggi; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["back", "none"], "")
