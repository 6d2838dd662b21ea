from datetime import UTC, datetime

import msgspec

from sensor.model.delivery import OutboxPart


def test_a_part_goes_through_json_as_the_status_has_it() -> None:
    part = OutboxPart(link="cp", counts={"waiting": 2}, bytes=10, oldest=datetime(2026, 5, 1, tzinfo=UTC))
    assert msgspec.json.decode(msgspec.json.encode(part), type=OutboxPart) == part
    assert OutboxPart(link="cp", counts={}, bytes=0).oldest is None
