import asyncio
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from sensor import events
from sensor.errors import AdvisoryError, DataError, NetworkError
from sensor.inventory.image import NoPlatform, NotAnImage
from sensor.judge import Place, rfc3339
from sensor.model.finding import ScanStatus
from sensor.model.manifest import parse_platform
from sensor.model.reference import parse_reference
from sensor.registry.errors import RegistryNotFound
from sensor.status import StatusBoard
from tests.fakes.pipeline import Bench, bench, python_layer

AMD64, ARM64 = parse_platform("linux/amd64"), parse_platform("linux/arm64")
JINJA = python_layer("jinja2", "2.10")


def place(b: Bench, text: str = "registry.test/team/app:v1") -> Place:
    return Place(name="prod", client=b.registry, reference=parse_reference(text))


async def test_a_verdict_tells_what_was_found_and_what_it_cost(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories={"jinja2": "3.0"}) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        verdict = await b.judge.judge(place(b), "v1", (AMD64,))
        (judged,) = verdict.judged
        assert (verdict.digest, verdict.skipped, verdict.skip_reason) == (digest, None, "")
        assert judged.result.status is ScanStatus.SUCCESS
        assert [finding.vulnerability for finding in judged.result.match.findings] == ["GHSA-jinja2"]
        assert (judged.image.layers_fetched, judged.image.bytes_fetched) == (1, len(JINJA))
        (told,) = b.told(events.ImageScanned)
        assert (told.registry, told.reference, told.packages) == ("prod", "registry.test/team/app:v1", 1)
        assert sum(told.counts.values()) == 1


async def test_a_known_image_costs_its_manifest_only(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        b.registry.calls.clear()
        verdict = await b.judge.judge(place(b), "v1", (AMD64,))
        assert verdict.judged[0].image.known
        assert b.registry.requests == 1


async def test_the_index_speaks_for_the_first_platform_that_it_has(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        arm = b.registry.image_manifest([JINJA], platform="linux/arm64")
        index = b.registry.index([b.registry.pointer(arm, "linux/arm64")])
        b.registry.tag("team/app", "v1", index)
        verdict = await b.judge.judge(place(b), "v1", (AMD64, ARM64))
        assert [judged.result.digest for judged in verdict.judged] == [index]
        assert verdict.skipped is None
        only = await b.judge.judge(place(b), "v1", (AMD64,))
        assert isinstance(only.skipped, NoPlatform)
        assert "linux/arm64" in only.skip_reason


async def test_the_same_manifest_under_two_platforms_is_judged_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        one = b.registry.image_manifest([JINJA])
        pointers = [b.registry.pointer(one, name) for name in ("linux/amd64", "linux/arm64")]
        b.registry.tag("team/app", "v1", b.registry.index(pointers))
        assert len((await b.judge.judge(place(b), "v1", (AMD64, ARM64))).judged) == 1


async def test_something_else_is_named(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        config = {
            "mediaType": "application/vnd.cncf.helm.config.v1+json",
            "digest": b.registry.blob_of(b"{}"),
            "size": 2,
        }
        chart = b.registry.document({"config": config, "layers": []}, "application/vnd.oci.image.manifest.v1+json")
        b.registry.tag("team/app", "v1", chart)
        verdict = await b.judge.judge(place(b), "v1", (AMD64, ARM64))
        assert isinstance(verdict.skipped, NotAnImage)
        assert not verdict.judged
        assert not b.told(events.ImageStarted)


async def test_gaps_are_accepted_only_when_asked_for(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        layer = next(digest for digest, data in b.registry.blobs.items() if data == JINJA)
        b.registry.fail("blob", layer, DataError("the scanning process died", retryable=True))
        with pytest.raises(DataError, match="died"):
            await b.judge.judge(place(b), "v1", (AMD64,))
        verdict = await b.judge.judge(place(b), "v1", (AMD64,), accept_gaps=True)
        assert "unreadable" in [gap.kind for gap in verdict.judged[0].result.gaps]
        assert any("unreadable" in gap for gap in b.told(events.ImageScanned)[-1].gaps)


async def test_a_missing_manifest_ends_it_before_anything_is_shown(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        with pytest.raises(RegistryNotFound):
            await b.judge.judge(place(b), "v1", (AMD64,))
        assert not b.events


def shown_as_running(b: Bench) -> int:
    board = StatusBoard()
    for event in b.events:
        board.handle(event)
    return board.active_scans


async def test_whatever_ends_a_scan_it_is_not_shown_as_running_for_ever(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories={"jinja2": "3.0"}) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        layer = next(each for each, data in b.registry.blobs.items() if data == JINJA)

        b.registry.fail("blob", layer, NetworkError("no route"))
        with pytest.raises(NetworkError):
            await b.judge.judge(place(b), "v1", (AMD64,))
        assert shown_as_running(b) == 0
        b.registry.fail("blob", layer, None)

        # the advisory database fails after the inventory was taken
        database = b.shelf._database
        assert database is not None
        database._connection.close()
        with pytest.raises(AdvisoryError):
            await b.judge.judge(place(b), "v1", (AMD64,))
        assert shown_as_running(b) == 0

        # cancelled in the middle: nobody gives the advisories free
        with pytest.raises(TimeoutError):
            async with b.shelf._lock, asyncio.timeout(0.5):
                await b.judge.judge(place(b), "v1", (AMD64,))
        assert shown_as_running(b) == 0
        assert b.told(events.ImageStopped)[-1].digest == digest


def test_times_are_utc_with_a_z_and_milliseconds() -> None:
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC)) == "2026-01-02T03:04:05.678Z"
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 0, timezone(timedelta(hours=2)))) == "2026-01-02T01:04:05.000Z"
