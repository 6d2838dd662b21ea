"""GitHub Apps: JSON web tokens, installations, renewal, refusals; and the pauses that GitHub's API asks for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sensor.config.logins import GithubApp as Settings
from sensor.errors import ConfigError, SecretError
from sensor.registry.errors import (
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.kinds.github_app import GithubApp, app_jwt, explain_api, pause_asked
from sensor.transport import Reply, Retry, Transport
from tests.fakes.registries.ghcr import APP_ID, INSTALLATION, GhcrFake, is_signed, pem


@contextlib.asynccontextmanager
async def app_at(
    fake: GhcrFake, *, owner: str = "Team", clock: list[float] | None = None, **changes: Any
) -> AsyncIterator[GithubApp]:
    settings = Settings.model_validate({"app_id": APP_ID, "private_key": pem(), **changes})
    now = clock if clock is not None else [0.0]
    transport = Transport(retry=Retry(attempts=1))
    base = f"http://{fake.address('api')}"
    try:
        yield GithubApp(settings, base, transport, owner=owner, insecure=True, clock=lambda: now[0])
    finally:
        await transport.close()


def test_signs_a_token_of_a_few_minutes() -> None:
    token = app_jwt(APP_ID, pem(), time.time())
    assert is_signed(token)
    assert "=" not in token
    assert is_signed(app_jwt(APP_ID, pem().replace("\n", "\\n"), time.time()))
    assert not is_signed(app_jwt(APP_ID, pem("wrong"), time.time()))
    assert not is_signed(app_jwt(APP_ID, pem(), time.time() - 3600))


def elliptic() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


@pytest.mark.parametrize("text", ["", "no key", pem()[:300], pem().replace("A", "B"), elliptic()], ids=range(5))
def test_another_key_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(SecretError, match=r"\.pem file") as refused:
        app_jwt(APP_ID, text, 0.0)
    assert refused.value.__cause__ is None
    assert text[40:60] not in str(refused.value) or not text[40:60]


async def test_a_token_is_kept_until_shortly_before_its_end(tmp_path: Path) -> None:
    clock = [0.0]
    async with GhcrFake(tmp_path) as fake, app_at(fake, clock=clock) as app:
        first = await app.credential(renew=False)
        assert first.username == "x-access-token"
        assert first.password.reveal().startswith("ghs_")
        clock[0] = 3200.0
        assert await app.credential(renew=False) == first
        clock[0] = 3301.0
        second = await app.credential(renew=False)
        assert second != first
        assert fake.count("api", "/access_tokens", "POST") == 2
        assert fake.count("api", "/installation") == 3
        assert app.permissions == {"packages": "read", "metadata": "read"}
        assert first.password.reveal() not in repr(app.__dict__)


async def test_a_refused_token_is_renewed_but_not_every_second(tmp_path: Path) -> None:
    clock = [0.0]
    async with GhcrFake(tmp_path) as fake, app_at(fake, clock=clock) as app:
        first = await app.credential(renew=False)
        assert await app.credential(renew=True) == first
        clock[0] = 61.0
        assert await app.credential(renew=True) != first


async def test_a_wrong_clock_does_not_make_tokens_all_the_time(tmp_path: Path) -> None:
    clock = [0.0]
    async with GhcrFake(tmp_path) as fake, app_at(fake, clock=clock, installation_id=INSTALLATION) as app:
        fake.answers = [web.json_response({"token": "ghs_x", "expires_at": "2001-01-01T00:00:00Z"}, status=201)]
        first = await app.credential(renew=False)
        clock[0] = 500.0
        assert await app.credential(renew=False) == first
        assert app.permissions == {}


async def test_an_installation_of_a_user_is_found_as_well(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, app_at(fake, owner="octo-bot") as app:
        found = await app.installation()
        assert found.account is not None
        assert (found.id, found.account.type) == (INSTALLATION, "User")
        assert fake.count("api", "/orgs/octo-bot/installation") == 1


async def test_says_where_it_is_not_installed(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake:
        async with app_at(fake, owner="nobody") as app:
            for _ in range(2):
                with pytest.raises(RegistryUnauthorized, match=r"authentication failed.*not installed at nobody"):
                    await app.credential(renew=False)
            assert fake.count("api") == 2
        async with app_at(fake, installation_id=999) as app:
            with pytest.raises(RegistryUnauthorized, match="no installation 999"):
                await app.credential(renew=False)
            with pytest.raises(RegistryUnauthorized, match="no installation 999"):
                await app.installation()
        async with app_at(fake, owner="") as app:
            with pytest.raises(SecretError, match=r"repositories\.namespaces"):
                await app.credential(renew=False)


async def test_a_failure_is_not_repeated_at_once_unless_it_passes(tmp_path: Path) -> None:
    clock = [0.0]
    async with GhcrFake(tmp_path) as fake:
        async with app_at(fake, clock=clock, private_key="no key") as app:
            for _ in range(2):
                with pytest.raises(SecretError):
                    await app.credential(renew=False)
            assert fake.count("api") == 0
        async with app_at(fake, clock=clock, installation_id=INSTALLATION) as app:
            fake.answers = [web.Response(status=502)]
            with pytest.raises(RegistryUnavailable):
                await app.credential(renew=False)
            assert (await app.credential(renew=False)).password
        async with app_at(fake, clock=clock, installation_id=INSTALLATION) as app:
            fake.answers = [web.Response(status=403, headers={"Retry-After": "100"})]
            for _ in range(2):
                with pytest.raises(RegistryRateLimited):
                    await app.credential(renew=False)
            clock[0] += 101.0
            assert (await app.credential(renew=False)).password


async def test_an_unusable_token_is_refused(tmp_path: Path) -> None:
    async with GhcrFake(tmp_path) as fake, app_at(fake, installation_id=INSTALLATION) as app:
        fake.answers = [web.json_response({"token": "two\nlines"}, status=201)]
        with pytest.raises(UnexpectedAnswer, match="no usable token"):
            await app.credential(renew=False)


async def test_the_key_signs_nothing_for_plain_http() -> None:
    settings = Settings.model_validate({"app_id": "1", "private_key": "x"})
    with pytest.raises(ConfigError, match="plain HTTP"):
        GithubApp(settings, "http://api.example.com", Transport())


def reply(status: int, headers: dict[str, str]) -> Reply:
    return Reply(status=status, url="https://api.github.com/x", headers=headers, body=b"")


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (200, {"x-ratelimit-remaining": "10"}, None, None),
        (200, {"retry-after": "10"}, None, None),
        (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, 1.0, 1.0),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "99999999999"}, 3600.0, 3600.0),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, 1.0, 1.0),
        (403, {"retry-after": "0"}, 1.0, 1.0),
        (429, {"retry-after": "30"}, 30.0, 30.0),
        (403, {}, None, None),
    ],
)
def test_reads_how_long_github_wants_to_be_left_alone(
    status: int, headers: dict[str, str], least: float | None, most: float | None
) -> None:
    found = pause_asked(reply(status, headers))
    if least is None or most is None:
        assert found is None
    else:
        assert found is not None
        assert least <= found <= most


def test_other_errors_keep_their_words() -> None:
    error = RegistryUnavailable("m", "old")
    assert explain_api(error, reply(502, {})) is error
    missing = explain_api(RegistryNotFound("m"), reply(404, {}))
    assert "read:packages" in missing.advice
    prefixed = explain_api(RegistryUnauthorized("authentication failed: m"), reply(401, {}))
    assert prefixed.message == "authentication failed: m"
    assert explain_api(RegistryUnauthorized("m"), reply(401, {})).message == "authentication failed: m"
    refused = explain_api(RegistryRateLimited("m"), reply(429, {}))
    assert refused.retry_after == 60.0
    without_link = explain_api(RegistryRateLimited("m"), reply(403, {"x-github-sso": "required"}))
    assert without_link.advice.endswith("single sign-on")
