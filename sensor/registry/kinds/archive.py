"""Image archives on disk in the place of a registry: `archive:/path`, one tar file or a directory of them (the watch folder of a closed site).

What `docker save` and `skopeo copy` write, plain or compressed. `ArchiveRegistry` answers like any other registry. Which files there are is
the business of `archive_folder`, which images are in them that of `archive_index`. The files are as little trusted as a registry.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from pathlib import Path

from sensor.config.notation import ON_DISK, on_disk
from sensor.errors import ConfigError, DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.digest import is_digest, parse_digest
from sensor.model.manifest import Descriptor, ImageConfig, parse_manifest
from sensor.registry.client import check_digest
from sensor.registry.errors import RegistryNotFound, inert
from sensor.registry.kinds.archive_folder import ArchiveFile, ArchiveFolder, Found, Gathered
from sensor.registry.kinds.archive_index import Broken
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind
from sensor.registry.kinds.layout import media_type_of, read_config
from sensor.registry.port import FetchedManifest, Listing, ManifestHead, Method, Ping, Registry, Standing

_FRESH_SECONDS = 2.0
"""How long a look at the directory is good for. The list of repositories always takes a new one; a crawl then asks for each of them."""
_SOURCE = "the archives' own indexes"
_MADE_HERE = "`docker save` drops the registry's digest: such an image has one made here; compare the digest of its configuration with config.digest"
_MOST_TOLD = 3


class ArchiveRegistry:
    """Archives on disk as `port.Registry`."""

    def __init__(
        self,
        root: Path,
        *,
        host: str,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._host = host
        self._limits = limits
        self._clock = clock
        self._folder = ArchiveFolder(root, limits)
        self._turn = asyncio.Lock()
        self._last: tuple[float, Gathered] | None = None

    @property
    def host(self) -> str:
        """The name that stands where a registry's host does."""
        return self._host

    @property
    def namespace(self) -> str:
        """Archives are taken whole."""
        return ""

    @property
    def requests(self) -> int:
        """Always 0: a disk has no quota."""
        return 0

    async def _gathered(self, *, anew: bool = False) -> Gathered:
        async with self._turn:
            if anew or self._last is None or self._clock() - self._last[0] > _FRESH_SECONDS:
                self._last = self._clock(), await asyncio.to_thread(self._folder.gather)
            return self._last[1]

    async def ping(self) -> Ping:
        """Look at the archives."""
        begun = time.monotonic()
        gathered = await self._gathered(anew=True)
        return Ping(
            reachable=True,
            authenticated=True,
            latency_ms=(time.monotonic() - begun) * 1000,
            scheme="archive",
            detail=_detail(gathered),
        )

    async def repositories(self) -> Listing:
        """The repositories that the images' names speak of. Partial while a file cannot be read."""
        gathered = await self._gathered(anew=True)
        return Listing(
            names=tuple(gathered.images), complete=not gathered.problems, reason=gathered.reason, source=_SOURCE
        )

    async def tags(self, repository: str) -> Listing:
        """The tags of a repository with their digests; the file's time counts as that of the push."""
        gathered = await self._settled(lambda gathered: gathered.files.get(repository, ()))
        tags = gathered.images.get(repository)
        if tags is None:
            raise _missing(gathered, self._root, repository)
        digests = {tag: found.entry.digest for tag, found in tags.items() if isinstance(found.entry, Descriptor)}
        return Listing(
            names=tuple(tags),
            complete=not gathered.problems,
            reason=gathered.reason,
            digests=digests,
            pushed={tag: found.file.stamp.changed_ns / 1e9 for tag, found in tags.items()},
            source=_SOURCE,
        )

    async def head(self, repository: str, target: str) -> ManifestHead:
        """Digest, type and size as the archive tells them."""
        found = await self._find(repository, target)
        if found is not None and isinstance(found.entry, Descriptor):
            entry = found.entry
            return ManifestHead(digest=entry.digest, media_type=entry.media_type, size=entry.size)
        fetched = await self.manifest(repository, target)
        return ManifestHead(digest=fetched.digest, media_type=fetched.media_type, size=len(fetched.data))

    async def manifest(self, repository: str, target: str) -> FetchedManifest:
        """Read a manifest by tag or digest; its bytes are checked."""
        found = await self._find(repository, target)
        if found is not None and isinstance(found.entry, Broken):
            message = (
                f"{found.file.path.name}: {inert(repository)}:{inert(target)} cannot be read: {found.entry.reason}"
            )
            raise DataError(message, "save the image anew")
        entry = found.entry if found is not None and isinstance(found.entry, Descriptor) else None
        digest = entry.digest if entry else parse_digest(target)
        files = [found.file] if found is not None else await self._files_of(repository)
        for file in files:
            data = await asyncio.to_thread(file.document, digest, self._limits)
            if data is not None:
                check_digest(data, digest, str(file.path))
                document = parse_manifest(data, entry.media_type if entry else "")
                media_type = media_type_of(document, entry)
                return FetchedManifest(digest=digest, media_type=media_type, data=data, document=document)
        raise _absent(digest, files, self._root)

    async def config(self, repository: str, descriptor: Descriptor) -> ImageConfig:
        """Read and check an image configuration."""
        return await read_config(self.blob(repository, descriptor), descriptor, self._limits, str(self._root))

    async def blob(self, repository: str, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Read a blob in pieces of 1 MiB. The caller checks the digest."""
        digest = parse_digest(descriptor.digest)
        files = await self._files_of(repository)
        file = next((one for one in files if digest in one.archive.blobs), None)
        if file is None:
            raise _absent(digest, files, self._root)
        member, held = file.archive.blobs[digest], file.archive.documents.get(digest)
        if member.size != descriptor.size:
            message = f"{file.path}: {digest} is not of the {descriptor.size} bytes that its manifest says"
            raise DataError(message, "the archive is damaged; save the image anew")
        if held is not None:
            yield held
            return
        # closing the file ends the thread that may still be reading when we are cancelled
        with await asyncio.to_thread(file.open) as opened:
            pieces = file.pieces(opened, member, self._limits)
            while piece := await asyncio.to_thread(next, pieces, b""):
                yield piece

    async def method(self) -> Method:
        """There is no login to a disk."""
        return Method(name="files on disk")

    async def standing(self) -> Standing:
        """Nobody is anybody on a disk."""
        return Standing()

    async def close(self) -> None:
        """Nothing to release."""

    async def _find(self, repository: str, target: str) -> Found | None:
        """What a tag stands for; None for a digest that is no image's own, such as that of a child of an index."""

        def found_in(gathered: Gathered) -> Found | None:
            tags = gathered.images.get(repository, {})
            if not is_digest(target):
                return tags.get(target)
            return next((found for found in tags.values() if found.entry.digest == target), None)

        def files_in(gathered: Gathered) -> Iterable[ArchiveFile]:
            found = found_in(gathered)
            return (found.file,) if found is not None else gathered.files.get(repository, ())

        gathered = await self._settled(files_in)
        found = found_in(gathered)
        if found is None and not (is_digest(target) and repository in gathered.images):
            raise _missing(gathered, self._root, f"{repository}:{target}")
        return found

    async def _files_of(self, repository: str) -> list[ArchiveFile]:
        gathered = await self._settled(lambda gathered: gathered.files.get(repository, ()))
        if repository not in gathered.files:
            raise _missing(gathered, self._root, repository)
        return gathered.files[repository]

    async def _settled(self, files: Callable[[Gathered], Iterable[ArchiveFile]]) -> Gathered:
        """What was gathered, as of now if the files in question are not what they were, or if there are none."""
        gathered = await self._gathered()
        concerned = tuple(files(gathered))
        current = await asyncio.to_thread(_are_current, concerned)
        return gathered if current else await self._gathered(anew=True)


def _are_current(files: Collection[ArchiveFile]) -> bool:
    return bool(files) and all(file.is_current for file in files)


def _detail(gathered: Gathered) -> str:
    """What was found, and what is odd about it."""
    count = sum(map(len, gathered.images.values()))
    parts = [f"{gathered.archives} image archive{_s(gathered.archives)} with {count} image{_s(count)}"]
    if "docker-archive" in gathered.forms:
        parts.append(_MADE_HERE)
    if gathered.doubled:
        more = len(gathered.doubled) - _MOST_TOLD
        told = ", ".join(gathered.doubled[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"names of newer files are kept, others told apart: {told}")
    if gathered.refused:
        parts.append(f"{gathered.refused} members with absolute names, `..` or too long ones were passed over")
    if gathered.passed_over:
        parts.append(f"{gathered.passed_over} other file{_s(gathered.passed_over)} passed over")
    if gathered.problems:
        parts.append(f"not everything can be read: {gathered.reason}")
    return "; ".join(parts)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _missing(gathered: Gathered, root: Path, name: str) -> DataError | RegistryNotFound:
    """Not there; unless it may be in a file that cannot be read now, because then nothing may be concluded from it."""
    if gathered.problems:
        message = f"{inert(name)} is in none of the archives of {root} that can be read: {gathered.reason}"
        return DataError(message, gathered.problems[0].advice, retryable=True)
    message = f"there is no {inert(name)} in the image archives of {root}"
    return RegistryNotFound(message, "look into manifest.json or index.json of the archive")


def _absent(digest: str, files: Iterable[ArchiveFile], root: Path) -> RegistryNotFound:
    names = ", ".join(file.path.name for file in files) or str(root)
    message = f"{digest} is not in {names}"
    return RegistryNotFound(message, "the archive is incomplete: save the image anew")


def _open_archives(_kind: RegistryKind, opening: Opening) -> Registry:
    settings = opening.settings
    place = on_disk(settings.url)
    if place is None or ON_DISK[place[0]] != "archive" or not Path(place[1]).is_absolute():
        message = f"registry {settings.name}: {settings.url!r} names no absolute path of image archives"
        raise ConfigError(message, "expected archive:/path/to/image.tar, or archive:/path/to/a/directory of such files")
    host = f"{re.sub('[^a-z0-9.-]+', '-', settings.name).strip('.-')}.archive"
    return ArchiveRegistry(Path(place[1]), host=host, limits=opening.limits)


def _detect(url: str) -> Detection | None:
    place = on_disk(url)
    if place is None or ON_DISK[place[0]] != "archive":
        return None
    return Detection(reason=f"the URL begins with {place[0]}: (image archives on disk)")


ARCHIVE = RegistryKind(name="archive", title="Image archives", detect=_detect, open=_open_archives)
