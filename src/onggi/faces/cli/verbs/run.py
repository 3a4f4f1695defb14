"""`run` and `create`."""

from __future__ import annotations

import os

from onggi.errors import EngineError, NotFound
from onggi.faces.cli.options import BadValueError, Option
from onggi.faces.cli.output import printable
from onggi.faces.cli.runflags import ATTACH, CONTAINER, DETACH
from onggi.faces.cli.runspec import container_spec, write_cidfile
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.session import Streams
    from onggi.faces.cli.verb import Context

_WITHOUT_A_REGISTRY = "`onggi image bootstrap` makes one, `onggi load` reads one from an archive"


class CidFile:
    """`--cidfile`: made before the container, so that the name is ours; removed if it fails."""

    __slots__ = ("_fd", "_path", "_written")

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = write_cidfile(path) if path else -1
        self._written = False

    def write(self, identity: str) -> None:
        if self._fd >= 0:
            os.write(self._fd, identity.encode())
            self._written = True

    def __enter__(self) -> CidFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            if not self._written and self._path:
                os.unlink(self._path)


def _run(context: Context, parsed: Parsed) -> int:
    spec = container_spec(parsed, context.environ, os.getcwd())
    detach = parsed.on("detach")
    with CidFile(parsed.get("cidfile")) as cidfile:

        def run() -> int:
            if detach:
                return _detached(context, spec, cidfile)
            from onggi.faces.cli.session import DETACH_KEYS, Streams  # noqa: PLC0415

            streams = Streams(
                stdin=parsed.on("interactive"),
                tty=parsed.on("tty"),
                detach_keys=parsed.get("detach-keys", DETACH_KEYS),
                sig_proxy=parsed.get("sig-proxy", True),
            )
            return attached(context, streams, spec, cidfile)

        return with_image(context, parsed.get("pull", "missing"), spec["image"], run)


def with_image(context: Context, policy: str, image: str, act: Callable[[], int]) -> int:
    """Do it; when only the image is missing, pull it and do it again (`--pull`)."""
    if policy == "always":
        _pull(context, image)
    try:
        return act()
    except NotFound as error:
        if policy != "missing" or _is_here(context, image):
            raise
        context.err.line(f"image {printable(image)} is not here: pulling it")
        try:
            _pull(context, image)
        except EngineError as cause:
            hint = cause.hint or _WITHOUT_A_REGISTRY
            raise type(cause)(
                f"{error.message}, and cannot be pulled: {cause.message}", hint=hint
            ) from None
    return act()


def _is_here(context: Context, image: str) -> bool:
    try:
        context.client.call("images.inspect", {"target": image})
    except NotFound:
        return False
    return True


def _pull(context: Context, image: str) -> None:
    from onggi.faces.cli.verbs.registry import pull_missing  # noqa: PLC0415

    pull_missing(context, image)


def _policy(text: str) -> str:
    if text not in ("always", "missing", "never"):
        raise BadValueError("none of always, missing, never", "missing")
    return text


def _detached(context: Context, spec: dict[str, Any], cidfile: CidFile) -> int:
    from onggi.faces.cli.foreground import first_session  # noqa: PLC0415

    with context.client.open("containers.run", {"spec": spec}) as call:
        session, fd = first_session(call, context)
        if fd >= 0:
            os.close(fd)
    cidfile.write(session["id"])
    context.out.line(session["id"])
    return 0


def attached(context: Context, streams: Streams, spec: dict[str, Any], cidfile: CidFile) -> int:
    """Run it with our input and output; its exit code."""
    from onggi.faces.cli.foreground import first_session, terminal_size, watch  # noqa: PLC0415

    request = {
        "spec": spec,
        "attach": True,
        "attach_stdin": streams.stdin >= 0,
        "size": terminal_size(streams),
    }
    with context.client.open("containers.run", request) as call:
        session, fd = first_session(call, context)
        cidfile.write(session["id"])
        return watch(call, fd, streams, context, session["id"])


def _create(context: Context, parsed: Parsed) -> int:
    spec = container_spec(parsed, context.environ, os.getcwd())
    with CidFile(parsed.get("cidfile")) as cidfile:

        def create() -> int:
            created = context.client.call("containers.create", spec)
            cidfile.write(created["id"])
            context.warn(created.get("warnings", ()))
            context.out.line(created["id"])
            return 0

        return with_image(context, parsed.get("pull", "missing"), spec["image"], create)


_PULL = Option("--pull", "bring the image: missing (default), always, never", value="POLICY",
               parse=_policy, complete="missing always never")  # fmt: skip
_OPTIONS: tuple[Option, ...] = (*DETACH, *CONTAINER, _PULL, *ATTACH)

VERBS = {
    "run": Verb(
        _run,
        arguments="IMAGE [COMMAND [ARGUMENT…]]",
        least=1,
        options=_OPTIONS,
        interspersed=False,
        complete="image",
        examples=(
            ("onggi run --rm -it busybox sh", "a shell; ctrl-p ctrl-q leaves it running"),
            ("onggi run -d --name web -p 8080:80 -v ./site:/www:ro busybox httpd -f -h /www",
             "serve a directory of yours, read-only, on port 8080 of the host"),
            ("onggi run --rm -m 64m --cpus 0.5 --pids-limit 100 busybox stress",
             "hold a program to its share of the machine"),
            ("tar c . | onggi run --rm -i busybox tar t", "use it in a pipe"),
        ),
    ),
    "create": Verb(
        _create,
        arguments="IMAGE [COMMAND [ARGUMENT…]]",
        least=1,
        options=(*CONTAINER, _PULL),
        interspersed=False,
        complete="image",
        examples=(
            ("onggi create --name job busybox echo hello", "make it now"),
            ("onggi start -a job", "start it later, and watch"),
        ),
    ),
}  # fmt: skip
