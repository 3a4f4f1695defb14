"""The steps that run programs of the configuration while the container is made.

The state that a hook reads on its standard input is whole but for the process id, which only the
kernel knows: keel writes it wherever two pieces of `state` meet.
"""

from __future__ import annotations

from onggi.runtime.steps.base import Step


class RunHostHook(Step, frozen=True, kw_only=True):
    """Run a hook on the host, with the host's rights; what goes wrong in it ends the start.

    `timeout_ms`: 0 waits for ever.
    """

    opcode = 11
    signature = "ssllsul"
    actor = "monitor"
    concerns = "hooks"
    section = "runtime-spec config.md#posix-platform-hooks"

    kind: str
    path: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    timeout_ms: int
    state: tuple[str, ...]

    def describe(self) -> str:
        return _describe(self.kind, self.path, self.timeout_ms)


class RunHook(Step, frozen=True, kw_only=True):
    """Run a hook in the container's namespaces, with the rights that init has at this moment.

    `directory`: empty: the container's root.
    """

    opcode = 43
    signature = "ssllsul"
    concerns = "hooks"
    section = "runtime-spec config.md#posix-platform-hooks"

    kind: str
    path: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    timeout_ms: int
    state: tuple[str, ...]

    def describe(self) -> str:
        return _describe(self.kind, self.path, self.timeout_ms)


def _describe(kind: str, path: str, timeout_ms: int) -> str:
    limit = f" (at most {timeout_ms // 1000} s)" if timeout_ms else ""
    return f"run {kind} hook {path}{limit}"
