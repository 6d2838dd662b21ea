"""What the console remembers: keys, agents, registries and jobs, in its own SQLite file beside which no sensor state lives.

A job is handed out in one write transaction, so that two polls never get the same one, and under a lease: when its sensor is silent for ten
minutes the next poll may take it. Leaves scan results to `results`, and HTTP to `views`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    and_,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.console.auth import Role, digest_key, mint_key
from sensor.errors import DataError, SensorError
from sensor.model.reference import parse_reference
from sensor.secret import Secret
from sensor.storage import Storage

METADATA = MetaData()

KEYS = Table(
    "keys",
    METADATA,
    Column("digest", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("agent", ForeignKey("agents.id", ondelete="CASCADE")),
    Column("created_at", Float, nullable=False),
)
AGENTS = Table(
    "agents",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("registry", ForeignKey("registries.id", ondelete="CASCADE")),
    Column("created_at", Float, nullable=False),
    Column("registered_at", Float),
    Column("seen_at", Float),
    Column("beat_at", Float),
    Column("busy", Integer, nullable=False, default=0),
    Column("uptime", Integer, nullable=False, default=0),
    Column("about", JSON, nullable=False, default=dict),
)
REGISTRIES = Table(
    "registries",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("url", String, nullable=False),
    Column("host", String, nullable=False, index=True),
    Column("provider", String, nullable=False),
    Column("created_at", Float, nullable=False),
)
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String, primary_key=True),
    Column("reference", String, nullable=False),
    Column("scanners", JSON, nullable=False),
    Column("registry", ForeignKey("registries.id", ondelete="CASCADE")),
    Column("agent", ForeignKey("agents.id", ondelete="SET NULL")),
    Column("status", String, nullable=False, index=True),
    Column("created_at", Float, nullable=False),
    Column("assigned_at", Float),
    Column("completed_at", Float),
    Column("error", String, nullable=False, default=""),
)

JOBS_PER_POLL = 5
SILENT_SECONDS = 120.0
"""A sensor that says nothing for this long is offline."""
LEASE_SECONDS = 600.0
"""A job of a sensor that says nothing for this long is handed out again."""
STALE_CLAIM_SECONDS = 6 * 3600.0
"""A job that a living sensor has not answered for so long was lost on its way (an answer to a poll may never arrive)."""

Clock = Callable[[], datetime]


class ConsoleError(SensorError):
    """A request that cannot be granted; `status` is the HTTP status that says so."""

    def __init__(self, status: int, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRegistry:
    """A registry that was just connected, with the one sight of its sensor's key."""

    id: str
    agent: str
    key: Secret


