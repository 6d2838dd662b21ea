"""Under which of its URLs a control plane is spoken to now. Shared by all clients of one link, so that they move together."""

from __future__ import annotations


class Addresses:
    """The base URLs of one control plane, the preferred one first; there is at least one."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self._at = 0

    @property
    def current(self) -> str:
        """Where requests go."""
        return self._urls[self._at]

    @property
    def preferred(self) -> str:
        """Where they should go."""
        return self._urls[0]

    @property
    def is_preferred(self) -> bool:
        """Whether they do."""
        return self._at == 0

    def advance(self) -> bool:
        """Take the next one, behind the last one the first again; whether there is another one at all."""
        self._at = (self._at + 1) % len(self._urls)
        return len(self._urls) > 1

    def reset(self) -> None:
        """Back to the preferred one."""
        self._at = 0
