"""Quay: quay.io and self-hosted. Robots see what they were given by `_catalog`; an OAuth token lists by the API, with digests.

Every request of a manifest, HEAD as well as GET, is a pull in Quay's log and counters; with an OAuth token looking for changes makes none.
The token service takes no scope but those of repositories, so the catalogue is asked for without one.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.pacing import Rate
from sensor.registry.challenge import parse_challenges
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    RegistryForbidden,
    RegistryUnauthorized,
    error_codes,
)
from sensor.registry.kinds.kind import Connection, Detection, RegistryKind, host_of, namespaced_address
from sensor.registry.kinds.quay_api import OAUTH, QuayApi
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.native import Native
from sensor.registry.port import Method
from sensor.registry.quirks import Quirks
from sensor.registry.terms import Refusal
from sensor.transport import Reply

_HOST = "quay.io"
_ROBOT = re.compile(r"[a-z0-9_][a-z0-9_.-]*\+[a-z0-9_.-]+", re.IGNORECASE)
_LISTING = Rate(per_second=4, burst=2)
"""quay.io allows five listings a second from an address, for all that ask from there."""
_API = Rate(per_second=4, burst=20)
"""And five requests of its API, after a burst of 25."""
_READ = (
    "give the robot (or its team, or the user) Read on the repository: Repository, Settings, User and Robot Permissions; "
    "a repository that does not exist looks the same"
)
_LOGIN = (
    "copy user name and token as Quay shows them; a robot is called organisation+name, an account with LDAP or single sign-on needs its "
    "encrypted password (Account Settings, CLI Password)"
)
_CATALOG = (
    "name the repositories in repositories.names, or give the robot Read on some; only those are in its catalogue"
)


def detect(url: str) -> Detection | None:
    """By the host alone; a path is the namespace. A self-hosted Quay has no host name of its own."""
    if host_of(url) != _HOST:
        return None
    path = urlsplit(url if "://" in url else f"//{url}").path.strip("/")
    facts = {"namespace": path.partition("/")[0]} if path and path != "v2" else {}
    return Detection(reason=f"the host is {_HOST}", facts=facts)


def recognise(reply: Reply) -> str | None:
    """Quay's token service is at /v2/auth of the same host, and its `/v2/` answers `true` instead of an object."""
    for challenge in parse_challenges(reply.header_lists.get("www-authenticate", ())):
        if challenge.scheme == "bearer" and urlsplit(challenge["realm"]).path == "/v2/auth":
            return "its token service is at /v2/auth"
    return "its /v2/ answers `true`" if reply.body.strip() == b"true" else None


def method(settings: Settings, credential: Credential | None) -> Method:
    """Which way of logging in this is; a bare token is none for the registry."""
    del settings
    if credential is None:
        return Method(name="anonymous")
    if isinstance(credential, StaticToken):
        hint = f"Quay's registry takes no bearer token as it is: set username: {OAUTH} and the token as password"
        return Method(name="bearer token", complaint=hint)
    name = credential.username
    if name == OAUTH:
        return Method(name="OAuth token")
    if name in {"$app", "$token"}:
        return Method(name="application-specific token" if name == "$app" else "access token")
    if _ROBOT.fullmatch(name):
        return Method(name="robot account")
    return Method(name="user name and password", complaint=_complaint(name))


def _complaint(name: str) -> str:
    if "/" in name:
        return "a robot is called organisation+name, with a plus and not a slash"
    if " " in name:
        return "a space stands where a robot has its plus: organisation+name"
    if name.lower() in {"oauthtoken", "app", "token"} or name in {"", "$"}:
        return f"the dollar sign is missing: {OAUTH} (a shell may have taken it; put the name in single quotes)"
    return ""


def explain(refusal: Refusal) -> RegistryError:
    """Quay's refusals: it hides what is private, and says 405 to what is no image or must not be served."""
    error, answer = refusal.error, refusal.answer
    codes = error_codes(answer.body) if answer is not None else frozenset()
    if answer is not None and answer.status == 405 and "UNSUPPORTED" in codes:
        return ImageWithheld(f"{error.message}; a repository of another kind than images", "exclude the repository")
    if answer is not None and answer.status == 405 and "DENIED" in codes:
        advice = "the namespace is disabled, or Quay is in read-only mode: ask its administrator"
        return RegistryForbidden(error.message, advice)
    if isinstance(error, CannotEnumerate):
        return CannotEnumerate(error.message, _CATALOG)
    if isinstance(error, RegistryForbidden):
        return RegistryForbidden(error.message, _READ)
    if isinstance(error, RegistryUnauthorized) and isinstance(refusal.credential, (Basic, StaticToken)):
        return RegistryUnauthorized(error.message, _LOGIN)
    return error


def listing_rate(settings: Settings) -> Rate | None:
    """The limit of quay.io; a self-hosted Quay has its own or none, and says 429."""
    return _LISTING if host_of(settings.url) == _HOST else None


def native(connection: Connection) -> Native:
    """The API, for those who may use it, at the pace that quay.io allows."""
    return QuayApi(connection, _API if host_of(connection.settings.url) == _HOST else None)


QUAY = RegistryKind(
    name="quay",
    title="Quay",
    detect=detect,
    recognise=recognise,
    method=method,
    uses=frozenset({"api"}),
    address=namespaced_address,
    explain=explain,
    quirks=Quirks(catalog_scope="", catalog_page=100, tags_page=100),
    listing_rate=listing_rate,
    native=native,
)
