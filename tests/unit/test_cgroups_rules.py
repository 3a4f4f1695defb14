"""Each controller's rule: OCI resources to writes, and files to numbers, on both versions."""

import pytest

from onggi.errors import FailedPrecondition, InvalidArgument
from onggi.kernel.cgroups import (
    cpu,
    cpuset,
    freezer,
    hugetlb,
    io,
    memory,
    network,
    pids,
    rdma,
    unified,
)
from onggi.kernel.cgroups.rule import NO_FILES, Change, Lacking, Write, flat_keyed, limit
from onggi.kernel.cgroups.stats import HugetlbStats, IoStats, OomEvents
from onggi.specs.runtime import (
    BlockIO,
    Cpu,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    Pids,
    RdmaLimit,
    Resources,
    ThrottleDevice,
    WeightDevice,
)


class Texts:
    """Files from a dictionary."""

    def __init__(self, **files: str) -> None:
        self._files = {name.replace("__", "."): text for name, text in files.items()}

    def read(self, name: str) -> str | None:
        return self._files.get(name)

    def names(self) -> list[str]:
        return list(self._files)


def pairs(changes: tuple[Change, ...]) -> list[tuple[str, str]]:
    return [(c.file, c.value) for c in changes if isinstance(c, Write)]


def lacking(changes: tuple[Change, ...]) -> list[str]:
    return [c.text for c in changes if isinstance(c, Lacking)]


# rule


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("max\n", None),
        ("-1\n", None),
        ("9223372036854771712\n", None),
        ("9223372036854710272\n", None),
        ("0\n", 0),
        ("67108864\n", 67108864),
    ],
)
def test_limit(text: str | None, value: int | None) -> None:
    assert limit(text) == value


def test_flat_keyed_leaves_out_what_is_no_number() -> None:
    assert flat_keyed("a 1\nb max\nc 2 3\n\nd 4\n") == {"a": 1, "d": 4}


# cpu


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (1024, 100), (262144, 10000), (300000, 10000), (512, 59), (2048, 174)],
)
def test_shares_to_weight(shares: int, weight: int) -> None:
    assert cpu.weight_of_shares(shares) == weight


def test_more_shares_are_never_less_weight() -> None:
    weights = [cpu.weight_of_shares(2**n + k) for n in range(1, 19) for k in (0, 1)]
    assert weights == sorted(weights)
    assert min(weights) == 1
    assert max(weights) == 10000


def test_cpu_v1_orders_period_quota_burst_idle() -> None:
    resources = Resources(cpu=Cpu(shares=512, quota=50000, period=100000, burst=2000, idle=0))
    assert pairs(cpu.v1(resources, NO_FILES)) == [
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "2000"),
        ("cpu.idle", "0"),
    ]


@pytest.mark.parametrize(
    ("wanted", "now", "written"),
    [
        (Cpu(quota=50000, period=100000), None, "50000 100000"),
        (Cpu(quota=50000), "max 100000", "50000"),
        (Cpu(quota=-1), "50000 100000", "max"),
        (Cpu(quota=-1, period=20000), "50000 100000", "max 20000"),
        (Cpu(period=20000), "5000 100000\n", "5000 20000"),
        (Cpu(period=20000), None, "max 20000"),
    ],
)
def test_cpu_max_keeps_what_is_not_named(wanted: Cpu, now: str | None, written: str) -> None:
    files = Texts(cpu__max=now) if now else NO_FILES
    assert pairs(cpu.v2(Resources(cpu=wanted), files)) == [("cpu.max", written)]


def test_cpu_v2_names_real_time_as_lacking() -> None:
    changes = cpu.v2(Resources(cpu=Cpu(shares=1024, burst=1, idle=1, realtime_runtime=5)), NO_FILES)
    assert pairs(changes) == [("cpu.weight", "100"), ("cpu.max.burst", "1"), ("cpu.idle", "1")]
    assert "real-time" in lacking(changes)[0]


def test_cpu_stats_have_the_same_names_on_both() -> None:
    throttled = "nr_periods 10\nnr_throttled 4\nthrottled_time 7000\n"
    one = cpu.stats_v1(
        Texts(cpu__stat=throttled),
        Texts(cpuacct__usage="9000\n", cpuacct__usage_user="6000\n", cpuacct__usage_sys="3000\n"),
    )
    two = cpu.stats_v2(
        Texts(
            cpu__stat="usage_usec 9\nuser_usec 6\nsystem_usec 3\n"
            "nr_periods 10\nnr_throttled 4\nthrottled_usec 7\n"
        )
    )
    assert one == two
    assert one is not None
    assert (one.usage_ns, one.user_ns, one.system_ns, one.throttled_ns) == (9000, 6000, 3000, 7000)


