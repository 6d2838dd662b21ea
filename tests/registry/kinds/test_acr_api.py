"""Listing by Azure's own API: pages, what they may not do, what is withheld, and who is logged in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.port import Standing
from tests.fakes import azure
from tests.fakes.registries.acr import MAPPED, NOBODY, PRINCIPAL, AcrFake
from tests.fakes.registries.provider import TAGS, Login, problem
from tests.registry.kinds.test_acr import opened

APP = "team/app"


class OddFake(AcrFake):
    """Answers of a page that are not Azure's. `odd` maps the last word of a path to what is answered, in order."""

    kind = "acr"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.odd: dict[str, list[web.StreamResponse]] = {}

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """An odd answer, where one is left and the login is good."""
        answers = self.odd.get(request.path.rpartition("/")[2])
        if answers and request.path.startswith("/acr/"):
            return answers.pop(0)
        return await super().own(request)


@contextlib.asynccontextmanager
async def odd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str = "managed identity", **more: Any
) -> AsyncIterator[tuple[OddFake, RegistryClient]]:
    async with OddFake(tmp_path) as fake, opened(fake, monkeypatch, chosen, **more) as registry:
        yield fake, registry


def page(**body: Any) -> web.Response:
    link = body.pop("link", "")
    headers = {"Link": f'<{link}>; rel="next"'} if link else {}
    return web.Response(text=json.dumps(body), content_type="application/json", headers=headers)


async def test_lists_in_few_requests_and_with_one_token_for_pulling_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        listing = await registry.repositories()
        assert (listing.source, listing.complete, listing.dropped) == ("ACR API", True, 0)
        tags = await registry.tags(APP)
        assert tags.names == tuple(reversed(TAGS))
        assert tags.source == "ACR API"
        before = fake.count("registry", "/oauth2/token")
        await registry.manifest(APP, tags.digests["v1"])
        assert fake.count("registry", "/oauth2/token") == before
        assert fake.count("registry", "/tags/list") == fake.count("registry", "/v2/_catalog") == 0
        assert fake.count("registry", "n=1000&orderby=timedesc") == 2  # the first page once more at the end


async def test_namespaces_bound_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_catalog"] = [page(repositories=["team", "team/app", "teammate/app", "other/app"])]
        settings = fake.settings().repositories
        assert (await registry.repositories()).names == ("team", "team/app", "teammate/app", "other/app")
    bound = settings.model_copy(update={"namespaces": ("team/",)})
    async with odd(tmp_path / "again", monkeypatch, repositories=bound) as (fake, registry):
        fake.odd["_catalog"] = [page(repositories=["team", "team/app", "teammate/app", "other/app"])]
        assert (await registry.repositories()).names == ("team", "team/app")


async def test_what_was_pushed_again_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        new = fake.images[APP]["v5"].digest
        fake.odd["_tags"] = [
            page(tags=[{"name": "c"}, {"name": "b"}], link=f"/acr/v1/{APP}/_tags?last=b"),
            page(tags=[]),
            page(tags=[{"name": "a", "digest": new, "lastUpdateTime": "2026-01-01T00:00:00Z"}, {"name": "c"}]),
        ]
        tags = await registry.tags(APP)
        assert set(tags.names) == {"a", "b", "c"}
        assert tags.digests["a"] == new
        assert tags.pushed["a"] == 1767225600.0
        assert tags.complete


async def test_what_is_locked_or_in_quarantine_is_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.locked, fake.quarantined = {"v2"}, {"v3"}
        tags = await registry.tags(APP)
        assert set(tags.names) == set(TAGS)
        assert set(tags.withheld) == {"v2", "v3"}
        assert "--read-enabled" in tags.withheld["v2"]
        assert "AcrQuarantineReader" in tags.withheld["v3"]
        for tag in ("v2", "v3"):
            with pytest.raises(ImageWithheld):
                await registry.manifest(APP, tags.digests[tag])
        with pytest.raises(ImageWithheld):
            await registry.head(APP, "v2")
        with pytest.raises(RegistryNotFound) as missing:
            await registry.manifest(APP, "v3")
        assert "quarantine" in missing.value.advice


