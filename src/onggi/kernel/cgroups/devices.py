"""Which device nodes may be made, read and written: a list on v1, a BPF program on v2.

Rules are OCI's, in order: of those that match, the last decides, for each of read, write and mknod
by itself. What no rule matches is denied.
Source: Documentation/admin-guide/cgroup-v1/devices.rst, cgroup-v2.rst#device-controller,
linux/bpf.h (struct bpf_cgroup_dev_ctx), runtime-spec config-linux.md#allowed-device-list.
"""

from __future__ import annotations

import functools
import struct

from onggi.errors import InvalidArgument, Unsupported
from onggi.kernel.cgroups.rule import AttachProgram, Change, Files, Write
from onggi.specs.runtime import DeviceRule, Resources

# linux/bpf.h: BPF_DEVCG_ACC_*, BPF_DEVCG_DEV_*.
ACCESS_BITS = {"m": 1, "r": 2, "w": 4}
TYPES = {"b": 1, "c": 2}
_ALL = 7
_MAX_NUMBER = (1 << 31) - 1

#: What every container may use: the devices that it must have and its terminals. Nodes of any other
#: may be made, which gives no access. Source: runtime-spec config-linux.md#default-devices.
ALWAYS_ALLOWED: tuple[DeviceRule, ...] = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(
        DeviceRule(allow=True, type="c", major=major, minor=minor)
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None))
    ),
)

_Key = tuple[str, int | None, int | None]


def v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Everything denied (or allowed), then the exceptions; nothing without rules.

    Raises:
        InvalidArgument: a rule that is none.
        Unsupported: a rule takes back part of a wildcard, which v1's list cannot hold.
    """
    return _v1_changes(resources.devices)


@functools.lru_cache(maxsize=64)
def _v1_changes(rules: tuple[DeviceRule, ...]) -> tuple[Change, ...]:
    """Containers mostly have the same rules, and a start asks for them several times."""
    if not rules:
        return ()
    allowed, exceptions = _exceptions(rules)
    reset, file = ("allow", "deny") if allowed else ("deny", "allow")
    lines = [
        f"{kind} {_star(major)}:{_star(minor)} {_letters(bits)}"
        for (kind, major, minor), bits in exceptions.items()
    ]
    return (
        Write(f"devices.{reset}", "a"),
        *(Write(f"devices.{file}", line) for line in lines),
    )


def v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """One program for all rules; none without rules.

    Raises:
        InvalidArgument: a rule that is none.
    """
    if not resources.devices:
        return ()
    return (AttachProgram(compile_device_program(resources.devices)),)


@functools.lru_cache(maxsize=64)
def compile_device_program(rules: tuple[DeviceRule, ...]) -> bytes:
    """The rules as BPF_PROG_TYPE_CGROUP_DEVICE instructions: returns 1 to allow, 0 to deny.

    The last rule is asked first. r4 holds the accesses that no rule has granted yet: a rule that
    allows takes its own away, a rule that denies ends the matter if one of its own is left.

    Raises:
        InvalidArgument: a rule that is none.
    """
    program = [
        _op(_LOAD_W, dst=2, src=1, off=0),  # access << 16 | type
        _op(_MOV_REG, dst=3, src=2),
        _op(_AND, dst=3, imm=0xFFFF),
        _op(_MOV_REG, dst=4, src=2),
        _op(_SHIFT_RIGHT, dst=4, imm=16),
        _op(_LOAD_W, dst=5, src=1, off=4),  # major
        _op(_LOAD_W, dst=6, src=1, off=8),  # minor
    ]
    for rule in reversed(rules):
        kind, major, minor, bits = _parsed(rule)
        wanted = [
            (3, TYPES.get(kind)),
            (5, major),
            (6, minor),
        ]
        tests = [(register, value) for register, value in wanted if value is not None]
        verdict = _verdict(rule.allow, bits)
        for done, (register, value) in enumerate(tests):
            skipped = len(tests) - done - 1 + len(verdict)
            program.append(_op(_JUMP_NOT_EQUAL, dst=register, off=skipped, imm=value))
        program += verdict
        if not tests and bits == _ALL:
            # It decides everything that gets here; the verifier refuses code behind it.
            return b"".join(program)
    return b"".join([*program, *_end(0)])


# Instruction codes: class | source | operation (linux/bpf_common.h). Jumps compare 32 bits.
_LOAD_W = 0x61
_MOV_REG = 0xBF
_MOV = 0xB7
_AND = 0x57
_SHIFT_RIGHT = 0x77
_JUMP = 0x05
_JUMP_NOT_EQUAL = 0x56
_JUMP_IF_SET = 0x46
_EXIT = 0x95


def _op(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, off, imm)


def _end(result: int) -> list[bytes]:
    return [_op(_MOV, dst=0, imm=result), _op(_EXIT)]


def _verdict(allow: bool, bits: int) -> list[bytes]:
    end = _end(int(allow))
    if bits == _ALL:
        return end
    if allow:
        return [
            _op(_AND, dst=4, imm=_ALL & ~bits),
            _op(_JUMP_NOT_EQUAL, dst=4, off=len(end), imm=0),
            *end,
        ]
    return [
        _op(_JUMP_IF_SET, dst=4, off=1, imm=bits),
        _op(_JUMP, off=len(end)),
        *end,
    ]


def _parsed(rule: DeviceRule) -> tuple[str, int | None, int | None, int]:
    """Type, major, minor (None: any) and access bits; negative numbers are wildcards, as runc's."""
    if rule.type not in ("a", "b", "c"):
        raise InvalidArgument(
            f"device rule of type {rule.type!r}", hint="the type is a (all), b (block) or c (char)"
        )
    # runc and crun take no notice of letters beside these, and configurations have some
    letters = set(rule.access) & set(ACCESS_BITS)
    if not letters:
        raise InvalidArgument(
            f"device rule with access {rule.access!r}", hint="write some of r, w and m"
        )
    numbers = [None if n is None or n < 0 else n for n in (rule.major, rule.minor)]
    if any(n is not None and n > _MAX_NUMBER for n in numbers):
        raise InvalidArgument(f"device rule for {rule.major}:{rule.minor}: no such device number")
    bits = sum(ACCESS_BITS[letter] for letter in letters)
    return rule.type, numbers[0], numbers[1], bits


