"""The formats that advisories come in. To support another, write a file beside `osv` and add one line here."""

from __future__ import annotations

from sensor.advisories.feeds.feed import Feed
from sensor.advisories.feeds.osv import OSV

FEEDS: tuple[Feed, ...] = (OSV,)
"""The first that reads a file's name gets the file."""
