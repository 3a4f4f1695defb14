"""Ids and names of containers and volumes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container

from onggi.errors import InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LONGEST = 128
_LEFT = (
    "amber ashen bold brisk calm celadon clear dusky earthen fired gentle glazed golden kind "
    "light lively mellow misty nimble patient plain quiet round russet sandy silent slender smoky "
    "steady sturdy sunny swift tidy umber warm wide winged wise"
).split()
_RIGHT = (
    "amphora basin bowl brush cask clay cup dish ember flask gourd hearth jar jug kettle kiln "
    "ladle lid mortar mug oven pitcher plate pot potter saucer shard slip spoon teapot tile urn "
    "vase vessel wheel"
).split()


def new_id() -> str:
    """64 hexadecimal digits nobody can guess."""
    return secrets.token_hex(32)


def new_name(taken: Container[str]) -> str:
    """A free name that is easy to say, `quiet_kiln` for instance."""
    for _ in range(16):
        name = f"{secrets.choice(_LEFT)}_{secrets.choice(_RIGHT)}"
        if name not in taken:
            return name
    return f"{name}_{secrets.token_hex(3)}"


def check_name(name: str, what: str) -> str:
    """The name, if it is one.

    Raises:
        InvalidArgument: characters or length that no name of docker's has.
    """
    if len(name) > _LONGEST:
        raise InvalidArgument(
            f"the {what} name {name[:24]}… has {len(name)} characters",
            hint=f"use {_LONGEST} at most",
        )
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid {what} name {name!r}",
            hint="use letters, digits, '_', '.' and '-', starting with a letter or digit",
        )
    return name
