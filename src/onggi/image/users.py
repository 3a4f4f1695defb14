"""Who a process runs as: Docker's USER forms against the image's passwd and group.

Both files are hostile: bounded, regular, read from the merged view. A name never falls back to a
number, a number is never wrapped (CVE-2024-9676, CVE-2024-40635).

Source: docker-run(1) --user; passwd(5), group(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound
from onggi.image.merged import MergedView

MAX_ID = 2**31 - 1
MAX_FILE_BYTES = 8 << 20
MAX_GROUPS = 65536


class ResolvedUser(Struct, frozen=True):
    """`groups`: supplementary ones, without `gid`'s own meaning; `name` is empty when unknown."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


def resolve_user(user: str, view: MergedView) -> ResolvedUser:
    """Resolve `""`, `name`, `uid`, `name:group`, `uid:gid` and the mixtures.

    A user made of digits is always a uid. Without a group the user's own and supplementary groups
    apply; with one, only that.

    Raises:
        NotFound: no such user or group in the image.
        InvalidArgument: a number beyond 2^31-1, or a malformed text.
        FailedPrecondition: the user's entry is malformed, or the file is not a regular one.
        ResourceExhausted: the file is too large.
    """
    user_part, _, group_part = user.partition(":")
    if ":" in group_part or "\0" in user:
        raise InvalidArgument(f"user {user[:100]!r} is not of the form user[:group]")
    entry = _find_user(user_part or "0", view)
    uid, gid, home, name = entry or (_number(user_part or "0"), 0, "/", "")
    if group_part:
        return ResolvedUser(uid, _find_group(group_part, view), (), home, name)
    groups = tuple(_member_groups(name, view)) if name else ()
    return ResolvedUser(uid, gid, groups[:MAX_GROUPS], home, name)


def resolve_groups(groups: Iterable[str], view: MergedView) -> tuple[int, ...]:
    """Group ids for names or numbers (`--group-add`), in order, each once. Raises: as above."""
    return tuple(dict.fromkeys(_find_group(group, view) for group in groups))


def _find_user(user: str, view: MergedView) -> tuple[int, int, str, str] | None:
    """The first passwd entry for a name or uid; None for a uid that has none."""
    numeric = _is_number(user)
    uid = _number(user) if numeric else -1
    for fields in _lines(view, "/etc/passwd"):
        if numeric:
            found = len(fields) > 2 and _in_range(fields[2]) and int(fields[2]) == uid
        else:
            found = fields[0] == user
        if not found:
            continue
        if len(fields) < 6 or not all(_in_range(number) for number in fields[2:4]):
            raise FailedPrecondition(
                f"the entry of user {user[:100]!r} in the image's /etc/passwd is malformed"
            )
        return int(fields[2]), int(fields[3]), fields[5] or "/", fields[0]
    if numeric:
        return None
    raise NotFound(
        f"user {user[:100]!r} is not in the image's /etc/passwd",
        hint="give a numeric uid, or an image that has this user",
    )


def _find_group(group: str, view: MergedView) -> int:
    if _is_number(group):
        return _number(group)
    for fields in _lines(view, "/etc/group"):
        if fields[0] == group:
            if len(fields) < 3 or not _in_range(fields[2]):
                raise FailedPrecondition(
                    f"the entry of group {group[:100]!r} in the image's /etc/group is malformed"
                )
            return int(fields[2])
    raise NotFound(
        f"group {group[:100]!r} is not in the image's /etc/group",
        hint="give a numeric gid, or an image that has this group",
    )


def _member_groups(name: str, view: MergedView) -> Iterator[int]:
    seen = set()
    for fields in _lines(view, "/etc/group"):
        if len(fields) >= 4 and name in fields[3].split(",") and _in_range(fields[2]):
            gid = int(fields[2])
            if gid not in seen:
                seen.add(gid)
                yield gid


def _lines(view: MergedView, path: str) -> Iterator[list[str]]:
    """The fields of each entry; nothing if the file is missing."""
    try:
        content = view.read_file(path, MAX_FILE_BYTES)
    except NotFound:
        return
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        text = line.strip()
        if text and not text.startswith("#"):
            yield text.split(":")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _in_range(text: str) -> bool:
    return _is_number(text) and len(text) <= 12 and int(text) <= MAX_ID


def _number(text: str) -> int:
    if not _in_range(text):
        raise InvalidArgument(f"id {text[:40]} is larger than {MAX_ID}")
    return int(text)
