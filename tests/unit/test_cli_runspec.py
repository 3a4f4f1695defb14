"""What the command builds fits the engine's types, field by field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from onggi.engine.api.requests import RunRequest
from onggi.engine.api.spec import ContainerSpec, MountSpec, Throttle
from onggi.engine.layout import layout_for
from onggi.errors import InvalidArgument
from onggi.faces.cli.options import parse
from onggi.faces.cli.place import run_directory
from onggi.faces.cli.runflags import ATTACH, CONTAINER, DETACH
from onggi.faces.cli.runspec import container_spec

_OPTIONS = (*DETACH, *CONTAINER, *ATTACH)


def fields(*argv: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    parsed = parse("run", _OPTIONS, argv, interspersed=False)
    return container_spec(parsed, environ or {}, "/cwd")


def spec(*argv: str, environ: dict[str, str] | None = None) -> ContainerSpec:
    return msgspec.convert(fields(*argv, environ=environ), ContainerSpec)


def test_only_what_was_said_is_sent() -> None:
    assert fields("img") == {"image": "img"}
    assert spec("img") == ContainerSpec(image="img")


def test_everything() -> None:
    argv = (
        "--name n -e A=1 -e B -v ./d:/d:ro --mount type=tmpfs,target=/t --tmpfs /u:size=1m "
        "--network back --network-alias nn -p 8080:80 -P --expose 81 "
        "-h hh -w /w -u 1:2 --group-add 3 --entrypoint sh --read-only --init -it "
        "-m 64m --memory-swap -1 --memory-reservation 1m --memory-swappiness 0 --oom-kill-disable "
        "--oom-score-adj -5 --cpus 1.5 -c 2 --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit 9 "
        "--blkio-weight 10 --device-read-bps /dev/a:1k --device-write-bps /dev/a:2 "
        "--device-read-iops /dev/a:3 --device-write-iops /dev/a:4 --device /dev/fuse "
        "--cap-add X --cap-drop ALL --security-opt no-new-privileges --privileged --userns host "
        "--ipc none --pid container:p --uts host --cgroupns host --ulimit nofile=1:2 "
        "--sysctl a.b=c=d --shm-size 1m --add-host h:1.2.3.4 --dns 1.1.1.1 --dns-search s "
        "--dns-option o --stop-signal int --stop-timeout 3 -l k=v -l k2 --domainname dd "
        "--log-driver local --log-opt max-size=1m --log-opt max-file=2 --log-opt tag=t "
        "--volumes-from other:ro --restart always --health-cmd true --secret ./s img cmd -x"
    ).split()
    found = spec(*argv, environ={"B": "2"})
    assert found.command == ("cmd", "-x")
    assert found.entrypoint == ("sh",)
    assert found.env == ("A=1", "B=2")
    assert found.labels == {"k": "v", "k2": ""}
    assert found.mounts == (
        MountSpec("bind", "/d", "/cwd/d", read_only=True, create_source=True),
        MountSpec("tmpfs", "/t"),
        MountSpec("tmpfs", "/u", tmpfs_size_bytes=1 << 20),
    )
    assert found.resources.memory_bytes == 64 << 20
    assert found.resources.memory_swap_bytes == -1
    assert found.resources.memory_swappiness == 0
    assert found.resources.nano_cpus == 1_500_000_000
    assert found.resources.device_read_bps == (Throttle("/dev/a", 1024),)
    assert found.sysctls == {"a.b": "c=d"}
    assert found.stop_signal == "INT"
    assert (found.log_max_bytes, found.log_max_files) == (1 << 20, 2)
    # Nothing that was said is left at its default.
    defaults = ContainerSpec(image="img")
    same = {f for f in found.__struct_fields__ if getattr(found, f) == getattr(defaults, f)}
    # --rm contradicts --restart; `bridge` is what networks with names are of.
    assert same - {"network"} == {"image", "auto_remove"}
    assert spec("--rm", "img").auto_remove


def test_cpu_period_and_quota() -> None:
    found = spec("--cpu-period", "1000", "--cpu-quota", "500", "img").resources
    assert (found.cpu_period_us, found.cpu_quota_us) == (1000, 500)


def test_an_empty_entrypoint_clears_the_images() -> None:
    assert spec("--entrypoint", "", "img", "x").entrypoint == ()


def test_files_come_before_options(tmp_path: object) -> None:
    path = f"{tmp_path}/f"
    with open(path, "w") as file:
        file.write("A=file\nB\n")
    found = spec("--env-file", path, "-e", "A=flag", "--label-file", path, "-l", "A=flag", "img",
                 environ={"B": "env"})  # fmt: skip
    assert found.env == ("A=flag", "B=env")
    assert found.labels == {"A": "flag", "B": ""}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "no image"),
        (("-v", "a:b", "img"), "--volume"),
        (("-v", "/a:/b", "--tmpfs", "/b", "img"), "two mounts"),
        (("--network", "bridge:2", "img"), "--network"),
        (("--userns", "container:x", "img"), "--userns"),
        (("--pid", "container:", "img"), "--pid"),
        (("-w", "here", "img"), "--workdir"),
        (("-e", "=1", "img"), "--env"),
        (("--memory-swap", "1m", "img"), "--memory-swap"),
        (("-m", "2m", "--memory-swap", "1m", "img"), "--memory-swap"),
        (("-m", "1m", "--memory-reservation", "2m", "img"), "--memory-reservation"),
        (("--cpus", "1", "--cpu-quota", "5", "img"), "--cpus"),
        (("--log-opt", "colour=red", "img"), "--log-opt"),
        (("--env-file", "/nowhere/at/all", "img"), "--env-file"),
    ],
)
def test_refusals_name_the_option(argv: tuple[str, ...], words: str) -> None:
    from onggi.errors import EngineError

    with pytest.raises(EngineError) as found:
        fields(*argv)
    assert words in str(found.value)


def test_what_run_sends_is_a_run_request() -> None:
    request = {"spec": fields("-it", "img"), "attach": True, "attach_stdin": True,
               "size": {"rows": 24, "columns": 80}}  # fmt: skip
    found = msgspec.convert(request, RunRequest)
    assert (found.size.rows, found.spec.tty) == (24, True)


@pytest.mark.parametrize(
    ("root", "uid", "environ"),
    [
        ("/x/y/../z", 0, {}),
        (None, 0, {"XDG_RUNTIME_DIR": "/never"}),
        (None, 1000, {}),
        (None, 1000, {"XDG_RUNTIME_DIR": "/run/x", "HOME": "/h"}),
    ],
)
def test_the_socket_is_where_the_engine_puts_it(
    root: str | None, uid: int, environ: dict[str, str]
) -> None:
    assert run_directory(root, uid, environ) == layout_for(root, uid, environ).run


def test_not_unicode_is_refused_by_name() -> None:
    from onggi.specs import jsontext

    with pytest.raises(InvalidArgument, match="utf-8"):
        jsontext.encode(fields("img", "caf\udce9"))
