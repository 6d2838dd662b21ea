"""Every provider as an attacker: where credentials go, and where they must not, whatever the other side says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, DataError, SensorError
from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor, Manifest
from sensor.registry.errors import RegistryForbidden
from sensor.registry.kinds import open_registry
from sensor.registry.port import Registry
from sensor.transport import Retry
from tests.fakes.hostile import Stranger, Twisted, configured_secrets, held, issued_secrets, place_of, texts_of, twisted
from tests.fakes.proxy import FakeProxy
from tests.fakes.registries import FAKES
from tests.fakes.registries.provider import Login, ProviderFake, Seen

ONCE = Retry(attempts=1)
QUICK = Retry(attempts=3, first=0.001, most=0.01)

each_fake = pytest.mark.parametrize("fake_type", FAKES, ids=lambda fake: fake.__name__)
each_login = pytest.mark.parametrize(
    ("fake_type", "index"),
    [
        pytest.param(fake, index, id=f"{fake.__name__}-{name.replace(' ', '_')}")
        for fake in FAKES
        for index, name in enumerate(fake.login_names)
        if not name.startswith("anonymous")
    ],
)


def environment(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in login.env.items():
        monkeypatch.setenv(name, value)


@contextlib.asynccontextmanager
async def opening(settings: Settings, retry: Retry = ONCE) -> Any:
    registry = open_registry(settings, Http(), retry=retry)
    try:
        yield registry
    finally:
        await registry.close()


async def everything(registry: Registry, fake: ProviderFake, *, midway: Any = lambda: None) -> list[SensorError]:
    """All that a sweep does; the errors that it met. Anything else than a SensorError ends the test."""
    errors: list[SensorError] = []

    async def attempt(work: Any) -> Any:
        try:
            return await work
        except SensorError as error:
            errors.append(error)
            return None

    async def pull(repository: str) -> None:
        await registry.head(repository, "v1")
        fetched = await registry.manifest(repository, "v1")
        assert isinstance(fetched.document, Manifest)
        await registry.config(repository, fetched.document.config)
        midway()
        async for _ in registry.blob(repository, fetched.document.layers[0]):
            pass

    for work in (registry.ping, registry.standing, registry.method, registry.repositories):
        await attempt(work())
    for repository in (*fake.names[:2], "team/nosuch"):
        await attempt(registry.tags(repository))
        await attempt(pull(repository))
    await attempt(registry.repositories())
    return errors


# -- where credentials go ------------------------------------------------------------------------------------------------------

HOME: Mapping[str, frozenset[str]] = {
    "dockerhub": frozenset({"registry", "auth", "api"}),
    "ghcr": frozenset({"registry", "api"}),
    "gitlab": frozenset({"registry", "gitlab"}),
    "nexus": frozenset({"registry", "open"}),
}
"""Which servers may see the credential of a registry; for others the registry alone."""
ELSEWHERE: Mapping[str, frozenset[str]] = {
    "aws.secret_access_key": frozenset(),
    "AWS_SECRET_ACCESS_KEY": frozenset(),
    "AWS_SHARED_CREDENTIALS_FILE": frozenset(),
    "aws.session_token": frozenset({"sts", "api"}),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": frozenset({"container"}),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": frozenset({"container"}),
    "AWS_WEB_IDENTITY_TOKEN_FILE": frozenset({"sts"}),
    "azure.client_secret": frozenset({"entra"}),
    "azure.certificate": frozenset(),
    "AZURE_FEDERATED_TOKEN_FILE": frozenset({"entra"}),
    "IDENTITY_HEADER": frozenset({"msi"}),
    "gcp.credentials": frozenset(),
    "GOOGLE_APPLICATION_CREDENTIALS": frozenset(),
    "github_app.private_key": frozenset(),
    "api.token": frozenset({"api", "gitlab"}),
    "aws secret": frozenset(),
    "aws session": frozenset({"sts", "api"}),
    "ecr password": frozenset({"registry"}),
    "hub token": frozenset({"api"}),
    "installation token": frozenset({"registry", "api"}),
    "entra token": frozenset({"registry"}),
    "google token": frozenset({"registry", "api"}),
}
"""The same for secrets that have a place of their own."""


def may_see(fake: ProviderFake, login: Login) -> dict[str, tuple[str, frozenset[str]]]:
    """Secret to what it is and which servers may see it."""
    home = HOME.get(fake.kind, frozenset({"registry"}))
    known = {**configured_secrets(fake, login), **issued_secrets(fake)}
    found = {}
    for secret, what in known.items():
        places = ELSEWHERE.get(what, home)
        if what == "issued token":
            places = frozenset({"registry", "open"})
        if what == "password" and login.settings.get("username", "").startswith("AKIA"):
            places = frozenset()  # it signs requests and is never sent
        if what == "api.token" and fake.kind == "quay":
            places = frozenset({"registry"})
        found[secret] = (what, places)
    return found


def strays(fake: ProviderFake, login: Login) -> list[str]:
    """Secrets that were seen where they do not belong, or in a URL."""
    wrong = []
    secrets = may_see(fake, login)
    for seen in fake.seen:
        place = place_of(seen.server, seen.headers["host"])
        foreign = {secret: what for secret, (what, places) in secrets.items() if place not in places}
        for text in texts_of(seen):
            wrong += [f"{place} {seen.method} {seen.path}: {what}" for what in held(text, foreign)]
        for text in (seen.path, unquote(seen.path)):
            everywhere = {secret: what for secret, (what, _) in secrets.items()}
            wrong += [f"in the URL {place} {seen.path}: {what}" for what in held(text, everywhere)]
    return wrong


@each_login
async def test_a_secret_is_shown_only_where_it_belongs(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        login = fake.logins[index]
        environment(login, monkeypatch)
        fake.storage = True
        async with opening(fake.settings(login), QUICK) as registry:
            await everything(registry, fake, midway=fake.expire)
            fake.throttled = 1
            await everything(registry, fake)
        assert fake.count("storage") > 0 or not login.pulls
        assert not any(
            seen.authorization for seen in fake.seen if place_of(seen.server, seen.headers["host"]) == "storage"
        )
        secrets = {secret: what for secret, (what, _) in may_see(fake, login).items()}
        assert any(held(text, secrets) for seen in fake.seen for text in texts_of(seen))
        assert strays(fake, login) == []


def is_api(kind: str, seen: Seen) -> bool:
    """Whether a request is for the provider's own API, rather than its registry or token service."""
    if kind in {"dockerhub", "ghcr", "gar", "ecr"}:
        return seen.server == "api"
    return seen.path.startswith(("/api/", "/artifactory/api/repositories", "/artifactory/api/search", "/service/rest"))


