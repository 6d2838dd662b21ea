import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from sensor import events
from sensor.control_plane import wire
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.errors import Unauthorized, Unavailable
from sensor.control_plane.links import Link
from sensor.errors import SecretError, StateError
from sensor.limits import Limits
from sensor.model.request import JobRequest, Lane
from sensor.report.entries import State
from sensor.report.outbox import Outbox
from sensor.secret import FromFile, InPlace, Secret
from sensor.storage import Storage, open_storage
from sensor.triggers.jobs import MOST_CLAIMED, MOST_WAITING, JobPoller
from sensor.work.queue import TableQueue
from tests.fakes.control_plane import KEY, FakeControlPlane, Fault
from tests.fakes.pipeline import Clock, Disk

REFERENCE = "registry.example/team/app:1"


class Enough(Exception):
    pass


class Member:
    """A registered sensor, or one that waits for that."""

    def __init__(self) -> None:
        self.is_registered = asyncio.Event()
        self.is_registered.set()
        self.asked = asyncio.Event()

    @property
    def agent(self) -> str:
        return "agent-1"

    async def registered(self) -> None:
        self.asked.set()
        await self.is_registered.wait()


@dataclass(slots=True)
class Desk:
    plane: FakeControlPlane
    storage: Storage
    disk: Disk
    queue: TableQueue
    outbox: Outbox
    poller: JobPoller
    told: list[events.Event] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    rounds: int = 1

    async def go(self, rounds: int) -> None:
        self.rounds = len(self.pauses) + rounds
        with pytest.raises(Enough):
            await self.poller.run(Member())

    def jobs(self) -> list[str]:
        return [event.job for event in self.told if isinstance(event, events.JobClaimed)]

    def polls(self) -> int:
        return sum(path.startswith("/api/agent/jobs?") for _, path in self.plane.requests)

    async def envelope(self) -> dict[str, Any]:
        (entry,) = await self.outbox.entries("cp")
        return dict(json.loads(await self.outbox.body(entry)))


async def open_desk(plane: FakeControlPlane, room: Path, **more: Any) -> tuple[Desk, Any]:
    storage = await open_storage(room / "state")
    disk = Disk()
    disk.attach(storage)
    queue = TableQueue(storage, Clock())
    link = Link(name="cp", url=plane.url, api_key=InPlace(Secret(KEY)), poll=15.0, **more)
    transport = transport_for(link, Limits(idle_seconds=0.5))
    desk: Desk

    async def sleep(seconds: float) -> None:
        desk.pauses.append(seconds)
        if len(desk.pauses) >= desk.rounds:
            raise Enough
        await asyncio.sleep(0)

    told: list[events.Event] = []
    answered: list[int] = []
    poller = JobPoller(
        ControlPlaneClient(link, transport, limits=Limits(idle_seconds=0.5)),
        storage,
        queue,
        identity=lambda: wire.Sensor(version="1", scanner_versions={}, id="agent-1"),
        publish=told.append,
        clock=Clock(),
        answered=lambda: answered.append(1),
        sleep=sleep,
    )
    desk = Desk(plane, storage, disk, queue, Outbox(storage), poller, told, answered=answered)
    return desk, transport


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with FakeControlPlane() as plane:
        made, transport = await open_desk(plane, tmp_path)
        yield made
        await transport.close()
        await made.storage.close()


async def test_a_job_is_on_disk_before_anything_is_told(desk: Desk) -> None:
    job = desk.plane.add_job(REFERENCE, scanners=["trivy"])
    assert await desk.poller.poll("agent-1") == 1
    item = await desk.queue.take("w", [Lane.NOW])
    assert item is not None
    assert item.work == JobRequest(link="cp", job=job.id, reference=REFERENCE, scanners=("trivy",))
    (told,) = desk.told
    assert isinstance(told, events.JobClaimed)
    assert (told.job, told.type, told.reference) == (job.id, "SCAN", REFERENCE)
    assert not desk.answered
    assert await desk.poller.poll("agent-1") == 0


async def test_the_poll_names_the_agent(desk: Desk) -> None:
    await desk.poller.poll("agent-1")
    assert desk.plane.requests == [("GET", "/api/agent/jobs?agentId=agent-1")]


async def test_there_must_be_room_for_all_that_a_poll_may_claim(desk: Desk) -> None:
    assert MOST_WAITING % MOST_CLAIMED == 0
    for number in range(MOST_WAITING + 3):
        desk.plane.add_job(f"registry.example/team/app:{number}")
    claimed = 0
    while count := await desk.poller.poll("agent-1"):
        assert count <= MOST_CLAIMED
        claimed += count
    assert claimed == MOST_WAITING
    assert desk.polls() == MOST_WAITING // MOST_CLAIMED  # a full queue does not even ask
    for _ in range(MOST_CLAIMED):
        item = await desk.queue.take("w", [Lane.NOW])
        assert item is not None
        assert await desk.poller.poll("agent-1") == 0  # what is being done takes room, too
        await desk.queue.done(item)
    assert await desk.poller.poll("agent-1") == 3


