"""bpf(2) for one purpose: a device program on a v2 cgroup. It does not know what the program says.

Imported only where it is used: ctypes costs milliseconds, and v1 hosts need none of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from onggi.errors import SyscallError, Unsupported

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280}

# enum bpf_cmd, bpf_prog_type, bpf_attach_type; BPF_F_ALLOW_MULTI (linux/bpf.h).
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_MAX_PROGRAMS = 64

_HINT = "attaching a device program needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, on the host"


def attach_device_program(cgroup_fd: int, program: bytes) -> None:
    """Let `program` decide on the cgroup's devices, in place of every one attached to it before.

    At no instant is there less than one of them: all that are attached must allow.

    Raises:
        SyscallError: the kernel refuses.
        Unsupported: unknown machine.
    Source: bpf(2).
    """
    earlier = _attached(cgroup_fd)
    fd = _load(program)
    try:
        attr = struct.pack("=IIII", cgroup_fd, fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
        _bpf(_PROG_ATTACH, attr, "PROG_ATTACH, CGROUP_DEVICE")
    finally:
        os.close(fd)
    for number in earlier:
        _detach(cgroup_fd, number)


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "=IIQQIIQII16s",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0,
        0,
        0,
        0,
        0,
        b"onggi_devices",
    )
    return _bpf(_PROG_LOAD, attr, f"PROG_LOAD, CGROUP_DEVICE, {len(program) // 8} instructions")


def _attached(cgroup_fd: int) -> tuple[int, ...]:
    """The ids of the programs attached to this very cgroup."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attr = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQII",
            cgroup_fd,
            _ATTACH_CGROUP_DEVICE,
            0,
            0,
            ctypes.addressof(ids),
            _MAX_PROGRAMS,
            0,
        )
    )
    _call(_PROG_QUERY, attr, "PROG_QUERY, CGROUP_DEVICE")
    (count,) = struct.unpack_from("=I", attr, 24)
    return tuple(ids[:count])


def _detach(cgroup_fd: int, number: int) -> None:
    fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0), f"GET_FD_BY_ID, {number}")
    try:
        attr = struct.pack("=III", cgroup_fd, fd, _ATTACH_CGROUP_DEVICE)
        _bpf(_PROG_DETACH, attr, f"PROG_DETACH, {number}")
    finally:
        os.close(fd)


def _bpf(command: int, attr: bytes, shown: str) -> int:
    return _call(command, ctypes.create_string_buffer(attr, len(attr)), shown)


def _call(command: int, attr: ctypes.Array[ctypes.c_char], shown: str) -> int:
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise Unsupported(f"bpf(2) has no known number on {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), attr, ctypes.c_uint(len(attr))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise SyscallError("bpf", shown, code, hint=_HINT if code == errno.EPERM else None)
    return result
