"""Options of docker's and podman's that are not there, and what to do instead: one line each.

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

_RUN = {
    "-a": "output is shown unless -d is given; -i gives it the input",
    "--attach": "output is shown unless -d is given; -i gives it the input",
    "--annotation": "--label keeps what is known about a container",
    "--arch": _PLATFORM,
    "--os": _PLATFORM,
    "--variant": _PLATFORM,
    "--authfile": _REGISTRY,
    "--tls-verify": _REGISTRY,
    "--disable-content-trust": "leave it out; what is pulled is always checked by its digest",
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
_OF_VERB = {
    "run": _RUN, "create": _RUN, "explain": _RUN, "container run": _RUN,
    "container create": _RUN, "network create": _NETWORK_CREATE,
    "network connect": _NETWORK_CONNECT,
}  # fmt: skip


def hint(verb: str, name: str) -> str | None:
    """What to do instead of option `name` of `verb`; None when nothing is known about it."""
    return _OF_VERB.get(verb, {}).get(name)
