"""What it costs to look at a large registry: a first crawl, and a second one of the same, unchanged.

    python -m benchmarks.poll [--repositories 2000] [--tags 100] [--providers acr,gar,harbor,distribution] [--output FILE]

Each provider's registry is imitated by a small server in a process of its own, with answers made beforehand, so that its CPU is in nobody's
figure. The sensor's side is the daemon's own: crawl, comparison, state database and queue on disk. Each provider is measured in a fresh
process; CPU is that process's, with all its threads, memory its peak. Nothing is pulled.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from sensor.config.schema import Config
from sensor.daemon.app import build_app
from sensor.model.request import Lane, SweepRequest
from sensor.work.lanes import ALL_LANES

DIGEST_LISTING = ("acr", "gar", "harbor")
"""Providers whose listing tells digests; `distribution` does not, and costs a HEAD a tag."""
HEADS = 10
"""`distribution` is measured with a tenth of the repositories: its cost is per tag."""


def main() -> None:
    """Measure each provider and print the table; or be one of the two processes behind it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=2000)
    parser.add_argument("--tags", type=int, default=100)
    parser.add_argument("--providers", default="acr,gar,harbor,distribution")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--crawl", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.repositories, options.tags))
    elif options.crawl:
        print(json.dumps(asyncio.run(crawl(*options.crawl.split(" ")))))
    else:
        rows = [measure(name, options.repositories, options.tags) for name in options.providers.split(",")]
        text = report(rows)
        print(text)
        if options.output:
            options.output.write_text(text + "\n")


# -- the sensor's side -------------------------------------------------------------------------------------------------------


async def crawl(provider: str, address: str) -> list[dict[str, float]]:
    """Two sweeps by the daemon's own parts, in this process."""
    logins: dict[str, dict[str, Any]] = {
        "acr": {"username": "token", "password": "p"},
        "gar": {"username": "oauth2accesstoken", "password": "p", "api": {"url": f"http://{address}"}},
        "harbor": {"username": "robot$bench", "password": "p"},
    }
    url = f"http://{address}/project/repository" if provider == "gar" else f"http://{address}"
    registry = {"name": "bench", "url": url, "provider": provider, "insecure": True, **logins.get(provider, {})}
    found = []
    with tempfile.TemporaryDirectory(prefix="bench.") as state:
        config = Config.model_validate({"registries": [registry], "state": {"directory": state}})
        async with build_app(config) as app:
            for _ in range(2):
                cpu, began = time.process_time(), time.monotonic()
                await app.queue.put(SweepRequest(registry="bench"), Lane.NOW)
                item = await app.queue.take("bench", ALL_LANES)
                assert item is not None
                assert isinstance(item.work, SweepRequest)
                await app.pipeline.sweep(item.work, item)
                status = app.board.snapshot(app.clock()).registries[0]
                if status.error:
                    sys.exit(f"{provider}: {status.error} {status.advice}")
                counts = await app.queue.counts()
                found.append({
                    "wall": time.monotonic() - began,
                    "cpu": time.process_time() - cpu,
                    "requests": status.requests,
                    "tags": status.tags,
                    "queued": counts[Lane.NEW].waiting,
                    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                })  # fmt: skip
    return found


