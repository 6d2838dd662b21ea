"""GitHub's container registry: hosts, ways of logging in, words for refusals, pauses in bodies."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.config.schema import Http, Registry
from sensor.errors import ConfigError, RegistryError
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.ghcr import api_base, detect, explain, may_be_throttled, method, pause_in
from sensor.registry.login import Answer, Basic, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Retry
from tests.fakes.registries.ghcr import PAT, USER, GhcrFake, pem

QUICK = Retry(attempts=2, first=0.001, most=0.01)


def settings(url: str = "ghcr.io", **more: Any) -> Registry:
    return Registry.model_validate({"name": "hub", "url": url, **more})


def basic(password: str, username: str = "me") -> Basic:
    return Basic(username=username, password=Secret(password))


@contextlib.asynccontextmanager
async def client(of: Registry) -> AsyncIterator[RegistryClient]:
    registry = open_registry(of, Http(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@given(st.text())
def test_detection_takes_any_text(text: str) -> None:
    found = detect(text)
    assert found is None or found.reason


async def test_the_owner_is_written_in_lower_case() -> None:
    async with client(settings("https://ghcr.io/Acme/Deep")) as registry:
        assert registry.session.address.namespace == "acme/deep"
        assert registry.host == "ghcr.io"


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("ghcr.io", "https://api.github.com"),
        ("ghcr.io:443", "https://api.github.com"),
        ("containers.acme.ghe.com", "https://api.acme.ghe.com"),
        ("containers.github.example.com", ""),
        ("ghcr.io.example.com", ""),
    ],
)
def test_the_api_follows_from_the_host_where_github_runs_it(host: str, base: str) -> None:
    assert api_base(settings(), host) == base
    own = settings(api={"url": "https://github.example.com/api/v3"})
    assert api_base(own, host) == "https://github.example.com/api/v3"


def test_an_app_needs_to_know_the_api() -> None:
    app = {"app_id": "1", "private_key": "x"}
    with pytest.raises(ConfigError, match="api/v3"):
        open_registry(settings("containers.github.example.com", provider="ghcr", github_app=app))


@pytest.mark.parametrize(
    ("password", "name", "pulls", "lists", "complaint"),
    [
        ("ghp_x", "personal access token (classic)", True, True, ""),
        ("0123456789" * 4, "personal access token (classic)", True, True, ""),
        ("gho_x", "OAuth token", True, True, ""),
        ("ghu_x", "OAuth token", True, True, ""),
        ("github_pat_x", "fine-grained personal access token", False, False, "classic"),
        ("ghs_x", "installation token", False, True, "GITHUB_TOKEN"),
        ("pa55word", "password", False, False, "never accepted"),
    ],
)
def test_names_the_way_of_logging_in(password: str, name: str, pulls: bool, lists: bool, complaint: str) -> None:
    found = method(settings(), basic(password))
    assert (found.name, found.pulls, found.lists) == (name, pulls, lists)
    assert complaint in found.complaint
    assert bool(complaint) == bool(found.complaint)
    assert password not in found.complaint


def test_an_app_is_no_mistake_but_a_bearer_token_is() -> None:
    with_app = settings(github_app={"app_id": "1", "private_key": "x"})
    found = method(with_app, basic("ghs_x", "x-access-token"))
    assert (found.name, found.pulls, found.lists, found.complaint) == ("GitHub App", False, True, "")
    assert "as password" in method(settings(), StaticToken(token=Secret("ghp_x"))).complaint
    assert not method(settings(), None).lists


DENIED = "authentication failed: GET https://ghcr.io/token: status 403, DENIED: denied"
NO_ACCESS = (
    "authentication failed: GET https://ghcr.io/token: status 403, DENIED: requested access to the resource is denied"
)
UNKNOWN = b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}'
LOGIN = basic("ghp_secret")


@pytest.mark.parametrize(
    ("error", "body", "credential", "kind", "says"),
    [
        (RegistryUnauthorized(DENIED), b"", LOGIN, RegistryUnauthorized, "revoked"),
        (RegistryUnauthorized(NO_ACCESS), b"", LOGIN, RegistryForbidden, "read:packages.*single sign-on.*linked"),
        (RegistryUnauthorized(NO_ACCESS), b"", basic("ghs_x"), RegistryForbidden, "installation token"),
        (RegistryUnauthorized(NO_ACCESS), b"", None, RegistryUnauthorized, "private or does not exist"),
        (RegistryForbidden("permission_denied: read_package"), b"", LOGIN, RegistryForbidden, "Manage access"),
        (RegistryForbidden("m"), b"", basic("x", "x-access-token"), RegistryForbidden, "installation token"),
        (RegistryForbidden("m"), b"", StaticToken(token=Secret("ghs_x")), RegistryForbidden, "read:packages"),
        (RegistryNotFound("m"), UNKNOWN, LOGIN, RegistryNotFound, "hidden from this credential"),
        (RegistryNotFound("m", "old"), b"", LOGIN, RegistryNotFound, "old"),
        (UnexpectedAnswer("m", "old"), b"", LOGIN, UnexpectedAnswer, "old"),
    ],
)
def test_error_matrix(
    error: RegistryError, body: bytes, credential: Basic | StaticToken | None, kind: type[RegistryError], says: str
) -> None:
    answer = Answer(status=403, body=body) if body else None
    found = explain(Refusal(error=error, answer=answer, credential=credential, scope="repository:acme/app:pull"))
    assert type(found) is kind
    with pytest.raises(kind, match=says):
        raise found
    assert "ghp_secret" not in str(found)


def test_a_missing_right_is_told_apart_from_a_wrong_token() -> None:
    found = explain(Refusal(error=RegistryUnauthorized(NO_ACCESS), credential=LOGIN, scope="repository:acme/app:pull"))
    assert "authentication failed" not in found.message
    assert "repository:acme/app:pull" in found.message
    found = explain(Refusal(error=RegistryUnauthorized(NO_ACCESS), credential=LOGIN))
    assert found.message.startswith("GET https://ghcr.io/token")


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ("retry-after: 880.092µs, allowed: 44000/minute", 1.0),
        ("retry-after: 880.092μs", 1.0),
        ("retry-after: 1m30.5s, allowed: 2000/minute", 90.5),
        ("retry-after: 250ms", 1.0),
        ("retry-after: 2h", 900.0),
        ("retry-after: soon", None),
        ("", None),
    ],
)
def test_reads_the_pause_that_is_in_the_body(body: str, seconds: float | None) -> None:
    assert pause_in(body.encode()) == seconds
    limited = RegistryRateLimited("m", "later", retry_after=5.0)
    found = explain(Refusal(error=limited, answer=Answer(status=429, body=body.encode())))
    assert isinstance(found, RegistryRateLimited)
    assert found.retry_after == (seconds or 5.0)


@given(st.binary(max_size=300))
def test_any_body_is_read_for_a_pause(body: bytes) -> None:
    found = pause_in(body)
    assert found is None or 1.0 <= found <= 900.0


def test_only_a_bare_denial_may_be_throttling() -> None:
    assert may_be_throttled(Answer(status=403, body=b'{"errors":[{"code":"DENIED","message":"denied"}]}'))
    assert not may_be_throttled(Answer(status=403, body=b"requested access to the resource is denied"))
    assert not may_be_throttled(Answer(status=200, body=b"denied"))


async def test_a_denial_by_throttling_is_asked_again_once(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        async with client(fake.settings()) as registry:
            fake.hasty_denials = 1
            assert (await registry.ping()).authenticated
            assert fake.count("registry", "/token") == 2
        async with client(fake.settings()) as registry:
            fake.hasty_denials = 1000
            ping = await registry.ping()
            assert not ping.authenticated
            assert "authentication failed" in ping.detail
            assert fake.count("registry", "/token") == 4
        async with client(fake.settings(fake.logins[3])) as registry:
            assert not (await registry.ping()).authenticated
            assert fake.count("registry", "/token") == 5


async def test_the_placeholder_in_the_bases_challenge_is_not_asked_for(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, client(fake.settings()) as registry:
        assert (await registry.ping()).authenticated
        assert fake.count("registry", "user/image") == 0


async def test_no_origin_sees_the_credential_of_another(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, client(fake.settings()) as registry:
        await registry.ping()
        await registry.repositories()
        await registry.manifest("team/app", "v1")
        seen = {(one.server, "/token" in one.path): set[str]() for one in fake.seen}
        for one in fake.seen:
            seen[one.server, "/token" in one.path].add(one.authorization)
        assert seen["registry", True] == {basic(PAT, USER).header}
        assert seen["api", False] == {f"Bearer {PAT}"}
        assert not any(PAT in value or value.startswith("Basic") for value in seen["registry", False])


async def test_an_app_pulls_what_is_public(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, client(fake.settings(fake.logins[2])) as registry:
        built = fake.images["team/base"]["v1"]
        assert (await registry.manifest("team/base", "v1")).digest == built.digest
        with pytest.raises(RegistryForbidden, match="classic") as refused:
            await registry.manifest("team/app", "v1")
        assert pem()[40:80] not in str(refused.value)
