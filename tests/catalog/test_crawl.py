"""One look at a registry: few requests, faults that stay where they happened, and no false emptiness."""

from __future__ import annotations

import pytest

from sensor.catalog.crawl import crawl
from sensor.catalog.diff import Crawl, KnownTag, RepositoryState, SeenTag, Snapshot, TagState, diff_catalogue
from sensor.catalog.select import Cause
from sensor.config.schema import Registry
from sensor.errors import DataError, NetworkError, SensorError
from sensor.model.manifest import OCI_MANIFEST
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
)
from tests.fakes.memory_registry import MemoryRegistry


def settings(**more: object) -> Registry:
    return Registry.model_validate({"name": "main", "url": "registry.test", **more})


def filled(repositories: int = 2, tags: int = 3) -> MemoryRegistry:
    registry = MemoryRegistry()
    for repository in range(repositories):
        for tag in range(tags):
            registry.image(f"team/app{repository}", f"v{tag}", [b"layer %d %d" % (repository, tag)])
    return registry


def tags_of(seen: Crawl) -> dict[str, SeenTag]:
    return {f"{repository.name}:{tag.tag}": tag for repository in seen.repositories for tag in repository.tags}


def states(seen: Crawl) -> dict[str, RepositoryState]:
    return {repository.name: repository.state for repository in seen.repositories}


async def test_every_tag_comes_with_its_digest_and_type() -> None:
    registry = filled()
    seen = await crawl(registry, settings())
    assert seen.registry == "main"
    assert seen.complete
    assert seen.repositories_complete
    tags = tags_of(seen)
    assert len(tags) == 6
    assert all(
        tag.digest == registry.tagged[name.partition(":")[0]][tag.tag] and tag.media_type == OCI_MANIFEST
        for name, tag in tags.items()
    )
    assert list(seen.troubles()) == []


async def test_an_unchanged_registry_costs_its_listings_and_one_head_a_tag() -> None:
    registry = filled(repositories=2, tags=3)
    seen = await crawl(registry, settings())
    assert seen.requests == 1 + 2 + 6
    assert registry.requested("head") == 6
    assert registry.requested("manifest") == registry.requested("blob") == registry.requested("config") == 0


async def test_a_registry_that_tells_digests_needs_no_heads() -> None:
    registry = filled()
    registry.tells_digests = True
    seen = await crawl(registry, settings(tags={"exclude": ["v0"]}))
    assert registry.requested("head") == 0
    assert [tag.digest is None for tag in tags_of(seen).values()] == [True, False, False] * 2
    assert seen.complete


async def test_what_the_rules_leave_out_costs_nothing() -> None:
    registry = filled()
    registry.image("other/app", "v1", [b"x"])
    seen = await crawl(
        registry, settings(repositories={"include": ["team/*"], "exclude": ["team/app1"]}, tags={"include": ["v0"]})
    )
    assert registry.requested("head") == 1
    assert [(name, decision.rule) for name, decision in seen.excluded] == [
        ("team/app1", "exclude repositories: team/app1"),
        ("other/app", "include repositories: none of team/* matches"),
    ]
    tags = tags_of(seen)
    assert tags["team/app0:v0"].digest is not None
    assert tags["team/app0:v1"].decision.rule == "include tags: none of v0 matches"
    assert seen.complete


async def test_requests_under_way_are_bounded() -> None:
    registry = filled(repositories=10, tags=10)
    await crawl(registry, settings(), concurrency=4)
    assert registry.most_at_once == 4


# --- repositories that cannot be listed -----------------------------------------------------------------------------------


async def test_a_registry_that_cannot_be_listed_is_not_an_empty_one() -> None:
    registry = filled()
    registry.enumerable = False
    seen = await crawl(registry, settings())
    assert not seen.complete
    assert not seen.repositories_complete
    assert seen.error == "cannot enumerate the repositories: the catalogue is refused"
    assert seen.advice == "name the repositories"
    known = Snapshot(
        tags={"team/app0": {"v0": KnownTag(state=TagState.SELECTED, missing=1)}},
        repositories={"team/app0": RepositoryState.PRESENT},
    )
    assert diff_catalogue(known, seen).changes == ()


