"""The sensor's side of the conversation with one control plane: register, beat, poll, report, upload.

One method is one request on a connection of its own: the server closes idle connections after 5 s, so a pooled one would be stale, and a
call that changes something must not be repeated unseen. Nothing here retries; who calls decides. No redirect is followed. The key is read
from its source at each call, so that a rotated one is used without a restart.

How the daemon builds it: one `Transport` made by `transport_for(link)` for register, polls, status and uploads, and a second one for the heartbeat
alone, with a client of its own, so that a slow upload or a long poll can never hold a heartbeat back:

    main = ControlPlaneClient(link, transport_for(link))
    beating = ControlPlaneClient(link, transport_for(link))
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode

import msgspec

from sensor.control_plane import wire
from sensor.control_plane.addresses import Addresses
from sensor.control_plane.errors import (
    AlreadyDone,
    Forbidden,
    NoSuchCall,
    NotFound,
    NothingStored,
    OutcomeUnknown,
    PlanLimit,
    Refused,
    TooLarge,
    Unauthorized,
    Unavailable,
    WrongAddress,
)
from sensor.control_plane.links import Link
from sensor.control_plane.wire_catalogue import Catalog
from sensor.errors import ConfigError, ControlPlaneError, DataError, NetworkError, SecretError
from sensor.failures import was_never_sent
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.route import retry_after
from sensor.secret import describe_source, read_secret
from sensor.transport import NO_RETRY, Reply, Transport

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_ERROR_SENT = 16_384
"""Characters of a job's error text; the server has no bound, its readers have."""


def transport_for(link: Link, limits: Limits = DEFAULT_LIMITS) -> Transport:
    """A transport that opens a connection for each call and is as patient as an upload needs; shorter calls are bounded by the client."""
    return Transport(link.route, limits=replace(limits, idle_seconds=limits.upload_seconds), keep_alive=False)


