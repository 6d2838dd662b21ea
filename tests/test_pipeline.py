"""One sweep, one scan, one job, one re-match: over real parts, a registry in memory, and faults where they hurt."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from sensor import events
from sensor.catalog.diff import DigestState
from sensor.errors import DataError, NetworkError, SecretError, StateError
from sensor.inventory.layers import LayerCorrupt
from sensor.model.digest import Digest
from sensor.model.manifest import ArtifactClass
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest
from sensor.registry.errors import ImageWithheld, RegistryNotFound, RegistryRateLimited, RegistryUnauthorized
from sensor.registry.port import Registry
from sensor.report.entries import State
from sensor.work.intake import set_paused
from tests.fakes.layers import digest_of
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.pipeline import START, Bench, bench, link, python_layer, write_advisories

JINJA = python_layer("jinja2", "2.10")
FLASK = python_layer("flask", "1.0")
BROKEN = b"\x1f\x8b this is no gzip stream, but its digest is right"
ADVISORIES = {"jinja2": "3.0", "flask": "0.5"}


def other(host: str) -> MemoryRegistry:
    return MemoryRegistry(host)


def pulls(registry: MemoryRegistry) -> int:
    """Requests that are no listing and no look-up."""
    return registry.requested("manifest") + registry.requested("config") + registry.requested("blob")


# --- sweeps -----------------------------------------------------------------------------------------------------------


async def test_a_new_digest_is_scanned_stored_and_reported(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        assert await b.ledger() == {"listed": 1, "queued": 1}
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "scanned": 1}
        ((entry,), (sent,)) = await b.entries(), await b.envelopes()
        assert (entry.digest, entry.state, entry.link) == (digest, State.WAITING, "cp")
        assert sent["scan"]["status"] == "SUCCESS"
        assert sent["image"]["ref"] == "registry.test/team/app:v1"
        assert [row["cveId"] for row in sent["findings"]["vulnerabilities"]] == ["GHSA-jinja2"]
        assert sent["sensor"]["name"] == "sensor of cp"
        assert (await b.snapshots.standing("prod", digest)).scanned_at == START  # type: ignore[union-attr]
        assert b.filled
        assert b.told(events.LedgerChanged)[-1].ledger["scanned"] == 1


async def test_an_unchanged_registry_costs_only_listings_and_look_ups(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        for name in ("a", "b"):
            b.registry.image(f"team/{name}", "v1", [JINJA, python_layer(name, "1")])
        await b.sweep()
        await b.work()
        b.registry.calls.clear()
        await b.sweep()
        assert await b.work() == 0
        assert {verb: b.registry.requested(verb) for verb, _ in b.registry.calls} == {
            "repositories": 1,
            "tags": 2,
            "head": 2,
        }
        assert b.told(events.SweepFinished)[-1].requests == 5
        assert len(await b.entries()) == 2


async def test_a_tag_that_moves_to_a_known_digest_costs_a_look_up(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.image("team/app", "latest", [FLASK])
        await b.sweep()
        await b.work()
        b.registry.calls.clear()
        b.registry.tag("team/app", "latest", digest)
        await b.sweep()
        assert await b.work() == 0
        assert pulls(b.registry) == 0
        assert await b.ledger() == {"listed": 2, "scanned": 2}


async def test_of_a_second_image_only_the_layer_that_is_new_is_fetched(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/base", "1", [JINJA])
        await b.sweep()
        await b.work()
        b.registry.image("team/app", "1", [JINJA, FLASK])
        await b.sweep()
        await b.work()
        last = b.told(events.ImageScanned)[-1]
        assert (last.layers_fetched, last.layers_cached) == (1, 1)
        assert b.registry.requested("blob") == 2


async def test_what_vanished_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        b.registry.image("team/app", "sha256-00.sig", [FLASK])
        await b.sweep()
        b.registry.fail("tags", "team/app", RegistryNotFound("no such repository"))
        await b.sweep()
        (lost,) = b.told(events.RepositoryVanished)
        assert lost.repository == "team/app"
        finished = b.told(events.SweepFinished)[-1]
        assert not finished.complete
        assert "no such repository" in finished.error
        await b.work()
        await b.ledger()
        assert [(skipped.tag, "*.sig" in skipped.rule) for skipped in b.told(events.TagSkipped)] == [
            ("sha256-00.sig", True)
        ]


async def test_without_a_link_nothing_is_reported_and_everything_is_known(tmp_path: Path) -> None:
    async with bench(tmp_path, links=[], advisories=ADVISORIES) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        assert await b.ledger() == {"listed": 1, "scanned": 1}
        assert await b.sql("SELECT count(*) FROM outbox") == [(0,)]
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "6.0"})
        await b.rematch()
        assert b.told(events.ImagesRematched)[-1].changed == 1
        assert await b.sql("SELECT count(*) FROM outbox") == [(0,)]


async def test_two_registries_with_links_of_their_own_are_both_told_of_the_same_image(tmp_path: Path) -> None:
    registries: dict[str, Registry] = {"one": other("one.test"), "two": other("two.test")}
    async with bench(tmp_path, registries=registries, links=[link("a", "one"), link("b", "two")]) as b:
        for registry in registries.values():
            assert isinstance(registry, MemoryRegistry)
            registry.image("team/app", "v1", [JINJA])
        await b.sweep("one")
        await b.sweep("two")
        await b.work()
        assert [sent["image"]["ref"] for sent in await b.envelopes("a")] == ["one.test/team/app:v1"]
        assert [sent["image"]["ref"] for sent in await b.envelopes("b")] == ["two.test/team/app:v1"]
        assert sum(each.requested("blob") for each in registries.values() if isinstance(each, MemoryRegistry)) == 1


# --- what is no image, and what is gone -------------------------------------------------------------------------------


async def test_artifacts_that_are_no_images_are_skipped_with_their_class(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        chart = b.registry.document(
            {
                "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": b.registry.blob_of(b"{}"), "size": 2},
                "layers": [],
            },
            "application/vnd.oci.image.manifest.v1+json",
        )  # fmt: skip
        b.registry.tag("charts/app", "1.0", chart)
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        assert await b.ledger() == {"listed": 2, "scanned": 1, "skipped": 1}
        standing = await b.snapshots.standing("prod", chart)
        assert standing is not None
        assert standing.artifact_class is ArtifactClass.HELM_CHART
        assert "helm" in standing.reason
        assert len(await b.entries()) == 1


async def test_an_index_without_the_wanted_platform_is_skipped_and_says_what_there_is(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        child = b.registry.image_manifest([JINJA], platform="linux/s390x")
        index = b.registry.index([b.registry.pointer(child, "linux/s390x")])
        b.registry.tag("team/app", "v1", index)
        await b.sweep()
        await b.work()
        standing = await b.snapshots.standing("prod", index)
        assert standing is not None
        assert (standing.state, standing.artifact_class) == (DigestState.SKIPPED, None)
        assert "linux/s390x" in standing.reason
        assert await b.ledger() == {"listed": 1, "skipped": 1}


async def test_an_image_that_was_deleted_after_the_listing_is_gone(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        del b.registry.manifests[digest]
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "gone": 1}
        assert not b.told(events.ImageFailed)
        assert await b.take() is None


async def test_an_image_that_lacks_a_part_has_failed_and_is_not_gone(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        del b.registry.blobs[digest_of(JINJA)]
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "failed": 1}
        (failed,) = b.told(events.ImageFailed)
        assert failed.next_try is not None


async def test_another_copy_of_the_digest_is_taken_when_one_is_gone(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.tag("team/copy", "v1", digest)
        await b.sweep()
        b.registry.fail("manifest", f"team/app:{digest}", RegistryNotFound("no such manifest"))
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 2, "scanned": 2}


async def test_a_copy_is_found_wherever_it_stands_in_the_alphabet(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/middle", "v1", [JINJA])
        b.registry.tag("team/aaa", "v1", digest)
        b.registry.tag("team/zzz", "v1", digest)
        await b.sweep()
        missing = RegistryNotFound("no such manifest")
        b.registry.fail("manifest", f"team/middle:{digest}", missing)
        b.registry.fail("manifest", f"team/aaa:{digest}", missing)
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 3, "scanned": 3}


async def test_an_image_that_is_withheld_is_skipped_with_the_reason_and_asked_for_again_the_next_day(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        b.registry.fail("manifest", f"team/app:{digest}", ImageWithheld("in quarantine", "wait for its approval"), None)
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "skipped": 1}
        standing = await b.snapshots.standing("prod", digest)
        assert standing is not None
        assert standing.reason == "withheld by the registry: in quarantine (wait for its approval)"
        (told,) = b.told(events.TagSkipped)
        assert (told.rule, told.withheld) == (standing.reason, True)
        assert not b.told(events.ImageFailed)
        b.clock.advance(timedelta(hours=23))
        assert await b.work() == 0
        b.clock.advance(timedelta(hours=2))
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "scanned": 1}


async def test_a_copy_that_is_handed_out_is_taken_instead_of_one_that_is_withheld(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.tag("team/copy", "v1", digest)
        await b.sweep()
        b.registry.fail("manifest", f"team/app:{digest}", ImageWithheld("in quarantine"))
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 2, "scanned": 2}
        assert b.registry.calls["manifest", f"team/app:{digest}"] == 1


async def test_one_copy_that_is_withheld_counts_for_more_than_others_that_are_missing(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.tag("team/copy", "v1", digest)
        await b.sweep()
        b.registry.fail("manifest", f"team/app:{digest}", ImageWithheld("in quarantine"), None)
        b.registry.fail("manifest", f"team/copy:{digest}", RegistryNotFound("no such manifest"))
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 2, "skipped": 2}


async def test_an_image_with_a_thousand_missing_copies_is_gone(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        for number in range(1000):
            b.registry.tag(f"team/copy{number}", "v1", digest)
        await b.sweep()
        for name in ("app", *(f"copy{number}" for number in range(1000))):
            b.registry.fail("manifest", f"team/{name}:{digest}", RegistryNotFound("no such manifest"))
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1001, "gone": 1001}


async def test_what_the_rules_left_out_while_it_waited_is_not_scanned(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        b.sites.more = {"repositories": {"exclude": ["team/*"]}, "max_new_per_day": 1}
        await b.sweep()
        assert await b.work() == 1
        assert (pulls(b.registry), await b.entries()) == (0, ())
        assert await b.ledger() == {"listed": 1, "skipped": 1}
        assert await b.work() == 0
        assert not b.told(events.IntakeChanged)


async def test_tags_that_the_listing_calls_withheld_are_skipped_until_they_are_not(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.registry.image("team/app", "v1", [JINJA])
        b.registry.withheld["team/app"] = {"v1": "archived"}
        await b.sweep()
        assert await b.ledger() == {"listed": 1, "skipped": 1}
        assert [(told.rule, told.withheld) for told in b.told(events.TagSkipped)] == [
            ("withheld by the registry: archived", True)
        ]
        b.registry.withheld.clear()
        await b.sweep()
        await b.work()
        assert await b.ledger() == {"listed": 1, "scanned": 1}


async def test_work_that_the_process_died_over_again_and_again_is_set_aside(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        item = await b.take()
        assert item is not None
        await b.pipeline.set_aside(replace(item, crashes=3))
        assert await b.ledger() == {"listed": 1, "failed": 1}
        (failed,) = b.told(events.ImageFailed)
        assert "died 3 times" in failed.error
        assert failed.next_try == b.clock() + timedelta(days=1)
        await b.put(JobRequest(link="cp", job="job-9", reference="reg.test/team/app:v1"))
        job = await b.take()
        assert job is not None
        await b.pipeline.set_aside(replace(job, crashes=4))
        assert [(entry.scan_id, entry.outcome) for entry in await b.entries()] == [("job-9", "failed")]
        await b.put(SweepRequest(registry="prod"))
        sweep = await b.take()
        assert sweep is not None
        await b.pipeline.set_aside(replace(sweep, crashes=3))
        assert await b.take() is None


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_failing_layer_is_tried_again_and_is_a_gap_at_the_third_attempt(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA, FLASK])
        flask = next(each for each, data in b.registry.blobs.items() if data == FLASK)
        b.registry.fail("blob", flask, DataError("the scanning process ended by signal 9", retryable=True))
        await b.sweep()
        waits = [timedelta(minutes=1), timedelta(minutes=2)]
        for attempt, wait in enumerate(waits, 1):
            assert await b.work() == 1
            failed = b.told(events.ImageFailed)[-1]
            assert failed.next_try == b.clock() + wait
            assert await b.ledger() == {"listed": 1, "failed": 1}
            standing = await b.snapshots.standing("prod", digest)
            assert standing is not None
            assert (standing.next_try, "signal 9" in standing.reason) == (failed.next_try, True)
            assert await b.work() == 0, attempt
            assert not await b.entries()
            b.clock.advance(wait)
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "scanned": 1}
        (sent,) = await b.envelopes()
        assert sent["scan"]["status"] == "PARTIAL"
        assert [gap["kind"] for gap in sent["gaps"]] == ["unreadable"]
        assert b.registry.calls["blob", next(iter({d for d, data in b.registry.blobs.items() if data == JINJA}))] == 1


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (NetworkError("no route"), timedelta(minutes=1)),
        (RegistryUnauthorized("who are you"), timedelta(hours=24)),
        (SecretError("no such file"), timedelta(hours=24)),
        (LayerCorrupt("other bytes"), timedelta(minutes=1)),
    ],
)
async def test_the_next_try_depends_on_what_went_wrong(tmp_path: Path, error: Exception, wait: timedelta) -> None:
    async with bench(tmp_path) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.fail("manifest", f"team/app:{digest}", error)  # type: ignore[arg-type]
        await b.sweep()
        await b.work()
        assert b.told(events.ImageFailed)[-1].next_try == START + wait
        b.clock.advance(wait - timedelta(seconds=1))
        assert await b.work() == 0
        b.registry.fail("manifest", f"team/app:{digest}", None)
        b.clock.advance(timedelta(seconds=1))
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "scanned": 1}


async def test_a_registry_that_limits_requests_is_left_alone_and_nothing_has_failed(tmp_path: Path) -> None:
    async with bench(tmp_path, registries={"prod": MemoryRegistry(), "other": MemoryRegistry("other.test")}) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.image("team/app", "v2", [FLASK])
        b.registry.fail("manifest", f"team/app:{digest}", RegistryRateLimited("slow down", retry_after=900))
        await b.sweep()
        await b.work()
        assert b.told(events.ImageFailed) == []
        held = b.told(events.IntakeChanged)[-1]
        assert (held.registry, held.reason, held.until) == ("prod", "slow down", START + timedelta(minutes=15))
        b.clock.advance(timedelta(minutes=14))
        assert await b.work() == 0
        b.registry.fail("manifest", f"team/app:{digest}", None)
        b.clock.advance(timedelta(minutes=1))
        assert await b.work() >= 1
        assert await b.ledger() == {"listed": 2, "scanned": 2}
        assert b.told(events.IntakeChanged)[-1].reason == ""


async def test_new_images_are_scanned_so_many_a_day_and_pushed_ones_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.sites.more = {"max_new_per_day": 2}
        for number in range(5):
            b.registry.image("team/app", f"v{number}", [python_layer("jinja2", f"2.{number}")])
        await b.sweep()
        assert await b.work() == 3  # two scans, and one look that finds the day's share used up
        assert await b.ledger() == {"listed": 5, "scanned": 2, "queued": 3}
        assert "max_new_per_day is 2" in b.told(events.IntakeChanged)[-1].reason
        pushed = b.registry.image("team/app", "pushed", [FLASK])
        await b.put(ScanRequest(registry="prod", repository="team/app", tag="pushed", digest=pushed), Lane.NOW)
        assert await b.work() == 1
        assert b.told(events.ImageScanned)[-1].digest == pushed
        for _ in range(24 * 4):
            b.clock.advance(timedelta(minutes=15))
            assert await b.work() <= 3
        assert (await b.ledger())["scanned"] == 4


async def test_a_paused_registry_waits_without_taking_each_image_in_turn(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(4):
            b.registry.image("team/app", f"v{number}", [python_layer("jinja2", f"2.{number}")])
        await b.sweep()
        set_paused(b.state, "prod", paused=True)
        assert await b.work() == 1
        b.clock.advance(timedelta(minutes=5))
        assert await b.work() == 1
        set_paused(b.state, "prod", paused=False)
        assert await b.work() == 0
        b.clock.advance(timedelta(minutes=5))
        assert await b.work() == 4
        assert await b.ledger() == {"listed": 4, "scanned": 4}


async def test_pauses_grow_to_six_hours(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.fail("manifest", f"team/app:{digest}", NetworkError("no route"))
        await b.sweep()
        waits = []
        for _ in range(14):
            await b.work()
            next_try = b.told(events.ImageFailed)[-1].next_try
            assert next_try is not None
            waits.append(next_try - b.clock())
            b.clock.advance(waits[-1])
        assert waits == sorted(waits)
        assert waits[-1] == timedelta(hours=6)


async def test_what_is_malformed_stays_so_and_is_not_tried_again(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        b.registry.fail("config", _config_of(b, digest), DataError("not a configuration"))
        await b.sweep()
        await b.work()
        assert b.told(events.ImageFailed)[-1].next_try is None
        assert await b.ledger() == {"listed": 1, "failed": 1}
        assert await b.sql("SELECT count(*) FROM work") == [(0,)]


def _config_of(b: Bench, digest: Digest) -> Digest:
    return Digest(json.loads(b.registry.manifests[digest][1])["config"]["digest"])


# --- one transaction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["outbox", "image_results", "image_inventories"])
async def test_a_failure_in_the_middle_leaves_everything_as_before(tmp_path: Path, table: str) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.sql(f"CREATE TRIGGER planted BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'planted'); END")
        item = await b.take()
        assert item is not None
        with pytest.raises(StateError, match="planted"):
            await b.do(item)
        assert await b.ledger() == {"listed": 1, "queued": 1}
        for name in ("outbox", "image_results", "image_inventories"):
            assert await b.sql(f"SELECT count(*) FROM {name}") == [(0,)], name
        assert not b.filled
        await b.sql("DROP TRIGGER planted")
        await b.queue.retry(item, b.clock(), "planted")
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 1, "scanned": 1}
        assert len(await b.entries()) == 1
        assert b.registry.requested("blob") == 1  # the layer was known by then


async def test_a_sweep_that_cannot_queue_does_not_advance_the_catalogue(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sql(
            "CREATE TRIGGER planted BEFORE INSERT ON work WHEN NEW.key LIKE 'scan%' BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
        with pytest.raises(StateError, match="planted"):
            await b.sweep()
        assert await b.ledger() == {}
        await b.sql("DROP TRIGGER planted")
        b.clock.advance(timedelta(minutes=6))  # the lease of the failed one
        assert await b.work() == 2
        assert await b.ledger() == {"listed": 1, "scanned": 1}


async def test_a_full_disk_is_not_the_images_failure(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.job("registry.test/team/app:v1")
        items = [await b.take(), await b.take()]
        b.disk.full = True
        for item in items:
            assert item is not None
            with pytest.raises(StateError, match="full"):
                await b.do(item)
        b.disk.full = False
        assert await b.ledger() == {"listed": 1, "queued": 1}
        assert not b.told(events.ImageFailed)
        assert not await b.entries()


async def test_a_scan_whose_lease_was_lost_stores_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        slow = await b.take("slow")
        b.clock.advance(timedelta(minutes=6))
        quick = await b.take("quick")
        assert slow is not None
        assert quick is not None
        with pytest.raises(StateError, match="another worker") as refused:
            await b.do(slow)
        assert refused.value.retryable
        assert not await b.entries()
        await b.do(quick)
        assert len(await b.entries()) == 1
        with pytest.raises(StateError, match="another worker"):
            await b.do(quick)
        assert len(await b.entries()) == 1


async def test_the_write_lock_is_free_while_an_envelope_is_made(tmp_path: Path) -> None:
    """Whoever writes while a scan goes on waits for other writes only: seen by the writes between two of the scan's."""
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        busy = True

        async def write() -> int:
            count = 0
            while busy:
                async with asyncio.timeout(5):
                    await b.sql("UPDATE work SET error = error")
                count += 1
            return count

        writer = asyncio.ensure_future(write())
        await b.work()
        busy = False
        assert await writer > 0
        assert await b.ledger() == {"listed": 1, "scanned": 1}


