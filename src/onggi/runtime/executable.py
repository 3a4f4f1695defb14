"""What the first bytes of a file say about why it cannot be executed. Pure.

The bytes come from a container and may be anything: every offset in them is checked.
Source: execve(2), elf(5), kernel fs/binfmt_script.c, fs/binfmt_elf.c.
"""

from __future__ import annotations

import struct

from msgspec import Struct

_ELF_MAGIC = b"\x7fELF"
_PT_INTERP = 3
_BOM = b"\xef\xbb\xbf"

#: e_machine → the name as uname(2) has it, the name as images have it. Source: elf(5), GOARCH.
_MACHINES: dict[int, tuple[str, str]] = {
    3: ("i386", "386"),
    8: ("mips", "mips"),
    20: ("ppc", "ppc"),
    21: ("ppc64", "ppc64le"),
    22: ("s390x", "s390x"),
    40: ("arm", "arm"),
    62: ("x86_64", "amd64"),
    183: ("aarch64", "arm64"),
    243: ("riscv64", "riscv64"),
    258: ("loongarch64", "loong64"),
}
#: What else a machine runs, as its kernel is usually built.
_ALSO_RUNS: dict[str, frozenset[str]] = {
    "x86_64": frozenset({"i386"}),
    "aarch64": frozenset({"arm"}),
    "ppc64le": frozenset({"ppc64"}),
}
_OTHER_SYSTEMS: tuple[tuple[bytes, str], ...] = (
    (b"MZ", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"\xca\xfe\xba\xbe", "a macOS program or a Java class"),
    (b"PK\x03\x04", "a zip or jar archive"),
    (b"\x1f\x8b", "a gzip archive"),
)


class Script(Struct, frozen=True):
    """A file that starts with `#!`. `carriage_return`: the interpreter's name ends with one."""

    interpreter: str
    carriage_return: bool


class Elf(Struct, frozen=True):
    """`machine` and `image_machine`: names for e_machine, `unknown (N)` where there is none.

    `loader`: PT_INTERP, empty for a static program or where it lies beyond the bytes at hand.
    """

    machine: str
    image_machine: str
    loader: str


def read_script(head: bytes) -> Script | None:
    """The script that the bytes begin, if they begin one."""
    if not head.startswith(b"#!"):
        return None
    line = head[2:].split(b"\n", 1)[0].strip(b" \t")
    words = line.replace(b"\t", b" ").split(b" ", 1)
    name = words[0]
    return Script(_text(name.rstrip(b"\r")), name.endswith(b"\r"))


def read_elf(head: bytes) -> Elf | None:
    """The ELF program that the bytes begin, if they begin one."""
    if not head.startswith(_ELF_MAGIC) or len(head) < 20:
        return None
    order = ">" if head[5] == 2 else "<"
    (number,) = struct.unpack_from(f"{order}H", head, 18)
    unknown = f"unknown ({number})"
    machine, image_machine = _MACHINES.get(number, (unknown, unknown))
    return Elf(machine, image_machine, _loader(head, order, wide=head[4] == 2))


def _loader(head: bytes, order: str, *, wide: bool) -> str:
    try:
        table = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 32 if wide else 28)[0]
        size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
        for index in range(min(count, len(head))):
            at = table + index * size
            if struct.unpack_from(f"{order}I", head, at)[0] != _PT_INTERP:
                continue
            kind = "Q" if wide else "I"
            offset = struct.unpack_from(f"{order}{kind}", head, at + (8 if wide else 4))[0]
            length = struct.unpack_from(f"{order}{kind}", head, at + (32 if wide else 16))[0]
            whole = offset + length <= len(head)
            return _text(head[offset : offset + length].split(b"\0")[0]) if whole else ""
    except struct.error:  # beyond the bytes at hand
        return ""
    return ""


def runs_on(elf: Elf, machine: str) -> bool:
    """Whether a kernel of this machine runs such a program, as far as the machine's name says."""
    return elf.machine == machine or elf.machine in _ALSO_RUNS.get(machine, frozenset())


def image_machine(machine: str) -> str:
    """The name that images have for a machine of uname(2)."""
    return next((image for uname, image in _MACHINES.values() if uname == machine), machine)


def foreign_format(head: bytes) -> str:
    """What a person would call a file that is neither ELF nor script; empty if nothing is known."""
    if head.startswith(_BOM + b"#!"):
        return "a script with a byte order mark before its #!"
    for magic, name in _OTHER_SYSTEMS:
        if head.startswith(magic):
            return name
    return "text without a first line that names an interpreter" if _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    return b"\0" not in head and sum(byte < 9 or 14 <= byte < 32 for byte in head) * 20 <= len(head)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
