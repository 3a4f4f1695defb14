"""Mount options and mountinfo: what the words mean, on any input."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onggi.kernel.mounts import (
    ATTRIBUTE_NEGATIONS,
    ATTRIBUTES,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    PROPAGATIONS,
    WITHOUT_EFFECT,
    MountOptions,
    parse_mountinfo,
    parse_options,
    split_options,
)

# runtime-spec v1.3 config.md#linux-mount-options, the whole table: option → what it changes.
SPECIFIED: dict[str, MountOptions] = {
    "async": MountOptions(data=("async",)),
    "atime": MountOptions(attributes_clear=MOUNT_ATTR__ATIME),
    "bind": MountOptions(bind=True),
    "defaults": MountOptions(),
    "dev": MountOptions(attributes_clear=MOUNT_ATTR_NODEV),
    "diratime": MountOptions(attributes_clear=MOUNT_ATTR_NODIRATIME),
    "dirsync": MountOptions(data=("dirsync",)),
    "exec": MountOptions(attributes_clear=MOUNT_ATTR_NOEXEC),
    "iversion": MountOptions(),
    "lazytime": MountOptions(data=("lazytime",)),
    "loud": MountOptions(),
    "mand": MountOptions(data=("mand",)),
    "noatime": MountOptions(MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "nodev": MountOptions(MOUNT_ATTR_NODEV),
    "nodiratime": MountOptions(MOUNT_ATTR_NODIRATIME),
    "noexec": MountOptions(MOUNT_ATTR_NOEXEC),
    "noiversion": MountOptions(),
    "nolazytime": MountOptions(data=("nolazytime",)),
    "nomand": MountOptions(data=("nomand",)),
    "norelatime": MountOptions(),
    "nostrictatime": MountOptions(attributes_clear=MOUNT_ATTR__ATIME),
    "nosuid": MountOptions(MOUNT_ATTR_NOSUID),
    "nosymfollow": MountOptions(MOUNT_ATTR_NOSYMFOLLOW),
    "private": MountOptions(propagation=MS_PRIVATE),
    "ratime": MountOptions(recursive_clear=MOUNT_ATTR__ATIME),
    "rbind": MountOptions(bind=True, recursive=True),
    "rdev": MountOptions(recursive_clear=MOUNT_ATTR_NODEV),
    "rdiratime": MountOptions(recursive_clear=MOUNT_ATTR_NODIRATIME),
    "relatime": MountOptions(attributes_clear=MOUNT_ATTR__ATIME),
    "remount": MountOptions(remount=True),
    "rexec": MountOptions(recursive_clear=MOUNT_ATTR_NOEXEC),
    "rnoatime": MountOptions(recursive_set=MOUNT_ATTR_NOATIME, recursive_clear=MOUNT_ATTR__ATIME),
    "rnodev": MountOptions(recursive_set=MOUNT_ATTR_NODEV),
    "rnodiratime": MountOptions(recursive_set=MOUNT_ATTR_NODIRATIME),
    "rnoexec": MountOptions(recursive_set=MOUNT_ATTR_NOEXEC),
    "rnorelatime": MountOptions(),
    "rnostrictatime": MountOptions(recursive_clear=MOUNT_ATTR__ATIME),
    "rnosuid": MountOptions(recursive_set=MOUNT_ATTR_NOSUID),
    "rnosymfollow": MountOptions(recursive_set=MOUNT_ATTR_NOSYMFOLLOW),
    "ro": MountOptions(MOUNT_ATTR_RDONLY),
    "rprivate": MountOptions(propagation=MS_PRIVATE | MS_REC),
    "rrelatime": MountOptions(recursive_clear=MOUNT_ATTR__ATIME),
    "rro": MountOptions(recursive_set=MOUNT_ATTR_RDONLY),
    "rrw": MountOptions(recursive_clear=MOUNT_ATTR_RDONLY),
    "rshared": MountOptions(propagation=MS_SHARED | MS_REC),
    "rslave": MountOptions(propagation=MS_SLAVE | MS_REC),
    "rstrictatime": MountOptions(
        recursive_set=MOUNT_ATTR_STRICTATIME, recursive_clear=MOUNT_ATTR__ATIME
    ),
    "rsuid": MountOptions(recursive_clear=MOUNT_ATTR_NOSUID),
    "rsymfollow": MountOptions(recursive_clear=MOUNT_ATTR_NOSYMFOLLOW),
    "runbindable": MountOptions(propagation=MS_UNBINDABLE | MS_REC),
    "rw": MountOptions(attributes_clear=MOUNT_ATTR_RDONLY),
    "shared": MountOptions(propagation=MS_SHARED),
    "silent": MountOptions(),
    "slave": MountOptions(propagation=MS_SLAVE),
    "strictatime": MountOptions(MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "suid": MountOptions(attributes_clear=MOUNT_ATTR_NOSUID),
    "symfollow": MountOptions(attributes_clear=MOUNT_ATTR_NOSYMFOLLOW),
    "sync": MountOptions(data=("sync",)),
    "tmpcopyup": MountOptions(copy_up=True),
    "unbindable": MountOptions(propagation=MS_UNBINDABLE),
    **{word: MountOptions() for word in WITHOUT_EFFECT},
    "idmap": MountOptions(idmap=True),
    "ridmap": MountOptions(idmap=True, recursive_idmap=True),
}


@pytest.mark.parametrize("option", SPECIFIED)
def test_each_option_of_the_specification(option: str) -> None:
    assert parse_options((option,)) == SPECIFIED[option]


def test_no_options_ask_for_nothing() -> None:
    assert parse_options(()) == MountOptions()


def test_what_the_default_proc_and_dev_ask_for() -> None:
    options = parse_options(("nosuid", "strictatime", "mode=755", "size=65536k"))
    assert options.attributes_set == MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME
    assert options.attributes_clear == MOUNT_ATTR__ATIME
    assert options.data == ("mode=755", "size=65536k")


def test_the_last_of_two_that_contradict_wins() -> None:
    assert parse_options(("ro", "rw")) == parse_options(("rw",))
    assert parse_options(("rw", "ro")) == parse_options(("ro",))
    assert parse_options(("noatime", "strictatime")) == parse_options(("strictatime",))
    assert parse_options(("noatime", "relatime")) == parse_options(("relatime",))
    assert parse_options(("shared", "rprivate")).propagation == MS_PRIVATE | MS_REC
    assert parse_options(("ro", "rrw")).attributes_set == MOUNT_ATTR_RDONLY


def test_a_negation_takes_back_its_own_mode_only() -> None:
    assert parse_options(("noatime", "nostrictatime")) == parse_options(("noatime",))
    assert parse_options(("strictatime", "atime")) == parse_options(("strictatime",))
    assert parse_options(("noatime", "atime")) == parse_options(("relatime",))


def test_one_element_may_hold_several_options() -> None:
    assert parse_options(("ro,nosuid,mode=1777",)) == parse_options(("ro", "nosuid", "mode=1777"))
    label = 'context="system_u:object_r:container_file_t:s0:c1,c2",ro'
    assert parse_options((label,)).data == ("context=system_u:object_r:container_file_t:s0:c1,c2",)
    assert split_options(r"lowerdir=a\,b:c,ro") == [r"lowerdir=a\,b:c", "ro"]
    assert split_options(',,a,,"b') == ["a", "b"]


WORDS = st.sampled_from(sorted(SPECIFIED))


def _carry_out(bits: int, options: list[str]) -> int:
    """A mount's own attributes after the options one by one, as mount(8) takes them."""
    for option in options:
        if option in ATTRIBUTES:
            to_set, to_clear = ATTRIBUTES[option]
            bits = bits & ~to_clear | to_set
        elif ATTRIBUTE_NEGATIONS.get(option) == bits & MOUNT_ATTR__ATIME:
            bits &= ~MOUNT_ATTR__ATIME
    return bits


