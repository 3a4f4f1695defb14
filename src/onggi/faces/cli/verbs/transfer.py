"""`image copy`: an image from any place to any other, without unpacking it."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument
from onggi.faces.cli.options import Option
from onggi.faces.cli.progress import follow
from onggi.faces.cli.verb import Verb
from onggi.faces.cli.verbs.registry import keyring_of, registries_of, sound_credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.credentials import Keyring
    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

#: Transports that name a file or a directory. Source: containers-transports(5).
_ON_DISK = ("oci:", "oci-archive:", "docker-archive:", "dir:")


def absolute(name: str, directory: str) -> str:
    """`name` with its path seen from `directory`: the engine has another working directory."""
    for transport in _ON_DISK:
        path = name.removeprefix(transport)
        if path != name:
            if not path:
                raise InvalidArgument(f"{name} names no path", hint=f"{transport}PATH")
            return name if path.startswith("/") else f"{transport}{directory}/{path}"
    return name


def _credentials(
    context: Context, parsed: Parsed, side: str, name: str, keyring: Keyring
) -> dict[str, dict[str, str]]:
    """What to say to the registries of one side: what was given, what is kept, or nothing."""
    given = parsed.get(f"{side}-creds")
    if given is not None and parsed.on(f"{side}-no-creds"):
        raise InvalidArgument(f"--{side}-creds and --{side}-no-creds contradict each other")
    if parsed.on(f"{side}-no-creds"):
        return {}
    registries = registries_of(context, name)
    if given is None:
        return keyring.requests(registries)
    # No message here shows what was given: it is a secret.
    username, colon, password = str(given).partition(":")
    if not colon or not username:
        raise InvalidArgument(
            f"--{side}-creds is not USER:PASSWORD", hint="or log in before: onggi login"
        )
    if not registries:
        raise InvalidArgument(
            f"--{side}-creds: {name} is not in a registry", hint="leave the credentials out"
        )
    # To the registry itself: its mirrors are others, who must not see them.
    return {registries[0]: sound_credentials(username, password).request()}


def _copy(context: Context, parsed: Parsed) -> int:
    if parsed.on("all") and parsed.get("platform"):
        raise InvalidArgument("--all and --platform contradict each other", hint="give one")
    directory = os.getcwd()
    source, destination = (absolute(name, directory) for name in parsed.arguments)
    keyring = keyring_of(context)
    request: dict[str, Any] = {
        "source": source,
        "destination": destination,
        "platform": parsed.text("platform"),
        "every_platform": parsed.on("all"),
        "credentials_source": _credentials(context, parsed, "src", source, keyring),
        "credentials_destination": _credentials(context, parsed, "dest", destination, keyring),
    }
    with context.client.open("images.copy", request) as call:
        answers = follow(call, context.err, quiet=parsed.on("quiet"))
    for answer in answers:
        context.out.line(str(answer["digest"]))
    return 0


VERBS = {
    "copy": Verb(
        _copy,
        arguments="SOURCE DESTINATION",
        least=2,
        most=2,
        options=(
            Option("-a --all", "every platform of a multi-platform image"),
            Option("--platform", "linux/arm64, linux/arm/v7: not this host's", value="PLATFORM",
                   complete="linux/amd64 linux/arm64 linux/arm/v7 linux/386 linux/riscv64"),
            Option("-q --quiet", "show no progress"),
            Option("--src-creds", "for the source's registry, instead of what login keeps",
                   value="USER:PASSWORD", group="Credentials"),
            Option("--dest-creds", "for the destination's registry", value="USER:PASSWORD",
                   group="Credentials"),
            Option("--src-no-creds", "be nobody at the source's registry", group="Credentials"),
            Option("--dest-no-creds", "be nobody at the destination's registry",
                   group="Credentials"),
        ),
        complete="docker:// store: oci: oci-archive: docker-archive: dir:",
        examples=(
            ("onggi image copy docker://debian:12 oci:layouts:debian", "to an OCI layout"),
            ("onggi image copy --all docker://debian docker://registry.example:5000/debian",
             "from registry to registry, every platform"),
            ("onggi image copy store:app docker-archive:app.tar:app:1", "for docker load"),
            ("onggi image copy oci-archive:app.tar store:app", "into this engine"),
        ),
    ),
}  # fmt: skip
