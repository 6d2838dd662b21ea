"""Nexus' components: one is one tag of one image, with the digest and date of its manifest. Pages of 100, by continuation token.

Which repository is asked, and what stands in where the REST API refuses, is decided in `nexus_api`.
"""

from __future__ import annotations

import re
from urllib.parse import quote

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
from sensor.registry.kinds.gathered import Gathered, unix_time
from sensor.registry.native import Api

ABSENT = (RegistryNotFound, NotARegistry, UnexpectedAnswer)
"""What a connector port answers, which serves `/v2/` and no REST API."""
REFUSED = (RegistryForbidden, *ABSENT)
_MANIFEST = re.compile(r"(?:^|/)manifests/(?P<tag>[^/]+)$")
_HELD = "its digest is not stored, and asking for it would ask the upstream (materialize: true)"


class _Asset(msgspec.Struct):
    path: str | None = None
    checksum: dict[str, object] | None = None
    last_modified: str | None = msgspec.field(default=None, name="lastModified")


class _Component(msgspec.Struct):
    name: str | None = None
    version: str | None = None
    assets: list[_Asset] | None = None

    @property
    def manifest(self) -> _Asset:
        """The asset that is the manifest of this tag; an empty one when none is."""
        for asset in self.assets or ():
            found = _MANIFEST.search(asset.path or "")
            if found and found["tag"] == self.version:
                return asset
        return _Asset()


class _Page(msgspec.Struct):
    items: list[_Component]
    token: str | None = msgspec.field(default=None, name="continuationToken")


async def gather_components(
    api: Api, path: str, into: Gathered, limits: Limits, *, image: str = "", shown: str = "", held: bool = False
) -> None:
    """All pages of a listing of components. With `image`, only that one, as `shown`. `held`: what has no digest cannot be had.

    Raises:
        CannotEnumerate: this listing is refused.
        SensorError: no answer, or a broken one, on the first page; a later one makes it partial.
    """
    token, seen = "", {""}
    for number in range(limits.pages):
        try:
            page = await api.json(path + (f"&continuationToken={quote(token, safe='')}" if token else ""), _Page)
        except SensorError as error:
            if number:
                return into.partial(f"a later page failed: {error.message}")
            if isinstance(error, REFUSED):
                raise CannotEnumerate(error.message, error.advice) from error
            raise
        for component in page.items:
            if not image or component.name == image:
                _take(into, component, shown, held=held)
        if into.full:
            return into.partial(f"more than {limits.listing_entries} tags")
        token = page.token or ""
        if not token:
            return None
        if token in seen:
            return into.partial("the pages go in a circle")
        seen.add(token)
    return into.partial(f"more than {limits.pages} pages")


def _take(into: Gathered, component: _Component, shown: str, *, held: bool) -> None:
    version = component.version or ""
    if is_digest(version):
        return  # a manifest without a tag: the child of an index, or an old revision
    asset = component.manifest
    digest = f"sha256:{(asset.checksum or {}).get('sha256')}"  # absent where it was stored before checksums were kept
    known = Digest(digest) if is_digest(digest) else None
    into.add(
        shown or component.name or "",
        version,
        known,
        unix_time(asset.last_modified),
        withheld=_HELD if held and known is None else "",
    )
