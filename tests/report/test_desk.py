from datetime import UTC, datetime
from pathlib import Path

from sensor.report.desk import (
    IMPORTS,
    KEEP_IMPORTS,
    entries_of,
    mark_exported,
    packed_bodies,
    parts_of,
    put_imported,
    try_again,
)
from sensor.report.outbox import Entry, Kind, NewEntry, Outbox, State
from sensor.storage import Storage
from tests.report.test_outbox import NOW, add, new, next_of, states


async def refuse(outbox: Outbox, entry: Entry) -> None:
    given = await outbox.give_up(await outbox.begin(entry, NOW), NOW, "no")
    if given.kind is Kind.JOB:
        await outbox.finish(given, NOW)


async def export(storage: Storage, *ids: int) -> None:
    async with storage.transaction() as connection:
        await mark_exported(connection, ids, NOW)


async def test_the_outbox_by_links(storage: Storage, outbox: Outbox) -> None:
    assert await parts_of(storage) == ()
    await add(storage, new("sha256:b", link="z"), now=NOW - 5)
    await add(storage, new(), new("sha256:j", kind=Kind.JOB))
    await add(storage, new("sha256:d"), now=NOW - 99)
    dead = next(entry for entry in await outbox.entries("l") if entry.digest == "sha256:d")
    await refuse(outbox, dead)
    first, second = await parts_of(storage)
    assert (first.link, first.counts) == ("l", {"dead": 1, "waiting": 2})
    assert first.oldest == datetime.fromtimestamp(NOW, UTC), "a refused one is not to be delivered"
    assert first.bytes == sum(entry.size for entry in await outbox.entries("l"))
    assert (second.link, second.oldest) == ("z", datetime.fromtimestamp(NOW - 5, UTC))


async def test_entries_are_chosen_by_link_and_state(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new("sha256:a"), new("sha256:b"), new("sha256:c", link="m"))
    await refuse(outbox, await next_of(outbox))
    assert [entry.digest for entry in await entries_of(storage)] == ["sha256:a", "sha256:b", "sha256:c"]
    assert [entry.digest for entry in await entries_of(storage, link="m")] == ["sha256:c"]
    assert [entry.digest for entry in await entries_of(storage, states={State.DEAD})] == ["sha256:a"]
    assert len(await entries_of(storage, most=2)) == 2


async def test_refused_results_are_tried_again_under_new_ids(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(), new("sha256:b"))
    for entry in await outbox.entries("l"):
        await refuse(outbox, entry)
    first, second = await outbox.entries("l")
    assert await try_again(storage, NOW, [second.id, 999]) == (second.id,)
    assert await states(outbox) == [("sha256:a", State.DEAD), ("sha256:b", State.WAITING)]
    assert await try_again(storage, NOW) == (first.id,)
    entry = await outbox.begin(await next_of(outbox), NOW)
    assert (entry.digest, entry.scan_id, entry.settles_as, entry.strikes) == ("sha256:a", "new-1", State.DELIVERED, 0)


async def test_a_refused_answer_goes_out_as_a_result_of_its_own(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(kind=Kind.JOB))
    await refuse(outbox, await next_of(outbox))
    assert len(await try_again(storage, NOW)) == 1
    entry = await outbox.begin(await next_of(outbox), NOW)
    assert (entry.kind, entry.scan_id) == (Kind.STANDALONE, "new-1")


async def test_what_waits_for_its_next_try_is_due_at_once(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(), new("sha256:s"))
    entry = await outbox.begin(await next_of(outbox), NOW)
    await outbox.retry(entry, NOW, not_before=NOW + 900, error="later")
    sending = await outbox.begin(await next_of(outbox), NOW)
    assert await outbox.due("l", NOW) is None
    assert await try_again(storage, NOW) == (entry.id,)
    assert (await next_of(outbox)).strikes == 1, "it is still on record that it failed"
    assert {one.id for one in await entries_of(storage, states={State.SENDING})} == {sending.id}


