"""Listing Nexus: URL forms, hosted, proxy and group repositories, components and their oddities, and what stands in for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.limits import Limits
from sensor.registry.errors import CannotEnumerate, RegistryForbidden, RegistryNotFound
from tests.fakes.registries.nexus import CACHED, GROUP, HOSTED, PASSWORD, PROXY, USER, NexusFake
from tests.fakes.registries.provider import PUSHED, TAGS
from tests.registry.kinds.test_nexus import connected

IMAGES = tuple(f"team/{name}" for name in ("app", "base", "cli", "db", "edge"))


def below(repository: str, *more: str) -> set[str]:
    return {f"{repository}/{image}" for image in (*IMAGES, *more)}


# -- URL forms ---------------------------------------------------------------------------------------------------------------


async def test_the_main_port_shows_all_that_is_hosted_or_cached(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == {*below(HOSTED), CACHED}
        assert listing.complete
        assert listing.source == "Nexus REST API"
        before = registry.requests
        tags = await registry.tags(f"{HOSTED}/team/app")
        assert registry.requests == before
        assert tags.digests == {tag: built.digest for tag, built in fake.images[f"{HOSTED}/team/app"].items()}
        assert tags.pushed["v3"] == PUSHED + 2 * 3600
        assert (await registry.manifest(CACHED, tags.digests["v1"] and fake.images[CACHED]["v1"].digest)).data
        assert fake.upstream == 0


async def test_a_repository_in_the_path(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{HOSTED}") as registry:
        assert set((await registry.repositories()).names) == below(HOSTED)
        assert fake.count("registry", "/manifests/") == 0  # nothing has to be tried out
        await registry.manifest(f"{HOSTED}/team/app", "v1")
        with pytest.raises(RegistryForbidden):
            await registry.tags(CACHED)


@pytest.mark.parametrize("context", ["", "/nexus"])
async def test_the_url_of_a_repository(tmp_path: Path, context: str) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.context = context
        fake.routed = set()
        async with connected(fake, url=f"{fake.url}{context}/repository/{HOSTED}/") as registry:
            assert (await registry.ping()).authenticated
            assert (await registry.repositories()).names == IMAGES
            assert (await registry.tags("team/app")).digests
            assert sorted((await registry.tags("team/app")).names) == sorted(TAGS)  # hosted: tags/list is exact
            await registry.manifest("team/app", "v1")


async def test_a_connector_alone_is_listed_by_its_catalogue(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"http://{fake.address('connector')}") as registry:
        fake.nulls = True
        listing = await registry.repositories()
        assert listing.names == IMAGES
        assert listing.source == "_catalog"
        tags = await registry.tags("team/app")
        assert sorted(tags.names) == sorted(TAGS)
        assert tags.dropped == 1
        await registry.manifest("team/app", "v1")


async def test_a_connector_and_the_rest_api_elsewhere(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        both = {"url": f"http://{fake.address('connector')}", "api": {"url": f"{fake.url}/service/rest/v1/"}}
        async with connected(fake, **both, repositories={"namespaces": (HOSTED,)}) as registry:
            fake.routed = set()
            listing = await registry.repositories()
            assert listing.names == IMAGES
            assert listing.source == "Nexus REST API"
            assert (await registry.tags("team/app")).digests["v1"] == fake.images[f"{HOSTED}/team/app"]["v1"].digest
            fake.rest = 403
            assert (await registry.repositories()).source == "_catalog"
        async with connected(fake, **both) as registry:  # which repository it is cannot be seen
            fake.rest = 200
            listing = await registry.repositories()
            assert listing.names == IMAGES
            assert listing.source == "_catalog"
            assert not listing.withheld


async def test_the_api_may_have_a_credential_of_its_own(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        api = {"url": fake.url, "username": USER, "password": PASSWORD}
        settings = {
            "url": fake.open_url,
            "auth": "anonymous",
            "username": "",
            "repositories": {"namespaces": (HOSTED,)},
        }
        async with connected(fake, **settings, api=api) as registry:
            assert set((await registry.repositories()).names) == below(HOSTED)
            assert not any(one.authorization.startswith("Basic") for one in fake.seen if one.server == "open")


async def test_a_wrong_address_of_the_api_is_named(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, api={"url": f"{fake.url}/nexus"}) as registry:
        with pytest.raises(CannotEnumerate) as wrong:
            await registry.repositories()
        assert "api.url" in wrong.value.advice


async def test_repositories_that_the_address_does_not_serve_are_withheld(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake) as registry:
        fake.routed = {HOSTED}
        listing = await registry.repositories()
        assert set(listing.names) == below(HOSTED)
        assert listing.complete
        assert "path-based routing" in listing.withheld[CACHED]
        fake.routed = {HOSTED, PROXY}
        assert CACHED in (await registry.repositories()).names


async def test_patterns_with_a_literal_repository_are_pushed_down(tmp_path: Path) -> None:
    include = (f"{HOSTED}/team/*",)
    async with NexusFake(tmp_path) as fake, connected(fake, repositories={"include": include}) as registry:
        assert set((await registry.repositories()).names) == below(HOSTED)
        assert fake.count("registry", f"repository={PROXY}") == 0


# -- proxies and groups --------------------------------------------------------------------------------------------------------


async def test_a_proxy_shows_what_is_cached(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{PROXY}") as registry:
        assert (await registry.repositories()).names == (CACHED,)
        for _ in range(2):  # remembered, then searched for
            tags = await registry.tags(CACHED)
            assert tags.digests == {tag: built.digest for tag, built in fake.images[CACHED].items()}
        with pytest.raises(RegistryNotFound) as missing:
            await registry.tags(f"{PROXY}/library/redis")
        assert "materialize" in missing.value.advice
        fake.rest = 403
        with pytest.raises(RegistryForbidden):
            await registry.tags(CACHED)
        with pytest.raises(CannotEnumerate):
            await registry.repositories()
        assert fake.upstream == 0


async def test_a_cached_tag_without_a_checksum_is_withheld(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.unsummed = {CACHED, f"{HOSTED}/team/base"}
        async with connected(fake) as registry:
            await registry.repositories()
            tags = await registry.tags(CACHED)
            assert "upstream" in tags.withheld["v1"]
            assert not tags.digests
            hosted = await registry.tags(f"{HOSTED}/team/base")
            assert not hosted.withheld  # asking for it costs a HEAD, no more
            assert not hosted.digests


async def test_a_tag_of_a_group_without_a_checksum_is_withheld_where_its_members_are_not_told(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{GROUP}") as registry:
        fake.members = False
        fake.unsummed = {CACHED}
        await registry.repositories()
        assert "upstream" in (await registry.tags(f"{GROUP}/library/nginx")).withheld["v1"]
        assert fake.upstream == 0


async def test_an_upstream_is_asked_on_demand(tmp_path: Path) -> None:
    url = f"/{PROXY}"
    async with NexusFake(tmp_path) as fake, connected(fake, url=fake.url + url, materialize=True) as registry:
        assert (await registry.repositories()).names == (CACHED,)
        tags = await registry.tags(CACHED)
        assert tags.source == "tags/list"
        assert fake.upstream == 1


@pytest.mark.parametrize("members", [True, False])
async def test_a_group_shows_its_members(tmp_path: Path, members: bool) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{GROUP}") as registry:
        fake.members = members
        listing = await registry.repositories()
        assert set(listing.names) == below(GROUP, "library/nginx")
        assert listing.complete
        assert fake.count("registry", f"components?repository={GROUP}") == (0 if members else 5)
        name = f"{GROUP}/team/app"
        for _ in range(2):
            assert (await registry.tags(name)).digests["v1"] == fake.images[f"{HOSTED}/team/app"]["v1"].digest
        await registry.manifest(name, fake.images[f"{HOSTED}/team/app"]["v1"].digest)
        assert fake.upstream == 0


async def test_members_that_are_not_told_may_be_named(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.members = False
        fake.connected = GROUP
        fake.routed = set()
        both = {"url": f"http://{fake.address('connector')}", "api": {"url": fake.url}}
        async with connected(fake, **both, repositories={"namespaces": (GROUP, HOSTED)}) as registry:
            assert set((await registry.repositories()).names) == set(IMAGES)
            assert fake.count("registry", f"components?repository={GROUP}") == 0
            assert fake.upstream == 0


async def test_a_member_that_cannot_be_listed_makes_it_partial(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{GROUP}") as registry:
        fake.denied = {PROXY}
        listing = await registry.repositories()
        assert set(listing.names) == below(GROUP)
        assert not listing.complete


# -- components ------------------------------------------------------------------------------------------------------------------


async def test_pages_that_go_in_a_circle_are_partial(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{HOSTED}") as registry:
        fake.circle = True
        listing = await registry.repositories()
        assert listing.names
        assert listing.reason == "the pages go in a circle"


async def test_a_later_page_that_fails_makes_it_partial(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{HOSTED}") as registry:
        fake.rest_from_page = 2
        listing = await registry.repositories()
        assert listing.names == (f"{HOSTED}/team/app",)
        assert "later page" in listing.reason
        assert not (await registry.tags(f"{HOSTED}/team/app")).complete


@pytest.mark.parametrize(("limits", "reason"), [(Limits(listing_entries=2), "2 tags"), (Limits(pages=2), "2 pages")])
async def test_limits_make_it_partial(tmp_path: Path, limits: Limits, reason: str) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{HOSTED}", limits=limits) as registry:
        listing = await registry.repositories()
        assert listing.names == (f"{HOSTED}/team/app",)
        assert f"more than {reason}" in listing.reason


async def test_odd_components_are_left_out_and_counted(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{HOSTED}") as registry:
        fake.odd = [
            {"name": None, "version": "v1", "assets": []},
            {"name": "team/odd", "version": None, "assets": None},
            {"name": "Team/Odd", "version": "v1"},
            {"name": "team/odd", "version": "v1", "assets": [{"path": None}, {"path": "/v2/team/odd/manifests/v1", "checksum": {"sha256": 7}}]},
            {"name": "team/odd", "version": "v2", "assets": [{"path": "v2/team/odd/manifests/v1"}]},
        ]  # fmt: skip
        listing = await registry.repositories()
        assert set(listing.names) == below(HOSTED, "team/odd")
        assert listing.dropped == 3
        tags = await registry.tags(f"{HOSTED}/team/odd")
        assert tags.names == ("v1", "v2")
        assert not tags.digests


# -- without the REST API ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [403, 404, 400])
async def test_the_catalogue_of_the_repositorys_own_url_stands_in(tmp_path: Path, refusal: int) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.rest = refusal
        async with connected(fake, url=f"{fake.url}/{HOSTED}") as registry:
            listing = await registry.repositories()
            assert set(listing.names) == below(HOSTED)
            assert listing.source == "_catalog"
            assert fake.count("registry", f"/repository/{HOSTED}/v2/_catalog") == 1
        async with connected(fake, repositories={"namespaces": (HOSTED,)}) as registry:
            assert set((await registry.repositories()).names) == below(HOSTED)


async def test_repositories_that_are_not_told_may_be_named(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.listed = 403
        async with connected(fake, repositories={"namespaces": (HOSTED,)}) as registry:
            assert set((await registry.repositories()).names) == below(HOSTED)


async def test_nothing_to_see_is_not_an_empty_registry(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.forbidden = set(fake.images)
        for url in (f"{fake.url}/{HOSTED}", f"http://{fake.address('connector')}"):
            for rest in (200, 403):
                fake.rest = rest
                async with connected(fake, url=url) as registry:
                    with pytest.raises(CannotEnumerate) as refused:
                        await registry.repositories()
                    assert "-browse" in refused.value.advice


async def test_an_empty_repository_does_not_spoil_the_others(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake) as registry:
        fake.forbidden = {CACHED}
        listing = await registry.repositories()
        assert set(listing.names) == below(HOSTED)
        assert listing.complete
