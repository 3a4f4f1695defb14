"""Platforms in Go's names: this host's, what people type, and which member of an index fits.

Source: image-spec image-index.md#platform-variants.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from onggi.errors import FailedPrecondition, InvalidArgument
from onggi.specs.image import Descriptor, Platform

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv8l": "arm",
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
#: What people also call an architecture, with the variant that the name implies.
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris"))
_ARCHITECTURES = frozenset(_MACHINES.values()) | {"mips64le", "mips64", "mipsle", "wasm", "ppc64"}
#: The variant that no variant means.
_BASE = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
#: Flags of /proc/cpuinfo that each level of x86-64 adds (x86-64 psABI, table 3.1).
_AMD64_LEVELS = (
    ("v2", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
    ("v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
_CPU_INFO_BYTES = 1 << 16


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    variant = "v6" if machine == "armv6l" else None
    return Platform(_MACHINES.get(machine, machine), "linux", variant)


def parse_platform(text: str) -> Platform:
    """What `--platform` says: `linux/arm64/v8`, `arm64`, `linux`; the base variant is left out.

    Raises: InvalidArgument: not a platform.
    """
    parts = text.strip().lower().split("/")
    if not all(part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise _no_platform(text)
    if len(parts) == 1:
        if parts[0] in _SYSTEMS:
            return Platform(host_platform().architecture, parts[0], host_platform().variant)
        if parts[0] not in _ARCHITECTURES and parts[0] not in _ALIASES:
            raise _no_platform(text)
        parts.insert(0, "linux")
    if len(parts) > 3:
        raise _no_platform(text)
    system, architecture, *rest = parts
    architecture, implied = _ALIASES.get(architecture, (architecture, ""))
    variant = rest[0] if rest else implied
    if variant.isdecimal():
        variant = f"v{variant}"
    return Platform(
        architecture, system, None if variant == _BASE.get(architecture) else variant or None
    )


def _no_platform(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text[:100]!r} is not a platform", hint="write os/architecture[/variant]: linux/arm64/v8"
    )


def with_cpu_level(platform: Platform) -> Platform:
    """The platform with what this host's CPU can do more than the base; others stay."""
    if platform != host_platform() or platform.architecture != "amd64":
        return platform
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        _, _, rest = file.read(_CPU_INFO_BYTES).partition("\nflags")
    flags = set(rest.partition("\n")[0].split())
    variant = platform.variant
    for level, needed in _AMD64_LEVELS:
        if not flags.issuperset(needed.split()):
            break
        variant = level
    return Platform(platform.architecture, platform.os, variant)


def ranked(
    members: Sequence[Descriptor], wanted: Platform, *, strict: bool = False
) -> list[Descriptor]:
    """The members of an index that run on `wanted`, the best first: its architecture's highest
    variant up to its own; without `strict` then the architectures that it also runs, and last
    members that do not say what they are for.
    """
    rated = [(rate, place) for place, m in enumerate(members) if (rate := _rate(m, wanted, strict))]
    return [members[place] for rate, place in sorted(rated, key=lambda r: (-r[0], r[1]))]


def choose(
    members: Sequence[Descriptor], wanted: Platform, *, strict: bool = False
) -> Descriptor | None:
    """The first of `ranked`, None if there is none."""
    return next(iter(ranked(members, wanted, strict=strict)), None)


def _rate(member: Descriptor, wanted: Platform, strict: bool) -> int:
    """0: does not run there; the higher the better."""
    offered = member.platform
    if offered is None:
        return 0 if strict or member.artifact_type else 1
    if offered.os != wanted.os:
        return 0
    if offered.architecture == wanted.architecture:
        return _rate_variant(offered, wanted)
    others = () if strict else _ALSO_RUNS.get(wanted.architecture, ())
    if offered.architecture not in others:
        return 0
    return 2 + _number(offered)  # every arm64 runs all 32-bit variants that it runs at all


def _rate_variant(offered: Platform, wanted: Platform) -> int:
    if offered.variant == wanted.variant:
        return 1000
    if _number(offered) < 0 or _number(wanted) < 0 or _number(offered) > _number(wanted):
        return 0
    return 100 + _number(offered)


def _number(platform: Platform) -> int:
    """The 7 of `v7`; 0 for none, -1 for what is no number."""
    variant = platform.variant or _BASE.get(platform.architecture, "")
    digits = variant.removeprefix("v").partition(".")[0]
    if not variant:
        return 0
    return int(digits) if digits.isdecimal() and len(digits) < 3 else -1


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
