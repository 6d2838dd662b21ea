"""Docker Hub's API: its own login, namespaces and filters, odd and hostile pages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.schema import Http, Registry
from sensor.errors import ConfigError, RegistryError, SensorError
from sensor.limits import Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.dockerhub_api import HubLogin, full_name, queries
from sensor.registry.login import Basic
from sensor.registry.native import Api
from sensor.secret import InPlace, Secret
from sensor.transport import Retry, Transport
from tests.fakes.registries.dockerhub import OAT, ORGANISATION, PAT, USER, DockerHubFake

QUICK = Retry(attempts=2, first=0.001, most=0.01)


@contextlib.asynccontextmanager
async def opened(
    fake: DockerHubFake, *, login: int | None = 0, limits: Limits | None = None, **changes: Any
) -> AsyncIterator[RegistryClient]:
    """A client by one of the fake's logins (None: by `changes` alone)."""
    given = {} if login is None else fake.logins[login].settings
    merged = {
        "name": "fake",
        "url": fake.url,
        "provider": "dockerhub",
        "insecure": True,
        **fake.base,
        **given,
        **changes,
    }
    registry = open_registry(Registry.model_validate(merged), Http(), limits or Limits(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


def page(*names: object, count: object = None, following: str | None = None) -> web.Response:
    results = [{"name": name} if isinstance(name, str) else name for name in names]
    return web.json_response({"count": count, "next": following, "results": results})


# -- what to list ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "asked"),
    [
        (["*"], [("acme", ""), ("beta", "")]),
        (["acme/*", "beta/x?y"], [("acme", ""), ("beta", "")]),
        (["acme/app-*", "beta/tool"], [("acme", "app-"), ("beta", "tool")]),
        (["acme/*-web", "acme/api-*"], [("acme", "-web"), ("acme", "api-"), ("beta", "")]),
        (["acme/app-*", "**/x"], [("acme", ""), ("beta", "")]),
        (["acme/[ab]-service", "nginx"], [("acme", "-service"), ("beta", "")]),
        (["acme/[ab]"], [("acme", ""), ("beta", "")]),
        ([f"acme/{letter}{letter}*" for letter in "abcdef"], [("acme", ""), ("beta", "")]),
        (["acme/UPPER*"], [("acme", ""), ("beta", "")]),
    ],
)
def test_filters_are_pushed_down_where_all_patterns_allow_it(include: list[str], asked: list[tuple[str, str]]) -> None:
    registry = Registry.model_validate({"name": "a", "url": "docker.io", "repositories": {"include": include}})
    assert list(queries(registry, ("acme", "beta"))) == asked


def test_official_images_are_in_library() -> None:
    assert full_name("nginx") == "library/nginx"
    assert full_name("acme/app") == "acme/app"


async def test_namespaces_of_the_user_and_the_largest_pages_are_asked_for(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake) as registry:
        listing = await registry.repositories()
        assert sorted(listing.names) == sorted(fake.names)
        assert listing.source == "Docker Hub API"
        assert fake.count("api", f"/v2/namespaces/{USER}/repositories") == 1
        assert fake.count("api", "page_size=100&ordering=-last_updated") == 4
        await registry.tags("team/app")
        assert fake.count("api", "/tags?page_size=100&ordering=last_updated") == 3
        assert fake.count("api", "/v2/auth/token") == 1


async def test_a_filter_is_sent(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, repositories={"include": ["team/ap*"]}) as registry:
        assert (await registry.repositories()).names == ("team/app",)
        assert fake.count("api", "name=ap") == 1
        assert fake.count("api", "/v2/repositories/namespaces") == 0


async def test_an_unavailable_list_of_namespaces_leaves_the_own_one(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, login=1) as registry:
        listing = await registry.repositories()
        assert len(listing.names) == 5
        assert listing.complete
        assert (await registry.standing()).identity == ORGANISATION


async def test_the_urls_namespace_bounds_the_listing(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, url=f"{fake.url}/team") as registry:
        assert len((await registry.repositories()).names) == 5
        assert fake.count("api", f"/v2/namespaces/{USER}") == 0


async def test_without_login_and_namespaces_the_keys_are_named(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, login=None) as registry:
        with pytest.raises(CannotEnumerate, match=r"repositories\.namespaces") as refused:
            await registry.repositories()
        assert "repositories.names" in refused.value.advice
        assert fake.count("api") == 0
        assert (await registry.standing()).identity == ""


async def test_a_bearer_token_does_not_list_anonymously_instead(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake:
        login: dict[str, Any] = {"token": PAT, "repositories": {"namespaces": ["team"]}}
        async with opened(fake, login=None, **login) as registry:
            with pytest.raises(CannotEnumerate, match="as password"):
                await registry.repositories()


async def test_a_namespace_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake:
        async with opened(fake, repositories={"namespaces": ["nobody"]}) as registry:
            with pytest.raises(CannotEnumerate, match=r"repositories\.namespaces"):
                await registry.repositories()
        async with opened(fake, repositories={"namespaces": ["nobody", "Team"]}) as registry:
            listing = await registry.repositories()
            assert len(listing.names) == 5
            assert not listing.complete
            assert "nobody" in listing.reason


async def test_a_mirrors_credential_does_not_go_to_docker_hub(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, api={}) as registry:
        with pytest.raises(CannotEnumerate, match=r"api\.url"):
            await registry.repositories()
        assert sorted((await registry.tags("team/app")).names) == ["v1", "v2", "v3", "v4", "v5"]
        assert fake.count("api") == 0


def test_the_api_is_not_asked_in_plain_http() -> None:
    odd = Registry.model_validate({"name": "a", "url": "docker.io", "api": {"url": "http://hub.example.com"}})
    with pytest.raises(ConfigError, match="plain HTTP"):
        open_registry(odd)


# -- logging in --------------------------------------------------------------------------------------------------------


class Given:
    """A credential source that counts."""

    def __init__(self, credential: Basic | None) -> None:
        self.value = credential
        self.renewed = 0

    async def credential(self, *, renew: bool) -> Basic | None:
        self.renewed += renew
        return self.value


@contextlib.asynccontextmanager
async def hub_login(fake: DockerHubFake, source: Given, now: list[float]) -> AsyncIterator[HubLogin]:
    transport = Transport(retry=QUICK)
    try:
        yield HubLogin(Api(f"http://{fake.address('api')}", transport, insecure=True), source, clock=lambda: now[0])
    finally:
        await transport.close()


def user(secret: str = PAT) -> Basic:
    return Basic(username=USER, password=Secret(secret))


async def test_the_token_is_renewed_before_its_ten_minutes_are_over(tmp_path: Path) -> None:
    now, source = [0.0], Given(user())
    async with DockerHubFake(tmp_path) as fake, hub_login(fake, source, now) as login:
        first = await login.headers(False)
        assert first["Authorization"].startswith("Bearer ")
        now[0] = 530.0
        assert await login.headers(False) == first
        now[0] = 541.0
        second = await login.headers(False)
        assert second != first
        assert await login.headers(True) != second
        assert source.renewed == 1
        assert PAT not in repr(login)
        assert first["Authorization"].removeprefix("Bearer ") not in repr(login)
        source.value = None
        assert await login.headers(False) == {}


async def test_many_requests_that_are_refused_at_once_log_in_once(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, hub_login(fake, Given(user()), [0.0]) as login:
        first = await login.headers(False)
        found = await asyncio.gather(*(login.headers(True) for _ in range(10)))
        assert len({one["Authorization"] for one in found}) == 1
        assert found[0] != first
        assert fake.count("api", "/v2/auth/token") == 2


async def test_a_refused_login_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    now, source = [0.0], Given(user("dckr_pat_no"))
    async with DockerHubFake(tmp_path) as fake, hub_login(fake, source, now) as login:
        for _ in range(3):
            with pytest.raises(RegistryUnauthorized):
                await login.headers(False)
        assert fake.count("api", "/v2/auth/token") == 1
        now[0] = 601.0
        with pytest.raises(RegistryUnauthorized):
            await login.headers(False)
        assert fake.count("api", "/v2/auth/token") == 2
        source.value = user()
        assert await login.headers(False)


async def test_a_throttled_login_waits(tmp_path: Path) -> None:
    now = [0.0]
    async with DockerHubFake(tmp_path) as fake, hub_login(fake, Given(user()), now) as login:
        fake.api_throttled = 1
        for _ in range(2):
            with pytest.raises(RegistryRateLimited):
                await login.headers(False)
        assert fake.count("api") == 1
        now[0] = 61.0
        assert await login.headers(False)


async def test_a_refused_login_lists_nothing_but_tags_come_from_the_registry(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake:
        own = {**fake.base["api"], "username": USER, "password": "dckr_pat_no"}
        async with opened(fake, api=own, repositories={"namespaces": ["team"]}) as registry:
            with pytest.raises(RegistryUnauthorized, match="authentication failed"):
                await registry.repositories()
            tags = await registry.tags("team/app")
            assert len(tags.names) == 5
            assert tags.source == "tags/list"
            assert fake.count("api", "/v2/auth/token") == 1


async def test_the_api_may_have_its_own_login(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake:
        own = {**fake.base["api"], "username": ORGANISATION, "password": OAT}
        async with opened(fake, login=None, api=own) as registry:
            assert len((await registry.repositories()).names) == 5
            assert not any(one.authorization.startswith("Basic") for one in fake.seen)


async def test_the_api_may_have_a_token(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake:
        source = Given(user())
        async with hub_login(fake, source, [0.0]) as login:
            token = (await login.headers(False))["Authorization"].removeprefix("Bearer ")
        own = {**fake.base["api"], "token": InPlace(Secret(token))}
        async with opened(fake, login=None, api=own, repositories={"namespaces": ["team"]}) as registry:
            assert len((await registry.repositories()).names) == 5
            assert fake.count("api", "/v2/auth/token") == 1
            fake.expire()
            with pytest.raises(CannotEnumerate, match="authentication failed"):
                await registry.repositories()


async def test_an_unusable_token_is_refused(tmp_path: Path) -> None:
    class Odd(DockerHubFake):
        def _hub_login(self, given: dict[str, str]) -> web.StreamResponse:
            return web.json_response({"access_token": "two\nlines"})

    async with Odd(tmp_path) as fake, opened(fake) as registry:
        with pytest.raises(UnexpectedAnswer, match="no usable token"):
            await registry.repositories()


async def test_the_apis_limit_is_waited_for(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        fake.api_throttled = 1
        assert len((await registry.tags("team/app")).names) == 5
        fake.api_throttled = 1000
        with pytest.raises(RegistryRateLimited, match="API limits") as limited:
            await registry.tags("team/app")
        assert limited.value.retryable


# -- pages -------------------------------------------------------------------------------------------------------------

TEAM: dict[str, Any] = {"repositories": {"namespaces": ["team"]}}


async def test_a_digest_that_is_not_told_is_left_out(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake) as registry:
        fake.null_digests = {"v2"}
        tags = await registry.tags("team/app")
        assert set(tags.names) - set(tags.digests) == {"v2"}
        assert set(tags.pushed) == set(tags.names)
        assert tags.names[0] == "v5"


async def test_nonsense_among_the_entries_is_counted(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        odd: list[object] = [None, 5, {"name": None}, "UPPER", "a/../b", "good", []]
        fake.answers = [page(*odd, count=7)]
        listing = await registry.repositories()
        assert listing.names == ("team/good",)
        assert listing.dropped == 6
        assert listing.complete
        ten = [{"name": "v1", "digest": "sha256:no", "tag_last_pushed": "yesterday"}, {"name": "sha256:" + "a" * 64}]
        fake.answers = [page(*ten, count=2)]
        tags = await registry.tags("team/app")
        assert (tags.names, tags.digests, tags.pushed, tags.dropped) == (("v1",), {}, {}, 1)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"count": 3}, {"count": 3}, "changed while it was read"),
        ({"count": 2}, {"count": 1}, "changed while it was read"),
        ({"count": None}, {"count": None}, ""),
        ({"count": 2}, {"count": 3}, ""),
    ],
)
async def test_an_entry_that_jumps_ahead_makes_the_listing_partial(
    first: dict[str, Any], second: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        there = f"http://{fake.address('api')}/v2/x?page=2"
        fake.answers = [page("a", following=there, **first), page("b", **second)]
        listing = await registry.repositories()
        assert listing.names == ("team/a", "team/b")
        assert reason in listing.reason
        assert listing.complete == (not reason)


async def test_a_later_page_that_fails_makes_the_listing_partial(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        there = f"http://{fake.address('api')}/v2/x?page=2"
        for answer in (web.Response(status=404), web.Response(text="<html>"), web.json_response({"results": 5})):
            fake.answers = [page("a", following=there), answer]
            listing = await registry.repositories()
            assert listing.names == ("team/a",)
            assert "a later page failed" in listing.reason


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/v2/x", "https://evil.example/x", "http://[::1", "x", "//evil"])
async def test_no_page_elsewhere_is_fetched(where: str, tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        fake.answers = [page("a", following=where)]
        listing = await registry.repositories()
        assert listing.names == ("team/a",)
        assert not listing.complete


async def test_pages_in_a_circle_and_without_end_are_left(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake:
        there = f"http://{fake.address('api')}/v2/x?page="
        async with opened(fake, **TEAM) as registry:
            fake.answers = [page("a", following=f"{there}2"), page("b", following=f"{there}2")]
            listing = await registry.repositories()
            assert (listing.names, listing.reason) == (("team/a", "team/b"), "the pages go in a circle")
            fake.answers = [page("a", following=f"{there}{number}") for number in range(50)]
            assert "circle" in (await registry.repositories()).reason
            assert len(fake.answers) > 40
        async with opened(fake, limits=Limits(pages=3), **TEAM) as registry:
            fake.answers = [page(f"a{number}", following=f"{there}{number}") for number in range(50)]
            listing = await registry.repositories()
            assert (len(listing.names), listing.reason) == (3, "more than 3 pages")
        async with opened(fake, limits=Limits(listing_entries=2), **TEAM) as registry:
            fake.answers = [page("a", "b", "c", count=3)]
            listing = await registry.repositories()
            assert (len(listing.names), listing.complete) == (2, False)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"results": {}}', b"<!doctype html><title>Docker</title>", b"\xff", b"[" * 9000]
)
async def test_a_first_page_that_cannot_be_read_is_an_error(body: bytes, tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        fake.answers = [web.Response(body=body, content_type="application/json")]
        with pytest.raises(RegistryError) as odd:
            await registry.repositories()
        assert not isinstance(odd.value, CannotEnumerate)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_tags_come_from_the_registry_when_the_api_refuses(status: int, tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        await registry.repositories()
        fake.answers = [web.Response(status=status), web.Response(status=status)]
        tags = await registry.tags("team/app")
        assert tags.source == "tags/list"
        assert len(tags.names) == 5


async def test_a_forbidden_listing_names_scope_and_keys(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        fake.answers = [web.json_response({"detail": "not for organisation tokens"}, status=403)]
        with pytest.raises(CannotEnumerate, match="not for organisation tokens") as refused:
            await registry.repositories()
        assert "repo:read" in refused.value.advice
        assert "repositories.names" in refused.value.advice


async def test_a_name_of_three_components_is_left_to_the_registry(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, opened(fake, **TEAM) as registry:
        with pytest.raises(SensorError):
            await registry.tags("team/app/deep")
        assert fake.count("api") == 0
        assert fake.count("registry", "/v2/team/app/deep/tags/list") > 0


async def test_the_secret_goes_into_no_message(tmp_path: Path) -> None:
    secret = "dckr_pat_no-such-secret"
    async with DockerHubFake(tmp_path) as fake, opened(fake, login=None, username=USER, password=secret) as registry:
        with pytest.raises(RegistryError) as refused:
            await registry.repositories()
        assert secret not in json.dumps([str(refused.value), repr(refused.value.__cause__), repr(registry)])
