"""A registry and a control plane on loopback in which things happen: images pushed, tags moved and deleted, jobs given out and cancelled.

Both fail now and then. What happens is drawn from a seeded generator; how fast is the caller's.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from aiohttp import web

from tests.fakes.control_plane import FakeControlPlane, Fault

REPOSITORIES = 20
MOST_TAGS = 300
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# -- the two servers ---------------------------------------------------------------------------------------------------------------


class Plane(FakeControlPlane):
    """A control plane that notes when heartbeats come."""

    def __init__(self) -> None:
        super().__init__()
        self.beats: list[float] = []

    def _next_fault(self, endpoint: str) -> Fault | None:
        if endpoint == "heartbeat":
            # when it comes, whatever becomes of it: a failure that was planted here is not the sensor's lateness
            self.beats.append(time.monotonic())
        # what a real server keeps in a database is not to fill this process
        self.headers.clear()
        self.requests.clear()
        self.uploads.clear()
        return super()._next_fault(endpoint)


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_layer(files: dict[str, bytes]) -> tuple[bytes, str]:
    """A compressed layer, and its diff ID."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1), sha256(buffer.getvalue())


def dpkg_status(names: Iterator[str], version: str) -> bytes:
    """A package database."""
    entry = "Package: {}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\nMaintainer: none\nDescription: none\n"
    return "\n".join(entry.format(name, version) for name in names).encode()


@dataclass
class Registry:
    """An OCI registry in memory that answers some requests badly."""

    chance: random.Random
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: float = 0.0
    """Part of the answers that are a 500, or a blob that breaks off."""
    bases: list[tuple[str, str]] = field(default_factory=list)
    made: int = 0

    def prepare(self) -> None:
        """Some base layers of a few megabytes, shared by many images."""
        for base in range(6):
            noise = {f"usr/share/base{base}/{number}": self.chance.randbytes(4096) for number in range(600)}
            status = dpkg_status((f"package-{base}-{number}" for number in range(300)), "1.0-1")
            release = b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n'
            data, diff_id = make_layer({"etc/os-release": release, "var/lib/dpkg/status": status, **noise})
            self.blobs[sha256(data)] = data
            self.bases.append((sha256(data), diff_id))

    def push(self, repository: str, tag: str) -> str:
        """A new image under a tag, which it takes from an older one if it is there."""
        self.made += 1
        base, base_id = self.chance.choice(self.bases)
        package = f"Metadata-Version: 2.1\nName: app{self.made % 50}\nVersion: 1.{self.made}\n".encode()
        noise = {f"srv/app/{number}": self.chance.randbytes(4096) for number in range(100)}
        own = {f"usr/lib/python3/dist-packages/app{self.made}.dist-info/METADATA": package, **noise}
        data, diff_id = make_layer(own)
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "config": {}, "created": "2026-01-02T03:04:05Z",
            "rootfs": {"type": "layers", "diff_ids": [base_id, diff_id]},
        }).encode()  # fmt: skip
        for blob in (data, config):
            self.blobs[sha256(blob)] = blob
        layers = [
            {"mediaType": LAYER, "digest": digest, "size": len(self.blobs[digest])} for digest in (base, sha256(data))
        ]
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
        }).encode()  # fmt: skip
        self.manifests[sha256(manifest)] = manifest
        self.tags.setdefault(repository, {})[tag] = sha256(manifest)
        return sha256(manifest)

    def collect(self) -> None:
        """Forget what no tag has named for a while, as a garbage collection does."""
        held = self.held()
        for digest in [digest for digest in self.manifests if digest not in held][:-200]:
            document = json.loads(self.manifests.pop(digest))
            for blob in (document["config"], document["layers"][-1]):
                self.blobs.pop(blob["digest"], None)

    def held(self) -> set[str]:
        """The digests that tags name."""
        return {digest for tags in self.tags.values() for digest in tags.values()}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The distribution API, read only."""
        path = request.path.removeprefix("/v2/")
        is_bad = self.chance.random() < self.faults
        if is_bad and "/blobs/" not in path:
            return web.Response(status=500)
        if path == "_catalog":
            return web.json_response({"repositories": sorted(self.tags)})
        if path.endswith("/tags/list"):
            name = path.removesuffix("/tags/list")
            return web.json_response({"name": name, "tags": sorted(self.tags.get(name, ()))})
        if "/manifests/" in path:
            name, _, wanted = path.partition("/manifests/")
            body = self.manifests.get(self.tags.get(name, {}).get(wanted, wanted))
            return missing() if body is None else content(body, MANIFEST)
        if "/blobs/" in path:
            body = self.blobs.get(path.rpartition("/")[2])
            if body is None:
                return missing()
            if not is_bad:
                return content(body, "application/octet-stream")
            broken = web.StreamResponse(headers={"Content-Length": str(len(body))})
            await broken.prepare(request)
            await broken.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.abort()
            return broken
        return web.json_response({})


def missing() -> web.Response:
    """A 404."""
    return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "gone"}]}, status=404)


def content(body: bytes, kind: str) -> web.Response:
    """A manifest or blob."""
    return web.Response(body=body, headers={"Content-Type": kind, "Docker-Content-Digest": sha256(body)})


@contextlib.asynccontextmanager
async def serving(registry: Registry) -> AsyncIterator[str]:
    """The registry's host."""
    app = web.Application()
    app.router.add_get("/{path:.*}", registry.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# -- the churn ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Churn:
    """What happens to both servers, step by step."""

    registry: Registry
    plane: Plane
    host: str
    chance: random.Random
    counts: dict[str, int] = field(default_factory=dict)

    def step(self) -> None:
        """One thing happens."""
        tagged = [(name, tag) for name, tags in self.registry.tags.items() for tag in tags]
        ways = {"push": 8, "move": 3, "delete": 4 if len(tagged) < MOST_TAGS else 16, "job": 3, "cancel": 1, "fault": 1}
        way = self.chance.choices(list(ways), list(ways.values()))[0] if len(tagged) > REPOSITORIES else "push"
        name = f"team/app{self.chance.randrange(REPOSITORIES):02}"
        repository, tag = self.chance.choice(tagged) if tagged else (name, "v0")
        self.counts[way] = self.counts.get(way, 0) + 1
        match way:
            case "push":
                self.registry.push(name, f"v{self.registry.made}")
            case "move":
                self.registry.push(repository, tag)
            case "delete":
                del self.registry.tags[repository][tag]
            case "job":
                self.plane.add_job(f"{self.host}/{repository}:{tag}")
            case "cancel":
                busy = [job.id for job in self.plane.jobs.values() if job.status == "ASSIGNED"]
                # a server may go on naming old ones, and ones that it never gave out
                self.plane.cancelled = [*busy[-1:], f"unknown-{self.registry.made}"]
            case _:
                faults = [
                    Fault(status=500, body=b'{"error":"Internal"}'), Fault(close="before"),
                    Fault(status=502, body=b"<html>Bad Gateway</html>", content_type="text/html"),
                ]  # fmt: skip
                # a poll whose answer is lost on its way takes its jobs with it, for good: that is the server's, and would only be counted here
                lasting = {"heartbeat": True, "upload": True, "status": True, "jobs": False}
                endpoint = self.chance.choice(list(lasting))
                faults += [Fault(close="after"), Fault(crash=True)] if lasting[endpoint] else []
                fault = self.chance.choice(faults)
                # one at a time: a server that always fails is another experiment
                self.plane.forgive()
                self.plane.fail(endpoint, fault)  # type: ignore[arg-type]
        self.registry.collect()
