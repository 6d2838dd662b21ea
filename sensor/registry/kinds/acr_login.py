"""Logging in to Azure Container Registry: from a token of Entra to the registry's own refresh token, which the token dance then uses.

An Entra token (of the machine, a service principal, or pasted) is exchanged at the registry's `/oauth2/exchange` for a refresh token of three
hours; that is the password of a user with no name at `/oauth2/token`. What tokens say of themselves is read for information only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlencode

import msgspec

from sensor.errors import NetworkError, RegistryError, SensorError
from sensor.identity.azure import AzureIdentity, AzureRefused
from sensor.registry.challenge import parse_challenges
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
    answer_error,
    inert,
    shown_url,
)
from sensor.registry.kinds.kind import Opening, configured, namespaced_address
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.terms import missing_credential
from sensor.registry.tokens import jwt_payload
from sensor.route import retry_after
from sensor.secret import Secret
from sensor.tls import NotTls
from sensor.transport import HostParked, Reply, Retry, Transport

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The user name that goes with a token as the password."""
TOKEN_USERS = frozenset({NOBODY, "<token>"})
"""`<token>` stands in docker's config.json for the same."""
SCOPE = "https://containerregistry.azure.net/.default"
"""The same for all registries and in all clouds. The scope of Azure Resource Manager is refused where a policy says so."""

_RENEW_BEFORE = 600.0
"""Seconds before its end at which a refresh token is renewed: a registry or Entra that is out of order meanwhile harms nobody."""
_NO_LIFE_GIVEN = 3600.0
_RENEWALS = 5
_RENEWALS_SECONDS = 60.0
"""So many renewals in so much time are made because a token was refused. Most such refusals are missing rights, which no renewal mends, and
there may be thousands of repositories of that sort."""
_MOST_ATTEMPTS = 3
_ISSUER = "azure container registry"

Fetch: TypeAlias = Callable[[bool], Awaitable[Secret]]
"""An Entra token; the argument says that the last one did not help."""


class Claims(msgspec.Struct):
    """What a token says of itself; nothing of it is verified."""

    exp: float | None = None
    iat: float | None = None
    nbf: float | None = None
    iss: str = ""
    aud: str | list[str] = ""
    grant_type: str = ""
    appid: str = ""
    azp: str = ""
    oid: str = ""
    tid: str = ""
    upn: str = ""
    unique_name: str = ""
    tenant: str = ""
    permissions: dict[str, Any] | None = None

    @property
    def ours(self) -> bool:
        """Whether the registry has issued it, rather than Entra."""
        return self.iss.lower() == _ISSUER or self.grant_type in {"refresh_token", "access_token"}

    @property
    def refreshes(self) -> bool:
        """Whether it is the registry's refresh token."""
        return self.ours and self.grant_type == "refresh_token"

    @property
    def who(self) -> str:
        """The user, or the application's client id; empty when it does not tell."""
        return inert(self.upn or self.unique_name or self.appid or self.azp or self.oid)

    @property
    def may_write(self) -> bool | None:
        """Whether the registry has granted more than to read; None when it does not tell."""
        told = {name.lower(): value for name, value in (self.permissions or {}).items()}
        actions = told.get("actions")
        if not isinstance(actions, list) or not actions:
            return None
        return any(str(action).rpartition("/")[2] in {"*", "write", "delete", "push"} for action in actions)

    @property
    def life(self) -> float:
        """Seconds from its issue to its end. The difference, because this machine's clock may be off."""
        start = self.iat if self.iat is not None else self.nbf
        return self.exp - start if self.exp is not None and start is not None else 0.0

    @property
    def ended(self) -> bool:
        """Whether it has expired, by this machine's clock."""
        return self.exp is not None and self.exp < time.time()


def read_claims(token: str) -> Claims | None:
    """The payload of a JWT; None for anything else."""
    try:
        return msgspec.json.decode(jwt_payload(token), type=Claims)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None


