"""Why an application could not be executed, said as a person would say it. Pure.

Exit codes are a shell's: 127 what was not found, 126 what was found and cannot be executed.
"""

from __future__ import annotations

import errno as e
import os
import stat
from collections.abc import Mapping

from msgspec import Struct

from onggi.errors import StartFailed
from onggi.kernel.capabilities import names_of
from onggi.runtime.executable import (
    foreign_format,
    image_machine,
    read_elf,
    read_script,
    runs_on,
)
from onggi.runtime.printable import printable
from onggi.runtime.steps import Execute

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_MAX_SEARCHED = 6

_PLAIN: dict[int, tuple[str, str | None]] = {
    e.E2BIG: (
        "its arguments and environment are too long",
        "pass less in the environment, or raise the stack limit (--ulimit stack=…)",
    ),
    e.ETXTBSY: ("the file is open for writing", "try again when it is written"),
    e.ELOOP: ("too many symbolic links or interpreters on the way to it", None),
    e.ENOMEM: ("there is not enough memory for it", "raise the container's memory limit"),
    e.EAGAIN: (
        "its user has too many processes",
        "raise --ulimit nproc, or give containers users of their own",
    ),
    e.EMFILE: ("too many files are open", "raise --ulimit nofile"),
    e.ENFILE: ("too many files are open on this host", "raise `sysctl fs.file-max`"),
    e.EIO: ("the file cannot be read from disk", "check the host's log and its disk"),
    e.EPERM: (
        "the kernel forbids it",
        "a security module or the system call filter may do so: try --security-opt "
        "seccomp=unconfined",
    ),
}


#: Flags of `vfs_cap_data`, its first word. Source: linux/capability.h, capabilities(7).
_EFFECTIVE, _REVISIONS = 1, {0x01000000: 1, 0x02000000: 2, 0x03000000: 2}


class _Found(Struct, frozen=True):
    """keel's facts about the file that decided."""

    path: str
    head: bytes | None
    mode: int | None
    owner: str
    noexec: bool
    capabilities: int
    interpreter: str
    interpreter_errno: int

    @classmethod
    def of(cls, facts: Mapping[str, str], fallback: str) -> _Found:
        """Facts come from a container's file: what is not as it should be counts as missing."""
        return cls(
            path=facts.get("path") or fallback,
            head=_unhex(facts.get("head")),
            mode=_number(facts.get("mode", ""), 8),
            owner=f"{facts.get('uid', '?')}:{facts.get('gid', '?')}",
            noexec=facts.get("noexec") == "1",
            capabilities=_demanded(_unhex(facts.get("capabilities")) or b""),
            interpreter=facts.get("interpreter", ""),
            interpreter_errno=_number(facts.get("interpreter_errno", ""), 10) or 0,
        )


def explain_execute(
    step: Execute,
    errno: int,
    facts: Mapping[str, str],
    machine: str,
    platform: str,
    bounding: int,
) -> StartFailed:
    """The error for an EXECUTE that failed.

    `machine` is this host's name for itself (uname(2)), `platform` the image's, empty if not known.
    `bounding`: the capabilities that its user can have at all.
    """
    fallback = step.candidates[0] if step.candidates else step.arguments[0]
    found = _Found.of(facts, fallback)
    if errno == e.ENOENT:
        text, hint = _missing(step, found)
        return _failed(text, hint, NOT_FOUND)
    if errno == e.EACCES:
        text, hint = _forbidden(found)
    elif errno in (e.ENOEXEC, e.ELIBBAD, e.EINVAL):
        text, hint = _unknown_format(found, machine, platform)
    elif errno == e.EPERM and found.capabilities & ~bounding:
        text, hint = _capabilities(found, found.capabilities & ~bounding)
    elif errno in _PLAIN:
        text, hint = _PLAIN[errno]
        text = f"{found.path}: {text}"
    else:
        text, hint = f"{found.path}: {os.strerror(errno).lower()}", None
    return _failed(text, hint, NOT_EXECUTABLE)


def _capabilities(found: _Found, missing: int) -> tuple[str, str]:
    names = [name.removeprefix("CAP_") for name in names_of(missing)]
    return (
        f"{found.path}: the file asks for capabilities that the container does not have: "
        f"{', '.join(names)}",
        f"give them with {' '.join(f'--cap-add {name}' for name in names)}, or take them from "
        f"the file in the image: setcap -r {found.path}",
    )


def _demanded(data: bytes) -> int:
    """The capabilities without which the kernel refuses to execute the file, as a bit set."""
    magic = int.from_bytes(data[:4], "little")
    words = _REVISIONS.get(magic & 0xFF000000, 0)
    if not magic & _EFFECTIVE or len(data) < 4 + 8 * words:
        return 0
    # Each word of the permitted set has one of the inheritable set behind it.
    lows = (data[4 + 8 * word : 8 + 8 * word] for word in range(words))
    return sum(int.from_bytes(low, "little") << (32 * word) for word, low in enumerate(lows))


