"""The protocol's own listings over HTTP: pages, links that mislead, nonsense, and what may not be listed."""

from __future__ import annotations

import pytest

from sensor.limits import Limits
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.port import Listing
from tests.fakes.registry import Behaviour, FakeRegistry
from tests.registry.conftest import Connect, Images

KNOWN = {"username": "sensor", "password": "secret"}


async def test_pages_are_followed_by_their_links(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(page=1)) as fake, connect(fake.url) as client:
        listing = await client.repositories()
        assert listing.names == ("charts/app", "multi", "team/app", "team/other")
        assert listing.complete
        assert fake.count("catalog") == 4


async def test_a_registry_with_a_smaller_page_limit_is_asked_for_less(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(most_n=100)) as fake, connect(fake.url) as client:
        assert len((await client.repositories()).names) == 4
        assert [seen.query for seen in fake.seen if seen.kind == "catalog"] == [
            "n=1000",
            "n=500",
            "n=250",
            "n=125",
            "n=62",
        ]


async def test_a_registry_that_hates_n_is_asked_without(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(fail={"catalog": [400]})) as fake,
        connect(fake.url) as client,
    ):
        assert len((await client.repositories()).names) == 4
        assert [seen.query for seen in fake.seen if seen.kind == "catalog"] == ["n=1000", ""]
        fake.behaviour.fail = {"catalog": [400, 400]}
        with pytest.raises(UnexpectedAnswer, match="status 400"):
            await client.repositories()


@pytest.mark.parametrize(
    ("pages", "reason"),
    [("loop", "circle"), ("stale", "circle"), ("endless", "more than 7 pages"), ("elsewhere", "outside the registry")],
)
async def test_a_misleading_listing_is_cut_and_partial(
    images: Images, connect: Connect, pages: str, reason: str
) -> None:
    behaviour = Behaviour(pages=pages, page=2)  # type: ignore[arg-type]
    async with (
        FakeRegistry(images.store.root, behaviour) as fake,
        connect(fake.url, limits=Limits(pages=7)) as client,
    ):
        for listing in (await client.repositories(), await client.tags("team/app")):
            assert not listing.complete
            assert reason in listing.reason
        assert fake.count("storage") == 0
        assert fake.count("catalog") <= 7


async def test_a_link_with_the_wrong_outer_address_is_followed_at_home(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(pages="outer", page=3)) as fake, connect(fake.url) as client:
        listing = await client.repositories()
        assert listing.complete
        assert len(listing.names) == 4


async def test_a_later_page_that_fails_makes_the_listing_partial(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(page=2, fail_later_pages=True)
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        listing = await client.repositories()
        assert listing.names == ("charts/app", "multi")
        assert not listing.complete
        assert "status 500" in listing.reason


async def test_nonsense_in_tag_lists_is_dropped_and_counted(images: Images, connect: Connect) -> None:
    tags = ["v1", None, "", "sha256:" + "a" * 64, 7, "-bad", "ok_2", "x" * 129, {"a": 1}]
    async with FakeRegistry(images.store.root, Behaviour(tags=tags)) as fake, connect(fake.url) as client:
        listing = await client.tags("team/app")
        assert listing.names == ("v1", "ok_2")
        assert listing.dropped == 7
        assert listing.complete


async def test_null_tags_are_no_tags(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(null_tags=True)) as fake, connect(fake.url) as client:
        assert await client.tags("team/app") == Listing(names=(), source="tags/list")


async def test_more_names_than_allowed_are_cut(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url, limits=Limits(listing_entries=2)) as client:
        listing = await client.repositories()
        assert len(listing.names) == 2
        assert listing.reason == "more than 2 names"


async def test_a_catalogue_that_may_not_be_listed_is_not_an_empty_one(images: Images, connect: Connect) -> None:
    for auth in ("basic", "bearer"):
        behaviour = Behaviour(auth=auth, no_catalog=True)  # type: ignore[arg-type]
        async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
            with pytest.raises(CannotEnumerate) as raised:
                await client.repositories()
            assert "repositories.names" in raised.value.advice
            assert (await client.tags("team/app")).names


@pytest.mark.parametrize("status", [403, 404, 405])
async def test_a_registry_without_a_catalogue_cannot_be_enumerated(
    images: Images, connect: Connect, status: int
) -> None:
    behaviour = Behaviour(fail={"catalog": [status]})
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        with pytest.raises(CannotEnumerate, match=str(status)):
            await client.repositories()


async def test_an_anonymous_client_is_told_to_log_in_rather_than_that_it_cannot_list(
    images: Images, connect: Connect
) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake, connect(fake.url) as client:
        with pytest.raises(RegistryUnauthorized, match="reachable but unauthenticated"):
            await client.repositories()
