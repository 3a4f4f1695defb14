"""The format of profile files: Docker's, whose rules may depend on the container, made plain.

A file in the pure OCI form is a Docker profile without conditions, so one reader does for both.
What the rules mean to the kernel is not known here.
Source: docker's seccomp profile documentation, runtime-spec config-linux.md#seccomp.
"""

from __future__ import annotations

import re

import msgspec

from onggi.errors import SpecError
from onggi.kernel.seccomp.architectures import architectures_of
from onggi.specs.runtime import Seccomp, SeccompArg, SeccompRule, located

MAX_PROFILE_BYTES = 4 * 1024 * 1024

#: Go's names of the machines, which `arches` uses.
_GO_ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """Base of what a profile file consists of; null is the same as missing."""


class Filter(_Document, frozen=True):
    """Includes ask for all `caps`, one of `arches` and the kernel; excludes for any of them."""

    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str | None = None


class ConditionalRule(_Document, frozen=True):
    """A rule of Docker's format; `name` is the older spelling of one of `names`."""

    action: str
    names: tuple[str, ...] | None = None
    name: str | None = None
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] | None = None
    includes: Filter | None = None
    excludes: Filter | None = None


class MappedArchitecture(_Document, frozen=True):
    """An architecture, and those that come with it on a machine of that kind."""

    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(_Document, frozen=True):
    """A profile as a file has it, not yet fitted to a container."""

    default_action: str
    syscalls: tuple[ConditionalRule, ...] | None = None
    default_errno_ret: int | None = None
    arch_map: tuple[MappedArchitecture, ...] | None = None
    architectures: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None


_DECODER = msgspec.json.Decoder(Profile)


def parse_profile(data: bytes) -> Profile:
    """Read a profile in Docker's or the OCI form.

    Raises:
        SpecError: too large, not JSON, or not a profile; with the JSON path.
    """
    if len(data) > MAX_PROFILE_BYTES:
        raise SpecError("$", f"a seccomp profile of more than {MAX_PROFILE_BYTES} bytes")
    try:
        return _DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise located(error, "config-linux.md#seccomp") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError("$", f"not a JSON document: {str(error).rstrip('.')}") from None


def fit_profile(
    profile: Profile, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> Seccomp:
    """The plain profile for one container: rules that do not apply left out, the rest as it is.

    Raises:
        SpecError: both `architectures` and `archMap`, both `name` and `names`, a bad `minKernel`.
        Unsupported: no system call table for this machine.
    """
    architectures = _architectures(profile, machine)
    rules = []
    for index, rule in enumerate(profile.syscalls or ()):
        path = f"$.syscalls[{index}]"
        if rule.excludes and _is_excluded(rule.excludes, capabilities, machine, kernel, path):
            continue
        if rule.includes and not _is_included(rule.includes, capabilities, machine, kernel, path):
            continue
        rules.append(SeccompRule(_names(rule, path), rule.action, rule.errno_ret, rule.args or ()))
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=architectures,
        flags=profile.flags or (),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(rules),
    )


def _names(rule: ConditionalRule, path: str) -> tuple[str, ...]:
    if rule.name and rule.names:
        raise SpecError(path, "both name and names are given, use names")
    return (rule.name,) if rule.name else rule.names or ()


def _architectures(profile: Profile, machine: str) -> tuple[str, ...]:
    native = architectures_of(machine)[0]
    if profile.arch_map and profile.architectures:
        raise SpecError("$.archMap", "both architectures and archMap are given, use one")
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            return (native, *(entry.sub_architectures or ()))
    return profile.architectures or (native,)


def _is_included(
    wanted: Filter, capabilities: frozenset[str], machine: str, kernel: tuple[int, int], path: str
) -> bool:
    return (
        (not wanted.arches or _GO_ARCHES[machine] in wanted.arches)
        and capabilities.issuperset(wanted.caps or ())
        and (not wanted.min_kernel or kernel >= _parse_kernel(wanted.min_kernel, path))
    )


def _is_excluded(
    unwanted: Filter, capabilities: frozenset[str], machine: str, kernel: tuple[int, int], path: str
) -> bool:
    return (
        _GO_ARCHES[machine] in (unwanted.arches or ())
        or not capabilities.isdisjoint(unwanted.caps or ())
        or bool(unwanted.min_kernel and kernel >= _parse_kernel(unwanted.min_kernel, path))
    )


def _parse_kernel(text: str, path: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", text)
    if match is None:
        raise SpecError(f"{path}.minKernel", f"{text!r} is not a kernel version such as 4.8")
    return int(match[1]), int(match[2])
