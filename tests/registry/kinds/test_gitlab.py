"""GitLab: whose URL it is, which sort of token is given, where it may go, and what its answers mean."""

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
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import find_kind, open_registry
from sensor.registry.kinds.gitlab import GITLAB, detect, explain, method, rates, recognise
from sensor.registry.kinds.kind import Opening
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Reply, Retry
from tests.fakes.registries.distribution import DistributionFake
from tests.fakes.registries.gitlab import (
    DEPLOY,
    DEPLOY_USER,
    GROUP,
    JOB,
    OAUTH,
    PERSONAL,
    PROJECT_BOT,
    GitlabFake,
)

QUICK = Retry(attempts=3, first=0.001, most=0.01)


def settings_of(**more: object) -> Settings:
    return Settings.model_validate({"name": "one", "url": "registry.gitlab.com", **more})


@contextlib.asynccontextmanager
async def opened(fake: GitlabFake, **more: Any) -> AsyncIterator[RegistryClient]:
    given = {"username": "dev", "password": PERSONAL} if not {"username", "password", "token"} & set(more) else {}
    configured = {"name": "fake", "url": fake.url, "provider": "gitlab", "insecure": True, **given, **more}
    registry = open_registry(Settings.model_validate(configured), Http(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9.:/@\[-]{0,40}gitlab\.com.{0,20}", fullmatch=True))
@settings(max_examples=80, deadline=None)
def test_detection_takes_any_text(url: str) -> None:
    found = detect(url)
    assert found is None or found.reason


@pytest.mark.parametrize(
    ("url", "host", "namespace"),
    [
        ("registry.gitlab.com", "registry.gitlab.com", ""),
        ("https://registry.gitlab.com/team/app/", "registry.gitlab.com", "team/app"),
        ("https://gitlab.com/team/app/-/container_registry/12?x", None, None),
        ("https://gitlab.com/team/app/-/container_registry/12", "registry.gitlab.com", "team/app"),
        ("www.gitlab.com", "registry.gitlab.com", ""),
        ("git.example.net:5050/v2/", "git.example.net:5050", ""),
        ("http://git.example.net:5050/team/v2", "git.example.net:5050", "team"),
    ],
)
def test_the_address_is_the_registrys_with_the_path_as_namespace(
    url: str, host: str | None, namespace: str | None
) -> None:
    opening = Opening(settings=settings_of(url=url, insecure=True), http=Http())
    if host is None:
        with pytest.raises(ConfigError):
            GITLAB.address(opening)
        return
    found = GITLAB.address(opening)
    assert (found.host, found.namespace) == (host, namespace)


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ('Bearer realm="https://git.example.net/jwt/auth",service="container_registry"', True),
        ('Bearer realm="https://git.example.net/gitlab/jwt/auth?x=1",service="container_registry"', True),
        ('Bearer realm="https://git.example.net/jwt/auth",service="harbor-registry"', False),
        ('Bearer realm="https://git.example.net/token",service="container_registry"', False),
        ('Basic realm="/jwt/auth"', False),
        ("", False),
    ],
)
def test_is_recognised_by_its_challenge(header: str, known: bool) -> None:
    reply = Reply(status=401, url="", headers={}, body=b"", header_lists={"www-authenticate": (header,)})
    assert bool(recognise(reply)) is known


def basic(user: str, password: str) -> Basic:
    return Basic(username=user, password=Secret(password))


@pytest.mark.parametrize(
    ("credential", "name", "lists", "complaint"),
    [
        (None, "anonymous", True, ""),
        (basic("dev", PERSONAL), "access token", True, ""),
        (basic("", PERSONAL), "access token", True, "wants a user name"),
        (basic("gitlab+deploy-token-4", PERSONAL), "access token", True, "user name of a deploy token"),
        (basic("group_4_bot_ab", "unprefixed"), "access token", True, ""),
        (basic(DEPLOY_USER, "unprefixed"), "deploy token", False, ""),
        (basic("puller", DEPLOY), "deploy token", False, ""),
        (basic("", DEPLOY), "deploy token", False, "own user name"),
        (basic(PROJECT_BOT, DEPLOY), "deploy token", False, "own user name"),
        (basic("gitlab-ci-token", "unprefixed"), "CI job token", False, "ends with its job"),
        (basic("dev", JOB), "CI job token", False, "is gitlab-ci-token"),
        (basic("oauth2", "unprefixed"), "OAuth token", True, ""),
        (basic("dev", OAUTH), "OAuth token", True, "is oauth2"),
        (basic("dev", "password"), "user name and password", True, ""),
        (StaticToken(token=Secret("eyJhbGc.eyJhY2Nlc3M.c2ln")), "registry token", False, "5 to 15 minutes"),
    ],
)
def test_the_method_is_told_by_prefix_and_user_name(
    credential: Credential | None, name: str, lists: bool, complaint: str
) -> None:
    found = method(settings_of(), credential)
    assert name in found.name
    assert found.lists is lists
    assert complaint in found.complaint
    assert bool(found.complaint) is bool(complaint)
    if credential is not None:
        secret = credential.password if isinstance(credential, Basic) else credential.token
        assert secret.reveal() not in found.complaint


