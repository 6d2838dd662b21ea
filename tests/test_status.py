import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from sensor import events
from sensor.status import StatusBoard

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def started(*names: str) -> events.SensorStarted:
    return events.SensorStarted(at=NOW, version="1.2.3", registries=names)


def failed(digest: str, at: datetime = NOW) -> events.ImageFailed:
    return events.ImageFailed(
        at=at,
        registry="prod",
        reference=f"prod/app:{digest}",
        digest=digest,
        error="broken",
        advice="mend",
        next_try=None,
    )


def scanned(digest: str, status: str = "SUCCESS") -> events.ImageScanned:
    return events.ImageScanned(
        at=NOW, registry="prod", reference="prod/app:1", digest=digest, status=status, packages=3, counts={"HIGH": 2},
        gaps=(), layers_fetched=2, layers_cached=1, bytes_fetched=100, seconds=1.0,
    )  # fmt: skip


def test_a_new_board_is_not_ready_and_says_why() -> None:
    board = StatusBoard()
    snapshot = board.snapshot(NOW)
    assert not snapshot.ready
    assert any("not finished starting" in problem for problem in snapshot.problems)
    assert any("advisory database" in problem for problem in snapshot.problems)


def test_ready_needs_a_start_and_an_advisory_database() -> None:
    board = StatusBoard()
    board.handle(started("prod"))
    assert not board.snapshot(NOW).ready
    board.handle(events.AdvisoriesChanged(at=NOW, revision="r1", records=7, newest=NOW))
    snapshot = board.snapshot(NOW + timedelta(seconds=90))
    assert snapshot.ready
    assert snapshot.problems == []
    assert snapshot.uptime_seconds == 90
    assert snapshot.version == "1.2.3"


def test_old_advisories_are_a_problem_but_do_not_stop_the_sensor() -> None:
    board = StatusBoard(advisory_age=timedelta(days=7))
    board.handle(started())
    board.handle(events.AdvisoriesChanged(at=NOW, revision="r1", records=7, newest=NOW - timedelta(days=9)))
    assert board.snapshot(NOW).ready
    assert "9 days old" in board.problems(NOW)[0]


def test_an_image_is_running_from_start_to_end() -> None:
    board = StatusBoard()
    board.handle(
        events.ImageStarted(at=NOW, registry="prod", reference="prod/app:1", digest="d1", layers=2, bytes_total=10)
    )
    board.handle(events.ImageProgressed(digest="d1", bytes_done=4, bytes_total=10))
    board.handle(events.ImageProgressed(digest="unknown", bytes_done=4, bytes_total=10))
    assert board.active_scans == 1
    assert board.snapshot(NOW).running[0].bytes_done == 4
    board.handle(scanned("d1", "PARTIAL"))
    snapshot = board.snapshot(NOW)
    assert (snapshot.running, snapshot.images["partial"], snapshot.findings["HIGH"]) == ([], 1, 2)
    assert snapshot.layers == {"fetched": 2, "cached": 1, "bytes_fetched": 100}


def test_a_failure_is_shown_until_the_digest_succeeds() -> None:
    board = StatusBoard()
    board.handle(failed("d1"))
    assert board.snapshot(NOW).failures[0].advice == "mend"
    board.handle(scanned("d1"))
    assert board.snapshot(NOW).failures == []
    assert board.snapshot(NOW).images == {"success": 1, "partial": 0, "failed": 1}


def test_the_oldest_failures_are_forgotten_first() -> None:
    board = StatusBoard()
    for number in range(60):
        board.handle(failed(f"d{number}", NOW + timedelta(seconds=number)))
    shown = [failure.digest for failure in board.snapshot(NOW).failures]
    assert len(shown) == 50
    assert shown[0] == "d59"
    assert "d9" not in shown


@pytest.mark.parametrize(
    ("complete", "error", "tags", "state"),
    [(True, "", 3, "ok"), (False, "denied", 0, "failed"), (False, "denied", 3, "partial"), (False, "", 0, "partial")],
)
def test_the_end_of_a_sweep_sets_the_state(complete: bool, error: str, tags: int, state: str) -> None:
    board = StatusBoard()
    board.handle(events.SweepStarted(at=NOW, registry="prod", reason="schedule"))
    assert board.snapshot(NOW).registries[0].state == "sweeping"
    board.handle(
        events.SweepFinished(
            at=NOW,
            registry="prod",
            complete=complete,
            repositories=1,
            tags=tags,
            ledger={"listed": tags},
            requests=5,
            error=error,
            advice="ask",
        )
    )
    registry = board.snapshot(NOW).registries[0]
    assert (registry.state, registry.requests, registry.ledger) == (state, 5, {"listed": tags})
    assert bool([p for p in board.problems(NOW) if "registry prod" in p]) is bool(error)


