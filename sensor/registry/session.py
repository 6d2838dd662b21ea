"""One registry's HTTP conversation: which scheme it speaks, logging in, redirects. The I/O around the pure `login`.

Every request of `client` and of the provider kinds goes through here, so that three rules hold everywhere: a credential leaves only
towards the registry's own origin and checked realms; it never crosses a redirect to another origin; and plain HTTP is spoken only to a
registry that the operator has marked insecure, and never after HTTPS has once worked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, assert_never
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from sensor.errors import ConfigError, NetworkError, RegistryError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    UnexpectedAnswer,
    answer_error,
    is_html,
    shown_url,
)
from sensor.registry.login import Accepted, Answer, Ask, Credential, Login, NeedCredential, Send, Sent
from sensor.registry.terms import Address, ClosingSource, CredentialSource, Refusal, Terms, missing_credential
from sensor.registry.tokens import TokenKey, is_forbidden_target, is_loopback_host, is_private_host
from sensor.route import redirect_target, retry_after, same_origin, shown_host
from sensor.tls import NotTls
from sensor.transport import HostParked, Reply, Streamed, Transport, complete

_MOST_HOPS = 5
_STORAGE_PATH = (
    "the registry keeps image data at {}: let this machine reach that host too, in a private network by an endpoint of its own "
    "(S3 gateway endpoint, the registry's private data endpoint)"
)
_STORAGE_REFUSES = (
    "the registry has given the right to read this, but the storage behind it refuses: check the storage's own rules (endpoint policy, "
    "firewall) for this machine, a proxy in between, and this machine's clock"
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_T = TypeVar("_T", Reply, Reply | Streamed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a bare `GET /v2/` told. `status` is 200, 401 or 403."""

    status: int
    latency_ms: float
    scheme: str


