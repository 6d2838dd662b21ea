"""Access tokens of Google for a key, a federation, or the machine's identity, by the real google-auth.

A `GoogleIdentity` is one way to be somebody at Google, for one registry. The library is imported at first use, runs in a thread with a time
limit, and speaks through the sensor's own connections (`gcp_pipe`). What a token is for is the caller's business.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC
from typing import TYPE_CHECKING

from sensor.config.logins import Gcp
from sensor.errors import NetworkError, SecretError, SensorError
from sensor.identity.sdk import GOOGLE, importing
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.route import Route
from sensor.secret import Secret, read_secret
from sensor.transport import Transport

if TYPE_CHECKING:
    from sensor.identity.gcp_credentials import Loaded

_SECONDS = 30.0
"""For one token, with all the library's own attempts."""
_GRACE_SECONDS = 15.0
"""By which a thread may be late: the library sleeps between attempts."""
_LEAD_SECONDS = 225.0
"""So long before its end google-auth itself takes a token for stale; the metadata service has a new one by then."""
_UNTOLD_SECONDS = 300.0
"""How long a token of unknown life is used."""
_ABSENT_SECONDS = 300.0
"""How long a machine without an identity is not asked again."""
_RETRY_SECONDS = 30.0
"""Until the next attempt, when a token cannot be renewed but still holds."""
_MOST_DETAIL = 300
_SECRET = re.compile(r"[A-Za-z0-9_-]{40,}(?:\.[A-Za-z0-9_-]+)*")
_ENOUGH = (
    "cloud-platform",
    "cloud-platform.read-only",
    "devstorage.read_only",
    "devstorage.read_write",
    "devstorage.full_control",
)

_OFFLINE = (
    "check the way to Google's token services (oauth2.googleapis.com, sts.googleapis.com, iamcredentials.googleapis.com), and proxy and "
    "ca_file; in a pod a network policy must let 169.254.169.254 through"
)
_ACT_AS = (
    "grant roles/iam.serviceAccountTokenCreator on that service account to the identity that acts as it; to a federated or Kubernetes "
    "identity roles/iam.workloadIdentityUser, and enable the API iamcredentials.googleapis.com"
)
_ADVICE = (
    (
        r"invalid jwt signature|invalid_grant.*signature",
        "the key was deleted, disabled, or altered on the way: make a new one",
    ),
    (r"short-lived token|reasonable timeframe|iat and exp", "compare the clock of this machine with the world's"),
    (r"account not found|invalid_grant.*not found|gaia id not found", "there is no such service account any more"),
    (r"iam\.serviceaccounts\.getaccesstoken|unable to acquire impersonated", _ACT_AS),
    (
        r"invalid_target|audience|issuer|attribute condition|invalid_grant.*(?:id token|subject)|unauthorized_client",
        "compare the pool's provider with the token: issuer, audience, and attribute condition",
    ),
    (
        r"was not found|subject_token|subject token",
        "check the file or URL that credential_source names, and its format",
    ),
    (r"metadata service", "give the machine or its Kubernetes service account a Google service account"),
    (r"invalid_grant", "log in anew with gcloud, or better use a service account: a sensor should not act as a user"),
)
"""By what is said; the first that fits."""


class GoogleRefused(SecretError):
    """Google was reached and gave no token for this identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whom Google takes us for."""

    name: str
    """E-mail address of a service account, or the pool of a federated identity; empty: not told."""
    way: str
    """How the identity was found, for people."""
    project: str = ""
    """Where it belongs; empty: not told."""
    scopes: tuple[str, ...] = ()
    """Of a machine: what its tokens are good for at all, whatever the roles. Empty: not told."""

    @property
    def too_narrow(self) -> bool:
        """Whether no token of this machine reads Artifact Registry, whatever is granted."""
        short = {scope.rpartition("/auth/")[2] for scope in self.scopes}
        return bool(short) and not short & set(_ENOUGH)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleToken:
    """An access token, until when it holds (Unix time; None: not told), and for whom."""

    value: Secret
    expires: float | None
    principal: Principal


@dataclass(slots=True)
class _Kept:
    """What the last attempt brought."""

    token: GoogleToken | None = None
    until: float = 0.0
    """When to look again, on the identity's clock."""
    attempts: int = 0


