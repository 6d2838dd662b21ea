"""What a look at a registry has to tell: repositories that vanished, tags that are left out and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sensor.catalog.diff import Crawl, Diff
from sensor.catalog.select import Cause
from sensor.events import RepositoryVanished, TagSkipped


def news_of(seen: Crawl, diff: Diff, now: datetime) -> Iterator[RepositoryVanished | TagSkipped]:
    """The events of one look, besides that it is over."""
    for change in diff.vanished:
        yield RepositoryVanished(at=now, registry=seen.registry, repository=change.repository, reason=change.reason)
    for repository in seen.repositories:
        for tag in repository.tags:
            if not tag.decision.selected:
                yield TagSkipped(
                    at=now,
                    registry=seen.registry,
                    repository=repository.name,
                    tag=tag.tag,
                    rule=tag.decision.rule,
                    withheld=tag.decision.cause is Cause.WITHHELD,
                )
