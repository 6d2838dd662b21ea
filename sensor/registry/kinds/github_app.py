"""GitHub's REST API as far as it is the same for everything: headers, errors, limits. And GitHub Apps, whose tokens are made here.

An App signs a short JWT with its private key and exchanges it for an installation token of one hour. Such a token lists packages and pulls
public ones; private packages are refused to it by the registry, whatever its permissions say. Tokens are never stored.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

import msgspec

from sensor.config.logins import GithubApp as Settings
from sensor.errors import RegistryError, SecretError
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
    as_refused_login,
    inert,
)
from sensor.registry.kinds.gathered import unix_time
from sensor.registry.login import Basic
from sensor.registry.native import Api, Authorise
from sensor.route import retry_after
from sensor.secret import Secret, read_secret
from sensor.transport import Reply, Transport

USERNAME = "x-access-token"
"""GitHub ignores the user name; this is what it recommends for installation tokens."""
READ_PACKAGES = "give the token the scope read:packages"
_REFUSED = "the token is wrong, was revoked, or has expired: make a new one"
_APP_REFUSED = "check github_app.app_id and that the private key belongs to this App, and this machine's clock"
_LONGEST_PAUSE = 3600.0
_JWT_SECONDS = 540
"""GitHub allows ten minutes; a minute is kept for clocks that differ, and `iat` lies one back."""
_NOT_AGAIN_SECONDS = 60.0
"""So long a token is not made anew when it was refused, and a refused key is not tried again."""
_SSO_URL = re.compile(r"url=([^;,\s]+)")


class Account(msgspec.Struct):
    """A user or an organisation."""

    login: str
    type: str = ""


class Installation(msgspec.Struct):
    """An App's installation at an account."""

    id: int
    account: Account | None = None
    app_slug: str = ""


class _Issued(msgspec.Struct):
    token: str
    expires_at: str | None = None
    permissions: dict[str, str] | None = None


def github_api(
    base: str, transport: Transport, authorise: Authorise, *, insecure: bool, if_refused: str = _REFUSED
) -> Api:
    """GitHub's REST API; `if_refused` is the advice for a 401.

    Raises:
        ConfigError: plain HTTP that was not allowed.
    """
    headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}

    def explain(error: RegistryError, reply: Reply) -> RegistryError:
        return explain_api(error, reply, if_refused)

    return Api(base, transport, authorise, headers=headers, explain=explain, insecure=insecure)


def pause_asked(reply: Reply) -> float | None:
    """Seconds until GitHub wants to be asked again; None when it does not ask for a pause.

    The primary limit tells when it begins anew (a Unix time), the secondary ones how long to wait; both are a 403 as well as a 429.
    """
    if reply.status in {403, 429} and (wait := retry_after(reply.headers)) is not None:
        return max(wait, 1.0)
    if reply.headers.get("x-ratelimit-remaining") == "0":
        reset = reply.headers.get("x-ratelimit-reset", "")
        at = float(reset) if reset.isascii() and reset.isdigit() and len(reset) < 12 else 0.0
        return min(max(at - time.time(), 1.0), _LONGEST_PAUSE)
    return None


def explain_api(error: RegistryError, reply: Reply, if_refused: str = _REFUSED) -> RegistryError:
    """GitHub's words: throttled rather than forbidden, single sign-on, the missing scope."""
    wait = pause_asked(reply)
    if reply.status in {403, 429} and (wait is not None or reply.status == 429 or "rate limit" in error.message):
        advice = "GitHub's API allows 5000 requests an hour for each user; listing goes on when it allows it again"
        return RegistryRateLimited(error.message, advice, retry_after=wait or 60.0)
    if reply.status == 401:
        return RegistryUnauthorized(as_refused_login(error.message), if_refused)
    sso = reply.headers.get("x-github-sso", "")
    if reply.status == 403 and sso.startswith("required"):
        found = _SSO_URL.search(sso)
        where = f": {inert(found[1].partition('?')[0])}" if found else ""
        return RegistryForbidden(error.message, f"authorise the token for the organisation's single sign-on{where}")
    if isinstance(error, RegistryForbidden):
        return RegistryForbidden(
            error.message, f"{READ_PACKAGES}, and authorise it for single sign-on where that is used"
        )
    if isinstance(error, RegistryNotFound):
        return RegistryNotFound(
            error.message, f"check the name; what a token may not see is not found either: {READ_PACKAGES}"
        )
    return error


