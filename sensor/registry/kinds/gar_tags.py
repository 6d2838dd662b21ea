"""Google's extensions of `tags/list`, which need the registry's rights alone: `manifest` tells digests and times, `child` the paths below.

One request gives all tags of an image with their digests; following `child` walks a whole repository or, on a gcr.io host, a project.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

import msgspec

from sensor.errors import SensorError
from sensor.limits import Limits
from sensor.model.digest import Digest, is_digest
from sensor.model.reference import is_repository
from sensor.registry.errors import CannotEnumerate
from sensor.registry.kinds.gathered import Gathered
from sensor.registry.native import parse
from sensor.registry.pages import Paging, tag_paging
from sensor.registry.port import Listing
from sensor.registry.session import Session

_PAGE = 10_000
_UPSTREAM = "only at the upstream of a remote repository; set materialize: true to have it fetched from there"
SOURCE = "tags/list"


class _Version(msgspec.Struct, rename="camel"):
    tag: list[object] | None = None
    time_uploaded_ms: str | int | None = None


class _Tags(msgspec.Struct):
    tags: list[object] | None = None
    child: list[object] | None = None
    manifest: dict[str, _Version] | None = None

    def versions(self) -> dict[str, tuple[Digest, float | None]]:
        """Digest and upload time (Unix) of every tag that the extension tells of."""
        return {
            tag: (Digest(digest), _seconds(version.time_uploaded_ms))
            for digest, version in (self.manifest or {}).items()
            if is_digest(digest)
            for tag in version.tag or ()
            if isinstance(tag, str)
        }


class TagLists:
    """`tags/list` of one registry of Google's."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._session = session
        self._limits = limits

    async def listing(self, repository: str, *, cached_only: bool) -> Listing:
        """All tags of an image. `cached_only`: what has no manifest there is only at an upstream, and withheld.

        Raises:
            RegistryNotFound: no such image.
            SensorError: no answer, or a refusal, of the first page.
        """
        digests: dict[str, Digest] = {}
        pushed: dict[str, float] = {}
        extended = True
        paging = await self._paging(repository)
        async for page in self._pages(repository, paging):
            extended = extended and page.manifest is not None
            for tag, (digest, at) in page.versions().items():
                digests[tag] = digest
                if at is not None:
                    pushed[tag] = at
        found = paging.listing
        missing = [tag for tag in found.names if tag not in digests] if cached_only and extended else []
        return Listing(
            names=found.names,
            complete=found.complete,
            reason=found.reason,
            dropped=found.dropped,
            digests={tag: digests[tag] for tag in found.names if tag in digests},
            pushed={tag: pushed[tag] for tag in found.names if tag in pushed},
            withheld=dict.fromkeys(missing, _UPSTREAM),
            source=SOURCE,
        )

    async def walk(self, start: str, gathered: Gathered) -> None:
        """Take in all images at and below a path. What fails later makes it partial.

        Raises:
            CannotEnumerate: nothing is there to be followed.
            SensorError: no answer, or a refusal, at the start.
        """
        waiting, seen, before = deque([start]), {start}, gathered.entries
        while waiting and not gathered.full:
            path = waiting.popleft()
            try:
                children = await self._take(path, gathered)
            except SensorError as error:
                if path == start:
                    raise
                gathered.partial(f"{path} could not be listed: {error.message}")
                continue
            below = [f"{path}/{child}" for child in children]
            fresh = [one for one in dict.fromkeys(below) if is_repository(one) and one not in seen]
            room = self._limits.pages - len(seen)
            if len(fresh) > room:
                gathered.partial(f"more than {self._limits.pages} paths")
            seen.update(fresh[:room])
            waiting.extend(fresh[:room])
        if waiting:
            gathered.partial(f"more than {self._limits.listing_entries} tags")
        if gathered.entries == before:
            message = f"nothing is listed below {start}"
            raise CannotEnumerate(message, "name the images in repositories.names")

    async def _take(self, path: str, gathered: Gathered) -> list[str]:
        """Take in the tags of one path; the paths below it."""
        children: list[str] = []
        paging = await self._paging(path)
        async for page in self._pages(path, paging):
            for tag, (digest, at) in page.versions().items():
                gathered.add(path, tag, digest, at)
            children += [child for child in page.child or () if isinstance(child, str)]
        for name in paging.listing.names:
            gathered.add(path, name)  # adds nothing to what has a digest already
        if paging.listing.reason:
            gathered.partial(f"{path}: {paging.listing.reason}")
        return children

    async def _paging(self, repository: str) -> Paging:
        path = f"{repository}/tags/list"
        url = await self._session.url(f"/v2/{path}")
        return tag_paging(url, prefix=self._session.prefix + path, limits=self._limits)

    async def _pages(self, repository: str, paging: Paging) -> AsyncIterator[_Tags]:
        """All pages; `paging` keeps the names and judges whether there are more. A later page that fails makes it partial."""
        scope = f"repository:{repository}:pull"
        base = await self._session.url(f"/v2/{repository}/tags/list")
        following: str | None = f"{base}?n={_PAGE}"
        first = True
        while following is not None:
            try:
                reply = await self._session.fetch("GET", following, scope=scope, headers={"Accept": "application/json"})
                if reply.status != 200:
                    raise await self._session.error("GET", reply, scope)
                page = parse(reply, _Tags)
            except SensorError as error:
                if first:
                    raise
                paging.broken(f"a later page failed: {error.message}")
                return
            yield page
            following = paging.after(reply.url, page.tags or (), reply.header_lists.get("link", ()))
            first = False


def _seconds(milliseconds: str | int | None) -> float | None:
    try:
        value = int(milliseconds or "")
    except ValueError:
        return None
    return value / 1000 if 0 < value < 10**14 else None
