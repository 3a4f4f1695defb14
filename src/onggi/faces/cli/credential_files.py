"""Files of credentials: docker's `config.json` and podman's `auth.json`, read and written.

What we do not understand in them is kept as it is. Secrets are never part of a message. Runs no
helper and asks nobody.

Source: docker-login(1), github.com/docker/cli cli/config/configfile; containers-auth.json(5).
"""

from __future__ import annotations

import binascii
import errno
import fcntl
import json
import os
import stat

from onggi.errors import FailedPrecondition, from_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

HUB = "docker.io"
#: Under what name docker keeps its own registry, for history's sake.
HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))
MAX_FILE_BYTES = 4 * 1024 * 1024
_MEND = "mend the file, or move it away and log in again"
_WITHOUT_LOCKS = frozenset((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS))


class Credentials:
    """A name and password, or an identity token that stands for both."""

    __slots__ = ("identity_token", "password", "username")

    def __init__(self, username: str = "", password: str = "", identity_token: str = "") -> None:
        self.username = username
        self.password = password
        self.identity_token = identity_token

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, …)"

    def request(self) -> dict[str, str]:
        """As the engine's calls take them."""
        fields = {
            "username": self.username,
            "password": self.password,
            "identity_token": self.identity_token,
        }
        return {name: text for name, text in fields.items() if text}


