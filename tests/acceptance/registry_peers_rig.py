"""The other programs that read and write images, and what each place holds, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.rig import Onggi
from registry_rig import Rig, need

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

#: From a digest to the bytes that a place holds under it.
Reader = Callable[[str], bytes]


# -- bytes -----------------------------------------------------------------------------------


def digest_of(data: bytes) -> str:
    """As the image-spec writes it; not by the code under test."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def in_layout(path: Path) -> Reader:
    """The blobs of an OCI layout."""
    return lambda digest: (path / "blobs" / digest.replace(":", "/")).read_bytes()


def in_store(onggi: Onggi) -> Reader:
    """What an engine keeps."""
    return in_layout(onggi.root / "data/image/content")


def in_registry(rig: Rig) -> Reader:
    """What docker-registry has on its disk."""
    blobs = rig.storage / "docker/registry/v2/blobs/sha256"

    def read(digest: str) -> bytes:
        name = digest.removeprefix("sha256:")
        return (blobs / name[:2] / name / "data").read_bytes()

    return read


def in_directory(path: Path) -> Reader:
    """What skopeo's `dir:` holds; its one manifest has a name of its own."""

    def read(digest: str) -> bytes:
        manifest = (path / "manifest.json").read_bytes()
        if digest_of(manifest) == digest:
            return manifest
        return (path / digest.removeprefix("sha256:")).read_bytes()

    return read


def graph(digest: str, read: Reader) -> dict[str, bytes]:
    """A manifest or index and all below it, by digest; every byte has been hashed."""
    found = {digest: read(digest)}
    assert digest_of(found[digest]) == digest
    document = json.loads(found[digest])
    for member in document.get("manifests", ()):
        found |= graph(member["digest"], read)
    blobs = [document["config"], *document["layers"]] if "config" in document else []
    for blob in blobs:
        data = found[blob["digest"]] = read(blob["digest"])
        assert (digest_of(data), len(data)) == (blob["digest"], blob["size"])
    return found


def tag_in_registry(rig: Rig, repository: str, tag: str) -> str:
    """The digest under a tag, from docker-registry's disk."""
    tags = rig.storage / f"docker/registry/v2/repositories/{repository}/_manifests/tags"
    return (tags / tag / "current/link").read_text()


def blobs_of(onggi: Onggi) -> list[str]:
    """Every blob file of an engine."""
    place = onggi.root / "data/image/content/blobs/sha256"
    return sorted(entry.name for entry in place.iterdir()) if place.exists() else []


# -- images ----------------------------------------------------------------------------------


def make_image(onggi: Onggi, name: str, marker: str) -> str:
    """busybox and a layer with /marker; the digest of its manifest."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("marker")
        member.size = len(marker)
        tar.addfile(member, io.BytesIO(marker.encode()))
    path = onggi.root.parent / "marker.tar"
    path.write_bytes(archive.getvalue())
    change = 'CMD ["cat", "/marker"]'
    onggi.run("image", "mutate", "busybox", "-t", name, "-c", change, "--append", str(path))
    return digest_in(onggi, name)


def digest_in(onggi: Onggi, name: str) -> str:
    """What an engine says the digest of an image is."""
    found = json.loads(onggi.out("image", "inspect", name))[0]["RepoDigests"]
    (digest,) = {str(each).rpartition("@")[2] for each in found}
    return digest


def marker_of(onggi: Onggi, name: str) -> str:
    """What a container of this image says, with the image's own command and with one given."""
    said: str = onggi.out("run", "--rm", "--pull", "never", name)
    assert onggi.out("run", "--rm", "--pull", "never", name, "cat", "/marker") == said
    return said


def config_of(digest: str, read: Reader) -> dict[str, Any]:
    """The configuration of the image under a manifest's digest."""
    found: dict[str, Any] = json.loads(read(config_digest(digest, read)))
    return found


def config_digest(digest: str, read: Reader) -> str:
    """The image's id."""
    return str(json.loads(read(digest))["config"]["digest"])


