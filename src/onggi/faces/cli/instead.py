"""Commands and options of docker's and podman's that are not there, and what to do instead: one
line each.

Read only once a command line was wrong. Knows no engine.
"""

from __future__ import annotations

_PLATFORM = "containers run this host's platform; onggi pull --platform brings others"
_MAP = "every container has 65,536 ids of its own; --userns host is the other choice"
_RUNTIME = "onggi has one runtime, its own; --privileged and --security-opt open it"
_STORAGE = "the host's file system sets the limits; --tmpfs /data:size=64m bounds a directory"
_REAL_TIME = "the kernel's real-time groups are off on most hosts; --cpus and --cpu-shares hold"
_WINDOWS = "that is for containers of Windows"
_SWARM = "there is no swarm; every network takes containers by hand"
_REGISTRY = "onggi pull has options for registries, onggi login keeps who you are"
_VARIABLES = "-e sets variables, also to nothing: -e NAME="
_POD = "there are no pods yet; --network container:NAME shares a network"
_SIGNED = "leave it out; what is pulled is always checked by its digest"
_ONE_PLATFORM = (
    "onggi image copy --platform takes one platform along, onggi pull --platform brings one"
)
_LATEST = "$(onggi ps -lq) names the newest"
_EVERY = "$(onggi ps -aq) names them all, $(onggi ps -q) those that run"
_CHECKPOINT = "a process is not kept on disk; onggi pause lets it stand still in memory"
_MADE_WITH = "it is set when a container is made: onggi run has the option"
_BUILD = "building is not there yet; onggi commit, onggi image mutate and onggi import make images"
_ONE_HOST = "onggi runs the containers of one host; there is no swarm"
_ENGINE = "the engine is this host's: ssh HOST onggi … reaches another, --root chooses another here"
_EXISTS = "onggi inspect NAME >/dev/null tells by its exit code"
_REACH = "onggi cp and onggi export take files out, onggi debug looks at them"
_PLACE = "onggi volume inspect -f '{{.Mountpoint}}' NAME tells where it is"
_AT_BOOT = "onggi run --restart unless-stopped, and onggi engine start when the host boots"

