"""`python -m onggi.faces.registry`: the server's process, from its arguments to its end.

SIGINT and SIGTERM end it; uploads that are under way can be resumed at the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading

from onggi.engine.layout import layout_for
from onggi.engine.places import Places
from onggi.engine.settings import read_settings
from onggi.errors import EngineError, InvalidArgument, from_os_error
from onggi.faces.registry.access import Address, Rules, check_exposure, tls_context
from onggi.faces.registry.routes import Registry
from onggi.faces.registry.server import RegistryServer
from onggi.image.images import ImageStore
from onggi.image.reference import Reference

_MAX_PASSWORD_BYTES = 4096


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="onggi registry serve", allow_abbrev=False)
    parser.add_argument("--root")
    parser.add_argument("--listen", default="127.0.0.1:5000")
    parser.add_argument("--push", action="store_true")
    parser.add_argument("--as", dest="own", default="")
    parser.add_argument("--user", default="")
    parser.add_argument("--password-stdin", action="store_true")
    parser.add_argument("--anonymous-pull", action="store_true")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    parser.add_argument("--insecure", action="store_true")
    return parser.parse_args(argv)


def _password(arguments: argparse.Namespace) -> bytes:
    """The password, from stdin. Raises: InvalidArgument."""
    if bool(arguments.user) != arguments.password_stdin:
        raise InvalidArgument("--user and --password-stdin go together")
    if not arguments.user:
        if arguments.anonymous_pull:
            raise InvalidArgument("--anonymous-pull says nothing without --user")
        return b""
    if ":" in arguments.user:
        raise InvalidArgument("a user's name has no colon")
    data = b""
    while part := os.read(0, _MAX_PASSWORD_BYTES + 1 - len(data)):
        data += part
        if len(data) > _MAX_PASSWORD_BYTES:
            raise InvalidArgument(f"the password has more than {_MAX_PASSWORD_BYTES} bytes")
    password = data.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise InvalidArgument("the password on stdin is empty")
    return password


def _own_host(asked: str, port: int) -> str:
    """The registry name of what is pushed. Raises: InvalidArgument."""
    own = asked or f"localhost:{port}"
    if Reference.parse(f"{own}/name").registry != own:
        raise InvalidArgument(
            f"{own!r} is not a registry's name", hint="it has a dot or a port: images.lan:5000"
        )
    return own


def _log(line: str) -> None:
    # A log that nobody reads any more must not end the server.
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode("utf-8", "replace"))


def _hint(address: Address, server: RegistryServer, rules: Rules) -> None:
    """What to type elsewhere, for a person."""
    if not os.isatty(2):
        return
    shown = Address(address.host, server.port)
    if address.is_loopback:
        _log(f"on this machine: onggi pull {shown}/NAME")
        _log("for other machines: --listen 0.0.0.0:5000 with --tls-cert and --tls-key")
        return
    host = os.uname().nodename if address.host in ("0.0.0.0", "::") else address.host  # noqa: S104
    _log(f"on another machine: onggi pull {Address(host, server.port)}/NAME")
    if server.tls is None and rules.user:
        _log("warning: the password travels in plain text")


def serve(arguments: argparse.Namespace) -> None:
    """Serve until a signal comes. Raises: EngineError, OSError: it cannot."""
    address = Address.parse(arguments.listen)
    tls = None
    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise InvalidArgument("--tls-cert and --tls-key go together")
    if arguments.tls_cert:
        tls = tls_context(arguments.tls_cert, arguments.tls_key)
    rules = Rules(
        push=arguments.push,
        user=arguments.user,
        password=_password(arguments),
        anonymous_pull=arguments.anonymous_pull,
        tls=tls is not None,
        loopback_only=address.is_loopback,
        own_host=arguments.own,
    )
    check_exposure(address, tls=tls is not None, insecure=arguments.insecure, rules=rules)
    root = arguments.root or os.environ.get("ONGGI_ROOT") or None
    layout = layout_for(root, os.geteuid(), dict(os.environ))
    images = ImageStore(Places(layout).images, settings=read_settings(layout.config).image)
    try:
        server = RegistryServer(address, rules, _log, tls)
    except OSError as error:
        raise from_os_error(error, f"listening on {address}") from None
    with server:
        registry = Registry(images, _own_host(arguments.own, server.port))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"listening on {Address(address.host, server.port)}", flush=True)
        _hint(address, server, rules)
        server.serve(registry.answer)


def main(argv: list[str] | None = None) -> int:
    """Serve; an exit code: 0 after a signal, 125 when it cannot."""
    os.umask(0o022)
    try:
        serve(_arguments(argv))
    except EngineError as error:
        _log(f"onggi: {error}")
        return 125
    except OSError as error:
        _log(f"onggi: {from_os_error(error, 'the registry server failed')}")
        return 125
    return 0


if __name__ == "__main__":
    sys.exit(main())