async def test_entries_that_make_no_sense_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_catalog"] = [page(repositories=["team/app", None, 7, "UPPER", "../up", {"name": "x"}])]
        listing = await registry.repositories()
        assert (listing.names, listing.dropped, listing.complete) == (("team/app",), 5, True)
        entries: list[object] = [{"name": "good", "digest": "sha256:short", "lastUpdateTime": "yesterday"}]
        entries += [{"name": "fine", "changeableAttributes": None, "createdTime": "2026-01-01T00:00:00Z"}]
        entries += [None, "v1", {}, {"name": None}, {"name": "a/b"}, {"name": f"sha256:{'0' * 64}"}, [1]]
        fake.odd["_tags"] = [page(tags=entries)]
        tags = await registry.tags(APP)
        assert tags.names == ("good", "fine")
        assert tags.dropped == 7
        assert tags.digests == {}
        assert tags.pushed == {"fine": 1767225600.0}


@pytest.mark.parametrize("body", ["null", "[]", "7", '{"tags": {}}', '{"tags": "v1"}', "{", "\ufffd"])
async def test_an_answer_of_another_shape(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_tags"] = [web.Response(text=body, content_type="application/json")]
        with pytest.raises(UnexpectedAnswer, match="not a list of tags"):
            await registry.tags(APP)


async def test_null_and_nothing_are_empty_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_tags"] = [page(tags=None), page()]
        assert (await registry.tags(APP)).names == (await registry.tags(APP)).names == ()


async def test_a_portal_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_catalog"] = [web.Response(text="<html>log in</html>", content_type="text/html")]
        with pytest.raises(NotARegistry):
            await registry.repositories()


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("https://evil.example/acr/v1/_catalog?last=x", "outside the registry: https://evil.example"),
        ("/acr/v1/_catalog?n=1000", "circle"),
    ],
)
async def test_pages_that_lead_astray_make_the_listing_partial(
    link: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_catalog"] = [page(repositories=["team/app"], link=link) for _ in range(10)]
        listing = await registry.repositories()
        assert listing.names == ("team/app",)
        assert not listing.complete
        assert reason in listing.reason
        assert len(fake.odd["_catalog"]) >= 5


async def test_an_unusable_link_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_catalog"] = [page(repositories=["team/app"], link="ftp://x/")]
        listing = await registry.repositories()
        assert listing.names == ("team/app",)
        assert "no usable address" in listing.reason


async def test_a_denied_later_page_makes_the_listing_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_tags"] = [
            page(tags=[{"name": "v9"}], link=f"/acr/v1/{APP}/_tags?last=v9"),
            problem(403, "DENIED", "denied"),
        ]
        tags = await registry.tags(APP)
        assert tags.names == ("v9",)
        assert "a later page failed" in tags.reason


