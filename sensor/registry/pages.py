"""Paged listings (OCI distribution 1.1, "Listing Tags"; RFC 8288 Link headers): which page is next, and when to stop believing.

Pure. A listing that leads away from the registry, goes in circles or never ends is cut and flagged partial with the reason. Names are
checked here too, because tag lists contain nulls, digests and worse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urljoin, urlsplit

import msgspec

from sensor.limits import Limits
from sensor.model.digest import is_digest
from sensor.model.reference import is_repository, is_tag
from sensor.registry.errors import UnexpectedAnswer, inert, shown_url
from sensor.registry.port import Listing

_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^\s;,=]+(?:\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]*))?)*)")
_REL_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"[^\"]*\bnext\b[^\"]*\"|next\b)", re.IGNORECASE)
_MOST_LINK_CHARS = 16 * 1024
_MOST_STALE_PAGES = 3
"""Pages in a row that may bring no new name while names are there: a listing that changes underneath repeats a few."""
_MOST_EMPTY_PAGES = 100
"""Empty pages in a row. A registry that filters by rights after paging sends some."""


class _Page(msgspec.Struct):
    repositories: list[object] | None = None
    tags: list[object] | None = None


def parse_page(body: bytes, kind: str, url: str) -> list[object]:
    """The entries of one page; `kind` is `repositories` or `tags`. A null list is an empty one (distribution sends it).

    Raises:
        UnexpectedAnswer: not JSON of that shape.
    """
    try:
        page = msgspec.json.decode(body, type=_Page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"GET {shown_url(url)}: the answer is not a list of {kind}"
        raise UnexpectedAnswer(message, "check that the URL is that of a registry") from error
    return (page.repositories if kind == "repositories" else page.tags) or []


def next_link(headers: Iterable[str]) -> str | None:
    """The target of the first link with rel=next."""
    for header in headers:
        for target, parameters in _LINK.findall(header[:_MOST_LINK_CHARS]):
            if _REL_NEXT.search(parameters):
                return str(target)
    return None


def is_listed_tag(name: str) -> bool:
    """Whether an entry of a tag list is a tag; digests and other nonsense are not."""
    return is_tag(name) and not is_digest(name)


class Paging:
    """One listing in progress: feed it every page, ask it for the next URL, take the listing at the end."""

    def __init__(self, url: str, *, prefix: str, accept: Callable[[str], bool], limits: Limits) -> None:
        """Begin at `url`. `prefix` is the path below which all pages must lie, `accept` tells names from nonsense."""
        self._origin = urlsplit(url)
        self._prefix = prefix
        self._accept = accept
        self._limits = limits
        self._urls = {url}
        self._names: dict[str, None] = {}
        self._stale = 0
        self._empty = 0
        self._dropped = 0
        self._reason = ""

    def after(self, url: str, entries: Sequence[object], links: Iterable[str]) -> str | None:
        """Take in a page and say which is next; None at the end, for whatever reason."""
        self._collect(entries)
        target = next_link(links)
        if target is None or self._reason:
            return None
        following = self._resolve(url, target)
        if following is None:
            where = inert(target.partition("?")[0])
            self._stop(f"the next page is outside the registry: {where}")
            return None
        if following in self._urls or self._stale >= _MOST_STALE_PAGES or self._empty >= _MOST_EMPTY_PAGES:
            self._stop("the pages go in a circle")
            return None
        if len(self._urls) >= self._limits.pages:
            self._stop(f"more than {self._limits.pages} pages")
            return None
        self._urls.add(following)
        return following

    def broken(self, reason: str) -> None:
        """A later page could not be fetched; what was listed so far stands, as a partial listing."""
        self._stop(reason)

    @property
    def listing(self) -> Listing:
        """What was listed so far."""
        return Listing(names=tuple(self._names), complete=not self._reason, reason=self._reason, dropped=self._dropped)

    def _collect(self, entries: Sequence[object]) -> None:
        before = len(self._names)
        for entry in entries:
            if not isinstance(entry, str) or not self._accept(entry):
                self._dropped += 1
            elif len(self._names) < self._limits.listing_entries or entry in self._names:
                self._names[entry] = None
            else:
                self._stop(f"more than {self._limits.listing_entries} names")
                return
        self._empty = 0 if entries else self._empty + 1
        self._stale = self._stale + 1 if entries and len(self._names) == before else 0

    def _resolve(self, url: str, target: str) -> str | None:
        """The next URL on the registry's own origin, or None.

        A link that names the registry's host with another scheme or port comes from a registry behind a proxy that does not know its
        outer address; it is followed on the origin that was asked, so that nothing leaves it.
        """
        try:
            found = urlsplit(urljoin(url, target))
        except ValueError:
            return None
        if found.hostname != self._origin.hostname or found.username is not None:
            return None
        if not found.path.startswith(self._prefix) or "/../" in found.path + "/" or "\\" in target:
            return None
        return f"{self._origin.scheme}://{self._origin.netloc}{found.path}" + (f"?{found.query}" if found.query else "")

    def _stop(self, reason: str) -> None:
        self._reason = self._reason or reason


def repository_paging(url: str, *, prefix: str, limits: Limits) -> Paging:
    """The pages of `_catalog`."""
    return Paging(url, prefix=prefix, accept=is_repository, limits=limits)


def tag_paging(url: str, *, prefix: str, limits: Limits) -> Paging:
    """The pages of `tags/list`."""
    return Paging(url, prefix=prefix, accept=is_listed_tag, limits=limits)
