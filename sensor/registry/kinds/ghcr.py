"""GitHub's container registry: ghcr.io, those of data residency, and GitHub Enterprise Server. Listing is `ghcr_api`'s.

The first component of a name is a user or an organisation, in lower case. The user name of a login is ignored; what counts is the token:
only a classic personal access token reaches private packages for good.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlsplit

from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    UNAUTHENTICATED,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    error_codes,
)
from sensor.registry.kinds.ghcr_api import GhcrApi
from sensor.registry.kinds.github_app import USERNAME, GithubApp
from sensor.registry.kinds.kind import (
    Connection,
    Detection,
    Opening,
    RegistryKind,
    configured,
    host_of,
    namespaced_address,
)
from sensor.registry.login import Answer, Credential, StaticToken
from sensor.registry.native import Native, wanted_namespaces
from sensor.registry.port import Method
from sensor.registry.quirks import Quirks
from sensor.registry.terms import Address, CredentialSource, Refusal
from sensor.transport import Transport

_RESIDENCY = re.compile(r"containers\.(?P<enterprise>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.ghe\.com")
_DURATION = re.compile(r"retry-after:\s*((?:\d+(?:\.\d+)?(?:h|ms|us|µs|μs|ns|m|s))+)")
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|μs|ns|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_RIGHT = (
    "use a personal access token (classic) with the scope read:packages, authorised for the organisation's single sign-on where it has "
    "that, of somebody who may read the package (its settings, Manage access), or who may read the repository that it is linked to; "
    "a package that does not exist looks the same"
)
_PERSONAL = "use a personal access token (classic) with the scope read:packages"
_INSTALLATION = (
    f"GitHub's registry does not give private packages to an installation token of a GitHub App: {_PERSONAL}"
)


def detect(url: str) -> Detection | None:
    """By the host alone; a path is the owner. GitHub Enterprise Server has no host name of its own."""
    host = host_of(url)
    residency = _RESIDENCY.fullmatch(host)
    if host != "ghcr.io" and residency is None:
        return None
    facts = {"enterprise": residency["enterprise"]} if residency else {}
    path = urlsplit(url if "://" in url else f"//{url}").path.strip("/").lower()
    if path and path != "v2":
        facts["owner"] = path.partition("/")[0]
    return Detection(reason=f"{host} is a container registry of GitHub", facts=facts)


def address(opening: Opening) -> Address:
    """The registry at the root of its host, with the owner as namespace, in lower case as references must write it.

    Raises:
        ConfigError: the URL is unusable.
    """
    found = namespaced_address(opening)
    return replace(found, namespace=found.namespace.lower())


def api_base(settings: Settings, host: str) -> str:
    """The URL of GitHub's API that belongs to a registry; empty where it cannot be known."""
    if settings.api.url:
        return settings.api.url
    host = host.removesuffix(":443")
    if host == "ghcr.io":
        return "https://api.github.com"
    residency = _RESIDENCY.fullmatch(host)
    return f"https://api.{residency['enterprise']}.ghe.com" if residency else ""


def credentials(opening: Opening, transport: Transport) -> CredentialSource:
    """The configured credential, or tokens of a GitHub App.

    Raises:
        ConfigError: an App, but it is not known which API issues its tokens.
    """
    settings = opening.settings
    if settings.github_app is None or settings.auth == "anonymous":
        return configured(opening)
    found = address(opening)
    base = api_base(settings, found.host)
    if not base:
        message = f"registry {settings.name}: the address of GitHub's API does not follow from {settings.url}"
        raise ConfigError(message, "set api.url, for example https://github.example.com/api/v3")
    owner = next(iter(wanted_namespaces(settings, found.namespace)), "").partition("/")[0]
    return GithubApp(settings.github_app, base, transport, owner=owner, insecure=settings.insecure)


