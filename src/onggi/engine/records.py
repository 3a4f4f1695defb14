"""What the engine must not forget: containers and volumes, in SQLite, mirrored in memory.

A record is written before the kernel objects it names are made, and deleted after they are gone
(ARCHITECTURE.md, crash-only). WAL with synchronous=NORMAL: a crash of the process loses nothing, a
power cut may lose the last transactions but never consistency. Knows nothing about the kernel.
Source: sqlite.org/wal.html.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from onggi.engine.api.answers import ExitStatus
from onggi.engine.api.networks import SubnetSpec
from onggi.engine.api.spec import ContainerSpec, EndpointSpec, PortSpec
from onggi.errors import (
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    from_os_error,
)
from onggi.image.durable import drop_reserve, keep_reserve

State = Literal["created", "starting", "running", "paused", "exited", "removing"]
#: States of containers that have, or may have, something in the kernel.
LIVING: frozenset[State] = frozenset({"starting", "running", "paused"})
SCHEMA_VERSION = 1
#: Space set aside to open the database on a full disk: its WAL and the WAL's index.
RESERVE_BYTES = 256 << 10
log = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (
  id TEXT PRIMARY KEY, name TEXT UNIQUE, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS volumes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""


class ContainerRecord(Struct, frozen=True):
    """One container. `name` is empty once removal has begun: a name is free at that moment, and
    only the events of the removal still tell `former_name`.

    `config` is the composed runtime configuration as JSON, without its seccomp profile.
    `boot_id` is the boot in which `pid` meant something. `killed_by`, `killed_with`: the last
    request of ours that sent the first process a signal, and the signal. `endpoints`: its places in
    networks, kept while it is stopped; `ports`: those published now, with their host ports.
    `stopped_by_user`: no restart policy brings it back. `restarts`: by its policy since the last
    start by a user. `health`: what its checks have said of this run.
    """

    id: str
    name: str
    spec: ContainerSpec
    image_id: str
    chain_ids: tuple[str, ...]
    created_ns: int
    state: State = "created"
    config: bytes = b""
    started_ns: int = 0
    finished_ns: int = 0
    pid: int = 0
    exit: ExitStatus | None = None
    boot_id: str = ""
    id_base: int | None = None
    volumes: tuple[str, ...] = ()
    killed_by: str = ""
    killed_with: int = 0
    former_name: str = ""
    endpoints: tuple[EndpointRecord, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    stopped_by_user: bool = False
    restarts: int = 0
    health: Literal["", "healthy", "unhealthy", "starting"] = ""


class EndpointRecord(Struct, frozen=True):
    """A container's place in a network, for as long as it is connected.

    `index`: the n of `ethN`. Addresses without prefix length; `spec` is what was asked for.
    """

    network_id: str
    index: int
    mac: str
    spec: EndpointSpec
    ipv4: str = ""
    ipv6: str = ""


class NetworkRecord(Struct, frozen=True):
    """A network of bridge type. `subnets` are complete: range and gateway chosen."""

    id: str
    name: str
    created_ns: int
    bridge: str
    subnets: tuple[SubnetSpec, ...]
    internal: bool = False
    mtu: int = 1500
    labels: dict[str, str] = {}


class VolumeRecord(Struct, frozen=True):
    """`options`: as its maker gave them; with `device` its files are in that directory.
    `made_for`: the container that an anonymous one was made for, until that leaves it behind;
    without such a container it has been made in vain."""

    name: str
    created_ns: int
    labels: dict[str, str] = {}
    anonymous: bool = False
    options: dict[str, str] = {}
    made_for: str = ""


_HINT = "restore it from a copy, or move it away: the engine then starts without its containers"
_Record = TypeVar("_Record", ContainerRecord, VolumeRecord, NetworkRecord)


class Records:
    """The engine's memory. One writer: the engine that holds the root's lock.

    A full disk refuses new containers; what happens to those there are is kept in memory and
    written as soon as there is room.
    """

    def __init__(self, path: str) -> None:
        """Open or create the database.

        Raises:
            DataLoss: the file is not a database, damaged, or of a later version.
            ResourceExhausted: no space to make it.
        """
        self._late: list[tuple[str, tuple[object, ...]]] = []
        self.path = path
        reserve = f"{path}.reserve"
        try:
            self._open()
        except ResourceExhausted:
            # Images are removed through the engine: it must start on a full disk too.
            if not drop_reserve(reserve):
                raise
            self._open()
        keep_reserve(reserve, RESERVE_BYTES)
        self.names = {r.name: r.id for r in self.containers.values() if r.name}
        self._encode = msgspec.json.Encoder().encode

    def _open(self) -> None:
        path = self.path
        try:
            _make_private(path)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # Nobody else opens it: no locks that could fail, and no shared index on the disk.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-512")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise DataLoss(
                    f"records {path} have version {version}, this engine knows {SCHEMA_VERSION}",
                    hint="use the newer onggi that wrote them",
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self.containers = {r.id: r for r in self._load("containers", ContainerRecord)}
            self.volumes = {r.name: r for r in self._load("volumes", VolumeRecord)}
            self.networks = {r.id: r for r in self._load("networks", NetworkRecord)}
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise _database_error(error, path) from None

    def _load(self, table: str, cls: type[_Record]) -> list[_Record]:
        decode = msgspec.json.Decoder(cls).decode
        rows = self._db.execute(f"SELECT record FROM {table}")  # noqa: S608 - a constant name
        try:
            return [decode(blob) for (blob,) in rows]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataLoss(
                f"a record in {self.path}, {table}, is damaged: {error}", hint=_HINT
            ) from None

    def close(self) -> None:
        """Write what is late, checkpoint and close."""
        self._write_late()
        self._db.close()

    def insert_container(self, record: ContainerRecord) -> None:
        """Store a new container.

        Raises:
            AlreadyExists: the name is taken; the message names the holder.
            ResourceExhausted: no space left; the container is not stored.
        """
        holder = self.names.get(record.name) if record.name else None
        if holder is not None:
            raise AlreadyExists(
                f"the name {record.name!r} is taken by container {holder[:12]}",
                hint=f"remove it with onggi rm {record.name}, or choose another --name",
            )
        self._catch_up()
        self._execute("INSERT INTO containers VALUES (?1, ?2, ?3)", self._row(record))
        self._remember(record)

    def update_container(self, record: ContainerRecord) -> None:
        """Replace a container's record, its name included."""
        old = self.containers[record.id]
        if old.name and old.name != record.name:
            self.names.pop(old.name, None)
        self._note("UPDATE containers SET name=?2, record=?3 WHERE id=?1", self._row(record))
        self._remember(record)

    def _row(self, record: ContainerRecord) -> tuple[object, ...]:
        return record.id, record.name or None, self._encode(record)

    def _remember(self, record: ContainerRecord) -> None:
        self.containers[record.id] = record
        if record.name:
            self.names[record.name] = record.id

    def delete_container(self, container_id: str) -> None:
        """Forget a container; one that is not there is no error."""
        self._note("DELETE FROM containers WHERE id=?", (container_id,))
        old = self.containers.pop(container_id, None)
        if old is not None and self.names.get(old.name) == container_id:
            del self.names[old.name]

    def find_container(self, target: str) -> ContainerRecord:
        """The container with this name, id, or unique id prefix.

        Raises:
            NotFound: none. InvalidArgument: the prefix fits several.
        """
        found = self.containers.get(self.names.get(target, target))
        if found is not None and found.name:
            return found
        rows = self._db.execute(
            "SELECT id FROM containers WHERE id >= ? AND id < ? AND name NOT NULL LIMIT 2",
            (target or "g", target + "g"),
        ).fetchall()
        known = [self.containers[key] for (key,) in rows if key in self.containers]
        if len(known) == 2:
            raise InvalidArgument(f"{target!r} is the beginning of several container ids")
        if not known or not known[0].name:
            raise NotFound(f"no such container: {target}", hint="onggi ps -a lists all")
        return known[0]

    def put_volume(self, record: VolumeRecord) -> None:
        """Store a volume, new or changed."""
        blob = self._encode(record)
        self._catch_up()
        self._execute("INSERT OR REPLACE INTO volumes VALUES (?, ?)", (record.name, blob))
        self.volumes[record.name] = record

    def leave_volume(self, name: str) -> None:
        """Note that a container leaves an anonymous volume behind; there may be none."""
        record = self.volumes.get(name)
        if record is not None:
            self.volumes[name] = record = msgspec.structs.replace(record, made_for="")
            blob = self._encode(record)
            self._note("UPDATE volumes SET record=?2 WHERE name=?1", (name, blob))

    def delete_volume(self, name: str) -> None:
        """Forget a volume."""
        self._note("DELETE FROM volumes WHERE name=?", (name,))
        self.volumes.pop(name, None)

    def put_network(self, record: NetworkRecord) -> None:
        """Store a network, new or changed."""
        blob = self._encode(record)
        self._catch_up()
        self._execute("INSERT OR REPLACE INTO networks VALUES (?, ?)", (record.id, blob))
        self.networks[record.id] = record

    def delete_network(self, network_id: str) -> None:
        """Forget a network."""
        self._note("DELETE FROM networks WHERE id=?", (network_id,))
        self.networks.pop(network_id, None)

    def _note(self, statement: str, values: tuple[object, ...]) -> None:
        """Write what has happened already: a full disk may delay it, but not the engine."""
        self._late.append((statement, values))
        self._write_late()

    def _write_late(self) -> None:
        try:
            self._catch_up()
        except ResourceExhausted as error:
            log.error("%d changes of records wait for space: %s", len(self._late), error)

    def _catch_up(self) -> None:
        while self._late:
            try:
                self._execute(*self._late[0])
            except DataLoss:
                del self._late[0]  # one that never can be must not keep the others back
                raise
            del self._late[0]

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise _database_error(error, self.path) from None


def _make_private(path: str) -> None:
    """Environment variables are in the records: nobody else reads them. The WAL has their mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(path, 0o600)
    except OSError as error:
        raise from_os_error(error, "opening the records") from None


def _database_error(error: sqlite3.DatabaseError, path: str) -> DataLoss | ResourceExhausted:
    # The lowest byte: extended codes tell which call failed (sqlite.org/rescode.html).
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return ResourceExhausted(
            f"cannot write the records {path}: {error}", hint="free some space on that filesystem"
        )
    return DataLoss(f"cannot use the records {path}: {error}", hint=_HINT)