@pytest.mark.parametrize(
    ("reference", "more", "reason"),
    [
        ("team/app:1", {}, "without a registry host"),
        ("registry.example/team/app:1", {"source": "docker"}, "no Docker socket"),
        ("registry.example/UPPER", {}, "unusable"),
    ],
)
async def test_a_job_that_cannot_be_done_gets_an_envelope_and_a_status(
    desk: Desk, reference: str, more: dict[str, Any], reason: str
) -> None:
    job = desk.plane.add_job(reference, **more)
    assert await desk.poller.poll("agent-1") == 1
    (entry,) = await desk.outbox.entries("cp")
    assert (entry.scan_id, entry.outcome, entry.state) == (job.id, "failed", State.WAITING)
    assert reason in entry.job_error
    document = await desk.envelope()
    assert (document["scan"]["status"], document["scan"]["id"]) == ("FAILED", job.id)
    assert document["sensor"]["id"] == "agent-1"
    assert desk.answered
    assert await desk.queue.take("w", [Lane.NOW]) is None


async def test_a_type_that_is_not_known_gets_a_status_only(desk: Desk) -> None:
    desk.plane.agents[KEY].registration = {"capabilities": ["patch"]}
    job = desk.plane.add_job(kind="PATCH", with_scan=False)
    await desk.poller.poll("agent-1")
    (entry,) = await desk.outbox.entries("cp")
    assert (entry.scan_id, entry.state, entry.size) == (job.id, State.REPORTING, 0)
    assert "'PATCH'" in entry.job_error


async def test_good_and_bad_jobs_of_one_poll_are_stored_together(desk: Desk) -> None:
    good = desk.plane.add_job(REFERENCE)
    bad = desk.plane.add_job("team/app:1")
    await desk.poller.poll("agent-1")
    assert desk.jobs() == [good.id, bad.id]
    assert (await desk.queue.counts())[Lane.NOW].waiting == 1
    assert len(await desk.outbox.entries("cp")) == 1


async def test_hostile_jobs_are_done_or_answered_like_all_others(desk: Desk) -> None:
    texts = [
        "",
        "\0",
        "\x1b[2J",
        "'; drop table outbox; --",
        "../../etc/passwd",
        "a" * 100_000,
        "\u202e",
        "%s%n",
        REFERENCE,
    ]
    scans: list[object] = [None, [], "x", {}, {"imageRef": 5}, {"imageRef": REFERENCE, "scanners": "trivy"}]
    scans += [{"imageRef": text, "source": source} for text in texts for source in ("registry", text)]
    jobs = [{"id": f"j{number}", "type": "SCAN", "scan": scan} for number, scan in enumerate(scans)]
    jobs += [{"id": f"t{number}", "type": text} for number, text in enumerate(texts)]
    jobs += [
        {"id": text, "type": "SCAN", "scan": {"imageRef": REFERENCE}} for text in ("' or 1=1", "a/../b", "😀", "j0")
    ]
    desk.plane.fail("jobs", Fault(status=200, body=json.dumps({"jobs": jobs}).encode()))
    assert await desk.poller.poll("agent-1") == len(jobs)
    done = (await desk.queue.counts())[Lane.NOW].waiting
    answered = await desk.outbox.entries("cp")
    assert done + len(answered) == len(jobs)
    assert done == 6, "only what names an image of a registry is done"
    for entry in answered:
        assert entry.outcome == "failed"
        assert entry.job_error.isprintable()
        if entry.size:
            assert wire.read_envelope(await desk.outbox.body(entry)).scan.status == "FAILED"


async def test_entries_without_an_id_are_counted_in_the_log(desk: Desk) -> None:
    desk.plane.fail("jobs", Fault(status=200, body=b'{"jobs": [{"type": "SCAN"}]}'))
    with structlog.testing.capture_logs() as lines:
        assert await desk.poller.poll("agent-1") == 0
    assert [(line["event"], line["count"]) for line in lines] == [("jobs without a usable id", 1)]