def registry_of(key: str) -> str:
    """The registry that a file's key, or what a user typed, means: without scheme and path."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return HUB if host in _HUB_HOSTS else host


def paths(environ: Mapping[str, str]) -> list[tuple[str, bool]]:
    """The files to look into, in order, and whether each is docker's; the first is written to.

    Who sets REGISTRY_AUTH_FILE means that file, and podman's others are not looked at.
    """
    home = environ.get("HOME") or _home_directory()
    docker = environ.get("DOCKER_CONFIG") or f"{home}/.docker"
    explicit = environ.get("REGISTRY_AUTH_FILE")
    if explicit:
        return [(explicit, False), (f"{docker}/config.json", True)]
    run = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    below = "containers/auth.json" if environ.get("XDG_RUNTIME_DIR") else "auth.json"
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return [
        (f"{docker}/config.json", True),
        (f"{run}/{below}", False),
        (f"{config}/containers/auth.json", False),
    ]


def _home_directory() -> str:
    import pwd  # noqa: PLC0415 - rare: an environment without HOME

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


class CredentialFile:
    """One file's document. `docker`: whether docker's rules for its keys hold, or podman's."""

    __slots__ = ("docker", "document", "path")

    def __init__(self, path: str, docker: bool, document: dict[str, Any]) -> None:
        self.path = path
        self.docker = docker
        self.document = document

    @classmethod
    def read(cls, path: str, docker: bool) -> CredentialFile:
        """The file at `path`; empty when there is none.

        Raises: FailedPrecondition: it is not such a file. EngineError: it cannot be read.
        """
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, docker, {})
        except OSError as error:
            raise from_os_error(error, "reading the credentials in") from None
        if len(data) > MAX_FILE_BYTES:
            raise FailedPrecondition(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return cls(path, docker, _document(path, data) if data.strip() else {})

    def key_of(self, registry: str) -> str:
        """The key under which this kind of file keeps a registry."""
        return HUB_KEY if self.docker and registry == HUB else registry

    def section(self, name: str) -> dict[str, Any]:
        """A table of the file; an empty one when it is missing.

        Raises: FailedPrecondition: it is no table.
        """
        found = self.document.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise self._wrong(name, "is not an object")
        return found

    def helper(self, registry: str) -> str:
        """The name of the helper that keeps this registry's credentials; "": the file does.

        Raises: FailedPrecondition: it is no text.
        """
        for key, name in self.section("credHelpers").items():
            if registry_of(key) == registry:
                return self._text(f"credHelpers.{key}", name)
        return self._text("credsStore", self.document.get("credsStore"))

    def keys(self, registry: str) -> list[str]:
        """The keys that mean a registry, the best first."""
        best = self.key_of(registry)
        found = [key for key in self.section("auths") if self._means(key, registry)]
        return sorted(found, key=lambda key: key != best)

    def _means(self, key: str, registry: str) -> bool:
        # Podman's keys may name a repository; what is kept there is for nothing else.
        scoped = not self.docker and "/" in key and "://" not in key
        return not scoped and registry_of(key) == registry

    def entry(self, registry: str) -> Credentials | None:
        """What the file itself holds for a registry.

        Raises: FailedPrecondition: the entry cannot be understood.
        """
        for key in self.keys(registry):
            where = f"auths.{key}"
            entry = self.section("auths")[key]
            if not isinstance(entry, dict):
                raise self._wrong(where, "is not an object")
            token = self._text(f"{where}.identitytoken", entry.get("identitytoken"))
            username = self._text(f"{where}.username", entry.get("username"))
            password = self._text(f"{where}.password", entry.get("password"))
            auth = self._text(f"{where}.auth", entry.get("auth"))
            if auth:
                username, password = self._decoded(f"{where}.auth", auth)
            if token or username or password:
                return Credentials(username, password, token)
        return None

    def _decoded(self, where: str, auth: str) -> tuple[str, str]:
        try:
            plain = auth.replace("\r", "").replace("\n", "").encode("ascii")
            text = binascii.a2b_base64(plain, strict_mode=True).decode()
        except (binascii.Error, UnicodeError):
            raise self._wrong(where, "is not base64 of text") from None
        username, colon, password = text.partition(":")
        if not colon:
            raise self._wrong(where, "is not the base64 of USER:PASSWORD")
        return username, password.strip("\0")

    def _text(self, where: str, value: object) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(where, "is not a text")
        if not is_unicode(value):
            raise self._wrong(where, "has half a character")
        return value

    def _wrong(self, where: str, what: str) -> FailedPrecondition:
        return FailedPrecondition(f"{self.path}: {where} {what}", hint=_MEND)


def is_unicode(text: str) -> bool:
    """Whether `text` has an encoding; JSON can also spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def entry_for(credentials: Credentials) -> dict[str, str]:
    """The entry that keeps `credentials` in a file, as docker writes it."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    entry = {"auth": binascii.b2a_base64(pair, newline=False).decode()}
    if credentials.identity_token:
        entry["identitytoken"] = credentials.identity_token
    return entry


def _document(path: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        reason = error.msg[:1].lower() + error.msg[1:]
        raise FailedPrecondition(f"{path}: {where}: not JSON: {reason}", hint=_MEND) from None
    except UnicodeDecodeError as error:
        raise FailedPrecondition(
            f"{path}: byte {error.start}: not utf-8 text", hint=_MEND
        ) from None
    except RecursionError:
        raise FailedPrecondition(f"{path}: JSON nested too deeply", hint=_MEND) from None
    if not isinstance(found, dict):
        raise FailedPrecondition(f"{path}: not a JSON object", hint=_MEND)
    return found


def edit(path: str, docker: bool, change: Callable[[CredentialFile], None]) -> None:
    """Change a file as a whole or not at all, readable by its owner alone.

    A symbolic link is followed, so that a file kept elsewhere stays there. Two who edit at once
    wait for each other.

    Raises: FailedPrecondition: it is no such file. EngineError: it cannot be written.
    """
    real = os.path.realpath(path)
    directory = os.path.dirname(real)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(held)
            file = CredentialFile.read(real, docker)
            change(file)
            _replace(real, json.dumps(file.document, indent="\t", ensure_ascii=False).encode())
            os.fsync(held)
        finally:
            os.close(held)
    except OSError as error:
        raise from_os_error(error, "writing the credentials to") from None


def _lock(directory: int) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        # A network file system without locks: as good as docker, which never takes one.


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.urandom(4).hex()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600)
    try:
        with open(fd, "wb") as file:
            _keep_owner(fd, path)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _keep_owner(fd: int, path: str) -> None:
    """Root who edits a user's file must not take it away from him."""
    try:
        before = os.stat(path)
    except FileNotFoundError:
        return
    if os.geteuid() == 0 and stat.S_ISREG(before.st_mode):
        os.fchown(fd, before.st_uid, before.st_gid)
