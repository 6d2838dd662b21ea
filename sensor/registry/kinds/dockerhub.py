"""Docker Hub: which hosts it is, who logs in there and how, and what its refusals mean. Its API is `dockerhub_api`'s.

Images are pulled from registry-1.docker.io, tokens come from auth.docker.io, and references say docker.io; a name of one component means
library/<name>. Every GET of a manifest is a pull and counts, a HEAD does not: looking for changes costs nothing of the quota.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.registry.errors import (
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    error_codes,
)
from sensor.registry.kinds.dockerhub_api import HubApi, full_name
from sensor.registry.kinds.kind import Connection, Detection, Opening, RegistryKind, host_of, namespaced_address
from sensor.registry.login import Credential, StaticToken
from sensor.registry.native import Native
from sensor.registry.port import Method
from sensor.registry.quirks import Quirks
from sensor.registry.terms import Address, Refusal

HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_SERVING = "registry-1.docker.io"
_NAMED = "docker.io"
_API = "https://hub.docker.com"
_RIGHT = (
    "the repository does not exist, or this login has no right to read it: give the account, or the organisation access token, "
    "read permission on it; a personal access token needs the scope repo:read (Read-only), not only public repositories"
)
_LOGIN = (
    "check the Docker ID (for an organisation access token: the organisation's name) and the token, and whether it was revoked "
    "or has expired; a password is refused where single sign-on or two-factor login is on"
)


def is_hub(url: str) -> bool:
    """Whether a URL's host, at its usual port, is one of Docker Hub's. Takes any text."""
    try:
        port = urlsplit(url if "://" in url else f"//{url}").port
    except ValueError:
        return False
    return host_of(url) in HOSTS and port in {None, 443}


def detect(url: str) -> Detection | None:
    """By the host alone; a path is the namespace."""
    if not is_hub(url):
        return None
    facts: Mapping[str, str] = {}
    if namespace := _namespace(urlsplit(url if "://" in url else f"//{url}").path):
        facts = {"namespace": namespace}
    return Detection(reason=f"{host_of(url)} is a host of Docker Hub", facts=facts)


def address(opening: Opening) -> Address:
    """Where Docker Hub serves images, whichever of its hosts was named; of another host (a mirror) the address as it is.

    Raises:
        ConfigError: the URL is unusable.
    """
    found = namespaced_address(opening)
    if not is_hub(found.host):
        return found
    return replace(found, host=_SERVING, named=_NAMED, namespace=_namespace(found.namespace))


def _namespace(path: str) -> str:
    """The namespace in a URL's path. Docker's own configuration writes `https://index.docker.io/v1/`, which names none."""
    path = path.strip("/").lower()
    return "" if re.fullmatch(r"v[12]", path) else path.removesuffix("/v2")


def method(_settings: Settings, credential: Credential | None) -> Method:
    """Which way of logging in, by the beginning of the secret."""
    if credential is None:
        return Method(name="anonymous")
    if isinstance(credential, StaticToken):
        complaint = (
            "Docker Hub takes no bearer token from a configuration: an access token is a password, with a user name"
        )
        return Method(name="bearer token", lists=False, complaint=complaint)
    secret = credential.password.reveal()
    if secret.startswith("dckr_oat_"):
        name, owner = "organisation access token", "the organisation's name"
    elif secret.startswith("dckr_pat_"):
        name, owner = "personal access token", "the Docker ID"
    else:
        name, owner = "password", "the Docker ID"
    complaint = ""
    if not credential.username:
        complaint = f"a user name is missing: {owner}"
    elif "@" in credential.username:
        complaint = f"the user name looks like an e-mail address; Docker Hub wants {owner}"
    elif name == "password":
        complaint = "this looks like a password, which fails where single sign-on or two-factor login is on; use an access token"
    return Method(name=name, complaint=complaint)


def explain(refusal: Refusal) -> RegistryError:
    """Docker Hub's words: which limit, which login, which right."""
    error = refusal.error
    body = refusal.answer.body if refusal.answer is not None else b""
    if isinstance(error, RegistryRateLimited):
        return _limited(error, body, anonymous=refusal.credential is None)
    if isinstance(error, RegistryUnauthorized) and refusal.credential is None:
        advice = "it is private or does not exist; configure username and a personal access token as password"
        return RegistryUnauthorized(error.message, advice)
    if isinstance(error, RegistryUnauthorized):
        return RegistryUnauthorized(error.message, _LOGIN)
    if isinstance(error, RegistryForbidden):
        managed = "access management of the organisation (Image or Registry Access Management) may refuse it, too"
        by_policy = refusal.answer is not None and refusal.answer.status == 403
        return RegistryForbidden(error.message, f"{_RIGHT}; {managed}" if by_policy else _RIGHT)
    if isinstance(error, RegistryNotFound) and "MANIFEST_UNKNOWN" in error_codes(body):
        return RegistryNotFound(
            error.message, "there is no such tag or digest (any more); the repository itself can be read"
        )
    return error


def _limited(error: RegistryRateLimited, body: bytes, *, anonymous: bool) -> RegistryRateLimited:
    """The pull quota and the limit against abuse are both a 429; only the body differs."""
    if "TOOMANYREQUESTS" in error_codes(body):
        advice = "the pull quota of six hours is used up; it comes back by itself, and HEAD requests for changes go on meanwhile"
        if anonymous:
            advice += (
                "; log in: without a login all clients behind one address share 100 pulls, an account has 200 or more"
            )
    else:
        advice = (
            "too many requests from this address within a minute, not only from this sensor; they are repeated later"
        )
    return RegistryRateLimited(error.message, advice, retry_after=error.retry_after)


def native(connection: Connection) -> Native:
    """Its API; a mirror's own credential is not for it, so there the API is used only when it is named."""
    base = connection.settings.api.url or (_API if connection.address.named == _NAMED else "")
    return HubApi(connection, base)


DOCKERHUB = RegistryKind(
    name="dockerhub",
    title="Docker Hub",
    detect=detect,
    uses=frozenset({"api"}),
    web_sites={"hub.docker.com": "docker.io"},
    address=address,
    method=method,
    realms=("auth.docker.io",),
    explain=explain,
    quirks=Quirks(catalog=False, counts_pulls=True, scope_name=full_name, path_name=full_name),
    native=native,
)
