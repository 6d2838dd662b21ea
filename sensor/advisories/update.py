"""Where advisories come from: directories, zip files, and base URLs, all in the layout of OSV's bulk export.

That is `<Ecosystem>/all.zip`. Files are read where they are and open no socket; from URLs archives are fetched by `fetch`, which keeps the last good
copy for the time in which no source answers. Whatever was gathered is built into one database, which replaces the former whole. Reading archives and
building is left to `archive` and `build`, when to update is decided above.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from sensor.advisories.archive import Archive
from sensor.advisories.build import BuildReport, Progress, build_database, revision_of
from sensor.advisories.database import AdvisoryDatabase, database_path
from sensor.advisories.feeds import FEEDS
from sensor.advisories.fetch import ARCHIVE_NAME, Fetching, last_good, shown
from sensor.config.schema import Advisories, Http
from sensor.errors import AdvisoryError, SensorError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.route import Route, hosts_of
from sensor.transport import Transport

_EXPECTED = (
    f"expected <Ecosystem>/{ARCHIVE_NAME} as in OSV's bulk export, a zip file of it, or OSV records as .json files"
)
_STALE_SECONDS = 86400.0

State: TypeAlias = Literal["new", "unchanged", "local", "absent", "kept", "failed"]


def route_to(settings: Advisories, http: Http) -> Route:
    """How to reach the sources."""
    return Route(
        ca_file=settings.ca_file or http.ca_file,
        proxy=settings.proxy or http.proxy,
        no_proxy=http.no_proxy,
        client_certificate=settings.client_certificate,
        client_key=settings.client_key,
        client_hosts=hosts_of(*(source for source in settings.sources if "://" in source)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOutcome:
    """What became of one ecosystem, or of one local source as a whole, at one source.

    `new` and `unchanged` were answered by a URL, `local` is a file; `absent` means that a source does not have it, `failed` that it did not answer
    properly; `kept` that the last good copy stands in. `reason` is empty where all is well.
    """

    name: str
    source: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """The result of an update. Without a change there is no `build`, and results need not be matched again."""

    changed: bool
    revision: str
    outcomes: tuple[SourceOutcome, ...]
    build: BuildReport | None = None


def demo_advisories() -> Path:
    """The small real extract that comes with the package: a directory in the bulk layout. Its NOTICE.md says what it is and whose."""
    return Path(str(importlib.resources.files("sensor.advisories").joinpath("data")))


def import_sources(
    paths: Iterable[Path],
    target: Path,
    *,
    now: datetime | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[Progress], None] | None = None,
) -> BuildReport:
    """Make the database of directories and zip files. It replaces what was imported before; two files about one ecosystem are merged.

    Raises:
        AdvisoryError: nothing found, or an archive is broken; the old database stays.
    """
    with _scratch_directory(target.parent) as scratch:
        archives = [archive for path in paths for archive in find_archives(path, Path(scratch), limits)]
        return build_database(target, archives, now=now, limits=limits, progress=progress)


def find_archives(path: Path, scratch: Path, limits: Limits = DEFAULT_LIMITS) -> list[Archive]:
    """The archives that a directory or zip file holds. A zip file of zip files is unpacked into `scratch`.

    Raises:
        AdvisoryError: there are none.
    """
    try:
        archives = _in_directory(path) if path.is_dir() else _in_zip(path, scratch, limits)
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        message = f"cannot read advisories from {path}: {reason}"
        raise AdvisoryError(message, _EXPECTED) from error
    if not archives:
        message = f"there are no advisories in {path}"
        raise AdvisoryError(message, _EXPECTED)
    return archives


def _in_directory(path: Path) -> list[Archive]:
    zips = sorted(path.rglob(ARCHIVE_NAME))
    below = [found for found in zips if found.parent != path]
    if below:  # a full mirror has all records once more in its root
        return [Archive(name=found.parent.name, path=found, origin=str(found)) for found in below]
    zips = zips or sorted(path.glob("*.zip"))
    if zips:
        return [_named(found) for found in zips]
    if any(feed.reads(found.name) for feed in FEEDS for found in path.rglob("*")):
        return [Archive(name=path.absolute().name, path=path, origin=str(path))]
    return []


def _named(path: Path) -> Archive:
    name = path.absolute().parent.name if path.name == ARCHIVE_NAME else path.stem
    return Archive(name=name, path=path, origin=str(path))


def _in_zip(path: Path, scratch: Path, limits: Limits) -> list[Archive]:
    with zipfile.ZipFile(path) as outer:
        inner = [info for info in outer.infolist() if info.filename.endswith(".zip")]
        below = [info for info in inner if len(PurePosixPath(info.filename).parts) > 1]
        chosen = below or inner
        if not chosen:
            return [_named(path)]
        if sum(info.file_size for info in chosen) > limits.advisory_archive_bytes:
            message = f"{path} unpacks to more than {limits.advisory_archive_bytes} bytes"
            raise AdvisoryError(message, "unpack it and import the directory")
        archives = []
        for number, info in enumerate(chosen):
            # never under the name that the archive gives it
            unpacked = scratch / f"{len(list(scratch.iterdir()))}-{number}.zip"
            with outer.open(info) as packed, unpacked.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            inside = PurePosixPath(info.filename)
            name = inside.parent.name if inside.name == ARCHIVE_NAME and inside.parent.name else inside.stem
            archives.append(Archive(name=name, path=unpacked, origin=f"{path}!{info.filename}"))
        return archives


def _scratch_directory(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory for unpacking, beside the data: the system's own may be small. Removes what killed imports left."""
    prefix = "unpacked-"
    try:
        for left in parent.glob(f"{prefix}*"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        return tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
    except OSError as error:
        message = f"cannot write in {parent}: {error.strerror}"
        raise AdvisoryError(message, "check that state.directory exists and may be written") from error


@dataclass(slots=True, kw_only=True)
class _Gathering:
    """What an update has found so far: at most one archive per name, of the first source that has it."""

    archives: dict[str, Archive] = field(default_factory=dict)
    outcomes: list[SourceOutcome] = field(default_factory=list)

    def note(self, name: str, source: str, state: State, reason: str = "") -> None:
        self.outcomes.append(SourceOutcome(name=name, source=shown(source), state=state, reason=reason))


async def update(
    settings: Advisories,
    transport: Transport,
    state: Path,
    *,
    now: datetime | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[Progress], None] | None = None,
) -> UpdateReport:
    """Gather archives from the configured sources and rebuild the database of `state` if any changed.

    Sources are asked in order; for each ecosystem the first that has it counts. One that is missing or failing is reported, and its last good copy
    used. Cancelling leaves the old database in place.

    Raises:
        AdvisoryError: no source is configured or none gave anything, or the build failed; the old database stays.
    """
    if not settings.sources:
        raise AdvisoryError(
            "no source of advisories is configured",
            "set advisories.sources, or run harborguard-sensor advisories import",
        )
    cache = state / "advisories"
    await asyncio.to_thread(_make_directories, state, cache)
    gathering = _Gathering()
    fetching = Fetching(transport=transport, cache=cache, limits=limits)
    with await asyncio.to_thread(_scratch_directory, cache) as scratch:
        for source in settings.sources:
            if source.startswith(("http://", "https://")):
                await _gather_from(source, settings.ecosystems, fetching, gathering)
            else:
                await asyncio.to_thread(_gather_local, source, Path(scratch), limits, gathering)
        for ecosystem in settings.ecosystems:
            if ecosystem not in gathering.archives:
                await asyncio.to_thread(_keep, cache, ecosystem, gathering)
        archives = list(gathering.archives.values())
        if not archives:
            reasons = "; ".join(f"{o.source}: {o.reason}" for o in gathering.outcomes[:3] if o.reason)
            message = f"no source gave any advisories: {reasons}"
            raise AdvisoryError(message, "check advisories.sources; the old advisories stay in use", retryable=True)
        target = database_path(state)
        revision, is_current = await asyncio.to_thread(_compare, target, archives, limits)
        build = None if is_current else await _build(target, archives, now=now, limits=limits, progress=progress)
    outcomes = tuple(gathering.outcomes)
    return UpdateReport(changed=build is not None, revision=revision, outcomes=outcomes, build=build)


