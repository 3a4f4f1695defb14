"""`python oci_zygote.py`: onggi-runtime's plain command line again and again, without its start.

Each line of stdin is a JSON list: the file for stdout and stderr, then a command line. The answer
is the pid of the process that will carry it out, which waits for the next line. Then the answer is
how it ended (negative: by that signal). What Python does before `main` is not part of it.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from onggi.faces.oci import main, rehearsal

_GO_FD = 3


def _carry_out(out: str, words: list[str], go: socket.socket) -> None:
    code = 1
    try:
        environment = dict(os.environ)
        rehearsal.rehearse()
        os.environ.update(environment)
        for number, path in enumerate(("/dev/null", out, out)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        os.dup2(go.detach(), _GO_FD, inheritable=False)
        os.closerange(_GO_FD + 1, 256)
        os.write(_GO_FD, b"r")
        assert os.read(_GO_FD, 1) == b"g"
        os.close(_GO_FD)
        code = main.main(words)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - as an interpreter ends
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code & 0xFF)


def _serve() -> None:
    main.load_all()
    for line in sys.stdin:
        out, *words = json.loads(line)
        mine, its = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            mine.close()
            _carry_out(out, words, its)
        its.close()
        with mine:
            mine.recv(1)
            print(pid, flush=True)
            sys.stdin.readline()
            mine.send(b"g")
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
