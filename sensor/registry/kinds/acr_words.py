"""What Azure Container Registry calls its ways to log in, and what its refusals mean.

Pure: from settings and answers to words. Errors follow the registry's own texts; a refusal that fits several reasons names them all.
"""

from __future__ import annotations

import re

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.identity.azure import TITLES, way_of
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    ImageWithheld,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    error_detail,
)
from sensor.registry.kinds.acr_login import NETWORK_ADVICE, NOBODY, TOKEN_USERS, read_claims, shown_time
from sensor.registry.kinds.kind import has_configured, host_of
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.port import Method
from sensor.registry.terms import Refusal

CATALOG = "registry:catalog:*"
"""The scope of listing."""
ANONYMOUS = "anonymous pull"
SERVICE_PRINCIPAL = "service principal (user name and password)"
ADMIN = "admin user"
SCOPE_MAP = "scope-map token"
PASTED = "AAD token"
ACCESS = "access token"

HOST = re.compile(
    r"(?P<registry>[a-z0-9]{5,50})(?:-(?P<label>[a-z0-9]+))?(?:\.(?P<region>[a-z0-9]+)\.geo)?\.azurecr\.(?P<tld>io|cn|us)"
)
"""Login servers. Names are alphanumeric, so a dash always begins the hash of a domain-name label."""

PULL_ADVICE = (
    "grant the role AcrPull on the registry, or Container Registry Repository Reader where role assignments have repository conditions "
    "(ABAC mode; AcrPull is of no use there); to a scope-map token the permissions content/read and metadata/read on the repository. A new "
    "role assignment takes up to 10 minutes. If the right is there, the repository does not exist"
)
LISTING_ADVICE = (
    "grant the role AcrPull on the registry, or Container Registry Repository Catalog Lister in ABAC mode (up to 10 minutes pass until it "
    "works); a scope-map token can never list the catalogue: name the repositories in repositories.names"
)
_WITHHELD_ADVICE = (
    "it is locked (readEnabled is false), in quarantine, or held back by a policy of the registry: az acr manifest show-metadata tells which; "
    "the role AcrQuarantineReader reads what is in quarantine"
)
_MISSING_ADVICE = (
    "it may have been deleted; an image in quarantine looks the same to whoever has not the role AcrQuarantineReader, and a replica of a "
    "geo-replicated registry may lag behind by minutes"
)
_ANONYMOUS_ADVICE = (
    "this registry is not open to anonymous clients (az acr update --anonymous-pull-enabled true opens it): configure an identity or a "
    "credential"
)
_THROTTLED_ADVICE = (
    "the registry limits requests (about 5,000 reads a minute and identity, 10,000 with Premium; all anonymous clients are one identity, so is "
    "the admin user); they are repeated later"
)
_MISSING_RIGHT = {
    False: "AcrPull (in ABAC mode Container Registry Repository Reader)",
    True: "AcrPull (in ABAC mode Container Registry Repository Catalog Lister), or name the repositories in repositories.names",
}
"""Of an identity of Entra, by whether it wanted to list."""
_MISSING_PERMISSION = {
    False: "content/read and metadata/read on the repository",
    True: "none that lists the catalogue exists: name the repositories in repositories.names",
}
"""Of a scope-map token."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DISALLOWED = "operation is disallowed"
_NETWORK = ("client with ip", "is not allowed access", "public network access", "firewall")


def uses_identity(settings: Settings) -> bool:
    """Whether an identity of Entra is asked for: because it is configured, or because nothing else is."""
    if settings.auth != "auto":
        return settings.auth == "azure"
    return (
        settings.azure.client_secret is not None
        or settings.azure.certificate is not None
        or not has_configured(settings)
    )


def registry_name(url: str) -> str:
    """The registry's own name, which is its admin user's as well."""
    host = host_of(url)
    found = HOST.fullmatch(host)
    return found["registry"] if found else host.partition(".")[0].partition("-")[0]


def method_of(settings: Settings, credential: Credential | None) -> Method:
    """Which way of logging in a credential is, and what looks wrong about it."""
    match credential:
        case None:
            return Method(name=ANONYMOUS, pulls=False)
        case StaticToken():
            return Method(name=ACCESS)
        case Basic() if uses_identity(settings):
            return Method(name=TITLES[way_of(settings.azure)])
        case Basic() if credential.username in TOKEN_USERS:
            jwt = read_claims(credential.password.reveal()) is not None
            return Method(
                name=PASTED, complaint="" if jwt else f"the password of {NOBODY} must be a token, this is none"
            )
        case Basic() if _UUID.fullmatch(credential.username):
            identifier = _UUID.fullmatch(credential.password.reveal())
            complaint = "the password is the ID of a client secret, its value is wanted" if identifier else ""
            return Method(name=SERVICE_PRINCIPAL, complaint=complaint)
        case Basic() if credential.username.lower() == registry_name(settings.url):
            return Method(name=ADMIN)
        case Basic():
            return Method(name=SCOPE_MAP, lists=False, complaint=_odd_name(credential.username))


def _odd_name(name: str) -> str:
    if not name:
        return "the user name is missing"
    if "@" in name:
        return (
            f"users of Entra cannot log in with their password: use {NOBODY} with a token of az acr login --expose-token, "
            "or a service principal"
        )
    return ""


def explain(refusal: Refusal) -> RegistryError:
    """Azure's words for an error."""
    error, answer = refusal.error, refusal.answer
    said = f"{error.message} {error_detail(answer.body) if answer else ''}".lower()
    if isinstance(error, RegistryRateLimited):
        return RegistryRateLimited(error.message, _THROTTLED_ADVICE, retry_after=error.retry_after)
    if _DISALLOWED in said:
        return ImageWithheld(error.message, _WITHHELD_ADVICE)
    if any(mark in said for mark in _NETWORK):
        return RegistryForbidden(error.message, NETWORK_ADVICE)
    if isinstance(error, RegistryNotFound) and refusal.scope:
        return RegistryNotFound(error.message, _MISSING_ADVICE)
    wanted = LISTING_ADVICE if refusal.scope == CATALOG else PULL_ADVICE
    if isinstance(error, RegistryForbidden):
        silent = answer is not None and answer.status == 403 and not answer.body  # a HEAD
        return RegistryForbidden(error.message, f"{wanted}. Or {_WITHHELD_ADVICE}" if silent else wanted)
    if isinstance(error, RegistryUnauthorized):
        return _unauthorized(refusal, wanted)
    return error


