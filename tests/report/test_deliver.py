import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sensor import events
from sensor.control_plane import wire
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.errors import Unavailable
from sensor.control_plane.links import Link
from sensor.errors import ControlPlaneError, StateError
from sensor.limits import Limits
from sensor.report.deliver import Deliverer
from sensor.report.desk import try_again
from sensor.report.document import FailedScan, envelope, failed_envelope
from sensor.report.outbox import Entry, Kind, NewEntry, Outbox, State, put
from sensor.report.steps import MOST_HALVES, MOST_STRIKES
from sensor.secret import InPlace, Secret
from sensor.storage import Storage, open_storage
from sensor.transport import Transport
from tests.fakes.control_plane import KEY, FakeControlPlane, FakeJob, Fault
from tests.report.results import SENSOR, finding, result

ID = "8c1f6a36-0000-4000-8000-000000000001"
REFERENCE = "registry.example.net/acme/app:1.4"
UNREADABLE = Fault(status=500, body=b'{"error":"Error uploading scan data"}')


class Bench:
    """A deliverer on a real state database and a real connection to a fake control plane, with a clock of its own."""

    def __init__(self, storage: Storage, plane: FakeControlPlane) -> None:
        self.storage, self.plane = storage, plane
        self.now = 1_800_000_000.0
        self.outbox = Outbox(storage)
        self.events: list[events.Event] = []
        self.transports: list[Transport] = []
        self.clients: dict[str, Any] = {}
        self.deliverer = self.link(l=plane.url)

    def link(self, **urls: str) -> Deliverer:
        for name, url in urls.items():
            link = Link(name=name, url=url, api_key=InPlace(Secret(KEY)))
            self.transports.append(transport_for(link))
            self.clients[name] = ControlPlaneClient(
                link, self.transports[-1], limits=Limits(idle_seconds=20.0, upload_seconds=20.0)
            )
        self.deliverer = self.make(self.clients)
        return self.deliverer

    def make(self, clients: dict[str, Any]) -> Deliverer:
        return Deliverer(
            self.outbox, clients, self.events.append, clock=lambda: self.now, jitter=lambda _low, high: high
        )

    async def add(self, kind: Kind = Kind.STANDALONE, scan_id: str = ID, **more: Any) -> None:
        image = result(finding(), reference=more.pop("reference", REFERENCE))
        body = more.pop("body", None) or envelope(image, scan_id=scan_id, sensor=SENSOR).body
        fields = {"link": "l", "reference": image.reference, "digest": image.digest, "body": body, **more}
        async with self.storage.transaction() as connection:
            await put(connection, NewEntry(kind=kind, scan_id=scan_id, **fields), now=self.now)

    async def add_job(self, **more: Any) -> FakeJob:
        job = self.plane.add_job(REFERENCE)
        self.plane.claim(job.id)
        await self.add(Kind.JOB, job.id, **more)
        return job

    async def drain(self, link: str = "l") -> float | None:
        return await self.deliverer.deliver_once(link)

    async def drain_for(self, seconds: float, link: str = "l") -> None:
        """As `run` does, on the bench's clock."""
        end = self.now + seconds
        while self.now <= end:
            pause = await self.drain(link)
            if pause is None:
                return
            self.now += max(pause, 0.5)

    async def only(self, link: str = "l") -> Entry:
        (entry,) = await self.outbox.entries(link)
        return entry

    def told(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def paths(self) -> list[str]:
        return [path for _, path in self.plane.requests]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    storage = await open_storage(tmp_path)
    async with FakeControlPlane() as plane:
        made = Bench(storage, plane)
        yield made
        for transport in made.transports:
            await transport.close()
    await storage.close()


def rows(job: FakeJob) -> int:
    assert job.scan is not None
    return len(job.scan.rows["vulnerabilities"])


async def test_a_result_is_delivered(bench: Bench) -> None:
    await bench.add()
    assert await bench.drain() is None
    (scan,) = bench.plane.standalone
    assert (scan.request_id, scan.status, len(scan.rows["vulnerabilities"])) == (ID, "SUCCESS", 1)
    assert (await bench.only()).state is State.DELIVERED
    (told,) = bench.told(events.ResultDelivered)
    assert (told.link, told.reference, told.scan_id, told.remote_id) == ("l", REFERENCE, ID, scan.id)
    assert bench.paths == ["/api/ready", "/api/scans/upload"]


async def test_an_idle_outbox_asks_nobody(bench: Bench) -> None:
    assert await bench.drain() is None
    assert bench.paths == []


async def test_a_job_is_answered_by_envelope_and_status(bench: Bench) -> None:
    job = await bench.add_job()
    await bench.drain()
    assert (job.status, job.error, rows(job)) == ("COMPLETED", None, 1)
    (told,) = bench.told(events.JobFinished)
    assert (told.job, told.status, told.error) == (job.id, "completed", "")


async def test_a_failed_job_tells_why(bench: Bench) -> None:
    job = bench.plane.add_job(REFERENCE)
    bench.plane.claim(job.id)
    failed = FailedScan(
        reference=REFERENCE, error="pull failed", started_at="2026-05-22T18:04:20Z", finished_at="2026-05-22T18:04:21Z"
    )
    body = failed_envelope(failed, scan_id=job.id, sensor=SENSOR).body
    await bench.add(Kind.JOB, job.id, body=body, outcome="failed", error="pull failed")
    await bench.drain()
    assert job.scan is not None
    assert (job.scan.status, job.status, job.error) == ("FAILED", "FAILED", "pull failed")
    assert (await bench.only()).state is State.DELIVERED


async def test_a_job_that_was_no_scan_gets_its_status_only(bench: Bench) -> None:
    job = bench.plane.add_job(kind="PATCH", with_scan=False)
    bench.plane.claim(job.id)
    async with bench.storage.transaction() as connection:
        new = NewEntry(link="l", kind=Kind.JOB, scan_id=job.id, reference="", outcome="failed", error="unknown type")
        await put(connection, new, now=bench.now)
    await bench.drain()
    assert (job.status, job.error, bench.plane.scans) == ("FAILED", "unknown type", [])


@pytest.mark.parametrize(
    ("set_up", "state"),
    [
        (lambda plane: setattr(plane, "has_database", False), "down"),
        (lambda plane: plane.fail("upload", Fault(status=503, times=3)), "down"),
        (lambda plane: plane.fail("upload", Fault(status=429, headers={"Retry-After": "7"}, times=3)), "down"),
        (lambda plane: setattr(plane, "is_demo", True), "refused"),
        (lambda plane: plane.agents.clear(), "refused"),
        (lambda plane: plane.fail("upload", Fault(status=402, times=3)), "refused"),
        (lambda plane: plane.fail("upload", Fault(status=404, times=3)), "refused"),
        (lambda plane: plane.fail("upload", Fault(status=308, headers={"Location": "/x"}, times=3)), "refused"),
    ],
)
async def test_a_link_at_fault_leaves_its_results_alone(
    bench: Bench, set_up: Callable[[FakeControlPlane], None], state: str
) -> None:
    await bench.add()
    job = await bench.add_job()
    set_up(bench.plane)
    for _ in range(3):
        pause = await bench.drain()
        assert pause is not None
        assert 1 <= pause <= 300
        bench.now += pause
    assert bench.plane.uploads == []
    for entry in await bench.outbox.entries("l"):
        assert (entry.state, entry.strikes, entry.lost, entry.burnt) == (State.WAITING, 0, False, False)
    assert [change.state for change in bench.told(events.LinkChanged)] == [state]
    assert bench.told(events.LinkChanged)[0].error
    assert job.status == "ASSIGNED"


async def test_a_link_that_comes_back_is_announced_and_emptied(bench: Bench) -> None:
    await bench.add()
    bench.plane.has_database = False
    pause = await bench.drain()
    assert pause is not None
    asked = len(bench.plane.requests)
    bench.now += pause / 2
    assert await bench.drain() == pause / 2
    assert len(bench.plane.requests) == asked, "a paused link is left alone"
    bench.plane.has_database = True
    await bench.drain_for(600)
    assert len(bench.plane.standalone) == 1
    assert [change.state for change in bench.told(events.LinkChanged)] == ["down", "registered"]


async def test_pauses_grow_and_heed_what_the_server_asks(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("ready", Fault(status=503, times=9))
    pauses = []
    for _ in range(9):
        pause = await bench.drain()
        assert pause is not None
        pauses.append(pause)
        bench.now += pause
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    bench.plane.fail("ready", Fault(status=503, headers={"Retry-After": "500"}))
    assert await bench.drain() == 500


async def test_a_long_time_without_the_control_plane_loses_nothing(bench: Bench) -> None:
    await bench.add()
    job = await bench.add_job()
    bench.plane.fail("ready", Fault(status=502, times=10**9))
    await bench.drain_for(6 * 3600)
    bench.plane._faults.clear()
    await bench.drain_for(600)
    assert (len(bench.plane.standalone), job.status, rows(job)) == (1, "COMPLETED", 1)


async def test_one_link_does_not_hold_up_another(bench: Bench) -> None:
    await bench.add()
    await bench.add(link="m", scan_id="other")
    bench.plane.fail("ready", Fault(status=502))
    bench.link(m=bench.plane.url)
    assert await bench.drain("l")
    assert await bench.drain("m") is None
    assert [scan.request_id for scan in bench.plane.standalone] == ["other"]


# --- standalone: what may be sent again ----------------------------------------------------------------------------------------


async def test_a_lost_answer_is_asked_for_again_under_the_same_id(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(close="after"))
    pause = await bench.drain()
    assert pause == 30
    await bench.drain_for(600)
    (scan,) = bench.plane.standalone
    assert scan.request_id == ID
    assert (await bench.only()).state is State.DELIVERED
    assert bench.paths.count("/api/scans/upload") == 2


async def test_a_request_that_never_arrived_is_repeated(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(close="before"))
    await bench.drain_for(600)
    assert [scan.request_id for scan in bench.plane.standalone] == [ID]


async def test_a_half_stored_result_is_sent_again_under_a_new_id(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(crash=True))
    await bench.drain_for(600)
    first, second = bench.plane.standalone
    assert first.request_id == ID
    assert second.request_id != ID
    assert len(second.rows["vulnerabilities"]) == 1
    assert (await bench.only()).scan_id == second.request_id


async def test_a_result_that_is_always_half_stored_is_given_up(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(crash=True, times=100))
    await bench.drain_for(86_400)
    assert len(bench.plane.standalone) == MOST_HALVES
    assert len({scan.request_id for scan in bench.plane.standalone}) == MOST_HALVES
    entry = await bench.only()
    assert (entry.state, entry.size > 0) == (State.DEAD, True)
    (told,) = bench.told(events.ResultRefused)
    assert "failed while it stored" in told.error


async def test_an_id_that_somebody_else_has_used_is_replaced(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(status=409, body=b'{"error":"Scan with this requestId already exists"}'))
    await bench.drain_for(600)
    (scan,) = bench.plane.standalone
    assert scan.request_id != ID


async def test_what_the_server_could_not_read_is_repeated_but_not_for_ever(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(**{**vars(UNREADABLE), "times": 1000}))
    await bench.drain_for(7 * 86_400)
    assert bench.paths.count("/api/scans/upload") == MOST_STRIKES
    assert (await bench.only()).state is State.DEAD


async def test_a_database_that_goes_down_in_between_is_the_links_fault(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", UNREADABLE)
    bench.plane.fail("ready", Fault(status=200, body=b"{}"))
    bench.plane.fail("ready", Fault(status=503))
    await bench.drain()
    entry = await bench.only()
    assert (entry.state, entry.strikes) == (State.WAITING, 0)
    assert bench.told(events.LinkChanged)[0].state == "down"


@pytest.mark.parametrize("fault", [Fault(status=400, body=b'{"error":"Validation error"}'), Fault(status=413)])
async def test_a_refused_result_is_kept_aside_at_once(bench: Bench, fault: Fault) -> None:
    await bench.add()
    await bench.add(reference="registry.example.net/acme/app:2", scan_id="second")
    bench.plane.fail("upload", Fault(**vars(fault)))
    await bench.drain()
    assert [entry.state for entry in await bench.outbox.entries("l")] == [State.DEAD, State.DELIVERED]
    assert len(bench.told(events.ResultRefused)) == 1
    assert len(await try_again(bench.storage, bench.now)) == 1
    await bench.drain()
    assert len(bench.plane.standalone) == 2


async def test_after_a_restart_in_mid_upload_the_result_has_a_new_id(bench: Bench) -> None:
    await bench.add()
    bench.plane.fail("upload", Fault(hang=True))
    task = asyncio.ensure_future(bench.drain())
    while "/api/scans/upload" not in bench.paths:
        bench.plane.arrived.clear()
        await bench.plane.arrived.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await bench.only()).state is State.SENDING
    assert await bench.drain() is None, "what is being sent is not sent twice"
    await bench.outbox.recover(bench.now)
    await bench.drain()
    (scan,) = bench.plane.standalone
    assert scan.request_id != ID


# --- jobs: never the same rows twice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (Fault(close="after"), 1),
        (Fault(close="before"), 0),
        (Fault(crash=True), 1),
        (Fault(status=502), 0),
        (Fault(status=413), 0),
    ],
)
async def test_an_unknown_outcome_of_a_job_is_closed_without_doubling(bench: Bench, fault: Fault, stored: int) -> None:
    job = await bench.add_job()
    bench.plane.fail("upload", Fault(**vars(fault)))
    await bench.drain_for(600)
    assert job.scan is not None
    assert rows(job) == stored
    assert (job.scan.status, job.scan.risk_score) == ("PARTIAL", 48)
    assert job.scan.counts == {"critical": 0, "high": 1, "medium": 0, "low": 0, "info": 0}
    assert job.status == "FAILED"
    assert job.error is not None
    assert job.error.startswith("upload outcome unknown: ")
    entry = await bench.only()
    assert (entry.state, entry.size > 0) == (State.DEAD, True)
    assert len(bench.told(events.ResultRefused)) == len(bench.told(events.JobFinished)) == 1
    closing = json.loads(bench.plane.uploads[-1])
    assert closing["findings"]["vulnerabilities"] == []
    assert closing["gaps"][-1]["kind"] == "upload"


