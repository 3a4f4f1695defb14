"""Licences, package URLs and documents of a list of software: pure, and by the forms' own rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.image.sbom import cyclonedx, spdx
from onggi.image.sbom.bill import _seconds
from onggi.image.sbom.files import clean, stanzas
from onggi.image.sbom.licences import Licence, all_of, classifier_licence, licence_of
from onggi.image.sbom.package import Inventory, Package
from onggi.image.sbom.purl import image_url, package_url

DIGEST = "sha256:" + "ab" * 32
UNIQUE = "3e671687-395b-41f5-a30f-a58921a69b79"
DEBIAN = Inventory((), "debian", "12")
#: An SPDX 2.3 element id, and an idstring after it.
SPDX_ID = re.compile(r"SPDXRef-[A-Za-z0-9.-]+")
EXPRESSION = re.compile(r"[A-Za-z0-9.+() -]+")


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPLv3+", "GPL-3.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("Expat", "MIT"),
        ("mit", "MIT"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("GPL-2+ or Artistic", "GPL-2.0-or-later OR Artistic-1.0-Perl"),
        ("(MIT and ISC) or zlib", "(MIT AND ISC) OR Zlib"),
        ("( MIT )", "(MIT)"),
        ("GPL-2.0-only WITH Classpath-exception-2.0 OR MIT",
         "GPL-2.0-only WITH Classpath-exception-2.0 OR MIT"),
        ("public-domain", "LicenseRef-public-domain"),
        ("MIT and LicenseRef-own", "MIT AND LicenseRef-own"),
    ],
)  # fmt: skip
def test_licences_become_expressions(text: str, expression: str) -> None:
    assert licence_of(text).expression == expression


@pytest.mark.parametrize(
    "text",
    ["GPL-2+ with OpenSSL exception", "MIT, and others", "do what you want", "MIT and", "(MIT",
     "MIT)", "()", "and", "MIT MIT", "(" * 50 + "MIT" + ")" * 50, "x" * 5000, "é", "MIT with",
     "(MIT) with LLVM-exception", "\u202e"],
)  # fmt: skip
def test_what_is_no_expression_is_kept_whole(text: str) -> None:
    found = licence_of(text)
    ((reference, name),) = found.names
    assert found.expression == reference
    assert re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", reference)
    assert text.startswith(name)


def test_names_that_look_alike_stay_apart() -> None:
    first, second = licence_of("a licence!"), licence_of("a licence?")
    assert first.expression != second.expression


def test_all_of_several() -> None:
    mit, either = Licence("MIT"), licence_of("GPL-2 or own")
    assert all_of([]) is None
    assert all_of([mit, mit]) == mit
    both = all_of([mit, either])
    assert both is not None
    assert both.expression == "MIT AND (GPL-2.0-only OR LicenseRef-own)"
    assert both.names == (("LicenseRef-own", "own"),)


def test_classifiers() -> None:
    def expression(text: str) -> str | None:
        found = classifier_licence(text)
        return found.expression if found else None

    assert expression("License :: OSI Approved :: MIT License") == "MIT"
    assert expression("License :: OSI Approved :: BSD License") is not None
    assert expression("License :: OSI Approved") is None
    assert expression("Topic :: Games") is None


@given(st.text(alphabet="() MITandorwthGPL-2+,é\n", max_size=60))
def test_every_text_gives_an_expression(text: str) -> None:
    found = licence_of(text)
    assert EXPRESSION.fullmatch(found.expression)
    assert found.expression.count("(") == found.expression.count(")")
    again = licence_of(found.expression)
    if not found.names:
        assert again == found


def package(**fields: Any) -> Package:
    known: dict[str, Any] = {"kind": "deb", "name": "curl", "version": "7.88.1-10+deb12u5"}
    return Package(**(known | fields))


@pytest.mark.parametrize(
    ("found", "url"),
    [
        (package(architecture="amd64"),
         "pkg:deb/debian/curl@7.88.1-10%2Bdeb12u5?arch=amd64&distro=debian-12"),
        (package(name="attr", version="1:2.5.1-4", source_name="attr"),
         "pkg:deb/debian/attr@1:2.5.1-4?distro=debian-12"),
        (package(name="g++", version="4:12", source_name="gcc", source_version="1.2"),
         "pkg:deb/debian/g%2B%2B@4:12?distro=debian-12&upstream=gcc%401.2"),
        (package(kind="pypi", name="Zope.Interface_x", version="5.0"),
         "pkg:pypi/zope-interface-x@5.0"),
        (package(name="a/../b?c#d", version="1&2"),
         "pkg:deb/debian/a%2F..%2Fb%3Fc%23d@1%262?distro=debian-12"),
    ],
)  # fmt: skip
def test_package_urls(found: Package, url: str) -> None:
    assert package_url(found, DEBIAN) == url


def test_package_urls_elsewhere() -> None:
    busybox = package(kind="apk", name="busybox", version="1.36.1-r2", architecture="x86_64")
    alpine = package_url(busybox, Inventory((), "alpine", "3.18.2"))
    assert alpine == "pkg:apk/alpine/busybox@1.36.1-r2?arch=x86_64&distro=alpine-3.18.2"
    # An os-release that names no vendor changes no name.
    assert package_url(package(version="1"), Inventory((), "../x", "1")) == "pkg:deb/debian/curl@1"


def test_image_urls() -> None:
    assert image_url("quay.io/team/app:1", DIGEST) == (
        f"pkg:oci/app@{DIGEST}?repository_url=quay.io%2Fteam%2Fapp&tag=1".replace("%2F", "%2F")
    )
    assert image_url("<none>", DIGEST) == ""


HOSTILE = Inventory(
    (
        package(architecture="amd64", maintainer="Ann (x) <ann@example.org>", section="web",
                homepage="https://curl.se/", licence=licence_of("curl"), location="/a",
                source_name="curl-src", source_version="1"),
        package(architecture="amd64", location="/b"),
        package(name="ünï cödé" * 40, version="\u202e1", maintainer="", homepage="javascript:x",
                licence=licence_of("who knows, who cares")),
        package(kind="pypi", name="x", maintainer="Some Team <t@example.org>",
                licence=licence_of("MIT or own-1")),
        package(kind="apk", name="y", maintainer="()", licence=licence_of("MIT")),
    ),
    "debian", "12", ("one file is a directory",),
)  # fmt: skip


def test_spdx_by_its_rules() -> None:
    found = spdx.document(HOSTILE, "a b/é:1", DIGEST, "2024-01-02T03:04:05Z", UNIQUE)
    assert (found["spdxVersion"], found["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert re.fullmatch(r"https://[\x21-\x7e]+", found["documentNamespace"])
    assert "#" not in found["documentNamespace"]
    identities = [found["SPDXID"], *(one["SPDXID"] for one in found["packages"])]
    assert len(set(identities)) == len(identities)
    assert all(SPDX_ID.fullmatch(identity) for identity in identities)
    assert all(
        {one["spdxElementId"], one["relatedSpdxElement"]} <= set(identities)
        for one in found["relationships"]
    )
    related = {one["relatedSpdxElement"] for one in found["relationships"]}
    assert related == set(identities) - {found["SPDXID"]}
    named = {one["licenseId"] for one in found["hasExtractedLicensingInfos"]}
    used: set[str] = set()
    for one in found["packages"]:
        assert {"name", "downloadLocation", "filesAnalyzed"} <= set(one)
        assert EXPRESSION.fullmatch(one["licenseDeclared"])
        used |= set(re.findall(r"LicenseRef-[A-Za-z0-9.-]+", one["licenseDeclared"]))
        assert re.fullmatch(r"NOASSERTION|(?:Person|Organization): .+", one["supplier"])
        assert one.get("homepage", "https://").startswith("https://")
    assert named == used
    by_name = {one["name"]: one for one in found["packages"]}
    assert by_name["x"]["supplier"] == "Organization: Some Team (t@example.org)"
    assert found["packages"][1]["supplier"] == "Person: Ann [x] (ann@example.org)"
    assert found["comment"] == "incomplete: one file is a directory"
    assert found["creationInfo"]["created"] == "2024-01-02T03:04:05Z"


def test_cyclonedx_by_its_rules() -> None:
    found = cyclonedx.document(HOSTILE, "a b/é:1", DIGEST, "2024-01-02T03:04:05Z", UNIQUE)
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.5", 1)
    assert found["serialNumber"] == f"urn:uuid:{UNIQUE}"
    references = [one["bom-ref"] for one in found["components"]]
    assert len(set(references)) == len(references) == 5
    (dependency,) = found["dependencies"]
    assert dependency == {"ref": found["metadata"]["component"]["bom-ref"], "dependsOn": references}
    licences = [one.get("licenses") for one in found["components"]]
    assert licences == [
        [{"license": {"id": "curl"}}],
        None,
        [{"license": {"name": "who knows, who cares"}}],
        [{"expression": "MIT OR LicenseRef-own-1"}],
        [{"license": {"id": "MIT"}}],
    ]
    assert found["metadata"]["properties"] == [
        {"name": "onggi:incomplete", "value": "one file is a directory"}
    ]


@pytest.mark.parametrize("empty", [Inventory(())])
def test_an_image_without_packages(empty: Inventory) -> None:
    one = spdx.document(empty, "x", DIGEST, "2024-01-02T03:04:05Z", UNIQUE)
    assert len(one["packages"]) == 1
    assert "hasExtractedLicensingInfos" not in one
    other = cyclonedx.document(empty, "x", DIGEST, "2024-01-02T03:04:05Z", UNIQUE)
    assert other["components"] == []
    json.dumps([one, other])


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.123456789Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T01:08:09+02:00", "2024-05-05T23:08:09Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+10:00", "1970-01-01T00:00:00Z"),
        ("yesterday", "1970-01-01T00:00:00Z"),
        ("", "1970-01-01T00:00:00Z"),
        (None, "1970-01-01T00:00:00Z"),
    ],
)
def test_moments(moment: str | None, shown: str) -> None:
    assert _seconds(moment) == shown


def test_paragraphs() -> None:
    text = "A: 1\nB: 2\n more\n\tand more\nC\n\n\n  \nA: 3\nA: 4\n stray\n: x\nb: 5"
    found = list(stanzas(text, frozenset("ab")))
    assert found == [{"a": ["1"], "b": ["2", "more", "and more"]}, {"a": ["3"], "b": ["5"]}]
    assert list(stanzas("", frozenset("a"))) == []
    assert list(stanzas(" leading\nA: 1", frozenset("a"))) == [{"a": ["1"]}]


def test_fields_are_one_printable_line() -> None:
    assert clean(" a\n\tb\x1b[2J\u202e c ") == "a b\ufffd[2J\ufffd c"
    assert len(clean("x" * 10**6)) == 1024
    assert clean("\udcff") == "\ufffd"


@pytest.mark.parametrize("found", [HOSTILE, Inventory(())], ids=["hostile", "empty"])
def test_cyclonedx_by_its_schema(found: Inventory) -> None:
    validation = pytest.importorskip(
        "cyclonedx.validation.json", reason="needs cyclonedx-python-lib[json-validation]"
    )
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_5)
    document = cyclonedx.document(found, "a b/é:1", DIGEST, "2024-01-02T03:04:05Z", UNIQUE)
    assert validator.validate_str(json.dumps(document)) is None


@pytest.mark.parametrize("found", [HOSTILE, Inventory(())], ids=["hostile", "empty"])
def test_spdx_by_its_own_tools(found: Inventory, tmp_path: Path) -> None:
    parser = pytest.importorskip(
        "spdx_tools.spdx.parser.json.json_parser", reason="needs spdx-tools"
    )
    validation = pytest.importorskip("spdx_tools.spdx.validation.document_validator")
    path = tmp_path / "x.spdx.json"
    document = spdx.document(found, "a b/é:1", DIGEST, "2024-01-02T03:04:05Z", UNIQUE)
    path.write_text(json.dumps(document))
    assert validation.validate_full_spdx_document(parser.parse_from_file(str(path))) == []
