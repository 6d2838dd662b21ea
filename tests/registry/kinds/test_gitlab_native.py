"""GitLab's listings: groups, projects and users, tags by date or by name, odd pages, and what a token says of itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, NetworkError, RegistryError, SecretError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import CannotEnumerate, RegistryForbidden, RegistryRateLimited, RegistryUnavailable
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.gitlab_native import _outermost
from sensor.transport import Retry
from tests.fakes.registries.gitlab import (
    DEPLOY,
    DEPLOY_USER,
    GROUP,
    NO_API,
    OAUTH,
    PERSONAL,
    PROJECT,
    PROJECT_BOT,
    USER,
    WRITES,
    GitlabFake,
)
from tests.fakes.registries.provider import TAGS

QUICK = Retry(attempts=3, first=0.001, most=0.01)


@contextlib.asynccontextmanager
async def opened(fake: GitlabFake, limits: Limits = DEFAULT_LIMITS, **more: Any) -> AsyncIterator[RegistryClient]:
    given = {"username": USER, "password": PERSONAL} if not {"username", "password", "token"} & set(more) else {}
    configured = {"name": "fake", "url": fake.url, "provider": "gitlab", "insecure": True, **given, **more}
    registry = open_registry(Settings.model_validate(configured), Http(), limits, retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


def namespaces(*names: str) -> dict[str, object]:
    return {"repositories": {"namespaces": list(names)}}


def includes(*patterns: str) -> dict[str, object]:
    return {"repositories": {"include": list(patterns)}}


# -- repositories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, {"team/app", "team/base", "team/cli/tool", "team/sub/db", "team/sub/edge/x/y"}),
        (namespaces("team/sub"), {"team/sub/db", "team/sub/edge/x/y"}),
        (namespaces("/team/cli/", "team/app"), {"team/cli/tool", "team/app"}),
        (includes("team/sub/**"), {"team/sub/db", "team/sub/edge/x/y"}),
        (includes("team/sub/edge/x/*"), {"team/sub/edge/x/y"}),
        (includes("team/cli/tool", "team/sub/d*"), {"team/cli/tool", "team/sub/db", "team/sub/edge/x/y"}),
    ],
)
async def test_lists_what_is_wanted(more: dict[str, object], found: set[str], tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **more) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == found
        assert listing.complete
        assert listing.source == "GitLab API"
        if more:
            assert fake.count("gitlab", "/api/v4/groups") == 0


async def test_the_urls_path_bounds_the_listing(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, url=f"{fake.url}/team/sub/edge/x") as registry:
        assert (await registry.repositories()).names == ("team/sub/edge/x/y",)
        with pytest.raises(RegistryForbidden, match="outside of team/sub/edge/x"):
            await registry.tags("team/app")


async def test_a_project_token_is_a_member_of_projects_alone(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, username=PROJECT_BOT, password=PROJECT) as registry:
        assert set((await registry.repositories()).names) == set(fake.names)
        assert fake.count("gitlab", "/api/graphql") == 5


async def test_groups_cover_what_lies_below_them(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        # one group, whose six repositories (one is being deleted) are three pages
        assert fake.count("gitlab", "/api/graphql") == 3
    assert _outermost(["a/b", "a", "ab/c", "a/b/c", "x/y"]) == ("a", "ab/c", "x/y")


async def test_the_projects_of_a_user_are_found_below_the_users_name(tmp_path: Path) -> None:
    class OfUser(GitlabFake):
        def _holder(self, field: str, path: str, after: int, *, known: bool) -> dict[str, Any] | None:
            return None if (field, path) == ("group", "team") else super()._holder(field, path, after, known=known)

    async with OfUser(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == set(fake.names)
        assert listing.complete


class WithCapitals(GitlabFake):
    """Groups and projects are called as somebody wrote them once; images are always in small letters (GitLab 6.1)."""

    def _holder(self, field: str, path: str, after: int, *, known: bool) -> dict[str, Any] | None:
        return super()._holder(field, path.lower(), after, known=known)

    def _rest(self, request: web.Request) -> web.Response:
        if request.path.endswith("/api/v4/groups"):
            return web.json_response([{"id": 1, "full_path": "Team"}])
        return super()._rest(request)


async def test_capitals_in_the_names_of_groups_hide_nothing(tmp_path: Path) -> None:
    async with WithCapitals(tmp_path) as fake:
        async with opened(fake) as registry:
            assert set((await registry.repositories()).names) == set(fake.names)
        async with opened(fake, **namespaces("Team/Sub")) as registry:
            assert set((await registry.repositories()).names) == {"team/sub/db", "team/sub/edge/x/y"}
        async with opened(fake, url=f"{fake.url}/Team/App") as registry:
            assert (await registry.repositories()).names == ("team/app",)
            assert (await registry.tags("team/app")).names


async def test_a_user_of_whose_projects_one_fails_is_partial(tmp_path: Path) -> None:
    class OfUser(GitlabFake):
        async def _graphql(self, request: web.Request) -> web.Response:
            variables = json.loads(await request.read())["variables"]
            if variables.get("path") == "team/cli":
                return web.json_response({"data": None, "errors": [{"message": "Internal server error"}]})
            return await super()._graphql(request)

        def _holder(self, field: str, path: str, after: int, *, known: bool) -> dict[str, Any] | None:
            return None if (field, path) == ("group", "team") else super()._holder(field, path, after, known=known)

    async with OfUser(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == {"team/app", "team/base"}
        assert "team/cli could not be listed" in listing.reason


async def test_a_user_who_disappears_between_pages_is_partial(tmp_path: Path) -> None:
    class OfUser(GitlabFake):
        def _holder(self, field: str, path: str, after: int, *, known: bool) -> dict[str, Any] | None:
            gone = (field, path) == ("group", "team") or (field == "namespace" and after > 0)
            return None if gone else super()._holder(field, path, after, known=known)

    async with OfUser(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == {"team/app", "team/base"}
        assert "disappeared" in listing.reason


async def test_a_page_with_errors_beside_its_rows_is_partial(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        nodes = [{"id": "gid://gitlab/ContainerRepository/1", "path": "team/app"}, None]
        data = {"group": {"containerRepositories": {"nodes": nodes}}}
        fake.api_failures = [web.json_response({"data": data, "errors": [{"message": "Timeout"}]})]
        listing = await registry.repositories()
        assert listing.names == ("team/app",)
        assert "Timeout" in listing.reason


async def test_what_was_out_of_use_is_tried_again_with_the_next_listing(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        fake.graphql = fake.metadata_database = False
        assert (await registry.repositories()).complete
        assert (await registry.tags("team/app")).source == "tags/list"
        fake.graphql = fake.metadata_database = True
        assert (await registry.repositories()).complete
        assert (await registry.tags("team/app")).source == "GitLab API"


async def test_a_token_that_was_refused_is_shown_again_with_the_next_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "glpat-expired")
    token = {"api": {"token": {"env": "API_TOKEN"}}}
    async with GitlabFake(tmp_path) as fake, opened(fake, **token, **namespaces("team")) as registry:
        with pytest.raises(CannotEnumerate):
            await registry.repositories()
        monkeypatch.setenv("API_TOKEN", GROUP)
        assert set((await registry.repositories()).names) == set(fake.names)


async def test_namespaces_that_are_not_there_are_named(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        async with opened(fake, **namespaces("team/sub", "nosuch", "team/nosuch")) as registry:
            listing = await registry.repositories()
            assert len(listing.names) == 2
            assert not listing.complete
            assert "nosuch, team/nosuch" in listing.reason
        async with opened(fake, **namespaces("nosuch")) as registry:
            with pytest.raises(CannotEnumerate, match="nosuch") as refused:
                await registry.repositories()
            assert "repositories.namespaces" in refused.value.advice


async def test_rest_lists_where_graphql_is_out_of_use(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        fake.graphql = False
        async with opened(fake, **namespaces("team/sub", "team/app")) as registry:
            listing = await registry.repositories()
            assert set(listing.names) == {"team/sub/db", "team/sub/edge/x/y", "team/app"}
            tags = await registry.tags("team/app")
            assert sorted(tags.names) == sorted(TAGS)
            assert tags.source == "tags/list"
            assert fake.count("gitlab", "/api/graphql") == 2
        async with opened(fake, **namespaces("nosuch")) as registry:
            with pytest.raises(CannotEnumerate, match="nosuch"):
                await registry.repositories()


async def test_errors_of_graphql_lead_to_rest_as_well(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        fake.api_failures = [web.json_response({"errors": [{"message": "Query has complexity of 999"}]})]
        listing = await registry.repositories()
        assert set(listing.names) == set(fake.names)


async def test_what_is_being_deleted_is_gone(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake) as registry:
        fake.deleting = ("team/old", "team/older", "team/oldest")
        listing = await registry.repositories()
        assert set(listing.names) == set(fake.names)
        assert listing.complete


async def test_anonymous_clients_list_public_projects_of_named_groups(tmp_path: Path) -> None:
    async with (
        GitlabFake(tmp_path) as fake,
        opened(fake, username="", password=None, **namespaces("team")) as registry,
    ):
        assert (await registry.repositories()).names == fake.public
        assert (await registry.tags("team/base")).digests


@pytest.mark.parametrize("credential", [{"password": NO_API}, {"password": "glpat-no"}, {"password": "plain-password"}])
async def test_a_refused_token_is_not_shown_again_and_again(credential: dict[str, str], tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, username=USER, **credential) as registry:
        with pytest.raises(Exception, match=r"authentication failed|does not take this credential"):
            await registry.repositories()
        asked = fake.count("gitlab", "/api/")
        assert asked <= 2
        with contextlib.suppress(Exception):
            await registry.tags("team/app")
        assert fake.count("gitlab", "/api/") <= (asked if credential["password"] != NO_API else asked + 1)


async def test_a_member_of_nothing_is_told_so(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake) as registry:
        fake.api_failures = [web.json_response([]), web.json_response([])]
        with pytest.raises(CannotEnumerate, match="member of no group or project") as refused:
            await registry.repositories()
        assert "Reporter" in refused.value.advice


async def test_a_later_page_that_fails_makes_the_listing_partial(tmp_path: Path) -> None:
    class Failing(GitlabFake):
        async def _graphql(self, request: web.Request) -> web.Response:
            if json.loads(await request.read())["variables"].get("after"):
                return web.Response(status=500, text="oops")
            return await super()._graphql(request)

    async with Failing(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        listing = await registry.repositories()
        assert len(listing.names) == 2
        assert "later page of team failed" in listing.reason
        tags = await registry.tags("team/app")
        assert len(tags.names) == 2
        assert "a later page failed" in tags.reason


async def test_a_second_namespace_that_fails_makes_the_listing_partial(tmp_path: Path) -> None:
    class Failing(GitlabFake):
        async def _graphql(self, request: web.Request) -> web.Response:
            if json.loads(await request.read())["variables"].get("path") == "team/cli":
                return web.Response(status=503, text="oops")
            return await super()._graphql(request)

    async with Failing(tmp_path) as fake, opened(fake, **namespaces("team/app", "team/cli")) as registry:
        listing = await registry.repositories()
        assert listing.names == ("team/app",)
        assert "team/cli could not be listed" in listing.reason


async def test_rest_pages_that_fail_or_turn_in_a_circle_make_the_listing_partial(tmp_path: Path) -> None:
    class Circle(GitlabFake):
        def _rest(self, request: web.Request) -> web.Response:
            response = super()._rest(request)
            if request.path.endswith("/registry/repositories"):
                response.headers["X-Next-Page"] = "2"
            return response

    async with Circle(tmp_path / "a") as fake:
        fake.graphql = False
        async with opened(fake, **namespaces("team")) as registry:
            listing = await registry.repositories()
            assert "circle" in listing.reason

    class Failing(GitlabFake):
        def _rest(self, request: web.Request) -> web.Response:
            return web.Response(status=502) if request.query.get("page") == "2" else super()._rest(request)

    async with Failing(tmp_path / "b") as failing:
        failing.graphql = False
        async with opened(failing, **namespaces("team")) as registry:
            listing = await registry.repositories()
            assert len(listing.names) == 2
            assert "a later page failed" in listing.reason


async def test_pages_and_names_are_bounded(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        async with opened(fake, Limits(pages=2), **namespaces("team")) as registry:
            listing = await registry.repositories()
            assert len(listing.names) == 4
            assert "more than 2 pages" in listing.reason
        async with opened(fake, Limits(listing_entries=3), **namespaces("team")) as registry:
            listing = await registry.repositories()
            assert len(listing.names) == 3
            assert "more than 3 names" in listing.reason
            assert len((await registry.tags("team/app")).names) == 3


async def test_cursors_in_a_circle_end_the_listing(tmp_path: Path) -> None:
    class Circle(GitlabFake):
        async def _graphql(self, request: web.Request) -> web.Response:
            response = await super()._graphql(request)
            body = json.loads(response.body or b"")  # type: ignore[arg-type]
            text = json.dumps(body).replace('"hasNextPage": false', '"hasNextPage": true')
            return web.json_response(text=text.replace('"endCursor": "6"', '"endCursor": "2"'))

    async with Circle(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == set(fake.names)
        assert "circle" in listing.reason
        assert "circle" in (await registry.tags("team/app")).reason


async def test_odd_entries_are_counted_and_dropped(tmp_path: Path) -> None:
    odd = [
        None,
        {"id": "gid://gitlab/ContainerRepository/1"},
        {"id": "gid://gitlab/ContainerRepository/2", "path": "team/CAPITALS"},
        {"path": "team/no-id"},
        {"id": "gid://gitlab/ContainerRepository/3", "path": "team/good", "status": "DELETE_FAILED"},
        {"id": "gid://gitlab/ContainerRepository/5", "path": "team/going", "status": "DELETE_ONGOING"},
        {"id": "gid://gitlab/ContainerRepository/4", "path": "elsewhere/entirely"},
    ]
    tags = [
        None,
        {"name": None},
        {"name": "sha256:" + "0" * 64},
        {"name": "v1", "digest": "nonsense", "createdAt": "yesterday"},
        {"name": "v2", "digest": None, "createdAt": "0001-01-01T00:00:00Z"},
    ]
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        fake.api_failures = [
            web.json_response({"data": {"group": {"containerRepositories": {"nodes": odd}}, "project": None}}),
            web.json_response({"data": {"containerRepository": {"tags": {"nodes": tags}}}}),
        ]
        listing = await registry.repositories()
        assert listing.names == ("team/good",)
        assert listing.dropped == 4
        assert listing.complete
        found = await registry.tags("team/good")
        assert found.names == ("v1", "v2")
        assert (found.digests, found.pushed, found.dropped) == ({}, {}, 3)


# -- tags --------------------------------------------------------------------------------------------------------------


async def test_without_the_metadata_database_tags_come_by_name_with_the_date_of_the_image(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        fake.metadata_database = False
        async with opened(fake, **namespaces("team")) as registry:
            await registry.repositories()
            tags = await registry.tags("team/app")
            assert sorted(tags.names) == sorted(TAGS)
            assert tags.complete
            assert set(tags.digests) == set(TAGS)
            # v1 claims to be of 1970
            assert set(tags.pushed) == set(TAGS) - {"v1"}
            before = fake.count("gitlab", "/api/graphql")
            await registry.tags("team/base")
            assert fake.count("gitlab", "/api/graphql") == before + 1


async def test_a_fault_of_one_repository_is_not_held_against_the_others(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        await registry.repositories()
        fault = {"errors": [{"message": "Timeout on validation"}], "data": {"containerRepository": None}}
        fake.api_failures = [web.json_response(fault), web.json_response(fault)]
        tags = await registry.tags("team/app")
        assert tags.source == "tags/list"
        tags = await registry.tags("team/base")
        assert tags.source == "GitLab API"
        assert set(tags.pushed) == {"v1"}


@pytest.mark.parametrize("name", ["team/app", "team/cli/tool", "team/sub/edge/x/y"])
async def test_a_repository_that_was_only_named_is_found_with_one_question(name: str, tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake) as registry:
        tags = await registry.tags(name)
        assert tags.source == "GitLab API"
        assert set(tags.digests) == set(fake.images[name])
        assert fake.count("gitlab", "/api/graphql") == 1 + -(-len(tags.names) // 2)


async def test_a_repository_that_the_api_does_not_know_is_asked_for_at_the_registry(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        fake.images["team/new"] = fake.images["team/base"]
        async with opened(fake) as registry:
            assert (await registry.tags("team/new")).source == "tags/list"
        async with opened(fake, username=DEPLOY_USER, password=DEPLOY) as registry:
            assert (await registry.tags("team/app")).source == "tags/list"
            assert fake.count("gitlab", "/api/") == 1


async def test_a_repository_that_disappears_in_between_is_partial(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        await registry.repositories()
        page = {"pageInfo": {"hasNextPage": True, "endCursor": "x"}, "nodes": [{"name": "v1"}]}
        fake.api_failures = [
            web.json_response({"data": {"containerRepository": {"tags": page}}}),
            web.json_response({"data": {"containerRepository": None}}),
        ]
        tags = await registry.tags("team/app")
        assert tags.names == ("v1",)
        assert "disappeared" in tags.reason
        nodes = {"pageInfo": {"hasNextPage": True, "endCursor": "x"}, "nodes": [{"id": "gid://1", "path": "team/app"}]}
        fake.api_failures = [
            web.json_response({"data": {"group": {"containerRepositories": nodes}}}),
            web.json_response({"data": {"group": None, "project": None}}),
        ]
        listing = await registry.repositories()
        assert listing.names == ("team/app",)
        assert "disappeared" in listing.reason


# -- throttling --------------------------------------------------------------------------------------------------------


async def test_queries_are_repeated_when_throttled_and_given_up_in_the_end(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        fake.api_failures = [
            web.Response(status=429, text="Retry later", headers={"Retry-After": "0"}),
            web.Response(status=502),
        ]
        assert set((await registry.repositories()).names) == set(fake.names)
        fake.api_failures = [web.Response(status=429, text="Retry later") for _ in range(3)]
        with pytest.raises(RegistryRateLimited):
            await registry.repositories()
        fake.api_failures = [web.Response(status=500) for _ in range(3)]
        with pytest.raises(RegistryUnavailable):
            await registry.repositories()


async def test_a_long_pause_is_not_slept_through(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        fake.api_failures = [web.Response(status=429, text="Retry later", headers={"Retry-After": "600"})]
        with pytest.raises(RegistryRateLimited) as limited:
            await registry.repositories()
        assert limited.value.retry_after == pytest.approx(600, abs=5)
        assert fake.count("gitlab", "/api/graphql") == 1


async def test_a_gitlab_that_is_down_is_a_network_error(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, api={"url": "http://127.0.0.1:1"}) as registry:
        with pytest.raises(NetworkError):
            await registry.repositories()


async def test_plain_http_to_the_api_needs_the_same_consent(tmp_path: Path) -> None:
    configured = {"name": "x", "url": "https://registry.example.net", "provider": "gitlab", "password": PERSONAL}
    registry = open_registry(Settings.model_validate({**configured, "api": {"url": "http://git.example.net"}}))
    try:
        with pytest.raises(ConfigError, match="plain HTTP"):
            await registry.repositories()
    finally:
        await registry.close()


# -- standing ----------------------------------------------------------------------------------------------------------


async def test_an_access_token_tells_owner_expiry_and_scopes(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        async with opened(fake) as registry:
            standing = await registry.standing()
            assert standing.identity == USER
            assert standing.expires == 1_935_360_000.0
            assert standing.may_write is False
            assert "read_api, read_registry" in standing.detail
        async with opened(fake, username=USER, password=WRITES) as registry:
            assert (await registry.standing()).may_write is True


async def test_an_api_token_is_told_apart_from_the_login(tmp_path: Path) -> None:
    async with (
        GitlabFake(tmp_path) as fake,
        opened(fake, username=DEPLOY_USER, password=DEPLOY, api={"token": GROUP}) as registry,
    ):
        standing = await registry.standing()
        assert (standing.identity, standing.whose) == ("group_3_bot_a1", "api.token")
        assert standing.expires
        assert standing.may_write is None
        assert standing.detail.startswith("API token")


@pytest.mark.parametrize(
    ("more", "identity", "detail"),
    [
        ({"username": DEPLOY_USER, "password": DEPLOY}, DEPLOY_USER, "neither expiry nor rights"),
        ({"username": "", "password": None}, "", ""),
        ({"username": "oauth2", "password": OAUTH}, USER, "OAuth token"),
        ({"username": USER, "password": NO_API}, USER, "could not be read"),
        ({"username": "whoever", "password": "glpat-no"}, "whoever", "could not be read"),
    ],
)
async def test_what_is_not_told_is_said(more: dict[str, Any], identity: str, detail: str, tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, **more) as registry:
        standing = await registry.standing()
        assert standing.identity == identity
        assert detail in standing.detail
        assert (standing.expires, standing.may_write) == (None, None)
        assert more["password"] is None or more["password"] not in repr(standing)


async def test_a_token_with_a_line_break_is_refused_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "glpat-two\nlines")
    async with GitlabFake(tmp_path) as fake, opened(fake, api={"token": {"env": "API_TOKEN"}}) as registry:
        with pytest.raises(SecretError, match="control characters") as refused:
            await registry.repositories()
        assert "glpat" not in str(refused.value)


async def test_a_rotated_api_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "glpat-old")
    async with (
        GitlabFake(tmp_path) as fake,
        opened(fake, api={"token": {"env": "API_TOKEN"}}, **namespaces("team/sub")) as registry,
    ):
        monkeypatch.setenv("API_TOKEN", GROUP)
        assert len((await registry.repositories()).names) == 2
        monkeypatch.setenv("API_TOKEN", OAUTH)
        fake.api_failures = [web.json_response({"message": "401 Unauthorized"}, status=401)]
        assert len((await registry.repositories()).names) == 2
        assert any(one.authorization == f"Bearer {OAUTH}" for one in fake.seen)


@pytest.mark.parametrize("status", [200, 404])
async def test_an_api_url_that_leads_to_a_web_page_is_named(status: int, tmp_path: Path) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(status=status, text="<!DOCTYPE html><html></html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with GitlabFake(tmp_path) as fake:
            for more in ({}, namespaces("group")):
                async with opened(fake, api={"url": url, "token": GROUP}, **more) as registry:
                    with pytest.raises(RegistryError) as refused:
                        await registry.repositories()
                    assert "api.url" in refused.value.advice
                    assert "web page" in refused.value.advice
                    assert not refused.value.advice.startswith("give the sensor")
    finally:
        await runner.cleanup()


async def test_a_refused_api_token_is_named_before_the_advice_on_tokens(tmp_path: Path) -> None:
    async with (
        GitlabFake(tmp_path) as fake,
        opened(fake, username=DEPLOY_USER, password=DEPLOY, api={"token": "glpat-wrong"}) as registry,
    ):
        with pytest.raises(CannotEnumerate) as refused:
            await registry.repositories()
        assert refused.value.advice.startswith("api.token was refused: mend that first; ")
        assert refused.value.fault.startswith("api.token was refused: GET ")
        assert "glpat-wrong" not in str(refused.value) + refused.value.fault
