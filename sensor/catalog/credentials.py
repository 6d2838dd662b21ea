"""Looks at the credential of a registry now and then: who it is, when it ends, whether it could do more than it should.

A credential that ends is noticed two weeks before images are missed. Leaves the judgement of what it says to `status`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sensor.errors import SensorError
from sensor.events import CredentialChecked
from sensor.registry.port import Registry

_AGAIN_AFTER = timedelta(hours=12)
"""A look costs a request or two, and tokens are made to last weeks."""
_LAST_MOMENT = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class CredentialWatch:
    """Remembers when each registry's credential was looked at last."""

    clock: Callable[[], datetime]
    _looked: dict[str, datetime] = field(default_factory=dict)

    async def look(self, name: str, client: Registry) -> CredentialChecked | None:
        """What is known of a registry's credential; None when it was looked at lately, or nothing can be found out."""
        now = self.clock()
        looked = self._looked.get(name)
        if looked is not None and now < looked + _AGAIN_AFTER:
            return None
        self._looked[name] = now
        try:
            method, standing = await client.method(), await client.standing()
        except SensorError:
            # a login that fails is told by the crawl; what cannot be read is no news
            return None
        return CredentialChecked(
            at=now,
            registry=name,
            method=method.name,
            identity=standing.identity,
            expires=_moment(standing.expires),
            may_write=standing.may_write,
        )


def _moment(seconds: float | None) -> datetime | None:
    """A Unix time, which comes from outside, as a moment."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return _LAST_MOMENT
