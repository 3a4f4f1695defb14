"""Images: names in the layout's `index.json`, and what they lead to in the content store.

Every change of a name is one atomic replacement of `index.json` under a lock, so threads and
processes may share a root. Nothing is deleted while anybody holds a lease (`lease`): whoever brings
content in holds one until the content has a name. Knows nothing of registries or containers.

Source: image-spec image-layout.md, annotations.md.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct, structs

from onggi.errors import (
    Conflict,
    DataLoss,
    EngineError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from onggi.image.collect import Garbage, mark, sweep
from onggi.image.discard import ensure_blob, is_present
from onggi.image.documents import entry_name, read_config, read_document
from onggi.image.durable import locked, locked_if_free
from onggi.image.platforms import check_platform, host_platform, ranked, with_cpu_level
from onggi.image.reference import Reference
from onggi.image.settings import DEFAULT_SETTINGS, ImageSettings
from onggi.image.short_names import aliased
from onggi.image.snapshots import Snapshotter, chain_ids, next_chain_id
from onggi.image.store import ContentStore
from onggi.specs.image import (
    CONTAINERD_NAME,
    OCI_INDEX,
    REF_NAME,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    encode_document,
    parse_index,
)

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")
_HINT = "bring it with `onggi pull` or `onggi load`, or make one with `onggi image bootstrap`"


class Image(Struct, frozen=True):
    """One image for one platform. `id` is its configuration's digest.

    `target` is what the names point to: the manifest, or an index that has it. `layers` and
    `chain_ids` go from the lowest up; `size_bytes` is the compressed content's.
    """

    id: str
    manifest: Descriptor
    target: Descriptor
    names: tuple[str, ...]
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    chain_ids: tuple[str, ...]
    size_bytes: int
    created: str | None
    platform: Platform

    @property
    def manifest_digest(self) -> str:
        return self.manifest.digest

    @property
    def short_name(self) -> str:
        """A name for a message."""
        return Reference.parse(self.names[0]).familiar() if self.names else self.id[7:19]


class Removed(Struct, frozen=True):
    """What a removal did: names taken away, digests of images and blobs, layers deleted.

    `deferred`: somebody was bringing content in, so the next `collect` deletes.
    """

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    deferred: bool = False


class ImageStore:
    """Names, content and unpacked layers below one directory (made if missing)."""

    def __init__(
        self,
        root: str,
        *,
        platform: Platform | None = None,
        settings: ImageSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.root = root
        self.platform = platform or host_platform()
        self.settings = settings
        self.defaults = settings.defaults
        self.content = ContentStore(os.path.join(root, "content"))
        self.snapshots = Snapshotter(os.path.join(root, "snapshots"), settings.snapshotter)
        self._names_lock = os.path.join(root, "names.lock")
        self._lease_lock = os.path.join(root, "lease.lock")
        self._entries: tuple[tuple[int, int, int], tuple[Descriptor, ...]] | None = None
        self._parsed: dict[str, Image] = {}

    # Reading.

    def resolve(self, text: str) -> Image:
        """The image that a person means: a reference, a digest, or the start of an id.

        Raises:
            NotFound: none; the hint says how to get one.
            Conflict: the start of several ids.
            FailedPrecondition: there, but not for this platform.
            DataLoss, InvalidArgument: there, but damaged; `text` is no reference.
        """
        entries = self._read_entries()
        target = self._find_name(text, entries) or self._find_digest(text, entries)
        if target is None:
            raise NotFound(f"image {text[:200]!r} is not here", hint=_HINT)
        return self._image(target, entries)

    def list(self) -> tuple[Image, ...]:
        """All images for this platform, each once, in the order they came in.

        Damaged ones are left out, so that one does not hide the others; `resolve` says why.
        """
        entries = self._read_entries()
        images: dict[str, Image] = {}
        for entry in entries:
            with contextlib.suppress(EngineError):
                images.setdefault(entry.digest, self._image(entry, entries))
        return tuple(images.values())

    def _read_entries(self) -> tuple[Descriptor, ...]:
        stamp = self.content.index_stamp()
        known = self._entries
        if known is not None and known[0] == stamp:
            return known[1]
        entries = parse_index(self.content.read_index()).manifests
        self._entries = (stamp, entries)
        return entries

    def _find_name(self, text: str, entries: Sequence[Descriptor]) -> Descriptor | None:
        alias = aliased(text, self.settings)
        found = self._find_reference(alias, entries) if alias is not None else None
        return found or self._find_reference(text, entries)

    def _find_reference(self, text: str, entries: Sequence[Descriptor]) -> Descriptor | None:
        try:
            reference = Reference.parse(text, self.defaults)
        except InvalidArgument:
            if _PREFIX.fullmatch(text):
                return None
            raise
        if reference.digest is not None:
            # The digest says all there is to say: what came by digest alone has no name here.
            return next((e for e in entries if e.digest == reference.digest), None)
        wanted = reference.with_default_tag(self.defaults).canonical
        return next((entry for entry in entries if entry_name(entry) == wanted), None)

    def _find_digest(self, text: str, entries: Sequence[Descriptor]) -> Descriptor | None:
        match = _PREFIX.fullmatch(text)
        if match is None:
            return None
        prefix = "sha256:" + match[1]
        found: dict[str, Descriptor] = {}
        for entry in entries:
            if entry.digest.startswith(prefix):
                found.setdefault(entry.digest, entry)
                continue
            with contextlib.suppress(EngineError):
                if self._image(entry, entries).id.startswith(prefix):
                    found.setdefault(entry.digest, entry)
        if len(found) > 1:
            shown = ", ".join(sorted(digest[7:19] for digest in found))
            raise Conflict(f"{text!r} is the start of several images: {shown}")
        return next(iter(found.values()), None)

    def _image(self, target: Descriptor, entries: Sequence[Descriptor]) -> Image:
        names = tuple(
            name
            for entry in entries
            if entry.digest == target.digest and (name := entry_name(entry)) is not None
        )
        known = self._parsed.get(target.digest)
        if known is None or self.content.size_bytes(known.manifest_digest) is None:
            known = self._read_image(target, names)
            self._parsed[target.digest] = known
        return structs.replace(known, names=names)

    def _read_image(self, target: Descriptor, names: tuple[str, ...]) -> Image:
        shown = names[0] if names else target.digest[7:19]
        descriptor, manifest = self._read_manifest(target, shown)
        config = read_config(self.content, manifest)
        if len(config.diff_ids) != len(manifest.layers):
            raise DataLoss(
                f"image {shown}: {len(manifest.layers)} layers, but {len(config.diff_ids)} diff ids"
            )
        return Image(
            id=manifest.config.digest,
            manifest=structs.replace(descriptor, annotations=None),
            target=structs.replace(target, annotations=None),
            names=names,
            config=config,
            layers=manifest.layers,
            chain_ids=chain_ids(config.diff_ids),
            size_bytes=manifest.config.size + sum(layer.size for layer in manifest.layers),
            created=config.created,
            platform=config.platform,
        )

    def _read_manifest(self, target: Descriptor, shown: str) -> tuple[Descriptor, Manifest]:
        document = read_document(self.content, target)
        if isinstance(document, Manifest):
            return target, document
        members = document.manifests
        wanted = with_cpu_level(self.platform)
        fitting = list(ranked(members, wanted))
        # One for another machine is still an image: it can be pushed, saved and looked at.
        for member in (*fitting, *members):
            if self.content.size_bytes(member.digest) is not None:
                found = read_document(self.content, member)
                if isinstance(found, Manifest):
                    return member, found
        offered = ", ".join(sorted({str(m.platform) for m in members if m.platform})) or "nothing"
        raise FailedPrecondition(f"image {shown} is for {offered}, this host is {self.platform}")

    # Names.

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """While it is held, by any thread or process, no content is deleted."""
        with locked(self._lease_lock, shared=True):
            yield

    @contextlib.contextmanager
    def alone(self, *, wait: bool = False) -> Iterator[bool]:
        """Whether nobody holds a lease; as long as it is held (True), nobody gets one.

        `wait`: until nobody does, which is never when the caller holds one.
        """
        if wait:
            with locked(self._lease_lock):
                yield True
        else:
            with locked_if_free(self._lease_lock) as free:
                yield free

    @contextlib.contextmanager
    def names_held(self) -> Iterator[None]:
        """While it is held, by any thread or process, no name changes."""
        with locked(self._names_lock):
            yield

    def add(self, target: Descriptor, names: Sequence[str] = ()) -> Image:
        """Register a manifest or index whose content is in the store, under `names` (references).

        A name that another image has moves to this one. Hold a lease.

        Raises:
            NotFound, DataLoss: content is missing or damaged; nothing is registered.
            InvalidArgument: a name is no reference.
        """
        wanted = [self._full_name(name) for name in names]
        bare = structs.replace(target, annotations=None, platform=None)
        self.examine(bare, wanted)
        with locked(self._names_lock):
            before = self._fresh_entries()
            kept = [e for e in before if entry_name(e) not in wanted]
            kept += [_named(bare, name) for name in wanted]
            if all(entry.digest != bare.digest for entry in kept):
                kept.append(bare)
            if wanted:
                kept = [e for e in kept if e.digest != bare.digest or entry_name(e)]
            self._write_entries(_keep_nameless(before, kept))
        return self._image(bare, self._read_entries())

    def examine(self, target: Descriptor, names: Sequence[str] = ()) -> Image:
        """The image that `add` would register. Raises: as `add`."""
        image = self._read_image(target, tuple(self._full_name(name) for name in names))
        for layer in image.layers:
            if not is_present(self.content, layer):
                raise NotFound(f"layer {layer.digest} of image {image.short_name} is not here")
        return image

    def tag(self, text: str, name: str) -> Image:
        """Give the image that `text` means another name. Raises: as `resolve`, InvalidArgument."""
        with self.lease():
            return self.add(self.resolve(text).target, (name,))

    def untag(self, name: str) -> None:
        """Take a name away; the image stays, nameless if it was the last. Raises: NotFound."""
        full = self._full_name(name)
        with locked(self._names_lock):
            before = self._fresh_entries()
            entries = [entry for entry in before if entry_name(entry) != full]
            if len(entries) == len(before):
                raise NotFound(f"image {name!r} is not here", hint=_HINT)
            self._write_entries(_keep_nameless(before, entries))

    def forget(self, digests: Collection[str]) -> tuple[str, ...]:
        """Take the images with these targets out of the index, with all names; answers those.

        `collect` deletes what nothing needs then.
        """
        with locked(self._names_lock):
            before = self._fresh_entries()
            gone = [entry for entry in before if entry.digest in digests]
            if gone:
                self._write_entries([entry for entry in before if entry not in gone])
        return tuple(name for entry in gone if (name := entry_name(entry)))

    def remove(self, text: str, *, in_use: Collection[str], force: bool = False) -> Removed:
        """Take a name away, or the image with its last one; then delete what nothing needs.

        `in_use`: chain ids of containers' layers; they stay.

        Raises:
            NotFound, InvalidArgument: as `resolve`.
            Conflict: `text` is an id, the image has several names, and `force` is not given.
        """
        with locked(self._names_lock):
            before = self._fresh_entries()
            named = self._find_name(text, before)
            target = named or self._find_digest(text, before)
            if target is None:
                raise NotFound(f"image {text[:200]!r} is not here", hint=_HINT)
            names = [n for e in before if e.digest == target.digest and (n := entry_name(e))]
            if named is not None and "@" not in text:
                gone = [entry_name(named) or ""]
            elif len(names) > 1 and not force:
                raise Conflict(
                    f"image {text} has several names: {', '.join(names)}",
                    hint="remove it by its names, or with force",
                )
            else:
                gone = names
            self._write_entries(
                [
                    e
                    for e in before
                    if e.digest != target.digest or (entry_name(e) or "") in set(names) - set(gone)
                ]
            )
        collected = self.collect(in_use=in_use)
        return structs.replace(collected, untagged=tuple(gone))

    def collect(self, *, in_use: Collection[str]) -> Removed:
        """Delete the blobs and layers that no image needs; `in_use`: further chain ids to keep.

        Raises:
            DataLoss: a manifest is damaged, so what it needs is not known; nothing is deleted.
        """
        with self.alone() as free:
            if not free:
                return Removed(deferred=True)
            with locked(self._names_lock):
                garbage = self.garbage(in_use)
            sweep(self.root, self.content, self.snapshots, garbage)
            for digest in garbage.blobs:
                self._parsed.pop(digest, None)
        return Removed(deleted=garbage.blobs, layers=garbage.layers)

    def garbage(self, in_use: Collection[str]) -> Garbage:
        """What `collect` would delete now. Raises: DataLoss."""
        return mark(self.root, self.content, self.snapshots, self._fresh_entries(), in_use)

    def _full_name(self, name: str) -> str:
        reference = Reference.parse(name, self.defaults)
        if reference.digest is not None:
            raise InvalidArgument(f"{name!r}: a name with a digest cannot be given to an image")
        return reference.with_default_tag(self.defaults).canonical

    def _fresh_entries(self) -> tuple[Descriptor, ...]:
        return parse_index(self.content.read_index()).manifests

    def _write_entries(self, entries: Sequence[Descriptor]) -> None:
        index = Index(2, tuple(entries), OCI_INDEX)
        self.content.write_index(encode_document(index))

    # Layers.

    def unpack(self, image: Image) -> tuple[str, ...]:
        """Unpack the layers that are not yet; answers the chain ids.

        Raises:
            FailedPrecondition: the image is for another platform.
            DataLoss, NotFound: a layer is damaged or missing.
            InvalidArgument, ResourceExhausted: as `apply_layer`.
        """
        check_platform(image.short_name, image.platform, self.platform)
        parent: str | None = None
        with self.lease():
            for layer, diff_id in zip(image.layers, image.config.diff_ids, strict=True):
                parent = self._unpack_layer(parent, layer, diff_id)
        return image.chain_ids

    def _unpack_layer(self, parent: str | None, layer: Descriptor, diff_id: str) -> str:
        chain_id = next_chain_id(parent, diff_id)
        if self.snapshots.exists(chain_id):
            return chain_id
        ensure_blob(self, layer.digest)
        try:
            with self.content.open(layer.digest, layer.size) as blob:
                return self.snapshots.apply(parent, blob.read, diff_id)
        except InvalidArgument as error:
            # Damaged on this disk, or made so? Only the former is mended by another copy.
            with self.content.open(layer.digest, layer.size) as blob:
                blob.verify()
            raise InvalidArgument(
                f"layer {layer.digest} cannot be unpacked: {error.message}",
                hint=error.hint or "the image was made so: have it made anew",
            ) from None


def _named(target: Descriptor, name: str) -> Descriptor:
    tag = name.rpartition(":")[2]
    return structs.replace(target, annotations={REF_NAME: tag, CONTAINERD_NAME: name})


def _keep_nameless(
    before: Sequence[Descriptor], after: Sequence[Descriptor]
) -> tuple[Descriptor, ...]:
    """`after`, with a nameless entry for every image that lost its last name."""
    there = {entry.digest for entry in after}
    lost = {e.digest: e for e in before if e.digest not in there}
    return (*after, *(structs.replace(entry, annotations=None) for entry in lost.values()))
