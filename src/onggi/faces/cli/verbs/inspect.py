"""`inspect`: an object as JSON, of any kind or of a named one."""

from __future__ import annotations

from onggi.errors import EngineError, NotFound
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.table import liner
from onggi.faces.cli.verb import Verb
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_CALLS = {
    "container": "containers.inspect",
    "image": "images.inspect",
    "volume": "volumes.inspect",
    "network": "networks.inspect",
}


def _kind(text: str) -> str:
    if text not in _CALLS:
        raise BadValueError("not container, image, volume or network", "container")
    return text


def _find(context: Context, target: str, kinds: tuple[str, ...], *, size: bool) -> Any:
    for kind in kinds:
        request: dict[str, Any] = {"target": target}
        if size and kind == "container":
            request["size"] = True
        try:
            return context.client.call(_CALLS[kind], request)
        except NotFound as error:
            if len(kinds) == 1:
                raise error from None
    raise NotFound(f"no container, image, volume or network is named {target}")


def _verb(kinds: tuple[str, ...]) -> Callable[[Context, Parsed], int]:
    def run(context: Context, parsed: Parsed) -> int:
        wanted = (parsed.get("type"),) if parsed.get("type") else kinds
        form = parsed.text("format")
        line = liner(form) if form not in ("", "json") else None
        found, failed = [], False
        for target in parsed.arguments:
            try:
                found.append(_find(context, target, wanted, size=parsed.on("size")))
            except EngineError as error:
                context.err.line(f"onggi: {error}")
                failed = True
        if line is not None:
            context.out.text("".join(f"{line(value)}\n" for value in found))
        elif form == "json":
            context.out.line(jsontext.text(found))
        else:
            context.out.line(jsontext.pretty(found))
        return 1 if failed else 0

    return run


_FORMAT = Option(
    "-f --format", "json, or a template: '{{.State.Pid}}', '{{json .Mounts}}'", value="FORM"
)
_SIZE = Option("-s --size", "with what a container takes on disk: SizeRw, SizeRootFs")
_EXAMPLE = (
    ("onggi inspect -f '{{.State.Pid}}' web", "one field, for a script"),
    ("onggi inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web",
     "its address"),
)  # fmt: skip
_ALL = ("container", "image", "volume", "network")

VERBS = {
    "inspect": Verb(
        _verb(_ALL),
        arguments="NAME…",
        least=1,
        options=(
            _FORMAT,
            _SIZE,
            Option(
                "-t --type", "container, image, volume or network", value="KIND", parse=_kind,
                complete="container image volume network",
            ),
        ),
        complete="container",
        examples=_EXAMPLE,
    ),
    **{
        kind: Verb(
            _verb((kind,)), arguments="NAME…", least=1, complete=kind,
            options=(_FORMAT, _SIZE) if kind == "container" else (_FORMAT,),
        )
        for kind in _ALL
    },
}  # fmt: skip
