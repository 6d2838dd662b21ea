"""Sonatype Nexus: addresses, credentials and words of `nexus`, against its fake where something is asked."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    RegistryUnavailable,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.kind import Opening
from sensor.registry.kinds.nexus import NEXUS, address, explain, method
from sensor.registry.kinds.nexus_api import Layout
from sensor.registry.login import Answer, Basic, StaticToken
from sensor.registry.terms import Address, Refusal
from sensor.secret import Secret
from sensor.transport import Reply, Retry
from tests.fakes.registries.nexus import HOSTED, NAME_CODE, PASS_CODE, PASSWORD, USER, NexusFake


def opening(url: str, **more: Any) -> Opening:
    return Opening(settings=Settings.model_validate({"name": "nexus", "url": url, **more}), http=Http())


SETTINGS = opening("nexus.example.com").settings


@contextlib.asynccontextmanager
async def connected(
    fake: NexusFake, *, limits: Limits = DEFAULT_LIMITS, **settings: Any
) -> AsyncIterator[RegistryClient]:
    """A client of the fake, logged in with a password unless the settings say otherwise."""
    merged = {"name": "nexus", "url": fake.url, "provider": "nexus", "insecure": True, **settings}
    if "username" not in merged:
        merged |= {"username": USER, "password": PASSWORD}
    quick = Retry(attempts=3, first=0.001, most=0.01)
    registry = open_registry(Settings.model_validate(merged), Http(), limits, retry=quick)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@pytest.mark.parametrize("url", ["nexus.example.com:8082", "https://h/repository/r/", "", "http://[", "nexus.jfrog.io"])
def test_no_address_tells(url: str) -> None:
    assert NEXUS.detect(url) is None


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"server": "Nexus/3.80.0-06 (COMMUNITY)"}, True),
        ({"www-authenticate": 'BASIC realm="Sonatype Nexus Repository Manager"'}, True),
        ({"www-authenticate": 'Bearer realm="https://nexus.example.com/v2/token"'}, False),
        ({"server": "nginx"}, False),
        ({}, False),
    ],
)
def test_what_an_answer_tells(headers: dict[str, str], told: bool) -> None:
    assert bool(NEXUS.recognise(Reply(status=401, url="https://h/v2/", headers=headers, body=b""))) is told


@pytest.mark.parametrize(
    ("url", "path", "namespace"),
    [
        ("nexus.example.com:8082", "", ""),
        ("https://nexus.example.com/", "", ""),
        ("nexus.example.com/docker-hosted", "", "docker-hosted"),
        ("nexus.example.com/docker-hosted/team/v2/", "", "docker-hosted/team"),
        ("nexus.example.com/repository/docker-hosted/", "/repository/docker-hosted", ""),
        ("nexus.example.com/repository/docker-hosted/v2/", "/repository/docker-hosted", ""),
        ("nexus.example.com/nexus/repository/docker-hosted", "/nexus/repository/docker-hosted", ""),
        ("nexus.example.com/a/b/repository/docker-hosted/team", "/a/b/repository/docker-hosted", "team"),
        ("nexus.example.com/repository", "", "repository"),
    ],
)
def test_where_a_url_leads(url: str, path: str, namespace: str) -> None:
    found = address(opening(url))
    assert (found.path, found.namespace) == (path, namespace)


@pytest.mark.parametrize("url", ["h/service/rest/v1", "h/nexus/service/rest", "h/#browse/browse:docker-hosted"])
def test_other_pages_of_nexus_are_no_address(url: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        address(opening(url))
    assert wrong.value.advice


def basic(username: str, password: str) -> Basic:
    return Basic(username=username, password=Secret(password))


@pytest.mark.parametrize(
    ("credential", "name", "complaint"),
    [
        (None, "anonymous", ""),
        (basic(USER, PASSWORD), "user name and password", ""),
        (basic(NAME_CODE, PASS_CODE), "user token", ""),
        (basic("sensor01", PASSWORD), "user name and password", ""),
        (basic("", PASS_CODE), "user name and password", "user name is missing"),
        (StaticToken(token=Secret("DockerToken.x")), "bearer token", "no bearer tokens"),
    ],
)
def test_ways_to_log_in(credential: Basic | StaticToken | None, name: str, complaint: str) -> None:
    found = method(SETTINGS, credential)
    assert found.name == name
    assert complaint in found.complaint
    assert bool(found.complaint) is bool(complaint)


DENIED = Answer(status=401, body=b'{"errors":[{"code":"DENIED","message":"x"}]}')


@pytest.mark.parametrize(
    ("error", "answer", "kind", "advice"),
    [
        (NotARegistry("404, a web page", "x"), None, NotARegistry, "connector port"),
        (RegistryForbidden("403", "x"), None, RegistryForbidden, "nx-repository-view-docker-<repository>-read"),
        (RegistryForbidden("403", "x"), None, RegistryForbidden, "-browse for team/app"),
        (RegistryUnauthorized("authentication failed: x", ""), None, RegistryUnauthorized, "name code and pass code"),
        (RegistryUnauthorized("authentication failed: x", ""), DENIED, RegistryForbidden, "-read"),
        (RegistryUnauthorized("reachable but unauthenticated", ""), None, RegistryUnauthorized, "Docker Bearer Token Realm"),
        (RegistryUnavailable("503", "x", retry_after=9), None, RegistryUnavailable, "read-only"),
        (RegistryNotFound("404", "gone"), None, RegistryNotFound, "gone"),
    ],
)  # fmt: skip
def test_errors_in_nexus_words(
    error: RegistryError, answer: Answer | None, kind: type[RegistryError], advice: str
) -> None:
    layout = Layout(Address(host="nexus.example.com"), SETTINGS)
    told = explain(
        layout,
        Refusal(error=error, answer=answer, credential=basic(USER, PASSWORD), scope="repository:team/app:pull"),
    )
    assert type(told) is kind
    assert told.message == error.message
    assert advice in told.advice
    assert told.retry_after == error.retry_after


@pytest.mark.parametrize(
    ("url", "namespaces", "named"),
    [
        ("h/repository/docker-hosted", (), "docker-hosted"),
        ("h/docker-hosted/team", (), "docker-hosted"),
        ("h:8082", ("docker-hosted",), "docker-hosted"),
        ("h:8082", ("docker-hosted", "other"), "<repository>"),
    ],
)
def test_privileges_name_the_repository(url: str, namespaces: tuple[str, ...], named: str) -> None:
    there = opening(url, repositories={"namespaces": namespaces})
    assert f"nx-repository-view-docker-{named}-read" in Layout(address(there), there.settings).privileges("")


async def test_the_web_port_without_path_based_routing_is_told_from_a_connector(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake) as registry:
        fake.routed = set()
        with pytest.raises(NotARegistry) as wrong:
            await registry.ping()
        assert "connector port" in wrong.value.advice
        assert not any(one.authorization for one in fake.seen)


@pytest.mark.parametrize("doubled", [False, True])
async def test_basic_goes_straight_to_the_image(tmp_path: Path, doubled: bool) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, url=fake.open_url) as registry:
        fake.token_of = "docker-other"  # `/v2/` belongs to another repository
        fake.doubled = doubled
        assert (await registry.ping()).authenticated
        await registry.manifest(f"{HOSTED}/team/app", "v1")
        assert fake.count("open", "/v2/token") == 0


async def test_a_client_without_a_credential_where_basic_is_wanted(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, auth="anonymous", username="") as registry:
        ping = await registry.ping()
        assert not ping.authenticated
        assert "reachable but unauthenticated" in ping.detail
        assert "Allow anonymous docker pull" in ping.advice


async def test_a_realm_with_two_ports_cannot_be_asked_anonymously(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake:
        fake.doubled = True
        async with connected(fake, url=fake.open_url, auth="anonymous", username="") as registry:
            with pytest.raises(RegistryUnauthorized):
                await registry.manifest(f"{HOSTED}/team/base", "v1")


async def test_a_refused_password_is_not_tried_again(tmp_path: Path) -> None:
    async with NexusFake(tmp_path) as fake, connected(fake, username=USER, password="no") as registry:
        with pytest.raises(RegistryUnauthorized) as refused:
            await registry.repositories()
        assert "authentication failed" in refused.value.message
        assert sum(bool(one.authorization) for one in fake.seen) == 1
