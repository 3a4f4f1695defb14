"""Bringing an image in from a source, ready to run: fetched, unpacked as it arrives, named.

Documents first, which say what is wanted; then all blobs at once (`arrival`). The name comes last:
before it nothing is visible, and what an error leaves goes with the next collection. Knows nothing
of registries.

Source: image-spec manifest.md, image-index.md, config.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from onggi.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    SpecError,
    Unsupported,
)
from onggi.image.arrival import Arrival, ArrivingLayer, arriving_layers
from onggi.image.discard import is_discarded
from onggi.image.fetch import Fetcher
from onggi.image.layer_types import check_layer, refuse_foreign
from onggi.image.platforms import choose, runs_on, with_cpu_level
from onggi.image.progress import Report, silent
from onggi.image.reference import Reference
from onggi.image.transports.crew import Cancellation
from onggi.image.transports.tree import MAX_DEPTH, Node, walk
from onggi.specs.image import (
    CONFIG_TYPES,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    parse_image_config,
    parse_manifest,
)

if TYPE_CHECKING:
    from onggi.image.images import Image, ImageStore
    from onggi.image.transports.base import Source


class NotAnImage(Unsupported):
    """A name leads to an artifact: it holds something else than root file systems."""


class _Wanted(Struct, frozen=True):
    """What is to be brought in. `target`: what the names will point to; `runs`: the member that is
    to be unpacked, with its configuration."""

    target: Descriptor
    blobs: tuple[Descriptor, ...]
    runs: tuple[Manifest, ImageConfig] | None = None


def pull(
    images: ImageStore,
    source: Source,
    names: Sequence[str] = (),
    *,
    platform: Platform | None = None,
    every_platform: bool = False,
    unpack: bool = True,
    verify: bool = False,
    report: Report = silent,
) -> Image:
    """Bring in the image that `source` is, under `names`; from an index the member for `platform`.

    `platform`: this host's if None. `every_platform`: all members are stored; what this host runs
    is unpacked. The target is the index, if this host runs the member. Names with a digest are
    checked; one that has no tag names nothing. `verify`: content that is here is read again, and
    fetched again where it is damaged. Stages of `report`: waiting, downloading, unpacking, done,
    already here; its item is a short digest.

    Raises:
        FailedPrecondition: there is no member for the platform.
        Unsupported: an artifact, a foreign layer, a layer of an unknown type.
        DataLoss: the source has wrong content. SpecError, InvalidArgument: a damaged document or
        layer. NotFound, Unavailable, PermissionDenied, ResourceExhausted: as `Fetcher.fetch`.
    """
    cancellation = Cancellation()
    with images.lease(), cancellation.reasons():
        fetcher = Fetcher(images.content, source, report, verify=verify, cancellation=cancellation)
        work = _Pull(images, source, fetcher, cancellation, report)
        wanted = work.plan(platform, every_platform=every_platform)
        tags = [tag for name in names if (tag := _tag_of(name, images, work.root))]
        work.carry_out(wanted, unpack=unpack)
        return images.add(wanted.target, tags)


def _tag_of(name: str, images: ImageStore, target: Descriptor) -> str | None:
    """The name without its digest; None when nothing is left but the repository."""
    reference = Reference.parse(name, images.defaults)
    if reference.digest is None:
        return name
    if reference.digest != target.digest:
        raise DataLoss(f"{target.digest} arrived where {name} was due")
    if reference.tag is None:
        return None
    return Reference(reference.registry, reference.repository, reference.tag).canonical


class _Pull:
    """One pull: what it was given, and the steps."""

    root: Descriptor
    """What the source says it is, as soon as `plan` was called."""

    def __init__(
        self,
        images: ImageStore,
        source: Source,
        fetcher: Fetcher,
        cancellation: Cancellation,
        report: Report,
    ) -> None:
        self._images = images
        self._source = source
        self._fetcher = fetcher
        self._cancellation = cancellation
        self._report = report

    # What to bring in: documents only.

    def plan(self, platform: Platform | None, *, every_platform: bool) -> _Wanted:
        """Fetch the documents, and decide."""
        root, data = self._source.root()
        self.root = root
        self._fetcher.keep(root, data)
        document = parse_manifest(data, root.media_type)
        if isinstance(document, Manifest):
            return self._plan_manifest(root, document, platform)
        if every_platform:
            return self._plan_all(root, data, document)
        target = root
        for _ in range(MAX_DEPTH):
            member = self._choose(document, platform)
            found = self._document(member)
            if isinstance(found, Manifest):
                wanted = self._plan_manifest(member, found, platform)
                _, config = wanted.runs or (found, None)
                here = config is not None and runs_on(config.platform, self._images.platform)
                return _Wanted(target if here else member, wanted.blobs, wanted.runs)
            target, document = member, found
        raise InvalidArgument(f"{self._source.name}: indexes nested deeper than {MAX_DEPTH}")

    def _choose(self, index: Index, platform: Platform | None) -> Descriptor:
        wanted = platform or with_cpu_level(self._images.platform)
        member = choose(index.manifests, wanted, strict=platform is not None)
        if member is None:
            shown = {str(m.platform) for m in index.manifests if m.platform}
            offered = ", ".join(sorted(shown - {"unknown/unknown"})[:40]) or "nothing"
            raise FailedPrecondition(
                f"{self._source.name} is for {offered}, not for {wanted}",
                hint="choose one of them with --platform",
            )
        return member

    def _plan_manifest(
        self, descriptor: Descriptor, manifest: Manifest, platform: Platform | None
    ) -> _Wanted:
        name = self._source.name
        if manifest.config.media_type not in CONFIG_TYPES:
            kind = manifest.artifact_type or manifest.config.media_type
            raise NotAnImage(
                f"{name} is an artifact ({kind[:120]}), not an image",
                hint="bring it to a directory with `onggi image copy`",
            )
        for layer in manifest.layers:
            check_layer(name, layer)
        config = self._config(manifest)
        if platform is not None and not _fits(config.platform, platform):
            raise FailedPrecondition(
                f"{name} is for {config.platform}, not for {platform}",
                hint="leave --platform out to have it all the same",
            )
        return _Wanted(descriptor, manifest.layers, (manifest, config))

    def _plan_all(self, root: Descriptor, data: bytes, index: Index) -> _Wanted:
        nodes = walk(self._source.name, root, data, self._fetcher.document)
        for node in nodes:
            for blob in node.blobs:
                refuse_foreign(self._source.name, blob)
        blobs = tuple(blob for node in nodes for blob in node.blobs)
        return _Wanted(root, blobs, self._runnable(index, nodes))

    def _runnable(self, index: Index, nodes: Sequence[Node]) -> tuple[Manifest, ImageConfig] | None:
        member = choose(index.manifests, with_cpu_level(self._images.platform))
        for node in nodes:
            if member is None or node.descriptor.digest != member.digest:
                continue
            if (
                isinstance(node.document, Manifest)
                and node.document.config.media_type in CONFIG_TYPES
            ):
                for layer in node.document.layers:
                    check_layer(self._source.name, layer)
                return node.document, self._config(node.document)
        return None

    def _document(self, descriptor: Descriptor) -> Manifest | Index:
        return parse_manifest(self._fetcher.document(descriptor), descriptor.media_type)

    def _config(self, manifest: Manifest) -> ImageConfig:
        config = parse_image_config(self._fetcher.document(manifest.config))
        if len(config.diff_ids) != len(manifest.layers):
            raise SpecError(
                "$.rootfs.diff_ids",
                f"{len(config.diff_ids)} for {len(manifest.layers)} layers",
                section="config.md",
            )
        return config

    # Bringing it in.

    def carry_out(self, wanted: _Wanted, *, unpack: bool) -> None:
        """Fetch every blob; unpack the image if this host runs it."""
        images = self._images
        layers: tuple[ArrivingLayer, ...] = ()
        if unpack and wanted.runs and runs_on(wanted.runs[1].platform, images.platform):
            manifest, config = wanted.runs
            layers = arriving_layers(manifest.layers, config.diff_ids)
        exists = images.snapshots.exists
        missing = [layer for layer in layers if not exists(layer.chain_id)]
        needed = {layer.blob.digest for layer in missing}
        blobs = [
            blob
            for blob in wanted.blobs
            if blob.digest in needed or not is_discarded(images.content, blob.digest)
        ]
        arrival = Arrival(
            images.content,
            images.snapshots,
            self._fetcher,
            self._cancellation,
            self._report,
            images.settings.parallel,
        )
        arrival.bring(blobs, missing)


def _fits(offered: Platform, wanted: Platform) -> bool:
    return choose((Descriptor("", "", 0, platform=offered),), wanted, strict=True) is not None
