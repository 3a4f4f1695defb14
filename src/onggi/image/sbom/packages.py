"""What software is in an image: packages of Debian, Alpine and Python, as their own records say."""

from __future__ import annotations

from itertools import chain, islice

from onggi.image.merged import MergedView
from onggi.image.sbom.alpine import alpine_packages
from onggi.image.sbom.debian import debian_packages
from onggi.image.sbom.files import Files, clean
from onggi.image.sbom.package import MAX_PACKAGES, Inventory
from onggi.image.sbom.python import python_packages

MAX_RELEASE_BYTES = 64 * 1024


def inventory(view: MergedView) -> Inventory:
    """All that package managers have recorded. Nothing that an image holds makes it fail."""
    files = Files(view)
    release = _release(files)
    found = chain(debian_packages(files), alpine_packages(files), python_packages(files))
    packages = list(islice(found, MAX_PACKAGES))
    if len(packages) == MAX_PACKAGES:
        files.note(f"the list ends after {MAX_PACKAGES} packages")
    packages.sort(key=lambda package: package.key)
    return Inventory(
        tuple(packages),
        distribution=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        notes=tuple(files.notes),
    )


def _release(files: Files) -> dict[str, str]:
    """The distribution's words about itself. Source: os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        text = files.read(path, MAX_RELEASE_BYTES)
        if text is not None:
            pairs = (line.partition("=") for line in text.split("\n"))
            return {key: clean(value).strip("\"'") for key, _, value in pairs}
    return {}
