"""Who a user is to registries: looked up where docker and podman keep it, stored as docker does.

Knows which files and helpers there are to ask; knows nothing of registries' protocols.

Source: docker-login(1), containers-auth.json(5).
"""

from __future__ import annotations

from onggi.errors import EngineError
from onggi.faces.cli import credential_helper
from onggi.faces.cli.credential_files import (
    CredentialFile,
    Credentials,
    edit,
    entry_for,
    paths,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: A helper's user name that says: the secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 - not a secret


class Keyring:
    """The credentials of one user. `warn` takes a line about what does not work or is not safe."""

    def __init__(self, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._environ = environ
        self._warn = warn
        self._found: dict[str, Credentials | None] = {}

    def find(self, registry: str) -> Credentials | None:
        """What is kept for a registry; None: nothing. A helper that fails is a warning.

        Raises: FailedPrecondition: a file cannot be understood.
        """
        if registry not in self._found:
            self._found[registry] = self._look_up(registry)
        return self._found[registry]

    def requests(self, registries: Sequence[str]) -> dict[str, dict[str, str]]:
        """The credentials of these registries as the engine's calls take them."""
        found = {registry: self.find(registry) for registry in registries}
        return {registry: kept.request() for registry, kept in found.items() if kept is not None}

    def _look_up(self, registry: str) -> Credentials | None:
        for path, docker in paths(self._environ):
            file = CredentialFile.read(path, docker)
            helper = file.helper(registry)
            found = self._ask(file, helper, registry) if helper else None
            # As docker: what was stored before a helper was set up still counts.
            found = found or file.entry(registry)
            if found is not None:
                return found
        return None

    def _ask(self, file: CredentialFile, helper: str, registry: str) -> Credentials | None:
        try:
            found = credential_helper.get(helper, file.key_of(registry), self._environ)
        except EngineError as error:
            self._warn(f"{file.path}: {error}")
            return None
        if found is None:
            return None
        username, secret = found
        if username == _TOKEN_USER:
            return Credentials(identity_token=secret)
        return Credentials(username, secret)

    def keep(self, registry: str, credentials: Credentials) -> None:
        """Store: with a helper if one is set up, else in the file, and then with a warning.

        Raises: EngineError: the helper or the file does not work.
        """
        path, docker = paths(self._environ)[0]
        file = CredentialFile.read(path, docker)
        helper = file.helper(registry)
        entry: dict[str, str] = {}
        if helper:
            token = credentials.identity_token
            user = _TOKEN_USER if token else credentials.username
            secret = token or credentials.password
            credential_helper.store(helper, file.key_of(registry), user, secret, self._environ)
        else:
            entry = entry_for(credentials)
            self._warn(
                f"the password is stored unencrypted in {path} — "
                "name a credential helper there (credsStore) to keep it safe"
            )

        def put(file: CredentialFile) -> None:
            auths = file.section("auths")
            auths[file.key_of(registry)] = entry
            file.document["auths"] = auths

        edit(path, docker, put)
        self._found.clear()

    def forget(self, registry: str) -> bool:
        """Remove what is kept for a registry; whether there was anything.

        Raises: EngineError: the helper or the file does not work.
        """
        path, docker = paths(self._environ)[0]
        file = CredentialFile.read(path, docker)
        key, helper = file.key_of(registry), file.helper(registry)
        known = bool(file.keys(registry))
        if helper:
            known = known or credential_helper.get(helper, key, self._environ) is not None
            credential_helper.erase(helper, key, self._environ)

        def drop(file: CredentialFile) -> None:
            auths = file.section("auths")
            for found in file.keys(registry):
                del auths[found]

        if file.keys(registry):
            edit(path, docker, drop)
        self._found.clear()
        return known
