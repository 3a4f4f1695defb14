"""Who we are: shown to whom it concerns, when it is asked for, and no more often than needed."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from onggi.errors import PermissionDenied, Unavailable
from onggi.image.registry.client import Credentials, Keychain
from onggi.image.settings import ImageSettings
from onggi.specs.image import OCI_MANIFEST, digest_of
from registry_double import (
    MANIFEST,
    Call,
    Double,
    Stream,
    client_of,
    described,
    make_certificates,
)

ME = Credentials("me", "hush:hush")
IDENTITY = Credentials("me", identity_token="hush-identity")
BASIC = "Basic " + base64.b64encode(b"me:hush:hush").decode()


def keychain(credentials: Credentials) -> Keychain:
    return lambda _name: credentials


class Tokens:
    """A token server's script: counts what it is asked, hands out `t1`, `t2`, …"""

    def __init__(self, **more: object) -> None:
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self.more = more
        self.status = 200

    def __call__(self, call: Call) -> None:
        query = parse_qs(urlsplit(call.path).query or call.body.decode())
        self.asked.append((call.method, query, call.headers.get("Authorization", "")))
        answer = {"token": f"t{len(self.asked)}", **self.more}
        call.answer(self.status, json.dumps(answer).encode())


def wants_token(realm: str, good: set[str], *, challenge: str = "") -> object:
    """A registry that takes the tokens in `good`."""

    def script(call: Call) -> None:
        if call.headers.get("Authorization", "").removeprefix("Bearer ") in good:
            call.answer(200, MANIFEST, Content_Type=OCI_MANIFEST)
        else:
            scope = challenge or 'scope="repository:a:pull"'
            call.answer(
                401, WWW_Authenticate=f'Bearer realm="{realm}",service="the service",{scope}'
            )

    return script


def double_of(script: object) -> Double:
    assert callable(script)
    return Double(script)


def test_a_password_is_sent_only_when_it_is_asked_for() -> None:
    def script(call: Call) -> None:
        if "Authorization" in call.headers:
            call.answer(200, MANIFEST, Content_Type=OCI_MANIFEST)
        else:
            call.answer(401, WWW_Authenticate='Basic realm="x"')

    with Double(script) as double:
        repository = client_of(double, keychain=keychain(ME)).repository("a")
        repository.manifest("latest")
        repository.manifest("latest")
    sent = [call.headers.get("Authorization") for call in double.seen if call.path != "/v2/"]
    assert sent == [None, BASIC, BASIC]


def test_a_wrong_password_is_sent_once() -> None:
    with Double(lambda call: call.answer(401, WWW_Authenticate="Basic")) as double:
        with pytest.raises(PermissionDenied) as caught:
            client_of(double, keychain=keychain(ME)).repository("a").manifest("latest")
        assert len(double.asked) == 2
    assert "hush" not in str(caught.value)
    assert caught.value.hint == f"onggi login {double.address}"


def test_a_token_is_fetched_once_for_each_scope() -> None:
    tokens = Tokens(expires_in=300)
    with Double(tokens) as server:
        script = wants_token(f"{server.url}/t?tenant=1", {"t1", "t2"})
        with double_of(script) as double:
            repository = client_of(double, keychain=keychain(ME)).repository("a")
            for _ in range(3):
                repository.manifest("latest")
            with pytest.raises(Unavailable):  # the double answers uploads with 200
                repository.upload(described(b"x"), Stream(b"x"))
    first, second = tokens.asked
    assert first == (
        "GET",
        {
            "tenant": ["1"],
            "service": ["the service"],
            "scope": ["repository:a:pull"],
            "account": ["me"],
        },
        BASIC,
    )
    assert second[1]["scope"][0] == "repository:a:pull,push"


def test_without_a_name_a_token_is_asked_for_without_one() -> None:
    tokens = Tokens()
    with Double(tokens) as server, double_of(wants_token(server.url, {"t1"})) as double:
        client_of(double).repository("a").manifest("latest")
    ((method, query, authorization),) = tokens.asked
    assert (method, authorization) == ("GET", "")
    assert "account" not in query


def test_an_identity_token_is_posted_and_an_access_token_taken() -> None:
    tokens = Tokens(token="", access_token="given")
    with Double(tokens) as server, double_of(wants_token(server.url, {"given"})) as double:
        client_of(double, keychain=keychain(IDENTITY)).repository("a").manifest("latest")
    ((method, query, authorization),) = tokens.asked
    assert (method, authorization) == ("POST", "")
    assert query["refresh_token"] == ["hush-identity"]
    assert query["grant_type"] == ["refresh_token"]
    assert query["scope"] == ["repository:a:pull"]


def test_a_refused_token_is_renewed() -> None:
    tokens = Tokens()
    good = {"t1"}
    with Double(tokens) as server, double_of(wants_token(server.url, good)) as double:
        repository = client_of(double).repository("a")
        repository.manifest("latest")
        good.clear()
        good.add("t2")
        repository.manifest("latest")
    assert len(tokens.asked) == 2


def test_a_token_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(expires_in=1)  # less than the least that a token lives
    good = {"t1", "t2", "t3"}
    with Double(tokens) as server, double_of(wants_token(server.url, good)) as double:
        repository = client_of(double).repository("a")
        repository.manifest("latest")
        repository.manifest("latest")
        assert len(tokens.asked) == 1
        monkeypatch.setattr("onggi.image.registry.auth.SHORTEST_LIFE_S", 0)
        monkeypatch.setattr("onggi.image.registry.auth.LONGEST_LIFE_S", 0)
        repository.blob_size_bytes(digest_of(MANIFEST))  # same scope, still good
        assert len(tokens.asked) == 1
        repository._client.peer._auth._tokens.clear()
        repository.manifest("latest")
        repository.manifest("latest")
    assert len(tokens.asked) == 3


