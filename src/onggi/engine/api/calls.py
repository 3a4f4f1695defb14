"""The whole interface of the engine: a name, the type of its request, and how it answers."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from onggi.engine.api.answers import (
    ContainerSummary,
    Created,
    EngineStatus,
    Event,
    ExitStatus,
    Explanation,
    ImageAnswer,
    ImageSummary,
    LogLine,
    Progress,
    Session,
    Statistics,
    SystemInfo,
    TopRow,
    View,
    VolumeSummary,
)
from onggi.engine.api.requests import (
    AttachRequest,
    BootstrapRequest,
    EventsRequest,
    ExecRequest,
    ExportRequest,
    ImageImportRequest,
    ImageLoadRequest,
    ImageRemoveRequest,
    ImageSaveRequest,
    KillRequest,
    ListRequest,
    LogsRequest,
    Nothing,
    RemoveRequest,
    ResizeRequest,
    RunRequest,
    SignalSession,
    StartRequest,
    StatsRequest,
    StopRequest,
    TagRequest,
    Target,
    VolumeCreateRequest,
    VolumeRemoveRequest,
    WaitRequest,
)
from onggi.engine.api.spec import ContainerSpec

Shape = Literal["reply", "stream"]

#: name → (request type, how it answers, types of the items). `inspect` answers docker-shaped JSON.
CALLS: dict[str, tuple[type[Struct], Shape, tuple[Any, ...]]] = {
    "containers.create": (ContainerSpec, "reply", (Created,)),
    "containers.run": (RunRequest, "stream", (Session, ExitStatus)),
    "containers.start": (StartRequest, "stream", (Session, ExitStatus)),
    "containers.exec": (ExecRequest, "stream", (Session, ExitStatus)),
    "containers.attach": (AttachRequest, "stream", (Session, ExitStatus)),
    "containers.resize": (ResizeRequest, "reply", (Nothing,)),
    "containers.signal": (SignalSession, "reply", (Nothing,)),
    "containers.stop": (StopRequest, "reply", (Nothing,)),
    "containers.kill": (KillRequest, "reply", (Nothing,)),
    "containers.wait": (WaitRequest, "reply", (ExitStatus,)),
    "containers.remove": (RemoveRequest, "reply", (Nothing,)),
    "containers.list": (ListRequest, "reply", (tuple[ContainerSummary, ...],)),
    "containers.inspect": (Target, "reply", (dict[str, Any],)),
    "containers.top": (Target, "reply", (tuple[TopRow, ...],)),
    "containers.logs": (LogsRequest, "stream", (LogLine,)),
    "containers.stats": (StatsRequest, "stream", (tuple[Statistics, ...],)),
    "containers.export": (ExportRequest, "reply", (Nothing,)),
    "containers.explain": (ContainerSpec, "reply", (Explanation,)),
    "containers.view": (Target, "reply", (View,)),
    "images.list": (ListRequest, "reply", (tuple[ImageSummary, ...],)),
    "images.inspect": (Target, "reply", (dict[str, Any],)),
    "images.tag": (TagRequest, "reply", (Nothing,)),
    "images.remove": (ImageRemoveRequest, "reply", (tuple[str, ...],)),
    "images.load": (ImageLoadRequest, "stream", (Progress, ImageAnswer)),
    "images.save": (ImageSaveRequest, "stream", (Progress,)),
    "images.import": (ImageImportRequest, "stream", (Progress, ImageAnswer)),
    "images.bootstrap": (BootstrapRequest, "stream", (Progress, ImageAnswer)),
    "volumes.create": (VolumeCreateRequest, "reply", (VolumeSummary,)),
    "volumes.list": (ListRequest, "reply", (tuple[VolumeSummary, ...],)),
    "volumes.inspect": (Target, "reply", (dict[str, Any],)),
    "volumes.remove": (VolumeRemoveRequest, "reply", (Nothing,)),
    "events": (EventsRequest, "stream", (Event,)),
    "system.info": (Nothing, "reply", (SystemInfo,)),
    "engine.status": (Nothing, "reply", (EngineStatus,)),
    "engine.stop": (Nothing, "reply", (Nothing,)),
}