async def test_named_repositories_are_looked_at_where_there_is_no_list() -> None:
    registry = filled()
    registry.enumerable = False
    names = {"names": ["team/app1", "team/typo", "old/app"], "exclude": ["old/*"]}
    seen = await crawl(registry, settings(repositories=names))
    assert states(seen) == {"team/app1": RepositoryState.PRESENT, "team/typo": RepositoryState.NOT_FOUND}
    assert [name for name, _ in seen.excluded] == ["old/app"]
    assert len(tags_of(seen)) == 3
    assert not seen.repositories_complete
    assert seen.error == ""


async def test_public_repositories_that_are_named_need_no_login_to_the_list() -> None:
    registry = filled()
    registry.fail("repositories", "", RegistryUnauthorized("reachable but unauthenticated: 401", "configure a login"))
    seen = await crawl(registry, settings(repositories={"names": ["team/app1"]}))
    assert states(seen) == {"team/app1": RepositoryState.PRESENT}
    assert (seen.error, seen.repositories_complete) == ("", False)
    assert "reachable but unauthenticated" in seen.source
    registry.fail("repositories", "", RegistryUnauthorized("reachable but unauthenticated: 401", "configure a login"))
    unnamed = await crawl(registry, settings())
    assert (unnamed.error, unnamed.advice) == ("reachable but unauthenticated: 401", "configure a login")


async def test_named_repositories_are_looked_at_beside_the_list_once() -> None:
    registry = filled()
    registry.tagged["hidden/app"] = {}
    registry.fail("tags", "hidden/app", RegistryForbidden("403"))
    seen = await crawl(registry, settings(repositories={"names": ["hidden/app", "team/app0"]}))
    assert states(seen) == {
        "team/app0": RepositoryState.PRESENT,
        "team/app1": RepositoryState.PRESENT,
        "hidden/app": RepositoryState.DENIED,
    }
    assert registry.calls["tags", "team/app0"] == 1
    assert seen.repositories_complete


async def test_a_list_cut_short_is_partial() -> None:
    registry = filled()
    registry.partial[""] = "stopped after 10000 pages"
    seen = await crawl(registry, settings())
    assert not seen.repositories_complete
    assert not seen.complete
    assert "stopped after 10000 pages" in seen.error
    assert len(tags_of(seen)) == 6


async def test_a_list_that_became_empty_may_be_a_right_withdrawn() -> None:
    known = Snapshot(repositories={"team/app": RepositoryState.PRESENT})
    seen = await crawl(MemoryRegistry(), settings(), known=known)
    assert not seen.repositories_complete
    assert "no repository any more" in seen.error
    assert "right to list" in seen.advice
    assert diff_catalogue(known, seen).vanished == ()


async def test_a_registry_that_was_always_empty_is_empty() -> None:
    seen = await crawl(MemoryRegistry(), settings())
    assert seen.complete
    assert seen.repositories_complete
    assert seen.repositories == ()


@pytest.mark.parametrize(
    "error",
    [
        NetworkError("registry.test cannot be resolved", "check the name"),
        RegistryUnauthorized("authentication failed", "check user name and password"),
        NotARegistry("a web page", "check the URL"),
        RegistryRateLimited("429", "wait"),
    ],
)
async def test_a_registry_that_does_not_answer_ends_the_crawl_with_the_reason(error: SensorError) -> None:
    registry = filled()
    registry.fail("repositories", "", error)
    seen = await crawl(registry, settings(repositories={"names": ["team/app0"]}))
    assert (seen.error, seen.advice) == (error.message, error.advice)
    assert not seen.repositories_complete
    assert registry.requests == 1


