"""skopeo, umoci, podman and docker read what we write, and we read what they write: the same
digests, the same bytes, and containers that run. Also `onggi registry serve`, to all of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import registry_rig
from acceptance import registry_peers_rig as peers
from acceptance import rig
from acceptance.registry_peers_rig import (
    Reader,
    add_index,
    blobs_of,
    config_digest,
    config_of,
    digest_in,
    digest_of,
    graph,
    in_directory,
    in_layout,
    in_registry,
    in_store,
    make_image,
    marker_of,
    serving,
    skopeo,
    tag_in_registry,
    umoci,
)
from acceptance.rig import Onggi
from registry_double import make_certificates
from registry_rig import PASSWORD, USER, Rig

#: How the transports that keep manifests are written, given a path.
EXACT = {"oci": "oci:{}:v1", "oci-archive": "oci-archive:{}:v1", "dir": "dir:{}"}
ALL = {**EXACT, "docker-archive": "docker-archive:{}:example.com/team/app:v1"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """docker-registry, open."""
    with registry_rig.start(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Onggi]:
    """The engine that gets images; for `other`."""
    with rig.engine(tmp_path_factory.mktemp("og") / "root") as running:
        yield running


@pytest.fixture
def other(second: Onggi) -> Onggi:
    """The engine that gets images, and has nothing: each byte has to come."""
    second.run("image", "prune", "-a", "-f")
    assert blobs_of(second) == []
    return second


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where credentials go: nobody is logged in."""
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "docker"


def same_image(one: str, read_one: Reader, two: str, read_two: Reader) -> None:
    """Two manifests, perhaps in different words, of one configuration and so of the same files."""
    assert config_digest(one, read_one) == config_digest(two, read_two)
    assert config_of(one, read_one) == config_of(two, read_two)


# -- skopeo ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_skopeo_reads_what_we_write(onggi: Onggi, tmp_path: Path, kind: str) -> None:
    digest = make_image(onggi, "written", f"written as {kind}")
    place = ALL[kind].format(tmp_path / "ours")
    assert onggi.out("image", "copy", "-q", "store:written", place) == digest
    skopeo("copy", "-q", place, f"dir:{tmp_path}/copy")
    found = in_directory(tmp_path / "copy")
    if kind in EXACT:
        assert graph(digest, found) == graph(digest, in_store(onggi))
    else:  # skopeo writes a manifest of its own, and plain layers
        theirs = digest_of((tmp_path / "copy/manifest.json").read_bytes())
        same_image(digest, in_store(onggi), theirs, found)


@pytest.mark.parametrize("kind", ALL)
def test_we_read_what_skopeo_writes(
    registry: Rig, onggi: Onggi, other: Onggi, tmp_path: Path, kind: str
) -> None:
    digest = make_image(onggi, "sent", f"read as {kind}")
    name = f"{registry.address}/skopeo/{kind}:1"
    onggi.run("push", "sent", name)
    place = ALL[kind].format(tmp_path / "theirs")
    skopeo("copy", "-q", f"docker://{name}", place)
    stored = other.out("image", "copy", "-q", place, "store:got:1")
    if kind in EXACT:
        assert stored == digest
        assert graph(digest, in_store(other)) == graph(digest, in_store(onggi))
    same_image(digest, in_store(onggi), stored, in_store(other))
    assert marker_of(other, "got:1") == f"read as {kind}"


