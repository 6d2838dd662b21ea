"""A registry on loopback that can be told to misbehave. It serves an image layout and counts what it is asked.

    async with FakeRegistry(store.root, Behaviour(auth="bearer")) as registry:
        registry.url, registry.count("manifest"), registry.seen

`Behaviour` is plain data; tests may replace `registry.behaviour` between requests.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from aiohttp import web

from sensor.errors import SensorError
from sensor.model.manifest import parse_manifest
from sensor.registry.kinds.layout import Layout, media_type_of, read_layout

Kind = Literal["base", "token", "catalog", "tags", "manifest", "blob", "storage", "write"]
HTML = "<!DOCTYPE html><html><body>Please log in</body></html>"
SCHEMA1 = (
    b'{"schemaVersion":1,"name":"old","tag":"v1","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}'
)


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """What the registry does. The default is a well-behaved registry without a login."""

    auth: Literal["none", "basic", "bearer", "both"] = "none"
    users: dict[str, str] = field(default_factory=lambda: {"sensor": "secret"})
    scheme_word: str = ""
    """Instead of `Basic` or `Bearer` in challenges."""
    anonymous: tuple[str, ...] = ()
    """Repositories whose tokens anonymous clients get."""
    forbidden: tuple[str, ...] = ()
    """Repositories that nobody gets."""
    no_catalog: bool = False
    token_life: int | None = 300
    """`expires_in` of tokens; None sends none. Tokens are refused once that many seconds have passed on the registry's clock."""
    token_field: Literal["token", "access_token", "both", "neither"] = "token"
    token_status: int = 200
    realm: str = ""
    """Instead of the registry's own token endpoint."""
    empty_challenge: bool = False
    static_token: str = ""
    """A bearer token that is accepted as it is."""
    expired_word: bool = False
    """Refuse Basic once with 403 and ECR's words."""

    page: int = 0
    """Names in a page when the client sends no smaller `n`; 0 sends all."""
    most_n: int = 0
    """A larger `n` is refused with 400."""
    pages: Literal["normal", "loop", "endless", "elsewhere", "outer", "stale", "empty"] = "normal"
    tags: list[object] | None = None
    """Instead of the real tags, in `tags/list`."""
    null_tags: bool = False
    fail_later_pages: bool = False

    digest_header: Literal["right", "none", "wrong", "nonsense"] = "right"
    alter_manifest: bool = False
    """Send other bytes than the digest's."""
    schema1: bool = False
    manifest_headers: dict[str, str] = field(default_factory=dict)
    """Sent with every manifest."""
    manifest_type: str = ""
    """Instead of the manifest's own media type."""
    oversize: int = 0
    """Pad manifests to so many bytes."""
    no_head: int = 0
    """The status of every HEAD."""
    gzip_answers: bool = False
    """Compress JSON although nobody asked for it."""

    redirect: Literal["none", "storage", "loop", "metadata", "same", "endless"] = "none"
    location: str = ""
    """Redirect there instead."""
    storage_expires_after: int = 0
    """The storage answers 403 to so many requests."""
    break_after: int = 0
    """Bytes of a blob's body after which the connection is cut."""
    breaks: int = 1_000_000
    """How often it is cut."""
    ranges: Literal["honoured", "ignored", "refused", "shifted", "short"] = "honoured"
    blob_size: Literal["right", "longer", "shorter"] = "right"
    hang: Kind | None = None
    """Requests of this kind are never answered (until the registry is closed)."""

    fail: dict[str, list[int]] = field(default_factory=dict)
    """Kind -> statuses of the next answers; 0 closes the connection without one."""
    retry_after: str = ""
    """Sent with a 429 or 503; `date:N` is an HTTP date N seconds from now."""
    raw: dict[str, bytes] = field(default_factory=dict)
    """Kind -> the body to send instead, with `raw_status`."""
    raw_status: int = 200
    html: Kind | None = None
    """Requests of this kind are answered with a web page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request."""

    kind: str
    method: str
    path: str
    authorization: str
    range: str
    accept: str
    query: str = ""


