"""Images from and to registries and other transports: the calls, long work in threads.

Credentials come with each request and are kept nowhere. The registry client is imported at the
first use: an engine that never pulls does not pay for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from onggi.engine.api.answers import (
    CopyAnswer,
    ImageAnswer,
    LoginAnswer,
    Progress,
    PushAnswer,
    RegistriesAnswer,
)
from onggi.engine.api.requests import (
    CopyRequest,
    Login,
    LoginRequest,
    PullRequest,
    PushRequest,
    RegistriesRequest,
)
from onggi.engine.core import Core
from onggi.engine.store_calls import settle
from onggi.engine.watching import watch
from onggi.errors import InvalidArgument, NotFound, PermissionDenied
from onggi.image.discard import discard
from onggi.image.images import Image, ImageStore
from onggi.image.progress import Report
from onggi.image.reference import Reference
from onggi.image.settings import RegistrySettings
from onggi.image.short_names import full_reference
from onggi.specs.image import Platform

if TYPE_CHECKING:
    from onggi.image.registry.credentials import Keychain


class RegistryCalls:
    """Pulls, pushes and copies of one engine."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def registries_of(self, request: RegistriesRequest, _fds: list[int]) -> RegistriesAnswer:
        """The registries that names may lead to, mirrors included: whose credentials are needed."""
        found: dict[str, None] = {}
        settings = self._core.images.settings
        for text in request.references:
            name = _image_name(text)
            if name is None:
                continue
            registry = full_reference(name, settings).registry
            mirrors = settings.registries.get(registry, RegistrySettings()).mirrors
            found |= dict.fromkeys((registry, *(mirror.partition("/")[0] for mirror in mirrors)))
        return RegistriesAnswer(registries=tuple(found))

    async def login(self, request: LoginRequest, _fds: list[int]) -> LoginAnswer:
        """Whether a registry knows somebody. Raises: PermissionDenied, Unavailable."""
        registry = request.registry or self._core.images.settings.default_registry
        keychain = keychain_of({registry: request.credentials})

        asked = False

        def work(_report: Report) -> None:
            nonlocal asked
            from onggi.image.registry.client import RegistryClient  # noqa: PLC0415

            client = RegistryClient(registry, self._core.images.settings, keychain)
            try:
                asked = client.check()
            except PermissionDenied as error:
                raise PermissionDenied(error.message, hint="check the name and password") from None
            finally:
                client.close()

        async for _ in watch(work):
            pass
        return LoginAnswer(registry=registry, status="Login Succeeded", checked=asked)

    async def pull(
        self, request: PullRequest, _fds: list[int]
    ) -> AsyncIterator[Progress | ImageAnswer]:
        """Bring images in, ready to run."""
        images = self._core.images
        reference = full_reference(request.reference, images.settings)
        if request.all_tags and (reference.digest or ":" in request.reference.rpartition("/")[2]):
            raise InvalidArgument("a tag cannot be given together with --all-tags")
        keychain = keychain_of(request.credentials)
        pulled: list[tuple[Image, str, str]] = []
        kept: dict[str, tuple[tuple[str, str], ...]] = {}
        skipped: list[tuple[str, str]] = []

        def work(report: Report) -> None:
            from onggi.image.pull import NotAnImage  # noqa: PLC0415

            tags = _wanted(images, reference, request.all_tags, keychain)
            for one in tags:
                before = _target_digest(images, one)
                try:
                    image = _pull(images, one, request, keychain, report)
                except NotAnImage as error:
                    if len(tags) == len(skipped) + 1:
                        raise
                    skipped.append((one.familiar(), error.message))
                    continue
                status = "current" if before == image.target.digest else "new"
                pulled.append((image, status, one.canonical))
                if request.discard_blobs:
                    outcome = discard(images, image)
                    kept[image.id] = tuple((digest, why) for digest, why in outcome if why)

        async for progress in watch(work):
            yield progress
        self._core.background(settle(self._core, [image for image, _, _ in pulled]))
        for image, status, name in pulled:
            self._core.events.publish("image", "pull", image.id, name=reference.familiar())
            # The one that was asked for first: it is what the caller is told.
            ordered = sorted(image.names, key=name.__ne__)
            names = tuple(Reference.parse(other).familiar() for other in ordered)
            yield ImageAnswer(
                id=image.id,
                names=names,
                digest=image.target.digest,
                status=status,
                kept=kept.get(image.id, ()),
                skipped=tuple(skipped),
            )
            skipped.clear()

    async def push(
        self, request: PushRequest, _fds: list[int]
    ) -> AsyncIterator[Progress | PushAnswer]:
        """Send images to their registry, or under another name to another one."""
        images = self._core.images
        settings = images.settings
        pairs = _to_push(images, request)
        keychain = keychain_of(request.credentials)
        pushed: list[PushAnswer] = []

        def work(report: Report) -> None:
            for image, target in pairs:
                destination = full_reference(target, settings)
                if destination.digest is not None:
                    raise InvalidArgument(f"{target!r}: a push needs a tag, not a digest")
                digest = _copy(
                    images,
                    f"store:{image.names[0] if image.names else image.id}",
                    f"docker://{destination.canonical}",
                    report,
                    every_platform=request.every_platform,
                    destination_keychain=keychain,
                )
                size = images.content.size_bytes(digest) or 0
                pushed.append(
                    PushAnswer(reference=destination.familiar(), digest=digest, size_bytes=size)
                )

        async for progress in watch(work):
            yield progress
        for answer in pushed:
            self._core.events.publish("image", "push", answer.digest, name=answer.reference)
            yield answer

    async def copy(
        self, request: CopyRequest, _fds: list[int]
    ) -> AsyncIterator[Progress | CopyAnswer]:
        """Copy an image between any two transports."""
        found: list[str] = []
        platform = _platform(request.platform)

        def work(report: Report) -> None:
            found.append(
                _copy(
                    self._core.images,
                    request.source,
                    request.destination,
                    report,
                    platform=platform,
                    every_platform=request.every_platform,
                    source_keychain=keychain_of(request.credentials_source),
                    destination_keychain=keychain_of(request.credentials_destination),
                )
            )

        async for progress in watch(work):
            yield progress
        yield CopyAnswer(digest=found[0])


