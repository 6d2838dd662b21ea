"""What changed between the stored catalogue and a crawl: pure. Also the values that a crawl and the stored catalogue are made of.

A name is taken for gone only when a *complete* listing lacked it, and then only the second time: listings that were capped, looped or
refused, and registries that are being restored, must not delete anything. Leaves the network to `crawl` and the tables to `snapshots`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sensor.catalog.select import Decision
from sensor.model.digest import Digest

MISSING_TWICE = 2
"""Complete listings that must lack a tag before it counts as gone."""


class TagState(StrEnum):
    """What is known of one tag. The digest of a SELECTED one has a state of its own (`DigestState`)."""

    SELECTED = "selected"
    SKIPPED = "skipped"
    FAILED = "failed"
    GONE = "gone"


class DigestState(StrEnum):
    """Where one digest stands. Together with the tags' own states these are the columns of the ledger."""

    QUEUED = "queued"
    SCANNED = "scanned"
    SKIPPED = "skipped"
    FAILED = "failed"
    GONE = "gone"


class RepositoryState(StrEnum):
    """How a repository answered."""

    PRESENT = "present"
    DENIED = "denied"
    NOT_FOUND = "not-found"
    FAILED = "failed"
    MISSING = "missing"
    """A complete listing lacked it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenTag:
    """One listed tag. `digest` is set when it is selected and the look-up went well, else `error` says what happened."""

    tag: str
    decision: Decision
    digest: Digest | None = None
    media_type: str = ""
    error: str = ""
    asked: bool = True
    """False when the crawl ended before the digest was looked up: what was known before still holds."""
    pushed: float | None = None
    """When it was pushed (Unix time), where the registry's listing tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRepository:
    """One repository that was looked at (or should have been). Only a PRESENT one with a `complete` listing proves absence."""

    name: str
    tags: tuple[SeenTag, ...] = ()
    state: RepositoryState = RepositoryState.PRESENT
    complete: bool = True
    reason: str = ""
    source: str = ""
    """What listed the tags: `tags/list`, or the provider's API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crawl:
    """Everything one look at a registry brought. Every listed tag is in it, with a digest, a rule, or an error."""

    registry: str
    repositories: tuple[SeenRepository, ...] = ()
    excluded: tuple[tuple[str, Decision], ...] = ()
    """Repositories that the rules leave out; their tags were not listed."""
    repositories_complete: bool = True
    """Whether these are all repositories there are; never so where they could not be listed but only named."""
    error: str = ""
    """Why the crawl as a whole is partial or failed, and what to do about it."""
    advice: str = ""
    requests: int = 0
    source: str = ""
    """What told the repositories, and what did not: `GitLab API`, `_catalog`, `repositories.names`."""
    notes: tuple[str, ...] = ()
    """What the listing brought besides names: see `Listing.notes`."""

    @property
    def complete(self) -> bool:
        """Whether nothing that was asked for was left out: all listed or named repositories, all their tags, all selected digests."""
        return (
            not self.error
            and all(
                repository.complete and repository.state is RepositoryState.PRESENT for repository in self.repositories
            )
            and not any(tag.error for repository in self.repositories for tag in repository.tags)
        )

    @property
    def tags(self) -> int:
        """Listed tags, selected or not."""
        return sum(len(repository.tags) for repository in self.repositories)

    def troubles(self) -> Iterator[str]:
        """Everything that was not complete, a sentence each."""
        if self.error:
            yield self.error
        for repository in self.repositories:
            if repository.reason:
                yield f"{repository.name}: {repository.reason}"
            for tag in repository.tags:
                if tag.error:
                    yield f"{repository.name}:{tag.tag}: {tag.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTag:
    """One tag of the stored catalogue. `missing` counts the complete listings in a row that lacked it."""

    state: TagState
    digest: Digest | None = None
    reason: str = ""
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The stored catalogue of one registry: tags by repository and name, and how each repository answered last."""

    tags: Mapping[str, Mapping[str, KnownTag]] = field(default_factory=dict)
    repositories: Mapping[str, RepositoryState] = field(default_factory=dict)

    @property
    def knows_repositories(self) -> bool:
        """Whether any repository answered last time."""
        return RepositoryState.PRESENT in self.repositories.values()


