"""`--secret`: files of the host that a container sees in memory only, as SecretSpec's fields.

Pure: the working directory is given. Whether the file exists is the engine's business.
Source: docker-build(1) --secret, podman-run(1) --secret.
"""

from __future__ import annotations

import posixpath

from onggi.faces.cli.options import BadValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLE = "source=./password.txt,target=password,mode=0400"
_KEYS = {"src": "source", "dst": "target", "destination": "target"}
_INSTEAD = {
    "env": "a secret is a file; -e passes a variable on",
    "type": "only type=mount: a secret is a file, -e passes a variable on",
}
_MOST_ID = (1 << 32) - 2


def secret(text: str, cwd: str) -> dict[str, Any]:
    """`FILE` or `source=FILE[,target=NAME][,uid=N][,gid=N][,mode=0400]`.

    `id=` names the target too, as docker's builds have it. A target with a slash is a path.
    """
    fields = _fields(text)
    source = fields.get("source", "")
    if not source:
        raise BadValueError("no source, the file on the host", _EXAMPLE)
    target = fields.get("target") or fields.get("id") or posixpath.basename(source)
    found: dict[str, Any] = {
        "source": posixpath.normpath(posixpath.join(cwd, source)),
        "target": _target(target),
    }
    for key in ("uid", "gid"):
        if key in fields:
            found[key] = _identity(key, fields[key])
    if "mode" in fields:
        found["mode"] = _mode(fields["mode"])
    return found


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for at, word in enumerate(text.split(",")):
        key, equals, value = word.partition("=")
        if at == 0 and not equals:
            key, value = "source", word
        elif not equals:
            raise BadValueError(f"{word!r} is not key=value", _EXAMPLE)
        key = _KEYS.get(key.strip().lower(), key.strip().lower())
        if key == "type" and value in ("mount", "file"):
            continue
        if key in _INSTEAD:
            raise BadValueError(_INSTEAD[key], _EXAMPLE)
        if key not in ("source", "target", "id", "uid", "gid", "mode"):
            raise BadValueError(f"{key!r} is none of source, target, uid, gid, mode", _EXAMPLE)
        if key in fields:
            raise BadValueError(f"{key} is given twice", _EXAMPLE)
        fields[key] = value
    return fields


def _target(name: str) -> str:
    """A plain name of /run/secrets, or an absolute path."""
    if name.startswith("/"):
        clean = posixpath.normpath(name)
        if clean in ("/", "//"):
            raise BadValueError("the target is the container's root", _EXAMPLE)
        return clean
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise BadValueError(f"the target {name!r} is neither a name nor an absolute path", _EXAMPLE)
    return name


def _identity(key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > _MOST_ID:
        raise BadValueError(f"{key} {text!r} is not a number", "uid=1000")
    return int(text)


def _mode(text: str) -> int:
    if not text or set(text) - set("01234567") or len(text) > 5 or int(text, 8) > 0o777:
        raise BadValueError(f"mode {text!r} is not octal up to 0777", "mode=0400")
    return int(text, 8)
