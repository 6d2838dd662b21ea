"""The distribution protocol's read side over HTTP (OCI distribution 1.1): ping, list, head, manifest, config, blob.

Implements `port.Registry`. Logging in, redirects and the scheme are `session`'s, the judgement of listings is `pages`'. Everything that
comes back is bounded and, where a digest is known, checked; a blob's digest is checked by whoever hashes it on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

from sensor.errors import DataError, RegistryError, SensorError
from sensor.limits import MIB
from sensor.model.digest import Digest, is_digest, parse_digest
from sensor.model.manifest import (
    ACCEPT,
    DOCKER_SCHEMA1,
    Descriptor,
    ImageConfig,
    parse_image_config,
    parse_manifest,
)
from sensor.model.reference import is_repository, is_tag
from sensor.pacing import Rate
from sensor.registry.blobs import stream_blob
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
    error_codes,
    is_html,
    shown_url,
)
from sensor.registry.login import Basic, Credential
from sensor.registry.native import Native
from sensor.registry.pages import Paging, next_link, parse_page, repository_paging, tag_paging
from sensor.registry.port import FetchedManifest, Listing, ManifestHead, Method, Ping, Standing
from sensor.registry.session import Session
from sensor.transport import Reply

_CATALOG_IDLE_SECONDS = 600.0
"""distribution walks its storage for `_catalog`: minutes on an object store."""
_QUOTA_PAUSE = 1800.0
"""Seconds until a spent quota is looked at again; it comes back little by little over its window."""
_GENERIC_TYPES = frozenset({"", "application/json", "text/plain", "application/octet-stream"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """Where a provider differs from the plain protocol without needing code of its own."""

    catalog: bool = True
    """Whether `_catalog` is of any use there."""
    catalog_page: int = 1000
    """`n` of the first `_catalog` request; distribution refuses more. 0 sends none."""
    tags_page: int = 1000
    catalog_scope: str = "registry:catalog:*"
    pull_actions: str = "pull"
    scope_name: Callable[[str], str] = lambda repository: repository
    """The repository as the token service calls it (Artifactory leaves its own key out)."""
    path_name: Callable[[str], str] = lambda repository: repository
    """The repository as the registry's paths call it (Docker Hub: library/nginx for nginx)."""
    next_page: Callable[[str, str], str] = lambda _url, target: target
    """Mends the target of a Link header, given the URL that was asked (Artifactory and Nexus send links that lead nowhere)."""
    counts_pulls: bool = False
    """Whether each GET of a manifest takes from a quota that HEAD tells for nothing (Docker Hub)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every request to the registry itself."""


