import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.config.schema import Cron, Every, Schedule
from sensor.errors import ConfigError
from sensor.triggers.schedule import Schedules, is_overdue, parse_cron, trigger_for

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)  # a Friday


def first_run(schedule: Schedule, key: str = "prod") -> datetime:
    trigger = trigger_for(schedule, key, NOW)
    assert trigger is not None
    found = trigger.get_next_fire_time(None, NOW)
    assert found is not None
    return found


@pytest.mark.parametrize("schedule", ["manual", "on_push"])
def test_manual_and_on_push_have_no_clock(schedule: Schedule) -> None:
    assert trigger_for(schedule, "prod", NOW) is None


@pytest.mark.parametrize(
    ("schedule", "hours", "is_due"),
    [
        ("daily", 25, True),
        ("daily", 0, False),
        ("weekly", 0, False),
        ("weekly", 24 * 8, True),
        ("manual", 24 * 400, False),
        (Every(every="6h"), 5, False),
        (Every(every="6h"), 7, True),
        (Cron(cron="0 3 * * *"), 0, False),
        (Cron(cron="0 3 * * *"), 25, True),
    ],
)
def test_a_turn_that_came_since_the_last_sweep_is_overdue(schedule: Schedule, hours: int, is_due: bool) -> None:
    assert is_overdue(schedule, "prod", NOW, NOW + timedelta(hours=hours)) is is_due


@given(st.text(min_size=1, max_size=20))
def test_daily_runs_within_a_day_and_its_jitter(key: str) -> None:
    assert NOW < first_run("daily", key) <= NOW + timedelta(days=1, minutes=15)


def test_weekly_runs_within_a_week_and_its_jitter() -> None:
    assert NOW < first_run("weekly") <= NOW + timedelta(days=7, minutes=15)


def test_registries_spread_over_the_day() -> None:
    hours = {first_run("daily", f"registry-{number}").hour for number in range(40)}
    assert len(hours) > 10


def test_a_restart_does_not_move_a_daily_run() -> None:
    def minute(now: datetime) -> datetime:
        trigger = trigger_for("daily", "prod", now)
        assert trigger is not None
        trigger.jitter = None
        found = trigger.get_next_fire_time(None, now)
        assert found is not None
        return found

    assert minute(NOW) == minute(NOW + timedelta(seconds=1))


def test_every_runs_after_the_pause() -> None:
    assert NOW + timedelta(minutes=13) < first_run(Every(every="15m")) < NOW + timedelta(minutes=17)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", datetime(2026, 5, 2, 2, 30, tzinfo=UTC)),
        ("0 0 * * 0", datetime(2026, 5, 3, tzinfo=UTC)),  # crontab's Sunday, not the library's Monday
        ("0 0 * * 7", datetime(2026, 5, 3, tzinfo=UTC)),
        ("0 0 * * 1", datetime(2026, 5, 4, tzinfo=UTC)),
        ("0 0 * * 0-1", datetime(2026, 5, 3, tzinfo=UTC)),
        ("0 0 * * 1,3", datetime(2026, 5, 4, tzinfo=UTC)),
        ("0 13 * * 1-5/2", datetime(2026, 5, 1, 13, tzinfo=UTC)),
        ("0 0 * * */7", datetime(2026, 5, 3, tzinfo=UTC)),  # a step above the library's own range: Sundays
        ("0 13 * * mon-fri", datetime(2026, 5, 1, 13, tzinfo=UTC)),
    ],
)
def test_cron_is_read_as_crontab_reads_it(expression: str, expected: datetime) -> None:
    assert parse_cron(expression, UTC).get_next_fire_time(None, NOW) == expected
    assert first_run(Cron(cron=expression)).minute == expected.minute


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "61 * * * *", "* * * * 8", "* * * * 5-2", "* * * * 1/0", "a b c d e", "* * * * * *"]
)
def test_a_bad_cron_expression_is_a_configuration_error(expression: str) -> None:
    with pytest.raises(ConfigError, match="cron"):
        parse_cron(expression)


async def test_schedules_submit_and_can_be_replaced() -> None:
    ran: asyncio.Queue[str] = asyncio.Queue()

    async def submit() -> None:
        ran.put_nowait("prod")

    schedules = Schedules(lambda: datetime.now(UTC))
    schedules.start()
    try:
        schedules.replace({"prod": (Every(every="0.05s"), submit), "idle": ("manual", submit)})  # type: ignore[arg-type]
        assert set(schedules.next_runs()) == {"prod"}
        assert await asyncio.wait_for(ran.get(), 10) == "prod"
        schedules.replace({})
        assert schedules.next_runs() == {}
    finally:
        schedules.stop()
        schedules.stop()
