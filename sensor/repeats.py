"""What need not be said again: a line that repeats within a minute, and a state that is as it was.

Pure but for the clock that is passed in. Leaves the saying to the log and the journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_A_MINUTE = 5
"""Times that a line is shown; further ones are counted, and the count is shown when the minute is over."""
_WINDOW = 60.0
_MOST_LINES = 1000
_MOST_STATES = 10_000


@dataclass(slots=True)
class _Line:
    began: float
    count: int = 0
    last: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Repeats:
    """Counts lines by a key that says what makes two of them the same."""

    clock: Callable[[], float] = time.monotonic
    _lines: dict[Hashable, _Line] = field(default_factory=dict)
    """In the order in which their minutes began."""

    def admit(self, key: Hashable, fields: Mapping[str, Any]) -> bool:
        """Whether a line is to be shown. To be asked after `ended`, which ends minutes."""
        line = self._lines.setdefault(key, _Line(began=self.clock()))
        line.count += 1
        if line.count <= MOST_A_MINUTE:
            return True
        line.last = fields
        return False

    def ended(self, *, everything: bool = False) -> list[tuple[int, Mapping[str, Any]]]:
        """The lines whose minute is over and that were not shown each time: how often they were not, and the last of them.

        `everything` ends all minutes now. So does, for the oldest, a great number of different lines.
        """
        before = self.clock() - _WINDOW
        found = []
        for key, line in list(self._lines.items()):
            if not everything and line.began > before and len(self._lines) <= _MOST_LINES:
                break
            del self._lines[key]
            if line.count > MOST_A_MINUTE:
                found.append((line.count - MOST_A_MINUTE, line.last))
        return found


@dataclass(slots=True)
class States:
    """Remembers how things stood, so that a change is told once. Of very many the oldest are forgotten, and told again."""

    _known: dict[Hashable, str] = field(default_factory=dict)

    def change(self, thing: Hashable, state: str) -> bool:
        """Note a state; whether it is another than before. The empty state is how everything is at first."""
        before = self._known.pop(thing, "")
        if state:
            self._known[thing] = state
            if len(self._known) > _MOST_STATES:
                del self._known[next(iter(self._known))]
        return state != before
