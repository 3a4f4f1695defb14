"""What a face may ask of the engine. Names and meanings follow docker where it has one."""

from __future__ import annotations

from typing import Literal

from onggi.engine.api.base import Value
from onggi.engine.api.spec import ContainerSpec


class Nothing(Value, frozen=True):
    """A request without arguments, or an answer without content."""


class Target(Value, frozen=True):
    """One object by name, id, or unique id prefix."""

    target: str


class ContainerTarget(Target, frozen=True):
    """One container to inspect. `size`: with what it takes on disk."""

    size: bool = False


class TerminalSize(Value, frozen=True):
    rows: int = 0
    columns: int = 0


class RunRequest(Value, frozen=True):
    """Create and start; with `attach`, the first item carries the attach socket."""

    spec: ContainerSpec
    attach: bool = False
    attach_stdin: bool = False
    size: TerminalSize = TerminalSize()


class StartRequest(Value, frozen=True):
    target: str
    attach: bool = False
    attach_stdin: bool = False
    size: TerminalSize = TerminalSize()


class StopRequest(Value, frozen=True):
    """`timeout_s` None: the container's own."""

    target: str
    timeout_s: float | None = None
    signal: str = ""


class KillRequest(Value, frozen=True):
    target: str
    signal: str = "KILL"


class RemoveRequest(Value, frozen=True):
    target: str
    force: bool = False
    volumes: bool = False


class WaitRequest(Value, frozen=True):
    """`stopped` also answers for one that does not run; `removed` waits until it is gone."""

    target: str
    condition: Literal["stopped", "next-exit", "removed"] = "stopped"


class ExecRequest(Value, frozen=True):
    target: str
    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    tty: bool = False
    stdin_open: bool = False
    privileged: bool = False
    detach: bool = False
    size: TerminalSize = TerminalSize()


class AttachRequest(Value, frozen=True):
    target: str
    stdin: bool = True
    stdout: bool = True
    stderr: bool = True


class ResizeRequest(Value, frozen=True):
    """`session`: a container's id or an exec's id."""

    session: str
    rows: int
    columns: int


class SignalSession(Value, frozen=True):
    """Send a signal to an attached session's process (`session` as in ResizeRequest)."""

    session: str
    signal: int


class LogsRequest(Value, frozen=True):
    """`since`/`until`: unix nanoseconds. `tail` -1: all."""

    target: str
    follow: bool = False
    tail: int = -1
    since_ns: int = 0
    until_ns: int = 0
    stdout: bool = True
    stderr: bool = True


class ListRequest(Value, frozen=True):
    """`filters`: `key=value` pairs as in docker; a key given twice matches either."""

    all: bool = False
    last: int = 0
    size: bool = False
    filters: tuple[str, ...] = ()


class StatsRequest(Value, frozen=True):
    """No targets: every running container. `stream`: again each `interval_s`."""

    targets: tuple[str, ...] = ()
    stream: bool = True
    interval_s: float = 1.0


class EventsRequest(Value, frozen=True):
    since_ns: int = 0
    until_ns: int = 0
    filters: tuple[str, ...] = ()


class ImageLoadRequest(Value, frozen=True):
    """The archive is the request's descriptor."""


class ImageSaveRequest(Value, frozen=True):
    """The archive is written to the request's descriptor."""

    images: tuple[str, ...]
    format: Literal["docker", "oci"] = "oci"


class ImageImportRequest(Value, frozen=True):
    """The root file system's tar is the request's descriptor."""

    reference: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()


class ExportRequest(Value, frozen=True):
    """The tar is written to the request's descriptor."""

    target: str


class BootstrapRequest(Value, frozen=True):
    """`base`: `busybox` or `debian[:suite]`."""

    base: str
    include: tuple[str, ...] = ()
    reference: str = ""
    variant: str = "minbase"


class TagRequest(Value, frozen=True):
    source: str
    target: str


class ImageRemoveRequest(Value, frozen=True):
    target: str
    force: bool = False


class Login(Value, frozen=True):
    """Who somebody is to a registry. Never shown: its repr says nothing."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Login(…)"


class RegistriesRequest(Value, frozen=True):
    """`references`: names of images or of transports, as they were typed."""

    references: tuple[str, ...]


class LoginRequest(Value, frozen=True):
    registry: str
    credentials: Login


class PullRequest(Value, frozen=True):
    """`platform`: os/architecture[/variant], empty: the host's. `credentials`: by registry.

    `verify`: content that is here is read again, and fetched again where it is damaged.
    `discard_blobs`: compressed layers are dropped where they can be made again.
    """

    reference: str
    platform: str = ""
    every_platform: bool = False
    all_tags: bool = False
    unpack: bool = True
    verify: bool = False
    discard_blobs: bool = False
    credentials: dict[str, Login] = {}


class PushRequest(Value, frozen=True):
    """`destination` empty: the reference itself."""

    reference: str
    destination: str = ""
    all_tags: bool = False
    every_platform: bool = False
    credentials: dict[str, Login] = {}


class CopyRequest(Value, frozen=True):
    """`source`, `destination`: transport names with absolute paths (`oci:/path:tag`)."""

    source: str
    destination: str
    platform: str = ""
    every_platform: bool = False
    credentials_source: dict[str, Login] = {}
    credentials_destination: dict[str, Login] = {}


class RemoteRequest(Value, frozen=True):
    """Something about one repository of a registry. `artifact_type`: of referrers, empty: all."""

    reference: str
    artifact_type: str = ""
    credentials: dict[str, Login] = {}


class AttachArtifactRequest(Value, frozen=True):
    """The file to attach to an image in a registry is the request's descriptor."""

    reference: str
    artifact_type: str
    name: str = ""
    media_type: str = "application/octet-stream"
    annotations: dict[str, str] = {}
    credentials: dict[str, Login] = {}


class PruneRequest(Value, frozen=True):
    """`every`: also images with names that no container uses."""

    every: bool = False
    filters: tuple[str, ...] = ()


class FsckRequest(Value, frozen=True):
    """`shallow`: sizes and structure, without reading all content."""

    repair: bool = False
    shallow: bool = False


class PairRequest(Value, frozen=True):
    """Two images."""

    first: str
    second: str


class MutateRequest(Value, frozen=True):
    """A new image from an old one. `layers`: how many tars come as descriptors, to go on top.

    `flatten`: its layers become one. `old_base`, `new_base`: exchange what it was made on.
    """

    source: str
    target: str = ""
    changes: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    layers: int = 0
    flatten: bool = False
    old_base: str = ""
    new_base: str = ""
    created: str = ""


class CommitRequest(Value, frozen=True):
    """A container's changes as a new layer of its image. `pause`: it stands still meanwhile."""

    container: str
    reference: str = ""
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    pause: bool = True


class SbomRequest(Value, frozen=True):
    target: str
    form: Literal["spdx", "cyclonedx"] = "spdx"


class VolumeCreateRequest(Value, frozen=True):
    """`options`: of docker's driver `local`: `type`, `device` and `o`, as mount(8) has them."""

    name: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class VolumeRemoveRequest(Value, frozen=True):
    name: str
    force: bool = False
