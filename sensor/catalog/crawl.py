"""One look at a registry: its repositories, their tags, and the digest of each tag that the rules keep.

An unchanged registry costs the listings and one HEAD a kept tag (none where the registry tells digests along with the tags). A fault stays
where it happened: one bad repository or tag flags itself and the rest goes on; only a registry that limits requests, refuses the login or
stays silent ends the crawl early, as partial. What is listed but held back by the registry is no fault, it is skipped with that reason. Leaves
the rules to `select`, the comparison to `diff`, and pacing and retries to the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sensor.catalog.diff import Crawl, RepositoryState, SeenRepository, SeenTag, Snapshot
from sensor.catalog.select import Decision, Selection, withheld
from sensor.config import schema
from sensor.errors import NetworkError, SensorError
from sensor.registry.errors import (
    UNAUTHENTICATED,
    CannotEnumerate,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
)
from sensor.registry.port import Listing, Registry

_GIVE_UP_AFTER = 3
"""Requests in a row that may go unanswered, or be refused for want of a login, before nothing more is asked. The client has repeated
each of them already; and one alone may be that repository's fault (some token services answer 401 for a single missing right)."""

_NAME_THEM = "name the repositories under repositories.names of this registry"

_T = TypeVar("_T")


@dataclass(slots=True)
class _Course:
    """How the crawl goes. Once `stopped` is set, nothing more is asked."""

    stopped: SensorError | None = None
    in_vain: int = 0

    def succeeded(self) -> None:
        self.in_vain = 0

    def failed(self, error: SensorError) -> None:
        hopeless = isinstance(error, (NetworkError, RegistryUnauthorized, RegistryUnavailable, NotARegistry))
        self.in_vain = self.in_vain + 1 if hopeless else 0
        if self.stopped is None and (isinstance(error, RegistryRateLimited) or self.in_vain >= _GIVE_UP_AFTER):
            self.stopped = error


