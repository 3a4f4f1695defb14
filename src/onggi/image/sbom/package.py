"""One installed package, and all that an image has. Values."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from onggi.image.sbom.licences import Licence

Kind = Literal["apk", "deb", "pypi"]

#: More than any image has; a hostile one is cut here, with a note.
MAX_PACKAGES = 100_000


class Package(Struct, frozen=True, order=False):
    """One package; what is not known is empty. `location`: where it was found in the image.

    `source_name`, `source_version`: what it was built from, where that has another name.
    """

    kind: Kind
    name: str
    version: str
    architecture: str = ""
    source_name: str = ""
    source_version: str = ""
    maintainer: str = ""
    section: str = ""
    homepage: str = ""
    licence: Licence | None = None
    location: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What lists are sorted by."""
        return self.kind, self.name, self.version, self.architecture, self.location


class Inventory(Struct, frozen=True):
    """All packages, sorted. `notes`: what could not be read, a line each.

    `distribution`, `release`: os-release's ID and VERSION_ID.
    """

    packages: tuple[Package, ...]
    distribution: str = ""
    release: str = ""
    notes: tuple[str, ...] = ()