def method(settings: Settings, credential: Credential | None) -> Method:
    """Which way of logging in, by the beginning of the token."""
    if credential is None:
        return Method(name="anonymous", lists=False)
    if isinstance(credential, StaticToken):
        complaint = "GitHub's registry takes no token as it is: configure it as password, with any user name"
        return Method(name="bearer token", pulls=False, complaint=complaint)
    secret = credential.password.reveal()
    if secret.startswith("ghs_") and settings.github_app is not None:
        return Method(name="GitHub App", pulls=False)
    if secret.startswith("ghs_"):
        complaint = f"this is a GITHUB_TOKEN or an installation token, which ends within hours: {_PERSONAL}"
        return Method(name="installation token", pulls=False, complaint=complaint)
    if secret.startswith("github_pat_"):
        complaint = f"this is a fine-grained token, which GitHub's packages do not take: {_PERSONAL}"
        return Method(name="fine-grained personal access token", pulls=False, lists=False, complaint=complaint)
    if secret.startswith("ghp_") or re.fullmatch(r"[0-9a-f]{40}", secret):
        return Method(name="personal access token (classic)")
    if secret.startswith(("gho_", "ghu_")):
        return Method(name="OAuth token")
    complaint = f"this is no token of GitHub's; the password of an account is never accepted: {_PERSONAL}"
    return Method(name="password", pulls=False, lists=False, complaint=complaint)


def may_be_throttled(answer: Answer) -> bool:
    """Whether the token service's refusal may be a limit: then, too, it says just `denied`."""
    return answer.status in {401, 403} and b"denied" in answer.body and b"requested access" not in answer.body


def explain(refusal: Refusal) -> RegistryError:
    """GitHub's words. The token service answers 403 to a wrong token and to a missing right; only the text differs."""
    error, credential = refusal.error, refusal.credential
    body = refusal.answer.body if refusal.answer is not None else b""
    installation = credential is not None and _is_installation(credential)
    if isinstance(error, RegistryRateLimited):
        return RegistryRateLimited(error.message, error.advice, retry_after=pause_in(body) or error.retry_after)
    if isinstance(error, RegistryUnauthorized) and credential is None:
        return RegistryUnauthorized(
            error.message, f"it is private or does not exist; configure a credential: {_PERSONAL}"
        )
    if isinstance(error, RegistryUnauthorized) and "requested access" in error.message:
        message = error.message.removeprefix(f"{AUTHENTICATION_FAILED}: ").removeprefix(f"{UNAUTHENTICATED}: ")
        what = f"no right for {refusal.scope}: {message}" if refusal.scope else message
        return RegistryForbidden(what, f"{_INSTALLATION}; {_RIGHT}" if installation else _RIGHT)
    if isinstance(error, RegistryUnauthorized):
        advice = "the token is wrong, was revoked, or has expired; it must be a personal access token (classic) with read:packages"
        return RegistryUnauthorized(error.message, advice)
    if isinstance(error, RegistryForbidden):
        return RegistryForbidden(error.message, f"{_INSTALLATION}; {_RIGHT}" if installation else _RIGHT)
    if isinstance(error, RegistryNotFound) and "NAME_UNKNOWN" in error_codes(body):
        return RegistryNotFound(
            error.message, f"there is no such package, or it is hidden from this credential: {_RIGHT}"
        )
    return error


def _is_installation(credential: Credential) -> bool:
    return not isinstance(credential, StaticToken) and (
        credential.password.reveal().startswith("ghs_") or credential.username == USERNAME
    )


def pause_in(body: bytes) -> float | None:
    """Seconds of the pause that the registry asks for in a body such as `retry-after: 880.092µs, allowed: 44000/minute`, at least one."""
    found = _DURATION.search(body[:4096].decode("utf-8", "replace"))
    if found is None:
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(found[1]))
    return min(max(seconds, 1.0), 900.0)


def native(connection: Connection) -> Native:
    """GitHub's API for packages."""
    return GhcrApi(connection, api_base(connection.settings, connection.address.host))


GHCR = RegistryKind(
    name="ghcr",
    title="GitHub Container Registry",
    detect=detect,
    credentials=credentials,
    method=method,
    uses=frozenset({"github_app", "api"}),
    web_sites={"github.com": "ghcr.io"},
    address=address,
    explain=explain,
    doubtful=may_be_throttled,
    quirks=Quirks(catalog=False, tags_page=10_000),
    native=native,
)
