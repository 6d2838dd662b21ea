"""How delivery stands, as values that the database, events and the status share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxPart:
    """One link's part of the outbox; a link that left the configuration may still have one.

    `counts` are entries by state: waiting, sending, unknown, reporting are still to be delivered, dead, exported and delivered are not.
    `oldest` is when the oldest was made that is still to be delivered.
    """

    link: str
    counts: dict[str, int]
    bytes: int
    oldest: datetime | None = None
