"""Logging in to Artifact Registry: keys and tokens by user name, Google's identities, and what looks wrong about them.

An access token is shown to the registry as it is, which saves the exchange at `/v2/token` for every repository; a key goes there as
`_json_key`, needing no library. For the API a key is exchanged for a token by google-auth.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sensor.config.logins import Gcp
from sensor.config.schema import Registry as Settings
from sensor.identity.gcp import GoogleIdentity, GoogleRefused, Principal
from sensor.registry.credentials import Anonymous
from sensor.registry.errors import AUTHENTICATION_FAILED, RegistryUnauthorized
from sensor.registry.kinds.gar_places import read_host
from sensor.registry.kinds.gathered import api_credentials
from sensor.registry.kinds.kind import Connection, Opening, configured, has_configured, host_of
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.port import Method
from sensor.registry.terms import CredentialSource, missing_credential
from sensor.registry.tokens import jwt_payload
from sensor.secret import InPlace, Secret
from sensor.transport import Transport

KEY_NAME, KEY_BASE64_NAME, TOKEN_NAME = "_json_key", "_json_key_base64", "oauth2accesstoken"
NARROW_SCOPES = (
    "the access scopes of this machine do not reach Artifact Registry, whatever its roles: stop it and set the scope cloud-platform "
    "(gcloud compute instances set-service-account VM --scopes=cloud-platform); for a node pool make a new one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityToken(StaticToken):
    """An access token that google-auth got, and for whom."""

    principal: Principal = field(repr=False)


def is_token_name(username: str) -> bool:
    """Whether a user name says that the password is an access token; Google's credential helpers have names of their own."""
    return username == TOKEN_NAME or (username.startswith(("_dcgcr_", "_dcgcloud_")) and username.endswith("_token"))


class ByUserName:
    """A configured credential; the password of a user name for access tokens is shown as the token that it is."""

    def __init__(self, inner: CredentialSource) -> None:
        self._inner = inner

    @property
    def missing(self) -> str:
        """Why there is none."""
        return missing_credential(self._inner)

    async def credential(self, *, renew: bool) -> Credential | None:
        """The credential. Raises SecretError."""
        given = await self._inner.credential(renew=renew)
        if isinstance(given, Basic) and is_token_name(given.username):
            return StaticToken(token=given.password)
        return given


class ByIdentity:
    """Access tokens of an identity of Google."""

    def __init__(self, identity: GoogleIdentity) -> None:
        self._identity = identity

    async def credential(self, *, renew: bool) -> Credential | None:
        """A token that holds; None when the machine has no identity.

        Raises:
            RegistryUnauthorized: Google gives none.
            SensorError: there is no identity, or no answer.
        """
        try:
            token = await self._identity.token(renew=renew)
        except GoogleRefused as error:
            message = f"{AUTHENTICATION_FAILED}: {error.message}"
            raise RegistryUnauthorized(message, error.advice) from error
        return None if token is None else IdentityToken(token=token.value, principal=token.principal)


def credentials(opening: Opening, _transport: Transport) -> CredentialSource:
    """Where the credential comes from. The metadata service is asked only for a host of Google's, or when `auth: gcp` says so."""
    settings = opening.settings
    if settings.auth != "gcp" and has_configured(settings):
        return ByUserName(configured(opening))
    named = settings.auth == "gcp" or settings.gcp.credentials is not None or bool(settings.gcp.impersonate)
    if named or (settings.auth == "auto" and read_host(host_of(settings.url)) is not None):
        return ByIdentity(GoogleIdentity(settings.gcp, opening.route, required=named, limits=opening.limits))
    return Anonymous()


class ApiLogin:
    """Shows the registry's credential to the API, which takes nothing but access tokens: a key is exchanged for one."""

    def __init__(self, connection: Connection) -> None:
        self._source = api_credentials(connection)
        self._opening = connection.opening
        self._key: Secret | None = None
        self._identity: GoogleIdentity | None = None

    async def __call__(self, renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        """Headers; none for an anonymous client, and for a user name that the API does not know. Raises SensorError."""
        given = await self._source.credential(renew=renew)
        if isinstance(given, Basic):
            given = await self._exchanged(given, renew=renew)
        return {} if given is None else {"Authorization": given.header}

    async def _exchanged(self, given: Basic, *, renew: bool) -> Credential | None:
        key = key_text(given)
        if read_key(key) is None:
            return None
        if self._identity is None or self._key != Secret(key):
            settings = Gcp(credentials=InPlace(Secret(key)))
            self._key = Secret(key)
            self._identity = GoogleIdentity(settings, self._opening.route, limits=self._opening.limits)
        return await ByIdentity(self._identity).credential(renew=renew)


# -- keys ----------------------------------------------------------------------------------------------------------------------


def key_text(given: Basic) -> str:
    """The JSON that a user name for keys comes with; empty when it is another user name, or no base64."""
    text = given.password.reveal()
    if given.username == KEY_NAME:
        return text
    if given.username != KEY_BASE64_NAME:
        return ""
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        return ""


def read_key(text: str) -> Mapping[str, Any] | None:
    """The JSON of a service account's key, or None when it is something else."""
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) and info.get("type") == "service_account" else None


