"""`-v`, `--mount` and `--tmpfs`: docker's three ways to write a mount, as MountSpec fields.

Pure: the working directory is given. Whether a source exists is the engine's business.
"""

from __future__ import annotations

import posixpath

from onggi.faces.cli.options import BadValueError
from onggi.faces.cli.values import size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROPAGATIONS = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave"))
_VOLUME_EXAMPLE = "./data:/data:ro"
_MOUNT_EXAMPLE = "type=bind,source=/srv,target=/data,readonly"
_TMPFS_EXAMPLE = "/tmp:size=64m,mode=1777"  # noqa: S108 - a path inside a container
_TMPFS_FLAGS = frozenset(
    "ro rw noexec exec nosuid suid nodev dev noatime atime nodiratime relatime strictatime "
    "sync async".split()
)


def volume(text: str, cwd: str) -> dict[str, Any]:
    """`HOST:CONTAINER[:OPTIONS]`, `NAME:CONTAINER[:OPTIONS]`, or `CONTAINER` (anonymous).

    A source with a slash, or `.`, `..` and `~`-less relative paths, is a path of `cwd`.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise BadValueError("not SOURCE:TARGET[:OPTIONS]", _VOLUME_EXAMPLE)
    if len(parts) == 1:
        return {"kind": "volume", "target": _target(parts[0], _VOLUME_EXAMPLE)}
    source, target = parts[0], _target(parts[1], _VOLUME_EXAMPLE)
    mount: dict[str, Any] = {"kind": "volume", "source": source, "target": target}
    if "/" in source or source in (".", ".."):
        mount |= {"kind": "bind", "source": _absolute(source, cwd), "create_source": True}
    else:
        _check_volume_name(source, _VOLUME_EXAMPLE)
    for word in parts[2].split(",") if len(parts) == 3 else ():
        _volume_option(mount, word)
    return mount


def _volume_option(mount: dict[str, Any], word: str) -> None:
    if word in ("ro", "readonly"):
        mount["read_only"] = True
    elif word in PROPAGATIONS:
        mount["propagation"] = word
    elif word == "nocopy" and mount["kind"] == "volume":
        mount["copy_up"] = False
    elif word not in ("rw", "z", "Z"):
        # z and Z relabel for SELinux; without it there is nothing to do.
        raise BadValueError(f"unknown option {word!r}", _VOLUME_EXAMPLE)


def mount(text: str, cwd: str) -> dict[str, Any]:
    """`--mount`'s comma-separated `key=value` pairs (quotes as in CSV)."""
    fields = _pairs(text)
    kind = fields.pop("type", "volume")
    if kind not in ("bind", "volume", "tmpfs"):
        raise BadValueError(f"type {kind!r} is not bind, volume or tmpfs", _MOUNT_EXAMPLE)
    if "target" not in fields:
        raise BadValueError("no target", _MOUNT_EXAMPLE)
    found: dict[str, Any] = {"kind": kind, "target": _target(fields.pop("target"), _MOUNT_EXAMPLE)}
    source = fields.pop("source", "")
    if kind == "bind":
        if not source:
            raise BadValueError("a bind mount needs a source", _MOUNT_EXAMPLE)
        found["source"] = _absolute(source, cwd)
    elif source and kind == "tmpfs":
        raise BadValueError("a tmpfs has no source", "type=tmpfs,target=/run")
    elif source:
        _check_volume_name(source, _MOUNT_EXAMPLE)
        found["source"] = source
    for key, value in fields.items():
        _mount_option(found, key, value)
    return found


