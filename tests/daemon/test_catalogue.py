import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import delete

from sensor import events
from sensor.catalog.listings import note_sweep
from sensor.catalog.snapshots import TAGS
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.errors import Unauthorized, Unavailable
from sensor.control_plane.links import Link
from sensor.daemon.catalogue import CatalogueReporter
from sensor.errors import ConfigError
from sensor.limits import Limits
from sensor.secret import InPlace, Secret
from sensor.storage import Storage, open_storage
from tests.fakes.control_plane import KEY, FakeControlPlane, Fault
from tests.fakes.daemon import config, running
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.pipeline import Clock, python_layer
from tests.triggers.test_jobs import Enough, Member

AGENT = "agent-1"


@dataclass
class Directory:
    registries: tuple[str, ...] = ("prod",)
    kind: str = "ecr"

    def reporting(self, link: str) -> tuple[str, ...]:
        return self.registries

    def address(self, registry: str) -> tuple[str, str]:
        if registry == "left":
            raise ConfigError("it left")
        return f"{registry}.example", self.kind


@dataclass
class Desk:
    plane: FakeControlPlane
    storage: Storage
    reporter: CatalogueReporter
    make: Callable[[], CatalogueReporter]
    directory: Directory
    pauses: list[float] = field(default_factory=list)

    @property
    def pages(self) -> list[dict[str, Any]]:
        assert self.plane.catalogues is not None
        return self.plane.catalogues

    async def swept(self, registry: str = "prod", error: str = "", **tags: str) -> None:
        """A sweep ended; tags are written `app="1 2"`."""
        async with self.storage.transaction() as connection:
            await connection.execute(delete(TAGS).where(TAGS.c.registry == registry))
            for repository, names in tags.items():
                for tag in names.split():
                    values = {"registry": registry, "repository": repository, "tag": tag, "state": "selected"}
                    await connection.execute(TAGS.insert().values(**values, first_seen=0, changed_at=0))
            await note_sweep(connection, registry, Clock()(), complete=not error, error=error)

    def asked(self) -> int:
        return sum(path == "/api/agent/catalog" for _, path in self.plane.requests)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with FakeControlPlane() as plane:
        plane.catalogues = []
        storage = await open_storage(tmp_path)
        link = Link(name="cp", url=plane.url, api_key=InPlace(Secret(KEY)))
        transport = transport_for(link, Limits(idle_seconds=1.0))
        client = ControlPlaneClient(link, transport, limits=Limits(idle_seconds=1.0))
        directory = Directory()
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) >= 3:
                raise Enough

        def make() -> CatalogueReporter:
            limits = Limits(catalogue_page_bytes=40)
            return CatalogueReporter(client, storage, directory, limits=limits, clock=Clock(), sleep=sleep)

        yield Desk(plane, storage, make(), make, directory, pauses)
        await transport.close()
        await storage.close()


async def test_nothing_is_told_before_the_first_look(desk: Desk) -> None:
    assert await desk.reporter.report(AGENT)
    assert desk.pages == []


async def test_what_the_filters_keep_is_told_once(desk: Desk) -> None:
    await desk.swept(app="1.3 1.4")
    assert await desk.reporter.report(AGENT)
    assert desk.pages == [
        {
            "agentId": AGENT, "registryUrl": "prod.example", "provider": "ecr",
            "repositories": [{"name": "app", "tags": ["1.3", "1.4"]}], "discoveredAt": "2026-05-01T12:00:00.000Z",
        }
    ]  # fmt: skip
    await desk.swept(app="1.3 1.4")
    assert await desk.make().report(AGENT), "also after a restart"
    assert len(desk.pages) == 1
    await desk.swept(app="1.4")
    await desk.reporter.report(AGENT)
    assert desk.pages[-1]["repositories"] == [{"name": "app", "tags": ["1.4"]}]


@pytest.mark.parametrize(("kind", "word"), [("harbor", "generic"), ("gitlab", "gitlab"), ("layout", "generic")])
async def test_a_provider_is_told_in_the_protocols_words(desk: Desk, kind: str, word: str) -> None:
    desk.directory.kind = kind
    await desk.swept(app="1")
    await desk.reporter.report(AGENT)
    assert desk.pages[0]["provider"] == word


async def test_a_look_that_failed_is_told_with_what_is_known(desk: Desk) -> None:
    await desk.swept(app="1", error="401 unauthorized")
    await desk.reporter.report(AGENT)
    assert desk.pages[0]["error"] == "401 unauthorized"
    await desk.swept(app="1")
    await desk.reporter.report(AGENT)
    assert "error" not in desk.pages[1]


async def test_an_emptied_registry_is_told_too(desk: Desk) -> None:
    await desk.swept()
    await desk.reporter.report(AGENT)
    assert desk.pages[0]["repositories"] == []


