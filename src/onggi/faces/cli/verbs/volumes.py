"""`volume create`, `volume ls` and `volume rm`."""

from __future__ import annotations

from onggi.faces.cli import human
from onggi.faces.cli.environment import label
from onggi.faces.cli.mountflags import volume_pair
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.several import each
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("VOLUME NAME", "Name"),
    Column("CREATED", "CreatedAt"),
    Column("USED BY", "Containers", shrinks=True),
    Column("MOUNTPOINT", "Mountpoint", shrinks=True),
)


def _driver(text: str) -> str:
    if text != "local":
        raise BadValueError("volumes are directories of this host", "local")
    return text


def _create(context: Context, parsed: Parsed) -> int:
    request: dict[str, Any] = {
        "labels": dict(parsed.many("label")),
        "options": dict(parsed.many("opt")),
    }
    if parsed.arguments:
        request["name"] = parsed.arguments[0]
    context.out.line(context.client.call("volumes.create", request)["name"])
    return 0


def _row(volume: dict[str, Any]) -> dict[str, Any]:
    return {
        "Name": volume["name"],
        "Driver": "local",
        "Scope": "local",
        "Mountpoint": volume["mountpoint"],
        "CreatedAt": human.timestamp(volume["created_ns"]),
        "Labels": ",".join(f"{k}={v}" for k, v in volume.get("labels", {}).items()),
        "Containers": ",".join(volume.get("containers", ())),
    }


def _list(context: Context, parsed: Parsed) -> int:
    found = context.client.call("volumes.list", {"filters": parsed.many("filter")})
    form = parsed.text("format")
    if parsed.on("quiet") and not form:
        context.out.text("".join(f"{volume['name']}\n" for volume in found))
        return 0
    show(context.out, _COLUMNS, [_row(volume) for volume in found], form, wide=False)
    return 0


def _remove(context: Context, parsed: Parsed) -> int:
    def remove(name: str) -> None:
        context.client.call("volumes.remove", {"name": name, "force": parsed.on("force")})

    return each(context, parsed.arguments, remove)


VERBS = {
    "create": Verb(
        _create,
        arguments="[NAME]",
        most=1,
        options=(Option("-l --label", "label as KEY=VALUE", value="LABEL", many=True,
                        parse=label),
                 Option("-d --driver", "local, the only one", value="DRIVER", parse=_driver),
                 Option("-o --opt", "type, device or o, as for mount: o=bind", value="OPTION",
                        many=True, parse=volume_pair)),
        examples=(
            ("onggi volume create data", "then: onggi run -v data:/data …"),
            ("onggi volume create -o type=none -o o=bind -o device=/srv/data data",
             "a directory of the host under a volume's name"),
        ),
    ),
    "ls": Verb(
        _list,
        most=0,
        options=(
            Option("-q --quiet", "names only"),
            Option("-f --filter", "KEY=VALUE: name, label, dangling", value="FILTER", many=True),
            Option("--format", "table, json, or a template: '{{.Name}}'", value="FORM"),
        ),
        examples=(("onggi volume ls --filter dangling=true", "those that nothing uses"),),
    ),
    "rm": Verb(
        _remove,
        arguments="VOLUME…",
        least=1,
        options=(Option("-f --force", "no error when it is not there"),),
        complete="volume",
    ),
}  # fmt: skip
