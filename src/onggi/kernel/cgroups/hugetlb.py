"""The hugetlb controller: bytes of huge pages, one limit for each page size.

Page sizes as the kernel names its files: `64KB`, `2MB`, `1GB`. Reservations are limited alike where
the kernel counts them (Linux 5.7), so that a mapping fails when it is made and not by SIGBUS later.
Source: Documentation/admin-guide/cgroup-v1/hugetlb.rst, cgroup-v2.rst#hugetlb,
runtime-spec config-linux.md#huge-page-limits.
"""

from __future__ import annotations

import re

from onggi.errors import InvalidArgument
from onggi.kernel.cgroups.rule import Change, Files, Write, flat_keyed, limit, number
from onggi.kernel.cgroups.stats import HugetlbStats
from onggi.specs.runtime import Resources

_PAGE_SIZE = re.compile(r"[1-9][0-9]{0,5}[KMG]B")


def v1(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Raises: InvalidArgument: not a page size."""
    return _limits(resources, files, "limit_in_bytes")


def v2(resources: Resources, files: Files) -> tuple[Change, ...]:
    """Raises: InvalidArgument: not a page size."""
    return _limits(resources, files, "max")


def stats_v1(files: Files) -> tuple[HugetlbStats, ...]:
    return tuple(
        HugetlbStats(
            page_size=size,
            usage_bytes=number(files.read(f"hugetlb.{size}.usage_in_bytes")) or 0,
            limit_bytes=limit(files.read(f"hugetlb.{size}.limit_in_bytes")),
            peak_bytes=number(files.read(f"hugetlb.{size}.max_usage_in_bytes")),
            limit_hits=number(files.read(f"hugetlb.{size}.failcnt")) or 0,
        )
        for size in _sizes(files, "limit_in_bytes")
    )


def stats_v2(files: Files) -> tuple[HugetlbStats, ...]:
    return tuple(
        HugetlbStats(
            page_size=size,
            usage_bytes=number(files.read(f"hugetlb.{size}.current")) or 0,
            limit_bytes=limit(files.read(f"hugetlb.{size}.max")),
            peak_bytes=None,
            limit_hits=flat_keyed(files.read(f"hugetlb.{size}.events")).get("max", 0),
        )
        for size in _sizes(files, "max")
    )


def _limits(resources: Resources, files: Files, suffix: str) -> tuple[Change, ...]:
    changes: list[Change] = []
    for entry in resources.hugepage_limits:
        if not _PAGE_SIZE.fullmatch(entry.page_size):
            raise InvalidArgument(
                f"huge page size {entry.page_size!r} is not one", hint="write it as 2MB or 1GB"
            )
        known = _sizes(files, suffix)
        if known and entry.page_size not in known:
            raise InvalidArgument(
                f"this host has no huge pages of {entry.page_size}", hint=f"of {', '.join(known)}"
            )
        prefix = f"hugetlb.{entry.page_size}"
        changes.append(Write(f"{prefix}.{suffix}", str(entry.limit)))
        if files.read(f"{prefix}.rsvd.{suffix}") is not None:
            changes.append(Write(f"{prefix}.rsvd.{suffix}", str(entry.limit)))
    return tuple(changes)


def _sizes(files: Files, suffix: str) -> list[str]:
    name = re.compile(rf"hugetlb\.({_PAGE_SIZE.pattern})\.{suffix}")
    return sorted(match[1] for file in files.names() if (match := name.fullmatch(file)))
