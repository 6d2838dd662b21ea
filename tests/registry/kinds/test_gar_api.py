"""Listing by Artifact Registry's API: what is asked, what is believed, and what is done where it is refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Http
from sensor.errors import ConfigError, NetworkError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry import port
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.transport import Retry
from tests.fakes.gcp import CLEAN, KEY_EMAIL, PROJECT
from tests.fakes.proxy import FakeProxy
from tests.fakes.registries.gar import LOCATION, GarFake

Open = Callable[..., contextlib.AbstractAsyncContextManager[port.Registry]]
REGIONAL = f"{LOCATION}-docker.pkg.dev"
NGINX = f"{PROJECT}/cache/library/nginx"


@pytest.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GarFake]:
    for name, value in CLEAN.items():
        monkeypatch.setenv(name, value)
    async with GarFake(tmp_path) as running:
        yield running


@pytest.fixture
async def proxy(fake: GarFake) -> AsyncIterator[FakeProxy]:
    """Where hosts of Google's are reached."""
    async with FakeProxy(hosts={name: fake.address() for name in (REGIONAL, "gcr.io")}) as running:
        yield running


@pytest.fixture
def connect(fake: GarFake) -> Open:
    """Open the fake with one of its logins and changed settings."""

    @contextlib.asynccontextmanager
    async def opened(login: int = 0, limits: Limits = DEFAULT_LIMITS, **more: Any) -> AsyncIterator[port.Registry]:
        chosen = fake.logins[login]
        settings = fake.settings(replace(chosen, settings={**chosen.settings, **more}))
        registry = open_registry(settings, Http(), limits, retry=Retry(attempts=2, first=0.001, most=0.01))
        try:
            yield registry
        finally:
            await registry.close()

    return opened


def asked(fake: GarFake, server: str = "api") -> list[str]:
    return [one.path.partition("?")[0] for one in fake.seen if one.server == server]


# -- a crawl -------------------------------------------------------------------------------------------------------------------------


async def test_one_crawl_sees_one_state_and_the_next_one_another(fake: GarFake, connect: Open) -> None:
    name = fake.names[0]
    async with connect() as registry:
        listing = await registry.repositories()
        assert (set(listing.names), listing.source) == (set(fake.names), "Artifact Registry API")
        before = registry.requests
        fake.images[name]["v9"] = fake.images[name].pop("v5")
        tags = await registry.tags(name)
        assert set(tags.names) == {"v1", "v2", "v3", "v4", "v5"}
        assert tags.pushed["v2"] == pytest.approx(fake.pushed("v2") + 0.123456)
        assert registry.requests == before
        fake.images[name]["v5"] = fake.images[name].pop("v9")
        del fake.images[name]["v4"]
        assert set((await registry.tags(name)).names) == {"v1", "v2", "v3", "v5"}  # asked again, so looked up again
        await registry.repositories()
        assert set((await registry.tags(name)).names) == {"v1", "v2", "v3", "v5"}


async def test_virtual_repositories_and_other_formats_are_left_out(fake: GarFake, connect: Open) -> None:
    async with connect() as registry:
        await registry.repositories()
    paths = asked(fake)
    for name, listed in (("apps", True), ("cache", True), ("everything", False), ("web", False)):
        assert any(path.endswith(f"/repositories/{name}/dockerImages") for path in paths) is listed


async def test_a_host_of_googles_names_the_location_and_a_named_repository_is_asked_alone(
    fake: GarFake, connect: Open
) -> None:
    base = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories"
    async with connect(url=REGIONAL) as registry:
        assert set((await registry.repositories()).names) == set(fake.names)
    assert f"/v1/projects/{PROJECT}/locations" not in asked(fake)
    fake.seen.clear()
    async with connect(url=REGIONAL, repositories={"namespaces": [f"{PROJECT}/data"]}) as registry:
        assert (await registry.repositories()).names == (f"{PROJECT}/data/db",)
    assert set(asked(fake)) == {f"{base}/data", f"{base}/data/dockerImages"}


async def test_a_path_below_a_repository_keeps_what_lies_there(connect: Open) -> None:
    async with connect(url=REGIONAL, repositories={"namespaces": [f"{PROJECT}/apps/tools"]}) as registry:
        assert (await registry.repositories()).names == (f"{PROJECT}/apps/tools/cli",)


