"""What hostile bytes reach: one function for each parser, which may raise an EngineError only.

A target also checks what its parser promises about what it lets through; a broken promise is an
AssertionError, a finding like any other. Knows nothing of who makes the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from image_tars import pieces
from onggi.engine.settings import parse_settings
from onggi.errors import EngineError
from onggi.image.compression import Limits, plain_chunks
from onggi.image.erofs.format import NotExpressible
from onggi.image.erofs.tree import index_layer
from onggi.image.layer_record import chain_ids
from onggi.image.layer_rules import ParentAttributes
from onggi.image.platforms import parse_platform
from onggi.image.reference import Reference
from onggi.image.registry.challenges import MAX_SCOPES, parse_challenges, preferred
from onggi.image.registry.hosts import Trust
from onggi.image.registry.http import retry_after_s
from onggi.image.registry.pages import next_link
from onggi.image.registry.urls import moved
from onggi.image.sbom.files import stanzas
from onggi.image.sbom.licences import licence_of
from onggi.image.settings import ImageSettings
from onggi.image.tar_pax import parse_pax
from onggi.image.tar_reader import MAX_PATH_BYTES, TarReader
from onggi.image.transports.archives import TarMembers
from onggi.image.transports.names import parse_transport
from onggi.network.dns import messages
from onggi.network.dns.answers import own_answer
from onggi.network.dns.zones import Zones
from onggi.runtime.plan import plan
from onggi.specs.distribution import parse_catalog, parse_errors, parse_tags, parse_token
from onggi.specs.image import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    encode_document,
    parse_image_config,
    parse_index,
    parse_manifest,
)
from onggi.specs.runtime import parse_config
from unit.plan_cases import BUNDLE, HOST

Target = Callable[[bytes], None]

LIMITS = Limits(entries=2000, size_bytes=8 << 20, ratio=100, free_bytes=1 << 20)
_ANNOUNCED = (None, OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "text/html")
_TRUST = Trust(ImageSettings(insecure_registries=("plain.test:5000", "10.0.0.0/8")))
_DNS_QUESTION = b"\0\7\1\0\0\1\0\0\0\0\0\0\2db\4test\0\0\1\0\1"
_ZONES = Zones()
_ZONES.set_network("n", ("10.89.0.0/24",))
_ZONES.set_endpoint("n", "c", ("db", "db.net"), ("10.89.0.2", "fd00::2"))
_BASES = ("https://registry.test/v2/a/tags/list?n=1", "http://127.0.0.1:5000/v2/")


def tar(data: bytes) -> None:
    """The strict reader; whatever it lets through is unambiguous and lies inside the archive."""
    reader = TarReader(pieces(data))
    for entry in reader:
        start = reader.data_offset
        assert 0 < len(entry.name) < MAX_PATH_BYTES
        assert b"\0" not in entry.name + entry.link
        assert start % 512 == 0
        stored: list[int] = []
        reader.copy_data(lambda view, stored=stored: stored.append(len(view)))
        assert sum(stored) == reader.data_offset - start
        assert reader.data_offset <= len(data)
        if entry.sparse is not None:
            assert sum(length for _, length in entry.sparse) == sum(stored)
            assert all(a >= 0 and a + b <= entry.real_size_bytes for a, b in entry.sparse)
        else:
            assert sum(stored) == entry.size_bytes


def pax(data: bytes) -> None:
    """Extended headers by themselves."""
    header = parse_pax(data)
    for number in (header.size, header.uid, header.gid, header.real_size):
        assert number is None or 0 <= number < 2**63
    assert b"\0" not in header.path + header.link


def erofs(data: bytes) -> None:
    """A layer's tree and its image: stores every byte, and the same image each time."""
    assert _erofs_image(data) == _erofs_image(data)


def _erofs_image(data: bytes) -> bytes:
    stored = bytearray()
    tree = index_layer(pieces(data), stored.extend, LIMITS)
    assert stored == data
    for path in tree.missing:
        tree.dress(path, ParentAttributes(0o700, 1, 2, -3))
    assert not tree.missing or tree.missing == sorted(tree.missing)
    fd = os.memfd_create("image")
    try:
        tree.write(fd, len(data))
        image = os.pread(fd, 1 << 30, 0)
    except NotExpressible:
        assert os.fstat(fd).st_size == 0
        return b""
    finally:
        os.close(fd)
    assert image[1024:1028] == b"\xe2\xe1\xf5\xe0"
    assert len(image) < (1 << 20) * (tree.entries + 1)
    return image


def archive(data: bytes) -> None:
    """A docker or OCI archive: its members by name, read from where they lie."""
    fd = os.memfd_create("archive")
    try:
        os.write(fd, data)
        members = TarMembers(fd, "the archive")
        for name in ("manifest.json", "index.json", "oci-layout", "a", "blobs/sha256/b"):
            if members.has(name):
                with members.open(name) as stream:
                    while stream.read(1 << 16):
                        pass
    finally:
        os.close(fd)