def _unauthorized(refusal: Refusal, wanted: str) -> RegistryError:
    """A 401 of the token service: it is given to a wrong password, an expired token, and a missing right alike."""
    message = refusal.error.message
    match refusal.credential:
        case None:
            return RegistryUnauthorized(message, _ANONYMOUS_ADVICE)
        case Basic() if refusal.credential.username in TOKEN_USERS:
            pasted = refusal.credential.password
        case StaticToken():
            pasted = refusal.credential.token
        case _:
            return RegistryUnauthorized(message, _login_advice(refusal.credential.username, refusal.scope == CATALOG))
    claims = read_claims(pasted.reveal())
    if claims is not None and claims.ended:
        ended = f"{message}; the token has expired ({shown_time(claims.exp or 0)})"
        return RegistryUnauthorized(
            ended,
            "fetch a new one, or let the sensor fetch its own: managed identity, workload identity, service principal",
        )
    if claims is not None and refusal.scope and isinstance(refusal.credential, Basic):
        # the registry has made this token itself a while ago, so it is the right that is missing
        bare = message.removeprefix(f"{AUTHENTICATION_FAILED}: ")
        return RegistryForbidden(f"no right for {refusal.scope}: {bare}", wanted)
    return RegistryUnauthorized(
        message, "log in anew: az acr login --expose-token prints a token that lives for three hours"
    )


def _login_advice(user: str, listing: bool) -> str:  # noqa: FBT001 - a key of two tables
    """What to check when a password and a right may be what is missing: of the sort of login that the user name shows."""
    if _UUID.fullmatch(user):
        check = "check client ID and the service principal's password: a valid secret that has not expired"
        return f"{check}; a good login without a right is refused alike: {_MISSING_RIGHT[listing]}"
    check = "check user name and password: an enabled admin user, or a token whose password has not expired"
    return f"{check}; a good token without a permission is refused alike: {_MISSING_PERMISSION[listing]}"
