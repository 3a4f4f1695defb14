"""Whether a configuration makes sense in itself: every rule that needs no host to be checked.

A violation is a SpecError with the JSON path and the section of the specification. What a host
lacks is the planner's matter, what a system call filter may say is kernel.seccomp's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from onggi.errors import SpecError
from onggi.runtime.rlimits import RLIMITS
from onggi.runtime.validate_linux import validate_linux
from onggi.specs.runtime import Config, Hooks, Linux, Mount, Process

MAX_ID = 2**32 - 2  # 2**32 - 1 is (uid_t) -1, which means "no id" to every system call
MAX_HOSTNAME_BYTES = 64
MAX_TIMEOUT_S = 10**9
_SEMVER = re.compile(r"(0|1)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def validate(config: Config) -> None:
    """Check a configuration that a container is to be started from.

    Raises:
        SpecError: with the path and the section of the first violation.
    Source: runtime-spec config.md, config-linux.md.
    """
    _validate_text(config, "$")
    if not _SEMVER.fullmatch(config.oci_version):
        raise SpecError(
            "$.ociVersion",
            f"{config.oci_version!r} is not a version of the specification before 2",
            section="config.md#specification-version",
        )
    if config.root is None:
        raise SpecError("$.root", "is required on linux", section="config.md#root")
    if not config.root.path:
        raise SpecError("$.root.path", "is empty", section="config.md#root")
    if config.process is None:
        raise SpecError("$.process", "is required to start", section="config.md#process")
    _validate_process(config.process, "$.process")
    _validate_names(config)
    for index, mount in enumerate(config.mounts):
        _validate_mount(mount, f"$.mounts[{index}]")
    _validate_hooks(config.hooks or Hooks())
    validate_linux(config.linux or Linux())


def validate_process(process: Process, path: str = "$") -> None:
    """Check a process that is to be executed in a running container.

    Raises:
        SpecError: with the path and the section of the first violation.
    Source: runtime-spec config.md#process.
    """
    _validate_text(process, path)
    _validate_process(process, path)


def _validate_text(value: msgspec.Struct, path: str) -> None:
    """No string may hold a NUL or half of a surrogate pair: no system call could be told."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        encoded = b"\\u0000"
    if b"\\u0000" in encoded:  # seldom, so that the slow walk that finds the place is not felt
        for where, text in _texts(msgspec.to_builtins(value), path):
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise SpecError(where, "holds a NUL or half a character", section="config.md")


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield f"{path}.{name!a}" if not name.isalnum() else f"{path}.{name}", name
            yield from _texts(item, f"{path}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")


def _validate_process(process: Process, path: str) -> None:
    section = "config.md#process"
    if not process.args:
        raise SpecError(f"{path}.args", "must have at least one entry", section=section)
    if not process.args[0]:
        raise SpecError(f"{path}.args[0]", "is empty", section=section)
    if not process.cwd.startswith("/"):
        raise SpecError(f"{path}.cwd", f"{process.cwd!r} is not absolute", section=section)
    for index, entry in enumerate(process.env):
        if entry.find("=") < 1:
            raise SpecError(f"{path}.env[{index}]", f"{entry!r} is not NAME=value", section=section)
    size = process.console_size
    if process.terminal and size and not (0 <= size.height < 65536 and 0 <= size.width < 65536):
        raise SpecError(f"{path}.consoleSize", "is out of range (0 to 65535)", section=section)
    score = process.oom_score_adj
    if score is not None and not -1000 <= score <= 1000:
        raise SpecError(
            f"{path}.oomScoreAdj",
            f"{score} is out of range (-1000 to 1000)",
            section="config.md#linux-process",
        )
    _validate_user(process, f"{path}.user")
    _validate_rlimits(process, f"{path}.rlimits")


def _validate_user(process: Process, path: str) -> None:
    section = "config.md#posix-platform-user"
    user = process.user
    ids = [("uid", user.uid), ("gid", user.gid)]
    ids += [(f"additionalGids[{i}]", gid) for i, gid in enumerate(user.additional_gids)]
    for name, number in ids:
        if not 0 <= number <= MAX_ID:
            raise SpecError(f"{path}.{name}", f"{number} is not an id", section=section)
    if user.umask is not None and not 0 <= user.umask <= 0o777:
        raise SpecError(f"{path}.umask", f"{user.umask} is not a umask", section=section)


def _validate_rlimits(process: Process, path: str) -> None:
    section = "config.md#posix-process"
    seen = set()
    for index, limit in enumerate(process.rlimits):
        where = f"{path}[{index}]"
        if limit.type not in RLIMITS:
            raise SpecError(f"{where}.type", f"unknown limit {limit.type!r}", section=section)
        if limit.type in seen:
            raise SpecError(where, f"{limit.type} is there twice", section=section)
        if not 0 <= limit.soft <= limit.hard < 2**64:
            raise SpecError(
                where,
                f"soft {limit.soft} and hard {limit.hard} are not 0 ≤ soft ≤ hard < 2**64",
                section=section,
            )
        seen.add(limit.type)


def _validate_names(config: Config) -> None:
    for name, value in (("hostname", config.hostname), ("domainname", config.domainname)):
        if not value:
            continue
        if len(value.encode()) > MAX_HOSTNAME_BYTES:
            raise SpecError(
                f"$.{name}",
                f"is longer than the kernel's {MAX_HOSTNAME_BYTES} bytes",
                section=f"config.md#{name}",
            )
        namespaces = config.linux.namespaces if config.linux else ()
        if not any(namespace.type == "uts" for namespace in namespaces):
            raise SpecError(
                f"$.{name}",
                "would rename the host: it needs a uts namespace",
                section=f"config.md#{name}",
            )


def _validate_hooks(hooks: Hooks) -> None:
    section = "config.md#posix-platform-hooks"
    for kind, name in zip(Hooks.__struct_fields__, Hooks.__struct_encode_fields__, strict=True):
        for index, hook in enumerate(getattr(hooks, kind)):
            path = f"$.hooks.{name}[{index}]"
            if not hook.path.startswith("/"):
                raise SpecError(f"{path}.path", f"{hook.path!r} is not absolute", section=section)
            if hook.timeout is not None and not 0 < hook.timeout <= MAX_TIMEOUT_S:
                raise SpecError(
                    f"{path}.timeout", f"{hook.timeout} is not a time in seconds", section=section
                )


def _validate_mount(mount: Mount, path: str) -> None:
    if not mount.destination:
        raise SpecError(f"{path}.destination", "is empty", section="config.md#mounts")
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        raise SpecError(
            path,
            "uidMappings and gidMappings go together",
            section="config.md#posix-platform-mounts",
        )
