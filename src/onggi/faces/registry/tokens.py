"""Bearer tokens that this server gives and takes: of its user, or of anybody.

Where only some requests need a name, clients must be told so at their first one, and `Basic` would
turn those without a name away. Tokens are valid for minutes and for this process alone.

Source: distribution v2 token authentication, https://distribution.github.io/distribution/spec/auth/token
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time

#: As long as a client may take for one layer between two requests.
LIFETIME_S = 900


class Tokens:
    """Signs and checks them. `user` is "" for anybody."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)

    def issue(self, user: str) -> str:
        """A token for LIFETIME_S from now."""
        text = f"{user.encode().hex()}.{int(time.monotonic()) + LIFETIME_S}"
        return f"{text}.{self._seal(text)}"

    def user_of(self, token: str) -> str | None:
        """Whose a token is; None: it is not one of ours, or no longer."""
        text, _, seal = token.rpartition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(text).encode()):
            return None
        user, _, until_s = text.partition(".")
        return bytes.fromhex(user).decode() if time.monotonic() < int(until_s) else None

    def _seal(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
