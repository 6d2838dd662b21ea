"""The console's endpoints: the sensor's side of the protocol, and JSON for people and scripts.

Reads what came in strictly (a wrong type is 400 with the name of the field), asks the store, and shows the answer. Who may call is
decided before, in `auth`. Section numbers are those of the control-plane contract.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from sensor.config.notation import has_host, split_url
from sensor.console.auth import current_agent
from sensor.console.results import list_findings, list_images, show_image, store_envelope
from sensor.console.store import ConsoleError, ConsoleStore, host_of
from sensor.control_plane.wire import Envelope, clean_text

STORE: web.AppKey[ConsoleStore] = web.AppKey("store", ConsoleStore)

MOST_BYTES = 10 * 1024 * 1024
"""Of one request's body, inflated; the open-source control plane cuts bodies off here."""
_SMALL_BODY = 256 * 1024
"""Everything but an envelope fits in here."""

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A request's body; unknown members are ignored, a null counts as absent."""


class _NewAgent(_Document, frozen=True):
    name: _Name


class _Register(_Document, frozen=True):
    hostname: str | None = None
    os: str | None = None
    arch: str | None = None
    version: str | None = None
    scanner_versions: dict[str, str] = {}
    capabilities: tuple[str, ...] = ()
    s3_configured: bool = False


class _Heartbeat(_Document, frozen=True):
    status: str = "idle"
    active_scans: _Count = 0
    uptime_seconds: _Count = 0


class _JobStatus(_Document, frozen=True):
    status: str = ""
    error: str = ""


class _NewJob(_Document, frozen=True):
    reference: _Name
    registry_id: str = ""
    scanners: tuple[str, ...] = ()


Provider: TypeAlias = Literal[
    "AUTO", "DOCKER_HUB", "GHCR", "AWS_ECR", "AZURE_ACR", "GOOGLE_GAR", "GITLAB", "HARBOR", "JFROG", "QUAY", "NEXUS",
    "DOCKER_REGISTRY", "CUSTOM",
]  # fmt: skip
"""The hosted product's names."""


class _NewRegistry(_Document, frozen=True):
    url: _Name
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    provider: Provider = "AUTO"
    scan_method: Literal["sensor"] = "sensor"


_Body = TypeVar("_Body", bound=msgspec.Struct)


def routes() -> list[web.RouteDef]:
    """All endpoints."""
    # HEAD on the job poll would claim jobs and lose them, so no GET of a sensor answers HEAD
    return [
        web.get("/api/health", _health),
        web.get("/api/ready", _ready),
        web.post("/api/agent/register", _register),
        web.post("/api/agent/heartbeat", _heartbeat),
        web.get("/api/agent/jobs", _poll, allow_head=False),
        web.post("/api/agent/jobs/{job}/status", _job_status),
        web.post("/api/scans/upload", _upload),
        web.get("/api/agents", _agents),
        web.post("/api/agents", _create_agent),
        web.get("/api/registries", _registries),
        web.post("/api/registries", _connect_registry),
        web.get("/api/registries/{registry}/sensor-status", _sensor_status),
        web.get("/api/jobs", _jobs),
        web.post("/api/jobs", _create_job),
        web.get("/api/images", _images),
        web.get("/api/images/{digest}", _image),
        web.get("/api/findings", _findings),
    ]


def reply(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


# --- bodies -----------------------------------------------------------------------------------------------------------------------


async def _read(request: web.Request, kind: type[_Body]) -> _Body:
    return parse_body(await _read_bytes(request, _SMALL_BODY), kind)


async def _read_bytes(request: web.Request, most: int) -> bytes:
    body = await request.read()
    if len(body) > most:
        raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=len(body))
    return body