class GoogleIdentity:
    """One identity and its tokens. Nothing is read or asked before the first token."""

    def __init__(
        self,
        settings: Gcp,
        route: Route,
        *,
        required: bool = True,
        limits: Limits = DEFAULT_LIMITS,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`required`: that there is no identity is an error, rather than a reason to stay anonymous."""
        self._settings = settings
        self._route = route
        self._required = required
        self._limits = limits
        self._seconds = seconds
        self._clock = clock
        self._lock = asyncio.Lock()
        self._kept = _Kept()
        self._loaded: Loaded | None = None

    async def token(self, *, renew: bool = False) -> GoogleToken | None:
        """A token that holds; None when the machine has no identity and none is required. `renew`: the last one was refused.

        Raises:
            GoogleRefused: Google gives none.
            SecretError: no identity, or a file or setting that cannot be used.
            NetworkError: no answer.
        """
        seen = self._kept.attempts
        async with self._lock:
            kept = self._kept
            if kept.attempts != seen and kept.token is not None:
                return kept.token  # somebody else has just looked
            if self._clock() < kept.until and not renew:
                return kept.token
            try:
                token = await self._fetch(anew=renew)
            except NetworkError:
                if renew or kept.token is None or (kept.token.expires or 0.0) <= self._clock():
                    raise
                kept.until = self._clock() + _RETRY_SECONDS
                return kept.token
            self._kept = _Kept(token=token, until=self._fresh_until(token), attempts=kept.attempts + 1)
            return token

    def _fresh_until(self, token: GoogleToken | None) -> float:
        """When to ask for the next one. A metadata service may hand out a token with minutes left: that is taken as it is."""
        now = self._clock()
        if token is None:
            return now + _ABSENT_SECONDS
        if token.expires is None:
            return now + _UNTOLD_SECONDS
        life = token.expires - now
        return token.expires - _LEAD_SECONDS if life > 2 * _LEAD_SECONDS else now + life / 2

    async def _fetch(self, *, anew: bool) -> GoogleToken | None:
        """Ask in a thread. With `anew` key and files are read again: they may have been replaced.

        Credentials are in one thread's hands at a time: those of a thread that was given up are not used again.
        """
        loaded, self._loaded = None if anew else self._loaded, None
        loop = asyncio.get_running_loop()
        # the metadata service is never behind a proxy, under whatever address it goes
        route = replace(self._route, no_proxy=(*self._route.no_proxy, *_metadata_names()))
        transport, stop = Transport(route, limits=self._limits), threading.Event()
        # a thread of its own: it waits for the loop, which needs the common threads to resolve names
        thread = concurrent.futures.ThreadPoolExecutor(1, "google-auth")
        try:
            async with asyncio.timeout(self._seconds + _GRACE_SECONDS):
                work = functools.partial(self._work, loaded, transport, loop, stop)
                self._loaded = await loop.run_in_executor(thread, work)
        except TimeoutError as error:
            message = f"Google gave no token within {self._seconds:.0f} seconds"
            raise NetworkError(message, _OFFLINE) from error
        finally:
            stop.set()
            thread.shutdown(wait=False)
            await transport.close()
        return None if self._loaded is None else _token(self._loaded)

    # -- in a thread from here on ------------------------------------------------------------------------------------------

    def _work(
        self, loaded: Loaded | None, transport: Transport, loop: asyncio.AbstractEventLoop, stop: threading.Event
    ) -> Loaded | None:
        with importing(GOOGLE):
            from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 - a site without Google does not pay for it

            from sensor.identity import gcp_credentials, gcp_pipe  # noqa: PLC0415

        pipe = gcp_pipe.Pipe(transport, loop, self._seconds, stop)
        settings = self._settings
        try:
            if loaded is None:
                text = read_secret(settings.credentials).reveal() if settings.credentials is not None else ""
                loaded = gcp_credentials.load(text, settings.impersonate, pipe, self._route, required=self._required)
            if loaded is not None:
                loaded.credentials.refresh(pipe)
        except (GoogleAuthError, ValueError, KeyError, TypeError, AttributeError, OSError, OverflowError) as error:
            raise translate(error) from error
        return loaded


def _metadata_names() -> tuple[str, ...]:
    return tuple(
        value.rpartition(":")[0] or value
        for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP")
        if (value := os.environ.get(name))
    )


def _token(loaded: Loaded) -> GoogleToken:
    credentials = loaded.credentials
    value = credentials.token
    if not isinstance(value, str) or not value or not value.isprintable() or not value.isascii():
        message = f"Google answered without a usable access token ({loaded.way})"
        raise GoogleRefused(message, "check token_uri or token_url of the credentials")
    ends = credentials.expiry
    machine = loaded.way.startswith("metadata")
    name = loaded.name or str(getattr(credentials, "service_account_email", None) or "")
    return GoogleToken(
        value=Secret(value),
        expires=None if ends is None else ends.replace(tzinfo=UTC).timestamp(),  # the library's is naive UTC
        principal=Principal(
            name=name,
            way=loaded.way,
            project=loaded.project,
            scopes=tuple(str(scope) for scope in credentials.scopes or ()) if machine and not loaded.name else (),
        ),
    )


def translate(error: Exception) -> SensorError:
    """The error for what google-auth raised: no answer, or a refusal in Google's words and with advice. No secret is repeated."""
    for cause in _causes(error):
        if isinstance(cause, SensorError):
            return NetworkError(
                f"no token of Google: {cause.message}", cause.advice or _OFFLINE, retryable=cause.retryable
            )
    detail = _detail(error)
    if getattr(error, "retryable", False) or "unavailable" in detail:
        return NetworkError(f"no token of Google: {detail}", _OFFLINE)
    if not type(error).__module__.startswith("google."):
        return GoogleRefused(
            f"no token of Google: the credentials or an answer are not of the expected form ({type(error).__name__}: {detail})",
            "paste the credentials as they were downloaded; do not change the line breaks of the private key",
        )
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, detail, re.IGNORECASE)), "")
    return GoogleRefused(
        f"no token of Google: {detail}", advice or "check the credentials, and whether they were disabled"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 20:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1


def _detail(error: Exception) -> str:
    """Google's words, cut, without control characters and without anything as long as a token."""
    words = [str(error.args[0]) if error.args else type(error).__name__, *map(_said, error.args[1:2])]
    text = "".join(c if c.isprintable() else " " for c in ", ".join(filter(None, words)))
    return _SECRET.sub("(left out)", text)[:_MOST_DETAIL].strip()


def _said(body: object) -> str:
    """The message in the body of an answer: OAuth's `error_description`, or that of a Google API."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return ""
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else ""
