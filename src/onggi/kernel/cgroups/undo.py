"""What a cgroup's files say before they are changed, as the writes that would bring it back.

Knows the shapes of the files: a number, a line for each device, keys. Nothing here writes.
Source: Documentation/admin-guide/cgroup-v2.rst "Format", cgroup-v1/blkio-controller.rst.
"""

from __future__ import annotations

from onggi.kernel.cgroups.rule import Change, Files, Write, flat_keyed

#: (a cgroup's directory, what to write there), in the order to do it.
Undo = tuple[tuple[str, tuple[Write, ...]], ...]


def inverse(changes: tuple[Change, ...], files: Files) -> tuple[Write, ...]:
    """The writes that undo `changes`, in their order. Programs for devices cannot be read back, and
    files that the kernel does not have are left out."""
    found = []
    for change in changes:
        if isinstance(change, Write):
            text = files.read(change.file)
            if text is not None:
                found.append(Write(change.file, _before(change, text)))
    return tuple(found)


def _before(change: Write, text: str) -> str:
    if change.file == "memory.oom_control":
        return str(flat_keyed(text).get("oom_kill_disable", 0))
    device, _, setting = change.value.partition(" ")
    if ":" in device:
        return next((row for row in text.splitlines() if row.startswith(f"{device} ")), None) or (
            f"{device} {_reset(change.file, setting)}"
        )
    # An empty list is written as an empty line: a write of no bytes does nothing.
    return text.split("\n", 1)[0] or "\n"


def _reset(file: str, setting: str) -> str:
    """How a device's own line is taken away again."""
    if file == "io.max":
        return f"{setting.partition('=')[0]}=max"
    return "0" if ".throttle." in file else "default"