def parse_body(body: bytes, kind: type[_Body]) -> _Body:
    """Read a JSON body strictly, without nulls and NUL characters.

    Raises:
        ConsoleError: not JSON, or a member of a wrong type (400, with the member's path).
    """
    try:
        return msgspec.convert(_clean(msgspec.json.decode(body)), type=kind, strict=True)
    except msgspec.ValidationError as error:
        text, field = _explain(str(error))
        raise ConsoleError(400, text, field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConsoleError(400, "The body is not JSON in UTF-8, or is nested too deeply") from error


def parse_envelope(body: bytes) -> Envelope:
    """Read an envelope (section 5.3).

    Raises:
        ConsoleError: not an envelope 1.0 (400, with the member's path).
    """
    return parse_body(body, Envelope)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        # topFiles has numbers in some sensors and text in others, and nothing here shows it
        return {
            clean_text(key): [] if key == "topFiles" else _clean(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_clean(item) for item in value if item is not None]
    return value


def _explain(message: str) -> tuple[str, str]:
    """The complaint and the path of the member it is about, out of "Expected `int`, got `str` - at `$.scan.id`"."""
    text, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    if "missing required field `" in text:
        member = text.partition("missing required field `")[2].rstrip("`")
        path = f"{path}.{member}" if path else member
        text = "Missing"
    return text, path


def _page(request: web.Request, default: int = 500, most: int = 5000) -> tuple[int, int]:
    numbers = []
    for name, fallback, highest in (("limit", default, most), ("offset", 0, 2**53)):
        text = request.query.get(name, str(fallback))
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= highest):
            raise ConsoleError(400, f"Expected a number from 0 to {highest}", name)
        numbers.append(int(text))
    return numbers[0], numbers[1]


# --- sensors ----------------------------------------------------------------------------------------------------------------------


async def _register(request: web.Request) -> web.Response:
    """Section 3.3; the answer also names the bound registry, as the hosted product does."""
    document = await _read(request, _Register)
    registry = await request.app[STORE].register(current_agent(), msgspec.to_builtins(document))
    bound = {"registryId": registry["id"], "registryUrl": registry["url"]} if registry is not None else {}
    return reply({"agentId": current_agent(), **bound})


async def _heartbeat(request: web.Request) -> web.Response:
    """Section 3.4."""
    document = await _read(request, _Heartbeat)
    busy = max(document.active_scans, 1 if document.status == "scanning" else 0)
    await request.app[STORE].beat(current_agent(), busy, document.uptime_seconds)
    return reply({"ok": True})


async def _poll(request: web.Request) -> web.Response:
    """Section 4.1."""
    return reply({"jobs": await request.app[STORE].claim_jobs(current_agent())})


async def _job_status(request: web.Request) -> web.Response:
    """Section 4.5, its checks in its order."""
    document = await _read(request, _JobStatus)
    if document.status not in {"completed", "failed"}:
        raise ConsoleError(400, 'Status must be "completed" or "failed"', "status")
    outcome: Literal["completed", "failed"] = "completed" if document.status == "completed" else "failed"
    await request.app[STORE].finish_job(current_agent(), request.match_info["job"], outcome, document.error)
    return reply({"ok": True})


async def _upload(request: web.Request) -> web.Response:
    """Section 5; unlike there a repeated upload replaces the first."""
    envelope = parse_envelope(await _read_bytes(request, MOST_BYTES))
    stored = await store_envelope(request.app[STORE], current_agent(), envelope)
    return reply(
        {"success": True, "scanId": stored.scan, "imageId": stored.image}, status=201 if stored.created else 200
    )


# --- people and scripts -----------------------------------------------------------------------------------------------------------


async def _health(_request: web.Request) -> web.Response:
    return reply({"status": "healthy"})


async def _ready(request: web.Request) -> web.Response:
    await request.app[STORE].find_key("")  # is the database there? an error becomes 503
    return reply({"status": "ready"})


async def _agents(request: web.Request) -> web.Response:
    """Section 3.2: a bare list."""
    return reply(await request.app[STORE].agents())


async def _create_agent(request: web.Request) -> web.Response:
    """Section 3.1."""
    document = await _read(request, _NewAgent)
    agent, key = await request.app[STORE].create_agent(document.name)
    return reply({"id": agent, "name": document.name, "apiKey": key.reveal()}, status=201)


async def _registries(request: web.Request) -> web.Response:
    return reply({"registries": await request.app[STORE].registries()})


async def _connect_registry(request: web.Request) -> web.Response:
    """The wizard's last step in sensor mode: the registry, and its sensor's key for this once."""
    document = await _read(request, _NewRegistry)
    url = split_url(document.url)
    if url is None or url.scheme not in {"", "http", "https"} or not has_host(url) or url.query or url.fragment:
        raise ConsoleError(400, "Expected host[:port], http://host or https://host", "url")
    if "@" in url.netloc:
        raise ConsoleError(400, "Credentials stay with the sensor: leave them out of the URL", "url")
    name = document.name.strip() or host_of(document.url)
    made = await request.app[STORE].connect_registry(name, document.url, document.provider)
    shown = {"id": made.id, "name": name, "url": document.url, "provider": document.provider, "scanMethod": "sensor"}
    return reply({**shown, "agentId": made.agent, "sensorApiKey": made.key.reveal()}, status=201)


async def _sensor_status(request: web.Request) -> web.Response:
    """Waiting until the first heartbeat, then online, scanning or offline."""
    wanted = request.match_info["registry"]
    found = [registry for registry in await request.app[STORE].registries() if registry["id"] == wanted]
    if not found:
        raise ConsoleError(404, "There is no such registry")
    return reply(found[0]["sensor"])


async def _jobs(request: web.Request) -> web.Response:
    limit, _ = _page(request)
    return reply({"jobs": await request.app[STORE].jobs(limit)})


async def _create_job(request: web.Request) -> web.Response:
    document = await _read(request, _NewJob)
    job = await request.app[STORE].add_job(document.reference, document.registry_id or None, document.scanners)
    return reply(job, status=201)


async def _images(request: web.Request) -> web.Response:
    return reply(await list_images(request.app[STORE], *_page(request)))


async def _image(request: web.Request) -> web.Response:
    return reply(await show_image(request.app[STORE], request.match_info["digest"]))


async def _findings(request: web.Request) -> web.Response:
    return reply(await list_findings(request.app[STORE], request.query, *_page(request)))