class ConsoleStore:
    """The console's database. Open it with `open_store`, close it last."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self.storage = storage
        self._clock = clock

    def now(self) -> float:
        """Seconds since the epoch, by the console's clock."""
        return self._clock().timestamp()

    async def close(self) -> None:
        """Close the database."""
        await self.storage.close()

    # keys and agents

    async def mint_admin_key(self, *, replace: bool = False) -> Secret | None:
        """The admin key, once: None when there is one already. `replace` revokes it and makes another."""
        async with self.storage.transaction() as connection:
            admin = KEYS.c.role == Role.ADMIN
            if replace:
                await connection.execute(KEYS.delete().where(admin))
            elif (await connection.execute(select(func.count()).where(admin))).scalar_one():
                return None
            return await self._add_key(connection, Role.ADMIN, None)

    async def find_key(self, digest: str) -> tuple[Role, str, str] | None:
        """Role, stored digest and agent id of a key."""
        async with self.storage.reading() as connection:
            row = (await connection.execute(select(KEYS).where(KEYS.c.digest == digest))).mappings().first()
        return (Role(row["role"]), row["digest"], row["agent"] or "") if row is not None else None

    async def create_agent(self, name: str) -> tuple[str, Secret]:
        """Make an agent that is bound to no registry; gives its id and, once, its key."""
        async with self.storage.transaction() as connection:
            return await self._add_agent(connection, name, None)

    async def _add_agent(self, connection: AsyncConnection, name: str, registry: str | None) -> tuple[str, Secret]:
        agent = new_id()
        await connection.execute(insert(AGENTS).values(id=agent, name=name, registry=registry, created_at=self.now()))
        return agent, await self._add_key(connection, Role.SENSOR, agent)

    async def _add_key(self, connection: AsyncConnection, role: Role, agent: str | None) -> Secret:
        key = mint_key(role)
        row = {"digest": digest_key(key), "role": role.value, "agent": agent, "created_at": self.now()}
        await connection.execute(insert(KEYS).values(row))
        return key

    async def register(self, agent: str, about: dict[str, Any]) -> RowMapping | None:
        """Note what a sensor says of itself; gives the registry it is bound to."""
        async with self.storage.transaction() as connection:
            await connection.execute(
                update(AGENTS)
                .where(AGENTS.c.id == agent)
                .values(about=about, registered_at=self.now(), seen_at=self.now())
            )
            bound = select(REGISTRIES).join(AGENTS, AGENTS.c.registry == REGISTRIES.c.id).where(AGENTS.c.id == agent)
            return (await connection.execute(bound)).mappings().first()

    async def beat(self, agent: str, busy: int, uptime: int) -> None:
        """Note a heartbeat: scans under way, and seconds since the sensor's start."""
        now = self.now()
        values = {"seen_at": now, "beat_at": now, "busy": busy, "uptime": uptime}
        async with self.storage.transaction() as connection:
            await connection.execute(update(AGENTS).where(AGENTS.c.id == agent).values(values))

    async def agents(self) -> list[dict[str, Any]]:
        """All agents, newest first."""
        jobs = select(func.count()).select_from(JOBS).where(JOBS.c.agent == AGENTS.c.id).scalar_subquery().label("jobs")
        async with self.storage.reading() as connection:
            rows = (await connection.execute(select(AGENTS, jobs).order_by(AGENTS.c.created_at.desc()))).mappings()
            return [self._show_agent(row) for row in rows]

    def _show_agent(self, row: RowMapping) -> dict[str, Any]:
        about = row["about"]
        return {
            "id": row["id"],
            "name": row["name"],
            "registryId": row["registry"],
            "status": "DISCONNECTED" if self.liveness(row) == "offline" else "ACTIVE",
            "liveness": self.liveness(row),
            "lastSeenAt": show_time(row["seen_at"]),
            "registeredAt": show_time(row["registered_at"]),
            "hostname": about.get("hostname"),
            "os": about.get("os"),
            "arch": about.get("arch"),
            "sensorVersion": about.get("version"),
            "scannerVersions": about.get("scannerVersions"),
            "capabilities": about.get("capabilities", []),
            "s3Configured": about.get("s3Configured", False),
            "activeScans": row["busy"],
            "uptimeSeconds": row["uptime"],
            "_count": {"scanJobs": row["jobs"]},
        }

    def liveness(self, agent: RowMapping) -> Literal["waiting", "online", "scanning", "offline"]:
        """Waiting until the first heartbeat; offline after two minutes without any call."""
        if agent["beat_at"] is None:
            return "waiting"
        if self.now() - agent["seen_at"] > SILENT_SECONDS:
            return "offline"
        return "scanning" if agent["busy"] else "online"

    # registries

    async def connect_registry(self, name: str, url: str, provider: str) -> NewRegistry:
        """Create a registry in sensor mode, with an agent of its own and that agent's key.

        Raises:
            ConsoleError: the name is taken.
        """
        registry = new_id()
        row = {"id": registry, "name": name, "url": url, "host": host_of(url), "provider": provider}
        async with self.storage.transaction() as connection:
            if (await connection.execute(select(REGISTRIES.c.id).where(REGISTRIES.c.name == name))).first():
                raise ConsoleError(409, f"there is already a registry named {name}", "name")
            await connection.execute(insert(REGISTRIES).values(**row, created_at=self.now()))
            agent, key = await self._add_agent(connection, f"sensor of {name}", registry)
        return NewRegistry(id=registry, agent=agent, key=key)

    async def registries(self) -> list[dict[str, Any]]:
        """All registries by name, each with the state of its sensor."""
        wanted = select(REGISTRIES, AGENTS.c.id.label("agent"), AGENTS.c.beat_at, AGENTS.c.seen_at, AGENTS.c.busy)
        joined = wanted.join(AGENTS, AGENTS.c.registry == REGISTRIES.c.id).order_by(REGISTRIES.c.name)
        async with self.storage.reading() as connection:
            rows = (await connection.execute(joined)).mappings().all()
        return [
            {
                **{key: row[key] for key in ("id", "name", "url", "provider")},
                "scanMethod": "sensor",
                "createdAt": show_time(row["created_at"]),
                "sensor": self._show_sensor(row),
            }
            for row in rows
        ]

    def _show_sensor(self, row: RowMapping) -> dict[str, Any]:
        return {
            "status": self.liveness(row),
            "agentId": row["agent"],
            "lastHeartbeatAt": show_time(row["beat_at"]),
            "lastSeenAt": show_time(row["seen_at"]),
            "activeScans": row["busy"],
        }

    # jobs

    async def add_job(self, reference: str, registry: str | None, scanners: Sequence[str]) -> dict[str, Any]:
        """Ask a sensor to scan a reference; gives the job as the list of jobs shows it.

        The registry is the named one, or the one whose host the reference begins with. Without either any unbound sensor may take the job.

        Raises:
            ConsoleError: the reference is none, the registry is unknown, or no sensor could ever take the job.
        """
        try:
            parsed = parse_reference(reference)
        except DataError as error:
            raise ConsoleError(400, str(error), "reference") from error
        async with self.storage.transaction() as connection:
            where = REGISTRIES.c.id == registry if registry else REGISTRIES.c.host == parsed.registry
            found = (await connection.execute(select(REGISTRIES).where(where).limit(1))).mappings().first()
            if registry and found is None:
                raise ConsoleError(404, "there is no such registry", "registryId")
            if found is not None and parsed.registry not in {"", found["host"]}:
                raise ConsoleError(400, f"the reference is not of the registry {found['name']}", "reference")
            if found is None and not await self._has_unbound_agent(connection):
                text = f"no sensor can reach {parsed.registry or 'a reference without a registry'}: connect its registry first"
                raise ConsoleError(409, text, "reference")
            full = f"{found['host']}/{reference}" if found is not None and not parsed.registry else reference
            job = {"id": new_id(), "reference": full, "scanners": list(scanners), "status": "PENDING"}
            bound = found["id"] if found is not None else None
            await connection.execute(insert(JOBS).values(**job, registry=bound, created_at=self.now()))
            row = (await connection.execute(select(JOBS).where(JOBS.c.id == job["id"]))).mappings().one()
        return _show_job(row)

    async def _has_unbound_agent(self, connection: AsyncConnection) -> bool:
        return (
            await connection.execute(select(AGENTS.c.id).where(AGENTS.c.registry.is_(None)).limit(1))
        ).first() is not None

    async def claim_jobs(self, agent: str) -> list[dict[str, Any]]:
        """Hand out up to five jobs, oldest first, each to one poll only. A key bound to a registry gets that registry's jobs."""
        now = self.now()
        free = or_(JOBS.c.status == "PENDING", _is_lapsed(now))
        async with self.storage.transaction() as connection:
            own = (await connection.execute(select(AGENTS.c.registry).where(AGENTS.c.id == agent))).scalar_one()
            mine = JOBS.c.registry.is_(None) if own is None else JOBS.c.registry == own
            wanted = select(JOBS).outerjoin(_HOLDER, _HOLDER.c.id == JOBS.c.agent).where(free, mine)
            oldest = wanted.order_by(JOBS.c.created_at, JOBS.c.id).limit(JOBS_PER_POLL)
            rows = (await connection.execute(oldest)).mappings().all()
            taken = update(JOBS).where(JOBS.c.id.in_([row["id"] for row in rows]))
            await connection.execute(taken.values(status="ASSIGNED", agent=agent, assigned_at=now))
            await connection.execute(update(AGENTS).where(AGENTS.c.id == agent).values(seen_at=now))
        return [_hand_out(row) for row in rows]

    async def finish_job(self, agent: str, job: str, status: Literal["completed", "failed"], error: str) -> None:
        """Take a sensor's word on its job.

        Raises:
            ConsoleError: unknown job (404), another agent's (403), or finished before (409).
        """
        now = self.now()
        async with self.storage.transaction() as connection:
            row = (await connection.execute(select(JOBS).where(JOBS.c.id == job))).mappings().first()
            if row is None:
                raise ConsoleError(404, "Job not found")
            if row["agent"] != agent:
                raise ConsoleError(403, "Job not assigned to this agent")
            if row["status"] in {"COMPLETED", "FAILED"}:
                raise ConsoleError(409, "Job already finalized")
            values = {"status": status.upper(), "completed_at": now, "error": error}
            await connection.execute(update(JOBS).where(JOBS.c.id == job).values(values))
            await connection.execute(update(AGENTS).where(AGENTS.c.id == agent).values(seen_at=now))

    async def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The newest jobs. One whose lease has run out is pending again."""
        status = case((_is_lapsed(self.now()), "PENDING"), else_=JOBS.c.status).label("status")
        columns = [status if column.name == "status" else column for column in JOBS.c]
        wanted = select(*columns).outerjoin(_HOLDER, _HOLDER.c.id == JOBS.c.agent)
        async with self.storage.reading() as connection:
            rows = await connection.execute(wanted.order_by(JOBS.c.created_at.desc(), JOBS.c.id).limit(limit))
            return [_show_job(row) for row in rows.mappings()]


def new_id() -> str:
    """An id that cannot be guessed and may stand in a URL."""
    return secrets.token_hex(12)


def host_of(url: str) -> str:
    """The host (with port) by which references name a registry: `docker.io` for any of Docker Hub's hosts."""
    host = urlsplit(url if "://" in url else f"//{url}").netloc.rpartition("@")[2].lower()
    return "docker.io" if host in {"registry-1.docker.io", "index.docker.io"} else host


