"""Images from and to registries by the command line: docker-registry open, with passwords, with
tokens and with TLS; platforms, names, mirrors. What arrived is compared with what was sent, byte
for byte, on both disks; and it runs."""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import registry_rig
from acceptance import rig
from acceptance.registry_peers_rig import (
    add_index,
    blobs_of,
    config_digest,
    config_of,
    digest_in,
    digest_of,
    graph,
    in_layout,
    in_registry,
    in_store,
    make_image,
    marker_of,
    serving,
    skopeo,
    tag_in_registry,
)
from acceptance.rig import Onggi
from registry_double import make_certificates
from registry_rig import PASSWORD, USER, Rig

#: A machine that this one is not.
ELSEWHERE = "s390x" if platform.machine() != "s390x" else "amd64"
LOGIN = ("login", "-u", USER, "--password-stdin")


class Registries(NamedTuple):
    """docker-registry four times; `certificate_directory` trusts the one with TLS."""

    plain: Rig
    password: Rig
    tokens: Rig
    tls: Rig
    certificate_directory: Path


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registries]:
    """All of them, for the module."""
    registry_rig.need("openssl", "openssl")
    place = tmp_path_factory.mktemp("registries")
    certificates = make_certificates(place / "certificates")
    with contextlib.ExitStack() as stack:
        signer = stack.enter_context(registry_rig.TokenServer(place / "signer"))
        start = registry_rig.start
        plain = stack.enter_context(start(place / "plain"))
        password = stack.enter_context(start(place / "password", password=True))
        tokens = stack.enter_context(start(place / "tokens", tokens=signer))
        tls = stack.enter_context(start(place / "tls", password=True, tls=certificates))
        trusted = place / "certs.d" / tls.address
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(certificates.ca.read_bytes())
        yield Registries(plain, password, tokens, tls, place / "certs.d")


def configuration(registries: Registries) -> str:
    """For both engines: names of all kinds lead to the registries above."""
    plain = registries.plain.address
    return f"""
[image]
default_registry = "{plain}"
certificate_directories = ["{registries.certificate_directory}"]
[image.aliases]
nick = "{plain}/named/by-alias"
[image.registries."far.invalid"]
mirrors = ["127.0.0.1:1", "{plain}/mirror-of-far"]
[image.registries."half.invalid"]
location = "{plain}/home"
mirrors = ["{plain}/mirror-of-half"]
"""


@pytest.fixture(scope="module")
def onggi(tmp_path_factory: pytest.TempPathFactory, registries: Registries) -> Iterator[Onggi]:
    """The engine that makes images and pushes them."""
    with configured(tmp_path_factory.mktemp("og") / "root", configuration(registries)) as engine:
        yield engine


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, registries: Registries) -> Iterator[Onggi]:
    """The engine that pulls; for `other`."""
    with configured(tmp_path_factory.mktemp("og") / "root", configuration(registries)) as engine:
        yield engine


