"""Network devices that a configuration takes from the host: moved, named, addressed, given back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from kernel.oci_rig import NEEDS_ROOT_AND_BUSYBOX, Bundle, bundle
from onggi.network.routes import has_ipv6

pytestmark = NEEDS_ROOT_AND_BUSYBOX
__all__ = ["bundle"]

ADDRESSES = ("10.234.5.6/24", "10.234.5.7/24", *(["fd00:234::1/64"] if has_ipv6() else []))


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout


def exists(device: str) -> bool:
    """Whether the host has it."""
    return f" {device}@" in ip("link")


@pytest.fixture
def device() -> Iterator[str]:
    """A device of the host with an address and an MTU of its own."""
    name = f"ogt{os.getpid() % 100000}"
    words = ["ip", "link", "add", name, "mtu", "1434", "type", "veth", "peer", f"{name}p"]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("host feature missing: veth pairs")
    try:
        ip("link", "set", name, "up")
        for address in ADDRESSES:
            ip("address", "add", address, "dev", name)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", f"{name}p"], check=False, capture_output=True)


@pytest.fixture(autouse=True)
def _needs_ip() -> None:
    if subprocess.run(["ip", "-V"], check=False, capture_output=True).returncode:
        pytest.skip("host feature missing: ip(8)")


@pytest.mark.parametrize("users", [False, True])
def test_a_device_is_moved_with_all_that_it_has(bundle: Bundle, device: str, users: bool) -> None:
    if users:
        bundle.map_users()
    bundle.linux["netDevices"] = {device: {"name": "mine0"}}
    text = bundle.out("cat /sys/class/net/mine0/mtu; ls /sys/class/net; busybox ip address")
    assert text.split()[:3] == ["1434", "lo", "mine0"]
    assert all(address in text for address in ADDRESSES)
    assert any("mine0" in line and "UP" in line for line in text.splitlines())
    assert not exists(device)


def test_a_name_that_is_kept_and_a_namespace_that_is_joined(bundle: Bundle, device: str) -> None:
    name = f"ogn{os.getpid()}"
    ip("netns", "add", name)
    try:
        bundle.namespaces("mount", "pid", network=f"/run/netns/{name}")
        bundle.linux["netDevices"] = {device: {}}
        assert device in bundle.out("busybox ip -o address")
        assert device in ip("-n", name, "link")
    finally:
        ip("netns", "delete", name)


def test_devices_that_cannot_be_moved(bundle: Bundle, device: str) -> None:
    bundle.linux["netDevices"] = {"nosuchdevice": {}}
    assert "the host has no network device 'nosuchdevice'" in bundle.refused()
    for devices, path in (
        ({device: {"name": "a/b"}}, f"$.linux.netDevices.{device}.name"),
        ({device: {"name": ""}}, f"$.linux.netDevices.{device}.name"),
        ({device: {"name": "sixteen_bytes_is"}}, f"$.linux.netDevices.{device}.name"),
        ({device: {"name": "eth%d"}}, f"$.linux.netDevices.{device}.name"),
        ({device: {"name": "a"}, "b": {"name": "a"}}, "$.linux.netDevices.b"),
        ({device: {"name": "lo"}}, f"$.linux.netDevices.{device}"),
    ):
        bundle.linux["netDevices"] = devices
        assert path in bundle.refused()
        assert exists(device)
    bundle.namespaces("mount", "pid")
    bundle.linux["netDevices"] = {device: {}}
    assert "$.linux.netDevices: needs a network namespace" in bundle.refused()
    assert exists(device)
