"""Who somebody is to a registry. Knows nothing of where that is kept, and never shows it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Credentials(Struct, frozen=True):
    """Who somebody is to a registry: a name and password, or a token that stands for both."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, …)"


#: registry's name as in references (`docker.io`, `host:5000`) → who we are there; None: anonymous.
Keychain = Callable[[str], Credentials | None]
