"""`-v`, `--mount` and `--tmpfs`: docker's and podman's ways to write a mount, as MountSpec fields.

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
    "sync async tmpcopyup".split()
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
    words = parts[2].split(",") if len(parts) == 3 else []
    if "ro" in words and "rw" in words:
        raise BadValueError("both ro and rw", _VOLUME_EXAMPLE)
    for word in words:
        _volume_option(mount, word)
    return mount


#: Words of `-v` that change nothing here, and why: z and Z are SELinux's, which is not used;
#: consistency is a word for the Mac's file sharing; writable, whole trees, copies and mapped owners
#: are what there is anyway; programs and devices are as the source's own mount has them.
_WITHOUT_EFFECT = frozenset(
    "rw z Z cached consistent delegated rbind copy idmap exec suid dev".split()
)
_RESTRICTIONS, _PERMISSIONS = ("noexec", "nosuid", "nodev"), ("exec", "suid", "dev")


def _volume_option(mount: dict[str, Any], word: str) -> None:
    if word in ("ro", "readonly"):
        mount["read_only"] = True
    elif word in PROPAGATIONS:
        _propagation(mount, word, _VOLUME_EXAMPLE)
    elif word == "nocopy" and mount["kind"] == "volume":
        mount["copy_up"] = False
    elif word == "U":
        mount["chown"] = True
    elif word == "bind" and mount["kind"] == "bind":
        mount["recursive"] = False
    elif word in _RESTRICTIONS:
        mount["options"] = [*mount.get("options", ()), f"r{word}"]
    elif word == "O":
        raise BadValueError(
            "O, an overlay over the source, is not there: :ro protects it, a copy may be changed",
            _VOLUME_EXAMPLE,
        )
    elif word not in _WITHOUT_EFFECT:
        raise BadValueError(f"unknown option {word!r}", _VOLUME_EXAMPLE)


def _propagation(mount: dict[str, Any], word: str, example: str) -> None:
    if word not in PROPAGATIONS:
        raise BadValueError(f"no propagation {word!r}", "bind-propagation=rslave")
    if mount["kind"] != "bind":
        raise BadValueError(f"{word} is for paths of the host; a volume is private", example)
    mount["propagation"] = word


def volumes_from(text: str) -> dict[str, Any]:
    """`CONTAINER[:OPTIONS]`."""
    example = "db:ro"
    name, _, options = text.partition(":")
    if not name:
        raise BadValueError("not CONTAINER[:ro]", example)
    found: dict[str, Any] = {"container": name}
    for word in options.split(",") if options else ():
        if word == "ro":
            found["read_only"] = True
        elif word not in ("rw", "z", "Z", "nocopy"):
            raise BadValueError(f"unknown option {word!r}", example)
    return found


#: Types of mounts that are not there, and what to do instead.
_OTHER_TYPES = {
    "image": "onggi cp copies out of a container of the image; -v takes the copy",
    "npipe": "that is for containers of Windows",
    "cluster": "there is no swarm; volumes are directories of this host",
    "glob": "name each: --mount once for every path",
    "devpts": "every container has a devpts of its own at /dev/pts",
    "ramfs": "type=tmpfs is in memory too, with a size",
}


def mount(text: str, cwd: str) -> dict[str, Any]:
    """`--mount`'s comma-separated `key=value` pairs (quotes as in CSV)."""
    fields = _pairs(text)
    kind = fields.pop("type", "volume")
    if kind in _OTHER_TYPES:
        raise BadValueError(f"no mounts of type {kind}: {_OTHER_TYPES[kind]}", _MOUNT_EXAMPLE)
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
    _check_read_only_below(found, fields)
    return found


def _check_read_only_below(found: dict[str, Any], fields: dict[str, str]) -> None:
    """What docker asks of `bind-recursive=readonly` and `=writable`."""
    choice = fields.get("bind-recursive")
    if choice in ("readonly", "writable") and not found.get("read_only"):
        raise BadValueError(f"bind-recursive={choice} needs readonly", _MOUNT_EXAMPLE)
    if choice == "readonly" and found.get("propagation", "rprivate") != "rprivate":
        raise BadValueError(
            "bind-recursive=readonly needs bind-propagation=rprivate, for what comes later",
            _MOUNT_EXAMPLE,
        )


