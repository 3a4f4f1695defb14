"""A list of software as SPDX 2.3 JSON. Pure: the same list gives the same document.

Source: SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/), its JSON schema.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from onggi import __version__
from onggi.image.sbom.package import Inventory, Package
from onggi.image.sbom.purl import image_url, package_url

DOCUMENT = "SPDXRef-DOCUMENT"
IMAGE = "SPDXRef-Image"

_NOT_IN_ID = re.compile(r"[^A-Za-z0-9.-]+", re.ASCII)
_WEB = re.compile(r"https?://[^\s<>\"{}|\\^`\[\]]+", re.ASCII)
_ADDRESS = re.compile(r"(.*?)\s*<([^<>\s]+)>")
_SEVERAL = re.compile(r"\b(team|group|maintainers|developers|project|packagers)\b", re.IGNORECASE)


def document(
    inventory: Inventory, image_name: str, digest: str, created: str, unique: str
) -> dict[str, Any]:
    """The document. `created`: RFC 3339 in whole seconds, UTC; `unique`: a UUID of its own."""
    packages = [
        _package(package, inventory, f"SPDXRef-Package-{number}-{_id(package.name)}")
        for number, package in enumerate(inventory.packages, 1)
    ]
    relationships = [_relationship(DOCUMENT, "DESCRIBES", IMAGE)]
    relationships += [_relationship(IMAGE, "CONTAINS", one["SPDXID"]) for one in packages]
    found: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": image_name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{quote(_id(image_name))}-{unique}",
        "creationInfo": {"created": created, "creators": [f"Tool: onggi-{__version__}"]},
        "packages": [_image(image_name, digest), *packages],
        "relationships": relationships,
    }
    licences = _extracted(inventory)
    if licences:
        found["hasExtractedLicensingInfos"] = licences
    if inventory.notes:
        found["comment"] = "incomplete: " + "; ".join(inventory.notes)
    return found


def _image(name: str, digest: str) -> dict[str, Any]:
    algorithm, _, value = digest.partition(":")
    found: dict[str, Any] = {
        "SPDXID": IMAGE,
        "name": name,
        "versionInfo": digest,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{"algorithm": algorithm.upper(), "checksumValue": value}],
        **_unsaid(),
    }
    url = image_url(name, digest)
    if url:
        found["externalRefs"] = [_purl(url)]
    return found


def _package(package: Package, inventory: Inventory, identity: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "SPDXID": identity,
        "name": package.name,
        "versionInfo": package.version,
        **_unsaid(),
        "externalRefs": [_purl(package_url(package, inventory))],
    }
    if package.licence is not None:
        found["licenseDeclared"] = package.licence.expression
    if package.maintainer:
        found["supplier"] = _supplier(package.maintainer)
    if _WEB.fullmatch(package.homepage):
        found["homepage"] = package.homepage
    facts = [f"found in {package.location}"]
    if package.source_name:
        facts.append(f"built from {package.source_name} {package.source_version}".rstrip())
    if package.section:
        facts.append(f"section {package.section}")
    found["sourceInfo"] = ", ".join(facts)
    return found


def _unsaid() -> dict[str, Any]:
    return {
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "supplier": "NOASSERTION",
    }


def _supplier(maintainer: str) -> str:
    """`Person: Name (address)`; teams are organisations."""
    found = _ADDRESS.fullmatch(maintainer)
    name, address = (found[1], found[2]) if found else (maintainer, "")
    kind = "Organization" if _SEVERAL.search(name) else "Person"
    # Parentheses enclose the address, so a name has none.
    name = name.strip('" ').replace("(", "[").replace(")", "]")
    return f"{kind}: {name or address}" + (f" ({address})" if address and name else "")


def _extracted(inventory: Inventory) -> list[dict[str, str]]:
    """Every licence that SPDX has no name for."""
    names = {
        reference: name
        for package in inventory.packages
        if package.licence is not None
        for reference, name in package.licence.names
    }
    return [
        {
            "licenseId": reference,
            "name": name,
            "extractedText": f"The package calls its licence: {name}",
        }
        for reference, name in sorted(names.items())
    ]


def _purl(url: str) -> dict[str, str]:
    return {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": url,
    }


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(text: str) -> str:
    return _NOT_IN_ID.sub("-", text)[:100].strip("-") or "x"
