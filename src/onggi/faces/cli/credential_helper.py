"""Credential helpers: programs named `docker-credential-NAME` that keep secrets for others.

Speaks their protocol with bounded time and output. Knows nothing of configuration files.
Source: github.com/docker/docker-credential-helpers, README.md#development.
"""

from __future__ import annotations

import json
import os
import select
import time

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from typing import Any

#: Long enough for a person to unlock a keyring.
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 * 1024
_ABSENT = frozenset(("credentials not found in native keychain", "no credentials server URL"))
_NAME_EXTRA = frozenset("-_.")


def get(name: str, key: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """(username, secret) that the helper keeps under `key`; None when it has none.

    Raises: NotFound: no such program. Unavailable: too slow. FailedPrecondition: it failed, or its
    answer is not what the protocol says. InvalidArgument: not a helper's name.
    """
    code, answer = _run(name, "get", key.encode(), environ)
    if code:
        said = answer.decode("utf-8", "replace").strip()
        if said in _ABSENT:
            return None
        raise _failed(name, "get", code)
    try:
        found: Any = json.loads(answer)
        username, secret = found["Username"], found["Secret"]
        f"{username}{secret}".encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise FailedPrecondition(
            f"docker-credential-{name} get: the answer is not JSON with Username and Secret"
        )
    return (username, secret) if secret else None


def store(name: str, key: str, username: str, secret: str, environ: Mapping[str, str]) -> None:
    """Give the helper a secret to keep. Raises: as `get`."""
    message = json.dumps({"ServerURL": key, "Username": username, "Secret": secret})
    code, _ = _run(name, "store", message.encode(), environ)
    if code:
        raise _failed(name, "store", code)


def erase(name: str, key: str, environ: Mapping[str, str]) -> None:
    """Make the helper forget `key`; nothing happens when it has none. Raises: as `get`."""
    code, answer = _run(name, "erase", key.encode(), environ)
    if code and answer.decode("utf-8", "replace").strip() not in _ABSENT:
        raise _failed(name, "erase", code)


def _failed(name: str, action: str, code: int) -> FailedPrecondition:
    # What it said is not repeated: it may hold the secret that it was given.
    return FailedPrecondition(
        f"docker-credential-{name} {action} failed with code {code}",
        hint=f"try it by hand: echo HOST | docker-credential-{name} get",
    )


def check_name(name: str) -> None:
    """Refuse what could name a program elsewhere. Raises: InvalidArgument."""
    plain = all(c.isascii() and (c.isalnum() or c in _NAME_EXTRA) for c in name)
    if not name or not plain or name.startswith("."):
        raise InvalidArgument(
            f"{name[:60]!r} is not the name of a credential helper",
            hint="letters, digits, -, _ and . only: pass, secretservice",
        )


def _run(name: str, action: str, message: bytes, environ: Mapping[str, str]) -> tuple[int, bytes]:
    """Exit code and standard output of one run. Its words on stderr are the user's to read."""
    import subprocess  # noqa: PLC0415 - 10 ms that only those with a helper pay

    check_name(name)
    program = f"docker-credential-{name}"
    try:
        process = subprocess.Popen(
            [program, action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environ),
            bufsize=0,
        )
    except FileNotFoundError:
        raise NotFound(
            f"the credential helper {program} is not in PATH",
            hint=f"install it, or take {name} out of credsStore and credHelpers",
        ) from None
    except OSError as error:
        raise FailedPrecondition(
            f"the credential helper {program} cannot be started: {os.strerror(error.errno or 0)}"
        ) from None
    with process:
        try:
            answer = _converse(process, message, program)
            return process.wait(TIMEOUT_S), answer
        except subprocess.TimeoutExpired:
            raise _slow(program) from None
        finally:
            if process.poll() is None:
                process.kill()


def _converse(process: subprocess.Popen[bytes], message: bytes, program: str) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(message)  # a few hundred bytes: a pipe takes them at once
        process.stdin.close()
    except BrokenPipeError:
        pass  # it answers without having read; the answer or its code tells more
    deadline_s = time.monotonic() + TIMEOUT_S
    answer = b""
    poll = select.poll()
    poll.register(process.stdout.fileno(), select.POLLIN)
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise _slow(program)
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            return answer
        answer += data
        if len(answer) > MAX_ANSWER_BYTES:
            raise FailedPrecondition(f"{program} answers with more than {MAX_ANSWER_BYTES} bytes")


def _slow(program: str) -> Unavailable:
    return Unavailable(f"{program} has not answered within {TIMEOUT_S:.0f} s")
