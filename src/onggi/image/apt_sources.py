"""The host's apt sources for a Debian suite, and the date of that suite's last release.

Source: sources.list(5).
"""

from __future__ import annotations

import glob
import os
import re
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime

from onggi.errors import NotFound, Unavailable

DEFAULT_MIRROR = "http://deb.debian.org/debian"
_MAX_RELEASE_BYTES = 4 << 20
_TIMEOUT_S = 30
_ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s", re.MULTILINE)


def sources_for(suite: str, root: str = "/etc/apt") -> str:
    """The host's sources that offer `suite`, its updates or its security fixes, in sources.list's
    one-line form; empty if it has none.

    Third parties' sources do not get into images: only those whose suite has Debian's names do.
    """
    lines = [line for text in _one_line_files(root) for line in _lines_for(text, suite)]
    for stanza in _stanzas(root):
        lines += _stanza_lines(stanza, suite)
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def release_time_s(suite: str) -> int:
    """The newest `Date` of the Release files of a suite's sources, in seconds since 1970.

    Raises:
        NotFound: a mirror has no such suite. Unavailable: it does not answer.
    """
    found = _ONE_LINE.findall(sources_for(suite)) or [(DEFAULT_MIRROR, suite)]
    return max(_release_time_s(mirror, name) for mirror, name in found)


def _release_time_s(mirror: str, suite: str) -> int:
    url = f"{mirror.rstrip('/')}/dists/{suite}/InRelease"
    hint = "give the time with SOURCE_DATE_EPOCH"
    if not url.startswith(("http://", "https://")):
        raise Unavailable(f"cannot ask {url} for its date", hint=hint)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            text = answer.read(_MAX_RELEASE_BYTES).decode("utf-8", "replace")
    except (OSError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 404:
            raise NotFound(
                f"{mirror} has no suite {suite!r}", hint="bookworm, trixie and sid are suites"
            ) from None
        raise Unavailable(f"cannot read {url}: {error}", hint=hint) from None
    match = re.search(r"^Date: (.*)$", text, re.MULTILINE)
    if match is None:
        raise Unavailable(f"{url} has no date", hint=hint)
    return int(parsedate_to_datetime(match[1]).timestamp())


def _names(suite: str) -> frozenset[str]:
    return frozenset((suite, f"{suite}-updates", f"{suite}-security"))


def _one_line_files(root: str) -> list[str]:
    paths = [os.path.join(root, "sources.list")]
    paths += sorted(glob.glob(os.path.join(root, "sources.list.d", "*.list")))
    return [_read(path) for path in paths if os.path.isfile(path)]


def _lines_for(text: str, suite: str) -> list[str]:
    return [
        line.strip()
        for line in text.splitlines()
        if (match := _ONE_LINE.match(line + " ")) and match[2] in _names(suite)
    ]


def _stanzas(root: str) -> list[dict[str, str]]:
    stanzas = []
    for path in sorted(glob.glob(os.path.join(root, "sources.list.d", "*.sources"))):
        text = "\n".join(line for line in _read(path).splitlines() if not line.startswith("#"))
        for block in re.split(r"\n\s*\n", text):
            fields = re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", block, re.MULTILINE)
            stanzas.append({name.lower(): value.strip() for name, value in fields})
    return stanzas


def _stanza_lines(stanza: dict[str, str], suite: str) -> list[str]:
    if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes") == "no":
        return []
    key = stanza.get("signed-by", "")
    option = f"[signed-by={key}] " if key.startswith("/") else ""
    return [
        f"deb {option}{uri} {name} {stanza.get('components', 'main')}"
        for uri in stanza.get("uris", "").split()
        for name in stanza.get("suites", "").split()
        if name in _names(suite)
    ]


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
