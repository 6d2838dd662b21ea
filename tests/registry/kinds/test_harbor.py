"""Harbor: addresses that people paste, names of robots, and what its answers mean."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    RegistryUnavailable,
)
from sensor.registry.kinds import find_kind, open_registry
from sensor.registry.kinds.harbor import HARBOR, detect, explain, method, recognise
from sensor.registry.kinds.kind import Opening
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Reply, Retry
from tests.fakes.registries.harbor import PROJECT_ROBOT, SECRET, SYSTEM_ROBOT, HarborFake
from tests.fakes.registries.provider import problem

QUICK = Retry(attempts=3, first=0.001, most=0.01)


def settings_of(**more: object) -> Settings:
    return Settings.model_validate({"name": "one", "url": "harbor.example.net", "provider": "harbor", **more})


@contextlib.asynccontextmanager
async def opened(fake: HarborFake, **more: Any) -> AsyncIterator[RegistryClient]:
    configured = {"url": fake.url, "insecure": True, "username": SYSTEM_ROBOT, "password": SECRET, **more}
    registry = open_registry(settings_of(**configured), Http(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9.:/@\[-]{0,40}/harbor/projects.{0,20}", fullmatch=True))
@settings(max_examples=80, deadline=None)
def test_detection_takes_any_text_and_only_pages_of_the_portal(url: str) -> None:
    found = detect(url)
    assert found is None or "/harbor/projects" in url


@pytest.mark.parametrize(
    ("url", "host", "scheme", "namespace"),
    [
        ("harbor.example.net", "harbor.example.net", "", ""),
        ("https://harbor.example.net/", "harbor.example.net", "https", ""),
        ("https://harbor.example.net:8443/harbor/projects/3/repositories", "harbor.example.net:8443", "https", ""),
        ("https://harbor.example.net/harbor/projects/3/repositories?page=1#x", "harbor.example.net", "https", ""),
        ("https://harbor.example.net/account/sign-in?redirect_url=%2Fharbor", "harbor.example.net", "https", ""),
        ("https://harbor.example.net/api/v2.0/projects", "harbor.example.net", "https", ""),
        ("harbor.example.net/v2/", "harbor.example.net", "", ""),
        ("harbor.example.net/team", "harbor.example.net", "", "team"),
        ("harbor.example.net/team/app/", "harbor.example.net", "", "team/app"),
    ],
)
def test_of_a_pasted_address_scheme_and_host_are_kept(url: str, host: str, scheme: str, namespace: str) -> None:
    found = HARBOR.address(Opening(settings=settings_of(url=url), http=Http()))
    assert (found.host, found.scheme, found.path, found.namespace) == (host, scheme, "", namespace)


def test_an_address_without_a_host_is_refused() -> None:
    with pytest.raises(ConfigError):
        HARBOR.address(Opening(settings=settings_of(url="https:///harbor/projects"), http=Http()))


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ('Bearer realm="https://h.example.net/service/token",service="harbor-registry"', True),
        ('Bearer realm="https://h.example.net/service/token",service="container_registry"', False),
        ('Bearer realm="https://h.example.net/token",service="harbor-registry"', False),
        ('Basic realm="harbor"', False),
        ("", False),
    ],
)
def test_is_recognised_by_its_challenge(header: str, known: bool) -> None:
    reply = Reply(status=401, url="", headers={}, body=b"", header_lists={"www-authenticate": (header,)})
    assert bool(recognise(reply)) is known


def basic(user: str) -> Basic:
    return Basic(username=user, password=Secret(SECRET))


@pytest.mark.parametrize(
    ("credential", "name", "complaint"),
    [
        (None, "anonymous", ""),
        (basic("robot$sensor"), "system robot account", ""),
        (basic("robot$team+ci"), "project robot account", ""),
        (basic("svc-team+ci"), "project robot account", ""),
        (basic("dev"), "user name with password or CLI secret", ""),
        (basic("robot$$sensor"), "system robot account", "doubled"),
        (basic("robot$$team+ci"), "project robot account", "doubled"),
        (basic("robot+ci"), "project robot account", "swallowed"),
        (basic("robot"), "system robot account", "swallowed"),
        (basic("'robot$team+ci'"), "project robot account", "quotes"),
        (basic("robot$sensor "), "system robot account", "spaces"),
        (basic(""), "user name", "wants a user name"),
        (StaticToken(token=Secret(SECRET)), "bearer token", "not a bearer token"),
    ],
)
def test_the_method_is_told_by_the_user_name(credential: Credential | None, name: str, complaint: str) -> None:
    found = method(settings_of(), credential)
    assert name in found.name
    assert complaint in found.complaint
    assert bool(found.complaint) is bool(complaint)
    assert SECRET not in found.complaint


def refusal(error: RegistryError, credential: Credential | None, scope: str, challenge: str | None = None) -> Refusal:
    headers = {} if challenge is None else {"www-authenticate": (challenge,)}
    return Refusal(error=error, credential=credential, scope=scope, answer=Answer(status=401, header_lists=headers))


FAILED = RegistryUnauthorized("authentication failed: https://h: status 401", "check")
NOBODY = RegistryUnauthorized("reachable but unauthenticated: https://h: status 401", "configure")


@pytest.mark.parametrize(
    ("refused", "kind", "message", "advice"),
    [
        (refusal(FAILED, basic("robot$s"), "", 'Basic realm="harbor"'), RegistryUnauthorized, "authentication failed",
         "expired or was disabled"),
        (refusal(FAILED, basic("team+ci"), "", 'Basic realm="harbor"'), RegistryUnauthorized, "authentication failed",
         r"begins with robot\$ unless"),
        (refusal(FAILED, basic("dev"), "", 'Basic realm="harbor"'), RegistryUnauthorized, "authentication failed",
         "CLI secret"),
        (refusal(FAILED, basic("robot$s"), "repository:team/app:pull", 'Basic realm="harbor"'), RegistryForbidden,
         "^no right for repository:team/app:pull: https", "repository: pull in project team"),
        (refusal(FAILED, basic("robot$s"), "repository:team/app:pull", ""), RegistryNotFound, "no project team: https",
         "check the name"),
        (refusal(NOBODY, None, "repository:team/app:pull", ""), RegistryNotFound, "no project team: https", "check"),
        (refusal(NOBODY, None, "repository:team/app:pull", 'Bearer realm="x"'), RegistryUnauthorized,
         "reachable but unauthenticated", "only public projects"),
        (refusal(FAILED, basic("robot$s"), "registry:catalog:*", 'Basic realm="harbor"'), RegistryForbidden, "status 401",
         "catalog: read"),
        (refusal(RegistryForbidden("no right for repository:t/a:pull: x"), StaticToken(token=Secret("x")),
                 "repository:t/a:pull"), RegistryForbidden, "^no right for repository:t/a:pull: x$", "project t"),
        (refusal(ImageWithheld("status 412, PROJECTPOLICYVIOLATION: unscanned"), basic("robot$s"), "repository:t/a:pull"),
         ImageWithheld, "^status 412, PROJECTPOLICYVIOLATION: unscanned$", "lift that rule"),
        (refusal(RegistryUnavailable("status 500", "log"), basic("robot$s"), "repository:t/a:pull"), RegistryUnavailable,
         "status 500", "^log$"),
    ],
)  # fmt: skip
def test_the_error_matrix(refused: Refusal, kind: type[RegistryError], message: str, advice: str) -> None:
    error = explain(refused)
    assert type(error) is kind
    assert re.search(message, error.message), error.message
    assert re.search(advice, error.advice), error.advice


async def test_a_login_service_that_answers_is_no_answer_of_the_registry() -> None:
    error = explain(Refusal(error=FAILED, credential=basic("robot$s"), scope="repository:team/app:pull"))
    assert isinstance(error, RegistryForbidden)


# -- against the fake ----------------------------------------------------------------------------------------------------


async def test_a_wrong_secret_is_told_in_spite_of_the_token_service(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake, password="no") as registry:
        ping = await registry.ping()
        assert not ping.authenticated
        assert ping.detail.startswith("authentication failed")
        with pytest.raises(RegistryUnauthorized, match="authentication failed"):
            await registry.repositories()
        assert fake.count("registry", "/service/token") == 0


async def test_a_project_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        with pytest.raises(RegistryNotFound, match="no project nosuch"):
            await registry.head("nosuch/app", "v1")
        async with opened(fake, username="", password=None) as stranger:
            with pytest.raises(RegistryNotFound, match="no project nosuch"):
                await stranger.manifest("nosuch/app", "v1")


async def test_an_image_that_a_policy_blocks_is_withheld(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake, opened(fake) as registry:
        fake.blocked.add("team/app")
        for ask in (registry.manifest("team/app", "v1"), registry.head("team/app", "v1")):
            with pytest.raises(ImageWithheld, match="412") as held:
                await ask
            assert "lift that rule" in held.value.advice
        assert sorted((await registry.tags("team/app")).names)


async def test_the_catalogue_is_for_administrators_only(tmp_path: Path) -> None:
    async with HarborFake(tmp_path) as fake:
        async with opened(fake, username="admin") as registry:
            fake.api_failures = [problem(403, "FORBIDDEN", "forbidden")]
            listing = await registry.repositories()
            assert listing.source == "_catalog"
            assert set(listing.names) == set(fake.names)
        async with opened(fake, username=PROJECT_ROBOT) as registry:
            fake.api_failures = [problem(403, "FORBIDDEN", "forbidden")]
            with pytest.raises(CannotEnumerate) as refused:
                await registry.repositories()
            assert "repository: list" in refused.value.advice


def test_a_named_provider_is_found() -> None:
    assert find_kind(settings_of()) is HARBOR