# --- faults in the middle -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RegistryForbidden("403", "ask for the right"), RepositoryState.DENIED),
        (RegistryUnauthorized("401 insufficient_scope"), RepositoryState.DENIED),
        (RegistryNotFound("404"), RepositoryState.NOT_FOUND),
        (RegistryUnavailable("502"), RepositoryState.FAILED),
        (DataError("not JSON"), RepositoryState.FAILED),
        (NetworkError("reset"), RepositoryState.FAILED),
    ],
)
async def test_one_bad_repository_flags_itself_and_the_rest_goes_on(error: SensorError, state: RepositoryState) -> None:
    registry = filled(repositories=4)
    registry.fail("tags", "team/app1", error)
    seen = await crawl(registry, settings())
    bad = seen.repositories[1]
    assert (bad.name, bad.state, bad.complete, bad.reason) == ("team/app1", state, False, str(error))
    assert len(tags_of(seen)) == 9
    assert not seen.complete
    assert seen.error == ""


async def test_one_bad_tag_flags_itself_and_the_rest_goes_on() -> None:
    registry = filled()
    registry.fail("head", "team/app0:v1", RegistryNotFound("404", "it may have been deleted"))
    seen = await crawl(registry, settings())
    tags = tags_of(seen)
    assert tags["team/app0:v1"].error == "404 (it may have been deleted)"
    assert tags["team/app0:v1"].digest is None
    assert sum(tag.digest is not None for tag in tags.values()) == 5
    assert not seen.complete


async def test_a_partial_list_of_tags_is_used_and_flagged() -> None:
    registry = filled()
    registry.partial["team/app0"] = "the pages loop"
    seen = await crawl(registry, settings())
    assert [repository.complete for repository in seen.repositories] == [False, True]
    assert list(seen.troubles()) == ["team/app0: the pages loop"]
    assert len(tags_of(seen)) == 6


async def test_a_registry_that_limits_requests_is_left_alone_at_once() -> None:
    registry = filled(repositories=5, tags=20)
    registry.fail("head", "team/app1:v3", RegistryRateLimited("429 too many requests", "later", retry_after=60))
    seen = await crawl(registry, settings(), concurrency=1)
    assert registry.requested("head") == 24
    assert seen.error == "the crawl was ended early: 429 too many requests"
    assert not seen.complete
    tags = tags_of(seen)
    assert tags["team/app1:v3"].asked
    left = [tag for tag in tags.values() if not tag.asked]
    assert len(left) == 100 - 24
    assert all(tag.error == "not looked up: 429 too many requests" for tag in left)


async def test_repositories_after_the_limit_are_not_taken_for_empty() -> None:
    registry = filled(repositories=5)
    registry.fail("tags", "team/app1", RegistryRateLimited("429"))
    seen = await crawl(registry, settings(), concurrency=1)
    assert registry.requested("tags") == 2
    assert registry.requested("head") == 0
    assert [repository.state for repository in seen.repositories[1:]] == [RepositoryState.FAILED] * 4
    assert seen.repositories[4].reason == "not looked at: 429"
    assert not any(repository.complete for repository in seen.repositories[1:])


@pytest.mark.parametrize("error", [NetworkError("no answer"), RegistryUnauthorized("401"), RegistryUnavailable("503")])
async def test_a_registry_that_went_away_is_not_asked_a_thousand_times(error: SensorError) -> None:
    registry = filled(repositories=50, tags=1)
    for repository in range(5, 50):
        registry.fail("tags", f"team/app{repository}", error)
    seen = await crawl(registry, settings(), concurrency=1)
    assert registry.requested("tags") == 5 + 3
    assert seen.error.startswith("the crawl was ended early")
    assert not seen.complete


async def test_faults_here_and_there_do_not_end_the_crawl() -> None:
    registry = filled(repositories=20, tags=1)
    for repository in range(0, 20, 2):
        registry.fail("tags", f"team/app{repository}", NetworkError("reset"))
    seen = await crawl(registry, settings(), concurrency=1)
    assert registry.requested("tags") == 20
    assert seen.error == ""
    assert len(tags_of(seen)) == 10


# --- what the listing tells besides names -----------------------------------------------------------------------------------


