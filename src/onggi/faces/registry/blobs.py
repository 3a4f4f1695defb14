"""Blobs and their uploads, as the specification's requests.

A blob is sent straight from its file (sendfile): its content was verified when it came in, and
whoever pulls verifies it again. Reading it twice here would halve the speed for nothing.

Source: distribution-spec v1.1 spec.md#pulling-blobs, #pushing-blobs; RFC 9110 section 14 (ranges).
"""

from __future__ import annotations

import os
import re

from onggi.faces.registry.answers import Answer, ApiError, FileSlice, Headers, Request
from onggi.faces.registry.names import is_digest, is_repository
from onggi.faces.registry.pushes import Pushes
from onggi.faces.registry.shelf import Shelves
from onggi.faces.registry.uploads import Session, Uploads

_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?", re.ASCII)


class Blobs:
    """The requests under `/v2/<name>/blobs/`."""

    def __init__(self, shelves: Shelves, pushes: Pushes, uploads: Uploads) -> None:
        self._shelves = shelves
        self._content = shelves.images.content
        self._lease = shelves.images.lease
        self._pushes = pushes
        self._uploads = uploads

    # Reading.

    def read(self, repository: str, digest: str, request: Request) -> Answer:
        """GET and HEAD."""
        _check_digest(digest)
        blobs = self._shelves.shelf().contents(repository).blobs
        unknown = ApiError(404, "BLOB_UNKNOWN", f"{repository} has no blob {digest}")
        if digest not in blobs:
            raise unknown
        try:
            fd = os.open(self._content.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise unknown from None
        try:
            size = os.fstat(fd).st_size
            if blobs[digest] not in (None, size):
                raise ApiError(404, "BLOB_UNKNOWN", f"blob {digest} is damaged here: push it again")
            answer = _file_answer(fd, size, digest, request)
        except BaseException:
            os.close(fd)
            raise
        if not isinstance(answer.body, FileSlice):
            os.close(fd)
        return answer

    def delete(self, repository: str, digest: str) -> Answer:
        """DELETE: out of this repository; the disk is freed by the next collection."""
        _check_digest(digest)
        self._pushes.delete_blob(repository, digest)
        return Answer(202)

    # Uploads.

    def begin(self, repository: str, request: Request) -> Answer:
        """POST: a mount, a whole blob, or a session."""
        mount, source = request.query.get("mount"), request.query.get("from")
        if mount is not None:
            _check_digest(mount)
            if source and is_repository(source) and self._pushes.mount(repository, mount, source):
                return _created(repository, mount)
        digest = request.query.get("digest")
        if digest is not None:
            _check_digest(digest)
        upload_id = self._uploads.begin(repository)
        if digest is None:
            return _progress(202, repository, upload_id, 0)
        with self._uploads.session(repository, upload_id) as session:
            try:
                session.append(request.body)
            except (ConnectionError, TimeoutError):
                session.cancel()  # nobody was told its name
                raise
            return self._finish(repository, session, digest)

    def patch(self, repository: str, upload_id: str, request: Request) -> Answer:
        """PATCH: one more chunk, or a stream."""
        with self._uploads.session(repository, upload_id) as session:
            _check_place(repository, session, request)
            session.append(request.body)
            return _progress(202, repository, upload_id, session.size_bytes)

    def put(self, repository: str, upload_id: str, request: Request) -> Answer:
        """PUT: the last chunk, if any, and the digest of the whole."""
        digest = request.query.get("digest", "")
        _check_digest(digest)
        with self._uploads.session(repository, upload_id) as session:
            _check_place(repository, session, request)
            session.append(request.body)
            return self._finish(repository, session, digest)

    def status(self, repository: str, upload_id: str) -> Answer:
        """GET: how much has come."""
        with self._uploads.session(repository, upload_id) as session:
            return _progress(204, repository, upload_id, session.size_bytes)

    def cancel(self, repository: str, upload_id: str) -> Answer:
        """DELETE: forget it."""
        with self._uploads.session(repository, upload_id) as session:
            session.cancel()
        return Answer(204)

    def _finish(self, repository: str, session: Session, digest: str) -> Answer:
        with self._lease():
            session.finish(digest)
            self._pushes.note_blob(repository, digest)
        return _created(repository, digest)


def _check_digest(text: str) -> None:
    if not is_digest(text):
        raise ApiError(400, "DIGEST_INVALID", f"{text[:100]!r} is not a sha256 digest")


def _created(repository: str, digest: str) -> Answer:
    location = f"/v2/{repository}/blobs/{digest}"
    return Answer(201, (("Location", location), ("Docker-Content-Digest", digest)))


def _progress_headers(repository: str, upload_id: str, size_bytes: int) -> Headers:
    return (
        ("Location", f"/v2/{repository}/blobs/uploads/{upload_id}"),
        ("Range", f"0-{max(0, size_bytes - 1)}"),
        ("Docker-Upload-UUID", upload_id),
    )


def _progress(status: int, repository: str, upload_id: str, size_bytes: int) -> Answer:
    return Answer(status, _progress_headers(repository, upload_id, size_bytes))


def _check_place(repository: str, session: Session, request: Request) -> None:
    """Refuse a chunk that does not begin where the last one ended."""
    text = request.headers.get("content-range")
    if text is None:
        return
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise ApiError(400, "BLOB_UPLOAD_INVALID", f"{text[:100]!r} is not a range of bytes")
    first, last = int(match[1]), int(match[2])
    if first != session.size_bytes:
        raise ApiError(
            416,
            "BLOB_UPLOAD_INVALID",
            f"the chunk begins at byte {first}, byte {session.size_bytes} is due",
            headers=_progress_headers(repository, session.id, session.size_bytes),
        )
    length = request.body.length_bytes
    if last < first or (length is not None and length != last - first + 1):
        raise ApiError(
            400, "SIZE_INVALID", f"the chunk is {length} bytes, its range is {first}-{last}"
        )


def _file_answer(fd: int, size: int, digest: str, request: Request) -> Answer:
    tag = f'"{digest}"'
    common = (("Docker-Content-Digest", digest), ("ETag", tag), ("Accept-Ranges", "bytes"))
    if tag in request.headers.get("if-none-match", ""):
        return Answer(304, common)
    headers: Headers = (*common, ("Content-Type", "application/octet-stream"))
    if request.method == "HEAD":
        return Answer(200, headers, body_bytes=size)
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", tag) != tag:
        # Several ranges, or another unit: the whole is a right answer.
        return Answer(200, headers, FileSlice(fd, 0, size), size)
    if asked[3] is not None:
        first, end = max(0, size - int(asked[3])), size
    else:
        first, end = int(asked[1]), min(size, int(asked[2] or size) + 1)
    if first >= size or (asked[2] and int(asked[2]) < first) or asked[3] == "0":
        raise ApiError(
            416,
            "SIZE_INVALID",
            f"the blob has {size} bytes",
            headers=(("Content-Range", f"bytes */{size}"),),
        )
    headers = (*headers, ("Content-Range", f"bytes {first}-{end - 1}/{size}"))
    return Answer(206, headers, FileSlice(fd, first, end - first), end - first)
