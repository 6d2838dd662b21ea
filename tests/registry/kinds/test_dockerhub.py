"""Docker Hub: its hosts, ways of logging in, and words for refusals."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.config.schema import Http, Registry
from sensor.errors import RegistryError
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.dockerhub import DOCKERHUB, HOSTS, detect, explain, method
from sensor.registry.login import Answer, Basic, StaticToken
from sensor.registry.terms import Refusal
from sensor.registry.tokens import refuse_realm
from sensor.secret import Secret
from sensor.transport import Retry
from tests.fakes.registries.dockerhub import PAT, USER, DockerHubFake

QUICK = Retry(attempts=2, first=0.001, most=0.01)


def settings(url: str = "docker.io", **more: Any) -> Registry:
    return Registry.model_validate({"name": "hub", "url": url, **more})


def basic(username: str, password: str) -> Basic:
    return Basic(username=username, password=Secret(password))


@contextlib.asynccontextmanager
async def client(of: Registry) -> AsyncIterator[RegistryClient]:
    registry = open_registry(of, Http(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@pytest.mark.parametrize("host", sorted(HOSTS))
async def test_every_host_is_served_by_one_and_named_as_references_do(host: str) -> None:
    async with client(settings(f"https://{host}")) as registry:
        assert registry.host == "docker.io"
        assert registry.session.address.host == "registry-1.docker.io"
        assert registry.session.address.namespace == ""


@pytest.mark.parametrize(
    ("url", "namespace"),
    [
        ("docker.io/acme", "acme"),
        ("https://index.docker.io/v1/", ""),
        ("https://registry-1.docker.io/v2", ""),
        ("https://docker.io/Acme/app/", "acme/app"),
    ],
)
async def test_a_path_is_the_namespace_but_for_the_protocols_version(url: str, namespace: str) -> None:
    found = detect(url)
    assert found is not None
    assert found.facts.get("namespace", "") == namespace
    async with client(settings(url)) as registry:
        assert registry.session.address.namespace == namespace


async def test_a_mirror_stays_what_it_is() -> None:
    async with client(settings("https://mirror.example.com/hub", provider="dockerhub")) as registry:
        assert registry.host == "mirror.example.com"
        assert registry.session.address.namespace == "hub"


@given(st.text())
def test_detection_takes_any_text(text: str) -> None:
    found = detect(text)
    assert found is None or found.reason


def test_the_token_service_is_trusted_and_no_other_host_is() -> None:
    own = "https://registry-1.docker.io"
    assert not refuse_realm("https://auth.docker.io/token", own, with_secret=True, trusted=DOCKERHUB.realms)
    assert refuse_realm("https://auth.docker.io.evil.example/token", own, with_secret=True, trusted=DOCKERHUB.realms)
    assert refuse_realm("http://auth.docker.io/token", own, with_secret=True, trusted=DOCKERHUB.realms)


@pytest.mark.parametrize(
    ("username", "password", "name", "complaint"),
    [
        ("me", "dckr_pat_x", "personal access token", ""),
        ("acme", "dckr_oat_x", "organisation access token", ""),
        ("me", "pa55word", "password", "two-factor"),
        ("me@example.com", "dckr_pat_x", "personal access token", "e-mail"),
        ("me@example.com", "dckr_oat_x", "organisation access token", "organisation's name"),
        ("", "dckr_pat_x", "personal access token", "user name is missing"),
    ],
)
def test_names_the_way_of_logging_in(username: str, password: str, name: str, complaint: str) -> None:
    found = method(settings(), basic(username, password))
    assert (found.name, found.pulls, found.lists) == (name, True, True)
    assert complaint in found.complaint
    assert bool(complaint) == bool(found.complaint)
    assert password not in found.complaint


def test_a_bearer_token_is_complained_about_and_nobody_is_not() -> None:
    found = method(settings(), StaticToken(token=Secret("dckr_pat_x")))
    assert "password" in found.complaint
    assert not found.lists
    assert method(settings(), None).name == "anonymous"
    assert not method(settings(), None).complaint


TOO_MANY = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
UNKNOWN = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
LOGIN = basic("me", "dckr_pat_secret")


@pytest.mark.parametrize(
    ("error", "status", "body", "credential", "says"),
    [
        (RegistryRateLimited("m", retry_after=3.0), 429, TOO_MANY, None, "log in"),
        (RegistryRateLimited("m", retry_after=3.0), 429, TOO_MANY, LOGIN, "quota"),
        (RegistryRateLimited("m", retry_after=3.0), 429, b"429 Too Many Requests", LOGIN, "within a minute"),
        (RegistryUnauthorized("m"), 401, b"", None, "personal access token"),
        (RegistryUnauthorized("m"), 401, b"", LOGIN, "Docker ID"),
        (RegistryForbidden("m"), 401, b"", LOGIN, "repo:read"),
        (RegistryForbidden("m"), 403, b"", LOGIN, "Image or Registry Access Management"),
        (RegistryNotFound("m"), 404, UNKNOWN, LOGIN, "no such tag"),
        (RegistryNotFound("m", "old"), 404, b"", LOGIN, "old"),
        (UnexpectedAnswer("m", "old"), 418, b"", LOGIN, "old"),
    ],
)
def test_error_matrix(error: RegistryError, status: int, body: bytes, credential: Basic | None, says: str) -> None:
    found = explain(Refusal(error=error, answer=Answer(status=status, body=body), credential=credential))
    assert type(found) is type(error)
    assert (found.message, found.retry_after) == ("m", error.retry_after)
    assert says in found.advice
    assert "dckr_pat_secret" not in str(found)


def test_an_error_without_an_answer_is_explained_as_well() -> None:
    found = explain(Refusal(error=RegistryUnauthorized("m"), credential=LOGIN))
    assert "revoked" in found.advice


class Official(DockerHubFake):
    """With an official image."""

    names = ("library/nginx", "team/app")
    public = ("library/nginx",)


@pytest.mark.parametrize("name", ["nginx", "library/nginx"])
async def test_a_name_of_one_component_is_an_official_image(name: str, tmp_path: Path) -> None:
    async with Official(tmp_path) as fake, client(fake.settings(fake.logins[3])) as registry:
        built = fake.images["library/nginx"]["v1"]
        assert (await registry.head(name, "v1")).digest == built.digest
        assert (await registry.tags(name)).digests == {
            tag: one.digest for tag, one in fake.images["library/nginx"].items()
        }
        assert fake.count("registry", "/v2/library/nginx/manifests/v1") > 0
        assert fake.count("auth", "library/nginx:pull") == 1
        assert fake.count("registry", "/v2/nginx") == 0


async def test_looking_for_changes_takes_nothing_from_the_quota(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, client(fake.settings()) as registry:
        before = fake.pulls_left
        await registry.repositories()
        await registry.tags("team/app")
        await registry.head("team/app", "v1")
        assert fake.pulls_left == before
        await registry.manifest("team/app", "v1")
        assert fake.pulls_left == before - 1


async def test_no_origin_sees_the_credential_of_another(tmp_path: Path) -> None:
    async with DockerHubFake(tmp_path) as fake, client(fake.settings()) as registry:
        await registry.ping()
        await registry.repositories()
        await registry.manifest("team/app", "v1")
        by_server = {
            server: {one.authorization for one in fake.seen if one.server == server} - {""}
            for server in ("registry", "auth", "api")
        }
        assert by_server["auth"] == {basic(USER, PAT).header}
        assert all(value.startswith("Bearer ") for value in by_server["registry"] | by_server["api"])
        assert not by_server["registry"] & by_server["api"]
        assert not any(PAT.encode() in one.body for one in fake.seen if one.server != "api")
