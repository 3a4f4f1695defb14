"""Single values as users write them: sizes, numbers, durations, moments, limits. Pure.

Each parser raises BadValueError with a reason and an example. Names and grammar follow docker's.
"""

from __future__ import annotations

from onggi.faces.cli.options import BadValueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_MAX_INT64 = (1 << 63) - 1
_DURATION_NS = {
    "ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000, "d": 86_400_000_000_000,
}  # fmt: skip
#: Names of Linux signals with their x86-64 and arm64 numbers. Source: signal(7).
SIGNALS = {
    name: number
    for number, name in enumerate(
        "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT "
        "STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split(),
        1,
    )
}
_RTMIN, _RTMAX = 34, 64
#: As many as the kernel can have. Source: proc_sys_kernel(5), pid_max.
_PIDS = 1 << 22
ULIMITS = frozenset(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime "
    "sigpending stack".split()
)


def _decimal(text: str, reason: str, example: str) -> tuple[int, int]:
    """(digits, scale): the number is digits / 10**scale. Exact: no float ever holds a size."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if not digits.isascii() or not digits.isdigit() or not whole:
        raise BadValueError(reason, example)
    return int(digits), len(fraction)


def size_bytes(text: str) -> int:
    """`64m`, `1.5g`, `512`, `10kb`, `1GiB`: powers of 1024, any case."""
    lower = text.strip().lower()
    number = lower.rstrip("bikmgtp")
    unit = lower[len(number) :]
    short = unit[:-2] if unit.endswith("ib") and len(unit) > 2 else unit
    short = short[:-1] if short.endswith("b") and len(short) > 1 else short
    if short not in _UNITS or not number:
        raise BadValueError("not a size", "64m")
    digits, scale = _decimal(number, "not a size", "64m")
    size = digits * _UNITS[short] // int(10**scale)
    if size > _MAX_INT64:
        raise BadValueError("more bytes than fit 63 bits", "64m")
    return size


def memory_bytes(text: str) -> int:
    """A size of at least 1 byte, as a limit is."""
    size = size_bytes(text)
    if size < 1:
        raise BadValueError("a limit of nothing", "64m")
    return size


def swap_bytes(text: str) -> int:
    """Memory plus swap; -1 is unlimited."""
    return -1 if text == "-1" else size_bytes(text)


def nano_cpus(text: str) -> int:
    """`1.5` CPUs as billionths."""
    digits, scale = _decimal(text, "not a number of cpus", "1.5")
    if scale > 9:
        raise BadValueError("finer than a billionth of a cpu", "1.5")
    nano = digits * int(10 ** (9 - scale))
    if nano > _MAX_INT64:
        raise BadValueError("too many cpus", "1.5")
    return nano


def _integer(text: str, low: int, high: int, example: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if not digits.isascii() or not digits.isdigit() or len(digits) > 19:
        raise BadValueError("not a whole number", example)
    number = sign * int(digits)
    if not low <= number <= high:
        raise BadValueError(f"not between {low} and {high}", example)
    return number


def count(text: str) -> int:
    """A whole number from 0 up."""
    return _integer(text, 0, _MAX_INT64, "100")


def newest(text: str) -> int:
    """How many of the newest; -1, or any number below it, is all, and so is `all`."""
    if text == "all" or (text[:1] == "-" and text[1:].isdigit()):
        return -1
    return count(text)


def only_json(text: str) -> str:
    """The one form that a picture for people has beside itself."""
    if text != "json":
        raise BadValueError("it has no fields for a template", "json")
    return text


def pids_limit(text: str) -> int:
    """Processes; -1 is unlimited, and so is 0, as docker has it."""
    return _integer(text, -1, _PIDS, "100") or -1


def swappiness(text: str) -> int:
    """0 to 100; -1 leaves the kernel's."""
    return _integer(text, -1, 100, "60")


def oom_score(text: str) -> int:
    """-1000 (never killed) to 1000 (killed first)."""
    return _integer(text, -1000, 1000, "500")


def blkio_weight(text: str) -> int:
    """10 to 1000; 0 leaves the kernel's."""
    number = _integer(text, 0, 1000, "500")
    if 0 < number < 10:
        raise BadValueError("not 0 and not between 10 and 1000", "500")
    return number


