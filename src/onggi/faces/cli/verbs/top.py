"""`top`."""

from __future__ import annotations

from onggi.errors import InvalidArgument, Unavailable
from onggi.faces.cli.options import Option, parse
from onggi.faces.cli.output import printable
from onggi.faces.cli.table import Column, show
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_COLUMNS = (
    Column("UID", "UID", right=True),
    Column("PID", "PID", right=True),
    Column("PPID", "PPID", right=True),
    Column("C", "C", right=True),
    Column("STIME", "STIME"),
    Column("TTY", "TTY"),
    Column("TIME", "TIME"),
    Column("CMD", "CMD", shrinks=True),
)
_FIELDS = {
    "UID": "uid", "PID": "pid", "PPID": "ppid", "C": "cpu", "STIME": "started", "TTY": "tty",
    "TIME": "time", "CMD": "command",
}  # fmt: skip


def _top(context: Context, parsed: Parsed) -> int:
    target, *rest = parsed.arguments
    form = parsed.text("format")
    if rest and rest[0].partition("=")[0] == "--format":
        found = parse("top", _OPTIONS, rest)
        form, rest = found.text("format"), found.arguments
    processes = context.client.call("containers.top", {"target": target})
    if rest:
        context.out.text(_by_ps(rest, {str(process["pid"]) for process in processes}))
        return 0
    rows = [{key: process[field] for key, field in _FIELDS.items()} for process in processes]
    show(context.out, _COLUMNS, rows, form, wide=False)
    return 0


def _by_ps(options: Sequence[str], pids: set[str]) -> str:
    """What the host's ps prints with these options, of these processes only.

    Raises: Unavailable: there is no ps. InvalidArgument: its options are wrong, or show no PID.
    """
    code, printed, said = _ps([*options, "-q", ",".join(sorted(pids))])
    if code:  # some options cannot be used together with -q
        code, printed, said = _ps(options)
    if code:
        first = said.strip().partition("\n")[0]
        raise InvalidArgument(f"ps {' '.join(options)}: {printable(first) or 'failed'}")
    head, *lines = printed.splitlines()
    if "PID" not in head.split():
        raise InvalidArgument(
            "ps shows no column PID with these options", hint="write for instance -o pid,comm"
        )
    at = head.split().index("PID")
    chosen = [line for line in lines if pids.issuperset(line.split()[at : at + 1] or ("-",))]
    return "".join(f"{printable(line)}\n" for line in (head, *chosen))


def _ps(options: Sequence[str]) -> tuple[int, str, str]:
    import subprocess  # noqa: PLC0415 - 10 ms that a plain top does not pay

    try:
        done = subprocess.run(["ps", *options], capture_output=True, check=False)
    except FileNotFoundError:
        raise Unavailable(
            "this host has no ps, which options of top are for", hint="install procps"
        ) from None
    printed, said = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return done.returncode, printed, said


_OPTIONS = (Option("--format", "table, json, or a template", value="FORM"),)
VERBS = {
    "top": Verb(
        _top,
        arguments="CONTAINER [PS OPTIONS]",
        least=1,
        options=_OPTIONS,
        interspersed=False,
        complete="container",
        examples=(
            ("onggi top web", "ids are the host's: what you could look up in /proc"),
            ("onggi top web -eo pid,rss,comm", "columns of the host's ps"),
        ),
    )
}
