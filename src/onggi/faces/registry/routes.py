"""From a path to what is asked for: the specification's table of requests.

Source: distribution-spec v1.1 spec.md#endpoints.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from onggi.errors import EngineError, from_os_error
from onggi.faces.registry.answers import (
    Answer,
    ApiError,
    Headers,
    Request,
    from_engine,
    json_answer,
)
from onggi.faces.registry.blobs import Blobs
from onggi.faces.registry.names import is_digest, is_repository, is_tag
from onggi.faces.registry.pushes import Pushes
from onggi.faces.registry.shelf import Shelves
from onggi.faces.registry.uploads import Uploads
from onggi.image.images import ImageStore
from onggi.image.served import ServedRecord
from onggi.specs.image import MAX_MANIFEST_BYTES, OCI_INDEX, Descriptor, Index, encode_document

READING = frozenset({"GET", "HEAD"})


class Registry:
    """Answers requests about one image store. `own`: the registry name that pushes get."""

    def __init__(self, images: ImageStore, own: str) -> None:
        record = ServedRecord(images.root)
        record.prepare()
        self._images = images
        self._shelves = Shelves(images, record, own)
        self._pushes = Pushes(self._shelves)
        uploads = Uploads(record.uploads, images.root, images.content)
        self._blobs = Blobs(self._shelves, self._pushes, uploads)

    def answer(self, request: Request) -> Answer:
        """Carry a request out; refusals are answers too.

        Raises:
            ConnectionError, TimeoutError: the client went away in the middle of its body.
        """
        try:
            return self._route(request)
        except ApiError as refusal:
            return refusal.answer()
        except EngineError as error:
            return from_engine(error).answer()
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            return from_engine(from_os_error(error, "the store cannot be used")).answer()

    def _route(self, request: Request) -> Answer:
        parts = request.path.split("/")
        if parts[:2] != ["", "v2"]:
            raise ApiError(404, "UNSUPPORTED", "this is a registry: its API begins at /v2/")
        answer = self._discovery(parts[2:], request) or self._content(parts[2:], request)
        if answer is None:
            raise ApiError(404, "UNSUPPORTED", "there is no such call in the distribution API")
        return answer

    def _discovery(self, parts: list[str], request: Request) -> Answer | None:
        match parts:
            case [] | [""]:
                _allow(request, "GET", "HEAD")
                return json_answer({})
            case ["_catalog"]:
                _allow(request, "GET", "HEAD")
                return self._catalog(request)
            case [*name, "tags", "list"]:
                _allow(request, "GET", "HEAD")
                return self._tags(_repository(name), request)
            case [*name, "referrers", digest]:
                _allow(request, "GET", "HEAD")
                return self._referrers(_repository(name), digest, request)
        return None

    def _content(self, parts: list[str], request: Request) -> Answer | None:
        match parts:
            case [*name, "manifests", reference]:
                _allow(request, "GET", "HEAD", "PUT", "DELETE")
                return self._manifest(_repository(name), reference, request)
            case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""]:
                _allow(request, "POST")
                return self._blobs.begin(_repository(name), request)
            case [*name, "blobs", "uploads", upload_id]:
                return self._upload(_repository(name), upload_id, request)
            case [*name, "blobs", digest]:
                _allow(request, "GET", "HEAD", "DELETE")
                repository = _repository(name)
                if request.method == "DELETE":
                    return self._blobs.delete(repository, digest)
                return self._blobs.read(repository, digest, request)
        return None

    def _upload(self, repository: str, upload_id: str, request: Request) -> Answer:
        _allow(request, "GET", "PATCH", "PUT", "DELETE")
        match request.method:
            case "PATCH":
                return self._blobs.patch(repository, upload_id, request)
            case "PUT":
                return self._blobs.put(repository, upload_id, request)
            case "DELETE":
                return self._blobs.cancel(repository, upload_id)
        return self._blobs.status(repository, upload_id)

    # Manifests.

    def _manifest(self, repository: str, reference: str, request: Request) -> Answer:
        if not is_tag(reference) and not is_digest(reference):
            if request.method in READING:
                raise _no_manifest(repository, reference)
            code = "DIGEST_INVALID" if ":" in reference else "TAG_INVALID"
            raise ApiError(400, code, f"{reference[:150]!r} is neither a tag nor a sha256 digest")
        if request.method == "PUT":
            return self._put_manifest(repository, reference, request)
        if request.method == "DELETE":
            self._pushes.delete_manifest(repository, reference)
            return Answer(202)
        return self._get_manifest(repository, reference, request)

    def _get_manifest(self, repository: str, reference: str, request: Request) -> Answer:
        shelf = self._shelves.shelf()
        if is_digest(reference):
            descriptor = shelf.contents(repository).manifests.get(reference)
        else:
            descriptor = shelf.repositories.get(repository, {}).get(reference)
        if descriptor is None or self._images.content.size_bytes(descriptor.digest) is None:
            raise _no_manifest(repository, reference)
        tag = f'"{descriptor.digest}"'
        headers: Headers = (
            ("Content-Type", descriptor.media_type),
            ("Docker-Content-Digest", descriptor.digest),
            ("ETag", tag),
        )
        if tag in request.headers.get("if-none-match", ""):
            return Answer(304, headers)
        data = self._images.content.read(descriptor.digest, MAX_MANIFEST_BYTES, descriptor.size)
        return Answer(200, headers, data)

    def _put_manifest(self, repository: str, reference: str, request: Request) -> Answer:
        data = _whole_body(request)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        descriptor, links = self._pushes.put_manifest(
            repository, reference, data, media_type or _media_type_inside(data)
        )
        headers: Headers = (
            ("Location", f"/v2/{repository}/manifests/{descriptor.digest}"),
            ("Docker-Content-Digest", descriptor.digest),
        )
        if links.subject is not None:
            headers = (*headers, ("OCI-Subject", links.subject.digest))
        return Answer(201, headers)

    # Discovery.

    def _catalog(self, request: Request) -> Answer:
        names, link = _page(sorted(self._shelves.shelf().listed), request)
        return json_answer({"repositories": names}, link)

    def _tags(self, repository: str, request: Request) -> Answer:
        tags = self._shelves.shelf().repositories.get(repository)
        if tags is None:
            raise ApiError(404, "NAME_UNKNOWN", f"there is no repository {repository}")
        shown, link = _page(sorted(tags), request)
        return json_answer({"name": repository, "tags": shown}, link)

    def _referrers(self, repository: str, digest: str, request: Request) -> Answer:
        if not is_digest(digest):
            raise ApiError(400, "DIGEST_INVALID", f"{digest[:150]!r} is not a sha256 digest")
        found = self._shelves.shelf().contents(repository).referrers.get(digest, [])
        headers: Headers = (("Content-Type", OCI_INDEX),)
        wanted = request.query.get("artifactType", "")
        if wanted:
            found = [referrer for referrer in found if referrer.artifact_type == wanted]
            headers = (*headers, ("OCI-Filters-Applied", "artifactType"))
        last = request.query.get("last", "")
        left = sorted((r for r in found if r.digest > last), key=lambda r: r.digest)
        shown = _fitting(left)
        if len(shown) < len(left):
            query = f"last={quote(shown[-1].digest)}"
            if wanted:
                query += f"&artifactType={quote(wanted, safe='')}"
            headers = (*headers, ("Link", f'<{request.path}?{query}>; rel="next"'))
        return Answer(200, headers, encode_document(Index(2, tuple(shown), OCI_INDEX)))


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise ApiError(
            405,
            "UNSUPPORTED",
            f"{request.method} is not for this path",
            headers=(("Allow", ", ".join(methods)),),
        )


def _repository(parts: list[str]) -> str:
    name = "/".join(parts)
    if not is_repository(name):
        raise ApiError(400, "NAME_INVALID", f"{name[:300]!r} is not a repository name")
    return name


def _no_manifest(repository: str, reference: str) -> ApiError:
    return ApiError(404, "MANIFEST_UNKNOWN", f"{repository} has no manifest {reference[:150]}")


def _whole_body(request: Request) -> bytes:
    too_large = ApiError(
        413, "SIZE_INVALID", f"a manifest has at most {MAX_MANIFEST_BYTES} bytes here"
    )
    if (request.body.length_bytes or 0) > MAX_MANIFEST_BYTES:
        raise too_large
    data = bytearray()
    while part := request.body.read():
        data += part
        if len(data) > MAX_MANIFEST_BYTES:
            raise too_large
    return bytes(data)


class _Typed(msgspec.Struct):
    mediaType: str = ""  # noqa: N815 - the document's own name


def _media_type_inside(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=_Typed).mediaType
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "MANIFEST_INVALID", "not a JSON document") from None


def _page(names: list[str], request: Request) -> tuple[list[str], Headers]:
    """The names after `last`, at most `n`, and where the next are."""
    last, count = request.query.get("last"), request.query.get("n")
    if last is not None:
        names = [name for name in names if name > last]
    if count is None:
        return names, ()
    if not (count.isascii() and count.isdigit()) or len(count) > 9:
        raise ApiError(400, "PAGINATION_NUMBER_INVALID", f"n={count[:40]!r} is not a number")
    shown = names[: int(count)]
    if not shown or len(shown) == len(names):
        return shown, ()
    query = f"n={int(count)}&last={quote(shown[-1], safe='')}"
    return shown, (("Link", f'<{request.path}?{query}>; rel="next"'),)


def _fitting(referrers: list[Descriptor]) -> list[Descriptor]:
    """As many as one answer of 4 MiB can hold, one at least."""
    room = MAX_MANIFEST_BYTES - 200
    for count, referrer in enumerate(referrers):
        room -= len(encode_document(referrer)) + 1
        if room < 0:
            return referrers[: max(1, count)]
    return referrers
