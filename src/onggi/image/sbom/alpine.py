"""Alpine's packages, from apk's database of what is installed.

Source: https://wiki.alpinelinux.org/wiki/Apk_spec, section "Installed database".
"""

from __future__ import annotations

from collections.abc import Iterator

from onggi.image.sbom.files import Files, clean
from onggi.image.sbom.licences import licence_of
from onggi.image.sbom.package import Package

DATABASES = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
MAX_DATABASE_BYTES = 64 * 1024 * 1024


def alpine_packages(files: Files) -> Iterator[Package]:
    """Every package that is installed; where /lib is /usr/lib, both names mean one database."""
    for path in DATABASES:
        text = files.read(path, MAX_DATABASE_BYTES)
        if text is not None:
            yield from _installed(text, path)
            return


def _installed(text: str, path: str) -> Iterator[Package]:
    fields: dict[str, str] = {}
    # Fields have one letter, and case tells them apart; a package ends with an empty line.
    for line in [*text.split("\n"), ""]:
        if line:
            letter, colon, value = line.partition(":")
            if colon and len(letter) == 1:
                fields.setdefault(letter, value)
            continue
        package = _package(fields, path)
        if package is not None:
            yield package
        fields = {}


def _package(fields: dict[str, str], path: str) -> Package | None:
    known = {letter: clean(fields.get(letter, "")) for letter in "PVAomUL"}
    if not known["P"] or not known["V"]:
        return None
    return Package(
        "apk",
        known["P"],
        known["V"],
        architecture=known["A"],
        source_name=known["o"],
        maintainer=known["m"],
        homepage=known["U"],
        licence=licence_of(known["L"]) if known["L"] else None,
        location=path,
    )
