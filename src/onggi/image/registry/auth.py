"""How one host is shown who we are: passwords and tokens, kept per scope.

Credentials of a host go to that host's origin, and to the token realm that it names. A realm may
be another host (Docker Hub's is), as with docker and containerd, but only by `urls.moved`'s rule:
https, or plain HTTP where the registry itself is spoken to in plain HTTP and the realm's host may
be (loopback or listed). Nothing of this is ever shown: not in messages, not in a repr.

Source: docker's token authentication (distribution docs/spec/auth), RFC 6749 section 6, RFC 7617.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from functools import cached_property
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from onggi.errors import PermissionDenied, SpecError, Unavailable
from onggi.image.registry.challenges import Challenge, parse_challenges, preferred
from onggi.image.registry.credentials import Credentials, Keychain
from onggi.image.registry.http import Answer, Http, Request
from onggi.image.registry.urls import moved, shown
from onggi.specs.distribution import parse_token

CLIENT_ID = "onggi"
MAX_TOKEN_BODY_BYTES = 256 * 1024
SHORTEST_LIFE_S = 60
LONGEST_LIFE_S = 24 * 3600

_TOKEN_TEXT = re.compile(r"[A-Za-z0-9._~+/=:-]{1,65536}", re.ASCII)


class _Token(Struct, frozen=True):
    """A bearer token and when it should be asked for anew (monotonic seconds)."""

    text: str
    renew_at: float

    def __repr__(self) -> str:
        return "_Token(…)"


class Authorizer:
    """The credentials and tokens of one host. Threads may share it; each token is fetched once."""

    def __init__(self, http: Http, name: str, keychain: Keychain | None) -> None:
        self.name = name
        self._http = http
        self._keychain = keychain
        self._challenge: Challenge | None = None
        self._base = ""
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._more: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Authorizer({self.name!r}, …)"

    @property
    def asked(self) -> bool:
        """Whether this host has wanted to know who we are."""
        return self._challenge is not None

    def header(self, scopes: tuple[str, ...]) -> str:
        """The Authorization header for requests that need `scopes`; empty: none so far.

        Raises: PermissionDenied: the token server refuses us. Unavailable: it does not answer.
        """
        with self._lock:
            if self._challenge is None:
                return ""
            if self._challenge.scheme == "basic":
                return self._basic()
            token = self._tokens.get(scopes)
            if token is None or token.renew_at <= time.monotonic():
                token = self._tokens[scopes] = self._fetch(self._challenge, scopes)
            return f"Bearer {token.text}"

    def learn(self, answer: Answer, base: str, scopes: tuple[str, ...], used: str) -> bool:
        """Take note of a refusal; True: another try with a new `header` makes sense.

        `used`: the header that was refused.
        """
        challenge = preferred(parse_challenges(answer.headers("WWW-Authenticate")))
        if challenge is None or (answer.status == 403 and not challenge.wants_more):
            return False
        with self._lock:
            if challenge.scheme == "basic":
                self._challenge = challenge
                return not used and self._who is not None
            wanted = tuple(dict.fromkeys((*self._more.get(scopes, ()), *challenge.scopes)))
            grown = wanted != self._more.get(scopes, ())
            self._challenge, self._base, self._more[scopes] = challenge, base, wanted
            token = self._tokens.get(scopes)
            if token is not None and used == f"Bearer {token.text}":
                del self._tokens[scopes]
            return grown or not used.startswith("Bearer ") or not challenge.wants_more

    @cached_property
    def _who(self) -> Credentials | None:
        """Asked for when a host wants to know, and not before: it may run a helper program."""
        return self._keychain(self.name) if self._keychain else None

    def _basic(self) -> str:
        who = self._who
        if who is None or not (who.username or who.password):
            return ""
        pair = f"{who.username}:{who.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> _Token:
        realm = moved(self._base, challenge.parameters.get("realm", ""), self._http.trust, "realm")
        wanted = tuple(dict.fromkeys((*scopes, *self._more.get(scopes, ()))))
        asked_at = time.monotonic()
        answer = self._ask(realm, challenge.parameters.get("service", ""), wanted)
        where = f"token server {shown(realm)}"
        if answer.status in (400, 401, 403):
            answer.discard()
            raise PermissionDenied(
                f"{where}: refuses {'our credentials' if self._who else 'us without a name'}",
                hint=f"onggi login {self.name}",
            )
        if answer.status != 200:
            answer.discard()
            raise Unavailable(f"{where}: answers {answer.status}")
        try:
            token = parse_token(answer.document(MAX_TOKEN_BODY_BYTES))
        except SpecError as error:
            raise Unavailable(f"{where}: {error.message}") from None
        text = token.token or token.access_token
        if _TOKEN_TEXT.fullmatch(text) is None:
            raise Unavailable(f"{where}: its answer has no token")
        life_s = min(max(token.expires_in or 0, SHORTEST_LIFE_S), LONGEST_LIFE_S)
        return _Token(text, asked_at + life_s * 0.8)

    def _ask(self, realm: str, service: str, scopes: tuple[str, ...]) -> Answer:
        """GET with the password, or POST with the identity token, which is never redirected."""
        query = [("service", service)] if service else []
        who = self._who
        if who is not None and who.identity_token:
            form = [
                *query,
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("refresh_token", who.identity_token),
                *([("scope", " ".join(scopes))] if scopes else []),
            ]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._http.send(Request("POST", realm, headers, urlencode(form).encode()))
        query += [("scope", scope) for scope in scopes]
        if who is not None and who.username:
            query.append(("account", who.username))
        joint = "&" if urlsplit(realm).query else "?"
        headers = {"Authorization": self._basic()} if self._basic() else {}
        return self._http.follow(
            Request("GET", realm + (joint + urlencode(query) if query else ""), headers)
        )
