from pathlib import Path

from sensor.advisories.shelf import AdvisoryShelf, NoAdvisories
from sensor.advisories.update import demo_advisories, import_sources
from sensor.model.advisory import AdvisoryLookup


def known(lookup: AdvisoryLookup) -> tuple[str, bool]:
    return lookup.revision, lookup.has_ecosystem("PyPI")


async def test_without_a_file_nothing_is_known_and_the_reason_is_kept(tmp_path: Path) -> None:
    shelf = AdvisoryShelf(tmp_path / "advisories.db")
    assert await shelf.refresh() is False
    assert (shelf.revision, shelf.summary, shelf.label) == ("", None, "")
    assert shelf.problem is not None
    assert await shelf.use(known) == ("", False)
    await shelf.close()


def test_no_advisories_answers_every_question_with_nothing() -> None:
    nothing = NoAdvisories()
    assert (nothing.affected("PyPI", "x"), nothing.advisory("A"), nothing.advisories_for("C")) == ((), None, ())


async def test_a_swapped_file_is_noticed_once(tmp_path: Path) -> None:
    path = tmp_path / "advisories.db"
    shelf = AdvisoryShelf(path)
    await shelf.refresh()
    import_sources([demo_advisories()], path)
    assert await shelf.refresh() is True
    revision, has_data = await shelf.use(known)
    assert (revision, has_data) == (shelf.revision, True)
    assert shelf.summary is not None
    assert shelf.summary.records > 100
    assert shelf.label == f"{shelf.summary.newest[:10]} {revision[:12]}"
    assert await shelf.refresh() is False
    import_sources([demo_advisories()], path)  # the same data again: another file, the same revision
    assert await shelf.refresh() is False
    import_sources([demo_advisories() / "PyPI" / "all.zip"], path)
    assert await shelf.refresh() is True
    assert shelf.revision != revision
    await shelf.close()
    assert shelf.revision == ""


async def test_a_damaged_file_does_not_replace_what_is_open(tmp_path: Path) -> None:
    path = tmp_path / "advisories.db"
    import_sources([demo_advisories()], path)
    shelf = AdvisoryShelf(path)
    await shelf.refresh()
    path.unlink()
    path.write_bytes(b"not a database")
    assert await shelf.refresh() is False
    assert shelf.problem is not None
    assert (await shelf.use(known))[1] is True
    await shelf.close()
