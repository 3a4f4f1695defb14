"""Where the fuzzers start from: small inputs, honest or nearly so, and what was found."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backports import zstd

from image_tars import END, gnu_long, member, padded, patched, pax, python_tar
from onggi.specs.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST

GOLDEN = Path(__file__).parent.parent / "unit/golden"
FOUND = Path(__file__).parent / "found"
_DIGEST = "sha256:" + "ab" * 32


def seeds(target: str) -> list[bytes]:
    """The inputs to start from; never empty."""
    return _SEEDS[target]()


def found(target: str) -> list[bytes]:
    """What once crashed a target, kept so that it never does again."""
    return [path.read_bytes() for path in sorted((FOUND / target).glob("*"))]


def _tars() -> list[bytes]:
    sparse = patched(member(b"s", b"S", size_bytes=512), 386, b"%011o\0%011o\0" % (512, 512))
    sparse = patched(sparse, 483, b"%011o\0" % 1024) + bytes(512)
    map_1_0 = pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"2048"),
    ) + member(b"s", data=padded(b"1\n512\n512\n") + b"x" * 512)  # fmt: skip
    map_0_1 = pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1,5,2"))
    fields = {"name": "n" * 150, "type": tarfile.SYMTYPE, "linkname": "t" * 120, "uid": 2**30}
    return [
        END,
        member(b"a", data=b"hello") + END,
        member(b"a", data=b"no padding")[: 512 + 10],
        member(b"d/", b"5", mode=0o755) + member(b"d/f", data=b"x" * 600) + END,
        member(b"f") + member(b"h", b"1", link=b"f") + member(b"l", b"2", link=b"../f") + END,
        member(b"c", b"3", major=1, minor=3) + member(b"b", b"4") + member(b"p", b"6") + END,
        member(b"d/.wh.x") + member(b"d/.wh..wh..opq") + member(b"d/x/y") + END,
        member(b"a", xattrs={"user.k": b"v", "security.capability": b"\1\0\0\2" + bytes(16)}) + END,
        pax((b"path", b"p" * 130), (b"size", b"3"), (b"mtime", b"-1.5")) + member(b"a", data=b"abc")
        + END,
        gnu_long(b"L", b"n" * 200) + gnu_long(b"K", b"k" * 200) + member(b"x", b"2", link=b"y")
        + END,
        pax((b"comment", b"x"), kind=b"g") + member(b"a") + END,
        patched(member(b"a"), 136, b"\xff" * 11 + b"\xfe") + END,
        sparse + END,
        map_1_0 + END,
        map_0_1 + member(b"s", data=b"abc") + END,
        *(python_tar([(fields, b"")], form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
    ]  # fmt: skip


def _archives() -> list[bytes]:
    listing = json.dumps([{"Config": "a", "RepoTags": ["a:b"], "Layers": ["l"]}]).encode()
    head = member(b"a", data=b"{}") + member(b"l", data=b"x" * 600)
    linked = member(b"layer/x", b"2", link=b"../l")
    top = member(b"index.json", data=_json(_index())) + member(b"oci-layout", data=b"{}")
    return [
        head + member(b"manifest.json", data=listing) + END,
        head + linked + member(b"manifest.json", b"1", link=b"a") + END,
        member(b"blobs/sha256/b", data=b"b") + top + END,
    ]


def _pax() -> list[bytes]:
    tars = [data[512:1024].rstrip(b"\0") for data in _tars() if data[156:157] == b"x"]
    return [*tars, b"30 mtime=1700000000.123456789\n", b"12 a=b\xff=\0c\n"]


def _streams() -> list[bytes]:
    plain = member(b"a", data=b"hello") + END
    packed = gzip.compress(plain, mtime=0)
    return [
        plain, packed, packed + packed + bytes(20), zstd.compress(plain),
        b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstd.compress(b"x" * 100_000),
    ]  # fmt: skip


def _descriptor(kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _DIGEST, "size": 5, **more}


def _index() -> dict[str, Any]:
    platform = {"architecture": "arm", "os": "linux", "variant": "v7", "os.version": "1"}
    entry = _descriptor(OCI_MANIFEST, platform=platform, annotations={"a": "é\u2028"})
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry, entry]}


def _manifests() -> list[bytes]:
    whole = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": _descriptor(OCI_CONFIG),
        "layers": [_descriptor(OCI_LAYER_GZIP, urls=["https://x"])], "artifactType": "a/b",
        "subject": _descriptor(OCI_MANIFEST), "annotations": {"k": "v"},
    }  # fmt: skip
    documents = [whole, _index(), {**whole, **_index()}, {**whole, "schemaVersion": 1}]
    return [prefix + _json(document) for document in documents for prefix in (b"", b"\1")]


def _configs() -> list[bytes]:
    whole = {
        "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05.678Z",
        "rootfs": {"type": "layers", "diff_ids": [_DIGEST, _DIGEST]},
        "config": {
            "User": "1:2", "Env": ["A=b"], "Cmd": None, "Entrypoint": ["/x"], "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}, "StopTimeout": 3,
            "Healthcheck": {"Test": ["NONE"], "Interval": 10**9}, "OnBuild": ["x"],
        },
        "history": [{"created_by": "x", "empty_layer": True}],
    }  # fmt: skip
    return [_json(whole), b'{"architecture":"","os":"","rootfs":{"type":"layers"}}']


def _references() -> list[bytes]:
    names = (
        "debian", "debian:12", "host:5000/a/b:tag@" + _DIGEST, "localhost/a", "[::1]:5000/a__b",
        "index.docker.io/library/x", "A/b", "docker.io/a", "a" * 64, "a@" + _DIGEST,
    )  # fmt: skip
    return [name.encode() for name in names]


def _names() -> list[bytes]:
    names = ("store:a", "docker://h/a:b", "oci:/p:t", "oci-archive:p", "docker-archive:p:a:b",
             "dir:/x", "linux/arm64/v8", "windows/amd64", "linux", "foo://x")  # fmt: skip
    return [name.encode() for name in names]


_SETTINGS = """\
[image]
default_registry = "docker.io"
short_names = "refuse"
insecure_registries = ["10.0.0.0", "h:5000"]
certificate_directories = ["/etc/x"]
snapshotter = "erofs"
discard_blobs = true
store_limit_bytes = 1_000
parallel = 0x8
[image.aliases]
deb = "docker.io/library/debian"
[image.registries."docker.io"]
location = "mirror.test:5000/x"
mirrors = ['a.test', "[::1]:5000/b"]
insecure = false
"""


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _dns() -> list[bytes]:
    head = b"\0\7\1\0\0\1\0\0\0\0\0"
    opt = b"\0\0\x29\x10\0\0\0\x80\0\0\4\0\x0a\0\0"
    question = b"\2db\4test\0\0\1\0\1"
    return [
        head + b"\0\2db\0\0\1\0\1",
        head + b"\1" + b"\2DB\3net\0\0\x1c\0\1" + opt,
        head + b"\0\x012\x010\x0289\x0210\7in-addr\4arpa\0\0\x0c\0\1",
        head + b"\0" + b"\x010" * 32 + b"\3ip6\4arpa\0\0\x0c\0\1",
        head + b"\0\x09localhost\0\0\xff\0\1",
        b"\0\7\x81\x80\0\1\0\2\0\0\0\0" + question
        + b"\xc0\x0c\0\5\0\1\0\0\0\1\0\4\1x\xc0\x0f\xc0\x25\0\1\0\1\0\0\0\1\0\4\x0a\0\0\2",
        b"\0\7\x83\x83\0\1\0\0\0\0\0\1" + question + opt,
    ]  # fmt: skip


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "tar": _tars,
    "pax": _pax,
    "erofs": _tars,
    "archive": _archives,
    "stream": _streams,
    "manifest": _manifests,
    "index": lambda: [_json(_index())],
    "config": _configs,
    "bundle": lambda: [path.read_bytes() for path in sorted(GOLDEN.glob("*.json"))],
    "reference": _references,
    "name": _names,
    "settings": lambda: [b"", _SETTINGS.encode(), b"[image]\nparallel=9e9", b"a=[[[{b=1}]]]"],
    "challenge": lambda: [
        b'Bearer realm="https://t/?a=b",service="s,1",scope="repository:a:pull,push other"',
        b'Negotiate, Basic realm="x\\"", Bearer realm=y, error=insufficient_scope\nBasic',
        b"Mon, 02 Nov 2026 00:00:00 GMT",
        b"120",
    ],
    "link": lambda: [
        b'</v2/_catalog?last=a&n=1>; rel="next"',
        b"<https://registry.test/x#f>; title=y; rel=next\n<a>; rel=prev",
        b"<http://10.1.2.3:80/x>;rel=next",
        b"<//[::1]:5000/x>;rel=next",
    ],
    "answer": lambda: [
        b'{"name":"a","tags":["1","latest"]}',
        b'{"repositories":["a","b/c"]}',
        b'{"errors":[{"code":"DENIED","message":"no","detail":{"a":[1]}}]}',
        b'{"token":"t","access_token":"u","expires_in":60}',
    ],
    "dns": _dns,
    "package": lambda: [
        b"Package: a\nVersion: 1:2-3\nDescription: x\n more\n .\n\nPackage: b\nLicense: MIT\n",
        b"(MIT OR Apache-2.0) AND GPL-2.0-or-later WITH Classpath-exception-2.0",
    ],
}
