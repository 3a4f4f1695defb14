"""`help` and `version`."""

from __future__ import annotations

from onggi import __version__
from onggi.faces.oci.looking import say

SPEC_VERSION = "1.3.0"


def print_version() -> int:
    """Versions, in the lines that callers parse; what there is of systemd, in crun's word."""
    say(f"onggi-runtime version {__version__}\nspec: {SPEC_VERSION}\n+SYSTEMD")
    return 0


def print_help(words: list[str]) -> int:
    """What there is, by name."""
    from onggi.faces.oci import main  # noqa: PLC0415

    if words and words[0] in main.ROOMS:
        name = words[0]
        say(f"usage: onggi-runtime {name} [options] …")
        table, _ = main.load(name)
    else:
        say("usage: onggi-runtime [global options] command [options] …\n")
        say(f"commands: {' '.join(main.ROOMS)}\n\nglobal options:")
        table = main.GLOBAL
    for names, kind in table.items():
        flags = ", ".join(f"-{n}" if len(n) == 1 else f"--{n}" for n in names.split())
        say(f"  {flags}{'' if kind == 'switch' else ' VALUE'}")
    return 0
