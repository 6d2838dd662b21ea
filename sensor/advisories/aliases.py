"""The closure over the names of a vulnerability, over all records of a build."""

from __future__ import annotations

import re
import sqlite3

from sensor.advisories import database
from sensor.limits import Limits

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,}")


class VulnerabilityNames:
    """All names of each vulnerability: aliases are symmetric and transitive (union-find), upstream is transitive only (OSV schema)."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits) -> None:
        self._connection = connection
        self._most = limits.advisory_aliases
        self._numbers: dict[str, int] = {}
        self._parents: list[int] = []
        self._members: dict[int, list[str]] = {}
        for name, packed in connection.execute("SELECT name, facts FROM advisory"):
            for alias in database.unpack_facts(packed).aliases:
                self._join(name, alias)
        for name, number in self._numbers.items():
            self._members.setdefault(self._root(number), []).append(name)

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self._parents))
        if number == len(self._parents):
            self._parents.append(number)
        return number

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def _join(self, first: str, second: str) -> None:
        self._parents[self._root(self._number(second))] = self._root(self._number(first))

    def aliases(self, name: str, own: tuple[str, ...]) -> tuple[str, ...]:
        """The closed set of aliases of a record, without its own name."""
        if name not in self._numbers:
            return own
        members = self._members[self._root(self._numbers[name])]
        if len(members) > self._most:
            return own
        return tuple(sorted(member for member in members if member != name))

    def upstream(self, name: str, own: tuple[str, ...]) -> tuple[str, ...]:
        """A record's upstream with what these records are themselves based on (USN, UBUNTU-CVE, CVE)."""
        found = dict.fromkeys(own)
        waiting = [other for other in own if not _CVE.fullmatch(other)]
        while waiting:
            other = waiting.pop()
            row = self._connection.execute("SELECT facts FROM advisory WHERE name = ?", (other,)).fetchone()
            if row is None:
                continue
            facts = database.unpack_facts(row[0])
            for further in (*facts.upstream, *(alias for alias in facts.aliases if _CVE.fullmatch(alias))):
                if further not in found and further != name:
                    found[further] = None
                    waiting.append(further)
        return tuple(found)
