"""A control plane on loopback that behaves as the open-source one does, traps included, and can be told to fail.

    async with FakeControlPlane() as plane:
        plane.add_job("registry.example.net/acme/app:1")
        plane.fail("upload", Fault(close="after"))

Keys, jobs, scans and images are plain attributes, for a test to look at. What is known of the real server is in the wire contract; what is recorded
from it is replayed against this fake by `test_control_plane.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal, Self

from aiohttp import web

from tests.fakes import envelope_rules as rules
from tests.fakes.envelope_rules import Crash, Image, Scan

MOST_BODY = 10 * 1024 * 1024
KEY = "hg_ak_KEY_1"
CLAIMED_AT_ONCE = 5
_ROUTES = {
    "/api/agents": ("GET", "POST"),
    "/api/agent/register": ("POST",),
    "/api/agent/heartbeat": ("POST",),
    "/api/agent/jobs": ("GET", "HEAD"),
    "/api/agent/catalog": ("POST",),
    "/api/scans/upload": ("GET", "HEAD", "POST"),
    "/api/health": ("GET", "HEAD"),
    "/api/ready": ("GET", "HEAD"),
}
Endpoint = Literal["agents", "register", "heartbeat", "jobs", "status", "upload", "ready", "health", "catalog"]


@dataclass(kw_only=True)
class Fault:
    """How an endpoint fails, `times` times in a row. One of: a `status` with `body` (before anything is stored), `hang` (no answer until the server
    closes), `close` the connection "before" or "after" the request took effect, `crash` (an empty 500 after it took effect).
    """

    status: int = 0
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    close: Literal["", "before", "after"] = ""
    crash: bool = False
    times: int = 1


@dataclass(kw_only=True)
class Agent:
    """A sensor as the server knows it: its key is its identity."""

    id: str
    name: str
    status: str = "ACTIVE"
    registration: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    heartbeats: int = 0


@dataclass(kw_only=True)
class FakeJob:
    """A job of the server."""

    id: str
    payload: dict[str, Any]
    type: str = "SCAN"
    status: str = "PENDING"
    agent: str | None = None
    scan: Scan | None = None
    error: str | None = None


class FakeControlPlane:
    """See the module. `idle_seconds` is the time after which an idle connection is closed."""

    def __init__(self, *, key: str = KEY, idle_seconds: float = 5.0) -> None:
        self.url = ""
        self.agents: dict[str, Agent] = {key: Agent(id="cidagent000000000000000000", name="fake")}
        self.jobs: dict[str, FakeJob] = {}
        self.scans: list[Scan] = []
        self.images: dict[str, Image] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[int] = set()
        """Ports of the clients seen: one a connection."""
        self.uploads: list[bytes] = []
        self.is_demo = False
        """Demo mode, for every Host header: the real server spares loopback ones."""
        self.is_production = True
        self.has_database = True
        self.cancelled: list[str] = []
        """Sent as `cancelJobs`, which the open-source server never does."""
        self.catalogues: list[dict[str, Any]] | None = None
        """Pages of catalogues; None: there is no such route, as in the open-source server."""
        self.clock_offset: float | None = None
        """Seconds by which this server's clock is ahead; None: it tells no time."""
        self.tls: ssl.SSLContext | None = None
        """Set before it starts."""
        self.arrived = asyncio.Event()
        """Set whenever a request has arrived."""
        self._idle = idle_seconds
        self._faults: dict[str, list[Fault]] = {}
        self._numbers = itertools.count(1)
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(_without_default_type)
        app.on_response_prepare.append(self._tell_time)
        self._runner = web.AppRunner(app, keepalive_timeout=self._idle, auto_decompress=False, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        assert self._runner is not None
        await self._runner.cleanup()

    # --- what a test tells it -----------------------------------------------------------------------------------------------

    def fail(self, endpoint: Endpoint, fault: Fault) -> None:
        """Let the next calls of an endpoint fail; several faults follow each other."""
        self._faults.setdefault(endpoint, []).append(fault)

    def forgive(self) -> None:
        """Let nothing fail any more."""
        self._faults.clear()

    def add_agent(self, name: str, key: str) -> Agent:
        """A further sensor with its key."""
        return self.agents.setdefault(key, Agent(id=self._id("agent"), name=name))

    def add_job(
        self, image_ref: str = "", *, job: str = "", kind: str = "SCAN", with_scan: bool = True, **scan: Any
    ) -> FakeJob:
        """Queue a job as the dashboard does; `scan` are more fields of its payload."""
        payload = {"scan": {"imageRef": image_ref, "source": "registry", **scan}} if image_ref or scan else {}
        added = FakeJob(id=job or self._id("job"), payload=payload, type=kind)
        if with_scan:
            image = Image(id=self._id("img"), name=image_ref, tag="latest", digest=f"pending:{image_ref}:{added.id}")
            self.images[image.digest] = image
            added.scan = Scan(id=self._id("scan"), request_id=self._id("request"), image_id=image.id)
            self.scans.append(added.scan)
        self.jobs[added.id] = added
        return added

    def claim(self, job: str, key: str = KEY) -> None:
        """Assign a job without a poll."""
        self.jobs[job].status, self.jobs[job].agent = "ASSIGNED", self.agents[key].id

    def scan_of(self, request_id: str) -> Scan | None:
        """The standalone scan with a request id."""
        return next((scan for scan in self.scans if scan.request_id == request_id), None)

    @property
    def standalone(self) -> list[Scan]:
        """Scans that no job has asked for."""
        of_jobs = [job.scan for job in self.jobs.values()]
        return [scan for scan in self.scans if scan not in of_jobs]

    # --- the server ---------------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        self.requests.append((request.method, request.raw_path))
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        body = await request.read()
        self.arrived.set()
        endpoint = _endpoint(path)
        fault = self._next_fault(endpoint)
        if fault is not None and (answer := await self._before(request, fault)) is not None:
            return answer
        answer = self._route(request, path, endpoint, body[:MOST_BODY])
        if fault is not None and fault.close == "after":
            request.transport.abort()
        return _bare(500) if fault is not None and fault.crash else answer

    async def _tell_time(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers.popall("Date", None)
        if self.clock_offset is not None:
            response.headers["Date"] = formatdate(time.time() + self.clock_offset, usegmt=True)

    def _next_fault(self, endpoint: str) -> Fault | None:
        waiting = self._faults.get(endpoint) or []
        if not waiting:
            return None
        waiting[0].times -= 1
        return waiting.pop(0) if waiting[0].times <= 0 else waiting[0]

    async def _before(self, request: web.Request, fault: Fault) -> web.Response | None:
        assert request.transport is not None
        if fault.hang:
            await self._closing.wait()
            return _bare(503)
        if fault.close == "before":
            request.transport.abort()
            return _bare(500)
        if fault.status:
            headers = {**fault.headers, **({"Content-Type": fault.content_type} if fault.body else {})}
            return web.Response(status=fault.status, body=fault.body, headers=headers)
        return None

    def _route(  # noqa: PLR0911 - one return a route
        self, request: web.Request, path: str, endpoint: str, body: bytes
    ) -> web.Response:
        clean = "/" + "/".join(part for part in path.split("/") if part)
        if clean != path:
            return _bare(308, clean, Location=clean)
        methods = ("POST",) if endpoint == "status" else _ROUTES.get(path)
        if methods is None or (endpoint == "catalog" and self.catalogues is None):
            return web.Response(
                status=404, text="<!DOCTYPE html><html></html>", content_type="text/html", charset="utf-8"
            )
        if self.is_demo and request.method not in {"GET", "HEAD", "OPTIONS"}:
            return _json(
                {"error": "Demo mode is enabled", "message": "read only", "allowedMethods": ["GET", "HEAD"]}, 403
            )
        if request.method not in methods:
            return _bare(405)
        match endpoint:
            case "ready":
                ready = {"status": "ready", "timestamp": "2026-01-01T00:00:00.000Z", "enabledScanners": 6}
                return _json(ready if self.has_database else {"status": "not ready"}, 200 if self.has_database else 503)
            case "health":
                return _json(_health())
            case "agents":
                return self._agents(request, body)
            case "upload":
                return self._upload(request, body)
        return self._agent_call(request, path, endpoint, body)

    def _agents(self, request: web.Request, body: bytes) -> web.Response:
        if request.method == "GET":
            return _json(
                [{"id": agent.id, "name": agent.name, "status": agent.status} for agent in self.agents.values()]
            )
        try:
            name = _parse(body)["name"] if isinstance(_parse(body), dict) and "name" in _parse(body) else ""
        except ValueError:
            return _json({"error": "Failed to create agent"}, 500)
        if not isinstance(name, str) or not name:
            return _json({"error": "Agent name is required"}, 400)
        key = f"hg_ak_{next(self._numbers):032x}"
        agent = self.add_agent(name, key)
        return _json({"id": agent.id, "name": name, "apiKey": key}, 201)

    def _agent_call(self, request: web.Request, path: str, endpoint: str, body: bytes) -> web.Response:
        agent = self._authenticate(request)
        if isinstance(agent, web.Response):
            return agent
        if endpoint == "jobs":
            return _json({"jobs": self._poll(agent)} | ({"cancelJobs": self.cancelled} if self.cancelled else {}))
        failed = {
            "register": "Registration failed",
            "heartbeat": "Heartbeat failed",
            "status": "Failed to update job status",
            "catalog": "Catalog failed",
        }[endpoint]
        try:
            document = _parse(body)
            if document is None:
                raise ValueError(document)
            document = document if isinstance(document, dict) else {}
            rules.require_whole_text(document)
            if endpoint == "register":
                return self._register(agent, document)
            if endpoint == "catalog":
                assert self.catalogues is not None
                self.catalogues.append(document)
                return _json({"ok": True})
            if endpoint == "heartbeat":
                agent.heartbeats += 1
                agent.metadata, agent.status = document, "ACTIVE"
                return _json({"ok": True})
            return self._status(agent, path.split("/")[4], document)
        except (ValueError, Crash):
            return _json({"error": failed}, 500)

    def _authenticate(self, request: web.Request) -> Agent | web.Response:
        header = request.headers.get("Authorization", "")
        if not header.startswith("Bearer "):
            return _json({"error": "Missing Authorization header"}, 401)
        if not self.has_database:
            return _json({"error": "Failed to poll jobs"}, 500)
        agent = self.agents.get(header[len("Bearer ") :])
        if agent is None or agent.status == "INACTIVE":
            return _json({"error": "Invalid API key"}, 401)
        return agent

    def _register(self, agent: Agent, document: dict[str, Any]) -> web.Response:
        for name in ("hostname", "os", "arch", "version"):
            rules.text(document.get(name))
        for entry in document.get("capabilities") or []:
            rules.text(entry, required=True)
        if not isinstance(document.get("s3Configured", False), bool):
            raise Crash("s3Configured is no boolean")
        agent.registration, agent.status = document, "ACTIVE"
        return _json({"agentId": agent.id})

    def _poll(self, agent: Agent) -> list[dict[str, Any]]:
        waiting = [job for job in self.jobs.values() if job.status == "PENDING" and job.agent in {None, agent.id}]
        may = agent.registration.get("capabilities") or []
        claimed = []
        for job in waiting[:CLAIMED_AT_ONCE]:
            # filtered after the limit: five patch jobs at the head starve the scans behind them
            if job.type.upper() == "PATCH" and "patch" not in may:
                continue
            job.status, job.agent = "ASSIGNED", agent.id
            claimed.append({"id": job.id, "type": job.type, "createdAt": "2026-05-22T18:04:11.532Z", **job.payload})
        return claimed

    def _status(self, agent: Agent, job_id: str, document: dict[str, Any]) -> web.Response:
        status = document.get("status")
        if status not in {"completed", "failed"}:
            return _json({"error": 'Status must be "completed" or "failed"'}, 400)
        job = self.jobs.get(job_id)
        if job is None:
            return _json({"error": "Job not found"}, 404)
        if job.agent != agent.id:
            return _json({"error": "Job not assigned to this agent"}, 403)
        if job.status in {"COMPLETED", "FAILED"}:
            return _json({"error": "Job already finalized"}, 409)
        job.error = rules.text(document.get("error"))
        job.status = str(status).upper()
        return _json({"ok": True})

    def _upload(self, request: web.Request, body: bytes) -> web.Response:
        if request.method != "POST":
            return _json({"message": "upload endpoint"})
        source = "upload"
        if request.headers.get("Authorization", "").startswith("Bearer "):
            if not self.has_database:
                return _json({"error": "Error uploading scan data"}, 500)
            agent = self._authenticate(request)
            if isinstance(agent, web.Response):
                return agent
            source = "sensor"
        elif self.is_production and not _is_local(request):
            return _json({"error": "Access denied: provide an API key or call from localhost"}, 403)
        try:
            envelope = _parse(body)
            if envelope is None:
                raise ValueError(envelope)
        except ValueError:
            return _json({"error": "Error uploading scan data"}, 500)
        # the legacy form, in which nothing valid is sent here; `{}` is truthy in JavaScript
        findings = envelope.get("findings") if isinstance(envelope, dict) else None
        if not isinstance(envelope, dict) or envelope.get("version") != "1.0" or not (findings or findings == {}):
            details = [{"expected": "object", "code": "invalid_type", "path": [], "message": "Invalid input"}]
            return _json({"error": "Validation error", "details": details}, 400)
        self.uploads.append(body)
        try:
            return self._store(envelope, source)
        except Crash:
            return _bare(500)

    def _store(self, envelope: dict[str, Any], source: str) -> web.Response:
        scan_part, image = envelope.get("scan") or {}, envelope.get("image")
        if not scan_part.get("id"):
            return _json({"error": "Missing scan.id in envelope"}, 400)
        if not isinstance(scan_part["id"], str) or not isinstance(image, dict):
            raise Crash("scan.id or image")
        if not self.has_database:
            raise Crash("no database")
        rules.require_whole_text(envelope)
        job = self.jobs.get(scan_part["id"])
        size = rules.big_integer(image.get("sizeBytes"))
        score = rules.risk_score(envelope)
        finished = rules.moment(scan_part, "finishedAt") if "finishedAt" in scan_part else "now"
        if job is not None and job.scan is not None and job.scan in self.scans:
            scan, status = job.scan, 200
            self._update_image(scan, image, size)
        else:
            if (existing := self.scan_of(scan_part["id"])) is not None:
                return _json({"error": "Scan with this requestId already exists", "scanId": existing.id}, 409)
            scan, status = self._standalone(scan_part, image, size), 201
        scan.status, scan.risk_score, scan.finished_at = rules.final_status(scan_part.get("status")), score, finished
        scan.source = source
        rules.ingest(scan, envelope)
        return _json({"success": True, "scanId": scan.id, "imageId": scan.image_id}, status)

    def _update_image(self, scan: Scan, image: dict[str, Any], size: int | None) -> None:
        """One update for digest, platform and size, whose failure is swallowed."""
        row = next(row for row in self.images.values() if row.id == scan.image_id)
        try:
            digest = rules.text(image.get("digest"), indexed="") or row.digest
            platform = rules.text(image.get("platform"))
        except Crash:
            return
        if digest in self.images and self.images[digest] is not row:
            return
        del self.images[row.digest]
        row.digest, row.platform, row.size_bytes = digest, platform, size
        self.images[digest] = row

    def _standalone(self, part: dict[str, Any], image: dict[str, Any], size: int | None) -> Scan:
        rules.moment(part, "startedAt")
        if part.get("status") not in {None, *rules.RAW_STATUSES}:
            raise Crash("status")
        name = rules.text(image.get("name") or "unknown", indexed="") or ""
        tag = rules.text(image.get("tag") or "latest", indexed="") or ""
        digest = rules.text(image.get("digest") or f"sensor:{part['id']}", indexed="") or ""
        platform = rules.text(image.get("platform"))
        rules.text(part["id"], indexed="")
        row = self.images.setdefault(digest, Image(id=self._id("img"), name=name, tag=tag, digest=digest))
        row.name, row.tag, row.platform, row.size_bytes = name, tag, platform, size
        scan = Scan(id=self._id("scan"), request_id=part["id"], image_id=row.id)
        self.scans.append(scan)
        return scan

    def _id(self, kind: str) -> str:
        return f"cid{kind}{next(self._numbers):020d}"


def _endpoint(path: str) -> str:
    parts = path.strip("/").split("/")
    if parts[:3] == ["api", "agent", "jobs"] and len(parts) == 5 and parts[4] == "status":
        return "status"
    return parts[-1]


def _parse(body: bytes) -> Any:
    """As `request.json()` does: undecodable bytes are replaced, NaN is no JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(body.decode("utf-8", "replace"), parse_constant=refuse)


def _is_local(request: web.Request) -> bool:
    forwarded = request.headers.get("X-Forwarded-For", "")
    address = forwarded.partition(",")[0].strip() if forwarded else (request.remote or "localhost")
    if address.startswith("172."):
        return 16 <= int(address.split(".")[1]) <= 31
    return address in {"127.0.0.1", "::1", "localhost", "::ffff:127.0.0.1"} or address.startswith("10.")


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(document).encode(), headers={"Content-Type": "application/json"})


def _bare(status: int, text: str = "", **headers: str) -> web.Response:
    """An answer without a Content-Type."""
    return web.Response(status=status, body=text.encode(), headers={**headers, "X-Bare": "1"})


async def _without_default_type(_: web.Request, response: web.StreamResponse) -> None:
    if response.headers.popall("X-Bare", None):
        response.headers.popall("Content-Type", None)


def _health() -> dict[str, Any]:
    scanners = ["trivy", "grype", "syft", "dockle", "osv", "dive"]
    return {
        "status": "healthy",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "version": "0.2b",
        "uptime": 1.0,
        "checks": {
            "database": {"status": "healthy", "responseTime": 0},
            "scanners": {"status": "healthy", "enabled": scanners, "total": 6},
            "configuration": {
                "status": "healthy",
                "port": 3456,
                "logLevel": "info",
                "maxConcurrentScans": 1,
                "scanTimeout": 30,
                "cleanupDays": 30,
                "notifications": False,
                "versionCheckEnabled": False,
            },
            "cleanup": {"status": "healthy", "oldScans": 0, "totalScans": 833},
        },
    }