async def test_the_closing_envelope_is_repeated_until_it_is_answered(bench: Bench) -> None:
    job = await bench.add_job()
    for _ in range(4):
        bench.plane.fail("upload", Fault(close="after"))
    await bench.drain_for(3600)
    assert (rows(job), job.status, len(bench.plane.uploads)) == (1, "FAILED", 5)


async def test_a_closing_envelope_that_never_succeeds_still_answers_the_job(bench: Bench) -> None:
    job = await bench.add_job()
    bench.plane.fail("upload", Fault(crash=True, times=1000))
    await bench.drain_for(7 * 86_400)
    assert (rows(job), job.status) == (1, "FAILED")
    assert (await bench.only()).state is State.DEAD


async def test_a_failed_scans_envelope_is_repeated_as_it_is(bench: Bench) -> None:
    job = bench.plane.add_job(REFERENCE)
    bench.plane.claim(job.id)
    failed = FailedScan(
        reference=REFERENCE, error="no", started_at="2026-05-22T18:04:20Z", finished_at="2026-05-22T18:04:21Z"
    )
    body = failed_envelope(failed, scan_id=job.id, sensor=SENSOR).body
    await bench.add(Kind.JOB, job.id, body=body, outcome="failed", error="pull failed: no")
    bench.plane.fail("upload", Fault(close="after"))
    await bench.drain_for(600)
    assert job.scan is not None
    assert (job.scan.status, job.error, bench.plane.uploads) == ("FAILED", "pull failed: no", [body, body])
    assert (await bench.only()).state is State.DELIVERED


