"""Tells how the ledger of a registry stands, as often as that is cheap.

Counting a ledger takes time in proportion to the tags listed: a millisecond for a small registry, more than a second for one with two
hundred thousand, and that after every image would cost more than the scan. So a count is put off until twenty times what the last one took
has gone by; `catch_up` tells what was put off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sensor.catalog.snapshots import Snapshots
from sensor.events import LedgerChanged, Publish

_SHARE = 20
"""Counting may take a twentieth of the time."""


@dataclass(slots=True, kw_only=True)
class Ledgers:
    """Publishes `LedgerChanged`."""

    snapshots: Snapshots
    publish: Publish
    clock: Callable[[], float] = time.monotonic
    _not_before: dict[str, float] = field(default_factory=dict)
    _behind: set[str] = field(default_factory=set)

    async def changed(self, registry: str) -> None:
        """A digest of a registry changed its column.

        Raises:
            StateError: the state database cannot be used.
        """
        if self.clock() < self._not_before.get(registry, 0.0):
            self._behind.add(registry)
        else:
            await self._tell(registry)

    async def catch_up(self) -> None:
        """Tell what was put off and may be counted by now.

        Raises:
            StateError: the state database cannot be used.
        """
        for registry in tuple(self._behind):
            await self.changed(registry)

    async def _tell(self, registry: str) -> None:
        self._behind.discard(registry)
        began = self.clock()
        ledger = await self.snapshots.ledger(registry)
        ended = self.clock()
        # what costs next to nothing is never put off
        taken = ended - began
        self._not_before[registry] = ended + _SHARE * taken if taken > 0.02 else 0.0
        self.publish(LedgerChanged(registry=registry, ledger=ledger))
