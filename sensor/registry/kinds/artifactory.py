"""JFrog Artifactory, on jfrog.io or one's own host: several Docker or OCI repositories, each with a key, behind one host.

References name a repository by path (`host/<key>/team/app`), by host name (`<key>.host/team/app`) or by port; the direct address of its
API (`host/artifactory/api/docker/<key>`) is taken as well. Listing is `artifactory_api`'s; here are addresses, credentials and words.

Basic is sent straight away instead of asking for a token: every key has a token realm of its own, a wrong scope name is a 401 like any
other, and accounts are locked after a few of those. Artifactory takes Basic everywhere.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from urllib.parse import urlsplit

import msgspec

from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    UnexpectedAnswer,
)
from sensor.registry.kinds.artifactory_api import ArtifactoryApi, Layout, own_path
from sensor.registry.kinds.gathered import same_path
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind, host_of, open_over_http
from sensor.registry.login import Basic, Credential
from sensor.registry.port import Method, Registry, Standing
from sensor.registry.quirks import Quirks
from sensor.registry.terms import Address, Refusal, parse_address
from sensor.secret import Secret
from sensor.transport import Reply

_DIRECT = re.compile(r"(?P<base>(?:artifactory/)?api/(?:docker|oci)/(?P<key>[^/]+))(?:/v2)?(?:/(?P<rest>.+))?")
_REFERENCE_TOKEN = "cmVmdGtu"  # noqa: S105 - only how one begins
"""How a reference token begins: `reftkn:01:<expiry>:...` in base64."""
_SERVICE_SUBJECT = re.compile(r"jf[a-z]+@[0-9a-z]+(?:/.*)?")
_WRITING = frozenset("wdm*")
"""Actions of a token's artifact scope that change something: write, delete, manage, all."""


class _Claims(msgspec.Struct):
    sub: str = ""
    exp: float | None = None
    scp: str | list[str] = ""

    @property
    def user(self) -> str:
        """The user's name in the subject (`jfac@.../users/NAME`, or the bare name); empty where it names no user."""
        _, found, name = self.sub.partition("/users/")
        if found:
            return name
        return "" if _SERVICE_SUBJECT.fullmatch(self.sub) else self.sub

    @property
    def may_write(self) -> bool | None:
        """What the scopes tell about it: those of an administrator and of single artifacts do, users and groups do not."""
        scopes = self.scp.split() if isinstance(self.scp, str) else self.scp
        actions = [scope.rpartition(":")[2] for scope in scopes if scope.startswith("artifact:")]
        if "applied-permissions/admin" in scopes or any(_WRITING & set(action.split(",")) for action in actions):
            return True
        return False if scopes and len(actions) == len(scopes) else None