async def test_a_job_whose_scan_was_deleted_and_is_taken_is_reported_failed(bench: Bench) -> None:
    job = await bench.add_job()
    bench.plane.fail("upload", Fault(status=409, body=b'{"error":"Scan with this requestId already exists"}'))
    await bench.drain_for(600)
    assert job.status == "FAILED"
    assert (await bench.only()).state is State.DEAD


async def test_a_refused_envelope_fails_its_job(bench: Bench) -> None:
    job = await bench.add_job()
    bench.plane.fail("upload", Fault(status=400, body=b'{"error":"Validation error"}'))
    await bench.drain()
    assert job.status == "FAILED"
    assert job.error is not None
    assert "Validation error" in job.error


async def test_a_crash_in_mid_upload_closes_the_job(bench: Bench) -> None:
    job = await bench.add_job()
    await bench.outbox.begin(await bench.only(), bench.now)
    await bench.outbox.recover(bench.now)
    await bench.drain()
    assert job.scan is not None
    assert (job.scan.status, rows(job), job.status) == ("PARTIAL", 0, "FAILED")
    assert job.error is not None
    assert "the sensor stopped" in job.error


# --- the status of a job ----------------------------------------------------------------------------------------------------------


async def test_a_status_that_was_already_given_is_fine(bench: Bench) -> None:
    job = await bench.add_job()
    job.status = "COMPLETED"
    await bench.drain()
    assert (await bench.only()).state is State.DELIVERED