def swept(tags: int = 0) -> events.SweepFinished:
    return events.SweepFinished(
        at=NOW, registry="prod", complete=True, repositories=1, tags=tags, ledger={"listed": tags}, requests=1
    )


def skipped(rule: str, *, withheld: bool = True) -> events.TagSkipped:
    return events.TagSkipped(at=NOW, registry="prod", repository="a", tag="t", rule=rule, withheld=withheld)


def test_what_the_registry_holds_back_is_shown_until_the_next_sweep() -> None:
    board = StatusBoard()
    board.handle(events.SweepStarted(at=NOW, registry="prod", reason="schedule"))
    for event in (skipped("archived"), skipped("exclude tags: x", withheld=False), skipped("archived"), swept(3)):
        board.handle(event)
    board.handle(skipped("quarantined"))  # in between, by a scan
    assert board.snapshot(NOW).registries[0].withheld == {"archived": 2, "quarantined": 1}
    board.handle(events.SweepStarted(at=NOW, registry="prod", reason="schedule"))
    assert board.snapshot(NOW).registries[0].withheld == {"archived": 2, "quarantined": 1}
    board.handle(skipped("archived"))
    board.handle(swept(3))
    assert board.snapshot(NOW).registries[0].withheld == {"archived": 1}
    board.handle(events.SweepStarted(at=NOW, registry="prod", reason="schedule"))
    board.handle(swept(3))
    assert board.snapshot(NOW).registries[0].withheld == {}


def test_reasons_of_a_hostile_registry_are_bounded() -> None:
    board = StatusBoard()
    for number in range(100):
        board.handle(skipped(f"reason {number}"))
    found = board.snapshot(NOW).registries[0].withheld
    assert len(found) == 21
    assert found["withheld by the registry: other reasons"] == 80


def test_links_jobs_and_rematches_are_counted() -> None:
    board = StatusBoard()
    board.handle(events.LinkChanged(at=NOW, link="cp", state="refused", error="401", advice="check the key"))
    assert any("check the key" in problem for problem in board.problems(NOW))
    board.handle(events.LinkChanged(at=NOW, link="cp", state="registered"))
    board.handle(events.HeartbeatSent(at=NOW, link="cp"))
    board.handle(events.JobClaimed(at=NOW, link="cp", job="j", type="SCAN", reference="a/b"))
    board.handle(events.JobFinished(at=NOW, link="cp", job="j", status="completed"))
    board.handle(events.ResultDelivered(at=NOW, link="cp", reference="a/b", scan_id="s", remote_id="r"))
    board.handle(events.ResultRefused(at=NOW, link="cp", reference="a/b", scan_id="s", error="400"))
    board.handle(events.ImagesRematched(at=NOW, images=4, changed=1, seconds=0.1))
    board.handle(events.TagSkipped(at=NOW, registry="prod", repository="a", tag="t", rule="exclude"))
    board.handle(events.ConfigReloaded(at=NOW))
    snapshot = board.snapshot(NOW)
    link = snapshot.links[0]
    assert (link.state, link.last_heartbeat, link.delivered, link.refused) == ("registered", NOW, 1, 1)
    assert snapshot.jobs == {"claimed": 1, "completed": 1, "failed": 0}
    assert snapshot.rematched == 4


def test_a_clock_that_is_wrong_is_a_problem_and_a_small_difference_is_none() -> None:
    board = StatusBoard()
    board.handle(events.LinkChanged(at=NOW, link="cp", state="registered", address="https://hg.example"))
    board.handle(events.ClockCompared(at=NOW, link="cp", seconds=42.0))
    (link,) = board.snapshot(NOW).links
    assert (link.clock_skew, link.address) == (42.0, "https://hg.example")
    assert not any("clock" in problem for problem in board.problems(NOW))
    for seconds, word in ((301.0, "301 s behind"), (-301.0, "301 s ahead of")):
        board.handle(events.ClockCompared(at=NOW, link="cp", seconds=seconds))
        assert any(word in problem for problem in board.problems(NOW))


def test_registries_that_left_the_configuration_leave_the_picture() -> None:
    board = StatusBoard()
    board.handle(started("a", "b"))
    board.handle(events.RepositoryVanished(at=NOW, registry="b", repository="x", reason="404"))
    board.handle(started("b", "c"))
    registries = board.snapshot(NOW).registries
    assert [registry.name for registry in registries] == ["b", "c"]
    assert registries[0].vanished == ["x: 404"]
    assert board.ledgers() == {"b": {}, "c": {}}


