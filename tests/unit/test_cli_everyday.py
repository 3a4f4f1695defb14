"""What docker's users type every day, from its getting-started pages and cheat sheets: each line
means what it means there, or is answered in one line that says what to type instead."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from onggi.engine.api.spec import (
    ContainerSpec,
    EndpointSpec,
    HealthSpec,
    MountSpec,
    PortSpec,
    RestartSpec,
)
from onggi.errors import EngineError, InvalidArgument
from onggi.faces.cli import catalogue, instead
from onggi.faces.cli import main as face
from onggi.faces.cli.options import Option, Parsed, parse
from onggi.faces.cli.runflags import ATTACH, CONTAINER, DETACH
from onggi.faces.cli.runspec import container_spec


def understood(line: str) -> Parsed:
    """As the command reads it, without carrying it out. Raises: InvalidArgument, as it answers."""
    name, rest = face._split(shlex.split(line))
    entry = catalogue.entry_of(name)
    if entry is None:
        face._no_verb(name, rest)
        raise AssertionError(f"{name} was answered with help")
    verb = catalogue.load(entry)
    parsed = parse(name, verb.options, rest, interspersed=verb.interspersed)
    face._check_count(name, verb, len(parsed.arguments))
    return parsed


RUNS: dict[str, dict[str, Any]] = {
    "run hello-world": {},
    "run -it ubuntu bash": {"tty": True, "stdin_open": True, "command": ("bash",)},
    "run --rm -it -w /app python:3 sh": {"auto_remove": True, "workdir": "/app"},
    "run -d -p 80:80 docker/getting-started": {"ports": (PortSpec(80, host_port=80),)},
    "run -dp 3000:3000 todo": {"ports": (PortSpec(3000, host_port=3000),)},
    "run -dp 127.0.0.1:3000:3000 todo": {
        "ports": (PortSpec(3000, host_address="127.0.0.1", host_port=3000),)},
    "run -itd --name web nginx": {"name": "web", "tty": True},
    "run --name web -d -p 8080:80 -p 8443:443 nginx:alpine": {
        "ports": (PortSpec(80, host_port=8080), PortSpec(443, host_port=8443))},
    "run -P -d nginx": {"publish_all": True},
    "run -d -p 53:53/udp -p 53:53/tcp dns": {
        "ports": (PortSpec(53, "udp", host_port=53), PortSpec(53, host_port=53))},
    "run --publish=8000-8001:8000-8001 web": {
        "ports": (PortSpec(8000, host_port=8000), PortSpec(8001, host_port=8001))},
    "run -p 80 --expose 443 nginx": {"ports": (PortSpec(80),), "expose": ("443/tcp",)},
    "run -d --network todo-app --network-alias mysql -v todo-mysql-data:/var/lib/mysql "
    "-e MYSQL_ROOT_PASSWORD=secret -e MYSQL_DATABASE=todos mysql:8.0": {
        "endpoints": (EndpointSpec("todo-app", ("mysql",)),),
        "mounts": (MountSpec("volume", "/var/lib/mysql", "todo-mysql-data"),)},
    "run --network host nginx": {"network": "host"},
    "run --net=container:web nicolaka/netshoot": {"network": "container:web"},
    "run --net mynet --ip 172.18.0.22 nginx": {
        "endpoints": (EndpointSpec("mynet", ipv4="172.18.0.22"),)},
    "run --network=name=my-net,ip=10.0.0.5 --network other busybox": {
        "endpoints": (EndpointSpec("my-net", ipv4="10.0.0.5"), EndpointSpec("other"))},
    "run -d --restart unless-stopped redis": {"restart": RestartSpec("unless-stopped")},
    "run -d --restart=on-failure:3 app": {"restart": RestartSpec("on-failure", 3)},
    "run -d --restart always -p 6379:6379 --name r redis:7": {"restart": RestartSpec("always")},
    "run -v \"/src:/app\" -v /app/node_modules -w /app node npm start": {
        "mounts": (MountSpec("bind", "/app", "/src", create_source=True),
                   MountSpec("volume", "/app/node_modules"))},
    "run -dp 127.0.0.1:3000:3000 --mount type=volume,src=todo-db,target=/etc/todos todo": {
        "mounts": (MountSpec("volume", "/etc/todos", "todo-db"),)},
    "run --memory=512m --cpus=1.5 --pids-limit 100 app": {},
    "run -e A=1 --env-file /dev/null --user 1000:1000 app": {"env": ("A=1",), "user": "1000:1000"},
    "run --entrypoint /bin/sh -it alpine -c ls": {"command": ("-c", "ls")},
    "run --health-cmd='curl -f http://localhost || exit 1' --health-interval=5s app": {
        "health": HealthSpec(("CMD-SHELL", "curl -f http://localhost || exit 1"), 5.0)},
    "run --cap-add=NET_ADMIN --device /dev/net/tun vpn": {"cap_add": ("NET_ADMIN",)},
    "run --privileged -v /var/run/x.sock:/x.sock app": {"privileged": True},
    "run --read-only --tmpfs /tmp app": {"read_only": True},
    "run --log-driver json-file --log-opt max-size=10m --log-opt max-file=3 app": {
        "log_max_files": 3},
    "run --add-host host.docker.internal:host-gateway app": {
        "add_hosts": ("host.docker.internal:host-gateway",)},
    "run --dns 8.8.8.8 --dns-opt ndots:1 app": {"dns_options": ("ndots:1",)},
    "run --hostname db --mac-address 92:d0:c6:0a:29:33 postgres": {
        "endpoints": (EndpointSpec("bridge", mac="92:d0:c6:0a:29:33"),)},
    "create --name web -p 8080:80 nginx": {"ports": (PortSpec(80, host_port=8080),)},
    "container run --rm -p 8080:80 nginx": {"auto_remove": True},
    "run --init --stop-timeout 30 --ulimit nofile=1024:1024 --shm-size 1g app": {"init": True},
    "run --pull always --label a=b alpine": {"labels": {"a": "b"}},
}  # fmt: skip


@pytest.mark.parametrize("line", RUNS)
def test_runs(line: str) -> None:
    spec = msgspec.convert(container_spec(understood(line), {}, "/cwd"), ContainerSpec)
    for field, wanted in RUNS[line].items():
        assert getattr(spec, field) == wanted, field


@pytest.mark.parametrize(
    "line",
    [
        "ps", "ps -a", "ps -aq", "container ls --all", "images", "image ls", "pull ubuntu:22.04",
        "push me/app:1", "login -u me", "logout", "tag app me/app", "rmi app", "image prune -a",
        "exec -it web bash", "exec web cat /data.txt", "exec -u root -w /srv -e A=1 web env",
        "stop web", "stop -t 5 web db", "start web", "kill web", "kill -s HUP web", "rm web",
        "rm -f web", "rm -fv web", "logs web", "logs -f --tail 100 web", "logs --since 10m -t web",
        "inspect web", "inspect -f '{{.State.Pid}}' web", "top web", "stats", "stats --no-stream",
        "port web", "port web 80/tcp", "attach web", "wait web", "diff web", "events",
        "commit web me/web:1", "save -o a.tar app", "load -i a.tar", "export web -o web.tar",
        "history app", "info", "version", "system df", "volume create data", "volume ls",
        "volume inspect data", "volume rm data", "network create todo-app",
        "network create -d bridge --subnet 172.18.0.0/16 --gateway 172.18.0.1 mynet",
        "network create --internal --label a=b -o com.docker.network.bridge.name=br0 inner",
        "network ls", "network ls -q --filter driver=bridge", "network inspect bridge",
        "network connect mynet web", "network connect --alias db --ip 172.18.0.9 mynet web",
        "network disconnect -f mynet web", "network rm a b", "network prune -f",
    ],
)  # fmt: skip
def test_other_commands(line: str) -> None:
    assert not understood(line).help


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --link db:db app", "--network NAME"),
        ("run --gpus all app", "CDI"),
        ("run --runtime runsc app", "one runtime"),
        ("run -a stdout app", "unless -d"),
        ("run --cgroup-parent /x app", "cgroup of its own"),
        ("run -p localhost:80:80 app", "127.0.0.1"),
        ("run -p 80:80/sctp app", "sctp"),
        ("run -p 8080:80 -p 8080:81 app", "cannot both be published"),
        ("run --rm --restart always app", "leave one of them out"),
        ("run --network host -p 80:80 app", "leave the option out"),
        ("run --ip 172.17.0.5 app", "needs a --network"),
        ("run --log-driver syslog app", "journald"),
        ("run --platform linux/s390x app", "this host's platform"),
        ("network create -d overlay x", "publish ports between hosts"),
        ("network create --attachable x", "takes containers by hand"),
        ("netwrok ls", "did you mean onggi network?"),
        ("build -t app .", "not there yet"),
    ],
)
def test_what_is_answered(line: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        container_spec(understood(line), {}, "/cwd")
    assert words in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "line",
    ["cp web:/etc/hosts .", "rename web www", "pause web", "unpause web", "restart web",
     "restart -t 5 web", "update --memory 1g web", "update --restart always web",
     "container prune -f", "volume prune -f", "system prune -af", "compose up -d"],
)  # fmt: skip
def test_is_there_or_answered(line: str) -> None:
    try:
        understood(line)
    except EngineError as error:
        assert error.hint


def test_every_option_of_run_is_explained() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "running.md").read_text() + (docs / "networks.md").read_text()
    options = {option.long for option in (*DETACH, *CONTAINER, *ATTACH)}
    assert not {name for name in options if f"`{name}`" not in text}


#: What `docker run --help` (28.2) and `podman run --help` (4.3) list, and docker's hidden ones.
RUN_OPTIONS = (
    "--add-host --annotation --arch --attach --authfile --blkio-weight --blkio-weight-device "
    "--cap-add --cap-drop --cgroup-conf --cgroup-parent --cgroupns --cgroups --chrootdirs "
    "--cidfile --conmon-pidfile --cpu-count --cpu-percent --cpu-period --cpu-quota "
    "--cpu-rt-period --cpu-rt-runtime --cpu-shares --cpus --cpuset-cpus --cpuset-mems "
    "--detach --detach-keys --device --device-cgroup-rule --device-read-bps "
    "--device-read-iops --device-write-bps --device-write-iops --disable-content-trust --dns "
    "--dns-opt --dns-option --dns-search --domainname --entrypoint --env --env-file "
    "--env-host --env-merge --expose --gidmap --gpus --group-add --health-cmd "
    "--health-interval --health-on-failure --health-retries --health-start-interval "
    "--health-start-period --health-timeout --hostname --hostuser --http-proxy --image-volume "
    "--init --init-path --interactive --io-maxbandwidth --io-maxiops --ip --ip6 --ipc "
    "--isolation --kernel-memory --label --label-file --link --link-local-ip --log-driver "
    "--log-opt --mac-address --memory --memory-reservation --memory-swap --memory-swappiness "
    "--mount --name --net --net-alias --network --network-alias --no-healthcheck --no-hosts "
    "--oom-kill-disable --oom-score-adj --os --passwd --passwd-entry --personality --pid "
    "--pidfile --pids-limit --platform --pod --pod-id-file --preserve-fds --privileged "
    "--publish --publish-all --pull --quiet --read-only --read-only-tmpfs --replace "
    "--requires --restart --rm --rmi --rootfs --runtime --sdnotify --seccomp-policy --secret "
    "--security-opt --shm-size --sig-proxy --stop-signal --stop-timeout --storage-opt "
    "--subgidname --subuidname --sysctl --systemd --timeout --tls-verify --tmpfs --tty --tz "
    "--uidmap --ulimit --umask --unsetenv --unsetenv-all --use-api-socket --user --userns "
    "--uts --variant --volume --volume-driver --volumes-from --workdir -P -a -c -d -e -h -i "
    "-l -m -p -q -t -u -v -w "
).split()


def test_every_option_of_docker_and_podman_is_there_or_answered() -> None:
    for verb in ("run", "create"):
        known = {name for option in options_of(verb) for name in option.names}
        if verb == "create":
            known |= {"-d", "--detach", "--detach-keys", "--sig-proxy"}  # of run only, there too
        unknown = [name for name in RUN_OPTIONS if name not in known]
        assert not [name for name in unknown if not instead.hint(verb, name)]
        # What is there needs no replacement.
        assert not [name for name in known if instead.hint(verb, name)]


def options_of(name: str) -> tuple[Option, ...]:
    entry = catalogue.entry_of(name)
    assert entry is not None
    return catalogue.load(entry).options