class Kind(StrEnum):
    """What happened to a tag."""

    ADDED = "added"
    """New, or back after it was gone, or never looked up before."""
    MOVED = "moved"
    """It points to another digest."""
    SEEN = "seen"
    """The same digest as ever, but the tag had been missing, failed or skipped."""
    SKIPPED = "skipped"
    """A rule leaves it out (or another rule than before)."""
    FAILED = "failed"
    """Its digest could not be looked up; what is known of it stays."""
    MISSING = "missing"
    """A complete listing lacked it for the first time."""
    REMOVED = "removed"
    """It is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagChange:
    """One tag whose stored state must change. `digest` is what it points to now, or pointed to last."""

    kind: Kind
    repository: str
    tag: str
    state: TagState
    digest: Digest | None = None
    previous: Digest | None = None
    media_type: str = ""
    reason: str = ""
    missing: int = 0
    pushed: float | None = None
    """When it was pushed (Unix time), where the registry's listing tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryChange:
    """One repository that answers differently than last time."""

    repository: str
    state: RepositoryState
    previous: RepositoryState | None = None
    reason: str = ""

    @property
    def vanished(self) -> bool:
        """Whether it answered last time and is missing or refused now."""
        lost = {RepositoryState.DENIED, RepositoryState.NOT_FOUND, RepositoryState.MISSING}
        return self.state in lost and self.previous is RepositoryState.PRESENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What a crawl changes. Tags that are as they were appear only in `unchanged`."""

    registry: str
    changes: tuple[TagChange, ...] = ()
    repositories: tuple[RepositoryChange, ...] = ()
    unchanged: int = 0

    def of(self, *kinds: Kind) -> tuple[TagChange, ...]:
        """The changes of some kinds."""
        return tuple(change for change in self.changes if change.kind in kinds)

    @property
    def added(self) -> tuple[TagChange, ...]:
        """New tags."""
        return self.of(Kind.ADDED)

    @property
    def moved(self) -> tuple[TagChange, ...]:
        """Tags with another digest."""
        return self.of(Kind.MOVED)

    @property
    def removed(self) -> tuple[TagChange, ...]:
        """Tags that are gone."""
        return self.of(Kind.REMOVED)

    @property
    def vanished(self) -> tuple[RepositoryChange, ...]:
        """Repositories that answered last time and are missing or refused now: told once."""
        return tuple(change for change in self.repositories if change.vanished)


def diff_catalogue(known: Snapshot, crawl: Crawl) -> Diff:
    """Compare a crawl with what is known."""
    changes: list[TagChange] = []
    repositories: list[RepositoryChange] = []
    unchanged = 0
    for repository in crawl.repositories:
        before = known.repositories.get(repository.name)
        if repository.state is not before:
            repositories.append(
                RepositoryChange(
                    repository=repository.name, state=repository.state, previous=before, reason=repository.reason
                )
            )
        known_tags = known.tags.get(repository.name, {})
        for seen in repository.tags:
            change = _seen_change(repository.name, seen, known_tags.get(seen.tag))
            if change is None:
                unchanged += 1
            else:
                changes.append(change)
        if repository.complete and repository.state is RepositoryState.PRESENT:
            listed = {seen.tag for seen in repository.tags}
            changes += _absent(repository.name, {tag: value for tag, value in known_tags.items() if tag not in listed})
    for name, decision in crawl.excluded:
        changes += _excluded(name, decision, known.tags.get(name, {}))
    if crawl.repositories_complete:
        looked_at = {repository.name for repository in crawl.repositories} | {name for name, _ in crawl.excluded}
        for name in sorted((known.repositories.keys() | known.tags.keys()) - looked_at):
            before = known.repositories.get(name)
            if before is not RepositoryState.MISSING:
                repositories.append(
                    RepositoryChange(
                        repository=name,
                        state=RepositoryState.MISSING,
                        previous=before,
                        reason="the registry no longer lists it",
                    )
                )
            changes += _absent(name, known.tags.get(name, {}))
    return Diff(registry=crawl.registry, changes=tuple(changes), repositories=tuple(repositories), unchanged=unchanged)


_STATES = {Kind.SKIPPED: TagState.SKIPPED, Kind.FAILED: TagState.FAILED}


def _seen_change(repository: str, seen: SeenTag, known: KnownTag | None) -> TagChange | None:
    """What a listed tag changes; None when all is as it was."""
    digest = known.digest if known is not None else None
    state = known.state if known is not None else TagState.GONE
    if not seen.decision.selected:
        kind, reason = Kind.SKIPPED, seen.decision.rule
        same = known is not None and state is TagState.SKIPPED and known.reason == reason
    elif seen.digest is None:
        kind, reason = Kind.FAILED, seen.error
        same = known is not None and state is TagState.FAILED and known.reason == reason
        if not seen.asked and state in {TagState.SELECTED, TagState.FAILED}:
            # nobody looked: what is known holds
            return None
    else:
        reason = seen.decision.rule
        same = state is TagState.SELECTED and digest == seen.digest
        is_new = digest is None or state is TagState.GONE
        kind = Kind.ADDED if is_new else Kind.SEEN if digest == seen.digest else Kind.MOVED
    if same and known is not None and known.missing == 0:
        return None
    return TagChange(
        kind=kind,
        repository=repository,
        tag=seen.tag,
        state=_STATES.get(kind, TagState.SELECTED),
        digest=seen.digest or digest,
        previous=digest if kind is Kind.MOVED else None,
        media_type=seen.media_type,
        reason=reason,
        pushed=seen.pushed,
    )


def _absent(repository: str, tags: Mapping[str, KnownTag]) -> Iterator[TagChange]:
    """Known tags that a complete listing lacked."""
    for tag, known in tags.items():
        if known.state is TagState.GONE:
            continue
        missing = known.missing + 1
        gone = missing >= MISSING_TWICE
        yield TagChange(
            kind=Kind.REMOVED if gone else Kind.MISSING,
            repository=repository,
            tag=tag,
            state=TagState.GONE if gone else known.state,
            digest=known.digest,
            reason="no longer listed" if gone else known.reason,
            missing=missing,
        )


def _excluded(repository: str, decision: Decision, tags: Mapping[str, KnownTag]) -> Iterator[TagChange]:
    """Known tags of a repository that the rules now leave out. They are not gone: nobody looked."""
    for tag, known in tags.items():
        if known.state is TagState.GONE or (known.state is TagState.SKIPPED and known.reason == decision.rule):
            continue
        yield TagChange(
            kind=Kind.SKIPPED,
            repository=repository,
            tag=tag,
            state=TagState.SKIPPED,
            digest=known.digest,
            reason=decision.rule,
        )