_RUN = {
    "-a": "output is shown unless -d is given; -i gives it the input",
    "--attach": "output is shown unless -d is given; -i gives it the input",
    "--annotation": "--label keeps what is known about a container",
    "--arch": _PLATFORM,
    "--os": _PLATFORM,
    "--variant": _PLATFORM,
    "--authfile": _REGISTRY,
    "--tls-verify": _REGISTRY,
    "--disable-content-trust": _SIGNED,
    "--blkio-weight-device": "--device-write-bps and --device-read-bps limit one device",
    "--cgroup-conf": "limits have options of their own: -m, --cpus, --pids-limit",
    "--cgroup-parent": "every container has a cgroup of its own, found by its id; limit it there",
    "--cgroups": "every container has a cgroup of its own, found by its id",
    "--chrootdirs": "/etc/hosts and /etc/resolv.conf are written for the root only; use -v",
    "--cpu-count": _WINDOWS,
    "--cpu-percent": _WINDOWS,
    "--io-maxbandwidth": _WINDOWS,
    "--io-maxiops": _WINDOWS,
    "--isolation": _WINDOWS,
    "--cpu-rt-period": _REAL_TIME,
    "--cpu-rt-runtime": _REAL_TIME,
    "--device-cgroup-rule": "--device allows a device and makes its node",
    "--env-host": _VARIABLES,
    "--env-merge": _VARIABLES,
    "--unsetenv": _VARIABLES,
    "--unsetenv-all": _VARIABLES,
    "--http-proxy": "your proxy is not passed on unasked: -e http_proxy -e https_proxy does it",
    "--gpus": "--device vendor.com/gpu=all, where the host has a CDI specification of it",
    "--uidmap": _MAP,
    "--gidmap": _MAP,
    "--subuidname": _MAP,
    "--subgidname": _MAP,
    "--hostuser": "-u UID:GID runs it as anybody",
    "--passwd": "an image's users are its own; -u UID:GID runs it as anybody",
    "--passwd-entry": "-u UID:GID runs it as anybody",
    "--image-volume": "volumes of an image are made; --tmpfs on their path keeps them in memory",
    "--init-path": "--init has a small init of its own",
    "--kernel-memory": "-m counts the kernel's memory too",
    "--link": "containers of one network find each other by name: --network NAME",
    "--no-hosts": "/etc/hosts is always the container's own; --add-host adds lines",
    "--personality": "setarch in the container changes it",
    "--pidfile": "onggi inspect -f '{{.State.Pid}}' tells it",
    "--conmon-pidfile": "onggi inspect -f '{{.State.Pid}}' tells the container's",
    "--pod": _POD,
    "--pod-id-file": _POD,
    "--preserve-fds": "only stdin, stdout and stderr go in: -i, and pipes",
    "--quiet": "2>/dev/null hides the pull, or onggi pull -q IMAGE first",
    "-q": "2>/dev/null hides the pull, or onggi pull -q IMAGE first",
    "--read-only-tmpfs": "--read-only --tmpfs /tmp --tmpfs /run",
    "--replace": "onggi rm -f NAME first",
    "--requires": "start the other one first; --restart on-failure tries again",
    "--rmi": "onggi rmi IMAGE afterwards",
    "--rootfs": "onggi import makes an image from a tar of it",
    "--runtime": _RUNTIME,
    "--sdnotify": "-d comes back once the program runs; --health-cmd tells when it is ready",
    "--seccomp-policy": "--security-opt seccomp=FILE",
    "--health-startup-cmd": "--health-start-period gives it time to begin",
    "--storage-opt": _STORAGE,
    "--systemd": "--tmpfs /run --tmpfs /tmp and -t are what systemd asks for",
    "--timeout": "timeout SECONDS in front of its command ends it",
    "--tz": "-e TZ=Asia/Seoul, where the image has the zone",
    "--umask": "sh -c 'umask 027; exec PROGRAM' as its command",
    "--use-api-socket": "-v gives it the socket; it is then as mighty as you are",
    "--volume-driver": "volumes are directories of this host",
}  # fmt: skip
_NETWORK_CREATE = {
    "--attachable": _SWARM,
    "--ingress": _SWARM,
    "--scope": _SWARM,
    "--config-only": "every network has its own configuration; write the options again",
    "--config-from": "every network has its own configuration; write the options again",
    "--ipam-opt": "--subnet, --gateway, --ip-range and --aux-address say what addresses there are",
    "--disable-dns": "names of containers are always answered; --dns changes who answers others",
    "--interface-name": "-o com.docker.network.bridge.name=NAME names the bridge",
    "--route": "routes are the host's; ip route adds one",
    "--dns": "--dns belongs to onggi run",
}  # fmt: skip
_NETWORK_CONNECT = {
    "--link": "containers of one network find each other by name; --alias adds one",
    "--gw-priority": "the first network that leads outside has the default route",
    "--driver-opt": "a bridge's interfaces have no options",
}
_VOLUME_CREATE = {
    **dict.fromkeys(
        ("--availability", "--group", "--limit-bytes", "--required-bytes", "--scope", "--secret",
         "--sharing", "--topology-preferred", "--topology-required", "--type"), _ONE_HOST
    ),
}  # fmt: skip
_UPDATE = {
    "--cpu-rt-period": _REAL_TIME,
    "--cpu-rt-runtime": _REAL_TIME,
    "--kernel-memory": "-m counts the kernel's memory too",
    **dict.fromkeys(
        ("--blkio-weight-device", "--device-read-bps", "--device-read-iops", "--device-write-bps",
         "--device-write-iops", "--memory-swappiness"), _MADE_WITH
    ),
}  # fmt: skip
_FETCH = {
    "--disable-content-trust": _SIGNED,
    "--arch": "--platform linux/ARCHITECTURE",
    "--os": "--platform linux/ARCHITECTURE",
    "--variant": "--platform linux/arm/v7",
    **dict.fromkeys(("--authfile", "--creds"), "onggi login keeps who you are"),
    **dict.fromkeys(("--cert-dir", "--tls-verify"), "config.toml says it, by registry"),
}  # fmt: skip
_COMMIT = {
    "-f": "images are OCI's; onggi save --format docker writes docker's form",
    "--format": "images are OCI's; onggi save --format docker writes docker's form",
    "--iidfile": "the id is printed: > FILE",
    "--include-volumes": "-c 'VOLUME /data' names them",
    "-s": "onggi image mutate --flatten makes one layer of all",
    "--squash": "onggi image mutate --flatten makes one layer of all",
    "-q": "2>/dev/null hides what is said",
    "--quiet": "2>/dev/null hides what is said",
}
#: For verbs that take containers, after their own table.
_OF_CONTAINERS = {
    "-l": _LATEST,
    "--latest": _LATEST,
    "-a": _EVERY,
    "--all": _EVERY,
    "--cidfile": "$(cat FILE)",
    "-f": "$(onggi ps -q --filter KEY=VALUE)",
    "--filter": "$(onggi ps -q --filter KEY=VALUE)",
    "-i": "2>/dev/null || true",
    "--ignore": "2>/dev/null || true",
}
_TAKES_CONTAINERS = frozenset(
    "attach commit diff exec export kill logs pause port restart rm start stats stop top unpause "
    "update wait inspect".split()
)
_GLOBAL = {
    **dict.fromkeys(("-H", "--host", "-c", "--context", "--connection", "--url"), _ENGINE),
    "--config": "DOCKER_CONFIG=DIR names the directory of credentials",
    **dict.fromkeys(
        ("-D", "--debug", "-l", "--log-level"),
        "errors say all there is; onggi explain and onggi system check look closer",
    ),
    **dict.fromkeys(
        ("--tls", "--tlscacert", "--tlscert", "--tlskey", "--tlsverify"), "the engine has no port"
    ),
}  # fmt: skip
_OF_VERB = {
    "": _GLOBAL,
    "run": _RUN, "create": _RUN, "explain": _RUN,
    "network create": _NETWORK_CREATE, "network connect": _NETWORK_CONNECT,
    "volume create": _VOLUME_CREATE, "volume ls": {"--cluster": _ONE_HOST},
    "update": _UPDATE, "commit": _COMMIT,
    "pull": _FETCH, "push": {**_FETCH, "--platform": _ONE_PLATFORM},
    "login": {"--authfile": "DOCKER_CONFIG=DIR names the directory of credentials"},
    "images": {"--tree": "onggi image tree shows which images share layers"},
    "rm": {"--link": "there are no links; containers of one network find each other by name",
           "-t": "onggi stop -t SECONDS first", "--time": "onggi stop -t SECONDS first"},
    "network inspect": {"-v": "leave it out; all that is known is shown",
                        "--verbose": "leave it out; all that is known is shown"},
    "rmi": {"--no-prune": "leave it out; there are no parents without a name",
            "--platform": "onggi rmi ID takes one of them; onggi images shows the ids",
            "-a": "onggi image prune -a takes all that nobody uses",
            "--all": "onggi image prune -a takes all that nobody uses"},
    "start": {"--checkpoint": _CHECKPOINT, "--checkpoint-dir": _CHECKPOINT},
    "history": {"--platform": _ONE_PLATFORM}, "inspect": {"--platform": _ONE_PLATFORM},
    "import": {"--platform": "containers run this host's platform, and so does what is imported"},
    "load": {"--platform": _ONE_PLATFORM}, "save": {"--platform": _ONE_PLATFORM},
    "ps": {"--sort": "| sort", "--ns": "onggi view NAME shows namespaces", "-w": "watch onggi ps",
           "--watch": "watch onggi ps", "--pod": _POD, "-p": _POD},
}  # fmt: skip

