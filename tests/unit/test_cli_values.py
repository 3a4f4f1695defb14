"""Value parsers of the command line: tables of good and bad, and round trips."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.faces.cli import values
from onggi.faces.cli.options import BadValueError

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "kib": 1 << 10, "MB": 1 << 20}


@pytest.mark.parametrize(
    ("text", "size"),
    [("64m", 64 << 20), ("1.5g", 3 << 29), ("512", 512), ("10b", 10), ("1GiB", 1 << 30),
     ("0", 0), ("1KB", 1024), ("2t", 2 << 40), ("0.5k", 512)],
)  # fmt: skip
def test_size(text: str, size: int) -> None:
    assert values.size_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "12x", "m", "-1", "1.2.3m", "1e3", "1 m m", "0x10", "٣m", ".5m", "9" * 30, "1ibm"]
)
def test_bad_size(text: str) -> None:
    with pytest.raises(BadValueError) as found:
        values.size_bytes(text)
    assert values.size_bytes(found.value.example)


@given(st.integers(0, 1 << 30), st.sampled_from(sorted(_UNITS)))
def test_size_round_trip(number: int, unit: str) -> None:
    assert values.size_bytes(f"{number}{unit}") == number * _UNITS[unit]


@given(st.integers(0, 10**15))
def test_cpus_round_trip(nano: int) -> None:
    text = f"{nano // 10**9}.{nano % 10**9:09d}"
    assert values.nano_cpus(text) == nano


@given(st.text(max_size=12))
def test_no_parser_fails_in_any_other_way(text: str) -> None:
    parsers = (
        values.size_bytes, values.memory_bytes, values.swap_bytes, values.nano_cpus, values.count,
        values.pids_limit, values.swappiness, values.oom_score, values.blkio_weight,
        values.cpu_list, values.throttle, values.throttle_operations, values.device, values.ulimit,
        values.key_value, values.signal_name, values.duration_ns, values.stop_seconds,
        values.rfc3339_ns, values.detach_keys,
    )  # fmt: skip
    for parser in parsers:
        try:
            parser(text)
        except BadValueError as error:
            assert error.reason


@given(st.integers(0, 10**12), st.integers(0, 59), st.integers(0, 999))
def test_duration_round_trip(hours: int, minutes: int, milli: int) -> None:
    expected = (hours * 3600 + minutes * 60) * 10**9 + milli * 10**6
    assert values.duration_ns(f"{hours}h{minutes}m{milli}ms") == expected


@pytest.mark.parametrize(
    ("text", "ns"), [("10", 10**10), ("1.5s", 15 * 10**8), ("2d", 172_800 * 10**9), ("7us", 7000)]
)
def test_duration(text: str, ns: int) -> None:
    assert values.duration_ns(text) == ns


@given(
    st.datetimes(
        datetime.datetime(1900, 1, 1),
        datetime.datetime(2200, 1, 1),
        timezones=st.builds(
            lambda m: datetime.timezone(datetime.timedelta(minutes=m)), st.integers(-720, 720)
        ),
    )
)
def test_rfc3339_round_trip(moment: datetime.datetime) -> None:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    expected = (moment - epoch) // datetime.timedelta(microseconds=1) * 1000
    assert values.rfc3339_ns(moment.isoformat()) == expected


def test_moment() -> None:
    now = 10**18
    assert values.moment_ns("10m", now) == now - 600 * 10**9
    assert values.moment_ns("1.5", now) == 15 * 10**8
    assert values.moment_ns("1970-01-02", now) == 86400 * 10**9
    with pytest.raises(BadValueError):
        values.moment_ns("yesterday", now)


@pytest.mark.parametrize(
    ("text", "name"),
    [("term", "TERM"), ("SIGKILL", "KILL"), ("9", "9"), ("RTMIN+3", "RTMIN+3"), ("015", "15")],
)
def test_signal(text: str, name: str) -> None:
    assert values.signal_name(text) == name


@pytest.mark.parametrize("text", ["", "0", "65", "SIGWRONG", "RTMIN+99", "RTMAX+1", "-9"])
def test_bad_signal(text: str) -> None:
    with pytest.raises(BadValueError):
        values.signal_name(text)


def test_signal_numbers_are_linux() -> None:
    import signal

    for name, number in values.SIGNALS.items():
        assert getattr(signal, f"SIG{name}") == number


def test_ulimit_and_device() -> None:
    assert values.ulimit("nofile=10:20") == {"name": "nofile", "soft": 10, "hard": 20}
    assert values.ulimit("core=unlimited") == {"name": "core", "soft": -1, "hard": -1}
    assert values.ulimit("cpu=5:-1")["hard"] == -1
    for bad in ("nofile", "nofile=", "open=5", "nofile=20:10", "nofile=-1:10", "nofile=1:2:3"):
        with pytest.raises(BadValueError):
            values.ulimit(bad)
    both = {"host_path": "/dev/a", "container_path": "/dev/b", "access": "rw"}
    assert values.device("/dev/a:/dev/b:rw") == both
    assert values.device("/dev/a:r")["container_path"] == "/dev/a"
    for bad in ("dev/a", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/dev/b:rr", "/a:/b:r:w"):
        with pytest.raises(BadValueError):
            values.device(bad)


@pytest.mark.parametrize(
    ("text", "number"), [("all", -1), ("-1", -1), ("-7", -1), ("0", 0), ("5", 5)]
)
def test_newest(text: str, number: int) -> None:
    assert values.newest(text) == number


@pytest.mark.parametrize("text", ["", "-", "x", "1.5", "--1"])
def test_no_newest(text: str) -> None:
    with pytest.raises(BadValueError):
        values.newest(text)


def test_detach_keys() -> None:
    assert values.detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert values.detach_keys("ctrl-@,a,ctrl-[") == b"\0a\x1b"
    assert values.detach_keys("") == b""
    for bad in ("ctrl", "ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-é"):
        with pytest.raises(BadValueError):
            values.detach_keys(bad)


@pytest.mark.parametrize(
    ("text", "number"), [("0", -1), ("-1", -1), ("7", 7), ("4194304", 1 << 22)]
)
def test_pids_limit(text: str, number: int) -> None:
    """Docker's 0 is no limit, and so is -1."""
    assert values.pids_limit(text) == number


@pytest.mark.parametrize("text", ["-2", "4194305", "many", ""])
def test_no_pids_limit(text: str) -> None:
    with pytest.raises(BadValueError):
        values.pids_limit(text)
