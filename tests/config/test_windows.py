"""Windows as they are written, and when they open."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.windows import Window, Windows, check_window, parse_window, parse_windows

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
"""Midnight at the start of a Monday."""
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    """`wed 21:30` of that week."""
    day, _, clock = text.partition(" ")
    hour, minute = map(int, clock.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-06:00", ["mon 22:00", "tue 05:59", "mon 00:00"], ["mon 21:59", "tue 06:00", "wed 12:00"]),
        ("9:00-17:30", ["sun 09:00", "sun 17:29"], ["sun 08:59", "sun 17:30"]),
        ("sat-sun", ["sat 00:00", "sun 23:59"], ["fri 23:59", "mon 00:00"]),
        ("mon-fri 20:00-07:00", ["mon 20:00", "sat 06:59"], ["mon 03:00", "sat 20:00", "sun 03:00", "tue 12:00"]),
        ("sun 23:00-01:00", ["sun 23:30", "mon 00:59"], ["mon 01:00", "sun 00:30", "mon 23:30"]),
        ("fri-mon", ["fri 00:00", "sun 12:00", "mon 23:59"], ["tue 00:00", "thu 23:59"]),
        ("Mon,Wed,fri 00:00-24:00", ["mon 00:00", "wed 23:59"], ["tue 00:00", "thu 12:00"]),
        ("00:00-24:00", ["mon 00:00", "sun 23:59"], []),
        ("12:00-00:00", ["mon 12:00", "mon 23:59"], ["mon 00:00", "mon 11:59"]),
        ("tue-tue", ["tue 12:00"], ["wed 12:00", "mon 12:00"]),
    ],
)
def test_a_window_is_open_from_its_start_to_before_its_end(window: str, inside: list[str], outside: list[str]) -> None:
    windows = parse_windows([window])
    assert [moment for moment in inside if not windows.is_open(at(moment))] == []
    assert [moment for moment in outside if windows.is_open(at(moment))] == []


@pytest.mark.parametrize(
    "text",
    ["", " ", "always", "22-06", "22:00", "22:00-", "mon-", "mon-xyz", "xyz 22:00-23:00", "mon 22:00-23:00 tue", "mon,", "22:00-23:00 mon"],
)  # fmt: skip
def test_what_is_no_window_is_told_how_one_is_written(text: str) -> None:
    assert "mon-fri 20:00-07:00" in check_window(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("24:00-06:00", "00:00 to 24:00"),
        ("22:60-23:00", "00:00 to 24:00"),
        ("22:00-24:01", "00:00 to 24:00"),
        ("06:00-06:00", "leave the hours out"),
    ],
)
def test_impossible_hours(text: str, complaint: str) -> None:
    assert complaint in check_window(text)
    with pytest.raises(ValueError, match=complaint):
        parse_window(text)


def test_no_window_is_always_open() -> None:
    assert parse_windows([]).is_open(MONDAY)
    assert Windows().opens_in(MONDAY) == 0


def test_opens_in_seconds() -> None:
    windows = parse_windows(["mon-fri 20:00-07:00", "sun"])
    assert windows.opens_in(at("mon 19:59") + timedelta(seconds=30)) == 30
    assert windows.opens_in(at("sat 07:00")) == 17 * 3600
    assert windows.opens_in(at("sun 12:00")) == 0
    assert parse_windows(["mon 10:00-11:00"]).opens_in(at("mon 11:00")) == (7 * 24 - 1) * 3600


def test_the_hour_that_clocks_skip_or_repeat_is_counted() -> None:
    windows = parse_windows(["06:00-07:00"])
    # 2024-03-31 02:00 becomes 03:00, 2024-10-27 03:00 becomes 02:00 again
    assert windows.opens_in(datetime(2024, 3, 31, 0, 0, tzinfo=BERLIN)) == 5 * 3600
    assert windows.opens_in(datetime(2024, 10, 27, 0, 0, tzinfo=BERLIN)) == 7 * 3600
    skipped = parse_windows(["02:15-02:45"])
    assert skipped.opens_in(datetime(2024, 3, 31, 1, 0, tzinfo=BERLIN)) == (24 - 1 + 1.25) * 3600


def test_a_window_inside_the_hour_that_clocks_skip_opens_a_week_later() -> None:
    windows = parse_windows(["sun 02:15-02:45"])
    assert windows.opens_in(datetime(2024, 3, 25, tzinfo=BERLIN)) == (13 * 24 + 2.25 - 1) * 3600


HOURS = st.tuples(st.integers(0, 1439), st.integers(0, 1440)).filter(lambda ends: ends[0] != ends[1])


@st.composite
def some_windows(draw: st.DrawFn) -> Windows:
    made = []
    for _ in range(draw(st.integers(1, 3))):
        start, end = draw(HOURS)
        days = draw(st.frozensets(st.integers(0, 6), min_size=1))
        made.append(Window(days=days, start=start, end=end if end > start else end + 1440))
    return Windows(tuple(made))


@settings(deadline=None, max_examples=60)
@given(some_windows(), st.integers(0, 7 * 86400))
def test_it_is_shut_until_it_opens_and_open_then(windows: Windows, second: int) -> None:
    now = MONDAY + timedelta(seconds=second)
    wait = windows.opens_in(now)
    assert windows.is_open(now) is (wait == 0)
    assert windows.is_open(now + timedelta(seconds=wait))
    if wait:
        assert not windows.is_open(now + timedelta(seconds=wait - 1))
        assert not any(windows.is_open(now + timedelta(seconds=wait * share)) for share in (0.25, 0.5, 0.75))


@given(st.text("monfrisat0123456789:-, ", max_size=24))
def test_any_text_is_read_or_refused(text: str) -> None:
    complaint = check_window(text)
    assert complaint or parse_window(text).days
