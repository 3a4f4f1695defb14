"""Python's packages: what stands in site-packages and dist-packages, wherever those are.

Source: Python packaging specifications, "Recording installed projects", "Core metadata"; the
egg-info directories and files of setuptools and distutils.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from onggi.errors import EngineError
from onggi.image.sbom.files import Files, clean, first, stanzas
from onggi.image.sbom.licences import Licence, all_of, classifier_licence, licence_of
from onggi.image.sbom.package import Package

MAX_METADATA_BYTES = 4 * 1024 * 1024
#: A search ends here, with a note.
MAX_NODES = 5_000_000

_RECORD = re.compile(
    rb"(?:.*/)?(?:site|dist)-packages/[^/]+(?:\.dist-info/METADATA|\.egg-info(?:/PKG-INFO)?)",
    re.DOTALL,
)
_FIELDS = frozenset(
    "name version license license-expression classifier author author-email maintainer "
    "maintainer-email home-page".split()
)


def python_packages(files: Files) -> Iterator[Package]:
    """Every project that is installed."""
    for path in _records(files):
        text = files.read(path, MAX_METADATA_BYTES)
        package = _package(text, path) if text is not None else None
        if package is not None:
            yield package


def _records(files: Files) -> Iterator[str]:
    """The paths of all files of metadata."""
    count = 0
    try:
        for node, _ in files.view.walk("/"):
            count += 1
            if count > MAX_NODES:
                files.note(f"more than {MAX_NODES} files: not all were looked at")
                return
            # An egg-info directory has its record inside, a link may be either.
            if not node.is_directory and _RECORD.fullmatch(node.path):
                path = "/" + os.fsdecode(node.path)
                if stat.S_ISREG(node.status.st_mode) or stat.S_ISLNK(node.status.st_mode):
                    yield path
    except EngineError as error:
        files.note(f"not all files were looked at: {error.message}")


def _package(text: str, path: str) -> Package | None:
    # The description below the first empty line is no field.
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    fields = next(stanzas(head, _FIELDS), {})
    name, version = first(fields, "name"), first(fields, "version")
    if not name or not version:
        return None
    people = [
        first(fields, key) for key in ("author-email", "author", "maintainer-email", "maintainer")
    ]
    return Package(
        "pypi",
        name,
        version,
        maintainer=next((one for one in people if one and one != "UNKNOWN"), ""),
        homepage=first(fields, "home-page"),
        licence=_licence(fields, head),
        location=clean(path),
    )


def _licence(fields: dict[str, list[str]], head: str) -> Licence | None:
    """The expression, else the classifiers, else the first line of the free text."""
    expression = first(fields, "license-expression")
    if expression:
        return licence_of(expression)
    lines = (line.partition(":") for line in head.split("\n"))
    found = [
        classifier_licence(clean(value)) for key, _, value in lines if key.lower() == "classifier"
    ]
    classified = all_of(one for one in found if one is not None)
    if classified is not None:
        return classified
    free = first(fields, "license")
    return licence_of(free) if free and free != "UNKNOWN" else None
