"""The software in an image, read from its layers: real packages, and layers that lie."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from onggi.image.merged import MergedView
from onggi.image.sbom import debian, files, python
from onggi.image.sbom.bill import sbom
from onggi.image.sbom.package import Inventory, Package
from onggi.image.sbom.packages import inventory

DIGEST = "sha256:" + "ab" * 32
CREATED = "2024-05-06T07:08:09Z"

STATUS = """\
Package: bash
Status: install ok installed
Version: 5.2.15-2+b2
Architecture: amd64
Source: bash (5.2.15-2)
Maintainer: Matthias Klose <doko@debian.org>
Section: shells
Homepage: http://tiswww.case.edu/php/chet/bash/bashtop.html
Description: GNU Bourne Again SHell
 Bash is an sh-compatible command language interpreter.
 .
 Version: 99

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: amd64

Package: libc6
Status: hold ok installed
Version: 2.36-9
Architecture: amd64
Multi-Arch: same
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: bash

Files: *
Copyright: 1987-2022 Free Software Foundation, Inc.
License: GPL-3+

Files: examples/*
Copyright: x
License: GPL-3+ or BSD-4-clause-UC
 All of the text
 .
 of the licence.

License: GPL-3+
 stands alone
"""
METADATA = """\
Metadata-Version: 2.1
Name: Example_Thing
Version: 1.2.3
Author-email: Ann <ann@example.org>
License: whatever
Classifier: License :: OSI Approved :: MIT License
Classifier: Topic :: Games

Name: not-this
Version: 9
"""
APK = """\
C:Q1abc=
P:musl
V:1.2.4-r2
A:x86_64
L:MIT
o:musl
m:Timo <timo@example.org>
U:https://musl.libc.org/
F:lib
R:libc.so

P:busybox
V:1.36.1-r5
A:x86_64
L:GPL-2.0-only
"""


def put(root: Path, path: str, text: str | bytes) -> Path:
    found = root / path
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_bytes(text if isinstance(text, bytes) else text.encode())
    return found


def listed(*layers: Path) -> Inventory:
    with MergedView([str(layer) for layer in layers]) as view:
        return inventory(view)


def find(found: Inventory, name: str) -> Package:
    (package,) = [one for one in found.packages if one.name == name]
    return package


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "root"
    put(found, "etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
    put(found, "var/lib/dpkg/status", STATUS)
    put(found, "usr/share/doc/bash/copyright", COPYRIGHT)
    put(found, "usr/share/doc/libc6/copyright", "This is prose.\n\nFormat: no\n")
    where = "usr/local/lib/python3.11/site-packages"
    put(found, f"{where}/example_thing-1.2.3.dist-info/METADATA", METADATA)
    return found


def test_debian_and_python(root: Path) -> None:
    found = listed(root)
    assert (found.distribution, found.release, found.notes) == ("debian", "12", ())
    assert [one.name for one in found.packages] == ["bash", "libc6", "Example_Thing"]
    bash = find(found, "bash")
    assert (bash.version, bash.architecture, bash.section) == ("5.2.15-2+b2", "amd64", "shells")
    assert (bash.source_name, bash.source_version) == ("bash", "5.2.15-2")
    assert bash.maintainer == "Matthias Klose <doko@debian.org>"
    assert bash.licence is not None
    assert bash.licence.expression == (
        "GPL-3.0-or-later AND (GPL-3.0-or-later OR LicenseRef-BSD-4-clause-UC)"
    )
    assert find(found, "libc6").licence is None
    thing = find(found, "Example_Thing")
    assert (thing.version, thing.maintainer) == ("1.2.3", "Ann <ann@example.org>")
    assert thing.licence is not None
    assert thing.licence.expression == "MIT"
    assert thing.location.endswith("/example_thing-1.2.3.dist-info/METADATA")


def test_every_place_that_python_uses(tmp_path: Path) -> None:
    for path in (
        "usr/lib/python3/dist-packages/a-1.egg-info/PKG-INFO",
        "usr/lib/python3/dist-packages/b-1.egg-info",
        "opt/venv/lib/python3.12/site-packages/c-1.dist-info/METADATA",
        "site-packages/d-1.dist-info/METADATA",
        "usr/lib/python3/other/e-1.dist-info/METADATA",
        "usr/lib/python3/dist-packages/f-1.dist-info/RECORD",
        "usr/lib/python3/dist-packages/below/g-1.dist-info/METADATA",
    ):
        name = Path(path).parts[-2 if path.endswith(("INFO", "METADATA", "RECORD")) else -1][0]
        put(tmp_path, path, f"Name: {name}\nVersion: 1\nLicense-Expression: Apache-2.0 OR MIT\n")
    link = tmp_path / "site-packages/h-1.egg-info"
    link.symlink_to("/target")
    put(tmp_path, "target", "Name: h\r\nVersion: 1\r\n\r\nName: no\r\n")
    found = listed(tmp_path)
    assert [one.name for one in found.packages] == ["a", "b", "c", "d", "h"]
    licence = found.packages[0].licence
    assert licence is not None
    assert licence.expression == "Apache-2.0 OR MIT"


def test_images_without_dpkg_and_alpine(tmp_path: Path) -> None:
    put(tmp_path, "var/lib/dpkg/status.d/base-files", "Package: base-files\nVersion: 12\n")
    put(tmp_path, "var/lib/dpkg/status.d/base-files.md5sums", "Package: no\nVersion: 1\n")
    put(tmp_path, "lib/apk/db/installed", APK)
    put(tmp_path, "usr/lib/os-release", "ID=alpine\nVERSION_ID=3.19.0\n")
    found = listed(tmp_path)
    assert [(one.kind, one.name) for one in found.packages] == [
        ("apk", "busybox"), ("apk", "musl"), ("deb", "base-files"),
    ]  # fmt: skip
    musl = find(found, "musl")
    assert (musl.maintainer, musl.homepage) == ("Timo <timo@example.org>", "https://musl.libc.org/")
    assert found.distribution == "alpine"


def test_the_topmost_layer_counts(root: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    put(top, "var/lib/dpkg/status", STATUS.partition("Package: gone")[0])
    where = top / "usr/local/lib/python3.11/site-packages"
    where.mkdir(parents=True)
    os.mknod(where / "example_thing-1.2.3.dist-info", stat.S_IFCHR, 0)
    assert [one.name for one in listed(top, root).packages] == ["bash"]


def test_the_same_image_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    for form in ("spdx", "cyclonedx"):
        documents = []
        for layer in (root, copy):
            with MergedView([str(layer)]) as view:
                documents.append(sbom(view, "debian:12", DIGEST, CREATED, form))  # type: ignore[arg-type]
        assert documents[0] == documents[1]
        assert CREATED.encode() in documents[0]


def documents_of(*layers: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with MergedView([str(layer) for layer in layers]) as view:
        return (
            json.loads(sbom(view, "debian:12", DIGEST, CREATED, "spdx")),
            json.loads(sbom(view, "debian:12", DIGEST, CREATED, "cyclonedx")),
        )


def test_both_forms_name_the_same(root: Path) -> None:
    one, other = documents_of(root)
    urls = [
        reference["referenceLocator"]
        for package in one["packages"]
        for reference in package["externalRefs"]
    ]
    assert urls[1:] == [component["purl"] for component in other["components"]]
    assert urls[1] == (
        "pkg:deb/debian/bash@5.2.15-2%2Bb2?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2"
    )
    assert urls[0].startswith(f"pkg:oci/debian@{DIGEST}?")


def test_layers_that_lie(root: Path, tmp_path: Path) -> None:
    host = put(tmp_path, "host-secret", "Name: secret\nVersion: 1\n")
    site = root / "site-packages"
    for name in "abc":
        (site / f"{name}.dist-info").mkdir(parents=True)
    (site / "a.dist-info/METADATA").symlink_to(f"../../../..{host}")
    os.mkfifo(site / "b.dist-info/METADATA")
    (site / "c.dist-info/METADATA").symlink_to("METADATA")
    (site / "d.egg-info").symlink_to("/var")
    put(root, "site-packages/e.dist-info/METADATA", b"Name: \xff\x00\x1b[2J\nVersion: \xe2\x80\xae")
    put(root, "site-packages/f.dist-info/METADATA", b"")
    shutil.rmtree(root / "usr/share/doc/bash")
    (root / "usr/share/doc/bash").symlink_to("bash")
    long = "x" * 10**6
    more = f"Package: ../../../etc\nVersion: 1\n\nPackage: {long}\nVersion: 2"
    put(root, "var/lib/dpkg/status", f"{STATUS}\n\n{more}")
    found = listed(root)
    assert all(name.isprintable() for one in found.packages for name in one.key)
    assert max(len(one.name) for one in found.packages) == 1024
    assert "secret" not in [one.name for one in found.packages]
    assert len(found.notes) >= 3
    assert all(note.isprintable() for note in found.notes)
    one, other = documents_of(root)
    assert one["comment"].startswith("incomplete: ")
    assert len(other["metadata"]["properties"]) == len(found.notes)


def test_what_is_too_large_is_noted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "MAX_STATUS_BYTES", 100)
    found = listed(root)
    assert [one.name for one in found.packages] == ["Example_Thing"]
    assert "status" in found.notes[0]
    monkeypatch.setattr(debian, "MAX_STATUS_BYTES", 10**6)
    monkeypatch.setattr(files, "MAX_TOTAL_BYTES", len(STATUS) + 60)
    found = listed(root)
    assert [one.name for one in found.packages] == ["bash", "libc6"]
    assert len(found.notes) >= 2
    monkeypatch.setattr(files, "MAX_TOTAL_BYTES", 10**6)
    monkeypatch.setattr(python, "MAX_NODES", 3)
    assert "more than 3 files" in listed(root).notes[0]


def test_many_packages_end_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onggi.image.sbom import packages

    monkeypatch.setattr(packages, "MAX_PACKAGES", 10)
    text = "\n\n".join(f"Package: p{number}\nVersion: 1" for number in range(30))
    put(tmp_path, "var/lib/dpkg/status", text)
    found = listed(tmp_path)
    assert len(found.packages) == 10
    assert found.notes == ("the list ends after 10 packages",)


def test_this_hosts_own_packages_are_all_found() -> None:
    """dpkg itself says what is there; the host's root is only read."""
    query = shutil.which("dpkg-query")
    if query is None:
        pytest.skip("needs dpkg-query on the host")
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    done = subprocess.run([query, "-W", "-f", form], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    expected = sorted(tuple(row[1:]) for row in rows if row[0][1] == "i")
    with MergedView(["/"]) as view:
        found = list(debian.debian_packages(files.Files(view)))
    assert sorted((one.name, one.version, one.architecture) for one in found) == expected
    licensed = [one for one in found if one.licence is not None]
    assert len(licensed) > len(found) // 4
