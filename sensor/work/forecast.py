"""When the new images of a registry would be scanned, told beforehand: its bound a day, its windows, its schedule. Pure.

`intake` holds them to it when the time comes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sensor.config.notation import show_schedule
from sensor.config.schema import Registry
from sensor.config.windows import parse_windows


def forecast(settings: Registry, new: int, now: datetime) -> tuple[str, ...]:
    """What holds back so many new images, in sentences; none where nothing does. `now` is local time.

    Raises:
        ValueError: the configuration's windows were not checked.
    """
    if new < 1:
        return ()
    said = []
    if "schedule" in settings.model_fields_set:
        said.append(f"schedule {show_schedule(settings.schedule)}: new images are noticed {_noticed(settings)}")
    bound = settings.max_new_per_day
    if 0 < bound < new:
        said.append(f"max_new_per_day {bound}: these {new} new images take {-(-new // bound)} days")
    if settings.windows:
        windows, shown = parse_windows(settings.windows), ", ".join(settings.windows)
        if closed := windows.opens_in(now):
            opens = now + timedelta(seconds=closed)
            said.append(f"windows {shown}: closed now, new images are scanned from {opens:%a %H:%M} on")
        else:
            said.append(f"windows {shown}: open now, new images are scanned only then")
    return tuple(said)


def _noticed(settings: Registry) -> str:
    return "only when a scan is asked for" if settings.schedule == "manual" else "at its next run"
