"""Images as values: `history`, `image tree`, `image diff`, `image validate`, `image sbom`,
`image mutate`, `commit`, and `diff` of a container."""

from __future__ import annotations

import os
import time

from onggi.errors import InvalidArgument, from_os_error
from onggi.faces.cli import human
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.values import rfc3339_ns
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_FORMAT = Option("--format", "table, json, or a template", value="FORM")
_NO_TRUNC = Option("--no-trunc", "cut nothing")
_CHANGE = Option("-c --change", "a Dockerfile line: 'CMD [\"sh\"]'", value="LINE", many=True)
_HISTORY = (
    Column("LAYER", "Layer"),
    Column("CREATED", "CreatedSince"),
    Column("CREATED BY", "CreatedBy", shrinks=True),
    Column("SIZE", "Size", right=True),
    Column("COMMENT", "Comment", shrinks=True),
)
_FINDINGS = (
    Column("SEVERITY", "Severity"),
    Column("PLACE", "Place", shrinks=True),
    Column("WHAT", "Message", shrinks=True),
    Column("SECTION", "Section", shrinks=True),
)


def _history(context: Context, parsed: Parsed) -> int:
    full, human_sizes = parsed.on("no-trunc"), parsed.get("human", True)
    now_ns = time.time_ns()

    def row(step: dict[str, Any]) -> dict[str, Any]:
        try:
            created_ns = rfc3339_ns(step["created"])
        except BadValueError:
            created_ns = 0
        layer = step.get("layer", "")
        identity = step.get("id", "")
        return {
            "ID": (identity if full else identity.removeprefix("sha256:")[:12]) or "<missing>",
            "Layer": (layer if full else layer.removeprefix("sha256:")[:12]) or "<none>",
            "CreatedAt": step["created"],
            "CreatedSince": (human.ago(created_ns, now_ns) or "N/A")
            if human_sizes
            else step["created"],
            "CreatedBy": step["created_by"],
            "Size": human.size(step["size_bytes"]) if human_sizes else str(step["size_bytes"]),
            "Comment": step["comment"],
        }

    steps = context.client.call("images.history", {"target": parsed.arguments[0]})
    rows, form = [row(step) for step in steps], parsed.text("format")
    if parsed.on("quiet") and not form:
        form = "{{.ID}}"
    show(context.out, _HISTORY, rows, form, wide=full)
    return 0


def _tree(context: Context, parsed: Parsed) -> int:
    rows = context.client.call("images.tree", {})
    if parsed.text("format") == "json":
        show(context.out, (), rows, "json", wide=True)
        return 0
    for row in rows:
        names = "  ".join(row.get("names", ()))
        identity = row["chain_id"].removeprefix("sha256:")[:12]
        indent = "  " * row["depth"] + ("└ " if row["depth"] else "")
        context.out.line(f"{indent}{identity}  {human.size(row['size_bytes'])}  {names}".rstrip())
    return 0


def _compare(context: Context, parsed: Parsed) -> int:
    first, second = parsed.arguments
    answer = context.client.call("images.compare", {"first": first, "second": second})
    if parsed.text("format") == "json":
        show(context.out, (), [answer], "json", wide=True)
        return 0
    context.out.line(f"{answer['shared_layers']} layers shared")
    for field, (before, after) in sorted(answer["configuration"].items()):
        context.out.line(f"config {field}: {before} → {after}")
    for change in answer["files"]:
        what = ", ".join(change.get("what", ()))
        context.out.line(f"{change['kind']} {change['path']}" + (f"  ({what})" if what else ""))
    return 0


def _validate(context: Context, parsed: Parsed) -> int:
    found = context.client.call("images.validate", {"target": parsed.arguments[0]})
    rows = [
        {
            "Severity": one["severity"],
            "Place": one["place"],
            "Message": one["message"],
            "Section": one.get("section", ""),
        }
        for one in found
    ]
    form = parsed.text("format")
    if rows or form:
        show(context.out, _FINDINGS, rows, form, wide=parsed.on("no-trunc"))
    else:
        context.out.line("as the specification wants it")
    return 1 if any(row["Severity"] == "error" for row in rows) else 0


def _sbom(context: Context, parsed: Parsed) -> int:
    request = {"target": parsed.arguments[0], "form": parsed.get("format", "spdx")}
    path = parsed.text("output")
    if path in ("", "-"):
        context.client.call("images.sbom", request, [1])
        return 0
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise from_os_error(error, f"writing {path}") from None
    try:
        context.client.call("images.sbom", request, [fd])
    finally:
        os.close(fd)
    return 0


def _mutate(context: Context, parsed: Parsed) -> int:
    fds: list[int] = []
    try:
        for path in parsed.many("append"):
            fds.append(_open_layer(path))
        request = {
            "source": parsed.arguments[0],
            "target": parsed.text("tag"),
            "changes": parsed.many("change"),
            "annotations": dict(_pair(text) for text in parsed.many("annotation")),
            "layers": len(fds),
            "flatten": parsed.on("flatten"),
            "old_base": parsed.text("old-base"),
            "new_base": parsed.text("new-base"),
            "created": _created(context.environ.get("SOURCE_DATE_EPOCH", "")),
        }
        answer = context.client.call("images.mutate", request, fds)
    except OSError as error:
        raise from_os_error(error, "reading a layer") from None
    finally:
        for fd in fds:
            os.close(fd)
    context.out.line(answer["id"])
    return 0