async def _build(
    target: Path,
    archives: Sequence[Archive],
    *,
    now: datetime | None,
    limits: Limits,
    progress: Callable[[Progress], None] | None,
) -> BuildReport:
    """Build in a thread that ends soon after the waiting task is cancelled."""
    stop = threading.Event()

    def report(how_far: Progress) -> None:
        if stop.is_set():
            raise AdvisoryError("the update of advisories was stopped", retryable=True)
        if progress:
            progress(how_far)

    try:
        return await asyncio.to_thread(build_database, target, archives, now=now, limits=limits, progress=report)
    finally:
        stop.set()


def _compare(target: Path, archives: Sequence[Archive], limits: Limits) -> tuple[str, bool]:
    """The revision of these archives, and whether the database already has it."""
    revision = revision_of(archives, limits)
    try:
        database = AdvisoryDatabase.open(target)
    except AdvisoryError:
        return revision, False
    try:
        return revision, database.revision == revision
    finally:
        database.close()


def _make_directories(*paths: Path) -> None:
    for path in paths:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot make the directory {path}: {error.strerror}"
            raise AdvisoryError(message, "check the owner and mode of state.directory") from error


def _gather_local(source: str, scratch: Path, limits: Limits, gathering: _Gathering) -> None:
    try:
        archives = find_archives(Path(source).expanduser(), scratch, limits)
    except AdvisoryError as error:
        gathering.note(source, source, "failed", str(error))
        return
    for archive in archives:
        if archive.name not in gathering.archives:
            gathering.archives[archive.name] = archive
            gathering.note(archive.name, archive.origin, "local")


async def _gather_from(source: str, ecosystems: Iterable[str], fetching: Fetching, gathering: _Gathering) -> None:
    """Ask one base URL for what no earlier source gave."""
    for ecosystem in ecosystems:
        if ecosystem in gathering.archives:
            continue
        try:
            fetched = await fetching.fetch(source, ecosystem)
        except SensorError as error:
            gathering.note(ecosystem, source, "failed", str(error))
            continue
        if fetched is None:
            gathering.note(ecosystem, source, "absent", "the source does not have it")
        else:
            gathering.archives[ecosystem] = fetched.archive
            gathering.note(ecosystem, source, "new" if fetched.is_new else "unchanged")


def _keep(cache: Path, ecosystem: str, gathering: _Gathering) -> None:
    """Use the last good copy of an ecosystem that no source gave."""
    archive = last_good(cache, ecosystem)
    if archive:
        gathering.archives[ecosystem] = archive
        gathering.note(ecosystem, archive.origin, "kept", "no source gave it; the last good copy is used")