async def test_an_exported_entry_is_sent_by_nobody_until_it_is_taken_back(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new(), new("sha256:j", kind=Kind.JOB))
    ids = [entry.id for entry in await outbox.entries("l")]
    await export(storage, *ids)
    assert await outbox.due("l", NOW) is None
    assert await try_again(storage, NOW) == (), "only by name: its parcel may be on its way"
    assert await try_again(storage, NOW, ids) == tuple(ids)
    job, result = await next_of(outbox), (await outbox.entries("l"))[0]
    assert (job.kind, job.scan_id) == (Kind.JOB, "id-sha256:j")
    assert (result.scan_id, result.lost, result.burnt) == ("id-sha256:a", True, False), "a 409 would be a delivery"


async def test_a_newer_result_replaces_an_exported_one(storage: Storage, outbox: Outbox) -> None:
    await add(storage, new())
    await export(storage, (await next_of(outbox)).id)
    await add(storage, new(scan_id="later"))
    assert [entry.scan_id for entry in await outbox.entries("l")] == ["later"]


async def test_what_a_parcel_takes_along(storage: Storage, outbox: Outbox) -> None:
    await add(
        storage, new("sha256:w"), new("sha256:d"), new("sha256:x"), new("sha256:o", link="m"),
        new("sha256:j", kind=Kind.JOB), new("sha256:p", kind=Kind.JOB, body=b""), new("sha256:s"),
    )  # fmt: skip
    found = {entry.digest: entry for entry in await entries_of(storage)}
    await refuse(outbox, found["sha256:d"])
    await export(storage, found["sha256:x"].id)
    await outbox.begin(found["sha256:s"], NOW)

    async def taken(*states: State, link: str = "", with_jobs: bool = False) -> list[str]:
        async with storage.transaction() as connection:
            packed = packed_bodies(connection, link=link, states=states, with_jobs=with_jobs)
            return [entry.digest.removeprefix("sha256:") async for entry, body in packed if len(body) == entry.size]

    assert await taken(State.WAITING) == ["w", "o"]
    assert await taken(State.WAITING, link="m") == ["o"]
    assert await taken(State.WAITING, State.DEAD) == ["w", "d", "o"]
    assert await taken(State.WAITING, State.EXPORTED) == ["w", "x", "o"]
    assert await taken(State.WAITING, with_jobs=True) == ["w", "o", "j"]


async def bring(storage: Storage, entry: NewEntry, *, created: float = NOW, now: float = NOW) -> str:
    async with storage.transaction() as connection:
        return await put_imported(connection, entry, created=created, now=now)


async def test_an_imported_entry_comes_once(storage: Storage, outbox: Outbox) -> None:
    entry = new(lost=True, burnt=False)
    assert await bring(storage, entry) == ""
    assert (await next_of(outbox)).lost
    assert await bring(storage, entry) == "known already"
    await outbox.finish(await next_of(outbox), NOW)
    await outbox.trim(NOW + 8 * 86_400)
    assert await outbox.entries("l") == ()
    assert await bring(storage, entry) == "known already", "also when its delivery is forgotten"


async def test_what_is_here_is_not_imported(storage: Storage) -> None:
    await add(storage, new())
    assert await bring(storage, new()) == "known already"


async def test_an_old_result_never_comes_after_a_newer_one(storage: Storage, outbox: Outbox) -> None:
    assert await bring(storage, new(scan_id="newer"), created=NOW) == ""
    assert await bring(storage, new(scan_id="older"), created=NOW - 1) == "a newer result of the image came before"
    assert await bring(storage, new(scan_id="other", reference="r/b:1"), created=NOW - 1) == ""
    assert await bring(storage, new(scan_id="job", kind=Kind.JOB), created=NOW - 1) == "", "somebody waits for it"
    assert {entry.scan_id for entry in await outbox.entries("l")} == {"newer", "other", "job"}


async def test_imports_are_forgotten_after_a_year_and_more(storage: Storage, tmp_path: Path) -> None:
    await bring(storage, new(scan_id="old"))
    await bring(storage, new("sha256:b"), now=NOW + KEEP_IMPORTS + 1)
    async with storage.reading() as connection:
        known = (await connection.execute(IMPORTS.select())).all()
    assert [row.scan_id for row in known] == ["id-sha256:b"]