def shown_time(unix: float) -> str:
    """A moment for people; the year 9999 and beyond is cut."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(min(max(unix, 0.0), 253402300799.0)))


@dataclass(slots=True, kw_only=True)
class _Kept:
    password: Secret = field(repr=False)
    renew_at: float
    ends_at: float
    claims: Claims | None


class _Answer(msgspec.Struct):
    refresh_token: str


class Exchange:
    """Entra tokens in, a refresh token of the registry out, kept and renewed before its end."""

    def __init__(self, opening: Opening, transport: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._opening = opening
        self._address = namespaced_address(opening)
        self._transport = transport
        self._clock = clock
        self._origin = ""
        self._service = ""
        self._lock = asyncio.Lock()
        self._kept: _Kept | None = None
        self._renewals: deque[float] = deque(maxlen=_RENEWALS)
        self.entra: Claims | None = None
        """What the last Entra token said of itself."""

    @property
    def claims(self) -> Claims | None:
        """What the refresh token says of itself."""
        return self._kept.claims if self._kept else None

    def forget(self) -> None:
        """Another Entra token has come: what was made of the old one is not used any more."""
        self._kept = None

    async def credential(self, fetch: Fetch, *, renew: bool) -> Basic:
        """A refresh token as a credential.

        Raises:
            RegistryUnauthorized: the Entra token was refused.
            SensorError: there is none, or no answer.
        """
        async with self._lock:
            now = self._clock()
            kept = self._kept
            again = renew and (len(self._renewals) < _RENEWALS or now - self._renewals[0] >= _RENEWALS_SECONDS)
            if kept is not None and not again and now < kept.renew_at:
                return Basic(username=NOBODY, password=kept.password)
            if again:
                self._renewals.append(now)
            try:
                kept = await self._make(fetch, again=again)
            except SensorError as error:
                if kept is None or again or now >= kept.ends_at or not error.retryable:
                    raise
                kept.renew_at = now + _RENEWALS_SECONDS  # it still holds
            self._kept = kept
            return Basic(username=NOBODY, password=kept.password)

    async def _make(self, fetch: Fetch, *, again: bool) -> _Kept:
        entra = await fetch(again)
        self.entra = read_claims(entra.reveal())
        if not self._origin:
            await self._find_service()
        url = f"{self._origin}/oauth2/exchange"
        form = {"grant_type": "access_token", "service": self._service, "access_token": entra.reveal()}
        if tenant := self._opening.settings.azure.tenant_id:
            form["tenant"] = tenant
        reply = await self._post(url, urlencode(form).encode())
        if reply.status != 200:
            raise self._refused(reply)
        try:
            token = msgspec.json.decode(reply.body, type=_Answer).refresh_token
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            token = ""
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            message = f"POST {shown_url(url)}: the answer is not a refresh token"
            raise UnexpectedAnswer(message, "check that the URL is that of an Azure registry, and any proxy in between")
        claims = read_claims(token)
        life = max(claims.life, 0.0) if claims else 0.0
        life = min(life or _NO_LIFE_GIVEN, 86400.0)
        now = self._clock()
        return _Kept(
            password=Secret(token),
            renew_at=now + life - min(life / 10, _RENEW_BEFORE),
            ends_at=now + life,
            claims=claims,
        )

    async def _find_service(self) -> None:
        """The registry's own name for its token service, from the challenge of a bare `GET /v2/`; its host name is what it should be."""
        scheme = self._address.scheme or "https"
        try:
            reply = await self._ask_base(scheme)
        except NotTls:
            if self._address.scheme or not self._opening.settings.insecure:
                raise
            scheme = "http"
            reply = await self._ask_base(scheme)
        offered = parse_challenges(reply.header_lists.get("www-authenticate", ()))
        named = (one["service"] for one in offered if one.scheme == "bearer")
        self._service = next((name for name in named if name), self._address.host)
        self._origin = f"{scheme}://{self._address.host}"

    async def _ask_base(self, scheme: str) -> Reply:
        try:
            return await self._transport.fetch("GET", f"{scheme}://{self._address.host}/v2/")
        except HostParked as error:
            raise RegistryRateLimited(error.message, error.advice, retry_after=error.retry_after) from error

    async def _post(self, url: str, body: bytes) -> Reply:
        """An exchange changes nothing, so it may be repeated, although it is a POST."""
        plan = self._opening.retry or Retry()
        attempts = min(plan.attempts, _MOST_ATTEMPTS)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        most = self._opening.limits.token_bytes
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                reply = await self._transport.fetch("POST", url, headers=headers, body=body, most_bytes=most)
            except NetworkError as error:
                if last or not error.retryable:
                    raise
                await self._transport.pause(attempt, error.retry_after, plan=plan)
                continue
            wait = retry_after(reply.headers)
            if last or (reply.status != 429 and reply.status < 500) or (wait or 0.0) > plan.most:
                return reply
            await self._transport.pause(attempt, wait, plan=plan)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _refused(self, reply: Reply) -> RegistryError:
        error = answer_error("POST", reply.url, reply.status, reply.body, retry_after=retry_after(reply.headers))
        if reply.status not in {400, 401, 403}:
            return error
        message = error.message.removeprefix(f"{AUTHENTICATION_FAILED}: ")
        return RegistryUnauthorized(f"{AUTHENTICATION_FAILED}: {message}{self._shown()}", self._exchange_advice(reply))

    def _shown(self) -> str:
        claims = self.entra
        if claims is None:
            return ""
        if claims.ended:
            return f"; the Entra token has expired ({shown_time(claims.exp or 0)})"
        who = f" of {claims.who}" if claims.who else ""
        return f"; the Entra token{who} is for {inert(_audience(claims))}" if _audience(claims) else ""

    def _exchange_advice(self, reply: Reply) -> str:
        claims = self.entra
        if claims is None:
            return "the password that goes with this user name must be a token of Entra, as `az acr login --expose-token` prints one"
        if claims.ended:
            return "fetch a new token, or better let the sensor fetch its own: managed identity, workload identity, service principal"
        if b"client with ip" in reply.body.lower():
            return NETWORK_ADVICE
        if "containerregistry.azure.net" not in _audience(claims):
            return (
                "the token is for another service: az account get-access-token --resource https://containerregistry.azure.net; "
                "tokens for Azure Resource Manager are refused where the registry's policy azureADAuthenticationAsArmPolicy is off"
            )
        return (
            "the registry refuses this identity: check that registry and identity belong to the same tenant (azure.tenant_id for a guest), "
            "that the clock of this machine is right, and that the registry's network rules let this machine in"
        )


