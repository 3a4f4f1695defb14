"""How long a registry may take, and how often it is asked again. A value."""

from __future__ import annotations

from msgspec import Struct


class Patience(Struct, frozen=True):
    """Limits in time for everything that is asked of a registry.

    `answer_s`: from the end of a request to the end of the answer's headers, whole. `finish_s`:
    the same where a registry has work to do first (it moves an uploaded blob). `window_s` and
    `window_bytes`: a body that brings fewer bytes in such a time of waiting is given up; the time
    in which nobody reads does not count. `document_s`: a small document, whole. `attempts`: of a
    request that may be repeated. `first_wait_s` doubles with each, `longest_wait_s` bounds it and
    what the registry asks for (`Retry-After`). `mirror_rest_s`: how long a mirror that failed is
    left alone.
    """

    connect_s: float = 10
    answer_s: float = 30
    finish_s: float = 300
    window_s: float = 30
    window_bytes: int = 30 * 1024
    document_s: float = 120
    attempts: int = 5
    mirror_attempts: int = 2
    first_wait_s: float = 0.5
    longest_wait_s: float = 60
    mirror_rest_s: float = 60
