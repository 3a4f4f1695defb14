"""A v2 tree of ordinary files: what is written where, what is only warned of, what is refused."""

import errno
from pathlib import Path

import pytest

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, Unsupported
from onggi.kernel.cgroups.directory import Directory
from onggi.kernel.cgroups.driver import Cgroup
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy
from onggi.kernel.cgroups.rule import Write
from onggi.kernel.cgroups.writing import carry_out
from onggi.specs.runtime import (
    Cpu,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    Pids,
    Resources,
)

OFFERED = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")
LEAF_FILES = ("cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max", "io.max")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for directory in (tmp_path, tmp_path / "onggi", tmp_path / "onggi" / "one"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.subtree_control").write_text(" ".join(OFFERED) + "\n")
    for file in LEAF_FILES:
        (tmp_path / "onggi" / "one" / file).touch()
    return tmp_path


@pytest.fixture
def cgroup(tree: Path) -> Cgroup:
    layout = CgroupLayout((Hierarchy(2, str(tree), OFFERED),), kernel=(6, 1))
    return Cgroup(layout, "onggi/one")


def leaf(tree: Path, file: str) -> str:
    return (tree / "onggi" / "one" / file).read_text()


def test_the_usual_limits(tree: Path, cgroup: Cgroup) -> None:
    resources = Resources(
        cpu=Cpu(quota=50000, period=100000, shares=1024),
        memory=Memory(limit=64 << 20, swap=128 << 20),
        pids=Pids(limit=50),
    )
    assert cgroup.apply(resources) == ()
    assert leaf(tree, "cpu.max") == "50000 100000"
    assert leaf(tree, "cpu.weight") == "100"
    assert leaf(tree, "memory.max") == str(64 << 20)
    assert leaf(tree, "memory.swap.max") == str(64 << 20)
    assert leaf(tree, "pids.max") == "50"


def test_what_the_host_lacks_is_named(cgroup: Cgroup) -> None:
    resources = Resources(
        cpu=Cpu(idle=1),
        memory=Memory(swappiness=10),
        hugepage_limits=(HugepageLimit("1GB", 0),),
        network=NetworkResources(class_id=1, priorities=(InterfacePriority("lo", 1),)),
    )
    warnings = cgroup.apply(resources)
    assert len(warnings) == 5
    for word in ("cpu.idle", "swappiness", "hugetlb.1GB.max", "class id", "priorities"):
        assert sum(word in line for line in warnings) == 1


def test_a_controller_that_is_not_offered_is_named(tree: Path) -> None:
    layout = CgroupLayout((Hierarchy(2, str(tree), ("cpu",)),), disabled=("memory",))
    warnings = Cgroup(layout, "onggi/one").apply(Resources(memory=Memory(limit=1 << 20)))
    assert warnings == (
        "no memory controller on this host (it is disabled on the kernel's command line "
        "(cgroup_disable=)): memory.max = 1048576 is not applied",
    )


def test_nothing_is_written_when_a_later_resource_is_wrong(tree: Path, cgroup: Cgroup) -> None:
    wrong = Resources(memory=Memory(limit=1 << 20), hugepage_limits=(HugepageLimit("x", 1),))
    with pytest.raises(InvalidArgument):
        cgroup.apply(wrong)
    assert leaf(tree, "memory.max") == ""


def test_unified_goes_through(tree: Path, cgroup: Cgroup) -> None:
    assert cgroup.apply(Resources(unified={"io.max": "8:0 rbps=1"})) == ()
    assert leaf(tree, "io.max") == "8:0 rbps=1"


def test_unified_is_refused_when_it_cannot_be(cgroup: Cgroup) -> None:
    with pytest.raises(Unsupported, match="misc"):
        cgroup.apply(Resources(unified={"misc.max": "1"}))
    with pytest.raises(Unsupported, match=r"memory\.nosuch"):
        cgroup.apply(Resources(unified={"memory.nosuch": "1"}))


def test_controllers_are_enabled_root_first(tree: Path, cgroup: Cgroup) -> None:
    written = []

    class Recorder(Directory):
        __slots__ = ()

        def write(self, name: str, value: str) -> None:
            written.append((self.path.removeprefix(str(tree)), name, value))

    for directory in (tree, tree / "onggi"):
        (directory / "cgroup.subtree_control").write_text("cpu io memory\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onggi.kernel.cgroups.making.Directory", Recorder)
        cgroup.apply(Resources())
    assert written == [
        ("", "cgroup.subtree_control", "+pids"),
        ("/onggi", "cgroup.subtree_control", "+pids"),
    ]


def test_a_controller_that_cannot_be_enabled_matters_only_if_it_is_needed(
    tree: Path, cgroup: Cgroup
) -> None:
    class Busy(Directory):
        __slots__ = ()

        def write(self, name: str, value: str) -> None:
            raise OSError(errno.EBUSY, "Device or resource busy")

    (tree / "onggi" / "cgroup.subtree_control").write_text("cpu io memory\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onggi.kernel.cgroups.making.Directory", Busy)
        assert cgroup.apply(Resources(cpu=Cpu(shares=2))) == ()
        with pytest.raises(FailedPrecondition, match=r"cannot enable the pids .*busy"):
            cgroup.apply(Resources(pids=Pids(limit=1)))


def test_a_cgroup_that_does_not_exist(tree: Path) -> None:
    layout = CgroupLayout((Hierarchy(2, str(tree), OFFERED),))
    with pytest.raises(NotFound):
        Cgroup(layout, "onggi/two").apply(Resources())


class Bound(Directory):
    """limit ≤ memsw at every instant, as v1's memory controller wants it."""

    __slots__ = ("log", "values")

    def __init__(self, limit: int, memsw: int) -> None:
        super().__init__("/none")
        self.values = {"limit": limit, "memsw": memsw}
        self.log: list[str] = []

    def write(self, name: str, value: str) -> None:
        values = self.values | {name: int(value)}
        if values["limit"] > values["memsw"]:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.values = values
        self.log.append(name)


@pytest.mark.parametrize(
    ("now", "wanted", "order"),
    [
        ((100, 200), (300, 400), ["memsw", "limit"]),
        ((300, 400), (100, 200), ["limit", "memsw"]),
        ((100, 400), (200, 300), ["limit", "memsw"]),
        ((200, 300), (100, 400), ["limit", "memsw"]),
    ],
)
def test_values_that_bind_each_other_reach_their_place_from_both_sides(
    now: tuple[int, int], wanted: tuple[int, int], order: list[str]
) -> None:
    directory = Bound(*now)
    changes = (Write("limit", str(wanted[0])), Write("memsw", str(wanted[1])))
    assert carry_out(directory, changes) == []
    assert directory.values == {"limit": wanted[0], "memsw": wanted[1]}
    assert directory.log == order


def test_a_value_that_is_refused_in_every_order_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="cgroup /none: limit = 500: Invalid argument"):
        carry_out(Bound(100, 200), (Write("limit", "500"), Write("memsw", "300")))


@pytest.mark.parametrize(
    "path", ["/onggi/a", "", "onggi/../x", "onggi//a", "./a", "..", "onggi/a/", "a\nb", "x" * 256]
)
def test_paths_that_lead_elsewhere(tree: Path, path: str) -> None:
    layout = CgroupLayout((Hierarchy(2, str(tree), OFFERED),))
    with pytest.raises(InvalidArgument, match="does not stay below"):
        Cgroup(layout, path)


def test_parents_that_are_not_ours_stay(tree: Path) -> None:
    layout = CgroupLayout((Hierarchy(2, str(tree), OFFERED),))
    (tree / "machine.slice").mkdir()
    assert not Cgroup(layout, "machine.slice/x").remove_parent_if_empty()
    (tree / "onggi-a1").mkdir()
    assert Cgroup(layout, "onggi-a1/x").remove_parent_if_empty()
    assert not (tree / "onggi-a1").exists()
    assert (tree / "machine.slice").exists()
