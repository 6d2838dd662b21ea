"""What the self-hosted providers' own APIs share, above all the listings of those with several repositories behind one host.

Artifactory and Nexus are such: one listing of a repository of theirs names every image with every tag, digest and date; `repositories` and
`tags` are both answered from it. Fetching the pages, and knowing what a complete listing is, is the provider's kind's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit

from sensor.errors import NetworkError
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.reference import is_repository
from sensor.registry.credentials import ConfiguredCredential
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
)
from sensor.registry.kinds.kind import Connection
from sensor.registry.native import Authorise
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing
from sensor.registry.terms import CredentialSource
from sensor.route import shown_host
from sensor.transport import Retry, Transport

_T = TypeVar("_T")
_FRESH_SECONDS = 900.0
"""A crawl asks for the tags right after the repositories; whoever asks later wants to know anew."""


class Gathered:
    """Images and their tags, as they come in. What is added first wins, so that a group shows what its first member has."""

    def __init__(self, limits: Limits, *, source: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`source` is what the listings say they come from."""
        self.reason = ""
        """Why it is not all there is; empty: it is."""
        self._images: dict[str, dict[str, tuple[Digest | None, float | None, str]]] = {}
        self.entries = 0
        """Tags taken in so far."""
        self._dropped = 0
        self._limits = limits
        self._source = source
        self._clock = clock
        self._begun = clock()

    def add(
        self,
        repository: str,
        tag: str,
        digest: Digest | None = None,
        pushed: float | None = None,
        *,
        withheld: str = "",
        replace: bool = False,
    ) -> None:
        """Take in one tag. `withheld` says why it cannot be had, `replace` that it is better than what was added before.

        Beyond the limit of entries nothing is taken in any more, and `reason` says so.
        """
        if not is_repository(repository) or not is_listed_tag(tag):
            self._dropped += 1
            return
        tags = self._images.get(repository, {})
        if tag in tags and not replace:
            return
        if tag not in tags:
            if self.entries >= self._limits.listing_entries:
                self.reason = self.reason or f"more than {self._limits.listing_entries} tags"
                return
            self.entries += 1
        tags[tag] = (digest, pushed, withheld)
        self._images[repository] = tags

    def merge(self, other: Gathered, name: Callable[[str], str]) -> None:
        """Take in all of another's tags, its images renamed."""
        for image, tags in other._images.items():
            for tag, (digest, pushed, held) in tags.items():
                self.add(name(image), tag, digest, pushed, withheld=held)
        self._dropped += other._dropped
        self.reason = self.reason or other.reason

    def sample(self) -> tuple[str, str] | None:
        """Some image and a tag of it, better a digest, to try something with; None when there is none."""
        named: tuple[str, str] | None = None
        for image, tags in self._images.items():
            for tag, (digest, _, held) in tags.items():
                if digest is not None:
                    return image, digest
                named = named or (None if held else (image, tag))
        return named

    def partial(self, reason: str) -> None:
        """Something is missing; the first reason is kept."""
        self.reason = self.reason or reason

    @property
    def full(self) -> bool:
        """Whether there is no point in fetching more."""
        return self.entries >= self._limits.listing_entries

    @property
    def repositories(self) -> tuple[str, ...]:
        """The names of all images that are still here, in order."""
        return tuple(sorted(self._images))

    def listing(self, repositories: tuple[str, ...] | None = None) -> Listing:
        """The repositories, or those given, as a listing."""
        return Listing(
            names=self.repositories if repositories is None else repositories,
            complete=not self.reason,
            reason=self.reason,
            dropped=self._dropped,
            source=self._source,
        )

    def take(self, repository: str) -> Listing | None:
        """The tags of one image, once; None when they are not here, were taken before, or are old."""
        if self._clock() - self._begun > _FRESH_SECONDS:
            self._images.clear()
        tags = self._images.pop(repository, None)
        if tags is None:
            return None
        return Listing(
            names=tuple(tags),
            complete=not self.reason,
            reason=self.reason,
            digests={tag: digest for tag, (digest, _, _) in tags.items() if digest is not None},
            pushed={tag: pushed for tag, (_, pushed, _) in tags.items() if pushed is not None},
            withheld={tag: reason for tag, (_, _, reason) in tags.items() if reason},
            source=self._source,
        )


def unix_time(text: str | None) -> float | None:
    """Unix time of an ISO 8601 date with a zone; None when there is none, or nothing that can be read."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def same_path(url: str, target: str) -> str:
    """Mends a link to the next page whose path leads nowhere: it is the path of the page before it, only the query is another."""
    return f"{urlsplit(url).path}?{target.partition('?')[2]}"


def literal_heads(patterns: Iterable[str]) -> tuple[str, ...]:
    """The first parts of include patterns where all of them are literal, so that nothing else needs to be listed; else none."""
    heads = [pattern.partition("/") for pattern in patterns]
    if any(not slash or re.search(r"[*?\[\]]", head) for head, slash, _ in heads):
        return ()
    return tuple(dict.fromkeys(head for head, _, _ in heads))


def api_credentials(connection: Connection) -> CredentialSource:
    """The credential for the provider's own API: its own where one is configured, else that of the registry."""
    api = connection.settings.api
    if api.password is None and api.token is None:
        return connection.credentials
    own = {"username": api.username, "password": api.password, "token": api.token}
    return ConfiguredCredential(connection.settings.model_copy(update=own))


def shown_once(source: CredentialSource, where: str) -> Authorise:
    """Shows a credential to an API, and never a second time after it was refused: accounts are locked after a few failures."""

    async def authorise(renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        given = await source.credential(renew=False)
        if renew:
            before, given = given, await source.credential(renew=True)
            if given == before:
                message = f"{AUTHENTICATION_FAILED}: {where} refuses the credential"
                raise RegistryUnauthorized(message, "check user name and secret, and whether they have expired")
        return {} if given is None else {"Authorization": given.header}

    return authorise


async def patiently(transport: Transport, retry: Retry, url: str, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat a POST that changes nothing (a query), as the transport repeats a GET, and like it leave a host alone that wants a pause.

    Raises:
        RegistryRateLimited: the pause is longer than `retry` waits.
        SensorError: the last failure.
    """
    for attempt in range(retry.attempts):
        if (left := transport.budget(url).parked_for) > retry.most:
            message = f"{shown_host(url)} has asked for a pause, {left:.0f} s of it are left"
            raise RegistryRateLimited(message, "the query is made again afterwards", retry_after=left)
        if left > 0:
            await transport.pause(0, left, plan=retry)
        try:
            return await ask()
        except (RegistryRateLimited, RegistryUnavailable, NetworkError) as error:
            patient = error.retryable and (error.retry_after or 0.0) <= retry.most
            if not patient or attempt + 1 == retry.attempts:
                raise
            await transport.pause(attempt, error.retry_after, plan=retry)
    raise AssertionError  # pragma: no cover - the loop returns or raises