@pytest.mark.parametrize(
    ("url", "repositories", "expected"),
    [
        (f"{REGIONAL}/{PROJECT}/data", {"namespaces": []}, {f"{PROJECT}/data/db"}),
        (REGIONAL, {"namespaces": [], "include": [f"{PROJECT}/data/**", f"{PROJECT}/cache/*"]}, {f"{PROJECT}/data/db", NGINX}),
        (REGIONAL, {"namespaces": [], "include": ["**/db"]}, None),
        (REGIONAL, {"namespaces": []}, None),
    ],
)  # fmt: skip
async def test_where_to_look_is_told_by_url_patterns_or_the_key(
    fake: GarFake, connect: Open, url: str, repositories: Any, expected: set[str] | None
) -> None:
    for login in (0, 1):  # the project of a key that google-auth uses, and of one that is sent as a password
        async with connect(login, url=url, repositories=repositories) as registry:
            assert set((await registry.repositories()).names) == (expected or set(fake.names))


async def test_without_any_project_the_keys_to_set_are_named(fake: GarFake, connect: Open) -> None:
    token = fake.login_names.index("access token")
    async with connect(token, repositories={"namespaces": []}) as registry:
        with pytest.raises(CannotEnumerate, match="no Google project is known") as refused:
            await registry.repositories()
    assert "repositories.namespaces" in refused.value.advice
    async with connect(repositories={"namespaces": ["NOT"]}) as registry:
        with pytest.raises(CannotEnumerate, match="not a project, or project/repository"):
            await registry.repositories()
    assert asked(fake) == []


@pytest.mark.parametrize("name", ["everything", "web"])
async def test_a_virtual_repository_that_is_named_is_explained_and_not_walked(
    fake: GarFake, connect: Open, name: str
) -> None:
    async with connect(repositories={"namespaces": [f"{PROJECT}/{name}"]}) as registry:
        with pytest.raises(CannotEnumerate, match="virtual repository") as refused:
            await registry.repositories()
    assert "behind it" in refused.value.advice
    assert asked(fake, "registry") == []


async def test_a_repository_that_is_not_there_is_explained(fake: GarFake, connect: Open) -> None:
    async with connect(repositories={"namespaces": [f"{PROJECT}/nowhere"]}) as registry:
        with pytest.raises(CannotEnumerate, match="there is no repository acme-prod/nowhere"):
            await registry.repositories()


# -- pages and what is in them ---------------------------------------------------------------------------------------------------


async def test_a_later_page_that_fails_makes_it_partial_and_tags_are_asked_for(fake: GarFake, connect: Open) -> None:
    fake.broken_page = "t4"
    async with connect(repositories={"namespaces": [f"{PROJECT}/apps"]}) as registry:
        listing = await registry.repositories()
        assert not listing.complete
        assert "a later page failed" in listing.reason
        tags = await registry.tags(fake.names[0])
        assert (tags.complete, tags.source) == (True, "tags/list")
        assert set(tags.names) == set(fake.images[fake.names[0]])


async def test_pages_in_a_circle_are_left(fake: GarFake, connect: Open) -> None:
    fake.circle = True
    async with connect(url=REGIONAL, repositories={"namespaces": [f"{PROJECT}/apps"]}) as registry:
        listing = await registry.repositories()
    assert (listing.complete, listing.reason) == (False, "the pages go in a circle")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(replace(DEFAULT_LIMITS, pages=2), "more than 2 pages"), (replace(DEFAULT_LIMITS, listing_entries=2), "more than 2 tags")],
)  # fmt: skip
async def test_an_endless_list_is_cut_and_called_partial(connect: Open, limits: Limits, reason: str) -> None:
    async with connect(limits=limits, url=REGIONAL, repositories={"namespaces": [f"{PROJECT}/apps"]}) as registry:
        listing = await registry.repositories()
    assert (listing.complete, listing.reason) == (False, reason)


