"""Fetching archives of advisories from a mirror of OSV's bulk export into a cache, only when they changed (RFC 9110, section 13).

An archive takes its predecessor's place only when it was read to its end and is sound. Which mirror to ask, and what to do when none answers, is
`advisories.update`'s business.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from sensor.advisories.archive import Archive, check_archive
from sensor.errors import AdvisoryError, DataError, NetworkError
from sensor.limits import Limits
from sensor.route import redirect_target, retry_after
from sensor.storage import swap_file
from sensor.transport import RETRY_STATUSES, Streamed, Transport

ARCHIVE_NAME: Final = "all.zip"
_ATTEMPTS: Final = 3
_LONGEST_PAUSE: Final = 60.0
"""Seconds that are waited when a server asks for it; after a longer pause the next update comes."""
_REDIRECTS: Final = 5
_UNCHANGED: Final = 304
_ABSENT: Final = frozenset({404, 410})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask with next time, kept beside a fetched archive."""

    url: str
    etag: str = ""
    last_modified: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An archive in the cache; `is_new` where its bytes differ from those of last time."""

    archive: Archive
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Everything that fetching needs. `cache` is a directory that nothing else writes to."""

    transport: Transport
    cache: Path
    limits: Limits

    async def fetch(self, base: str, ecosystem: str) -> Fetched | None:
        """Bring the cached archive of an ecosystem up to date; None where the mirror does not have it.

        Raises:
            NetworkError: no answer, or an unexpected status, even after retries.
            DataError: the answer is too large or leads astray.
            AdvisoryError: the archive is broken, or the cache cannot be written. In all cases the cached archive stays as it was.
        """
        url = _archive_url(base, ecosystem)
        kept, note = _cached(self.cache, ecosystem)
        known = await asyncio.to_thread(_read_note, kept, note)
        part = kept.with_suffix(".part")
        try:
            answer = await self._patiently(url, _conditions(url, known), part)
            if answer is None:
                return None
            if isinstance(answer, _Note):
                await asyncio.to_thread(self._accept, part, answer, kept, known)
            is_new = isinstance(answer, _Note) and (known is None or known.sha256 != answer.sha256)
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return Fetched(archive=Archive(name=ecosystem, path=kept, origin=shown(url)), is_new=is_new)

    async def _patiently(self, url: str, conditions: Mapping[str, str], part: Path) -> _Note | int | None:
        """As `_attempt`, repeated while that may help."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._attempt(url, conditions, part)
            except NetworkError as error:
                asked = error.retry_after or 0.0
                if attempt == _ATTEMPTS - 1 or not error.retryable or asked > _LONGEST_PAUSE:
                    raise
            await self.transport.pause(attempt, asked)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def _attempt(self, url: str, conditions: Mapping[str, str], part: Path) -> _Note | int | None:
        """What was written to `part`, 304 for "as you know it", None for "not here"."""
        location = url
        for _ in range(_REDIRECTS + 1):
            async with self.transport.stream("GET", location, headers=conditions) as answer:
                if answer.status == 200:
                    return await self._write(url, answer, part)
                if answer.status == _UNCHANGED and conditions:
                    return _UNCHANGED
                if answer.status in _ABSENT:
                    return None
                if answer.status not in _MOVED:
                    raise _refused(answer)
                target = redirect_target(location, answer.headers.get("location", ""))
            if location.startswith("https:") and not target.startswith("https:"):
                raise DataError("a redirect leads from https to http", "name the final URL in advisories.sources")
            location = target
        raise DataError("there are too many redirects", "name the final URL in advisories.sources")

    async def _write(self, url: str, answer: Streamed, part: Path) -> _Note:
        """Stream the body to a file."""
        digest = hashlib.sha256()
        size = 0
        try:
            file = await asyncio.to_thread(part.open, "wb")
            try:
                async for chunk in answer.chunks:
                    size += len(chunk)
                    if size > self.limits.advisory_archive_bytes:
                        message = f"the archive is larger than {self.limits.advisory_archive_bytes} bytes"
                        raise DataError(message, "the limit protects the sensor's disk")
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            finally:
                await asyncio.to_thread(file.close)
        except OSError as error:
            raise _unwritable(part, error) from error
        return _Note(
            url=shown(url),
            etag=answer.headers.get("etag", ""),
            last_modified=answer.headers.get("last-modified", ""),
            sha256=digest.hexdigest(),
        )

    def _accept(self, part: Path, fresh: _Note, kept: Path, known: _Note | None) -> None:
        """Put a fetched archive in place, after a look at it to its end if its bytes are new."""
        if known is None or known.sha256 != fresh.sha256:
            check_archive(Archive(name=kept.stem, path=part, origin=fresh.url), self.limits)
        note = kept.with_suffix(".json")
        draft = kept.with_suffix(".note")
        try:
            # a note that describes another file than the one that stands there would turn the next 304 into a lie
            note.unlink(missing_ok=True)
            swap_file(part, kept)
            draft.write_bytes(msgspec.json.encode(fresh))
        except OSError as error:
            raise _unwritable(kept, error) from error
        swap_file(draft, note)


def last_good(cache: Path, ecosystem: str) -> Archive | None:
    """The archive of an ecosystem that was fetched last, if there is any."""
    kept, note = _cached(cache, ecosystem)
    known = _read_note(kept, note)
    return Archive(name=ecosystem, path=kept, origin=known.url if known else str(kept)) if kept.is_file() else None


def shown(source: str) -> str:
    """A source without what may be secret in a URL: user, password, query."""
    parts = urlsplit(source)
    if parts.scheme not in {"http", "https"}:
        return source
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _archive_url(base: str, ecosystem: str) -> str:
    parts = urlsplit(base)
    path = f"{parts.path.rstrip('/')}/{quote(ecosystem)}/{ARCHIVE_NAME}"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _cached(cache: Path, ecosystem: str) -> tuple[Path, Path]:
    """An ecosystem's archive in the cache, and the note beside it."""
    name = quote(ecosystem, safe="")
    return cache / f"{name}.zip", cache / f"{name}.json"


def _read_note(kept: Path, note: Path) -> _Note | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=_Note) if kept.is_file() else None
    except (OSError, msgspec.DecodeError):
        return None  # fetched once more, without conditions


def _conditions(url: str, known: _Note | None) -> dict[str, str]:
    if known is None or known.url != shown(url):
        return {}
    conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in conditions.items() if value}


def _refused(answer: Streamed) -> NetworkError:
    return NetworkError(
        f"the server answered with status {answer.status}",
        "check the URL in advisories.sources",
        retryable=answer.status in RETRY_STATUSES,
        retry_after=retry_after(answer.headers),
    )


def _unwritable(path: Path, error: OSError) -> AdvisoryError:
    return AdvisoryError(f"cannot write {path}: {error.strerror}", "check space and permissions there", retryable=True)
