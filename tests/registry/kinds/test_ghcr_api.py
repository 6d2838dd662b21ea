"""GitHub's packages API: owners, pages, ETags, limits, and what it tells about a token."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from sensor.config.schema import Http, Registry
from sensor.errors import RegistryError
from sensor.limits import Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import CannotEnumerate, RegistryRateLimited, RegistryUnauthorized
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.ghcr_api import expiry
from sensor.registry.kinds.ghcr_pages import Kept, Page, package_rows, version_rows
from sensor.transport import Retry
from tests.fakes.registries.ghcr import APP_ID, FINE, INSTALLATION, JOB, PAT, SSO, UNSCOPED, USER, GhcrFake, pem

QUICK = Retry(attempts=2, first=0.001, most=0.01)


@contextlib.asynccontextmanager
async def opened(
    fake: GhcrFake, *, login: int | None = 0, limits: Limits | None = None, **changes: Any
) -> AsyncIterator[RegistryClient]:
    """A client by one of the fake's logins (None: by `changes` alone)."""
    given = {} if login is None else fake.logins[login].settings
    merged = {"name": "fake", "url": fake.url, "provider": "ghcr", "insecure": True, **fake.base, **given, **changes}
    registry = open_registry(Registry.model_validate(merged), Http(), limits or Limits(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


def packages(*names: object, link: str = "") -> web.Response:
    entries = [{"name": name} if isinstance(name, str) else name for name in names]
    return web.json_response(entries, headers={"Link": f'<{link}>; rel="next"'} if link else None)


# -- owners ------------------------------------------------------------------------------------------------------------


async def test_an_organisation_is_listed_by_the_largest_pages(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        listing = await registry.repositories()
        assert sorted(listing.names) == sorted(fake.names)
        assert listing.source == "GitHub API"
        assert fake.count("api", "/orgs/team/packages?package_type=container&per_page=100") == 3
        tags = await registry.tags("team/tools/db")
        assert tags.names == ("v1",)
        assert fake.count("api", "/orgs/team/packages/container/tools%2Fdb/versions?state=active&per_page=100") == 1
        assert fake.count("api", "/users/team") == 1
        assert fake.count("api", "/user?") + sum(one.path == "/user" for one in fake.seen) == 1


async def test_without_namespaces_the_tokens_own_packages_are_listed(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake, repositories={}) as registry:
        assert (await registry.repositories()).names == ("octo-bot/mine",)
        assert fake.count("api", "/user/packages") == 1
        assert fake.count("api", "/users/") == 0


async def test_owners_come_from_patterns_and_from_the_url_as_well(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        async with opened(fake, repositories={"include": ["team/app", "team/tools/*"]}) as registry:
            assert len((await registry.repositories()).names) == 5
        async with opened(fake, repositories={}, url=f"{fake.url}/Team/tools") as registry:
            assert (await registry.repositories()).names == ("team/tools/db", "team/tools/edge")


async def test_an_owner_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        async with opened(fake, repositories={"namespaces": ["nobody"]}) as registry:
            with pytest.raises(CannotEnumerate, match="check the name"):
                await registry.repositories()
        async with opened(fake, repositories={"namespaces": ["nobody", "Octo-Bot", "TEAM"]}) as registry:
            listing = await registry.repositories()
            assert len(listing.names) == 6
            assert "nobody" in listing.reason
            assert not listing.complete


async def test_an_app_lists_where_it_is_installed(tmp_path: Path) -> None:
    app = {"app_id": APP_ID, "private_key": pem(), "installation_id": INSTALLATION}
    async with GhcrFake(tmp_path) as fake, opened(fake, login=None, github_app=app, repositories={}) as registry:
        assert len((await registry.repositories()).names) == 5
        standing = await registry.standing()
        assert standing.identity == "GitHub App sensor at Team"
        assert standing.may_write is False
        assert "packages: read" in standing.detail


async def test_a_job_token_needs_namespaces(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        async with opened(fake, login=None, username="x", password=JOB, repositories={}) as registry:
            with pytest.raises(CannotEnumerate, match=r"repositories\.namespaces"):
                await registry.repositories()
            assert (await registry.standing()).identity == "x"
        async with opened(fake, login=None, username="x", password=JOB) as registry:
            assert len((await registry.repositories()).names) == 5


async def test_nobody_lists_without_a_login(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake, login=3) as registry:
        with pytest.raises(CannotEnumerate, match="read:packages"):
            await registry.repositories()
        tags = await registry.tags("team/base")
        assert (tags.names, tags.source) == (("v1",), "tags/list")
        assert fake.count("api") == 0
        assert (await registry.standing()).detail == "anonymous"


async def test_an_unknown_server_needs_the_apis_address(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake, api={}) as registry:
        with pytest.raises(CannotEnumerate, match="api/v3"):
            await registry.repositories()
        assert len((await registry.tags("team/app")).names) == 5
        assert "api.url" in (await registry.standing()).detail


async def test_the_api_may_have_its_own_token(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        for key in ("token", "password"):
            api = {**fake.base["api"], key: PAT}
            async with opened(fake, login=None, api=api) as registry:
                assert len((await registry.repositories()).names) == 5
        async with opened(fake, login=None, token=PAT) as registry:
            assert len((await registry.repositories()).names) == 5
            assert (await registry.standing()).identity == USER


# -- refusals and limits -----------------------------------------------------------------------------------------------


async def test_a_wrong_token_and_a_missing_scope_are_told(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        async with opened(fake, login=None, username="x", password=FINE) as registry:
            with pytest.raises(RegistryUnauthorized, match=r"authentication failed.*revoked"):
                await registry.repositories()
        async with opened(fake, login=None, username="x", password=UNSCOPED) as registry:
            with pytest.raises(CannotEnumerate, match="scope read:packages"):
                await registry.repositories()


async def test_single_sign_on_is_named_without_what_its_link_carries(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        await registry.ping()
        fake.answers = [web.json_response({"message": "Resource protected"}, status=403, headers={"X-GitHub-SSO": SSO})]
        with pytest.raises(CannotEnumerate, match="single sign-on") as refused:
            await registry.repositories()
        assert "https://github.com/orgs/Team/sso" in refused.value.advice
        assert "SECRET" not in str(refused.value)


async def test_packages_left_out_for_single_sign_on_make_the_listing_partial(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        fake.list_headers = {"X-GitHub-SSO": "partial-results; organizations=1,2"}
        listing = await registry.repositories()
        assert len(listing.names) == 5
        assert not listing.complete
        assert "single sign-on" in listing.reason


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_tags_come_from_the_registry_when_the_api_refuses(status: int, tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        await registry.repositories()
        fake.answers = [web.json_response({"message": "no"}, status=status) for _ in range(2)]
        tags = await registry.tags("team/app")
        assert (len(tags.names), tags.source) == (5, "tags/list")
        assert fake.count("registry", "/tags/list?n=10000") > 0


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "{soon}"}),
        (403, {"Retry-After": "30"}),
        (429, {"X-RateLimit-Remaining": "0"}),
        (403, {}),
    ],
)
async def test_a_limit_is_no_missing_right_and_nothing_is_sent_until_it_is_over(
    status: int, headers: dict[str, str], tmp_path: Path
) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        await registry.tags("team/base")
        told = {name: value.format(soon=int(time.time()) + 30) for name, value in headers.items()}
        fake.answers = [
            web.json_response({"message": "You have exceeded a secondary rate limit"}, status=status, headers=told)
            for _ in range(2)
        ]
        with pytest.raises(RegistryRateLimited, match="5000 requests an hour") as limited:
            await registry.tags("team/app")
        assert 0 < (limited.value.retry_after or 0) <= 60
        asked = fake.count("api")
        with pytest.raises(RegistryRateLimited):
            await registry.repositories()
        assert fake.count("api") == asked


async def test_the_last_request_of_the_hour_is_used_but_no_more(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        soon = str(int(time.time()) + 3000)
        fake.list_headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": soon}
        listing = await registry.repositories()
        assert len(listing.names) == 2
        assert "a later page failed" in listing.reason
        assert fake.count("api", "/packages") == 1


# -- pages -------------------------------------------------------------------------------------------------------------


async def test_an_unchanged_poll_costs_nothing_of_the_limit(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        first = (await registry.repositories(), await registry.tags("team/app"))
        assert fake.not_modified == 0
        again = (await registry.repositories(), await registry.tags("team/app"))
        assert again == first
        assert fake.not_modified == 8
        del fake.images["team/app"]["v5"]
        assert sorted((await registry.tags("team/app")).names) == ["v1", "v2", "v3", "v4"]
        assert fake.not_modified == 8


async def test_what_another_token_saw_is_forgotten(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(PAT)
    login: dict[str, Any] = {"username": "x", "password": {"file": str(secret)}}
    async with GhcrFake(tmp_path / "fake") as fake, opened(fake, login=None, **login) as registry:
        await registry.repositories()
        secret.write_text(UNSCOPED)
        fake.answers = [web.json_response({"message": "Bad credentials"}, status=401)]
        with pytest.raises(CannotEnumerate):
            await registry.repositories()
        assert fake.not_modified == 0


async def test_nonsense_among_the_entries_is_counted(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        foreign = {"name": "x", "owner": {"login": "other"}}
        own = {"name": "y", "owner": {"login": "TEAM"}}
        fake.answers = [packages(None, 5, {"name": None}, "UPPER", "a/../b", "good", foreign, own)]
        listing = await registry.repositories()
        assert (listing.names, listing.dropped, listing.complete) == (("team/good", "team/y"), 5, True)


@pytest.mark.parametrize("where", ["https://evil.example/x", "http://127.0.0.1:9/x", "http://[::1", "ftp://x/y"])
async def test_no_page_elsewhere_is_fetched(where: str, tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        fake.answers = [packages("a", link=where)]
        listing = await registry.repositories()
        assert (listing.names, listing.complete) == (("team/a",), False)


async def test_pages_in_a_circle_and_without_end_are_left(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        there = f"http://{fake.address('api')}/orgs/team/packages?page="
        async with opened(fake) as registry:
            fake.answers = [packages("a", link=f"{there}2"), packages("b", link=f"{there}2")]
            listing = await registry.repositories()
            assert (listing.names, listing.reason) == (("team/a", "team/b"), "the pages go in a circle")
            fake.answers = [packages("a", link=f"{there}2"), web.Response(status=404)]
            listing = await registry.repositories()
            assert (listing.names, listing.complete) == (("team/a",), False)
            assert "a later page failed" in listing.reason
        async with opened(fake, limits=Limits(pages=3)) as registry:
            fake.answers = [packages("a", link=f"{there}{number}") for number in range(50)]
            listing = await registry.repositories()
            assert (listing.names, listing.reason) == (("team/a",), "more than 3 pages")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"message": "x"}', b"<!doctype html><title>x</title>", b"\xff", b"[" * 9000]
)
async def test_a_first_page_that_cannot_be_read_is_an_error(body: bytes, tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        fake.answers = [web.Response(body=body, content_type="application/json")]
        with pytest.raises(RegistryError) as odd:
            await registry.repositories()
        assert not isinstance(odd.value, CannotEnumerate)


def raw(*entries: object) -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode(entry)) for entry in entries]


def test_versions_give_their_tags_with_digest_and_date() -> None:
    metadata = {"package_type": "container", "container": {"tags": ["v1", "latest"]}}
    moment = "2026-01-01T00:00:00Z"
    rows = version_rows(
        raw(
            {"name": "sha256:a", "updated_at": moment, "metadata": metadata},
            {"name": "sha256:b", "created_at": moment, "metadata": {"container": {"tags": None}}},
            {"name": "sha256:c", "metadata": {"container": None}},
            {"name": "sha256:d"},
            {"name": "sha256:e", "metadata": {"container": {"tags": [5]}}},
            "x",
        )
    )
    at = 1767225600.0
    assert list(rows) == [
        ("v1", "sha256:a", at), ("latest", "sha256:a", at), ("", None, None), ("", None, None),
    ]  # fmt: skip
    assert list(package_rows("acme")(raw({"name": "x"}, {}))) == [("acme/x", None, None), ("", None, None)]


def a_page(rows: int, etag: str = "e") -> Page:
    return Page(rows=tuple(("a", None, None) for _ in range(rows)), entries=rows, etag=etag)


def test_kept_pages_are_bounded_and_unused_ones_make_room() -> None:
    kept = Kept(most_rows=10)
    kept.keep("a", a_page(4))
    kept.keep("a", a_page(5))
    kept.keep("b", a_page(2))
    kept.keep("c", a_page(1))
    assert (sorted(kept.pages), kept.rows) == (["a", "b"], 9)
    kept.keep("none", a_page(0, etag=""))
    kept.sweep = 5
    kept.pages["b"].used = 5
    kept.keep("c", a_page(1))
    assert (sorted(kept.pages), kept.rows) == (["b", "c"], 5)
    kept.keep("huge", a_page(100))
    kept.forget("nothing")
    kept.forget("b")
    assert (sorted(kept.pages), kept.rows) == (["c"], 2)


# -- what is told about a token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "may_write", "detail"),
    [
        ("read:packages, repo", False, "scopes: read:packages, repo"),
        ("read:packages, write:packages", True, "write:packages"),
        ("delete:packages", True, "read:packages is missing"),
        ("", False, "scopes: none; read:packages is missing"),
    ],
)
async def test_tells_user_expiry_and_scopes(scopes: str, may_write: bool, detail: str, tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, opened(fake) as registry:
        fake.scopes = scopes
        standing = await registry.standing()
        assert (standing.identity, standing.may_write, standing.expires) == (USER, may_write, 1896084000.0)
        assert detail in standing.detail


async def test_scopes_that_are_not_told_are_unknown(tmp_path: Path) -> None:
    class Silent(GhcrFake):
        def _user(self, may: str) -> web.StreamResponse:
            return web.json_response({"login": USER})

    async with Silent(tmp_path) as fake, opened(fake) as registry:
        standing = await registry.standing()
        assert (standing.identity, standing.may_write, standing.expires) == (USER, None, None)


async def test_a_token_that_may_not_ask_who_it_is_lists_nevertheless(tmp_path: Path) -> None:
    class Closed(GhcrFake):
        def _user(self, may: str) -> web.StreamResponse:
            return web.json_response({"message": "Resource not accessible"}, status=403)

    async with Closed(tmp_path) as fake, opened(fake) as registry:
        assert len((await registry.repositories()).names) == 5


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31 10:00:00 UTC", 1896084000.0),
        ("2030-01-31 10:00:00 +0200", 1896076800.0),
        ("2030-01-31 10:00:00", 1896084000.0),
        ("", None),
        ("never", None),
    ],
)
def test_reads_the_expiry_of_a_token(text: str, moment: float | None) -> None:
    assert expiry(text) == moment
