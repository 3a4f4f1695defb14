"""One HTTP request to one host after another: pools, proxies, retries, redirects, bounded answers.

Knows nothing of registries. Credentials are a header that does not survive a redirect to another
origin.
"""

from __future__ import annotations

import email.utils
import http.client
import random
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import urllib3
from msgspec import Struct
from msgspec.structs import replace
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout, make_headers, parse_url

from onggi import __version__
from onggi.errors import DataLoss, InvalidArgument, Unavailable
from onggi.image.registry.failures import NoTls, Unreached, translated
from onggi.image.registry.hosts import Trust
from onggi.image.registry.patience import Patience
from onggi.image.registry.proxies import Proxies
from onggi.image.registry.tls import context_for
from onggi.image.registry.urls import moved, origin, same_origin, shown
from onggi.image.registry.wire import pool_classes
from onggi.image.settings import ImageSettings
from onggi.runtime.printable import printable

MAX_REDIRECTS = 5
MAX_HOSTS = 64
SPARE_CONNECTIONS = 8
PIECE_BYTES = 64 * 1024
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
UNREACHED_ATTEMPTS = 3

_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


class Request(Struct, frozen=True):
    """One request. A body that is not bytes is sent once, never again.

    `attempts` 0: as patience says. `answer_s` 0: likewise.
    """

    method: str
    url: str
    headers: dict[str, str] = {}
    body: bytes | Iterable[bytes] | None = None
    answer_s: float = 0
    attempts: int = 0

    @property
    def repeatable(self) -> bool:
        """Whether the same bytes can be sent again."""
        return self.body is None or isinstance(self.body, bytes)

    def __repr__(self) -> str:
        return f"Request({self.method} {shown(self.url)})"