def test_refusals_without_end_end() -> None:
    tokens = Tokens()
    with Double(tokens) as server, double_of(wants_token(server.url, set())) as double:
        with pytest.raises(PermissionDenied):
            client_of(double, keychain=keychain(ME)).repository("a").manifest("latest")
        assert len(double.asked) == 3
        assert len(tokens.asked) == 2


def test_a_scope_that_does_not_suffice_is_widened_once() -> None:
    more = 'scope="repository:b:pull",error="insufficient_scope"'
    for good in ({"t2"}, set()):
        tokens = Tokens()
        with Double(tokens) as server:
            first = wants_token(server.url, good)
            later = wants_token(server.url, good, challenge=more)

            def script(call: Call, first: object = first, later: object = later) -> None:
                chosen = later if "Authorization" in call.headers else first
                assert callable(chosen)
                chosen(call)

            with Double(script) as double:
                repository = client_of(double).repository("a")
                if good:
                    repository.manifest("latest")
                else:
                    with pytest.raises(PermissionDenied):
                        repository.manifest("latest")
                assert len(double.asked) == 3
        assert [query["scope"] for _, query, _ in tokens.asked] == [
            ["repository:a:pull"],
            ["repository:a:pull", "repository:b:pull"],
        ]


def test_a_token_server_that_refuses_says_how_to_log_in() -> None:
    tokens = Tokens()
    tokens.status = 401
    with (
        Double(tokens) as server,
        double_of(wants_token(server.url, set())) as double,
        pytest.raises(PermissionDenied, match="our credentials") as caught,
    ):
        client_of(double, keychain=keychain(ME)).check()
    assert caught.value.hint == f"onggi login {double.address}"
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"{}", b"<html>", b'{"token":"a\\r\\nX: y"}', b'{"token":"a b"}', b" " * (1 << 20)],
)
def test_a_token_server_that_talks_nonsense(body: bytes) -> None:
    from onggi.errors import EngineError

    with (
        Double(lambda call: call.answer(200, body)) as server,
        double_of(wants_token(server.url, set())) as double,
        pytest.raises(EngineError),
    ):
        client_of(double).check()
    assert all("Authorization" not in call.headers for call in double.seen)


def test_a_plain_realm_of_an_https_registry_is_refused(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "made")
    with Double(Tokens()) as realm:
        script = wants_token(realm.url, set())
        assert callable(script)
        with Double(script, tls=certificates) as double:
            place = tmp_path / "certs.d" / double.address
            place.mkdir(parents=True)
            (place / "ca.crt").write_bytes(certificates.ca.read_bytes())
            settings = ImageSettings(certificate_directories=(str(tmp_path / "certs.d"),))
            with pytest.raises(PermissionDenied, match="down to plain http"):
                client_of(double, settings, keychain(ME)).check()
    assert realm.seen == []


def test_a_plain_realm_on_a_host_that_is_not_listed_is_refused() -> None:
    with (
        double_of(wants_token("http://192.0.2.1/token", set())) as double,
        pytest.raises(PermissionDenied, match="plain http is not allowed"),
    ):
        client_of(double, keychain=keychain(ME)).check()


@pytest.mark.parametrize(
    "realm", ["", "https://u:p@h/", "gopher://h/", "https://h:99999/", "x" * 9000]
)
def test_a_realm_that_is_none_is_refused(realm: str) -> None:
    with (
        double_of(wants_token(realm, set())) as double,
        pytest.raises((PermissionDenied, Unavailable)),
    ):
        client_of(double, keychain=keychain(ME)).check()
    assert all("Authorization" not in call.headers for call in double.seen)


def test_a_foreign_https_realm_is_asked_as_docker_does(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path / "made")
    tokens = Tokens()
    with Double(tokens, tls=certificates, host="127.0.0.2") as realm:
        place = tmp_path / "certs.d" / realm.address
        place.mkdir(parents=True)
        (place / "ca.crt").write_bytes(certificates.ca.read_bytes())
        settings = ImageSettings(certificate_directories=(str(tmp_path / "certs.d"),))
        with double_of(wants_token(realm.url, {"t1"})) as double:
            client_of(double, settings, keychain(ME)).repository("a").manifest("latest")
    assert tokens.asked[0][2] == BASIC


def test_a_redirected_token_request_leaves_the_password_behind() -> None:
    tokens = Tokens()
    with (
        Double(tokens, host="127.0.0.2") as elsewhere,
        Double(lambda call: call.answer(302, Location=f"{elsewhere.url}/t")) as realm,
        double_of(wants_token(realm.url, {"t1"})) as double,
    ):
        client_of(double, keychain=keychain(ME)).repository("a").manifest("latest")
    assert tokens.asked[0][2] == ""


def test_threads_share_one_token() -> None:
    tokens = Tokens()
    with Double(tokens) as server, double_of(wants_token(server.url, {"t1"})) as double:
        repository = client_of(double).repository("a")
        repository._client.peer.base  # noqa: B018
        found: list[str] = []

        def pull() -> None:
            found.append(repository.manifest("latest")[0].digest)

        threads = [threading.Thread(target=pull) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [digest_of(MANIFEST)] * 8
    assert len(tokens.asked) == 1


def test_nothing_shows_a_secret() -> None:
    tokens = Tokens()
    with Double(tokens) as server, double_of(wants_token(server.url, {"t1"})) as double:
        client = client_of(double, keychain=keychain(ME))
        client.repository("a").manifest("latest")
        auth = client.peer._auth
        for value in (client, client.peer, auth, auth._tokens, auth._who, client.http):
            assert "hush" not in repr(value)
            assert "t1" not in repr(value)