def test_an_api_token_lists_beside_a_deploy_token() -> None:
    configured = settings_of(api={"token": {"env": "TOKEN"}})
    assert method(configured, basic(DEPLOY_USER, DEPLOY)).lists


@pytest.mark.parametrize(
    ("token", "user"),
    [(PERSONAL, "oauth2"), (JOB, "gitlab-ci-token"), ("eyJhbGc.eyJhY2Nlc3M.c2ln", None)],
)
async def test_a_bare_token_gets_a_user_name(token: str, user: str | None, tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, token=token) as registry:
        credential = await registry.session.credential()
        assert (credential.username if isinstance(credential, Basic) else None) == user


def refusal(
    error: RegistryError, credential: Credential | None = None, scope: str = "", answer: Answer | None = None
) -> Refusal:
    return Refusal(error=error, credential=credential, scope=scope, answer=answer)


def at_token_service(status: int, kind: type[RegistryError]) -> RegistryError:
    return kind(f"authentication failed: GET https://git.example.net/jwt/auth: status {status}, something", "")


@pytest.mark.parametrize(
    ("refused", "kind", "advice"),
    [
        (refusal(at_token_service(401, RegistryUnauthorized), basic("dev", PERSONAL)), RegistryUnauthorized, "revoked"),
        (refusal(at_token_service(401, RegistryUnauthorized), basic("dev", "x")), RegistryUnauthorized, "two-factor"),
        (
            refusal(at_token_service(401, RegistryUnauthorized), basic("x", DEPLOY)),
            RegistryUnauthorized,
            "deploy-token",
        ),
        (refusal(at_token_service(401, RegistryUnauthorized), basic("x", JOB)), RegistryUnauthorized, "job"),
        (refusal(at_token_service(401, RegistryUnauthorized), basic("x", OAUTH)), RegistryUnauthorized, "two hours"),
        (
            refusal(at_token_service(403, RegistryUnauthorized), basic("dev", PERSONAL)),
            RegistryUnauthorized,
            "redirects from http to https.*15 minutes",
        ),
        (refusal(at_token_service(403, RegistryUnauthorized)), RegistryUnauthorized, "configure one"),
        (refusal(at_token_service(404, RegistryNotFound), basic("dev", PERSONAL)), RegistryForbidden, "switched off"),
        (refusal(at_token_service(301, UnexpectedAnswer), basic("dev", PERSONAL)), UnexpectedAnswer, "https://"),
        (refusal(at_token_service(429, RegistryRateLimited), basic("dev", PERSONAL)), RegistryRateLimited, "^$"),
        (
            refusal(RegistryForbidden("no right"), basic("dev", PERSONAL), "repository:team/app:pull"),
            RegistryForbidden,
            "read_registry.*Reporter",
        ),
        (
            refusal(RegistryForbidden("no right"), basic("dev", PERSONAL), "registry:catalog:*"),
            RegistryForbidden,
            "administrators",
        ),
        (refusal(RegistryUnauthorized("reachable but unauthenticated")), RegistryUnauthorized, "public projects"),
        (
            refusal(RegistryUnauthorized("not sent", "name it in trusted_realms"), basic("dev", PERSONAL)),
            RegistryUnauthorized,
            "api.url",
        ),
        (refusal(RegistryNotFound("no such tag", "check"), basic("dev", PERSONAL)), RegistryNotFound, "^check$"),
    ],
)
def test_the_error_matrix(refused: Refusal, kind: type[RegistryError], advice: str) -> None:
    error = explain(refused)
    assert type(error) is kind
    assert error.message == refused.error.message
    assert re.search(advice, error.advice), error.advice


def test_paces_gitlab_com_only() -> None:
    anonymous, known = rates(settings_of()), rates(settings_of(password={"env": "TOKEN"}))
    assert anonymous["gitlab.com"].per_second <= 500 / 60
    assert anonymous["gitlab.com"].per_second < known["gitlab.com"].per_second <= 2000 / 60
    assert rates(settings_of(url="gitlab.com")) == anonymous
    assert rates(settings_of(url="git.example.net:5050")) == {}


