"""Networks: what may be asked about them, and what is answered. Meanings follow docker's."""

from __future__ import annotations

from onggi.engine.api.base import Value
from onggi.engine.api.spec import EndpointSpec


class SubnetSpec(Value, frozen=True):
    """One address range. `gateway` empty: its first address. `range`: what is given out, empty: all
    of it. `reserved`: addresses that are never given out."""

    subnet: str
    gateway: str = ""
    range: str = ""
    reserved: tuple[str, ...] = ()


class NetworkCreateRequest(Value, frozen=True):
    """`subnets`: at most one of each family; none: a free range of the pool.

    `ipv6` None: as the host can. `mtu` 0: the host's default route's. `isolate`: containers of
    other networks are kept out (always so; a named option of docker's that is accepted).
    """

    name: str
    subnets: tuple[SubnetSpec, ...] = ()
    internal: bool = False
    ipv6: bool | None = None
    mtu: int = 0
    bridge: str = ""
    labels: dict[str, str] = {}


class ConnectRequest(Value, frozen=True):
    """Put a container, running or not, into one more network."""

    container: str
    endpoint: EndpointSpec


class DisconnectRequest(Value, frozen=True):
    """`force`: no error when it is not in the network."""

    container: str
    network: str
    force: bool = False


class NetworkRemoveRequest(Value, frozen=True):
    name: str
    force: bool = False


class EndpointAnswer(Value, frozen=True):
    """A container in a network. Addresses with their prefix length, empty without one."""

    container_id: str
    container: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""


class NetworkSummary(Value, frozen=True):
    """One network. `bridge`: the interface on the host; empty for `host` and `none`."""

    id: str
    name: str
    driver: str
    created_ns: int
    bridge: str = ""
    internal: bool = False
    ipv6: bool = False
    mtu: int = 0
    subnets: tuple[SubnetSpec, ...] = ()
    labels: dict[str, str] = {}
    endpoints: tuple[EndpointAnswer, ...] = ()