def cpu_list(text: str) -> str:
    """`0-2,5`: numbers and ranges."""
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or (dash and (not high.isdigit() or int(high) < int(low))):
            raise BadValueError("not a list of numbers and ranges", "0-2,5")
    return text


def throttle(text: str) -> dict[str, Any]:
    """`/dev/sda:1m`: a device and bytes per second."""
    path, _, rate = text.rpartition(":")
    if not path.startswith("/"):
        raise BadValueError("not DEVICE:RATE with an absolute path", "/dev/sda:1m")
    return {"path": path, "rate": size_bytes(rate)}


def throttle_operations(text: str) -> dict[str, Any]:
    """`/dev/sda:100`: a device and operations per second."""
    path, _, rate = text.rpartition(":")
    if not path.startswith("/"):
        raise BadValueError("not DEVICE:RATE with an absolute path", "/dev/sda:100")
    return {"path": path, "rate": _integer(rate, 0, _MAX_INT64, "/dev/sda:100")}


def device(text: str) -> dict[str, Any]:
    """`/dev/fuse`, `/dev/x:/dev/y`, `/dev/x:rw`, `/dev/x:/dev/y:r`, or a name of CDI,
    `vendor.com/class=name`, which is the host's path then. Source: CDI SPEC.md#kind."""
    example = "/dev/fuse:/dev/fuse:rw"
    if not text.startswith("/") and "=" in text:
        return {"host_path": _cdi_name(text), "container_path": ""}
    parts = text.split(":")
    if not parts[0].startswith("/") or len(parts) > 3:
        raise BadValueError("not HOST[:CONTAINER][:rwm] with absolute paths", example)
    inside, access = parts[0], "rwm"
    for part in parts[1:]:
        if part.startswith("/"):
            inside = part
        elif part and set(part) <= set("rwm") and len(set(part)) == len(part):
            access = part
        else:
            raise BadValueError(f"{part!r} is neither a path nor made of r, w and m", example)
    return {"host_path": parts[0], "container_path": inside, "access": access}


def _cdi_name(text: str) -> str:
    kind, _, name = text.partition("=")
    vendor, slash, group = kind.partition("/")
    for part, more in ((vendor, "-_."), (group, "-_."), (name, "-_.:")):
        plain = "".join(c for c in part if c not in more)
        if not (slash and plain.isascii() and plain.isalnum() and part[0].isalnum()):
            raise BadValueError(
                "neither a path nor a CDI name, VENDOR/CLASS=NAME", "nvidia.com/gpu=all"
            )
    return text


def ulimit(text: str) -> dict[str, Any]:
    """`nofile=1024:2048`; one number is both; -1 or `unlimited`."""
    example = "nofile=1024:2048"
    name, equals, limits = text.partition("=")
    if not equals or name not in ULIMITS:
        raise BadValueError(f"{name!r} is not a limit ({', '.join(sorted(ULIMITS))})", example)
    soft_text, colon, hard_text = limits.partition(":")
    soft = _limit(soft_text, example)
    hard = _limit(hard_text, example) if colon else soft
    if hard != -1 and (soft == -1 or soft > hard):
        raise BadValueError("the soft limit is above the hard one", example)
    return {"name": name, "soft": soft, "hard": hard}


def _limit(text: str, example: str) -> int:
    return -1 if text == "unlimited" else _integer(text, -1, _MAX_INT64, example)


