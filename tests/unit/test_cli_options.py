"""Reading command lines: docker's ways to write options, and one-line refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import InvalidArgument
from onggi.faces.cli import catalogue, environment, mountflags, suggest
from onggi.faces.cli.options import BadValueError, Option, Parsed, parse
from onggi.faces.cli.runflags import ATTACH, CONTAINER, DETACH
from onggi.faces.cli.values import size_bytes

_TABLE = (
    Option("-i --interactive", "in"),
    Option("-t --tty", "tty"),
    Option("-e --env", "env", value="V", many=True),
    Option("-m --memory", "memory", value="SIZE", parse=size_bytes),
    Option("--name", "name", value="NAME"),
)


def read(*argv: str, interspersed: bool = False) -> Parsed:
    return parse("run", _TABLE, argv, interspersed=interspersed)


@pytest.mark.parametrize(
    "argv",
    [("-it", "-m", "1k", "x"), ("-itm1k", "x"), ("-ti", "--memory=1k", "x"),
     ("-i", "--tty", "--memory", "1k", "--", "x"), ("-i=true", "-t", "-m=1k", "x"),
     ("--tty=1", "--interactive=T", "-m", "5", "-m", "1k", "x")],
)  # fmt: skip
def test_ways_to_say_the_same(argv: tuple[str, ...]) -> None:
    parsed = read(*argv)
    assert parsed.on("interactive")
    assert parsed.on("tty")
    assert parsed.get("memory") == 1024
    assert parsed.arguments == ["x"]


def test_options_after_the_image_belong_to_the_command() -> None:
    parsed = read("-i", "img", "ls", "-t", "--", "-x")
    assert parsed.arguments == ["img", "ls", "-t", "--", "-x"]
    assert not parsed.on("tty")
    assert read("img", "-t", interspersed=True).on("tty")


def test_collecting_and_last_wins() -> None:
    parsed = read("-e", "A=1", "-eB=2", "--env=C", "--name", "a", "--name=b")
    assert parsed.many("env") == ["A=1", "B=2", "C"]
    assert parsed.text("name") == "b"


def test_off_again() -> None:
    assert not read("-t", "--tty=false", "x").on("tty")


@pytest.mark.parametrize(
    ("argv", "words"),
    [(("--memroy", "1"), "did you mean --memory"), (("-z",), "no option -z"),
     (("-m", "12x"), 'invalid value "12x" for -m: not a size; write for instance 64m'),
     (("--name",), "--name needs a value"), (("--tty=perhaps",), "neither true nor false"),
     (("-itz",), "-z")],
)  # fmt: skip
def test_refusals_are_one_line(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        read(*argv)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_help_anywhere() -> None:
    assert read("-i", "--help").help
    assert not read("img", "--help").help
    # -h is --hostname where a verb has it, help elsewhere.
    assert read("-h").help
    assert not parse("run", CONTAINER, ["-h", "x", "img"], interspersed=False).help


def test_no_table_has_a_name_twice() -> None:
    for name, entry in catalogue.entries().items():
        verb = catalogue.load(entry)
        names = [n for option in verb.options for n in option.names]
        assert len(names) == len(set(names)), name
        keys = [option.key for option in verb.options]
        assert len(keys) == len(set(keys)), name


def test_every_documented_run_flag_is_there() -> None:
    known = {n for option in (*DETACH, *CONTAINER, *ATTACH) for n in option.names}
    wanted = (
        "-d -i -t --rm --name -e --env-file -v --mount --tmpfs --network --net --hostname -h -w -u "
        "--group-add --entrypoint --read-only --init -m --memory-swap --memory-reservation "
        "--memory-swappiness --oom-kill-disable --oom-score-adj --cpus --cpu-shares -c "
        "--cpu-period --cpu-quota --cpuset-cpus --cpuset-mems --pids-limit --blkio-weight "
        "--device-read-bps --device-write-bps --device-read-iops --device-write-iops --device "
        "--cap-add --cap-drop --security-opt --privileged --userns --ipc --pid --uts --cgroupns "
        "--ulimit --sysctl --shm-size --add-host --dns --dns-search --dns-option --stop-signal "
        "--stop-timeout -l --label --label-file --cidfile --domainname --log-opt --detach-keys "
        "--sig-proxy -p --publish -P --publish-all --expose --network-alias --ip --ip6 "
        "--mac-address --link-local-ip --restart --health-cmd --health-interval --health-timeout "
        "--health-retries --health-start-period --health-start-interval --no-healthcheck "
        "--log-driver --secret --platform"
    ).split()
    assert not set(wanted) - known


def test_nearest() -> None:
    assert suggest.nearest("rnu", ["run", "rm", "ps"]) == "run"
    assert suggest.nearest("imagse", ["images", "image ls"]) == "images"
    assert suggest.nearest("zzzzzz", ["run", "rm"]) is None
    assert suggest.distance("kitten", "sitting") == 3


@given(st.text(max_size=8), st.text(max_size=8))
def test_distance_is_symmetric(a: str, b: str) -> None:
    assert suggest.distance(a, b) == suggest.distance(b, a)
    assert (suggest.distance(a, b) == 0) == (a == b)


@given(st.lists(st.text(max_size=10), max_size=6))
def test_any_argv_is_read_or_refused(argv: list[str]) -> None:
    try:
        parse("run", CONTAINER, argv, interspersed=False)
    except InvalidArgument as error:
        assert error.message


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", {"kind": "bind", "source": "/a", "target": "/b", "create_source": True}),
        ("./a:/b:ro", {"kind": "bind", "source": "/cwd/a", "target": "/b", "create_source": True,
                       "read_only": True}),
        ("..:/b", {"kind": "bind", "source": "/", "target": "/b", "create_source": True}),
        ("data:/b:nocopy", {"kind": "volume", "source": "data", "target": "/b", "copy_up": False}),
        ("/b", {"kind": "volume", "target": "/b"}),
        ("/a:/b:U,noexec,z,cached,bind", {"kind": "bind", "source": "/a", "target": "/b",
                                          "create_source": True, "chown": True,
                                          "options": ["rnoexec"], "recursive": False}),
        ("/a:/b:rw,rslave", {"kind": "bind", "source": "/a", "target": "/b",
                             "create_source": True, "propagation": "rslave"}),
    ],
)  # fmt: skip
def test_volume(text: str, mount: dict[str, object]) -> None:
    assert mountflags.volume(text, "/cwd") == mount


@pytest.mark.parametrize(
    "text",
    [
        "/a:/b:ro,rw",
        "data:/b:rslave",
        "/a:/b:O",
        "",
        "a:b",
        "/a:/",
        "/a:/b:fast",
        "/a:/b:ro:x",
        ":/b",
        "a b:/c",
        "/a:b",
        "/a:/b:nocopy",
    ],
)
def test_bad_volume(text: str) -> None:
    with pytest.raises(BadValueError):
        mountflags.volume(text, "/cwd")


def test_mount() -> None:
    assert mountflags.mount("type=bind,src=a,dst=/b,ro", "/c") == {
        "kind": "bind", "source": "/c/a", "target": "/b", "read_only": True,
    }  # fmt: skip
    assert mountflags.mount('type=bind,"source=/a,b",target=/x', "/")["source"] == "/a,b"
    assert mountflags.mount("type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=1777", "/") == {
        "kind": "tmpfs", "target": "/x", "tmpfs_size_bytes": 1 << 20, "tmpfs_mode": 0o1777,
    }  # fmt: skip
    assert mountflags.mount("target=/x", "/") == {"kind": "volume", "target": "/x"}
    assert mountflags.mount("type=bind,src=/a,dst=/x,rslave,U,relabel=shared", "/") == {
        "kind": "bind", "source": "/a", "target": "/x", "propagation": "rslave", "chown": True,
    }  # fmt: skip
    assert mountflags.mount("src=vv,dst=/x,subpath=a//b/,volume-label=k=v,volume-label=l", "/") == {
        "kind": "volume", "source": "vv", "target": "/x", "subpath": "a/b",
        "labels": {"k": "v", "l": ""},
    }  # fmt: skip
    options = 'volume-opt=type=none,volume-opt=device=/d,"volume-opt=o=bind,ro"'
    assert mountflags.mount(f"src=vv,dst=/x,volume-driver=local,{options}", "/") == {
        "kind": "volume", "source": "vv", "target": "/x",
        "driver_options": {"type": "none", "device": "/d", "o": "bind,ro"},
    }  # fmt: skip
    assert mountflags.mount("type=tmpfs,dst=/x,U,exec,noexec=false", "/") == {
        "kind": "tmpfs", "target": "/x", "chown": True, "options": ["exec"],
    }  # fmt: skip
    for words in ("ro,bind-recursive=writable", "bind-recursive=writable,ro=t"):
        assert mountflags.mount(f"type=bind,src=/a,dst=/x,{words}", "/") == {
            "kind": "bind", "source": "/a", "target": "/x", "read_only": True,
            "recursive": True, "read_only_below": False,
        }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "type=nfs,target=/x", "type=bind,target=/x", "type=tmpfs,source=/a,target=/x",
     "type=bind,source=/a", "target=/x,target=/y", "target=/x,tmpfs-size=1m",
     "target=/x,colour=red", "src=vv,dst=/x,subpath=../a", "dst=/x,subpath=a",
     "dst=/x,volume-opt==",
     "type=image,src=a,dst=/x", "src=vv,dst=/x,volume-driver=x", "src=vv,dst=/x,rslave",
     "type=bind,src=/a,dst=/x,bind-recursive=writable", "type=bind,src=/a,dst=/x,bind-recursive=no",
     '"target=/x', "target=x", "target=/x,readonly=maybe"],
)  # fmt: skip
def test_bad_mount(text: str) -> None:
    with pytest.raises(BadValueError):
        mountflags.mount(text, "/")


def test_tmpfs() -> None:
    assert mountflags.tmpfs("/run:size=64m,mode=755,noexec,ro") == {
        "kind": "tmpfs", "target": "/run", "tmpfs_size_bytes": 64 << 20, "tmpfs_mode": 0o755,
        "read_only": True, "options": ["noexec"],
    }  # fmt: skip
    for bad in ("run", "/run:size", "/run:huge=always", "/run:mode=9"):
        with pytest.raises(BadValueError):
            mountflags.tmpfs(bad)


@given(st.text(max_size=30))
def test_mount_grammars_refuse_in_one_way(text: str) -> None:
    for read_mount in (
        lambda t: mountflags.volume(t, "/c"), lambda t: mountflags.mount(t, "/c"), mountflags.tmpfs
    ):  # fmt: skip
        try:
            assert read_mount(text)["target"].startswith("/")
        except BadValueError as error:
            assert error.reason


def test_env_file(tmp_path: object) -> None:
    path = f"{tmp_path}/env"
    with open(path, "wb") as file:
        file.write(b"\xef\xbb\xbfA=1\r\n# no\n\n  B=x = y\nC\n")
    assert environment.lines(path, "--env-file") == ["A=1", "B=x = y", "C"]
    with open(path, "wb") as file:
        file.write(b"A B=1\n")
    with pytest.raises(InvalidArgument, match="line 1"):
        environment.lines(path, "--env-file")
    with open(path, "wb") as file:
        file.write(b"A=\xff\n")
    with pytest.raises(InvalidArgument, match="utf-8"):
        environment.lines(path, "--env-file")


def test_variables() -> None:
    assert environment.variable("A", {"A": "1"}) == "A=1"
    assert environment.variable("A=", {"A": "1"}) == "A="
    assert environment.variable("A", {}) is None
    assert environment.merged(["A=1", "B=2", "A=3"]) == ["A=3", "B=2"]
    with pytest.raises(BadValueError):
        environment.variable("=1", {})
