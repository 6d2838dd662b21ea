"""What holds new images back, told before it does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sensor.config.schema import Registry
from sensor.work.forecast import forecast

TUESDAY_NOON = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)


def told(new: int = 9, now: datetime = TUESDAY_NOON, **keys: Any) -> tuple[str, ...]:
    return forecast(Registry.model_validate({"name": "one", "url": "registry.example", **keys}), new, now)


@pytest.mark.parametrize(("bound", "days"), [(1, 9), (2, 5), (3, 3), (8, 2)])
def test_a_bound_makes_days_of_it(bound: int, days: int) -> None:
    assert told(max_new_per_day=bound) == (f"max_new_per_day {bound}: these 9 new images take {days} days",)


@pytest.mark.parametrize("bound", [0, 9, 100])
def test_a_bound_that_is_not_reached_is_not_told(bound: int) -> None:
    assert told(max_new_per_day=bound) == ()


def test_windows_say_when_they_open() -> None:
    assert told(windows=["22:00-06:00"]) == (
        "windows 22:00-06:00: closed now, new images are scanned from Tue 22:00 on",
    )
    assert told(windows=["sat-sun", "fri 20:00-22:00"]) == (
        "windows sat-sun, fri 20:00-22:00: closed now, new images are scanned from Fri 20:00 on",
    )
    assert told(windows=["08:00-18:00"]) == ("windows 08:00-18:00: open now, new images are scanned only then",)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("manual", "schedule manual: new images are noticed only when a scan is asked for"),
        ("weekly", "schedule weekly: new images are noticed at its next run"),
        ({"every": "15m"}, "schedule every 15m: new images are noticed at its next run"),
        ({"cron": "30 2 * * *"}, "schedule cron 30 2 * * *: new images are noticed at its next run"),
    ],
)
def test_a_schedule_that_was_chosen_is_told(schedule: Any, expected: str) -> None:
    assert told(schedule=schedule) == (expected,)


def test_where_nothing_is_new_or_held_back_nothing_is_told() -> None:
    assert told() == ()
    assert told(new=0, max_new_per_day=1, windows=["22:00-06:00"], schedule="manual") == ()


def test_all_of_it_together() -> None:
    assert len(told(max_new_per_day=1, windows=["sat"], schedule="daily")) == 3
