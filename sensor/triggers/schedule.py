"""When a registry is due: the clock. The only importer of APScheduler (3.x), which keeps no job store here.

Each schedule submits a request and returns; coalescing is on and the misfire grace long, because the library's default of one second
silently skips runs whenever the loop is busy. Registries get a jitter so that many sensors do not knock in step.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, tzinfo
from typing import assert_never

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from sensor.config.schema import Cron, Every, Schedule
from sensor.errors import ConfigError

_GRACE_SECONDS = 3600
_DAILY_JITTER_SECONDS = 900


def trigger_for(schedule: Schedule, key: str, now: datetime) -> BaseTrigger | None:
    """The trigger of a schedule, or None for `manual` and `on_push`.

    `daily` and `weekly` run at a minute (and weekday) derived from `key`, so that registries spread over the day and a restart does not
    move them.

    Raises:
        ConfigError: a cron expression that cannot be read.
    """
    seed = zlib.crc32(key.encode())
    match schedule:
        case "daily":
            return CronTrigger(
                hour=seed % 24, minute=seed // 24 % 60, jitter=_DAILY_JITTER_SECONDS, timezone=_zone(now)
            )
        case "weekly":
            return CronTrigger(
                day_of_week=seed % 7,
                hour=seed // 7 % 24,
                minute=seed // 168 % 60,
                jitter=_DAILY_JITTER_SECONDS,
                timezone=_zone(now),
            )
        case "manual" | "on_push":
            return None
        case Every(every=seconds):
            first = now + timedelta(seconds=seconds)
            return IntervalTrigger(
                seconds=seconds, start_date=first, jitter=min(seconds / 10, 60.0), timezone=_zone(now)
            )
        case Cron(cron=expression):
            return parse_cron(expression, _zone(now))
        case _:
            assert_never(schedule)


def is_overdue(schedule: Schedule, key: str, last: datetime, now: datetime) -> bool:
    """Whether a turn has come since the last sweep, which nobody was there to take.

    Raises:
        ConfigError: a cron expression that cannot be read.
    """
    trigger = trigger_for(schedule, key, last)
    due = None if trigger is None else trigger.get_next_fire_time(None, last)
    return due is not None and due < now


def parse_cron(expression: str, zone: tzinfo | None = None) -> CronTrigger:
    """Read a cron expression of five fields. Weekdays are counted as crontab(5) does: 0 and 7 are Sunday.

    Raises:
        ConfigError: not five fields, or a value out of range.
    """
    try:
        return CronTrigger.from_crontab(_crontab_weekdays(expression), timezone=zone)
    except ValueError as error:
        message = f"not a cron expression: {expression!r} ({error})"
        raise ConfigError(
            message, "expected five fields: minute hour day month weekday, for example 30 2 * * 1-5"
        ) from error


_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _crontab_weekdays(expression: str) -> str:
    # APScheduler counts weekdays from Monday = 0, crontab(5) from Sunday = 0: numbers become names, ranges become lists
    fields = expression.split()
    if len(fields) != 5:
        message = f"{len(fields)} fields"
        raise ValueError(message)
    return " ".join((*fields[:4], ",".join(_named_days(part) for part in fields[4].split(","))))


def _named_days(part: str) -> str:
    span, _, step = part.partition("/")
    if span == "*" and step:
        span = "0-6"
    first, dash, last = span.partition("-")
    if not first.isdigit():
        return part
    ends = int(first), int(last) if dash else (7 if step else int(first))
    if max(ends) >= len(_WEEKDAYS) or ends[0] > ends[1] or (step and not step.strip("0")):
        message = f"weekday {part!r} is out of range"
        raise ValueError(message)
    return ",".join(dict.fromkeys(_WEEKDAYS[day] for day in range(ends[0], ends[1] + 1, int(step or 1))))


def _zone(now: datetime) -> tzinfo | None:
    return now.astimezone().tzinfo


class Schedules:
    """The running clock: one entry a key; `replace` follows a reloaded configuration."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._scheduler = AsyncIOScheduler(
            job_defaults={"coalesce": True, "misfire_grace_time": _GRACE_SECONDS, "max_instances": 1}
        )
        self._scheduler.configure(timezone=_zone(clock()))

    def start(self) -> None:
        """Start ticking; needs the running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop ticking; nothing is submitted afterwards."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def replace(self, wanted: dict[str, tuple[Schedule, Callable[[], Awaitable[None]]]]) -> None:
        """Run exactly these entries from now on: key to (schedule, what to submit).

        Raises:
            ConfigError: a cron expression cannot be read; everything stays as it was.
        """
        triggers = {key: trigger_for(schedule, key, self._clock()) for key, (schedule, _) in wanted.items()}
        self._scheduler.remove_all_jobs()
        for key, (_, submit) in wanted.items():
            trigger = triggers[key]
            if trigger is not None:
                self._scheduler.add_job(submit, trigger, id=key)

    def next_runs(self) -> dict[str, datetime]:
        """When each entry runs next."""
        return {job.id: job.next_run_time for job in self._scheduler.get_jobs() if job.next_run_time is not None}
