from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.advisories.fetch import Fetched, Fetching, last_good, shown
from sensor.errors import AdvisoryError, DataError, NetworkError
from sensor.limits import DEFAULT_LIMITS
from sensor.route import Route
from sensor.transport import Transport
from tests.advisories.archives import entry, record
from tests.fakes.certificates import Authority
from tests.fakes.osv_mirror import OsvMirror, body, broken_off, status


def zipped(*ids: str, ecosystem: str = "npm") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for advisory_id in ids:
            file.writestr(f"{advisory_id}.json", record(advisory_id, entry(ecosystem, "x")))
    return buffer.getvalue()


@pytest.fixture
async def mirror() -> AsyncIterator[OsvMirror]:
    async with OsvMirror() as running:
        running.archives["npm"] = zipped("A-1")
        yield running


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
async def fetching(tmp_path: Path, pauses: list[float]) -> AsyncIterator[Fetching]:
    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    transport = Transport(sleep=sleep)
    yield Fetching(transport=transport, cache=tmp_path, limits=DEFAULT_LIMITS)
    await transport.close()


async def fetched(fetching: Fetching, mirror: OsvMirror, ecosystem: str = "npm") -> Fetched:
    found = await fetching.fetch(mirror.url, ecosystem)
    assert found is not None
    return found


def left(fetching: Fetching) -> list[str]:
    return sorted(path.name for path in fetching.cache.iterdir())


