"""`pull`, `push`, `login` and `logout`."""

from __future__ import annotations

import os

from onggi.errors import InvalidArgument
from onggi.faces.cli.credential_files import HUB, Credentials, is_unicode, registry_of
from onggi.faces.cli.credentials import Keyring
from onggi.faces.cli.options import Option
from onggi.faces.cli.output import printable
from onggi.faces.cli.progress import follow
from onggi.faces.cli.several import each
from onggi.faces.cli.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

MAX_PASSWORD_BYTES = 64 * 1024
#: How a pull ended → docker's words for it.
_STATUS = {
    "new": "Downloaded newer image for",
    "current": "Image is up to date for",
}


def keyring_of(context: Context) -> Keyring:
    """The user's credentials; what is wrong with them is said as a warning."""
    return Keyring(context.environ, lambda line: context.warn((line,)))


def registries_of(context: Context, *references: str) -> list[str]:
    """The registries that names lead to: a name's own first, then its mirrors."""
    answer = context.client.call("registries.of", {"references": list(references)})
    return list(answer.get("registries", ()))


def _pull(context: Context, parsed: Parsed) -> int:
    keyring = keyring_of(context)
    quiet = parsed.on("quiet")

    def pull(reference: str) -> str:
        request: dict[str, Any] = {
            "reference": reference,
            "platform": parsed.text("platform"),
            "every_platform": parsed.on("all-platforms"),
            "all_tags": parsed.on("all-tags"),
            "unpack": not parsed.on("no-unpack"),
            "verify": True,
            "discard_blobs": parsed.on("discard-blobs"),
            "credentials": keyring.requests(registries_of(context, reference)),
        }
        with context.client.open("images.pull", request) as call:
            answers = follow(call, context.err, quiet=quiet)
        for digest, why in (kept for answer in answers for kept in answer.get("kept", ())):
            context.warn((f"layer {digest[7:19]} stays compressed as well: {why}",))
        for name, why in (passed for answer in answers for passed in answer.get("skipped", ())):
            context.warn((f"{name} was passed over: {why}",))
        return "\n".join(line for answer in answers for line in _pulled(answer, quiet))

    _refuse_both(parsed, "platform", "all-platforms")
    return each(context, parsed.arguments, pull)


def pull_missing(context: Context, reference: str, platform: str = "") -> None:
    """Pull for a command whose output is its own: all that is said goes to stderr."""
    logins = keyring_of(context).requests(registries_of(context, reference))
    request = {"reference": reference, "platform": platform, "credentials": logins}
    with context.client.open("images.pull", request) as call:
        follow(call, context.err)


def _pulled(answer: dict[str, Any], quiet: bool) -> list[str]:
    """What docker says at the end of a pull; the name, or the id of what has none, comes last."""
    names = answer.get("names") or (answer["id"],)
    name = printable(str(names[0]))
    if quiet:
        return [name]
    lines = [f"Digest: {answer['digest']}"] if answer.get("digest") else []
    status = str(answer.get("status", ""))
    if status in _STATUS:
        lines.append(f"Status: {_STATUS[status]} {name}")
    return [*lines, name]


def _push(context: Context, parsed: Parsed) -> int:
    name, *rest = parsed.arguments
    destination = rest[0] if rest else ""
    quiet = parsed.on("quiet")
    if parsed.on("all-tags") and destination:
        raise InvalidArgument(
            "--all-tags pushes every tag under its own name",
            hint="leave the destination out, or push one tag",
        )
    request: dict[str, Any] = {
        "reference": name,
        "destination": destination,
        "all_tags": parsed.on("all-tags"),
        "every_platform": parsed.on("all-platforms"),
        "credentials": keyring_of(context).requests(registries_of(context, destination or name)),
    }
    with context.client.open("images.push", request) as call:
        answers = follow(call, context.err, quiet=quiet)
    for answer in answers:
        reference = printable(str(answer["reference"]))
        if quiet:
            context.out.line(reference)
            continue
        size = answer.get("size_bytes", 0)
        context.out.line(f"{reference}: digest: {answer['digest']} size: {size}")
    return 0


def _refuse_both(parsed: Parsed, first: str, second: str) -> None:
    if parsed.get(first) and parsed.get(second):
        raise InvalidArgument(f"--{first} and --{second} contradict each other", hint="give one")


def _login(context: Context, parsed: Parsed) -> int:
    registry = _registry(parsed)
    keyring = keyring_of(context)
    credentials = _asked_for(context, parsed, registry, keyring)
    request = {"registry": registry, "credentials": credentials.request()}
    answer = context.client.call("registries.login", request)
    token = str(answer.get("identity_token", ""))
    if token:
        credentials = Credentials(credentials.username, "", token)
    keyring.keep(str(answer.get("registry") or registry), credentials)
    if not answer.get("checked", True):
        context.warn((f"{registry} lets everybody in: the password is kept, but not checked",))
    context.out.line(printable(str(answer.get("status") or "Login Succeeded")))
    return 0


