"""JFrog Artifactory: two local keys that hold the same images, a remote with its cache, a virtual over all, in all four URL forms.

What is peculiar: a token realm per key, challenges without a scope on `/v2/` and HEAD, scopes without the key, errors with a numeric
`status`, links that lose the key and count instead of naming, digests among the tags, AQL.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from sensor.secret import Secret
from tests.fakes.images import Built
from tests.fakes.registries.provider import PAGE, PUSHED, Login, Mistake, ProviderFake, problem

USER, PASSWORD, API_KEY = "sensor", "s3cret-of-artifactory", "AKCp8" + "k" * 68
LOCAL, TWIN, REMOTE, VIRTUAL = "docker-local", "docker-twin", "docker-remote", "docker"
_QUERY = re.compile(
    r"items\.find\((?P<criteria>\{.*?\})\)\.include\([^)]*\)\.sort\([^)]*\)\.offset\((?P<offset>\d+)\)\.limit\((?P<limit>\d+)\)$"
)


def reference_token(expires: int = 0) -> str:
    """A reference token: 64 characters, with its expiry inside."""
    return base64.b64encode(f"reftkn:01:{expires:010d}:".encode().ljust(48, b"x")).decode()


def jwt(*, sub: str = f"jfac@01abc/users/{USER}", scp: str = "applied-permissions/user", **claims: Any) -> str:
    """An access token, unsigned."""
    body = {"sub": sub, "scp": scp, "aud": "*@*", "iat": int(time.time()), **claims}
    parts = ({"typ": "JWT", "alg": "none"}, body)
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + ".c2ln"


class ArtifactoryFake(ProviderFake):
    """One host, the repository path method by default; `method` and `only` switch to one key by name or port."""

    kind = "artifactory"
    detected = {
        "mycompany.jfrog.io/docker-prod": {"server": "mycompany", "repository": "docker-prod"},
        "https://mycompany.jfrog.io/artifactory/docker-prod/": {"repository": "docker-prod"},
        "mycompany-docker-prod.jfrog.io": {"server": "mycompany-docker-prod"},
        "https://art.example.com/artifactory/api/docker/docker-local/v2/": {"repository": "docker-local"},
    }
    undetected = (
        "jfrog.io",
        "jfrog.io.example.com",
        "evil-jfrog.io",
        "mycompany.jfrog.io.example.com/docker-prod",
        "a@b.jfrog.io.x",
    )
    names = tuple(f"{LOCAL}/team/{name}" for name in ("app", "base", "cli", "db", "edge"))
    public = (f"{LOCAL}/team/base",)
    catalog = False
    login_names = ("identity token", "access token", "bearer token", "API key", "user name and password", "anonymous")
    mistake_names = (
        "wrong password",
        "another user's token",
        "expired token",
        "expired reference token",
        "no user name",
    )
    grant = r"permission Read"
    head_expires = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.key = ""
        """A key that this host serves at its root (subdomain or port method); empty: repository path method."""
        self.rest = True
        """Whether anybody may list repositories; False: 403."""
        self.aql: int = 200
        """What AQL answers with."""
        self.aql_busy = 0
        """So many next searches are refused for running at once."""
        self.aql_rows: int | None = None
        """The most rows of one search, whatever was asked for."""
        self.aql_from_page = 0
        """The page from which on AQL fails; 0: none."""
        self.shrinking = False
        """With every search the first row is gone."""
        self.notification = ""
        """What AQL remarks on its results."""
        self.members = True
        """Whether the members of the virtual repository are told."""
        self.hidden: set[str] = set()
        """Paths that this user may not see; hidden after a page was counted out."""
        self.extra: list[dict[str, Any]] = []
        """More rows for AQL."""
        self.upstream = 0
        """How often an upstream had to be asked."""
        self.token = reference_token()
        self.access_token = jwt(exp=int(time.time()) + 86400 * 365)
        self.cached = self.images[self.names[1]]
        """What the remote repository has in its cache, as library/nginx."""

    @property
    def logins(self) -> tuple[Login, ...]:
        """Every secret that Artifactory takes."""
        who = {"username": USER}
        return (
            Login(
                name="identity token", settings={**who, "password": self.token}, identity=USER, method="identity token"
            ),
            Login(
                name="access token",
                settings={**who, "password": self.access_token},
                identity=USER,
                method="access token",
            ),
            Login(name="bearer token", settings={"token": self.access_token}, identity=USER, method="access token"),
            Login(name="API key", settings={**who, "password": API_KEY}, identity=USER, method="API key .deprecated"),
            Login(
                name="user name and password", settings={**who, "password": PASSWORD}, identity=USER, method="password"
            ),
            Login(name="anonymous", anonymous=True, method="anonymous"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Secrets that do not fit their user name, or the time."""
        who = {"username": USER}
        old = int(time.time()) - 60
        return (
            Mistake(name="wrong password", says="accounts are locked", settings={**who, "password": "no"}),
            Mistake(
                name="another user's token",
                says="belongs to 'sensor'",
                settings={"username": "somebody", "password": self.access_token},
            ),
            Mistake(name="expired token", says="has expired", settings={**who, "password": jwt(exp=old)}),
            Mistake(
                name="expired reference token", says="has expired", settings={**who, "password": reference_token(old)}
            ),
            Mistake(name="no user name", says="user name is missing", settings={"password": PASSWORD}),
        )

    @property
    def base(self) -> dict[str, Any]:
        """The first key; the others are for its own tests."""
        return {"repositories": {"namespaces": (LOCAL,)}}

    @property
    def skopeo(self) -> tuple[str, str]:
        """skopeo goes through the token service."""
        return USER, PASSWORD

    # -- who ---------------------------------------------------------------------------------------------------------------

    def user(self, request: web.Request) -> str | None:
        """Who is logged in by Basic or an access token; empty: nobody, None: a refused secret."""
        shown = request.headers.get("Authorization", "")
        if not shown:
            return ""
        if (pair := self.basic(request)) is not None:
            good = {self.token, self.access_token, API_KEY, PASSWORD}
            return USER if pair[0] == USER and pair[1] in good else None
        return USER if Secret(self.bearer(request) or "") in {Secret(self.access_token), Secret(self.token)} else None

    def readable(self, user: str, key: str, image: str) -> bool:
        """Whether a user may read an image."""
        name = f"{key}/{image}"
        return name not in self.forbidden and (user == USER or name in self.public)

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Basic, access tokens, and tokens of the realm of this key for the image without its key."""
        key, _, image = repository.partition("/")
        user = self.user(request)
        granted = self.granted(shown) if (shown := self.bearer(request)) else None
        if granted is not None:
            scope = f"{key}|repository:{image}:pull"
            return (
                None
                if action == "base" or scope in {s.removeprefix("repository:") for s in granted}
                else self.demand(request, key, image)
            )
        if not user and action in {"base", "catalog"}:
            return self.demand(request, key, "")
        if user is None or (not user and not self.readable("", key, image)) or (not user and not shown):
            return self.demand(request, key, image)
        if repository and not self.readable(user, key, image):
            return refused(403, f"The user: '{user}' is not permitted to read '{repository}'")
        return None

    def demand(self, request: web.Request, key: str, image: str) -> web.StreamResponse:
        """A challenge, with a scope only where an image is fetched by GET."""
        realm = f"{self.url}/artifactory/api/docker/{self.key or key or 'null'}/v2/token"
        scope = f',scope="repository:{image}:pull"' if image and request.method == "GET" else ""
        response = refused(
            401, "Bad credentials" if request.headers.get("Authorization") else "Authentication is required"
        )
        response.headers["WWW-Authenticate"] = f'Bearer realm="{realm}",service="{self.address()}"{scope}'
        return response

    def issue_token(self, request: web.Request, key: str) -> web.StreamResponse:
        """The token service of one key."""
        user = self.user(request)
        if user is None:
            return refused(401, "Bad credentials")
        access = []
        for scope in request.query.getall("scope", []):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            # the realm of the host's root takes names as references have them: clients that heed only its challenge exist
            where, image = (name.partition("/")[0], name.partition("/")[2]) if key == "null" else (key, name)
            if kind == "repository" and self.readable(user, where, image):
                access.append({"type": kind, "name": f"{where}|repository:{image}", "actions": actions.split(",")})
        return web.json_response({"token": self.issue(access, sub=user), "expires_in": 3600})

    # -- where -------------------------------------------------------------------------------------------------------------

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """Headers that tell, the API, and the forms of `/v2/`."""
        response = await self._answer(request)
        if response is not None and not response.prepared:
            response.headers["X-JFrog-Version"] = "Artifactory/7.90.1 79001900"
            response.headers["X-Artifactory-Id"] = "0123456789abcdef"
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse | None:  # noqa: PLR0911 - a table of paths
        path = request.path
        if path == "/artifactory/api/repositories":
            return self._repositories(request)
        if found := re.fullmatch(r"/artifactory/api/repositories/([^/]+)", path):
            known = found[1] == VIRTUAL and self.members and self.user(request)
            return (
                web.json_response({"key": VIRTUAL, "rclass": "virtual", "repositories": [LOCAL, TWIN, REMOTE]})
                if known
                else refused(403, "Forbidden")
            )
        if path == "/artifactory/api/search/aql":
            return self._aql(request, (await request.read()).decode())
        if found := re.fullmatch(r"/artifactory/api/(?:docker|oci)/([^/]+)/v2/token", path):
            return self.issue_token(request, found[1])
        if path.startswith("/artifactory/api/docker/v2"):
            return refused(400, "Unsupported docker repository request for 'v2'")
        if found := re.fullmatch(r"/artifactory/api/(?:docker|oci)/([^/]+)(/v2/.*)", path):
            return await self._below(request, found[1], found[2])
        if self.key and path.startswith("/v2/"):
            return await self._below(request, self.key, path)
        if (found := re.fullmatch(r"/v2/([^/]+)/.+", path)) and found[1] not in {LOCAL, TWIN, REMOTE, VIRTUAL}:
            return problem(404, "NAME_UNKNOWN", f"repository {found[1]} not found")
        if found := re.fullmatch(r"/v2/([^/]+)/(.+/(?:tags/list|manifests/[^/]+|blobs/[^/]+))", path):
            return await self._below(request, found[1], f"/v2/{found[2]}")
        if path == "/v2/":
            return self.login(request, "", "base") or web.json_response({})
        return web.Response(status=404, text="<html><title>JFrog</title></html>", content_type="text/html")

    async def _below(self, request: web.Request, key: str, path: str) -> web.StreamResponse:
        """What one key serves. The twin holds what the first does, the virtual shows it, the remote asks its upstream."""
        if key in {REMOTE, VIRTUAL} and path.endswith(("/_catalog", "/tags/list")):
            self.upstream += 1
        home = {TWIN: LOCAL, VIRTUAL: LOCAL}.get(key, key)
        if path == "/v2/":
            return self.login(request, f"{key}/", "base") or web.json_response({})
        if path == "/v2/_catalog":
            user = self.user(request)
            if not user and self.granted(self.bearer(request) or "") is None:
                return self.demand(request, key, "")
            names = [n for n in (one.partition("/")[2] for one in self.names) if self.readable(user or "", home, n)]
            return self.counted(request, names if home == LOCAL else [], "repositories", {})
        if key not in {LOCAL, TWIN, VIRTUAL}:
            return problem(404, "NAME_UNKNOWN", f"repository {key} not found")
        return await self.serve(request, f"/v2/{home}/{path.removeprefix('/v2/')}")

    def tag_list(self, request: web.Request, repository: str) -> web.StreamResponse:
        """With digests among the tags."""
        digest = "sha256:" + "0" * 64
        names = [*sorted(self.images[repository]), digest]
        return self.counted(request, names, "tags", {"name": repository.partition("/")[2]})

    def counted(self, request: web.Request, names: list[str], key: str, more: dict[str, Any]) -> web.Response:
        """Pages by offset where pages are asked for, and a Link that has lost the key; whoever follows it as it is finds nothing."""
        size = min(int(request.query["n"]), PAGE) if "n" in request.query else len(names)
        begin = int(request.query.get("last", 0))
        headers = {}
        if begin + size < len(names):
            where = f"/v2/{more['name']}/tags/list" if "name" in more else "/v2/_catalog"
            headers["Link"] = f'<{where}?last={begin + size}&n={size}>; rel="next"'
        return web.json_response({**more, key: names[begin : begin + size]}, headers=headers)

    # -- the API -----------------------------------------------------------------------------------------------------------

    def _repositories(self, request: web.Request) -> web.StreamResponse:
        user = self.user(request)
        if user is None:
            return refused(401, "Bad credentials")
        if not self.rest:
            return refused(403 if user else 401, "Forbidden")
        kinds = {LOCAL: "LOCAL", TWIN: "FEDERATED", REMOTE: "REMOTE", VIRTUAL: "VIRTUAL"}
        found = [
            {"key": key, "type": kind, "packageType": "Docker", "url": f"{self.url}/artifactory/{key}"}
            for key, kind in kinds.items()
            if user or key == LOCAL  # anybody sees where something public is
        ]
        return web.json_response([*found, {"key": "libs", "type": "LOCAL", "packageType": "Maven", "url": "x"}])

    def _rows(self, key: str) -> list[dict[str, Any]]:
        """The files of one key that AQL may be asked for."""
        rows: list[dict[str, Any]] = []
        if key in {LOCAL, TWIN}:
            for name in self.names:
                image = name.partition("/")[2]
                rows += [
                    row(key, f"{image}/{tag}", built, self.pushed(tag)) for tag, built in self.images[name].items()
                ]
            child = self.images[self.names[0]]["v1"]
            rows += [
                row(key, f"team/app/{child.digest}", child, PUSHED),
                row(key, f"team/app/sha256__{'1' * 64}", child, PUSHED),
                row(key, "team/app/_uploads/v9", child, PUSHED),
                row(key, ".jfrog/repository/v9", child, PUSHED),
            ]
        if key == f"{REMOTE}-cache":
            rows += [row(key, f"library/nginx/{tag}", built, self.pushed(tag)) for tag, built in self.cached.items()]
        if key == VIRTUAL:  # for those who may not know its members
            rows += [{**one, "repo": key} for one in self._rows(LOCAL)]
        return rows + [one for one in self.extra if one["repo"] == key]

    def _aql(self, request: web.Request, query: str) -> web.StreamResponse:
        user = self.user(request)
        if not user:
            return refused(401, "Bad credentials" if user is None else "AQL requires an authenticated user")
        if self.aql != 200:
            return refused(self.aql, "AQL is not available")
        if self.aql_busy > 0:
            self.aql_busy -= 1
            return refused(429, "Too many concurrent queries")
        if self.aql_from_page and self.count("registry", "search/aql") >= self.aql_from_page:
            return refused(500, "AQL is out of order")
        found = _QUERY.match(query)
        if request.method != "POST" or request.content_type != "text/plain" or found is None:
            return refused(400, "Failed to parse query")
        criteria = json.loads(found["criteria"])
        path = criteria.get("path", {}).get("$match", "*").removesuffix("*")
        rows = sorted(
            (one for one in self._rows(criteria["repo"]) if one["path"].startswith(path)),
            key=lambda one: (one["path"], one["name"]),
        )
        rows = [one for one in rows if f"{one['repo']}/{one['path'].rpartition('/')[0]}" not in self.forbidden]
        if self.shrinking:
            rows = rows[self.count("registry", "search/aql") - 1 :]
        begin, limit = int(found["offset"]), int(found["limit"])
        limit = min(limit, self.aql_rows or limit)
        shown = [one for one in rows[begin : begin + limit] if one["path"] not in self.hidden]
        told: dict[str, object] = {"start_pos": begin, "end_pos": len(shown), "total": len(shown), "limit": limit}
        if self.notification:
            told |= {"notification": self.notification}
        return web.json_response({"results": shown, "range": told})

    def blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        """Kept on the host on demand, as self-hosted ones do."""
        if request.headers.get("X-JFrog-Download-Redirect-To") == "None":
            return self._bytes(digest)
        return super().blob(request, digest)


def row(key: str, path: str, built: Built | None, pushed: float, name: str = "manifest.json") -> dict[str, Any]:
    """One stored file, as AQL tells it."""
    checksum = hashlib.sha256(built.data).hexdigest() if built else "f" * 64
    modified = datetime.fromtimestamp(pushed, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"repo": key, "path": path, "name": name, "sha256": checksum, "size": 413, "modified": modified}


def refused(status: int, message: str) -> web.Response:
    """An error in Artifactory's own form."""
    return web.json_response({"errors": [{"status": status, "message": message}]}, status=status)
