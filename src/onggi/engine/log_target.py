"""Where a container's output goes, by its log driver: what the monitor is told.

`json-file` and `local` are the same rotated file. Source: docker's "Configure logging drivers",
"Journald logging driver", "Customize log driver output".
"""

from __future__ import annotations

import os
import re

import msgspec

from onggi.engine.places import log_name
from onggi.engine.records import ContainerRecord
from onggi.errors import InvalidArgument, Unsupported
from onggi.runtime.request import Supervision

#: Source: systemd.io/JOURNAL_NATIVE_PROTOCOL.
JOURNAL_SOCKET = "/run/systemd/journal/socket"
_TAG_FIELD = re.compile(r"\{\{\s*\.?(\w*)\s*\}\}")


def with_log(
    supervision: Supervision, record: ContainerRecord, directory: str, journal: str = JOURNAL_SOCKET
) -> Supervision:
    """The supervision with the container's log; `directory` is the container's own.

    Raises:
        Unsupported: the driver is journald, and this host has no journal.
        InvalidArgument: a tag with a field that there is not.
    """
    spec = record.spec
    if spec.log_driver == "none":
        return supervision
    if spec.log_driver == "journald":
        if not os.path.exists(journal):
            raise Unsupported(
                "this host has no journal for the log driver journald",
                hint="start systemd-journald, or use --log-driver json-file",
            )
        return msgspec.structs.replace(
            supervision, journal_socket=journal, journal_fields=journal_fields(record)
        )
    return msgspec.structs.replace(
        supervision,
        log_dir=directory,
        log_name=log_name(record.id),
        log_max_bytes=spec.log_max_bytes,
        log_max_files=spec.log_max_files,
    )


def journal_fields(record: ContainerRecord) -> tuple[str, ...]:
    """What each of a container's entries says beside the line, under docker's names.

    Raises:
        InvalidArgument: a tag with a field that there is not.
    """
    tag = log_tag(record)
    return (
        f"CONTAINER_ID={record.id[:12]}",
        f"CONTAINER_ID_FULL={record.id}",
        f"CONTAINER_NAME={record.name}",
        f"CONTAINER_TAG={tag}",
        f"IMAGE_NAME={record.spec.image}",
        f"SYSLOG_IDENTIFIER={tag}",
    )


def log_tag(record: ContainerRecord) -> str:
    """The tag with its fields filled in; the short id where none was asked for.

    Raises:
        InvalidArgument: a field that there is not.
    """
    fields = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageID": record.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": record.image_id,
        "ImageName": record.spec.image,
        "DaemonName": "onggi",
    }

    def fill(found: re.Match[str]) -> str:
        if found[1] not in fields:
            raise InvalidArgument(
                f"--log-opt tag has no field {found[0][:60]!r}",
                hint=f"there are: {', '.join(f'{{{{.{name}}}}}' for name in fields)}",
            )
        return fields[found[1]]

    return _TAG_FIELD.sub(fill, record.spec.log_tag or "{{.ID}}")
