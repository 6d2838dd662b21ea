"""A provider's own API beside the distribution protocol: one origin, one way to show a credential, bounded answers.

What to ask for is the business of `registry/kinds`; here are the rules that hold for all of them: nothing secret leaves the API's origin,
redirects are not followed, a refused credential is fetched anew once, and every status becomes one of the errors of `registry/errors`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError, SensorError
from sensor.limits import Limits
from sensor.model.digest import Digest, is_digest
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
    answer_error,
    is_html,
    shown_url,
)
from sensor.registry.pages import next_link
from sensor.registry.port import Listing, Standing
from sensor.route import redirect_target, retry_after, same_origin
from sensor.transport import HostParked, Reply, Transport

_T = TypeVar("_T")
_WILD = re.compile(r"[*?\[\]]")
_MOST_STALE_PAGES = 3
"""Pages in a row that may bring nothing new, before they are taken for a circle."""
_NO_API = "check api.url: a web page answers there, not the provider's API; and any proxy in between"
Authorise = Callable[[bool], Awaitable[Mapping[str, str]]]
"""Headers that show the credential; the argument says that the last ones were refused. An empty mapping is an anonymous client."""


class Native(Protocol):
    """How a provider lists its repositories and tags by its own API. One instance serves one open registry and may remember."""

    async def repositories(self) -> Listing:
        """All repositories that the credential may see, named as in references (without the host).

        Raises:
            CannotEnumerate: this credential cannot use the API; `_catalog` is tried where the kind has one.
            SensorError: no answer, or a broken one.
        """

    async def tags(self, repository: str) -> Listing:
        """All tags of a repository, with digests and push dates where the API tells.

        Raises:
            CannotEnumerate: this credential cannot use the API; `tags/list` is used instead.
            RegistryNotFound: no such repository.
            SensorError: no answer, or a broken one.
        """

    async def standing(self) -> Standing:
        """Who the credential belongs to, until when, and what else it may do. Raises SensorError."""


async def anonymous(_renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
    """Show nothing."""
    return {}


class Api:
    """Requests to one API. `base` is its URL without a slash at the end; paths begin with one, already percent-encoded."""

    def __init__(
        self,
        base: str,
        transport: Transport,
        authorise: Authorise = anonymous,
        *,
        headers: Mapping[str, str] | None = None,
        explain: Callable[[RegistryError, Reply], RegistryError] = lambda error, _reply: error,
        insecure: bool = False,
    ) -> None:
        """`explain` may turn an error into the provider's own words (missing scope, throttled with 403).

        Raises:
            ConfigError: plain HTTP that was not allowed.
        """
        if urlsplit(base).scheme != "https" and not insecure:
            message = f"the API {shown_url(base)} is to be asked in plain HTTP, which is not allowed"
            raise ConfigError(message, "use https://, or set insecure: true for a trusted internal registry")
        self.base = base.rstrip("/")
        self._transport = transport
        self._authorise = authorise
        self._headers = {"Accept": "application/json", **(headers or {})}
        self._explain = explain

    async def send(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int | None = None,
        accept: frozenset[int] = frozenset({200}),
    ) -> Reply:
        """Send a request; statuses outside `accept` are errors. `path` may be a whole URL of the API's own origin (a next page).

        Raises:
            RegistryError: another status, or a URL that leads elsewhere.
            SensorError: no answer.
        """
        url = self.url(path)

        async def attempt(shown: Mapping[str, str]) -> Reply:
            merged = {**self._headers, **(headers or {}), **shown}
            return await self._transport.fetch(method, url, headers=merged, body=body, most_bytes=most_bytes)

        try:
            shown = await self._authorise(False)  # noqa: FBT003 - the shape of Authorise
            reply = await attempt(shown)
            if reply.status == 401 and shown:
                reply = await attempt(await self._authorise(True))  # noqa: FBT003
        except HostParked as error:
            raise RegistryRateLimited(error.message, error.advice, retry_after=error.retry_after) from error
        if reply.status in accept:
            return reply
        raise self._explain(_error(method, reply), reply)

    async def json(self, path: str, shape: type[_T], *, method: str = "GET", body: Any = None, **more: Any) -> _T:
        """Send a request and read its JSON answer into a shape (a msgspec Struct, a list of them). `body` is sent as JSON.

        Raises:
            UnexpectedAnswer: not JSON of that shape.
            SensorError: as `send`.
        """
        if body is not None:
            more = {**more, "headers": {"Content-Type": "application/json", **more.get("headers", {})}}
        reply = await self.send(path, method=method, body=None if body is None else msgspec.json.encode(body), **more)
        return parse(reply, shape)

    def url(self, path: str) -> str:
        """The full URL of a path, or a URL on the API's own origin as it is.

        Raises:
            UnexpectedAnswer: another origin.
        """
        if path.startswith("/"):
            return self.base + path
        if not _is_own(self.base, path):
            message = f"{shown_url(self.base)}: the next page is elsewhere: {shown_url(path)}"
            raise UnexpectedAnswer(message, "correct the outer address in the set-up of the API or of its proxy")
        return path

    def next(self, reply: Reply) -> str | None:
        """The next page by the answer's Link header (RFC 8288), resolved against its request, or None."""
        target = next_link(reply.header_lists.get("link", ()))
        return None if target is None else self.url(redirect_target(reply.url, target))