async def test_a_large_registry_is_told_in_pages(desk: Desk) -> None:
    await desk.swept(one="aaaaaaaaaa bbbbbbbbbb", three="eeeeeeeeee", two="cccccccccc dddddddddd")
    await desk.reporter.report(AGENT)
    assert [(page.get("page", 1), page["pages"]) for page in desk.pages] == [(1, 3), (2, 3), (3, 3)]
    told = [(one["name"], tag) for page in desk.pages for one in page["repositories"] for tag in one["tags"]]
    assert told == [
        ("one", "aaaaaaaaaa"), ("one", "bbbbbbbbbb"), ("three", "eeeeeeeeee"), ("two", "cccccccccc"), ("two", "dddddddddd"),
    ]  # fmt: skip
    assert len({page["discoveredAt"] for page in desk.pages}) == 1


async def test_a_page_whose_answer_was_lost_is_told_again(desk: Desk) -> None:
    await desk.swept(app="1")
    desk.plane.fail("catalog", Fault(close="after"))
    with pytest.raises(Unavailable):
        await desk.reporter.report(AGENT)
    await desk.make().report(AGENT)
    assert len(desk.pages) == 2
    assert desk.pages[0] == desk.pages[1]


async def test_an_unfinished_report_goes_on_at_its_page(desk: Desk) -> None:
    await desk.swept(one="aaaaaaaaaa bbbbbbbbbb", two="cccccccccc dddddddddd")
    desk.plane.fail("catalog", Fault())
    desk.plane.fail("catalog", Fault(status=503))
    with pytest.raises(Unavailable):
        await desk.reporter.report(AGENT)
    assert [page.get("page", 1) for page in desk.pages] == [1]
    await desk.make().report(AGENT)
    assert [page.get("page", 1) for page in desk.pages] == [1, 2]


async def test_another_agent_is_told_everything(desk: Desk) -> None:
    await desk.swept(app="1")
    await desk.reporter.report(AGENT)
    await desk.reporter.report("agent-2")
    assert [page["agentId"] for page in desk.pages] == [AGENT, "agent-2"]


async def test_what_is_refused_is_not_told_again_and_holds_up_no_other_registry(desk: Desk) -> None:
    desk.directory.registries = ("left", "prod", "other")
    for name in desk.directory.registries:
        await desk.swept(name, app="1")
    desk.plane.fail("catalog", Fault(status=400, body=b'{"error":"no"}'))
    with structlog.testing.capture_logs() as logs:
        assert await desk.reporter.report(AGENT)
        assert await desk.reporter.report(AGENT)
    assert [page["registryUrl"] for page in desk.pages] == ["other.example"]
    assert [line["registry"] for line in logs] == ["prod"]


@pytest.mark.parametrize("fault", [None, Fault(status=405), Fault(status=404, body=b'{"error":"NOT_FOUND"}')])
async def test_a_server_without_catalogues_is_asked_once_and_left_alone(desk: Desk, fault: Fault | None) -> None:
    if fault is None:
        desk.plane.catalogues = None
    else:
        desk.plane.fail("catalog", fault)
    await desk.swept(app="1")
    with structlog.testing.capture_logs() as logs:
        running = asyncio.ensure_future(desk.reporter.run(Member()))
        async with asyncio.timeout(60):
            while not logs:  # noqa: ASYNC110 - a log is no event
                await asyncio.sleep(0)
        desk.reporter.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [line["event"] for line in logs] == ["catalogue not reported"]
    assert desk.asked() == 1


async def test_trouble_is_told_once_and_tried_again_ever_more_slowly(desk: Desk) -> None:
    await desk.swept(app="1")
    desk.plane.agents[KEY].status = "INACTIVE"
    with structlog.testing.capture_logs() as logs, pytest.raises(Enough):
        await desk.reporter.run(Member())
    assert [line["event"] for line in logs] == ["catalogue waits"]
    assert [5 <= pause <= 10 * 2**n for n, pause in enumerate(desk.pauses)] == [True] * 3
    with pytest.raises(Unauthorized):
        await desk.reporter.report(AGENT)


async def test_the_daemon_reports_after_a_sweep_and_results_do_not_wait_for_it(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    registry.image("team/app", "v1", [python_layer("jinja2", "2.10")])
    async with FakeControlPlane() as plane:
        plane.catalogues = []
        plane.fail("catalog", Fault(hang=True))
        async with running(config(tmp_path, plane.url), registries={"prod": registry}) as sensor:
            await sensor.until(lambda: sensor.told(events.ResultDelivered))
            assert plane.catalogues == []
            assert plane.agents[KEY].registration["capabilities"] == ["scan", "discovery"]


async def test_the_daemon_tells_the_names(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    registry.image("team/app", "v1", [python_layer("jinja2", "2.10")])
    async with FakeControlPlane() as plane:
        plane.catalogues = []
        async with running(config(tmp_path, plane.url), registries={"prod": registry}) as sensor:
            await sensor.until(lambda: plane.catalogues)
            page = plane.catalogues[0]
            assert page["repositories"] == [{"name": "team/app", "tags": ["v1"]}]
            assert (page["registryUrl"], page["provider"]) == ("registry.test", "generic")
