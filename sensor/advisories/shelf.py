"""Which advisory database is in force: opened when there is one, changed when the file was swapped, and nothing when there is none.

Matching blocks for a while, so it runs in a thread; one at a time, because one connection must not be closed under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from sensor.advisories.database import AdvisoryDatabase, Summary
from sensor.errors import AdvisoryError
from sensor.model.advisory import Advisory, AdvisoryLookup, Affected

_T = TypeVar("_T")


class NoAdvisories:
    """The answer when there is no database: nothing is known about any ecosystem, so every result says so."""

    revision = ""

    def affected(self, ecosystem: str, name: str) -> Sequence[Affected]:  # noqa: ARG002
        """Nothing."""
        return ()

    def advisory(self, advisory_id: str) -> Advisory | None:  # noqa: ARG002
        """Nothing."""
        return None

    def advisories_for(self, vulnerability: str) -> Sequence[Advisory]:  # noqa: ARG002
        """Nothing."""
        return ()

    def has_ecosystem(self, ecosystem: str) -> bool:  # noqa: ARG002
        """Never."""
        return False


class AdvisoryShelf:
    """Holds the database at a path. `problem` says why there is none, in words."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: AdvisoryDatabase | None = None
        self._identity: tuple[int, int, int] | None = None
        self._newest = ""
        self._lock = asyncio.Lock()
        self.problem: AdvisoryError | None = None

    @property
    def revision(self) -> str:
        """Identity of the data in force; empty when there is none."""
        return self._database.revision if self._database is not None else ""

    @property
    def label(self) -> str:
        """The data in force in a few words, for results: the day of its newest record, and its revision. Empty when there is none."""
        return f"{self._newest} {self.revision[:12]}" if self._database is not None else ""

    @property
    def summary(self) -> Summary | None:
        """What the database in force holds."""
        return self._database.summary() if self._database is not None else None

    async def refresh(self) -> bool:
        """Look whether the file was swapped; True when another revision is in force now. A file that cannot be used changes nothing."""
        identity = self._file_identity()
        if identity is not None and identity == self._identity:
            return False
        self._identity = identity
        try:
            database = await asyncio.to_thread(AdvisoryDatabase.open, self._path)
        except AdvisoryError as error:
            # keep what was open: the old file's pages stay readable after the new one took its name
            self.problem = error
            return False
        async with self._lock:
            before, self._database, self.problem = self._database, database, None
            self._newest = database.summary().newest[:10]
            if before is not None:
                before.close()
        return before is None or before.revision != database.revision

    async def use(self, work: Callable[[AdvisoryLookup], _T]) -> _T:
        """Run something that asks for advisories, in a thread."""
        async with self._lock:
            return await asyncio.to_thread(work, self._database if self._database is not None else NoAdvisories())

    async def close(self) -> None:
        """Close the database."""
        async with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _file_identity(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