def key_principal(given: Credential | None) -> Principal | None:
    """Whom a key is for; None when it is no key."""
    info = read_key(key_text(given)) if isinstance(given, Basic) else None
    if info is None:
        return None
    return Principal(
        name=str(info.get("client_email") or "")[:200],
        way="service account key",
        project=str(info.get("project_id") or "")[:200],
    )


# -- what it is, and what looks wrong ----------------------------------------------------------------------------------------------


def method(_settings: Settings, given: Credential | None) -> Method:
    """Which way of logging in a credential is, and what looks wrong about it."""
    match given:
        case IdentityToken():
            narrow = given.principal.too_narrow
            return Method(name=given.principal.way, complaint=NARROW_SCOPES if narrow else "")
        case StaticToken():
            return Method(name="access token", complaint=_token_complaint(given.token.reveal()))
        case Basic(username=username) if username in {KEY_NAME, KEY_BASE64_NAME}:
            return Method(name=f"service account key ({username})", complaint=_key_complaint(given))
        case Basic():
            return Method(name="user name and password", complaint=_name_complaint(given))
        case _:
            return Method(name="anonymous", pulls=False, lists=False)


def _name_complaint(given: Basic) -> str:
    if given.password.reveal().lstrip().startswith("{"):
        return f"the password is a JSON file: the user name for it is {KEY_NAME}"
    return f"Artifact Registry knows the user names {KEY_NAME}, {KEY_BASE64_NAME} and {TOKEN_NAME} only"


def _token_complaint(token: str) -> str:
    if token.lstrip().startswith("{"):
        return f"the token is a JSON file: give it as the password of the user name {KEY_NAME}, or as gcp.credentials"
    if token.startswith("AIza"):
        return "this is an API key; Artifact Registry takes access tokens: gcloud auth print-access-token"
    if token.startswith("eyJ") and token.count(".") == 2:
        ends = _jwt_end(token)
        if ends is not None and ends < time.time():
            return "the token has expired"
        return "this looks like an ID token; Artifact Registry takes access tokens: gcloud auth print-access-token"
    return ""


def _jwt_end(token: str) -> float | None:
    try:
        claims = json.loads(jwt_payload(token))
    except (ValueError, RecursionError):
        return None
    ends = claims.get("exp") if isinstance(claims, dict) else None
    return float(ends) if isinstance(ends, (int, float)) else None


def _key_complaint(given: Basic) -> str:
    text = given.password.reveal()
    if given.username == KEY_NAME and text.startswith(("ey", "ew")) and "{" not in text:
        return f"the password is base64: the user name for it is {KEY_BASE64_NAME}"
    if given.username == KEY_BASE64_NAME and not (text := key_text(given)):
        instead = (
            f"the user name for plain JSON is {KEY_NAME}" if given.password.reveal().lstrip().startswith("{") else ""
        )
        return f"the password is no base64; {instead or 'encode the key file with base64 -w0'}"
    if not text.lstrip().startswith("{"):
        return f"with {KEY_NAME} the password is the whole JSON file of the key, from its first brace to its last"
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return (
            "the password is not the JSON file as it was downloaded: line breaks of the private key must stay \\n, and quotes must not be "
            "escaped; name the file instead: {file: /path/to/key.json}"
        )
    kind = info.get("type") if isinstance(info, dict) else None
    if kind != "service_account":
        shown = str(kind)[:40] if isinstance(kind, str) else "unknown"
        return f"the JSON is of the type {shown}, not a service account's key: give it as gcp.credentials"
    private = str(info.get("private_key") or "")
    if "\\n" in private:
        return "the line breaks of the private key are escaped twice: paste the file verbatim"
    if "BEGIN" not in private or not info.get("client_email"):
        return "the key has no private_key or client_email: paste the file as it was downloaded"
    return ""