async def test_nonsense_among_the_images_is_dropped(fake: GarFake, connect: Open) -> None:
    here = f"{LOCATION}-docker.pkg.dev/{PROJECT}/data"
    digest = "sha256:" + "1" * 64
    fake.extra = [
        {"uri": f"{here}/odd@{digest}", "tags": ["good", "bad tag", 5, None, digest], "uploadTime": "yesterday"},
        {"uri": f"{here}/UPPER@{digest}", "tags": ["v1"]},
        {"uri": f"{here}/undated@nodigest", "tags": ["v1"], "uploadTime": None},
        {"uri": f"{LOCATION}-docker.pkg.dev/other/data/x@{digest}", "tags": ["v1"]},
        {"uri": "", "tags": ["v1"]},
        {},
        {"uri": f"{here}/untagged@{digest}", "tags": []},
    ]
    async with connect(repositories={"namespaces": [f"{PROJECT}/data"]}) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == {f"{PROJECT}/data/{name}" for name in ("db", "odd", "undated")}
        assert listing.complete
        assert listing.dropped == 7
        tags = await registry.tags(f"{PROJECT}/data/odd")
        assert (tags.names, tags.digests, tags.pushed) == (("good",), {"good": digest}, {})
        assert (await registry.tags(f"{PROJECT}/data/undated")).digests == {}


async def test_a_repository_with_a_strange_name_is_an_error_and_not_left_out(fake: GarFake, connect: Open) -> None:
    fake.repositories["a?b=c"] = ("DOCKER", "STANDARD_REPOSITORY")
    async with connect() as registry:
        with pytest.raises(UnexpectedAnswer, match="unexpected way"):
            await registry.repositories()


# -- refusals ---------------------------------------------------------------------------------------------------------------------


async def test_without_the_right_for_the_api_a_named_repository_is_walked(fake: GarFake, connect: Open) -> None:
    fake.api_refuses = (403, "PERMISSION_DENIED", "Permission 'artifactregistry.repositories.list' denied")
    async with connect(repositories={"namespaces": [f"{PROJECT}/apps"]}) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == {f"{PROJECT}/apps/{name}" for name in ("app", "base", "tools/cli")}
        assert (listing.complete, listing.source) == (True, "tags/list")
        before = registry.requests
        tags = await registry.tags(fake.names[0])
        assert tags.digests == {tag: image.digest for tag, image in fake.images[fake.names[0]].items()}
        assert registry.requests == before


async def test_without_the_right_for_the_api_a_project_cannot_be_listed(fake: GarFake, connect: Open) -> None:
    fake.api_refuses = (403, "PERMISSION_DENIED", "Permission 'artifactregistry.repositories.list' denied")
    async with connect() as registry:
        with pytest.raises(CannotEnumerate, match="repositories cannot be listed") as refused:
            await registry.repositories()
        assert "roles/artifactregistry.reader" in refused.value.advice
        assert "repositories.names" in refused.value.advice
        assert set((await registry.tags(fake.names[0])).names) == set(fake.images[fake.names[0]])


async def test_of_several_places_one_that_is_refused_makes_it_partial(fake: GarFake, connect: Open) -> None:
    async with connect(repositories={"namespaces": [PROJECT, "other-project"]}) as registry:
        listing = await registry.repositories()
    assert set(listing.names) == set(fake.names)
    assert not listing.complete
    assert "not everything could be listed" in listing.reason


async def test_a_repository_of_a_project_that_is_refused_makes_it_partial(fake: GarFake, connect: Open) -> None:
    fake.denied.add("data")
    async with connect() as registry:
        listing = await registry.repositories()
    assert set(listing.names) == set(fake.names) - {f"{PROJECT}/data/db"}
    assert not listing.complete
    assert "the repository data could not be listed" in listing.reason
    fake.forbidden.add(f"{PROJECT}/data")
    async with connect(repositories={"namespaces": [f"{PROJECT}/data"]}) as registry:
        with pytest.raises(CannotEnumerate, match="or it may not exist"):
            await registry.repositories()


async def test_a_site_that_lets_only_the_registry_through_can_still_walk(
    fake: GarFake, connect: Open, unused_tcp_port: int
) -> None:
    nowhere = {"url": f"http://127.0.0.1:{unused_tcp_port}"}
    async with connect(api=nowhere, repositories={"namespaces": [f"{PROJECT}/data"]}) as registry:
        assert (await registry.repositories()).names == (f"{PROJECT}/data/db",)
    async with connect(api=nowhere) as registry:
        with pytest.raises(NetworkError):
            await registry.repositories()


async def test_a_failure_of_the_api_is_no_reason_to_walk(fake: GarFake, connect: Open) -> None:
    fake.broken_page = "t0"
    async with connect(repositories={"namespaces": [f"{PROJECT}/data"]}) as registry:
        with pytest.raises(Exception, match="INTERNAL") as failed:
            await registry.repositories()
    assert getattr(failed.value, "retryable", False)
    assert asked(fake, "registry") == []
    fake.broken_page, fake.throttled = "", 1000
    async with connect() as registry:
        with pytest.raises(RegistryRateLimited, match="RESOURCE_EXHAUSTED"):
            await registry.repositories()


