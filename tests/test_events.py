from dataclasses import FrozenInstanceError, fields, is_dataclass
from datetime import UTC, datetime
from typing import get_args

import pytest

from sensor import events
from sensor.events import Event, HeartbeatSent, Publish

KINDS = get_args(Event)
DEFINED = [kind for kind in vars(events).values() if is_dataclass(kind) and kind.__module__ == events.__name__]
AT = datetime(2026, 5, 1, tzinfo=UTC)


def test_the_union_is_closed() -> None:
    assert set(KINDS) == set(DEFINED)


@pytest.mark.parametrize("kind", DEFINED)
def test_events_are_values_named_noun_and_past_verb(kind: type) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")
    assert kind.__name__.endswith(("ed", "Sent"))
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in fields(kind))


# these three only move a number or a bar: the status keeps the time of what led to them
PASSING = (events.ImageProgressed, events.ImageStopped, events.LedgerChanged)


@pytest.mark.parametrize("kind", DEFINED)
def test_events_say_when(kind: type) -> None:
    assert (fields(kind)[0].name == "at") is (kind not in PASSING)


def test_a_list_is_a_publisher() -> None:
    seen: list[Event] = []
    publish: Publish = seen.append
    event = HeartbeatSent(at=AT, link="h")
    publish(event)
    assert seen == [HeartbeatSent(at=AT, link="h")]
    with pytest.raises(FrozenInstanceError):
        event.link = "x"  # type: ignore[misc]