def add_blob(layout: Path, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
    """Put a JSON document into a layout; its descriptor."""
    data = json.dumps(document).encode()
    digest = digest_of(data)
    (layout / "blobs" / digest.replace(":", "/")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def add_index(layout: Path, manifest: str, other_architecture: str) -> tuple[str, str, str]:
    """Name `multi` in a layout: an index of an image and its like for another machine.

    The digests of the index, of the member that was there, and of the other one.
    """
    read = in_layout(layout)
    document, config = json.loads(read(manifest)), config_of(manifest, read)
    here = {"mediaType": MANIFEST, "digest": manifest, "size": len(read(manifest))}
    other = {**config, "architecture": other_architecture}
    configured = add_blob(layout, document["config"]["mediaType"], other)
    there = add_blob(layout, MANIFEST, {**document, "config": configured})
    members = [
        {**one, "platform": {"os": "linux", "architecture": architecture}}
        for one, architecture in ((there, other_architecture), (here, config["architecture"]))
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": members}
    root = add_blob(layout, INDEX, index)
    name = {"org.opencontainers.image.ref.name": "multi"}
    listed = {**json.loads((layout / "index.json").read_text())}
    listed["manifests"] = [*listed["manifests"], {**root, "annotations": name}]
    (layout / "index.json").write_text(json.dumps(listed))
    return root["digest"], manifest, there["digest"]


# -- programs --------------------------------------------------------------------------------


def tool(package: str, *words: str, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end, which is success; what it printed."""
    need(words[0], package)
    done = subprocess.run(
        words,
        capture_output=True,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def skopeo(*words: str) -> str:
    """skopeo, which asks loopback for plain HTTP only when it may."""
    insecure: tuple[str, ...] = ()
    if words[0] == "copy":
        insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    elif any(word.startswith("docker://") for word in words):
        insecure = ("--tls-verify=false",)
    return tool("skopeo", "skopeo", words[0], *insecure, *words[1:])


def umoci(*words: str) -> str:
    """umoci."""
    return tool("umoci", "umoci", *words)


class Podman:
    """podman with a store of its own, all of it in one directory."""

    def __init__(self, place: str) -> None:
        self._words = ["--root", f"{place}/root", "--runroot", f"{place}/run"]
        self._words += ["--tmpdir", f"{place}/tmp", "--storage-driver", "vfs"]
        settings = Path(place, "containers.conf")
        settings.write_text('[engine]\nlock_type = "file"\n')  # else it keeps a lock in /dev/shm
        self._environment = {"CONTAINERS_CONF": str(settings), "DOCKER_CONFIG": place}
        Path(place, "config.json").write_text("{}")  # where it looks for one it must be

    def __call__(self, *words: str) -> str:
        return tool("podman", "podman", *self._words, *words, environment=self._environment)

    def image(self, name: str) -> dict[str, Any]:
        """What it knows of an image."""
        found: list[dict[str, Any]] = json.loads(self("image", "inspect", name))
        return found[0]


@contextlib.contextmanager
def podman() -> Iterator[Podman]:
    """podman, gone at the end with everything it had."""
    need("podman", "podman")
    with tempfile.TemporaryDirectory(prefix="pod") as place:  # podman allows 50 characters
        yield (mine := Podman(place))
        mine("rmi", "-a", "-f")
        assert place not in Path("/proc/self/mountinfo").read_text()


class Docker:
    """docker's command, speaking to a daemon of the test's own."""

    def __init__(self, socket: str) -> None:
        self._environment = {"DOCKER_HOST": f"unix://{socket}"}

    def __call__(self, *words: str) -> str:
        return tool("docker.io", "docker", *words, environment=self._environment)

    def image(self, name: str) -> dict[str, Any]:
        """What it knows of an image."""
        found: list[dict[str, Any]] = json.loads(self("image", "inspect", name))
        return found[0]


@contextlib.contextmanager
def docker() -> Iterator[Docker]:
    """A daemon without networks; skips where it is missing or does not come up in 15 s."""
    for program in ("dockerd", "docker"):
        need(program, "docker.io")
    with tempfile.TemporaryDirectory(prefix="dok") as place:
        words = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"]
        words += [f"--data-root={place}/data", f"--exec-root={place}/exec"]
        words += [f"--pidfile={place}/pid", "-H", f"unix://{place}/socket"]
        log = Path(place, "log")
        with log.open("wb") as output:
            daemon = subprocess.Popen(["dockerd", *words], stdout=output, stderr=output)
        try:
            if not _answers(daemon, f"unix://{place}/socket"):
                pytest.skip(f"dockerd does not run here: {log.read_text()[-300:]}")
            yield Docker(f"{place}/socket")
        finally:
            daemon.terminate()  # it ends its containerd itself
            daemon.wait(30)
        assert place not in Path("/proc/self/mountinfo").read_text()


def _answers(daemon: subprocess.Popen[bytes], host: str) -> bool:
    deadline = time.monotonic() + 15
    while daemon.poll() is None and time.monotonic() < deadline:
        words = ["docker", "-H", host, "version"]
        if not subprocess.run(words, capture_output=True, check=False).returncode:
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def serving(onggi: Onggi, *options: str, stdin: str = "", host: str = "127.0.0.1") -> Iterator[str]:
    """`onggi registry serve` over an engine's images; its address."""
    words = onggi.words("registry", "serve", "--listen", f"{host}:0", *options)
    log = onggi.root.parent / "serve.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdin and process.stdout
    try:
        process.stdin.write(stdin)
        process.stdin.close()
        said = re.fullmatch(r"listening on (\S+:\d+)\n", process.stdout.readline())
        assert said, log.read_text()
        yield said[1]
    finally:
        process.terminate()
        code = process.wait(20)
        process.stdout.close()
    assert code == 0, log.read_text()
    assert "internal error" not in log.read_text()