@pytest.fixture
def other(second: Onggi) -> Onggi:
    """The engine that pulls, and has nothing: each byte has to come."""
    second.run("image", "prune", "-a", "-f")
    assert blobs_of(second) == []
    return second


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where credentials go: nobody is logged in."""
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "docker"


@contextlib.contextmanager
def configured(root: Path, settings: str) -> Iterator[Onggi]:
    """An engine with a configuration file."""
    root.mkdir(parents=True)
    (root / "config.toml").write_text(settings)
    with rig.engine(root) as engine:
        yield engine


def refused(onggi: Onggi, *words: str, stdin: bytes = b"") -> str:
    """What a command says when it fails."""
    done = onggi.run(*words, check=False, stdin=stdin)
    assert done.returncode == (1 if words[0] == "pull" else 125), done  # one of many: 1
    assert not done.stdout
    return done.stderr


# -- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "password", "tokens", "tls"])
def test_pushed_here_pulled_there(
    registries: Registries, onggi: Onggi, other: Onggi, kind: str
) -> None:
    registry: Rig = getattr(registries, kind)
    name = f"{registry.address}/team/app"
    if kind != "plain":
        onggi.run(*LOGIN, registry.address, stdin=PASSWORD.encode())
    digest = make_image(onggi, f"app-{kind}", kind)
    said = onggi.out("push", f"app-{kind}", f"{name}:1")
    assert said == f"{name}:1: digest: {digest} size: {len(in_store(onggi)(digest))}"

    sent = graph(digest, in_store(onggi))
    assert tag_in_registry(registry, "team/app", "1") == digest
    assert graph(digest, in_registry(registry)) == sent

    *_, digest_line, status, pulled = other.out("pull", f"{name}:1").splitlines()
    assert (digest_line, pulled) == (f"Digest: {digest}", f"{name}:1")
    assert status == f"Status: Downloaded newer image for {name}:1"
    assert graph(digest, in_store(other)) == sent
    assert marker_of(other, f"{name}:1") == kind
    assert "up to date" in other.out("pull", f"{name}:1")

    other.run("rmi", f"{name}:1")
    assert blobs_of(other) == []
    other.run("pull", "-q", f"{name}@{digest}")
    assert graph(digest, in_store(other)) == sent
    assert marker_of(other, f"{name}@{digest}") == kind


def test_another_tag_and_a_digest_that_is_not_there(
    registries: Registries, onggi: Onggi, other: Onggi
) -> None:
    name = f"{registries.plain.address}/team/tags"
    digests = {}
    for tag in ("1", "2", "3"):
        digests[tag] = make_image(onggi, f"{name}:{tag}", f"tag {tag}")
    onggi.run("push", "-a", name)
    assert sorted(onggi.out("registry", "tags", name).split()) == ["1", "2", "3"]
    assert "team/tags" in onggi.out("registry", "ls", registries.plain.address).split()
    other.run("pull", "-a", name)
    for tag, digest in digests.items():
        assert digest_in(other, f"{name}:{tag}") == digest
        assert graph(digest, in_store(other)) == graph(digest, in_store(onggi))
        assert marker_of(other, f"{name}:{tag}") == f"tag {tag}"

    assert "team/tags:4" in refused(other, "pull", f"{name}:4")
    nothing = f"{name}@sha256:{'0' * 64}"
    assert nothing.rpartition("@")[2] in refused(other, "pull", nothing)

    onggi.run("registry", "rm", f"{name}@{digests['2']}")
    assert onggi.run("registry", "rm", f"{name}@{digests['2']}", check=False).returncode == 1
    assert "2" in refused(onggi, "pull", f"{name}:2")
    other.run("pull", f"{name}:3")


# -- who may ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["password", "tls"])
def test_nobody_is_sent_to_login(registries: Registries, onggi: Onggi, kind: str) -> None:
    address = getattr(registries, kind).address
    for words in (("pull", f"{address}/a:1"), ("push", "busybox", f"{address}/a:1"),
                  ("registry", "tags", f"{address}/a"), ("run", f"{address}/a:1")):  # fmt: skip
        assert f"onggi login {address}" in refused(onggi, *words)


def test_login_and_logout(registries: Registries, onggi: Onggi, home: Path) -> None:
    address = registries.password.address
    file = home / "config.json"
    assert address in refused(onggi, *LOGIN, address, stdin=b"wrong")
    assert not file.exists()

    onggi.run("push", "busybox", f"{registries.plain.address}/open:1")
    said = onggi.run(*LOGIN, address, stdin=PASSWORD.encode())
    assert said.stdout == "Login Succeeded\n"
    assert PASSWORD not in said.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    onggi.run("push", "busybox", f"{address}/mine:1")
    # skopeo understands what we wrote, and we understand what skopeo writes.
    raw = skopeo("inspect", "--raw", "--authfile", str(file), f"docker://{address}/mine:1")
    assert digest_of(raw.encode()) == digest_in(onggi, "busybox")

    assert address in onggi.out("logout", address)
    assert address not in file.read_text()
    assert "onggi login" in refused(onggi, "pull", f"{address}/mine:1")
    skopeo("login", "--authfile", str(file), "-u", USER, "-p", PASSWORD, "--tls-verify=false",
           address)  # fmt: skip
    onggi.run("pull", f"{address}/mine:1")
    onggi.run("rmi", f"{address}/mine:1")


def test_credentials_of_one_copy(registries: Registries, onggi: Onggi, home: Path) -> None:
    name = f"docker://{registries.password.address}/once:1"
    digest = onggi.out("image", "copy", "-q", "--dest-creds", f"{USER}:{PASSWORD}",
                       "store:busybox", name)  # fmt: skip
    assert tag_in_registry(registries.password, "once", "1") == digest
    assert "login" in refused(onggi, "image", "copy", name, "store:x")
    assert not home.exists()


def test_an_authority_that_nobody_vouches_for(registries: Registries, onggi: Onggi) -> None:
    # The same server under a name for which there is no certificate.
    port = registries.tls.address.rpartition(":")[2]
    onggi.run(*LOGIN, registries.tls.address, stdin=PASSWORD.encode())
    said = refused(onggi, "pull", f"localhost:{port}/team/app:1")
    assert "certificate" in said
    assert "certs.d" in said


def test_plain_text_only_where_it_is_allowed(tmp_path: Path) -> None:
    """A network of the test's own, where 10.99.0.1 is this machine but no loopback address."""
    with other_network() as enter, network_engine(tmp_path / "og", enter) as onggi:
        onggi.import_busybox()
        with serving(onggi, "--insecure", host="10.99.0.1") as address:
            said = refused(onggi, "pull", f"{address}/busybox")
            onggi.run("engine", "stop")
            (onggi.root / "config.toml").write_text(
                f'[image]\ninsecure_registries = ["{address}"]\n'
            )
            assert onggi.out("pull", "-q", f"{address}/busybox") == f"{address}/busybox:latest"
    assert address in said
    assert "insecure_registries" in said


