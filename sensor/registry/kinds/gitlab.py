"""GitLab's container registry, on gitlab.com, Dedicated or one's own host: addresses, tokens of five sorts, and words.

The registry's token service is GitLab itself and often another host than the registry's. It may have the login where the provider is known
(gitlab.com, Dedicated), where `api.url` names it, or where `trusted_realms` does. It answers 200 without a right: what the token lacks
shows as a 401 of the registry. Listing is `gitlab_native`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.pacing import Rate
from sensor.registry.challenge import parse_challenges
from sensor.registry.errors import RegistryForbidden, RegistryNotFound, RegistryUnauthorized, UnexpectedAnswer
from sensor.registry.kinds.gitlab_api import SAAS_REGISTRY, TOKEN_PATH, Kind, is_bot, kind_of
from sensor.registry.kinds.gitlab_native import GitlabNative
from sensor.registry.kinds.kind import (
    Detection,
    Opening,
    RegistryKind,
    configured,
    has_configured,
    host_of,
    namespaced_address,
    open_over_http,
)
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.port import Method, Registry
from sensor.registry.terms import Address, CredentialSource, Refusal, missing_credential
from sensor.transport import Reply, Transport

_WEB_HOSTS = frozenset({"gitlab.com", "www.gitlab.com"})
_DEDICATED = re.compile(r"registry\.(?P<tenant>[a-z0-9-]+)\.gitlab-dedicated\.com")
_PORT = 5050
_ASKED_FOR_TOKEN = re.compile(rf"{TOKEN_PATH}: status (?P<status>\d{{3}})")
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
_TITLES: Mapping[Kind, str] = {
    "access": "access token (personal, project or group)",
    "deploy": "deploy token",
    "job": "CI job token",
    "oauth": "OAuth token",
    "password": "user name and password",
}
_WRONG: Mapping[Kind, str] = {
    "access": "check that the access token has the scope read_registry and has neither expired nor been revoked",
    "deploy": "check that the user name is the deploy token's own (gitlab+deploy-token-<n>, unless another was chosen), that its scope is "
    "read_registry and that it has neither expired nor been revoked",
    "job": "the job that it belongs to is over",
    "oauth": "get a new OAuth token: it ends after two hours",
    "password": "check user name and password; with two-factor login or single sign-on GitLab takes only tokens: "
    "use an access token with the scope read_registry",
}
_BANNED = "after 300 failed logins in a minute GitLab.com refuses an address for 15 minutes"


def detect(url: str) -> Detection | None:
    """gitlab.com and what lies below it, Dedicated, and port 5050, which GitLab's own packages choose for the registry."""
    host = host_of(url)
    facts = {"namespace": path} if (path := _path_of(url)) else {}
    if host in _WEB_HOSTS or host.endswith(".gitlab.com"):
        return Detection(reason="a host of gitlab.com", facts={"gitlab": "https://gitlab.com", **facts})
    if found := _DEDICATED.fullmatch(host):
        there = {"gitlab": f"https://{found['tenant']}.gitlab-dedicated.com"}
        return Detection(reason="a host of GitLab Dedicated", facts={**there, **facts})
    if host and _port_of(url) == _PORT:
        return Detection(reason="port 5050, on which GitLab has its registry by default", facts=facts)
    return None


def _path_of(url: str) -> str:
    """The group or project in a URL: what a page of the web interface adds to it (`/-/container_registry`) is left out."""
    try:
        path = urlsplit(url if "://" in url else f"//{url}").path
    except ValueError:
        return ""
    return _own_path(path)


def _own_path(path: str) -> str:
    return path.partition("/-/")[0].strip("/").removesuffix("/v2") if path.strip("/") != "v2" else ""


def _port_of(url: str) -> int | None:
    try:
        return urlsplit(url if "://" in url else f"//{url}").port
    except ValueError:
        return None


def recognise(reply: Reply) -> str | None:
    """By the challenge: a token service of GitLab's own, under the name that GitLab gives to its registry."""
    for challenge in parse_challenges(reply.header_lists.get("www-authenticate", ())):
        path = challenge["realm"].partition("?")[0]
        if path.endswith(TOKEN_PATH) and challenge["service"] == "container_registry":
            return f"its token service is GitLab's ({TOKEN_PATH})"
    return None


def address(opening: Opening) -> Address:
    """The registry's address; a path is the group or project, in small letters as images have it. gitlab.com stands for its registry.

    Raises:
        ConfigError: unusable.
    """
    found = namespaced_address(opening)
    host = SAAS_REGISTRY if found.host.lower() in _WEB_HOSTS else found.host
    return replace(found, host=host, namespace=_own_path(f"/{found.namespace}").lower())


class WithName:
    """The configured credential. GitLab's token service takes every token as a password, so a `token` gets a user name."""

    def __init__(self, source: CredentialSource, settings: Settings) -> None:
        self._source = source
        self._user = settings.username

    @property
    def missing(self) -> str:
        """Why there is none."""
        return missing_credential(self._source)

    async def credential(self, *, renew: bool) -> Credential | None:
        """The credential. Raises SecretError when it cannot be read."""
        given = await self._source.credential(renew=renew)
        if not isinstance(given, StaticToken) or _JWT.fullmatch(given.token.reveal()):
            return given
        job = given.token.reveal().startswith("glcbt-")
        return Basic(username=self._user or ("gitlab-ci-token" if job else "oauth2"), password=given.token)


def _credentials(opening: Opening, _transport: Transport) -> CredentialSource:
    return WithName(configured(opening), opening.settings)


