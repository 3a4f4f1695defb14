"""`images`, `rmi` and `tag`."""

from __future__ import annotations

import time

from onggi.faces.cli import human
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.several import each
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.values import rfc3339_ns
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("REPOSITORY", "Repository", shrinks=True),
    Column("TAG", "Tag", shrinks=True),
    Column("IMAGE ID", "ID"),
    Column("CREATED", "CreatedSince", shrinks=True),
    Column("SIZE", "Size", right=True),
)
_DIGEST = Column("DIGEST", "Digest", shrinks=True)


def split_name(name: str) -> tuple[str, str]:
    """(repository, tag) of a reference; a port is not a tag."""
    name = name.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "<none>")


def rows(summary: dict[str, Any], now_ns: int, *, full: bool) -> list[dict[str, Any]]:
    """A row for each name of an image, under docker's names."""
    try:
        created_ns = rfc3339_ns(summary["created"])
    except BadValueError:
        created_ns = 0  # an image may say anything here, or nothing
    identity = summary["id"]
    size = human.size(summary["size_bytes"])
    found = []
    for name in summary.get("names", ()) or ("<none>",):
        repository, tag = split_name(name)
        found.append(
            {
                "ID": identity if full else identity.removeprefix("sha256:")[:12],
                "Repository": repository,
                "Tag": tag,
                "Digest": summary["digest"],
                "CreatedAt": human.timestamp(created_ns) if created_ns else "N/A",
                "CreatedSince": human.ago(created_ns, now_ns) or "N/A",
                "Size": size,
                "VirtualSize": size,
                "SharedSize": "N/A",
                "UniqueSize": "N/A",
                "Platform": summary["platform"],
                "Containers": str(summary.get("containers", 0)),
            }
        )
    return found


def _list(context: Context, parsed: Parsed) -> int:
    filters = parsed.many("filter")
    filters += [f"reference={name}" for name in parsed.arguments]
    request = {"all": parsed.on("all"), "filters": filters}
    found = context.client.call("images.list", request)
    full = parsed.on("no-trunc")
    now_ns = time.time_ns()
    table = [row for summary in found for row in rows(summary, now_ns, full=full)]
    form = parsed.text("format")
    if parsed.on("quiet") and not form:
        identities = dict.fromkeys(row["ID"] for row in table)
        context.out.text("".join(f"{identity}\n" for identity in identities))
        return 0
    columns = (*_COLUMNS[:2], _DIGEST, *_COLUMNS[2:]) if parsed.on("digests") else _COLUMNS
    show(context.out, columns, table, form, wide=full)
    return 0


def _remove(context: Context, parsed: Parsed) -> int:
    def remove(target: str) -> str:
        request = {"target": target, "force": parsed.on("force")}
        return "\n".join(context.client.call("images.remove", request))

    return each(context, parsed.arguments, remove, may_miss=parsed.on("force"))


def _tag(context: Context, parsed: Parsed) -> int:
    source, target = parsed.arguments
    context.client.call("images.tag", {"source": source, "target": target})
    return 0


VERBS = {
    "ls": Verb(
        _list,
        arguments="[NAME]",
        most=1,
        options=(
            Option("-a --all", "intermediate images too"),
            Option("-q --quiet", "ids only"),
            Option("-f --filter", "KEY=VALUE: reference, dangling, label, before, since, until",
                   value="FILTER", many=True),
            Option("--digests", "the digest of each"),
            Option("--no-trunc", "cut nothing"),
            Option("--format", "table, json, or a template: '{{.Repository}}:{{.Tag}}'",
                   value="FORM"),
        ),
        complete="image",
        examples=(
            ("onggi images --format '{{.ID}} {{.Size}}'", "for a script"),
            ("onggi images --filter 'reference=*/app:*'", "app of every owner, with any tag"),
        ),
    ),
    "rm": Verb(
        _remove,
        arguments="IMAGE…",
        least=1,
        options=(
            Option("-f --force", "even when it has several names; no failure when it is not there"),
        ),
        complete="image",
        examples=(("onggi rmi busybox", "remove the name, and the image if it was the last"),),
    ),
    "tag": Verb(
        _tag,
        arguments="IMAGE NAME",
        least=2,
        most=2,
        complete="image",
        examples=(("onggi tag busybox registry.example:5000/busybox:1", "a name to push under"),),
    ),
}  # fmt: skip
