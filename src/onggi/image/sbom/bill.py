"""An image's bill of materials: the bytes of a document in one of two standard forms.

Source: SPDX 2.3, CycloneDX 1.5.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Literal

import msgspec

from onggi.image.merged import MergedView
from onggi.image.sbom import cyclonedx, spdx
from onggi.image.sbom.files import clean
from onggi.image.sbom.packages import inventory

Form = Literal["spdx", "cyclonedx"]
_DOCUMENTS = {"spdx": spdx.document, "cyclonedx": cyclonedx.document}


def sbom(view: MergedView, image_name: str, digest: str, created: str | None, form: Form) -> bytes:
    """The document for an image: the same image and name give the same bytes.

    `digest`: of its manifest, which the document's identity comes from. `created`: the image's own
    time, RFC 3339; the document says 1970 where that is none.
    """
    name = clean(image_name)
    unique = str(uuid.uuid5(uuid.NAMESPACE_URL, f"onggi:sbom:{form}:{name}@{digest}"))
    found = _DOCUMENTS[form](inventory(view), name, digest, _seconds(created), unique)
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def _seconds(moment: str | None) -> str:
    """A moment as both forms want it: UTC, without fractions."""
    try:
        found = msgspec.convert(moment, datetime).replace(microsecond=0)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (msgspec.ValidationError, OverflowError):
        found = datetime.fromtimestamp(0, UTC)
    return found.isoformat().replace("+00:00", "Z")
