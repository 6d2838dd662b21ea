"""Tells one control plane what the registries of its link hold: what the filters keep, in pages, and only when it changed.

Apart from the outbox, so that a catalogue of a hundred thousand tags never stands before a result. Durable all the same: the catalogue itself
is in the state database, and so is what of it was told (a fingerprint, and how many pages of an unfinished report). What could not be told
is told when the link is back, in its newest form. A server without this call (404, 405: section 10 of the wire contract) is left alone
until the next start.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy import Column, Integer, Table, Text, select
from sqlalchemy.dialects.sqlite import insert

from sensor.catalog.listings import Listing, Repository, listing_of, pages_of
from sensor.control_plane.client import ControlPlaneClient
from sensor.control_plane.errors import Refused, TooLarge
from sensor.control_plane.wire_catalogue import Catalog, CatalogRepository, provider_word
from sensor.errors import ConfigError, ControlPlaneError, SecretError, StateError
from sensor.judge import rfc3339
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.storage import METADATA, Storage
from sensor.triggers.jobs import Membership

REPORTS = Table(
    "catalogue_reports",
    METADATA,
    Column("link", Text, primary_key=True),
    Column("registry", Text, primary_key=True),
    Column("told", Text, nullable=False, default=""),
    Column("telling", Text, nullable=False, default=""),
    Column("pages", Integer, nullable=False, default=0),
)
"""`told`: fingerprint of the last complete report; `telling`: that of an unfinished one, of which `pages` were taken."""

LOOK_SECONDS = 60.0
"""Seconds between two looks whether something is to be told. A sweep that ends is noticed at once."""
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 900.0

log = structlog.get_logger()


class Directory(Protocol):
    """What a report needs of the configuration."""

    def reporting(self, link: str) -> tuple[str, ...]:
        """The registries that report over a link now."""

    def address(self, registry: str) -> tuple[str, str]:
        """Host and kind of a registry; ConfigError when it left the configuration."""


class CatalogueReporter:
    """The reports of one link."""

    def __init__(
        self,
        client: ControlPlaneClient,
        storage: Storage,
        directory: Directory,
        *,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._link = client.link.name
        self._storage = storage
        self._directory = directory
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._news = asyncio.Event()

    def wake(self) -> None:
        """A registry was looked at."""
        self._news.set()

    async def run(self, membership: Membership) -> None:
        """Report until cancelled, or until the server turns out to take no catalogues.

        Raises:
            StateError: the state database cannot be used, and waiting does not help.
        """
        failures = 0
        while True:
            await membership.registered()
            self._news.clear()
            try:
                if not await self.report(membership.agent):
                    log.info("catalogue not reported", link=self._link, reason="this control plane takes none")
                    # not an end: a loop that ends would look like one that broke
                    await asyncio.Event().wait()
                failures = 0
            except (ControlPlaneError, SecretError) as error:
                failures += 1
                if failures == 1:
                    log.warning("catalogue waits", link=self._link, error=error.message, advice=error.advice)
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures, 10))
                await self._sleep(max(random.uniform(pause / 2, pause), error.retry_after or 0.0))
                continue
            except StateError as error:
                if not error.retryable:
                    raise
                log.warning("catalogue waits", link=self._link, error=error.message, advice=error.advice)
            await self._wait()

    async def report(self, agent: str) -> bool:
        """Tell what changed, registry by registry. False: the server takes no catalogues.

        Raises:
            ControlPlaneError: a page was not taken; SecretError: the key cannot be read; StateError: the state database cannot be used.
        """
        for registry in self._directory.reporting(self._link):
            listing = await listing_of(self._storage, registry)
            if listing is None:
                continue
            # another agent id is another sensor to the server, or another server
            fingerprint = f"{agent} {await asyncio.to_thread(_fingerprint, listing)}"
            told, telling, pages = await self._standing(registry)
            if told == fingerprint:
                continue
            try:
                is_taken = await self._tell(agent, listing, fingerprint, pages if telling == fingerprint else 0)
            except ConfigError:
                # it left the configuration a moment ago
                continue
            except (Refused, TooLarge) as error:
                # this listing will never be taken; the next one may
                log.warning("catalogue refused", link=self._link, registry=registry, error=error.message)
                is_taken = True
            if not is_taken:
                return False
            await self._note(registry, told=fingerprint, telling="", pages=0)
        return True

    async def _tell(self, agent: str, listing: Listing, fingerprint: str, done: int) -> bool:
        host, kind = self._directory.address(listing.registry)
        pages = await asyncio.to_thread(list, pages_of(listing.repositories, self._limits.catalogue_page_bytes))
        for number, page in enumerate(pages, start=1):
            if number <= done:
                continue
            if not await self._client.report_catalogue(_page(agent, host, kind, listing, page, (number, len(pages)))):
                return False
            if number < len(pages):
                await self._note(listing.registry, telling=fingerprint, pages=number)
        return True

    async def _standing(self, registry: str) -> tuple[str, str, int]:
        query = select(REPORTS).where(REPORTS.c.link == self._link, REPORTS.c.registry == registry)
        async with self._storage.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return ("", "", 0) if row is None else (row.told, row.telling, row.pages)

    async def _note(self, registry: str, **values: str | int) -> None:
        statement = insert(REPORTS).values(link=self._link, registry=registry, **values)
        statement = statement.on_conflict_do_update(index_elements=["link", "registry"], set_=values)
        async with self._storage.transaction() as connection:
            await connection.execute(statement)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return


def _fingerprint(listing: Listing) -> str:
    return listing.fingerprint


def _page(
    agent: str, host: str, kind: str, listing: Listing, page: tuple[Repository, ...], place: tuple[int, int]
) -> Catalog:
    return Catalog(
        agent_id=agent,
        registry_url=host,
        provider=provider_word(kind),
        repositories=tuple(CatalogRepository(name=one.name, tags=one.tags) for one in page),
        discovered_at=rfc3339(listing.at),
        error=listing.error,
        page=place[0],
        pages=place[1],
    )
