"""`onggi`: finds the verb, reads its options, carries it out, and answers with an exit code.

Reads argv, the environment and the working directory inside `main` only, so that a warm process
can run one command after another's world has been given to it.
"""

from __future__ import annotations

import os
import sys

from onggi.errors import EXIT_CODES, EngineError, InvalidArgument, from_os_error
from onggi.faces.cli import catalogue
from onggi.faces.cli.options import Option, parse
from onggi.faces.cli.output import Output
from onggi.faces.cli.verb import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from onggi.faces.cli.verb import Verb

GLOBAL = (
    Option("--root", "keep everything of the engine below DIR (ONGGI_ROOT)", value="DIR"),
    Option("-v --version", "print the version"),
)
_INTERRUPTED = 130
_NOBODY_READS = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line (without the program's name); its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(words)
    except EngineError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        return _NOBODY_READS
    except OSError as error:
        return _failed(from_os_error(error, "the command failed"))


def _failed(error: EngineError) -> int:
    try:
        Output(2).line(f"onggi: {error}")
    except OSError:
        code = None  # nobody reads stderr; the exit code still tells
    code = getattr(error, "exit_code", None)
    if code is not None:
        return int(code)
    return next((EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES), 125)


def _command(words: list[str]) -> int:
    before = parse("", GLOBAL, words, interspersed=False)
    if before.on("version"):
        words = ["version"]
        before.arguments = words
    if before.help or not before.arguments:
        return _help(before.arguments, asked=before.help)
    name, rest = _split(before.arguments)
    if name == "help":
        return _help(rest, asked=True)
    entry = catalogue.entry_of(name)
    if entry is None:
        return _no_verb(name, rest)
    verb = catalogue.load(entry)
    parsed = parse(name, verb.options, rest, interspersed=verb.interspersed)
    if parsed.help:
        from onggi.faces.cli.help import verb_help  # noqa: PLC0415

        out = Output(1)
        out.text(verb_help(name, entry[2], verb, out))
        return 0
    _check_count(name, verb, len(parsed.arguments))
    environ = os.environ
    root = before.get("root") or environ.get("ONGGI_ROOT") or None
    return verb.run(Context(root, environ), parsed)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb's name, of one word or two, and what follows it."""
    first = arguments[0]
    if first in catalogue.FAMILIES and len(arguments) > 1 and not arguments[1].startswith("-"):
        return f"{first} {arguments[1]}", arguments[2:]
    return first, arguments[1:]


def _check_count(name: str, verb: Verb, count: int) -> None:
    if count < verb.least or (verb.most is not None and count > verb.most):
        word = "few" if count < verb.least else "many"
        raise InvalidArgument(
            f"too {word} arguments for onggi {name}",
            hint=f"usage: onggi {name} {verb.arguments}",
        )


def _help(words: list[str], *, asked: bool) -> int:
    from onggi.faces.cli.help import family_help, overview, verb_help  # noqa: PLC0415

    out = Output(1 if asked else 2)
    if not words:
        out.text(overview(GLOBAL, out))
        return 0 if asked else 125
    name, _ = _split(words)
    entry = catalogue.entry_of(name)
    if entry is not None:
        out.text(verb_help(name, entry[2], catalogue.load(entry), out))
        return 0
    if name in catalogue.FAMILIES:
        out.text(family_help(name, out))
        return 0
    return _no_verb(name, [])


def _no_verb(name: str, rest: list[str]) -> int:
    if name in catalogue.FAMILIES:
        from onggi.faces.cli.help import family_help  # noqa: PLC0415

        asked = "--help" in rest or "-h" in rest
        out = Output(1 if asked else 2)
        out.text(family_help(name, out))
        return 0 if asked else 125
    from onggi.faces.cli import instead  # noqa: PLC0415
    from onggi.faces.cli.suggest import nearest  # noqa: PLC0415

    meant = nearest(name, [*catalogue.entries(), *catalogue.FAMILIES, "help"])
    hint = f"did you mean onggi {meant}?" if meant else "onggi --help lists the commands"
    raise InvalidArgument(f"there is no command {name}", hint=instead.command(name) or hint)


if __name__ == "__main__":
    sys.exit(main())
