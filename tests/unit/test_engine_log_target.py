"""What the monitor is told about a container's log, by driver."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from onggi.engine.api.spec import ContainerSpec
from onggi.engine.log_target import journal_fields, with_log
from onggi.engine.records import ContainerRecord
from onggi.errors import InvalidArgument, Unsupported
from onggi.runtime.request import Supervision

ID = "abcdef012345" + "0" * 52
BARE = Supervision(run_dir="/run/x")


def record(
    driver: Literal["json-file", "local", "journald", "none"] = "json-file", tag: str = ""
) -> ContainerRecord:
    spec = ContainerSpec(
        "busybox:1", log_driver=driver, log_tag=tag, log_max_bytes=7, log_max_files=3
    )
    return ContainerRecord(ID, "web", spec, "sha256:" + "9" * 64, (), 1)


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_file(driver: Literal["json-file", "local"]) -> None:
    told = with_log(BARE, record(driver), "/place")
    assert (told.log_dir, told.log_name) == ("/place", f"{ID}-json.log")
    assert (told.log_max_bytes, told.log_max_files) == (7, 3)
    assert told.journal_socket == ""


def test_nothing() -> None:
    assert with_log(BARE, record("none"), "/place") == BARE


def test_the_journal(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    told = with_log(BARE, record("journald"), "/place", str(tmp_path / "socket"))
    assert told.log_name == ""
    assert told.journal_socket == str(tmp_path / "socket")
    assert told.journal_fields == (
        "CONTAINER_ID=abcdef012345",
        f"CONTAINER_ID_FULL={ID}",
        "CONTAINER_NAME=web",
        "CONTAINER_TAG=abcdef012345",
        "IMAGE_NAME=busybox:1",
        "SYSLOG_IDENTIFIER=abcdef012345",
    )
    with pytest.raises(Unsupported, match="no journal"):
        with_log(BARE, record("journald"), "/place", str(tmp_path / "none"))


def test_a_tag() -> None:
    tag = "{{.ImageName}}/{{.Name}}/{{ .ID }}-{{.DaemonName}}"
    assert "CONTAINER_TAG=busybox:1/web/abcdef012345-onggi" in journal_fields(record(tag=tag))
    with pytest.raises(InvalidArgument, match="no field '{{.Foo}}'"):
        journal_fields(record(tag="{{.Foo}}"))
