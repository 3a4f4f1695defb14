"""Where controllers live, read from the texts of other hosts."""

import pytest

from onggi.errors import Unsupported
from onggi.kernel.cgroups import controllers
from onggi.kernel.cgroups.layout import CgroupLayout, Hierarchy, parse_layout
from onggi.specs.runtime import Cpu, HugepageLimit, Resources

FEDORA = """\
22 1 0:20 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
29 23 0:26 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,seclabel,nsdelegate
"""
FEDORA_CGROUPS = """\
#subsys_name	hierarchy	num_cgroups	enabled
cpuset	0	95	1
cpu	0	95	1
memory	0	95	1
hugetlb	0	95	1
"""
CENTOS_7 = """\
26 24 0:22 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
27 26 0:23 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
31 26 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev shared:12 - cgroup cgroup rw,cpuacct,cpu
33 26 0:29 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:14 - cgroup cgroup rw,net_prio,net_cls
35 26 0:31 / /sys/fs/cgroup/pids rw,nosuid shared:16 - cgroup cgroup rw,pids
"""
CENTOS_CGROUPS = """\
#subsys_name	hierarchy	num_cgroups	enabled
cpu	2	1	1
cpuacct	2	1	1
memory	0	1	0
net_cls	4	1	1
net_prio	4	1	1
pids	6	1	1
rdma	0	1	1
"""
HYBRID = """\
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
"""


def test_pure_v2() -> None:
    layout = parse_layout(FEDORA, FEDORA_CGROUPS, "cpuset cpu io memory pids\n", "6.11.4-300.fc41")
    assert layout.mode == "v2"
    assert layout.v2 == Hierarchy(2, "/sys/fs/cgroup", ("cpuset", "cpu", "io", "memory", "pids"))
    assert layout.hierarchies == (layout.v2,)
    assert layout.kernel == (6, 11)
    assert layout.core_freezer
    assert layout.unmounted == ("hugetlb",)


def test_pure_v1_with_controllers_mounted_together() -> None:
    layout = parse_layout(CENTOS_7, CENTOS_CGROUPS, "", "3.10.0-1160.el7.x86_64")
    assert layout.mode == "v1"
    assert layout.v2 is None
    assert not layout.core_freezer
    assert [h.controllers for h in layout.hierarchies] == [
        ("cpuacct", "cpu"),
        ("net_prio", "net_cls"),
        ("pids",),
    ]
    assert layout.named == (Hierarchy(1, "/sys/fs/cgroup/systemd", ("name=systemd",)),)
    assert layout.every == layout.named + layout.hierarchies
    together = layout.hierarchy("cpu", "cpu")
    assert together is layout.hierarchy("cpuacct", "")
    assert together is not None
    assert together.mount_point == "/sys/fs/cgroup/cpu,cpuacct"


def test_a_named_hierarchy_beside_v2_makes_no_hybrid() -> None:
    named = "27 26 0:23 / /sys/fs/cgroup/elogind rw - cgroup cgroup rw,none,name=elogind\n"
    layout = parse_layout(named + FEDORA, FEDORA_CGROUPS, "cpu\n", "6.11")
    assert layout.mode == "v2"
    assert [h.controllers for h in layout.named] == [("name=elogind",)]


def test_the_reason_why_a_controller_is_missing() -> None:
    layout = parse_layout(CENTOS_7, CENTOS_CGROUPS, "", "3.10.0")
    assert "cgroup_disable" in layout.why_missing("memory")
    assert "not mounted" in layout.why_missing("rdma")
    assert "does not have it" in layout.why_missing("misc")


def test_hybrid_has_v2_last() -> None:
    layout = parse_layout(HYBRID, "", "hugetlb\n", "6.18.44")
    assert layout.mode == "hybrid"
    assert [h.version for h in layout.hierarchies] == [1, 1, 1, 2]
    assert layout.hierarchy("hugetlb", "hugetlb") == layout.v2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("/docker/x /a ro", "/ /b rw"), "/b"),
        (("/ /a ro", "/docker/x /b rw"), "/b"),
        (("/docker/x /a rw", "/ /b rw"), "/b"),
        (("/ /a rw", "/ /b rw"), "/a"),
    ],
)
def test_of_several_mounts_the_writable_root_is_taken(
    lines: tuple[str, str], expected: str
) -> None:
    text = ""
    for line in lines:
        root, mount_point, option = line.split()
        text += f"31 26 0:27 {root} {mount_point} {option},nosuid - cgroup cgroup rw,pids\n"
    assert [h.mount_point for h in parse_layout(text, "", "", "5.4").hierarchies] == [expected]


def test_a_mount_point_with_a_space() -> None:
    text = "31 26 0:27 / /srv/my\\040cgroups rw - cgroup2 none rw\n"
    assert parse_layout(text, "", "", "5.4").hierarchies[0].mount_point == "/srv/my cgroups"


def test_no_cgroups_at_all() -> None:
    with pytest.raises(Unsupported, match="no cgroup hierarchy is mounted"):
        parse_layout(FEDORA.splitlines()[0], FEDORA_CGROUPS, "", "6.1")


def layout(*hierarchies: Hierarchy, kernel: tuple[int, int] = (6, 1)) -> CgroupLayout:
    return CgroupLayout(hierarchies, kernel=kernel)


CPU = Hierarchy(1, "/c/cpu", ("cpu",))
CPUSET = Hierarchy(1, "/c/cpuset", ("cpuset",))
FREEZER = Hierarchy(1, "/c/freezer", ("freezer",))
V2 = Hierarchy(2, "/c/unified", ("hugetlb",))


def test_what_nobody_asked_for_is_not_joined() -> None:
    host = layout(CPU, CPUSET, FREEZER, V2)
    assert controllers.hierarchies(host, Resources()) == (CPU, V2)
    asked = Resources(cpu=Cpu(cpus="0"))
    assert controllers.hierarchies(host, asked) == (CPU, CPUSET, V2)


def test_the_v1_freezer_is_joined_where_v2_cannot_freeze() -> None:
    assert controllers.hierarchies(layout(CPU, FREEZER), Resources()) == (CPU, FREEZER)
    old = layout(CPU, FREEZER, V2, kernel=(4, 19))
    assert controllers.hierarchies(old, Resources()) == (CPU, FREEZER, V2)


def test_v2_controllers_to_enable() -> None:
    pure = layout(Hierarchy(2, "/c", ("cpuset", "cpu", "memory", "hugetlb", "misc")))
    assert controllers.v2_controllers(pure, Resources()) == ("cpu", "memory")
    huge = Resources(hugepage_limits=(HugepageLimit("2MB", 0),), unified={"misc.max": "x 1"})
    assert controllers.v2_controllers(pure, huge) == ("cpu", "memory", "hugetlb", "misc")
    assert controllers.v2_controllers(layout(CPU, V2), Resources()) == ()
    assert controllers.v2_controllers(layout(CPU, V2), huge) == ("hugetlb",)