def _open_layer(path: str) -> int:
    """A tar to read; `-` is stdin. Raises: OSError, InvalidArgument."""
    if path != "-":
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if os.isatty(0):
        raise InvalidArgument("no layer on stdin", hint="name a file, or use < FILE")
    return os.dup(0)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidArgument(f"{text!r} is not NAME=VALUE")
    return name, value


def _created(epoch: str) -> str:
    """Source: reproducible-builds.org, SOURCE_DATE_EPOCH."""
    if not epoch:
        return ""
    if not epoch.isdecimal() or len(epoch) > 11:
        raise InvalidArgument(f"SOURCE_DATE_EPOCH {epoch[:40]!r} is no count of seconds")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch)))


def _commit(context: Context, parsed: Parsed) -> int:
    request = {
        "container": parsed.arguments[0],
        "reference": parsed.arguments[1] if len(parsed.arguments) > 1 else "",
        "author": parsed.text("author"),
        "message": parsed.text("message"),
        "changes": parsed.many("change"),
        "pause": parsed.get("pause", True),
    }
    context.out.line(context.client.call("containers.commit", request)["id"])
    return 0


def _changes(context: Context, parsed: Parsed) -> int:
    for change in context.client.call("containers.changes", {"target": parsed.arguments[0]}):
        context.out.line(f"{change['kind']} {change['path']}")
    return 0


def _sbom_form(text: str) -> str:
    if text not in ("spdx", "cyclonedx"):
        raise BadValueError("neither spdx nor cyclonedx", "spdx")
    return text


VERBS = {
    "history": Verb(
        _history, arguments="IMAGE", least=1, most=1, complete="image",
        options=(
            _NO_TRUNC,
            _FORMAT,
            Option("-q --quiet", "ids only, of steps that are an image's last"),
            Option("-H --human", "sizes and times for people (true)", default=True),
        ),
        examples=(("onggi history debian", "how each layer was made"),),
    ),
    "tree": Verb(
        _tree, most=0, options=(_FORMAT,),
        examples=(("onggi image tree", "which images stand on which layers"),),
    ),
    "compare": Verb(
        _compare, arguments="IMAGE IMAGE", least=2, most=2, options=(_FORMAT,), complete="image",
        examples=(("onggi image diff app:1 app:2", "files and configuration that differ"),),
    ),
    "validate": Verb(
        _validate, arguments="IMAGE", least=1, most=1, options=(_NO_TRUNC, _FORMAT),
        complete="image",
        examples=(("onggi image validate app:1", "exit code 1 when something is wrong"),),
    ),
    "sbom": Verb(
        _sbom,
        arguments="IMAGE",
        least=1,
        most=1,
        options=(
            Option("--format", "spdx (default) or cyclonedx", value="FORM", parse=_sbom_form,
                   complete="spdx cyclonedx"),
            Option("-o --output", "write to FILE instead of stdout", value="FILE",
                   complete="file"),
        ),
        complete="image",
        examples=(("onggi image sbom app:1 -o app.spdx.json", "Debian and Python packages"),),
    ),
    "mutate": Verb(
        _mutate,
        arguments="IMAGE",
        least=1,
        most=1,
        options=(
            Option("-t --tag", "name of the new image", value="NAME"),
            _CHANGE,
            Option("--annotation", "NAME=VALUE in the manifest", value="ANNOTATION", many=True),
            Option("--append", "put the files of a tar (- is stdin) on top", value="FILE",
                   many=True, complete="file"),
            Option("--flatten", "make one layer of all"),
            Option("--old-base", "with --new-base: what it was made on", value="IMAGE"),
            Option("--new-base", "put it on this image instead (rebase)", value="IMAGE"),
        ),
        complete="image",
        examples=(
            ("onggi image mutate app:1 -t app:2 -c 'ENV DEBUG=1'", "other configuration"),
            ("onggi image mutate app:1 -t app:2 --append site.tar", "one layer more"),
            ("onggi image mutate app:1 -t app:2 --old-base debian:1 --new-base debian:2",
             "onto a newer base, without building"),
        ),
    ),
    "commit": Verb(
        _commit,
        arguments="CONTAINER [NAME]",
        least=1,
        most=2,
        options=(
            Option("-a --author", "who made it", value="TEXT"),
            Option("-m --message", "a line for the history", value="TEXT"),
            _CHANGE,
            Option("-p --pause", "let it stand still meanwhile (true)", default=True),
        ),
        complete="container",
        examples=(("onggi commit web web:tuned", "a container's changes as an image"),),
    ),
    "changes": Verb(
        _changes, arguments="CONTAINER", least=1, most=1, complete="container",
        examples=(("onggi diff web", "what it added (A), changed (C) and deleted (D)"),),
    ),
}  # fmt: skip
