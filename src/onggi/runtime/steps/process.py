"""Init's last steps: it turns itself from keel into the application."""

from __future__ import annotations

from onggi.runtime.steps.base import NO_SLOT, Step


class OpenTerminal(Step, frozen=True, kw_only=True):
    """Take a terminal from the container's own devpts and hand its master to the monitor."""

    opcode = 29
    signature = "uuuu"
    concerns = "terminal"
    section = "runtime-spec config.md#process"
    protects = "the host's terminals (CVE-2025-52565)"

    rows: int = 0
    columns: int = 0
    bind_console: int = 1
    existing: int = 0

    def describe(self) -> str:
        return f"open a terminal ({self.rows}×{self.columns})"


class SetUmask(Step, frozen=True, kw_only=True):
    """Set the file mode creation mask."""

    opcode = 35
    signature = "u"
    concerns = "process"
    section = "runtime-spec config.md#posix-platform-user"

    mask: int

    def describe(self) -> str:
        return f"set umask {self.mask:04o}"


class SetNoNewPrivileges(Step, frozen=True, kw_only=True):
    """Forbid gaining privileges through execve."""

    opcode = 36
    concerns = "credentials"
    section = "prctl(2) PR_SET_NO_NEW_PRIVS"
    protects = "set-user-id programs as a way up"

    def describe(self) -> str:
        return "set no_new_privs"


class LoadSeccomp(Step, frozen=True, kw_only=True):
    """Load the system call filter; its listener goes to the agent, with the text in `state`."""

    opcode = 37
    signature = "usuu"
    concerns = "seccomp"
    section = "runtime-spec config-linux.md#seccomp"
    protects = "the kernel: calls that no application needs"

    flags: int
    program: bytes
    agent: int = NO_SLOT
    state: int = NO_SLOT

    def describe(self) -> str:
        asks = "" if self.agent == NO_SLOT else ", which asks the agent"
        return f"load a system call filter of {len(self.program) // 8} instructions{asks}"


class SetLabel(Step, frozen=True, kw_only=True):
    """Have the next execve take a security label, through a verified procfs.

    `file`: of /proc/self/attr; `fallback`: where kernels before 5.8 have it; may be empty.
    """

    opcode = 48
    signature = "sss"
    concerns = "credentials"
    section = "runtime-spec config.md#linux-process apparmorProfile, selinuxLabel"
    protects = "the host, by its security module: the label is never lost on the way"

    file: str
    fallback: str
    label: str

    def describe(self) -> str:
        return f"write {self.label!r} to /proc/self/attr/{self.file}"


class BecomeUser(Step, frozen=True, kw_only=True):
    """Take the user, groups and capability sets of the application (masks are bit sets)."""

    opcode = 38
    signature = "uunuuuuu"
    concerns = "credentials"
    section = "runtime-spec config.md#user, config.md#linux-process capabilities"
    protects = "everything that needs a capability the application was not given"

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0

    def describe(self) -> str:
        return (
            f"become {self.uid}:{self.gid} with {self.bounding.bit_count()} capabilities bounding, "
            f"{self.effective.bit_count()} effective"
        )


class ChangeDirectory(Step, frozen=True, kw_only=True):
    """Enter the working directory; `create` makes it first. Refused if it lies outside the root."""

    opcode = 39
    signature = "su"
    concerns = "process"
    section = "runtime-spec config.md#process cwd"
    protects = "a working directory outside the root (CVE-2024-21626)"

    path: str
    create: int = 0

    def describe(self) -> str:
        return f"change to {self.path}"


class Hold(Step, frozen=True, kw_only=True):
    """Find the application, then wait for whoever connects to the socket in `slot` and says so."""

    opcode = 63
    signature = "u"
    concerns = "process"
    section = "runtime-spec runtime.md#create, runtime.md#start"

    slot: int

    def describe(self) -> str:
        return "wait to be started"


class Execute(Step, frozen=True, kw_only=True):
    """Become the application. Always the last step."""

    opcode = 40
    signature = "lllu"
    concerns = "process"
    section = "runtime-spec config.md#process"

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    candidates: tuple[str, ...]
    reap: int = 0

    def describe(self) -> str:
        how = " under keel as PID 1" if self.reap else ""
        return f"execute {' '.join(self.arguments)}{how}"
