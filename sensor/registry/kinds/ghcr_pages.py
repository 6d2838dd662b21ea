"""The lists of GitHub's packages API: what their entries hold, and pages that are kept with their ETags. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from sensor.registry.kinds.gathered import unix_time
from sensor.registry.kinds.github_app import Account
from sensor.registry.native import parse_entry

_KEPT_ROWS = 50_000
"""Rows of pages that are kept with their ETags, about 300 bytes each."""


class _Package(msgspec.Struct):
    name: str
    owner: Account | None = None


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Metadata(msgspec.Struct):
    container: _Tags | None = None


class _Version(msgspec.Struct):
    name: str
    updated_at: str | None = None
    created_at: str | None = None
    metadata: _Metadata | None = None


Row: TypeAlias = tuple[str, str | None, float | None]
"""A name (empty: an entry that cannot be read), with the digest and push date that belong to it."""
Reader: TypeAlias = Callable[[list[msgspec.Raw]], Iterable[Row]]


@dataclass(slots=True)
class Page:
    """What is kept of one page of a list."""

    rows: tuple[Row, ...]
    entries: int
    following: str = ""
    withheld: str = ""
    """Why not everything is there that belongs to the list."""
    etag: str = ""
    used: int = 0
    """The number of the last listing of repositories before it was used."""


@dataclass(slots=True)
class Kept:
    """Pages by URL, bounded. Those that the last listings did not use make room; what finds none is fetched in full each time."""

    pages: dict[str, Page] = field(default_factory=dict)
    rows: int = 0
    sweep: int = 0
    most_rows: int = _KEPT_ROWS

    def keep(self, url: str, page: Page) -> None:
        """Keep a page that has an ETag, if there is room."""
        self.forget(url)
        if not page.etag:
            return
        if self.rows + len(page.rows) + 1 > self.most_rows:
            for old in [old for old, kept in self.pages.items() if kept.used < self.sweep - 1]:
                self.forget(old)
        if self.rows + len(page.rows) + 1 <= self.most_rows:
            page.used = self.sweep
            self.pages[url] = page
            self.rows += len(page.rows) + 1

    def forget(self, url: str) -> None:
        """Drop a page."""
        if (old := self.pages.pop(url, None)) is not None:
            self.rows -= len(old.rows) + 1


def package_rows(owner: str) -> Reader:
    """Reads lists of packages: repositories of an owner, whose name is in lower case. Those of others are left out."""

    def rows(entries: list[msgspec.Raw]) -> Iterator[Row]:
        for entry in entries:
            package = parse_entry(entry, _Package)
            if package is None:
                yield "", None, None
            elif package.owner is None or package.owner.login.lower() == owner:
                yield f"{owner}/{package.name}", None, None

    return rows


def version_rows(entries: list[msgspec.Raw]) -> Iterator[Row]:
    """Reads lists of a package's versions: their tags, if they have any."""
    for entry in entries:
        version = parse_entry(entry, _Version)
        if version is None:
            yield "", None, None
            continue
        pushed = unix_time(version.updated_at or version.created_at)
        container = version.metadata.container if version.metadata is not None else None
        for tag in (container.tags if container is not None else None) or ():
            yield tag, version.name, pushed
