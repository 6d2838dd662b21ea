"""The daemon in the test's own event loop. As a process, with kill -9, it is in `test_process`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import structlog

from sensor import events
from sensor.config.load import Loaded
from sensor.config.schema import Advisories, Config, Cron, Globs, Health
from sensor.daemon.app import build_app
from sensor.daemon.run import Daemon, _moment
from sensor.errors import ConfigError, SecretError, StateError
from sensor.model.request import Lane, SweepRequest
from tests.fakes.control_plane import KEY, FakeControlPlane, Fault
from tests.fakes.daemon import GatedRegistry, Running, config, plug_in, running
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.pipeline import Clock, python_layer, write_advisories

JINJA = python_layer("jinja2", "2.10")


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    made.image("team/app", "v1", [JINJA])
    return made


def gated() -> GatedRegistry:
    made = GatedRegistry()
    made.image("team/app", "v1", [JINJA])
    return made


def states(sensor: Running) -> list[tuple[str, str]]:
    return [(event.link, event.state) for event in sensor.told(events.LinkChanged)]


# --- the straight way -------------------------------------------------------------------------------------------------


async def test_a_new_registry_is_swept_scanned_and_reported_at_once(tmp_path: Path, registry: MemoryRegistry) -> None:
    await asyncio.to_thread(write_advisories, _made(tmp_path / "s"), {"jinja2": "3.0"})
    async with FakeControlPlane() as plane:
        async with running(config(tmp_path / "s", plane.url), {"prod": registry}) as sensor:
            await sensor.until(lambda: sensor.told(events.ResultDelivered))
            assert [scan.status for scan in plane.scans] == ["SUCCESS"]
            assert sensor.told(events.SweepStarted)[0].reason == "first sweep"
            assert sensor.told(events.SensorStarted)[0].registries == ("prod",)
            assert sensor.told(events.AdvisoriesChanged)[0].records == 1
            newest = sensor.told(events.AdvisoriesChanged)[0].newest
            assert newest is not None
            assert newest.tzinfo is not None
            await sensor.until(lambda: plane.agents[KEY].heartbeats > 1)
        assert registry.requested("blob") == 1


def _made(state: Path) -> Path:
    state.mkdir(mode=0o700, exist_ok=True)
    return state


async def test_a_manual_registry_waits_for_somebody_to_ask(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with running(config(tmp_path / "s", schedule="manual"), {"prod": registry}) as sensor:
        assert not sensor.told(events.SweepStarted)
        await sensor.daemon.submit_sweep("prod", "asked")
        await sensor.until(lambda: sensor.told(events.ImageScanned))
        assert sensor.told(events.SweepStarted)[0].reason == "asked"


async def test_a_job_is_done_and_answered(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with FakeControlPlane() as plane:
        good, bad = plane.add_job("registry.test/team/app:v1"), plane.add_job("app:v1")
        settings = config(tmp_path / "s", plane.url, schedule="manual")
        async with running(settings, {"prod": registry}) as sensor:
            await sensor.until(lambda: len(sensor.told(events.JobFinished)) == 2)
        assert (plane.jobs[good.id].status, plane.jobs[bad.id].status) == ("COMPLETED", "FAILED")
        assert good.scan is not None
        assert good.scan.status == "PARTIAL"  # there are no advisories
        snapshot = sensor.app.board.snapshot(sensor.app.clock())
        assert snapshot.jobs == {"claimed": 2, "completed": 1, "failed": 1}


async def test_the_health_endpoint_answers_while_it_runs(tmp_path: Path, registry: MemoryRegistry) -> None:
    settings = config(tmp_path / "s").model_copy(update={"health": Health(listen="127.0.0.1:0")})
    async with running(settings, {"prod": registry}) as sensor, aiohttp.ClientSession() as session:
        async with session.get(sensor.daemon.health_url + "/healthz") as answer:
            assert answer.status == 200
        async with session.get(sensor.daemon.health_url + "/readyz") as answer:
            assert answer.status == 503  # no advisories


async def test_a_port_that_is_taken_stops_the_start(tmp_path: Path, registry: MemoryRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = config(tmp_path / "s").model_copy(update={"health": Health(listen=listen)})
        with pytest.raises(StateError, match="cannot listen"):
            async with running(settings, {"prod": registry}):
                pass


# --- what a start finds -----------------------------------------------------------------------------------------------


async def test_digests_that_the_queue_has_lost_are_queued_again(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with build_app(config(tmp_path / "s")) as app:
        plug_in(app, {"prod": registry})
        await app.queue.put(SweepRequest(registry="prod"), Lane.NOW)
        item = await app.queue.take("w", list(Lane))
        assert item is not None
        assert isinstance(item.work, SweepRequest)
        await app.pipeline.sweep(item.work, item)
        scan = await app.queue.take("w", list(Lane))
        assert scan is not None
        await app.queue.done(scan)
    async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
        await sensor.until(lambda: sensor.told(events.ImageScanned))
        assert not sensor.told(events.SweepStarted)  # it has been looked at before


async def test_results_that_were_not_delivered_are_delivered_after_a_restart(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    async with FakeControlPlane() as plane:
        plane.fail("ready", Fault(status=503, times=1000))
        async with running(config(tmp_path / "s", plane.url), {"prod": registry}) as sensor:
            await sensor.until(lambda: "down" in {state for _, state in states(sensor)})
        assert not plane.uploads
        plane._faults.clear()
        async with running(config(tmp_path / "s", plane.url), {"prod": registry}) as sensor:
            await sensor.until(lambda: sensor.told(events.ResultDelivered))
        assert len(plane.scans) == 1
        assert registry.requested("blob") == 1


async def test_work_that_died_with_its_process_is_taken_at_once(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with build_app(config(tmp_path / "s")) as app:
        await app.queue.put(SweepRequest(registry="prod"), Lane.NOW)
        assert await app.queue.take("of a process that was killed", list(Lane)) is not None
    async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
        await sensor.until(lambda: sensor.told(events.ImageScanned))


# --- heartbeats, leases, pauses ---------------------------------------------------------------------------------------


async def test_heartbeats_go_on_while_a_scan_and_an_upload_are_stuck(tmp_path: Path) -> None:
    registry = gated()
    async with (
        FakeControlPlane() as plane,
        running(config(tmp_path / "s", plane.url), {"prod": registry}, drain_seconds=0.1) as sensor,
    ):
        await registry.at_the_gate.wait()
        before = plane.agents[KEY].heartbeats
        await sensor.until(lambda: plane.agents[KEY].heartbeats > before + 3)
        assert plane.agents[KEY].metadata["status"] == "scanning"
        assert plane.agents[KEY].metadata["activeScans"] == 1
        plane.fail("upload", Fault(hang=True))
        registry.gate.set()
        await sensor.until(lambda: ("POST", "/api/scans/upload") in plane.requests)
        before = plane.agents[KEY].heartbeats
        await sensor.until(lambda: plane.agents[KEY].heartbeats > before + 3)
        assert plane.agents[KEY].metadata["status"] == "idle"


async def test_the_lease_of_long_work_is_renewed(tmp_path: Path) -> None:
    registry, clock = gated(), Clock()
    async with running(config(tmp_path / "s"), {"prod": registry}, clock=clock) as sensor:
        await registry.at_the_gate.wait()
        clock.advance(timedelta(minutes=4))
        sensor.pauses.end(60.0)
        until = (clock() + timedelta(minutes=5)).timestamp()
        await sensor.rows("SELECT taken_until FROM work", [(until,)])
        sensor.disk.full = True
        with structlog.testing.capture_logs() as lines:
            sensor.pauses.end(60.0)
            await sensor.until(lambda: any(line["event"] == "lease not renewed" for line in lines))
        sensor.disk.full = False
        registry.gate.set()
        await sensor.until(lambda: sensor.told(events.ImageScanned))


async def test_a_cancelled_job_is_stopped_and_answered_within_two_seconds(tmp_path: Path) -> None:
    registry = gated()
    async with (
        FakeControlPlane() as plane,
        running(config(tmp_path / "s", plane.url, schedule="manual"), {"prod": registry}) as sensor,
    ):
        await sensor.until(lambda: sensor.told(events.HeartbeatSent))
        job = plane.add_job("registry.test/team/app:v1")
        await registry.at_the_gate.wait()
        began = asyncio.get_running_loop().time()
        plane.cancelled = [job.id, "unknown"]
        await sensor.until(lambda: job.status == "FAILED")
        assert asyncio.get_running_loop().time() - began < 2.0
        assert job.error == "cancelled by the control plane"
        assert job.scan is not None
        assert job.scan.status == "FAILED"
        assert sensor.told(events.ImageStopped)
        assert not registry.gate.is_set()


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_a_full_disk_stops_nothing_for_good(tmp_path: Path) -> None:
    registry, clock = gated(), Clock()
    async with running(config(tmp_path / "s"), {"prod": registry}, clock=clock) as sensor:
        registry.before_layer = lambda: setattr(sensor.disk, "full", True)
        await registry.at_the_gate.wait()
        with structlog.testing.capture_logs() as lines:
            registry.gate.set()
            await sensor.until(lambda: any(line["event"] == "work comes back later" for line in lines))
            sensor.app.queue.wake()
            await sensor.until(lambda: any(line["event"] == "work waits for the state database" for line in lines))
        assert any(line["event"] == "work failed" for line in lines), lines
        assert not sensor.told(events.ImageFailed)
        registry.before_layer = lambda: None
        sensor.disk.full = False
        clock.advance(timedelta(minutes=6))
        sensor.app.queue.wake()
        await sensor.until(lambda: sensor.told(events.ImageScanned))


async def test_a_sweep_that_is_due_while_the_disk_is_full_is_queued_later(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    async with running(config(tmp_path / "s", schedule="manual"), {"prod": registry}) as sensor:
        sensor.disk.full = True
        asking = asyncio.ensure_future(sensor.daemon.submit_sweep("prod", "schedule"))
        await sensor.until(lambda: 30.0 in sensor.pauses.begun)
        sensor.disk.full = False
        sensor.pauses.end(30.0)
        await asking
        await sensor.until(lambda: sensor.told(events.SweepFinished))


@pytest.mark.parametrize("table", ["work", "image_results"])
async def test_a_loop_that_dies_stops_the_daemon(tmp_path: Path, table: str) -> None:
    registry = gated()

    async def run() -> None:
        async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
            await registry.at_the_gate.wait()
            await sensor.sql(f"DROP TABLE {table}")
            registry.gate.set()
            sensor.app.queue.wake()
            await sensor.ended()

    with pytest.raises(ExceptionGroup) as ended:
        await run()
    assert ended.group_contains(StateError, match=f"no such table: {table}")


async def test_a_loop_that_is_cancelled_from_below_does_not_end_in_silence(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    digest = registry.tagged["team/app"]["v1"]
    registry.fail("manifest", f"team/app:{digest}", asyncio.CancelledError())  # type: ignore[arg-type]

    async def run() -> None:
        async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
            await sensor.ended()

    with pytest.raises(ExceptionGroup) as ended:
        await run()
    assert ended.group_contains(RuntimeError, match="cancelled from below")


async def test_a_database_that_waiting_does_not_heal_is_not_waited_for(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    async def run() -> None:
        async with running(config(tmp_path / "s", schedule="manual"), {"prod": registry}) as sensor:
            await sensor.sql("DROP TABLE work")
            with pytest.raises(StateError, match="no such table"):
                await sensor.daemon.submit_sweep("prod", "schedule")
            sensor.app.queue.wake()
            await sensor.ended()

    with pytest.raises(ExceptionGroup):
        await run()


async def test_work_for_a_registry_that_is_not_configured_is_dropped_with_a_line(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    async with running(config(tmp_path / "s", schedule="manual"), {"prod": registry}) as sensor:
        with structlog.testing.capture_logs() as lines:
            await sensor.app.queue.put(SweepRequest(registry="gone"), Lane.NOW)
            await sensor.until(lambda: any(line["event"] == "work dropped" for line in lines))
        assert "gone" in next(line for line in lines if line["event"] == "work dropped")["reason"]
        await sensor.rows("SELECT key FROM work", [])


# --- advisories -------------------------------------------------------------------------------------------------------


async def test_a_swapped_database_is_noticed_and_everything_is_matched_again(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    state = _made(tmp_path / "s")
    async with FakeControlPlane() as plane:
        async with running(config(state, plane.url), {"prod": registry}) as sensor:
            await sensor.until(lambda: sensor.told(events.ResultDelivered))
            requests = registry.requests
            await asyncio.to_thread(write_advisories, state, {"jinja2": "3.0"})
            sensor.disk.full = True
            sensor.pauses.end(15.0)
            await sensor.until(lambda: 30.0 in sensor.pauses.begun)  # noticed, and remembered while the disk is full
            sensor.disk.full = False
            sensor.pauses.end(30.0)
            await sensor.until(lambda: len(sensor.told(events.ResultDelivered)) == 2)
            assert registry.requests == requests
            assert sensor.told(events.ImagesRematched)[-1].changed == 1
        assert [scan.status for scan in plane.scans] == ["PARTIAL", "SUCCESS"]


async def test_without_advisories_they_are_fetched_at_once(tmp_path: Path, registry: MemoryRegistry) -> None:
    source = _made(tmp_path / "source")
    await asyncio.to_thread(write_advisories, source, {"jinja2": "3.0"})
    settings = config(tmp_path / "s", advisories=Advisories(sources=(str(source / "archives" / "0.zip"),)))
    async with running(settings, {"prod": registry}) as sensor:
        await sensor.until(lambda: sensor.told(events.AdvisoriesChanged))
        assert sensor.app.engine.shelf.revision
        assert set(sensor.app.schedules.next_runs()) == {"prod", "advisories:"}


async def test_an_update_that_fails_is_told_and_changes_nothing(tmp_path: Path, registry: MemoryRegistry) -> None:
    settings = config(tmp_path / "s", advisories=Advisories(sources=(str(tmp_path / "none"),)))
    with structlog.testing.capture_logs() as lines:
        async with running(settings, {"prod": registry}) as sensor:
            await sensor.until(lambda: any(line["event"] == "advisories not updated" for line in lines))
            await sensor.until(lambda: sensor.told(events.ImageScanned))
    assert next(line for line in lines if line["event"] == "no advisories")["log_level"] == "warning"


def test_times_of_the_advisory_database_are_compared_with_the_clock_whatever_they_look_like() -> None:
    assert _moment("") is None
    assert _moment("2024-05-01T00:00:00") == _moment("2024-05-01T00:00:00Z") == datetime(2024, 5, 1, tzinfo=UTC)


# --- housekeeping -----------------------------------------------------------------------------------------------------


async def test_what_has_been_gone_for_long_is_forgotten(tmp_path: Path, registry: MemoryRegistry) -> None:
    clock = Clock()
    async with running(config(tmp_path / "s"), {"prod": registry}, clock=clock) as sensor:
        await sensor.until(lambda: sensor.told(events.ImageScanned))
        await sensor.rows("SELECT state FROM digests", [("scanned",)])
        await sensor.sql("UPDATE tags SET state = 'gone'")
        await sensor.sql("UPDATE digests SET state = 'gone'")
        clock.advance(timedelta(days=31))
        sensor.disk.full = True
        with structlog.testing.capture_logs() as lines:
            sensor.pauses.end(3600.0)
            await sensor.until(lambda: any(line["event"] == "housekeeping failed" for line in lines))
        sensor.disk.full = False
        sensor.pauses.end(3600.0)
        for table in ("tags", "digests", "image_results", "image_inventories", "layer_inventories"):
            await sensor.rows(f"SELECT count(*) FROM {table}", [(0,)])


async def test_the_catalogue_of_a_registry_that_left_the_configuration_is_forgotten(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    async with running(config(tmp_path / "s"), {"prod": registry}, clock=Clock()) as sensor:
        await sensor.until(lambda: sensor.told(events.ImageScanned))
        await sensor.sql(
            "INSERT INTO repositories SELECT 'former', repository, state, reason, changed_at FROM repositories"
        )
        sensor.pauses.end(3600.0)
        await sensor.rows("SELECT DISTINCT registry FROM repositories", [("prod",)])


# --- reload -----------------------------------------------------------------------------------------------------------


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


async def test_sigusr1_looks_at_every_registry_now(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with running(config(tmp_path / "s", "", "prod"), {"prod": registry}) as sensor:
        await sensor.until(lambda: sensor.told(events.SweepFinished))
        os.kill(os.getpid(), signal.SIGUSR1)
        await sensor.until(lambda: len(sensor.told(events.SweepFinished)) == 2)
        assert sensor.told(events.SweepStarted)[-1].reason == "asked by hand"


async def test_a_registry_whose_settings_changed_is_looked_at_now(tmp_path: Path, registry: MemoryRegistry) -> None:
    before = config(tmp_path / "s", "", "prod")
    async with running(before, {"prod": registry}) as sensor:
        await sensor.until(lambda: sensor.told(events.SweepFinished))
        changed = before.registries[0].model_copy(update={"tags": Globs(exclude=("*-dev",))})
        sensor.reloads.append(Loaded(config=before.model_copy(update={"registries": (changed,)})))
        hang_up()
        await sensor.until(lambda: len(sensor.told(events.SweepFinished)) == 2)
        assert sensor.told(events.SweepStarted)[-1].reason == "configuration changed"


async def test_sighup_takes_a_new_configuration(tmp_path: Path, registry: MemoryRegistry) -> None:
    state = tmp_path / "s"
    before = config(state, "", "prod", "old")
    old, new = MemoryRegistry("old.test"), MemoryRegistry("new.test")
    async with running(before, {"prod": registry, "old": old}) as sensor:
        await sensor.until(lambda: len(sensor.told(events.SweepFinished)) == 2)
        after = config(state, "", "prod", "new")
        sensor.reloads.append(Loaded(config=after))
        # what is asked of the new one must not go over the network
        sensor.app.engine.sites._clients["new"] = (after.registries[1], new)
        hang_up()
        await sensor.until(lambda: any(done.registry == "new" for done in sensor.told(events.SweepFinished)))
        (told,) = sensor.told(events.ConfigReloaded)
        assert told.error == ""
        assert told.changes == ("registry old: removed", "registry new: added")
        assert set(sensor.app.schedules.next_runs()) == {"prod", "new"}
        snapshot = sensor.app.board.snapshot(sensor.app.clock())
        assert [each.name for each in snapshot.registries] == ["new", "prod"]
        assert len(sensor.told(events.SensorStarted)) == 1  # its uptime goes on
        with structlog.testing.capture_logs() as lines:
            await sensor.daemon.submit_sweep("old", "asked")
            await sensor.until(lambda: any(line["event"] == "work dropped" for line in lines))


@pytest.mark.parametrize(
    "bad",
    [
        ConfigError("line 3: no such key"),
        SecretError("no such file"),
        Loaded(config=config(Path("/tmp"), "", "other", schedule=Cron(cron="99 * * * *"))),
        Loaded(config=config(Path("/tmp"), "ftp://plane", "other")),
    ],
    ids=["unreadable", "secret", "cron", "link"],
)
async def test_a_bad_configuration_is_refused_and_the_old_one_kept(
    tmp_path: Path, registry: MemoryRegistry, bad: Loaded | Exception
) -> None:
    async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
        await sensor.until(lambda: sensor.told(events.SweepFinished))
        planned = sensor.app.schedules.next_runs().keys()
        sensor.reloads.append(bad)
        hang_up()
        await sensor.until(lambda: sensor.told(events.ConfigReloaded))
        (told,) = sensor.told(events.ConfigReloaded)
        assert told.error
        assert told.registries is None
        assert sensor.app.engine.sites.names() == ("prod",)
        assert sensor.app.schedules.next_runs().keys() == planned == {"prod"}
        await sensor.daemon.submit_sweep("prod", "asked")
        await sensor.until(lambda: len(sensor.told(events.SweepFinished)) == 2)


async def test_the_work_of_a_registry_that_comes_back_is_taken_up_again(tmp_path: Path) -> None:
    registry, state = gated(), tmp_path / "s"
    registry.image("team/second", "v1", [python_layer("flask", "1")])
    with_it, without = config(state), config(state, "", "other")
    async with running(with_it, {"prod": registry}, drain_seconds=0.1) as sensor:
        await registry.at_the_gate.wait()
        sensor.reloads += [Loaded(config=without), Loaded(config=with_it)]
        sensor.app.engine.sites._clients["other"] = (without.registries[0], MemoryRegistry("other.test"))
        hang_up()
        await sensor.until(lambda: len(sensor.told(events.ConfigReloaded)) == 1)
        # what is not begun is dropped when its turn comes; what is begun ends
        await sensor.sql("UPDATE work SET payload = replace(payload, '\"prod\"', '\"prod\"')")
        registry.gate.set()
        await sensor.rows("SELECT count(*) FROM work WHERE key LIKE 'scan%'", [(0,)])
        sensor.app.engine.sites._clients["prod"] = (with_it.registries[0], registry)
        hang_up()
        await sensor.until(lambda: len({done.reference for done in sensor.told(events.ImageScanned)}) == 2)


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_running_work_end(tmp_path: Path) -> None:
    registry = gated()
    registry.image("team/waiting", "v1", [python_layer("flask", "1")])
    registry.image("team/waiting", "v2", [python_layer("flask", "2")])
    async with FakeControlPlane() as plane, running(config(tmp_path / "s", plane.url), {"prod": registry}) as sensor:
        await registry.at_the_gate.wait()
        await sensor.until(lambda: len(sensor.daemon._held) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        await sensor.daemon._stop.wait()
        polls = sum("/jobs" in path for _, path in plane.requests)
        registry.gate.set()
        await sensor.ended()
        assert len(sensor.told(events.ImageScanned)) == 2
        assert await sensor.sql("SELECT key LIKE 'scan prod%', taken_by, attempts FROM work") == [(1, "", 0)]
        assert sum("/jobs" in path for _, path in plane.requests) <= polls + 1


async def test_what_takes_too_long_is_given_back_untouched(tmp_path: Path) -> None:
    registry = gated()
    async with running(config(tmp_path / "s"), {"prod": registry}, drain_seconds=0.05) as sensor:
        await registry.at_the_gate.wait()
        sensor.daemon.stop()
        await sensor.ended()
        assert await sensor.sql("SELECT taken_by, attempts FROM work") == [("", 0)]
        assert sensor.app.board.active_scans == 0


async def test_what_cannot_be_given_back_comes_back_by_itself(tmp_path: Path) -> None:
    registry = gated()
    async with running(config(tmp_path / "s"), {"prod": registry}, drain_seconds=0.05) as sensor:
        await registry.at_the_gate.wait()
        sensor.disk.full = True
        sensor.daemon.stop()
        await sensor.ended()


async def test_an_upload_under_way_ends_before_the_daemon_does(tmp_path: Path, registry: MemoryRegistry) -> None:
    async with FakeControlPlane() as plane:
        job = plane.add_job("registry.test/team/app:v1")
        settings = config(tmp_path / "s", plane.url, schedule="manual")
        # the probe before the upload is what takes long here: it holds the delivery until the stop was asked for
        async with running(settings, {"prod": registry}) as sensor:
            plane.fail("ready", Fault(hang=False, status=200, body=b"{}"))
            await sensor.until(lambda: ("POST", "/api/scans/upload") in plane.requests)
            sensor.daemon.stop()
            await sensor.ended()
            (found,) = await sensor.sql("SELECT state FROM outbox")
            assert found[0] in {
                "reporting",
                "delivered",
            }  # not `sending`, which a restart would have to close as failed
        assert job.scan is not None
        assert job.scan.status == "PARTIAL"


async def test_systemd_is_told(tmp_path: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        async with running(config(tmp_path / "s"), {"prod": registry}) as sensor:
            sensor.reloads.append(ConfigError("no"))
            hang_up()
            await sensor.until(lambda: sensor.told(events.ConfigReloaded))
        manager.setblocking(False)
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(manager.recv(100).decode())
    assert [each for each in said if each != "WATCHDOG=1"] == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert said.count("WATCHDOG=1") >= 1


async def test_signals_are_left_as_they_were_found(tmp_path: Path, registry: MemoryRegistry) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    async with running(config(tmp_path / "s"), {"prod": registry}):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    async def main() -> None:
        async with build_app(config(tmp_path / "s", schedule="manual")) as app:
            daemon = Daemon(app, reload=lambda: Loaded(config=Config()))
            async with asyncio.TaskGroup() as group:
                group.create_task(daemon.run())
                await daemon.started()
                daemon.stop()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - for the other thread to see
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not failures