# --- platforms --------------------------------------------------------------------------------------------------------


async def test_the_first_platform_speaks_for_the_index_and_further_ones_for_themselves(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.sites.wanted = ("linux/amd64", "linux/arm64", "linux/riscv64")
        children = {
            platform: b.registry.image_manifest(
                [JINJA, python_layer(platform.replace("/", "-"), "1")], platform=platform
            )
            for platform in ("linux/arm64", "linux/amd64")
        }
        index = b.registry.index([b.registry.pointer(child, platform) for platform, child in children.items()])
        b.registry.tag("team/app", "v1", index)
        await b.sweep()
        await b.work()
        sent = {each["image"]["digest"]: each["image"]["platform"] for each in await b.envelopes()}
        assert sent == {index: "linux/amd64", children["linux/arm64"]: "linux/arm64"}
        assert b.registry.requested("blob") == 3
        assert await b.ledger() == {"listed": 1, "scanned": 1}
        # both are known by what they were reported as, so that new advisories report them so again
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "4.0"})
        await b.rematch()
        assert {each["image"]["digest"] for each in await b.envelopes()} == set(sent)


async def test_an_image_without_an_index_is_reported_once_for_all_platforms(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.sites.wanted = ("linux/amd64", "linux/arm64")
        digest = b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        assert [entry.digest for entry in await b.entries()] == [digest]


# --- new advisories ---------------------------------------------------------------------------------------------------


async def test_new_advisories_cost_no_request_and_only_changed_results_are_delivered(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        changing = b.registry.image("team/jinja", "v1", [JINJA])
        b.registry.image("team/flask", "v1", [FLASK])
        await b.sweep()
        await b.work()
        await b.sql("UPDATE outbox SET state = 'delivered'")
        b.registry.calls.clear()
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "5.0", "flask": "0.5"})
        await b.rematch()
        assert not b.registry.calls
        told = b.told(events.ImagesRematched)[-1]
        assert (told.images, told.changed) == (2, 1)
        fresh = [entry for entry in await b.entries() if entry.state is State.WAITING]
        assert [entry.digest for entry in fresh] == [changing]
        assert json.loads(await b.outbox.body(fresh[0]))["findings"]["vulnerabilities"][0]["fixedVersion"] == "5.0"
        await b.rematch()
        assert b.told(events.ImagesRematched)[-1].images == 0


