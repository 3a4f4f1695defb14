"""Where one engine keeps things: two directories, and every name derived from them.

Knows nothing about what is inside. `--root`/`ONGGI_ROOT` move all of it to one place.
Source: file-hierarchy(7), XDG Base Directory Specification.
"""

from __future__ import annotations

import os

from msgspec import Struct

SYSTEM_DATA = "/var/lib/onggi"
SYSTEM_RUN = "/run/onggi"
SYSTEM_CONFIG = "/etc/onggi/config.toml"


class Layout(Struct, frozen=True):
    """`data` survives a reboot, `run` need not; `instance` marks this root's kernel objects.

    `config`: the file with an administrator's decisions, which need not be there.
    """

    data: str
    run: str
    instance: str
    config: str

    @property
    def socket(self) -> str:
        """The native wire's socket."""
        return f"{self.run}/onggi.sock"

    @property
    def lock(self) -> str:
        """Held by the one engine of this root for as long as it lives."""
        return f"{self.run}/engine.lock"

    @property
    def log(self) -> str:
        """The engine's own log."""
        return f"{self.data}/engine.log"


def layout_for(root: str | None, uid: int, environ: dict[str, str]) -> Layout:
    """The layout of `root`, or the system's for root, or the XDG one for an ordinary user."""
    if root:
        path = os.path.realpath(root)
        instance = f"onggi-{_fingerprint(path)}"
        return Layout(f"{path}/data", f"{path}/run", instance, f"{path}/config.toml")
    if uid == 0:
        return Layout(SYSTEM_DATA, SYSTEM_RUN, "onggi", SYSTEM_CONFIG)
    home = environ.get("HOME", f"/home/{uid}")
    data = environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    run = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return Layout(f"{data}/onggi", f"{run}/onggi", f"onggi-u{uid}", f"{config}/onggi/config.toml")


def _fingerprint(path: str) -> str:
    """Eight hexadecimal digits of a path (FNV-1a: hashlib costs a millisecond to import)."""
    value = 0x811C9DC5
    for byte in os.fsencode(path):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{value:08x}"
