"""A list of software as CycloneDX 1.5 JSON. Pure: the same list gives the same document.

Source: CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json/), its JSON schema.
"""

from __future__ import annotations

from typing import Any

from onggi import __version__
from onggi.image.sbom.licences import Licence
from onggi.image.sbom.package import Inventory, Package
from onggi.image.sbom.purl import image_url, package_url

IMAGE = "image"


def document(
    inventory: Inventory, image_name: str, digest: str, created: str, unique: str
) -> dict[str, Any]:
    """The document. `created`: RFC 3339 in UTC; `unique`: a UUID of its own."""
    components: list[dict[str, Any]] = []
    taken: set[str] = set()
    for package in inventory.packages:
        component = _component(package, inventory)
        # The same package in two places is two components.
        if component["bom-ref"] in taken:
            component["bom-ref"] += f"#{len(taken)}"
        taken.add(component["bom-ref"])
        components.append(component)
    metadata: dict[str, Any] = {
        "timestamp": created,
        "tools": {"components": [{"type": "application", "name": "onggi", "version": __version__}]},
        "component": _image(image_name, digest),
    }
    if inventory.notes:
        metadata["properties"] = [_property("incomplete", note) for note in inventory.notes]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{unique}",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [
            {"ref": IMAGE, "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }


def _image(name: str, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "container",
        "bom-ref": IMAGE,
        "name": name,
        "version": digest,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
    }
    url = image_url(name, digest)
    if url:
        found["purl"] = url
    return found


def _component(package: Package, inventory: Inventory) -> dict[str, Any]:
    url = package_url(package, inventory)
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": url,
        "name": package.name,
        "version": package.version,
        "purl": url,
    }
    if package.maintainer:
        found["publisher"] = package.maintainer
    if package.licence is not None:
        found["licenses"] = _licences(package.licence)
    facts = {
        "location": package.location,
        "architecture": package.architecture,
        "section": package.section,
        "source": f"{package.source_name} {package.source_version}".strip(),
        "homepage": package.homepage,
    }
    found["properties"] = [_property(name, value) for name, value in facts.items() if value]
    return found


def _licences(licence: Licence) -> list[dict[str, Any]]:
    if licence.is_id:
        return [{"license": {"id": licence.expression}}]
    if len(licence.names) == 1 and licence.names[0][0] == licence.expression:
        return [{"license": {"name": licence.names[0][1]}}]
    return [{"expression": licence.expression}]


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"onggi:{name}", "value": value}
