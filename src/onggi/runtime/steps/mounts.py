"""Init's steps that build the container's tree and make it the only one that it can reach.

Every path is one of the container's root, resolved by keel from the root's descriptor.
"""

from __future__ import annotations

from onggi.runtime.steps.base import NO_SLOT, Step

MOUNT_ATTR_RDONLY = 0x1
_PROPAGATION = {1 << 18: "private", 1 << 19: "slave", 1 << 20: "shared", 1 << 17: "unbindable"}


def _propagation_name(flags: int) -> str:
    return next((name for bit, name in _PROPAGATION.items() if flags & bit), "unchanged")


class SetRootPropagation(Step, frozen=True, kw_only=True):
    """Cut mount events between the container and the host."""

    opcode = 16
    signature = "u"
    concerns = "mount"
    section = "runtime-spec config-linux.md#rootfs-mount-propagation"
    protects = "mounts spreading to the host"

    flags: int

    def describe(self) -> str:
        return f"make every mount {_propagation_name(self.flags)}"


class MountOverlay(Step, frozen=True, kw_only=True):
    """Stack the layers in slots (topmost first) under an upper directory, detached, in a slot."""

    opcode = 22
    signature = "unuul"
    concerns = "mount"
    section = "kernel Documentation/filesystems/overlayfs.rst"
    protects = "the image: every write goes to the container's own directory"

    slot: int
    lowers: tuple[int, ...]
    upper: int = NO_SLOT
    work: int = NO_SLOT
    options: tuple[str, ...] = ()

    def describe(self) -> str:
        upper = "read-only" if self.upper == NO_SLOT else f"upper slot {self.upper}"
        return f"overlay {len(self.lowers)} layers, {upper} → slot {self.slot}"


class AttachRoot(Step, frozen=True, kw_only=True):
    """Attach the tree in a slot at a host directory, inside the new mount namespace: the root."""

    opcode = 23
    signature = "usu"
    concerns = "mount"
    section = "runtime-spec config.md#root"

    slot: int
    path: str
    propagation: int = 0

    def describe(self) -> str:
        return f"attach slot {self.slot} at {self.path} as the root"


class MountFilesystem(Step, frozen=True, kw_only=True):
    """Mount a new file system at a path of the root.

    `attributes`: MOUNT_ATTR_* bits. `copy_up`: what of the directory that is mounted upon the new
    file system takes over: 1 all that is in it and its mode (tmpcopyup), 2 its mode.
    `propagation`: MS_* bits.
    """

    opcode = 24
    signature = "sssuulu"
    concerns = "mount"
    section = "runtime-spec config.md#mounts"

    fstype: str
    source: str
    target: str
    attributes: int = 0
    copy_up: int = 0
    options: tuple[str, ...] = ()
    propagation: int = 0

    def describe(self) -> str:
        options = f" ({','.join(self.options)})" if self.options else ""
        mode = " read-only" if self.attributes & MOUNT_ATTR_RDONLY else ""
        return f"mount {self.fstype} on {self.target}{mode}{options}"


class BindTree(Step, frozen=True, kw_only=True):
    """Attach the tree in a slot at a path of the root.

    `attributes_*`: MOUNT_ATTR_* of its topmost mount; `below_*`: then of that and all below it.
    """

    opcode = 25
    signature = "usuuuuu"
    concerns = "mount"
    section = "runtime-spec config.md#mounts"

    slot: int
    target: str
    attributes_set: int = 0
    attributes_clear: int = 0
    below_set: int = 0
    below_clear: int = 0
    propagation: int = 0

    def describe(self) -> str:
        to_set = (self.attributes_set & ~self.below_clear) | self.below_set
        mode = " read-only" if to_set & MOUNT_ATTR_RDONLY else ""
        return f"bind slot {self.slot} on {self.target}{mode}"


class ChangeMount(Step, frozen=True, kw_only=True):
    """Give other attributes to what is mounted on a path of the root."""

    opcode = 47
    signature = "suuuuu"
    concerns = "mount"
    section = "runtime-spec config.md#linux-mount-options remount"

    target: str
    attributes_set: int = 0
    attributes_clear: int = 0
    below_set: int = 0
    below_clear: int = 0
    propagation: int = 0

    def describe(self) -> str:
        return f"change the mount on {self.target}"


class MakeDirectory(Step, frozen=True, kw_only=True):
    """Make a directory in the root, with its missing parents."""

    opcode = 26
    signature = "suuu"
    concerns = "mount"
    section = "runtime-spec config.md#mounts"

    path: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0

    def describe(self) -> str:
        return f"make directory {self.path} mode {self.mode:04o}"


class MakeSymlink(Step, frozen=True, kw_only=True):
    """Make a symbolic link in the root; one that exists is left."""

    opcode = 27
    signature = "ss"
    concerns = "mount"
    section = "runtime-spec runtime-linux.md#dev-symbolic-links"

    target: str
    path: str

    def describe(self) -> str:
        return f"link {self.path} → {self.target}"


class MakeDevice(Step, frozen=True, kw_only=True):
    """Make a device node in the root (without a user namespace only; otherwise nodes are bound)."""

    opcode = 28
    signature = "suuuuuu"
    concerns = "devices"
    section = "runtime-spec config-linux.md#devices"

    path: str
    kind: int
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0

    def describe(self) -> str:
        return f"make device {self.path} {chr(self.kind)} {self.major}:{self.minor}"


class PivotRoot(Step, frozen=True, kw_only=True):
    """Make the root the only tree that init can reach.

    `how`: 0 pivot_root; 1 moves the root over the host's, for a host that runs from an initramfs,
    which cannot be pivoted away from. Then `views`, where the host has mounted procfs and sysfs,
    are taken away first.
    """

    opcode = 30
    signature = "ul"
    concerns = "mount"
    section = "pivot_root(2)"
    protects = "the host's files"

    how: int = 0
    views: tuple[str, ...] = ()

    def describe(self) -> str:
        if self.how:
            return "move the root over the host's and change into it"
        return "pivot into the root and detach the host's mounts"


class SetPathReadonly(Step, frozen=True, kw_only=True):
    """Make a path of the root read-only; a missing one is skipped."""

    opcode = 32
    signature = "s"
    concerns = "mount"
    section = "runtime-spec config-linux.md#readonly-paths"
    protects = "kernel settings that are not namespaced"

    path: str

    def describe(self) -> str:
        return f"make {self.path} read-only"


class MaskPath(Step, frozen=True, kw_only=True):
    """Cover a path of the root with nothing; a missing one is skipped."""

    opcode = 33
    signature = "s"
    concerns = "mount"
    section = "runtime-spec config-linux.md#masked-paths"
    protects = "kernel memory, keys and firmware seen through /proc and /sys"

    path: str

    def describe(self) -> str:
        return f"mask {self.path}"


class SetRootReadonly(Step, frozen=True, kw_only=True):
    """Make the root itself read-only."""

    opcode = 34
    concerns = "mount"
    section = "runtime-spec config.md#root"

    def describe(self) -> str:
        return "make the root read-only"
