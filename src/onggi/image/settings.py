"""What an administrator decides about images: registries, mirrors, the form of layers, limits.

A value; the engine reads it from its configuration file. Knows nothing of files or networks.
Source: containers-registries.conf(5), containerd docs/hosts.md for what such settings are called.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from onggi.image.reference import Defaults


class RegistrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One registry. `location`: the host and port that serve it, where its name is not that.

    `mirrors`: host[:port][/prefix], tried in this order before the registry itself, for reading
    only. `insecure`: plain HTTP is allowed, and certificates are not checked.
    """

    location: str = ""
    mirrors: tuple[str, ...] = ()
    insecure: bool = False


class ImageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it, with what holds when nobody says anything.

    `default_registry`: what `debian` without a registry means. `short_names`: `default` lets such
    a name mean the default registry, `refuse` asks for the whole name. `aliases`: short name →
    whole name, before anything else. `insecure_registries`: hosts that may be spoken to in plain
    HTTP; loopback always may. `certificate_directories`: each has `host[:port]/` with `*.crt`,
    `*.cert` and `*.key`. `snapshotter`: the form of layers on disk; `auto` probes the host.
    `discard_blobs`: compressed layers are dropped once they are unpacked, where they can be made
    again. `store_limit_bytes`: beyond it, images nobody uses go, the longest unused first; 0: no
    limit. `parallel`: transfers at once.
    """

    default_registry: str = "docker.io"
    short_names: Literal["default", "refuse"] = "default"
    aliases: dict[str, str] = {}
    registries: dict[str, RegistrySettings] = {}
    insecure_registries: tuple[str, ...] = ()
    certificate_directories: tuple[str, ...] = ("/etc/onggi/certs.d", "/etc/docker/certs.d")
    snapshotter: Literal["auto", "overlay", "erofs"] = "auto"
    discard_blobs: bool = False
    store_limit_bytes: int = 0
    parallel: int = 4

    @property
    def defaults(self) -> Defaults:
        """What a name without a registry means. Docker Hub alone has a namespace for such names."""
        namespace = "library" if self.default_registry == "docker.io" else ""
        return Defaults(registry=self.default_registry, namespace=namespace)


DEFAULT_SETTINGS = ImageSettings()
