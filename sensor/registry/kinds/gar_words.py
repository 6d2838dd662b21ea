"""What Google's refusals mean, and what to grant. Pure.

A missing repository and a missing right look alike there (`(or it may not exist)`), so both are named. No role helps against access scopes
of a machine, an API that is not enabled, or a VPC Service Controls perimeter: those are told apart.
"""

from __future__ import annotations

import re

import msgspec

from sensor.errors import RegistryError
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    UNAUTHENTICATED,
    RegistryForbidden,
    RegistryRateLimited,
    RegistryUnauthorized,
    inert,
)
from sensor.registry.kinds.gar_login import NARROW_SCOPES, IdentityToken, key_principal
from sensor.registry.login import Basic, Credential
from sensor.registry.terms import Refusal
from sensor.transport import Reply

ROLE = "roles/artifactregistry.reader"
QUOTA = (
    "Artifact Registry allows 60,000 requests a minute for a project and region, over all its clients; requests are repeated later. "
    "Raise the quota of the project, or sweep less often"
)
LOG_IN = (
    "configure a login: gcp.credentials, user name _json_key with a key, or auth: gcp on a machine of Google's; without one only public "
    "repositories can be read"
)
_PERIMETER = re.compile(r"vpcServiceControlsUniqueIdentifier|VPC Service Controls|prohibited by organization's policy")
_IDENTIFIER = re.compile(r"vpcServiceControlsUniqueIdentifier\W{1,5}([A-Za-z0-9_-]{1,100})")
_DISABLED = re.compile(
    r"SERVICE_DISABLED|has not been used in project|API has not been enabled|it is disabled", re.IGNORECASE
)
_SCOPES = re.compile(r"ACCESS_TOKEN_SCOPE_INSUFFICIENT|insufficient authentication scopes", re.IGNORECASE)
_RESOURCE = re.compile(r"on resource \W{0,3}(projects/[A-Za-z0-9:._/-]{1,200})")
_PROJECT = (re.compile(r"in project ([a-z0-9.:-]{1,100})"), re.compile(r"projects/([a-z0-9.:-]{1,100})"))


class _Detail(msgspec.Struct):
    reason: str = ""
    violations: list[dict[str, object]] = msgspec.field(default_factory=list)


class _Error(msgspec.Struct):
    message: str = ""
    status: str = ""
    details: list[_Detail] = msgspec.field(default_factory=list)


class _Body(msgspec.Struct):
    error: _Error


def explain(refusal: Refusal) -> RegistryError:
    """A refusal of the registry, in words that help."""
    body = refusal.answer.body if refusal.answer is not None else b""
    said = f"{refusal.error.message} {body[:4096].decode('utf-8', 'replace')}"
    return _judge(refusal.error, said, refusal.credential)


def explain_api(error: RegistryError, reply: Reply, credential: Credential | None) -> RegistryError:
    """A refusal of the API, whose errors have a form of their own, in words that help."""
    try:
        told = msgspec.json.decode(reply.body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _judge(error, error.message, credential)
    if told.status or told.message:
        message = f"{error.message}, {inert(f'{told.status}: {told.message}')}"
        error = type(error)(message, error.advice, retry_after=error.retry_after)
    reasons = " ".join(detail.reason for detail in told.details)
    return _judge(error, f"{error.message} {reasons} {reply.body[:4096].decode('utf-8', 'replace')}", credential)


def _judge(error: RegistryError, said: str, credential: Credential | None) -> RegistryError:
    if isinstance(error, RegistryRateLimited):
        return RegistryRateLimited(error.message, QUOTA, retry_after=error.retry_after)
    if not isinstance(error, (RegistryForbidden, RegistryUnauthorized)):
        return error
    message = error.message.removeprefix(f"{AUTHENTICATION_FAILED}: ").removeprefix(f"{UNAUTHENTICATED}: ")
    for judge in (_perimeter, _disabled, _scopes):
        if advice := judge(said, credential):
            return RegistryForbidden(message, advice)
    if credential is None:
        return RegistryUnauthorized(f"{UNAUTHENTICATED}: {message}", LOG_IN)
    if "Unauthenticated request" in said:
        return RegistryUnauthorized(f"{AUTHENTICATION_FAILED}: {message}", _login_advice(credential))
    if isinstance(error, RegistryForbidden) or " denied on resource" in said or "PERMISSION_DENIED" in said:
        return RegistryForbidden(message, _grant(said, credential))
    return RegistryUnauthorized(error.message, _login_advice(credential))


def _perimeter(said: str, _credential: Credential | None) -> str:
    if not _PERIMETER.search(said):
        return ""
    found = _IDENTIFIER.search(said)
    shown = f" (identifier {found[1]})" if found else ""
    return (
        f"a VPC Service Controls perimeter refuses this{shown}, and no role helps: have its administrator look that up in the audit log and "
        "let this machine's network or identity in by an ingress rule, or run the sensor inside of the perimeter"
    )


def _disabled(said: str, _credential: Credential | None) -> str:
    if not _DISABLED.search(said):
        return ""
    found = _PROJECT[0].search(said) or _PROJECT[1].search(said)
    project = f" --project={found[1].rstrip('.')}" if found else ""
    return f"enable the API: gcloud services enable artifactregistry.googleapis.com{project}"


def _scopes(said: str, credential: Credential | None) -> str:
    if _SCOPES.search(said):
        return NARROW_SCOPES
    narrow = isinstance(credential, IdentityToken) and credential.principal.too_narrow
    return NARROW_SCOPES if narrow else ""


def _grant(said: str, credential: Credential) -> str:
    found = _RESOURCE.search(said)
    where = f"on {found[1]}" if found else "on the repository"
    principal = credential.principal if isinstance(credential, IdentityToken) else key_principal(credential)
    whom = f" to {principal.name}" if principal is not None and principal.name else ""
    return (
        f"grant {ROLE}{whom} {where}, or on the project so that all its repositories can be listed; or check the name: Google says the same "
        "of a repository that does not exist"
    )


def _login_advice(credential: Credential) -> str:
    if isinstance(credential, IdentityToken):
        return "the registry refuses a new token of this identity: check that the service account is not disabled or deleted"
    if isinstance(credential, Basic):
        return "check that the key is whole, and that it was not deleted or disabled: gcloud iam service-accounts keys list"
    return (
        "the access token has probably expired: such tokens hold for an hour and are for tests; let the sensor get its own with "
        "gcp.credentials or auth: gcp"
    )
