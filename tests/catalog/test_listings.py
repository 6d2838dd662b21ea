from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from sensor.catalog.listings import Listing, Repository, keep_only, listing_of, note_sweep, pages_of
from sensor.catalog.snapshots import TAGS
from sensor.storage import open_storage

AT = datetime(2026, 5, 22, 18, 10, tzinfo=UTC)


def listing(error: str = "", **tags: tuple[str, ...]) -> Listing:
    repositories = tuple(Repository(name=name, tags=found) for name, found in tags.items())
    return Listing(registry="r", at=AT, repositories=repositories, error=error)


async def test_what_the_filters_kept_is_listed_in_order(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    rows = [
        ("prod", "team/b", "1", "selected"), ("prod", "team/a", "2", "failed"), ("prod", "team/a", "1", "selected"),
        ("prod", "team/a", "old", "gone"), ("prod", "team/a", "dev", "skipped"), ("other", "x", "1", "selected"),
    ]  # fmt: skip
    assert await listing_of(storage, "prod") is None, "it was never looked at"
    async with storage.transaction() as connection:
        for registry, repository, tag, state in rows:
            values = {"registry": registry, "repository": repository, "tag": tag, "state": state}
            await connection.execute(TAGS.insert().values(**values, first_seen=0, changed_at=0))
        await note_sweep(connection, "prod", AT, complete=False, error="the first page only")
        await note_sweep(connection, "prod", AT, complete=True, error="")
    found = await listing_of(storage, "prod")
    assert found is not None
    assert found.repositories == (Repository(name="team/a", tags=("1", "2")), Repository(name="team/b", tags=("1",)))
    assert (found.at, found.error) == (AT, "")
    await storage.close()


async def test_a_registry_that_left_is_as_one_that_was_never_looked_at(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    async with storage.transaction() as connection:
        await note_sweep(connection, "prod", AT, complete=True, error="e" * 5000)
        await note_sweep(connection, "left", AT, complete=True, error="")
        await keep_only(connection, ["prod"])
        lengths = await connection.execute(text("SELECT length(error) FROM sweeps"))
        assert lengths.scalars().all() == [1000]
    assert await listing_of(storage, "left") is None
    await storage.close()


def test_the_fingerprint_is_of_names_and_error() -> None:
    same = listing(a=("1", "2"))
    later = Listing(registry="r", at=datetime.now(UTC), repositories=same.repositories)
    assert same.fingerprint == later.fingerprint
    others = [listing(a=("1",)), listing(a=("12",)), listing(a=("1",), b=("2",)), listing("x", a=("1", "2")), listing()]
    assert len({one.fingerprint for one in (same, *others)}) == 6


@pytest.mark.parametrize("most", [1, 10, 40, 10_000])
def test_a_page_is_bounded_and_no_tag_is_lost(most: int) -> None:
    wanted = listing(one=("a", "b", "c"), two=("d",), three=tuple(str(number) for number in range(20))).repositories
    pages = list(pages_of(wanted, most))
    assert together(pages) == [(one.name, tag) for one in wanted for tag in one.tags]
    assert all(one.tags for page in pages for one in page)
    assert (len(pages) == 1) is (most == 10_000)


def test_nothing_is_one_empty_page() -> None:
    assert list(pages_of((), 100)) == [()]


names = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(names, st.sets(names, min_size=1, max_size=8), max_size=8), st.integers(30, 200))
def test_pages_hold_everything_in_order_and_stay_small(tags: dict[str, set[str]], most: int) -> None:
    wanted = tuple(Repository(name=name, tags=tuple(sorted(found))) for name, found in sorted(tags.items()))
    pages = list(pages_of(wanted, most))
    assert together(pages) == [(one.name, tag) for one in wanted for tag in one.tags]
    for page in pages:
        size = sum(len(text.encode()) + 3 for one in page for text in (one.name, *one.tags))
        assert size <= most + 40  # the name of a repository that begins at the end


def together(pages: list[tuple[Repository, ...]]) -> list[tuple[str, str]]:
    return [(one.name, tag) for page in pages for one in page for tag in one.tags]
