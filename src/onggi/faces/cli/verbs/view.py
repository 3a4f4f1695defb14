"""`view`: one running container from both sides."""

from __future__ import annotations

from onggi.faces.cli import box, human, values
from onggi.faces.cli.options import Option
from onggi.faces.cli.verb import Verb
from onggi.specs import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from onggi.faces.cli.options import Parsed
    from onggi.faces.cli.verb import Context

_WIDEST = 140
_LEAST = 44
_MOUNTS_SHOWN = 12


def render(view: dict[str, Any], width: int, *, full: bool) -> list[str]:
    """The lines of both views: the host's on the left, the container's on the right."""
    width = max(_LEAST, min(width, _WIDEST))
    head = f"{view['name']} ({view['id'][:12]}) · {view['image']} · {view['state']}"
    lines = [box.titled(head, width)]
    lines += box.pair("side", ["HOST"], ["CONTAINER"], width)[1:]
    lines += box.pair(
        "host name",
        [f"{view['host_hostname']} (kernel {view['host_kernel']})"],
        [view["inner_hostname"]],
        width,
    )
    lines += box.pair("processes", *_processes(view), width)
    lines += box.pair("users", [f"map: {view['uid_map']}"], _users(view), width)
    lines += box.pair("namespaces", *_namespaces(view), width)
    lines += box.pair("files", *_mounts(view, full=full), width)
    lines += box.pair("network", *_interfaces(view), width)
    lines += box.whole("limits and use", _limits(view), width)
    lines += box.whole("rights", _rights(view), width)
    return [*lines, box.bottom(width)]


def _processes(view: dict[str, Any]) -> tuple[list[str], list[str]]:
    processes = view["processes"]
    left = [f"pid {p['host_pid']} uid {p['host_uid']} {p['command']}" for p in processes]
    if view.get("monitor_pid"):
        size = human.size(view.get("monitor_private_bytes", 0), binary=True)
        left.append(f"pid {view['monitor_pid']} monitor ({size})")
    right = [f"pid {p['inner_pid']} uid {p['inner_uid']} {p['command']}" for p in processes]
    return left, right


def _users(view: dict[str, Any]) -> list[str]:
    pairs = dict.fromkeys((p["inner_uid"], p["host_uid"]) for p in view["processes"])
    return [f"uid {inner} is {outer} on the host" for inner, outer in pairs]


def _namespaces(view: dict[str, Any]) -> tuple[list[str], list[str]]:
    left, right = [], []
    for space in view["namespaces"]:
        same = space["inode"] == space["host_inode"]
        shared = ", ".join(space.get("shared_with", ()))
        left.append(f"{space['kind']} {space['host_inode']}")
        note = "shared with the host" if same else f"shared with {shared}" if shared else "its own"
        right.append(f"{space['kind']} {space['inode']} ({note})")
    return left, right


def _mounts(view: dict[str, Any], *, full: bool) -> tuple[list[str], list[str]]:
    def shown(mounts: list[dict[str, Any]]) -> list[str]:
        ordered = sorted(mounts, key=lambda m: m["target"])
        lines = [f"{m['target']} {m['fstype']} {m['options']}" for m in ordered]
        if full or len(lines) <= _MOUNTS_SHOWN:
            return lines
        return [*lines[:_MOUNTS_SHOWN], f"… {len(lines) - _MOUNTS_SHOWN} more (--full)"]

    none = [] if view["host_mounts"] else ["its mounts are in its namespace only: none here"]
    left = [f"root: {view['host_root']}", *shown(view["host_mounts"]), *none]
    return left, ["root: /", *shown(view["inner_mounts"])]


def _interfaces(view: dict[str, Any]) -> tuple[list[str], list[str]]:
    def shown(interfaces: list[dict[str, Any]]) -> list[str]:
        lines = [f"{i['name']} {i['state']} {' '.join(i['addresses'])}" for i in interfaces]
        return lines or ["none"]

    return shown(view["host_interfaces"]), shown(view["inner_interfaces"])


def _limits(view: dict[str, Any]) -> list[str]:
    lines = [_limit(name, value) for name, value in view["limits"].items()]
    use = view.get("usage")
    if use:
        memory, most = use["memory_usage_bytes"], use["memory_limit_bytes"]
        used, of, peak = (
            human.size(bytes_, binary=True) for bytes_ in (memory, most, use["memory_peak_bytes"])
        )
        seconds = use["cpu_usage_ns"] / 1e9
        lines.append(f"memory    {_bar(memory, most)} {used} of {of}, {peak} at most so far")
        lines.append(f"cpu       {use['cpu_percent']:.1f}% of one, {seconds:.2f}s so far")
        lines.append(
            f"processes {_bar(use['pids'], use['pids_limit'])} {use['pids']} of {use['pids_limit']}"
        )
    return [*lines, *(f"cgroup: {path}" for path in view["cgroups"])]


def _limit(name: str, value: str) -> str:
    shown = name.removesuffix("_bytes").replace("_", " ")
    if name.endswith("_bytes") and value.isdigit():
        value = human.size(int(value), binary=True)
    if name == "nano_cpus":
        shown, value = "cpus", f"{int(value) / 1e9:g}"
    return f"limit: {shown} {value}"


def _bar(used: int, limit: int, width: int = 16) -> str:
    if not 0 < limit < 1 << 60:
        return "(no limit)"
    full = min(width, -(-width * used // limit))
    return f"{'█' * full}{'░' * (width - full)} {100 * used // limit}%"


def _rights(view: dict[str, Any]) -> list[str]:
    capabilities = " ".join(view["capabilities"]) or "none"
    return [f"capabilities: {capabilities}", f"seccomp: {view['seccomp']}"]


def _view(context: Context, parsed: Parsed) -> int:
    found = context.client.call("containers.view", {"target": parsed.arguments[0]})
    if parsed.text("format") == "json":
        context.out.line(jsontext.pretty(found, 2))
        return 0
    width = context.out.columns if context.out.terminal else 100
    lines = render(found, width, full=parsed.on("full"))
    context.out.text("\n".join(lines) + "\n")
    return 0


VERBS = {
    "view": Verb(
        _view,
        arguments="CONTAINER",
        least=1,
        most=1,
        options=(
            Option(
                "--format",
                "json: all of it, for a program",
                value="FORM",
                parse=values.only_json,
                complete="json",
            ),
            Option("--full", "every mount"),
        ),
        complete="container",
        examples=(("onggi view web", "the same processes, files and users, seen twice"),),
    )
}
