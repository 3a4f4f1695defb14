"""`--log-driver` and `--log-opt`: where a container's output is kept, and how much of it.

Pure: gives ContainerSpec's `log_*` fields. Source: docker's "Configure logging drivers".
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.faces.cli.options import BadValueError, invalid
from onggi.faces.cli.values import count, memory_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed

_DRIVERS = ("json-file", "local", "journald", "none")
_FILES = ("json-file", "local")
_INSTEAD = {
    "k8s-file": "json-file keeps the same",
    "passthrough": "run it without -d, its output is the command's",
    "syslog": "journald, which hands on to syslog",
}
_KNOWN = "json-file and local know max-size and max-file, all but none know tag"
_EXAMPLE = "max-size=10m"


def driver(text: str) -> str:
    """A driver's name."""
    if text in _DRIVERS:
        return text
    meant = _INSTEAD.get(text, f"there are {', '.join(_DRIVERS)}")
    raise BadValueError(f"no such driver here: {meant}", "json-file")


def log_fields(parsed: Parsed) -> dict[str, Any]:
    """The `log_*` fields that were said.

    Raises: InvalidArgument: an option that this driver does not have.
    """
    found: dict[str, Any] = {}
    name = parsed.get("log-driver")
    if name is not None:
        found["log_driver"] = name
    for text in parsed.many("log-opt"):
        try:
            found |= _option(text, name or "json-file")
        except BadValueError as error:
            raise invalid("--log-opt", text, error) from None
    if found.get("log_max_files") == 0:
        raise InvalidArgument("--log-opt max-file=0 keeps no file at all; --log-driver none does")
    return found


def _option(text: str, name: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise BadValueError("not KEY=VALUE", _EXAMPLE)
    if key in ("max-size", "max-file") and name in _FILES:
        if key == "max-size":
            return {"log_max_bytes": memory_bytes(value)}
        return {"log_max_files": count(value)}
    if key == "tag" and name != "none":
        return {"log_tag": value}
    # What docker's users write to say what is the case here anyway.
    if (key, value) in (("mode", "blocking"), ("compress", "false")):
        return {}
    if key in ("mode", "max-buffer-size"):
        raise BadValueError("a log is written as output comes; there is no buffer to lose", "")
    raise BadValueError(f"the driver {name} has no option {key}: {_KNOWN}", _EXAMPLE)