_ALIASES = {
    "src": "source", "dst": "target", "destination": "target", "ro": "readonly", "u": "chown",
    "subpath": "volume-subpath", "propagation": "bind-propagation",
}  # fmt: skip
_ALONE = frozenset(
    "readonly volume-nocopy bind-nonrecursive chown noexec nosuid nodev exec suid dev".split()
)
#: Keys that may be there several times, each with a `key=value` of its own.
_MAPPINGS = {"volume-opt": "driver_options", "volume-label": "labels"}


def _pairs(text: str) -> dict[str, str]:
    """The fields by their key; those of a mapping are joined by NUL, which no argument holds."""
    fields: dict[str, str] = {}
    for word in _csv(text):
        key, equals, value = word.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if not equals and key in PROPAGATIONS:
            key, equals, value = "bind-propagation", "=", key
        if not equals and key not in _ALONE:
            raise BadValueError(f"{word!r} is not key=value", _MOUNT_EXAMPLE)
        if key in fields and key in _MAPPINGS:
            value = f"{fields[key]}\0{value}"
        elif key in fields:
            raise BadValueError(f"{key} is given twice", _MOUNT_EXAMPLE)
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
    family = key.partition("-")[0]
    if key == "readonly":
        found["read_only"] = _truth(key, value)
    elif key == "chown":
        found["chown"] = _truth(key, value)
    elif key in _RESTRICTIONS or (key in _PERMISSIONS and kind == "tmpfs"):
        if _truth(key, value):
            word = key if kind == "tmpfs" else f"r{key}"
            found["options"] = [*found.get("options", ()), word]
    elif key in ("consistency", "relabel", *_PERMISSIONS):
        pass  # as the same words of -v
    elif family == kind == "bind":
        _bind_option(found, key, value)
    elif family == kind == "volume":
        _volume_key(found, key, value)
    elif key == "tmpfs-size" and kind == "tmpfs":
        found["tmpfs_size_bytes"] = size_bytes(value)
    elif key == "tmpfs-mode" and kind == "tmpfs":
        found["tmpfs_mode"] = _octal(value)
    else:
        raise BadValueError(f"a {kind} mount has no {key}", _MOUNT_EXAMPLE)


def _bind_option(found: dict[str, Any], key: str, value: str) -> None:
    if key == "bind-propagation":
        _propagation(found, value, _MOUNT_EXAMPLE)
    elif key == "bind-nonrecursive":
        found["recursive"] = not _truth(key, value)
    elif key == "bind-recursive" and value in ("enabled", "disabled", "writable", "readonly"):
        found["recursive"] = value != "disabled"
        found["read_only_below"] = value != "writable"
    elif key == "bind-create-src":
        found["create_source"] = _truth(key, value)
    else:
        raise BadValueError(f"a bind mount has no {key}={value}", _MOUNT_EXAMPLE)


def _volume_key(found: dict[str, Any], key: str, value: str) -> None:
    if key == "volume-nocopy":
        found["copy_up"] = not _truth(key, value)
    elif key == "volume-subpath":
        if not value or value.startswith("/") or ".." in value.split("/"):
            raise BadValueError(
                "volume-subpath is not a path in the volume", "volume-subpath=logs/today"
            )
        if "source" not in found:
            raise BadValueError("volume-subpath needs a source: a new volume is empty", "source=v")
        found["subpath"] = posixpath.normpath(value)
    elif key == "volume-driver":
        if value != "local":
            raise BadValueError(
                f"no volume driver {value!r}: volumes are directories of this host",
                "volume-driver=local",
            )
    elif key in _MAPPINGS:
        found[_MAPPINGS[key]] = dict(volume_pair(pair) for pair in value.split("\0"))
    else:
        raise BadValueError(f"a volume mount has no {key}", _MOUNT_EXAMPLE)


def volume_pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`, or `KEY` for an empty one."""
    key, _, value = text.partition("=")
    if not key:
        raise BadValueError("not KEY=VALUE", "o=bind")
    return key, value


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
        elif word == "U":
            found["chown"] = True
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
    if value.lower() in ("true", "t", "1"):
        return True
    if value.lower() in ("false", "f", "0"):
        return False
    raise BadValueError(f"{key} is neither true nor false", _MOUNT_EXAMPLE)


def _octal(text: str) -> int:
    if not text or set(text) - set("01234567") or len(text) > 5:
        raise BadValueError(f"mode {text!r} is not octal", "1777")
    return int(text, 8)