class Session:
    """A conversation with one registry, logged in as one identity."""

    def __init__(
        self,
        address: Address,
        transport: Transport,
        credentials: CredentialSource,
        *,
        terms: Terms | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.address = address
        self.transport = transport
        self.limits = limits
        self._credentials = credentials
        self._terms = terms or Terms()
        self._login: Login | None = None
        self.base: Reply | None = None  # the last answer to a bare `GET /v2/`, whatever it was
        self._opening = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._asking: WeakValueDictionary[TokenKey, asyncio.Lock] = WeakValueDictionary()
        if address.scheme == "http" and not self._terms.insecure:
            message = f"{address.host} is to be asked in plain HTTP, which is not allowed"
            raise ConfigError(message, "set insecure: true for a trusted internal registry, or use https://")

    async def close(self) -> None:
        """Release connections, and what the credential source holds open."""
        if isinstance(self._credentials, ClosingSource):
            await self._credentials.close()
        await self.transport.close()

    async def url(self, path: str) -> str:
        """The full URL of a path below the registry's base, after finding out the scheme."""
        if self._login is None:
            async with self._opening:
                if self._login is None:
                    await self.probe()
        assert self._login is not None  # noqa: S101 - for the type checker
        return f"{self._login.origin}{self.address.path}{path}"

    @property
    def prefix(self) -> str:
        """The path below which everything of the distribution protocol lies."""
        return f"{self.address.path}/v2/"

    async def has_credential(self) -> bool:
        """Whether there is anything to log in with."""
        return await self.credential() is not None

    async def credential(self) -> Credential | None:
        """What there is to log in with."""
        return await self._credentials.credential(renew=False)

    @property
    def missing(self) -> str:
        """Why there is no credential, where one was configured to be looked up; known after `credential`."""
        return missing_credential(self._credentials)

    @property
    def accepted(self) -> Accepted | None:
        """What the registry let pass last; None before that."""
        return self._login.accepted if self._login else None

    async def token_service(self, *, with_secret: bool) -> tuple[str, str]:
        """The realm that the registry names, and why it must not be asked; see `Login.token_service`."""
        await self.url("")
        assert self._login is not None  # noqa: S101 - for the type checker
        return self._login.token_service(with_secret=with_secret)

    async def probe(self) -> Probe:
        """`GET /v2/` without a credential: is it a registry, which scheme does it speak, how does it want to be logged in to?

        Raises:
            NetworkError: no answer.
            RegistryError: an answer, but not that of a registry.
        """
        scheme = self._login.origin.partition(":")[0] if self._login else self.address.scheme
        begun = time.monotonic()
        try:
            reply = await self._ask_base(scheme or "https")
        except NotTls as error:
            if scheme or not self._terms.insecure:
                raise
            try:
                reply = await self._ask_base("http")
            except NetworkError:
                raise error from None
        latency = (time.monotonic() - begun) * 1000
        spoken = urlsplit(reply.url).scheme
        try:
            _check_base(reply)
        except RegistryError as error:
            said = self._terms.explain(Refusal(error=error, answer=_answer_of(reply)))
            if said is error:
                raise  # an error that were its own cause would send whoever looks for causes round in a circle
            raise said from error
        if self._login is None:
            self._login = Login(
                f"{spoken}://{self.address.host}",
                trusted_realms=self._terms.trusted_realms,
                expired=self._terms.expired,
                prefer_basic=self._terms.prefer_basic,
            )
        self._login.learn(_answer_of(reply))
        return Probe(status=reply.status, latency_ms=latency, scheme=spoken)

    async def _ask_base(self, scheme: str) -> Reply:
        url = f"{scheme}://{self.address.host}{self.prefix}"
        try:
            self.base = await self.transport.fetch("GET", url, headers=self._terms.headers)
        except HostParked as error:
            raise _rate_limited(error) from error
        return self.base

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        most_bytes: int | None = None,
        idle_seconds: float | None = None,
    ) -> Reply:
        """Send a request, logged in, and read the answer whatever its status (401 excepted: that is raised).

        Raises:
            SensorError: no answer, no login, a bad redirect, or a body above the limit.
        """

        async def send(url: str, extra: Mapping[str, str]) -> Reply:
            return await self.transport.fetch(
                method, url, headers={**(headers or {}), **extra}, most_bytes=most_bytes, idle_seconds=idle_seconds
            )

        try:
            return await self._follow(method, url, scope, send)
        except HostParked as error:
            raise _rate_limited(error) from error

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, *, scope: str = "", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Reply | Streamed]:
        """Like `fetch`, but a good answer (200 or 206) keeps its body on the wire. Any other is a Reply; one attempt."""
        async with contextlib.AsyncExitStack() as stack:

            async def send(url: str, extra: Mapping[str, str]) -> Reply | Streamed:
                merged = {**(headers or {}), **extra}
                answer = await stack.enter_async_context(self.transport.stream(method, url, headers=merged))
                if answer.status in {200, 206}:
                    return answer
                body = await self._error_body(answer)
                await stack.aclose()
                return complete(answer, body, merged)

            try:
                answer = await self._follow(method, url, scope, send)
            except HostParked as error:
                raise _rate_limited(error) from error
            yield answer

    async def _error_body(self, answer: Streamed) -> bytes:
        """The start of an error's body. That of a redirect is of no interest, that of a 416 is shorter than it claims."""
        body = bytearray()
        if answer.status >= 400 and answer.status != 416:
            with contextlib.suppress(NetworkError):
                async for chunk in answer.chunks:
                    body += chunk
                    if len(body) >= self.limits.error_bytes:
                        break
        return bytes(body[: self.limits.error_bytes])

    async def _follow(
        self, method: str, url: str, scope: str, send: Callable[[str, Mapping[str, str]], Awaitable[_T]]
    ) -> _T:
        """Send, logged in, and follow redirects. Once a redirect has left the registry's origin, no credential is sent again."""
        at_home = True
        for _ in range(_MOST_HOPS + 1):
            answer = await (self._authorised(url, scope, send) if at_home else self._away(url, send))
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            target = redirect_target(url, location)
            self._check_redirect(method, url, target)
            at_home = at_home and same_origin(url, target)
            url = target
        message = f"{method} {shown_url(url)}: more than {_MOST_HOPS} redirects"
        raise UnexpectedAnswer(message, "look at the set-up of the registry and of any proxy before it")

    async def _away(self, url: str, send: Callable[[str, Mapping[str, str]], Awaitable[_T]]) -> _T:
        """Send to where the registry keeps its data, without a credential. That host is often forgotten when paths are opened."""
        try:
            return await send(url, {})
        except NetworkError as error:
            if not isinstance(error, HostParked):
                error.advice = "; ".join(filter(None, (_STORAGE_PATH.format(shown_host(url)), error.advice)))
            raise

    def _check_redirect(self, method: str, url: str, target: str) -> None:
        """A redirect may lead to private storage, but not to this machine, to metadata services, or out in the open in plain HTTP.

        Storage on the inside (MinIO) often has no TLS; no credential goes there, and what comes is checked by its digest.
        """
        own = urlsplit(f"//{self.address.host}").hostname or ""
        there = urlsplit(target).hostname or ""
        reason = ""
        if is_forbidden_target(target):
            reason = "a link-local or metadata address"
        elif is_loopback_host(there) and not is_private_host(own):
            reason = "an address of this machine"
        elif urlsplit(target).scheme == "http" and urlsplit(url).scheme == "https" and not is_private_host(there):
            reason = "plain HTTP"
        if reason:
            message = f"{method} {shown_url(url)}: redirected to {shown_url(target)}, {reason}"
            raise UnexpectedAnswer(message, "correct the storage or proxy address in the registry's configuration")

    async def _authorised(self, url: str, scope: str, send: Callable[[str, Mapping[str, str]], Awaitable[_T]]) -> _T:
        """Drive the login flow: do what it asks for, tell it what came of it, until it is content."""
        await self.url("")
        assert self._login is not None  # noqa: S101 - for the type checker
        flow = self._login.flow(scope)
        step = next(flow)
        answer: _T | None = None
        credential: Credential | None = None
        while True:
            sent: Sent
            match step:
                case NeedCredential():
                    sent = credential = await (self._renew(step.refused) if step.renew else self.credential())
                case Ask():
                    sent = await self._ask_for_token(self._login, step)
                case Send():
                    extra = {"Authorization": step.authorization} if step.authorization else {}
                    answer = await send(url, {**self._terms.headers, **extra})
                    sent = _answer_of(answer)
                case _:
                    assert_never(step)
            try:
                step = flow.send(sent)
            except StopIteration:
                assert answer is not None  # noqa: S101 - the flow ends after a Send
                return answer
            except RegistryError as error:
                last = None if answer is None else _answer_of(answer)
                refusal = Refusal(error=error, answer=last, credential=credential, scope=scope)
                said = self._terms.explain(refusal)
                if said is error:
                    raise
                raise said from error

    async def _renew(self, refused: Credential | None) -> Credential | None:
        """Another credential than the refused one: of many requests that are refused at once, one has it renewed for all."""
        async with self._renewing:
            current = await self.credential()
            return current if current != refused else await self._credentials.credential(renew=True)

    async def error(self, method: str, reply: Reply, scope: str = "") -> RegistryError:
        """The error for a reply whose status ends a request, in the provider's words."""
        error = _reply_error(method, reply)
        if self._login is not None and not same_origin(reply.url, self._login.origin):
            return _storage_error(error, reply)
        credential = await self.credential()
        return self._terms.explain(Refusal(error=error, answer=_answer_of(reply), credential=credential, scope=scope))

    async def _ask_for_token(self, login: Login, ask: Ask) -> Answer | None:
        """One request at a time for one token: whoever waited finds it in the cache."""
        async with self._asking.setdefault(ask.key, asyncio.Lock()):
            if login.superseded(ask):
                return None
            extra = {"Authorization": ask.authorization} if ask.authorization else {}
            for asked_before in (False, True):
                reply = await self.transport.fetch("GET", ask.url, headers=extra, most_bytes=self.limits.token_bytes)
                answer = _answer_of(reply)
                if asked_before or not ask.authorization or not self._terms.doubtful(answer):
                    return answer
                await self.transport.pause(0)
            return None  # pragma: no cover - the second round returns