@pytest.mark.parametrize("at_token", [False, True])
@pytest.mark.parametrize("login", ["managed identity", "service principal password", "refresh token"])
async def test_nobody_may_list_the_catalogue(
    at_token: bool, login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with odd(tmp_path, monkeypatch, login) as (fake, registry):
        fake.lists, fake.refuse_at_token = False, at_token
        with pytest.raises(CannotEnumerate) as denied:
            await registry.repositories()
        assert "Container Registry Repository Catalog Lister" in denied.value.advice
        assert "repositories.names" in denied.value.advice
        assert (await registry.tags(APP)).names


@pytest.mark.parametrize("at_token", [False, True])
@pytest.mark.parametrize("login", ["managed identity", "service principal password", "scope-map token"])
async def test_a_missing_right_for_a_repository_names_the_roles(
    at_token: bool, login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with odd(tmp_path, monkeypatch, login) as (fake, registry):
        await registry.ping()
        fake.forbidden, fake.refuse_at_token = {APP}, at_token
        for attempt in (registry.tags(APP), registry.manifest(APP, "v1"), registry.head(APP, "v1")):
            with pytest.raises((RegistryForbidden, RegistryUnauthorized)) as denied:
                await attempt
            scope_map = login == "scope-map token"  # which has permissions, not roles
            named = ("content/read",) if scope_map else ("AcrPull", "Container Registry Repository Reader")
            assert all(word in denied.value.advice for word in named)


async def test_a_refused_login_is_not_taken_for_a_missing_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        OddFake(tmp_path) as fake,
        opened(fake, monkeypatch, "service principal password", username="nobody") as registry,
    ):
        with pytest.raises(RegistryUnauthorized, match="authentication failed"):
            await registry.repositories()


async def test_a_closed_registry_tells_anonymous_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch, "anonymous") as (fake, registry):
        fake.lists, fake.refuse_at_token = False, True
        with pytest.raises(RegistryUnauthorized, match="reachable but unauthenticated") as refused:
            await registry.repositories()
        assert "anonymous-pull-enabled" in refused.value.advice
        assert await registry.standing() == Standing(detail="anonymous pull")


async def test_network_rules_are_no_matter_of_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd["_catalog"] = [problem(403, "DENIED", "client with IP '192.0.2.1' is not allowed access")]
        with pytest.raises(RegistryForbidden) as denied:
            await registry.repositories()
        assert "network" in denied.value.advice


async def test_without_the_api_the_protocol_lists_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.odd = {
            "_tags": [web.Response(status=404, text="404 page not found")],
            "_catalog": [web.Response(status=404)],
        }
        tags = await registry.tags(APP)
        assert (set(tags.names), tags.source) == (set(TAGS), "tags/list")
        with pytest.raises(CannotEnumerate) as none:
            await registry.repositories()
        assert "provider: distribution" in none.value.advice


async def test_a_repository_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (_, registry):
        with pytest.raises(RegistryNotFound):
            await registry.tags("team/nosuch")


@pytest.mark.parametrize(
    ("login", "identity", "may_write", "detail"),
    [
        ("managed identity", f"managed identity {azure.SYSTEM}", False, "tokens"),
        ("service principal secret", f"service principal (secret) {azure.APP}", False, "cannot be read"),
        ("service principal password", PRINCIPAL, None, "cannot be read"),
        ("AAD token", "token of ann@example.com", False, "the token ends at 20"),
        ("refresh token", f"token of {azure.APP}", False, "the token ends at 20"),
        ("admin user", "admin user 127", True, "trying out"),
        ("scope-map token", f"scope-map token {MAPPED}", None, "az acr token show"),
    ],
)
async def test_standing(
    login: str,
    identity: str,
    may_write: bool | None,
    detail: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with odd(tmp_path, monkeypatch, login) as (_, registry):
        standing = await registry.standing()
    assert identity in standing.identity
    assert standing.may_write is may_write
    assert detail in standing.detail
    assert (standing.expires is not None) == login.endswith(("AAD token", "refresh token"))


async def test_a_credential_that_may_push_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch) as (fake, registry):
        fake.actions = ["read", "write", "delete"]
        assert (await registry.standing()).may_write is True


async def test_the_end_of_a_certificate_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(tmp_path, monkeypatch, "service principal certificate") as (_, registry):
        assert (await registry.standing()).expires == azure.CERTIFICATE_ENDS.timestamp()


@pytest.mark.parametrize(
    ("more", "detail"),
    [({"token": "opaque"}, "nothing of itself"), ({"username": NOBODY, "password": "opaque"}, "")],
)
async def test_standing_of_what_is_no_jwt(
    more: dict[str, str], detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with OddFake(tmp_path) as fake:
        registry = open_registry(fake.settings(Login(name="odd", settings=more)))
        standing = await registry.standing()
        await registry.close()
    assert detail in standing.detail
    assert standing.may_write is None
    assert "opaque" not in repr(standing)
