"""Sonatype Nexus 3: hosted, proxy and group, on the main port (REST, repository URLs, path-based routing) and on a connector.

What is peculiar: `BASIC` in capitals; where tokens are switched on they are opaque and may belong to another repository, and the realm may
carry the port twice; links name an internal path; the group sends none; nulls among tags; components without checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.fakes.images import Built
from tests.fakes.registries.provider import PAGE, PUSHED, TAGS, Login, Mistake, ProviderFake, problem

USER, PASSWORD = "sensor", "s3cret-of-nexus"
NAME_CODE, PASS_CODE = "HmByM0hc", "kOPDV3JzXV3GHkgcWLV1x1w3Z5GqRzKtPbjC8OmkzXfT"
HOSTED, PROXY, GROUP = "docker-hosted", "docker-proxy", "docker-group"
CACHED = f"{PROXY}/library/nginx"
_PAGE_404 = "<html><title>404 - Nexus Repository Manager</title></html>"


class NexusFake(ProviderFake):
    """The main port with path-based routing, where `/v2/` wants BASIC; the server `open` is the same with tokens and anonymous access."""

    kind = "nexus"
    detected: Mapping[str, Mapping[str, str]] = {}
    undetected = ("nexus.example.com", "nexus.example.com:8082", "https://nexus.example.com/repository/docker-hosted/")
    names = tuple(f"{HOSTED}/team/{name}" for name in ("app", "base", "cli", "db", "edge"))
    public = (f"{HOSTED}/team/base",)
    login_names = ("user name and password", "user token", "password at a token realm", "anonymous")
    mistake_names = ("wrong password", "no user name", "bearer token")
    grant = r"nx-repository-view-docker-docker-hosted-read"
    head_expires = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.images[CACHED] = dict(self.images[self.names[1]])
        self.connected = HOSTED
        """The repository of the connector."""
        self.routed = {HOSTED, PROXY, GROUP}
        """Where path-based routing is switched on."""
        self.rest = 200
        """What components and searches answer with."""
        self.rest_from_page = 0
        """The page from which on components fail; 0: none."""
        self.denied: set[str] = set()
        """Repositories whose components may not be listed."""
        self.odd: list[dict[str, Any]] = []
        """More components of the hosted repository."""
        self.listed = 200
        """What the list of repositories answers with."""
        self.members = True
        """Whether the members of the group are told."""
        self.unsummed: set[str] = set()
        """Images whose assets have no SHA-256."""
        self.token_of = ""
        """The repository that tokens belong to; empty: to all."""
        self.doubled = False
        """The realm has its port twice."""
        self.nulls = False
        """Nulls among the tags."""
        self.context = ""
        """Context path of the main port."""
        self.circle = False
        """The continuation token leads back."""
        self.upstream = 0
        """How often an upstream had to be asked."""
        self.tokens: dict[str, str] = {}

    @property
    def logins(self) -> tuple[Login, ...]:
        """Basic all the way; nobody only where that is allowed."""
        who = {"username": USER, "password": PASSWORD}
        return (
            Login(name="user name and password", settings=who, identity=USER, method="user name and password"),
            Login(
                name="user token",
                settings={"username": NAME_CODE, "password": PASS_CODE},
                identity=NAME_CODE,
                method="user token",
            ),
            Login(name="password at a token realm", settings={**who, "url": self.open_url}, identity=USER),
            Login(name="anonymous", settings={"url": self.open_url}, anonymous=True, method="anonymous"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What is not let in."""
        return (
            Mistake(name="wrong password", says="user tokens", settings={"username": USER, "password": "no"}),
            Mistake(name="no user name", says="user name is missing", settings={"password": PASSWORD}),
            Mistake(name="bearer token", says="no bearer tokens of its own", settings={"token": PASSWORD}),
        )

    @property
    def base(self) -> dict[str, Any]:
        """The hosted repository; the others are for its own tests."""
        return {"repositories": {"namespaces": (HOSTED,)}}

    @property
    def skopeo(self) -> tuple[str, str]:
        """Sent as it is."""
        return USER, PASSWORD

    @property
    def open_url(self) -> str:
        """The same with forceBasicAuth off."""
        return f"http://{self.address('open')}"

    async def __aenter__(self) -> Self:
        await self.listen("open", self._registry)
        await self.listen("connector", self._connector)
        await super().__aenter__()
        return self

    # -- who ---------------------------------------------------------------------------------------------------------------

    def is_open(self, request: web.Request) -> bool:
        """Whether tokens and anonymous clients are let in where this request went."""
        return request.host == self.address("open")

    def user(self, request: web.Request) -> str | None:
        """Who shows Basic; empty: nobody, None: a refused secret, or a token."""
        if "Authorization" not in request.headers:
            return ""
        good = {(USER, PASSWORD), (NAME_CODE, PASS_CODE)}
        return USER if self.basic(request) in good else None

    def readable(self, user: str, name: str) -> bool:
        """Whether a user may read and browse an image."""
        return name not in self.forbidden and (user == USER or name in self.public)

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Basic, or an opaque token of the right repository."""
        user = self.user(request)
        if user is None and (shown := self.bearer(request)) in self.tokens:
            if self.token_of and repository and not repository.startswith(f"{self.token_of}/"):
                return self.demand(request)
            user = self.tokens[shown or ""]
        elif not user:
            return self.demand(request)
        if repository and action != "catalog" and not self.readable(user or "", self.home(repository)):
            return problem(403, "DENIED", "access to the requested resource is not authorized")
        return None

    def demand(self, request: web.Request) -> web.StreamResponse:
        """BASIC, or the token realm of wherever this is."""
        value = 'BASIC realm="Sonatype Nexus Repository Manager"'
        if self.is_open(request):
            port = self.address("open").rpartition(":")[2]
            realm = f"{self.open_url}{f':{port}' if self.doubled else ''}/v2/token"
            value = f'Bearer realm="{realm}",service="{realm}"'
        headers = {"WWW-Authenticate": value, "Server": "Nexus/3.80.0-06 (COMMUNITY)"}
        return problem(401, "UNAUTHORIZED", "access to the requested resource is not authorized", headers=headers)

    # -- where -------------------------------------------------------------------------------------------------------------

    def home(self, repository: str) -> str:
        """Where an image really lies: a group shows its first member that has it."""
        name, _, image = repository.partition("/")
        if name != GROUP:
            return repository
        return next((f"{m}/{image}" for m in (HOSTED, PROXY) if f"{m}/{image}" in self.images), repository)

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """REST, the token service, repository URLs, and path-based routing for those that have it."""
        path = request.path
        if self.context and not path.startswith("/v2"):
            if not path.startswith(f"{self.context}/"):
                return web.Response(status=404, text=_PAGE_404, content_type="text/html")
            path = path.removeprefix(self.context)
        if path.startswith("/service/rest/v1/"):
            return self._rest(request, path.removeprefix("/service/rest/v1/"))
        if path == "/v2/token":
            user = self.user(request)
            if user is None or (not user and not self.is_open(request)):
                return self.demand(request)
            token = f"DockerToken.{uuid.uuid4()}"
            self.tokens[token] = user
            return web.json_response({"token": token})
        if found := re.fullmatch(r"/repository/([^/]+)(/v2/.*)", path):
            return await self.below(request, found[1], found[2])
        if path == "/v2/" and self.routed:
            return self.login(request, "", "base") or web.json_response({})
        if (found := re.fullmatch(r"/v2/([^/]+)/(.+)", path)) and found[1] in self.routed:
            return await self.below(request, found[1], f"/v2/{found[2]}")
        return web.Response(status=404, text=_PAGE_404, content_type="text/html")

    async def _connector(self, request: web.Request) -> web.StreamResponse:
        """A port that serves one repository and nothing else."""
        if self.throttled > 0:
            self.throttled -= 1
            return self.throttle(request)
        if not request.path.startswith("/v2/"):
            return web.Response(status=400, text="Not a docker request")
        return await self.below(request, self.connected, request.path)

    async def below(self, request: web.Request, repository: str, path: str) -> web.StreamResponse:
        """The protocol for one repository."""
        if path == "/v2/":
            return self.login(request, "", "base") or web.json_response({})
        if path == "/v2/_catalog":
            refused = self.login(request, f"{repository}/", "catalog")
            held = {GROUP: (HOSTED, PROXY)}.get(repository, (repository,))
            names = [n.partition("/")[2] for n in self.images if n.startswith(held) and self.may_browse(request, n)]
            return refused or web.json_response({"repositories": sorted(names)})
        if repository in {PROXY, GROUP} and not re.search(r"/(?:manifests/sha256:|blobs/)", path):
            self.upstream += 1
        rest = path.removeprefix("/v2/")
        return await self.serve(request, f"/v2/{repository}/{rest}")

    def may_browse(self, request: web.Request, name: str) -> bool:
        """Whether whoever asks may see an image."""
        user = self.user(request)
        user = self.tokens.get(self.bearer(request) or "", "") if user is None else user
        return self.readable(user, name)

    async def serve(self, request: web.Request, path: str) -> web.StreamResponse:
        """As ever, but a group's image is found in its members."""
        parts = path.removeprefix("/v2/").rsplit("/", 2)
        if len(parts) == 3:
            path = "/v2/" + "/".join((self.home(parts[0]), *parts[1:]))
        return await super().serve(request, path)

    def tag_list(self, request: web.Request, repository: str) -> web.StreamResponse:
        """Hosted: all at once without `n`. Links name the internal path. The group sends none."""
        names: list[str | None] = [*sorted(self.images[repository])]
        size = int(request.query.get("n", len(names)))
        last = request.query.get("last", "")
        left = [name for name in names if name is not None and name > last]
        shown: list[str | None] = [*left[:size]]
        headers = {}
        if len(shown) < len(left) and GROUP not in request.path and self.connected != GROUP:
            where, _, image = repository.partition("/")
            link = f"http://{request.host}/repository/{where}/v2/{image}/tags/list?n={size}&last={shown[-1]}"
            headers["Link"] = f'<{link}>; rel="next"'
        found = [*shown, None] if self.nulls else shown
        return web.json_response({"name": repository.partition("/")[2], "tags": found}, headers=headers)

    # -- REST --------------------------------------------------------------------------------------------------------------

    def _rest(self, request: web.Request, path: str) -> web.StreamResponse:
        user = self.user(request)
        if user is None or (not user and not self.is_open(request)):
            return web.Response(
                status=401, headers={"WWW-Authenticate": 'BASIC realm="Sonatype Nexus Repository Manager"'}
            )
        if path == "repositories":
            if self.listed != 200:
                return web.Response(status=self.listed)
            kinds = {HOSTED: "hosted", PROXY: "proxy", GROUP: "group"} if user else {HOSTED: "hosted"}
            found = [{"name": name, "format": "docker", "type": kind, "url": "x"} for name, kind in kinds.items()]
            return web.json_response(
                [*found, {"name": "maven-central", "format": "maven2", "type": "proxy", "url": "x"}]
            )
        if path == f"repositories/docker/group/{GROUP}":
            group = {"name": GROUP, "format": "docker", "type": "group", "group": {"memberNames": [HOSTED, PROXY]}}
            return web.json_response(group) if self.members else web.Response(status=403)
        if path in {"components", "search"}:
            late = self.rest_from_page and self.count("registry", path) >= self.rest_from_page
            denied = request.query.get("repository") in self.denied
            if self.rest != 200 or late or denied:
                return web.Response(status=self.rest if self.rest != 200 else 403)
            return self._components(request, user)
        return web.Response(status=404, text=_PAGE_404, content_type="text/html")

    def _components(self, request: web.Request, user: str) -> web.StreamResponse:
        """100 a page in the original. The token is opaque."""
        wanted = request.query["repository"]
        held = {GROUP: (HOSTED, PROXY)}.get(wanted, (wanted,))
        image = request.query.get("docker.imageName", "")
        items = [
            self.component(name, tag, built)
            for name, tags in self.images.items()
            if name.partition("/")[0] in held and self.readable(user, name)
            for tag, built in sorted(tags.items(), reverse=True)
            if not image or name.partition("/")[2] == image
        ]
        if wanted == HOSTED and not image and user:
            child = self.images[self.names[0]]["v1"]
            items.insert(1, self.component(self.names[0], child.digest, child))
            items += self.odd
        begin = int(bytes.fromhex(request.query.get("continuationToken", "30")).decode())
        following = str(begin + PAGE).encode().hex() if begin + PAGE < len(items) else None
        if self.circle and following:
            following = b"2".hex()
        return web.json_response({"items": items[begin : begin + PAGE], "continuationToken": following})

    def component(self, name: str, tag: str, built: Built) -> dict[str, Any]:
        """One tag as a component."""
        repository, _, image = name.partition("/")
        pushed = self.pushed(tag) if tag in TAGS else PUSHED
        checksum = {"sha1": "0" * 40}
        if name not in self.unsummed:
            checksum["sha256"] = hashlib.sha256(built.data).hexdigest()
        manifest = {
            "path": f"v2/{image}/manifests/{tag}",
            "downloadUrl": f"{self.url}/repository/{repository}/v2/{image}/manifests/{tag}",
            "contentType": built.media_type,
            "checksum": checksum,
            "lastModified": datetime.fromtimestamp(pushed, UTC).isoformat(timespec="milliseconds"),
            "fileSize": len(built.data),
        }
        layer = {"path": f"v2/-/blobs/{built.layers[0]}", "checksum": {"sha256": "f" * 64}}
        return {
            "id": json.dumps([repository, image, tag]).encode().hex(),
            "repository": repository,
            "format": "docker",
            "group": None,
            "name": image,
            "version": tag,
            "assets": [layer, manifest],
        }