async def test_a_token_that_is_no_good_is_not_a_missing_right(fake: GarFake, connect: Open) -> None:
    token = fake.login_names.index("access token")
    async with connect(token) as registry:
        fake.expire()
        with pytest.raises(RegistryUnauthorized, match="authentication failed") as refused:
            await registry.repositories()
    assert "expired" in refused.value.advice


async def test_an_expired_token_of_an_identity_is_renewed_for_the_api(fake: GarFake, connect: Open) -> None:
    async with connect() as registry:
        await registry.repositories()
        fake.expire()
        assert set((await registry.repositories()).names) == set(fake.names)


async def test_the_api_is_not_asked_in_plain_http_unless_that_was_allowed(connect: Open) -> None:
    with pytest.raises(ConfigError, match="plain HTTP"):
        async with connect(url=REGIONAL, insecure=False):
            pass


# -- remote repositories --------------------------------------------------------------------------------------------------------------


async def test_tags_that_are_only_upstream_are_withheld_unless_wanted(fake: GarFake, connect: Open) -> None:
    name = fake.names[3]
    digest = fake.images[name]["v1"].digest
    answer = {"tags": ["v1", "v2"], "manifest": {digest: {"tag": ["v1"], "timeUploadedMs": "1000"}}}
    for materialize, withheld in ((False, {"v2"}), (True, set())):
        async with connect(materialize=materialize) as registry:
            await registry.repositories()
            await registry.tags(name)
            fake.lists[f"/v2/{name}/tags/list?n=10000"] = (200, answer, {})
            tags = await registry.tags(name)
            assert set(tags.withheld) == withheld
            assert tags.names == ("v1", "v2")
            assert tags.digests == {"v1": digest}
        fake.lists.clear()


# -- gcr.io --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def legacy(fake: GarFake) -> tuple[str, ...]:
    """Make it the repository behind gcr.io; the names of its images."""
    fake.gcr, fake.location = "gcr.io", "us"
    fake.repositories = {"gcr.io": ("DOCKER", "STANDARD_REPOSITORY")}
    fake.images = {
        name.replace("/apps/", "/").replace("/cache/", "/").replace("/data/", "/"): images
        for name, images in fake.images.items()
    }
    return tuple(fake.images)


async def test_a_gcr_host_is_one_repository_whose_images_follow_the_project(
    fake: GarFake, connect: Open, legacy: tuple[str, ...]
) -> None:
    async with connect(url=f"gcr.io/{PROJECT}", repositories={"namespaces": []}) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == set(legacy)
        assert set((await registry.tags(legacy[0])).names) == set(fake.images[legacy[0]])
    base = f"/v1/projects/{PROJECT}/locations/us/repositories/gcr.io"
    assert set(asked(fake)) == {base, f"{base}/dockerImages"}


async def test_a_gcr_host_is_walked_where_the_api_is_refused(
    fake: GarFake, connect: Open, legacy: tuple[str, ...], proxy: FakeProxy
) -> None:
    fake.api_refuses = (403, "PERMISSION_DENIED", "Artifact Registry API has not been used in project 1 before")
    async with connect(url="http://gcr.io", proxy=proxy.url) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == set(legacy)
        assert (listing.complete, listing.source) == (True, "tags/list")
        assert set((await registry.tags(legacy[0])).names) == set(fake.images[legacy[0]])


# -- who we are ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "identity", "detail"),
    [
        ("key by google-auth", KEY_EMAIL, "service account key"),
        ("key as password", KEY_EMAIL, "service account key"),
        ("access token", "", "an hour at most"),
        ("anonymous", "", ""),
    ],
)
async def test_says_who_we_are(fake: GarFake, connect: Open, login: str, identity: str, detail: str) -> None:
    async with connect(fake.login_names.index(login)) as registry:
        standing = await registry.standing()
    assert standing.identity == identity
    assert detail in standing.detail
    assert (standing.expires, standing.may_write) == (None, None)


async def test_an_unknown_user_is_who_he_says(connect: Open, fake: GarFake) -> None:
    anonymous = fake.login_names.index("anonymous")
    async with connect(anonymous, username="me", password="secret") as registry:
        assert (await registry.standing()).identity == "me"
