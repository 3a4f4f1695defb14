"""What `run`, `create` and `explain` were asked, as the fields of a ContainerSpec.

Only what was said is sent; defaults are the engine's. Needs the caller's environment and working
directory for `-e KEY` and relative paths, and gets them as arguments.
"""

from __future__ import annotations

import posixpath

from onggi.errors import InvalidArgument, from_os_error
from onggi.faces.cli import environment, mountflags
from onggi.faces.cli.healthflags import check_restart, health_fields
from onggi.faces.cli.logflags import log_fields
from onggi.faces.cli.networkflags import network_fields
from onggi.faces.cli.options import BadValueError, invalid
from onggi.faces.cli.portflags import all_published
from onggi.faces.cli.secretflags import secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from onggi.faces.cli.options import Parsed

#: option key → field of ContainerSpec, copied as they are.
_PLAIN = {
    "name": "name", "workdir": "workdir", "user": "user", "hostname": "hostname",
    "domainname": "domainname", "tty": "tty", "interactive": "stdin_open",
    "read-only": "read_only", "init": "init", "rm": "auto_remove", "privileged": "privileged",
    "ipc": "ipc", "pid": "pid", "uts": "uts", "userns": "userns",
    "cgroupns": "cgroupns", "shm-size": "shm_size_bytes", "oom-score-adj": "oom_score_adj",
    "stop-signal": "stop_signal", "stop-timeout": "stop_timeout_s",
    "publish-all": "publish_all", "restart": "restart",
}  # fmt: skip
_LISTS = {
    "group-add": "group_add", "device": "devices", "cap-add": "cap_add", "cap-drop": "cap_drop",
    "security-opt": "security_opt", "ulimit": "ulimits", "add-host": "add_hosts", "dns": "dns",
    "dns-search": "dns_search", "dns-option": "dns_options", "volumes-from": "volumes_from",
}  # fmt: skip
_RESOURCES = {
    "memory": "memory_bytes", "memory-swap": "memory_swap_bytes",
    "memory-reservation": "memory_reservation_bytes", "memory-swappiness": "memory_swappiness",
    "oom-kill-disable": "oom_kill_disable", "cpus": "nano_cpus", "cpu-shares": "cpu_shares",
    "cpu-period": "cpu_period_us", "cpu-quota": "cpu_quota_us", "cpuset-cpus": "cpuset_cpus",
    "cpuset-mems": "cpuset_mems", "pids-limit": "pids_limit", "blkio-weight": "blkio_weight",
    "device-read-bps": "device_read_bps", "device-write-bps": "device_write_bps",
    "device-read-iops": "device_read_iops", "device-write-iops": "device_write_iops",
}  # fmt: skip
_MODES = {
    "ipc": (("private", "host", "none", "shareable"), True),
    "pid": (("host",), True),
    "uts": (("host",), True),
    "userns": (("host",), False),
    "cgroupns": (("private", "host"), False),
}


def container_spec(parsed: Parsed, environ: Mapping[str, str], cwd: str) -> dict[str, Any]:
    """The fields of a ContainerSpec that `parsed` says.

    Raises: InvalidArgument, naming the option.
    """
    if not parsed.arguments:
        raise InvalidArgument("no image is named", hint="onggi run busybox echo hello")
    image, *command = parsed.arguments
    spec: dict[str, Any] = {"image": image}
    if command:
        spec["command"] = command
    for table in (_PLAIN, _LISTS):
        for key, field in table.items():
            value = parsed.get(key)
            if value is not None:
                spec[field] = value
    _check_modes(parsed)
    _check_workdir(parsed)
    if parsed.get("entrypoint") is not None:
        program = parsed.text("entrypoint")
        spec["entrypoint"] = [program] if program else []
    resources = resources_of(parsed)
    if resources:
        spec["resources"] = resources
    if parsed.many("sysctl"):
        spec["sysctls"] = dict(parsed.many("sysctl"))
    _with_files(spec, parsed, environ)
    for field, found in (
        ("mounts", _mounts(parsed, cwd)),
        ("secrets", _secrets(parsed, cwd)),
        ("health", health_fields(parsed)),
        ("ports", all_published(parsed.many("publish"))),
        ("expose", list(dict.fromkeys(port for some in parsed.many("expose") for port in some))),
    ):
        if found:
            spec[field] = found
    check_restart(parsed)
    return spec | network_fields(parsed) | log_fields(parsed)


