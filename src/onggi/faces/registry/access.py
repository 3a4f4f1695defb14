"""Who may ask for what: one user by name and password, anonymous reading, TLS, and which hosts.

One user is enough for a server that is started by hand; his password comes from a pipe and is kept
in memory only. Knows nothing of sockets or repositories.

Source: RFC 7617 (Basic), RFC 9110 section 7.2 (Host); distribution-spec v1.1 spec.md#error-codes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import ssl
from collections.abc import Mapping

from msgspec import Struct, field

from onggi.errors import InvalidArgument, PermissionDenied, from_os_error
from onggi.faces.registry import tokens
from onggi.faces.registry.answers import Answer, ApiError, json_answer
from onggi.faces.registry.routes import READING
from onggi.faces.registry.tokens import Tokens

TOKEN_PATH = "/token"  # noqa: S105 - where they are asked for
_SERVICE = "onggi registry"
_BASIC = f'Basic realm="{_SERVICE}", charset="UTF-8"'
_ALLOW_GET = (("Allow", "GET"),)
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_REPOSITORY = re.compile(r"/v2/(.+?)/(?:manifests|blobs)/")


class Address(Struct, frozen=True):
    """Where to listen. `host` is an IP address or a name; `port` 0 takes any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read HOST:PORT, `[::1]:5000` for IPv6. Raises: InvalidArgument."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not (colon and port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
            raise InvalidArgument(
                f"{text[:100]!r} is not HOST:PORT", hint="write for instance 0.0.0.0:5000"
            )
        return cls(host or "0.0.0.0", int(port))  # noqa: S104 - only where it was asked for

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Rules(Struct, frozen=True):
    """What the server was told. Without `user` everybody is welcome, for what is allowed at all.

    With `anonymous_pull` clients show tokens, which everybody gets who does not claim to be the
    user. `tls`: it is spoken here.
    """

    push: bool = False
    user: str = ""
    password: bytes = b""
    anonymous_pull: bool = False
    tokens: Tokens = field(default_factory=Tokens)
    tls: bool = False
    loopback_only: bool = True
    own_host: str = ""

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Let a request pass. Raises: ApiError with the reason."""
        self._check_browser(method, headers)
        reads = method in READING
        if self.user and not self._may(reads, path, headers):
            raise self._unauthorized(reads, path, headers)
        if not reads and not self.push:
            raise ApiError(
                405, "UNSUPPORTED", "this server is for pulling: it was started without --push"
            )

    def token(self, method: str, headers: Mapping[str, str]) -> Answer:
        """A token for the user, who proves to be that, or for anybody, who does not try.

        Raises: ApiError: the name or the password is wrong.
        """
        self._check_browser(method, headers)
        if method != "GET":
            raise ApiError(405, "UNSUPPORTED", "ask for a token by GET", headers=_ALLOW_GET)
        claims = "authorization" in headers
        if claims and not self._proves(headers):
            raise self._refused(_BASIC)
        token = self.tokens.issue(self.user if claims else "")
        lifetime_s = tokens.LIFETIME_S
        return json_answer({"token": token, "access_token": token, "expires_in": lifetime_s})

    def _may(self, reads: bool, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the sender of a request is the user, or need not be."""
        shown = self._shown(headers)
        if shown == self.user or self._proves(headers):
            return True
        # The first request tells clients what they will be asked for.
        greets = path in ("/v2", "/v2/")
        return self.anonymous_pull and reads and (not greets or shown is not None)

    def _unauthorized(self, reads: bool, path: str, headers: Mapping[str, str]) -> ApiError:
        host = headers.get("host", "")
        if not self.anonymous_pull or not _HOST.fullmatch(host):
            return self._refused(_BASIC)
        realm = f"{'https' if self.tls else 'http'}://{host}{TOKEN_PATH}"
        challenge = f'Bearer realm="{realm}",service="{_SERVICE}"'
        repository = _REPOSITORY.match(path)
        if repository and not reads and '"' not in repository[1]:
            challenge += f',scope="repository:{repository[1]}:pull,push"'
        return self._refused(challenge)

    def _refused(self, challenge: str) -> ApiError:
        words = "a user's name and password are needed"
        return ApiError(401, "UNAUTHORIZED", words, headers=(("WWW-Authenticate", challenge),))

    def _check_browser(self, method: str, headers: Mapping[str, str]) -> None:
        """A web page must not reach a server on loopback through its reader's browser."""
        if method not in READING and "origin" in headers:
            raise ApiError(403, "DENIED", "web pages may not push")
        host = headers.get("host")
        if self.loopback_only and host is not None and not self._is_local(host):
            raise ApiError(
                403, "DENIED", f"this server listens on loopback only, not as {host[:100]!r}"
            )

    def _is_local(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if host == self.own_host or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _shown(self, headers: Mapping[str, str]) -> str | None:
        """Whose token a request comes with; None: with none that is good."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return self.tokens.user_of(token.strip()) if scheme.lower() == "bearer" else None

    def _proves(self, headers: Mapping[str, str]) -> bool:
        scheme, _, encoded = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            return False
        wanted = self.user.encode() + b":" + self.password
        # Of equal length, so that the time tells nothing of it either.
        return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())


def check_exposure(address: Address, *, tls: bool, insecure: bool, rules: Rules) -> None:
    """Refuse to offer to other machines what nobody protects.

    Raises:
        PermissionDenied: with what to say instead.
    """
    if address.is_loopback or insecure:
        return
    if not tls:
        raise PermissionDenied(
            f"{address} can be reached by other machines, and nothing is encrypted",
            hint="give --tls-cert and --tls-key, or say --insecure",
        )
    if rules.push and not rules.user:
        raise PermissionDenied(
            f"everybody who reaches {address} could push",
            hint="give --user NAME --password-stdin, or say --insecure",
        )


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or later with this certificate (chain) and key. Raises: InvalidArgument, NotFound…"""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"{certificate} and {key} are not a certificate and its key: {error.reason}"
        ) from None
    except OSError as error:
        raise from_os_error(error, f"reading {certificate} and {key}") from None
    return context
