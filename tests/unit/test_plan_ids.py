"""Who maps which ids, and what is said when nobody may."""

from __future__ import annotations

import errno as e
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from onggi.errors import EngineError, SpecError, Unsupported
from onggi.runtime.failure import explain_failure
from onggi.runtime.own_ids import IdPool, find_helper, own_ids, subid_ranges
from onggi.runtime.plan import plan, plan_exec
from onggi.runtime.steps import (
    BecomeUser,
    CloneInto,
    OpenTree,
    Plan,
    SetOomScore,
    TakeTree,
    WriteIdMaps,
)
from onggi.specs.runtime import Config, IdMapping, Namespace
from unit.plan_cases import BUNDLE, EXEC, HOST, OVERLAY, VISITOR, default_config, process
from unit.test_failure import Report

OWN = (IdMapping(0, 4242, 1),)
GRANTED = (IdMapping(0, 4242, 1), IdMapping(1, 300000, 65536))
USER = replace(HOST, unprivileged=True, own_ids=VISITOR)


def config(uids: tuple[IdMapping, ...] = OWN, gids: Any = OWN, **linux: Any) -> Config:
    made = default_config(uid_mappings=uids, gid_mappings=gids, **linux)
    return replace(made, mounts=(), process=replace(process(), user=process().user))


def maps(made: Plan) -> WriteIdMaps:
    (step,) = (step for step in made.steps if isinstance(step, WriteIdMaps))
    return step


def test_the_own_id_is_written_directly_and_groups_are_given_up() -> None:
    step = maps(plan(config(), USER, BUNDLE))
    assert (step.uid_map, step.gid_map) == ("0 4242 1\n", "0 4242 1\n")
    assert (step.setgroups, step.uid_helper, step.gid_helper) == ("deny", "", "")


def test_more_than_it_by_the_helpers() -> None:
    step = maps(plan(config(GRANTED, GRANTED), USER, BUNDLE))
    assert (step.uid_helper, step.gid_helper) == ("/usr/bin/newuidmap", "/usr/bin/newgidmap")
    assert (step.setgroups, step.uid_grants, step.gid_grants) == ("", (), ())


def test_each_map_by_itself() -> None:
    step = maps(plan(config(GRANTED, OWN), USER, BUNDLE))
    assert (step.setgroups, step.uid_helper, step.gid_helper) == (
        "deny",
        "/usr/bin/newuidmap",
        "",
    )


@pytest.mark.parametrize(
    ("mapping", "missing"),
    [
        (IdMapping(1, 300000, 65536), ()),
        (IdMapping(1, 300001, 65535), ()),
        (IdMapping(1, 300000, 65537), ("visitor:300000:65537",)),
        (IdMapping(1, 299999, 2), ("visitor:299999:2",)),
        (IdMapping(1, 0, 1), ("visitor:0:1",)),
        (IdMapping(1, 4242, 2), ("visitor:4242:2",)),
    ],
)
def test_the_lines_that_are_missing(mapping: IdMapping, missing: tuple[str, ...]) -> None:
    uids = (IdMapping(0, 500000, 1), mapping)
    step = maps(plan(config(uids, OWN), USER, BUNDLE))
    assert step.uid_grants == ("visitor:500000:1", *missing)
    assert step.gid_grants == ()


def test_a_host_without_helpers() -> None:
    user = replace(USER, own_ids=replace(VISITOR, gid_helper=""))
    with pytest.raises(Unsupported, match=r"gidMappings: .* newgidmap is needed"):
        plan(config(GRANTED, GRANTED), user, BUNDLE)
    plan(config(GRANTED, OWN), user, BUNDLE)


def test_no_user_namespace_and_a_time_namespace() -> None:
    linux = default_config().linux
    assert linux is not None
    kinds = linux.namespaces
    without = tuple(n for n in kinds if n.type != "user")
    with pytest.raises(SpecError, match="needs a user namespace"):
        plan(config((), (), namespaces=without), USER, BUNDLE)
    timed = (*(n for n in kinds if n.type != "time"), Namespace("time"))
    with pytest.raises(Unsupported, match="time namespace"):
        plan(config(namespaces=timed), USER, BUNDLE)


