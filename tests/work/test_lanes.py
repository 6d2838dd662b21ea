"""One worker is kept for what is urgent, and every lane is served."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.model.request import Lane
from sensor.work.lanes import lanes_for


def test_a_single_worker_does_everything_most_urgent_first() -> None:
    assert lanes_for(0, 1) == (Lane.NOW, Lane.NEW, Lane.AGAIN)


def test_the_first_of_several_is_kept_for_what_is_urgent() -> None:
    assert lanes_for(0, 4) == (Lane.NOW,)


def test_re_scans_never_fill_all_other_workers() -> None:
    assert [Lane.AGAIN in lanes_for(worker, 4) for worker in range(4)] == [False, True, True, False]


@given(st.integers(1, 64))
def test_every_lane_has_a_worker_and_every_worker_serves_the_urgent_lane(workers: int) -> None:
    each = [lanes_for(worker, workers) for worker in range(workers)]
    assert {lane for lanes in each for lane in lanes} == set(Lane)
    for lanes in each:
        assert lanes[0] is Lane.NOW
        assert list(lanes) == sorted(lanes)


@pytest.mark.parametrize(("worker", "workers"), [(-1, 2), (2, 2), (0, 0)])
def test_there_are_no_other_workers(worker: int, workers: int) -> None:
    with pytest.raises(ValueError, match="there is no worker"):
        lanes_for(worker, workers)
