"""Docker Hub: a registry, its token service and its API, each on an origin of its own.

Tokens are given to every login, even without rights; the registry then says `insufficient_scope`. The API takes only tokens of its own login.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web

from tests.fakes.registries.provider import PAGE, TAGS, Login, Mistake, ProviderFake, challenge, problem

USER, ORGANISATION = "acme-bot", "team"
PAT, OAT, PASSWORD, PUBLIC_PAT = "dckr_pat_abcdefghij", "dckr_oat_abcdefghij", "pa55 word", "dckr_pat_public"
ACCOUNTS = {(USER, PAT), (ORGANISATION, OAT), (USER, PASSWORD), (USER, PUBLIC_PAT)}


class DockerHubFake(ProviderFake):
    """`team` is an organisation of the user's; the user's own namespace is empty."""

    kind = "dockerhub"
    detected = {
        "docker.io": {},
        "https://index.docker.io/v1/": {},
        "registry-1.docker.io": {},
        "https://registry-1.docker.io:443/v2/": {},
        "https://registry.hub.docker.com": {},
        "https://DOCKER.io/Acme": {"namespace": "acme"},
    }
    undetected = (
        "docker.io.example.com",
        "evil-docker.io",
        "xdocker.io",
        "example.com/docker.io",
        "docker.io:5000",
        "docker.io@example.com",
        "https://docker.io:99999",
    )
    login_names = ("personal access token", "organisation access token", "password", "anonymous")
    mistake_names = ("wrong token", "e-mail as user name", "token as bearer", "token for public only", "no user name")
    grant = r"repo:read"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.api_throttled = 0
        """So many next requests to the API are answered with 429."""
        self.pulls_left = 190
        """Of a quota of 200; only a GET of a manifest takes from it."""
        self.null_digests: set[str] = set()
        """Tags whose digest the API does not tell."""
        self.answers: list[web.Response] = []
        """What the API answers to the next requests, logins excepted."""
        self._hub_tokens: dict[str, tuple[str, bool, int]] = {}

    async def __aenter__(self) -> Self:
        await self.listen("auth", self._auth)
        await self.listen("api", self._api)
        return await super().__aenter__()

    @property
    def base(self) -> dict[str, Any]:
        """The API is not where `docker.io` would have it."""
        return {"api": {"url": f"http://{self.address('api')}"}}

    @property
    def logins(self) -> tuple[Login, ...]:
        """Namespaces come from the login, the organisation's own name, patterns and the key, in this order."""
        return (
            Login(
                name="personal access token",
                settings={"username": USER, "password": PAT},
                identity=USER,
                method="personal access token",
            ),
            Login(
                name="organisation access token",
                settings={"username": ORGANISATION, "password": OAT},
                identity=ORGANISATION,
                method="organisation access token",
            ),
            Login(
                name="password",
                settings={"username": USER, "password": PASSWORD, "repositories": {"include": ["team/*"]}},
                identity=USER,
                method="password",
            ),
            Login(
                name="anonymous",
                anonymous=True,
                settings={"repositories": {"namespaces": ["team"]}},
                method="anonymous",
            ),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What people get wrong."""
        return (
            Mistake(
                name="wrong token",
                says=r"authentication failed.*incorrect username or password",
                settings={"username": USER, "password": "dckr_pat_no"},
            ),
            Mistake(
                name="e-mail as user name",
                says="e-mail address",
                settings={"username": "bot@example.com", "password": PAT},
            ),
            Mistake(name="token as bearer", says="is a password", settings={"token": PAT}),
            Mistake(
                name="token for public only", says="repo:read", settings={"username": USER, "password": PUBLIC_PAT}
            ),
            Mistake(name="no user name", says="user name is missing", settings={"password": PAT}),
        )

    @property
    def skopeo(self) -> tuple[str, str]:
        """User and personal access token."""
        return USER, PAT

    # -- the registry ----------------------------------------------------------------------------------------------------

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Always 401; why is in the challenge's error."""
        scope = {"base": "", "catalog": "registry:catalog:*"}.get(action, f"repository:{repository}:pull")
        shown = self.bearer(request)
        granted = self.granted(shown) if shown else None
        if granted is not None and (not scope or scope in granted):
            return None
        error = "" if shown is None else ',error="invalid_token"' if granted is None else ',error="insufficient_scope"'
        wanted = f',scope="{scope}"' if scope else ""
        realm = f"http://{self.address('auth')}/token"
        return challenge(f'Bearer realm="{realm}",service="registry.docker.io"{wanted}{error}')

    def manifest(self, request: web.Request, repository: str, target: str) -> web.StreamResponse:
        """With the quota in its headers."""
        if request.method == "GET":
            self.pulls_left -= 1
        response = super().manifest(request, repository, target)
        response.headers.update(
            {
                "ratelimit-limit": "200;w=21600",
                "ratelimit-remaining": f"{self.pulls_left};w=21600",
                "docker-ratelimit-source": "00000000-0000-4000-8000-000000000000",
            }
        )
        return response

    def throttle(self, request: web.Request) -> web.StreamResponse:
        """The pull limit; it does not say for how long."""
        return problem(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")

    async def _auth(self, request: web.Request) -> web.StreamResponse:
        """auth.docker.io: 200 even without rights, one scope a token."""
        given = self.basic(request)
        if request.path != "/token" or request.query.get("service") != "registry.docker.io":
            return web.Response(status=404)
        if given is not None and given not in ACCOUNTS:
            return web.json_response({"details": "incorrect username or password"}, status=401)
        kind, _, rest = request.query.get("scope", "").partition(":")
        name, _, actions = rest.rpartition(":")
        everything = given is not None and given[1] != PUBLIC_PAT
        allowed = kind == "repository" and (everything or name in self.public) and name not in self.forbidden
        access = [{"type": kind, "name": name, "actions": actions.split(",")}] if allowed else []
        token = self.issue(access)
        return web.json_response({"token": token, "access_token": token, "expires_in": 300})

    # -- the API ---------------------------------------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.StreamResponse:
        if self.api_throttled > 0:
            self.api_throttled -= 1
            headers = {"X-Retry-After": str(int(time.time()) - 1)}
            return web.json_response({"detail": "Rate limit exceeded", "error": False}, status=429, headers=headers)
        if request.path == "/v2/auth/token" and request.method == "POST":
            return self._hub_login(json.loads(await request.read()))
        if self.answers:
            return self.answers.pop(0)
        user, everything, epoch = "", False, self.epoch
        if "Authorization" in request.headers:
            user, everything, epoch = self._hub_tokens.get(self.bearer(request) or "", ("", False, -1))
        if epoch != self.epoch:
            return web.json_response({"detail": "invalid or expired token"}, status=401)
        if request.path == "/v2/repositories/namespaces":
            return self._namespaces(user)
        return self._lists(request, everything)

    def _hub_login(self, given: dict[str, str]) -> web.StreamResponse:
        if (given["identifier"], given["secret"]) not in ACCOUNTS:
            return web.json_response({"detail": "Incorrect authentication credentials"}, status=401)
        token = self.issue(life=600)
        self._hub_tokens[token] = (given["identifier"], given["secret"] != PUBLIC_PAT, self.epoch)
        return web.json_response({"access_token": token})

    def _namespaces(self, user: str) -> web.StreamResponse:
        if user != USER:
            return web.json_response({"detail": "for users only"}, status=403 if user else 401)
        return web.json_response({"namespaces": [USER, ORGANISATION]})

    def _lists(self, request: web.Request, everything: bool) -> web.StreamResponse:
        parts = [unquote(part) for part in request.raw_path.partition("?")[0].strip("/").split("/")]
        visible = self.names if everything else self.public
        match parts:
            case ["v2", "namespaces", namespace, "repositories"] if namespace in {USER, ORGANISATION}:
                found = [name for name in visible if name.startswith(f"{namespace}/")]
                wanted = request.query.get("name", "")
                return self._paged(request, [self._repository(name) for name in found if wanted in name.split("/")[1]])
            case ["v2", "namespaces", namespace, "repositories", name, "tags"] if f"{namespace}/{name}" in visible:
                tags = sorted(self.images[f"{namespace}/{name}"], reverse=True)
                return self._paged(request, [self._tag(f"{namespace}/{name}", tag) for tag in tags])
            case _:
                return web.json_response({"message": "object not found", "errinfo": {}}, status=404)

    def _paged(self, request: web.Request, entries: list[dict[str, Any]]) -> web.StreamResponse:
        page = int(request.query.get("page", "1"))
        shown = entries[(page - 1) * PAGE : page * PAGE]
        if not shown and page > 1:
            return web.json_response({"message": "object not found"}, status=404)
        following = None
        if page * PAGE < len(entries):
            query = {**request.query, "page": str(page + 1)}
            following = str(request.url.with_query(query))
        return web.json_response({"count": len(entries), "next": following, "previous": None, "results": shown})

    def _repository(self, repository: str) -> dict[str, Any]:
        namespace, _, name = repository.partition("/")
        return {
            "name": name,
            "namespace": namespace,
            "repository_type": "image",
            "status": 1,
            "is_private": repository not in self.public,
            "last_updated": "2026-01-02T03:04:05.678901Z",
            "content_types": ["image"],
        }

    def _tag(self, repository: str, tag: str) -> dict[str, Any]:
        built = self.images[repository][tag]
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.123456Z", time.gmtime(self.pushed(tag)))
        attestation = {"architecture": "unknown", "os": "unknown", "digest": f"sha256:{'0' * 64}", "size": 1}
        return {
            "name": tag,
            "id": TAGS.index(tag),
            "digest": None if tag in self.null_digests else built.digest,
            "media_type": built.media_type,
            "content_type": "image",
            "last_updated": moment,
            "tag_status": "active",
            "tag_last_pushed": moment,
            "images": [{"architecture": "amd64", "os": "linux", "digest": built.digest, "size": 1}, attestation],
        }