def app_jwt(app_id: str, key_pem: str, now: float) -> str:
    """A JSON web token by which an App shows who it is (RS256, RFC 7515).

    Raises:
        SecretError: not the private key of an App.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only Apps pay for the import
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    # a variable of the environment often holds the two characters \n for a line break
    pem = key_pem.replace("\\n", "\n").encode()
    advice = "github_app.private_key is the .pem file that GitHub gave for the App, verbatim"
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = (
            f"the private key of the GitHub App cannot be used: {type(error).__name__}"  # its text may quote the key
        )
        raise SecretError(message, advice) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SecretError("the private key of the GitHub App is no RSA key", advice)
    claims = {"iat": int(now) - 60, "exp": int(now) + _JWT_SECONDS, "iss": app_id}
    signed = f"{_encoded({'alg': 'RS256', 'typ': 'JWT'})}.{_encoded(claims)}"
    signature = key.sign(signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode('ascii').rstrip('=')}"


def _encoded(claims: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(claims)).decode("ascii").rstrip("=")


class GithubApp:
    """The credential of an App's installation: a token for the registry and for the API, renewed before it ends."""

    def __init__(
        self,
        settings: Settings,
        base: str,
        transport: Transport,
        *,
        owner: str = "",
        insecure: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base` is the API's URL; `owner` says whose installation it is, where no id is configured.

        Raises:
            ConfigError: the API is to be asked in plain HTTP, which is not allowed.
        """
        self._settings = settings
        self._owner = owner
        self._clock = clock
        self._api = github_api(base, transport, self._as_app, insecure=insecure, if_refused=_APP_REFUSED)
        self._issued: Basic | None = None
        self._made_at = 0.0
        self._renew_at = 0.0
        self._failure: tuple[float, RegistryError | SecretError] | None = None
        self._installation: Installation | None = None
        self._making = asyncio.Lock()
        self.permissions: Mapping[str, str] = {}
        """Of the installation, as told with the last token: `packages: read`."""

    async def credential(self, *, renew: bool) -> Basic:
        """A token that holds for a few minutes at least. One that was refused is made anew, but not every second.

        Raises:
            SecretError: the private key cannot be read, or nothing says whose installation it is.
            RegistryError: GitHub refuses the App.
            NetworkError: no answer.
        """
        async with self._making:
            now = self._clock()
            young = now < self._made_at + _NOT_AGAIN_SECONDS
            if self._issued is not None and now < self._renew_at and (not renew or young):
                return self._issued
            if self._failure is not None and now < self._failure[0]:
                error = self._failure[1]
                raise type(error)(error.message, error.advice, retry_after=error.retry_after)
            try:
                self._issued = await self._make()
            except (RegistryError, SecretError) as error:
                if not error.retryable or error.retry_after:
                    self._failure = (now + (error.retry_after or _NOT_AGAIN_SECONDS), error)
                raise
            self._made_at = now
            return self._issued

    async def installation(self) -> Installation:
        """Where the App is installed.

        Raises:
            SecretError: the private key cannot be read, or nothing says whose installation it is.
            RegistryError: GitHub refuses the App, or it is not installed there.
            NetworkError: no answer.
        """
        if self._installation is None:
            self._installation = await self._find()
        return self._installation

    async def _find(self) -> Installation:
        if self._settings.installation_id:
            path = f"/app/installations/{self._settings.installation_id}"
            return await self._as_installed(path, f"there is no installation {self._settings.installation_id} of it")
        if not self._owner:
            message = f"nothing says which installation of the GitHub App {self._settings.app_id} is meant"
            raise SecretError(message, "set github_app.installation_id, or the owner in repositories.namespaces")
        name = quote(self._owner, safe="")
        try:
            return await self._api.json(f"/orgs/{name}/installation", Installation)
        except RegistryNotFound:
            return await self._as_installed(f"/users/{name}/installation", f"it is not installed at {self._owner}")

    async def _as_installed(self, path: str, what: str) -> Installation:
        try:
            return await self._api.json(path, Installation)
        except RegistryNotFound as error:
            message = f"{AUTHENTICATION_FAILED}: the GitHub App {self._settings.app_id}: {what}"
            raise RegistryUnauthorized(
                message, "install the App there, or correct github_app.installation_id"
            ) from error

    async def _make(self) -> Basic:
        number = self._settings.installation_id or (await self.installation()).id
        path = f"/app/installations/{number}/access_tokens"
        try:
            answer = await self._api.json(path, _Issued, method="POST", accept=frozenset({200, 201}))
        except RegistryNotFound as error:
            self._installation = None  # it may have been removed and installed anew
            message = f"{AUTHENTICATION_FAILED}: the GitHub App {self._settings.app_id} has no installation {number}"
            raise RegistryUnauthorized(
                message, "install the App there, or correct github_app.installation_id"
            ) from error
        if not re.fullmatch(r"[\x21-\x7e]+", answer.token):
            message = f"{self._api.base}: GitHub gave no usable token to the App"
            raise UnexpectedAnswer(message, "check api.url")
        # one hour, whatever this machine's clock makes of the date
        life = min(max((unix_time(answer.expires_at) or 0.0) - time.time(), 600.0), 3600.0)
        self._renew_at = self._clock() + life - min(life / 10, 300.0)
        self.permissions = answer.permissions or {}
        return Basic(username=USERNAME, password=Secret(answer.token))

    async def _as_app(self, _renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        def signed() -> str:
            return app_jwt(self._settings.app_id, read_secret(self._settings.private_key).reveal(), time.time())

        return {"Authorization": f"Bearer {await asyncio.to_thread(signed)}"}
