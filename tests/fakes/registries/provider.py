"""What every provider's fake is: images, the read side of `/v2/`, a second origin for blobs, and faults that tests switch on.

    async with QuayFake(tmp_path) as fake:
        registry = open_registry(fake.settings(fake.logins[0]), ...)

A provider's fake is one class in one file. It says how to log in (`logins`), how it answers before `/v2/` is served (`login`, `own`), and
what goes wrong and in which words (`mistakes`, `grant`). The conformance suite (tests/registry/kinds/test_conformance.py) does the rest.
Pages hold two names, so five repositories and five tags are three pages each.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import web

from sensor.config.schema import Registry as Settings
from sensor.errors import SensorError
from sensor.model.manifest import parse_manifest
from sensor.registry.kinds.layout import media_type_of, read_layout
from tests.fakes.images import Built, ImageStore
from tests.fakes.layers import file, layer

PAGE = 2
TAGS = ("v1", "v2", "v3", "v4", "v5")
PUSHED = 1_760_000_000.0
"""Unix time at which v1 of everything was pushed; each further tag an hour later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """One way to log in, and what is expected of it. What it cannot do must be refused with advice: that refusal is its pass."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the registry's settings, besides `ProviderFake.base`. Secrets may be plain strings."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables; `{fake}` etc. are not expanded: use properties of the fake instead."""
    anonymous: bool = False
    """Nobody is logged in: only `ProviderFake.public` can be seen."""
    lists: bool = True
    """Whether repositories can be listed."""
    pulls: bool = True
    """Whether private images can be pulled."""
    advice: str = ""
    """Regular expression that the advice of a refusal matches, where something is refused."""
    identity: str = ""
    """Regular expression that `standing().identity` matches."""
    method: str = ""
    """Regular expression that the name of the kind's `method` matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A login that cannot work, and what must be said about it (in the error, its advice, or the method's complaint)."""

    name: str
    says: str
    """Regular expression."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request, at `registry`, `storage`, or another server that the fake runs."""

    server: str
    method: str
    path: str
    """As it came, still encoded, with its query."""
    authorization: str
    headers: Mapping[str, str]
    body: bytes = b""


