"""Quay: who may use its API, what its refusals mean, and listings that go wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensor.catalog.crawl import crawl
from sensor.catalog.diff import RepositoryState
from sensor.config.schema import Http, Registry
from sensor.errors import RegistryError
from sensor.pacing import Rate
from sensor.registry.client import RegistryClient
from sensor.registry.credentials import ConfiguredCredential
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.kind import Connection, Opening
from sensor.registry.kinds.quay import QUAY, explain, listing_rate, method, recognise
from sensor.registry.kinds.quay_api import QuayApi
from sensor.registry.login import Answer, Basic, StaticToken
from sensor.registry.port import Registry as Client
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Reply, Retry, Transport
from tests.fakes.registries.provider import Login
from tests.fakes.registries.quay import OAUTH_TOKEN, ROBOT, ROBOT_TOKEN, QuayFake

OAUTH = {"username": "$oauthtoken", "password": OAUTH_TOKEN}


def settings(**more: Any) -> Registry:
    return Registry.model_validate({"name": "q", "url": "quay.io", **more})


@contextlib.asynccontextmanager
async def opened(fake: QuayFake, **more: Any) -> AsyncIterator[Client]:
    configured = fake.settings(Login(name="one", settings=more or OAUTH))
    registry = open_registry(configured, Http(), retry=Retry(attempts=2, first=0.001))
    try:
        yield registry
    finally:
        await registry.close()


@pytest.mark.parametrize(
    ("name", "shown", "complains"),
    [
        ("acme+ci", "robot account", False),
        ("$oauthtoken", "OAuth token", False),
        ("$app", "application-specific token", False),
        ("$token", "access token", False),
        ("alice", "user name and password", False),
        ("acme/ci", "user name and password", True),
        ("acme ci", "user name and password", True),
        ("oauthtoken", "user name and password", True),
        ("", "user name and password", True),
    ],
)
def test_ways_to_log_in_are_told_by_the_user_name(name: str, shown: str, complains: bool) -> None:
    found = method(settings(), Basic(username=name, password=Secret("p")))
    assert (found.name, bool(found.complaint)) == (shown, complains)


def test_a_bearer_token_and_nobody() -> None:
    assert "$oauthtoken" in method(settings(), StaticToken(token=Secret("t"))).complaint
    assert method(settings(), None).name == "anonymous"


def answering(body: bytes, *challenges: str) -> Reply:
    return Reply(
        status=401, url="https://q.example/v2/", headers={}, body=body, header_lists={"www-authenticate": challenges}
    )


def test_a_self_hosted_quay_is_recognised_by_its_token_service_or_its_odd_answer() -> None:
    assert recognise(answering(b"", 'Bearer realm="https://q.example/v2/auth",service="q.example"'))
    assert recognise(answering(b"true\n"))
    assert recognise(answering(b"{}", 'Bearer realm="https://q.example/token"', "Basic realm=x")) is None
    assert recognise(answering(b"")) is None


async def test_an_oauth_token_lists_without_making_pulls(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        listing = await registry.repositories()
        assert (listing.source, listing.complete) == ("Quay API", True)
        assert "team/chart" not in listing.names
        tags = await registry.tags("team/app")
        assert set(tags.digests) == {"v1", "v2", "v3", "v4", "v5"}
        assert fake.count("registry", "/manifests/") == 0
        assert all(one.authorization == f"Bearer {OAUTH_TOKEN}" for one in fake.seen if "/api/" in one.path)


async def test_a_robot_never_shows_itself_to_the_api(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake, username=ROBOT, password=ROBOT_TOKEN) as registry:
        assert (await registry.repositories()).source == "_catalog"
        assert (await registry.tags("team/app")).source == "tags/list"
        assert fake.count("registry", "/api/") == 0
        standing = await registry.standing()
        assert (standing.identity, standing.may_write, standing.expires) == (ROBOT, None, None)
        scopes = [one.path for one in fake.seen if one.path.startswith("/v2/auth")]
        assert not any("registry" in path for path in scopes)


async def test_only_the_wanted_namespaces_are_asked_for(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake, **OAUTH, repositories={"include": ["team/*"]}) as registry:
        assert len((await registry.repositories()).names) == 5
        assert fake.count("registry", "/api/v1/user/") == 0
        assert {one.path.partition("namespace=")[2][:4] for one in fake.seen if "namespace=" in one.path} == {"team"}


async def test_public_repositories_of_a_namespace_are_listed_as_well(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake, **OAUTH, repositories={"namespaces": ["team"]}) as registry:
        fake.ungranted = {"team/base"}
        assert "team/base" in (await registry.repositories()).names


async def test_an_anonymous_client_looks_at_the_public_repositories_that_are_named(tmp_path: Path) -> None:
    named = {"names": ["team/base"]}
    async with QuayFake(tmp_path) as fake, opened(fake, auth="anonymous", repositories=named) as registry:
        seen = await crawl(registry, settings(repositories=named))
        assert [(one.name, one.state) for one in seen.repositories] == [("team/base", RepositoryState.PRESENT)]
        assert seen.error == ""


async def test_the_api_is_asked_at_its_pace(tmp_path: Path) -> None:
    turns: list[float] = []

    async def sleep(seconds: float) -> None:
        turns.append(seconds)

    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        assert isinstance(registry, RegistryClient)
        paced = Transport(sleep=sleep)
        configured = settings(url=fake.url, insecure=True, **OAUTH)
        connection = Connection(
            opening=Opening(settings=configured, http=Http()),
            address=registry.session.address,
            transport=paced,
            session=registry.session,
            credentials=ConfiguredCredential(configured),
        )
        api = QuayApi(connection, Rate(per_second=1, burst=1))
        assert len((await api.tags("team/app")).names) == 5
        await paced.close()
        assert len(turns) == 2  # three pages, the first at once
        assert turns[-1] > 1


async def test_without_namespaces_those_of_the_token_are_listed(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        assert fake.count("registry", "namespace=alice") == 1
        assert fake.count("registry", "namespace=team") == 3


async def test_a_listing_that_goes_in_a_circle_is_partial(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        fake.api_pages = "circle"
        listing = await registry.repositories()
        assert not listing.complete
        assert "circle" in listing.reason
        assert set(listing.names) <= set(fake.names)


async def test_a_later_page_that_fails_makes_the_listing_partial(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        await registry.ping()
        original = fake._api

        def failing(request: Any) -> Any:
            later = request.query.get("next_page") or request.query.get("page", "1") != "1"
            return _broken() if later else original(request)

        fake._api = failing  # type: ignore[method-assign]
        listing = await registry.repositories()
        assert (listing.complete, len(listing.names)) == (False, 2)
        tags = await registry.tags("team/app")
        assert (tags.complete, len(tags.names)) == (False, 2)
        assert "later page" in tags.reason


def _broken() -> Any:
    from aiohttp import web

    return web.Response(status=200, text="[]", content_type="application/json")


async def test_a_throttled_api_is_said_to_be_throttled(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        fake.rate_limited = 1
        assert (await registry.repositories()).complete
        fake.rate_limited = 100
        with pytest.raises(RegistryRateLimited, match="429"):
            await registry.tags("team/app")


async def test_a_missing_repository_is_not_an_empty_one(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        with pytest.raises(RegistryNotFound):
            await registry.tags("team/nosuch")


async def test_a_wrong_oauth_token_falls_back_to_the_catalogue_and_fails_there(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake, username="$oauthtoken", password="no") as registry:
        with pytest.raises(RegistryError, match="authentication failed"):
            await registry.repositories()


async def test_an_expired_tag_is_gone(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake, opened(fake) as registry:
        fake.expired_tags = {"v1"}
        with pytest.raises(RegistryNotFound, match="TAG_EXPIRED"):
            await registry.manifest("team/app", "v1")


def refusal(status: int, code: str, error: RegistryError | None = None, *, scope: str = "") -> Refusal:
    body = b'{"errors":[{"code":"%s","message":"m"}]}' % code.encode()
    return Refusal(
        error=error or UnexpectedAnswer(f"status {status}"),
        answer=Answer(status=status, body=body),
        credential=Basic(username=ROBOT, password=Secret("p")),
        scope=scope,
    )


def test_an_application_repository_is_no_image_and_a_disabled_namespace_is_said() -> None:
    assert isinstance(explain(refusal(405, "UNSUPPORTED")), ImageWithheld)
    denied = explain(refusal(405, "DENIED"))
    assert isinstance(denied, RegistryForbidden)
    assert "disabled" in denied.advice
    assert "Read on the repository" in explain(refusal(401, "UNAUTHORIZED", RegistryForbidden("no right"))).advice
    assert "repositories.names" in explain(refusal(401, "UNAUTHORIZED", CannotEnumerate("no"))).advice
    other = UnexpectedAnswer("x")
    assert explain(refusal(418, "TEAPOT", other)) is other


def test_only_quay_io_has_the_documented_rate() -> None:
    rate = listing_rate(settings())
    assert rate is not None
    assert rate.per_second <= 5
    assert listing_rate(settings(url="quay.example.com", provider="quay")) is None
    assert QUAY.name == "quay"


async def test_a_refused_api_token_is_said_although_the_catalogue_stands_in(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake:
        robot = {"username": ROBOT, "password": ROBOT_TOKEN, "api": {"token": "expired"}}
        async with opened(fake, **robot) as registry:
            listing = await registry.repositories()
            assert (listing.source, set(fake.names) <= set(listing.names)) == ("_catalog", True)
            (note,) = listing.notes
            assert note.startswith("api.token was refused: GET ")
            assert note.endswith("; _catalog was used instead")
            assert "expired" not in note.replace("token_expired", "")
        async with opened(fake, username=ROBOT, password=ROBOT_TOKEN) as registry:
            assert (await registry.repositories()).notes == ()  # a robot alone is as documented


async def test_a_namespace_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake:
        async with opened(fake, **OAUTH, repositories={"namespaces": ["team", "taem"]}) as registry:
            listing = await registry.repositories()
            assert listing.names
            assert [note.partition(":")[0] for note in listing.notes] == ["namespace taem"]
        async with opened(fake, **OAUTH, repositories={"namespaces": ["taem"]}) as registry:
            listing = await registry.repositories()
            assert (listing.names, len(listing.notes)) == ((), 1)


async def test_an_api_token_has_a_standing_of_its_own(tmp_path: Path) -> None:
    async with QuayFake(tmp_path) as fake:
        robot = {"username": ROBOT, "password": ROBOT_TOKEN, "api": {"token": OAUTH_TOKEN}}
        async with opened(fake, **robot) as registry:
            standing = await registry.standing()
            assert (standing.identity, standing.whose) == ("alice", "api.token")
        async with opened(fake) as registry:
            assert (await registry.standing()).whose == ""
