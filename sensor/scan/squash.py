"""Joins the inventories of an image's layers to the inventory of what a container would see. Pure: no bytes are read again.

Applies each layer to the state of those below as the OCI image specification 1.1 says (layer.md, "Applying Changesets"), but only to the
paths that matter: those of evidence, of os-release, and of symbolic links. Paths of the state are real ones, with every directory on the way
resolved, so that a database reached by two names is one database. An entry below a lower symbolic link goes where the link leads; a
directory entry in the link's own place replaces it; deletions act on the name as it is written. Leaves matching to `scan.match`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor, ImageConfig
from sensor.model.package import (
    Evidence,
    Gap,
    ImageInventory,
    InstalledPackage,
    LayerInventory,
    LayerSummary,
    OsRelease,
    Package,
)
from sensor.scan.offers import moved
from sensor.scan.paths import listed_paths, path_text, resolved, resolved_parent
from sensor.scan.purl import package_url

_Value = TypeVar("_Value")

_DISTRIBUTION_TYPES = frozenset({"deb", "apk", "rpm"})
_OS_RELEASE_ORDER = ("etc/os-release", "usr/lib/os-release")


def squash(
    manifest: Digest, platform: str, layers: Sequence[tuple[Descriptor, LayerInventory]], config: ImageConfig
) -> ImageInventory:
    """The inventory of an image from those of its layers, lowest first."""
    state = _State()
    for index, (_descriptor, layer) in enumerate(layers):
        state.apply(index, layer)
    digests = [descriptor.digest for descriptor, _layer in layers]
    os_release = state.effective_os_release()
    owners = _owners(state)
    packages: dict[tuple[str, ...], InstalledPackage] = {}
    for live in state.evidence():
        for package in live.evidence.packages:
            origin = live.origins[_identity(package)]
            packages.setdefault(
                (*_identity(package), package.path),
                InstalledPackage(
                    package=package,
                    layer=digests[origin],
                    purl=package_url(package, os_release),
                    owner=_owner(package, origin, owners),
                ),
            )
    return ImageInventory(
        manifest=manifest,
        platform=platform,
        os_release=os_release,
        packages=tuple(packages[key] for key in sorted(packages)),
        layers=_summaries(layers, config),
        gaps=_gaps(state, [layer for _descriptor, layer in layers]),
    )


@dataclass(slots=True)
class _Live:
    """Evidence that is visible so far. `origins` tells for each package in which layer this very version appeared at this path."""

    evidence: Evidence
    layer: int
    origins: dict[tuple[str, ...], int]


class _State:
    """What the layers applied so far show, as far as it matters. All paths are real."""

    def __init__(self) -> None:
        self.symlinks: dict[str, str] = {}
        self._live: dict[str, dict[str, _Live]] = {}
        self._os_release: dict[str, OsRelease] = {}
        self._newest_os_release: OsRelease | None = None
        self._directories: set[str] = set()
        """All directories above anything that was ever noted here; only these can hide something when they go."""

    def evidence(self) -> Iterator[_Live]:
        """All that is visible."""
        for catalogers in self._live.values():
            yield from catalogers.values()

    def at(self, path: str, cataloger: str) -> bool:
        """Whether this cataloger has evidence at this real path."""
        return cataloger in self._live.get(path, {})

    def apply(self, index: int, layer: LayerInventory) -> None:
        """Lay one layer over the state. First it deletes, then it replaces, then it adds: whatever the order in its tar."""
        self._remove(set(layer.whiteouts), {*layer.whiteouts, *layer.opaque})
        before = self._replace(layer)
        for evidence in layer.evidence:
            path = resolved_parent(evidence.path, self.symlinks)
            self._add(index, evidence if path == evidence.path else moved(evidence, path), before)
        for link, target in layer.hard_links.items():
            path = resolved_parent(link, self.symlinks)
            for live in tuple(self._live.get(resolved_parent(target, self.symlinks), {}).values()):
                self._add(index, moved(live.evidence, path), before)
        for path in sorted(layer.os_release, key=_os_rank, reverse=True):
            place = resolved_parent(path, self.symlinks)
            self._os_release[place] = self._newest_os_release = layer.os_release[path]
            self._notice(place)

    def _add(self, index: int, evidence: Evidence, before: dict[tuple[str, str], _Live]) -> None:
        lower = before.get((evidence.path, evidence.cataloger))
        known = lower.origins if lower is not None else {}
        origins = {_identity(package): known.get(_identity(package), index) for package in evidence.packages}
        self._live.setdefault(evidence.path, {})[evidence.cataloger] = _Live(evidence, index, origins)
        self._notice(evidence.path)

    def _notice(self, path: str) -> None:
        for directory in _above(path):
            if directory in self._directories:
                return
            self._directories.add(directory)

    def _remove(self, exactly: set[str], below: set[str]) -> None:
        """Forget paths, and everything under directories."""
        below &= self._directories
        _forget(self._live, exactly, below)
        _forget(self._os_release, exactly, below)
        _forget(self.symlinks, exactly, below)

    def _replace(self, layer: LayerInventory) -> dict[tuple[str, str], _Live]:
        """Take away what entries of this layer stand in for, and take up its symbolic links.

        Returns the evidence that was replaced by a file of the same path: a newer copy of the same database, as a rule.
        """
        if not (self._live or self.symlinks or self._os_release):
            self._take_links(layer.symlinks, ())
            return {}
        files, directories = _entries(layer)
        links = self._take_links(layer.symlinks, directories)
        files, directories = self._places(files), self._places(directories)
        self._remove_links(files - links)
        before = {
            (path, cataloger): live
            for path in files & self._live.keys()
            for cataloger, live in self._live[path].items()
        }
        below = files & self._directories
        implied = _holders(files | directories)
        gone = files | directories | implied
        _forget(self._live, gone, below)
        _forget(self._os_release, gone, below)
        return before

    def _take_links(self, links: Mapping[str, str], directories: Iterable[str]) -> set[str]:
        """Take up symbolic links, and let directories replace lower ones; outer paths first, because inner ones may lead through them.

        Returns where the links really lie.
        """
        through = self.symlinks.keys() | links.keys()
        entries = {
            path for path in directories if path in self.symlinks or not through.isdisjoint(_above(path))
        } | links.keys()
        taken = set()
        for path in sorted(entries, key=lambda entry: (entry.count("/"), entry)):
            place = resolved_parent(path, self.symlinks)
            if path in links:
                self._remove_links({place})
                self.symlinks[place] = links[path]
                self._notice(place)
                taken.add(place)
            else:
                self.symlinks.pop(place, None)
        return taken

    def _remove_links(self, paths: set[str]) -> None:
        _forget(self.symlinks, paths, paths & self._directories)

    def _places(self, paths: set[str]) -> set[str]:
        """Where these paths really lie. Nearly always just there: only directories that are, or lie below, a symbolic link need a look."""
        if not self.symlinks:
            return paths
        moved_directories = {
            directory
            for directory in {path.rpartition("/")[0] for path in paths}
            if directory in self.symlinks or not self.symlinks.keys().isdisjoint(_above(directory))
        }
        if not moved_directories:
            return paths
        return {
            resolved_parent(path, self.symlinks) if path.rpartition("/")[0] in moved_directories else path
            for path in paths
        }

    def effective_os_release(self) -> OsRelease | None:
        """What a program that opens the file would read. Without any such file: the newest that a later layer removed."""
        for path in sorted({*_OS_RELEASE_ORDER, *self._os_release}, key=_os_rank):
            place = resolved(path, self.symlinks)
            if place is not None and place in self._os_release:
                return self._os_release[place]
        return self._newest_os_release


def _entries(layer: LayerInventory) -> tuple[set[str], set[str]]:
    """The paths of a layer: those that are no directories, and the directories."""
    files: set[str] = set()
    directories: set[str] = set()
    for paths in listed_paths(layer.files):
        texts = {path_text(path) for path in paths}
        inner = {text for text in texts if text.endswith("/")}
        files |= texts - inner
        directories.update(text[:-1] for text in inner)
    return files, directories


def _above(path: str) -> Iterator[str]:
    """The directories that hold a path, innermost first, the root (empty) last."""
    end = path.rfind("/")
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)
    yield ""


def _holders(paths: set[str]) -> set[str]:
    """All directories that hold any of these paths."""
    holders: set[str] = set()
    for path in {path.rpartition("/")[0] for path in paths}:
        directory = path
        while directory not in holders:
            holders.add(directory)
            directory = directory.rpartition("/")[0]
    return holders


def _forget(known: MutableMapping[str, _Value], exactly: set[str], below: set[str]) -> None:
    """Take these paths out, and everything under these directories."""
    for path in exactly & known.keys():
        del known[path]
    if below:
        for path in [path for path in known if not below.isdisjoint(_above(path))]:
            del known[path]


def _identity(package: Package) -> tuple[str, ...]:
    """What makes two records the same version of the same package."""
    return (package.type, package.name, package.version, package.arch, package.modularity)


def _os_rank(path: str) -> tuple[int, str]:
    return (_OS_RELEASE_ORDER.index(path) if path in _OS_RELEASE_ORDER else len(_OS_RELEASE_ORDER), path)


def _owners(state: _State) -> dict[str, tuple[str, int]]:
    """Owned path to the owning package's name and the layer that brought that package in its present version."""
    origins: dict[str, int] = {}
    for live in state.evidence():
        for package in live.evidence.packages:
            if package.type in _DISTRIBUTION_TYPES:
                origin = live.origins[_identity(package)]
                origins[package.name] = max(origins.get(package.name, 0), origin)
    owners: dict[str, tuple[str, int]] = {}
    places: dict[str, str] = {}
    for live in state.evidence():
        for path, name in live.evidence.owns:
            directory, _, base = path.rpartition("/")
            if directory not in places:
                places[directory] = resolved(directory, state.symlinks) or directory
            place = places[directory]
            owners[f"{place}/{base}" if place else base] = (name, origins.get(name, live.layer))
    return owners