@given(
    st.lists(WORDS),
    st.sampled_from([0, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0x20008F]),
)
@example(["noatime", "nostrictatime", "strictatime", "atime"], 0)
def test_one_set_and_clear_does_what_all_the_options_do_in_turn(words: list[str], old: int) -> None:
    new = parse_options(tuple(words))
    assert old & ~new.attributes_clear | new.attributes_set == _carry_out(old, words)
    recursive = [word[1:] for word in words if word.startswith("r")]
    assert old & ~new.recursive_clear | new.recursive_set == _carry_out(old, recursive)


@given(st.lists(st.one_of(WORDS, st.text(max_size=12))))
def test_any_result_is_one_that_mount_setattr_takes(options: list[str]) -> None:
    new = parse_options(tuple(options))
    for to_set, to_clear in (
        (new.attributes_set, new.attributes_clear),
        (new.recursive_set, new.recursive_clear),
    ):
        assert to_set & to_clear & ~MOUNT_ATTR__ATIME == 0
        assert to_clear & MOUNT_ATTR__ATIME in (0, MOUNT_ATTR__ATIME)
        assert not to_set & MOUNT_ATTR__ATIME or to_clear & MOUNT_ATTR__ATIME
    assert (new.propagation & ~MS_REC).bit_count() <= 1
    assert not new.recursive or new.bind


