from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.advisories.build import Progress
from sensor.advisories.database import AdvisoryDatabase, database_path
from sensor.advisories.update import UpdateReport, demo_advisories, find_archives, import_sources, update
from sensor.config.schema import Advisories
from sensor.errors import AdvisoryError
from sensor.limits import DEFAULT_LIMITS
from sensor.transport import Transport
from tests.advisories.archives import archive, entry, record, write_fixtures, write_zip
from tests.advisories.test_fetch import zipped
from tests.fakes.osv_mirror import OsvMirror, body, status


def layout(root: Path, *ecosystems: str) -> Path:
    for ecosystem in ecosystems:
        archive(root / ecosystem / "all.zip", record(f"{ecosystem}-1", entry(ecosystem, "x")))
    return root


def known(path: Path) -> set[str]:
    opened = AdvisoryDatabase.open(path)
    try:
        return {item.name for item in opened.summary().ecosystems}
    finally:
        opened.close()


class TestImport:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        (tmp_path / "state").mkdir()
        return database_path(tmp_path / "state")

    def test_directory_in_the_bulk_layout(self, tmp_path: Path, target: Path) -> None:
        write_fixtures(tmp_path / "osv")
        (tmp_path / "osv" / "ecosystems.txt").write_text("npm\n")
        report = import_sources([tmp_path / "osv"], target)
        assert len(report.sources) == 12
        assert {"Rocky Linux:8", "Azure Linux:3", "npm", "Go"} <= known(target)
        assert [path.name for path in target.parent.iterdir() if path.is_dir()] == []

    def test_the_root_archive_of_a_full_mirror_is_left_alone(self, tmp_path: Path, target: Path) -> None:
        layout(tmp_path / "osv" / "osv-scanner", "npm", "Go")
        write_zip(tmp_path / "osv" / "all.zip", {"R.json": record("R", entry("PyPI", "x"))})
        report = import_sources([tmp_path / "osv"], target)
        assert [source.name for source in report.sources] == ["Go", "npm"]

    def test_only_a_root_archive(self, tmp_path: Path, target: Path) -> None:
        write_zip(tmp_path / "everything" / "all.zip", {"R.json": record("R", entry("PyPI", "x"))})
        (source,) = import_sources([tmp_path / "everything"], target).sources
        assert source.name == "everything"

    def test_directory_of_zip_files(self, tmp_path: Path, target: Path) -> None:
        archive(tmp_path / "zips" / "npm.zip", record("A-1", entry("npm", "x")))
        archive(tmp_path / "zips" / "go.zip", record("A-2", entry("Go", "x")))
        assert [source.name for source in import_sources([tmp_path / "zips"], target).sources] == ["go", "npm"]

    def test_directory_of_records(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "own" / "2026").mkdir(parents=True)
        (tmp_path / "own" / "2026" / "OWN-1.json").write_bytes(record("OWN-1", entry("npm", "x")))
        (source,) = import_sources([tmp_path / "own"], target).sources
        assert (source.name, source.records) == ("own", 1)

    def test_zip_of_records(self, tmp_path: Path, target: Path) -> None:
        archive(tmp_path / "npm.zip", record("A-1", entry("npm", "x")))
        (source,) = import_sources([tmp_path / "npm.zip"], target).sources
        assert source.name == "npm"

    def test_zip_of_a_tree(self, tmp_path: Path, target: Path) -> None:
        members = {
            "osv/npm/all.zip": zipped("A-1"),
            "../../etc/Go/all.zip": zipped("A-2", ecosystem="Go"),
            "osv/PyPI.zip": zipped("A-3", ecosystem="PyPI"),
            "osv/ecosystems.txt": b"",
        }
        write_zip(tmp_path / "osv.zip", members)
        report = import_sources([tmp_path / "osv.zip", layout(tmp_path / "more", "Debian:12")], target)
        assert [source.name for source in report.sources] == ["npm", "Go", "PyPI", "Debian:12"]
        assert report.sources[0].origin.endswith("osv.zip!osv/npm/all.zip")
        assert [path.name for path in target.parent.iterdir() if path.is_dir()] == []

    def test_zip_of_one_zip(self, tmp_path: Path, target: Path) -> None:
        write_zip(tmp_path / "osv.zip", {"all.zip": zipped("A-1")})
        assert [source.name for source in import_sources([tmp_path / "osv.zip"], target).sources] == ["all"]

    def test_tree_that_is_too_large(self, tmp_path: Path, target: Path) -> None:
        write_zip(tmp_path / "osv.zip", {"npm/all.zip": zipped("A-1")})
        with pytest.raises(AdvisoryError, match="unpacks to more than 10 bytes"):
            import_sources([tmp_path / "osv.zip"], target, limits=replace(DEFAULT_LIMITS, advisory_archive_bytes=10))

    def test_two_sources_about_one_ecosystem_are_merged(self, tmp_path: Path, target: Path) -> None:
        first = archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))
        second = archive(tmp_path / "b.zip", record("A-2", entry("npm", "x")))
        assert import_sources([first.path, second.path], target).entries == 2

    @pytest.mark.parametrize("make", ["missing", "empty directory", "text"])
    def test_nothing_there(self, tmp_path: Path, target: Path, make: str) -> None:
        path = tmp_path / "source"
        if make == "empty directory":
            path.mkdir()
        elif make == "text":
            path.write_text("hello")
        with pytest.raises(AdvisoryError) as caught:
            import_sources([path], target)
        assert "expected <Ecosystem>/all.zip" in caught.value.advice
        assert str(path) in caught.value.message
        assert not target.exists()

    def test_what_a_killed_import_unpacked_is_removed_after_a_day(self, tmp_path: Path, target: Path) -> None:
        old, young = target.parent / "unpacked-old", target.parent / "unpacked-young"
        old.mkdir()
        young.mkdir()
        os.utime(old, (time.time() - 200_000,) * 2)
        import_sources([layout(tmp_path / "osv", "npm")], target)
        assert not old.exists()
        assert young.exists()

    def test_opens_no_socket(self, tmp_path: Path, target: Path) -> None:
        program = (
            "import sys\n"
            "from pathlib import Path\n"
            "from sensor.advisories.update import import_sources\n"
            "def refuse(event, _):\n"
            "    if event.startswith('socket.'):\n"
            "        sys.exit(f'{event} was called')\n"
            "sys.addaudithook(refuse)\n"
            "import_sources([Path(sys.argv[1])], Path(sys.argv[2]))\n"
        )
        command = [sys.executable, "-c", program, str(layout(tmp_path / "osv", "npm")), str(target)]
        assert subprocess.run(command, check=False, timeout=60).returncode == 0
        assert known(target) == {"npm"}

    def test_no_state_directory(self, tmp_path: Path) -> None:
        with pytest.raises(AdvisoryError, match="cannot write in"):
            import_sources([layout(tmp_path / "osv", "npm")], tmp_path / "missing" / "advisories.db")