async def test_the_links_registry_completes_references(tmp_path: Path) -> None:
    async with FakeControlPlane() as plane:
        desk, transport = await open_desk(plane, tmp_path, default_registry="registry.example")
        plane.add_job("team/app:1")
        await desk.poller.poll("agent-1")
        item = await desk.queue.take("w", [Lane.NOW])
        assert item is not None
        assert isinstance(item.work, JobRequest)
        assert item.work.reference == REFERENCE
        await transport.close()
        await desk.storage.close()


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(close="after"), Fault(close="before"), Fault(hang=True)])
async def test_a_failed_poll_is_not_repeated_inside_one_poll(desk: Desk, fault: Fault) -> None:
    desk.plane.fail("jobs", fault)
    desk.plane.add_job(REFERENCE)
    with pytest.raises(Unavailable):
        await desk.poller.poll("agent-1")
    assert desk.polls() == 1
    assert len(desk.plane.requests) == 1


async def test_claimed_jobs_that_cannot_be_stored_are_named_and_kept_for_the_next_poll(desk: Desk) -> None:
    job = desk.plane.add_job(REFERENCE)
    desk.disk.full = True
    with structlog.testing.capture_logs() as lines, pytest.raises(StateError, match="full"):
        await desk.poller.poll("agent-1")
    assert [(line["event"], line["jobs"]) for line in lines] == [("claimed jobs could not be stored", [job.id])]
    assert not desk.told
    with pytest.raises(StateError):
        await desk.poller.poll("agent-1")
    desk.disk.full = False
    assert await desk.poller.poll("agent-1") == 1
    assert desk.polls() == 1  # nothing more was claimed meanwhile
    assert desk.jobs() == [job.id]
    assert await desk.poller.poll("agent-1") == 0


async def test_one_bad_row_keeps_all_jobs_of_the_poll_back(desk: Desk) -> None:
    desk.plane.add_job(REFERENCE)
    desk.plane.add_job("team/app:1")
    desk.disk.writes_left = 0
    with pytest.raises(StateError):
        await desk.poller.poll("agent-1")
    desk.disk.writes_left = None
    desk.disk.full = False
    assert (await desk.queue.counts())[Lane.NOW].waiting == 0
    assert not await desk.outbox.entries("cp")
    assert await desk.poller.poll("agent-1") == 2


# --- the loop ---------------------------------------------------------------------------------------------------------


async def test_it_polls_with_jitter_and_soon_after_work(desk: Desk) -> None:
    await desk.go(2)
    assert all(0.7 * 15 <= pause <= 1.3 * 15 for pause in desk.pauses)
    desk.plane.add_job(REFERENCE)
    await desk.go(1)
    assert 0.2 <= desk.pauses[-1] <= 1.0


async def test_failures_make_the_pause_longer_up_to_a_minute(desk: Desk) -> None:
    desk.plane.fail("jobs", Fault(status=503, times=4))
    with structlog.testing.capture_logs() as lines:
        await desk.go(4)
        assert 2 * 0.7 * 15 <= desk.pauses[0] <= 2 * 1.3 * 15
        assert desk.pauses[-1] == 60.0
        await desk.go(1)
        assert desk.pauses[-1] <= 1.3 * 15
    # said once, however often it fails in the same way
    assert [line["event"] for line in lines] == ["job poll failed", "job poll recovered"]


async def test_demo_mode_is_polled_as_rarely_as_can_be(desk: Desk) -> None:
    desk.plane.fail("jobs", Fault(status=403, body=b'{"error": "Demo mode is enabled"}'))
    await desk.go(1)
    assert desk.pauses == [60.0]


async def test_a_refused_or_missing_key_does_not_end_the_loop(desk: Desk, tmp_path: Path) -> None:
    desk.plane.agents[KEY].status = "INACTIVE"
    with pytest.raises(Unauthorized):
        await desk.poller.poll("agent-1")
    await desk.go(2)
    link = Link(name="cp", url=desk.plane.url, api_key=FromFile(str(tmp_path / "none")))
    transport = transport_for(link)
    desk.poller._client = ControlPlaneClient(link, transport)
    with pytest.raises(SecretError):
        await desk.poller.poll("agent-1")
    await desk.go(1)
    await transport.close()


async def test_it_waits_until_the_sensor_is_registered(desk: Desk) -> None:
    member = Member()
    member.is_registered.clear()
    running = asyncio.ensure_future(desk.poller.run(member))
    await member.asked.wait()
    assert not desk.plane.requests
    member.is_registered.set()
    with pytest.raises(Enough):
        await running
    assert desk.polls() == 1


async def test_stop_waits_for_the_poll_under_way_and_lets_no_other_begin(desk: Desk) -> None:
    job = desk.plane.add_job(REFERENCE)
    desk.rounds = 1000
    member = Member()
    running = asyncio.ensure_future(desk.poller.run(member))
    await desk.plane.arrived.wait()
    await desk.poller.stop()
    assert desk.jobs() == [job.id]
    assert (await desk.queue.counts())[Lane.NOW].waiting == 1
    await running
    assert desk.polls() == 1
    await desk.poller.stop()
