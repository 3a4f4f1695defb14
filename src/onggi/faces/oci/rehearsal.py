"""What a command does, done once before anybody waits for it; nothing is changed, nobody is called.

As faces.warm.rehearsal does for the engine's command line.
"""

from __future__ import annotations

import os

from onggi.faces.oci import main
from onggi.faces.oci.describing import example
from onggi.faces.warm.request import Request
from onggi.faces.warm.world import enter
from onggi.kernel.liveness import boot_id, own_identity
from onggi.runtime.host import probe
from onggi.runtime.plan import plan
from onggi.runtime.request import Caller, StartRequest
from onggi.sandbox.oci.home import with_home
from onggi.sandbox.oci.records import Record, status_of
from onggi.specs import jsontext
from onggi.specs.runtime import Process, parse_config

_VARIABLES = 48


def rehearse() -> None:
    """Go through a command's steps, /dev/null in the place of everything."""
    fds = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for _ in range(3)]
    fds += [os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for _ in range(2)]
    request = Request(0o22, 0, [], [b"VARIABLE_%d=%d" % (n, n) for n in range(_VARIABLES)])
    request.fds = fds
    enter(request)
    main.main(["--root", "/proc/self/task", "list"])
    _plan_a_start()
    os.environ.clear()


def _plan_a_start() -> None:
    config = parse_config(jsontext.encode(example(rootless=False)))
    request = StartRequest(
        supervision=Caller(hold_slot=1), root_mountpoint="/nowhere", bundle="/", borrowed=2
    )
    plan(config, probe(), request).encode()
    with_home(Process(cwd="/"), "/")
    record = Record(
        id="x",
        oci_version="",
        bundle="",
        rootfs="",
        created="",
        owner="",
        annotations={},
        running_boot=boot_id(),
        creator=own_identity(),
    )
    status_of(record)
    record.encode()