async def test_without_advisories_everything_is_partial_until_there_are_some(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        (sent,) = await b.envelopes()
        assert (sent["scan"]["status"], sent["findings"]["vulnerabilities"]) == ("PARTIAL", [])
        assert sent["findings"]["packages"]
        await b.put(RematchRequest(revision="vanished"), Lane.AGAIN)
        await b.work()
        assert b.told(events.ImagesRematched)[-1].images == 0
        await asyncio.to_thread(write_advisories, b.state, ADVISORIES)
        await b.rematch()
        assert [each["scan"]["status"] for each in await b.envelopes()] == ["SUCCESS"]


async def test_a_changed_result_goes_once_to_each_link_and_not_to_registries_that_left(tmp_path: Path) -> None:
    registries: dict[str, Registry] = {name: other(f"{name}.test") for name in ("one", "two", "three")}
    links = [link("a", "one", "two"), link("b", "three")]
    async with bench(tmp_path, registries=registries, links=links, advisories=ADVISORIES) as b:
        for name, registry in registries.items():
            assert isinstance(registry, MemoryRegistry)
            registry.image("team/app", "v1", [JINJA])
            await b.sweep(name)
        await b.work()
        await b.sql("DELETE FROM outbox")
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "6.0"})
        await b.rematch()
        assert [len(await b.entries(each.name)) for each in links] == [1, 1]
        await b.sql("DELETE FROM outbox")
        del b.sites.registries["three"]
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "7.0"})
        await b.rematch()
        assert [len(await b.entries(each.name)) for each in links] == [1, 0]


