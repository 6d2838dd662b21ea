"""An advisory database in memory: a complete `AdvisoryLookup` made of values.

advisories = FakeAdvisories(
    affected=[below("DSA-1-1", "Debian:12", "openssl", "3.0.11-1~deb12u2")],
    advisories=[Advisory(id="DSA-1-1", upstream=("CVE-2023-5363",))],
)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sensor.model.advisory import Advisory, Affected, Range
from sensor.versions.names import normal_name


class FakeAdvisories:
    """Holds what it is given. `ecosystems` are those it has data for beyond the ones of its entries. `asked` records every name looked up."""

    def __init__(
        self,
        *,
        affected: Iterable[Affected] = (),
        advisories: Iterable[Advisory] = (),
        ecosystems: Iterable[str] = (),
        revision: str = "fake-1",
    ) -> None:
        self._revision = revision
        self._affected: dict[tuple[str, str], list[Affected]] = {}
        for entry in affected:
            key = (entry.ecosystem, normal_name(entry.ecosystem, entry.name))
            self._affected.setdefault(key, []).append(entry)
        self._advisories = {advisory.id: advisory for advisory in advisories}
        self._by_name: dict[str, list[Advisory]] = {}
        for advisory in self._advisories.values():
            for name in {advisory.id, *advisory.aliases, *advisory.upstream}:
                self._by_name.setdefault(name, []).append(advisory)
        self._ecosystems = {ecosystem for ecosystem, _ in self._affected} | set(ecosystems)
        self.asked: list[tuple[str, str]] = []

    @property
    def revision(self) -> str:
        """Identity of the data."""
        return self._revision

    def affected(self, ecosystem: str, name: str) -> Sequence[Affected]:
        """All entries under exactly this ecosystem and (normal) name."""
        self.asked.append((ecosystem, name))
        return self._affected.get((ecosystem, name), [])

    def advisory(self, advisory_id: str) -> Advisory | None:
        """The record of an id."""
        return self._advisories.get(advisory_id)

    def advisories_for(self, vulnerability: str) -> Sequence[Advisory]:
        """Records that are, alias or cover the vulnerability."""
        return self._by_name.get(vulnerability, [])

    def has_ecosystem(self, ecosystem: str) -> bool:
        """Whether there is any data for this ecosystem with suffix."""
        return ecosystem in self._ecosystems


def below(advisory: str, ecosystem: str, name: str, fixed: str = "", *, introduced: str = "0") -> Affected:
    """An entry with one range from `introduced` to before `fixed` (without end when empty)."""
    events = [("introduced", introduced), *([("fixed", fixed)] if fixed else [])]
    kind = "SEMVER" if ecosystem in {"npm", "Go"} else "ECOSYSTEM"
    return Affected(
        advisory=advisory,
        ecosystem=ecosystem,
        name=name,
        ranges=(Range(type=kind, events=tuple(events)),),  # type: ignore[arg-type]
    )
