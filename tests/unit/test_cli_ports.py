"""`-p`, `--expose` and `update`'s ports: docker's grammar, field by field, and refusals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.engine.api.spec import PortSpec
from onggi.errors import InvalidArgument
from onggi.faces.cli import portflags
from onggi.faces.cli.options import BadValueError


def ports(text: str) -> list[PortSpec]:
    return msgspec.convert(portflags.publish(text), list[PortSpec])


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", PortSpec(80)),
        (":80", PortSpec(80)),
        ("8080:80", PortSpec(80, host_port=8080)),
        ("0:80", PortSpec(80)),
        ("53:53/udp", PortSpec(53, "udp", host_port=53)),
        ("8080:80/TCP", PortSpec(80, host_port=8080)),
        ("127.0.0.1:8080:80", PortSpec(80, host_address="127.0.0.1", host_port=8080)),
        ("127.0.0.1::80", PortSpec(80, host_address="127.0.0.1")),
        ("0.0.0.0:8080:80", PortSpec(80, host_address="0.0.0.0", host_port=8080)),
        ("[::1]:8080:80", PortSpec(80, host_address="::1", host_port=8080)),
        ("[FD00:0::1]::80/udp", PortSpec(80, "udp", host_address="fd00::1")),
        ("65535:65535", PortSpec(65535, host_port=65535)),
        ("target=80,published=8080", PortSpec(80, host_port=8080)),
        ("mode=host,target=80,published=8080,protocol=udp,host_ip=::1",
         PortSpec(80, "udp", "::1", 8080)),
        ("target=80", PortSpec(80)),
    ],
)  # fmt: skip
def test_one_port(text: str, port: PortSpec) -> None:
    assert ports(text) == [port]


def test_ranges() -> None:
    assert ports("8000-8002:80-82") == [
        PortSpec(80 + n, host_port=8000 + n) for n in range(3)
    ]  # fmt: skip
    assert ports("80-81") == [PortSpec(80), PortSpec(81)]
    assert ports("127.0.0.1::80-81/udp") == [
        PortSpec(80, "udp", "127.0.0.1"), PortSpec(81, "udp", "127.0.0.1"),
    ]  # fmt: skip
    assert ports("published=8000-8001,target=80-81") == ports("8000-8001:80-81")
    assert len(ports("1-65535:1-65535")) == 65535


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no port of the container"),
        ("8080:", "no port of the container"),
        ("8080:0", "no port 0"),
        ("x", "not a port"),
        ("65536", "not a port"),
        ("-80", "not a port"),
        ("80-", "not a port"),
        ("٨٠", "not a port"),
        ("82-80", "backwards"),
        ("8000-8010:80", "several host ports for one port"),
        ("8000-8002:80-81", "3 host ports for 2 ports"),
        ("8000:80-81", "1 host ports for 2 ports"),
        ("0-1:80-81", "begin with port 0"),
        ("80/sctp", "sctp"),
        ("80/http", "neither tcp nor udp"),
        ("80/", "neither tcp nor udp"),
        ("::1:8080:80", "brackets"),
        ("[::1]", "IPV6"),
        ("[::1]:80", "IPV6"),
        ("[::1:8080:80", "IPV6"),
        ("[fe80::1%eth0]:8080:80", "not an IP address"),
        (":8080:80", "no address"),
        ("localhost:8080:80", "127.0.0.1"),
        ("1.2.3:8080:80", "not an IP address"),
        ("1.2.3.4\0:8080:80", "not an IP address"),
        ("mode=ingress,target=80", "swarm"),
        ("published=8080", "no target"),
        ("target=80,target=81", "twice"),
        ("target=80,colour=red", "colour=red"),
        ("target=80,protocol=sctp", "sctp"),
        ("target=80,host_ip=here", "not an IP address"),
    ],
)
def test_bad_ports(text: str, words: str) -> None:
    with pytest.raises(BadValueError) as found:
        portflags.publish(text)
    assert words in found.value.reason
    assert found.value.example


@pytest.mark.parametrize(
    "texts",
    [
        ("8080:80", "8080:81"),
        ("8080:80", "8080:80"),
        ("8080:80", "127.0.0.1:8080:80"),
        ("[::1]:8080:80", "8080:81"),
        ("0.0.0.0:8080:80", "127.0.0.1:8080:80"),
        ("[::]:8080:80", "[::1]:8080:80"),
        ("80", "80"),
        ("8000-8002:80-82", "8002:90"),
    ],
)
def test_two_for_one_port_of_the_host(texts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="cannot both be published"):
        portflags.all_published(portflags.publish(text) for text in texts)


@pytest.mark.parametrize(
    "texts",
    [
        ("8080:80", "8081:80"),
        ("8080:80", "8080:80/udp"),
        ("80", "81"),
        ("80", "8080:80"),
        ("127.0.0.1:8080:80", "127.0.0.2:8080:80", "[::1]:8080:80"),
        ("0.0.0.0:8080:80", "[::]:8080:80"),
        ("127.0.0.1::80", "127.0.0.2::80"),
    ],
)
def test_several_ports(texts: tuple[str, ...]) -> None:
    assert len(portflags.all_published(portflags.publish(text) for text in texts)) == len(texts)


def test_expose() -> None:
    assert portflags.expose("80") == ["80/tcp"]
    assert portflags.expose("53-54/UDP") == ["53/udp", "54/udp"]
    for bad in ("", "8080:80", "0", "0-1", "80/sctp", "81-80", "http"):
        with pytest.raises(BadValueError):
            portflags.expose(bad)


def test_ports_of_update_and_port() -> None:
    assert portflags.unpublish("8080") == "8080"
    assert portflags.unpublish("8080/UDP") == "8080/udp"
    assert portflags.unpublish("127.0.0.1:8080/tcp") == "127.0.0.1:8080/tcp"
    assert portflags.unpublish("[0::1]:8080") == "[::1]:8080"
    assert portflags.port_and_protocol("53/udp") == (53, "udp")
    assert portflags.port_and_protocol("80") == (80, "tcp")
    for bad in ("", "0", "x:80", ":80", "::1:80", "80/x", "1.2.3.4:"):
        with pytest.raises(BadValueError):
            portflags.unpublish(bad)


def written(port: dict[str, Any]) -> str:
    address = port.get("host_address", "")
    host = port.get("host_port", "")
    lead = f"{portflags.bracketed(address)}:" if address else ""
    return f"{lead}{host}:{port['container_port']}/{port.get('protocol', 'tcp')}"


@given(
    st.integers(1, 65535),
    st.integers(0, 65535),
    st.sampled_from(["tcp", "udp"]),
    st.one_of(st.just(""), st.ip_addresses().map(str)),
)
def test_what_is_written_is_read(inside: int, host: int, protocol: str, address: str) -> None:
    port = {"container_port": inside, "host_port": host, "protocol": protocol}
    if address:
        port["host_address"] = address
    (found,) = ports(written(port))
    assert (found.container_port, found.host_port, found.protocol) == (inside, host, protocol)
    assert portflags.publish(written(msgspec.to_builtins(found))) == portflags.publish(
        written(port)
    )


@given(st.text(max_size=30) | st.text("0123456789:-/[]=,abcdftpu.", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (portflags.publish, portflags.expose, portflags.unpublish):
        try:
            assert read(text)
        except BadValueError as error:
            assert error.reason
