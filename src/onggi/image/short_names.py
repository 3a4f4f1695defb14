"""From what a person types to a whole reference: aliases, then the policy for short names.

Source: containers-registries.conf(5), "SHORT-NAME ALIASING".
"""

from __future__ import annotations

from onggi.errors import InvalidArgument
from onggi.image.reference import Reference
from onggi.image.settings import ImageSettings


def full_reference(text: str, settings: ImageSettings) -> Reference:
    """The reference that `text` means, with the default tag if it has neither tag nor digest.

    Raises:
        InvalidArgument: not a reference, or a short name where the policy wants whole names.
    """
    parsed = Reference.parse(text, settings.defaults)
    alias = aliased(text, settings)
    if alias is not None:
        parsed = Reference.parse(alias, settings.defaults)
    elif settings.short_names == "refuse" and not text.startswith(f"{parsed.registry}/"):
        raise InvalidArgument(
            f"{text!r} does not name its registry",
            hint=f"write {parsed.name}, or set short_names or an alias in the configuration",
        )
    return parsed.with_default_tag(settings.defaults)


def aliased(text: str, settings: ImageSettings) -> str | None:
    """The whole name that an alias gives `text`, with its tag and digest; None: it has no alias."""
    name = _name_part(text)
    alias = settings.aliases.get(name)
    return None if alias is None else alias + text[len(name) :]


def _name_part(text: str) -> str:
    """The text without tag and digest."""
    name = text.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
