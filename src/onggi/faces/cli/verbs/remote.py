"""What is in a registry: `registry tags`, `registry ls`, `registry rm`, `image referrers` and
`image attach`."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument, from_os_error
from onggi.faces.cli import human
from onggi.faces.cli.options import Option
from onggi.faces.cli.several import each
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb
from onggi.faces.cli.verbs.registry import keyring_of, registries_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("DIGEST", "Digest", shrinks=True),
    Column("TYPE", "ArtifactType", shrinks=True),
    Column("SIZE", "Size", right=True),
    Column("ANNOTATIONS", "Annotations", shrinks=True),
)


def _request(context: Context, reference: str, **more: Any) -> dict[str, Any]:
    logins = keyring_of(context).requests(registries_of(context, reference))
    return {"reference": reference, "credentials": logins, **more}


def _tags(context: Context, parsed: Parsed) -> int:
    for tag in context.client.call("remote.tags", _request(context, parsed.arguments[0])):
        context.out.line(tag)
    return 0


def _catalog(context: Context, parsed: Parsed) -> int:
    registry = parsed.arguments[0]
    logins = keyring_of(context).requests([registry])
    request = {"reference": registry, "credentials": logins}
    for name in context.client.call("remote.catalog", request):
        context.out.line(name)
    return 0


def _remove(context: Context, parsed: Parsed) -> int:
    def remove(reference: str) -> str:
        if ":" not in reference.rpartition("/")[2] and "@" not in reference:
            raise InvalidArgument(f"{reference}: which tag or digest?", hint="NAME:TAG")
        context.client.call("remote.delete", _request(context, reference))
        return reference

    return each(context, parsed.arguments, remove)


def _referrers(context: Context, parsed: Parsed) -> int:
    request = _request(context, parsed.arguments[0], artifact_type=parsed.text("type"))
    rows = [
        {
            "Digest": one["digest"],
            "ArtifactType": one["artifact_type"],
            "Size": human.size(one["size_bytes"]),
            "Annotations": ",".join(f"{k}={v}" for k, v in one.get("annotations", {}).items()),
        }
        for one in context.client.call("remote.referrers", request)
    ]
    show(context.out, _COLUMNS, rows, parsed.text("format"), wide=parsed.on("no-trunc"))
    return 0


def _attach(context: Context, parsed: Parsed) -> int:
    reference, path = parsed.arguments
    annotations = {}
    for text in parsed.many("annotation"):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{text!r} is not NAME=VALUE")
        annotations[name] = value
    if not parsed.get("type"):
        raise InvalidArgument("what kind of artifact?", hint="--type application/spdx+json")
    request = _request(
        context,
        reference,
        artifact_type=parsed.text("type"),
        name=os.path.basename(path),
        annotations=annotations,
    )
    if parsed.get("media-type"):
        request["media_type"] = parsed.text("media-type")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, f"reading {path}") from None
    try:
        answer = context.client.call("remote.attach", request, [fd])
    finally:
        os.close(fd)
    context.out.line(answer["digest"])
    return 0


VERBS = {
    "tags": Verb(
        _tags, arguments="NAME", least=1, most=1,
        examples=(("onggi registry tags registry.example/app", "every tag of a repository"),),
    ),
    "ls": Verb(
        _catalog, arguments="REGISTRY", least=1, most=1,
        examples=(("onggi registry ls localhost:5000", "every repository that it tells of"),),
    ),
    "rm": Verb(
        _remove, arguments="NAME:TAG…", least=1,
        examples=(("onggi registry rm localhost:5000/app:old", "where the registry deletes"),),
    ),
    "referrers": Verb(
        _referrers,
        arguments="NAME",
        least=1,
        most=1,
        options=(
            Option("--type", "only artifacts of this type", value="TYPE"),
            Option("--no-trunc", "cut nothing"),
            Option("--format", "table, json, or a template", value="FORM"),
        ),
        examples=(("onggi image referrers localhost:5000/app:1", "what is attached to it"),),
    ),
    "attach": Verb(
        _attach,
        arguments="NAME FILE",
        least=2,
        most=2,
        options=(
            Option("--type", "type of the artifact: application/spdx+json", value="TYPE"),
            Option("--media-type", "type of the file", value="TYPE"),
            Option("--annotation", "NAME=VALUE", value="ANNOTATION", many=True),
        ),
        examples=(
            ("onggi image attach --type application/spdx+json localhost:5000/app:1 app.spdx.json",
             "an SBOM beside its image"),
        ),
    ),
}  # fmt: skip