def _with_files(spec: dict[str, Any], parsed: Parsed, environ: Mapping[str, str]) -> None:
    env = variables(parsed, environ)
    if env:
        spec["env"] = env
    labels = [
        _checked("--label-file", line, environment.label)
        for path in parsed.many("label-file")
        for line in environment.lines(path, "--label-file")
    ]
    labels += [_checked("--label", text, environment.label) for text in parsed.many("label")]
    if labels:
        spec["labels"] = dict(labels)


def variables(parsed: Parsed, environ: Mapping[str, str]) -> list[str]:
    """`--env-file` and `-e`, the last of each name; also for `exec`."""

    def read(text: str) -> str | None:
        return environment.variable(text, environ)

    found = [
        _checked("--env-file", line, read)
        for path in parsed.many("env-file")
        for line in environment.lines(path, "--env-file")
    ]
    found += [_checked("--env", text, read) for text in parsed.many("env")]
    return environment.merged(pair for pair in found if pair is not None)


def _checked(flag: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except BadValueError as error:
        raise invalid(flag, text, error) from None


def _mounts(parsed: Parsed, cwd: str) -> list[dict[str, Any]]:
    readers: tuple[tuple[str, Callable[[str], Any]], ...] = (
        ("volume", lambda text: mountflags.volume(text, cwd)),
        ("mount", lambda text: mountflags.mount(text, cwd)),
        ("tmpfs", mountflags.tmpfs),
    )
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for key, read in readers:
        for text in parsed.many(key):
            mount = _checked(f"--{key}", text, read)
            if mount["target"] in seen:
                raise InvalidArgument(f"two mounts have the target {mount['target']}")
            seen.add(mount["target"])
            found.append(mount)
    return found


def _secrets(parsed: Parsed, cwd: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in parsed.many("secret"):
        one = _checked("--secret", text, lambda word: secret(word, cwd))
        place = posixpath.join("/run/secrets", one["target"])
        if place in found:
            raise InvalidArgument(f"two secrets have the target {place}")
        found[place] = one
    return list(found.values())


def _check_modes(parsed: Parsed) -> None:
    for key, (words, joins) in _MODES.items():
        mode = parsed.get(key)
        if mode is None or mode in words:
            continue
        if not (joins and mode.startswith("container:") and len(mode) > len("container:")):
            choice = ", ".join(words) + (" or container:NAME" if joins else "")
            raise invalid(f"--{key}", mode, BadValueError(f"not {choice}", words[0]))


def _check_workdir(parsed: Parsed) -> None:
    path = parsed.get("workdir")
    if path and not posixpath.isabs(path):
        raise invalid("--workdir", path, BadValueError("not an absolute path", "/srv"))


def resources_of(parsed: Parsed) -> dict[str, Any]:
    """The fields of a ResourceSpec that `parsed` says; also for `update`.

    Raises: InvalidArgument: limits that contradict each other.
    """
    _check_resources(parsed)
    return {
        field: value for key, field in _RESOURCES.items() if (value := parsed.get(key)) is not None
    }


def _check_resources(parsed: Parsed) -> None:
    memory, swap = parsed.get("memory"), parsed.get("memory-swap")
    if swap is not None and swap > 0 and (memory is None or swap < memory):
        raise InvalidArgument(
            "--memory-swap is memory plus swap: it cannot be without or below --memory",
            hint="for 64m of memory and 64m of swap: -m 64m --memory-swap 128m",
        )
    reservation = parsed.get("memory-reservation")
    if memory is not None and reservation is not None and reservation > memory:
        raise InvalidArgument("--memory-reservation is above --memory")
    if parsed.get("cpus") and (parsed.get("cpu-quota") or parsed.get("cpu-period")):
        raise InvalidArgument("--cpus says the same as --cpu-quota and --cpu-period; use one way")


def write_cidfile(path: str) -> int:
    """A descriptor of the new file `path`.

    Raises: AlreadyExists when it exists: two containers must not share it.
    """
    import os  # noqa: PLC0415

    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise from_os_error(error, "--cidfile: creating") from None