class TestDemo:
    def test_is_small_real_and_judges_old_packages(self, tmp_path: Path) -> None:
        root = demo_advisories()
        assert (root / "NOTICE.md").is_file()
        assert sum(path.stat().st_size for path in root.rglob("*")) < 310_000
        report = import_sources([root], tmp_path / "advisories.db")
        assert {source.name: source.unreadable for source in report.sources} == {"Debian": 0, "PyPI": 0}
        opened = AdvisoryDatabase.open(tmp_path / "advisories.db")
        for name in ("jinja2", "urllib3", "pyyaml", "requests", "setuptools", "pip", "cryptography", "aiohttp"):
            assert opened.affected("PyPI", name), name
        for name in ("openssl", "zlib", "util-linux", "tar", "glibc", "perl", "curl"):
            assert opened.affected("Debian:12", name), name
        opened.close()

    def test_notice_counts_the_records(self) -> None:
        root = demo_advisories()
        notice = (root / "NOTICE.md").read_text()
        for name in ("Debian", "PyPI"):
            with zipfile.ZipFile(root / name / "all.zip") as opened:
                assert f"`{name}/all.zip` | {len(opened.namelist())} |" in notice


@pytest.fixture
async def mirror() -> AsyncIterator[OsvMirror]:
    async with OsvMirror() as running:
        running.archives = {"npm": zipped("A-1"), "Go": zipped("A-2", ecosystem="Go")}
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async def no_pause(_seconds: float) -> None:
        pass

    opened = Transport(sleep=no_pause)
    yield opened
    await opened.close()