def test_a_snapshot_is_json() -> None:
    board = StatusBoard()
    board.handle(started("prod"))
    document = msgspec.json.decode(msgspec.json.encode(board.snapshot(NOW)))
    assert document["registries"][0]["name"] == "prod"
    assert document["advisories"]["revision"] == ""


def sweep(queued: int) -> events.SweepFinished:
    return events.SweepFinished(
        at=NOW, registry="prod", complete=True, repositories=1, tags=9, requests=1, ledger={"queued": queued, "listed": 9}
    )  # fmt: skip


def test_a_backlog_is_estimated_from_the_last_hour() -> None:
    board = StatusBoard()
    board.handle(started("prod"))
    board.handle(sweep(600))
    assert board.snapshot(NOW).registries[0].done_by is None
    for number in range(60):
        board.handle(dataclasses.replace(scanned(f"d{number}"), at=NOW + timedelta(minutes=number)))
    (registry,) = board.snapshot(NOW + timedelta(minutes=60)).registries
    assert registry.scanned_last_hour == 59
    assert registry.done_by is not None
    assert timedelta(hours=9) < registry.done_by - NOW - timedelta(minutes=60) < timedelta(hours=11)
    (later,) = board.snapshot(NOW + timedelta(hours=5)).registries
    assert (later.scanned_last_hour, later.done_by) == (0, None)


def test_a_held_registry_says_why_and_promises_nothing() -> None:
    board = StatusBoard()
    board.handle(sweep(600))
    board.handle(scanned("a"))
    board.handle(events.IntakeChanged(at=NOW, registry="prod", reason="windows", until=NOW + timedelta(hours=1)))
    (registry,) = board.snapshot(NOW).registries
    assert (registry.held, registry.held_until, registry.done_by) == ("windows", NOW + timedelta(hours=1), None)
    board.handle(events.IntakeChanged(at=NOW, registry="prod"))
    (registry,) = board.snapshot(NOW).registries
    assert (registry.held, registry.done_by is not None) == ("", True)


def test_a_hold_of_which_nobody_speaks_any_more_is_over() -> None:
    board = StatusBoard()
    until = NOW + timedelta(minutes=5)
    board.handle(events.IntakeChanged(at=NOW, registry="prod", reason="slow down", until=until))
    assert board.snapshot(until + timedelta(seconds=59)).registries[0].held == "slow down"
    (registry,) = board.snapshot(until + timedelta(minutes=1)).registries
    assert (registry.held, registry.held_until) == ("", None)


def quota(host: str, remaining: int) -> events.QuotaChanged:
    return events.QuotaChanged(
        at=NOW, host=host, limit=100, remaining=remaining, window_seconds=21600, source="1.2.3.4"
    )


def test_quotas_are_shown_by_host_and_not_without_end() -> None:
    board = StatusBoard()
    board.handle(quota("hub.example", 90))
    board.handle(quota("hub.example", 80))
    board.handle(quota("api.example", 5))
    assert [(one.host, one.remaining) for one in board.snapshot(NOW).quotas] == [
        ("api.example", 5),
        ("hub.example", 80),
    ]
    for number in range(1500):
        board.handle(quota(f"{number}.example", 1))
    assert len(board.snapshot(NOW).quotas) == 1000


def checked(expires: datetime | None = None, *, may_write: bool | None = None) -> events.CredentialChecked:
    return events.CredentialChecked(
        at=NOW, registry="prod", method="robot account", identity="team+ci", expires=expires, may_write=may_write
    )


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (timedelta(days=15), None),
        (timedelta(days=13), "ends in 13 days"),
        (timedelta(hours=30), "ends within two days"),
        (timedelta(hours=-1), "has ended"),
    ],
)
def test_the_end_of_a_credential_is_a_problem_two_weeks_ahead(left: timedelta, says: str | None) -> None:
    board = StatusBoard()
    board.handle(checked(NOW + left))
    found = [problem for problem in board.problems(NOW) if "credential" in problem]
    assert found == [] if says is None else says in found[0]
    (registry,) = board.snapshot(NOW).registries
    assert (registry.method, registry.identity) == ("robot account", "team+ci")


def test_a_credential_that_could_write_is_pointed_out_and_an_unknown_one_is_not() -> None:
    board = StatusBoard()
    board.handle(checked(may_write=None))
    assert not any("push" in problem for problem in board.problems(NOW))
    board.handle(checked(may_write=True))
    assert any("could push or delete" in problem for problem in board.problems(NOW))
