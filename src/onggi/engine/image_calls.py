"""Images of one engine: the calls of `engine.api` over `image.images`, long work in threads.

Progress crosses from the worker thread to the caller's stream through a queue.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from msgspec import to_builtins

from onggi.engine.api.answers import ImageAnswer, ImageSummary, Progress
from onggi.engine.api.requests import (
    BootstrapRequest,
    ExportRequest,
    ImageImportRequest,
    ImageLoadRequest,
    ImageRemoveRequest,
    ImageSaveRequest,
    ListRequest,
    Nothing,
    TagRequest,
    Target,
)
from onggi.engine.core import Core
from onggi.engine.image_filters import parse_image_filters
from onggi.engine.prepare import layers_of
from onggi.engine.records import ContainerRecord
from onggi.engine.store_calls import collect_later, settle
from onggi.engine.watching import watch
from onggi.errors import Conflict, InvalidArgument
from onggi.image import archive
from onggi.image.changes import apply_changes
from onggi.image.durable import write_all
from onggi.image.images import Image, ImageStore
from onggi.image.lineage import sizes
from onggi.image.origins import Origins
from onggi.image.progress import Report
from onggi.image.reference import Reference
from onggi.specs.image import ContainerConfig


class ImageCalls:
    """Images of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list_images(self, request: ListRequest, _fds: list[int]) -> tuple[ImageSummary, ...]:
        """All images, newest first."""
        accept = parse_image_filters(self._core.images, request.filters)
        images = [left for image in self._core.images.list() if (left := accept(image))]
        images.sort(key=lambda image: image.created or "", reverse=True)
        users = [record.image_id for record in self._core.records.containers.values()]
        return tuple(_summary(image, users.count(image.id)) for image in images)

    async def inspect(self, request: Target, _fds: list[int]) -> dict[str, Any]:
        """One image as docker shows it. Source: Docker Engine API v1.51 ImageInspect."""
        image = self._core.images.resolve(request.target)
        config = image.config
        return {
            "Id": image.id,
            "RepoTags": [familiar(name) for name in image.names],
            "RepoDigests": self._digests(image),
            "Created": image.created,
            "Author": config.author or "",
            "Architecture": config.architecture,
            "Os": config.os,
            "Size": image.size_bytes,
            "UniqueSize": sizes(self._core.images, image).unique_bytes,
            "SharedSize": sizes(self._core.images, image).shared_bytes,
            "Config": to_builtins(config.config) if config.config else {},
            "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids or ())},
        }

    def _digests(self, image: Image) -> list[str]:
        """`repository@digest` for each place that is known to have it."""
        origins = Origins(self._core.images.content.root).of(image.target.digest)
        names = {*(Reference.parse(name).name for name in image.names), *origins}
        shown = sorted(Reference.parse(name).familiar() for name in names)
        return [f"{name}@{image.target.digest}" for name in shown]

    async def tag(self, request: TagRequest, _fds: list[int]) -> Nothing:
        """Give an image one more name."""
        self._core.images.tag(request.source, request.target)
        self._core.events.publish("image", "tag", request.source, name=request.target)
        return Nothing()

    async def remove(self, request: ImageRemoveRequest, _fds: list[int]) -> tuple[str, ...]:
        """Remove a name; with the last one the image, unless a container uses it.

        Raises:
            Conflict: a container uses the image. NotFound: no such image.
        """
        core = self._core
        image = core.images.resolve(request.target)
        last = len(image.names) <= 1 or image.id.removeprefix("sha256:").startswith(request.target)
        users = [r for r in core.holders() if r.image_id == image.id]
        if last and users:
            raise Conflict(
                f"image {request.target} is used by {_some(users)}",
                hint="remove what uses it first: onggi rm",
            )
        removed = await asyncio.to_thread(
            core.images.remove,
            request.target,
            in_use=self._core.layers_in_use(),
            force=request.force,
        )
        if removed.deferred:
            core.background(collect_later(core))
        core.events.publish("image", "delete", image.id)
        untagged = tuple(f"Untagged: {familiar(name)}" for name in removed.untagged)
        return untagged + tuple(f"Deleted: {digest}" for digest in removed.deleted)

    async def load(
        self, _request: ImageLoadRequest, fds: list[int]
    ) -> AsyncIterator[Progress | ImageAnswer]:
        """Read an archive of docker's or of OCI's form."""
        source = _one_descriptor(fds, "the archive")
        loaded: list[Image] = []

        def work(_report: Report) -> None:
            loaded.extend(archive.load(self._core.images, source))

        async for progress in watch(work, "loading", source):
            yield progress
        self._core.background(settle(self._core, loaded))
        for image in loaded:
            self._core.events.publish("image", "load", image.id)
            yield _answer(image)

    async def save(self, request: ImageSaveRequest, fds: list[int]) -> AsyncIterator[Progress]:
        """Write an archive."""
        sink = _one_descriptor(fds, "the place to write to")
        selected = [self._core.images.resolve(name) for name in request.images]

        def work(_report: Report) -> None:
            archive.save(self._core.images, selected, sink, request.format)

        async for progress in watch(work):
            yield progress

    async def import_(
        self, request: ImageImportRequest, fds: list[int]
    ) -> AsyncIterator[Progress | ImageAnswer]:
        """Make an image of one layer from a root file system's tar."""
        source = _one_descriptor(fds, "the archive")
        config = apply_changes(ContainerConfig(), request.changes)
        made: list[Image] = []

        def work(_report: Report) -> None:
            image = archive.import_rootfs(
                self._core.images,
                lambda size: os.read(source, size),
                config=config,
                created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                comment=request.message or "imported",
            )
            made.append(self._checked(image, request.reference))

        async for progress in watch(work, "importing", source):
            yield progress
        self._core.events.publish("image", "import", made[0].id)
        yield _answer(made[0])

    def _checked(self, image: Image, reference: str) -> Image:
        """The image, unpacked and then named: what is no tar becomes no image. In a thread."""
        images = self._core.images
        try:
            images.unpack(image)
            return images.tag(image.id, reference) if reference else image
        except BaseException:
            images.remove(image.id, in_use=self._core.layers_in_use(), force=True)
            raise

    async def bootstrap(
        self, request: BootstrapRequest, _fds: list[int]
    ) -> AsyncIterator[Progress | ImageAnswer]:
        """Make a base image from Debian's packages."""
        made: list[Image] = []

        def work(report: Report) -> None:
            made.append(_bootstrap(self._core.images, request, report))

        async for progress in watch(work):
            yield progress
        self._core.events.publish("image", "bootstrap", made[0].id)
        yield _answer(made[0])

    async def export(self, request: ExportRequest, fds: list[int]) -> Nothing:
        """Write a container's root file system as a tar."""
        record = self._core.records.find_container(request.target)
        sink = _one_descriptor(fds, "the place to write to")
        layers = layers_of(self._core, record)
        await asyncio.to_thread(archive.export, layers, lambda data: write_all(sink, data))
        return Nothing()


