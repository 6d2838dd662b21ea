"""JFrog Artifactory: addresses, credentials and words of `artifactory`, against its fake where something is asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.artifactory import ARTIFACTORY, address, detect, explain, method, read_claims, standing
from sensor.registry.kinds.kind import Opening
from sensor.registry.login import Basic, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Reply, Retry
from tests.fakes.registries.artifactory import API_KEY, PASSWORD, USER, ArtifactoryFake, jwt, reference_token


def opening(url: str, **more: Any) -> Opening:
    return Opening(settings=Settings.model_validate({"name": "art", "url": url, **more}), http=Http())


def basic(password: str, username: str = USER) -> Basic:
    return Basic(username=username, password=Secret(password))


SETTINGS = opening("art.example.com").settings


@contextlib.asynccontextmanager
async def connected(
    fake: ArtifactoryFake, *, limits: Limits = DEFAULT_LIMITS, **settings: Any
) -> AsyncIterator[RegistryClient]:
    """A client of the fake, logged in with a password unless the settings say otherwise."""
    merged = {"name": "art", "url": fake.url, "provider": "artifactory", "insecure": True, **settings}
    if "username" not in merged and "token" not in merged:
        merged |= {"username": USER, "password": PASSWORD}
    quick = Retry(attempts=3, first=0.001, most=0.01)
    registry = open_registry(Settings.model_validate(merged), Http(), limits, retry=quick)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@pytest.mark.parametrize(
    ("url", "facts"),
    [
        ("mycompany.jfrog.io", {"server": "mycompany"}),
        ("https://MyCompany.JFrog.io:443/docker-prod/team", {"server": "mycompany", "repository": "docker-prod"}),
        ("mycompany.jfrog.io/artifactory/docker-prod", {"server": "mycompany", "repository": "docker-prod"}),
        (
            "mycompany.jfrog.io/artifactory/api/docker/docker-prod/v2/",
            {"server": "mycompany", "repository": "docker-prod"},
        ),
        ("http://10.0.0.1:8081/artifactory/api/oci/oci-local", {"repository": "oci-local"}),
    ],
)
def test_addresses_that_tell(url: str, facts: dict[str, str]) -> None:
    found = detect(url)
    assert found is not None
    assert found.facts == facts


@pytest.mark.parametrize(
    "url",
    [
        "jfrog.io", "jfrog.io.example.com", "evil-jfrog.io", "x.jfrog.io.example.com/docker", "example.com/a.jfrog.io",
        "https://a.jfrog.io@example.com/", "a.jfrog.io.", "art.example.com/api/docker/key", "art.example.com/artifactory/key",
        "", "http://[", "//", "a b", ".jfrog.io", "..jfrog.io", "oci:/a.jfrog.io",
    ],
)  # fmt: skip
def test_addresses_that_do_not(url: str) -> None:
    found = detect(url)
    assert found is None or url == "a.jfrog.io."  # the root's dot is the same host


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_may_be_asked_about(text: str) -> None:
    found = detect(text)
    assert found is None or found.reason


@pytest.mark.parametrize(
    ("url", "path", "namespace"),
    [
        ("art.example.com", "", ""),
        ("art.example.com/", "", ""),
        ("art.example.com/docker-prod", "", "docker-prod"),
        ("art.example.com/docker-prod/v2/", "", "docker-prod"),
        ("art.example.com/docker-prod/team", "", "docker-prod/team"),
        ("https://art.example.com/artifactory", "", ""),
        ("https://art.example.com/artifactory/", "", ""),
        ("https://art.example.com/artifactory/docker-prod/", "", "docker-prod"),
        ("art.example.com/artifactory-docker", "", "artifactory-docker"),
        ("art.example.com/artifactory/api/docker/k", "/artifactory/api/docker/k", ""),
        ("art.example.com/artifactory/api/docker/k/v2/", "/artifactory/api/docker/k", ""),
        ("art.example.com/artifactory/api/oci/k/v2/team", "/artifactory/api/oci/k", "team"),
        ("art.example.com:8443/api/docker/k", "/api/docker/k", ""),
    ],
)
def test_where_a_url_leads(url: str, path: str, namespace: str) -> None:
    found = address(opening(url))
    assert (found.path, found.namespace) == (path, namespace)
    assert found.host.startswith("art.example.com")


@pytest.mark.parametrize("url", ["art.example.com/ui/repos/tree/General/docker-prod", "art.example.com/webapp/"])
def test_a_page_of_the_web_interface_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        address(opening(url))
    assert "repository key" in wrong.value.advice


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"x-jfrog-version": "Artifactory/7.46.11 74611900"}, True),
        ({"x-artifactory-id": "0123"}, True),
        ({"x-artifactory-node-id": "n1"}, True),
        ({"server": "Artifactory/7.46.11"}, True),
        ({"server": "nginx", "x-frame-options": "Artifactory"}, False),
        ({}, False),
    ],
)
def test_what_an_answer_tells(headers: dict[str, str], told: bool) -> None:
    reply = Reply(status=401, url="https://art.example.com/v2/", headers=headers, body=b"")
    assert bool(ARTIFACTORY.recognise(reply)) is told


FUTURE, PAST = int(time.time()) + 1_000_000, int(time.time()) - 1000


@pytest.mark.parametrize(
    ("credential", "name", "complaint"),
    [
        (None, "anonymous", ""),
        (basic(PASSWORD), "user name and password", ""),
        (basic(PASSWORD, ""), "user name and password", "user name is missing"),
        (basic(API_KEY), "API key (deprecated)", ""),
        (basic(reference_token()), "identity token (reference token)", ""),
        (basic(reference_token(FUTURE)), "identity token (reference token)", ""),
        (basic(reference_token(PAST)), "identity token (reference token)", "has expired"),
        (basic("Ab1" * 21 + "x"), "identity token (reference token)", ""),
        (basic(jwt()), "access token", ""),
        (basic(jwt(), "Sensor"), "access token", ""),
        (basic(jwt(), "other"), "access token", "belongs to 'sensor'"),
        (basic(jwt(sub="lenon"), "lenon"), "access token", ""),
        (basic(jwt(sub="lenon")), "access token", "belongs to 'lenon'"),
        (basic(jwt(sub="jfxr@01abc")), "access token", ""),
        (basic(jwt(exp=PAST)), "access token", "has expired"),
        (basic(jwt(exp=FUTURE)), "access token", ""),
        (basic("eyJh.!!!.x"), "user name and password", ""),
        (basic("eyJh.bnVsbA.x"), "user name and password", ""),
        (StaticToken(token=Secret(jwt(exp=PAST))), "access token", "has expired"),
        (StaticToken(token=Secret(jwt())), "access token", ""),
        (StaticToken(token=Secret("opaque")), "bearer token", ""),
    ],
)
def test_ways_to_log_in(credential: Basic | StaticToken | None, name: str, complaint: str) -> None:
    found = method(SETTINGS, credential)
    assert found.name == name
    assert complaint in found.complaint
    assert bool(found.complaint) is bool(complaint)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_secret_may_be_looked_at_and_is_never_repeated(secret: str) -> None:
    for credential in (basic(secret, "nobody"), StaticToken(token=Secret(secret))):
        found = method(SETTINGS, credential)
        told = standing(credential)
        assert found.name
        assert len(secret) < 12 or secret not in f"{found} {told}"


@pytest.mark.parametrize(
    ("scopes", "may_write"),
    [
        ("applied-permissions/user", None),
        ("applied-permissions/groups:readers,others", None),
        ("applied-permissions/admin", True),
        ("artifact:docker-local:r", False),
        ("artifact:docker-local:r artifact:libs/x:r,w", True),
        ("artifact:docker-local:*", True),
        ("artifact:docker-local:r applied-permissions/user", None),
        (["artifact:docker-local:r"], False),
        ("", None),
    ],
)
def test_what_the_scopes_of_a_token_allow(scopes: str, may_write: bool | None) -> None:
    told = standing(StaticToken(token=Secret(jwt(scp=scopes, exp=FUTURE))))
    assert told.may_write is may_write
    assert told.identity == USER
    assert told.expires == FUTURE


def test_who_other_credentials_belong_to() -> None:
    assert standing(None).identity == ""
    assert standing(basic(PASSWORD)).identity == USER
    assert standing(basic(PASSWORD)).expires is None
    assert standing(basic(reference_token(FUTURE))).expires == FUTURE
    assert standing(basic(reference_token())).expires is None
    assert standing(StaticToken(token=Secret("opaque"))).identity == ""
    assert standing(StaticToken(token=Secret(jwt(sub="jfxr@01abc")))).identity == "jfxr@01abc"
    assert read_claims(Secret("a.b")) is None


@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (NotARegistry("a web page", "x"), NotARegistry, "host alone"),
        (UnexpectedAnswer("Unsupported docker repository request for 'v2'", ""), UnexpectedAnswer, "repository key is missing"),
        (UnexpectedAnswer("status 418", "x"), UnexpectedAnswer, "x"),
        (RegistryForbidden("status 403, download blocked by Xray", "x"), ImageWithheld, "Xray"),
        (RegistryForbidden("status 403, Curation policy", "x"), ImageWithheld, "Curation"),
        (RegistryForbidden("status 403, DENIED", "x"), RegistryForbidden, "permission Read on the repository that holds team/app"),
        (RegistryUnauthorized("authentication failed: x", ""), RegistryUnauthorized, "user name is the one it was issued to"),
        (RegistryUnauthorized("reachable but unauthenticated: x", ""), RegistryUnauthorized, "anonymous access"),
        (RegistryNotFound("status 404", "x"), RegistryNotFound, "repository key is missing in the URL"),
        (RegistryRateLimited("status 429", "later", retry_after=7), RegistryRateLimited, "later"),
    ],
)  # fmt: skip
def test_errors_in_artifactorys_words(error: RegistryError, kind: type[RegistryError], advice: str) -> None:
    told = explain(Refusal(error=error, scope="repository:team/app:pull"))
    assert type(told) is kind
    assert error.message in told.message
    assert advice in told.advice
    assert told.retry_after == error.retry_after


async def test_a_refused_password_is_not_tried_again(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, username=USER, password="no") as registry:
        with pytest.raises(RegistryUnauthorized) as refused:
            await registry.repositories()
        assert "authentication failed" in refused.value.message
        assert sum(bool(one.authorization) for one in fake.seen) == 1
        with pytest.raises(RegistryUnauthorized):
            await registry.tags("docker-local/team/app")
        ping = await registry.ping()
        assert not ping.authenticated
        assert "authentication failed" in ping.detail
        assert sum(bool(one.authorization) for one in fake.seen) == 3  # one a question


async def test_basic_goes_straight_to_the_registry(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake) as registry:
        assert (await registry.ping()).authenticated
        await registry.head("docker-local/team/app", "v1")
        assert fake.count("registry", "/token") == 0
        assert [one.path for one in fake.seen].count("/v2/docker-local/team/app/manifests/v1") == 1


async def test_an_anonymous_client_learns_the_realm_of_each_key_once(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake, auth="anonymous", username="") as registry:
        await registry.manifest("docker-local/team/base", "v1")
        before = registry.requests
        await registry.manifest("docker-local/team/base", "v1")
        assert registry.requests == before + 1


async def test_a_forbidden_image_names_the_permission(tmp_path: Path) -> None:
    async with ArtifactoryFake(tmp_path) as fake, connected(fake) as registry:
        fake.forbidden.add("docker-local/team/app")
        with pytest.raises(RegistryForbidden) as refused:
            await registry.manifest("docker-local/team/app", "v1")
        assert "permission Read on the repository that holds team/app" in refused.value.advice


async def test_a_pasted_page_of_the_web_interface_is_told_from_a_registry(tmp_path: Path) -> None:
    async with (
        ArtifactoryFake(tmp_path) as fake,
        connected(fake, url=f"{fake.url}/artifactory/api/docker/x/y/z") as registry,
    ):
        # below a repository's own API there is no other: the rest is taken for a folder of images
        assert registry.session.address.namespace == "y/z"
        with pytest.raises(RegistryError):
            await registry.tags("other/image")
