"""One host of a registry: its scheme, its authentication, requests by path.

Knows hosts and headers; knows nothing of manifests and blobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from msgspec.structs import replace

from onggi.errors import Unavailable
from onggi.image.registry.auth import Authorizer
from onggi.image.registry.credentials import Keychain
from onggi.image.registry.hosts import Endpoint
from onggi.image.registry.http import Answer, Http, Request
from onggi.image.registry.urls import same_origin

MAX_LOGINS = 3


class Peer:
    """One host that serves a registry, or a mirror of one. Threads may share it."""

    def __init__(
        self, endpoint: Endpoint, http: Http, keychain: Keychain | None, attempts: int = 0
    ):
        self.endpoint = endpoint
        self.name = endpoint.name
        self.http = http
        self._attempts = attempts
        self._auth = Authorizer(http, endpoint.name, keychain)
        self._base = ""
        self._lock = threading.Lock()
        self._rests_until = 0.0
        http.known_as(endpoint.authority, endpoint.name)

    def rest(self) -> None:
        """Leave it alone for a while: it failed."""
        self._rests_until = time.monotonic() + self.http.patience.mirror_rest_s

    @property
    def rests(self) -> bool:
        """Whether it failed a short while ago."""
        return time.monotonic() < self._rests_until

    @property
    def base(self) -> str:
        """`https://host[:port]`, or http where that is allowed and https is not spoken there.

        Raises: Unavailable, FailedPrecondition: neither.
        """
        with self._lock:
            if not self._base:
                self._base = self._find_base() if self.endpoint.plain else self._url("https")
            return self._base

    @property
    def asked(self) -> bool:
        """Whether it has wanted to know who we are."""
        return self._auth.asked

    def _url(self, scheme: str) -> str:
        return f"{scheme}://{self.endpoint.authority}"

    def _find_base(self) -> str:
        """https first, as docker does: a host that could speak it is not spoken to in the open."""
        try:
            self._probe("https", attempts=1)
            return self._url("https")
        except Unavailable as https_error:
            try:
                status = self._probe("http", self._attempts)
            except Unavailable:
                raise https_error from None
            if status == 400:  # what servers of TLS answer to plain HTTP
                raise https_error from None
            return self._url("http")

    def _probe(self, scheme: str, attempts: int) -> int:
        answer = self.http.send(Request("GET", f"{self._url(scheme)}/v2/", attempts=attempts))
        answer.discard()
        return answer.status

    def send(
        self,
        method: str,
        target: str,
        scopes: tuple[str, ...] = (),
        *,
        headers: dict[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        answer_s: float = 0,
    ) -> Answer:
        """A request to a path of this host, or to a whole URL that it named (checked already).

        Authenticates where this host asks for it, at this host only. The answer is of any status.
        Raises: Unavailable, FailedPrecondition, PermissionDenied.
        """
        base = self.base
        url = base + target if target.startswith("/") else target
        request = Request(method, url, headers or {}, body, answer_s, self._attempts)
        if not same_origin(url, base):
            return self.http.follow(request)
        for attempt in range(1, MAX_LOGINS + 1):
            used = self._auth.header(scopes)
            answer = self.http.follow(_with(request, used))
            ours = answer.status in (401, 403) and same_origin(answer.url, base)
            if not ours or attempt == MAX_LOGINS:
                return answer
            if not self._auth.learn(answer, base, scopes, used) or not request.repeatable:
                return answer
            answer.discard()
        raise AssertionError("the last login's answer is returned")


def _with(request: Request, authorization: str) -> Request:
    if not authorization:
        return request
    return replace(request, headers={**request.headers, "Authorization": authorization})