def _bootstrap(images: ImageStore, request: BootstrapRequest, report: Report) -> Image:
    """Make the base image that is asked for. Without a suite it is `latest` as well."""
    from onggi.image.bootstrap import (  # noqa: PLC0415 - it knows HTTP, which costs 10 ms
        bootstrap_busybox,
        bootstrap_debian,
    )

    base, _, suite = request.base.partition(":")
    if base == "busybox" and not suite:
        return bootstrap_busybox(images, request.reference or "busybox:latest", progress=report)
    if base != "debian":
        raise InvalidArgument(
            f"no base image {request.base!r} can be made",
            hint="use debian, debian:SUITE or busybox",
        )
    image = bootstrap_debian(
        images,
        suite or None,
        request.reference or None,
        include=request.include,
        variant=request.variant,
        progress=report,
    )
    named = bool(request.reference or suite)
    return image if named else images.tag(image.id, "debian:latest")


def _answer(image: Image) -> ImageAnswer:
    return ImageAnswer(id=image.id, names=tuple(map(familiar, image.names)))


def _some(users: list[ContainerRecord]) -> str:
    name = users[0].name or users[0].id[:12]
    return f"container {name}" + (f" and {len(users) - 1} more" if users[1:] else "")


def _one_descriptor(fds: list[int], what: str) -> int:
    if len(fds) != 1:
        raise InvalidArgument(f"the request does not carry {what}")
    return fds[0]


def familiar(name: str) -> str:
    """A stored name as a person writes it."""
    return Reference.parse(name).familiar()


def _summary(image: Image, containers: int) -> ImageSummary:
    return ImageSummary(
        id=image.id,
        names=tuple(map(familiar, image.names)),
        digest=image.manifest_digest,
        created=image.created or "",
        size_bytes=image.size_bytes,
        platform=str(image.platform),
        containers=containers,
    )
