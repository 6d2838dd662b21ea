"""When the new images of a registry may be scanned: windows, a pause by hand, a bound a day, and pauses that the registry itself asks for.

First contact with a registry of a hundred thousand tags must not drown it, nor the sensor's site. Only the lane of new digests is held:
what was pushed or asked for by hand goes through. The pause by hand is a file in the state directory, so that it can be set while the daemon
runs and outlives it. Leaves the order of the work to `queue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Column, Integer, Table, Text, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from sensor.config.schema import Registry
from sensor.config.windows import parse_windows
from sensor.errors import StateError
from sensor.storage import METADATA, Storage

INTAKE = Table(
    "intake",
    METADATA,
    Column("registry", Text, primary_key=True),
    Column("hour", Integer, primary_key=True),  # hours since 1970
    Column("started", Integer, nullable=False),
)
"""New images whose scan was begun, by hour."""

_RECHECK = timedelta(minutes=5)
"""The longest time until a hold is looked at again: windows and pauses are changed by people."""
_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why no new image of a registry is scanned now, and when that is looked at again."""

    reason: str
    until: datetime


@dataclass(slots=True, kw_only=True)
class Intake:
    """Lets new images through, or says why not."""

    storage: Storage
    clock: Callable[[], datetime]
    directory: Path
    """The state directory."""
    _asked: dict[str, Hold] = field(default_factory=dict)
    """Pauses that registries asked for."""
    _paused: frozenset[str] = frozenset()
    """Registries that were paused by hand when that was looked at last."""
    _held: set[str] = field(default_factory=set)
    """Registries that were held when they were last looked at."""

    async def admit(self, settings: Registry, *, first: bool = True) -> Hold | None:
        """None: one new image may be scanned now; it is counted if this is its `first` attempt."""
        now = self.clock()
        hold = self._pause_by_hand(settings.name, now) or self._pause_asked_for(settings.name, now)
        if hold is None and (closed := parse_windows(settings.windows).opens_in(now.astimezone())) > 0:
            opens = now.astimezone() + timedelta(seconds=closed)
            reason = f"outside of its windows ({', '.join(settings.windows)}); the next opens {opens:%a %H:%M}"
            hold = Hold(reason=reason, until=now + min(_RECHECK, timedelta(seconds=closed)))
        if hold is None and first and settings.max_new_per_day:
            hold = await self._count(settings, now)
        if hold is not None:
            self._held.add(settings.name)
        return hold

    def is_back(self, registry: str) -> bool:
        """Whether a registry that was held has been let through since; says so once."""
        was_held = registry in self._held
        self._held.discard(registry)
        return was_held

    def follow_pauses(self, registries: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
        """What was paused, and what was resumed, by hand since the last call."""
        now = frozenset(name for name in registries if is_paused(self.directory, name))
        before, self._paused = self._paused, now
        return now - before, before - now

    def wait(self, registry: str, seconds: float, reason: str) -> Hold:
        """The registry asked for a pause."""
        hold = Hold(reason=reason, until=self.clock() + timedelta(seconds=max(seconds, 1.0)))
        self._asked[registry] = hold
        self._held.add(registry)
        return hold

    def _pause_asked_for(self, registry: str, now: datetime) -> Hold | None:
        hold = self._asked.get(registry)
        if hold is not None and hold.until <= now:
            del self._asked[registry]
            return None
        return hold

    def _pause_by_hand(self, registry: str, now: datetime) -> Hold | None:
        if not is_paused(self.directory, registry):
            return None
        return Hold(reason=paused_reason(registry), until=now + _RECHECK)

    async def _count(self, settings: Registry, now: datetime) -> Hold | None:
        """Count one more, unless that many were started in the last 24 hours."""
        hour = int(now.timestamp()) // _HOUR
        recent = (INTAKE.c.registry == settings.name) & (INTAKE.c.hour > hour - 24)
        async with self.storage.transaction() as connection:
            columns = (func.coalesce(func.sum(INTAKE.c.started), 0), func.min(INTAKE.c.hour))
            started, oldest = (await connection.execute(select(*columns).where(recent))).one()
            if started >= settings.max_new_per_day:
                reason = f"{started} new images in 24 hours; max_new_per_day is {settings.max_new_per_day}"
                until = datetime.fromtimestamp((oldest + 24) * _HOUR, UTC)
                return Hold(reason=reason, until=min(until, now + _RECHECK * 3))
            entry = insert(INTAKE).values(registry=settings.name, hour=hour, started=1)
            same = {"started": INTAKE.c.started + 1}
            await connection.execute(entry.on_conflict_do_update(index_elements=["registry", "hour"], set_=same))
            await connection.execute(delete(INTAKE).where(INTAKE.c.hour <= hour - 48))
        return None


def paused_reason(registry: str) -> str:
    """Why nothing new of a paused registry is scanned."""
    return f"paused by hand; `harborguard-sensor resume {registry}` ends it"


def pause_file(directory: Path, registry: str) -> Path:
    """The file whose presence means that a registry is paused by hand."""
    return directory / "paused" / registry


def is_paused(directory: Path, registry: str) -> bool:
    """Whether a registry is paused by hand."""
    return pause_file(directory, registry).exists()


def set_paused(directory: Path, registry: str, *, paused: bool) -> None:
    """Pause a registry, or resume it. Doing it twice changes nothing.

    Raises:
        StateError: the state directory cannot be written.
    """
    file = pause_file(directory, registry)
    try:
        if paused:
            file.parent.mkdir(exist_ok=True)
            file.touch()
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        message = f"{file} cannot be changed: {error.strerror}"
        raise StateError(message, "run the command as the user of the sensor, on its machine") from error
