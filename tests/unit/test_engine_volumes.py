"""Volumes: which are made for a container, who may remove them, what a refusal leaves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from onggi.engine.api.requests import (
    ListRequest,
    Target,
    VolumeCreateRequest,
    VolumeRemoveRequest,
)
from onggi.engine.api.spec import ContainerSpec, MountSpec
from onggi.engine.core import Core
from onggi.engine.events import Events
from onggi.engine.layout import layout_for
from onggi.engine.places import Places
from onggi.engine.records import ContainerRecord, Records
from onggi.engine.volumes import Volumes, finish_volumes
from onggi.errors import Conflict, EngineError, InvalidArgument, NotFound, ResourceExhausted
from onggi.image.trash import Trash
from onggi.specs.image import ContainerConfig


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    """As much of an engine as volumes need."""
    places = Places(layout_for(str(tmp_path), 0, {}))
    places.prepare()
    records = Records(places.records)
    made = SimpleNamespace(
        places=places,
        records=records,
        events=Events(),
        removed_volumes=Trash(places.removed_volumes),
        holders=lambda: [r for r in records.containers.values() if r.name],
    )
    yield cast(Core, made)
    records.close()


@pytest.fixture
def volumes(core: Core) -> Volumes:
    return Volumes(core)


def spec(*mounts: MountSpec, **fields: Any) -> ContainerSpec:
    return ContainerSpec(image="i", mounts=mounts, **fields)


def directories(core: Core) -> set[str]:
    return {path.name for path in Path(core.places.volumes).iterdir() if path.name[0] != "."}


def use(core: Core, name: str, *mounts: MountSpec) -> None:
    core.records.insert_container(
        ContainerRecord(
            id=name * 64, name=name, spec=spec(*mounts), image_id="", chain_ids=(), created_ns=1
        )
    )


def test_a_named_volume_is_made_once_and_kept(core: Core, volumes: Volumes) -> None:
    for _ in range(2):
        mounts, made = volumes.for_container(
            "c" * 64, spec(MountSpec("volume", "/d", "data")), None
        )
        assert made == ()
        assert mounts == (MountSpec("volume", "/d", "data"),)
    assert directories(core) == {"data"}
    assert not core.records.volumes["data"].anonymous


def test_anonymous_volumes_and_those_of_the_image(core: Core, volumes: Volumes) -> None:
    image = ContainerConfig(volumes={"/data/": {}, "/other": {}, "/data": {}, "/mine": {}})
    asked = (MountSpec("volume", "/anonymous"), MountSpec("tmpfs", "/mine/"))
    mounts, made = volumes.for_container("c" * 64, spec(*asked), image)
    assert [mount.target for mount in mounts] == ["/anonymous", "/mine", "/data", "/other"]
    assert [mount.kind for mount in mounts] == ["volume", "tmpfs", "volume", "volume"]
    assert len(set(made)) == 3
    assert directories(core) == set(made) == set(core.records.volumes)
    assert all(core.records.volumes[name].anonymous for name in made)


@pytest.mark.parametrize("last", [
    MountSpec("bind", "/x", "/no/such/place"),
    MountSpec("volume", "/x", "no/name"),
    MountSpec("volume", "/x", ".."),
])  # fmt: skip
def test_a_refusal_leaves_no_anonymous_volume(
    core: Core, volumes: Volumes, last: MountSpec
) -> None:
    with pytest.raises(EngineError):
        volumes.for_container("c" * 64, spec(MountSpec("volume", "/a"), last), None)
    assert directories(core) == set()
    assert core.records.volumes == {}


@pytest.mark.parametrize("again", ["/a", "/a/", "/b/../a", "//a"])
def test_one_mount_for_a_target(volumes: Volumes, again: str) -> None:
    with pytest.raises(InvalidArgument, match="two mounts have the target /a"):
        volumes.for_container(
            "c" * 64, spec(MountSpec("tmpfs", "/a"), MountSpec("volume", again)), None
        )


def test_the_source_of_a_bind(volumes: Volumes, tmp_path: Path) -> None:
    missing = str(tmp_path / "new/place")
    with pytest.raises(NotFound, match="bind source does not exist"):
        volumes.for_container("c" * 64, spec(MountSpec("bind", "/x", missing)), None)
    volumes.for_container(
        "c" * 64, spec(MountSpec("bind", "/x", missing, create_source=True)), None
    )
    assert Path(missing).is_dir()
    file = tmp_path / "file"
    file.write_text("")
    volumes.for_container(
        "c" * 64, spec(MountSpec("bind", "/x", str(file), create_source=True)), None
    )
    assert file.is_file()


def test_a_volume_in_use_is_not_removed(core: Core, volumes: Volumes) -> None:
    asyncio.run(volumes.create(VolumeCreateRequest("data", {"a": "b"}), []))
    use(core, "c", MountSpec("volume", "/d", "data"))
    for force in (False, True):
        with pytest.raises(Conflict, match="volume data is used by c"):
            asyncio.run(volumes.remove(VolumeRemoveRequest("data", force=force), []))
    core.records.delete_container("c" * 64)
    asyncio.run(volumes.remove(VolumeRemoveRequest("data"), []))
    assert directories(core) == set()
    with pytest.raises(NotFound, match="no such volume: data"):
        asyncio.run(volumes.remove(VolumeRemoveRequest("data"), []))
    asyncio.run(volumes.remove(VolumeRemoveRequest("data", force=True), []))


def test_lists_and_facts(core: Core, volumes: Volumes) -> None:
    for name, labels in (("b", {"k": "1"}), ("a", {}), ("ab", {"k": "2"})):
        asyncio.run(volumes.create(VolumeCreateRequest(name, labels), []))
    use(core, "c", MountSpec("volume", "/d", "a"))

    def names(*filters: str) -> list[str]:
        rows = asyncio.run(volumes.list_volumes(ListRequest(filters=filters), []))
        return [row.name for row in rows]

    assert names() == ["a", "ab", "b"]
    assert names("name=a") == ["a", "ab"]
    assert names("label=k=1") == ["b"]
    assert names("dangling=true") == ["ab", "b"]
    assert names("dangling=false", "name=a") == ["a"]
    facts = asyncio.run(volumes.inspect(Target("b"), []))
    assert facts["Labels"] == {"k": "1"}
    assert Path(facts["Mountpoint"]).is_dir()
    with pytest.raises(NotFound):
        asyncio.run(volumes.inspect(Target("nosuch"), []))


def test_creating_again_answers_what_is_there(core: Core, volumes: Volumes) -> None:
    first = asyncio.run(volumes.create(VolumeCreateRequest("data", {"a": "b"}), []))
    (Path(first.mountpoint) / "file").write_text("kept")
    again = asyncio.run(volumes.create(VolumeCreateRequest("data"), []))
    assert again == first
    assert (Path(first.mountpoint) / "file").read_text() == "kept"
    nameless = asyncio.run(volumes.create(VolumeCreateRequest(), []))
    assert len(nameless.name) == 64
    with pytest.raises(InvalidArgument, match="invalid volume name"):
        asyncio.run(volumes.create(VolumeCreateRequest("../up"), []))
    assert directories(core) == {"data", nameless.name}


def test_a_volume_that_cannot_be_made_leaves_nothing(
    core: Core, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: str, mode: int, exist_ok: bool) -> None:
        os.mkdir(os.path.dirname(path), mode)
        raise OSError(errno.ENOSPC, "no space", path)

    monkeypatch.setattr("onggi.engine.volumes.os.makedirs", half)
    with pytest.raises(ResourceExhausted):
        volumes.for_container("c" * 64, spec(MountSpec("volume", "/d")), None)
    assert directories(core) == set()
    assert core.records.volumes == {}


def test_what_was_made_for_a_container_that_was_not_made_goes(core: Core, volumes: Volumes) -> None:
    asked = (MountSpec("volume", "/a"), MountSpec("volume", "/b", "named"))
    mounts, _ = volumes.for_container("c" * 64, spec(*asked), None)
    use(core, "d", mounts[1])
    asyncio.run(finish_volumes(core))
    assert directories(core) == core.records.volumes.keys() == {"named"}


def test_what_a_container_left_behind_stays(core: Core, volumes: Volumes) -> None:
    _, made = volumes.for_container("c" * 64, spec(MountSpec("volume", "/a")), None)
    core.records.leave_volume(made[0])
    asyncio.run(finish_volumes(core))
    assert directories(core) == core.records.volumes.keys() == set(made)


def test_a_removal_that_was_broken_off_is_finished(core: Core, volumes: Volumes) -> None:
    asyncio.run(volumes.create(VolumeCreateRequest("v"), []))
    asyncio.run(volumes.create(VolumeCreateRequest("w"), []))
    core.removed_volumes.take(f"{core.places.volumes}/v")
    os.rmdir(core.places.volume("w"))
    asyncio.run(finish_volumes(core))
    assert directories(core) == core.records.volumes.keys() == {"w"}
    assert os.path.isdir(core.places.volume("w")), "one that was half made is finished"
    assert os.listdir(core.places.removed_volumes) == []


def test_a_fill_that_was_broken_off_leaves_nothing(core: Core, volumes: Volumes) -> None:
    asyncio.run(volumes.create(VolumeCreateRequest("v"), []))
    os.mkdir(f"{core.places.volumes}/v/.filling-abc")
    asyncio.run(finish_volumes(core))
    assert os.listdir(f"{core.places.volumes}/v") == ["_data"]
