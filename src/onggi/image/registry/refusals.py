"""A registry's refusal as one of our errors. What it says is bounded and made printable.

Source: distribution-spec spec.md#error-codes.
"""

from __future__ import annotations

from onggi.errors import (
    DataLoss,
    EngineError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SpecError,
    Unavailable,
    Unsupported,
)
from onggi.image.registry.http import Answer
from onggi.runtime.printable import printable
from onggi.specs.distribution import ErrorItem, parse_errors

MAX_ERROR_BYTES = 64 * 1024

CODES: dict[str, type[EngineError]] = {
    "UNAUTHORIZED": PermissionDenied,
    "DENIED": PermissionDenied,
    "NAME_UNKNOWN": NotFound,
    "MANIFEST_UNKNOWN": NotFound,
    "BLOB_UNKNOWN": NotFound,
    "MANIFEST_BLOB_UNKNOWN": NotFound,
    "BLOB_UPLOAD_UNKNOWN": NotFound,
    "DIGEST_INVALID": DataLoss,
    "SIZE_INVALID": DataLoss,
    "BLOB_UPLOAD_INVALID": DataLoss,
    "MANIFEST_INVALID": InvalidArgument,
    "MANIFEST_UNVERIFIED": InvalidArgument,
    "NAME_INVALID": InvalidArgument,
    "TAG_INVALID": InvalidArgument,
    "TOOMANYREQUESTS": Unavailable,
    "UNAVAILABLE": Unavailable,
    "UNSUPPORTED": Unsupported,
}

STATUSES: dict[int, type[EngineError]] = {
    401: PermissionDenied,
    403: PermissionDenied,
    404: NotFound,
    405: Unsupported,
    410: NotFound,
    413: ResourceExhausted,
    501: Unsupported,
    507: ResourceExhausted,
}

_WORDS = {
    401: "not without a login",
    403: "not allowed",
    404: "not there",
    429: "too many requests",
}


def refusal(answer: Answer, what: str, registry: str) -> EngineError:
    """The error for an answer that is not the wanted one; takes the answer's body.

    `what`: what was wanted, for the message (`manifest debian:12`).
    """
    item = _first(answer)
    cls = CODES.get(item.code) or STATUSES.get(answer.status)
    if cls is None:
        cls = InvalidArgument if answer.status in (400, 422) else Unavailable
    words = printable(item.message or item.code, 200).lower() or _by_status(answer.status)
    hint = f"onggi login {registry}" if cls is PermissionDenied else None
    return cls(f"{what}: {registry} says: {words.rstrip('.')}", hint=hint)


def _first(answer: Answer) -> ErrorItem:
    """The first refusal with a code that we know, or else the first, or an empty one."""
    try:
        items = parse_errors(answer.document(MAX_ERROR_BYTES))
    except (SpecError, Unavailable, DataLoss):
        items = ()  # many proxies answer in HTML: then the status alone speaks
    finally:
        answer.close()
    known = (item for item in items if item.code in CODES)
    return next(known, items[0] if items else ErrorItem())


def _by_status(status: int) -> str:
    return _WORDS.get(status, f"status {status}")