class TestConditions:
    async def test_the_first_time_everything_then_only_what_changed(
        self, fetching: Fetching, mirror: OsvMirror
    ) -> None:
        first = await fetched(fetching, mirror)
        assert first.is_new
        assert first.archive.path.read_bytes() == mirror.archives["npm"]
        assert first.archive.origin == f"{mirror.url}/npm/all.zip"
        assert not (await fetched(fetching, mirror)).is_new
        mirror.archives["npm"] = zipped("A-1", "A-2")
        third = await fetched(fetching, mirror)
        assert third.is_new
        assert third.archive.path.read_bytes() == mirror.archives["npm"]
        assert mirror.statuses == [200, 304, 200]
        assert left(fetching) == ["npm.json", "npm.zip"]

    async def test_last_modified_serves_where_there_is_no_etag(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.etags = False
        mirror.last_modified = "Tue, 24 Nov 2026 10:00:00 GMT"
        await fetched(fetching, mirror)
        await fetched(fetching, mirror)
        assert mirror.statuses == [200, 304]
        assert "If-None-Match" not in mirror.headers[1]

    async def test_same_bytes_without_any_condition_are_not_new(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.etags = False
        assert (await fetched(fetching, mirror)).is_new
        assert not (await fetched(fetching, mirror)).is_new
        assert mirror.statuses == [200, 200]

    async def test_an_etag_is_shown_only_to_the_mirror_that_gave_it(
        self, fetching: Fetching, mirror: OsvMirror
    ) -> None:
        await fetched(fetching, mirror)
        async with OsvMirror() as other:
            other.archives = mirror.archives
            assert not (await fetched(fetching, other)).is_new
            assert "If-None-Match" not in other.headers[0]

    @pytest.mark.parametrize("note", [None, b"", b"[]", b'{"url": 7}'])
    async def test_a_lost_or_damaged_note_means_fetching_again(
        self, fetching: Fetching, mirror: OsvMirror, note: bytes | None
    ) -> None:
        await fetched(fetching, mirror)
        path = fetching.cache / "npm.json"
        path.unlink()
        if note is not None:
            path.write_bytes(note)
        await fetched(fetching, mirror)
        assert mirror.statuses == [200, 200]

    async def test_a_304_without_a_condition_is_refused(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.answers["npm"] = [status(304)]
        with pytest.raises(NetworkError, match="status 304"):
            await fetching.fetch(mirror.url, "npm")


class TestAddresses:
    async def test_names_with_spaces_and_queries_of_the_base(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.archives["Rocky Linux"] = zipped("A-1", ecosystem="Rocky Linux:9")
        found = await fetching.fetch(f"{mirror.url}/?sig=s3cret", "Rocky Linux")
        assert found is not None
        assert mirror.seen == [("/osv/Rocky%20Linux/all.zip?sig=s3cret", 200)]
        assert "s3cret" not in found.archive.origin
        assert b"s3cret" not in (fetching.cache / "Rocky%20Linux.json").read_bytes()

    async def test_a_name_cannot_leave_the_cache(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.archives[".."] = zipped("A-1")
        assert await fetching.fetch(mirror.url, "../../x") is None
        assert left(fetching) == []

    @pytest.mark.parametrize("code", [404, 410])
    async def test_a_mirror_without_it(self, fetching: Fetching, mirror: OsvMirror, code: int) -> None:
        mirror.answers["npm"] = [status(code)]
        assert await fetching.fetch(mirror.url, "npm") is None
        assert left(fetching) == []

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("https://user:pass@host:8443/osv?token=x#y", "https://host:8443/osv"),
            ("/srv/osv?x", "/srv/osv?x"),
        ],
    )
    def test_shown_without_secrets(self, source: str, expected: str) -> None:
        assert shown(source) == expected


class TestRedirects:
    async def test_are_followed(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.answers["npm"] = [status(302, Location="/elsewhere/npm/all.zip")]
        await fetched(fetching, mirror)
        assert [path for path, _ in mirror.seen] == ["/osv/npm/all.zip", "/elsewhere/npm/all.zip"]

    async def test_do_not_go_round_for_ever(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.answers["npm"] = [status(301, Location="/osv/npm/all.zip")] * 10
        with pytest.raises(DataError, match="too many redirects"):
            await fetching.fetch(mirror.url, "npm")
        assert len(mirror.seen) == 6

    async def test_from_https_to_http_are_refused(self, tmp_path: Path, mirror: OsvMirror) -> None:
        authority = Authority()
        transport = Transport(Route(ca_file=authority.write(tmp_path / "ca.pem")))
        async with OsvMirror(authority.server_context(tmp_path)) as safe:
            safe.answers["npm"] = [status(302, Location=f"{mirror.url}/npm/all.zip")]
            with pytest.raises(DataError, match="from https to http"):
                await Fetching(transport=transport, cache=tmp_path, limits=DEFAULT_LIMITS).fetch(safe.url, "npm")
        assert mirror.seen == []
        await transport.close()

    async def test_to_nowhere(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.answers["npm"] = [status(307, Location="file:///etc/passwd")]
        with pytest.raises(DataError, match="unusable URL"):
            await fetching.fetch(mirror.url, "npm")


class TestFaults:
    async def test_patience_with_a_server_that_recovers(
        self, fetching: Fetching, mirror: OsvMirror, pauses: list[float]
    ) -> None:
        mirror.answers["npm"] = [status(500), status(503, Retry_After="7")]
        assert (await fetched(fetching, mirror)).is_new
        assert mirror.statuses == [500, 503, 200]
        assert max(pauses) >= 7.0

    async def test_patience_ends(self, fetching: Fetching, mirror: OsvMirror, pauses: list[float]) -> None:
        mirror.answers["npm"] = [status(502)] * 9
        with pytest.raises(NetworkError, match="status 502"):
            await fetching.fetch(mirror.url, "npm")
        assert mirror.statuses == [502, 502, 502]
        assert len(pauses) == 2

    async def test_a_long_pause_is_left_to_the_next_update(
        self, fetching: Fetching, mirror: OsvMirror, pauses: list[float]
    ) -> None:
        mirror.answers["npm"] = [status(503, Retry_After="500")] * 9
        with pytest.raises(NetworkError) as caught:
            await fetching.fetch(mirror.url, "npm")
        assert caught.value.retry_after == 500.0
        assert (mirror.statuses, pauses) == ([503], [])

    @pytest.mark.parametrize("code", [400, 401, 403, 418])
    async def test_refusals_are_final(self, fetching: Fetching, mirror: OsvMirror, code: int) -> None:
        mirror.answers["npm"] = [status(code)] * 3
        with pytest.raises(NetworkError, match=f"status {code}"):
            await fetching.fetch(mirror.url, "npm")
        assert mirror.statuses == [code]

    async def test_a_broken_connection_is_tried_again(self, fetching: Fetching, mirror: OsvMirror) -> None:
        mirror.answers["npm"] = [broken_off(zipped("A-1"))]
        assert (await fetched(fetching, mirror)).is_new
        assert left(fetching) == ["npm.json", "npm.zip"]

    @pytest.mark.parametrize("data", [b"", b"<html>", zipped("A-1")[:-8], zipped()])
    async def test_a_bad_archive_does_not_replace_the_good_one(
        self, fetching: Fetching, mirror: OsvMirror, data: bytes
    ) -> None:
        await fetched(fetching, mirror)
        mirror.answers["npm"] = [body(data)]
        with pytest.raises(AdvisoryError, match="is broken"):
            await fetching.fetch(mirror.url, "npm")
        assert (fetching.cache / "npm.zip").read_bytes() == mirror.archives["npm"]
        assert left(fetching) == ["npm.json", "npm.zip"]
        assert not (await fetched(fetching, mirror)).is_new
        assert mirror.statuses == [200, 200, 304]

    async def test_too_large(self, fetching: Fetching, mirror: OsvMirror) -> None:
        small = replace(fetching, limits=replace(DEFAULT_LIMITS, advisory_archive_bytes=10))
        with pytest.raises(DataError, match="larger than 10 bytes"):
            await small.fetch(mirror.url, "npm")
        assert left(fetching) == []

    async def test_no_server(self, fetching: Fetching, mirror: OsvMirror) -> None:
        url = mirror.url
        await mirror.__aexit__()
        with pytest.raises(NetworkError, match="cannot connect"):
            await fetching.fetch(url, "npm")

    async def test_cache_that_cannot_be_written(self, fetching: Fetching, mirror: OsvMirror) -> None:
        (fetching.cache / "npm.part").mkdir()
        lost = replace(fetching, cache=fetching.cache / "missing")
        with pytest.raises(AdvisoryError, match=r"cannot write .*npm\.part"):
            await lost.fetch(mirror.url, "npm")

    async def test_cache_where_a_directory_is_in_the_way_of_the_note(
        self, fetching: Fetching, mirror: OsvMirror
    ) -> None:
        (fetching.cache / "npm.note").mkdir()
        with pytest.raises(AdvisoryError, match=r"cannot write .*npm\.zip"):
            await fetching.fetch(mirror.url, "npm")


class TestLastGood:
    async def test_is_what_was_fetched(self, fetching: Fetching, mirror: OsvMirror) -> None:
        assert last_good(fetching.cache, "npm") is None
        found = await fetched(fetching, mirror)
        assert last_good(fetching.cache, "npm") == found.archive
        (fetching.cache / "npm.json").unlink()
        without = last_good(fetching.cache, "npm")
        assert without is not None
        assert without.path == found.archive.path
