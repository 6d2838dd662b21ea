"""GitHub's container registry and, on another origin, GitHub's REST API with its Apps.

The token service says 403 `denied` to a wrong token and `requested access to the resource is denied` to a missing right; installation
tokens log in, but private packages are refused to them.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.fakes.registries.provider import PAGE, Login, Mistake, ProviderFake, challenge, problem

USER, ORGANISATION, APP_ID, INSTALLATION = "Octo-Bot", "Team", "12345", 678
PAT, OAUTH, UNSCOPED, NO_SSO = "ghp_" + "a" * 36, "gho_" + "a" * 36, "ghp_" + "b" * 36, "ghp_" + "c" * 36
FINE, JOB = "github_pat_" + "a" * 40, "ghs_" + "j" * 36
SSO = "required; url=https://github.com/orgs/Team/sso?authorization_request=SECRET"


@functools.cache
def app_key(which: str) -> rsa.RSAPrivateKey:
    """The App's private key, or another one."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(which: str = "right") -> str:
    """A private key as GitHub gives it out."""
    key = app_key(which)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


class GhcrFake(ProviderFake):
    """`Team` is an organisation with an App; `Octo-Bot` a user with a package of its own, when `own_packages` says so."""

    kind = "ghcr"
    detected = {
        "ghcr.io": {},
        "https://ghcr.io": {},
        "https://GHCR.io/v2/": {},
        "ghcr.io/Acme": {"owner": "acme"},
        "https://containers.acme.ghe.com": {"enterprise": "acme"},
    }
    undetected = (
        "ghcr.io.example.com",
        "xghcr.io",
        "ghcr.io@example.com",
        "example.com/ghcr.io",
        "containers.acme.ghe.com.example.net",
        "containers..ghe.com",
        "api.acme.ghe.com",
    )
    names = ("team/app", "team/base", "team/cli", "team/tools/db", "team/tools/edge")
    login_names = ("personal access token", "OAuth token", "GitHub App", "anonymous")
    mistake_names = (
        "wrong token", "fine-grained token", "password", "job token", "token without scope", "token without single sign-on",
        "token as bearer", "key of another App", "App that is not installed",
    )  # fmt: skip
    grant = r"read:packages"
    accounts: ClassVar[Mapping[str, str]] = {PAT: "all", OAUTH: "all", UNSCOPED: "none", NO_SSO: "none", JOB: "app"}

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.hasty_denials = 0
        """So many next requests for tokens are answered with `denied`, because of throttling."""
        self.answers: list[web.Response] = []
        """What the API answers to the next requests for lists."""
        self.list_headers: dict[str, str] = {}
        """Sent along with each list."""
        self.not_modified = 0
        self.scopes = "read:packages, repo"
        self._installation_tokens: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        await self.listen("api", self._api)
        return await super().__aenter__()

    @property
    def base(self) -> dict[str, Any]:
        """The API's address does not follow from 127.0.0.1."""
        return {"api": {"url": f"http://{self.address('api')}"}, "repositories": {"namespaces": [ORGANISATION]}}

    @property
    def logins(self) -> tuple[Login, ...]:
        """A GitHub App lists, but does not pull private packages; nobody lists without a login."""
        app = {"github_app": {"app_id": APP_ID, "private_key": pem()}}
        return (
            Login(
                name="personal access token",
                settings={"username": USER, "password": PAT},
                identity=USER,
                method="classic",
            ),
            Login(name="OAuth token", settings={"username": "any", "password": OAUTH}, identity=USER, method="OAuth"),
            Login(
                name="GitHub App",
                settings=app,
                identity="GitHub App sensor at Team",
                method="GitHub App",
                pulls=False,
                advice=r"installation token of a GitHub App: use a personal access token \(classic\)",
            ),
            Login(name="anonymous", anonymous=True, lists=False, method="anonymous", advice="read:packages"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What people get wrong."""
        another = {"app_id": APP_ID, "private_key": pem("wrong")}
        nowhere = {"app_id": APP_ID, "private_key": pem(), "installation_id": 999}

        def with_token(token: str) -> dict[str, str]:
            return {"username": USER, "password": token}

        return (
            Mistake(name="wrong token", says="authentication failed", settings=with_token("ghp_" + "x" * 36)),
            Mistake(name="fine-grained token", says="fine-grained.*classic", settings=with_token(FINE)),
            Mistake(name="password", says="never accepted", settings=with_token("hunter2 hunter2")),
            Mistake(name="job token", says="GITHUB_TOKEN", settings=with_token(JOB)),
            Mistake(name="token without scope", says="read:packages", settings=with_token(UNSCOPED)),
            Mistake(name="token without single sign-on", says="single sign-on", settings=with_token(NO_SSO)),
            Mistake(name="token as bearer", says="as password", settings={"token": PAT}),
            Mistake(
                name="key of another App", says="authentication failed.*private key", settings={"github_app": another}
            ),
            Mistake(
                name="App that is not installed",
                says="authentication failed.*install the App",
                settings={"github_app": nowhere},
            ),
        )

    @property
    def skopeo(self) -> tuple[str, str]:
        """User and personal access token."""
        return USER, PAT

    # -- the registry ----------------------------------------------------------------------------------------------------

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """The token service. The user name is ignored; no life is told."""
        if request.path != "/token":
            return None
        given = self.basic(request)
        may = "public" if given is None else self._account(given[1])
        if may is None or self.hasty_denials > 0:
            self.hasty_denials -= self.hasty_denials > 0
            return problem(403, "DENIED", "denied")
        kind, _, rest = request.query.get("scope", "").partition(":")
        name = rest.rpartition(":")[0]
        if kind != "repository":
            return web.json_response({"token": self.issue()})
        if name in self.public or (may == "all" and name in self.images and name not in self.forbidden):
            action = "pull"
        elif may == "app":
            action = "installation"
        else:
            return problem(403, "DENIED", "requested access to the resource is denied")
        return web.json_response({"token": self.issue([{"type": kind, "name": name, "actions": [action]}])})

    def _account(self, secret: str) -> str | None:
        if secret in self._installation_tokens:
            return "app" if self._installation_tokens[secret] == self.epoch else None
        return self.accounts.get(secret)

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """The base's challenge names a repository that does not exist."""
        scope = "" if action == "base" else f"repository:{repository}:pull"
        shown = self.bearer(request)
        granted = self.granted(shown) if shown else None
        if granted is not None and (not scope or scope in granted):
            return None
        if granted is not None and f"repository:{repository}:installation" in granted:
            return problem(403, "DENIED", "installation not allowed to Read organization package")
        named = scope or "repository:user/image:pull"
        return challenge(f'Bearer realm="{self.url}/token",service="ghcr.io",scope="{named}"')

    def throttle(self, request: web.Request) -> web.StreamResponse:
        """The pause is in the body, as Go writes durations."""
        return problem(429, "TOOMANYREQUESTS", "retry-after: 880.092µs, allowed: 44000/minute")

    # -- the API ---------------------------------------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-GitHub-Api-Version") != "2022-11-28" or "User-Agent" not in request.headers:
            return _message(403, "Request forbidden by administrative rules.")
        shown = self.bearer(request)
        if shown is None:
            return _message(401, "Requires authentication")
        parts = [unquote(part) for part in request.raw_path.partition("?")[0].strip("/").split("/")]
        if shown.count(".") == 2:
            return (
                self._as_app(shown, parts)
                if is_signed(shown)
                else _message(401, "A JSON web token could not be decoded")
            )
        may = self._account(shown)
        if may is None:
            return _message(401, "Bad credentials")
        if parts == ["user"]:
            return self._user(may)
        if len(parts) == 2 and parts[0] == "users":
            kinds = {ORGANISATION: "Organization", USER: "User"}
            login = next((name for name in kinds if name.lower() == parts[1]), None)
            return (
                _message(404, "Not Found")
                if login is None
                else web.json_response({"login": login, "type": kinds[login]})
            )
        return self._packages(request, parts, shown, may)

    def _user(self, may: str) -> web.StreamResponse:
        if may == "app":
            return _message(403, "Resource not accessible by integration")
        headers = {"X-OAuth-Scopes": self.scopes, "GitHub-Authentication-Token-Expiration": "2030-01-31 10:00:00 UTC"}
        return web.json_response({"login": USER, "type": "User"}, headers=headers)

    def _packages(self, request: web.Request, parts: list[str], shown: str, may: str) -> web.StreamResponse:
        if self.answers:
            return self.answers.pop(0)
        if shown == NO_SSO:
            return _message(403, "Resource protected by organization SAML enforcement.", {"X-GitHub-SSO": SSO})
        if may == "none":
            return _message(403, "You need at least read:packages scope to list packages.")
        match parts:
            case ["orgs", owner, "packages"] if owner == ORGANISATION.lower() and "package_type" in request.query:
                return self._paged(request, [_package(name, ORGANISATION) for name in self.names])
            case ["user", "packages"] if "package_type" in request.query:
                return self._paged(request, [_package("octo-bot/mine", USER)])
            case ["orgs", owner, "packages", "container", name, "versions"] if f"{owner}/{name}" in self.images:
                return self._paged(request, self._versions(f"{owner}/{name}"))
            case _:
                return _message(404, "Not Found")

    def _versions(self, repository: str) -> list[dict[str, Any]]:
        """Newest first, each with an untagged child before it."""
        found: list[dict[str, Any]] = []
        for number, (tag, built) in enumerate(sorted(self.images[repository].items(), reverse=True)):
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.pushed(tag)))
            for digest, tags in ((f"sha256:{number:064x}", ()), (built.digest, (tag,))):
                metadata = {"package_type": "container", "container": {"tags": tags}}
                times = {"created_at": moment, "updated_at": moment}
                found.append({"id": len(found), "name": digest, **times, "metadata": metadata})
        return found

    def _paged(self, request: web.Request, entries: Sequence[Mapping[str, Any]]) -> web.StreamResponse:
        page = int(request.query.get("page", "1"))
        shown = entries[(page - 1) * PAGE : page * PAGE]
        body = json.dumps(shown).encode()
        headers = {
            "ETag": f'W/"{hashlib.sha256(body).hexdigest()}"',
            "X-RateLimit-Remaining": "4999",
            **self.list_headers,
        }
        if page * PAGE < len(entries):
            path = request.raw_path.partition("?")[0]
            query = "&".join(f"{key}={value}" for key, value in {**request.query, "page": page + 1}.items())
            origin = f"http://{self.address('api')}"
            headers["Link"] = f'<{origin}{path}?{query}>; rel="next", <{origin}{path}?page=99>; rel="last"'
        if request.headers.get("If-None-Match") == headers["ETag"]:
            self.not_modified += 1
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    # -- Apps ------------------------------------------------------------------------------------------------------------

    def _as_app(self, token: str, parts: list[str]) -> web.StreamResponse:
        found = {"id": INSTALLATION, "app_slug": "sensor", "account": {"login": ORGANISATION, "type": "Organization"}}
        match parts:
            case ["orgs", owner, "installation"] if owner.lower() == ORGANISATION.lower():
                return web.json_response(found)
            case ["users", owner, "installation"] if owner.lower() == USER.lower():
                return web.json_response({**found, "account": {"login": USER, "type": "User"}})
            case ["app", "installations", number] if number == str(INSTALLATION):
                return web.json_response(found)
            case ["app", "installations", number, "access_tokens"] if number == str(INSTALLATION):
                if self.answers:
                    return self.answers.pop(0)
                made = f"ghs_{next(self._numbers):036}"
                self._installation_tokens[made] = self.epoch
                ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
                permissions = {"packages": "read", "metadata": "read"}
                return web.json_response({"token": made, "expires_at": ends, "permissions": permissions}, status=201)
            case _:
                return _message(404, "Not Found")


def is_signed(token: str) -> bool:
    """Whether a JSON web token is the App's, and as short-lived as GitHub demands."""
    signed, _, signature = token.rpartition(".")
    try:
        app_key("right").public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
    now = time.time()
    in_time = claims["iat"] <= now - 30 and now < claims["exp"] <= now + 600
    return bool(header["alg"] == "RS256" and claims["iss"] == APP_ID and in_time)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _message(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"message": text, "documentation_url": "https://docs.example.com/rest"}
    return web.json_response(body, status=status, headers=headers)


def _package(repository: str, owner: str) -> dict[str, Any]:
    name = repository.partition("/")[2]
    return {
        "name": name,
        "package_type": "container",
        "owner": {"login": owner},
        "visibility": "private",
        "version_count": 1,
    }