def detect(url: str) -> Detection | None:
    """A host below jfrog.io, or the address of a repository's own API anywhere."""
    host = host_of(url)
    path = _path_of(url)
    direct = _DIRECT.fullmatch(path)
    if re.fullmatch(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.jfrog\.io", host):
        facts = {"server": host.partition(".")[0]}
        key = direct["key"] if direct else own_path(path).partition("/")[0]
        reason = "a host of jfrog.io"
    elif host and direct and direct["base"].startswith("artifactory/"):
        facts, key, reason = {}, direct["key"], "the path is that of Artifactory's API"
    else:
        return None
    return Detection(reason=reason, facts={**facts, "repository": key} if key else facts)


def _path_of(url: str) -> str:
    try:
        return urlsplit(url if "://" in url else f"//{url}").path.strip("/")
    except ValueError:
        return ""


def recognise(reply: Reply) -> str | None:
    """By the headers that every answer has; the host's name need not tell."""
    for name in ("x-jfrog-version", "x-artifactory-id", "x-artifactory-node-id"):
        if name in reply.headers:
            return f"the answer has the header {name}"
    if reply.headers.get("server", "").startswith("Artifactory"):
        return "the server calls itself Artifactory"
    return None


def address(opening: Opening) -> Address:
    """The root of the host with the repository's key as namespace, or the address of one repository's API.

    Raises:
        ConfigError: unusable, or a page of the web interface.
    """
    found = parse_address(opening.settings.url)
    path = found.path.strip("/")
    if direct := _DIRECT.fullmatch(path):
        return replace(found, path=f"/{direct['base']}", namespace=direct["rest"] or "")
    if path.partition("/")[0] in {"ui", "webapp"}:
        message = f"registry {opening.settings.name}: {opening.settings.url!r} is a page of the web interface"
        raise ConfigError(message, "use the host alone, or host/<repository key>")
    return replace(found, path="", namespace=own_path(path))


def read_claims(secret: Secret) -> _Claims | None:
    """What an access token says about itself, unchecked; None for anything that is no JWT."""
    parts = secret.reveal().split(".")
    if len(parts) != 3 or not parts[0].startswith("eyJ"):
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None


def _reference_expiry(secret: Secret) -> float | None:
    """When a reference token ends (Unix time); None: never, or not told."""
    try:
        name, _, expiry, *_ = base64.b64decode(secret.reveal() + "==").decode("latin-1").split(":")
    except ValueError:
        return None
    return float(expiry) if name == "reftkn" and re.fullmatch(r"\d{10}", expiry) and int(expiry) else None


def _is_reference(secret: Secret) -> bool:
    return secret.reveal().startswith(_REFERENCE_TOKEN) or re.fullmatch(r"[A-Za-z0-9]{64}", secret.reveal()) is not None


def _expiry(secret: Secret) -> float | None:
    claims = read_claims(secret)
    return claims.exp if claims is not None else _reference_expiry(secret)


def method(_settings: Settings, credential: Credential | None) -> Method:
    """Which of Artifactory's credentials it is, by its looks."""
    if credential is None:
        return Method(name="anonymous")
    secret = credential.password if isinstance(credential, Basic) else credential.token
    username = credential.username if isinstance(credential, Basic) else None
    claims = read_claims(secret)
    ends = _expiry(secret)
    complaint = ""
    if ends is not None and ends < time.time():
        complaint = "this token has expired"
    elif username is not None and claims and claims.user and claims.user.lower() != username.lower():
        complaint = f"this access token belongs to {claims.user!r}: the user name must be that, not {username!r}"
    elif username == "":
        complaint = "the user name is missing: it is the login of the user whom the secret belongs to"
    if claims is not None:
        name = "access token"
    elif _is_reference(secret):
        name = "identity token (reference token)"
    elif secret.reveal().startswith("AKC"):
        name = "API key (deprecated)"
    else:
        name = "bearer token" if username is None else "user name and password"
    return Method(name=name, complaint=complaint)


def standing(credential: Credential | None) -> Standing:
    """Who the credential says it is, and until when. Nothing is asked."""
    if credential is None:
        return Standing()
    secret = credential.password if isinstance(credential, Basic) else credential.token
    claims = read_claims(secret)
    ends = _expiry(secret)
    identity = credential.username if isinstance(credential, Basic) else claims.user or claims.sub if claims else ""
    if claims is not None:
        return Standing(identity=identity, expires=ends, may_write=claims.may_write, detail="read from the token")
    return Standing(
        identity=identity, expires=ends, detail="read from the token" if ends else "Artifactory was not asked"
    )


def explain(refusal: Refusal) -> RegistryError:
    """Artifactory's errors, and the permission or setting behind them."""
    error = refusal.error
    said = error.message.lower()
    match error:
        case NotARegistry():
            advice = (
                "use the host alone, or host/<repository key>; not the address of the web interface or its context path"
            )
            return NotARegistry(error.message, advice)
        case UnexpectedAnswer() if "unsupported docker repository request" in said:
            return UnexpectedAnswer(
                error.message, "the repository key is missing in the URL: host/artifactory/api/docker/<key>"
            )
        case RegistryForbidden() if "xray" in said or "curation" in said or "blocking policy" in said:
            return ImageWithheld(
                error.message,
                "a policy of Xray or Curation blocks this image; exempt it or this user if it is to be scanned",
            )
        case RegistryForbidden():
            return RegistryForbidden(error.message, _grant(refusal))
        case RegistryUnauthorized() if AUTHENTICATION_FAILED in error.message:
            return RegistryUnauthorized(
                error.message,
                "check the secret, whether it has expired, and that the user name is the one it was issued to: the login of an identity "
                "token's user, the subject of an access token. Nothing is repeated, because accounts are locked after a few failures",
            )
        case RegistryUnauthorized():
            return RegistryUnauthorized(
                error.message, "configure username and an identity token, or allow anonymous access in Artifactory"
            )
        case RegistryNotFound():
            return RegistryNotFound(
                error.message,
                "it may have been deleted; if nothing of this repository is found, the repository key is missing in the URL (host/<key>), "
                "or this host serves one repository only and its key does not belong into the name",
            )
        case _:
            return error


def _grant(refusal: Refusal) -> str:
    _, _, rest = refusal.scope.partition(":")
    name = rest.rpartition(":")[0]
    where = f" that holds {name}" if name else ""
    return f"give this user, or a group of this token, the permission Read on the repository{where} (a virtual one: on its members too)"


def _open(kind: RegistryKind, opening: Opening) -> Registry:
    layout = Layout(address(opening), opening.settings)
    quirks = replace(kind.quirks, scope_name=layout.scope_name)
    exact = replace(
        kind,
        quirks=quirks,
        native=lambda connection: ArtifactoryApi(connection, layout, quirks, explain=explain, standing=standing),
    )
    return open_over_http(exact, opening)


ARTIFACTORY = RegistryKind(
    name="artifactory",
    title="JFrog Artifactory",
    detect=detect,
    recognise=recognise,
    method=method,
    uses=frozenset({"api"}),
    address=address,
    prefer_basic=True,
    explain=explain,
    quirks=Quirks(catalog=False, next_page=same_path),  # links lose the repository's key
    open=_open,
)