def _failed(text: str, hint: str | None, exit_code: int) -> StartFailed:
    return StartFailed(
        f"cannot start {printable(text)}",
        exit_code=exit_code,
        hint=None if hint is None else printable(hint),
    )


def _missing(step: Execute, found: _Found) -> tuple[str, str | None]:
    if found.mode is not None:
        return _missing_interpreter(found)
    name = step.arguments[0]
    hint = "check the name, and that the image has it"
    if " " in name:
        hint = "the whole of it is taken for the name of a file: pass each word on its own"
    if "/" in name:
        return f"{name}: no such file in the container", hint
    directories = [os.path.dirname(path) for path in step.candidates]
    searched = ":".join(directories[:_MAX_SEARCHED]) + ":…" * (len(directories) > _MAX_SEARCHED)
    return f"{name}: not found in the container's PATH ({searched})", hint


def _missing_interpreter(found: _Found) -> tuple[str, str | None]:
    head = found.head or b""
    script = read_script(head)
    if script is not None and script.carriage_return:
        return (
            f"{found.path}: its first line ends with a carriage return (CRLF), so the interpreter "
            f"{script.interpreter} is not found",
            f"give it unix line ends: sed -i 's/\\r$//' {found.path}",
        )
    if script is not None:
        return (
            f"{found.path}: a script whose interpreter {script.interpreter} is not in the image",
            "install the interpreter, or name one that the image has in its first line",
        )
    elf = read_elf(head)
    loader = (elf.loader if elf else "") or found.interpreter
    if loader:
        return (
            f"{found.path}: it needs the loader {loader}, which the image lacks",
            _loader_hint(loader),
        )
    return f"{found.path}: something that it needs to run is not in the image", None


def _loader_hint(loader: str) -> str:
    if "musl" in loader:
        return "it was built for musl: use an image with musl (alpine), or link it statically"
    if "ld-linux" in loader or "ld64" in loader:
        return "it was built for glibc: use an image with glibc (debian), or link it statically"
    return "use an image that has the loader, or link it statically"


def _forbidden(found: _Found) -> tuple[str, str | None]:
    path, mode = found.path, found.mode
    if mode is None:
        return (
            f"{path}: permission denied on the way to it",
            "its user may not search one of the directories above: check their modes",
        )
    if stat.S_ISDIR(mode):
        return f"{path}: is a directory", "name a file in it"
    if not stat.S_ISREG(mode):
        return f"{path}: is not a regular file", None
    return _forbidden_file(found, mode)


def _forbidden_file(found: _Found, mode: int) -> tuple[str, str | None]:
    path, bits = found.path, f"mode {stat.S_IMODE(mode):04o}"
    if not mode & 0o111:
        return f"{path}: is not executable ({bits})", f"chmod +x {path} before the image is built"
    if found.noexec:
        return (
            f"{path}: lies on a file system mounted noexec",
            "mount it with exec, or run it from elsewhere",
        )
    interpreter = _interpreter(found)
    if interpreter and found.interpreter_errno:
        return f"{path}: its interpreter {interpreter} is not executable", "chmod +x it"
    return (
        f"{path}: its user may not execute it ({bits}, owner {found.owner})",
        "change its mode or owner in the image, or run as another user (--user)",
    )


def _interpreter(found: _Found) -> str:
    script = read_script(found.head or b"")
    return script.interpreter if script else found.interpreter


def _unknown_format(found: _Found, machine: str, platform: str) -> tuple[str, str | None]:
    path, head = found.path, found.head
    if head is None:
        return f"{path}: not a format that this kernel executes", None
    if not head:
        return f"{path}: is empty", "the file was not written or not copied whole"
    elf = read_elf(head)
    if elf is not None and not runs_on(elf, machine):
        image = f" (image {platform})" if platform else ""
        return (
            f"{path}: built for {elf.machine}, this machine is {machine}{image}",
            f"use the image for linux/{image_machine(machine)}",
        )
    if elf is not None:
        return f"{path}: a damaged {elf.machine} program, or its loader is", None
    script = read_script(head)
    if script is not None:
        return (
            f"{path}: its first line names no usable interpreter ({script.interpreter!r})",
            "write one there, for instance #!/bin/sh",
        )
    kind = foreign_format(head) or "not a program for linux"
    hint = "begin it with #!/bin/sh, or run it as `sh FILE`" if "text" in kind else None
    if "byte order mark" in kind:
        hint = f"take the mark away: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}"
    return f"{path}: {kind}", hint


def _unhex(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        return None


def _number(text: str, base: int) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None
