"""What a cataloger is: a value that names the files it wants and a function that reads one of them.

Copy a file of this folder and add one line to the tuple in `__init__` to support another ecosystem. The walk over a layer
(`scan.stream`) offers each regular file to the catalogers by base name, directory, suffix, or first bytes; only then is `wants` called.
A cataloger sees one file of one layer at a time and never a client, a path on this machine, or another layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from sensor.limits import Limits
from sensor.model.package import Evidence, Gap, Package, PackageType


class Content(Protocol):
    """The bytes of one file of a layer, held in memory or in an anonymous temporary file."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self) -> bytes:
        """Everything, in memory."""

    def view(self) -> memoryview:
        """Everything, for random access without a copy."""

    def path(self) -> str:
        """A path under /proc/self/fd for libraries that open files themselves.

        Not for SQLite: it follows the link to a name that no longer exists. `sqlite3.Connection.deserialize(view())` reads it
        without a file.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecosystem:
    """One cataloger.

    `version` is part of the cache key of layer inventories: raise it whenever `read` would give another result.
    A file is offered when its base name is in `names`, it stands directly in one of `directories` (no leading slash), its base name ends
    in one of `suffixes`, or its content starts with one of `magics`. `most_bytes` picks the bound of one file from the limits; a larger file becomes
    a gap. `spooled` files go to an anonymous temporary file instead of memory. With a `needle`, `read` is called only for files that
    contain these bytes (searched while streaming).
    """

    name: str
    version: int
    read: Callable[[str, Content, Limits], Evidence]
    """(path, content, limits) to evidence. Raises DataError when the file as a whole is unreadable; a bad record inside is a gap."""
    wants: Callable[[str], bool] = lambda _path: True
    names: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    magics: tuple[bytes, ...] = ()
    needle: bytes = b""
    spooled: bool = False
    most_bytes: Callable[[Limits], int] = lambda limits: limits.package_file_bytes


class HeldContent:
    """Content in memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    def read(self) -> bytes:
        """The bytes themselves."""
        return self._data

    def view(self) -> memoryview:
        """The bytes, without a copy."""
        return memoryview(self._data)

    def path(self) -> str:
        """Not offered: a cataloger that needs a path declares `spooled`."""
        message = "content in memory has no path"
        raise TypeError(message)


_PROGRAM_DIRECTORY = re.compile(r"(?:^|/)(?:bin|sbin|libexec|cli-plugins|pkg/tool)/")


def is_metadata_name(name: str) -> bool:
    """Whether a file of this base name could be evidence for a language cataloger."""
    return name in {"METADATA", "PKG-INFO", "package.json"} or name.endswith(".egg-info")


@lru_cache(maxsize=4096)
def is_program_directory(directory: str) -> bool:
    """Whether programs are looked for below this directory (`usr/lib/go-1.22/bin`)."""
    return _PROGRAM_DIRECTORY.search(f"{directory}/") is not None


def clean_text(text: str, most: int) -> str:
    """The text without what a terminal could take for a command, cut to `most` characters."""
    text = text[:most]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return text.strip()


class Findings:
    """What a cataloger has found in one file so far, kept within the limits.

    A record whose name or version is empty, too long or unprintable becomes a gap; every other text is cleaned. What goes beyond a limit
    is counted and told in one gap at the end.
    """

    __slots__ = (
        "_cataloger",
        "_gaps",
        "_limits",
        "_more_gaps",
        "_more_owned",
        "_more_packages",
        "_owns",
        "_packages",
        "_path",
        "_records",
    )

    def __init__(self, cataloger: str, path: str, limits: Limits) -> None:
        self._cataloger, self._path, self._limits = cataloger, path, limits
        self._packages: dict[Package, None] = {}
        self._owns: dict[tuple[str, str], None] = {}
        self._gaps: list[Gap] = []
        self._more_packages = self._more_owned = self._more_gaps = self._records = 0

    def package(self, kind: PackageType, name: str, version: str, **texts: str) -> bool:
        """Note a package; `texts` are further fields of `Package`. False when its identity was refused, which is then a gap."""
        most = self._limits.record_text_chars
        self._records += 1
        name, version = name.strip(), version.strip()
        for word, text in (("name", name), ("version", version)):
            if not text or len(text) > most or not text.isprintable():
                fault = "no" if not text else "an overlong" if len(text) > most else "an unprintable"
                self.gap("unreadable", f"the record of {clean_text(name, 80) or 'a package'} has {fault} {word}")
                return False
        if len(self._packages) >= self._limits.packages_per_layer:
            self._more_packages += 1
            return False
        cleaned = {field: clean_text(text, most) for field, text in texts.items() if text}
        self._packages[Package(type=kind, name=name, version=version, path=self._path, **cleaned)] = None
        return True

    def is_full(self) -> bool:
        """Whether so many records, good or bad, were noted that reading must stop; that it did is noted as a gap."""
        if self._records < self._limits.packages_per_layer:
            return False
        self._gaps.append(
            Gap(kind="limit", subject=self._path, reason=f"only the first {self._records} records are read")
        )
        return True

    def own(self, path: str, owner: str) -> None:
        """Note that the OS package `owner` claims `path`. The caller has chosen the paths that matter."""
        if len(self._owns) >= self._limits.owned_paths_per_file:
            self._more_owned += 1
        elif len(path) <= self._limits.path_bytes:
            self._owns[(path, owner)] = None

    def gap(self, kind: str, reason: str) -> None:
        """Note a record that could not be read."""
        if len(self._gaps) >= self._limits.gaps_per_file:
            self._more_gaps += 1
        else:
            self._gaps.append(Gap(kind=kind, subject=self._path, reason=reason))

    def evidence(self) -> Evidence:
        """Everything noted, as one value."""
        gaps = list(self._gaps)
        for count, what in (
            (self._more_packages, "more packages than the limit of one layer"),
            (self._more_owned, "more claimed files than the limit of one file"),
            (self._more_gaps, "more unreadable records"),
        ):
            if count:
                gaps.append(Gap(kind="limit", subject=self._path, reason=f"{count} {what}"))
        return Evidence(
            cataloger=self._cataloger,
            path=self._path,
            packages=tuple(self._packages),
            owns=tuple(self._owns),
            gaps=tuple(gaps),
        )
