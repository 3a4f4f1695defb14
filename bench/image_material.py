"""What image measurements are made with: images in an OCI layout, and registries on loopback.

The Debian image is made by `onggi image bootstrap`; the one of many layers has the same files, cut
into pieces. Both are put into the registry by skopeo, which is none of the engines compared.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

LAYERS = 20


class Layout:
    """An OCI layout that is written layer by layer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._layers: list[dict[str, object]] = []
        self._diff_ids: list[str] = []

    def add_layer(self, tar: bytes) -> None:
        self._diff_ids.append("sha256:" + hashlib.sha256(tar).hexdigest())
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        self._layers.append(self._blob(gzip.compress(tar, 6, mtime=0), kind))

    def finish(self) -> None:
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._json(config, "application/vnd.oci.image.config.v1+json"),
            "layers": self._layers,
        }
        entry = self._json(manifest, str(manifest["mediaType"]))
        entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        index = {"schemaVersion": 2, "manifests": [entry]}
        (self.path / "index.json").write_text(json.dumps(index))

    def _json(self, value: object, kind: str) -> dict[str, object]:
        return self._blob(json.dumps(value).encode(), kind)

    def _blob(self, data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def debian_tar(onggi: list[str], place: Path) -> Path:
    """The root file system of Debian with Python as one tar."""
    subprocess.run([*onggi, "image", "bootstrap", "debian", "--include", "python3", "-t", "py:1",
                    "-q"], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    subprocess.run([*onggi, "create", "--name", "py", "py:1"], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    path = place / "debian.tar"
    subprocess.run([*onggi, "export", "-o", str(path), "py"], check=True)
    subprocess.run([*onggi, "rm", "py"], check=True, stdout=subprocess.DEVNULL)
    return path


def layouts(tar: Path, place: Path) -> dict[str, Path]:
    """Two layouts from one tar: all in one layer, and in twenty."""
    one = Layout(place / "one")
    one.add_layer(tar.read_bytes())
    one.finish()
    many = Layout(place / "many")
    for piece in _pieces(tar, LAYERS):
        many.add_layer(piece)
    many.finish()
    return {"debian+python, 1 layer": one.path, f"the same, {LAYERS} layers": many.path}


def _pieces(tar: Path, count: int) -> Iterator[bytes]:
    """The members in `count` tars of about equal size; hard links stay with what they point to."""
    with tarfile.open(tar) as source:
        members = source.getmembers()
        share = sum(m.size for m in members) / count
        buffer, piece, filled, done, there = _begin(), [], 0.0, 0, set()
        for member in members:
            writer, _ = buffer
            if member.islnk() and member.linkname not in there:
                original = source.getmember(member.linkname)
                member.type, member.size = tarfile.REGTYPE, original.size
                data = source.extractfile(original)
            else:
                data = source.extractfile(member) if member.isreg() else None
            writer.addfile(member, data)
            there.add(member.name)
            piece.append(member)
            filled += member.size
            if filled >= share * (done + 1) and done < count - 1:
                done += 1
                yield _end(buffer)
                buffer, there = _begin(), set()
        yield _end(buffer)


def _begin() -> tuple[tarfile.TarFile, io.BytesIO]:
    data = io.BytesIO()
    return tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT), data


def _end(buffer: tuple[tarfile.TarFile, io.BytesIO]) -> bytes:
    buffer[0].close()
    return buffer[1].getvalue()


class Registry:
    """Debian's docker-registry on a loopback port, with a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        config = self.place / "config.yml"
        config.write_text(
            f"version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.place}/data\n"
            f"http:\n  addr: {self.address}\n"
        )
        with (self.place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        for _ in range(100):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=1).close()
                return
            time.sleep(0.1)
        raise RuntimeError("docker-registry does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def empty(self) -> None:
        """Forget everything that was pushed."""
        shutil.rmtree(self.place / "data", ignore_errors=True)

    def fill(self, layout: Path, name: str) -> str:
        """Put an image in; its whole name."""
        target = f"{self.address}/{name}:latest"
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false",
                        f"oci:{layout}:latest", f"docker://{target}"], check=True)  # fmt: skip
        return target


def disk_bytes(path: Path) -> int:
    """What a directory takes on disk; a hard-linked inode counts once."""
    seen: dict[tuple[int, int], int] = {}
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(directory, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
