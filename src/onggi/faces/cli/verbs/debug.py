"""`debug`: a shell with tools beside a container that has none.

It is a container of its own, from an image with tools, in the other's namespaces: nothing is put
into the other one, and what it is limited to holds for the tools by their own limits.
Source: docker-debug(1); proc(5) /proc/PID/root.
"""

from __future__ import annotations

import os

from onggi.faces.cli.options import Option
from onggi.faces.cli.verb import Verb
from onggi.faces.cli.verbs.run import CidFile, attached, with_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_IMAGE = "busybox"
#: Begins where the container's own files are.
_SHELL = ("sh", "-c", "cd /proc/1/root && exec sh")


def _debug(context: Context, parsed: Parsed) -> int:
    from onggi.faces.cli.session import DETACH_KEYS, Streams  # noqa: PLC0415

    target, *command = parsed.arguments
    tty = os.isatty(0) and os.isatty(1)
    image = parsed.get("image", _IMAGE)
    spec = {
        "image": image,
        "command": command or _SHELL,
        "entrypoint": [],
        "user": "0",
        "auto_remove": True,
        "tty": tty,
        "stdin_open": True,
        "log_driver": "none",
        "cap_add": ["SYS_PTRACE"],
        **dict.fromkeys(("network", "ipc", "pid", "uts"), f"container:{target}"),
    }
    streams = Streams(stdin=True, tty=tty, detach_keys=DETACH_KEYS, sig_proxy=True)

    def run() -> int:
        with CidFile(None) as cidfile:
            return attached(context, streams, spec, cidfile)

    return with_image(context, "missing", image, run)


VERBS = {
    "debug": Verb(
        _debug,
        arguments="CONTAINER [COMMAND [ARGUMENT…]]",
        least=1,
        interspersed=False,
        options=(
            Option("--image", f"the image that has the tools ({_IMAGE})", value="IMAGE",
                   complete="image"),
        ),
        complete="container",
        examples=(
            ("onggi debug web", "a shell in its network and among its processes"),
            ("onggi debug web ls /proc/1/root/etc", "its files are at /proc/1/root"),
            ("onggi debug --image nettools web tcpdump -i eth0", "with tools of yours"),
        ),
    )
}  # fmt: skip
