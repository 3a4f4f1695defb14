"""Which images `images --filter` means. Source: docker-images(1), "Filtering"."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

import msgspec

from onggi.engine.filters import Filters
from onggi.engine.prune_filters import until_ns
from onggi.image.images import Image, ImageStore
from onggi.image.prune import created_ns
from onggi.image.reference import Reference

_KEYS = ("before", "dangling", "label", "label!", "reference", "since", "until")


def parse_image_filters(
    images: ImageStore, texts: Sequence[str]
) -> Callable[[Image], Image | None]:
    """What the filters leave of an image: with `reference` only the names that fit; or nothing.

    Raises:
        InvalidArgument: a key or value that there is not.
        NotFound: `before` or `since` names no image.
    """
    filters = Filters(texts, _KEYS)
    older = [created_ns(images.resolve(name).created) for name in filters.get("before")]
    younger = [created_ns(images.resolve(name).created) for name in filters.get("since")]
    limits = older + [until_ns(text) for text in filters.get("until")]
    before, after = min(limits, default=1 << 64), max(younger, default=-1)

    def accept(image: Image) -> Image | None:
        labels = (image.config.config.labels if image.config.config else None) or {}
        wanted = filters.get("reference")
        names = tuple(n for n in image.names if any(_fits(pattern, n) for pattern in wanted))
        if (
            not filters.accepts("dangling", str(not image.names).lower())
            or not filters.accepts_label(labels)
            or not after < created_ns(image.created) < before
            or (wanted and not names)
        ):
            return None
        return msgspec.structs.replace(image, names=names) if wanted else image

    return accept


def _fits(pattern: str, name: str) -> bool:
    """`busybox`, `busybox:1.36`, `*/app:*`: a star is a part without slashes."""
    reference = Reference.parse(name)
    with_tag = reference.familiar()
    return any(_path_fits(pattern, text) for text in (with_tag, with_tag.rpartition(":")[0]))


def _path_fits(pattern: str, text: str) -> bool:
    parts, wanted = text.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