def allowed(rules: tuple[DeviceRule, ...]) -> list[tuple[str, int | None, int | None, str]] | None:
    """What the rules come to as a list of what is allowed (type, major, minor, access letters).

    None: everything is, but for some. Raises: as `v1`.
    """
    everything, exceptions = _exceptions(rules)
    if everything:
        return None
    return [(*key, _letters(bits)) for key, bits in exceptions.items()]


def _exceptions(rules: tuple[DeviceRule, ...]) -> tuple[bool, dict[_Key, int]]:
    """What the rules come to: the default, and the access bits that differ from it."""
    allowed, exceptions = False, dict[_Key, int]()
    for rule in rules:
        kind, major, minor, bits = _parsed(rule)
        if (kind, major, minor, bits) == ("a", None, None, _ALL):
            allowed = rule.allow
            exceptions.clear()
            continue
        for each in ("b", "c") if kind == "a" else (kind,):
            key = (each, major, minor)
            if rule.allow == allowed:
                _take_back(exceptions, key, bits)
            else:
                exceptions[key] = exceptions.get(key, 0) | bits
    return allowed, exceptions


def _take_back(exceptions: dict[_Key, int], key: _Key, bits: int) -> None:
    for other, held in list(exceptions.items()):
        if not held & bits or not _overlap(key, other):
            continue
        if any(mine is not None and mine != its for mine, its in zip(key, other, strict=True)):
            raise Unsupported(
                f"device rule {_name(key)} takes back a part of {_name(other)}, "
                "which cgroup v1 cannot hold",
                hint="name the devices one by one, or use a host with cgroup v2",
            )
        exceptions[other] = held & ~bits
        if not exceptions[other]:
            del exceptions[other]


def _overlap(a: _Key, b: _Key) -> bool:
    return all(x == y or x is None or y is None for x, y in zip(a, b, strict=True))


def _name(key: _Key) -> str:
    return f"{key[0]} {_star(key[1])}:{_star(key[2])}"


def _star(number: int | None) -> str:
    return "*" if number is None else str(number)


def _letters(bits: int) -> str:
    return "".join(letter for letter in "rwm" if bits & ACCESS_BITS[letter])