def test_cpu_stats_of_an_old_v1_kernel_count_ticks() -> None:
    stats = cpu.stats_v1(
        NO_FILES, Texts(cpuacct__usage="50000000\n", cpuacct__stat="user 3\nsystem 2\n")
    )
    assert stats is not None
    assert (stats.user_ns, stats.system_ns) == (30_000_000, 20_000_000)
    assert cpu.stats_v1(NO_FILES, NO_FILES) is None


# cpuset


def test_cpuset_is_the_same_on_both_and_an_empty_list_is_none() -> None:
    assert pairs(cpuset.both(Resources(cpu=Cpu(cpus="0-1", mems="")), NO_FILES)) == [
        ("cpuset.cpus", "0-1")
    ]


def test_a_new_cpuset_takes_over_only_what_it_lacks() -> None:
    parent = Texts(cpuset__cpus="0-3\n", cpuset__mems="0\n")
    assert cpuset.inherit(parent, Texts(cpuset__cpus="\n", cpuset__mems="\n")) == (
        Write("cpuset.cpus", "0-3"),
        Write("cpuset.mems", "0"),
    )
    assert cpuset.inherit(parent, Texts(cpuset__cpus="1\n", cpuset__mems="0\n")) == ()


# memory


def test_memory_v1() -> None:
    wanted = Memory(limit=100, swap=200, reservation=50, swappiness=0, disable_oom_killer=True)
    assert pairs(memory.v1(Resources(memory=wanted), NO_FILES)) == [
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "200"),
        ("memory.soft_limit_in_bytes", "50"),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "1"),
    ]


def test_lifting_the_memory_limit_lifts_swap_too() -> None:
    wanted = Resources(memory=Memory(limit=-1))
    assert pairs(memory.v1(wanted, NO_FILES)) == [
        ("memory.limit_in_bytes", "-1"),
        ("memory.memsw.limit_in_bytes", "-1"),
    ]
    assert pairs(memory.v2(wanted, NO_FILES)) == [("memory.swap.max", "max"), ("memory.max", "max")]


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        (Memory(limit=100, swap=300), [("memory.swap.max", "200"), ("memory.max", "100")]),
        (Memory(limit=100, swap=100), [("memory.swap.max", "0"), ("memory.max", "100")]),
        (Memory(limit=100, swap=-1), [("memory.swap.max", "max"), ("memory.max", "100")]),
        (Memory(limit=100), [("memory.max", "100")]),
        (Memory(reservation=-1), [("memory.low", "max")]),
        (Memory(limit=0, swap=0), []),
    ],
)
def test_memory_v2_swap_is_what_remains(wanted: Memory, written: list[tuple[str, str]]) -> None:
    assert pairs(memory.v2(Resources(memory=wanted), NO_FILES)) == written


def test_memory_that_cannot_be() -> None:
    for rule in (memory.v1, memory.v2):
        with pytest.raises(InvalidArgument, match="below the memory limit"):
            rule(Resources(memory=Memory(limit=200, swap=100)), NO_FILES)
    with pytest.raises(InvalidArgument, match="needs a memory limit"):
        memory.v2(Resources(memory=Memory(swap=100)), NO_FILES)


def test_memory_check_before_update() -> None:
    wanted = Resources(memory=Memory(limit=100, check_before_update=True))
    for rule, files in (
        (memory.v1, lambda n: Texts(memory__usage_in_bytes=n)),
        (memory.v2, lambda n: Texts(memory__current=n)),
    ):
        assert pairs(rule(wanted, files("100\n")))
        with pytest.raises(FailedPrecondition, match="101 bytes in use"):
            rule(wanted, files("101\n"))


def test_memory_names_what_is_lacking() -> None:
    wanted = Memory(kernel=1, kernel_tcp=1, swappiness=0, disable_oom_killer=True)
    assert len(lacking(memory.v1(Resources(memory=wanted), NO_FILES))) == 1
    changes = memory.v2(Resources(memory=wanted), NO_FILES)
    assert len(lacking(changes)) == 4
    assert pairs(changes) == []


