"""The stored catalogue and its ledger, through changes, failures and random histories."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sensor.catalog.crawl import crawl
from sensor.catalog.diff import (
    Crawl,
    DigestState,
    RepositoryState,
    SeenRepository,
    SeenTag,
    TagState,
    diff_catalogue,
)
from sensor.catalog.select import Decision
from sensor.catalog.snapshots import Advance, Place, Snapshots, Standing
from sensor.config.schema import Registry
from sensor.model.digest import Digest, sha256_digest
from sensor.model.manifest import ArtifactClass
from sensor.registry.errors import RegistryForbidden, RegistryUnavailable
from sensor.storage import Storage, open_storage
from tests.fakes.memory_registry import MemoryRegistry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
KEPT = Decision(selected=True, rule="include tags: *")
DEV = Decision(selected=False, rule="exclude tags: *-dev")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


@pytest.fixture
def snapshots(storage: Storage) -> Snapshots:
    return Snapshots(storage)


def digest(text: str) -> Digest:
    return sha256_digest(text.encode())


def listing(tags: dict[str, str], name: str = "app", **more: object) -> SeenRepository:
    """Tags by name; the content "" is a look-up that failed, "-" a tag that a rule leaves out."""
    return SeenRepository(
        name=name,
        tags=tuple(
            SeenTag(tag=tag, decision=DEV)
            if content == "-"
            else SeenTag(
                tag=tag, decision=KEPT, digest=digest(content) if content else None, error="" if content else "502"
            )
            for tag, content in tags.items()
        ),
        **more,  # type: ignore[arg-type]
    )


class Catalogue:
    """Advances the stored catalogue by crawls, and marks digests."""

    def __init__(self, storage: Storage, registry: str = "main") -> None:
        self.storage = storage
        self.snapshots = Snapshots(storage)
        self.registry = registry
        self.now = NOW

    async def see(self, *repositories: SeenRepository, **more: object) -> Advance:
        seen = Crawl(registry=self.registry, repositories=repositories, **more)  # type: ignore[arg-type]
        return await self.advance(seen)

    async def advance(self, seen: Crawl) -> Advance:
        self.now += timedelta(hours=1)
        diff = diff_catalogue(await self.snapshots.known(self.registry), seen)
        async with self.storage.transaction() as connection:
            return await self.snapshots.advance(connection, diff, self.now)

    async def mark(self, content: str, state: DigestState, **more: object) -> bool:
        standing = Standing(digest=digest(content), state=state, **more)  # type: ignore[arg-type]
        async with self.storage.transaction() as connection:
            return await self.snapshots.mark(connection, self.registry, standing, self.now)

    async def ledger(self) -> dict[str, int]:
        return {name: count for name, count in (await self.snapshots.ledger(self.registry)).items() if count}


@pytest.fixture
def catalogue(storage: Storage) -> Catalogue:
    return Catalogue(storage)


async def test_new_digests_are_queued_once_however_many_tags_they_have(catalogue: Catalogue) -> None:
    advance = await catalogue.see(listing({"v1": "a", "latest": "a", "v2": "b"}), listing({"x": "a"}, name="copy"))
    assert advance == Advance(
        queued=(
            Place(repository="app", tag="v1", digest=digest("a")),
            Place(repository="app", tag="v2", digest=digest("b")),
        )
    )
    assert await catalogue.see(listing({"v1": "a", "latest": "a", "v2": "b"}), listing({"x": "a"}, name="copy")) == (
        Advance()
    )
    assert await catalogue.snapshots.places("main", digest("a")) == (
        Place(repository="app", tag="latest", digest=digest("a")),
        Place(repository="app", tag="v1", digest=digest("a")),
        Place(repository="copy", tag="x", digest=digest("a")),
    )
    assert await catalogue.ledger() == {"listed": 4, "queued": 4}


async def test_what_is_stored_comes_back_for_the_next_diff(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a", "v1-dev": "-", "bad": ""}))
    known = await catalogue.snapshots.known("main")
    assert known.repositories == {"app": RepositoryState.PRESENT}
    tags = known.tags["app"]
    assert (tags["v1"].state, tags["v1"].digest, tags["v1"].reason) == (TagState.SELECTED, digest("a"), KEPT.rule)
    assert (tags["v1-dev"].state, tags["v1-dev"].reason) == (TagState.SKIPPED, DEV.rule)
    assert (tags["bad"].state, tags["bad"].reason) == (TagState.FAILED, "502")
    assert (await catalogue.snapshots.known("other")).tags == {}


async def test_a_tag_that_moved_to_a_known_digest_needs_no_scan(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a", "v2": "b"}))
    await catalogue.mark("a", DigestState.SCANNED)
    await catalogue.mark("b", DigestState.SCANNED)
    advance = await catalogue.see(listing({"v1": "b", "v2": "b"}))
    assert advance == Advance(gone=(digest("a"),))
    assert await catalogue.ledger() == {"listed": 2, "scanned": 2}


async def test_a_result_stays_until_the_last_tag_goes_and_goes_only_the_second_time(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a", "latest": "a"}))
    await catalogue.mark("a", DigestState.SCANNED)
    for tags, gone in (({"latest": "a"}, ()), ({"latest": "a"}, ()), ({}, ()), ({}, (digest("a"),)), ({}, ())):
        assert (await catalogue.see(listing(tags))).gone == gone
    assert await catalogue.ledger() == {"listed": 2, "gone": 2}
    standing = await catalogue.snapshots.standing("main", digest("a"))
    assert standing is not None
    assert standing.state is DigestState.GONE
    assert not await catalogue.mark("a", DigestState.SCANNED)


async def test_a_digest_that_comes_back_is_queued_again(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a"}))
    for _ in range(2):
        await catalogue.see(listing({}))
    assert (await catalogue.see(listing({"v1": "a"}))).queued == (
        Place(repository="app", tag="v1", digest=digest("a")),
    )
    assert await catalogue.ledger() == {"listed": 1, "queued": 1}


async def test_a_tag_that_is_excluded_and_included_again_is_scanned_again(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a"}))
    await catalogue.mark("a", DigestState.SCANNED)
    assert (await catalogue.see(listing({"v1": "-"}))).gone == (digest("a"),)
    assert await catalogue.ledger() == {"listed": 1, "skipped": 1}
    assert len((await catalogue.see(listing({"v1": "a"}))).queued) == 1
    assert await catalogue.ledger() == {"listed": 1, "queued": 1}


async def test_a_failed_look_up_keeps_the_digest_alive(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a", "v2": "b"}))
    await catalogue.mark("a", DigestState.SCANNED)
    assert (await catalogue.see(listing({"v1": "", "v2": "-"}))).gone == (digest("b"),)
    assert await catalogue.ledger() == {"listed": 2, "failed": 1, "skipped": 1}
    await catalogue.see(listing({"v1": "a", "v2": "-"}))
    assert await catalogue.ledger() == {"listed": 2, "scanned": 1, "skipped": 1}


async def test_every_ending_is_kept_with_its_reason(catalogue: Catalogue) -> None:
    await catalogue.see(listing({"v1": "a", "v2": "b", "v3": "c", "v4": "d"}))
    retry = NOW + timedelta(hours=3)
    assert await catalogue.mark("a", DigestState.SCANNED, artifact_class=ArtifactClass.IMAGE)
    assert await catalogue.mark("b", DigestState.FAILED, reason="502", next_try=retry)
    assert await catalogue.mark("c", DigestState.SKIPPED, reason="helm-chart", artifact_class=ArtifactClass.HELM_CHART)
    assert not await catalogue.mark("unknown", DigestState.SCANNED)
    assert await catalogue.snapshots.ledger("main") == {
        "listed": 4,
        "queued": 1,
        "scanned": 1,
        "skipped": 1,
        "failed": 1,
        "gone": 0,
    }
    standing = await catalogue.snapshots.standing("main", digest("a"))
    assert standing == Standing(
        digest=digest("a"),
        state=DigestState.SCANNED,
        artifact_class=ArtifactClass.IMAGE,
        scanned_at=catalogue.now,
    )
    assert await catalogue.snapshots.standings("main", DigestState.FAILED) == (
        Standing(digest=digest("b"), state=DigestState.FAILED, reason="502", next_try=retry),
    )
    assert await catalogue.snapshots.queued("main") == (Place(repository="app", tag="v4", digest=digest("d")),)
    assert await catalogue.snapshots.standing("main", digest("unknown")) is None
    # a failure later keeps when it was scanned last
    await catalogue.mark("a", DigestState.FAILED, reason="gone wrong")
    standing = await catalogue.snapshots.standing("main", digest("a"))
    assert standing is not None
    assert standing.scanned_at == catalogue.now
    assert standing.artifact_class is ArtifactClass.IMAGE


async def test_a_digest_that_a_scan_did_not_find_takes_its_tags_along_and_is_tried_again_if_they_are_listed(
    catalogue: Catalogue,
) -> None:
    await catalogue.see(listing({"v1": "a", "v2": "a", "v3": "b"}))
    assert await catalogue.mark("a", DigestState.GONE, reason="404")
    assert await catalogue.ledger() == {"listed": 3, "gone": 2, "queued": 1}
    assert (await catalogue.snapshots.known("main")).tags["app"]["v1"].reason == "404"
    assert (await catalogue.see(listing({"v2": "a", "v3": "b"}))).queued == (
        Place(repository="app", tag="v2", digest=digest("a")),
    )
    assert await catalogue.ledger() == {"listed": 3, "gone": 1, "queued": 2}


async def test_the_caller_s_transaction_decides(catalogue: Catalogue, storage: Storage) -> None:
    seen = Crawl(registry="main", repositories=(listing({"v1": "a"}),))
    diff = diff_catalogue(await catalogue.snapshots.known("main"), seen)

    async def fail() -> None:
        async with storage.transaction() as connection:
            await catalogue.snapshots.advance(connection, diff, NOW)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert (await catalogue.snapshots.known("main")).tags == {}
    assert await catalogue.ledger() == {}


async def test_registries_do_not_meet(storage: Storage) -> None:
    one, two = Catalogue(storage, "one"), Catalogue(storage, "two")
    await one.see(listing({"v1": "a"}))
    assert len((await two.see(listing({"v1": "a"}))).queued) == 1
    await one.mark("a", DigestState.SCANNED)
    assert await one.ledger() == {"listed": 1, "scanned": 1}
    assert await two.ledger() == {"listed": 1, "queued": 1}
    async with storage.transaction() as connection:
        assert await one.snapshots.keep_only(connection, {"two"}) == 1
    assert await one.ledger() == {}
    assert await two.ledger() == {"listed": 1, "queued": 1}


async def test_what_has_been_gone_for_long_is_forgotten(catalogue: Catalogue, storage: Storage) -> None:
    await catalogue.see(listing({"v1": "a", "v2": "b"}), listing({"x": "c"}, name="old"))
    for _ in range(2):
        await catalogue.see(listing({"v1": "a"}))
    gone_at = catalogue.now
    assert await catalogue.ledger() == {"listed": 3, "queued": 1, "gone": 2}
    async with storage.transaction() as connection:
        assert await catalogue.snapshots.prune(connection, gone_at) == 0
        assert await catalogue.snapshots.prune(connection, gone_at + timedelta(seconds=1)) == 2 + 2 + 1
    assert await catalogue.ledger() == {"listed": 1, "queued": 1}
    assert (await catalogue.snapshots.known("main")).repositories == {"app": RepositoryState.PRESENT}
    assert await catalogue.snapshots.digests() == {digest("a")}


async def test_a_large_registry_is_written_and_read_whole(catalogue: Catalogue) -> None:
    tags = {f"v{number}": f"content {number}" for number in range(5000)}
    assert len((await catalogue.see(listing(tags))).queued) == 5000
    assert await catalogue.see(listing(tags)) == Advance()
    assert await catalogue.ledger() == {"listed": 5000, "queued": 5000}


async def test_a_whole_story_with_a_registry(catalogue: Catalogue) -> None:
    registry = MemoryRegistry()
    settings = Registry.model_validate({"name": "main", "url": "registry.test", "tags": {"exclude": ["*-dev"]}})

    async def sweep() -> Advance:
        known = await catalogue.snapshots.known("main")
        return await catalogue.advance(await crawl(registry, settings, known=known))

    first = registry.image("team/app", "v1", [b"one"])
    registry.tag("team/app", "v1-dev", first)
    registry.image("team/other", "v1", [b"two"])
    assert len((await sweep()).queued) == 2
    assert await catalogue.ledger() == {"listed": 3, "queued": 2, "skipped": 1}

    registry.fail("tags", "team/app", RegistryForbidden("403"))
    registry.fail("head", "team/other:v1", RegistryUnavailable("502"))
    for _ in range(3):
        assert await sweep() == Advance()
    assert await catalogue.ledger() == {"listed": 3, "queued": 1, "skipped": 1, "failed": 1}

    registry.fail("tags", "team/app", None)
    registry.fail("head", "team/other:v1", None)
    registry.image("team/app", "v2", [b"three"])
    del registry.tagged["team/other"]
    assert len((await sweep()).queued) == 1
    assert len((await sweep()).gone) == 1
    assert await catalogue.ledger() == {"listed": 4, "queued": 2, "skipped": 1, "gone": 1}


# --- the ledger adds up ---------------------------------------------------------------------------------------------------

CONTENTS = st.sampled_from(["", "-", "a", "b", "c"])
LISTINGS = st.dictionaries(st.sampled_from(["x", "y"]), st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), CONTENTS))
ENDINGS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(DigestState),
)
STEPS = st.one_of(st.tuples(LISTINGS, st.booleans(), st.booleans()), ENDINGS, st.just("prune"))


class Model:
    """What the ledger must say, worked out from the same history in another way: state by tag, no database, no diff."""

    def __init__(self) -> None:
        self.tags: dict[tuple[str, str], tuple[str, str]] = {}
        """(state, content) of each tag; the state is kept, failed, skipped or gone."""
        self.missing: Counter[tuple[str, str]] = Counter()
        self.ends: dict[str, DigestState] = {}

    def see(self, seen: dict[str, dict[str, str]], *, all_repositories: bool, all_tags: bool) -> None:
        for key, (state, content) in list(self.tags.items()):
            repository, tag = key
            listed = repository in seen
            absent = tag not in seen.get(repository, {}) and (all_tags if listed else all_repositories)
            if absent and state != "gone":
                self.missing[key] += 1
                if self.missing[key] == 2:
                    self.tags[key] = ("gone", content)
        for repository, tags in seen.items():
            for tag, content in tags.items():
                key = (repository, tag)
                before = self.tags.get(key, ("", ""))[1]
                self.missing[key] = 0
                word = {"": "failed", "-": "skipped"}.get(content, "kept")
                self.tags[key] = (word, content if word == "kept" else before)
        held = {content for state, content in self.tags.values() if state in {"kept", "failed"} and content}
        kept = {content for state, content in self.tags.values() if state == "kept"}
        # what nobody holds is forgotten; a failed look-up holds a digest, but only a good one brings it in
        self.ends = {content: end for content, end in self.ends.items() if content in held}
        for content in kept - self.ends.keys():
            self.ends[content] = DigestState.QUEUED

    def ledger(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for state, content in self.tags.values():
            found[self.ends[content].value if state == "kept" else state] += 1
        return {"listed": len(self.tags), **{state.value: found[state.value] for state in DigestState}}


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=8))
def test_the_ledger_adds_up_through_any_history(history: list[object]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as directory:
            storage = await open_storage(Path(directory))
            try:
                await follow(Catalogue(storage), history)
            finally:
                await storage.close()

    asyncio.run(play())


async def follow(catalogue: Catalogue, history: list[object]) -> None:
    model = Model()
    queued: set[Digest] = set()
    for step in history:
        match step:
            case "prune":
                async with catalogue.storage.transaction() as connection:
                    await catalogue.snapshots.prune(connection, catalogue.now + timedelta(seconds=1))
                model.tags = {key: value for key, value in model.tags.items() if value[0] != "gone"}
                model.missing = Counter({key: count for key, count in model.missing.items() if key in model.tags})
            case (str(content), DigestState() as state):
                held = await catalogue.mark(content, state)
                assert held == (content in model.ends)
                if held and state is DigestState.GONE:
                    del model.ends[content]
                    model.tags = {
                        key: ("gone" if value[1] == content and value[0] in {"kept", "failed"} else value[0], value[1])
                        for key, value in model.tags.items()
                    }
                elif held:
                    model.ends[content] = state
            case (dict(seen), bool(all_repositories), bool(all_tags)):
                repositories = [listing(tags, name=name, complete=all_tags) for name, tags in seen.items()]
                advance = await catalogue.see(*repositories, repositories_complete=all_repositories)
                before = dict(model.ends)
                model.see(seen, all_repositories=all_repositories, all_tags=all_tags)
                queued = {place.digest for place in advance.queued}
                assert queued == {digest(content) for content in model.ends.keys() - before.keys()}
                assert set(advance.gone) == {digest(content) for content in before.keys() - model.ends.keys()}
        ledger = await catalogue.snapshots.ledger("main")
        assert ledger == model.ledger()
        assert ledger["listed"] == sum(ledger[state.value] for state in DigestState)


async def test_the_newest_come_last_by_push_or_else_by_version(catalogue: Catalogue) -> None:
    told = SeenRepository(
        name="told",
        tags=tuple(
            SeenTag(tag=tag, decision=KEPT, digest=digest(f"told {tag}"), pushed=pushed)
            for tag, pushed in (("b", 300.0), ("a", 100.0), ("c", 200.0))
        ),
    )
    advance = await catalogue.see(listing({"1.10": "x", "1.9": "y", "latest": "z"}), told)
    assert [place.tag for place in advance.queued] == ["latest", "1.9", "1.10", "a", "c", "b"]
