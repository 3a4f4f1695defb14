"""TLS for one host: the system's authorities, and what an administrator put into certs.d.

Source: docker's "Verify repository client with certificates": a directory `host[:port]` with
authorities `*.crt` and pairs `NAME.cert` + `NAME.key` for the client.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Iterable, Iterator

from onggi.errors import FailedPrecondition


def context_for(names: Iterable[str], directories: Iterable[str], verified: bool) -> ssl.SSLContext:
    """The context for a host that is known by `names` (`host`, `host:port`, its registry's name).

    Raises: FailedPrecondition: a file in certs.d that cannot be used; says which.
    """
    files = tuple(_files(names, directories))
    if not files:
        return _plain_context(verified)
    context = _new_context(verified)
    for path in files:
        if path.endswith(".crt"):
            _load(path, lambda path=path: context.load_verify_locations(cafile=path))
        elif path.endswith(".cert"):
            key = path.removesuffix(".cert") + ".key"
            _need(key, path)
            _load(path, lambda path=path, key=key: context.load_cert_chain(path, key, _no_password))
        elif path.endswith(".key"):
            _need(path.removesuffix(".key") + ".cert", path)
    return context


@functools.cache
def _plain_context(verified: bool) -> ssl.SSLContext:
    """For hosts without files of their own; one, for the authorities take 30 ms to read."""
    return _new_context(verified)


def _new_context(verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _files(names: Iterable[str], directories: Iterable[str]) -> Iterator[str]:
    """Every directory once, whatever a host is called by; files in the order of their names."""
    for directory in directories:
        for name in dict.fromkeys(names):
            place = os.path.join(directory, name)
            try:
                yield from (os.path.join(place, file) for file in sorted(os.listdir(place)))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                raise FailedPrecondition(f"{place}: its certificates cannot be read") from None


def _need(path: str, other: str) -> None:
    if not os.path.exists(path):
        raise FailedPrecondition(
            f"{other}: {os.path.basename(path)} is missing beside it",
            hint="a client's certificate is a pair NAME.cert and NAME.key; authorities are *.crt",
        )


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    return ""


def _load(path: str, load: object) -> None:
    assert callable(load)
    try:
        load()
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "not a certificate"
        raise FailedPrecondition(f"{path}: {reason}") from None
