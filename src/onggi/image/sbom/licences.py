"""What packages say about their licences, as SPDX licence expressions. Pure text.

A name that SPDX does not know becomes a `LicenseRef-…` that keeps it.

Source: SPDX 2.3 annex D (licence expressions); Debian copyright-format 1.0, section 7.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from msgspec import Struct

MAX_EXPRESSION_CHARS = 1000
MAX_DEPTH = 20

_IDS = {
    name.lower(): name
    for name in """0BSD AFL-2.1 AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-1.0 Apache-1.1
    Apache-2.0 Artistic-1.0 Artistic-1.0-Perl Artistic-2.0 Beerware blessing BSD-1-Clause
    BSD-2-Clause BSD-3-Clause BSD-4-Clause BSL-1.0 bzip2-1.0.6 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0
    CC-BY-SA-4.0 CC0-1.0 CDDL-1.0 CNRI-Python curl EPL-1.0 EPL-2.0 EUPL-1.2 FSFAP FSFUL FSFULLR
    FTL GFDL-1.1-only GFDL-1.1-or-later GFDL-1.2-only GFDL-1.2-or-later GFDL-1.3-only
    GFDL-1.3-or-later GPL-1.0-only GPL-1.0-or-later GPL-2.0-only GPL-2.0-or-later GPL-3.0-only
    GPL-3.0-or-later HPND ICU IJG Info-ZIP ISC LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only
    LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later Libpng libtiff LPPL-1.3c MIT MIT-0 MIT-CMU
    MPL-1.1 MPL-2.0 NCSA NTP OFL-1.1 OLDAP-2.8 OpenSSL PostgreSQL PSF-2.0 Python-2.0 QPL-1.0 Ruby
    Sleepycat SMLNJ TCL TCP-wrappers Unicode-DFS-2016 Unicode-3.0 Unlicense UPL-1.0 Vim W3C WTFPL
    X11 Zlib ZPL-2.1""".split()
}
#: Other names for some of them: Debian's, and old ones of SPDX.
_ALSO = {
    "expat": "MIT",
    "apache-2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",
    "bsd-2-clauses": "BSD-2-Clause",
    "bsd-3-clauses": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "psf-2": "PSF-2.0",
    "mpl-2": "MPL-2.0",
}
_GNU = re.compile(r"(agpl|lgpl|gpl|gfdl)-?v?([1-3])(?:\.([0-3]))?(?:\.0)?(\+)?", re.ASCII)
_EXCEPTIONS = {
    name.lower(): name
    for name in """Autoconf-exception-2.0 Autoconf-exception-3.0 Bison-exception-2.2
    Classpath-exception-2.0 Font-exception-2.0 GCC-exception-2.0 GCC-exception-3.1
    Linux-syscall-note LLVM-exception OpenJDK-assembly-exception-1.0""".split()
}
_CLASSIFIERS = {
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "zlib/libpng License": "Zlib",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
}
_OPERATORS = frozenset(("and", "or"))
_NO_NAMES = frozenset(("and", "or", "with", "(", ")"))
_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+", re.ASCII)
_NOT_IN_REFERENCE = re.compile(r"[^A-Za-z0-9.-]+", re.ASCII)


class Licence(Struct, frozen=True):
    """An SPDX expression. `names`: its references → what the package itself calls them."""

    expression: str
    names: tuple[tuple[str, str], ...] = ()

    @property
    def is_id(self) -> bool:
        """Whether it is one licence that SPDX knows."""
        return self.expression.lower() in _IDS


def licence_of(text: str) -> Licence:
    """The expression that `text` is, or a reference that stands for the whole of it."""
    if len(text) <= MAX_EXPRESSION_CHARS and "," not in text:
        found = _parse(text)
        if found is not None:
            return found
    return _reference(text[:MAX_EXPRESSION_CHARS])


def all_of(licences: Iterable[Licence]) -> Licence | None:
    """All of these at once; None for none."""
    unique = tuple(dict.fromkeys(licences))
    if len(unique) < 2:
        return unique[0] if unique else None
    parts = [
        f"({one.expression})" if " OR " in one.expression else one.expression for one in unique
    ]
    names = dict(pair for one in unique for pair in one.names)
    return Licence(" AND ".join(parts), tuple(names.items()))


def classifier_licence(classifier: str) -> Licence | None:
    """What one of Python's trove classifiers says; None when it is about something else."""
    kind, *middle = [part.strip() for part in classifier.split("::")]
    if kind != "License" or not middle or middle == ["OSI Approved"]:
        return None
    name = middle[-1]
    return Licence(_CLASSIFIERS[name]) if name in _CLASSIFIERS else _reference(name)


def _known(name: str) -> str | None:
    """The SPDX identifier that a name means."""
    lower = name.lower()
    gnu = _GNU.fullmatch(lower)
    if gnu is not None:
        family, major, minor, plus = gnu.groups()
        lower = f"{family}-{major}.{minor or 0}-{'or-later' if plus else 'only'}"
    return _IDS.get(lower) or _ALSO.get(lower)


def _parse(text: str) -> Licence | None:
    """Names joined by and, or, with, and parentheses; None: something else. No recursion."""
    words: list[str] = []
    names: dict[str, str] = {}
    depth, operand = 0, True
    pending = [match[1] for match in reversed(list(_TOKEN.finditer(text)))]
    while pending:
        word = pending.pop()
        lower = word.lower()
        if word == "(" and operand and depth < MAX_DEPTH:
            depth += 1
        elif word == ")" and not operand and depth:
            depth -= 1
        elif lower in _OPERATORS and not operand:
            word, operand = word.upper(), True
        elif lower == "with" and not operand and pending and words[-1] != ")":
            exception = _EXCEPTIONS.get(pending.pop().lower())
            if exception is None:
                return None
            word = f"WITH {exception}"
        elif operand and lower not in _NO_NAMES:
            known = _known(word)
            if known is None:
                reference = _reference(word)
                names |= dict(reference.names)
                known = reference.expression
            word, operand = known, False
        else:
            return None
        words.append(word)
    if operand or depth:
        return None
    return Licence(" ".join(words).replace("( ", "(").replace(" )", ")"), tuple(names.items()))


def _reference(name: str) -> Licence:
    if _REFERENCE.fullmatch(name):
        return Licence(name, ((name, name),))
    plain = _NOT_IN_REFERENCE.sub("-", name).strip("-")[:60] or "unnamed"
    if plain != name:
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    reference = f"LicenseRef-{plain}"
    return Licence(reference, ((reference, name),))
