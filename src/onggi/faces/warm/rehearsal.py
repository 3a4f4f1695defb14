"""What a command does, done once before anybody waits for it.

The interpreter adapts code that has run a few times, and a forked child copies each page at its
first write: the parent rehearses for the one, every spare for the other. Nothing is changed, and
nobody is called.
"""

from __future__ import annotations

import os

from onggi.faces.cli import catalogue, main
from onggi.faces.cli.options import parse
from onggi.faces.cli.runspec import container_spec
from onggi.faces.warm.request import Request
from onggi.faces.warm.world import enter
from onggi.specs import jsontext

#: A directory without an engine that no host lacks: `version` finds nobody there.
_NOWHERE = "/proc/self"
_VARIABLES = 48


def rehearse() -> None:
    """Go through a command's steps. Needs /dev/null on 0, 1 and 2's errors to matter to nobody."""
    fds = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for _ in range(2)]
    fds.append(os.dup(2))
    fds += [os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for _ in range(2)]
    request = Request(0o22, 0, [], [b"VARIABLE_%d=%d" % (n, n) for n in range(_VARIABLES)])
    request.fds = fds
    enter(request)
    main.main(["--root", _NOWHERE, "version"])
    _compose_a_run()
    os.environ.clear()


def _compose_a_run() -> None:
    entry = catalogue.entry_of("run")
    assert entry is not None
    words = ["--rm", "-i", "-m", "64m", "-e", "A=b", "--name", "x", "image", "command"]
    parsed = parse("run", catalogue.load(entry).options, words, interspersed=False)
    spec = container_spec(parsed, os.environ, "/")
    jsontext.encode({"call": "containers.run", "args": {"spec": spec}})