async def test_a_registry_that_leaves_during_a_rematch_is_left_out(tmp_path: Path) -> None:
    class Leaving(dict[str, Registry]):
        """Names that are told, and are gone when they are asked for."""

        def __contains__(self, _name: object) -> bool:
            return False

    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        b.sites.registries = Leaving(b.sites.registries)
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "6.0"})
        await b.rematch()
        told = b.told(events.ImagesRematched)[-1]
        assert (told.images, told.changed) == (1, 1)
        assert len(await b.entries()) == 1


async def test_one_image_that_cannot_be_reported_does_not_stop_the_others(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.registry.image("team/jinja", "v1", [JINJA])
        await b.sweep()
        await b.work()
        await b.sql("DELETE FROM outbox")
        other_image = b.registry.image("team/other", "v1", [python_layer("jinja2", "2.11")])
        await b.sweep()
        await b.work()
        await b.sql("DELETE FROM outbox")
        await b.sql(f"UPDATE image_inventories SET body = x'00' WHERE manifest != '{other_image}'")
        await asyncio.to_thread(write_advisories, b.state, {"jinja2": "6.0"})
        await b.rematch()
        assert [entry.digest for entry in await b.entries()] == [other_image]


# --- jobs -------------------------------------------------------------------------------------------------------------


async def _answered(b: Bench) -> tuple[str, str, dict[str, object]]:
    """Outcome, error and envelope of the one answer; the job is off the queue."""
    (entry,) = await b.entries()
    assert await b.sql("SELECT count(*) FROM work WHERE key LIKE 'job%'") == [(0,)]
    assert entry.scan_id == "job-1"
    document = (await b.envelopes())[0]
    assert document["scan"]["id"] == "job-1"
    return entry.outcome, entry.job_error, document


async def test_a_job_is_answered_with_its_result(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        await b.job("registry.test/team/app:v1")
        assert await b.work() == 1
        outcome, error, sent = await _answered(b)
        assert (outcome, error) == ("completed", "")
        assert sent["scan"]["status"] == "SUCCESS"  # type: ignore[index]
        assert sent["image"]["digest"] == digest  # type: ignore[index]
        assert b.filled
        assert await b.judge.images.of_subject(digest) == (digest,)


async def test_scanners_that_were_not_run_are_noted(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.job("registry.test/team/app:v1", "trivy", "dockle", "oracle")
        await b.work()
        outcome, error, sent = await _answered(b)
        assert outcome == "completed"
        assert "compliance is not served: dockle was asked for" in error
        assert "trivy: vulnerabilities, packages by harborguard-sensor" in error
        assert "'oracle'" in error
        assert sent["scan"]["status"] == "PARTIAL"  # type: ignore[index]


async def _at_several(b: Bench, *references: str) -> None:
    first, *others = references
    await b.put(JobRequest(link="cp", job="job-1", reference=first, fallbacks=tuple(others)))
    await b.work()


async def test_a_job_without_a_host_takes_the_first_registry_that_has_the_image(tmp_path: Path) -> None:
    first, second = MemoryRegistry("first.test"), MemoryRegistry("second.test")
    async with bench(tmp_path, registries={"one": first, "two": second}, advisories=ADVISORIES) as b:
        digest = second.image("team/app", "v1", [JINJA])
        await _at_several(b, "first.test/team/app:v1", "second.test/team/app:v1")
        outcome, error, sent = await _answered(b)
        assert (outcome, sent["image"]["digest"]) == ("completed", digest)  # type: ignore[index]
        assert sent["image"]["ref"] == "second.test/team/app:v1"  # type: ignore[index]
        assert error.startswith("first.test/team/app:v1: ")
        assert error.endswith("scanned instead: second.test/team/app:v1")


async def test_a_job_that_is_nowhere_says_what_was_tried(tmp_path: Path) -> None:
    registries: dict[str, Registry] = {name: MemoryRegistry(f"{name}.test") for name in ("one", "two")}
    async with bench(tmp_path, registries=registries) as b:
        await _at_several(b, "one.test/team/app:v1", "two.test/team/app:v1")
        outcome, error, _ = await _answered(b)
        assert outcome == "failed"
        assert "one.test/team/app:v1: " in error
        assert "two.test/team/app:v1: " in error


async def test_an_image_that_is_there_and_broken_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    first, second = MemoryRegistry("first.test"), MemoryRegistry("second.test")
    async with bench(tmp_path, registries={"one": first, "two": second}, advisories=ADVISORIES) as b:
        first.image("team/app", "v1", [JINJA])
        del first.blobs[digest_of(JINJA)]
        second.image("team/app", "v1", [JINJA])
        await _at_several(b, "first.test/team/app:v1", "second.test/team/app:v1")
        outcome, error, _ = await _answered(b)
        assert (outcome, "second.test" in error) == ("failed", False)
        assert second.requested("manifest") == 0


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("elsewhere.test/team/app:v1", "not one of this link's registries"),
        ("not a reference", "reference"),
        ("registry.test/team/missing:v1", "no team/missing:v1"),
        ("registry.test/team/arm:v1", "no image for linux/amd64"),
        ("registry.test/team/chart:v1", "not a container image"),
        ("registry.test/team/bad:v1", "not a configuration"),
    ],
)
async def test_a_job_that_cannot_be_done_is_answered_at_once(tmp_path: Path, reference: str, reason: str) -> None:
    async with bench(tmp_path) as b:
        arm = b.registry.image_manifest([JINJA], platform="linux/arm64")
        b.registry.tag("team/arm", "v1", b.registry.index([b.registry.pointer(arm, "linux/arm64")]))
        helm = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": b.registry.blob_of(b"{}"), "size": 2}
        chart = b.registry.document({"config": helm, "layers": []}, "application/vnd.oci.image.manifest.v1+json")
        b.registry.tag("team/chart", "v1", chart)
        bad = b.registry.image("team/bad", "v1", [FLASK])
        b.registry.fail("config", _config_of(b, bad), DataError("not a configuration"))
        await b.job(reference)
        assert await b.work() == 1
        outcome, error, sent = await _answered(b)
        assert outcome == "failed"
        assert reason in error
        assert error.startswith(f"{reference}: ")
        assert sent["scan"]["status"] == "FAILED"  # type: ignore[index]


async def test_a_job_is_retried_and_answered_at_the_third_attempt(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.fail("manifest", "team/app:v1", NetworkError("no route", "check the firewall"))
        await b.job("registry.test/team/app:v1")
        for _ in range(2):
            assert await b.work() == 1
            assert not await b.entries()
            assert await b.work() == 0
            b.clock.advance(timedelta(minutes=2))
        assert await b.work() == 1
        outcome, error, _ = await _answered(b)
        assert outcome == "failed"
        assert "no route (check the firewall)" in error


async def test_a_corrupt_layer_fails_a_job_and_an_unreadable_one_is_a_gap(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        b.registry.image("team/app", "v1", [JINJA])
        layer = next(digest for digest, data in b.registry.blobs.items() if data == JINJA)
        b.registry.blobs[layer] = FLASK
        await b.job("registry.test/team/app:v1")
        for _ in range(3):
            await b.work()
            b.clock.advance(timedelta(minutes=5))
        outcome, error, _ = await _answered(b)
        assert outcome == "failed"
        assert layer in error
    async with bench(tmp_path / "two") as b:
        b.registry.image("team/app", "v1", [BROKEN])
        await b.job("registry.test/team/app:v1")
        for _ in range(3):
            await b.work()
            b.clock.advance(timedelta(minutes=5))
        outcome, _, sent = await _answered(b)
        assert outcome == "completed"
        assert sent["scan"]["status"] == "PARTIAL"  # type: ignore[index]
        assert sent["gaps"]


async def test_an_image_that_a_job_brought_is_reported_when_a_sweep_finds_it_and_is_not_read_again(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        b.registry.image("team/app", "v1", [JINJA])
        await b.job("registry.test/team/app:v1")
        await b.work()
        await b.sweep()
        await b.work()
        assert [entry.kind.value for entry in await b.entries()] == ["job", "standalone"]
        assert b.registry.requested("blob") == 1


async def test_a_rescan_in_the_last_lane_reports_only_news(tmp_path: Path) -> None:
    async with bench(tmp_path, advisories=ADVISORIES) as b:
        digest = b.registry.image("team/app", "v1", [JINJA])
        await b.sweep()
        await b.work()
        await b.sql("DELETE FROM outbox")
        again = ScanRequest(registry="prod", repository="team/app", tag="v1", digest=digest)
        await b.put(again, Lane.AGAIN)
        await b.work()
        assert not await b.entries()
        await b.sql("UPDATE image_results SET fingerprint = 'as a former version said'")
        await b.put(again, Lane.AGAIN)
        await b.work()
        assert len(await b.entries()) == 1


async def test_what_was_done_before_a_restart_is_there_afterwards(tmp_path: Path) -> None:
    registry = other("registry.test")
    async with bench(tmp_path, registries={"prod": registry}, advisories=ADVISORIES) as b:
        registry.image("team/a", "v1", [JINJA])
        registry.image("team/b", "v1", [FLASK])
        await b.sweep()
        item = await b.take()
        assert item is not None
        await b.do(item)
    registry.calls.clear()
    async with bench(tmp_path, registries={"prod": registry}) as b:
        assert await b.ledger() == {"listed": 2, "scanned": 1, "queued": 1}
        assert await b.work() == 1
        assert await b.ledger() == {"listed": 2, "scanned": 2}
        assert len(await b.entries()) == 2
        assert registry.requested("blob") == 1
