"""What a feed is: a value that names the files it reads and a function that parses one record.

Copy `osv.py` and add one line to the tuple in `__init__` to support another format. A feed sees the bytes of one record and never a file, an archive
or a connection. Archives, duplicates and the closure over aliases are `advisories.build`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sensor.limits import Limits
from sensor.model.advisory import Advisory, Affected

DropReason: TypeAlias = Literal["withdrawn", "not-security", "nothing-usable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One advisory and its entries that the sensor can judge; names are normal, aliases and upstream as the record itself gives them."""

    advisory: Advisory
    affected: tuple[Affected, ...] = ()
    unsupported: tuple[str, ...] = ()
    """The base ecosystem of each entry that was left out because the sensor does not know its versions."""
    empty: int = 0
    """Entries that name neither versions nor a range outside source control: they match nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A readable record that holds nothing to match. It still takes the place of an older copy of the same id."""

    id: str
    modified: str
    reason: DropReason
    unsupported: tuple[str, ...] = ()
    empty: int = 0


Parsed: TypeAlias = Record | Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """One format. `version` is part of the database's revision: raise it whenever `parse` would give another result."""

    name: str
    version: int
    reads: Callable[[str], bool]
    """Whether a file of this name holds a record."""
    parse: Callable[[bytes, Limits], Parsed]
    """One record. Raises DataError when the bytes are none."""