def _registry(parsed: Parsed) -> str:
    typed = parsed.arguments[0] if parsed.arguments else HUB
    registry = registry_of(typed)
    if not registry or not registry.isprintable() or " " in registry:
        raise InvalidArgument(f"{typed!r} names no registry", hint="HOST or HOST:PORT")
    return registry


def _asked_for(context: Context, parsed: Parsed, registry: str, keyring: Keyring) -> Credentials:
    """What the options say, and what is missing of it from the person at the terminal."""
    username, password = parsed.text("username"), parsed.text("password")
    if parsed.on("password-stdin"):
        if parsed.get("password") is not None:
            raise InvalidArgument("--password and --password-stdin contradict each other")
        if not username:
            raise InvalidArgument("--password-stdin needs --username", hint="-u USER")
        return Credentials(username, _password_from_stdin())
    if password:
        context.warn(("others on this host see a --password; use --password-stdin",))
    if username and password:
        return sound_credentials(username, password)
    if not os.isatty(0):
        raise InvalidArgument(
            "there is no terminal to ask for name and password",
            hint="use -u USER --password-stdin",
        )
    from onggi.faces.cli.prompt import ask  # noqa: PLC0415 - only people at a terminal pay for it

    if not username:
        kept = keyring.find(registry)
        before = kept.username if kept is not None else ""
        shown = f" ({printable(before)})" if before else ""
        username = ask(f"Username for {registry}{shown}: ").strip() or before
        if not username:
            raise InvalidArgument("a username is needed")
    if not password:
        password = ask("Password: ", hidden=True)
        if not password:
            raise InvalidArgument("a password is needed")
    return sound_credentials(username, password)


def sound_credentials(username: str, password: str) -> Credentials:
    """Refused here, where the message cannot hold a piece of the password."""
    if not is_unicode(username + password):
        raise InvalidArgument("the username or password is not utf-8 text")
    if ":" in username:
        raise InvalidArgument(
            "a username with a colon cannot be sent to a registry", hint="RFC 7617, section 2"
        )
    return Credentials(username, password)


def _password_from_stdin() -> str:
    data = b""
    while piece := os.read(0, MAX_PASSWORD_BYTES):
        data += piece
        if len(data) > MAX_PASSWORD_BYTES:
            raise InvalidArgument(f"the password is longer than {MAX_PASSWORD_BYTES} bytes")
    try:
        # One line's end is the shell's, not the password's.
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise InvalidArgument("the password on stdin is not utf-8 text") from None
    if not password:
        raise InvalidArgument("there is no password on stdin")
    return password


def _logout(context: Context, parsed: Parsed) -> int:
    registry = _registry(parsed)
    if keyring_of(context).forget(registry):
        context.out.line(f"Removing login credentials for {registry}")
    else:
        context.out.line(f"Not logged in to {registry}")
    return 0


_ALL_PLATFORMS = Option("--all-platforms", "every platform of a multi-platform image")
_QUIET = Option("-q --quiet", "show no progress, print the name only")

VERBS = {
    "pull": Verb(
        _pull,
        arguments="NAME…",
        least=1,
        options=(
            Option("-a --all-tags", "every tag of the repository"),
            Option("--platform", "linux/arm64, linux/arm/v7: not this host's", value="PLATFORM",
                   complete="linux/amd64 linux/arm64 linux/arm/v7 linux/386 linux/riscv64"),
            _ALL_PLATFORMS,
            Option("--discard-blobs", "drop compressed layers that can be made again for a push"),
            Option("--no-unpack", "fetch the content only; the first run unpacks it"),
            _QUIET,
        ),
        complete="image",
        examples=(
            ("onggi pull debian", "the newest one, from the default registry"),
            ("onggi pull registry.example:5000/team/app:1.2", "from a registry of your own"),
            ("onggi pull debian@sha256:…", "exactly this content, whatever the tag says now"),
            ("onggi pull --platform linux/arm64 debian", "for another kind of machine"),
        ),
    ),
    "push": Verb(
        _push,
        arguments="NAME [DESTINATION]",
        least=1,
        most=2,
        options=(
            Option("-a --all-tags", "every tag of the repository"),
            _ALL_PLATFORMS,
            _QUIET,
        ),
        complete="image",
        examples=(
            ("onggi push registry.example:5000/team/app:1.2", "to the registry in its name"),
            ("onggi push app registry.example:5000/team/app:1.2", "under another name"),
        ),
    ),
    "login": Verb(
        _login,
        arguments="[REGISTRY]",
        most=1,
        options=(
            Option("-u --username", "who to be", value="USER"),
            Option("-p --password", "the password, for all to see; better: --password-stdin",
                   value="PASSWORD"),
            Option("--password-stdin", "read the password from stdin"),
        ),
        examples=(
            ("onggi login", "docker.io; asks for name and password"),
            ("onggi login -u ci --password-stdin registry.example:5000 < token", "in a script"),
        ),
    ),
    "logout": Verb(
        _logout,
        arguments="[REGISTRY]",
        most=1,
        examples=(("onggi logout registry.example:5000", "forget name and password"),),
    ),
}  # fmt: skip
