"""References survive being shown and read again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import InvalidArgument
from onggi.image.reference import Reference

component = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
registry = st.one_of(
    st.sampled_from(["docker.io", "localhost", "localhost:5000", "UPPER", "[::1]:80"]),
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,2}(:[0-9]{1,5})?", fullmatch=True),
)
tag = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
digest = st.none() | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(registry, st.lists(component, min_size=1, max_size=3), tag, digest)
def test_round_trip(host: str, parts: list[str], tag: str | None, digest: str | None) -> None:
    text = f"{host}/{'/'.join(parts)}" + (f":{tag}" if tag else "")
    reference = Reference.parse(text + (f"@{digest}" if digest else ""))
    assert Reference.parse(reference.familiar()) == reference
    assert Reference.parse(reference.canonical) == reference.with_default_tag()


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidArgument:
        return
    assert Reference.parse(reference.canonical) == reference.with_default_tag()