def _reply_error(method: str, reply: Reply) -> RegistryError:
    return answer_error(
        method,
        reply.url,
        reply.status,
        reply.body,
        content_type=reply.headers.get("content-type", ""),
        retry_after=retry_after(reply.headers),
    )


def _storage_error(error: RegistryError, reply: Reply) -> RegistryError:
    """The error for a refusal by the storage behind a registry: no right at the registry mends it."""
    if reply.status not in {401, 403}:
        return error
    return RegistryForbidden(error.message.removeprefix(f"{AUTHENTICATION_FAILED}: "), _STORAGE_REFUSES)


def _check_base(reply: Reply) -> None:
    kind = reply.headers.get("content-type", "")
    if reply.status in {401, 403}:
        return
    if reply.status == 200 and is_html(reply.body, kind):
        message = f"GET {shown_url(reply.url)}: status {reply.status}, a web page"
        raise NotARegistry(message, "check host, port and path: this is not a registry's address")
    if reply.status == 200:
        return
    error = _reply_error("GET", reply)
    if isinstance(error, RegistryNotFound):
        raise NotARegistry(error.message, "check host, port and path: nothing there speaks the distribution protocol")
    raise error


def _answer_of(answer: Reply | Streamed) -> Answer:
    return Answer(
        status=answer.status,
        header_lists=answer.header_lists,
        body=answer.body if isinstance(answer, Reply) else b"",
        retry_after=retry_after(answer.headers),
    )


def _rate_limited(error: HostParked) -> RegistryRateLimited:
    return RegistryRateLimited(error.message, error.advice, retry_after=error.retry_after)