def stream(data: bytes) -> None:
    """gzip, zstd or plain, within the limits."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        part = data[at : at + min(size, 1000)]
        at += len(part)
        return part

    total = sum(map(len, plain_chunks(read, LIMITS)))
    assert total <= LIMITS.size_bytes


def manifest(data: bytes) -> None:
    """A manifest or index, by what it was announced as; it reads its own encoding alike."""
    announced = _ANNOUNCED[data[0] % len(_ANNOUNCED)] if data[:1] < b" " and data else None
    document = parse_manifest(data[1:] if data[:1] < b" " else data, announced)
    assert parse_manifest(encode_document(document), announced) == document


def index(data: bytes) -> None:
    """A layout's index.json."""
    document = parse_index(data)
    assert parse_index(encode_document(document)) == document


def config(data: bytes) -> None:
    """An image's configuration."""
    document = parse_image_config(data)
    assert len(chain_ids(document.diff_ids)) == len(document.diff_ids)
    assert parse_image_config(encode_document(document)) == document


def reference(data: bytes) -> None:
    """An image's name; every form that is shown reads back as the same."""
    found = Reference.parse(data.decode("utf-8", "surrogateescape"))
    assert Reference.parse(found.familiar()) == found
    assert Reference.parse(found.canonical) == found.with_default_tag()
    assert ".." not in found.name.split("/")


def name(data: bytes) -> None:
    """What the command line takes: transports and platforms."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_transport, parse_platform):
        try:
            parse(text)
        except EngineError as error:
            assert error.message.isprintable(), "a message with control characters"


def settings(data: bytes) -> None:
    """The engine's configuration file."""
    found = parse_settings(data, "config.toml")
    assert 1 <= found.image.parallel <= 64


def challenge(data: bytes) -> None:
    """WWW-Authenticate and Retry-After: anything may stand there, nothing raises."""
    text = data.decode("latin-1")
    found = parse_challenges(text.split("\n"))
    assert all(one.scheme == one.scheme.lower() for one in found)
    assert all(len(one.scopes) <= MAX_SCOPES for one in found)
    chosen = preferred(found)
    assert chosen is None or chosen.scheme in ("bearer", "basic")
    assert 0 <= retry_after_s(text) < float("inf")


def link(data: bytes) -> None:
    """Link headers, and where they would lead."""
    target = next_link(data.decode("latin-1").split("\n"))
    assert "<" not in target and ">" not in target
    for base in _BASES:
        try:
            url = moved(base, target, _TRUST)
        except EngineError:
            continue
        assert url.startswith(("https://", "http://"))
        assert url.startswith("https://") or not base.startswith("https://")


def answer(data: bytes) -> None:
    """The JSON that registries and token servers answer."""
    for parse in (parse_tags, parse_catalog, parse_errors, parse_token):
        try:
            parse(data)
        except EngineError as error:
            assert error.message.isprintable(), "a message with control characters"


def package(data: bytes) -> None:
    """An image's package records, of which the bill of materials is made."""
    text = data.decode("utf-8", "replace")
    wanted = frozenset(("package", "version", "license"))
    for fields in stanzas(text, wanted):
        assert fields.keys() <= wanted
    licence_of(text)


def dns(data: bytes) -> None:
    """A container's question, and the same bytes as another server's answer."""
    try:
        query = messages.read_query(data)
    except messages.Rejected as rejected:
        assert not rejected.answer or rejected.answer[:2] == data[:2]
    else:
        assert len(query.name) <= 255 and 512 <= query.size_bytes <= 1232
        answer = own_answer(_ZONES, ("n",), query, query.size_bytes, leave=False)
        assert answer is not None and len(answer) <= query.size_bytes
        assert messages.read_query(messages.passed_on(query, data[:2])).question == query.question
    asked = messages.read_query(data[:2] + _DNS_QUESTION[2:] if len(data) > 1 else _DNS_QUESTION)
    if messages.answers(asked, data[:2], data):
        messages.failure(data)
        assert len(messages.handed_back(asked, data, 512)) <= 512


def bundle(data: bytes) -> None:
    """A bundle's config.json, as far as the plan that keel would be given."""
    parsed = parse_config(data)
    encoded = plan(parsed, HOST, BUNDLE).encode()
    assert encoded.startswith(b"KEEL")
    assert encoded == plan(parsed, HOST, BUNDLE).encode()


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        tar, pax, erofs, archive, stream, manifest, index, config, reference, name, settings,
        challenge, link, answer, package, dns, bundle,
    )
}  # fmt: skip
#: Those that read tars, whose checksums chance never gets right.
TARS = frozenset(("tar", "erofs", "archive"))


def feed(target: str, data: bytes) -> bool:
    """Whether the target takes the bytes; False: it refused them in our own words."""
    try:
        TARGETS[target](data)
    except EngineError as error:
        assert error.message.isprintable(), "a message with control characters"
        return False
    return True


def with_checksums(data: bytes) -> bytes:
    """The bytes with a right checksum in every block that looks like a tar header."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    return b"".join(map(_with_checksum, blocks))


def _with_checksum(block: bytes) -> bytes:
    if len(block) != 512 or block[257:262] != b"ustar":
        return block
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]
