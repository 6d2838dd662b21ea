"""What is being worked on, by key, so that somebody else's word can stop it. Leaves what is said about stopped work to the pipeline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Stopped(Exception):
    """The work was stopped by `Running.stop`."""


class Running:
    """The work of one process."""

    def __init__(self) -> None:
        self._scopes: dict[str, asyncio.Timeout] = {}
        self._early: set[str] = set()
        """Stopped between their leasing and their beginning."""

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Do a piece of work inside.

        Raises:
            Stopped: it was stopped.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes[key] = scope
                if key in self._early:
                    self._end(scope)
                yield
        except TimeoutError:
            if scope.expired():
                raise Stopped from None
            raise
        finally:
            self._scopes.pop(key, None)
            self._early.discard(key)

    def stop(self, key: str) -> None:
        """Stop a piece of work that was leased; at once, or as soon as it begins."""
        scope = self._scopes.get(key)
        if scope is None:
            self._early.add(key)
        else:
            self._end(scope)

    def _end(self, scope: asyncio.Timeout) -> None:
        if not scope.expired():
            scope.reschedule(asyncio.get_running_loop().time())
