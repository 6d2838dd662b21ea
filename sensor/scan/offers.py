"""Offers the files of one layer to the ecosystems, and keeps what they say.

A file is offered by base name, directory, suffix or first bytes; its content is held by `scan.content` only for as long as it is read. A
cataloger that stumbles costs its file and leaves a gap. Leaves the walk, links and whiteouts to `scan.stream`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.package import Evidence, Gap, OsRelease
from sensor.scan.content import Capture, Spool, SpooledContent
from sensor.scan.distro import OS_RELEASE_PATHS, parse_os_release
from sensor.scan.packages.ecosystem import Content, Ecosystem, HeldContent
from sensor.scan.paths import path_text
from sensor.scan.tar import PEEK_BYTES

_TOO_LARGE = "is larger than what is read of such a file"


class Offers:
    """The ecosystems, what they want of this layer, and what they found in it so far (by the path's bytes)."""

    def __init__(self, ecosystems: Sequence[Ecosystem], limits: Limits) -> None:
        self._ecosystems = ecosystems
        self._limits = limits
        self._spool = Spool()
        self._packages = 0
        self._unread = 0
        # Look-ups by bytes, so that the many files nobody wants are never decoded.
        self.names = frozenset(name.encode() for each in ecosystems for name in each.names)
        self.directories = frozenset(name.encode() for each in ecosystems for name in each.directories)
        self.suffixes = tuple({suffix.encode() for each in ecosystems for suffix in each.suffixes})
        self.magics = tuple({magic for each in ecosystems for magic in each.magics})
        self.os_paths = frozenset(path.encode() for path in OS_RELEASE_PATHS)
        self.evidence: dict[bytes, list[Evidence]] = {}
        self.os_release: dict[bytes, OsRelease] = {}
        self.unlisted_gaps = 0
        if any(len(magic) > PEEK_BYTES for magic in self.magics):
            message = f"a magic is longer than {PEEK_BYTES} bytes"
            raise ValueError(message)

    def by_path(self, path: bytes) -> list[Ecosystem]:
        """The ecosystems that want a file of this path, whatever it holds."""
        directory, _, base = path.rpartition(b"/")
        if not (base in self.names or directory in self.directories or base.endswith(self.suffixes)):
            return []
        text = path_text(path)
        place, _, name = text.rpartition("/")
        return [
            each
            for each in self._ecosystems
            if (name in each.names or place in each.directories or name.endswith(each.suffixes)) and each.wants(text)
        ]

    def capture(self, path: bytes, size: int, head: bytes) -> Capture | None:
        """Decide who gets the file, and hold no more of it than they may have."""
        limits = self._limits
        takers = self.by_path(path)
        if head.startswith(self.magics):
            text = path_text(path)
            takers += [
                each
                for each in self._ecosystems
                if head.startswith(each.magics) and each not in takers and each.wants(text)
            ]
        is_os_release = path in self.os_paths and size <= limits.metadata_file_bytes
        fitting = [each for each in takers if size <= _bound(each, limits)]
        oversize = [each for each in takers if size > _bound(each, limits)]
        self.unread(path, [each for each in oversize if not each.needle], "limit", _TOO_LARGE)
        oversize = [each for each in oversize if each.needle]
        if not (fitting or oversize or is_os_release):
            return None
        return Capture(
            needles=frozenset(each.needle for each in takers if each.needle),
            hold=bool(fitting) or is_os_release,
            spool=self._spool if any(each.spooled for each in fitting) else None,
            spool_from=limits.held_bytes,
            in_memory=size <= limits.package_file_bytes,
            finished=partial(self._captured, path, fitting, oversize),
        )

    def _captured(self, path: bytes, fitting: list[Ecosystem], oversize: list[Ecosystem], capture: Capture) -> None:
        """The whole file is there: let the catalogers read it."""
        if path in self.os_paths and capture.size <= self._limits.metadata_file_bytes:
            release = parse_os_release(capture.data())
            if release is not None:
                self.os_release[path] = release
        found = capture.found
        self.unread(path, [each for each in oversize if each.needle in found], "limit", _TOO_LARGE)
        readers = [each for each in fitting if not each.needle or each.needle in found]
        if capture.failure:
            self.unread(path, readers, "unreadable", f"could not be held: {capture.failure}")
        elif readers and (capture.spilled or any(each.spooled for each in readers)):
            spooled = SpooledContent(capture.size, capture.pieces, self._spool, spilled=capture.spilled)
            self._read(readers, path, spooled)
            spooled.release()
        elif readers:
            self._read(readers, path, HeldContent(capture.data()))

    def _read(self, readers: Iterable[Ecosystem], path: bytes, content: Content) -> None:
        text = path_text(path)
        for each in readers:
            try:
                evidence = each.read(text, content, self._limits)
                # Once through the wire format: what could not be sent or understood must fail here, with its file's name.
                evidence = msgspec.msgpack.decode(msgspec.msgpack.encode(evidence), type=Evidence)
            except Exception as error:  # noqa: BLE001
                # The only broad catch of the package: catalogers are code that meets hostile bytes, and whatever they stumble over
                # (IndexError, RecursionError, MemoryError, sqlite3.Error, ...) must cost one file, not the layer.
                reason = error.message if isinstance(error, DataError) else type(error).__name__
                self.unread(path, [each], "unreadable", f"could not be read: {_sendable(reason)}")
                continue
            if self._packages + len(evidence.packages) > self._limits.packages_per_layer:
                reason = f"the layer has more than {self._limits.packages_per_layer} packages"
                self.unread(path, [each], "limit", reason)
                continue
            self._packages += len(evidence.packages)
            self.keep(path, evidence)

    def keep(self, path: bytes, evidence: Evidence) -> None:
        """Remember what a file says, if it says anything."""
        if evidence.packages or evidence.owns or evidence.gaps:
            self.evidence.setdefault(path, []).append(evidence)

    def unread(self, path: bytes, ecosystems: Iterable[Ecosystem], kind: str, reason: str) -> None:
        """A wanted file that is not read: a gap that counts only as long as the file is visible in the image."""
        text = path_text(path)
        for each in ecosystems:
            self._unread += 1
            if self._unread > self._limits.gaps_per_layer:
                self.unlisted_gaps += 1
                continue
            self.keep(
                path, Evidence(cataloger=each.name, path=text, gaps=(Gap(kind=kind, subject=text, reason=reason),))
            )

    def share(self, link: bytes, target: bytes) -> None:
        """A hard link to a file that was read: whoever wants it under this name, too, has read it already."""
        text = path_text(link)
        named = {each.name for each in self.by_path(link)}
        named |= {each.name for each in self._ecosystems if each.magics and each.wants(text)}
        for evidence in self.evidence.get(target, ()):
            if evidence.cataloger in named:
                self.keep(link, moved(evidence, text))
        if link in self.os_paths and target in self.os_release:
            self.os_release[link] = self.os_release[target]

    def forget(self, path: bytes) -> None:
        """The tar holds this name again: the later member counts."""
        self.evidence.pop(path, None)
        self.os_release.pop(path, None)

    def wants_link(self, path: bytes) -> bool:
        """Whether a file under this name might say something, as far as a name can tell."""
        return (
            path in self.os_paths
            or bool(self.by_path(path))
            or any(each.magics and each.wants(path_text(path)) for each in self._ecosystems)
        )

    def close(self) -> None:
        """Give the temporary file up."""
        self._spool.close()


def moved(evidence: Evidence, path: str) -> Evidence:
    """The same evidence, found under another path."""
    packages = tuple(
        msgspec.structs.replace(package, path=path) if package.path == evidence.path else package
        for package in evidence.packages
    )
    gaps = tuple(
        msgspec.structs.replace(gap, subject=path) if gap.subject == evidence.path else gap for gap in evidence.gaps
    )
    return msgspec.structs.replace(evidence, path=path, packages=packages, gaps=gaps)


def _bound(ecosystem: Ecosystem, limits: Limits) -> int:
    most = ecosystem.most_bytes(limits)
    return min(most, limits.spool_bytes) if ecosystem.spooled else most


def _sendable(text: str) -> str:
    return text[:200].encode("utf-8", "backslashreplace").decode()
