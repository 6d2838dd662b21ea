"""What a look at a registry tells."""

from __future__ import annotations

from datetime import UTC, datetime

from sensor.catalog.diff import Crawl, Diff, RepositoryChange, RepositoryState, SeenRepository, SeenTag
from sensor.catalog.news import news_of
from sensor.catalog.select import Cause, Decision
from sensor.events import RepositoryVanished, TagSkipped

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def decision(*, selected: bool, cause: Cause = Cause.PATTERN) -> Decision:
    return Decision(selected=selected, rule="a rule", cause=cause)


def test_vanished_repositories_and_skipped_tags_are_told_and_nothing_else() -> None:
    seen = Crawl(
        registry="prod",
        repositories=(
            SeenRepository(
                name="team/app",
                tags=(
                    SeenTag(tag="v1", decision=decision(selected=True)),
                    SeenTag(tag="dev", decision=decision(selected=False)),
                    SeenTag(tag="held", decision=decision(selected=False, cause=Cause.WITHHELD)),
                ),
            ),
        ),
    )
    lost = RepositoryChange(
        repository="team/old", state=RepositoryState.MISSING, previous=RepositoryState.PRESENT, reason="gone"
    )
    new = RepositoryChange(repository="team/app", state=RepositoryState.PRESENT)
    told = list(news_of(seen, Diff(registry="prod", repositories=(lost, new)), NOW))
    assert told == [
        RepositoryVanished(at=NOW, registry="prod", repository="team/old", reason="gone"),
        TagSkipped(at=NOW, registry="prod", repository="team/app", tag="dev", rule="a rule", withheld=False),
        TagSkipped(at=NOW, registry="prod", repository="team/app", tag="held", rule="a rule", withheld=True),
    ]
