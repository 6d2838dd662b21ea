"""Harbor's listings: which projects are meant, double encoding, proxy caches that must not be woken, pages, and robots' rights."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import CannotEnumerate, RegistryForbidden, RegistryNotFound, RegistryRateLimited
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.harbor_api import Project
from sensor.registry.kinds.harbor_native import _meant
from sensor.transport import Retry
from tests.fakes.registries.harbor import (
    EXPIRES,
    OIDC_USER,
    OTHER_ROBOT,
    PROJECT_ROBOT,
    SECRET,
    SYSTEM_ROBOT,
    USER,
    HarborFake,
)
from tests.fakes.registries.provider import TAGS, problem

QUICK = Retry(attempts=3, first=0.001, most=0.01)
TEAM = {"team/app", "team/cli/tool", "team/db", "team/edge"}


@contextlib.asynccontextmanager
async def opened(fake: HarborFake, limits: Limits = DEFAULT_LIMITS, **more: Any) -> AsyncIterator[RegistryClient]:
    configured = {"name": "fake", "url": fake.url, "provider": "harbor", "insecure": True}
    given = {"username": SYSTEM_ROBOT, "password": SECRET, **more}
    registry = open_registry(Settings.model_validate({**configured, **given}), Http(), limits, retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


def namespaces(*names: str) -> dict[str, object]:
    return {"repositories": {"namespaces": list(names)}}


# -- repositories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, TEAM | {"library/base"}),
        ({"username": PROJECT_ROBOT}, TEAM),
        ({"username": USER}, TEAM | {"library/base"}),
        ({"username": "", "password": None}, {"library/base"}),
        (namespaces("library"), {"library/base"}),
        ({"username": PROJECT_ROBOT, **namespaces("library")}, {"library/base"}),
        ({"repositories": {"include": ["team/**", "team/cli/*"]}}, TEAM),
        ({"repositories": {"include": ["library/base", "**/x"]}}, TEAM | {"library/base"}),
    ],
)
async def test_lists_the_projects_that_are_meant(more: dict[str, object], found: set[str], tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, **more) as registry:
        listing = await registry.repositories()
        assert set(listing.names) == found
        assert listing.complete
        assert listing.source == "Harbor API"


async def test_the_urls_path_bounds_the_listing(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, url=f"{fake.url}/team/cli") as registry:
        assert (await registry.repositories()).names == ("team/cli/tool",)


async def test_one_listing_serves_for_all_projects(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        assert fake.count("registry", "/api/v2.0/projects?") == 1
        assert fake.count("registry", "/api/v2.0/repositories?") == 3
        assert fake.count("registry", "/api/v2.0/projects/") == 0


async def test_users_of_single_sign_on_are_listed_project_by_project(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, username=OIDC_USER) as registry:
        assert set((await registry.repositories()).names) == TEAM | {"library/base"}
        assert fake.count("registry", "/api/v2.0/projects/team/repositories?") == 2


async def test_a_robot_that_may_not_list_repositories_uses_the_other_way(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, **namespaces("team")) as registry:
        fake.missing_permissions.add("repository")
        listing = await registry.repositories()
        assert set(listing.names) == TEAM
        assert listing.complete


async def test_where_both_ways_are_closed_the_permission_is_named(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, username=OIDC_USER, **namespaces("team")) as registry:
        fake.missing_permissions.add("repository")
        with pytest.raises(CannotEnumerate, match="FORBIDDEN") as refused:
            await registry.repositories()
        assert "permission repository: list" in refused.value.advice


async def test_projects_that_are_not_shown_are_named(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        async with opened(fake, **namespaces("team", "nosuch")) as registry:
            listing = await registry.repositories()
            assert set(listing.names) == TEAM
            assert "no project nosuch" in listing.reason
        async with opened(fake, username=OTHER_ROBOT, **namespaces("team")) as registry:
            with pytest.raises(CannotEnumerate, match="no project team"):
                await registry.repositories()
        async with opened(fake) as registry:
            fake.api_failures = [web.json_response([], headers={"X-Total-Count": "0"})]
            with pytest.raises(CannotEnumerate, match="shows this credential no project"):
                await registry.repositories()


async def test_a_search_for_a_project_brings_others_along(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, **namespaces("lib")) as registry:
        with pytest.raises(CannotEnumerate, match="no project lib"):
            await registry.repositories()


async def test_an_api_behind_another_lock_is_no_wrong_password(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.api_failures = [problem(401, "UNAUTHORIZED", "who?") for _ in range(2)]
        with pytest.raises(CannotEnumerate, match="Harbor's API cannot be used"):
            await registry.repositories()


@pytest.mark.parametrize("counts", [True, False])
async def test_pages_end_with_and_without_a_count(counts: bool, tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.counts = counts
        listing = await registry.repositories()
        assert len(listing.names) == 5
        assert listing.complete


async def test_pages_that_break_off_make_the_listing_partial(tmp_path: Path) -> None:
    first = [{"name": "team/app"}, {"name": "team/db"}]
    count = {"X-Total-Count": "5"}
    for following, reason in (
        (web.json_response([], headers=count), "ended after 2 of 5"),
        (web.json_response([{"name": "team/edge"}], headers={"X-Total-Count": "3"}), "deleted while"),
        (web.Response(status=404), "a later page failed"),
    ):
        async with HarborFake(tmp_path / reason) as fake, opened(fake, **namespaces("team")) as registry:
            projects = web.json_response([{"name": "team", "project_id": 3}], headers={"X-Total-Count": "1"})
            fake.api_failures = [projects, web.json_response(first, headers=count), following]
            listing = await registry.repositories()
            assert {"team/app", "team/db"} <= set(listing.names)
            assert reason in listing.reason


async def test_a_server_that_repeats_a_page_is_left(tmp_path: Path) -> None:
    class Repeating(HarborFake):
        def _rows(self, request: web.Request, rows: Any) -> web.Response:
            response = super()._rows(request.clone(rel_url=request.path), rows)
            response.headers["X-Total-Count"] = "1000000"
            return response

    async with Repeating(tmp_path) as fake, opened(fake) as registry:
        listing = await registry.repositories()
        assert "circle" in listing.reason
        assert len(fake.seen) < 20


async def test_a_second_project_that_fails_makes_the_listing_partial(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, **namespaces("library", "team")) as registry:
        one = {"X-Total-Count": "1"}
        fake.api_failures = [
            web.json_response([{"name": "library", "project_id": 1}], headers=one),
            web.json_response([{"name": "team", "project_id": 3}], headers=one),
            web.json_response([{"name": "library/base"}, {"name": None}, {"name": "library/BAD"}], headers=one),
            problem(403, "FORBIDDEN", "forbidden"),
        ]
        listing = await registry.repositories()
        assert listing.names == ("library/base",)
        assert listing.dropped == 2
        assert "project team could not be listed" in listing.reason


async def test_names_are_bounded(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, Limits(listing_entries=3)) as registry:
        listing = await registry.repositories()
        assert len(listing.names) == 3
        assert "more than 3 names" in listing.reason


def test_a_project_robot_is_meant_for_its_own_project() -> None:
    public = {"public": "true"}
    projects = [
        Project(name="team"),
        Project(name="am", metadata=public),
        Project(name="library", metadata=public),
        Project(name="other", metadata={"public": "false"}),
    ]
    assert _meant(projects, "robot$team+ci") == ["team", "other"]
    assert _meant(projects, "x-am+ci") == ["team", "am", "other"]
    assert _meant(projects, "robot$sensor") == ["team", "am", "library", "other"]
    assert _meant(projects, "a+b") == ["team", "am", "library", "other"]
    # the project of this robot is not shown: nothing public stands in for it
    assert _meant(projects, "robot$gone+ci") == [one.name for one in projects if not one.public]
    assert _meant([], "robot$team+ci") == []


# -- tags --------------------------------------------------------------------------------------------------------------


async def test_names_are_encoded_twice(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        tags = await registry.tags("team/cli/tool")
        assert set(tags.digests) == {"v1"}
        assert fake.count("registry", "/repositories/cli%252Ftool/artifacts?with_tag=true&q=tags%3D%2A") == 1


async def test_untagged_artifacts_and_other_things_are_told_apart(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.null_tags = True
        fake.charts = ("v2",)
        tags = await registry.tags("team/app")
        assert sorted(tags.names) == sorted(TAGS)
        assert tags.withheld == {"v2": "a Helm chart, not an image"}
        assert tags.complete
        odd = [
            {"digest": "nonsense", "tags": [None, {"name": "v1"}, {"name": "sha256:" + "1" * 64}]},
            {"type": "MODEL\x1b[0m", "push_time": "2026-01-01T00:00:00Z", "tags": [{"name": "m", "push_time": ""}]},
        ]
        fake.api_failures = [web.json_response(odd, headers={"X-Total-Count": "2"})]
        tags = await registry.tags("team/app")
        assert tags.names == ("v1", "m")
        assert tags.dropped == 2
        assert tags.digests == {}
        assert set(tags.pushed) == {"m"}
        assert tags.withheld == {"m": "of type MODEL [0m, not an image"}


async def test_a_robot_that_may_only_pull_gets_tags_from_the_registry(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.missing_permissions.add("artifact")
        tags = await registry.tags("team/app")
        assert tags.source == "tags/list"
        assert sorted(tags.names) == sorted(TAGS)


async def test_a_proxy_in_front_that_decodes_paths_leaves_the_registrys_own_listing(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.decoding_proxy = True
        assert (await registry.tags("team/cli/tool")).source == "tags/list"
        assert (await registry.tags("team/db")).source == "Harbor API"


async def test_an_empty_answer_about_a_repository_that_holds_something_is_not_believed(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        nothing = {"X-Total-Count": "0"}
        fake.api_failures = [web.json_response([], headers=nothing), web.json_response([], headers=nothing)]
        assert (await registry.tags("team/db")).source == "tags/list"
        fake.api_failures = [web.json_response(None, headers=nothing)]
        untagged = await registry.tags("team/db")
        assert (untagged.names, untagged.source, untagged.complete) == ((), "Harbor API", True)


# -- proxy caches ------------------------------------------------------------------------------------------------------


async def test_a_proxy_cache_is_listed_without_a_word_to_its_upstream(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        name = fake.add_proxy()
        async with opened(fake) as registry:
            assert name in (await registry.repositories()).names
            tags = await registry.tags(name)
            assert tags.names == ("v1",)
            assert (await registry.manifest(name, tags.digests["v1"])).digest == tags.digests["v1"]
            assert fake.upstream == 0
        async with opened(fake) as unlisted:
            assert (await unlisted.tags(name)).names == ("v1",)
            assert fake.upstream == 0


async def test_a_proxy_cache_that_cannot_be_listed_by_the_api_is_not_listed_at_all(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        name = fake.add_proxy()
        fake.missing_permissions.add("artifact")
        async with opened(fake) as registry:
            with pytest.raises(RegistryForbidden, match="hub is a proxy cache") as refused:
                await registry.tags(name)
            assert "artifact: list and tag: list" in refused.value.advice
            assert "materialize: true" in refused.value.advice
        async with opened(fake) as registry:
            fake.api_failures = [problem(403, "FORBIDDEN", "forbidden")]
            with pytest.raises(RegistryForbidden, match="hub may be a proxy cache"):
                await registry.tags(name)
        fake.missing_permissions.clear()
        async with opened(fake) as registry:
            with pytest.raises(RegistryNotFound):
                await registry.tags("hub/library/nosuch")
        assert fake.upstream == 0


async def test_materialize_lists_the_upstream(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        name = fake.add_proxy()
        async with opened(fake, materialize=True) as registry:
            tags = await registry.tags(name)
            assert len(tags.names) == 51
            assert tags.source == "tags/list"
            assert fake.upstream == 1
            assert (await registry.tags("team/app")).source == "Harbor API"


async def test_a_short_name_of_docker_hub_leads_to_the_long_one(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        name = fake.add_proxy()
        async with opened(fake) as registry:
            assert (await registry.manifest("hub/nginx", "v1")).digest == fake.images[name]["v1"].digest


async def test_a_project_that_is_not_shown_is_no_proxy_cache(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, username=OTHER_ROBOT) as registry:
        with pytest.raises(RegistryForbidden, match="no right for repository:team/app:pull"):
            await registry.tags("team/app")


async def test_a_throttled_api_is_asked_again(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.api_failures = [web.Response(status=429, headers={"Retry-After": "0"})]
        assert len((await registry.repositories()).names) == 5
        fake.api_failures = [web.Response(status=429) for _ in range(3)]
        with pytest.raises(RegistryRateLimited):
            await registry.repositories()


# -- standing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expires", "writes", "detail"),
    [
        (PROJECT_ROBOT, float(EXPIRES), False, ""),
        (SYSTEM_ROBOT, None, False, "never expires"),
        (USER, None, True, ""),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
async def test_tells_expiry_and_whether_it_could_push(
    user: str, expires: float | None, writes: bool, detail: str, listed: bool, tmp_path: Path
) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, username=user) as registry:
        if listed:
            await registry.repositories()
        standing = await registry.standing()
        assert (standing.identity, standing.expires, standing.may_write) == (user, expires, writes)
        assert detail in standing.detail
        assert SECRET not in repr(standing)
        assert not any(one.method not in {"GET", "HEAD"} for one in fake.seen)


async def test_what_a_robot_may_not_read_is_said(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        fake.robots_readable = False
        async with opened(fake) as registry:
            standing = await registry.standing()
            assert (standing.expires, standing.may_write) == (None, False)
            assert "30 days" in standing.detail
        async with opened(fake, **namespaces("nosuch")) as registry:
            assert (await registry.standing()).may_write is None
        async with opened(fake, password="no") as registry:
            standing = await registry.standing()
            assert standing.identity == SYSTEM_ROBOT
            assert "could not be read" in standing.detail
        async with opened(fake, username="", password=None) as registry:
            assert (await registry.standing()).identity == ""


async def test_a_robot_that_is_not_in_the_list_has_no_known_end(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        fake.users["robot$new"] = SECRET
        async with opened(fake, username="robot$new") as other:
            assert (await other.standing()).expires is None


# -- another credential for the API ------------------------------------------------------------------------------------


async def test_the_api_may_have_a_credential_and_a_place_of_its_own(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        url = fake.url.replace("127.0.0.1", "localhost")
        api = {"url": url, "username": USER, "password": SECRET}
        async with opened(fake, username=PROJECT_ROBOT, api=api, **namespaces("team")) as registry:
            assert set((await registry.repositories()).names) == TEAM
        asked = [one for one in fake.seen if one.path.startswith("/api/")]
        assert all(one.headers["host"].startswith("localhost") for one in asked)
        assert len({one.authorization for one in asked}) == 1
        async with opened(fake, api={"token": "some-id-token"}) as registry:
            with pytest.raises(CannotEnumerate):
                await registry.repositories()
        assert fake.seen[-1].authorization != "Bearer some-id-token"
        assert any(one.authorization == "Bearer some-id-token" for one in fake.seen)


async def test_an_api_url_that_leads_to_a_web_page_is_named(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, web_page() as url, opened(fake, api={"url": url}) as registry:
        try:
            said = (await registry.repositories()).notes[0]
        except CannotEnumerate as error:
            said = error.advice
        assert said.startswith("api.url answers with a web page")


@contextlib.asynccontextmanager
async def web_page() -> AsyncIterator[str]:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!DOCTYPE html><html></html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