class Sensor:
    """Runs updates in one state directory."""

    def __init__(self, transport: Transport, state: Path) -> None:
        self.transport, self.state = transport, state

    async def update(self, *sources: str, ecosystems: tuple[str, ...] = ("npm", "Go")) -> UpdateReport:
        settings = Advisories(sources=sources, ecosystems=ecosystems)
        return await update(settings, self.transport, self.state)

    @property
    def database(self) -> Path:
        return database_path(self.state)


@pytest.fixture
def sensor(transport: Transport, tmp_path: Path) -> Sensor:
    return Sensor(transport, tmp_path / "state")


def states(report: UpdateReport) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in report.outcomes}


class TestUpdate:
    async def test_builds_only_when_something_changed(self, sensor: Sensor, mirror: OsvMirror) -> None:
        first = await sensor.update(mirror.url)
        assert first.changed
        assert states(first) == {"npm": "new", "Go": "new"}
        assert known(sensor.database) == {"npm", "Go"}
        inode = sensor.database.stat().st_ino
        second = await sensor.update(mirror.url)
        assert not second.changed
        assert second.build is None
        assert second.revision == first.revision
        assert states(second) == {"npm": "unchanged", "Go": "unchanged"}
        assert sensor.database.stat().st_ino == inode
        mirror.archives["Go"] = zipped("A-2", "A-3", ecosystem="Go")
        third = await sensor.update(mirror.url)
        assert third.changed
        assert third.revision != first.revision
        assert states(third) == {"npm": "unchanged", "Go": "new"}
        assert sensor.state.stat().st_mode & 0o077 == 0

    async def test_a_lost_database_is_rebuilt_from_unchanged_archives(self, sensor: Sensor, mirror: OsvMirror) -> None:
        await sensor.update(mirror.url)
        sensor.database.write_bytes(b"damaged")
        assert (await sensor.update(mirror.url)).changed
        assert known(sensor.database) == {"npm", "Go"}

    async def test_one_absent_ecosystem_is_reported_and_not_fatal(self, sensor: Sensor, mirror: OsvMirror) -> None:
        report = await sensor.update(mirror.url, ecosystems=("npm", "Hex"))
        assert states(report) == {"npm": "new", "Hex": "absent"}
        assert report.changed

    async def test_the_second_mirror_gives_what_the_first_cannot(self, sensor: Sensor, mirror: OsvMirror) -> None:
        async with OsvMirror() as first:
            first.archives["npm"] = zipped("FIRST-1")
            first.answers["Go"] = [status(500)] * 3
            report = await sensor.update(first.url, mirror.url)
        assert [(o.name, o.state) for o in report.outcomes] == [("npm", "new"), ("Go", "failed"), ("Go", "new")]
        assert "status 500" in report.outcomes[1].reason
        opened = AdvisoryDatabase.open(sensor.database)
        assert opened.advisory("FIRST-1") is not None
        assert opened.advisory("A-1") is None
        assert opened.advisory("A-2") is not None
        opened.close()

    async def test_the_last_good_copy_serves_while_no_source_answers(self, sensor: Sensor, mirror: OsvMirror) -> None:
        first = await sensor.update(mirror.url)
        mirror.answers = {"npm": [status(500)] * 3, "Go": [body(b"truncated")]}
        report = await sensor.update(mirror.url)
        assert [(o.name, o.state) for o in report.outcomes] == [
            ("npm", "failed"),
            ("Go", "failed"),
            ("npm", "kept"),
            ("Go", "kept"),
        ]
        assert not report.changed
        assert report.revision == first.revision

    async def test_no_source_answers_at_all(self, sensor: Sensor, mirror: OsvMirror) -> None:
        mirror.answers = {"npm": [status(500)] * 3, "Go": [status(403)]}
        with pytest.raises(AdvisoryError, match=r"no source gave any advisories.*status 500") as caught:
            await sensor.update(mirror.url)
        assert caught.value.retryable
        assert not sensor.database.exists()

    async def test_no_source_is_configured(self, sensor: Sensor) -> None:
        with pytest.raises(AdvisoryError, match="no source of advisories is configured") as caught:
            await sensor.update()
        assert "advisories import" in caught.value.advice

    async def test_a_directory_goes_before_a_mirror_and_needs_no_network(
        self, sensor: Sensor, mirror: OsvMirror, tmp_path: Path
    ) -> None:
        local = layout(tmp_path / "osv", "npm", "Debian:12")
        report = await sensor.update(str(local), mirror.url)
        assert states(report) == {"npm": "local", "Debian:12": "local", "Go": "new"}
        assert [path for path, _ in mirror.seen] == ["/osv/Go/all.zip"]
        assert sensor.transport.requests == 1

    async def test_a_missing_directory_is_reported(self, sensor: Sensor, mirror: OsvMirror, tmp_path: Path) -> None:
        report = await sensor.update(str(tmp_path / "missing"), mirror.url)
        assert report.outcomes[0].state == "failed"
        assert "cannot read advisories" in report.outcomes[0].reason
        assert known(sensor.database) == {"npm", "Go"}

    async def test_a_broken_local_archive_keeps_the_old_database(self, sensor: Sensor, tmp_path: Path) -> None:
        local = layout(tmp_path / "osv", "npm", "Go")
        await sensor.update(str(local))
        whole = (local / "Go" / "all.zip").read_bytes()
        (local / "Go" / "all.zip").write_bytes(whole[:-9])
        with pytest.raises(AdvisoryError, match="is broken"):
            await sensor.update(str(local))
        assert known(sensor.database) == {"npm", "Go"}

    async def test_secrets_of_a_url_are_not_told(self, sensor: Sensor, mirror: OsvMirror) -> None:
        url = mirror.url.replace("http://", "http://user:s3cret@")
        report = await sensor.update(f"{url}?sig=s3cret")
        assert "s3cret" not in repr(report)
        assert mirror.headers[0]["Authorization"].startswith("Basic ")

    async def test_the_state_directory_cannot_be_made(self, transport: Transport, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(AdvisoryError, match="cannot make the directory"):
            await Sensor(transport, tmp_path / "file").update("http://127.0.0.1:1")

    async def test_cancelled_in_the_middle_of_a_build(self, sensor: Sensor, tmp_path: Path) -> None:
        local = layout(tmp_path / "osv", "npm")
        await sensor.update(str(local))
        before = sensor.database.read_bytes()
        records = [record(f"A-{n}", entry("npm", f"p{n}")) for n in range(3000)]
        archive(local / "npm" / "all.zip", *records)
        started, loop = asyncio.Event(), asyncio.get_running_loop()
        go_on = asyncio.Event()

        def follow(progress: Progress) -> None:
            if progress.done == 1000:
                loop.call_soon_threadsafe(started.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

        settings = Advisories(sources=(str(local),))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(update(settings, sensor.transport, sensor.state, progress=follow))
            await started.wait()
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
        assert task.cancelled()
        await loop.shutdown_default_executor()  # waits for the thread of the build
        assert sensor.database.read_bytes() == before
        left = sorted(path.name for path in sensor.state.iterdir())
        assert left == ["advisories", "advisories.db", "advisories.db.lock"]


def test_find_archives_of_a_zip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x05\x06" + bytes(10))
    with pytest.raises(AdvisoryError, match="cannot read advisories from"):
        find_archives(tmp_path / "x.zip", tmp_path)