def test_memory_stats_have_the_same_names_on_both() -> None:
    one = memory.stats_v1(
        Texts(
            memory__usage_in_bytes="100\n",
            memory__limit_in_bytes="200\n",
            memory__max_usage_in_bytes="150\n",
            memory__failcnt="3\n",
            memory__stat="cache 1\nrss 1\ntotal_cache 40\ntotal_rss 50\ntotal_swap 7\n"
            "total_inactive_file 20\n",
        )
    )
    two = memory.stats_v2(
        Texts(
            memory__current="100\n",
            memory__max="200\n",
            memory__peak="150\n",
            memory__events="low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\n",
            memory__swap__current="7\n",
            memory__stat="anon 50\nfile 40\ninactive_file 20\n",
        )
    )
    assert one == two
    assert memory.stats_v1(NO_FILES) is None
    assert memory.stats_v2(NO_FILES) is None


def test_oom_counts_below_on_v1() -> None:
    top = Texts(
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        memory__limit_in_bytes="200\n",
        memory__max_usage_in_bytes="200\n",
    )
    below = Texts(memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert memory.oom_v1((top, below)) == OomEvents(3, 200, 200)


def test_oom_v2() -> None:
    files = Texts(memory__events="oom 9\noom_kill 2\n", memory__max="max\n")
    assert memory.oom_v2(files) == OomEvents(2, None, None)


# pids


@pytest.mark.parametrize(("wanted", "written"), [(50, "50"), (-1, "max"), (0, "1")])
def test_pids(wanted: int, written: str) -> None:
    assert pairs(pids.both(Resources(pids=Pids(limit=wanted)), NO_FILES)) == [("pids.max", written)]


def test_pids_unset() -> None:
    assert pids.both(Resources(pids=Pids()), NO_FILES) == ()
    assert pids.both(Resources(), NO_FILES) == ()


# io

THROTTLED = BlockIO(
    throttle_read_bps_device=(ThrottleDevice(8, 0, 1000),),
    throttle_write_bps_device=(ThrottleDevice(8, 0, 0),),
    throttle_read_iops_device=(ThrottleDevice(8, 16, 10),),
    throttle_write_iops_device=(ThrottleDevice(8, 16, 20),),
)


def test_io_throttles() -> None:
    assert pairs(io.v1(Resources(block_io=THROTTLED), NO_FILES)) == [
        ("blkio.throttle.read_bps_device", "8:0 1000"),
        ("blkio.throttle.write_bps_device", "8:0 0"),
        ("blkio.throttle.read_iops_device", "8:16 10"),
        ("blkio.throttle.write_iops_device", "8:16 20"),
    ]
    assert pairs(io.v2(Resources(block_io=THROTTLED), NO_FILES)) == [
        ("io.max", "8:0 rbps=1000"),
        ("io.max", "8:0 wbps=max"),
        ("io.max", "8:16 riops=10"),
        ("io.max", "8:16 wiops=20"),
    ]


def test_io_weights_go_to_the_file_that_the_kernel_has() -> None:
    wanted = Resources(block_io=BlockIO(weight=500, weight_device=(WeightDevice(8, 0, 10),)))
    old = Texts(blkio__weight="500\n")
    bfq = Texts(io__bfq__weight="default 100\n")
    assert pairs(io.v1(wanted, old)) == [("blkio.weight", "500"), ("blkio.weight_device", "8:0 10")]
    assert pairs(io.v1(wanted, NO_FILES)) == [
        ("blkio.bfq.weight", "500"),
        ("blkio.bfq.weight_device", "8:0 10"),
    ]
    assert pairs(io.v2(wanted, bfq)) == [("io.bfq.weight", "500"), ("io.bfq.weight", "8:0 10")]
    assert pairs(io.v2(wanted, NO_FILES)) == [("io.weight", "4950"), ("io.weight", "8:0 1")]


@pytest.mark.parametrize(("weight", "converted"), [(10, 1), (1000, 10000), (1, 1)])
def test_io_weight(weight: int, converted: int) -> None:
    assert io.io_weight(weight) == converted


def test_io_leaf_weight_is_named() -> None:
    for rule in (io.v1, io.v2):
        changes = rule(Resources(block_io=BlockIO(leaf_weight=10)), NO_FILES)
        assert "leaf weight" in lacking(changes)[0]


def test_io_stats_have_the_same_names_on_both() -> None:
    one = io.stats_v1(
        Texts(
            blkio__throttle__io_service_bytes_recursive="254:0 Read 4096\n254:0 Write 8192\n"
            "254:0 Sync 12288\n254:0 Total 12288\nTotal 12288\n",
            blkio__throttle__io_serviced_recursive="254:0 Read 1\n254:0 Write 2\nTotal 3\n",
        )
    )
    two = io.stats_v2(
        Texts(io__stat="254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n")
    )
    assert one == two == (IoStats(254, 0, 4096, 8192, 1, 2),)
    assert io.stats_v1(NO_FILES) is None
    assert io.stats_v2(NO_FILES) is None


# hugetlb


def test_hugetlb_limits_reservations_where_they_are_counted() -> None:
    wanted = Resources(hugepage_limits=(HugepageLimit("2MB", 4194304),))
    assert pairs(hugetlb.v1(wanted, NO_FILES)) == [("hugetlb.2MB.limit_in_bytes", "4194304")]
    files = Texts(**{"hugetlb.2MB.rsvd.max": "max\n"})
    assert pairs(hugetlb.v2(wanted, files)) == [
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
    ]


@pytest.mark.parametrize("size", ["2M", "../2MB", "0MB", "", "2MB/../x"])
def test_hugetlb_page_size_is_a_page_size(size: str) -> None:
    with pytest.raises(InvalidArgument):
        hugetlb.v2(Resources(hugepage_limits=(HugepageLimit(size, 1),)), NO_FILES)


def test_hugetlb_stats() -> None:
    one = Texts(
        **{
            "hugetlb.2MB.limit_in_bytes": "9223372036854771712",
            "hugetlb.2MB.usage_in_bytes": "2097152",
            "hugetlb.2MB.max_usage_in_bytes": "4194304",
            "hugetlb.2MB.failcnt": "1",
            "hugetlb.2MB.rsvd.limit_in_bytes": "0",
        }
    )
    two = Texts(
        **{
            "hugetlb.2MB.max": "max",
            "hugetlb.2MB.current": "2097152",
            "hugetlb.2MB.events": "max 1\n",
            "hugetlb.2MB.rsvd.max": "0",
        }
    )
    assert hugetlb.stats_v1(one) == (HugetlbStats("2MB", 2097152, None, 4194304, 1),)
    assert hugetlb.stats_v2(two) == (HugetlbStats("2MB", 2097152, None, None, 1),)


# rdma, network, freezer, unified


def test_rdma() -> None:
    wanted = {"mlx5_0": RdmaLimit(hca_handles=3, hca_objects=100), "mlx4_0": RdmaLimit()}
    assert pairs(rdma.both(Resources(rdma=wanted), NO_FILES)) == [
        ("rdma.max", "mlx5_0 hca_handle=3 hca_object=100")
    ]
    with pytest.raises(InvalidArgument):
        rdma.both(Resources(rdma={"a b": RdmaLimit(hca_handles=1)}), NO_FILES)


def test_network() -> None:
    wanted = Resources(
        network=NetworkResources(class_id=0x10001, priorities=(InterfacePriority("eth0", 5),))
    )
    assert pairs(network.class_v1(wanted, NO_FILES)) == [("net_cls.classid", "65537")]
    assert pairs(network.priorities_v1(wanted, NO_FILES)) == [("net_prio.ifpriomap", "eth0 5")]
    assert "class id" in lacking(network.class_v2(wanted, NO_FILES))[0]
    assert "priorities" in lacking(network.priorities_v2(wanted, NO_FILES))[0]
    assert network.class_v2(Resources(), NO_FILES) == ()


def test_frozen() -> None:
    assert freezer.frozen_v1(Texts(freezer__state="FROZEN\n"))
    assert not freezer.frozen_v1(Texts(freezer__state="FREEZING\n"))
    assert freezer.frozen_v2(Texts(cgroup__events="populated 1\nfrozen 1\n"))
    assert not freezer.frozen_v2(Texts(cgroup__events="populated 1\nfrozen 0\n"))


def test_unified_is_written_as_it_is() -> None:
    wanted = Resources(unified={"memory.high": "1G", "cgroup.max.depth": "3"})
    assert unified.writes(wanted) == (Write("memory.high", "1G"), Write("cgroup.max.depth", "3"))
    assert unified.controllers(wanted) == ("memory",)


@pytest.mark.parametrize(
    "file",
    [
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.kill",
        "cgroup.threads",
        "../memory.max",
        "a/memory.max",
        "memory",
        ".max",
        "",
        "memory.",
        "x\0.y",
    ],
)
def test_unified_is_for_limits_only(file: str) -> None:
    with pytest.raises(InvalidArgument):
        unified.writes(Resources(unified={file: "1"}))