# -- where a token may go ----------------------------------------------------------------------------------------------


async def test_no_token_goes_to_a_realm_that_is_not_trusted(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        fake.realm = "http://localhost:1/jwt/auth"
        async with opened(fake, api={"token": GROUP}) as registry:
            ping = await registry.ping()
            assert not ping.authenticated
            assert "trusted_realms" in ping.advice
            with pytest.raises(RegistryError) as refused:
                await registry.repositories()
            assert GROUP not in str(refused.value)
        assert fake.count("gitlab") == 0
        secrets = (GROUP, PERSONAL)
        assert not any(secret in str(one.headers) for one in fake.seen for secret in secrets)


async def test_a_trusted_realm_gets_both_tokens(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        fake.realm = fake.gitlab_url.replace("127.0.0.1", "localhost") + "/jwt/auth"
        async with opened(fake, trusted_realms=["localhost"]) as registry:
            assert (await registry.ping()).authenticated
            assert set((await registry.repositories()).names) == set(fake.names)


async def test_a_gitlab_that_is_named_gets_both_tokens(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        named = fake.gitlab_url.replace("127.0.0.1", "localhost")
        fake.realm = f"{named}/jwt/auth"
        async with opened(fake, api={"url": f"{named}/"}) as registry:
            assert (await registry.ping()).authenticated
            assert set((await registry.repositories()).names) == set(fake.names)


async def test_a_plain_registry_on_gitlabs_port_is_listed_by_its_catalogue(tmp_path: Path) -> None:
    async with DistributionFake(tmp_path) as fake:
        configured = fake.settings().model_copy(update={"provider": "gitlab"})
        registry = open_registry(configured, Http(), retry=QUICK)
        try:
            listing = await registry.repositories()
            assert listing.source == "_catalog"
            assert set(listing.names) == set(fake.names)
            assert (await registry.tags(fake.names[0])).source == "tags/list"
        finally:
            await registry.close()
        assert not any("private-token" in one.headers for one in fake.seen)


async def test_a_gitlab_below_a_path_has_its_api_there(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake:
        fake.realm = f"{fake.gitlab_url}/git/jwt/auth"
        async with opened(fake, username="", password=None, repositories={"namespaces": ["team"]}) as registry:
            with pytest.raises(RegistryError):
                await registry.repositories()
            assert fake.count("gitlab", "/git/api/graphql")


def test_saas_and_dedicated_trust_their_own_token_service() -> None:
    for url, realm in (
        ("registry.gitlab.com", ("gitlab.com",)),
        ("gitlab.com/team", ("gitlab.com",)),
        ("registry.acme.gitlab-dedicated.com", ("acme.gitlab-dedicated.com",)),
        ("git.example.net:5050", ()),
    ):
        registry = open_registry(settings_of(url=url))
        assert isinstance(registry, RegistryClient)
        assert registry.session._terms.trusted_realms == realm
    registry = open_registry(settings_of(url="git.example.net:5050", api={"url": "https://web.example.net:8443/git"}))
    assert isinstance(registry, RegistryClient)
    assert registry.session._terms.trusted_realms == ("web.example.net:8443",)


# -- answers of the registry -------------------------------------------------------------------------------------------


async def test_a_registry_that_is_switched_off_is_no_missing_image(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake) as registry:
        fake.enabled = False
        with pytest.raises(RegistryForbidden, match="registry not enabled") as refused:
            await registry.head(fake.names[0], "v1")
        assert "switched off" in refused.value.advice


async def test_a_project_that_is_not_there_is_told_like_a_missing_right(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake) as registry:
        with pytest.raises(RegistryForbidden) as refused:
            await registry.manifest("team/nosuch", "v1")
        assert "no such project or no right" in refused.value.advice


async def test_the_catalogue_is_for_administrators(tmp_path: Path) -> None:
    async with GitlabFake(tmp_path) as fake, opened(fake, username=DEPLOY_USER, password=DEPLOY) as registry:
        with pytest.raises(CannotEnumerate, match="deploy token or CI job token opens GitLab's registry") as refused:
            await registry.repositories()
        assert "api.token" in refused.value.advice
        assert fake.count("gitlab", "/api/") == 0


def test_a_named_provider_is_found() -> None:
    assert find_kind(settings_of(url="registry.example.net", provider="gitlab")) is GITLAB