def test_a_copy_goes_through_every_transport(
    registry: Rig, onggi: Onggi, other: Onggi, tmp_path: Path
) -> None:
    digest = make_image(onggi, "walker", "walked")
    sent = graph(digest, in_store(onggi))
    way = ["store:walker", f"docker://{registry.address}/way/one:1"]
    for engine, places in (
        (onggi, way),
        (other, [way[-1], f"oci:{tmp_path}/layout:x", f"oci-archive:{tmp_path}/x.tar:x",
                 f"dir:{tmp_path}/dir", "store:walker:2", f"oci:{tmp_path}/layout:y",
                 f"docker://{registry.address}/way/two:1"]),
    ):  # fmt: skip
        for source, destination in itertools.pairwise(places):
            assert engine.out("image", "copy", "-q", source, destination) == digest, destination
    assert graph(digest, in_layout(tmp_path / "layout")) == sent
    assert graph(digest, in_directory(tmp_path / "dir")) == sent
    assert graph(digest, in_store(other)) == sent
    assert graph(digest, in_registry(registry)) == sent
    assert tag_in_registry(registry, "way/two", "1") == digest
    assert marker_of(other, "walker:2") == "walked"
    # A layout's names: two for the same image, and one that is none.
    listed = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    names = {each["annotations"]["org.opencontainers.image.ref.name"] for each in listed}
    assert names == {"x", "y"}
    missing = other.run("image", "copy", f"oci:{tmp_path}/layout:z", "store:z", check=False)
    assert "z" in missing.stderr
    assert missing.returncode == 125


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_saved_and_loaded(onggi: Onggi, other: Onggi, tmp_path: Path, form: str) -> None:
    digest = make_image(onggi, "example.com/saved:1", f"saved as {form}")
    archive = tmp_path / "x.tar"
    onggi.run("save", "--format", form, "-o", str(archive), "example.com/saved:1")
    again = tmp_path / "again.tar"
    onggi.run("save", "--format", form, "-o", str(again), "example.com/saved:1")
    assert archive.read_bytes() == again.read_bytes()
    other.run("load", "-i", str(archive))
    stored = digest_in(other, "example.com/saved:1")
    same_image(digest, in_store(onggi), stored, in_store(other))
    if form == "oci":
        assert graph(stored, in_store(other)) == graph(digest, in_store(onggi))
    assert marker_of(other, "example.com/saved:1") == f"saved as {form}"
    # skopeo reads the same file under the name that it has there.
    name = {"oci": "1", "docker": "example.com/saved:1"}[form]
    skopeo("copy", "-q", f"{form}-archive:{archive}:{name}", f"dir:{tmp_path}/dir")
    theirs = digest_of((tmp_path / "dir/manifest.json").read_bytes())
    same_image(digest, in_store(onggi), theirs, in_directory(tmp_path / "dir"))
    assert (theirs == digest) == (form == "oci")


# -- umoci -----------------------------------------------------------------------------------


