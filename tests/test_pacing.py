"""Budgets of hosts: quotas as they are told, pauses, rates and connections that everybody on a host shares."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.pacing import Bandwidth, Budgets, HostBudget, Quota, Rate, read_quota


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_docker_hubs_pull_quota() -> None:
    headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "93;w=21600",
        "docker-ratelimit-source": "203.0.113.7",
    }
    assert read_quota(headers, 5.0) == Quota(limit=100, remaining=93, window=21600, source="203.0.113.7", read_at=5.0)


def test_the_quotas_of_apis() -> None:
    github = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4999"}
    assert read_quota(github, 0.0) == Quota(limit=5000, remaining=4999)
    gitlab = {"ratelimit-limit": "2000", "ratelimit-remaining": "0", "ratelimit-reset": "1790000000"}
    found = read_quota(gitlab, 0.0)
    assert found is not None
    assert (found.share, found.window) == (0.0, 0.0)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ratelimit-limit": "100"},
        {"ratelimit-remaining": "100"},
        {"ratelimit-limit": "-1", "ratelimit-remaining": "5"},
        {"ratelimit-limit": "1e9", "ratelimit-remaining": "5"},
        {"ratelimit-limit": "9" * 40, "ratelimit-remaining": "5"},
        {"ratelimit-limit": "١٠٠", "ratelimit-remaining": "5"},
    ],
)
def test_what_tells_no_quota(headers: dict[str, str]) -> None:
    assert read_quota(headers, 0.0) is None


NAMES = (
    "ratelimit-limit",
    "ratelimit-remaining",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "docker-ratelimit-source",
)


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=60)))
def test_any_headers_are_taken(headers: dict[str, str]) -> None:
    found = read_quota(headers, 0.0)
    assert found is None or (0.0 <= found.share <= 1.0 and found.source.isprintable())


@pytest.mark.parametrize("told", ["Bearer abc", "eyJhbGciOiJub25lIn0.e30.", "2" * 46])
def test_a_source_is_an_address_or_a_uuid(told: str) -> None:
    headers = {"ratelimit-limit": "100", "ratelimit-remaining": "93", "docker-ratelimit-source": told}
    found = read_quota(headers, 0.0)
    assert found is not None
    assert found.source == ""


def test_a_quota_without_a_limit_is_no_reason_to_stop() -> None:
    assert Quota(limit=0, remaining=0).share == 1.0
    assert Quota(limit=10, remaining=50).share == 1.0


def test_a_pause_ends_and_the_longer_one_holds() -> None:
    clock = Clock()
    budget = HostBudget("a.example", clock)
    assert budget.parked_for == 0
    budget.park(30)
    budget.park(10)
    assert budget.parked_for == 30
    clock.now += 31
    assert budget.parked_for == 0


def test_requests_keep_to_a_rate_after_a_burst() -> None:
    clock = Clock()
    budget = HostBudget("a.example", clock)
    assert budget.reserve() == 0
    budget.pace(Rate(per_second=4, burst=2))
    assert [budget.reserve() for _ in range(4)] == [0, 0, 0.25, 0.5]
    clock.now += 10
    assert [budget.reserve() for _ in range(3)] == [0, 0, 0.25]


def test_of_two_rates_the_slower_holds() -> None:
    budget = HostBudget("a.example", Clock())
    budget.pace(Rate(per_second=1))
    budget.pace(Rate(per_second=100))
    budget.pace(None)
    assert [budget.reserve(), budget.reserve()] == [0, 1]


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.integers(1, 5))
def test_no_second_sees_more_than_the_rate_and_the_burst(gaps: list[float], burst: int) -> None:
    clock = Clock()
    budget = HostBudget("a.example", clock)
    budget.pace(Rate(per_second=5, burst=burst))
    sent = []
    for gap in gaps:
        clock.now += gap
        sent.append(clock.now + budget.reserve())
    for start in sent:
        assert sum(start <= moment < start + 1 - 1e-6 for moment in sent) <= 5 + burst


async def test_connections_are_shared() -> None:
    budget = Budgets().of("a.example")
    assert budget.slots(1) is budget.slots(5)
    async with budget.slots(1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), budget.slots(1):
                pass


def test_one_budget_a_host() -> None:
    budgets = Budgets(Clock())
    budgets.of("a.example").note({"ratelimit-limit": "10", "ratelimit-remaining": "3"})
    budgets.of("a.example").note({})
    quota = budgets.of("a.example").quota
    assert quota is not None
    assert quota.share == 0.3
    assert budgets.of("b.example").quota is None
    assert [budget.host for budget in budgets] == ["a.example", "b.example"]


def test_hosts_are_forgotten_when_there_are_too_many_but_not_what_they_asked_for() -> None:
    budgets = Budgets(Clock())
    budgets.of("parked.example").park(100)
    for number in range(5000):
        budgets.of(f"{number}.example")
    assert len(list(budgets)) <= 4096
    assert budgets.of("parked.example").parked_for == 100


async def test_a_rate_and_requests_under_way_are_not_forgotten() -> None:
    budgets = Budgets(Clock())
    paced, busy = budgets.of("paced.example"), budgets.of("busy.example")
    paced.pace(Rate(per_second=1))
    async with busy.slots(1):
        for number in range(5000):
            budgets.of(f"{number}.example")
        assert budgets.of("paced.example") is paced
        assert budgets.of("busy.example") is busy
    for number in range(5000, 10_000):
        budgets.of(f"{number}.example")
    assert budgets.of("busy.example") is not busy


def test_bandwidth_is_shared_by_all_who_read() -> None:
    clock = Clock()
    assert Bandwidth(0).take(10**12) == 0
    line = Bandwidth(1000, clock=clock)
    assert line.take(500) == pytest.approx(0.5)
    assert line.take(500) == pytest.approx(1.0)
    clock.now += 10
    assert line.take(100) == pytest.approx(0.1)
