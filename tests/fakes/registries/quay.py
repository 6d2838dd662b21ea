"""Quay: a token service on the registry's own host, an opaque catalogue cursor, and an API for OAuth tokens alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.fakes.registries.provider import PAGE, Login, Mistake, ProviderFake, problem

ROBOT, ROBOT_TOKEN = "team+sensor", "ROBOTTOKEN0123456789"
USER, PASSWORD, ENCRYPTED = "alice", "pass word", "encrypted-password-of-alice"
OAUTH_TOKEN, APP_TOKEN = "oauth-token-of-team", "app-token-of-alice"
LOGINS = {
    (ROBOT, ROBOT_TOKEN),
    (USER, PASSWORD),
    (USER, ENCRYPTED),
    ("$oauthtoken", OAUTH_TOKEN),
    ("$app", APP_TOKEN),
}


class QuayFake(ProviderFake):
    """`team` is an organisation; `alice` belongs to it. Also keeps an application repository and tags that are no more."""

    kind = "quay"
    detected = {
        "quay.io": {},
        "https://QUAY.io/acme": {"namespace": "acme"},
        "https://quay.io/v2/": {},
    }
    undetected = ("quay.io.example.com", "myquay.io", "quay.example.com", "https://example.com/quay.io")
    login_names = (
        "OAuth token", "robot account", "user name and password", "encrypted password", "application token",
        "robot with an API token", "anonymous",
    )  # fmt: skip
    mistake_names = ("slash for plus", "space for plus", "wrong token", "bearer token", "no dollar sign")
    grant = r"Read on the repository"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.api_pages = "normal"
        self.rate_limited = 0
        """So many next requests of the API get nginx's 429."""
        self.expired_tags: set[str] = set()
        self.ungranted: set[str] = set()
        """Public repositories to which nobody was given a right."""

    @property
    def logins(self) -> tuple[Login, ...]:
        """Only OAuth tokens use the API; all others have the catalogue."""
        return (
            Login(
                name="OAuth token",
                settings={"username": "$oauthtoken", "password": OAUTH_TOKEN},
                identity=USER,
                method="OAuth",
            ),
            Login(
                name="robot account",
                settings={"username": ROBOT, "password": ROBOT_TOKEN},
                identity=r"team\+sensor",
                method="robot",
            ),
            Login(
                name="user name and password",
                settings={"username": USER, "password": PASSWORD},
                identity=USER,
                method="user name and password",
            ),
            Login(name="encrypted password", settings={"username": USER, "password": ENCRYPTED}, identity=USER),
            Login(name="application token", settings={"username": "$app", "password": APP_TOKEN}, method="application"),
            Login(
                name="robot with an API token",
                settings={
                    "username": ROBOT,
                    "password": ROBOT_TOKEN,
                    "api": {"token": OAUTH_TOKEN},
                    "repositories": {"namespaces": ["team"]},
                },
                identity=USER,
                method="robot",
            ),
            Login(
                name="anonymous", anonymous=True, method="anonymous", lists=False, advice="credential|username|names"
            ),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What becomes of the plus and of the dollar sign."""
        return (
            Mistake(
                name="slash for plus", says="plus and not a slash",
                settings={"username": "team/sensor", "password": ROBOT_TOKEN},
            ),
            Mistake(
                name="space for plus", says="has its plus", settings={"username": "team sensor", "password": ROBOT_TOKEN}
            ),
            Mistake(
                name="wrong token", says="authentication failed", settings={"username": ROBOT, "password": "no"}
            ),
            Mistake(name="bearer token", says=r"username: \$oauthtoken", settings={"token": OAUTH_TOKEN}),
            Mistake(
                name="no dollar sign", says="dollar sign is missing",
                settings={"username": "oauthtoken", "password": OAUTH_TOKEN},
            ),
        )  # fmt: skip

    @property
    def skopeo(self) -> tuple[str, str]:
        """The robot."""
        return ROBOT, ROBOT_TOKEN

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """The token service, the catalogue and the API."""
        if request.path == "/v2/auth":
            return self._auth(request)
        if request.path.startswith("/api/v1/"):
            return self._api(request)
        if request.path == "/v2/_catalog":
            return self.login(request, "", "catalog") or self._catalog(request)
        if request.path == "/v2/" and self._granted(request) is not None:
            headers = {"WWW-Authenticate": self._challenge()}
            return web.Response(text="true", content_type="application/json", headers=headers)
        return None

    def _challenge(self) -> str:
        return f'Bearer realm="{self.url}/v2/auth",service="{self.address()}"'

    def _auth(self, request: web.Request) -> web.Response:
        given = self.basic(request)
        if given is not None and given not in LOGINS:
            return problem(401, "UNAUTHORIZED", "Could not find robot with specified username")
        access: list[dict[str, Any]] = []
        for scope in request.query.getall("scope", []):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            if kind != "repository" or not set(actions.split(",")) <= {"pull", "push", "*"}:
                return problem(400, "INVALID_REQUEST", "Unable to decode repository and actions")
            may = (given is not None or name in self.public) and name not in self.forbidden
            access.append({"type": kind, "name": name, "actions": ["pull"] if may else []})
        if given is None and not access:
            return problem(401, "UNAUTHORIZED", "anonymous access needs a scope")
        return web.json_response({"token": self.issue(access, life=3600, sub=given[0] if given else "(anonymous)")})

    def _granted(self, request: web.Request) -> frozenset[str] | None:
        shown = self.bearer(request)
        return self.granted(shown) if shown else None

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Bearer only; what is private and what is missing look the same."""
        granted = self._granted(request)
        wanted = f"repository:{repository}:pull"
        if granted is not None and (action in {"base", "catalog"} or wanted in granted):
            return None
        scope = "" if action in {"base", "catalog"} else f',scope="{wanted}"'
        error = "" if granted is None else ',error="insufficient_scope"'
        headers = {"WWW-Authenticate": self._challenge() + scope + error}
        return problem(401, "UNAUTHORIZED", "access to the requested resource is not authorized", headers=headers)

    def manifest(self, request: web.Request, repository: str, target: str) -> web.StreamResponse:
        """An expired tag has its own code."""
        if target in self.expired_tags:
            return problem(404, "TAG_EXPIRED", "Tag was deleted or has expired")
        return super().manifest(request, repository, target)

    def _catalog(self, request: web.Request) -> web.Response:
        start = int(request.query.get("next_page", "x0").removeprefix("x"))
        shown = self.names[start : start + PAGE]
        more = start + PAGE < len(self.names)
        headers = {"Link": f'</v2/_catalog?n=100&next_page=x{start + PAGE}>; rel="next"'} if more else {}
        return web.json_response({"repositories": list(shown)}, headers=headers)

    def _api(self, request: web.Request) -> web.Response:
        if self.rate_limited > 0:
            self.rate_limited -= 1
            return web.Response(
                status=429, text="<html><h1>429 Too Many Requests</h1></html>", content_type="text/html"
            )
        if request.headers.get("Authorization", "") != f"Bearer {OAUTH_TOKEN}":
            return _refused(401, "invalid_token", "Requires authentication")
        if request.path == "/api/v1/user/":
            return web.json_response({"username": USER, "organizations": [{"name": "team"}, None]})
        if request.path == "/api/v1/repository":
            return self._repositories(request)
        name = request.path.removeprefix("/api/v1/repository/").removesuffix("/tag/")
        if name in self.forbidden:
            return _refused(403, "insufficient_scope", "Unauthorized")
        if name not in self.images:
            return _refused(404, "not_found", "Not Found")
        return self._tags(request, name)

    def _repositories(self, request: web.Request) -> web.Response:
        namespace = request.query.get("namespace")
        if namespace is None:
            return _refused(400, "invalid_request", "namespace, starred or public is required")
        entries: list[Any] = [
            {"namespace": name.partition("/")[0], "name": name.partition("/")[2], "kind": "image", "is_public": False}
            for name in self.names
            if name.startswith(f"{namespace}/")
            and (name not in self.ungranted or request.query.get("public") == "true")
        ]
        entries.append({"namespace": namespace, "name": "chart", "kind": "application"})
        start = int(request.query.get("next_page", "p0").removeprefix("p"))
        body: dict[str, Any] = {"repositories": entries[start : start + PAGE]}
        if start + PAGE < len(entries):
            body["next_page"] = f"p{start + PAGE}"
        if self.api_pages == "circle" and entries:
            body["next_page"] = "p0"
        return web.json_response(body)

    def _tags(self, request: web.Request, name: str) -> web.Response:
        entries: list[dict[str, Any]] = [
            {
                "name": tag,
                "manifest_digest": image.digest,
                "is_manifest_list": False,
                "start_ts": int(self.pushed(tag)),
                "last_modified": "Thu, 09 Oct 2025 08:53:20 -0000",
                "reversion": False,
            }
            for tag, image in self.images[name].items()
        ]
        if request.query.get("onlyActiveTags") != "true":
            entries.append({"name": "old", "manifest_digest": "sha256:" + "0" * 64, "end_ts": 1, "start_ts": 0})
        page = int(request.query.get("page", "1"))
        shown = entries[(page - 1) * PAGE : page * PAGE]
        return web.json_response({"tags": shown, "page": page, "has_additional": page * PAGE < len(entries)})


def _refused(status: int, kind: str, detail: str) -> web.Response:
    body = {"status": status, "error_message": detail, "title": kind, "error_type": kind, "detail": detail}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")