NETWORK_ADVICE = (
    "the registry's network rules keep this machine out: allow its address (az acr network-rule add), or reach the registry by its private "
    "endpoint"
)


def _audience(claims: Claims) -> str:
    return claims.aud if isinstance(claims.aud, str) else ", ".join(claims.aud)


class MachineCredential:
    """The identity of the machine, or a service principal of Entra."""

    def __init__(self, identity: AzureIdentity, exchange: Exchange) -> None:
        self.identity = identity
        self.exchange = exchange

    async def credential(self, *, renew: bool) -> Credential | None:
        """A refresh token.

        Raises:
            RegistryUnauthorized: there is no such identity, or the registry refuses it.
            SensorError: no answer, or the configuration is wrong.
        """
        return await self.exchange.credential(self._entra, renew=renew)

    async def close(self) -> None:
        """Close the identity."""
        await self.identity.close()

    async def _entra(self, renew: bool) -> Secret:  # noqa: FBT001 - the shape of Fetch
        try:
            return (await self.identity.token(SCOPE, renew=renew)).value
        except (AzureRefused, NetworkError) as error:
            # not the registry is out of reach, but the identity
            message = f"{AUTHENTICATION_FAILED}: {error.message}"
            raise RegistryUnauthorized(message, error.advice, retryable=error.retryable) from error


class GivenCredential:
    """The configured credential. A token of Entra in it is exchanged, the registry's own tokens are used as they are."""

    def __init__(self, opening: Opening, exchange: Exchange) -> None:
        self._inner = configured(opening)
        self.exchange = exchange
        self.token: Claims | None = None
        """What a pasted token says of itself; None when none was pasted."""
        self._last: Secret | None = None

    @property
    def missing(self) -> str:
        """Why there is none."""
        return missing_credential(self._inner)

    async def credential(self, *, renew: bool) -> Credential | None:
        """The credential to log in with.

        Raises:
            RegistryUnauthorized: a pasted token was refused.
            SensorError: it cannot be read, or no answer.
        """
        given = await self._inner.credential(renew=renew)
        match given:
            case StaticToken():
                pasted = given.token
            case Basic() if given.username in TOKEN_USERS:
                pasted = given.password
            case _:
                return given
        self.token = read_claims(pasted.reveal())
        if self.token is None:
            return given
        if self.token.refreshes:
            return Basic(username=NOBODY, password=pasted)
        if self.token.ours:
            return StaticToken(token=pasted)
        if self._last is not None and pasted != self._last:
            self.exchange.forget()
        self._last = pasted

        async def entra(_renew: bool) -> Secret:  # noqa: FBT001 - the shape of Fetch
            return pasted

        return await self.exchange.credential(entra, renew=renew)
