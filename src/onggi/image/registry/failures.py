"""What went wrong on the wire, as a person would say it: never a header, never a URL's query."""

from __future__ import annotations

import socket
import ssl

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from onggi.errors import EngineError, FailedPrecondition, Unavailable
from onggi.runtime.printable import printable


class Unreached(Unavailable):
    """No connection: nothing of the request was sent."""


class NoTls(Unavailable):
    """Somebody answers, and not in TLS: asking again does not help."""


#: What OpenSSL calls an answer in plain HTTP.
_NOT_TLS = frozenset(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
)


def translated(error: Exception, where: str) -> EngineError:
    """The error of urllib3, `http.client` or the socket as one of ours; `where`: method and URL."""
    if isinstance(error, (NameResolutionError, NewConnectionError, ProxyError)):
        return _unreached(error, where)
    if isinstance(error, ConnectTimeoutError):
        return Unreached(f"{where}: no connection in time")
    if isinstance(error, (ReadTimeoutError, TimeoutError)):
        return Unavailable(f"{where}: the answer comes too slowly")
    cause = error.args[-1] if isinstance(error, HTTPError) and error.args else error
    if isinstance(cause, ssl.SSLError):
        return _tls_error(cause, where)
    if isinstance(cause, TimeoutError):
        return Unavailable(f"{where}: the request is taken too slowly")
    return Unavailable(f"{where}: {_words(cause)}")


def _unreached(error: Exception, where: str) -> EngineError:
    if isinstance(error, ProxyError):
        return Unreached(f"{where}: the proxy does not connect us: {_words(error.original_error)}")
    if isinstance(error, NameResolutionError):
        return Unreached(f"{where}: the name of the host is not known")
    return Unreached(f"{where}: {_words(error.__cause__ or error.__context__)}")


_OTHER_NAME = "use the name that it is for; `location` in the configuration keeps the image's name"
#: By OpenSSL's X509_V_ERR codes: what no authority in certs.d would change.
_CERTIFICATE_HINTS = {
    9: "it is not valid yet: look at this machine's clock",
    10: "it has expired: the registry needs a new one, or this machine's clock is wrong",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


def _tls_error(error: ssl.SSLError, where: str) -> EngineError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FailedPrecondition(
            f"{where}: the certificate is not trusted: {_words(error.verify_message)}",
            hint=_CERTIFICATE_HINTS.get(
                error.verify_code, "put the authority's certificate into certs.d/HOST:PORT/ca.crt"
            ),
        )
    reason = (error.reason or "").lower().replace("_", " ")
    if "alert" in reason:
        return FailedPrecondition(
            f"{where}: TLS was refused: {reason}",
            hint="a client's certificate goes into certs.d/HOST:PORT/client.cert and client.key",
        )
    if error.reason in _NOT_TLS:
        return NoTls(
            f"{where}: the host does not speak TLS",
            hint="if plain HTTP is right there, list the host in insecure_registries",
        )
    return Unavailable(f"{where}: TLS failed: {reason or 'no reason given'}")


def _words(cause: object) -> str:
    if isinstance(cause, socket.gaierror):
        return "the name of the host is not known"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    text = printable(str(cause).rstrip("."), 160) or type(cause).__name__
    return text[:1].lower() + text[1:]