def measure(provider: str, repositories: int, tags: int) -> tuple[str, list[dict[str, float]]]:
    """Start the server, crawl in a process of its own, end the server."""
    if provider not in DIGEST_LISTING:
        repositories = max(1, repositories // HEADS)
    with served(provider, repositories, tags) as address:
        command = [sys.executable, "-m", "benchmarks.poll", "--crawl", f"{provider} {address}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return provider, json.loads(done.stdout.splitlines()[-1])


@contextmanager
def served(provider: str, repositories: int, tags: int) -> Iterator[str]:
    """The imitated registry's address, while it runs."""
    command = [sys.executable, "-m", "benchmarks.poll", "--serve", provider]
    command += ["--repositories", str(repositories), "--tags", str(tags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def report(rows: list[tuple[str, list[dict[str, float]]]]) -> str:
    """A table in Markdown."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        "",
        "| provider | crawl | tags | requests | requests per tag | wall s | CPU s | tags per CPU second | peak MiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for provider, crawls in rows:
        for name, one in zip(("first", "second"), crawls, strict=True):
            lines.append(
                f"| {provider} | {name} | {one['tags']:,} | {one['requests']:,} | {one['requests'] / one['tags']:.4f} "
                f"| {one['wall']:.1f} | {one['cpu']:.1f} | {one['tags'] / one['cpu']:,.0f} | {one['peak']:.0f} |"
            )
    return "\n".join(lines)


# -- the registries ----------------------------------------------------------------------------------------------------------


def digest_of(repository: int, tag: int) -> str:
    """Every tag is another image."""
    return "sha256:" + hashlib.sha256(f"{repository} {tag}".encode()).hexdigest()


async def serve(provider: str, repositories: int, tags: int) -> None:
    """Answer until the process is ended."""
    app = web.Application()
    answer = {"acr": acr, "gar": gar, "harbor": harbor, "distribution": distribution}[provider](repositories, tags)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


Answer = Callable[[web.Request], Any]


def acr(repositories: int, tags: int) -> Answer:
    """`/acr/v1`: a thousand names or tags a page, digests told."""
    names = [f"team/app{number:05}" for number in range(repositories)]
    pages = {
        name: _json({
            "registry": "bench", "imageName": name,
            "tags": [
                {
                    "name": f"v{tag}", "digest": digest_of(number, tag), "createdTime": "2026-01-02T03:04:05.6789Z",
                    "lastUpdateTime": "2026-01-02T03:04:05.6789Z", "signed": False,
                    "changeableAttributes": {"deleteEnabled": True, "writeEnabled": True, "readEnabled": True, "listEnabled": True},
                }
                for tag in range(tags)
            ],
        })
        for number, name in enumerate(names)
    }  # fmt: skip

    async def answer(request: web.Request) -> web.Response:
        path = request.path
        if path == "/oauth2/token":
            return web.json_response({"access_token": "t", "token": "t", "expires_in": 3600})
        if "Authorization" not in request.headers:
            host = request.host
            challenge = f'Bearer realm="http://{host}/oauth2/token",service="{host}"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if path.endswith("/_catalog"):
            last, size = request.query.get("last", ""), min(int(request.query.get("n", 100)), 1000)
            left = [name for name in names if name > last]
            more = f'<{path}?last={left[size - 1]}&n={size}&orderby=>; rel="next"' if len(left) > size else ""
            return _body(_json({"repositories": left[:size]}), {"Link": more} if more else {})
        if path.endswith("/_tags"):
            return _body(pages[path.removeprefix("/acr/v1/").removesuffix("/_tags")])
        return _body(b"{}")

    return answer


def gar(repositories: int, tags: int) -> Answer:
    """`dockerImages`: one list of all images of a repository, a thousand a page."""
    place = "projects/project/locations/europe/repositories/repository"

    def image(number: int) -> dict[str, object]:
        name, tag = divmod(number, tags)
        digest = digest_of(name, tag)
        uri = f"europe-docker.pkg.dev/project/repository/app{name:05}@{digest}"
        return {
            "name": f"{place}/dockerImages/app{name:05}@{digest}", "uri": uri, "tags": [f"v{tag}"], "imageSizeBytes": "1000",
            "uploadTime": "2026-01-02T03:04:05.678912Z", "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "updateTime": "2026-01-02T03:04:05.678912Z",
        }  # fmt: skip

    whole = repositories * tags
    pages = {
        start: _json({
            "dockerImages": [image(number) for number in range(start, min(start + 1000, whole))],
            **({"nextPageToken": str(start + 1000)} if start + 1000 < whole else {}),
        })
        for start in range(0, whole, 1000)
    }  # fmt: skip

    async def answer(request: web.Request) -> web.Response:
        path = request.path
        if path == "/v2/token":
            return web.json_response({"token": "t", "expires_in": 3600})
        if path.endswith("/dockerImages"):
            return _body(pages[int(request.query.get("pageToken") or 0)])
        if path.endswith("/locations"):
            return web.json_response(
                {"locations": [{"name": "projects/project/locations/europe", "locationId": "europe"}]}
            )
        if path.endswith(("/repositories/repository", "/repositories")):
            one = {"name": place, "format": "DOCKER", "mode": "STANDARD_REPOSITORY"}
            return web.json_response(one if path.endswith("/repository") else {"repositories": [one]})
        if "Authorization" not in request.headers:
            challenge = f'Bearer realm="http://{request.host}/v2/token",service="{request.host}"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return _body(b"{}")

    return answer


def harbor(repositories: int, tags: int) -> Answer:
    """`/api/v2.0`: a hundred repositories or artifacts a page."""
    pages = {
        f"app{number:05}": [
            {
                "digest": digest_of(number, tag), "type": "IMAGE", "media_type": "application/vnd.oci.image.config.v1+json",
                "manifest_media_type": "application/vnd.oci.image.manifest.v1+json", "size": 1000, "references": None,
                "push_time": "2026-01-02T03:04:05.678Z",
                "tags": [{"name": f"v{tag}", "push_time": "2026-01-02T03:04:05.678Z", "immutable": False}],
            }
            for tag in range(tags)
        ]
        for number in range(repositories)
    }  # fmt: skip
    listed = [{"name": f"team/{name}", "artifact_count": tags, "project_id": 1} for name in pages]
    ready = {name: [_json(page[at : at + 100]) for at in range(0, len(page), 100)] for name, page in pages.items()}

    async def answer(request: web.Request) -> web.Response:
        path = request.path
        if "Authorization" not in request.headers:
            challenge = f'Bearer realm="http://{request.host}/service/token",service="harbor-registry"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        page = int(request.query.get("page", 1)) - 1
        if path.endswith("/artifacts"):
            name = path.rsplit("/", 2)[1]
            bodies = ready[name]
            body = bodies[page] if page < len(bodies) else b"[]"
            return _body(body, {"X-Total-Count": str(len(pages[name]))})
        if path.endswith("/repositories"):
            return _body(_json(listed[page * 100 : page * 100 + 100]), {"X-Total-Count": str(len(listed))})
        if path.endswith("/projects"):
            one = [
                {
                    "project_id": 1,
                    "name": "team",
                    "registry_id": None,
                    "repo_count": len(listed),
                    "metadata": {"public": "false"},
                }
            ]
            return _body(_json(one if page == 0 else []), {"X-Total-Count": "1"})
        if path.endswith("/projects/team"):
            return _body(_json({"project_id": 1, "name": "team", "registry_id": None, "metadata": {"public": "false"}}))
        return _body(b"{}")

    return answer


def distribution(repositories: int, tags: int) -> Answer:
    """Catalogue and tag lists, and a HEAD a tag."""
    names = [f"team/app{number:05}" for number in range(repositories)]
    lists = {name: _json({"name": name, "tags": [f"v{tag}" for tag in range(tags)]}) for name in names}

    async def answer(request: web.Request) -> web.Response:
        path = request.path
        if path == "/v2/_catalog":
            return _body(_json({"repositories": names}))
        if path.endswith("/tags/list"):
            return _body(lists[path.removeprefix("/v2/").removesuffix("/tags/list")])
        if "/manifests/" in path:
            name, _, tag = path.rpartition("/")
            digest = digest_of(int(name.removesuffix("/manifests")[-5:]), int(tag.removeprefix("v")))
            kind = "application/vnd.oci.image.manifest.v1+json"
            return web.Response(
                headers={"Docker-Content-Digest": digest, "Content-Type": kind, "Content-Length": "500"}
            )
        return _body(b"{}")

    return answer


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _body(body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, headers=headers, content_type="application/json")


if __name__ == "__main__":
    main()
