"""What a cataloger is: a value that names the files it wants and a function that reads one of them.

Copy a file of this folder and add one line to the tuple in `__init__` to support another ecosystem. The walk over a layer
(`scan.stream`) offers each regular file to the catalogers by base name, directory, suffix, or first bytes; only then is `wants` called.
A cataloger sees one file of one layer at a time and never a client, a path on this machine, or another layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sensor.limits import Limits
from sensor.model.package import Evidence


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
        """A path under /proc/self/fd for libraries that open files themselves (SQLite)."""


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
