"""The password of an ECR registry: made for an AWS identity by GetAuthorizationToken, kept for half of its life, made anew when refused."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from sensor.errors import SensorError
from sensor.identity.aws import AwsIdentity
from sensor.identity.aws_errors import AwsRefused, NoIdentity
from sensor.registry.errors import UNAUTHENTICATED, RegistryUnauthorized, UnexpectedAnswer
from sensor.registry.kinds.ecr_api import registry_error
from sensor.registry.login import Basic, Credential
from sensor.secret import Secret

_NO_LIFE = 600.0
"""Seconds that a password is used whose end has passed when it comes: a wrong clock, or a test double."""
_LONGEST_LIFE = 12 * 3600.0
_RETRY_SECONDS = 60.0
"""Until the next attempt when a password cannot be renewed but still holds: nobody else waits for an API that does not answer."""
_MOST_RENEWALS = 10
"""Passwords made anew in a minute because they were refused; after that another one would be refused as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EcrPassword(Basic):
    """A password that was made for an AWS identity, and how that identity was found."""

    via: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A password and the moments (of the monotonic clock) of its life."""

    password: EcrPassword
    renew_at: float
    ends: float


class EcrCredential:
    """Makes passwords for one identity and keeps each for half of its life; one serves every account in the region."""

    def __init__(
        self,
        identity: AwsIdentity,
        service: str = "ecr",
        *,
        complaint: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`complaint` is what looks wrong about the access key, for the advice when AWS refuses it."""
        self.identity = identity
        self._complaint = complaint
        self._service = service
        self._clock = clock
        self._made: _Made | None = None
        self._renewals: deque[float] = deque(maxlen=_MOST_RENEWALS)
        self._making = asyncio.Lock()

    async def credential(self, *, renew: bool) -> Credential | None:
        """The password now. When no new one can be had, the old one is used for as long as it lasts.

        Raises:
            RegistryUnauthorized: no AWS identity, or a refused one.
            RegistryForbidden: it may not make passwords.
            SensorError: no answer.
        """
        async with self._making:
            made, now = self._made, self._clock()
            if made is not None and (self._renewed_often(now) if renew else now < made.renew_at):
                return made.password
            try:
                self._made = made = await self._make()
            except SensorError:
                if renew or made is None or now >= made.ends:
                    raise
                self._made = replace(made, renew_at=self._clock() + _RETRY_SECONDS)
            return made.password

    async def close(self) -> None:
        """Close the identity."""
        await self.identity.close()

    def _renewed_often(self, now: float) -> bool:
        """Count a refusal; whether there were too many of them lately."""
        if len(self._renewals) == _MOST_RENEWALS and now - self._renewals[0] < 60.0:
            return True
        self._renewals.append(now)
        return False

    async def _make(self) -> _Made:
        try:
            answer = await self.identity.call(self._service, "get_authorization_token")
        except NoIdentity as error:
            message = f"{UNAUTHENTICATED}: {error.message}"
            raise RegistryUnauthorized(message, error.advice) from error
        except AwsRefused as error:
            said = registry_error(error)
            if self._complaint and isinstance(said, RegistryUnauthorized):
                said.advice = f"{self._complaint}; {said.advice}"
            raise said from error
        name, password, expires = parse_authorization(answer)
        now = self._clock()
        left = (expires - datetime.now(UTC)).total_seconds()
        life = min(left, _LONGEST_LIFE) if left > 0 else _NO_LIFE
        made = EcrPassword(username=name, password=Secret(password), via=self.identity.via)
        return _Made(password=made, renew_at=now + life / 2, ends=now + life)


class _Data(msgspec.Struct, rename="camel"):
    authorization_token: str
    expires_at: datetime


class _Authorization(msgspec.Struct, rename="camel"):
    authorization_data: list[_Data] | _Data
    """A list in private ECR, an object in the public one."""


def parse_authorization(answer: Mapping[str, Any]) -> tuple[str, str, datetime]:
    """User name, password and end of GetAuthorizationToken's answer.

    Raises:
        UnexpectedAnswer: it holds no token.
    """
    try:
        data = msgspec.convert(dict(answer), _Authorization).authorization_data
        first = data[0] if isinstance(data, list) else data
        name, colon, password = (
            base64.b64decode(first.authorization_token, validate=True).decode("ascii").partition(":")
        )
        if colon and password and f"{name}{password}".isprintable():
            expires = first.expires_at
            return name, password, expires if expires.tzinfo else expires.replace(tzinfo=UTC)
    except (msgspec.ValidationError, IndexError, binascii.Error, UnicodeDecodeError):
        pass
    message = "GetAuthorizationToken: an answer without a usable token"
    raise UnexpectedAnswer(message, "check api.url, and any proxy in between")
