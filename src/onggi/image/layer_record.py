"""What is known of one unpacked layer: `layer.json` beside its files.

A layer whose record is missing, damaged or another layer's does not exist for anybody. Knows the
names of a layer's files, not how they are made.

Source: image-spec config.md#layer-chainid.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import structs

from onggi.errors import SpecError
from onggi.image.durable import write_all
from onggi.kernel.processes import boot_id
from onggi.specs.image import check_digest, digest_of

Form = Literal["overlay", "erofs"]

RECORD = "layer.json"
_FRESH = "layer.json.new"
#: Of the form `overlay`: the layer's root directory.
DIRECTORY = "fs"
#: Of the form `erofs`: the plain tar, and the metadata image that refers into it.
TAR = "layer.tar"
METADATA = "layer.erofs"

_MAX_RECORD_BYTES = 1 << 16


class LayerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer on disk. `size_bytes`: of the plain tar. `metadata_digest`: of METADATA, or "".

    `boot`: not known to be durable, so good for this boot of the kernel only; "": for ever.
    `checksum`: in the file, a digest of all the rest.
    """

    form: Form
    diff_id: str
    parent: str | None
    size_bytes: int
    entries: int
    metadata_digest: str = ""
    boot: str = ""
    checksum: str = ""

    @property
    def chain_id(self) -> str:
        """The name that the layer must have. Raises: SpecError for what is no digest."""
        return next_chain_id(self.parent, self.diff_id)


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain id of each layer, lowest first. Source: image-spec config.md#layer-chainid."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(next_chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)


def next_chain_id(parent: str | None, diff_id: str) -> str:
    """The chain id of a layer on top of another. Raises: SpecError for what is no digest."""
    check_digest(diff_id)
    if parent is None:
        return diff_id
    return digest_of(f"{check_digest(parent)} {diff_id}".encode())


def write_record(place: int, record: LayerRecord, name: str = RECORD) -> None:
    """Write the record into the directory `place`, durably if it says so. Raises: OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=place)
    try:
        write_all(fd, msgspec.json.encode(structs.replace(record, checksum=_checksum(record))))
        if not record.boot:
            os.fsync(fd)
    finally:
        os.close(fd)


def confirm_record(place: int, chain_id: str) -> None:
    """Note that the layer in the directory `place` is durable. Raises: OSError."""
    record = read_record(f"/proc/self/fd/{place}", chain_id)
    if record is None or not record.boot:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_FRESH, dir_fd=place)
    write_record(place, structs.replace(record, boot=""), _FRESH)
    os.rename(_FRESH, RECORD, src_dir_fd=place, dst_dir_fd=place)
    os.fsync(place)


def read_record(path: str, chain_id: str) -> LayerRecord | None:
    """The record of the layer `chain_id` in the directory `path`; None: there is no such layer."""
    try:
        fd = os.open(f"{path}/{RECORD}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        record = msgspec.json.decode(os.read(fd, _MAX_RECORD_BYTES), type=LayerRecord)
        bare = structs.replace(record, checksum="")
        whole = record.chain_id == chain_id and record.checksum == _checksum(bare)
        return bare if whole and record.boot in ("", this_boot()) else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, SpecError):
        return None
    finally:
        os.close(fd)


@functools.cache
def this_boot() -> str:
    """The id of this boot of the kernel; one process sees no other."""
    return boot_id()


def _checksum(record: LayerRecord) -> str:
    return digest_of(msgspec.json.encode(record))


def has_files(path: str, record: LayerRecord) -> bool:
    """Whether what the record speaks of is there; its content is not looked at."""
    try:
        if record.form == "overlay":
            return stat.S_ISDIR(os.lstat(f"{path}/{DIRECTORY}").st_mode)
        tar, metadata = os.lstat(f"{path}/{TAR}"), os.lstat(f"{path}/{METADATA}")
    except OSError:
        return False
    kinds = stat.S_ISREG(tar.st_mode) and stat.S_ISREG(metadata.st_mode)
    return kinds and tar.st_size == record.size_bytes
