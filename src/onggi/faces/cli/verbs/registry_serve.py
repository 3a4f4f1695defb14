"""`registry serve`: offers this machine's images to others. Becomes the server's own process."""

from __future__ import annotations

import os
import sys

from onggi.faces.cli.options import Option
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_OPTIONS = (
    Option("--listen", "where (127.0.0.1:5000; port 0 takes a free one)", value="HOST:PORT"),
    Option("--push", "let clients push, and delete what was pushed"),
    Option("--as", "registry name that pushed images get here (localhost:PORT)", value="HOST"),
    Option("--user", "ask for this user's name and password", value="NAME"),
    Option("--password-stdin", "read the password from stdin"),
    Option("--anonymous-pull", "ask for the password only where something is changed"),
    Option("--tls-cert", "certificate (chain), PEM", value="FILE", complete="file"),
    Option("--tls-key", "its key, PEM", value="FILE", complete="file"),
    Option("--insecure", "let other machines in without TLS, or without a password"),
)


def command(root: str | None, parsed: Parsed) -> list[str]:
    """The server's argv. `-P`: a module in the working directory is never taken for ours."""
    argv = [sys.executable, "-P", "-m", "onggi.faces.registry"]
    if root:
        argv += ["--root", os.path.realpath(root)]
    for option in _OPTIONS:
        if option.value and parsed.text(option.key):
            argv.append(f"{option.long}={parsed.text(option.key)}")
        elif not option.value and parsed.on(option.key):
            argv.append(option.long)
    return argv


def _serve(context: Context, parsed: Parsed) -> int:
    argv = command(context.root, parsed)
    # In place of this process: the terminal, its signals and the exit code are the server's.
    os.execve(argv[0], argv, dict(context.environ))  # noqa: S606 - no shell is wanted


VERBS = {
    "serve": Verb(
        _serve,
        most=0,
        options=_OPTIONS,
        examples=(
            ("onggi registry serve", "this machine's images on 127.0.0.1:5000"),
            (
                "onggi registry serve --listen 0.0.0.0:5000 --tls-cert c.pem --tls-key k.pem",
                "for the machines beside it",
            ),
            (
                "onggi registry serve --push --user ann --password-stdin --anonymous-pull <secret",
                "everybody pulls, ann pushes",
            ),
        ),
    )
}
