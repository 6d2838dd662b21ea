"""An OCI image layout as a read-only registry (OCI distribution 1.1, pull side), for `demo`, for tests, and for images on a disk.

    async with serve(Path("/images"), port=0) as url: ...

Blobs are sent by the kernel from their files and not hashed again: the reader checks digests, as it must with any registry. Names come
from `kinds.layout`; a request can name only what its index names, and blobs only by digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from sensor.errors import SensorError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.digest import Digest, is_digest
from sensor.model.manifest import parse_manifest
from sensor.model.reference import is_repository
from sensor.registry.client import check_digest
from sensor.registry.errors import RegistryNotFound
from sensor.registry.kinds.layout import Layout, media_type_of, read_layout, repository_name

_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
_MOST_PER_PAGE = 1000


class _Store:
    """The layout, read again when its index has changed."""

    def __init__(self, root: Path, repository_default: str, limits: Limits) -> None:
        self._root = root
        self._default = repository_default
        self._stamp: tuple[int, int, int] | None = None
        self._layout: Layout | None = None
        self.limits = limits

    def layout(self) -> Layout:
        found = os.stat(self._root / "index.json")  # noqa: PTH116 - one system call a request
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._layout is None or stamp != self._stamp:
            self._layout, self._stamp = read_layout(self._root, self._default, self.limits), stamp
        return self._layout


_STORE = web.AppKey("store", _Store)


def make_app(layout: Path, *, repository_default: str = "", limits: Limits = DEFAULT_LIMITS) -> web.Application:
    """The registry as an application. `repository_default` names images that bring no repository name.

    Raises:
        NotARegistry: the directory is no image layout.
    """
    store = _Store(layout, repository_default or repository_name(layout), limits)
    read_layout(layout, "images", limits)  # a mistake is told at the start, not at the first request
    app = web.Application(middlewares=[_protocol])
    app[_STORE] = store
    app.router.add_get("/v2/", _base)
    app.router.add_get("/v2/_catalog", _catalog)
    app.router.add_get(r"/v2/{name:.+}/tags/list", _tags)
    app.router.add_get(r"/v2/{name:.+}/manifests/{target}", _manifest)
    app.router.add_get(r"/v2/{name:.+}/blobs/{digest}", _blob)
    return app


@contextlib.asynccontextmanager
async def serve(
    layout: Path, host: str = "127.0.0.1", port: int = 0, *, repository_default: str = ""
) -> AsyncIterator[str]:
    """Serve a layout until the block ends; gives the base URL. Port 0 takes a free one."""
    runner = web.AppRunner(
        make_app(layout, repository_default=repository_default), access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        yield f"http://{shown}:{bound[1]}"
    finally:
        await runner.cleanup()


@web.middleware
async def _protocol(request: web.Request, handler: object) -> web.StreamResponse:
    """Errors in the protocol's form, and its version header on every answer."""
    assert callable(handler)  # noqa: S101 - aiohttp's own type for it is private
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPMethodNotAllowed:
        response = _failure(405, "UNSUPPORTED", "this registry is read-only")
    except web.HTTPNotFound:
        response = _failure(404, "NOT_FOUND", "no such path")
    except (RegistryNotFound, FileNotFoundError):
        response = _failure(404, "BLOB_UNKNOWN", "blob unknown to registry")
    except SensorError as error:
        response = _failure(500, "UNKNOWN", error.message)
    response.headers.update(_VERSION)
    return response


async def _base(_request: web.Request) -> web.Response:
    return web.json_response({})


async def _catalog(request: web.Request) -> web.Response:
    layout = await _layout(request)
    return _page(request, "/v2/_catalog", {}, "repositories", sorted(layout.images))


async def _tags(request: web.Request) -> web.Response:
    layout = await _layout(request)
    name = request.match_info["name"]
    tags = layout.images.get(name)
    if tags is None:
        return _failure(404, "NAME_UNKNOWN", "repository name not known to registry")
    return _page(request, f"/v2/{name}/tags/list", {"name": name}, "tags", sorted(tags))


async def _manifest(request: web.Request) -> web.Response:
    layout = await _layout(request)
    name, target = request.match_info["name"], request.match_info["target"]
    entry = layout.descriptor(name, target)
    if name not in layout.images or (entry is None and not is_digest(target)):
        return _failure(404, "MANIFEST_UNKNOWN", "manifest unknown")
    digest = entry.digest if entry else Digest(target)
    path = layout.blob(digest)
    limit = request.app[_STORE].limits.manifest_bytes
    if path.stat().st_size > limit:
        return _failure(404, "MANIFEST_UNKNOWN", "a blob of that size is no manifest")
    data = await asyncio.to_thread(path.read_bytes)
    check_digest(data, digest, "the manifest on disk")
    media_type = media_type_of(parse_manifest(data), entry)
    etag = f'"{digest}"'
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": etag, "Docker-Content-Digest": digest})
    return web.Response(body=data, content_type=media_type, headers={"ETag": etag, "Docker-Content-Digest": digest})


async def _blob(request: web.Request) -> web.StreamResponse:
    layout = await _layout(request)
    name, digest = request.match_info["name"], request.match_info["digest"]
    if not is_digest(digest):
        return _failure(400, "DIGEST_INVALID", "not a digest")
    if name not in layout.images:
        return _failure(404, "NAME_UNKNOWN", "repository name not known to registry")
    return web.FileResponse(
        layout.blob(Digest(digest)),
        chunk_size=1 << 20,
        headers={"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream"},
    )


async def _layout(request: web.Request) -> Layout:
    name = request.match_info.get("name", "")
    if name and not is_repository(name):
        raise web.HTTPNotFound
    return await asyncio.to_thread(request.app[_STORE].layout)


def _page(request: web.Request, path: str, body: dict[str, object], key: str, names: Sequence[str]) -> web.Response:
    """One page, in the order of the names, with a Link to the next (OCI distribution 1.1, "Listing Tags")."""
    last, wanted = request.query.get("last", ""), request.query.get("n", "")
    if wanted and not wanted.isdecimal():
        return _failure(400, "PAGINATION_NUMBER_INVALID", "n is not a number")
    size = min(int(wanted), _MOST_PER_PAGE) if wanted else _MOST_PER_PAGE
    rest = [name for name in names if name > last]
    page = rest[:size]
    headers = {}
    if page and len(rest) > len(page):
        headers["Link"] = f'<{path}?n={size}&last={quote(page[-1], safe="")}>; rel="next"'
    return web.json_response({**body, key: page}, headers=headers)


def _failure(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message, "detail": None}]}, status=status)
