"""onggi-runtime's command line without a container: options, numbers, texts, imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onggi.errors import InvalidArgument, NotFound
from onggi.faces.oci import describing, executing, limiting, main
from onggi.faces.oci.arguments import MANY, SWITCH, VALUE, parse
from onggi.faces.oci.changing import signal_number
from onggi.faces.oci.looking import state_of
from onggi.kernel.liveness import boot_id, own_identity
from onggi.runtime.validate import validate
from onggi.sandbox.oci.records import Record, Store, is_id, status_of
from onggi.specs.runtime import Capabilities, Config, Process, User, parse_config

TABLE = {"b bundle": VALUE, "d detach": SWITCH, "e env": MANY, "pid-file": VALUE}

#: Beside Python's own start: all that is imported by the verbs that callers wait for.
_ALWAYS = {
    "__future__", "_json", "_stat", "errno", "fcntl", "genericpath", "os", "posixpath", "stat",
    "time", "onggi", "onggi.errors", "onggi.faces", "onggi.faces.oci", "onggi.faces.oci.arguments",
    "onggi.faces.oci.log", "onggi.faces.oci.main", "onggi.kernel", "onggi.kernel.liveness",
    "onggi.kernel.procfs", "onggi.sandbox", "onggi.sandbox.oci", "onggi.sandbox.oci.records",
    "onggi.specs", "onggi.specs.jsontext", "_collections_abc", "os.path",
}  # fmt: skip
_CHANGING = _ALWAYS | {
    "_signal", "_socket", "_struct", "_weakref", "select", "struct", "types", "warnings",
    "onggi.faces.oci.changing", "onggi.kernel.abi", "onggi.kernel.constants",
    "onggi.kernel.descriptors", "onggi.kernel.hints", "onggi.kernel.syscalls",
    "onggi.sandbox.oci.ending", "onggi.sandbox.oci.starting",
}  # fmt: skip
ALLOWED = {
    "state": _ALWAYS | {"onggi.faces.oci.looking"},
    "start": _CHANGING,
    "kill": _CHANGING,
    "delete": _CHANGING,
}


@pytest.mark.parametrize(
    "words",
    [
        ["-b", "x", "-d", "id", "-e"],
        ["--bundle=x", "--detach", "id", "-e"],
        ["-bundle", "x", "-detach=true", "id", "-e"],
        ["--bundle", "x", "--detach=1", "--", "id", "-e"],
    ],
)
def test_options_come_before_arguments_in_all_of_gos_spellings(words: list[str]) -> None:
    found = parse(TABLE, words)
    assert (found.text("bundle"), found.on("detach"), found.rest) == ("x", True, ["id", "-e"])


def test_options_that_collect_and_defaults() -> None:
    found = parse(TABLE, ["-e", "a=b", "--env=c=d", "-d=false"])
    assert found.many("env") == ["a=b", "c=d"]
    assert (found.on("detach"), found.text("bundle", "."), found.number("pid-file", 3)) == (
        False, ".", 3,
    )  # fmt: skip


@pytest.mark.parametrize("words", [["--nope"], ["-b"], ["-d=maybe"], ["-x=1"]])
def test_options_that_are_none_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        parse(TABLE, words)


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("0", 0), ("RTMIN+3", 37)],
)
def test_signals_by_name_and_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NOPE", "-9", "99", "KILL+1", "_DFL", "９", "RTMIN+x"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument):
        signal_number(text)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("1k", 1024), ("64m", 64 << 20), ("1GiB", 1 << 30), ("-1", -1)]
)
def test_sizes(text: str, size: int) -> None:
    assert limiting.size_bytes("memory", text) == size


@pytest.mark.parametrize("text", ["", "x", "1q", "m"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgument):
        limiting.size_bytes("memory", text)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("1m", 60.0)])
def test_durations(text: str, seconds: float) -> None:
    assert limiting.seconds(text) == seconds


@pytest.mark.parametrize("text", ["0s", "-1s", "s", "1x", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidArgument):
        limiting.seconds(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [("a", True), ("a-b_c.d+e", True), ("..", False), (".", False), ("", False), ("a/b", False),
     ("ä", False), ("x" * 1025, False)],
)  # fmt: skip
def test_ids(text: str, good: bool) -> None:
    assert is_id(text) == good


def test_an_exec_changes_what_it_names_and_nothing_else() -> None:
    table, _ = main.load("exec")
    base = Process(
        cwd="/srv",
        args=("a",),
        env=("A=1",),
        user=User(5, 6, additional_gids=(7,)),
        no_new_privileges=True,
        capabilities=Capabilities(bounding=("CAP_KILL",), inheritable=("CAP_KILL",)),
    )
    config = Config(oci_version="1.0.0", process=base)
    plain = executing.process_of(config, parse(table, ["id", "b", "-c"]))
    assert (plain.args, plain.cwd, plain.env, plain.user) == (
        ("b", "-c"), "/srv", ("A=1",), base.user,
    )  # fmt: skip
    assert plain.no_new_privileges
    words = ["-u", "1000:1001", "-g", "50", "-e", "B=2", "--cwd", "/x", "-c", "net_raw", "-t"]
    full = executing.process_of(config, parse(table, [*words, "--no-new-privs=false", "id", "b"]))
    assert (full.user.uid, full.user.gid, full.user.additional_gids) == (1000, 1001, (7, 50))
    assert (full.env, full.cwd, full.terminal) == (("A=1", "B=2"), "/x", True)
    assert not full.no_new_privileges
    assert full.capabilities is not None
    assert full.capabilities.bounding == ("CAP_KILL", "CAP_NET_RAW")
    assert full.capabilities.inheritable == ("CAP_KILL",)


def test_resources_of_flags() -> None:
    table, _ = main.load("update")
    words = ["--memory", "64m", "--memory-swap=-1", "--cpu-quota", "5000", "--pids-limit", "9"]
    found = limiting.resources_of(parse(table, [*words, "id"]))
    assert found.memory is not None
    assert found.cpu is not None
    assert found.pids is not None
    assert (found.memory.limit, found.memory.swap, found.memory.reservation) == (64 << 20, -1, None)
    assert (found.cpu.quota, found.cpu.period, found.pids.limit) == (5000, None, 9)


@pytest.mark.parametrize("rootless", [False, True])
def test_the_example_is_a_valid_configuration(rootless: bool) -> None:
    validate(parse_config(json.dumps(describing.example(rootless=rootless)).encode()))


def record(**changes: object) -> Record:
    fields: dict[str, object] = {
        "id": "a",
        "oci_version": "1.3.0",
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "created": "2026-01-01T00:00:00Z",
        "owner": "root",
        "annotations": {},
        "running_boot": boot_id(),
        "creator": own_identity(),
    }
    return Record(**{**fields, **changes})


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "state"))
    with store.claim("a") as directory:
        directory.lock()
        written = record(annotations={"k": "ä"}, pid=5, start_time=7, hooks=["poststop"])
        directory.write(written)
    assert store.read("a").encode() == written.encode()
    assert store.ids() == ["a"]
    with store.open("a") as directory:
        directory.remove()
    with pytest.raises(NotFound, match="does not exist"):
        store.read("a")


def test_states_of_a_record() -> None:
    pid, start = own_identity()
    assert status_of(record()) == "creating"
    assert status_of(record(creator=(pid, start + 1))) == "stopped"
    assert status_of(record(pid=pid, start_time=start)) == "running"
    assert status_of(record(pid=pid, start_time=start + 1)) == "stopped"
    assert status_of(record(pid=pid, start_time=start, running_boot="another")) == "stopped"


def test_a_forked_process_that_has_not_executed_is_created() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    from onggi.kernel.liveness import look_at

    look = look_at(pid)
    assert look is not None
    held = record(pid=pid, start_time=look.start_time)
    assert status_of(held) == "created"
    os.close(writer)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert status_of(held) == "stopped"  # a zombie
    os.waitpid(pid, 0)
    os.close(reader)
    assert status_of(held) == "stopped"


def test_a_state_has_the_specifications_fields() -> None:
    pid, start = own_identity()
    state = state_of(record(pid=pid, start_time=start, annotations={"a": "b"}))
    assert state["pid"] == pid
    assert {"ociVersion", "id", "status", "pid", "bundle", "annotations"} <= set(state)
    assert state_of(record(pid=pid, start_time=0))["pid"] == 0


@pytest.mark.parametrize("verb", ALLOWED)
def test_cheap_verbs_import_little(verb: str, tmp_path: Path) -> None:
    """A caller waits for these: neither the planner nor what costs milliseconds to import."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from onggi.faces.oci.main import main\n"
        "code = main(sys.argv[1:])\n"
        "print('\\n'.join(set(sys.modules) - before))\n"
        "raise SystemExit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, "--root", str(tmp_path), verb, "nobody"],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "container does not exist" in done.stderr) == (1, True), done.stderr
    assert set(done.stdout.split()) - ALLOWED[verb] == set()


