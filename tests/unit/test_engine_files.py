"""/etc/hosts and /etc/resolv.conf, and `--change` of an image's configuration."""

from __future__ import annotations

import pytest

from onggi.errors import InvalidArgument
from onggi.image.changes import apply_changes
from onggi.network.files import hosts, resolv_conf
from onggi.specs.image import ContainerConfig, Healthcheck

HOST = "# a comment\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a.example\noptions ndots:2\n"


def test_hosts_has_loopback_the_extras_and_the_container() -> None:
    lines = hosts("box", ("db:10.0.0.5", "six=[fd00::1]", "old:fd00::2")).splitlines()
    assert "127.0.0.1\tlocalhost" in lines
    assert lines[-4:] == ["10.0.0.5\tdb", "fd00::1\tsix", "fd00::2\told", "127.0.1.1\tbox"]
    assert hosts("box", (), ("172.16.0.2",)).endswith("172.16.0.2\tbox\n")


@pytest.mark.parametrize("entry", ["", "db", "db:", ":10.0.0.1", "db:nowhere", "db:10.0.0.256"])
def test_wrong_extras_are_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid --add-host .* — write NAME:ADDRESS"):
        hosts("box", (entry,))


def test_the_hosts_resolver_is_kept_where_nobody_names_one() -> None:
    assert resolv_conf(HOST, (), (), (), isolated=False) == HOST.removeprefix("# a comment\n")
    text = resolv_conf(HOST, ("1.1.1.1",), ("b", "c"), ("rotate",), isolated=False)
    assert text == "nameserver 1.1.1.1\nsearch b c\noptions rotate\n"
    assert resolv_conf(HOST, (), (".",), (), isolated=False) == (
        "nameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:2\n"
    )


def test_who_cannot_reach_the_hosts_resolver_is_not_given_it() -> None:
    assert resolv_conf(HOST, (), (), (), isolated=True) == ""
    assert resolv_conf(HOST, ("1.1.1.1",), (), (), isolated=True) == "nameserver 1.1.1.1\n"


def test_changes_are_applied_in_order() -> None:
    config = apply_changes(
        ContainerConfig(env=("A=0", "Z=1"), labels={"old": "1"}),
        [
            'CMD ["echo", "a b"]', "ENTRYPOINT /bin/run --fast", 'ENV A=1 B="two words"',
            "ENV C three words", "EXPOSE 80 53/udp", "LABEL k=v", "USER 1000:2", "WORKDIR /w",
            'VOLUME ["/a b", "/c"]', "VOLUME /d /e", "STOPSIGNAL SIGINT", "cmd ls",
        ],
    )  # fmt: skip
    assert config.cmd == ("/bin/sh", "-c", "ls")
    assert config.entrypoint == ("/bin/sh", "-c", "/bin/run --fast")
    assert config.env == ("A=1", "Z=1", "B=two words", "C=three words")
    assert config.exposed_ports == {"80/tcp": {}, "53/udp": {}}
    assert config.labels == {"old": "1", "k": "v"}
    assert (config.user, config.working_dir, config.stop_signal) == ("1000:2", "/w", "SIGINT")
    assert list(config.volumes or ()) == ["/a b", "/c", "/d", "/e"]


@pytest.mark.parametrize(
    "change",
    [
        "",
        "CMD",
        "FROM x",
        "RUN ls",
        "ENV A='",
        "ENV A=1 B",
        "LABEL k",
        "LABEL ''",
        "ENV ''",
        "ENV =x",
    ],
)
def test_wrong_changes_are_refused(change: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid --change"):
        apply_changes(ContainerConfig(), [change])


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("NONE", Healthcheck(test=("NONE",))),
        ("CMD test -e /ok", Healthcheck(test=("CMD-SHELL", "test -e /ok"))),
        ('CMD ["test", "-e", "/ok"]', Healthcheck(test=("CMD", "test", "-e", "/ok"))),
        ("--interval=1m30s --timeout=500ms --start-period=0.5h --retries=4 CMD x",
         Healthcheck(test=("CMD-SHELL", "x"), interval=90 * 10**9, timeout=5 * 10**8,
                     start_period=1800 * 10**9, retries=4)),
    ],
)  # fmt: skip
def test_a_health_check_of_an_image(line: str, check: Healthcheck) -> None:
    assert apply_changes(ContainerConfig(), [f"HEALTHCHECK {line}"]).healthcheck == check


@pytest.mark.parametrize(
    "line",
    ["CMD", "NONE x", "x", "--interval=1 CMD x", "--interval=x1s CMD x", "--every=1s CMD x",
     "--retries=-1 CMD x", "--retries=1 NONE", "--interval=1s"],
)  # fmt: skip
def test_no_health_check_of_an_image(line: str) -> None:
    with pytest.raises(InvalidArgument):
        apply_changes(ContainerConfig(), [f"HEALTHCHECK {line}"])