class Names:
    """Names on their way from page to page, with what is told about each: what `pages.Paging` is to the protocol's own listings."""

    def __init__(self, limits: Limits, accept: Callable[[str], bool], *, source: str) -> None:
        """`accept` tells names from nonsense, `source` is what the listing says it comes from."""
        self._limits = limits
        self._accept = accept
        self._source = source
        self._names: dict[str, None] = {}
        self._digests: dict[str, Digest] = {}
        self._pushed: dict[str, float] = {}
        self._withheld: dict[str, str] = {}
        self._dropped = 0
        self._pages = 0
        self._stale = 0
        self._grown = False
        self._cursors: set[str] = set()
        self.reason = ""
        """Why the listing is not complete; empty: it is."""

    def add(
        self, name: str | None, *, digest: str | None = None, pushed: float | None = None, withheld: str = ""
    ) -> None:
        """Take in one name; what is none is counted, and what is too much makes the listing partial.

        A name that comes again has moved while it was listed: it stands for what is told last.
        """
        if name is None or not self._accept(name):
            self._dropped += 1
            return
        if name not in self._names:
            if len(self._names) >= self._limits.listing_entries:
                self.partial(f"more than {self._limits.listing_entries} names")
                return
            self._names[name] = None
            self._grown = True
        elif digest is not None:
            for told in (self._digests, self._pushed, self._withheld):
                told.pop(name, None)
        if digest is not None and is_digest(digest):
            self._digests[name] = Digest(digest)
        if pushed is not None:
            self._pushed[name] = pushed
        if withheld:
            self._withheld[name] = withheld

    def another_page(self, cursor: str = "", *, useful: bool = False) -> bool:
        """A page is over and the provider says that there are more: whether the next is worth asking for.

        `cursor` is what the next page is asked with; one that came before leads in a circle. `useful`: the page brought something else
        than names, so it does not count as one that repeats what is known.
        """
        self._pages += 1
        self._stale = 0 if self._grown or useful else self._stale + 1
        self._grown = False
        if self._pages >= self._limits.pages:
            self.partial(f"more than {self._limits.pages} pages")
        elif self._stale >= _MOST_STALE_PAGES or cursor in self._cursors:
            self.partial("the pages go in a circle")
        if cursor:
            self._cursors.add(cursor)
        return not self.reason

    def partial(self, reason: str) -> None:
        """Something is missing; the first reason is kept."""
        self.reason = self.reason or reason

    def __len__(self) -> int:
        return len(self._names)

    @property
    def listing(self) -> Listing:
        """What was gathered so far."""
        return Listing(
            names=tuple(self._names),
            complete=not self.reason,
            reason=self.reason,
            digests=self._digests,
            pushed=self._pushed,
            withheld=self._withheld,
            dropped=self._dropped,
            source=self._source,
        )