def test_umoci_unpacks_what_we_write(onggi: Onggi, tmp_path: Path) -> None:
    make_image(onggi, "unpacked", "for umoci")
    onggi.run("image", "copy", "store:unpacked", f"oci:{tmp_path}/layout:v1")
    umoci("unpack", "--image", f"{tmp_path}/layout:v1", f"{tmp_path}/bundle")
    rootfs = tmp_path / "bundle/rootfs"
    assert (rootfs / "marker").read_text() == "for umoci"
    assert (rootfs / "bin/busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    assert (rootfs / "bin/cat").readlink() == Path("busybox")


def test_we_read_what_umoci_inserts(onggi: Onggi, other: Onggi, tmp_path: Path) -> None:
    make_image(onggi, "extended", "below")
    onggi.run("image", "copy", "store:extended", f"oci:{tmp_path}/layout:v1")
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/file").write_text("put in")
    (tmp_path / "marker").write_text("above")
    image = f"{tmp_path}/layout:v1"
    umoci("insert", "--image", image, str(tmp_path / "tree"), "/tree")
    umoci("insert", "--image", image, str(tmp_path / "marker"), "/marker")
    umoci("insert", "--image", image, "--whiteout", "/home")
    stored = other.out("image", "copy", "-q", f"oci:{tmp_path}/layout:v1", "store:got")
    assert graph(stored, in_store(other)) == graph(stored, in_layout(tmp_path / "layout"))
    assert marker_of(other, "got") == "above"
    assert other.out("run", "--rm", "got", "cat", "/tree/deep/file") == "put in"
    assert other.out("run", "--rm", "got", "sh", "-c", "ls -d /home || echo gone") == "gone"


def test_we_read_what_umoci_repacks(onggi: Onggi, other: Onggi, tmp_path: Path) -> None:
    make_image(onggi, "repacked", "before")
    onggi.run("image", "copy", "store:repacked", f"oci:{tmp_path}/layout:v1")
    image, bundle = f"{tmp_path}/layout:v1", tmp_path / "bundle"
    umoci("unpack", "--image", image, str(bundle))
    (bundle / "rootfs/marker").write_text("after")
    (bundle / "rootfs/bin/tac").unlink()
    (bundle / "rootfs/bin/more-cats").symlink_to("busybox")
    umoci("repack", "--image", f"{tmp_path}/layout:v2", str(bundle))
    umoci("config", "--image", f"{tmp_path}/layout:v2", "--config.env", "MADE=by umoci")
    stored = other.out("image", "copy", "-q", f"oci:{tmp_path}/layout:v2", "store:got")
    assert graph(stored, in_store(other)) == graph(stored, in_layout(tmp_path / "layout"))
    assert marker_of(other, "got") == "after"
    script = "echo $MADE; ls /bin/tac || ls /bin/more-cats"
    assert other.out("run", "--rm", "got", "sh", "-c", script) == "by umoci\n/bin/more-cats"


# -- podman ----------------------------------------------------------------------------------


def test_podman_pulls_what_we_push_and_serve(registry: Rig, onggi: Onggi) -> None:
    digest = make_image(onggi, "example.com/podman:1", "for podman")
    config = config_digest(digest, in_store(onggi)).removeprefix("sha256:")
    onggi.run("push", "example.com/podman:1", f"{registry.address}/podman:1")
    with peers.podman() as podman, serving(onggi) as served:
        for name in (f"{registry.address}/podman:1", f"{served}/podman:1"):
            assert podman("pull", "-q", "--tls-verify=false", name) == config
            found = podman.image(name)
            assert (found["Digest"], found["Id"]) == (digest, config)
            assert found["RootFS"]["Layers"] == config_of(digest, in_store(onggi))["rootfs"]["diff_ids"]  # fmt: skip # noqa: E501
            podman("rmi", name)


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_podman_saves_and_loads(
    registry: Rig, onggi: Onggi, other: Onggi, tmp_path: Path, form: str
) -> None:
    name = "example.com/carried:1"
    digest = make_image(onggi, name, f"carried as {form}")
    config = config_digest(digest, in_store(onggi))
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    onggi.run("save", "--format", form, "-o", str(ours), name)
    with peers.podman() as podman:
        podman("load", "-q", "-i", str(ours))
        assert podman.image(name)["Id"] == config.removeprefix("sha256:")
        podman("save", "-q", "--format", f"{form}-archive", "-o", str(theirs), name)
        podman("push", "-q", "--tls-verify=false", name, f"{registry.address}/carried:{form}")
    other.run("load", "-i", str(theirs))
    same_image(digest, in_store(onggi), digest_in(other, name), in_store(other))
    assert marker_of(other, name) == f"carried as {form}"
    other.run("rmi", name)
    # What it pushes has layers compressed by it, in a manifest of its own.
    pushed = tag_in_registry(registry, "carried", form)
    other.run("pull", f"{registry.address}/carried:{form}")
    assert graph(pushed, in_store(other)) == graph(pushed, in_registry(registry))
    same_image(digest, in_store(onggi), pushed, in_store(other))
    assert marker_of(other, f"{registry.address}/carried:{form}") == f"carried as {form}"


# -- docker ----------------------------------------------------------------------------------


def test_docker_there_and_back(registry: Rig, onggi: Onggi, other: Onggi, tmp_path: Path) -> None:
    """One daemon for all of it: it takes seconds to come and to go."""
    name = f"{registry.address}/docker:1"
    digest = make_image(onggi, name, "for docker")
    config = config_digest(digest, in_store(onggi))
    onggi.run("push", name)
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    onggi.run("save", "--format", "docker", "-o", str(ours), name)
    with peers.docker() as docker, serving(onggi) as served:
        docker("pull", "-q", name)
        found = docker.image(name)
        assert found["Id"] == config
        assert found["RepoDigests"] == [f"{registry.address}/docker@{digest}"]
        docker("rmi", name)
        docker("pull", "-q", f"{served}/docker:1")
        assert docker.image(f"{served}/docker:1")["Id"] == config
        docker("rmi", f"{served}/docker:1")

        docker("load", "-q", "-i", str(ours))
        assert docker.image(name)["Id"] == config
        docker("save", "-o", str(theirs), name)
        docker("tag", name, f"{registry.address}/from-docker:1")
        docker("push", "-q", f"{registry.address}/from-docker:1")

    other.run("load", "-i", str(theirs))
    same_image(digest, in_store(onggi), digest_in(other, name), in_store(other))
    assert marker_of(other, name) == "for docker"
    other.run("rmi", name)
    pushed = tag_in_registry(registry, "from-docker", "1")
    other.run("pull", f"{registry.address}/from-docker:1")
    assert digest_in(other, f"{registry.address}/from-docker:1") == pushed
    assert graph(pushed, in_store(other)) == graph(pushed, in_registry(registry))
    same_image(digest, in_store(onggi), pushed, in_store(other))
    assert marker_of(other, f"{registry.address}/from-docker:1") == "for docker"


# -- onggi registry serve --------------------------------------------------------------------


def test_a_machine_beside_this_one_pulls(onggi: Onggi, other: Onggi, tmp_path: Path) -> None:
    digest = make_image(onggi, "example.com/team/served:1", "served")
    sent = graph(digest, in_store(onggi))
    with serving(onggi) as address:
        name = f"{address}/team/served:1"
        other.run("pull", name)
        assert graph(digest, in_store(other)) == sent
        assert marker_of(other, name) == "served"
        assert other.out("registry", "tags", f"{address}/team/served") == "1"
        assert "team/served" in other.out("registry", "ls", address).split()
        skopeo("copy", "-q", f"docker://{name}", f"dir:{tmp_path}/dir")
        assert graph(digest, in_directory(tmp_path / "dir")) == sent
        # Nobody may change anything.
        done = other.run("push", name, f"{address}/mine:1", check=False)
        assert done.returncode == 125
        assert address in done.stderr
        assert other.run("registry", "rm", f"{address}/team/served:1", check=False).returncode == 1
    assert other.run("pull", name, check=False).returncode == 1
    assert digest_in(onggi, "example.com/team/served:1") == digest


def test_skopeo_pushes_to_it(registry: Rig, onggi: Onggi, own_onggi: Onggi, tmp_path: Path) -> None:
    here = make_image(onggi, "pushed-in", "pushed in")
    onggi.run("image", "copy", "store:pushed-in", f"oci:{tmp_path}/layout:here")
    index, _, _ = add_index(tmp_path / "layout", here, "s390x")
    sent = graph(index, in_layout(tmp_path / "layout"))
    with serving(own_onggi, "--push", "--as", "images.lan:5000") as address:
        skopeo("copy", "-q", "--all", f"oci:{tmp_path}/layout:multi", f"docker://{address}/in:1")
        assert graph(index, in_store(own_onggi)) == sent
        assert digest_in(own_onggi, "images.lan:5000/in:1") == index
        assert marker_of(own_onggi, "images.lan:5000/in:1") == "pushed in"
        # And out again, to another registry, by skopeo.
        words = (f"docker://{address}/in:1", f"docker://{registry.address}/out:1")
        skopeo("copy", "-q", "--all", *words)
        assert graph(index, in_registry(registry)) == sent
        file = tmp_path / "note"
        file.write_text("noted")
        attached = onggi.out("image", "attach", "--type", "a/note", f"{address}/in:1", str(file))
        row = json.loads(onggi.out("image", "referrers", f"{address}/in:1", "--format", "json"))
        assert (row["Digest"], row["ArtifactType"]) == (attached, "a/note")
        onggi.run("registry", "rm", f"{address}/in:1")
        assert onggi.run("pull", f"{address}/in:1", check=False).returncode == 1
        onggi.run("registry", "rm", f"{address}/in@{attached}")
        assert onggi.out("image", "referrers", f"{address}/in@{index}", "--format", "json") == ""


def test_it_asks_who_comes(onggi: Onggi, other: Onggi, tmp_path: Path) -> None:
    make_image(onggi, "guarded", "guarded")
    certificates = make_certificates(tmp_path / "certificates")
    tls = ("--tls-cert", str(certificates.server_cert), "--tls-key", str(certificates.server_key))
    options = (*tls, "--push", "--user", USER, "--password-stdin")
    with serving(onggi, *options, stdin=PASSWORD) as address:
        other.run("engine", "stop")
        place = tmp_path / "certs.d" / address
        place.mkdir(parents=True)
        settings = other.root / "config.toml"
        settings.write_text(f'[image]\ncertificate_directories = ["{tmp_path}/certs.d"]\n')
        assert "certificate" in other.run("pull", f"{address}/guarded", check=False).stderr
        (place / "ca.crt").write_bytes(certificates.ca.read_bytes())
        said = other.run("pull", f"{address}/guarded", check=False)
        assert said.returncode == 1
        assert f"onggi login {address}" in said.stderr
        login = ("login", "-u", USER, "--password-stdin", address)
        assert other.run(*login, check=False, stdin=b"wrong").returncode == 125
        other.run(*login, stdin=PASSWORD.encode())
        other.run("pull", f"{address}/guarded")
        assert marker_of(other, f"{address}/guarded") == "guarded"
        other.run("push", f"{address}/guarded", f"{address}/back:1")
    assert marker_of(onggi, f"localhost:{address.rpartition(':')[2]}/back:1") == "guarded"
    other.run("engine", "stop")
    settings.unlink()


def test_who_has_no_name_pulls_and_who_has_one_pushes(
    onggi: Onggi, other: Onggi, tmp_path: Path
) -> None:
    """Every client, by tokens that it is told of at its first request."""
    digest = make_image(onggi, "open:1", "open")
    options = ("--push", "--user", USER, "--password-stdin", "--anonymous-pull")
    with serving(onggi, *options, stdin=PASSWORD) as address:
        name, creds = f"{address}/open:1", f"{USER}:{PASSWORD}"
        skopeo("copy", "-q", f"docker://{name}", f"dir:{tmp_path}/pulled")
        back = (f"dir:{tmp_path}/pulled", f"docker://{address}/skopeo:1")
        skopeo("copy", "-q", "--dest-creds", creds, *back)
        other.run("pull", name)
        login = ("login", "-u", USER, "--password-stdin", address)
        assert other.run(*login, check=False, stdin=b"wrong").returncode == 125
        refused = other.run("push", name, f"{address}/onggi:1", check=False)
        assert f"onggi login {address}" in refused.stderr
        other.run(*login, stdin=PASSWORD.encode())
        other.run("push", name, f"{address}/onggi:1")
        other.run("logout", address)
        with peers.podman() as podman:
            podman("pull", "-q", "--tls-verify=false", name)
            podman(
                "push", "-q", "--tls-verify=false", "--creds", creds, name, f"{address}/podman:1"
            )
        with peers.docker() as docker:
            docker("pull", "-q", name)
            docker("tag", name, f"{address}/docker:1")
            docker("--config", str(tmp_path), "login", "-u", USER, "-p", PASSWORD, address)
            docker("--config", str(tmp_path), "push", "-q", f"{address}/docker:1")
        port = address.rpartition(":")[2]
        for client in ("skopeo", "onggi", "podman", "docker"):
            assert marker_of(onggi, f"localhost:{port}/{client}:1") == "open"
        assert digest_in(onggi, f"localhost:{port}/skopeo:1") == digest