@pytest.mark.parametrize("name", [*main.ROOMS, "help", "--version"])
def test_every_verb_says_what_it_takes(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = [name] if name in ("help", "--version") else [name, "--help"]
    assert main.main(words) == 0
    assert capfd.readouterr().out


def test_an_unknown_verb_and_no_words(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["nope"]) == 1
    assert "no such command" in capfd.readouterr().err
    assert main.main([]) == 0


def test_checkpoint_and_restore_need_root_and_an_id(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for verb in ("checkpoint", "restore"):
        assert main.main(["--root", str(tmp_path), verb, "id"]) == 1
        assert capfd.readouterr().err == f"{verb}: criu needs the superuser — run it as root\n"
        assert main.main(["--root", str(tmp_path), verb]) == 1
        assert "a container id is needed" in capfd.readouterr().err


def test_the_warm_process_imports_nothing_of_checkpoints() -> None:
    script = (
        "import sys; from onggi.faces.oci import main; main.load_all()\n"
        "print([name for name in sys.modules if 'criu' in name or 'checkpointing' in name])\n"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_who_does_not_ask_for_systemd_does_not_import_it() -> None:
    code = (
        "import sys; from onggi.faces.oci import main; main.load_all();"
        "print([n for n in sys.modules if n.startswith(('jeepney', 'onggi.sandbox.oci.systemd'))])"
    )
    words = [sys.executable, "-P", "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "manager"),
    [
        ([], "cgroupfs"),
        (["--cgroup-manager=cgroupfs"], "cgroupfs"),
        (["--cgroup-manager=disabled"], "disabled"),
        (["--cgroup-manager=systemd"], "systemd"),
        (["--systemd-cgroup"], "systemd"),
    ],
)
def test_who_makes_the_cgroups(words: list[str], manager: str) -> None:
    chosen = main._cgroup_manager(parse(main.GLOBAL, words))
    assert chosen.removesuffix("-user") == manager
