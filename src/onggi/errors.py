"""The errors every floor raises, and the tables that turn a class into a code.

A message is one line, lower case, without a full stop: what is wrong and where. The hint says what
to do. This room knows nothing about who shows an error, and nobody classifies one by its text.
"""

from __future__ import annotations

import errno as _errno
import os


class EngineError(Exception):
    """Base of every error raised on purpose: one line, and a hint that says what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The leaf's name as it goes over a wire, `NotFound` for instance."""
        for cls in type(self).__mro__:
            if cls in EXIT_CODES:
                return cls.__name__
        return "Internal"

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message


class NotFound(EngineError):
    """The named object does not exist."""


class AlreadyExists(EngineError):
    """The name or digest is taken by another object."""


class InvalidArgument(EngineError):
    """The request can never succeed as it is written."""


class FailedPrecondition(EngineError):
    """The object exists, but its state does not allow the request."""


class Conflict(EngineError):
    """Another operation or object stands in the way."""


class PermissionDenied(EngineError):
    """The kernel or the policy forbids it."""


class ResourceExhausted(EngineError):
    """Disk, memory, ids or another finite thing ran out."""


class Unavailable(EngineError):
    """A peer does not answer; the same request may succeed later."""


class Unsupported(EngineError):
    """This host or this version lacks the feature."""


class DataLoss(EngineError):
    """Stored content does not match its digest or its record."""


class Internal(EngineError):
    """A defect in Onggi."""


class StartFailed(FailedPrecondition):
    """An application could not be started; `exit_code` is 126 or 127 as a shell would answer."""

    def __init__(self, message: str, *, exit_code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class SpecError(InvalidArgument):
    """A document violates its specification.

    `path` is the JSON path (`$.process.user.uid`), `section` the specification's section.
    """

    def __init__(self, path: str, message: str, *, section: str | None = None) -> None:
        source = f" [{section}]" if section else ""
        # Names of a document's own may be in it, and those are hostile.
        path = "".join(character if character.isprintable() else "\ufffd" for character in path)
        super().__init__(f"{path}: {message}{source}")
        self.path = path
        self.section = section


class SyscallError(EngineError):
    """A system call failed: `call`, its `arguments` as text, `errno`, a hint when there is one."""

    def __init__(self, call: str, arguments: str, errno: int, *, hint: str | None = None) -> None:
        name = _errno.errorcode.get(errno, str(errno))
        super().__init__(f"{call}({arguments}): {name} ({os.strerror(errno)})", hint=hint)
        self.call = call
        self.arguments = arguments
        self.errno = errno

    @property
    def kind(self) -> str:
        """The leaf that the errno stands for."""
        return ERRNO_KINDS.get(self.errno, Internal).__name__


ERRNO_KINDS: dict[int, type[EngineError]] = {
    _errno.ENOENT: NotFound,
    _errno.ESRCH: FailedPrecondition,
    _errno.EEXIST: AlreadyExists,
    _errno.EPERM: PermissionDenied,
    _errno.EACCES: PermissionDenied,
    _errno.ENOSPC: ResourceExhausted,
    _errno.EDQUOT: ResourceExhausted,
    _errno.ENOMEM: ResourceExhausted,
    _errno.EMFILE: ResourceExhausted,
    _errno.ENFILE: ResourceExhausted,
    _errno.ENOSYS: Unsupported,
    _errno.EOPNOTSUPP: Unsupported,
    _errno.EBUSY: Conflict,
}

#: Exit code of the command line for each class (docker-run(1): 125 is the engine's own).
EXIT_CODES: dict[type[EngineError], int] = {
    NotFound: 125,
    AlreadyExists: 125,
    InvalidArgument: 125,
    FailedPrecondition: 125,
    Conflict: 125,
    PermissionDenied: 125,
    ResourceExhausted: 125,
    Unavailable: 125,
    Unsupported: 125,
    DataLoss: 125,
    Internal: 125,
}

LEAVES: dict[str, type[EngineError]] = {cls.__name__: cls for cls in EXIT_CODES}


def from_os_error(error: OSError, doing: str) -> EngineError:
    """The leaf for an `OSError` met while `doing` something, with the file it names."""
    number = error.errno or 0
    cls = ERRNO_KINDS.get(number, Internal)
    where = f" {error.filename}" if error.filename else ""
    hint = "free some space on that filesystem" if number == _errno.ENOSPC else None
    return cls(f"{doing}{where}: {os.strerror(number)}", hint=hint)