def test_owners_of_a_mount_are_not_for_a_user_to_map() -> None:
    with pytest.raises(Unsupported, match="by root of the host only"):
        plan(config(), USER, OVERLAY)


def test_trees_are_taken_inside_and_the_score_is_inherited() -> None:
    scored = replace(config(), process=replace(process(), oom_score_adj=5))
    kinds = [type(step) for step in plan(scored, USER, BUNDLE).steps]
    assert kinds.index(SetOomScore) < kinds.index(CloneInto) < kinds.index(WriteIdMaps)
    assert kinds.index(WriteIdMaps) < kinds.index(TakeTree)
    assert OpenTree not in kinds
    kinds = [type(step) for step in plan(scored, HOST, BUNDLE).steps]
    assert kinds.index(CloneInto) < kinds.index(SetOomScore)
    made = plan_exec(replace(process(), oom_score_adj=5), config(), USER, EXEC)
    kinds = [type(step) for step in made.steps]
    assert kinds.index(SetOomScore) < kinds.index(CloneInto)


@pytest.mark.parametrize(("gids", "groups"), [(OWN, ()), (GRANTED, (7,))])
def test_groups(gids: tuple[IdMapping, ...], groups: tuple[int, ...]) -> None:
    user = replace(process().user, uid=0, gid=0, additional_gids=groups or (0,))
    made = plan(replace(config(OWN, gids), process=replace(process(), user=user)), USER, BUNDLE)
    (become,) = (step for step in made.steps if isinstance(step, BecomeUser))
    assert become.groups == groups
    assert any("additionalGids" in warning for warning in made.warnings) == (not groups)


def refused(call: str, errno: int, detail: str) -> EngineError:
    step = WriteIdMaps(
        uid_map="0 1 1\n",
        gid_map="0 1 1\n",
        uid_helper="/usr/bin/newuidmap",
        gid_helper="/usr/bin/newgidmap",
        uid_grants=("visitor:1:1",),
        gid_grants=("visitor:2:2", "visitor:9:9"),
    )
    return explain_failure(Report(0, 5, errno, call, detail), Plan((step,)))


def test_a_helpers_refusal_names_the_missing_lines() -> None:
    said = "/usr/bin/newgidmap exited with 1: newgidmap: gid range not allowed\n"
    error = refused("idmap", e.ECANCELED, said)
    assert error.kind == "FailedPrecondition"
    assert str(error) == (
        f"{said.strip()} — root grants these ids to a user by a line of /etc/subgid: "
        "visitor:2:2 and visitor:9:9"
    )
    assert "/etc/subuid: visitor:1:1" in str(
        refused("idmap", e.ECANCELED, "/usr/bin/newuidmap exited with 1: no")
    )


@pytest.mark.parametrize(("call", "errno"), [("confirm", e.EBADMSG), ("idmap", e.EACCES)])
def test_a_helper_that_is_not_what_it_should_be(call: str, errno: int) -> None:
    assert "is it setuid root" in str(refused(call, errno, "/usr/bin/newuidmap"))


def test_ranges_of_a_user_by_name_and_by_number() -> None:
    text = "root:1:2\nvisitor:300000:65536\n4242:7:8\nvisitor:x:1\nvisitors:9:9\n"
    assert subid_ranges(text, frozenset({"visitor", "4242"})) == (
        IdPool(300000, 65536),
        IdPool(7, 8),
    )


def test_a_helper_is_one_that_only_root_could_put_there(tmp_path: Path) -> None:
    program = tmp_path / "newuidmap"
    places = (str(tmp_path),)
    assert find_helper("newuidmap", places) == ""
    program.write_text("")
    for mode, found in ((0o755, True), (0o775, False), (0o757, False), (0o750, False)):
        program.chmod(mode)
        wanted = str(program) if found and program.stat().st_uid == 0 else ""
        assert find_helper("newuidmap", places) == wanted
    program.unlink()
    program.mkdir()
    assert find_helper("newuidmap", places) == ""


def test_root_has_no_own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert own_ids(lambda _: "") is None
    monkeypatch.setattr("os.geteuid", lambda: 99999)
    found = own_ids(lambda path: "99999:5:6\n" if path.endswith("subuid") else "")
    assert found is not None
    assert (found.name, found.uid_ranges, found.gid_ranges) == ("99999", (IdPool(5, 6),), ())
