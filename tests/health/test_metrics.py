from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from sensor import events
from sensor.health.metrics import render
from sensor.model.delivery import OutboxPart
from sensor.status import StatusBoard

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def samples(board: StatusBoard) -> dict[tuple[str, ...], float]:
    text = render(board.snapshot(NOW)).decode()
    return {
        (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_empty_board_is_valid_exposition_and_not_ready() -> None:
    found = samples(StatusBoard())
    assert found["harborguard_sensor_ready",] == 0
    assert found["harborguard_sensor_images_total", "outcome=success"] == 0
    assert not any(key[0].startswith("harborguard_sensor_link_up") for key in found)


def test_the_ledger_and_the_links_have_labels() -> None:
    board = StatusBoard()
    board.handle(events.SensorStarted(at=NOW, version="1", registries=("prod",)))
    board.handle(events.AdvisoriesChanged(at=NOW, revision="r", records=1, newest=NOW))
    board.handle(
        events.SweepFinished(
            at=NOW,
            registry="prod",
            complete=True,
            repositories=1,
            tags=2,
            ledger={"listed": 2, "scanned": 2},
            requests=7,
        )
    )
    board.handle(events.LinkChanged(at=NOW, link='we"ird\n', state="registered"))
    board.handle(events.HeartbeatSent(at=NOW, link='we"ird\n'))
    found = samples(board)
    assert found["harborguard_sensor_ready",] == 1
    assert found["harborguard_sensor_ledger_digests", "registry=prod", "state=scanned"] == 2
    assert found["harborguard_sensor_sweep_requests", "registry=prod"] == 7
    assert found["harborguard_sensor_link_up", 'link=we"ird\n'] == 1
    assert found["harborguard_sensor_last_heartbeat_timestamp_seconds", 'link=we"ird\n'] == NOW.timestamp()
    assert found["harborguard_sensor_advisories_newest_timestamp_seconds",] == NOW.timestamp()


def test_quotas_and_holds_are_gauges() -> None:
    board = StatusBoard()
    board.handle(events.IntakeChanged(at=NOW, registry="prod", reason="paused"))
    board.handle(
        events.QuotaChanged(at=NOW, host="hub.example", limit=100, remaining=42, window_seconds=0.0, source="")
    )
    found = samples(board)
    assert found["harborguard_sensor_intake_held", "registry=prod"] == 1
    assert found["harborguard_sensor_quota_limit", "host=hub.example"] == 100
    assert found["harborguard_sensor_quota_remaining", "host=hub.example"] == 42


def test_the_outbox_is_counted_by_link_and_state() -> None:
    board = StatusBoard()
    part = OutboxPart(link="cp", counts={"waiting": 3, "dead": 1}, bytes=2048, oldest=NOW)
    board.handle(events.OutboxCounted(at=NOW, parts=(part, OutboxPart(link="former", counts={"dead": 1}, bytes=1))))
    found = samples(board)
    assert found["harborguard_sensor_outbox_entries", "link=cp", "state=waiting"] == 3
    assert found["harborguard_sensor_outbox_bytes", "link=cp"] == 2048
    assert found["harborguard_sensor_outbox_oldest_timestamp_seconds", "link=cp"] == NOW.timestamp()
    assert ("harborguard_sensor_outbox_oldest_timestamp_seconds", "link=former") not in found
    board.handle(events.OutboxCounted(at=NOW, parts=()))
    assert not any("outbox" in key[0] for key in samples(board)), "what is delivered leaves the picture"


def test_a_sweep_of_a_former_process_has_a_time_and_no_cost() -> None:
    board = StatusBoard()
    board.handle(events.SweepRemembered(at=NOW, registry="prod", complete=False, error="no answer"))
    found = samples(board)
    assert found["harborguard_sensor_last_sweep_timestamp_seconds", "registry=prod"] == NOW.timestamp()
    assert found["harborguard_sensor_listing_complete", "registry=prod"] == 0
    assert ("harborguard_sensor_sweep_requests", "registry=prod") not in found


def test_the_process_and_its_tasks_are_counted() -> None:
    text = render(StatusBoard().snapshot(NOW), tasks=7).decode()
    values = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert values["harborguard_sensor_tasks"] == 7
    assert values["process_resident_memory_bytes"] > 2**20
    assert "harborguard_sensor_tasks" not in render(StatusBoard().snapshot(NOW)).decode()
