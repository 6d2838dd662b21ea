"""From tokens of Entra to the registry's own: exchange, renewal, what was pasted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import NetworkError, RegistryError, SensorError
from sensor.limits import DEFAULT_LIMITS
from sensor.registry.errors import RegistryRateLimited, RegistryUnauthorized, UnexpectedAnswer
from sensor.registry.kinds.acr_login import NOBODY, Exchange, GivenCredential, read_claims, shown_time
from sensor.registry.kinds.kind import Opening
from sensor.registry.login import Basic, StaticToken
from sensor.secret import Secret
from sensor.tls import NotTls
from sensor.transport import Retry, Transport
from tests.fakes import azure
from tests.fakes.azure import jwt
from tests.fakes.registries.acr import AcrFake
from tests.fakes.registries.provider import problem


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Entra:
    """Where tokens come from; counts, and fails when told to."""

    def __init__(self, fake: AcrFake) -> None:
        self.cloud = fake.cloud
        self.asked: list[bool] = []
        self.error: SensorError | None = None

    async def __call__(self, renew: bool) -> Secret:
        self.asked.append(renew)
        if self.error is not None:
            raise self.error
        return Secret(self.cloud.token(azure.APP))


@contextlib.asynccontextmanager
async def exchanging(
    fake: AcrFake, *, retry: Retry | None = None, **more: Any
) -> AsyncIterator[tuple[Exchange, Clock, Opening]]:
    merged = {"name": "one", "url": fake.url, "insecure": True, **more}
    opening = Opening(
        settings=Settings.model_validate(merged), http=Http(), retry=retry or Retry(attempts=3, first=0.001, most=0.01)
    )
    transport = Transport(limits=DEFAULT_LIMITS)
    clock = Clock()
    try:
        yield Exchange(opening, transport, clock=clock), clock, opening
    finally:
        await transport.close()


async def test_a_refresh_token_is_kept_until_shortly_before_its_end(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, clock, _):
        entra = Entra(fake)
        first = await exchange.credential(entra, renew=False)
        assert first.username == NOBODY
        clock.now += 3 * 3600 - 601
        assert await exchange.credential(entra, renew=False) == first
        clock.now += 2
        second = await exchange.credential(entra, renew=False)
        assert second != first
        assert entra.asked == [False, False]
        assert fake.count("registry", "/oauth2/exchange") == 2


async def test_the_exchange_names_service_and_tenant(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake:
        fake.service = "myregistry.azurecr.io"
        async with exchanging(fake, azure={"tenant_id": azure.TENANT}) as (exchange, _, _opening):
            await exchange.credential(Entra(fake), renew=False)
        form = parse_qs(next(one.body for one in fake.seen if one.path == "/oauth2/exchange").decode())
    assert form["service"] == ["myregistry.azurecr.io"]
    assert form["tenant"] == [azure.TENANT]
    assert form["grant_type"] == ["access_token"]


async def test_a_refused_token_is_renewed_but_not_without_end(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, clock, _):
        entra = Entra(fake)
        given = [await exchange.credential(entra, renew=True) for _ in range(20)]
        assert len(set(given)) == len(entra.asked) == 5
        assert all(entra.asked)
        clock.now += 61
        assert await exchange.credential(entra, renew=True) not in given


async def test_many_at_once_exchange_once(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        entra = Entra(fake)
        given = await asyncio.gather(*(exchange.credential(entra, renew=False) for _ in range(20)))
        assert len(set(given)) == len(entra.asked) == 1


async def test_a_token_that_still_holds_outlives_an_outage(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, clock, _):
        entra = Entra(fake)
        first = await exchange.credential(entra, renew=False)
        entra.error = NetworkError("Entra is away")
        clock.now += 3 * 3600 - 300
        assert await exchange.credential(entra, renew=False) == first
        assert await exchange.credential(entra, renew=False) == first
        assert len(entra.asked) == 2  # not at every request
        clock.now += 61
        assert await exchange.credential(entra, renew=False) == first
        assert len(entra.asked) == 3
        clock.now += 300
        with pytest.raises(NetworkError, match="away"):
            await exchange.credential(entra, renew=False)
        entra.error = RegistryUnauthorized("no")
        with pytest.raises(RegistryUnauthorized):
            await exchange.credential(entra, renew=False)


async def test_an_exchange_is_repeated_after_a_pause(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        fake.exchange_faults = [web.Response(status=429, headers={"Retry-After": "0"}), web.Response(status=503)]
        assert await exchange.credential(Entra(fake), renew=False)
        assert fake.count("registry", "/oauth2/exchange") == 3


async def test_a_throttled_exchange_tells_how_long(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        fake.exchange_faults = [web.Response(status=429, headers={"Retry-After": "100"})]
        with pytest.raises(RegistryRateLimited) as limited:
            await exchange.credential(Entra(fake), renew=False)
        assert limited.value.retry_after == 100.0


async def test_a_broken_connection_is_tried_again_and_then_told(tmp_path: Path) -> None:
    asked = []

    async def breaking(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if request.path == "/v2/":
            return web.Response(status=401)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with AcrFake(tmp_path) as fake, azure.serve(breaking) as url, exchanging(fake, url=url) as (exchange, _, _o):
        with pytest.raises(NetworkError):
            await exchange.credential(Entra(fake), renew=False)
    assert asked.count("/oauth2/exchange") == 3


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response,
        lambda _: web.Response(text="<html>portal</html>", content_type="text/html"),
        lambda _: web.json_response({"refresh_token": ""}),
        lambda _: web.json_response({"refresh_token": "a b"}),
        lambda _: web.json_response({"refresh_token": "a\r\nX: y"}),
        lambda _: web.json_response({"refresh_token": 7}),
        lambda _: web.json_response({"refresh_token": "ü"}),
    ],
)
async def test_what_is_no_refresh_token(answer: Any, tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        fake.exchange_faults = [answer({})]
        with pytest.raises(UnexpectedAnswer, match="not a refresh token"):
            await exchange.credential(Entra(fake), renew=False)


@pytest.mark.parametrize("token", ["opaque", jwt({"exp": 5.0}), jwt({"exp": 5.0, "iat": 100.0}), jwt({"exp": "soon"})])
async def test_a_token_that_does_not_tell_its_life_is_renewed_within_the_hour(token: str, tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, clock, _):
        entra = Entra(fake)
        fake.exchange_faults = [web.json_response({"refresh_token": token})]
        await exchange.credential(entra, renew=False)
        clock.now += 3200
        await exchange.credential(entra, renew=False)
        assert len(entra.asked) == 1
        clock.now += 200
        await exchange.credential(entra, renew=False)
        assert len(entra.asked) == 2


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (lambda: problem(401, "UNAUTHORIZED", "no"), "same tenant"),
        (lambda: problem(403, "DENIED", "client with IP '192.0.2.1' is not allowed access"), "network-rule"),
        (lambda: web.Response(status=400), "same tenant"),
    ],
)
async def test_a_refused_exchange_is_explained(reply: Any, says: str, tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        fake.exchange_faults = [reply()]
        with pytest.raises(RegistryUnauthorized, match="authentication failed") as refused:
            await exchange.credential(Entra(fake), renew=False)
        assert says in refused.value.advice
        assert azure.APP in refused.value.message


async def test_a_registry_without_an_exchange(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        fake.exchange_faults = [web.Response(status=404)]
        with pytest.raises(RegistryError, match="status 404"):
            await exchange.credential(Entra(fake), renew=False)


async def test_what_is_no_jwt_is_told(tmp_path: Path) -> None:
    async def opaque(_renew: bool) -> Secret:
        return Secret("opaque-s3cret")

    async with AcrFake(tmp_path) as fake, exchanging(fake) as (exchange, _, _opening):
        with pytest.raises(RegistryUnauthorized) as refused:
            await exchange.credential(opaque, renew=False)
    assert "--expose-token" in refused.value.advice
    assert "opaque-s3cret" not in str(refused.value)


async def test_plain_http_is_spoken_only_where_it_is_allowed(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake:
        async with exchanging(fake, url=fake.address()) as (exchange, _, _opening):
            assert await exchange.credential(Entra(fake), renew=False)
        async with exchanging(fake, url=fake.address(), insecure=False) as (exchange, _, _opening):
            with pytest.raises(NotTls):
                await exchange.credential(Entra(fake), renew=False)
        async with exchanging(fake, url=f"https://{fake.address()}") as (exchange, _, _opening):
            with pytest.raises(NotTls):
                await exchange.credential(Entra(fake), renew=False)


@contextlib.asynccontextmanager
async def given_credential(fake: AcrFake, **more: Any) -> AsyncIterator[GivenCredential]:
    async with exchanging(fake, **more) as (exchange, _, opening):
        yield GivenCredential(opening, exchange)


@pytest.mark.parametrize("user", [NOBODY, "<token>"])
async def test_a_pasted_aad_token_is_exchanged(user: str, tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake:
        token = fake.cloud.token(azure.APP)
        async with given_credential(fake, username=user, password=token) as source:
            first = await source.credential(renew=False)
            assert isinstance(first, Basic)
            assert first.username == NOBODY
            assert first.password.reveal() != token
            assert await source.credential(renew=False) == first
        assert fake.count("registry", "/oauth2/exchange") == 1


async def test_a_pasted_aad_token_may_stand_in_token_too(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake, given_credential(fake, token=fake.cloud.token(azure.APP)) as source:
        assert isinstance(await source.credential(renew=False), Basic)


async def test_the_registrys_own_tokens_are_used_as_they_are(tmp_path: Path) -> None:
    async with AcrFake(tmp_path) as fake:
        refresh = fake.refresh_token(azure.APP)
        access = jwt({"iss": "Azure Container Registry", "grant_type": "access_token"})
        for more, expected in (
            ({"username": NOBODY, "password": refresh}, Basic(username=NOBODY, password=Secret(refresh))),
            ({"token": refresh}, Basic(username=NOBODY, password=Secret(refresh))),
            ({"token": access}, StaticToken(token=Secret(access))),
            ({"username": NOBODY, "password": access}, StaticToken(token=Secret(access))),
            ({"token": "opaque"}, StaticToken(token=Secret("opaque"))),
            ({"username": "admin", "password": "p"}, Basic(username="admin", password=Secret("p"))),
        ):
            async with given_credential(fake, **more) as source:
                assert await source.credential(renew=False) == expected
        assert fake.count("registry", "/oauth2/exchange") == 0


async def test_a_replaced_token_is_noticed_after_a_refusal(tmp_path: Path) -> None:
    stored = tmp_path / "token"
    async with AcrFake(tmp_path / "fake") as fake:
        stored.write_text(fake.cloud.token("first"))
        more = {"username": NOBODY, "password": {"file": str(stored)}}
        async with given_credential(fake, **more) as source:
            first = await source.credential(renew=False)
            stored.write_text(fake.cloud.token("second"))
            assert await source.credential(renew=False) == first
            assert await source.credential(renew=True) != first
            assert source.exchange.entra is not None
            assert source.exchange.entra.who == "second"


@given(st.text(max_size=200) | st.builds(".".join, st.lists(st.text(max_size=30), min_size=3, max_size=3)))
@settings(max_examples=100, deadline=None)
def test_claims_take_any_text(text: str) -> None:
    claims = read_claims(text)
    assert claims is None or isinstance(claims.who, str)


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        (None, None),
        ({}, None),
        ({"Actions": []}, None),
        ({"actions": ["read", "metadata/read"]}, False),
        ({"Actions": ["read", "write"]}, True),
        ({"actions": ["*"]}, True),
        ({"actions": ["content/delete"]}, True),
        ({"actions": "write"}, None),
    ],
)
def test_what_a_token_is_good_for(permissions: object, expected: bool | None) -> None:
    claims = read_claims(jwt({"permissions": permissions}))
    assert claims is not None
    assert claims.may_write is expected


def test_who_a_token_belongs_to_is_fit_to_be_shown() -> None:
    claims = read_claims(jwt({"upn": "ann\x1b[31m@example.com", "exp": time.time() - 5}))
    assert claims is not None
    assert claims.who == "ann [31m@example.com"
    assert claims.ended
    assert shown_time(float("1e300")).startswith("9999")
