"""Images and root file systems in and out: `load`, `save`, `import`, `export`, `bootstrap`."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument, from_os_error
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.progress import follow
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_QUIET = Option("-q --quiet", "show no progress")
_OUTPUT = Option("-o --output", "write to FILE instead of stdout", value="FILE", complete="file")


class _Descriptor:
    """A file to hand to the engine; closed on leaving, removed when the work failed."""

    __slots__ = ("_made", "fd")

    def __init__(self, fd: int, made: str = "") -> None:
        self.fd = fd
        self._made = made

    def __enter__(self) -> _Descriptor:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.fd > 2:
            os.close(self.fd)
        if kind is not None and self._made:
            os.unlink(self._made)


def _source(path: str, what: str) -> _Descriptor:
    """An archive to read: a file, or stdin when it is not a terminal."""
    if path in ("", "-"):
        if os.isatty(0):
            raise InvalidArgument(f"no {what} on stdin", hint="name a file, or use < FILE")
        return _Descriptor(0)
    if path.startswith(("http://", "https://")):
        raise InvalidArgument(
            f"the {what} is read from a file, not from {path}",
            hint=f"curl -fL {path} | onggi … -",
        )
    try:
        return _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise from_os_error(error, f"reading the {what}") from None


def _target(path: str) -> _Descriptor:
    """An archive to write: a file, or stdout when it is not a terminal."""
    if path in ("", "-"):
        if os.isatty(1):
            raise InvalidArgument("an archive is not for a terminal", hint="use -o FILE or > FILE")
        return _Descriptor(1)
    existed = os.path.exists(path)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise from_os_error(error, "writing the archive") from None
    return _Descriptor(fd, "" if existed else path)


def _follow(
    context: Context, name: str, request: dict[str, Any], fd: int, *, quiet: bool
) -> list[dict[str, Any]]:
    fds = [fd] if fd >= 0 else []
    with context.client.open(name, request, fds) as call:
        return follow(call, context.err, quiet=quiet)


def _load(context: Context, parsed: Parsed) -> int:
    with _source(parsed.text("input"), "archive") as source:
        answers = _follow(context, "images.load", {}, source.fd, quiet=parsed.on("quiet"))
    for answer in answers:
        names = answer.get("names", ())
        for name in names:
            context.out.line(f"Loaded image: {name}")
        if not names:
            context.out.line(f"Loaded image ID: {answer['id']}")
    return 0


def _save(context: Context, parsed: Parsed) -> int:
    request = {"images": parsed.arguments, "format": parsed.get("format", "oci")}
    with _target(parsed.text("output")) as target:
        _follow(context, "images.save", request, target.fd, quiet=parsed.on("quiet"))
    return 0


def _import(context: Context, parsed: Parsed) -> int:
    request = {
        "reference": parsed.arguments[1] if len(parsed.arguments) > 1 else "",
        "message": parsed.text("message"),
        "changes": parsed.many("change"),
    }
    with _source(parsed.arguments[0], "tar") as source:
        answers = _follow(context, "images.import", request, source.fd, quiet=parsed.on("quiet"))
    for answer in answers:
        context.out.line(answer["id"])
    return 0


def _export(context: Context, parsed: Parsed) -> int:
    with _target(parsed.text("output")) as target:
        request = {"target": parsed.arguments[0]}
        context.client.call("containers.export", request, [target.fd])
    return 0


def _bootstrap(context: Context, parsed: Parsed) -> int:
    base = parsed.arguments[0]
    family, _, suite = base.partition(":")
    if family not in ("busybox", "debian") or (family == "busybox" and suite):
        raise InvalidArgument(
            f"no base {base!r} is known", hint="busybox, debian, or debian:SUITE (debian:bookworm)"
        )
    include = [name for text in parsed.many("include") for name in text.split(",") if name]
    request: dict[str, Any] = {"base": base, "include": include}
    for key, field in (("tag", "reference"), ("variant", "variant")):
        if parsed.get(key):
            request[field] = parsed.get(key)
    answers = _follow(context, "images.bootstrap", request, -1, quiet=parsed.on("quiet"))
    for answer in answers:
        context.out.line(" ".join(answer.get("names", ())) or answer["id"])
    return 0


def _archive_format(text: str) -> str:
    if text not in ("docker", "oci"):
        raise BadValueError("neither docker nor oci", "oci")
    return text


VERBS = {
    "load": Verb(
        _load,
        most=0,
        options=(
            Option("-i --input", "read FILE instead of stdin", value="FILE", complete="file"),
            _QUIET,
        ),
        examples=(("onggi load -i images.tar", "docker's and OCI's archives, packed or not"),),
    ),
    "save": Verb(
        _save,
        arguments="IMAGE…",
        least=1,
        options=(
            _OUTPUT,
            Option("--format", "oci (default) or docker", value="FORM", parse=_archive_format,
                   complete="oci docker"),
            _QUIET,
        ),
        complete="image",
        examples=(("onggi save busybox | ssh other onggi load", "copy an image to another host"),),
    ),
    "import": Verb(
        _import,
        arguments="FILE|- [NAME]",
        least=1,
        most=2,
        options=(
            Option("-c --change", "a Dockerfile line: 'CMD [\"sh\"]'", value="LINE", many=True),
            Option("-m --message", "a line for the history", value="TEXT"),
            _QUIET,
        ),
        complete="file",
        examples=(("onggi import rootfs.tar.gz mine:1", "any root file system becomes an image"),),
    ),
    "export": Verb(
        _export,
        arguments="CONTAINER",
        least=1,
        most=1,
        options=(_OUTPUT,),
        complete="container",
        examples=(("onggi export web | tar t", "every file that it sees"),),
    ),
    "bootstrap": Verb(
        _bootstrap,
        arguments="busybox|debian[:SUITE]",
        least=1,
        most=1,
        options=(
            Option("--include", "more packages: curl,ca-certificates", value="PACKAGES",
                   many=True),
            Option("-t --tag", "name of the image", value="NAME"),
            Option("--variant", "how much of debian: minbase (default), essential, apt",
                   value="VARIANT"),
            _QUIET,
        ),
        examples=(
            ("onggi image bootstrap busybox", "a few megabytes, in a second"),
            ("onggi image bootstrap debian:bookworm --include python3 -t py:3", "with python"),
        ),
    ),
}  # fmt: skip