class Answer:
    """What came back: status and headers at once, the body as it is read."""

    def __init__(self, response: urllib3.BaseHTTPResponse, request: Request, document_s: float):
        self.status = response.status
        self.url = request.url
        self.where = f"{request.method} {shown(request.url)}"
        self._response = response
        self._bodiless = request.method == "HEAD" or response.status in (204, 304)
        self._document_s = document_s
        self.length = self._content_length()

    def header(self, name: str) -> str:
        """A header's value, several joined by commas; empty: missing."""
        return self._response.headers.get(name, "")

    def headers(self, name: str) -> list[str]:
        """Every header of that name."""
        return self._response.headers.getlist(name)

    def _content_length(self) -> int | None:
        text = self.header("Content-Length").strip()
        if not text or "chunked" in self.header("Transfer-Encoding").lower():
            return None
        if _LENGTH.fullmatch(text) is None:
            self.close()
            raise Unavailable(f"{self.where}: absurd Content-Length {printable(text, 60)!r}")
        return int(text)

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the body; empty at its end. Raises: Unavailable: it broke off."""
        try:
            return self._response.read(size, decode_content=False) if size else b""
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            self.close()
            raise translated(error, self.where) from None

    def document(self, maximum_bytes: int) -> bytes:
        """The whole body, a small one. Raises: DataLoss: too large. Unavailable: too slow, cut."""
        deadline = time.monotonic() + self._document_s
        if (self.length or 0) > maximum_bytes:
            self.close()
            raise DataLoss(f"{self.where}: {self.length} bytes, more than {maximum_bytes}")
        pieces: list[bytes] = []
        total = 0
        while piece := self.read(PIECE_BYTES):
            pieces.append(piece)
            total += len(piece)
            if total > maximum_bytes:
                self.close()
                raise DataLoss(f"{self.where}: more than {maximum_bytes} bytes")
            if time.monotonic() > deadline:
                self.close()
                raise Unavailable(f"{self.where}: not whole within {self._document_s:g} s")
        return b"".join(pieces)

    def discard(self) -> None:
        """Nobody wants the body: take it if it is short, so that the connection can be kept."""
        if self._bodiless or (self.length is not None and self.length <= PIECE_BYTES):
            with suppress(Unavailable):  # what nobody wants need not arrive
                self.read(PIECE_BYTES)
        self.close()

    def close(self) -> None:
        """Let go of the connection; it is kept only if the body was read to its end."""
        self._response.close()


class Http:
    """Requests to any host. Threads may share it."""

    def __init__(self, settings: ImageSettings, proxies: Proxies, patience: Patience) -> None:
        self.trust = Trust(settings)
        self.patience = patience
        self._settings = settings
        self._proxies = proxies
        self._managers: dict[tuple[str, str, int], urllib3.PoolManager] = {}
        self._certificate_names: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def known_as(self, authority: str, name: str) -> None:
        """The certificates of the registry `name` count for the host that serves it."""
        _scheme, host, port = origin(f"https://{authority}")
        self._certificate_names[host, port] = name

    def follow(self, request: Request) -> Answer:
        """Send, and follow redirects (GET and HEAD only) by `urls.moved`'s rule.

        Raises: as `send`; PermissionDenied: a forbidden redirect. Unavailable: too many.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = self.send(request)
            if answer.status not in REDIRECTS or request.method not in ("GET", "HEAD"):
                return answer
            answer.discard()
            target = moved(request.url, answer.header("Location"), self.trust)
            headers = request.headers
            if not same_origin(target, request.url):
                headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            request = replace(request, url=target, headers=headers)
        raise Unavailable(f"{answer.where}: more than {MAX_REDIRECTS} redirects")

    def send(self, request: Request) -> Answer:
        """Send, again where that may help: lost connections and 408, 429, 5xx.

        Raises: Unavailable: no answer. FailedPrecondition: TLS fails for a reason that stays.
        """
        most = (request.attempts or self.patience.attempts) if request.repeatable else 1
        for attempt in range(1, most + 1):
            pause_s = self._backoff_s(attempt)
            try:
                answer = self._exchange(request)
            except NoTls:
                raise
            except Unreached:
                if attempt >= min(most, UNREACHED_ATTEMPTS):
                    raise
            except Unavailable:
                if attempt >= most:
                    raise
            else:
                if attempt >= most or answer.status not in RETRIED:
                    return answer
                pause_s = max(pause_s, retry_after_s(answer.header("Retry-After")))
                answer.discard()
            self.pause(min(pause_s, self.patience.longest_wait_s))
        raise AssertionError("a request has at least one attempt")

    def pause(self, seconds: float) -> None:
        """Wait, unless `close` ends it. Raises: Unavailable: closed."""
        if self._closed.wait(seconds):
            raise Unavailable("the connection to the registry was closed")

    def _backoff_s(self, attempt: int) -> float:
        jitter = 0.5 + random.random()  # noqa: S311 - spreads clients, hides nothing
        return float(self.patience.first_wait_s * 2 ** (attempt - 1) * jitter)

    def backoff(self, attempt: int) -> None:
        """Wait as before the attempt after `attempt` (from 1)."""
        self.pause(min(self._backoff_s(attempt), self.patience.longest_wait_s))

    def _exchange(self, request: Request) -> Answer:
        where = f"{request.method} {shown(request.url)}"
        if self._closed.is_set():
            raise Unavailable(f"{where}: the client is closed")
        headers = {
            "User-Agent": f"onggi/{__version__}",
            "Accept-Encoding": "identity",
            **request.headers,
        }
        timeout = Timeout(
            connect=self.patience.connect_s, read=request.answer_s or self.patience.answer_s
        )
        manager = self._manager(request.url)
        try:
            response = manager.urlopen(
                request.method,
                request.url,
                redirect=False,
                body=request.body,
                headers=headers,
                retries=False,
                timeout=timeout,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise translated(error, where) from None
        return Answer(response, request, self.patience.document_s)

    def _manager(self, url: str) -> urllib3.PoolManager:
        key = origin(url)
        with self._lock:
            manager = self._managers.get(key)
            if manager is None:
                if len(self._managers) >= MAX_HOSTS:
                    _shut(self._managers.pop(next(iter(self._managers))))
                manager = self._managers[key] = self._new_manager(*key)
            return manager

    def _new_manager(self, scheme: str, host: str, port: int) -> urllib3.PoolManager:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        verified = not self.trust.is_insecure(authority)
        options: dict[str, object] = {"maxsize": self._settings.parallel + SPARE_CONNECTIONS}
        if scheme == "https":
            names = [authority, self._certificate_names.get((host, port), "")]
            names += [authority.removesuffix(":443")] if port == 443 else []
            options["ssl_context"] = context_for(
                [name for name in names if name], self._settings.certificate_directories, verified
            )
        proxy = self._proxies.choose(scheme, host, port)
        manager = _proxied(proxy, options) if proxy else urllib3.PoolManager(4, None, **options)
        manager.pool_classes_by_scheme = pool_classes(self.patience, verified)
        return manager

    def close(self) -> None:
        """End waiting and idle connections; requests after it are refused."""
        self._closed.set()
        with self._lock:
            for manager in self._managers.values():
                _shut(manager)
            self._managers.clear()


def _shut(manager: urllib3.PoolManager) -> None:
    """End its idle connections now: `clear` leaves them to the garbage collector."""
    for key in manager.pools.keys():  # noqa: SIM118 - not a dict: it cannot be iterated
        pool = manager.pools.get(key)
        if pool is not None:
            pool.close()


def retry_after_s(text: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0: nothing sensible."""
    # Python's strip takes away what float() does not: control characters of a hostile header.
    if re.fullmatch(r"[0-9]{1,9}", digits := text.strip(" \t"), re.ASCII):
        return float(digits)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _proxied(proxy: str, options: Mapping[str, object]) -> urllib3.PoolManager:
    """A pool through a proxy; a name and password in its URL become a header."""
    try:
        url = parse_url(proxy)
        origin(f"{url.scheme}://{url.host or ''}")
    except (HTTPError, InvalidArgument):
        raise InvalidArgument("the proxy of the environment is not a URL") from None
    if url.scheme not in ("http", "https"):
        raise InvalidArgument(
            f"a proxy of the scheme {printable(str(url.scheme), 20)!r} is not supported"
        )
    headers = make_headers(proxy_basic_auth=url.auth) if url.auth else None
    bare = url._replace(auth=None).url
    return urllib3.ProxyManager(bare, 4, None, headers, **options)  # type: ignore[arg-type]
