"""Finding damage in an image store: everything is compared with its digest or its checksum.

Nothing is changed here (`repair` does). Safe beside running pulls, removals and containers: while
it looks, nothing is deleted. What only a collection would delete is told apart from damage.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from onggi.errors import DataLoss, EngineError, NotFound, ResourceExhausted, SpecError
from onggi.image.discard import directory_of as discarded_directory
from onggi.image.discard import read_discarded
from onggi.image.durable import try_lock
from onggi.image.layer_record import has_files, read_record
from onggi.image.partial import directory_of as partial_directory
from onggi.image.progress import Report, silent
from onggi.image.reference import Reference
from onggi.image.store import LAYOUT
from onggi.image.wanted import Wanted, find_wanted
from onggi.specs.image import check_digest

if TYPE_CHECKING:
    from onggi.image.compression import Read
    from onggi.image.images import ImageStore

Kind = Literal[
    "layout",
    "index",
    "blob",
    "missing",
    "document",
    "layer",
    "record",
    "stray",
    "leftover",
    "unneeded",
    "unchecked",
]
"""`record`: a small file about a blob. `stray`: a file with no business there. `leftover`: of work
that a crash ended. `unneeded`: whole, but no image needs it. `unchecked`: could not be compared."""

INDEX = "content/index.json"

_HARMLESS = frozenset({"stray", "leftover", "unneeded", "unchecked"})
_MAX_ORIGINS_BYTES = 1 << 16


class Damage(Struct, frozen=True):
    """One thing found. `what`: a digest, a chain id (`layer`) or a path below the store's root.

    `images`: what people call the images that need it; a container can need a layer alone.
    """

    kind: Kind
    what: str
    why: str
    images: tuple[str, ...] = ()

    @property
    def harmless(self) -> bool:
        """Whether every image and container is whole all the same."""
        return self.kind in _HARMLESS or (self.kind in {"blob", "layer"} and not self.images)

    def __str__(self) -> str:
        needed = f" (needed by {', '.join(self.images)})" if self.images else ""
        return f"{self.kind} {self.what}: {self.why}{needed}"


def check(
    images: ImageStore,
    *,
    deep: bool = True,
    in_use: Collection[str] = (),
    report: Report = silent,
) -> tuple[Damage, ...]:
    """Everything that is wrong with the store, in the order in which it can be repaired.

    `deep`: read all content; else only names, sizes, records and documents are looked at.
    `in_use`: chain ids of containers' layers, which are needed although no image is left.

    Raises: ResourceExhausted, PermissionDenied: the store cannot be read.
    """
    unneeded: tuple[Damage, ...] = ()
    with images.alone() as free:
        if free:
            unneeded = tuple(_unneeded(images, in_use))
    with images.lease():
        examination = Examination(images, deep=deep, in_use=in_use, report=report)
        found = tuple(examination.run())
        leftovers = tuple(_leftovers(images))
    return (*found, *leftovers, *unneeded)


class Examination:
    """One walk through a store; hold a lease."""

    def __init__(
        self,
        images: ImageStore,
        *,
        deep: bool = True,
        in_use: Collection[str] = (),
        report: Report = silent,
    ) -> None:
        self._images = images
        self._content = images.content
        self._deep = deep
        self._in_use = in_use
        self._report = report
        self._damaged_blobs: set[str] = set()
        self.wanted: Wanted

    def run(self) -> Iterator[Damage]:
        """Index first, since it says what is needed; blobs before the layers made of them."""
        with self._images.names_held():
            yield from self._names()
            self.find_wanted()
        for path, why in self.wanted.unreadable:
            yield Damage("index" if path == INDEX else "record", path, why)
        yield from self._blobs()
        yield from self._documents()
        yield from self._layers()
        yield from self._discarded()
        yield from self._origins()

    def find_wanted(self) -> Wanted:
        """What is needed, by containers too; the other methods go by it."""
        self.wanted = find_wanted(self._images)
        for chain_id in self._in_use:
            self.wanted.layer_names.setdefault(chain_id, {"a container"})
        return self.wanted

    def _names(self) -> Iterator[Damage]:
        if self._content.layout() != LAYOUT:
            yield Damage("layout", "content/oci-layout", "it is not what an image layout has")
        if why := self._content.index_damage():
            yield Damage("index", INDEX, why)

    # Blobs.

    def _blobs(self) -> Iterator[Damage]:
        yield from self._strays()
        digests = sorted(self._content.digests())
        wanted = self.wanted
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            checked = pool.map(self.blob_damage, digests)
            for done, (digest, why) in enumerate(zip(digests, checked, strict=True)):
                self._report("checking blobs", done, len(digests))
                if why:
                    self._damaged_blobs.add(digest)
                    yield Damage("blob", digest, why, wanted.users(digest))
        for digest in sorted(wanted.blobs):
            if self._content.size_bytes(digest) is None and not self._can_be_made(digest):
                yield Damage("missing", digest, "it is not in the store", wanted.users(digest))

    def blob_damage(self, digest: str) -> str:
        """Why a blob that is there is not what its digest, or whoever needs it, says; or ""."""
        path = self._content.path(digest)
        size_bytes = self.wanted.sizes.get(digest)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return "it is not a regular file"
            with self._content.open(digest, size_bytes) as reader:
                if self._deep or digest in self.wanted.documents:
                    reader.verify()
        except (FileNotFoundError, NotFound):
            return ""  # gone meanwhile: whether it is needed is another question
        except DataLoss as error:
            return error.message
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        return ""

    def _can_be_made(self, digest: str) -> bool:
        """Whether a dropped blob has a recipe and a layer; the layer's own check says the rest."""
        record = read_discarded(self._content, digest)
        if record is None or record.size_bytes != self.wanted.sizes.get(digest):
            return False
        return self._layer_record_damage(record.chain_id) == ""

    def _strays(self) -> Iterator[Damage]:
        for name in sorted(os.listdir(os.path.join(self._content.root, "blobs"))):
            if name != "sha256":
                yield Damage("stray", f"content/blobs/{name}", "no blob has this name")
        for name in sorted(os.listdir(os.path.join(self._content.root, "blobs", "sha256"))):
            if not _is_hex(name):
                yield Damage("stray", f"content/blobs/sha256/{name}", "no blob has this name")

    def _documents(self) -> Iterator[Damage]:
        for digest, why in self.wanted.unparsable:
            if digest not in self._damaged_blobs:
                yield Damage("document", digest, why, self.wanted.users(digest))

    # Layers.

    def _layers(self) -> Iterator[Damage]:
        places = sorted(os.listdir(self._layers_directory()))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for done, found in enumerate(pool.map(self._place_damage, places)):
                self._report("checking layers", done, len(places))
                if found is not None:
                    yield found

    def _place_damage(self, name: str) -> Damage | None:
        if not _is_hex(name):
            return Damage("stray", f"snapshots/layers/{name}", "no layer has this name")
        chain_id = f"sha256:{name}"
        users = self.wanted.layer_users(chain_id)
        try:
            why = self.layer_damage(chain_id)
        except ResourceExhausted as error:
            return Damage("unchecked", chain_id, error.message, users)
        return Damage("layer", chain_id, why, users) if why else None

    def layer_damage(self, chain_id: str) -> str:
        """Why a layer that is there is not what its archive made of it; or "".

        Raises: ResourceExhausted: no space to unpack it beside.
        """
        if why := self._layer_record_damage(chain_id):
            return why
        if not self._deep:
            return ""
        snapshots = self._images.snapshots
        try:
            with ExitStack() as stack:
                snapshots.verify(chain_id, self._opener(chain_id, stack))
        except ResourceExhausted:
            raise
        except NotFound:
            return ""  # removed meanwhile, or its parent was, which has its own line
        except EngineError as error:
            return error.message
        return ""

    def _layer_record_damage(self, chain_id: str) -> str:
        """As `layer_damage`, without reading content. Never believes what was read before."""
        place = os.path.join(self._layers_directory(), chain_id.removeprefix("sha256:"))
        if not os.path.lexists(place):
            return "it is not unpacked"
        record = read_record(place, chain_id)
        if record is None:
            return "its record is missing or damaged"
        if not has_files(place, record):
            return "files of it are missing or of another size"
        parent = record.parent
        if parent and not os.path.isdir(
            os.path.join(self._layers_directory(), parent.removeprefix("sha256:"))
        ):
            return f"the layer {parent} below it is missing"
        return ""

    def _opener(self, chain_id: str, stack: ExitStack) -> Callable[[], Read] | None:
        """What opens the layer's blob until `stack` ends, once it could be opened."""
        layer = self.wanted.layers.get(chain_id)
        if layer is None or layer.blob.digest in self._damaged_blobs:
            return None

        def open_blob() -> Read:
            opened = self._content.open(layer.blob.digest, layer.blob.size)
            return stack.enter_context(opened).read

        try:
            open_blob()
        except (NotFound, DataLoss):
            return None
        return open_blob

    def _layers_directory(self) -> str:
        return os.path.join(self._images.snapshots.root, "layers")

    # Records about blobs.

    def _discarded(self) -> Iterator[Damage]:
        for name in _listing(discarded_directory(self._content)):
            path = f"content/discarded/{name}"
            if not _is_hex(name):
                yield Damage("stray", path, "no record has this name")
            elif read_discarded(self._content, f"sha256:{name}") is None:
                users = self.wanted.users(f"sha256:{name}")
                yield Damage("record", path, "it is damaged", users)

    def _origins(self) -> Iterator[Damage]:
        directory = os.path.join(self._content.root, "origins")
        for name in _listing(directory):
            path = f"content/origins/{name}"
            if not _is_hex(name):
                yield Damage("stray", path, "no record has this name")
            elif why := _origins_damage(os.path.join(directory, name)):
                yield Damage("record", path, why)


