import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import DataError, StateError
from sensor.limits import Limits
from sensor.report.desk import mark_exported
from sensor.report.outbox import KEEP_DELIVERED, Entry, Kind, NewEntry, Outbox, State, new_scan_id, put
from sensor.storage import Storage, open_storage

NOW = 1_000_000.0
DAY = 86_400.0


def new(digest: str = "sha256:a", kind: Kind = Kind.STANDALONE, **more: Any) -> NewEntry:
    fields = {"link": "l", "scan_id": f"id-{digest}", "reference": "r/a:1", "body": b"{}" * 50, **more}
    return NewEntry(kind=kind, digest=digest, **fields)


async def add(storage: Storage, *entries: NewEntry, now: float = NOW) -> None:
    for entry in entries:
        async with storage.transaction() as connection:
            await put(connection, entry, now=now)


async def next_of(outbox: Outbox, now: float = NOW, link: str = "l") -> Entry:
    entry = await outbox.due(link, now)
    assert entry is not None
    return entry


async def states(outbox: Outbox, link: str = "l") -> list[tuple[str, State]]:
    return [(entry.digest, entry.state) for entry in await outbox.entries(link)]


async def test_an_entry_belongs_to_the_callers_transaction(storage: Storage, outbox: Outbox) -> None:
    async def put_and_fail() -> None:
        async with storage.transaction() as connection:
            await put(connection, new(), now=NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await put_and_fail()
    assert await outbox.entries("l") == ()
    async with storage.transaction() as connection:
        assert await put(connection, new(), now=NOW) > 0
    assert await states(outbox) == [("sha256:a", State.WAITING)]


async def test_what_comes_out_is_what_went_in(storage: Storage, outbox: Outbox) -> None:
    body = bytes(range(256)) * 1000
    await add(storage, new(body=body, kind=Kind.JOB, outcome="failed", error="no\0 \ud800", reference="r/a\0:1"))
    entry = await next_of(outbox)
    assert await outbox.body(entry) == body
    assert entry.size < len(body) / 10
    assert (entry.outcome, entry.job_error, entry.reference) == ("failed", "no \ufffd", "r/a:1")
    assert (entry.attempts, entry.strikes, entry.lost, entry.burnt, entry.created) == (0, 0, False, False, NOW)


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    first = await open_storage(tmp_path)
    await add(first, new())
    await first.close()
    second = await open_storage(tmp_path)
    try:
        assert await states(Outbox(second)) == [("sha256:a", State.WAITING)]
    finally:
        await second.close()


async def test_a_damaged_body_is_noticed(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new())
    with sqlite3.connect(storage.path) as raw:
        raw.execute("UPDATE outbox SET body = x'00'")
    raw.close()
    with pytest.raises(DataError, match="damaged"):
        await outbox.body(await next_of(outbox))


async def test_the_newest_result_of_an_image_supersedes(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(body=b"old"), new(body=b"other tag", reference="r/a:2"), new("sha256:b"))
    await add(storage, new(body=b"elsewhere", link="m"), new(body=b"new"))
    bodies = [await outbox.body(entry) for entry in await outbox.entries("l")]
    assert bodies == [b"other tag", b"{}" * 50, b"new"]
    assert len(await outbox.entries("m")) == 1


async def test_answers_to_jobs_are_never_superseded(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(kind=Kind.JOB, scan_id="j1"), new(kind=Kind.JOB, scan_id="j2"), new())
    assert [entry.scan_id for entry in await outbox.entries("l")] == ["j1", "j2", "id-sha256:a"]


async def test_what_is_being_sent_is_not_superseded_but_does_not_come_back(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(body=b"old"))
    sending = await outbox.begin(await next_of(outbox), NOW)
    await add(storage, new(body=b"new"))
    assert [state for _, state in await states(outbox)] == [State.SENDING, State.WAITING]
    await outbox.retry(sending, NOW, not_before=NOW, error="x")
    (left,) = await outbox.entries("l")
    assert await outbox.body(left) == b"new"


async def test_a_refused_result_is_superseded_too(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new())
    await outbox.give_up(await outbox.begin(await next_of(outbox), NOW), NOW, "no")
    await add(storage, new())
    assert await states(outbox) == [("sha256:a", State.WAITING)]


async def test_jobs_first_then_the_oldest_and_nobody_waits_for_another(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new("sha256:a"), new("sha256:b"), new("sha256:j", kind=Kind.JOB), new("sha256:m", link="m"))
    order = []
    while (entry := await outbox.due("l", NOW)) is not None:
        order.append(entry.digest)
        if entry.digest == "sha256:a":
            await outbox.retry(await outbox.begin(entry, NOW), NOW, not_before=NOW + 60, error="x")
        else:
            await outbox.finish(await outbox.begin(entry, NOW), NOW)
    assert order == ["sha256:j", "sha256:a", "sha256:b"]
    assert await outbox.next_due("l") == NOW + 60
    assert (await next_of(outbox, NOW + 60)).digest == "sha256:a"
    assert await outbox.next_due("m") == NOW
    assert await outbox.next_due("nowhere") is None


async def test_a_burnt_id_is_replaced_before_the_next_upload(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new())
    first = await outbox.begin(await next_of(outbox), NOW)
    assert (first.scan_id, first.attempts, first.state) == ("id-sha256:a", 1, State.SENDING)
    await outbox.retry(first, NOW, not_before=NOW, error="lost", lost=True)
    second = await outbox.begin(await next_of(outbox), NOW)
    assert (second.scan_id, second.lost, second.strikes) == ("id-sha256:a", True, 1)
    await outbox.retry(second, NOW, not_before=NOW, error="half", burnt=True)
    third = await outbox.begin(await next_of(outbox), NOW)
    assert (third.scan_id, third.lost, third.burnt, third.attempts) == ("new-1", False, False, 3)


async def test_after_a_crash_a_result_has_a_new_id_and_a_job_is_unknown(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(), new("sha256:j", kind=Kind.JOB, scan_id="job"), new("sha256:w"), new("sha256:m", link="m"))
    for entry in await outbox.entries("l"):
        if entry.digest != "sha256:w":
            await outbox.begin(entry, NOW)
    await outbox.begin(await next_of(outbox, link="m"), NOW)
    assert await outbox.recover(NOW + 5, "m") == 1
    assert await outbox.recover(NOW + 5) == 2
    assert await outbox.recover(NOW + 5) == 0
    entries = {entry.digest: entry for entry in await outbox.entries("l")}
    job, standalone = entries["sha256:j"], entries["sha256:a"]
    assert entries["sha256:w"].burnt is False
    assert (job.state, job.scan_id, job.outcome) == (State.UNKNOWN, "job", "failed")
    assert job.job_error.startswith("upload outcome unknown: the sensor stopped")
    assert (standalone.state, standalone.burnt) == (State.WAITING, True)


async def test_a_crash_does_not_bring_back_what_was_superseded(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(body=b"old"))
    await outbox.begin(await next_of(outbox), NOW)
    await add(storage, new(body=b"new"))
    await outbox.recover(NOW)
    assert [await outbox.body(entry) for entry in await outbox.entries("l")] == [b"new"]


async def test_a_job_is_reported_after_its_upload(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(kind=Kind.JOB, scan_id="job"))
    entry = await outbox.uploaded(await outbox.begin(await next_of(outbox), NOW), NOW)
    assert (entry.state, entry.outcome) == (State.REPORTING, "completed")
    assert (await next_of(outbox)).id == entry.id
    done = await outbox.finish(entry, NOW, "note")
    assert (done.state, done.size, done.last_error) == (State.DELIVERED, 0, "note")
    assert await outbox.due("l", NOW) is None


async def test_a_job_that_was_no_scan_has_only_a_status(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(kind=Kind.JOB, body=b"", outcome="failed", error="unknown type"))
    assert (await next_of(outbox)).state is State.REPORTING


async def test_a_refused_job_is_told_so_and_kept(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(kind=Kind.JOB))
    entry = await outbox.give_up(await outbox.begin(await next_of(outbox), NOW), NOW, "refused\0 " + "x" * 5000)
    assert (entry.state, entry.outcome) == (State.REPORTING, "failed")
    assert entry.job_error.startswith("refused xxx")
    assert len(entry.job_error) == 2000
    done = await outbox.finish(entry, NOW)
    assert (done.state, done.size > 0) == (State.DEAD, True)
    assert (await outbox.give_up(entry, NOW, "no status either")).state is State.DEAD


async def test_a_closed_job_stays_closed(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(kind=Kind.JOB))
    await outbox.close(await outbox.begin(await next_of(outbox), NOW), NOW, "lost")
    closing = await outbox.begin(await next_of(outbox), NOW)
    assert closing.state is State.UNKNOWN
    await outbox.put_back(closing, NOW, "down")
    await outbox.retry(await next_of(outbox), NOW, not_before=NOW, error="again")
    entry = await next_of(outbox)
    assert (entry.state, entry.strikes, entry.settles_as) == (State.UNKNOWN, 1, State.DEAD)
    assert "lost" in entry.job_error


async def test_putting_back_is_no_strike(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new())
    await outbox.put_back(await outbox.begin(await next_of(outbox), NOW), NOW, "down")
    entry = await next_of(outbox)
    assert (entry.state, entry.strikes, entry.last_error, entry.scan_id) == (State.WAITING, 0, "down", "id-sha256:a")


async def test_age_is_bounded(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new("sha256:a"), new("sha256:j", kind=Kind.JOB), new("sha256:d"), new("sha256:x"))
    entries = {entry.digest: entry for entry in await outbox.entries("l")}
    await outbox.finish(await outbox.begin(entries["sha256:d"], NOW), NOW)
    await outbox.give_up(await outbox.begin(entries["sha256:x"], NOW), NOW, "no")
    assert await outbox.trim(NOW + KEEP_DELIVERED - 1) == ()
    assert len(await outbox.entries("l")) == 4
    assert await outbox.trim(NOW + KEEP_DELIVERED + 1) == ()
    assert [digest for digest, _ in await states(outbox)] == ["sha256:a", "sha256:j", "sha256:x"]
    gone = await outbox.trim(NOW + 30 * DAY + 1)
    assert [entry.digest for entry in gone] == ["sha256:a"]
    assert await states(outbox) == [("sha256:j", State.WAITING)]


async def test_bytes_are_bounded_refused_first_then_the_oldest_never_jobs(storage: Storage) -> None:
    body = new_scan_id().encode() * 3
    await add(storage, *(new(f"sha256:{n}", body=body) for n in "abcd"), new("sha256:j", kind=Kind.JOB, body=body))
    everything = Outbox(storage)
    size = (await everything.entries("l"))[0].size
    await everything.give_up(await everything.begin((await everything.entries("l"))[3], NOW), NOW, "no")
    roomy = Outbox(storage, limits=Limits(outbox_bytes=5 * size + 20))
    assert await roomy.trim(NOW) == ()
    assert len(await roomy.entries("l")) == 5
    assert await Outbox(storage, limits=Limits(outbox_bytes=4 * size + 20)).trim(NOW) == ()
    assert [digest for digest, _ in await states(roomy)] == ["sha256:a", "sha256:b", "sha256:c", "sha256:j"]
    gone = await Outbox(storage, limits=Limits(outbox_bytes=2 * size + 20)).trim(NOW)
    assert [entry.digest for entry in gone] == ["sha256:a", "sha256:b"]
    gone = await Outbox(storage, limits=Limits(outbox_bytes=0)).trim(NOW)
    assert [entry.digest for entry in gone] == ["sha256:c"]
    assert [digest for digest, _ in await states(roomy)] == ["sha256:j"]


async def test_an_exported_result_goes_before_one_that_waits(storage: Storage) -> None:
    body = new_scan_id().encode() * 3
    await add(storage, *(new(f"sha256:{n}", body=body) for n in "abc"))
    outbox = Outbox(storage)
    size, newest = (await outbox.entries("l"))[0].size, (await outbox.entries("l"))[2].id
    async with storage.transaction() as connection:
        await mark_exported(connection, [newest], NOW)
    assert await Outbox(storage, limits=Limits(outbox_bytes=2 * size)).trim(NOW) == (), "it is in a file"
    assert [digest for digest, _ in await states(outbox)] == ["sha256:a", "sha256:b"]


async def test_a_closed_database_is_a_state_error(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    outbox = Outbox(storage)
    with sqlite3.connect(storage.path) as raw:
        raw.execute("DROP TABLE outbox")
    raw.close()
    with pytest.raises(StateError):
        await outbox.due("l", NOW)
    await storage.close()


def test_scan_ids_are_never_the_same() -> None:
    assert len({new_scan_id() for _ in range(100)}) == 100
