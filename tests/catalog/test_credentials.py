"""Now and then a registry's credential is looked at, and nothing depends on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sensor.catalog.credentials import CredentialWatch
from sensor.errors import NetworkError
from sensor.registry.port import Standing
from tests.fakes.memory_registry import MemoryRegistry

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


class Known(MemoryRegistry):
    """A registry that says who we are, or does not."""

    told = Standing(identity="team+ci", expires=NOW.timestamp() + 86400, may_write=False)
    broken = False
    asked = 0

    async def standing(self) -> Standing:
        self.asked += 1
        if self.broken:
            raise NetworkError("no route")
        return self.told


async def test_it_is_looked_at_twice_a_day_and_no_more() -> None:
    clock, registry = Clock(), Known()
    watch = CredentialWatch(clock=clock)
    first = await watch.look("prod", registry)
    assert first is not None
    assert (first.identity, first.expires, first.may_write) == ("team+ci", NOW + timedelta(days=1), False)
    clock.now += timedelta(hours=11)
    assert await watch.look("prod", registry) is None
    assert await watch.look("other", registry) is not None
    clock.now += timedelta(hours=2)
    assert await watch.look("prod", registry) is not None
    assert registry.asked == 3


async def test_what_cannot_be_found_out_is_no_news() -> None:
    registry = Known()
    registry.broken = True
    assert await CredentialWatch(clock=Clock()).look("prod", registry) is None


async def test_a_nonsensical_end_is_far_away() -> None:
    registry = Known()
    for seconds in (1e30, float("inf"), float("nan")):
        registry.told = Standing(expires=seconds)
        seen = await CredentialWatch(clock=Clock()).look("prod", registry)
        assert seen is not None
        assert seen.expires is not None
        assert seen.expires.year == 9999