async def test_a_lost_status_is_given_again(bench: Bench) -> None:
    job = await bench.add_job()
    bench.plane.fail("status", Fault(close="after"))
    await bench.drain_for(600)
    assert (job.status, rows(job)) == ("COMPLETED", 1)
    assert (await bench.only()).state is State.DELIVERED
    assert len(bench.plane.uploads) == 1


async def test_a_status_survives_a_restart(bench: Bench) -> None:
    job = await bench.add_job()
    bench.plane.fail("status", Fault(status=503))
    bench.plane.fail("ready", Fault(status=200, body=b"{}"))
    bench.plane.fail("ready", Fault(status=503))
    assert await bench.drain()
    assert (await bench.only()).state is State.REPORTING
    await bench.outbox.recover(bench.now)
    bench.now += 3600
    bench.link(l=bench.plane.url)
    await bench.drain()
    assert (job.status, len(bench.plane.uploads)) == ("COMPLETED", 1)


@pytest.mark.parametrize("gone", ["missing", "foreign"])
async def test_a_job_nobody_asks_for_any_more_is_let_go(bench: Bench, gone: str) -> None:
    job = await bench.add_job()
    if gone == "missing":
        del bench.plane.jobs[job.id]
    else:
        job.agent = "somebody else"
    await bench.drain()
    entry = await bench.only()
    assert entry.state is State.DELIVERED
    assert entry.last_error
    assert bench.told(events.JobFinished)[0].error == entry.last_error