@contextlib.contextmanager
def other_network() -> Iterator[tuple[str, ...]]:
    """The words that run a command in a network namespace with 127.0.0.1 and 10.99.0.1."""
    script = "ip link set lo up && ip addr add 10.99.0.1/24 dev lo && echo up && exec cat"
    words = ["unshare", "--net", "busybox", "sh", "-c", script]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin and holder.stdout
    try:
        assert holder.stdout.readline() == b"up\n"
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait(10)


@contextlib.contextmanager
def network_engine(root: Path, enter: tuple[str, ...]) -> Iterator[Onggi]:
    """An engine that lives in that network."""

    class Inside(Onggi):
        def words(self, *arguments: str) -> list[str]:
            return [*enter, *super().words(*arguments)]

    onggi = Inside(root)
    try:
        yield onggi
    finally:
        onggi.run("engine", "stop")
        rig.until(lambda: not rig.parent_cgroups(onggi), "the engine's own cgroup is gone")


# -- run pulls -------------------------------------------------------------------------------


def test_run_brings_what_is_missing(registries: Registries, onggi: Onggi, other: Onggi) -> None:
    name = f"{registries.plain.address}/team/run:1"
    make_image(onggi, name, "old")
    onggi.run("push", name)
    assert name in refused(other, "run", "--rm", "--pull", "never", name)
    assert blobs_of(other) == []
    done = other.run("run", "--rm", name)
    assert done.stdout == "old"
    make_image(onggi, name, "new")
    onggi.run("push", name)
    assert other.out("run", "--rm", name) == "old"
    assert other.out("run", "--rm", "--pull", "missing", name) == "old"
    assert other.out("run", "--rm", "--pull", "never", name) == "old"
    assert other.out("run", "--rm", "--pull", "always", name) == "new"
    assert other.out("run", "--rm", "--pull", "never", name) == "new"
    assert "sometimes" in other.run("run", "--pull", "sometimes", name, check=False).stderr