def show_time(seconds: float | None) -> str | None:
    """ISO 8601 in UTC with milliseconds and `Z`, as the control plane writes it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_HOLDER = AGENTS.alias("holder")


def _is_lapsed(now: float) -> ColumnElement[bool]:
    """Whether a claimed job is free again; needs the job's agent joined as `_HOLDER`."""
    silent, stale = _HOLDER.c.seen_at < now - LEASE_SECONDS, JOBS.c.assigned_at < now - STALE_CLAIM_SECONDS
    return and_(JOBS.c.status == "ASSIGNED", or_(JOBS.c.agent.is_(None), silent, stale))


def _hand_out(row: RowMapping) -> dict[str, Any]:
    scan: dict[str, Any] = {"imageRef": row["reference"], "source": "registry"}
    if row["scanners"]:
        scan["scanners"] = row["scanners"]
    return {"id": row["id"], "type": "SCAN", "createdAt": show_time(row["created_at"]), "scan": scan}


def _show_job(row: RowMapping) -> dict[str, Any]:
    return {
        "id": row["id"],
        "reference": row["reference"],
        "status": row["status"],
        "registryId": row["registry"],
        "agentId": row["agent"],
        "createdAt": show_time(row["created_at"]),
        "assignedAt": show_time(row["assigned_at"]),
        "completedAt": show_time(row["completed_at"]),
        "error": row["error"] or None,
    }