def _owner(package: Package, origin: int, owners: Mapping[str, tuple[str, int]]) -> str:
    """The distribution package that installed this one, if one did and nobody has replaced its file since."""
    if package.type in _DISTRIBUTION_TYPES:
        return ""
    name, layer = owners.get(package.path, ("", 0))
    return name if origin <= layer else ""


def _gaps(state: _State, layers: Sequence[LayerInventory]) -> tuple[Gap, ...]:
    """Those of whole layers, and those of evidence that is visible."""
    gaps = [gap for layer in layers for gap in layer.gaps]
    dangling = _dangling(state, layers)
    for live in state.evidence():
        if live.evidence.path not in dangling:
            gaps += live.evidence.gaps
    return tuple(dict.fromkeys(gaps))


def _dangling(state: _State, layers: Sequence[LayerInventory]) -> set[str]:
    """Symbolic links with a gap for not being read, although there is nothing to read, or it was read where it lies."""
    targets: dict[str, set[str]] = {}
    done: set[str] = set()
    for live in state.evidence():
        path = live.evidence.path
        if path in state.symlinks:
            target = resolved(path, state.symlinks)
            if target is None or state.at(target, live.evidence.cataloger):
                done.add(path)
            else:
                targets.setdefault(target, set()).add(path)
    if targets:
        there: set[str] = set()
        for layer in layers:
            for paths in listed_paths(layer.files):
                there |= targets.keys() & {path_text(path) for path in paths}
        for target in targets.keys() - there:
            done |= targets[target]
    return done


def _summaries(layers: Sequence[tuple[Descriptor, LayerInventory]], config: ImageConfig) -> tuple[LayerSummary, ...]:
    """Layers with the build step that made each, if the history has exactly one step for every layer."""
    steps = [entry.created_by for entry in config.history or () if not entry.empty_layer]
    commands = steps if len(steps) == len(layers) else [""] * len(layers)
    return tuple(
        LayerSummary(
            digest=descriptor.digest,
            compressed_bytes=descriptor.size,
            inflated_bytes=layer.inflated_bytes,
            entries=layer.entries,
            command=command,
        )
        for (descriptor, layer), command in zip(layers, commands, strict=True)
    )
