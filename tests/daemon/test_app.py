import asyncio
import json
from pathlib import Path

import pytest

from sensor import events
from sensor.advisories.update import demo_advisories, import_sources
from sensor.config.schema import S3, Config, ControlPlane, Registry, RegistryControlPlane, State
from sensor.daemon.app import build_app
from sensor.errors import ConfigError, StateError
from sensor.secret import FromEnv, InPlace, Secret
from tests.fakes.control_plane import KEY, FakeControlPlane
from tests.fakes.daemon import config, running
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.moto_server import moto_server
from tests.fakes.pipeline import python_layer


async def test_everything_is_built_and_nothing_runs(tmp_path: Path) -> None:
    async with FakeControlPlane() as plane, build_app(config(tmp_path, plane.url)) as app:
        assert [parts.link for parts in app.links] == list(app.engine.sites.links)
        assert app.engine.sites.names() == ("prod",)
        assert app.engine.shelf.revision == ""
        assert (await app.queue.counts()).keys()
        assert not plane.requests


async def test_each_link_has_a_heartbeat_and_a_poll_of_its_own(tmp_path: Path) -> None:
    own = RegistryControlPlane(api_key=FromEnv("OTHER"))
    settings = Config(
        control_plane=ControlPlane(url="https://cp.example", api_key=FromEnv("KEY")),
        registries=(Registry(name="a", url="a.example"), Registry(name="b", url="b.example", control_plane=own)),
        state=State(directory=str(tmp_path)),
    )
    async with build_app(settings) as app:
        assert [parts.link.registries for parts in app.links] == [("a",), ("b",)]
        assert len({parts.link.name for parts in app.links}) == 2
        assert len({id(parts.keeper) for parts in app.links}) == len({id(parts.poller) for parts in app.links}) == 2


async def test_without_a_control_plane_there_are_no_links(tmp_path: Path) -> None:
    async with build_app(config(tmp_path)) as app:
        assert app.links == ()


async def test_events_go_to_the_board_and_to_every_listener(tmp_path: Path) -> None:
    first: list[events.Event] = []
    second: list[events.Event] = []
    async with build_app(config(tmp_path), listeners=(first.append, second.append)) as app:
        event = events.SensorStarted(at=app.clock(), version="1", registries=("prod",))
        app.publish(event)
        assert first == second == [event]
        assert app.board.snapshot(app.clock()).version == "1"


async def test_one_sensor_at_a_time_has_the_state(tmp_path: Path) -> None:
    async with build_app(config(tmp_path)):
        with pytest.raises(StateError, match="another sensor"):
            async with build_app(config(tmp_path)):
                pass
    async with build_app(config(tmp_path)):
        pass


async def test_a_start_that_fails_leaves_the_state_free(tmp_path: Path) -> None:
    broken = config(tmp_path, "ftp://plane")
    with pytest.raises(ConfigError):
        async with build_app(broken):
            pass
    async with build_app(config(tmp_path)):
        pass


async def test_advisories_that_are_there_are_in_force(tmp_path: Path) -> None:
    await asyncio.to_thread(import_sources, [demo_advisories()], tmp_path / "advisories.db")
    async with build_app(config(tmp_path)) as app:
        assert app.engine.shelf.revision


async def test_the_agent_id_of_a_registration_is_what_results_are_signed_with(tmp_path: Path) -> None:
    async with FakeControlPlane() as plane, build_app(config(tmp_path, plane.url)) as app:
        (parts,) = app.links
        assert app.engine.sites.identity(parts.link.name).id == ""
        keeping = asyncio.ensure_future(parts.keeper.run())
        await parts.keeper.registered()
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        assert app.engine.sites.identity(parts.link.name).id == plane.agents[KEY].id
        # refused jobs, which are answered by the poll itself, are signed so too
        plane.add_job("app:1")
        await parts.poller.poll(parts.keeper.agent)
        async with app.engine.storage.reading() as connection:
            assert (await connection.exec_driver_sql("SELECT count(*) FROM outbox")).scalar_one() == 1
        assert parts.poller._identity().id == plane.agents[KEY].id


async def test_an_offline_control_plane_is_never_asked_and_its_results_wait(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    registry.image("team/app", "v1", [python_layer("jinja2", "2.10")])
    async with FakeControlPlane() as plane:
        settings = config(tmp_path, plane.url)
        offline = ControlPlane(url=plane.url, offline=True)
        settings = settings.model_copy(update={"control_plane": offline})
        async with running(settings, registries={"prod": registry}) as sensor:
            await sensor.rows("SELECT state FROM outbox", [("waiting",)])
            sensor.pauses.end(10.0)
            await sensor.until(lambda: sensor.app.board.snapshot(sensor.app.clock()).outbox)
            (part,) = sensor.app.board.snapshot(sensor.app.clock()).outbox
            assert (part.counts, sensor.app.links) == ({"waiting": 1}, ())
        assert plane.requests == []


@pytest.mark.parametrize("is_there", [True, False])
async def test_raw_reports_go_to_the_bucket_and_a_missing_one_holds_up_nothing(
    tmp_path: Path, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    registry = MemoryRegistry()
    registry.image("team/app", "v1", [python_layer("jinja2", "2.10")])
    with moto_server() as endpoint:
        import boto3

        s3 = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        if is_there:
            await asyncio.to_thread(s3.create_bucket, Bucket="reports")
        bucket = S3(bucket="reports", endpoint=endpoint, access_key_id="k", secret_access_key=InPlace(Secret("s")))
        async with (
            FakeControlPlane() as plane,
            running(config(tmp_path, plane.url, s3=bucket), registries={"prod": registry}) as sensor,
        ):
            await sensor.until(lambda: sensor.told(events.ResultDelivered))
            assert plane.agents[KEY].registration["s3Configured"] is True
            (scan,) = plane.standalone
            sent = json.loads(plane.uploads[0])
            if is_there:
                listed = await asyncio.to_thread(s3.list_objects_v2, Bucket="reports")
                keys = {entry["Key"] for entry in listed["Contents"]}
                assert sent["artifacts"]["s3Prefix"] == f"scans/{scan.request_id}/"
                assert keys == {*sent["artifacts"]["rawResults"].values(), sent["artifacts"]["sbom"]}
                assert all(key.startswith(sent["artifacts"]["s3Prefix"]) for key in keys)
            else:
                assert "artifacts" not in sent
                assert any(gap["kind"] == "artifacts" and "NoSuchBucket" in gap["reason"] for gap in sent["gaps"])