async def test_what_is_held_back_is_skipped_with_the_reason_and_nothing_is_missing() -> None:
    registry = filled(repositories=1, tags=3)
    registry.withheld["team/app0"] = {"v0": "archived: restore it first"}
    registry.fail("head", "team/app0:v1", ImageWithheld("quarantined", "wait for the scan"))
    seen = await crawl(registry, settings())
    assert seen.complete
    tags = tags_of(seen)
    assert tags["team/app0:v0"].decision.rule == "withheld by the registry: archived: restore it first"
    assert tags["team/app0:v1"].decision.rule == "withheld by the registry: quarantined (wait for the scan)"
    assert registry.calls["head", "team/app0:v0"] == 0
    changes = {change.tag: change for change in diff_catalogue(Snapshot(), seen).changes}
    assert (changes["v0"].state, changes["v1"].state) == (TagState.SKIPPED, TagState.SKIPPED)
    assert changes["v1"].reason.startswith("withheld by the registry: quarantined")
    assert changes["v2"].state is TagState.SELECTED


async def test_a_repository_that_is_held_back_is_not_asked_for_its_tags() -> None:
    registry = filled(repositories=3, tags=1)
    registry.withheld[""] = {"team/app0": "only at the upstream"}
    registry.fail("tags", "team/app1", ImageWithheld("the project is locked"))
    seen = await crawl(registry, settings())
    assert seen.complete
    assert [(name, decision.rule, decision.cause) for name, decision in seen.excluded] == [
        ("team/app0", "withheld by the registry: only at the upstream", Cause.WITHHELD),
        ("team/app1", "withheld by the registry: the project is locked", Cause.WITHHELD),
    ]
    assert list(states(seen)) == ["team/app2"]
    assert registry.calls["tags", "team/app0"] == 0


async def test_many_images_held_back_do_not_end_the_crawl() -> None:
    registry = filled(repositories=1, tags=10)
    for tag in range(9):
        registry.fail("head", f"team/app0:v{tag}", ImageWithheld("blocked by a policy"))
    seen = await crawl(registry, settings(), concurrency=1)
    assert seen.complete
    assert tags_of(seen)["team/app0:v9"].digest is not None


async def test_only_the_newest_are_looked_up() -> None:
    registry = filled(repositories=1, tags=20)
    registry.pushed["team/app0"] = {f"v{tag}": 1_000_000.0 - tag for tag in range(20)}
    seen = await crawl(registry, settings(keep={"last": 2, "max_age": "1d"}), now=1_000_100.0)
    looked_up = [tag.tag for tag in tags_of(seen).values() if tag.digest is not None]
    assert looked_up == ["v0", "v1"]
    assert registry.requested("head") == 2
    assert registry.requested("manifest") == 0
    assert tags_of(seen)["team/app0:v3"].pushed == 1_000_000.0 - 3
    late = await crawl(registry, settings(keep={"max_age": "1d"}), now=1_000_000.0 + 86400 - 1.5)
    assert sum(tag.digest is not None for tag in tags_of(late).values()) == 2
    today = await crawl(registry, settings(keep={"max_age": "1d"}))
    assert not any(tag.decision.selected for tag in tags_of(today).values())


async def test_what_listed_is_told() -> None:
    registry = filled()
    seen = await crawl(registry, settings())
    assert seen.source == "memory catalogue"
    assert {repository.source for repository in seen.repositories} == {"memory"}
    named = await crawl(registry, settings(repositories={"names": ["team/app0"]}))
    assert named.source == "memory catalogue and repositories.names"


async def test_where_only_names_worked_it_is_told_why() -> None:
    registry = filled()
    registry.fail("repositories", "", CannotEnumerate("the catalogue needs an administrator", "name them"))
    seen = await crawl(registry, settings(repositories={"names": ["team/app0"]}))
    assert seen.source == "repositories.names (it cannot be listed: the catalogue needs an administrator)"
    assert (await crawl(registry, settings())).source == ""
