"""Artifactory's query language: one search tells every tag of a repository, with its digest and date.

A stored manifest is a file `<image>/<tag>/manifest.json` (of an index: `list.manifest.json`), and its checksum is the digest. AQL looks
only at what Artifactory itself stores. What is searched, and what stands in where AQL is refused, is decided in `artifactory_api`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from sensor.errors import SensorError
from sensor.limits import Limits
from sensor.model.digest import Digest, is_digest
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    UnexpectedAnswer,
)
from sensor.registry.kinds.gathered import Gathered, patiently, unix_time
from sensor.registry.native import Api, parse
from sensor.transport import Retry, Transport

PAGE = 1000
_MOST_EMPTY = 10
"""Empty pages in a row, once rights have been seen to thin out the pages."""
REFUSED = (RegistryForbidden, RegistryNotFound, NotARegistry, UnexpectedAnswer)
"""What an API answers that is switched off, forbidden, or hidden by a proxy."""
GRANT = "give this credential the permission Read on the repository, or name the images in repositories.names"


class _Item(msgspec.Struct):
    path: str = ""
    name: str = ""
    sha256: str | None = None
    modified: str | None = None


class _Range(msgspec.Struct):
    limit: int | None = None
    notification: str = ""


class _Found(msgspec.Struct):
    results: list[_Item]
    range: _Range = msgspec.field(default_factory=_Range)


class Aql:
    """Searches of one Artifactory, one at a time: it answers 429 when too many run at once."""

    def __init__(
        self, opened: Callable[[], Awaitable[Api]], transport: Transport, *, retry: Retry, limits: Limits
    ) -> None:
        """`opened` gives the API when it is needed."""
        self._opened = opened
        self._transport = transport
        self._retry = retry
        self._limits = limits
        self._turn = asyncio.Lock()
        self.refused = ""
        """Why a search was refused; none is tried again before `reset`."""

    def reset(self) -> None:
        """Try again, although it was refused before."""
        self.refused = ""

    async def gather(self, into: Gathered, key: str, image: str, name: Callable[[str], str]) -> None:
        """Every tag that is stored in one repository, or of one image in it. `name` is what references call an image.

        Raises:
            CannotEnumerate: searching is refused.
            SensorError: no answer, or a broken one, on the first page; a later one makes it partial.
        """
        offset = empty = 0
        short = thinned = False
        last: tuple[str, str] | None = None
        for number in range(self._limits.pages):
            try:
                found = await self._page(key, image, offset)
            except SensorError as error:
                if number == 0:
                    raise
                return into.partial(f"a later page failed: {error.message}")
            items = found.results
            if last is not None and last not in {(item.path, item.name) for item in items}:
                into.partial("the repository changed while it was listed")
            for item in items:
                _take(into, item, image, name)
            if found.range.notification:
                return into.partial("Artifactory cuts the results of a search off")
            if into.full:
                return into.partial(f"more than {self._limits.listing_entries} tags")
            size = min(found.range.limit or PAGE, PAGE)
            thinned = thinned or (short and bool(items))
            if items and len(items) >= size:
                # one is asked for twice: if it is gone, something was deleted meanwhile and others may have been skipped
                last, empty = (items[-1].path, items[-1].name), 0
                offset += max(size - 1, 1)
                continue
            # rights are applied after a page was counted out, so a short one need not be the last
            empty = 0 if items else empty + 1
            if empty > (_MOST_EMPTY if thinned else 0):
                return None
            short, last = True, None
            offset += max(size, 1)
        return into.partial(f"more than {self._limits.pages} pages")

    async def _page(self, key: str, image: str, offset: int) -> _Found:
        if self.refused:
            raise CannotEnumerate(self.refused, GRANT)
        criteria: dict[str, Any] = {"repo": key, "$or": [{"name": "manifest.json"}, {"name": "list.manifest.json"}]}
        if image:
            criteria["path"] = {"$match": f"{image}/*"}
        query = (
            f'items.find({json.dumps(criteria)}).include("repo","path","name","sha256","modified")'
            f'.sort({{"$asc":["path","name"]}}).offset({offset}).limit({PAGE})'
        )
        try:
            async with self._turn:
                return await self._ask(query.encode())
        except REFUSED as error:
            self.refused = f"AQL is refused: {error.message}"
            raise CannotEnumerate(self.refused, GRANT) from error

    async def _ask(self, query: bytes) -> _Found:
        """A search is a POST, but may be repeated."""
        api = await self._opened()
        search = partial(api.send, "/api/search/aql", method="POST", body=query, headers={"Content-Type": "text/plain"})
        return parse(await patiently(self._transport, self._retry, api.base, search), _Found)


def _take(into: Gathered, item: _Item, image: str, name: Callable[[str], str]) -> None:
    found, _, tag = item.path.rpartition("/")
    parts = item.path.split("/")
    if not found or tag.startswith(("sha256:", "sha256__")) or "_uploads" in parts or ".jfrog" in parts:
        return  # children of indexes, old revisions, pushes under way
    if image and found != image:
        return  # an image below this one
    digest = f"sha256:{item.sha256}"
    into.add(
        name(found),
        tag,
        Digest(digest) if is_digest(digest) else None,
        unix_time(item.modified),
        replace=item.name == "list.manifest.json",
    )