#: Commands of docker's and podman's that people will try.
_COMMANDS = {
    **dict.fromkeys(("build", "buildx", "builder", "image build"), _BUILD),
    "compose": "not there yet; onggi network create NAME, then onggi run --network NAME by service",
    **dict.fromkeys(
        ("search", "image search"),
        "onggi registry ls HOST lists a registry's own; docker.io is searched on its web page",
    ),
    **dict.fromkeys(("context", "system connection"), _ENGINE),
    "manifest": "onggi image copy --all keeps every platform together",
    "plugin": "networks, volumes and logs are built in; there is nothing to plug",
    **dict.fromkeys(
        ("trust", "image trust", "image sign"),
        "signatures are not checked; a digest is: onggi pull NAME@sha256:…",
    ),
    **dict.fromkeys(("checkpoint", "container checkpoint", "container restore"), _CHECKPOINT),
    **dict.fromkeys(("swarm", "node", "service", "stack", "config", "volume update"), _ONE_HOST),
    "secret": "onggi run --secret source=FILE,target=NAME gives a container a file in memory",
    **dict.fromkeys(("pod", "kube", "play"), _POD),
    "machine": "onggi runs on Linux itself",
    **dict.fromkeys(("mount", "unmount", "container mount", "image mount"), _REACH),
    **dict.fromkeys(
        ("container exists", "image exists", "network exists", "volume exists"), _EXISTS
    ),
    **dict.fromkeys(("volume mount", "volume unmount"), _PLACE),
    "volume export": "onggi run --rm -v NAME:/v busybox tar c -C /v . > FILE",
    "volume import": "onggi run --rm -i -v NAME:/v busybox tar x -C /v < FILE",
    **dict.fromkeys(("untag", "image untag"), "onggi rmi NAME takes a name away"),
    "generate": _AT_BOOT,
    "auto-update": "onggi pull, then onggi rm -f and onggi run again",
    "healthcheck": "onggi inspect -f '{{json .State.Health}}' NAME tells what checks have found",
    "container clone": "onggi inspect NAME shows how it was made",
    "network reload": "onggi system check --repair",
    "system reset": "onggi system prune -a --volumes",
    "system service": "onggi engine start",
    "unshare": "nsenter with the pid of onggi inspect -f '{{.State.Pid}}' NAME",
}  # fmt: skip
_IMAGE_VERBS = {"rm": "rmi", "remove": "rmi", "ls": "images", "list": "images"}


def hint(verb: str, name: str) -> str | None:
    """What to do instead of option `name` of `verb`; None when nothing is known about it."""
    family, _, word = verb.rpartition(" ")
    if family == "container":
        verb = word
    elif family == "image":
        verb = _IMAGE_VERBS.get(word, word)
    found = _OF_VERB.get(verb, {}).get(name)
    if found is None and verb in _TAKES_CONTAINERS:
        found = _OF_CONTAINERS.get(name)
    return found


def command(name: str) -> str | None:
    """What to do instead of the command `name`, of one word or two; None when it is not known."""
    return _COMMANDS.get(name)
