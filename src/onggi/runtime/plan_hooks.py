"""The hooks that are part of a start, and the state that they and a seccomp agent are told.

prestart and createRuntime run on the host, createContainer in the container's namespaces, all three
when everything is mounted and the host's tree is still in sight; startContainer runs inside, as the
application's user and under its filter, because its program comes from the image. Hooks after the
start and after the end are the lifecycle's.
Source: runtime-spec config.md#posix-platform-hooks, runtime.md#state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from onggi.runtime.steps import RunHook, RunHostHook, Step
from onggi.specs.runtime import SPEC_VERSION, Config, Hook, Hooks, Seccomp

if TYPE_CHECKING:
    from onggi.runtime.draft import Draft

_PID = "\ue000"  # a private character, which JSON lets stand as it is


def creating_steps(draft: Draft) -> list[Step]:
    """prestart, createRuntime and createContainer, in the specification's order."""
    hooks, request = draft.config.hooks or Hooks(), draft.request
    state = split_at_pid(_state(draft, "creating"))
    steps: list[Step] = []
    for kind, host_hooks in (("prestart", hooks.prestart), ("createRuntime", hooks.create_runtime)):
        steps += [
            RunHostHook(
                directory=request.bundle or "/",
                state=state,
                **_fields(kind, hook, request.environment),
            )
            for hook in host_hooks
        ]
    steps += [
        RunHook(
            directory="",
            state=state,
            **_fields("createContainer", hook, request.environment),
        )
        for hook in hooks.create_container
    ]
    return steps


def starting_steps(draft: Draft) -> list[Step]:
    """startContainer: the last that happens before the application."""
    hooks = draft.config.hooks or Hooks()
    state = split_at_pid(starting_state(draft))
    # Its program is the image's, which must not see the host's environment.
    own = draft.config.process.env if draft.config.process else ()
    return [
        RunHook(directory="", state=state, **_fields("startContainer", hook, own))
        for hook in hooks.start_container
    ]


def starting_state(draft: Draft) -> dict[str, Any]:
    """The state between `create` and the application's execve."""
    return _state(draft, "created")


def _state(draft: Draft, status: str) -> dict[str, Any]:
    request = draft.request
    return state_document(draft.config, request.container_id, request.bundle, status)


def state_document(
    config: Config, container_id: str, bundle: str, status: str, pid: int | None = None
) -> dict[str, Any]:
    """The state of a container; a pid that is not known yet is left to `split_at_pid`.

    Source: runtime-spec runtime.md#state.
    """
    return {
        "ociVersion": SPEC_VERSION,
        "id": container_id,
        "status": status,
        "pid": _PID if pid is None else pid,
        "bundle": bundle,
        "annotations": config.annotations,
    }


def agent_document(profile: Seccomp, state: dict[str, Any]) -> dict[str, Any]:
    """What a seccomp agent is told along with the listener; its pid is left to `split_at_pid`.

    Source: runtime-spec config-linux.md#containerprocessstate.
    """
    return {
        "ociVersion": SPEC_VERSION,
        "fds": ["seccompFd"],
        "pid": _PID,
        "metadata": profile.listener_metadata or "",
        "state": state,
    }


def split_at_pid(document: dict[str, Any]) -> tuple[str, ...]:
    """The document as JSON, cut wherever the child's pid belongs."""
    return tuple(msgspec.json.encode(document).decode().split(f'"{_PID}"'))


def _fields(kind: str, hook: Hook, inherited: tuple[str, ...]) -> dict[str, Any]:
    return {
        "kind": kind,
        "path": hook.path,
        "arguments": hook.args or (hook.path,),
        "environment": hook.env or inherited,
        "timeout_ms": 1000 * (hook.timeout or 0),
    }
