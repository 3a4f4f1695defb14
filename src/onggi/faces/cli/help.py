"""Help that teaches: commands by what they are for, options in groups, examples at the end."""

from __future__ import annotations

from onggi.faces.cli import catalogue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onggi.faces.cli.options import Option
    from onggi.faces.cli.output import Output
    from onggi.faces.cli.verb import Verb

_WIDEST = 100
_START = (
    ("onggi run --rm -it busybox sh", "a shell in a container; the image is pulled"),
    ("onggi image bootstrap busybox", "the same image without a registry"),
    ("onggi run -d --name web -p 8080:80 busybox httpd -f", "in the background, on port 8080"),
    ("onggi view web", "what the host sees, what the container sees"),
)
#: Verbs that are listed under their short names already.
_TWICE = frozenset(
    ("image ls", "image rm", "image tag", "image load", "image save", "image import", "image pull",
     "image push", "image history", "registry login", "registry logout", "system info",
     "system version")
)  # fmt: skip


def overview(options: Sequence[Option], out: Output) -> str:
    """What `onggi --help` prints."""
    lines = [
        "Usage: onggi [--root DIR] COMMAND …",
        "",
        "Packages applications with what they need, and runs them apart from each other.",
    ]
    for group, verbs in catalogue.GROUPS.items():
        lines += ["", out.bold(group)]
        rows = [(name, line) for name, (_, _, line) in verbs.items() if name not in _TWICE]
        lines += _columns(rows, out.columns, 18)
    lines += ["", out.bold("Options")]
    lines += _columns([(_names(o), o.help) for o in options], out.columns, 18)
    lines += ["", out.bold("Begin with")]
    lines += _columns([(command, what) for command, what in _START], out.columns, 50)
    lines += ["", "onggi COMMAND --help explains a command; onggi container, image, registry,"]
    lines += ["volume, network, system and engine group them as docker does."]
    return "\n".join(lines) + "\n"


def family_help(name: str, out: Output) -> str:
    """What `onggi image` prints."""
    rows = [
        (verb.removeprefix(f"{name} "), entry[2])
        for verb, entry in catalogue.entries().items()
        if verb.startswith(f"{name} ")
    ]
    about = catalogue.FAMILIES[name]
    head = [f"Usage: onggi {name} COMMAND …", "", f"About {about}:"]
    return "\n".join([*head, *_columns(rows, out.columns, 14)]) + "\n"


def verb_help(name: str, line: str, verb: Verb, out: Output) -> str:
    """What `onggi VERB --help` prints."""
    usage = " ".join(
        part
        for part in (f"Usage: onggi {name}", "[OPTIONS]" if verb.options else "", verb.arguments)
        if part
    )
    lines = [usage, "", f"{line[:1].upper()}{line[1:]}."]
    groups: dict[str, list[Option]] = {}
    for option in verb.options:
        groups.setdefault(option.group or "Options", []).append(option)
    for group, options in groups.items():
        lines += ["", out.bold(group)]
        lines += _columns([(_names(o), o.help) for o in options], out.columns, 30)
    if verb.examples:
        lines += ["", out.bold("Examples")]
        for command, what in verb.examples:
            lines += [f"  {out.dim(f'# {what}')}", f"  {command}"]
    return "\n".join(lines) + "\n"


def _names(option: Option) -> str:
    shorts = [n for n in option.names if len(n) == 2]
    longs = [n for n in option.names if len(n) > 2]
    lead = f"{shorts[0]}, " if shorts and longs else (shorts[0] if shorts else "    ")
    value = f" {option.value}" if option.value else ""
    return f"{lead}{', '.join(longs)}{value}"


def _columns(rows: Iterable[tuple[str, str]], columns: int, indent: int) -> list[str]:
    width = max(30, min(columns, _WIDEST))
    lines = []
    for left, right in rows:
        first = f"  {left}".ljust(indent + 2)
        if len(left) >= indent:
            lines.append(first.rstrip())
            first = " " * (indent + 2)
        for number, text in enumerate(wrap(right, max(20, width - indent - 2))):
            lines.append((first if number == 0 else " " * (indent + 2)) + text)
    return lines


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` (a longer word stands alone)."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
