"""What the server asks and answers in, apart from sockets: requests, answers, and the errors.

Source: distribution-spec v1.1 spec.md#error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from onggi import errors
from onggi.errors import EngineError

Headers = tuple[tuple[str, str], ...]


class Body(Protocol):
    """A request's body, once, as it comes. `length_bytes` is None when nobody knows."""

    length_bytes: int | None

    def read(self) -> memoryview | bytes:
        """Some of it, valid until the next call; empty at the end.

        Raises: ConnectionError, TimeoutError: the client went away or is too slow.
        """


class Request(Struct, frozen=True):
    """One request whose sender may make it. `headers` by lower-case name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Body


class FileSlice(Struct, frozen=True):
    """A part of an open file as a body; whoever sends it closes `fd`."""

    fd: int
    offset: int
    size_bytes: int


class Answer(Struct, frozen=True):
    """A response. `body_bytes`: the length to announce (a HEAD has a length, but no body)."""

    status: int
    headers: Headers = ()
    body: bytes | FileSlice = b""
    body_bytes: int | None = None


class ApiError(Exception):
    """A refusal, with the code that the specification gives it."""

    def __init__(
        self, status: int, code: str, message: str, *, detail: object = None, headers: Headers = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = headers

    def answer(self) -> Answer:
        """As every client of a registry reads it."""
        body = msgspec.json.encode(
            {"errors": [{"code": self.code, "message": self.message, "detail": self.detail}]}
        )
        return Answer(self.status, (*self.headers, ("Content-Type", "application/json")), body)


#: Class of an engine's error → status and code, for what no route has its own word for.
_STATUSES: dict[type[EngineError], tuple[int, str]] = {
    errors.NotFound: (404, "MANIFEST_UNKNOWN"),
    errors.AlreadyExists: (409, "DENIED"),
    errors.InvalidArgument: (400, "MANIFEST_INVALID"),
    errors.FailedPrecondition: (400, "UNSUPPORTED"),
    errors.Conflict: (409, "DENIED"),
    errors.PermissionDenied: (403, "DENIED"),
    errors.ResourceExhausted: (507, "TOOMANYREQUESTS"),
    errors.Unavailable: (503, "TOOMANYREQUESTS"),
    errors.Unsupported: (405, "UNSUPPORTED"),
    errors.DataLoss: (500, "UNKNOWN"),
    errors.Internal: (500, "UNKNOWN"),
}


def from_engine(error: EngineError) -> ApiError:
    """An engine's error as a registry words it."""
    for cls in type(error).__mro__:
        if cls in _STATUSES:
            status, code = _STATUSES[cls]
            return ApiError(status, code, error.message)
    status, code = _STATUSES[errors.LEAVES[error.kind]]
    return ApiError(status, code, error.message)


def json_answer(value: object, headers: Headers = ()) -> Answer:
    """A document of our own."""
    body = msgspec.json.encode(value)
    return Answer(200, (("Content-Type", "application/json"), *headers), body)