class FakeRegistry:
    """The registry and, on a second port, the storage that it may redirect to."""

    def __init__(
        self,
        root: Path,
        behaviour: Behaviour | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        prefix: str = "",
        ssl_context: object = None,
    ) -> None:
        self.root = root
        self.behaviour = behaviour or Behaviour()
        self.seen: list[Seen] = []
        self._clock = clock
        self._prefix = prefix
        self._ssl = ssl_context
        self._tokens: dict[str, tuple[str, float]] = {}
        self._runners: list[web.AppRunner] = []
        self._closing = asyncio.Event()
        self._port = 0
        self._storage_port = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1024)
        app.router.add_route("*", "/{rest:.*}", self._answer)
        storage = web.Application()
        storage.router.add_route("*", "/{rest:.*}", self._storage)
        self._port = await self._listen(app, tls=True)
        self._storage_port = await self._listen(storage, tls=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(self, app: web.Application, *, tls: bool) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._ssl if tls else None)  # type: ignore[arg-type]
        await site.start()
        return int(runner.addresses[0][1])

    @property
    def host(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The registry's address."""
        return f"{'https' if self._ssl else 'http'}://{self.host}{self._prefix}"

    @property
    def storage_url(self) -> str:
        """The other origin."""
        return f"http://127.0.0.1:{self._storage_port}"

    def count(self, *kinds: str) -> int:
        """Requests of some kinds, of all without any."""
        return sum(not kinds or seen.kind in kinds for seen in self.seen)

    def counts(self) -> dict[str, int]:
        """Requests by kind, where there were any: an unchanged registry costs only `tags` and `head`."""
        return dict(
            Counter("head" if seen.kind == "manifest" and seen.method == "HEAD" else seen.kind for seen in self.seen)
        )

    def forget(self) -> None:
        """Start counting anew."""
        self.seen.clear()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        kind = _kind(path.removeprefix(self._prefix), request.method)
        self._see(request, kind)
        behaviour = self.behaviour
        if behaviour.hang == kind:
            await self._closing.wait()
        if behaviour.html == kind:
            return web.Response(text=HTML, content_type="text/html")
        if kind in behaviour.raw:
            return web.Response(status=behaviour.raw_status, body=behaviour.raw[kind], content_type="application/json")
        if statuses := behaviour.fail.get(kind):
            if (status := statuses.pop(0)) == 0:
                _cut(request)
            elif status != 200:
                return self._failing(status)
        if kind == "token":
            return self._token(request)
        if kind == "write":
            return _error(405, "UNSUPPORTED", "read only")
        if not path.startswith(self._prefix + "/v2"):
            return web.Response(status=404, text="404 page not found")
        refusal = self._refusal(request, kind, path)
        if refusal is not None:
            return refusal
        response = await self._serve(request, kind, path.removeprefix(self._prefix))
        if behaviour.gzip_answers and isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = gzip.compress(response.body)
            response.headers["Content-Encoding"] = "gzip"
        return response

    def _see(self, request: web.Request, kind: str) -> None:
        self.seen.append(
            Seen(
                kind=kind,
                method=request.method,
                path=request.path,
                authorization=request.headers.get("Authorization", ""),
                range=request.headers.get("Range", ""),
                accept=request.headers.get("Accept", ""),
                query=request.query_string,
            )
        )

    def _failing(self, status: int) -> web.Response:
        headers = {}
        if status in {429, 503} and (text := self.behaviour.retry_after):
            headers["Retry-After"] = (
                formatdate(time.time() + int(text[5:]), usegmt=True) if text[:5] == "date:" else text
            )
        return web.Response(status=status, text="out of order", headers=headers)

    # -- login ---------------------------------------------------------------------------------------------------------

    def _refusal(self, request: web.Request, kind: str, path: str) -> web.Response | None:
        behaviour, given = self.behaviour, request.headers.get("Authorization", "")
        if behaviour.auth == "none":
            return None
        scope = _scope(kind, path.removeprefix(self._prefix))
        if behaviour.static_token and given == f"Bearer {behaviour.static_token}":
            return None
        if given.startswith("Basic ") and behaviour.auth in {"basic", "both"} and self._user(given):
            if behaviour.expired_word:
                behaviour.expired_word = False
                return web.Response(status=403, text="denied: Your authorization token has expired.")
            if kind == "catalog" and behaviour.no_catalog:
                return _error(403, "DENIED", "no catalogue for you")
            return None
        problem = ""
        if given.startswith("Bearer ") and behaviour.auth in {"bearer", "both"}:
            granted, until = self._tokens.get(given[7:], ("", -1.0))
            if until < self._clock():
                problem = ',error="invalid_token"'
            elif not scope or scope in granted.split(" "):
                return None
            else:
                problem = ',error="insufficient_scope"'
        return self._challenge(scope, problem)

    def _challenge(self, scope: str, problem: str) -> web.Response:
        behaviour = self.behaviour
        response = _error(401, "UNAUTHORIZED", "authentication required")
        if behaviour.empty_challenge:
            response.headers["WWW-Authenticate"] = ""
            return response
        realm = behaviour.realm or f"{self.url}/token"
        wanted = f',scope="{scope}"' if scope else ""
        bearer = f'{behaviour.scheme_word or "Bearer"} realm="{realm}",service="fake"{wanted}{problem}'
        basic = f'{behaviour.scheme_word or "Basic"} realm="fake \\"registry\\", loopback"'
        for value in {"basic": [basic], "bearer": [bearer], "both": [basic, bearer]}[behaviour.auth]:
            response.headers.add("WWW-Authenticate", value)
        return response

    def _token(self, request: web.Request) -> web.Response:
        behaviour, given = self.behaviour, request.headers.get("Authorization", "")
        if behaviour.token_status != 200:
            return _error(behaviour.token_status, "UNAUTHORIZED", "token service says no")
        if given and not self._user(given):
            return _error(401, "UNAUTHORIZED", "wrong user name or password")
        if not given and not request.query.get("scope"):
            return _error(401, "UNAUTHORIZED", "who are you?")
        granted = [scope for scope in request.query.getall("scope", []) if self._may(scope, known=bool(given))]
        token = f"token-{len(self._tokens)}"
        life = behaviour.token_life
        self._tokens[token] = (" ".join(granted), self._clock() + (60 if life is None else life))
        body: dict[str, object] = {} if life is None else {"expires_in": life}
        if behaviour.token_field in {"token", "both"}:
            body["token"] = token
        if behaviour.token_field in {"access_token", "both"}:
            body["access_token"] = token
        return web.json_response(body)

    def _may(self, scope: str, *, known: bool) -> bool:
        kind, _, rest = scope.partition(":")
        name = rest.rpartition(":")[0]
        if kind == "registry":
            return known and not self.behaviour.no_catalog
        return name not in self.behaviour.forbidden and (known or name in self.behaviour.anonymous)

    def _user(self, authorization: str) -> bool:
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return self.behaviour.users.get(name) == password

    # -- content -------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request, kind: str, path: str) -> web.StreamResponse:
        if kind == "base":
            return web.json_response({})
        layout = read_layout(self.root, "default")
        if kind == "catalog":
            return self._page(request, path, "repositories", sorted(layout.images))
        name, _, target = path.removeprefix("/v2/").rpartition("/")
        name = name.rpartition("/")[0]
        if name not in layout.images:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        if kind == "tags":
            if self.behaviour.null_tags:
                return web.json_response({"name": name, "tags": None})
            tags = sorted(layout.images[name]) if self.behaviour.tags is None else self.behaviour.tags
            return self._page(request, path, "tags", tags)
        if kind == "manifest":
            return self._manifest(request, layout, name, target)
        return await self._blob(request, layout, target)

    def _page(self, request: web.Request, path: str, key: str, names: list[object] | list[str]) -> web.Response:
        behaviour = self.behaviour
        asked = int(request.query.get("n", "0"))
        if behaviour.most_n and asked > behaviour.most_n:
            return _error(400, "PAGINATION_NUMBER_INVALID", "too many")
        start = int(request.query.get("from", "0"))
        if start and behaviour.fail_later_pages:
            return self._failing(500)
        size = min(filter(None, (behaviour.page, asked)), default=0)
        page: list[object] = list(names[start : start + size] if size else names[start:])
        following = f"{self._prefix}{path}?n={size}&from={start + max(len(page), 1)}"
        more = bool(size) and start + size < len(names)
        match behaviour.pages:
            case "loop":
                following, more = f"{self._prefix}{path}?n={asked}", True
            case "endless":
                page, more = [f"name{start}"], True
            case "stale":
                page, more = ["same"], True
            case "empty":
                page, more = [], True
            case "elsewhere":
                following, more = f"http://localhost:{self._storage_port}{following}", True
            case "outer":
                following = f"https://127.0.0.1{following}"
            case "normal":
                pass
        headers = {"Link": f'<{following}>; rel="next"'} if more else {}
        return web.json_response({key: page}, headers=headers)

    def _manifest(self, request: web.Request, layout: Layout, name: str, target: str) -> web.Response:
        behaviour = self.behaviour
        if request.method == "HEAD" and behaviour.no_head:
            return web.Response(status=behaviour.no_head)
        if behaviour.schema1:
            return web.Response(
                body=SCHEMA1,
                headers={
                    "Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws",
                    "Docker-Content-Digest": "sha256:" + "0" * 64,
                },
            )
        entry = layout.descriptor(name, target)
        if entry is None and not target.startswith("sha256:"):
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        digest = entry.digest if entry else target
        try:
            data = layout.blob(digest).read_bytes()  # type: ignore[arg-type]
        except SensorError:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type = behaviour.manifest_type or media_type_of(parse_manifest(data), entry)
        if behaviour.alter_manifest:
            data = data.replace(b'"size":', b'"size": ', 1)
        if behaviour.oversize:
            data = data + b" " * (behaviour.oversize - len(data))
        headers = {"Content-Type": media_type, **behaviour.manifest_headers}
        if behaviour.digest_header != "none":
            wrong = {"wrong": "sha256:" + "0" * 64, "nonsense": "sha256:xyz"}
            headers["Docker-Content-Digest"] = wrong.get(behaviour.digest_header, digest)
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.Request, layout: Layout, digest: str) -> web.StreamResponse:
        behaviour = self.behaviour
        try:
            path = layout.blob(digest)  # type: ignore[arg-type]
        except SensorError:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        signed = f"/storage/{quote(digest)}?X-Signature=a%2Bb%2F%3D"
        location = {
            "storage": f"{self.storage_url}{signed}",
            "loop": request.path,
            "same": f"{request.path}?at=home",
            "metadata": "http://169.254.169.254/latest/meta-data/",
            "endless": f"{self.storage_url}/again/{len(self.seen)}",
        }.get(behaviour.redirect)
        if behaviour.redirect == "same" and request.query_string == "at=home":
            location = None
        if location := behaviour.location or location:
            return web.Response(status=307, headers={"Location": location})
        return await self._body(request, path.read_bytes())

    async def _storage(self, request: web.Request) -> web.StreamResponse:
        self._see(request, "storage")
        behaviour = self.behaviour
        if "Authorization" in request.headers:
            return web.Response(status=400, text="<Error><Code>InvalidArgument</Code></Error>")
        if request.path.startswith("/again"):
            return web.Response(status=302, headers={"Location": f"{self.storage_url}/again/{len(self.seen)}"})
        if request.raw_path.partition("?")[2] != "X-Signature=a%2Bb%2F%3D":
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        if behaviour.storage_expires_after:
            behaviour.storage_expires_after -= 1
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        layout = read_layout(self.root, "default")
        return await self._body(request, layout.blob(request.path.rpartition("/")[2]).read_bytes())  # type: ignore[arg-type]

    async def _body(self, request: web.Request, data: bytes) -> web.StreamResponse:
        behaviour = self.behaviour
        whole, start, status = len(data), 0, 200
        if behaviour.blob_size == "longer":
            data += b"more"
        elif behaviour.blob_size == "shorter":
            data = data[:-1]
        headers = {"Content-Type": "application/octet-stream"}
        if asked := request.headers.get("Range", ""):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if behaviour.ranges == "refused" or start >= len(data):
                return await self._unsatisfiable(request, whole)
            if behaviour.ranges == "ignored":
                start = 0
            else:
                status = 206
                shown = start + 1 if behaviour.ranges == "shifted" else start
                headers["Content-Range"] = f"bytes {shown}-{whole - 1}/{whole}"
        response = web.StreamResponse(status=status, headers=headers)
        if behaviour.blob_size == "right":
            response.content_length = len(data) - start
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if behaviour.break_after and behaviour.breaks > 0:
            behaviour.breaks -= 1
            await response.write(data[start : start + behaviour.break_after])
            await asyncio.sleep(0)
            _cut(request)
            return response
        if data[start:]:
            await response.write(data[start:])
        await response.write_eof()
        return response

    async def _unsatisfiable(self, request: web.Request, whole: int) -> web.StreamResponse:
        """As distribution does it: the length of the blob, and a body that is shorter."""
        response = web.StreamResponse(status=416)
        response.content_length = whole
        await response.prepare(request)
        await response.write(b"{}")
        _cut(request)
        return response


def _kind(path: str, method: str) -> str:
    if method not in {"GET", "HEAD"}:
        return "write"
    if path == "/token":
        return "token"
    if path.rstrip("/") == "/v2":
        return "base"
    if path == "/v2/_catalog":
        return "catalog"
    parts = path.split("/")
    return {"tags": "tags", "manifests": "manifest", "blobs": "blob"}.get(parts[-2] if len(parts) > 2 else "", "base")


def _scope(kind: str, path: str) -> str:
    if kind == "base":
        return ""
    if kind == "catalog":
        return "registry:catalog:*"
    name = path.removeprefix("/v2/").rsplit("/", 2)[0]
    return f"repository:{name}:pull"


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _error(status: int, code: str, message: str) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}),
        content_type="application/json",
    )
