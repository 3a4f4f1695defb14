"""Debian's packages, from dpkg's database, with their licences where a machine can read them.

Source: dpkg(1), deb822(5), deb-substvars; copyright-format 1.0
(https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from onggi.image.sbom.files import Files, first, stanzas
from onggi.image.sbom.licences import Licence, all_of, licence_of
from onggi.image.sbom.package import Package

STATUS = "/var/lib/dpkg/status"
#: A file for each package: images that were made without dpkg.
STATUS_DIRECTORY = "/var/lib/dpkg/status.d"
MAX_STATUS_BYTES = 64 * 1024 * 1024
MAX_COPYRIGHT_BYTES = 4 * 1024 * 1024

_FIELDS = frozenset(
    "package version architecture status source maintainer section homepage".split()
)
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII)
_SOURCE = re.compile(r"(\S+)(?:\s+\(([^()\s]+)\))?")
_COPYRIGHT_FORMAT = "packaging-manuals/copyright-format/1.0"


def debian_packages(files: Files) -> Iterator[Package]:
    """Every package that is installed."""
    yield from _installed(files, STATUS)
    for name in files.names(STATUS_DIRECTORY):
        if not name.endswith(".md5sums"):
            yield from _installed(files, f"{STATUS_DIRECTORY}/{name}")


def _installed(files: Files, path: str) -> Iterator[Package]:
    text = files.read(path, MAX_STATUS_BYTES)
    for fields in stanzas(text or "", _FIELDS):
        name, version = first(fields, "package"), first(fields, "version")
        state = first(fields, "status").split()
        if not name or not version or (state and state[-1] != "installed"):
            continue
        source = _SOURCE.fullmatch(first(fields, "source"))
        yield Package(
            "deb",
            name,
            version,
            architecture=first(fields, "architecture"),
            source_name=source[1] if source else "",
            source_version=(source[2] or "") if source else "",
            maintainer=first(fields, "maintainer"),
            section=first(fields, "section"),
            homepage=first(fields, "homepage"),
            licence=_licence(files, name),
            location=path,
        )


def _licence(files: Files, name: str) -> Licence | None:
    """The licences of all of a package's files, if its copyright file is machine-readable."""
    if _NAME.fullmatch(name) is None:
        return None
    text = files.read(f"/usr/share/doc/{name}/copyright", MAX_COPYRIGHT_BYTES)
    if text is None:
        return None
    found = stanzas(text, frozenset(("format", "files", "license")))
    head = next(found, {})
    if _COPYRIGHT_FORMAT not in first(head, "format"):
        return None
    texts = dict.fromkeys(
        first(fields, "license") for fields in found if "files" in fields and "license" in fields
    )
    texts = texts or dict.fromkeys([first(head, "license")])
    return all_of(licence_of(text) for text in texts if text)