@given(st.lists(st.text(st.characters(exclude_characters=',"\\'), min_size=1)))
def test_unknown_options_reach_the_file_system_in_order(options: list[str]) -> None:
    known = SPECIFIED.keys() - {o for o, r in SPECIFIED.items() if r.data}
    foreign = tuple(option for option in options if option not in known)
    assert parse_options(tuple(options)).data == foreign
    assert parse_options((",".join(options),)).data == foreign


def test_every_known_word_is_in_the_table() -> None:
    known = {*ATTRIBUTES, *ATTRIBUTE_NEGATIONS}
    known |= {f"r{word}" for word in known} | PROPAGATIONS.keys() | WITHOUT_EFFECT
    assert known <= SPECIFIED.keys()


def _escape(text: str, special: bytes = b" \t\n\\") -> bytes:
    """As the kernel's mangle_path."""
    return b"".join(
        b"\\%03o" % byte if byte in special else bytes((byte,)) for byte in os.fsencode(text)
    )


PATHS = st.binary(max_size=40).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


@given(root=PATHS, point=PATHS, source=PATHS, option=PATHS.filter(lambda o: "," not in o))
@example(root="/", point="/a b\n\t\\040", source="", option="lowerdir=x\udcff y")
@example(root="-", point="- ", source="-", option="-")
def test_escaped_fields_come_back(root: str, point: str, source: str, option: str) -> None:
    line = b"36 35 98:0 %s %s rw,noatime master:1 shared:7 - ext3 %s rw,%s\n" % (
        _escape(root),
        _escape(point),
        _escape(source, b" \t\n\\#"),
        _escape(option),
    )
    (info,) = parse_mountinfo(line)
    assert (info.mount_id, info.parent_id, info.major, info.minor) == (36, 35, 98, 0)
    assert (info.root, info.mount_point, info.source) == (root, point, source)
    assert info.options == ("rw", "noatime")
    assert info.optional == ("master:1", "shared:7")
    assert info.fstype == "ext3"
    assert info.super_options == ("rw", option)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"1 2 3:4 / / rw - tmpfs",
        b"1 2 3 / / rw - a b c",
        rb"1 2 3:4 / /\777 rw - a b c",
        b"x 2 3:4 / / rw - a b c",
    ],
)
def test_a_line_no_kernel_writes_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        parse_mountinfo(line)
