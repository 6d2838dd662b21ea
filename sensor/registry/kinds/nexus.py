"""Sonatype Nexus Repository 3: hosted, proxy and group repositories, by connector port, host name, path-based routing or repository URL.

    host:8082                        a connector serves one repository: names are images
    host[/context]/repository/<repo> the same on the main port, without a connector; docker clients cannot use it, the sensor can
    host/<repo>                      path-based routing (3.83 and later): names begin with the repository

Basic is sent straight away: `/v2/` of a host with path-based routing belongs to some repository or other, whose tokens are refused
elsewhere, and realms have been seen with a doubled port. Listing is `nexus_api`'s; here are addresses, credentials and words.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    NotARegistry,
    RegistryForbidden,
    RegistryUnauthorized,
    RegistryUnavailable,
    error_codes,
)
from sensor.registry.kinds.gathered import same_path
from sensor.registry.kinds.kind import Opening, RegistryKind, open_over_http
from sensor.registry.kinds.nexus_api import REPOSITORY_PATH, Layout, NexusApi
from sensor.registry.login import Basic, Credential
from sensor.registry.port import Method, Registry
from sensor.registry.quirks import Quirks
from sensor.registry.terms import Address, Refusal, parse_address
from sensor.transport import Reply

_NAME_CODE = re.compile(r"[A-Za-z0-9_-]{8}")
_PASS_CODE = re.compile(r"[A-Za-z0-9_-]{44}")


def recognise(reply: Reply) -> str | None:
    """By the Server header or the realm; no address tells."""
    server = reply.headers.get("server", "")
    if server.startswith("Nexus/"):
        return "the server calls itself Nexus"
    if "sonatype nexus" in reply.headers.get("www-authenticate", "").lower():
        return "the realm is that of Sonatype Nexus"
    return None


def address(opening: Opening) -> Address:
    """The URL of one repository as the base, else the root of the host with the path as namespace.

    Raises:
        ConfigError: unusable, or a page or the API of Nexus.
    """
    found = parse_address(opening.settings.url)
    path = found.path.strip("/")
    if own := REPOSITORY_PATH.fullmatch(path):
        return replace(found, path=f"/{own['base']}", namespace=own["rest"] or "")
    if path.startswith("service/") or "/service/rest" in path:
        message = f"registry {opening.settings.name}: {opening.settings.url!r} is the address of Nexus' REST API"
        raise ConfigError(
            message, "use host:<connector port> or host/repository/<name> as url; the REST API is api.url"
        )
    return replace(found, path="", namespace=path)


def method(_settings: Settings, credential: Credential | None) -> Method:
    """A login, or a user token, by its looks."""
    if credential is None:
        return Method(name="anonymous")
    if not isinstance(credential, Basic):
        complaint = "Nexus has no bearer tokens of its own: use username and password, or a user token's name code and pass code"
        return Method(name="bearer token", complaint=complaint)
    if not credential.username:
        return Method(
            name="user name and password", complaint="the user name is missing: a login, or a user token's name code"
        )
    if _NAME_CODE.fullmatch(credential.username) and _PASS_CODE.fullmatch(credential.password.reveal()):
        return Method(name="user token")
    return Method(name="user name and password")


def explain(layout: Layout, refusal: Refusal) -> RegistryError:
    """Nexus' errors, and the privilege or setting behind them."""
    error = refusal.error
    denied = refusal.answer is not None and "DENIED" in error_codes(refusal.answer.body)
    match error:
        case NotARegistry():
            return NotARegistry(
                error.message,
                "this may be the web port: use the repository's connector port, host/repository/<name>, or host/<name> where path-based "
                "routing is switched on",
            )
        case RegistryUnauthorized() if denied and refusal.credential is not None:
            return RegistryForbidden(error.message, layout.privileges(_repository_of(refusal.scope)))
        case RegistryForbidden():
            return RegistryForbidden(error.message, layout.privileges(_repository_of(refusal.scope)))
        case RegistryUnauthorized() if AUTHENTICATION_FAILED in error.message:
            return RegistryUnauthorized(
                error.message,
                "check user name and password; where passwords are switched off in favour of user tokens, use name code and pass code, and "
                "whether the token has expired; with path-based routing, whether it is switched on for this repository",
            )
        case RegistryUnauthorized():
            return RegistryUnauthorized(
                error.message,
                "configure username and password, or for anonymous pulls: the Docker Bearer Token Realm, `Allow anonymous docker pull` of the "
                f"repository, anonymous access with the user `anonymous`, and {layout.privileges(_repository_of(refusal.scope))}",
            )
        case RegistryUnavailable():
            return RegistryUnavailable(
                error.message,
                "Nexus is starting, is read-only, or its proxy is asked in the wrong scheme (http, https); repeated later",
                retry_after=error.retry_after,
            )
        case _:
            return error


def _repository_of(scope: str) -> str:
    """The name in `repository:team/app:pull`."""
    kind, _, rest = scope.partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


def _open(kind: RegistryKind, opening: Opening) -> Registry:
    layout = Layout(address(opening), opening.settings)
    words = partial(explain, layout)
    exact = replace(
        kind,
        explain=words,
        native=lambda connection: NexusApi(connection, layout, kind.quirks, explain=words),
    )
    return open_over_http(exact, opening)


NEXUS = RegistryKind(
    name="nexus",
    title="Sonatype Nexus",
    detect=lambda _url: None,
    recognise=recognise,
    method=method,
    uses=frozenset({"api"}),
    address=address,
    prefer_basic=True,
    # hosted repositories send everything at once when no n is sent; the links of the others name an internal path
    quirks=Quirks(catalog=False, catalog_page=0, tags_page=0, next_page=same_path),
    open=_open,
)