def method(settings: Settings, credential: Credential | None) -> Method:
    """By the prefix of the secret, else by the user name."""
    if credential is None:
        return Method(name="anonymous")
    if isinstance(credential, StaticToken):
        complaint = "this is a token of the registry itself, which ends after 5 to 15 minutes: use an access token"
        return Method(name="registry token", lists=_has_api_token(settings), complaint=complaint)
    kind = kind_of(credential)
    lists = kind in {"access", "oauth", "password"} or _has_api_token(settings)
    return Method(name=_TITLES[kind], lists=lists, complaint=_complaint(kind, credential.username))


def _has_api_token(settings: Settings) -> bool:
    return settings.api.token is not None or settings.api.password is not None


def _complaint(kind: Kind, user: str) -> str:
    if kind == "job" and user != "gitlab-ci-token":
        return "the user name that goes with a CI job token is gitlab-ci-token"
    if kind == "job":
        return "a CI job token ends with its job and lists nothing: use a group or project access token"
    if kind == "deploy" and (not user or is_bot(user) or user in {"gitlab-ci-token", "oauth2"}):
        return "a deploy token goes with its own user name: gitlab+deploy-token-<n>, unless another was chosen"
    if kind in {"access", "oauth"} and user.startswith("gitlab+deploy-token-"):
        return "this is the user name of a deploy token, but the secret is not one"
    if not user:
        return "GitLab wants a user name beside the token: your own, or that of the token's bot"
    if kind == "oauth" and user != "oauth2":
        return "the user name that goes with an OAuth token is oauth2"
    return ""


def explain(refusal: Refusal) -> RegistryError:
    """GitLab's error matrix: what the token service says, and what a 401 of the registry means after it has given a token."""
    error, credential = refusal.error, refusal.credential
    if found := _ASKED_FOR_TOKEN.search(error.message):
        return _explain_token_service(error, found["status"], credential)
    if isinstance(error, RegistryForbidden) and refusal.scope.startswith("registry:"):
        advice = "only administrators of GitLab may list its whole catalogue; groups and projects are listed by the API"
        return RegistryForbidden(error.message, advice)
    if isinstance(error, RegistryForbidden):
        project = "the project, which GitLab calls by the first parts of that path"
        advice = (
            "GitLab does not say whether there is no such project or no right for it: give the token the scope read_registry and its owner "
            f"the role Reporter in {project}"
        )
        return RegistryForbidden(error.message, advice)
    if isinstance(error, RegistryUnauthorized) and credential is None:
        advice = "without a login only public projects with a public registry can be read: configure a token with the scope read_registry"
        return RegistryUnauthorized(error.message, advice)
    if isinstance(error, RegistryUnauthorized) and "trusted_realms" in error.advice:
        advice = "if that is your GitLab, set api.url to its address, or name its host in trusted_realms"
        return RegistryUnauthorized(error.message, advice)
    return error


def _explain_token_service(error: RegistryError, status: str, credential: Credential | None) -> RegistryError:
    if isinstance(error, RegistryNotFound):
        advice = (
            "the container registry is switched off in this GitLab or for this project: switch it on, or exclude it"
        )
        return RegistryForbidden(error.message, advice)
    if isinstance(error, UnexpectedAnswer) and status.startswith("3"):
        advice = (
            "GitLab's token service redirects, which loses the login: set external_url and the registry's token_realm in gitlab.rb to the "
            "address with https://"
        )
        return UnexpectedAnswer(error.message, advice)
    if not isinstance(error, RegistryUnauthorized):
        return error
    if not isinstance(credential, Basic):
        advice = "GitLab gives no token without a login here: configure one with the scope read_registry, or name public projects"
        return RegistryUnauthorized(error.message, advice)
    wrong = _WRONG[kind_of(credential)]
    if status == "403":
        wrong += (
            "; GitLab also answers so where a proxy redirects from http to https and so loses the login (use the https address), and "
            f"{_BANNED}"
        )
    elif status == "401":
        wrong += f"; {_BANNED}"
    return RegistryUnauthorized(error.message, wrong)


def rates(settings: Settings) -> Mapping[str, Rate]:
    """What GitLab.com allows an address, less what others behind it need: 2,000 requests a minute, 500 without a login."""
    host = host_of(settings.url)
    if host != SAAS_REGISTRY and host not in _WEB_HOSTS:
        return {}
    return {
        "gitlab.com": Rate(per_second=25.0, burst=50) if has_configured(settings) else Rate(per_second=6.0, burst=20)
    }


def _open(kind: RegistryKind, opening: Opening) -> Registry:
    """Its token service is where the provider is known to have it, or where the configuration says that GitLab is."""
    host = host_of(kind.address(opening).host)
    realms: tuple[str, ...] = ()
    if host == SAAS_REGISTRY:
        realms = ("gitlab.com",)
    elif found := _DEDICATED.fullmatch(host):
        realms = (f"{found['tenant']}.gitlab-dedicated.com",)
    if opening.settings.api.url:
        realms = (*realms, urlsplit(opening.settings.api.url).netloc.rpartition("@")[2])
    return open_over_http(replace(kind, realms=realms), opening)


GITLAB = RegistryKind(
    name="gitlab",
    title="GitLab",
    detect=detect,
    recognise=recognise,
    credentials=_credentials,
    method=method,
    uses=frozenset({"api"}),
    address=address,
    explain=explain,
    rates=rates,
    native=GitlabNative,
    open=_open,
)