def _origins_damage(path: str) -> str:
    """Whether a record is one; a name that is another valid name now costs a request at most."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_ORIGINS_BYTES + 1).decode("ascii")
        if len(text) > _MAX_ORIGINS_BYTES or (text and not text.endswith("\n")):
            return "it is cut short or too long"
        for line in text.splitlines():
            Reference.parse(line)
    except FileNotFoundError:
        return ""
    except (UnicodeDecodeError, EngineError):
        return "it has what is no repository's name"
    return ""


def _leftovers(images: ImageStore) -> Iterator[Damage]:
    """What crashes left: staging places that nobody holds, and what was to be deleted."""
    for place in ("content/ingest", "snapshots/staging", "serve/staging"):
        for name in _unheld(os.path.join(images.root, place)):
            yield Damage("leftover", f"{place}/{name}", "nobody works on it any more")
    for name in _listing(os.path.join(images.snapshots.root, "trash")):
        yield Damage("leftover", f"snapshots/trash/{name}", "it was removed, but not deleted yet")
    for name in _listing(partial_directory(images.content)):
        path = f"content/partial/{name}"
        if not _is_hex(name):
            yield Damage("stray", path, "no blob has this name")
        elif images.content.size_bytes(f"sha256:{name}") is not None:
            yield Damage("leftover", path, "a download of a blob that is here")


def _unheld(directory: str) -> Iterator[str]:
    """Names in a staging directory that no process has locked."""
    try:
        parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # nobody is between making a name and locking it
        for name in sorted(os.listdir(parent)):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            except FileNotFoundError:
                continue
            try:
                if try_lock(fd):
                    yield name
            finally:
                os.close(fd)
    finally:
        os.close(parent)


def _unneeded(images: ImageStore, in_use: Collection[str]) -> Iterator[Damage]:
    """What the next collection deletes; nothing when damage keeps it from knowing."""
    try:
        garbage = images.garbage(in_use)
    except (DataLoss, SpecError):
        return
    for digest in garbage.blobs:
        yield Damage("unneeded", digest, "no image needs this blob")
    for chain_id in garbage.layers:
        yield Damage("unneeded", chain_id, "no image needs this layer")


def _listing(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _is_hex(name: str) -> bool:
    try:
        check_digest(f"sha256:{name}")
    except SpecError:
        return False
    return True