@pytest.mark.parametrize("kind", ["artifactory", "dockerhub", "gar", "ghcr", "gitlab", "harbor", "nexus", "quay"])
@pytest.mark.parametrize("how", ["token", "password"])
async def test_the_api_has_a_credential_of_its_own(
    kind: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "the-secret-of-the-api-alone"
    given = {"token": own} if how == "token" else {"username": "api-user", "password": own}
    async with next(fake for fake in FAKES if fake.kind == kind)(tmp_path) as fake:
        login = next(one for one in fake.logins if {"username", "password"} <= set(one.settings))
        environment(login, monkeypatch)
        merged = dict(login.settings)
        merged["api"] = {**fake.base.get("api", {}), **given}
        mine = Login(name=login.name, settings=merged, env=login.env)
        async with opening(fake.settings(mine)) as registry:
            await everything(registry, fake)
        to_api = [seen for seen in fake.seen if is_api(kind, seen)]
        others = [seen for seen in fake.seen if not is_api(kind, seen)]
        password = {str(login.settings["password"]): "password"}
        assert not [seen.path for seen in to_api for text in texts_of(seen) if held(text, password)]
        assert not [seen.path for seen in others for text in texts_of(seen) if held(text, {own: "api"})]
        assert [seen for seen in others for text in texts_of(seen) if held(text, password)]
        if (kind, how) != ("quay", "password"):  # its API takes OAuth tokens only
            assert [seen for seen in to_api for text in texts_of(seen) if held(text, {own: "api"})]
