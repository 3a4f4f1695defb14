"""This host's platform in Go's names, and which images it can run.

Source: image-spec image-index.md#platform-variants.
"""

from __future__ import annotations

import os

from onggi.errors import FailedPrecondition
from onggi.specs.image import Platform

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loongarch64": "loong64",
}
_ALSO_RUNS = {"amd64": ("386",), "arm64": ("arm",)}


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    return Platform(_MACHINES.get(machine, machine), "linux")


def runs_on(image: Platform, host: Platform) -> bool:
    """Whether `host` runs programs of `image` without an emulator."""
    architectures = (host.architecture, *_ALSO_RUNS.get(host.architecture, ()))
    return image.os == host.os and image.architecture in architectures


def check_platform(name: str, image: Platform, host: Platform) -> None:
    """Refuse an image for another platform. Raises: FailedPrecondition."""
    if not runs_on(image, host):
        raise FailedPrecondition(
            f"image {name} is for {image}, this host is {host}",
            hint=f"get the image for {host}",
        )
