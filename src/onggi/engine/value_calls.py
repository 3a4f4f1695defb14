"""Images as values: the calls that look at one, compare two, or make a new one of an old one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import nullcontext

from msgspec import structs

from onggi.engine.api.answers import (
    ChangeRow,
    DifferenceAnswer,
    FindingRow,
    HistoryRow,
    ImageAnswer,
    TreeRow,
)
from onggi.engine.api.requests import (
    CommitRequest,
    MutateRequest,
    Nothing,
    PairRequest,
    SbomRequest,
    Target,
)
from onggi.engine.core import Core
from onggi.engine.pausing import standing_still
from onggi.engine.prepare import snapshot_of
from onggi.errors import InvalidArgument
from onggi.image import edit
from onggi.image.commit import commit_container
from onggi.image.difference import compare_images, container_changes
from onggi.image.durable import write_all
from onggi.image.images import Image
from onggi.image.lineage import image_tree
from onggi.image.merged import MergedView
from onggi.image.reference import Reference
from onggi.image.validate import validate
from onggi.specs.image import ContainerConfig


class ValueCalls:
    """Images of one engine, as values."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def history(self, request: Target, _fds: list[int]) -> tuple[HistoryRow, ...]:
        """How an image was made, newest step first. Source: docker-history(1)."""
        return _history(self._core.images.resolve(request.target))

    async def tree(self, _request: Nothing, _fds: list[int]) -> tuple[TreeRow, ...]:
        """All layers, each before what stands on it, and the images that end with it."""
        nodes = await asyncio.to_thread(image_tree, self._core.images)
        return tuple(
            TreeRow(
                depth=node.depth,
                chain_id=node.chain_id,
                size_bytes=node.size_bytes,
                names=tuple(map(_shown, node.images)),
            )
            for node in nodes
        )

    async def compare(self, request: PairRequest, _fds: list[int]) -> DifferenceAnswer:
        """What tells two images apart, in files and in configuration."""
        images = self._core.images
        pair = images.resolve(request.first), images.resolve(request.second)

        def work() -> DifferenceAnswer:
            for image in pair:
                images.unpack(image)
            found = compare_images(images, *pair)
            kinds = {"added": "A", "removed": "D", "changed": "C"}
            return DifferenceAnswer(
                files=tuple(
                    ChangeRow(kinds[f.kind], f.path, tuple(a.name for a in f.aspects))
                    for f in found.files
                ),
                configuration={f.field: (f.before, f.after) for f in found.fields},
                shared_layers=len(found.shared_layers),
            )

        return await asyncio.to_thread(work)

    async def validate(self, request: Target, _fds: list[int]) -> tuple[FindingRow, ...]:
        """Whether an image is as the specification wants it; what is not."""
        images = self._core.images
        target = images.resolve(request.target).target
        found = await asyncio.to_thread(validate, images, target)
        return tuple(
            FindingRow(severity=f.severity, place=f.place, message=f.message, section=f.section)
            for f in found
        )

    async def sbom(self, request: SbomRequest, fds: list[int]) -> Nothing:
        """Write what software is in an image, in a standard form, to the descriptor."""
        if len(fds) != 1:
            raise InvalidArgument("the request does not carry the place to write to")
        images = self._core.images
        image = images.resolve(request.target)

        def work() -> None:
            from onggi.image.sbom.bill import sbom  # noqa: PLC0415 - few ask for it

            images.unpack(image)
            with MergedView(images.snapshots.lowers(image.chain_ids)) as view:
                data = sbom(
                    view, image.short_name, image.manifest_digest, image.created or "", request.form
                )
            write_all(fds[0], data)

        await asyncio.to_thread(work)
        return Nothing()

    async def mutate(self, request: MutateRequest, fds: list[int]) -> ImageAnswer:
        """A new image from an old one.

        Raises: InvalidArgument, NotFound, FailedPrecondition: it does not stand on the old base.
        """
        if len(fds) != request.layers:
            raise InvalidArgument("the request does not carry the layers")
        if bool(request.old_base) != bool(request.new_base):
            raise InvalidArgument("a rebase needs the old base and the new one")
        image = await asyncio.to_thread(self._mutate, request, fds)
        self._core.events.publish("image", "mutate", image.id, name=request.target)
        return _answer(image)

    def _mutate(self, request: MutateRequest, fds: list[int]) -> Image:
        """In a thread. Only the last step gives the name; the lease keeps what is in between."""
        images = self._core.images
        created = request.created or None
        image = images.resolve(request.source)
        steps: list[Callable[[Image, str | None], Image]] = []
        if request.old_base:
            old, new = images.resolve(request.old_base), images.resolve(request.new_base)
            steps.append(lambda i, n: edit.rebase(images, i, n, old, new, created=created))
        for fd in fds:
            steps.append(
                lambda i, n, fd=fd: edit.append_layer(  # type: ignore[misc]
                    images, i, n, lambda size: os.read(fd, size), created=created
                )
            )
        if request.changes or request.annotations or not (steps or request.flatten):
            steps.append(
                lambda i, n: edit.mutate(
                    images,
                    i,
                    n,
                    changes=request.changes,
                    annotations=request.annotations,
                    created=created,
                )
            )
        if request.flatten:
            steps.append(lambda i, n: edit.flatten(images, i, n, created=created))
        between: list[Image] = []
        with images.lease():
            if request.flatten:
                images.unpack(image)
            for number, step in enumerate(steps, 1):
                last = number == len(steps)
                image = step(image, (request.target or None) if last else None)
                if not last:
                    between.append(image)
                    if request.flatten:
                        images.unpack(image)
        for one in between:
            if one.id != image.id:
                images.remove(one.id, in_use=self._core.layers_in_use(), force=True)
        return image

    async def commit(self, request: CommitRequest, _fds: list[int]) -> ImageAnswer:
        """A container's changes as an image. Source: docker-commit(1)."""
        core = self._core
        record = core.records.find_container(request.container)
        image = core.images.resolve(record.image_id)
        rootfs = snapshot_of(core, record)
        spec = record.spec
        inner = image.config.config or ContainerConfig()
        env = {e.partition("=")[0]: e for e in (*(inner.env or ()), *spec.env)}
        config = structs.replace(
            inner,
            env=tuple(env.values()) or None,
            cmd=spec.command or inner.cmd,
            working_dir=spec.workdir or inner.working_dir,
            user=spec.user or inner.user,
            labels={**(inner.labels or {}), **spec.labels} or None,
        )

        def work() -> Image:
            return commit_container(
                core.images,
                image,
                f"{rootfs.upper}/fs",
                request.reference or None,
                config=config,
                author=request.author,
                message=request.message,
                changes=request.changes,
                created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            )

        async with standing_still(core, record.id) if request.pause else nullcontext():
            made = await asyncio.to_thread(work)
        core.tell(record, "commit", imageID=made.id, imageRef=request.reference)
        return _answer(made)

    async def changes(self, request: Target, _fds: list[int]) -> tuple[ChangeRow, ...]:
        """What a container has changed. Source: docker-diff(1)."""
        record = self._core.records.find_container(request.target)
        rootfs = snapshot_of(self._core, record)
        found = await asyncio.to_thread(container_changes, f"{rootfs.upper}/fs", rootfs.lowers)
        return tuple(ChangeRow(kind, path) for kind, path in found)


def _history(image: Image) -> tuple[HistoryRow, ...]:
    layers = iter(image.layers)
    rows = []
    for step in image.config.history or ():
        layer = None if step.empty_layer else next(layers, None)
        rows.append(
            HistoryRow(
                created=step.created or "",
                created_by=step.created_by or "",
                comment=step.comment or "",
                size_bytes=layer.size if layer else 0,
                layer=layer.digest if layer else "",
            )
        )
    rows += [
        HistoryRow(created="", created_by="", comment="", size_bytes=d.size, layer=d.digest)
        for d in layers
    ]
    rows.reverse()
    rows[:1] = [structs.replace(row, id=image.id) for row in rows[:1]]
    return tuple(rows)


def _answer(image: Image) -> ImageAnswer:
    return ImageAnswer(
        id=image.id, names=tuple(map(_shown, image.names)), digest=image.target.digest
    )


def _shown(name: str) -> str:
    return name[7:19] if name.startswith("sha256:") else Reference.parse(name).familiar()