def test_a_limit_spares_what_has_just_come(
    registries: Registries, onggi: Onggi, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Even when it alone is more than the limit: else a run would lose the image it has pulled."""
    names = [f"{registries.plain.address}/team/limit:{number}" for number in (1, 2)]
    for name in names:
        make_image(onggi, name, name)
        onggi.run("push", name)
    place = tmp_path_factory.mktemp("og") / "root"
    with configured(place, "[image]\nstore_limit_bytes = 1\n") as small:
        for name in names:
            assert small.out("run", "--rm", name) == name

            def only_this(name: str = name) -> bool:
                return small.out("images", "--format", "{{.Repository}}:{{.Tag}}") == name

            rig.until(only_this, "the others are gone and this one is there")


# -- platforms -------------------------------------------------------------------------------


class Multi(NamedTuple):
    """An image for two kinds of machines, in the registry under `name`; digests."""

    name: str
    layout: Path
    root: str
    here: str
    there: str


@pytest.fixture(scope="module")
def multi(registries: Registries, onggi: Onggi, tmp_path_factory: pytest.TempPathFactory) -> Multi:
    """Written by hand as a layout, brought to the registry by skopeo."""
    layout = tmp_path_factory.mktemp("multi") / "layout"
    here = make_image(onggi, "for-here", "two platforms")
    onggi.run("image", "copy", "store:for-here", f"oci:{layout}:here")
    index, here, there = add_index(layout, here, ELSEWHERE)
    name = f"{registries.plain.address}/team/multi:1"
    skopeo("copy", "-q", "--all", f"oci:{layout}:multi", f"docker://{name}")
    assert tag_in_registry(registries.plain, "team/multi", "1") == index
    return Multi(name, layout, index, here, there)


def test_an_index_gives_what_runs_here(multi: Multi, other: Onggi) -> None:
    other.run("pull", multi.name)
    assert digest_in(other, multi.name) == multi.root
    sent = graph(multi.here, in_layout(multi.layout))
    assert graph(multi.here, in_store(other)) == sent
    assert other.inspect(multi.name)["Id"] == config_digest(multi.here, in_layout(multi.layout))
    with pytest.raises(FileNotFoundError):
        in_store(other)(multi.there)
    assert marker_of(other, multi.name) == "two platforms"


def test_one_platform_of_an_index(multi: Multi, other: Onggi) -> None:
    other.run("pull", "--platform", f"linux/{ELSEWHERE}", multi.name)
    assert digest_in(other, multi.name) == multi.there
    assert other.inspect(multi.name)["Architecture"] == ELSEWHERE
    sent = graph(multi.there, in_layout(multi.layout))
    assert graph(multi.there, in_store(other)) == sent
    assert ELSEWHERE in refused(other, "run", "--rm", multi.name)
    said = refused(other, "pull", "--platform", "linux/riscv64", multi.name)
    assert f"linux/{ELSEWHERE}" in said
    assert "--platform" in said


def test_every_platform_of_an_index(
    registries: Registries, multi: Multi, onggi: Onggi, other: Onggi
) -> None:
    other.run("pull", "--all-platforms", multi.name)
    sent = graph(multi.root, in_layout(multi.layout))
    assert multi.there in sent
    assert graph(multi.root, in_store(other)) == sent
    assert marker_of(other, multi.name) == "two platforms"
    again = f"{registries.plain.address}/team/again:1"
    assert multi.root in other.out("push", "--all-platforms", multi.name, again)
    assert tag_in_registry(registries.plain, "team/again", "1") == multi.root
    assert json.loads(skopeo("inspect", "--raw", f"docker://{again}")) == json.loads(
        sent[multi.root]
    )
    # The index by its digest; one of its members by its own.
    repository = again.rpartition(":")[0]
    onggi.run("pull", "-q", f"{repository}@{multi.root}")
    assert marker_of(onggi, f"{repository}@{multi.root}") == "two platforms"
    onggi.run("rmi", "-f", f"{repository}@{multi.root}")
    found = config_of(multi.there, in_registry(registries.plain))
    assert found["architecture"] == ELSEWHERE


def test_a_copy_keeps_all_or_takes_one(multi: Multi, onggi: Onggi, tmp_path: Path) -> None:
    source = f"docker://{multi.name}"
    layout = tmp_path / "layout"
    copied = ("image", "copy", "-q", source)
    assert onggi.out(*copied, f"oci:{layout}:all", "--all") == multi.root
    assert graph(multi.root, in_layout(layout)) == graph(multi.root, in_layout(multi.layout))
    assert onggi.out(*copied, f"oci:{tmp_path}/host:one") == multi.here
    words = ("--platform", f"linux/{ELSEWHERE}")
    assert onggi.out(*copied, *words, f"oci:{tmp_path}/there:one") == multi.there


# -- names -----------------------------------------------------------------------------------


def test_short_names_and_aliases(registries: Registries, onggi: Onggi, other: Onggi) -> None:
    address = registries.plain.address
    digest = make_image(onggi, "short", "short")
    onggi.run("push", "short")  # to the default registry, which the configuration names
    assert tag_in_registry(registries.plain, "short", "latest") == digest
    onggi.run("push", "short", f"{address}/named/by-alias:2")
    assert other.out("pull", "-q", "nick:2") == f"{address}/named/by-alias:2"
    assert other.out("run", "--rm", "nick:2") == "short"
    assert other.out("run", "--rm", "short") == "short"
    assert other.out("run", "--rm", f"{address}/short") == "short"


def test_whole_names_where_the_policy_wants_them(
    registries: Registries, tmp_path_factory: pytest.TempPathFactory, onggi: Onggi
) -> None:
    make_image(onggi, "strict", "strict")
    whole = f"{registries.plain.address}/strict:latest"
    onggi.run("push", "strict", whole)
    settings = f"""
[image]
short_names = "refuse"
aliases = {{ known = "{registries.plain.address}/strict" }}
"""
    with configured(tmp_path_factory.mktemp("og") / "root", settings) as strict:
        said = refused(strict, "pull", "strict")
        assert "docker.io/library/strict" in said
        assert "alias" in said
        assert strict.out("run", "--rm", "known") == "strict"
        assert strict.out("run", "--rm", whole) == "strict"


def test_mirrors_come_first_and_the_registry_last(
    registries: Registries, onggi: Onggi, other: Onggi
) -> None:
    address = registries.plain.address
    mirrored = make_image(onggi, "mirrored", "from the mirror")
    onggi.run("push", "mirrored", f"{address}/mirror-of-far/team/app:1")
    onggi.run("push", "mirrored", f"{address}/mirror-of-half/team/both:1")
    at_home = make_image(onggi, "at-home", "from the registry")
    for repository in ("both", "only"):
        onggi.run("push", "at-home", f"{address}/home/team/{repository}:1")

    # Nobody listens where the first mirror should be: the second one has it.
    assert other.out("pull", "-q", "far.invalid/team/app:1") == "far.invalid/team/app:1"
    assert digest_in(other, "far.invalid/team/app:1") == mirrored
    assert marker_of(other, "far.invalid/team/app:1") == "from the mirror"
    assert other.out("run", "--rm", "half.invalid/team/both:1") == "from the mirror"
    assert other.out("run", "--rm", "half.invalid/team/only:1") == "from the registry"
    assert digest_in(other, "half.invalid/team/only:1") == at_home
    # Writing is for the registry itself.
    other.run("tag", "half.invalid/team/only:1", "half.invalid/team/pushed:1")
    other.run("push", "half.invalid/team/pushed:1")
    assert tag_in_registry(registries.plain, "home/team/pushed", "1") == at_home
    assert "far.invalid" in refused(other, "pull", "far.invalid/team/nowhere:1")


# -- what is attached ------------------------------------------------------------------------


def test_attached_files(registries: Registries, onggi: Onggi, tmp_path: Path) -> None:
    name = f"{registries.plain.address}/team/attached:1"
    digest = make_image(onggi, name, "attached")
    onggi.run("push", name)
    file = tmp_path / "bill"
    file.write_bytes(b"what is in it")
    words = ("image", "attach", "--media-type", "text/plain", "--annotation", "who=me")
    one = onggi.out(*words, "--type", "example/bill", name, str(file))
    two = onggi.out(*words, "--type", "example/seal", name, str(file))
    rows = onggi.out("image", "referrers", name, "--format", "json").splitlines()
    found = {row["Digest"]: row for row in map(json.loads, rows)}
    assert {key: row["ArtifactType"] for key, row in found.items()} == {
        one: "example/bill",
        two: "example/seal",
    }
    only = onggi.out("image", "referrers", name, "--type", "example/seal", "--format", "json")
    assert json.loads(only)["Digest"] == two
    # As the registry has it: by the tag that stands in for the call it does not know.
    listed = json.loads(
        in_registry(registries.plain)(
            tag_in_registry(registries.plain, "team/attached", digest.replace(":", "-"))
        )
    )
    assert {each["digest"] for each in listed["manifests"]} == {one, two}
    manifest = json.loads(in_registry(registries.plain)(one))
    assert manifest["subject"]["digest"] == digest
    assert manifest["annotations"] == {"who": "me"}
    assert in_registry(registries.plain)(manifest["layers"][0]["digest"]) == file.read_bytes()
    assert "artifact" in refused(onggi, "pull", f"{name.rpartition(':')[0]}@{one}")


def test_all_tags_pass_over_what_is_no_image(
    registries: Registries, onggi: Onggi, other: Onggi, tmp_path: Path
) -> None:
    name = f"{registries.plain.address}/team/mixed"
    onggi.run("push", "busybox", f"{name}:1")
    file = tmp_path / "bill"
    file.write_bytes(b"what is in it")
    bill = onggi.out("image", "attach", "--type", "example/bill", f"{name}:1", str(file))
    onggi.run("image", "copy", f"docker://{name}@{bill}", f"docker://{name}:bill")
    done = other.run("pull", "-aq", name)
    assert done.stdout == f"{name}:1\n"
    assert f"warning: {name}:bill was passed over: " in done.stderr
    assert "is an artifact (example/bill), not an image" in done.stderr
    other.run("rmi", f"{name}:1")
    # Nothing but artifacts is an error, as one of them alone is.
    only = f"{registries.plain.address}/team/bills"
    onggi.run("image", "copy", f"docker://{name}@{bill}", f"docker://{only}:bill")
    assert "is an artifact" in refused(other, "pull", "-a", only)


def test_login_where_nobody_asks(registries: Registries, onggi: Onggi, home: Path) -> None:
    """As with docker, a registry that is open to all takes any password; but we say so."""
    address = registries.plain.address
    said = onggi.run(*LOGIN, address, stdin=b"anything")
    assert said.stdout == "Login Succeeded\n"
    assert f"{address} lets everybody in: the password is kept, but not checked" in said.stderr
    assert address in (home / "config.json").read_text()
    onggi.run("logout", address)