_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def _pairs(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for word in _csv(text):
        key, equals, value = word.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if key in fields:
            raise BadValueError(f"{key} is given twice", _MOUNT_EXAMPLE)
        if not equals and key not in ("readonly", "volume-nocopy", "bind-nonrecursive"):
            raise BadValueError(f"{word!r} is not key=value", _MOUNT_EXAMPLE)
        fields[key] = value if equals else "true"
    return fields


def _csv(text: str) -> list[str]:
    """Fields of one CSV line; a quoted field may hold commas, "" is a quote. Source: RFC 4180."""
    fields, at = [], 0
    while at <= len(text):
        if text.startswith('"', at):
            end, value = at + 1, ""
            while True:
                close = text.find('"', end)
                if close < 0:
                    raise BadValueError("a quote is not closed", _MOUNT_EXAMPLE)
                value += text[end:close]
                end = close + 1
                if not text.startswith('"', end):
                    break
                value, end = value + '"', end + 1
            if end < len(text) and text[end] != ",":
                raise BadValueError("text after a closing quote", _MOUNT_EXAMPLE)
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            value = text[at:end]
        fields.append(value)
        at = end + 1
    return fields


def _mount_option(found: dict[str, Any], key: str, value: str) -> None:
    kind = found["kind"]
    if key == "readonly":
        found["read_only"] = _truth(key, value)
    elif key == "bind-propagation" and kind == "bind":
        if value not in PROPAGATIONS:
            raise BadValueError(f"no propagation {value!r}", "bind-propagation=rslave")
        found["propagation"] = value
    elif key == "bind-nonrecursive" and kind == "bind":
        found["recursive"] = not _truth(key, value)
    elif key == "bind-recursive" and kind == "bind" and value in ("enabled", "disabled"):
        found["recursive"] = value == "enabled"
    elif key == "volume-nocopy" and kind == "volume":
        found["copy_up"] = not _truth(key, value)
    elif key == "tmpfs-size" and kind == "tmpfs":
        found["tmpfs_size_bytes"] = size_bytes(value)
    elif key == "tmpfs-mode" and kind == "tmpfs":
        found["tmpfs_mode"] = _octal(value)
    else:
        raise BadValueError(f"a {kind} mount has no {key}", _MOUNT_EXAMPLE)


def tmpfs(text: str) -> dict[str, Any]:
    """`/run[:size=64m,mode=1777,noexec]`."""
    target, _, options = text.partition(":")
    found: dict[str, Any] = {"kind": "tmpfs", "target": _target(target, _TMPFS_EXAMPLE)}
    rest = []
    for word in options.split(",") if options else ():
        key, _, value = word.partition("=")
        if key == "size":
            found["tmpfs_size_bytes"] = size_bytes(value)
        elif key == "mode":
            found["tmpfs_mode"] = _octal(value)
        elif word == "ro":
            found["read_only"] = True
        elif word in _TMPFS_FLAGS or (key in ("uid", "gid", "nr_inodes") and value.isdigit()):
            rest.append(word)
        else:
            raise BadValueError(f"unknown option {word!r}", _TMPFS_EXAMPLE)
    if rest:
        found["options"] = rest
    return found


def _target(path: str, example: str) -> str:
    if not path.startswith("/"):
        raise BadValueError(f"the target {path!r} is not an absolute path", example)
    clean = posixpath.normpath(path)
    if clean in ("/", "//"):
        raise BadValueError("the target is the container's root", example)
    return clean


def _absolute(path: str, cwd: str) -> str:
    return posixpath.normpath(posixpath.join(cwd, path))


def _check_volume_name(name: str, example: str) -> None:
    plain = name.replace("_", "a").replace(".", "a").replace("-", "a")
    if len(name) < 2 or not (plain.isascii() and plain.isalnum() and name[0].isalnum()):
        raise BadValueError(f"{name!r} is neither a path nor a volume's name", example)


def _truth(key: str, value: str) -> bool:
    if value.lower() in ("true", "1"):
        return True
    if value.lower() in ("false", "0"):
        return False
    raise BadValueError(f"{key} is neither true nor false", _MOUNT_EXAMPLE)


def _octal(text: str) -> int:
    if not text or set(text) - set("01234567") or len(text) > 5:
        raise BadValueError(f"mode {text!r} is not octal", "1777")
    return int(text, 8)