class ProviderFake:
    """A registry on loopback that behaves like one provider's."""

    kind: ClassVar[str]
    """The provider's name in the configuration."""
    detected: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """URLs that must be detected as this kind, with the facts that must be read from them (a subset)."""
    undetected: ClassVar[Sequence[str]] = ()
    """URLs that look like it and are not."""
    names: ClassVar[tuple[str, ...]] = ("team/app", "team/base", "team/cli", "team/db", "team/edge")
    """Repositories, as references name them. The first has five tags and is private."""
    public: ClassVar[tuple[str, ...]] = ("team/base",)
    """What anonymous clients may read."""
    catalog: ClassVar[bool] = False
    """Whether `_catalog` is answered to a login."""
    tells_digests: ClassVar[bool] = True
    """Whether the provider's own listing gives digests with the tags (at least to the first login)."""
    tells_dates: ClassVar[bool] = True
    login_names: ClassVar[tuple[str, ...]]
    """Names of `logins`, in order; their settings need a running fake, the suite needs the names before."""
    mistake_names: ClassVar[tuple[str, ...]] = ()
    grant: ClassVar[str] = r"right|permission|role|scope"
    """Regular expression of what must be named to somebody who has no right for a repository."""
    head_expires: ClassVar[bool] = True
    """Whether logins of this provider expire at all."""

    def __init__(self, root: Path) -> None:
        self.store = ImageStore(root / "layout")
        self.images: dict[str, dict[str, Built]] = {}
        for repository in self.names:
            tags = TAGS if repository == self.names[0] else TAGS[:1]
            self.images[repository] = {
                tag: self.store.image(repository, tag, [layer(file("etc/name", f"{repository}:{tag}".encode() * 5000))])
                for tag in tags
            }
        self.seen: list[Seen] = []
        self.forbidden: set[str] = set()
        """Repositories that no login may read (any more)."""
        self.throttled = 0
        """So many next requests are answered with 429; a large number: for good."""
        self.storage = False
        """Blobs are redirected to another origin, which refuses whoever shows a credential there."""
        self.epoch = 0
        """Raised by `expire`: whatever was issued before is expired."""
        self._numbers = itertools.count()
        self._issued: dict[str, tuple[frozenset[str], int]] = {}
        self._runners: list[web.AppRunner] = []
        self._ports: dict[str, int] = {}
        self._layout = read_layout(self.store.root, "default")

    # -- for the suite ---------------------------------------------------------------------------------------------------

    @property
    def logins(self) -> tuple[Login, ...]:
        """Every way to log in that the provider has. The first can list and pull everything."""
        raise NotImplementedError

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Logins that cannot work."""
        return ()

    @property
    def base(self) -> dict[str, Any]:
        """Settings that every login needs, such as `api` and `repositories.namespaces`."""
        return {}

    @property
    def skopeo(self) -> tuple[str, str] | None:
        """User name and password for skopeo; None where the provider is open to everybody."""
        return None

    @property
    def prefix(self) -> str:
        """What skopeo must write between host and repository, where references have it and `names` have not."""
        return ""

    def expire(self) -> None:
        """Everything that was issued so far (tokens, short-lived passwords) is expired from now on."""
        self.epoch += 1

    def settings(self, login: Login | Mistake | None = None) -> Settings:
        """The registry's settings for one way to log in."""
        chosen = self.logins[0] if login is None else login
        merged: dict[str, Any] = {"name": "fake", "url": self.url, "provider": self.kind, "insecure": True}
        for key, value in (*self.base.items(), *chosen.settings.items()):
            merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
        return Settings.model_validate(merged)

    # -- life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.listen("registry", self._registry)
        await self.listen("storage", self._storage)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def listen(self, server: str, handler: Any, ssl_context: Any = None) -> None:
        """Start one more server on loopback; call it from `__aenter__` before or after the base's."""

        async def answer(request: web.Request) -> web.StreamResponse:
            await self._see(server, request)
            response: web.StreamResponse = await handler(request)
            return response

        app = web.Application(client_max_size=1 << 22)
        app.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        self._ports[server] = int(runner.addresses[0][1])

    def address(self, server: str = "registry") -> str:
        """127.0.0.1:port of a server."""
        return f"127.0.0.1:{self._ports[server]}"

    @property
    def url(self) -> str:
        """The registry's URL."""
        return f"http://{self.address()}"

    async def _see(self, server: str, request: web.Request) -> None:
        self.seen.append(
            Seen(
                server=server,
                method=request.method,
                path=request.raw_path,
                authorization=request.headers.get("Authorization", ""),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=await request.read(),
            )
        )

    def count(self, server: str, path: str = "", method: str = "") -> int:
        """Requests to a server whose path contains a text."""
        return sum(
            one.server == server and path in one.path and (not method or one.method == method) for one in self.seen
        )

    # -- what a provider says differently --------------------------------------------------------------------------------

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """The provider's own paths on the registry's origin (token endpoint, API); None lets `/v2/` answer."""
        return None

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Refuse a request to `/v2/`; None lets it pass. `action` is `base`, `catalog`, `tags`, `manifest` or `blob`."""
        raise NotImplementedError

    def throttle(self, request: web.Request) -> web.StreamResponse:
        """The answer while throttled."""
        return web.Response(status=429, text="too many requests", headers={"Retry-After": "0"})

    def tag_list(self, request: web.Request, repository: str) -> web.StreamResponse:
        """`tags/list`: two names a page, with a relative Link."""
        return self.page(request, sorted(self.images[repository]), "tags", {"name": repository})

    # -- tokens ----------------------------------------------------------------------------------------------------------

    def issue(self, access: Sequence[Mapping[str, Any]] = (), *, life: int = 300, **claims: Any) -> str:
        """An unsigned JWT with `exp`, `iat`, `access`; it opens what `granted` reads from it until `expire`."""
        now = int(time.time())
        body = {"iat": now, "exp": now + life, "access": list(access), "jti": str(next(self._numbers)), **claims}
        token = ".".join((_b64({"alg": "none", "typ": "JWT"}), _b64(body), "c2ln"))
        granted = {
            f"{one.get('type', 'repository')}:{one['name']}:{action}" for one in access for action in one["actions"]
        }
        self._issued[token] = (frozenset(granted), self.epoch)
        return token

    def granted(self, token: str) -> frozenset[str] | None:
        """`repository:team/app:pull` and so on; None for a token that was never issued or has expired."""
        scopes, epoch = self._issued.get(token, (frozenset(), -1))
        return scopes if epoch == self.epoch else None

    @staticmethod
    def basic(request: web.Request) -> tuple[str, str] | None:
        """User name and password of a Basic Authorization."""
        given = request.headers.get("Authorization", "")
        if not given.lower().startswith("basic "):
            return None
        name, _, password = base64.b64decode(given[6:]).decode().partition(":")
        return name, password

    @staticmethod
    def bearer(request: web.Request) -> str | None:
        """The token of a Bearer Authorization."""
        given = request.headers.get("Authorization", "")
        return given[7:] if given.lower().startswith("bearer ") else None

    # -- serving ---------------------------------------------------------------------------------------------------------

    async def _registry(self, request: web.Request) -> web.StreamResponse:
        if self.throttled > 0:
            self.throttled -= 1
            return self.throttle(request)
        if (response := await self.own(request)) is not None:
            return response
        return await self.serve(request, request.path)

    async def serve(self, request: web.Request, path: str) -> web.StreamResponse:
        """The distribution protocol's read side below `/v2/`; `path` is what the provider's own URL form comes down to."""
        if path.rstrip("/") == "/v2":
            return self.login(request, "", "base") or web.json_response({})
        if path == "/v2/_catalog":
            refused = self.login(request, "", "catalog")
            return refused or self.page(request, self.names, "repositories", {})
        parts = path.removeprefix("/v2/").rsplit("/", 2)
        action = {"tags": "tags", "manifests": "manifest", "blobs": "blob"}.get(parts[1] if len(parts) == 3 else "")
        if not path.startswith("/v2/") or action is None:
            return web.Response(status=404, text="404 page not found")
        repository, target = parts[0], parts[2]
        if (refused := self.login(request, repository, action)) is not None:
            return refused
        if repository not in self.images:
            return problem(404, "NAME_UNKNOWN", "repository name not known to registry")
        if action == "tags":
            return self.tag_list(request, repository)
        return self.manifest(request, repository, target) if action == "manifest" else self.blob(request, target)

    def manifest(self, request: web.Request, repository: str, target: str) -> web.StreamResponse:
        """A manifest by tag or digest."""
        built = self.images[repository].get(target)
        digest = built.digest if built else target
        if not digest.startswith("sha256:"):
            return problem(404, "MANIFEST_UNKNOWN", "manifest unknown")
        try:
            data = self._layout.blob(digest).read_bytes()  # type: ignore[arg-type]
        except SensorError:
            return problem(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type = built.media_type if built else media_type_of(parse_manifest(data))
        return web.Response(body=data, headers={"Content-Type": media_type, "Docker-Content-Digest": digest})

    def blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        """A blob, or the way to it."""
        if self.storage:
            location = f"http://{self.address('storage')}/{digest}?X-Signature=a%2Bb%2F%3D"
            return web.Response(status=307, headers={"Location": location})
        return self._bytes(digest)

    def _bytes(self, digest: str) -> web.StreamResponse:
        try:
            data = self._layout.blob(digest).read_bytes()  # type: ignore[arg-type]
        except SensorError:
            return problem(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return web.Response(body=data, content_type="application/octet-stream")

    async def _storage(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            return web.Response(status=400, text="<Error><Code>InvalidArgument</Code></Error>")
        if not request.raw_path.endswith("?X-Signature=a%2Bb%2F%3D"):
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        await asyncio.sleep(0)
        return self._bytes(request.path.lstrip("/"))

    def page(
        self, request: web.Request, names: Sequence[str], key: str, more: Mapping[str, Any], *, size: int = PAGE
    ) -> web.Response:
        """One page of names by `n` and `last`, at most `size` of them, with a relative Link to the next."""
        asked = int(request.query.get("n", size))
        last = request.query.get("last", "")
        left = [name for name in names if not last or name > last]
        shown = left[: min(size, asked)]
        headers = {}
        if len(shown) < len(left) and shown:
            headers["Link"] = f'<{request.path}?n={asked}&last={shown[-1].replace("/", "%2F")}>; rel="next"'
        return web.json_response({**more, key: shown}, headers=headers)

    def pushed(self, tag: str) -> float:
        """Unix time at which a tag was pushed."""
        return PUSHED + 3600 * TAGS.index(tag)


def problem(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error in the protocol's form."""
    text = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]})
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


def challenge(value: str, message: str = "authentication required") -> web.Response:
    """A 401 with one WWW-Authenticate header."""
    return problem(401, "UNAUTHORIZED", message, headers={"WWW-Authenticate": value})


def _b64(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