def key_value(text: str) -> tuple[str, str]:
    """`KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadValueError("not KEY=VALUE", "net.core.somaxconn=1024")
    return key, value


_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def own_platform(text: str) -> str:
    """`linux/amd64` where that is this host; the word changes nothing then."""
    import os  # noqa: PLC0415

    machine = os.uname().machine
    own = f"linux/{_MACHINES.get(machine, machine)}"
    if text.lower().removesuffix("/v8") not in (own, "linux", f"linux/{machine}"):
        raise BadValueError(f"containers run this host's platform, {own}", own)
    return text


def signal_name(text: str) -> str:
    """`TERM`, `SIGTERM`, `15`, `RTMIN+3` → `TERM`, `RTMIN+3`, or the number as text."""
    upper = text.upper().removeprefix("SIG")
    if upper.isascii() and upper.isdigit():
        if 1 <= int(upper) <= _RTMAX:
            return upper.lstrip("0")
    elif upper in SIGNALS or _real_time(upper) is not None:
        return upper
    raise BadValueError("not a signal", "TERM")


def _real_time(name: str) -> int | None:
    for base, number in (("RTMIN", _RTMIN), ("RTMAX", _RTMAX)):
        if name.startswith(base):
            offset = name[len(base) :]
            if offset == "":
                return number
            if offset[0] in "+-" and offset[1:].isdigit():
                found = number + int(offset)
                return found if _RTMIN <= found <= _RTMAX else None
    return None


def duration_ns(text: str) -> int:
    """`1h30m`, `1.5s`, `100ms`; a bare number is seconds."""
    example = "1m30s"
    rest, total, plain = text, 0, text.replace(".", "", 1).isdigit()
    if plain:
        rest = f"{text}s"
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        unit = rest[len(number) :][:2]
        unit = unit if unit in _DURATION_NS else unit[:1]
        if unit not in _DURATION_NS:
            raise BadValueError("not a duration", example)
        digits, scale = _decimal(number, "not a duration", example)
        total += digits * _DURATION_NS[unit] // int(10**scale)
        rest = rest[len(number) + len(unit) :]
    if not text:
        raise BadValueError("not a duration", example)
    return total


def seconds(text: str) -> float:
    """A duration in seconds."""
    return duration_ns(text) / 1e9


def stop_seconds(text: str) -> int:
    """Whole seconds before a stop becomes a kill; -1 waits for ever."""
    return _integer(text, -1, 1 << 31, "10")


def moment_ns(text: str, now_ns: int) -> int:
    """Unix seconds, RFC 3339, or a duration before now (`10m`), as unix nanoseconds."""
    example = "2026-01-31T10:00:00Z, or 10m for ten minutes ago"
    if text.replace(".", "", 1).isdigit():
        digits, scale = _decimal(text, "not a time", example)
        return digits * 10**9 // int(10**scale)
    if len(text) > 4 and text[4] == "-":
        return rfc3339_ns(text)
    try:
        return now_ns - duration_ns(text)
    except BadValueError:
        raise BadValueError("not a time", example) from None


def rfc3339_ns(text: str) -> int:
    """`2026-01-31`, `2026-01-31T10:00:00[.5][Z|+02:00]` as unix nanoseconds; no zone is UTC."""
    bad = BadValueError("not an RFC 3339 time", "2026-01-31T10:00:00Z")
    date, _, clock = text.replace(" ", "T", 1).partition("T")
    clock, offset_s = _split_zone(clock, bad)
    numbers = date.split("-")
    hms, _, fraction = clock.partition(".")
    numbers += hms.split(":") if hms else []
    numbers += ["0"] * (6 - len(numbers))
    if len(numbers) != 6 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise bad
    year, month, day, hour, minute, second = (int(n) for n in numbers)
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise bad
    if fraction and not (fraction.isascii() and fraction.isdigit()):
        raise bad
    whole = (_days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second - offset_s
    return whole * 10**9 + int(fraction[:9].ljust(9, "0"))


def _split_zone(clock: str, bad: BadValueError) -> tuple[str, int]:
    if clock.endswith(("Z", "z")):
        return clock[:-1], 0
    for sign, factor in (("+", 1), ("-", -1)):
        head, found, zone = clock.partition(sign)
        if found:
            hours, _, minutes = zone.partition(":")
            if not (hours.isdigit() and minutes.isdigit()):
                raise bad
            return head, factor * (int(hours) * 3600 + int(minutes) * 60)
    return clock, 0


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or single characters, as the bytes a terminal sends; "" turns it off."""
    keys = bytearray()
    for word in text.split(",") if text else ():
        if len(word) == 1 and word.isascii() and word.isprintable():
            keys += word.encode()
        elif len(word) == 6 and word.lower().startswith("ctrl-") and "@" <= word[5].upper() <= "_":
            keys.append(ord(word[5].upper()) & 0x1F)
        else:
            raise BadValueError(f"{word!r} is neither a character nor ctrl-KEY", "ctrl-p,ctrl-q")
    return bytes(keys)