def joined(listings: Sequence[Listing], *, source: str) -> Listing:
    """Several listings, of namespaces for example, as one. It is complete if all are."""
    partial = next((listing for listing in listings if not listing.complete), None)
    return Listing(
        names=tuple(dict.fromkeys(name for listing in listings for name in listing.names)),
        complete=partial is None,
        reason="" if partial is None else partial.reason,
        dropped=sum(listing.dropped for listing in listings),
        source=source,
    )


def _is_own(base: str, url: str) -> bool:
    try:
        return same_origin(base, url)
    except ValueError:
        return False


def wanted_namespaces(settings: Settings, namespace: str = "") -> tuple[str, ...]:
    """What bounds the listing: the configured namespaces, else the URL's, else those that every include pattern begins with.

    Those of patterns may reach too far (`team/app` is a repository, or a group that holds some). Empty: no bound.
    """
    given = settings.repositories
    if given.namespaces:
        return tuple(dict.fromkeys(name.strip("/") for name in given.namespaces if name.strip("/")))
    if namespace:
        return (namespace,)
    literal = [_literal_start(pattern) for pattern in given.include]
    return tuple(dict.fromkeys(literal)) if all(literal) else ()


def _literal_start(pattern: str) -> str:
    """The first components of a pattern that hold no wildcard."""
    parts = pattern.strip("/").split("/")
    wild = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return "/".join(parts[:wild])


def parse(reply: Reply, shape: type[_T]) -> _T:
    """Read a JSON answer into a shape.

    Raises:
        NotARegistry: a web page.
        UnexpectedAnswer: not JSON of that shape.
    """
    try:
        return msgspec.json.decode(reply.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if is_html(reply.body, reply.headers.get("content-type", "")):
            message = f"{shown_url(reply.url)}: a web page instead of an answer of the API"
            raise NotARegistry(message, _NO_API) from error
        message = f"{shown_url(reply.url)}: an answer of another shape than the API's"
        raise UnexpectedAnswer(message, "check api.url and the provider's version") from error


def parse_entry(raw: msgspec.Raw, shape: type[_T]) -> _T | None:
    """One entry of a list, or None when it is of another shape: one odd entry must not cost a page."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _error(method: str, reply: Reply) -> RegistryError:
    error = answer_error(
        method,
        reply.url,
        reply.status,
        reply.body,
        content_type=reply.headers.get("content-type", ""),
        retry_after=retry_after(reply.headers),
    )
    return NotARegistry(error.message, _NO_API) if isinstance(error, NotARegistry) else error


def own_api_key(settings: Settings) -> str:
    """The setting that holds the API's own credential; empty where the registry's is used there too."""
    return next((f"api.{name}" for name in ("token", "password") if getattr(settings.api, name) is not None), "")


def api_fault(settings: Settings, error: SensorError) -> str:
    """What an API's failure says about the configured `api`: a token that is refused, an address where no API is. Empty: nothing."""
    own = own_api_key(settings)
    cause: BaseException | None = error
    passed: set[int] = set()
    while isinstance(cause, SensorError) and id(cause) not in passed:
        passed.add(id(cause))
        said = cause.message.removeprefix(f"{AUTHENTICATION_FAILED}: ")
        if own and isinstance(cause, RegistryUnauthorized):
            return f"{own} was refused: {said}"
        if own and isinstance(cause, RegistryForbidden):
            return f"{own} has not the right: {said}"
        if settings.api.url and isinstance(cause, NotARegistry):
            return f"api.url answers with a web page: {said}"
        if settings.api.url and isinstance(cause, (RegistryNotFound, UnexpectedAnswer)):
            return f"api.url does not answer as the API does: {said}"
        cause = cause.__cause__
    return ""