def keychain_of(logins: Mapping[str, Login]) -> Keychain:
    """Answers who we are to each registry, and None for all others."""
    from onggi.image.registry.credentials import Credentials  # noqa: PLC0415

    known = {
        name: Credentials(one.username, one.password, one.identity_token)
        for name, one in logins.items()
    }
    return known.get


def _platform(text: str) -> Platform | None:
    from onggi.image.platforms import parse_platform  # noqa: PLC0415

    return parse_platform(text) if text else None


def _image_name(text: str) -> str | None:
    """The image that a transport's name means in a registry; None: it means none there."""
    head, colon, rest = text.partition(":")
    if colon and head in ("store", "oci", "oci-archive", "docker-archive", "dir"):
        return None
    return rest.removeprefix("//") if head == "docker" and rest.startswith("//") else text


def _wanted(
    images: ImageStore, reference: Reference, all_tags: bool, keychain: Keychain
) -> list[Reference]:
    if not all_tags:
        return [reference]
    from onggi.image.registry.client import RegistryClient  # noqa: PLC0415
    from onggi.image.registry.referrers import is_referrers_tag  # noqa: PLC0415

    client = RegistryClient(reference.registry, images.settings, keychain)
    try:
        found = client.repository(reference.repository).tags()
        tags = [tag for tag in found if not is_referrers_tag(tag)]
    finally:
        client.close()
    if not tags:
        raise NotFound(f"{reference.name} has no tags")
    return [Reference(reference.registry, reference.repository, tag) for tag in tags]


def _target_digest(images: ImageStore, reference: Reference) -> str | None:
    try:
        return images.resolve(reference.canonical).target.digest
    except NotFound:
        return None


def _pull(
    images: ImageStore,
    reference: Reference,
    request: PullRequest,
    keychain: Keychain,
    report: Report,
) -> Image:
    from onggi.image.pull import pull  # noqa: PLC0415
    from onggi.image.transports.names import open_source, parse_transport  # noqa: PLC0415

    name = parse_transport(f"docker://{reference.canonical}")
    source = open_source(name, images, images.settings, keychain)
    try:
        return pull(
            images,
            source,
            (Reference(reference.registry, reference.repository, reference.tag).canonical,)
            if reference.tag
            else (),
            platform=_platform(request.platform),
            every_platform=request.every_platform,
            unpack=request.unpack,
            verify=request.verify,
            report=report,
        )
    finally:
        source.close()


def _to_push(images: ImageStore, request: PushRequest) -> list[tuple[Image, str]]:
    if not request.all_tags:
        image = images.resolve(request.reference)
        return [(image, request.destination or request.reference)]
    if request.destination:
        raise InvalidArgument("--all-tags pushes to the image's own names: leave DESTINATION out")
    wanted = full_reference(request.reference, images.settings).name
    pairs = [
        (image, name)
        for image in images.list()
        for name in image.names
        if Reference.parse(name).name == wanted
    ]
    if not pairs:
        raise NotFound(f"no image of {wanted} is here")
    return pairs


def _copy(
    images: ImageStore,
    source: str,
    destination: str,
    report: Report,
    *,
    platform: Platform | None = None,
    every_platform: bool = False,
    source_keychain: Keychain | None = None,
    destination_keychain: Keychain | None = None,
) -> str:
    """Copy between two transports; the digest of what was put."""
    from onggi.image.transports.copy import copy_image  # noqa: PLC0415
    from onggi.image.transports.names import (  # noqa: PLC0415
        open_sink,
        open_source,
        parse_transport,
    )

    settings = images.settings
    reading = open_source(parse_transport(source), images, settings, source_keychain)
    try:
        writing = open_sink(parse_transport(destination), images, settings, destination_keychain)
        try:
            return copy_image(
                reading,
                writing,
                platform=platform,
                every_platform=every_platform,
                parallel=settings.parallel,
                report=report,
            ).digest
        finally:
            writing.close()
    finally:
        reading.close()
