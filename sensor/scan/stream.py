"""One pass over a layer: stored bytes in, its inventory out.

Drives `scan.inflate` and `scan.tar`, offers every regular file to the ecosystems through `scan.offers`, and notes what the layer does to
the layers below it (OCI image specification 1.1, layer.md, "Representing Changes"). Never fails: what cannot be read, or is too much,
becomes a gap beside what was read. Leaves the bytes' origin and digest to `scan.child`, and the joining of layers to `scan.squash`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.package import Gap, LayerInventory
from sensor.scan.content import Capture
from sensor.scan.inflate import Inflater, LimitError
from sensor.scan.offers import Offers
from sensor.scan.packages.ecosystem import Ecosystem
from sensor.scan.paths import PathList, listed_paths, path_text
from sensor.scan.tar import PEEK_BYTES, TarWalker

STREAM_VERSION = 1
"""Part of the cache key: raise it whenever the same layer and the same catalogers would give another inventory."""

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
"""Other names that begin so are left over from aufs; they delete nothing."""


def catalogers_key(ecosystems: Sequence[Ecosystem]) -> str:
    """Names and versions of everything that shapes a layer inventory: the second half of its cache key."""
    return " ".join([f"stream-{STREAM_VERSION}", *sorted(f"{each.name}-{each.version}" for each in ecosystems)])


class LayerStream:
    """Reads one layer. Feed it the stored bytes, then ask `finish` for the inventory."""

    def __init__(self, ecosystems: Sequence[Ecosystem], limits: Limits) -> None:
        self._limits = limits
        self._offers = Offers(ecosystems, limits)
        self._inflater = Inflater(limits)
        self._walker = TarWalker(self, limits)
        self._paths = PathList()
        self._symlinks: dict[bytes, bytes] = {}
        self._hard_links: dict[bytes, bytes] = {}
        self._whiteouts: dict[bytes, None] = {}
        self._opaque: dict[bytes, None] = {}
        self._links = 0
        self._gaps: list[Gap] = []
        self._unlisted_gaps = 0
        self._stop: tuple[str, str] | None = None
        self._compressed_bytes = 0

    # --- driving -----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take the next stored bytes. After damage or a bound the rest is only counted."""
        self._compressed_bytes += len(data)
        if self._stop is None:
            self._guarded(partial(self._walk, partial(self._inflater.feed, data)))

    def _walk(self, pieces: Callable[[], Iterable[bytes]]) -> None:
        walk = self._walker.feed
        for piece in pieces():
            walk(piece)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LimitError as error:
            self._stop = ("limit", error.message)
        except DataError as error:
            self._stop = ("unreadable", error.message)
        except MemoryError:
            self._stop = ("limit", "the layer needs more memory than the scanning process may have")

    def finish(self, subject: str) -> LayerInventory:
        """There are no more bytes. `subject` (the layer's digest) names the layer in gaps that concern all of it."""
        if self._stop is None:
            self._guarded(partial(self._walk, self._inflater.finish))
        if self._stop is None:
            self._guarded(self._walker.finish)
        files = self._paths.finish()
        self._settle_links(files)
        offers = self._offers
        offers.close()
        gaps = self._gaps
        if unlisted := self._unlisted_gaps + offers.unlisted_gaps:
            gaps.append(Gap(kind="limit", subject=subject, reason=f"{unlisted} further gaps are not listed"))
        if self._stop is not None:
            kind, reason = self._stop
            gaps.append(Gap(kind=kind, subject=subject, reason=f"{reason}; what came before it was read"))
        return LayerInventory(
            evidence=tuple(evidence for several in offers.evidence.values() for evidence in several),
            os_release={path_text(path): value for path, value in offers.os_release.items()},
            whiteouts=tuple(map(path_text, self._whiteouts)),
            opaque=tuple(map(path_text, self._opaque)),
            symlinks={path_text(path): path_text(target) for path, target in self._symlinks.items()},
            hard_links={path_text(path): path_text(target) for path, target in self._hard_links.items()},
            files=files,
            entries=self._walker.entries,
            compressed_bytes=self._compressed_bytes,
            inflated_bytes=self._inflater.inflated_bytes,
            gaps=tuple(gaps),
        )

    # --- what the tar holds (tar.Visitor) ------------------------------------------------------------------------------

    def file(self, path: bytes, size: int, data: bytes, offset: int) -> Capture | None:
        """A regular file: nearly always one that nobody wants."""
        slash = path.rfind(b"/")
        base = path[slash + 1 :]
        if base.startswith(_WHITEOUT) and self._is_marker(path, base):
            return None
        self._note(path)
        offers = self._offers
        if (
            base in offers.names
            or (path[:slash] if slash >= 0 else b"") in offers.directories
            or base.endswith(offers.suffixes)
            or data.startswith(offers.magics, offset)
            or path in offers.os_paths
        ):
            return offers.capture(path, size, data[offset : offset + min(size, PEEK_BYTES)])
        return None

    def directory(self, path: bytes) -> None:
        """A directory; noted because it replaces what is no directory below."""
        if path and not self._is_marker(path, path[path.rfind(b"/") + 1 :]):
            self._paths.add(path + b"/")
            if path in self._symlinks:
                del self._symlinks[path]

    def symlink(self, path: bytes, target: bytes) -> None:
        """A symbolic link; whether it stands in for a directory shows later."""
        if self._is_noted(path) and target and self._may_keep(path):
            if len(target) > self._limits.path_bytes or b"\0" in target:
                self.refused("limit", path, f"the target of the link is longer than {self._limits.path_bytes} bytes")
            else:
                self._symlinks[path] = target

    def hard_link(self, path: bytes, target: bytes) -> None:
        """A further name of a file: of this layer, as a rule, and then an earlier one."""
        if path != target and self._is_noted(path) and self._may_keep(path):
            self._hard_links[path] = target

    def special(self, path: bytes) -> None:
        """A device or a pipe: nothing to read, but it hides what was there."""
        self._is_noted(path)

    def sparse(self, path: bytes) -> None:
        """A sparse file: container tools write none, so its map is not followed; a gap if somebody wanted it."""
        if self._is_noted(path):
            self._offers.unread(path, self._offers.by_path(path), "unreadable", "is stored as a sparse file")

    def refused(self, kind: str, path: bytes, reason: str) -> None:
        """A member that was passed over."""
        if len(self._gaps) < self._limits.gaps_per_layer:
            self._gaps.append(Gap(kind=kind, subject=path_text(path[:200]), reason=reason))
        else:
            self._unlisted_gaps += 1

    def _note(self, path: bytes) -> None:
        """Remember the path; of several members with one name the last counts."""
        self._paths.add(path)
        offers = self._offers
        if path in offers.evidence or path in offers.os_release:
            offers.forget(path)
        if path in self._symlinks:
            del self._symlinks[path]
        if path in self._hard_links:
            del self._hard_links[path]

    def _is_noted(self, path: bytes) -> bool:
        """Note a path that is neither a regular file nor a directory; False for a whiteout, and for the root."""
        if not path or self._is_marker(path, path[path.rfind(b"/") + 1 :]):
            return False
        self._note(path)
        return True

    def _may_keep(self, path: bytes) -> bool:
        self._links += 1
        if self._links > self._limits.links_per_layer:
            self.refused("limit", path, f"the layer has more than {self._limits.links_per_layer} links and whiteouts")
            return False
        return True

    def _is_marker(self, path: bytes, base: bytes) -> bool:
        """Take a whiteout. `.wh.` alone is an ordinary name, and only the exact opaque name makes a directory opaque."""
        if not base.startswith(_WHITEOUT) or base == _WHITEOUT:
            return False
        directory = path[: -len(base)].rstrip(b"/")
        if base == _OPAQUE:
            if self._may_keep(path):
                self._opaque[directory] = None
        elif base.startswith(_AUFS):
            pass
        elif base in {b".wh..", b".wh..."}:
            self.refused("unreadable", path, "a whiteout of a directory's own or its parent's name")
        elif self._may_keep(path):
            self._whiteouts[(directory + b"/" if directory else b"") + base[len(_WHITEOUT) :]] = None
        return True

    # --- links -----------------------------------------------------------------------------------------------------------

    def _settle_links(self, files: bytes) -> None:
        """Now that the whole layer is known: share what was read among hard links, and drop symbolic links to mere files."""
        symlinks = self._symlinks
        ends = {path: _lexical_target(path, target) for path, target in symlinks.items()}
        asked = {*ends.values(), *self._hard_links.values()}
        here: set[bytes] = set()
        for paths in listed_paths(files):
            here |= asked.intersection(paths)
        for path, target in tuple(self._hard_links.items()):
            self._settle_hard_link(path, self._hard_links.get(target, target), here)
        offers = self._offers
        for path, end in ends.items():
            by_path = offers.by_path(path)
            at_end = offers.by_path(end) if by_path else []
            unread = [each for each in by_path if each not in at_end and end not in offers.evidence]
            if unread:
                offers.unread(
                    path,
                    unread,
                    "unreadable",
                    f"is a symbolic link to {path_text(end)}, which is not read under that name",
                )
            elif end in here and end not in symlinks and not by_path and path not in offers.os_paths:
                del symlinks[path]

    def _settle_hard_link(self, path: bytes, target: bytes, here: set[bytes]) -> None:
        offers = self._offers
        if target in self._symlinks:
            self._symlinks[path] = self._symlinks[target]
        elif target in offers.evidence or target in offers.os_release:
            offers.share(path, target)
        elif target in here and target not in self._hard_links:
            at_target = offers.by_path(target)
            unread = [each for each in offers.by_path(path) if each not in at_target]
            offers.unread(
                path, unread, "unreadable", f"is a hard link to {path_text(target)}, which is not read under that name"
            )
        elif offers.wants_link(path):
            # The file lies in a lower layer: only the squash can tell what it holds.
            self._hard_links[path] = target
            return
        del self._hard_links[path]


def _lexical_target(path: bytes, target: bytes) -> bytes:
    """Where a symbolic link points when no directory on the way is a link itself."""
    parts = [] if target.startswith(b"/") else path.split(b"/")[:-1]
    for part in target.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in {b"", b"."}:
            parts.append(part)
    return b"/".join(parts)