class RegistryClient:
    """A registry over HTTP. Owns its session's transport: close it when done."""

    def __init__(
        self,
        session: Session,
        quirks: Quirks | None = None,
        native: Native | None = None,
        *,
        method: Callable[[Credential | None], Method] = lambda _credential: Method(name=""),
        leave: float = 0.0,
        listing_rate: Rate | None = None,
    ) -> None:
        """`native` lists by the provider's own API; the distribution protocol's listings are used where it cannot.

        `leave` is the share of a pull quota that is left to others, `listing_rate` what the provider allows of the protocol's listings.
        """
        self.session = session
        self._quirks = quirks or Quirks()
        self._native = native
        self._method = method
        self._leave = leave
        self._listing_rate = listing_rate
        self._limits = session.limits

    @property
    def host(self) -> str:
        """host[:port], as references name it."""
        return self.session.address.named or self.session.address.host

    @property
    def namespace(self) -> str:
        """Repositories outside of it are not for this registry's credential; empty: no bound."""
        return self.session.address.namespace

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return self.session.transport.requests

    async def close(self) -> None:
        """Release connections."""
        await self.session.close()

    async def ping(self) -> Ping:
        """Reach the registry and log in. A refused login is an answer, not an error; see `Ping.detail`.

        Raises:
            NetworkError: the registry cannot be reached.
            RegistryError: what answers is not a registry, or it is out of order.
        """
        probe = await self.session.probe()
        detail, advice, authenticated = "answers without a login", "", True
        if probe.status != 200:
            try:
                await self._get(await self.session.url("/v2/"), "")
                detail = "logged in" if await self.session.has_credential() else "logged in anonymously"
            except (RegistryUnauthorized, RegistryForbidden) as error:
                detail, advice, authenticated = error.message, error.advice, False
        return Ping(
            reachable=True,
            authenticated=authenticated,
            latency_ms=probe.latency_ms,
            scheme=probe.scheme,
            detail=detail,
            advice=advice,
        )

    async def method(self) -> Method:
        """Which way of logging in is used, and what looks wrong about it.

        Raises:
            SensorError: the credential cannot be had.
        """
        return self._method(await self.session.credential())

    async def standing(self) -> Standing:
        """Who we are there: what the provider's API tells, else the name that is logged in with.

        Raises:
            SensorError: the API does not answer.
        """
        if self._native is not None:
            return await self._native.standing()
        credential = await self.session.credential()
        return Standing(identity=credential.username if isinstance(credential, Basic) else "")

    async def repositories(self) -> Listing:
        """All repositories that the credential may see: by the provider's API where it has one, else by `_catalog`.

        Raises:
            CannotEnumerate: the credential may not list, or the registry does not offer it.
            SensorError: no answer, or a broken one, on the first page; a later one makes the listing partial.
        """
        if self._native is not None:
            try:
                return self._inside(await self._native.repositories())
            except CannotEnumerate as cannot:
                if not self._quirks.catalog:
                    raise
                return self._inside(await self._catalog_instead(cannot))
        return self._inside(await self._catalog())

    async def _catalog_instead(self, cannot: CannotEnumerate) -> Listing:
        """`_catalog` where the provider's API cannot be used; when that fails too, the advice is the provider's."""
        try:
            return await self._catalog()
        except CannotEnumerate as error:
            message = f"{cannot.message}; {error.message}"
            raise CannotEnumerate(message, cannot.advice or error.advice) from cannot

    async def _catalog(self) -> Listing:
        url = await self.session.url("/v2/_catalog")
        paging = repository_paging(url, prefix=self.session.prefix + "_catalog", limits=self._limits)
        try:
            listing = await self._listing(
                paging, url, "repositories", self._quirks.catalog_scope, self._quirks.catalog_page
            )
        except (RegistryForbidden, RegistryNotFound) as error:
            raise _cannot_enumerate(error) from error
        except RegistryUnauthorized as error:
            # a credential that is refused as such is no question of rights
            if not await self.session.has_credential() or "authentication failed" in error.message:
                raise
            raise _cannot_enumerate(error) from error
        except UnexpectedAnswer as error:
            if "status 405" in error.message:
                raise _cannot_enumerate(error) from error
            raise
        return replace(listing, source="_catalog")

    def _inside(self, listing: Listing) -> Listing:
        """Without what lies outside the namespace of the configured URL."""
        covers = self.session.address.covers
        return replace(listing, names=tuple(name for name in listing.names if covers(name)))

    async def tags(self, repository: str) -> Listing:
        """All tags of a repository.

        Raises:
            RegistryNotFound: no such repository.
            SensorError: no answer, or a broken one, on the first page; a later one makes the listing partial.
        """
        self._checked(repository)
        if self._native is not None:
            try:
                return await self._native.tags(repository)
            except CannotEnumerate:
                pass  # the protocol's own listing costs more requests, but needs no other right than to pull
        path = f"{self._checked(repository)}/tags/list"
        url = await self.session.url(f"/v2/{path}")
        paging = tag_paging(url, prefix=self.session.prefix + path, limits=self._limits)
        listing = await self._listing(paging, url, "tags", self._pull(repository), self._quirks.tags_page)
        return replace(listing, source="tags/list")

    async def head(self, repository: str, target: str) -> ManifestHead:
        """Digest and type of a tag or digest. Costs one HEAD; a registry that does not tell digests costs a GET as well.

        Raises:
            RegistryNotFound: no such manifest.
            SensorError: no answer, or a broken one.
        """
        url = await self.session.url(f"/v2/{self._checked(repository)}/manifests/{_checked_target(target)}")
        reply = await self.session.fetch("HEAD", url, scope=self._pull(repository), headers={"Accept": ACCEPT})
        if reply.status not in {200, 400, 405, 501}:
            raise await self.session.error("HEAD", reply, self._pull(repository))
        told = reply.headers.get("docker-content-digest", "")
        if reply.status == 200 and (is_digest(target) or is_digest(told)):
            size = reply.headers.get("content-length", "")
            return ManifestHead(
                digest=Digest(target if is_digest(target) else told),
                media_type=_media_type(reply),
                size=int(size) if size.isascii() and size.isdigit() else 0,
            )
        fetched = await self.manifest(repository, target)
        return ManifestHead(digest=fetched.digest, media_type=fetched.media_type, size=len(fetched.data))

    async def manifest(self, repository: str, target: str) -> FetchedManifest:
        """Fetch a manifest or index by tag or digest; its bytes are checked against the digest asked for or told.

        Raises:
            RegistryNotFound: no such manifest.
            DataError: too large, malformed, or not what its digest says.
            SensorError: no answer, or a broken one.
        """
        url = await self.session.url(f"/v2/{self._checked(repository)}/manifests/{_checked_target(target)}")
        await self._spend(url, self._pull(repository))
        reply = await self._get(url, self._pull(repository), accept=ACCEPT, most_bytes=self._limits.manifest_bytes)
        media_type = _media_type(reply)
        if is_html(reply.body, media_type):
            message = f"GET {shown_url(url)}: a web page instead of a manifest"
            raise NotARegistry(message, "check host, port and path, and any proxy in between")
        if media_type.startswith(DOCKER_SCHEMA1):
            parse_manifest(reply.body, media_type)  # raises; its digest headers are wrong as well (registries convert)
        told = reply.headers.get("docker-content-digest", "")
        digest = check_digest(reply.body, target if is_digest(target) else told, shown_url(url))
        document = parse_manifest(reply.body, media_type)
        shown = document.media_type or ("" if media_type in _GENERIC_TYPES else media_type)
        return FetchedManifest(digest=digest, media_type=shown, data=reply.body, document=document)

    async def _spend(self, url: str, scope: str) -> None:
        """Refuse a pull that would take from what is left to others; a HEAD, which is free, tells how the quota stands now."""
        budget = self.session.transport.budget(url)
        if not self._quirks.counts_pulls or budget.quota is None or budget.quota.share > self._leave:
            return
        await self.session.fetch("HEAD", url, scope=scope, headers={"Accept": ACCEPT})
        quota = budget.quota
        if quota.share > self._leave:
            return
        for_whom = f" for {quota.source}" if quota.source else ""
        message = (
            f"the pull quota of {budget.host}{for_whom} has {quota.remaining} of {quota.limit} left, "
            f"and {self._leave:.0%} is left to others"
        )
        raise RegistryRateLimited(
            message, "log in, wait, or lower quota.leave; looking for changes goes on", retry_after=_QUOTA_PAUSE
        )

    async def config(self, repository: str, descriptor: Descriptor) -> ImageConfig:
        """Fetch and check an image configuration.

        Raises:
            DataError: too large, malformed, or not what its digest says.
            SensorError: no answer, or a broken one.
        """
        if descriptor.size > self._limits.config_bytes:
            message = (
                f"the image configuration {descriptor.digest} is larger than {self._limits.config_bytes // MIB} MiB"
            )
            raise DataError(
                message, "the limit protects the sensor from hostile answers; an honest registry stays far below it"
            )
        data = b"".join([chunk async for chunk in self.blob(repository, descriptor)])
        check_digest(data, descriptor.digest, f"{repository}@{descriptor.digest}")
        return parse_image_config(data)

    async def blob(self, repository: str, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Stream a blob's bytes as stored; a broken connection is resumed at the next byte. The caller checks the digest.

        Yields exactly `descriptor.size` bytes or raises. Close the iterator (`contextlib.aclosing`) when leaving early.

        Raises:
            RegistryNotFound: no such blob.
            DataError: its size is not that of the descriptor.
            NetworkError: the connection broke too often.
            SensorError: no answer, or a broken one.
        """
        url = await self.session.url(f"/v2/{self._checked(repository)}/blobs/{parse_digest(descriptor.digest)}")
        async with contextlib.aclosing(
            stream_blob(self.session, url, self._pull(repository), descriptor.size)
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def get(self, path: str, *, scope: str = "", most_bytes: int | None = None) -> Reply:
        """GET a path below the registry's base, logged in: for the native APIs of provider kinds.

        Raises:
            SensorError: no answer, or a status other than 200.
        """
        return await self._get(await self.session.url(path), scope, most_bytes=most_bytes)

    async def _get(
        self,
        url: str,
        scope: str,
        *,
        accept: str = "application/json",
        most_bytes: int | None = None,
        idle_seconds: float | None = None,
    ) -> Reply:
        reply = await self.session.fetch(
            "GET", url, scope=scope, headers={"Accept": accept}, most_bytes=most_bytes, idle_seconds=idle_seconds
        )
        if reply.status != 200:
            raise await self.session.error("GET", reply, scope)
        return reply

    async def _listing(self, paging: Paging, base: str, kind: str, scope: str, size: int) -> Listing:
        reply = await self._first_page(base, scope, size)
        while True:
            entries = _entries(reply, kind)
            following = paging.after(reply.url, entries, self._links(reply))
            if following is None:
                return paging.listing
            try:
                await self.session.transport.take_turn(f"{self.host} listings", self._listing_rate)
                reply = await self._get(following, scope, idle_seconds=_CATALOG_IDLE_SECONDS)
                _entries(reply, kind)
            except SensorError as error:
                paging.broken(f"a later page failed: {error.message}")
                return paging.listing

    async def _first_page(self, base: str, scope: str, size: int) -> Reply:
        """The first page; a registry that finds `n` too large says 400, and is asked for half."""
        while True:
            url = f"{base}?n={size}" if size else base
            await self.session.transport.take_turn(f"{self.host} listings", self._listing_rate)
            reply = await self.session.fetch(
                "GET", url, scope=scope, headers={"Accept": "application/json"}, idle_seconds=_CATALOG_IDLE_SECONDS
            )
            if reply.status == 200:
                return reply
            if reply.status != 400 or not size:
                raise await self.session.error("GET", reply, scope)
            size = size // 2 if "PAGINATION_NUMBER_INVALID" in error_codes(reply.body) else 0

    def _links(self, reply: Reply) -> tuple[str, ...]:
        target = next_link(reply.header_lists.get("link", ()))
        return () if target is None else (f'<{self._quirks.next_page(reply.url, target)}>; rel="next"',)

    def _pull(self, repository: str) -> str:
        return f"repository:{self._quirks.scope_name(repository)}:{self._quirks.pull_actions}"

    def _checked(self, repository: str) -> str:
        """A repository as paths call it. It must be one, and within the namespace that this credential is for."""
        if not is_repository(repository):
            message = f"not a repository name: {repository[:200]!r}"
            raise DataError(message, "expected lower-case components, for example team/app")
        name = self._quirks.path_name(repository)
        if not self.session.address.covers(name):
            message = (
                f"{repository} is outside of {self.session.address.namespace}, for which this registry is configured"
            )
            raise RegistryForbidden(message, "configure it with its own URL, so that it gets its own credential")
        return name


def check_digest(data: bytes, expected: str, what: str) -> Digest:
    """The digest of some bytes, which must be `expected` unless that is no digest.

    Raises:
        DataError: the bytes are others.
    """
    algorithm = expected.partition(":")[0] if is_digest(expected) else "sha256"
    actual = Digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")
    if is_digest(expected) and actual != expected:
        message = f"{what}: the bytes hash to {actual}, not to {expected}"
        raise DataError(message, "the registry's storage or a proxy in between has altered them")
    return actual


def _entries(reply: Reply, kind: str) -> list[object]:
    if is_html(reply.body, reply.headers.get("content-type", "")):
        message = f"GET {shown_url(reply.url)}: a web page instead of a list of {kind}"
        raise NotARegistry(message, "check host, port and path, and any proxy in between")
    return parse_page(reply.body, kind, reply.url)


def _cannot_enumerate(error: RegistryError) -> CannotEnumerate:
    return CannotEnumerate(
        f"repositories cannot be listed: {error.message}",
        "name them in repositories.names, or give the credential the right to list the catalogue",
    )


def _media_type(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def _checked_target(target: str) -> str:
    if not (is_tag(target) or is_digest(target)):
        message = f"neither a tag nor a digest: {target[:200]!r}"
        raise DataError(message)
    return target