@dataclass(slots=True)
class _Repository:
    """One repository while it is looked at."""

    name: str
    listing: Listing = field(default_factory=lambda: Listing(names=()))
    state: RepositoryState = RepositoryState.PRESENT
    reason: str = ""
    tags: dict[str, SeenTag] = field(default_factory=dict)
    withheld: Decision | None = None
    """Set when the registry holds the repository back as a whole."""

    def seen(self) -> SeenRepository:
        return SeenRepository(
            name=self.name,
            tags=tuple(self.tags.values()),
            state=self.state,
            complete=self.state is RepositoryState.PRESENT and self.listing.complete,
            reason=self.reason or self.listing.reason,
            source=self.listing.source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The repositories that could be found out, and whether these are all."""

    kept: tuple[str, ...] = ()
    excluded: tuple[tuple[str, Decision], ...] = ()
    complete: bool = True
    error: str = ""
    advice: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()


async def crawl(
    client: Registry,
    settings: schema.Registry,
    *,
    known: Snapshot | None = None,
    concurrency: int = 8,
    now: float | None = None,
) -> Crawl:
    """Look at a registry. Never raises a SensorError: what went wrong is in the result.

    `known` is the stored catalogue; it only serves to tell an emptied registry from a right that was withdrawn. `concurrency` bounds the
    requests under way. `now` is the Unix time against which ages are measured, if not the clock's. The requests counted are those of the
    client while the crawl lasted.
    """
    before = client.requests
    course, selection = _Course(), Selection(settings)
    at = time.time() if now is None else now
    names = await _repositories(client, settings, selection, known or Snapshot(), course)
    repositories = [_Repository(name) for name in names.kept]

    async def list_tags(repository: _Repository) -> None:
        await _list_tags(client, selection, repository, course, at)

    async def look_up(selected: tuple[_Repository, str]) -> None:
        await _look_up(client, *selected, course)

    await _each(repositories, list_tags, concurrency)
    wanted = (
        (repository, seen.tag)
        for repository in repositories
        for seen in tuple(repository.tags.values())
        if seen.decision.selected and seen.digest is None
    )
    await _each(wanted, look_up, concurrency)
    error, advice = names.error, names.advice
    if course.stopped is not None and not error:
        error, advice = f"the crawl was ended early: {course.stopped.message}", course.stopped.advice
    return Crawl(
        registry=settings.name,
        repositories=tuple(repository.seen() for repository in repositories if repository.withheld is None),
        excluded=(*names.excluded, *((held.name, held.withheld) for held in repositories if held.withheld is not None)),
        repositories_complete=names.complete,
        error=error,
        advice=advice,
        requests=client.requests - before,
        source=names.source,
        notes=names.notes,
    )


async def _repositories(
    client: Registry, settings: schema.Registry, selection: Selection, known: Snapshot, course: _Course
) -> _Names:
    """Listed and named repositories, sorted out by the rules. A registry that cannot be listed is never taken for an empty one."""
    named = settings.repositories.names
    error = advice = refusal = ""
    notes: tuple[str, ...] = ()
    try:
        listing = await client.repositories()
    except (CannotEnumerate, RegistryForbidden, RegistryNotFound, RegistryUnauthorized) as refused:
        if isinstance(refused, RegistryUnauthorized) and not (named and UNAUTHENTICATED in refused.message):
            # a refused credential is not shown again and again; without one, what is named may still be public
            return _Names(complete=False, error=refused.message, advice=refused.advice)
        listing = Listing(names=(), complete=False)
        refusal = refused.message
        notes = (refused.fault,) if isinstance(refused, CannotEnumerate) and refused.fault else ()
        if not named:
            error, advice = f"cannot enumerate the repositories: {refusal}", refused.advice or _NAME_THEM
    except SensorError as failed:
        return _Names(complete=False, error=failed.message, advice=failed.advice)
    else:
        course.succeeded()
        if not listing.complete:
            error, advice = f"the list of repositories is partial: {listing.reason}", _NAME_THEM
        elif not listing.names and not named and known.knows_repositories:
            listing = replace(listing, names=(), complete=False)
            error = "the registry lists no repository any more, although it did before"
            advice = "if it was not emptied, the credential has lost the right to list"
    kept: list[str] = []
    excluded: list[tuple[str, Decision]] = []
    for name in dict.fromkeys((*listing.names, *listing.withheld, *named)):
        decision = selection.repository(name)
        if decision.selected and name in listing.withheld:
            decision = withheld(listing.withheld[name])
        if decision.selected:
            kept.append(name)
        else:
            excluded.append((name, decision))
    return _Names(
        kept=tuple(kept),
        excluded=tuple(excluded),
        complete=listing.complete,
        error=error,
        advice=advice,
        source=_source(listing, named=bool(named), refusal=refusal),
        notes=(*listing.notes, *notes),
    )


def _source(listing: Listing, *, named: bool, refusal: str) -> str:
    """What told the repositories, and, where listing them was refused, why it was not that."""
    listed = "" if refusal else listing.source
    sources = " and ".join(filter(None, (listed, "repositories.names" if named else "")))
    reason = refusal.removeprefix("repositories cannot be listed: ")
    return f"{sources} (it cannot be listed: {reason})" if refusal and sources else sources


async def _list_tags(
    client: Registry, selection: Selection, repository: _Repository, course: _Course, now: float
) -> None:
    if course.stopped is not None:
        repository.state = RepositoryState.FAILED
        repository.reason = f"not looked at: {course.stopped.message}"
        return
    try:
        repository.listing = await client.tags(repository.name)
    except ImageWithheld as error:
        course.succeeded()
        repository.withheld = withheld(str(error))
        return
    except SensorError as error:
        course.failed(error)
        repository.reason = str(error)
        repository.state = (
            RepositoryState.DENIED
            if isinstance(error, (RegistryForbidden, RegistryUnauthorized))
            else RepositoryState.NOT_FOUND
            if isinstance(error, RegistryNotFound)
            else RepositoryState.FAILED
        )
        return
    course.succeeded()
    listing = repository.listing
    for tag, decision in selection.tags(repository.name, listing, now=now).items():
        told = listing.digests.get(tag) if decision.selected else None
        repository.tags[tag] = SeenTag(tag=tag, decision=decision, digest=told, pushed=listing.pushed.get(tag))
    # what it told of each tag is in `tags` now
    repository.listing = replace(listing, names=(), digests={}, pushed={}, withheld={})


async def _look_up(client: Registry, repository: _Repository, tag: str, course: _Course) -> None:
    seen = repository.tags[tag]
    if course.stopped is not None:
        repository.tags[tag] = replace(seen, error=f"not looked up: {course.stopped.message}", asked=False)
        return
    try:
        head = await client.head(repository.name, tag)
    except ImageWithheld as error:
        course.succeeded()
        repository.tags[tag] = replace(seen, decision=withheld(str(error)))
        return
    except SensorError as error:
        course.failed(error)
        repository.tags[tag] = replace(seen, error=str(error))
        return
    course.succeeded()
    repository.tags[tag] = replace(seen, digest=head.digest, media_type=head.media_type)


async def _each(items: Iterable[_T], do: Callable[[_T], Awaitable[None]], concurrency: int) -> None:
    """Do something with each item, some at a time; a million items are a million steps, not a million tasks."""
    source = iter(items)

    async def work() -> None:
        for item in source:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
