from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from sensor.repeats import MOST_A_MINUTE, Repeats, States


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_five_a_minute_are_shown_and_the_rest_counted() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    shown = [repeats.admit("a", {"n": number}) for number in range(8)]
    assert shown == [True] * 5 + [False] * 3
    assert repeats.ended() == []
    clock.now += 59.9
    assert repeats.ended() == []
    clock.now += 0.1
    assert repeats.ended() == [(3, {"n": 7})]
    assert repeats.ended() == []
    assert repeats.admit("a", {})


def test_what_did_not_repeat_leaves_no_count() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    for number in range(5):
        assert repeats.admit("a", {})
        assert repeats.admit(number, {})
    clock.now += 60
    assert repeats.ended() == []


def test_at_the_end_everything_is_told() -> None:
    repeats = Repeats(Clock())
    for _ in range(7):
        repeats.admit("a", {"x": 1})
        repeats.admit("b", {"x": 2})
    assert repeats.ended(everything=True) == [(2, {"x": 1}), (2, {"x": 2})]


def test_very_many_different_lines_end_the_oldest_minutes() -> None:
    repeats = Repeats(Clock())
    for _ in range(7):
        repeats.admit("first", {})
    found = []
    for number in range(1100):
        found += repeats.ended()
        repeats.admit(number, {})
    assert found == [(2, {})]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 40))))
def test_nothing_is_lost(lines: list[tuple[str, float]]) -> None:
    clock = Clock()
    repeats = Repeats(clock)
    shown: dict[Hashable, int] = {}
    counted = 0
    for key, pause in lines:
        clock.now += pause
        counted += sum(count for count, _ in repeats.ended())
        if repeats.admit(key, {}):
            shown[key] = shown.get(key, 0) + 1
    counted += sum(count for count, _ in repeats.ended(everything=True))
    assert sum(shown.values()) + counted == len(lines)
    assert counted == 0 or max(shown.values()) >= MOST_A_MINUTE


def test_a_state_is_news_once() -> None:
    states = States()
    told = [states.change("a", state) for state in ("", "down", "down", "refused", "", "", "down")]
    assert told == [False, True, False, True, True, False, True]
    assert states.change("b", "down")


def test_of_very_many_states_the_oldest_are_forgotten() -> None:
    states = States()
    for number in range(10_001):
        assert states.change(number, "down")
    assert not states.change(1, "down")
    assert states.change(0, "down")
