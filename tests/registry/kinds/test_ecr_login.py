from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from sensor.errors import NetworkError, RegistryError
from sensor.identity.aws_errors import AwsRefused, NoIdentity
from sensor.registry.errors import (
    RegistryForbidden,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.kinds.ecr_login import EcrCredential, EcrPassword, parse_authorization


class FakeIdentity:
    """Makes numbered passwords; fails when told to."""

    via = "access key"

    def __init__(self) -> None:
        self.made = 0
        self.asked = 0
        self.fails: RegistryError | NetworkError | NoIdentity | None = None
        self.life = 43200.0

    async def call(self, service: str, operation: str) -> Mapping[str, Any]:
        assert operation == "get_authorization_token"
        self.asked += 1
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.made += 1
        token = base64.b64encode(f"AWS:password-{self.made}".encode()).decode()
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.life)
        return {"authorizationData": [{"authorizationToken": token, "expiresAt": expires}]}


class Passwords:
    def __init__(self, **more: Any) -> None:
        self.now = 1000.0
        self.identity = FakeIdentity()
        self.source = EcrCredential(self.identity, clock=lambda: self.now, **more)  # type: ignore[arg-type]

    async def __call__(self, *, renew: bool = False) -> str:
        credential = await self.source.credential(renew=renew)
        assert isinstance(credential, EcrPassword)
        assert credential.via == "access key"
        return credential.password.reveal()


async def test_a_password_is_made_once_for_all_who_wait() -> None:
    password = Passwords()
    assert set(await asyncio.gather(*(password() for _ in range(20)))) == {"password-1"}
    assert password.identity.made == 1


async def test_a_password_is_renewed_at_half_of_its_life() -> None:
    password = Passwords()
    await password()
    password.now += 6 * 3600 - 60
    assert await password() == "password-1"
    password.now += 120
    assert await password() == "password-2"


async def test_the_old_password_is_used_for_as_long_as_it_lasts() -> None:
    password = Passwords()
    await password()
    password.identity.fails = NetworkError("away")
    password.now += 11 * 3600
    assert await password() == "password-1"
    password.now += 3600 + 60
    with pytest.raises(NetworkError):
        await password()
    password.identity.fails = None
    assert await password() == "password-2"


async def test_an_api_that_does_not_answer_is_not_asked_for_every_request() -> None:
    password = Passwords()
    await password()
    password.identity.fails = NetworkError("away")
    password.now += 7 * 3600
    assert await password() == "password-1"
    password.identity.fails = None
    password.now += 59
    assert await password() == "password-1"
    assert password.identity.asked == 2
    password.now += 2
    assert await password() == "password-2"


async def test_a_refused_password_is_not_kept() -> None:
    password = Passwords()
    await password()
    assert await password(renew=True) == "password-2"
    password.identity.fails = NetworkError("away")
    with pytest.raises(NetworkError):
        await password(renew=True)


async def test_a_password_that_comes_expired_is_used_for_ten_minutes() -> None:
    password = Passwords()
    password.identity.life = -3e8  # moto says 2015
    assert await password() == "password-1"
    password.now += 290
    assert await password() == "password-1"
    password.now += 20
    assert await password() == "password-2"


async def test_refusals_do_not_make_passwords_without_end() -> None:
    password = Passwords()
    await password()
    for _ in range(100):
        await password(renew=True)
    assert password.identity.made == 11
    password.now += 61
    assert await password(renew=True) == "password-12"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (NoIdentity("none found", "attach a role"), RegistryUnauthorized, "reachable but unauthenticated: none found"),
        (AwsRefused("x: Y", "a", code="Y", category="credential"), RegistryUnauthorized, "authentication failed: x: Y"),
        (AwsRefused("x: Y", "a", code="Y", category="expired"), RegistryUnauthorized, "authentication failed: x: Y"),
        (AwsRefused("x: Y", "a", code="Y", category="denied", operation="sts:AssumeRole"), RegistryUnauthorized, "authentication"),
        (AwsRefused("x: Y", "a", code="Y", category="denied"), RegistryForbidden, "x: Y"),
        (AwsRefused("x: Y", "a", code="Y", category="throttled"), RegistryRateLimited, "x: Y"),
        (AwsRefused("x: Y", "a", code="Y", category="unavailable"), RegistryUnavailable, "x: Y"),
        (AwsRefused("x: Y", "a", code="KmsException", category="other"), RegistryForbidden, "x: Y"),
        (AwsRefused("x: Y", "a", code="Y", category="other"), UnexpectedAnswer, "x: Y"),
    ],
)  # fmt: skip
async def test_why_no_password_can_be_made(error: Any, kind: type[RegistryError], said: str) -> None:
    password = Passwords(complaint="temporary key")
    password.identity.fails = error
    with pytest.raises(kind, match=said) as refused:
        await password()
    assert refused.value.advice
    if isinstance(error, AwsRefused):
        assert ("temporary key" in refused.value.advice) is (kind is RegistryUnauthorized)


EXPIRES = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"authorizationData": []},
        {"authorizationData": None},
        {"authorizationData": [{"authorizationToken": "not base64!", "expiresAt": EXPIRES}]},
        {"authorizationData": [{"authorizationToken": base64.b64encode(b"no colon").decode(), "expiresAt": EXPIRES}]},
        {"authorizationData": [{"authorizationToken": base64.b64encode(b"AWS:").decode(), "expiresAt": EXPIRES}]},
        {"authorizationData": [{"authorizationToken": base64.b64encode(b"AWS:a\nb").decode(), "expiresAt": EXPIRES}]},
        {"authorizationData": [{"authorizationToken": base64.b64encode(b"AWS:\xff").decode(), "expiresAt": EXPIRES}]},
        {"authorizationData": [{"authorizationToken": base64.b64encode(b"AWS:p").decode()}]},
    ],
)
def test_answers_without_a_token(answer: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedAnswer, match="without a usable token"):
        parse_authorization(answer)


def test_a_list_or_an_object_of_one_token() -> None:
    data = {"authorizationToken": base64.b64encode(b"AWS:a:b").decode(), "expiresAt": dt.datetime(2030, 1, 1)}  # noqa: DTZ001
    assert parse_authorization({"authorizationData": [data]}) == ("AWS", "a:b", EXPIRES)
    assert parse_authorization({"authorizationData": data}) == ("AWS", "a:b", EXPIRES)
