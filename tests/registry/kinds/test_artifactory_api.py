"""Listing Artifactory: URL forms, keys of all types, AQL and its troubles, and what stands in for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensor.errors import RegistryError
from sensor.limits import Limits
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
)
from sensor.registry.kinds.artifactory_api import Layout
from sensor.registry.terms import Address
from tests.fakes.registries.artifactory import LOCAL, REMOTE, TWIN, USER, VIRTUAL, ArtifactoryFake, row
from tests.fakes.registries.provider import PUSHED, TAGS
from tests.registry.kinds.test_artifactory import SETTINGS, connected

IMAGES = tuple(f"team/{name}" for name in ("app", "base", "cli", "db", "edge"))


def below(key: str) -> tuple[str, ...]:
    return tuple(f"{key}/{image}" for image in IMAGES)


async def test_without_a_key_all_local_and_federated_repositories_are_listed(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == {*below(LOCAL), *below(TWIN)}
        assert listing.complete
        assert listing.source == "AQL"
        assert fake.upstream == 0


async def test_tags_come_along_with_the_repositories(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake) as registry:
        await registry.repositories()
        before = registry.requests
        tags = await registry.tags(f"{TWIN}/team/app")
        assert registry.requests == before
        assert tags.digests == {tag: built.digest for tag, built in fake.images[f"{LOCAL}/team/app"].items()}
        assert tags.pushed["v2"] == PUSHED + 3600
        again = await registry.tags(f"{TWIN}/team/app")  # whoever asks again wants to know anew
        assert registry.requests > before
        assert again.digests == tags.digests


@pytest.mark.parametrize("suffix", ["/docker-local", "/artifactory/docker-local", "/docker-local/v2/"])
async def test_a_key_in_the_url_is_the_only_one(tmp_path: Path, suffix: str) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=fake.url + suffix) as registry:
        assert (await registry.repositories()).names == below(LOCAL)
        assert sorted((await registry.tags(f"{LOCAL}/team/app")).names) == sorted(TAGS)
        await registry.manifest(f"{LOCAL}/team/app", "v1")
        with pytest.raises(RegistryForbidden):
            await registry.tags(f"{TWIN}/team/app")


async def test_a_folder_of_a_key(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/docker-local/team/app") as registry:
        assert (await registry.repositories()).names == (f"{LOCAL}/team/app",)


async def test_the_address_of_the_api(tmp_path: Path) -> None:
    url = "/artifactory/api/docker/docker-twin/v2/"
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=fake.url + url) as registry:
        assert (await registry.repositories()).names == IMAGES
        await registry.repositories()
        fetched = await registry.manifest("team/app", "v1")
        assert fetched.digest == fake.images[f"{LOCAL}/team/app"]["v1"].digest
        fake.aql = 403
        assert sorted((await registry.repositories()).names) == sorted(IMAGES)
        assert sorted((await registry.tags("team/app")).names) == sorted(TAGS)


@pytest.mark.parametrize("login", [{}, {"auth": "anonymous", "username": ""}])
async def test_a_host_or_port_of_one_repository_is_told_by_its_realm(tmp_path: Path, login: dict[str, str]) -> None:
    async with ArtifactoryFake(tmp_path) as fake:
        fake.key = LOCAL
        async with connected(fake, repositories={"namespaces": (LOCAL,)}, **login) as registry:
            listing = await registry.repositories()
            assert set(listing.names) == ({"team/base"} if login else set(IMAGES))
            assert (await registry.tags("team/base")).names == ("v1",)
            assert (await registry.head("team/base", "v1")).digest == fake.images[f"{LOCAL}/team/base"]["v1"].digest


@pytest.mark.parametrize(
    ("host", "realm", "keys", "key"),
    [
        ("docker-prod.art.example.com", "", ("docker-prod",), "docker-prod"),
        ("mycompany-docker-prod.jfrog.io", "", ("prod", "docker-prod"), "docker-prod"),
        ("mycompany.jfrog.io", "", ("docker-prod",), ""),
        ("mycompany-docker-prod.jfrog.io", "https://x/artifactory/api/docker/null/v2/token", ("docker-prod",), ""),
        ("art.example.com:5001", "https://art/artifactory/api/docker/docker-dev/v2/token", (), "docker-dev"),
        ("art.example.com:5001", "https://art/artifactory/api/oci/charts/v2/token/", (), "charts"),
        ("art.example.com", "https://art.example.com/v2/token", (), ""),
        ("art.example.com", "https://[", (), ""),
    ],
)
def test_what_a_host_names(host: str, realm: str, keys: tuple[str, ...], key: str) -> None:
    layout = Layout(Address(host=host), SETTINGS)
    layout.learn(realm, keys)
    assert layout.key == key
    assert layout.name("k", "team/app") == ("team/app" if key else "k/team/app")
    assert layout.split("team/app") == ((key, "team/app") if key else ("team", "app"))
    assert layout.scope_name("team/app") == ("team/app" if key else "app")
    assert layout.scope_name("app") == "app"


def test_a_key_in_the_url_is_no_host_of_one_repository() -> None:
    layout = Layout(Address(host="docker.example.com", namespace="docker"), SETTINGS)
    layout.learn("", ("docker",))
    assert layout.key == ""


@pytest.mark.parametrize(
    ("include", "wanted"),
    [
        (("*",), {*below(LOCAL), *below(TWIN)}),
        (("docker-twin/**",), set(below(TWIN))),
        (("docker-twin/team/*", "docker-local/team/app"), {*below(LOCAL), *below(TWIN)}),
        (("docker-tw*/**",), {*below(LOCAL), *below(TWIN)}),
    ],
)
async def test_patterns_with_a_literal_key_are_pushed_down(
    tmp_path: Path, include: tuple[str, ...], wanted: set[str]
) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, repositories={"include": include}) as registry:
        assert set((await registry.repositories()).names) == wanted
        asked = {key for one in fake.seen for key in re.findall(rb'"repo": "([^"]+)"', one.body)}
        assert asked == {name.partition("/")[0].encode() for name in wanted}


# -- proxies ---------------------------------------------------------------------------------------------------------------


async def test_a_remote_repository_shows_its_cache(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{REMOTE}") as registry:
        listing = await registry.repositories()
        assert listing.names == (f"{REMOTE}/library/nginx",)
        assert listing.complete
        tags = await registry.tags(f"{REMOTE}/library/nginx")
        assert tags.digests == {tag: built.digest for tag, built in fake.cached.items()}
        with pytest.raises(RegistryNotFound) as missing:
            await registry.tags(f"{REMOTE}/library/redis")
        assert "materialize" in missing.value.advice
        assert fake.upstream == 0


@pytest.mark.parametrize("refusal", [403, 405, 404])
async def test_a_remote_repository_is_never_listed_by_its_upstream(tmp_path: Path, refusal: int) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{REMOTE}") as registry:
        fake.aql = refusal
        with pytest.raises(CannotEnumerate) as refused:
            await registry.repositories()
        assert "Read" in refused.value.advice
        with pytest.raises(RegistryForbidden):
            await registry.tags(f"{REMOTE}/library/nginx")
        assert fake.upstream == 0


@pytest.mark.parametrize("told", [True, False])
async def test_a_virtual_repository_shows_its_members(tmp_path: Path, told: bool) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{VIRTUAL}") as registry:
        fake.members = told
        listing = await registry.repositories()
        assert set(below(VIRTUAL)) <= set(listing.names)
        assert (f"{VIRTUAL}/library/nginx" in listing.names) is told
        assert (await registry.tags(f"{VIRTUAL}/team/app")).digests["v1"] == fake.images[f"{LOCAL}/team/app"][
            "v1"
        ].digest
        await registry.manifest(f"{VIRTUAL}/team/app", "v1")
        assert fake.upstream == 0


async def test_what_a_virtual_repository_shows_is_of_its_first_member(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{VIRTUAL}") as registry:
        fake.extra = [row(TWIN, "team/app/v1", None, PUSHED, "list.manifest.json")]
        first = fake.images[f"{LOCAL}/team/app"]["v1"].digest
        await registry.repositories()
        for _ in range(2):  # with the listing, and by itself
            assert (await registry.tags(f"{VIRTUAL}/team/app")).digests["v1"] == first


@pytest.mark.parametrize("aql", [200, 403])
async def test_a_repository_of_unknown_type_may_have_an_upstream(tmp_path: Path, aql: int) -> None:
    async with ArtifactoryFake(tmp_path) as fake:
        fake.rest, fake.aql = False, aql
        async with connected(fake, url=f"{fake.url}/{REMOTE}") as registry:
            with pytest.raises(RegistryForbidden, match="may be a remote") as refused:
                await registry.tags(f"{REMOTE}/library/redis")
            assert "materialize" in refused.value.advice
            if aql != 200:
                with pytest.raises(CannotEnumerate):
                    await registry.repositories()
        assert fake.upstream == 0
        async with connected(fake, url=f"{fake.url}/{LOCAL}", materialize=True) as registry:
            assert set((await registry.repositories()).names) == set(below(LOCAL))
            assert sorted((await registry.tags(f"{LOCAL}/team/app")).names) == sorted(TAGS)


async def test_an_upstream_is_asked_on_demand(tmp_path: Path) -> None:
    url = f"/{VIRTUAL}"
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=fake.url + url, materialize=True) as registry:
        listing = await registry.repositories()
        assert listing.names
        assert fake.upstream == 3  # three pages
        tags = await registry.tags(f"{VIRTUAL}/team/app")
        assert sorted(tags.names) == sorted(TAGS)
        assert tags.source == "tags/list"
        assert fake.upstream == 3 + 3


# -- AQL and its troubles ----------------------------------------------------------------------------------------------------


async def test_the_index_wins_over_a_manifest_of_the_same_tag(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.extra = [row(LOCAL, "team/app/v1", None, PUSHED, "list.manifest.json")]
        assert (await registry.tags(f"{LOCAL}/team/app")).digests["v1"] == "sha256:" + "f" * 64


async def test_odd_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.extra = [
            row(LOCAL, "manifest", None, PUSHED),
            row(LOCAL, "Team/App/v1", None, PUSHED),
            row(LOCAL, "team/app/.v1", None, PUSHED),
            {"repo": LOCAL, "path": "team/plain/v1", "name": "manifest.json"},
            {
                "repo": LOCAL,
                "path": "team/plain/v2",
                "name": "manifest.json",
                "sha256": "short",
                "modified": "yesterday",
            },
        ]
        listing = await registry.repositories()
        assert set(listing.names) == {*below(LOCAL), f"{LOCAL}/team/plain"}
        assert listing.dropped == 2
        tags = await registry.tags(f"{LOCAL}/team/plain")
        assert tags.names == ("v1", "v2")
        assert not tags.digests
        assert not tags.pushed


async def test_an_image_within_another_is_another(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.extra = [row(LOCAL, "team/app/debug/v9", None, PUSHED)]
        assert sorted((await registry.tags(f"{LOCAL}/team/app")).names) == sorted(TAGS)
        assert f"{LOCAL}/team/app/debug" in (await registry.repositories()).names


async def test_small_pages_are_read_to_the_end(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.aql_rows = 3
        listing = await registry.repositories()
        assert listing.names == below(LOCAL)
        assert listing.complete
        assert fake.count("registry", "search/aql") > 5


async def test_rights_that_thin_out_pages_hide_nothing_behind_them(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.aql_rows = 2
        fake.hidden = {f"team/app/{tag}" for tag in TAGS[1:]} | {"team/base/v1"}  # a short page, then an empty one
        listing = await registry.repositories()
        assert set(listing.names) == set(below(LOCAL))
        assert listing.complete
        assert listing.source == "AQL and _catalog"
        assert (await registry.tags(f"{LOCAL}/team/edge")).digests


async def test_a_repository_that_changes_meanwhile_is_partial(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.aql_rows = 2
        fake.shrinking = True
        listing = await registry.repositories()
        assert listing.names
        assert not listing.complete
        assert "changed" in listing.reason


async def test_a_search_that_is_cut_off_is_partial(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.notification = "AQL query reached the search hard limit, results are trimmed."
        listing = await registry.repositories()
        assert listing.names
        assert not listing.complete
        assert not (await registry.tags(f"{LOCAL}/team/app")).complete


async def test_too_many_searches_at_once_are_repeated(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.aql_busy = 2
        assert (await registry.repositories()).names == below(LOCAL)
        fake.aql_busy = 100
        with pytest.raises(RegistryRateLimited):
            await registry.repositories()


async def test_a_later_page_that_fails_makes_it_partial(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.aql_rows = 3
        fake.aql_from_page = 2
        listing = await registry.repositories()
        assert not listing.complete
        assert "later page" in listing.reason


async def test_limits_make_it_partial(tmp_path: Path) -> None:
    few = Limits(listing_entries=3)
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}", limits=few) as registry:
        listing = await registry.repositories()
        assert f"{LOCAL}/team/app" in listing.names
        assert listing.reason == "more than 3 tags"
    pages = Limits(pages=2)
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}", limits=pages) as registry:
        fake.aql_rows = 3
        assert (await registry.repositories()).reason == "more than 2 pages"


# -- without AQL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [400, 403, 404, 405])
async def test_catalog_stands_in_where_aql_is_refused(tmp_path: Path, refusal: int) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.aql = refusal
        listing = await registry.repositories()
        assert set(listing.names) == set(below(LOCAL))
        assert listing.complete
        assert listing.source == "_catalog"
        assert fake.count("registry", f"/artifactory/api/docker/{LOCAL}/v2/_catalog") == 3
        tags = await registry.tags(f"{LOCAL}/team/app")
        assert sorted(tags.names) == sorted(TAGS)
        assert tags.dropped == 1  # the digest among them
        assert fake.count("registry", "search/aql") == 1


async def test_a_key_is_enough_where_repositories_are_not_told(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake:
        fake.rest = False
        async with connected(fake, repositories={"namespaces": (LOCAL,)}) as registry:
            assert (await registry.repositories()).names == below(LOCAL)
        async with connected(fake) as registry:
            with pytest.raises(CannotEnumerate) as refused:
                await registry.repositories()
            assert "repositories.namespaces" in refused.value.advice


async def test_nothing_to_see_is_not_an_empty_registry(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, url=f"{fake.url}/{LOCAL}") as registry:
        fake.forbidden = set(fake.names)
        with pytest.raises(CannotEnumerate) as refused:
            await registry.repositories()
        assert "Read" in refused.value.advice
        with pytest.raises(RegistryError):
            await registry.tags(f"{LOCAL}/team/app")


async def test_a_key_that_cannot_be_listed_leaves_the_others(tmp_path: Path) -> None:
    both = {"namespaces": (LOCAL, "nosuch")}
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, repositories=both) as registry:
        listing = await registry.repositories()
        assert listing.names == below(LOCAL)
        assert not listing.complete
        assert "nosuch" in listing.reason


async def test_an_api_elsewhere_with_a_credential_of_its_own(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake:
        await fake.listen("api", fake._registry)
        api = {"url": f"http://{fake.address('api')}/artifactory", "token": fake.access_token}
        async with connected(fake, api=api, repositories={"namespaces": (LOCAL,)}) as registry:
            assert (await registry.repositories()).names == below(LOCAL)
            shown = {one.authorization for one in fake.seen if one.server == "api"} - {""}
            assert shown == {f"Bearer {fake.access_token}"}
            assert fake.count("registry", "/artifactory/api") == 0
            assert (await registry.standing()).identity == USER
