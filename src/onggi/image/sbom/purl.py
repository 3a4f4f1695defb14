"""Package URLs: one name for a package that every tool understands.

Source: https://github.com/package-url/purl-spec (types deb, apk, pypi, oci).
"""

from __future__ import annotations

import re
from urllib.parse import quote

from onggi.errors import InvalidArgument
from onggi.image.reference import Reference
from onggi.image.sbom.package import Inventory, Package

_VENDOR = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_DEFAULT_VENDOR = {"deb": "debian", "apk": "alpine"}


def package_url(package: Package, inventory: Inventory) -> str:
    """The package's URL, with the distribution that it comes from."""
    version = _quoted(package.version)
    if package.kind == "pypi":
        name = re.sub(r"[-_.]+", "-", package.name).lower()
        return f"pkg:pypi/{_quoted(name)}@{version}"
    vendor = inventory.distribution.lower()
    known = _VENDOR.fullmatch(vendor) is not None
    if not known:
        vendor = _DEFAULT_VENDOR[package.kind]
    qualifiers = {"arch": package.architecture}
    if known and inventory.release:
        qualifiers["distro"] = f"{vendor}-{inventory.release}"
    source = package.source_name
    if source and package.source_version:
        source += f"@{package.source_version}"
    qualifiers["upstream"] = source if source != package.name else ""
    name = _quoted(package.name.lower())
    return f"pkg:{package.kind}/{vendor}/{name}@{version}{_qualifiers(qualifiers)}"


def image_url(name: str, digest: str) -> str:
    """The image's URL; "" when it has no name."""
    try:
        reference = Reference.parse(name)
    except InvalidArgument:
        return ""
    short = reference.repository.rpartition("/")[2]
    qualifiers = {"repository_url": reference.name, "tag": reference.tag or ""}
    return f"pkg:oci/{_quoted(short)}@{_quoted(digest)}{_qualifiers(qualifiers)}"


def _qualifiers(pairs: dict[str, str]) -> str:
    text = "&".join(f"{key}={_quoted(value)}" for key, value in sorted(pairs.items()) if value)
    return f"?{text}" if text else ""


def _quoted(text: str) -> str:
    return quote(text, safe=":")
