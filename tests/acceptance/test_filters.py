"""`--filter` of `ps` and `images` with docker's keys."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from acceptance.rig import Onggi, until


@pytest.fixture(scope="module")
def several(onggi: Onggi) -> Iterator[Onggi]:
    """Three containers of two images; the second image stands on the first one's layers."""
    none = ("--network", "none")
    onggi.run("run", "-d", *none, "--name", "web-1", "--label", "role=front", "-v", "data:/data",
              "busybox", "sleep", "1000")  # fmt: skip
    onggi.run("create", *none, "--name", "made", "--label", "role=back", "--expose", "90/udp",
              "busybox", "true")  # fmt: skip
    onggi.run("run", *none, "--name", "failed", "busybox", "sh", "-c", "exit 3", check=False)
    # An image's time has whole seconds.
    made = onggi.out("image", "inspect", "-f", "{{.Created}}", "busybox")
    until(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > made, "a second later")
    onggi.run("commit", "failed", "me/child:2")
    onggi.run("create", *none, "--name", "younger", "me/child:2", "true")
    yield onggi
    onggi.run("rm", "-f", "web-1", "made", "failed", "younger")
    onggi.run("rmi", "me/child:2")
    onggi.run("volume", "rm", "data")


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ("status=running", "web-1"),
        ("status=created status=exited", "failed made younger"),
        ("exited=3", "failed"),
        ("exited=0", ""),
        ("name=web", "web-1"),
        ("name=^/made$", "made"),
        ("name=web-[0-9] name=fail", "failed web-1"),
        ("label=role", "made web-1"),
        ("label=role label=role=front", "web-1"),
        ("label!=role", "failed younger"),
        ("label!=role=front", "failed made younger"),
        ("ancestor=busybox", "failed made web-1 younger"),
        ("ancestor=busybox:latest", "failed made web-1 younger"),
        ("ancestor=me/child:2", "younger"),
        ("ancestor=nobody/has:it", ""),
        ("volume=data", "web-1"),
        ("volume=/data", "web-1"),
        ("volume=other", ""),
        ("network=none", "failed made web-1 younger"),
        ("network=bridge", ""),
        ("before=failed", "made web-1"),
        ("since=made", "failed younger"),
        ("since=web-1 before=failed", "made"),
        ("health=none", "failed made web-1 younger"),
        ("health=healthy", ""),
        ("expose=80-95/udp", "made"),
        ("expose=90/tcp", ""),
        ("publish=80", ""),
        ("is-task=false name=made", "made"),
        ("is-task=true", ""),
    ],
)
def test_containers(several: Onggi, texts: str, names: str) -> None:
    words = [word for text in texts.split() for word in ("--filter", text)]
    found = several.out("ps", "-a", *words, "--format", "{{.Names}}").split()
    assert " ".join(sorted(found)) == names


def test_ids_last_and_latest(several: Onggi) -> None:
    whole = several.out("ps", "-aq", "--no-trunc", "--filter", "name=made")
    assert several.out("ps", "-aq", "--filter", f"id={whole[:8]}") == whole[:12]
    assert several.out("ps", "-l", "--format", "{{.Names}}") == "younger"
    assert several.out("ps", "-n", "2", "--format", "{{.Names}}") == "younger\nfailed"
    assert several.out("ps", "--format", "{{.Names}}") == "web-1"
    assert several.out("ps", "--filter", "exited=3", "--format", "{{.Names}}") == "failed"


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ("reference=busybox", "busybox:latest"),
        ("reference=*/child", "me/child:2"),
        ("reference=*/child:* reference=busy*:latest", "busybox:latest me/child:2"),
        ("before=me/child:2", "busybox:latest"),
        ("since=busybox", "me/child:2"),
        ("dangling=true", ""),
        ("until=24h", ""),
        ("label=role", ""),
        ("label!=role", "busybox:latest me/child:2"),
    ],
)
def test_images(several: Onggi, texts: str, names: str) -> None:
    words = [word for text in texts.split() for word in ("--filter", text)]
    found = several.out("images", *words, "--format", "{{.Repository}}:{{.Tag}}").split()
    assert " ".join(sorted(found)) == names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ps", "-f", "nmae=x"), "this list knows: ancestor, before, exited, expose, health"),
        (("ps", "-f", "name"), "write --filter KEY=VALUE"),
        (("ps", "-f", "status=up"), "there are: created, restarting, running"),
        (("ps", "-f", "health=good"), "there are: starting, healthy, unhealthy, none"),
        (("ps", "-f", "exited=x"), "is no exit code"),
        (("ps", "-f", "before=nobody"), "no such container: nobody"),
        (("ps", "-f", "publish=x"), "write 80, 80/udp or 8000-8080/tcp"),
        (("ps", "-f", "name=(a+)+$"), "too complex"),
        (("images", "-f", "colour=red"), "before, dangling, label, label!, reference"),
        (("images", "-f", "until=soon"), "use 240h"),
        (("images", "-f", "dangling=perhaps"), "there are: true, false"),
        (("events", "--until", "0s", "-f", "type=plugin"), "container, image, volume, network"),
        (("volume", "ls", "-f", "colour=red"), "this list knows"),
        (("network", "ls", "-f", "colour=red"), "this list knows"),
    ],
)
def test_what_is_wrong_names_what_there_is(
    several: Onggi, words: tuple[str, ...], said: str
) -> None:
    done = several.run(*words, check=False)
    assert done.returncode == 125
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
