"""Harbor 2.x: robot accounts of projects and of the system, users, and Harbor's words.

The credential is sent as Basic to the registry and to the API: the token service answers 200 to a wrong password where a scope is asked
for, with a token for what anybody may read. Listing is `harbor_native`'s.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.registry.challenge import parse_challenges
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    UNAUTHENTICATED,
    ImageWithheld,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
)
from sensor.registry.kinds.harbor_api import PERMISSIONS
from sensor.registry.kinds.harbor_native import HarborNative
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.port import Method
from sensor.registry.terms import Address, Refusal, parse_address
from sensor.transport import Reply

_PORTAL = frozenset({"harbor", "account", "api", "c", "devcenter-api-2.0", "service", "v2"})
"""What the path of a page of the web interface, or of an API, begins with; none of them is a project."""


def detect(url: str) -> Detection | None:
    """Only a page of the web interface that was pasted: a host's name says nothing about what runs there."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        hostname = parts.hostname
    except ValueError:
        return None
    if hostname and parts.scheme in {"", "http", "https"} and f"{parts.path}/".startswith("/harbor/projects/"):
        return Detection(reason="the address of a page of Harbor's web interface")
    return None


def recognise(reply: Reply) -> str | None:
    """By the challenge: Harbor's token service, under the name that Harbor gives to its registry."""
    for challenge in parse_challenges(reply.header_lists.get("www-authenticate", ())):
        if challenge["service"] == "harbor-registry" and challenge["realm"].endswith("/service/token"):
            return "its token service is Harbor's (harbor-registry)"
    return None


def address(opening: Opening) -> Address:
    """Scheme and host; a path is a project, unless it is that of a page of the web interface.

    Raises:
        ConfigError: unusable.
    """
    # a pasted page may carry a query or a fragment, which nothing else does
    found = parse_address(opening.settings.url.partition("#")[0].partition("?")[0])
    path = found.path.strip("/")
    namespace = "" if path.partition("/")[0] in _PORTAL else path
    return Address(host=found.host, scheme=found.scheme, namespace=namespace)


def method(_settings: Settings, credential: Credential | None) -> Method:
    """By the user name: robots' names hold a dollar sign or a plus, unless their prefix was configured otherwise."""
    if credential is None:
        return Method(name="anonymous")
    if isinstance(credential, StaticToken):
        complaint = "Harbor wants a user name and its secret, not a bearer token: use the keys username and password"
        return Method(name="bearer token", complaint=complaint)
    user = credential.username
    if "+" in user:
        name = "project robot account"
    elif "$" in user or user == "robot":
        name = "system robot account"
    else:
        name = "user name with password or CLI secret"
    return Method(name=name, complaint=_complaint(user))


def _complaint(user: str) -> str:
    if not user:
        return "Harbor wants a user name beside the secret: the robot account's full name, robot$<project>+<name>"
    if "$$" in user:
        return "the dollar sign in the robot account's name is doubled, as compose files want it and nothing else does"
    if user == "robot" or user.startswith("robot+"):
        return "a shell or compose file has swallowed what follows the dollar sign: quote the robot account's name"
    if user != user.strip() or user[0] in "'\"":
        return "there are spaces or quotes around the user name"
    return ""


def explain(refusal: Refusal) -> RegistryError:
    """Harbor's error matrix. Its registry has no 403: a 401 says that there is no such project, no right, or a wrong secret."""
    error, credential, scope = refusal.error, refusal.credential, refusal.scope
    if isinstance(error, ImageWithheld):
        advice = (
            "the project blocks pulling images that are vulnerable, not yet scanned, or not signed; "
            "lift that rule, or allow the vulnerability there: Harbor exempts no robot account but its own scanners'"
        )
        return ImageWithheld(error.message, advice)
    if not isinstance(error, (RegistryUnauthorized, RegistryForbidden)):
        return error
    what = error.message.removeprefix(f"{AUTHENTICATION_FAILED}: ").removeprefix(f"{UNAUTHENTICATED}: ")
    kind, _, rest = scope.partition(":")
    project = rest.partition("/")[0]
    if kind == "repository" and _has_empty_challenge(refusal):
        return RegistryNotFound(f"Harbor has no project {project}: {what}", "check the name; it may have been deleted")
    if credential is None:
        advice = f"only public projects can be read without a login: configure a robot account with the permissions {PERMISSIONS}"
        return type(error)(error.message, advice)
    if kind == "registry":
        advice = "only administrators, and system robots with the permission catalog: read, may list the catalogue"
        return RegistryForbidden(what, advice)
    if kind == "repository":
        advice = f"give the robot account the permission repository: pull in project {project} (a sensor needs {PERMISSIONS})"
        return RegistryForbidden(f"no right for {scope}: {what.removeprefix(f'no right for {scope}: ')}", advice)
    return RegistryUnauthorized(error.message, _login_advice(credential))


def _login_advice(credential: Credential) -> str:
    user = credential.username if isinstance(credential, Basic) else ""
    if "$" not in user and "+" not in user:
        return "check user name and password; for a user of single sign-on the password is the CLI secret of the user's profile"
    advice = "the robot account's name or secret is wrong, or it has expired or was disabled: Harbor does not say which"
    if "$" not in user:
        advice += (
            "; give its full name as Harbor shows it, which begins with robot$ unless that was configured otherwise"
        )
    return advice


def _has_empty_challenge(refusal: Refusal) -> bool:
    """Harbor's way to say that a project does not exist."""
    values = refusal.answer.header_lists.get("www-authenticate") if refusal.answer is not None else None
    return values is not None and not any(value.strip() for value in values)


HARBOR = RegistryKind(
    name="harbor",
    title="Harbor",
    detect=detect,
    recognise=recognise,
    method=method,
    uses=frozenset({"api"}),
    address=address,
    prefer_basic=True,
    explain=explain,
    native=HarborNative,
)
