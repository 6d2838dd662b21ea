"""When new images are let through: windows, the pause by hand, the bound a day, pauses that a registry asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sensor.config.schema import Registry
from sensor.errors import StateError
from sensor.storage import open_storage
from sensor.work.intake import Intake, is_paused, set_paused

START = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def settings(**more: object) -> Registry:
    return Registry.model_validate({"name": "main", "url": "registry.example", **more})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def intake(tmp_path: Path, clock: Clock) -> AsyncIterator[Intake]:
    storage = await open_storage(tmp_path)
    yield Intake(storage=storage, clock=clock, directory=tmp_path)
    await storage.close()


async def test_without_bounds_everything_goes_through(intake: Intake) -> None:
    assert [await intake.admit(settings()) for _ in range(5)] == [None] * 5
    assert not intake.is_back("main")


async def test_a_day_has_so_many_new_images_and_no_more(intake: Intake, clock: Clock) -> None:
    bounded = settings(max_new_per_day=3)
    for _ in range(3):
        assert await intake.admit(bounded) is None
        clock.now += timedelta(hours=1)
    hold = await intake.admit(bounded)
    assert hold is not None
    assert "3 new images in 24 hours" in hold.reason
    assert clock.now < hold.until <= clock.now + timedelta(minutes=15)
    assert await intake.admit(bounded, first=False) is None  # another attempt at one that was counted
    assert await intake.admit(settings(name="other", max_new_per_day=3)) is None
    clock.now = START + timedelta(hours=24)
    assert await intake.admit(bounded) is None
    assert intake.is_back("main")
    assert not intake.is_back("main")
    assert await intake.admit(bounded) is not None


async def test_the_count_outlives_a_restart(intake: Intake, clock: Clock) -> None:
    bounded = settings(max_new_per_day=1)
    assert await intake.admit(bounded) is None
    again = Intake(storage=intake.storage, clock=clock, directory=intake.directory)
    assert await again.admit(bounded) is not None


async def test_outside_of_its_windows_a_registry_waits(intake: Intake, clock: Clock) -> None:
    local = clock.now.astimezone()
    soon = (local + timedelta(minutes=2)).replace(second=0)
    later = settings(windows=(f"{soon:%H:%M}-{soon + timedelta(minutes=1):%H:%M}",))
    hold = await intake.admit(later)
    assert hold is not None
    assert "windows" in hold.reason
    assert clock.now < hold.until <= clock.now + timedelta(minutes=2)
    clock.now = hold.until
    assert await intake.admit(later) is None


async def test_a_pause_by_hand_holds_until_it_is_ended(intake: Intake, tmp_path: Path) -> None:
    set_paused(tmp_path, "main", paused=True)
    set_paused(tmp_path, "main", paused=True)
    hold = await intake.admit(settings())
    assert hold is not None
    assert "resume main" in hold.reason
    assert await intake.admit(settings(name="other")) is None
    set_paused(tmp_path, "main", paused=False)
    set_paused(tmp_path, "main", paused=False)
    assert not is_paused(tmp_path, "main")
    assert await intake.admit(settings()) is None


async def test_a_registry_that_asked_for_a_pause_gets_it(intake: Intake, clock: Clock) -> None:
    asked = intake.wait("main", 600, "429")
    assert asked.until == START + timedelta(minutes=10)
    assert await intake.admit(settings()) == asked
    assert await intake.admit(settings(name="other")) is None
    clock.now += timedelta(minutes=11)
    assert await intake.admit(settings()) is None
    assert intake.is_back("main")


async def test_a_pause_by_hand_is_told_before_one_that_the_registry_asked_for(intake: Intake, tmp_path: Path) -> None:
    intake.wait("main", 600, "429")
    set_paused(tmp_path, "main", paused=True)
    hold = await intake.admit(settings())
    assert hold is not None
    assert "paused by hand" in hold.reason


def test_pauses_are_followed(intake: Intake, tmp_path: Path) -> None:
    names = ("main", "other")
    assert intake.follow_pauses(names) == (frozenset(), frozenset())
    set_paused(tmp_path, "main", paused=True)
    assert intake.follow_pauses(names) == ({"main"}, frozenset())
    assert intake.follow_pauses(names) == (frozenset(), frozenset())
    set_paused(tmp_path, "main", paused=False)
    assert intake.follow_pauses(names) == (frozenset(), {"main"})


def test_a_state_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "paused").write_text("a file in the way")
    with pytest.raises(StateError, match="paused"):
        set_paused(tmp_path, "main", paused=True)
