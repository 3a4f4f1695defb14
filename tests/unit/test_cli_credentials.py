"""Credentials: docker's and podman's files, and helpers that behave and misbehave."""

from __future__ import annotations

import base64
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import EngineError, FailedPrecondition, InvalidArgument
from onggi.faces.cli import credential_helper
from onggi.faces.cli.credential_files import (
    HUB,
    HUB_KEY,
    CredentialFile,
    Credentials,
    entry_for,
    registry_of,
)
from onggi.faces.cli.credentials import Keyring

SECRET = "s3cr:et"

#: A helper that keeps what it is told in a file, as the protocol has it.
HELPER = """#!/bin/sh
kept="$0.kept"
case "$1" in
  get) read -r key
       grep -qs "\\"ServerURL\\": \\"$key\\"" "$kept" && exec cat "$kept"
       echo credentials not found in native keychain; exit 1 ;;
  store) cat > "$kept" ;;
  erase) rm -f "$kept" ;;
esac
"""


class World:
    """A home directory with programs in it, and the keyring of who lives there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.warnings: list[str] = []
        self.environ = {
            "HOME": str(home),
            "PATH": f"{home}/bin:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": f"{home}/run",
        }
        (home / "bin").mkdir()

    @property
    def docker(self) -> Path:
        return self.home / ".docker/config.json"

    def write(self, document: object, path: Path | None = None) -> None:
        path = path or self.docker
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))

    def helper(self, name: str, script: str = HELPER) -> None:
        path = self.home / f"bin/docker-credential-{name}"
        path.write_text(script)
        path.chmod(0o755)

    def keyring(self) -> Keyring:
        return Keyring(self.environ, self.warnings.append)

    def find(self, registry: str) -> tuple[str, str, str] | None:
        found = self.keyring().find(registry)
        return None if found is None else (found.username, found.password, found.identity_token)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def auth(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        (HUB_KEY, HUB),
        ("index.docker.io", HUB),
        ("https://registry-1.docker.io/v2/", HUB),
        ("docker.io", HUB),
        ("https://ghcr.io", "ghcr.io"),
        ("http://host:5000/v2/", "host:5000"),
        ("host:5000", "host:5000"),
    ],
)
def test_keys_mean_registries(key: str, registry: str) -> None:
    assert registry_of(key) == registry


@pytest.mark.parametrize("key", ["ghcr.io", "https://ghcr.io", "http://ghcr.io/v2/", "ghcr.io/v1"])
def test_entries_under_every_key_of_a_registry(world: World, key: str) -> None:
    world.write({"auths": {key: {"auth": auth("me", SECRET)}}})
    assert world.find("ghcr.io") == ("me", SECRET, "")
    assert world.find("other.example") is None


def test_the_exact_key_counts_most(world: World) -> None:
    world.write(
        {"auths": {"https://a.b/v1": {"auth": auth("old", "o")}, "a.b": {"auth": auth("new", "n")}}}
    )
    assert world.find("a.b") == ("new", "n", "")


def test_forms_of_an_entry(world: World) -> None:
    auths = {
        HUB_KEY: {"auth": auth("me", SECRET), "email": "x"},
        "token.io": {"auth": auth("0000", ""), "identitytoken": "tok"},
        "plain.io": {"username": "u", "password": "p"},
        "wrapped.io": {"auth": f"{auth('me', 'x' * 60)[:40]}\n{auth('me', 'x' * 60)[40:]}"},
        "empty.io": {},
    }
    world.write({"auths": auths})
    assert world.find(HUB) == ("me", SECRET, "")
    assert world.find("token.io") == ("0000", "", "tok")
    assert world.find("plain.io") == ("u", "p", "")
    assert world.find("wrapped.io") == ("me", "x" * 60, "")
    assert world.find("empty.io") is None


def test_podmans_files(world: World) -> None:
    run, config = world.home / "run/containers", world.home / ".config/containers"
    world.write({"auths": {"a.io": {"auth": auth("run", "1")}}}, run / "auth.json")
    world.write({"auths": {"a.io": {"auth": auth("config", "2")},
                           "b.io": {"auth": auth("b", "2")},
                           "c.io/team": {"auth": auth("team", "3")},
                           "docker.io": {"auth": auth("hub", "4")}}},
                config / "auth.json")  # fmt: skip
    assert world.find("a.io") == ("run", "1", "")
    assert world.find("b.io") == ("b", "2", "")
    assert world.find(HUB) == ("hub", "4", "")
    assert world.find("c.io") is None  # kept for one repository, not for the registry
    world.write({"auths": {"a.io": {"auth": auth("docker", "0")}}})
    assert world.find("a.io") == ("docker", "0", "")
    world.environ["REGISTRY_AUTH_FILE"] = str(world.home / "own.json")
    assert world.find("b.io") is None
    world.keyring().keep(HUB, Credentials("x", "y"))
    assert list(json.loads((world.home / "own.json").read_text())["auths"]) == ["docker.io"]
    assert world.find(HUB) == ("x", "y", "")


def test_docker_config_elsewhere(world: World) -> None:
    world.environ["DOCKER_CONFIG"] = str(world.home / "d")
    world.keyring().keep("a.io", Credentials("me", SECRET))
    assert world.find("a.io") == ("me", SECRET, "")
    assert (world.home / "d/config.json").exists()


def test_kept_in_the_file_as_docker_does(world: World) -> None:
    document = {"auths": {"old.io": {"auth": auth("a", "b")}}, "detachKeys": "ctrl-e", "é": [1]}
    world.write(document)
    world.docker.chmod(0o644)
    world.keyring().keep(HUB, Credentials("me", SECRET))
    document["auths"] |= {HUB_KEY: {"auth": auth("me", SECRET)}}  # type: ignore[operator]
    text = world.docker.read_text()
    assert json.loads(text) == document
    assert text.startswith('{\n\t"auths": {\n\t\t"old.io"')
    assert stat.S_IMODE(world.docker.stat().st_mode) == 0o600
    assert os.listdir(world.docker.parent) == ["config.json"]
    (warning,) = world.warnings
    assert "unencrypted" in warning
    assert str(world.docker) in warning
    assert SECRET not in warning
    world.keyring().keep("tok.io", Credentials("me", "", "token"))
    assert world.find("tok.io") == ("me", "", "token")


def test_a_new_file_is_its_owners_alone(world: World) -> None:
    before = os.umask(0)
    try:
        world.keyring().keep("a.io", Credentials("me", SECRET))
    finally:
        os.umask(before)
    assert stat.S_IMODE(world.docker.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.docker.parent.stat().st_mode) == 0o700


def test_a_link_stays_a_link(world: World) -> None:
    world.docker.parent.mkdir()
    world.docker.symlink_to("../dotfiles.json")
    world.keyring().keep("a.io", Credentials("me", SECRET))
    assert world.docker.is_symlink()
    assert stat.S_IMODE((world.home / "dotfiles.json").stat().st_mode) == 0o600
    assert world.find("a.io") == ("me", SECRET, "")


def test_root_does_not_take_a_users_file_away(world: World) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a file of another user")
    world.write({})
    os.chown(world.docker, 1234, 1235)
    world.keyring().keep("a.io", Credentials("me", SECRET))
    status = world.docker.stat()
    assert (status.st_uid, status.st_gid) == (1234, 1235)


def test_a_failed_write_leaves_the_file_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write({"auths": {"a.io": {"auth": auth("me", SECRET)}}})
    before = world.docker.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(EngineError, match="writing the credentials"):
        world.keyring().keep("b.io", Credentials("me", SECRET))
    assert world.docker.read_bytes() == before
    assert os.listdir(world.docker.parent) == ["config.json"]


def test_many_at_once_lose_nothing(world: World) -> None:
    names = [f"r{number}.io" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: world.keyring().keep(name, Credentials("u", name)), names))
    assert [world.find(name) for name in names] == [("u", name, "") for name in names]


def test_forget_every_key_of_a_registry(world: World) -> None:
    world.write({"auths": {"a.io": {}, "https://a.io/v1/": {"auth": auth("x", "y")}, "b.io": {}}})
    assert world.keyring().forget("a.io")
    assert json.loads(world.docker.read_text()) == {"auths": {"b.io": {}}}
    before = world.docker.stat().st_mtime_ns
    assert not world.keyring().forget("a.io")
    assert world.docker.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 column 2: not JSON: expecting property name"),
        ('{"auths":\n {"a.io": nul}}', "line 2 column 11: not JSON: expecting value"),
        ("[]", "not a JSON object"),
        ("[" * 100000, "JSON nested too deeply"),
        ('{"auths": []}', "auths is not an object"),
        ('{"credHelpers": "x"}', "credHelpers is not an object"),
        ('{"credsStore": 3}', "credsStore is not a text"),
        ('{"credHelpers": {"a.io": 3}}', "credHelpers.a.io is not a text"),
        ('{"auths": {"https://a.io": 1}}', "auths.https://a.io is not an object"),
        ('{"auths": {"a.io": {"auth": 1}}}', "auths.a.io.auth is not a text"),
        ('{"auths": {"a.io": {"auth": "s3cret!"}}}', "auths.a.io.auth is not base64 of text"),
        ('{"auths": {"a.io": {"auth": "//8="}}}', "auths.a.io.auth is not base64 of text"),
        ('{"auths": {"a.io": {"auth": "czNjcmV0"}}}',
         "auths.a.io.auth is not the base64 of USER:PASSWORD"),
        ('{"auths": {"a.io": {"password": "s3cret\\ud800"}}}',
         "auths.a.io.password has half a character"),
    ],
)  # fmt: skip
def test_mistakes_name_the_file_and_the_place(world: World, text: str, said: str) -> None:
    world.write(text)
    with pytest.raises(FailedPrecondition) as caught:
        world.find("a.io")
    assert str(caught.value).startswith(f"{world.docker}: {said}")
    assert "s3cret" not in str(caught.value)


def test_a_broken_file_is_not_written_over(world: World) -> None:
    world.write("{")
    with pytest.raises(FailedPrecondition):
        world.keyring().keep("a.io", Credentials("u", "p"))
    assert world.docker.read_text() == "{"


def test_a_mistake_elsewhere_in_the_file_harms_nobody(world: World) -> None:
    world.write({"auths": {"bad.io": 1, "a.io": {"auth": auth("me", SECRET)}}})
    assert world.find("a.io") == ("me", SECRET, "")


@given(st.binary(max_size=200))
def test_whatever_the_file_holds(data: bytes) -> None:
    from onggi.faces.cli.credential_files import _document

    try:
        assert isinstance(_document("f", data), dict)
    except FailedPrecondition as error:
        assert error.message.startswith("f: ")


@given(st.text(), st.text())
def test_entries_come_back(username: str, password: str) -> None:
    username = username.replace(":", "").encode("utf-8", "replace").decode()
    password = password.strip("\0").encode("utf-8", "replace").decode()
    file = CredentialFile(
        "f", True, {"auths": {"a.io": entry_for(Credentials(username, password))}}
    )
    found = file.entry("a.io")
    kept = (found.username, found.password) if found else ("", "")
    assert kept == (username, password)


def test_a_helper_keeps_gives_and_forgets(world: World) -> None:
    world.helper("own")
    world.write({"credsStore": "own", "auths": {}})
    assert world.find(HUB) is None
    world.keyring().keep(HUB, Credentials("me", SECRET))
    assert json.loads(world.docker.read_text())["auths"] == {HUB_KEY: {}}
    assert world.warnings == []
    assert world.find(HUB) == ("me", SECRET, "")
    assert world.find("a.io") is None
    assert world.keyring().forget(HUB)
    assert world.find(HUB) is None
    assert json.loads(world.docker.read_text())["auths"] == {}
    world.keyring().keep("a.io", Credentials("me", "", "tok"))
    assert world.find("a.io") == ("", "", "tok")
    kept = json.loads((world.home / "bin/docker-credential-own.kept").read_text())
    assert kept == {"ServerURL": "a.io", "Username": "<token>", "Secret": "tok"}


def test_one_registry_may_have_a_helper_or_none(world: World) -> None:
    world.helper("own")
    world.helper("all", "#!/bin/sh\nexit 3\n")
    world.write({"credsStore": "all", "credHelpers": {"https://a.io": "own", "plain.io": ""}})
    world.keyring().keep("a.io", Credentials("me", SECRET))
    assert world.find("a.io") == ("me", SECRET, "")
    world.keyring().keep("plain.io", Credentials("me", SECRET))
    assert json.loads(world.docker.read_text())["auths"]["plain.io"] == {"auth": auth("me", SECRET)}


def test_what_was_in_the_file_before_the_helper_still_counts(world: World) -> None:
    world.helper("own")
    world.write({"credsStore": "own", "auths": {"a.io": {"auth": auth("me", SECRET)}}})
    assert world.find("a.io") == ("me", SECRET, "")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "docker-credential-bad is not in PATH"),
        ("#!/bin/sh\necho s3cret >&1\nexit 1\n", "get failed with code 1"),
        ("#!/bin/sh\nkill -9 $$\n", "get failed with code -9"),
        ("#!/bin/sh\necho not json s3cret\n", "not JSON with Username and Secret"),
        ("#!/bin/sh\necho '[]'\n", "not JSON with Username and Secret"),
        ('#!/bin/sh\necho \'{"Username": 3, "Secret": "s3cret"}\'\n', "not JSON with"),
        ('#!/bin/sh\necho \'{"Username": "u", "Secret": "s3cret\\ud800"}\'\n', "not JSON with"),
        ("#!/bin/sh\nexec 0<&-\nyes s3cret\n", "answers with more than"),
        ("#!/bin/no/such\n", "is not in PATH"),
    ],
)
def test_helpers_that_fail_are_a_warning(world: World, script: str | None, said: str) -> None:
    if script is not None:
        world.helper("bad", script)
    world.write({"credsStore": "bad"})
    assert world.find("a.io") is None
    (warning,) = world.warnings
    assert said in warning
    assert "s3cret" not in warning


def test_a_slow_helper_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_helper, "TIMEOUT_S", 0.2)
    world.helper("slow", f"#!/bin/sh\necho $$ > {world.home}/pid\nexec sleep 1000\n")
    world.write({"credsStore": "slow"})
    assert world.find("a.io") is None
    assert "has not answered" in world.warnings[0]
    pid = int((world.home / "pid").read_text())
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a b", "é", "a\nb", "a;b"])
def test_names_of_helpers_are_checked(name: str) -> None:
    with pytest.raises(InvalidArgument, match="not the name of a credential helper"):
        credential_helper.get(name, "a.io", {})


def test_keeping_with_a_helper_that_fails_is_an_error(world: World) -> None:
    world.helper("bad", "#!/bin/sh\ncat\nexit 1\n")
    world.write({"credsStore": "bad"})
    with pytest.raises(FailedPrecondition) as caught:
        world.keyring().keep("a.io", Credentials("me", SECRET))
    assert SECRET not in str(caught.value)
    with pytest.raises(FailedPrecondition):
        world.keyring().forget("a.io")


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(Credentials("me", SECRET, SECRET))


def test_requests_hold_what_is_known(world: World) -> None:
    world.write({"auths": {"a.io": {"auth": auth("me", SECRET)}}})
    found = world.keyring().requests(["a.io", "b.io"])
    assert found == {"a.io": {"username": "me", "password": SECRET}}