async def test_a_status_that_always_fails_is_given_up_and_holds_up_nobody(bench: Bench) -> None:
    await bench.add_job()
    await bench.add()
    bench.plane.fail("status", Fault(status=500, body=b'{"error":"Failed to update job status"}', times=1000))
    await bench.drain()
    assert len(bench.plane.standalone) == 1
    await bench.drain_for(7 * 86_400)
    assert bench.paths.count("/api/agent/jobs/" + next(iter(bench.plane.jobs)) + "/status") == MOST_STRIKES
    assert await bench.outbox.next_due("l") is None


@pytest.mark.parametrize(
    "fault", [Fault(status=404), Fault(status=401), Fault(status=403, body=b'{"error":"Demo mode is enabled"}')]
)
async def test_a_status_that_the_link_refuses_waits(bench: Bench, fault: Fault) -> None:
    job = await bench.add_job()
    bench.plane.fail("status", Fault(**vars(fault)))
    assert await bench.drain() == 60
    assert (await bench.only()).state is State.REPORTING
    bench.now += 60
    await bench.drain()
    assert job.status == "COMPLETED"


# --- bounds and damage ------------------------------------------------------------------------------------------------------------


async def test_a_damaged_entry_is_given_up_and_the_rest_delivered(bench: Bench) -> None:
    await bench.add()
    await bench.add(reference="registry.example.net/acme/app:2", scan_id="second")
    with sqlite3.connect(bench.storage.path) as raw:
        raw.execute("UPDATE outbox SET body = x'00' WHERE scan_id = ?", (ID,))
    raw.close()
    await bench.drain()
    assert [scan.request_id for scan in bench.plane.standalone] == ["second"]
    (told,) = bench.told(events.ResultRefused)
    assert "damaged" in told.error


async def test_what_falls_out_of_the_bounds_is_told(bench: Bench) -> None:
    await bench.add()
    bench.now += 31 * 86_400
    assert await bench.drain() is None
    assert await bench.outbox.entries("l") == ()
    (told,) = bench.told(events.ResultRefused)
    assert told.error.startswith("dropped")
    assert bench.plane.uploads == []


# --- the loop ---------------------------------------------------------------------------------------------------------------------


class Scripted:
    """An uploader that does what a test says, step by step."""

    def __init__(self) -> None:
        self.uploaded: asyncio.Queue[bytes] = asyncio.Queue()
        self.down = False

    async def probe(self) -> bool:
        if self.down:
            raise Unavailable("down")
        return True

    async def upload(self, body: bytes) -> wire.UploadAnswer:
        self.uploaded.put_nowait(body)
        return wire.UploadAnswer(status=201)

    async def report_job(self, job: str, outcome: wire.JobOutcome, error: str = "") -> None:
        raise ControlPlaneError("not in this test")