class ControlPlaneClient:
    """One link. The transport is the caller's: it is closed there."""

    def __init__(
        self,
        link: Link,
        transport: Transport,
        *,
        limits: Limits = DEFAULT_LIMITS,
        addresses: Addresses | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`addresses` are shared by all clients of the link; without them this one keeps to the first."""
        self.link = link
        self.addresses = addresses or Addresses((link.url, *link.fallback))
        self.skew: float | None = None
        """Seconds by which the server's clock was ahead of ours in its last answer; exact to about a second."""
        self._clock = clock
        self._transport = transport
        self._limits = limits

    async def register(self, registration: wire.Registration) -> str:
        """Announce the sensor; the agent id, or nothing where the server tells none. May be repeated at will.

        Raises:
            ControlPlaneError: see `errors`; SecretError: the key cannot be read.
        """
        reply = await self._call("POST", "/api/agent/register", _clean(registration))
        try:
            return wire.parse_registered(reply.body)
        except DataError as error:
            raise self._not_a_control_plane(reply) from error

    async def heartbeat(self, beat: wire.Heartbeat) -> None:
        """Say that the sensor is alive: polls, status and uploads do not count as that.

        Raises:
            ControlPlaneError: see `errors`; SecretError: the key cannot be read.
        """
        self._expect_json(await self._call("POST", "/api/agent/heartbeat", beat))

    async def poll_jobs(self, agent_id: str) -> wire.Poll:
        """Claim up to five jobs, for good. Call only with room for five, and store them before anything else.

        Never repeated inside one poll, and never by HEAD: both would claim jobs that nobody sees.

        Raises:
            ControlPlaneError: see `errors`; SecretError: the key cannot be read.
        """
        query = f"?{urlencode({'agentId': agent_id})}" if agent_id else ""
        reply = await self._call("GET", f"/api/agent/jobs{query}")
        try:
            return wire.parse_jobs(reply.body)
        except DataError as error:
            raise self._not_a_control_plane(reply) from error

    async def report_job(self, job: str, outcome: wire.JobOutcome, error: str = "") -> None:
        """Finalise a job. It does not touch the job's scan: the envelope must be uploaded before.

        Raises:
            AlreadyDone: finalised before, which is fine; ControlPlaneError: see `errors`; SecretError: the key cannot be read.
        """
        if not wire.is_job_id(job):
            raise Refused("a job id is not usable in a URL")
        status = _clean(wire.JobStatus(status=outcome, error=error[:_LONGEST_ERROR_SENT]))
        self._expect_json(await self._call("POST", f"/api/agent/jobs/{quote(job, safe='')}/status", status))

    async def report_catalogue(self, page: Catalog) -> bool:
        """Tell one page of what a registry holds. False: this server takes no catalogues (404, 405), which is no fault of anybody.

        Raises:
            ControlPlaneError: see `errors`; SecretError: the key cannot be read.
        """
        try:
            await self._call("POST", "/api/agent/catalog", _clean(page))
        except (NotFound, NoSuchCall):
            return False
        return True

    async def upload(self, body: bytes) -> wire.UploadAnswer:
        """Upload an envelope, once.

        Raises:
            OutcomeUnknown: it may have been stored; NothingStored, Unavailable: it was not, and may be sent again;
            ControlPlaneError: see `errors`; SecretError: the key cannot be read.
        """
        try:
            reply = await self._send("POST", "/api/scans/upload", body, self._limits.upload_seconds)
        except NetworkError as error:
            if was_never_sent(error):
                raise self._unavailable(error) from error
            message = f"the answer to an upload was lost: {error.message}"
            raise OutcomeUnknown(message, error.advice) from error
        except (TimeoutError, DataError) as error:
            message = (
                f"the answer to an upload did not arrive within {self._limits.upload_seconds:.0f} s, or was unreadable"
            )
            raise OutcomeUnknown(message) from error
        if reply.status in {200, 201, 202, 204}:
            try:
                return wire.parse_uploaded(reply.status, reply.body)
            except DataError as error:
                raise self._not_a_control_plane(reply) from error
        if reply.status == 500 and wire.is_json_error(reply.body):
            message = f"the control plane could not read an upload: {wire.error_text(reply.body) or 'status 500'}"
            raise NothingStored(message, "its database may be down; its log tells", retry_after=_wait(reply))
        if reply.status == 500:
            raise OutcomeUnknown(
                "the control plane failed while it stored an upload", "its log tells why", is_half=True
            )
        if reply.status in {502, 504}:
            # a gateway lost its upstream: before, while or after it stored the envelope
            message = f"a proxy answered {reply.status} to an upload"
            raise OutcomeUnknown(message, "look at the proxy in front of the control plane")
        raise self._refusal(reply)

    def key_mark(self) -> str:
        """The same for the same key, and tells nothing of it: a rotated key is another agent, and has to register.

        Raises:
            SecretError: the key cannot be read.
        """
        return hashlib.sha256(self._key().encode()).hexdigest()

    async def probe(self) -> bool:
        """Ask `GET /api/ready`, which changes nothing and needs no key: False where there is no such page (other servers), True if ready.

        Raises:
            Unavailable: no answer, or the server says that it is not ready (its database is down).
        """
        try:
            reply = await self._send("GET", "/api/ready", None, self._limits.idle_seconds, authenticated=False)
        except NetworkError as error:
            raise self._unavailable(error) from error
        except (TimeoutError, DataError) as error:
            message = f"{self.addresses.current} did not answer in time"
            raise Unavailable(message, "check the control plane") from error
        if reply.status in _TRANSIENT:
            message = f"the control plane is not ready (status {reply.status})"
            raise Unavailable(message, "its database may be down; its log tells", retry_after=_wait(reply))
        return reply.status == 200

    async def _call(self, method: str, path: str, document: msgspec.Struct | None = None) -> Reply:
        body = None if document is None else wire.encode(document)
        try:
            reply = await self._send(method, path, body, self._limits.idle_seconds)
        except NetworkError as error:
            raise self._unavailable(error) from error
        except TimeoutError as error:
            message = f"{self.addresses.current} did not answer within {self._limits.idle_seconds:.0f} s"
            raise Unavailable(message, "check the control plane and the network path") from error
        except DataError as error:
            raise ControlPlaneError(error.message, error.advice) from error
        if 200 <= reply.status < 300:
            return reply
        raise self._refusal(reply)

    async def _send(
        self, method: str, path: str, body: bytes | None, seconds: float, *, authenticated: bool = True
    ) -> Reply:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if authenticated:
            # the open-source server reads the first form only, the hosted one either
            key = self._key()
            headers |= {"Authorization": f"Bearer {key}", "X-API-Key": key}
        base, sent = self.addresses.current, self._clock()
        try:
            async with asyncio.timeout(seconds):
                reply = await self._transport.fetch(
                    method,
                    base + path,
                    headers=headers,
                    body=body,
                    most_bytes=self._limits.answer_bytes,
                    retry=NO_RETRY,
                )
        except ConfigError as error:
            # a certificate that cannot be read: the link's trouble, not a reason to stop the sensor
            raise ControlPlaneError(error.message, error.advice) from error
        self.skew = _skew(reply, (sent + self._clock()) / 2, self.skew)
        return reply

    def _key(self) -> str:
        if self.link.api_key is None:
            raise SecretError("the link has no API key", "set control_plane.api_key")
        key = read_secret(self.link.api_key).reveal().strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            message = f"the key from {self._source} is not an API key"
            raise SecretError(message, "expected one word such as hg_ak_...")
        return key

    @property
    def _source(self) -> str:
        return describe_source(self.link.api_key) if self.link.api_key is not None else "nowhere"

    def _expect_json(self, reply: Reply) -> None:
        if reply.body.strip():
            try:
                wire.parse_answer(reply.body)
            except DataError as error:
                raise self._not_a_control_plane(reply) from error

    def _unavailable(self, error: NetworkError) -> Unavailable:
        return Unavailable(error.message, error.advice, retryable=error.retryable, retry_after=error.retry_after)

    def _not_a_control_plane(self, reply: Reply) -> WrongAddress:
        return WrongAddress(
            f"{self.addresses.current} answered {reply.status} with something that no control plane sends",
            "control_plane.url must be the base URL of HarborGuard; a login page or proxy may stand in between",
        )

    def _refusal(self, reply: Reply) -> ControlPlaneError:
        """The error for an answer that is not a success."""
        status, said = reply.status, wire.error_text(reply.body)
        told = f": {said}" if said else ""
        error: ControlPlaneError
        match status:
            case 401:
                error = Unauthorized(
                    f"the control plane does not accept the API key{told}",
                    f"check the key in {self._source}: it may be mistyped, expired or revoked",
                )
            case 402:
                error = PlanLimit(f"the plan does not allow this{told}", "see the plan's limits in HarborGuard")
            case 403:
                error = _forbidden(said)
            case 404:
                error = _not_found(said, is_route=not wire.is_json_error(reply.body))
            case 409:
                error = AlreadyDone(f"already done{told}")
            case 413:
                error = TooLarge(
                    "a proxy in front of the control plane refuses a large upload", "allow bodies of 10 MB"
                )
            case 405:
                error = NoSuchCall(f"{self.addresses.current} does not take this call (405)", "check control_plane.url")
            case _ if 300 <= status < 400:
                error = WrongAddress(
                    f"{self.addresses.current} redirects to {reply.headers.get('location', 'another address')[:200]!r}",
                    "set control_plane.url to the final base URL: scheme and host exactly, no slash at the end",
                )
            case _ if status in _TRANSIENT or status >= 500:
                message = f"the control plane answered {status}{told}"
                error = Unavailable(message, "its log may tell why", retry_after=_wait(reply))
            case _:
                error = Refused(f"the control plane refused this with status {status}{told}")
        return error


def _forbidden(said: str) -> Forbidden:
    is_demo = "demo mode" in said.lower()
    return Forbidden(
        f"the control plane forbids this{': ' if said else ''}{said}",
        "a server in demo mode takes no results" if is_demo else "check the role and the scope of the API key",
        is_demo=is_demo,
    )


def _not_found(said: str, *, is_route: bool) -> NotFound:
    if is_route:
        return NotFound(
            "the control plane does not know this path",
            "control_plane.url must be the base URL, without /api",
            is_route=True,
        )
    return NotFound(f"the control plane does not know it: {said}")


def _skew(reply: Reply, middle: float, former: float | None) -> float | None:
    """How far the server's clock is ahead; its header has whole seconds."""
    try:
        told = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return former
    return told + 0.5 - middle


def _wait(reply: Reply) -> float | None:
    return retry_after(reply.headers)


def _clean(document: wire.Registration | wire.JobStatus | Catalog) -> msgspec.Struct:
    """Without what the server's database refuses: a NUL or a lone surrogate is a 500 (sections 3.3, 4.5)."""
    changes: dict[str, str | dict[str, str]] = {}
    for name in document.__struct_fields__:
        value = getattr(document, name)
        if isinstance(value, str):
            changes[name] = wire.clean_text(value)
        elif isinstance(value, dict):
            changes[name] = {wire.clean_text(key): wire.clean_text(text) for key, text in value.items()}
    return msgspec.structs.replace(document, **changes)
