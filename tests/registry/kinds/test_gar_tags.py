"""Google's extensions of `tags/list`: tags with digests in one request, and walking along `child`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import SensorError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.credentials import ConfiguredCredential
from sensor.registry.errors import CannotEnumerate, RegistryForbidden, RegistryNotFound, UnexpectedAnswer
from sensor.registry.kinds.gar_tags import TagLists
from sensor.registry.kinds.gathered import Gathered
from sensor.registry.session import Session
from sensor.registry.terms import Terms, parse_address
from sensor.transport import Retry, Transport
from tests.fakes.gcp import PROJECT
from tests.fakes.registries.gar import GarFake

ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[GarFake]:
    async with GarFake(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def lists(fake: GarFake, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[TagLists]:
    settings = fake.settings(fake.logins[fake.login_names.index("access token")])
    transport = Transport(limits=limits, retry=Retry(attempts=1))
    session = Session(
        parse_address(fake.url), transport, ConfiguredCredential(settings), terms=Terms(insecure=True), limits=limits
    )
    yield TagLists(session, limits)
    await transport.close()


def say(fake: GarFake, repository: str, answer: Any, *, query: str = "?n=10000", following: str = "") -> None:
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    fake.lists[f"/v2/{repository}/tags/list{query}"] = (200, answer, headers)


async def test_one_request_tells_tags_digests_and_dates(fake: GarFake) -> None:
    name = fake.names[0]
    async with lists(fake) as found:
        listing = await found.listing(name, cached_only=False)
    assert set(listing.names) == set(fake.images[name])
    assert listing.digests == {tag: image.digest for tag, image in fake.images[name].items()}
    assert listing.pushed == {tag: fake.pushed(tag) for tag in fake.images[name]}
    assert (listing.complete, listing.source) == (True, "tags/list")
    assert fake.count("registry", "/tags/list") == 1


@pytest.mark.parametrize(
    ("answer", "names", "digests", "pushed"),
    [
        ({"tags": ["a", "b"], "manifest": None}, ("a", "b"), {}, {}),
        ({"tags": None, "child": None}, (), {}, {}),
        ({"tags": ["a"], "manifest": {ONE: {"tag": ["a"], "timeUploadedMs": 1500}}}, ("a",), {"a": ONE}, {"a": 1.5}),
        ({"tags": ["a"], "manifest": {ONE: {"tag": ["a"], "timeUploadedMs": "soon"}}}, ("a",), {"a": ONE}, {}),
        ({"tags": ["a"], "manifest": {ONE: {"tag": ["a"], "timeUploadedMs": str(10**20)}}}, ("a",), {"a": ONE}, {}),
        ({"tags": ["a"], "manifest": {ONE: {"tag": ["a"], "timeUploadedMs": "-1"}}}, ("a",), {"a": ONE}, {}),
        ({"tags": ["a"], "manifest": {"md5:x": {"tag": ["a"]}, ONE: {"tag": None}}}, ("a",), {}, {}),
        ({"tags": ["a", "bad tag", None, 5, ONE], "manifest": {ONE: {"tag": ["bad tag", 5]}}}, ("a",), {}, {}),
        ({"tags": ["a"], "manifest": {ONE: {"tag": ["gone"]}}}, ("a",), {}, {}),
    ],
)  # fmt: skip
async def test_what_is_odd_is_left_out(fake: GarFake, answer: Any, names: Any, digests: Any, pushed: Any) -> None:
    say(fake, f"{PROJECT}/apps/app", answer)
    async with lists(fake) as found:
        listing = await found.listing(f"{PROJECT}/apps/app", cached_only=False)
    assert (listing.names, listing.digests, listing.pushed) == (names, digests, pushed)


async def test_what_has_no_manifest_is_withheld_only_where_that_is_known(fake: GarFake) -> None:
    name = f"{PROJECT}/apps/app"
    say(fake, name, {"tags": ["a", "b"], "manifest": {ONE: {"tag": ["a"]}}})
    async with lists(fake) as found:
        assert set((await found.listing(name, cached_only=True)).withheld) == {"b"}
        assert not (await found.listing(name, cached_only=False)).withheld
        say(fake, name, {"tags": ["a", "b"]})
        assert not (await found.listing(name, cached_only=True)).withheld


async def test_further_pages_are_followed_and_one_that_fails_makes_it_partial(fake: GarFake) -> None:
    name = f"{PROJECT}/apps/app"
    say(fake, name, {"tags": ["a"], "manifest": {ONE: {"tag": ["a"]}}}, following=f"/v2/{name}/tags/list?last=a")
    say(
        fake,
        name,
        {"tags": ["b"], "manifest": {TWO: {"tag": ["b"]}}},
        query="?last=a",
        following="/v2/elsewhere/tags/list",
    )
    async with lists(fake) as found:
        listing = await found.listing(name, cached_only=False)
        assert listing.digests == {"a": ONE, "b": TWO}
        assert not listing.complete
        assert "outside" in listing.reason
        fake.lists[f"/v2/{name}/tags/list?last=a"] = (500, "", {})
        say(fake, name, {"tags": ["a"], "manifest": {}}, following=f"/v2/{name}/tags/list?last=a")
        listing = await found.listing(name, cached_only=False)
        assert (listing.names, listing.complete) == (("a",), False)
        assert "a later page failed" in listing.reason


async def test_a_first_page_that_cannot_be_had_is_an_error(fake: GarFake) -> None:
    fake.forbidden.add(fake.names[0])
    async with lists(fake) as found:
        with pytest.raises(RegistryForbidden):
            await found.listing(fake.names[0], cached_only=False)
        with pytest.raises(RegistryNotFound):
            await found.listing(f"{PROJECT}/apps/nowhere", cached_only=False)
        fake.lists[f"/v2/{fake.names[1]}/tags/list?n=10000"] = (200, {"tags": "v1"}, {})
        with pytest.raises(UnexpectedAnswer):
            await found.listing(fake.names[1], cached_only=False)


async def test_walks_a_repository_along_its_children(fake: GarFake) -> None:
    gathered = Gathered(DEFAULT_LIMITS, source="x")
    async with lists(fake) as found:
        await found.walk(f"{PROJECT}/apps", gathered)
    assert gathered.repositories == (f"{PROJECT}/apps/app", f"{PROJECT}/apps/base", f"{PROJECT}/apps/tools/cli")
    assert not gathered.reason
    tags = gathered.take(f"{PROJECT}/apps/base")
    assert tags is not None
    assert tags.digests == {"v1": fake.images[f"{PROJECT}/apps/base"]["v1"].digest}


async def test_children_that_cannot_be_read_make_it_partial(fake: GarFake) -> None:
    fake.forbidden.add(f"{PROJECT}/apps/base")
    gathered = Gathered(DEFAULT_LIMITS, source="x")
    async with lists(fake) as found:
        await found.walk(f"{PROJECT}/apps", gathered)
    assert f"{PROJECT}/apps/app" in gathered.repositories
    assert f"{PROJECT}/apps/base could not be listed" in gathered.reason


async def test_children_that_are_no_names_or_lead_back_are_not_followed(fake: GarFake) -> None:
    root = f"{PROJECT}/apps"
    say(fake, root, {"child": ["app", "app", "..", "UP", "a?b", None, 5, "", "/x"], "tags": ["here"]})
    gathered = Gathered(DEFAULT_LIMITS, source="x")
    async with lists(fake) as found:
        await found.walk(root, gathered)
    assert set(gathered.repositories) == {root, f"{root}/app"}
    assert fake.count("registry", "/tags/list") == 2


async def test_an_endless_tree_is_left(fake: GarFake) -> None:
    say(fake, "p", {"child": [f"c{number}" for number in range(50)], "tags": ["t"]})
    for number in range(50):
        say(fake, f"p/c{number}", {"tags": ["t"]})
    for limits, reason in (
        (replace(DEFAULT_LIMITS, pages=5), "more than 5 paths"),
        (replace(DEFAULT_LIMITS, listing_entries=5), "more than 5 tags"),
    ):
        gathered = Gathered(limits, source="x")
        async with lists(fake, limits) as found:
            await found.walk("p", gathered)
        assert gathered.reason == reason
        assert gathered.entries == 5


async def test_pages_of_a_child_that_break_off_make_it_partial(fake: GarFake) -> None:
    say(fake, "p", {"tags": ["t"]}, following="/elsewhere")
    gathered = Gathered(DEFAULT_LIMITS, source="x")
    async with lists(fake) as found:
        await found.walk("p", gathered)
    assert gathered.reason.startswith("p: the next page is outside")


async def test_a_place_with_nothing_in_it_cannot_be_told_from_one_that_cannot_be_walked(fake: GarFake) -> None:
    say(fake, "p", {"tags": [], "child": []})
    async with lists(fake) as found:
        with pytest.raises(CannotEnumerate, match="nothing is listed below p"):
            await found.walk("p", Gathered(DEFAULT_LIMITS, source="x"))
        with pytest.raises(SensorError):
            await found.walk("nowhere/at/all", Gathered(DEFAULT_LIMITS, source="x"))