async def test_the_loop_recovers_delivers_wakes_and_stops(bench: Bench) -> None:
    scripted = Scripted()
    deliverer = bench.make({"l": scripted, "m": Scripted()})
    await bench.add()
    await bench.outbox.begin(await bench.only(), bench.now)
    running = asyncio.ensure_future(deliverer.run())
    assert json.loads(await scripted.uploaded.get())["scan"]["id"] != ID
    await bench.add(reference="registry.example.net/acme/app:2", scan_id="second")
    deliverer.wake()
    assert json.loads(await scripted.uploaded.get())["scan"]["id"] == "second"
    deliverer.stop()
    await running
    assert [entry.state for entry in await bench.outbox.entries("l")] == [State.DELIVERED, State.DELIVERED]


async def test_a_new_result_does_not_shorten_the_pause_of_a_link(bench: Bench) -> None:
    scripted = Scripted()
    scripted.down = True
    deliverer = bench.make({"l": scripted})
    await bench.add()
    await deliverer.deliver_once("l")
    scripted.down = False
    deliverer.wake()
    assert await deliverer.deliver_once("l")
    assert scripted.uploaded.empty()


async def test_an_unexpected_error_of_the_control_plane_pauses_the_link(bench: Bench) -> None:
    deliverer = bench.make({"l": Scripted()})
    async with bench.storage.transaction() as connection:
        await put(connection, NewEntry(link="l", kind=Kind.JOB, scan_id="j", reference=""), now=bench.now)
    assert await deliverer.deliver_once("l") == 60
    assert (await bench.only()).state is State.REPORTING


class FullDisk(Outbox):
    """An outbox whose disk is full: the first attempts to record an upload, and then to recover from that, fail."""

    failures = ("uploaded", "recover")
    is_retryable = True

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.failed: asyncio.Queue[str] = asyncio.Queue()
        self._left = list(self.failures)

    def _fail(self, what: str) -> None:
        if self._left and self._left[0] == what:
            self.failed.put_nowait(self._left.pop(0))
            raise StateError("the disk is full", retryable=self.is_retryable)

    async def uploaded(self, entry: Entry, now: float) -> Entry:
        self._fail("uploaded")
        return await super().uploaded(entry, now)

    async def recover(self, now: float, link: str | None = None) -> int:
        self._fail("recover")
        return await super().recover(now, link)


async def test_a_full_disk_pauses_and_what_was_being_sent_is_settled(bench: Bench) -> None:
    scripted = Scripted()
    bench.outbox = outbox = FullDisk(bench.storage)
    deliverer = bench.make({"l": scripted})
    await bench.add()
    running = asyncio.ensure_future(deliverer.run())
    first = json.loads(await scripted.uploaded.get())["scan"]["id"]
    for expected in outbox.failures:
        assert await outbox.failed.get() == expected
        deliverer.wake()
    assert json.loads(await scripted.uploaded.get())["scan"]["id"] != first
    deliverer.stop()
    await running
    assert (await bench.only()).state is State.DELIVERED


async def test_a_state_database_that_is_gone_ends_the_loop(bench: Bench) -> None:
    bench.outbox = outbox = FullDisk(bench.storage)
    outbox.is_retryable = False
    await bench.add()
    with pytest.raises(ExceptionGroup) as caught:
        await bench.make({"l": Scripted()}).run()
    assert caught.group_contains(StateError)


async def test_the_loop_waits_for_what_is_due_later(bench: Bench) -> None:
    scripted = Scripted()
    await bench.add()
    entry = await bench.outbox.begin(await bench.only(), bench.now)
    await bench.outbox.retry(entry, bench.now, not_before=bench.now + 0.05, error="x")
    started = asyncio.get_running_loop().time()
    base = bench.now
    bench.deliverer = Deliverer(
        bench.outbox,
        {"l": scripted},
        bench.events.append,
        clock=lambda: base + asyncio.get_running_loop().time() - started,
    )
    running = asyncio.ensure_future(bench.deliverer.run())
    await scripted.uploaded.get()
    assert asyncio.get_running_loop().time() - started >= 0.05
    bench.deliverer.stop()
    await running
