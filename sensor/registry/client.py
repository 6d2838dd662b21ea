"""The distribution protocol's read side over HTTP (OCI distribution 1.1): ping, list, head, manifest, config, blob.

Implements `port.Registry`. Logging in, redirects and the scheme are `session`'s, the judgement of listings is `pages`'. Everything that
comes back is bounded and, where a digest is known, checked; a blob's digest is checked by whoever hashes it on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from sensor.errors import DataError, SensorError
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
    RegistryRateLimited,
    RegistryUnauthorized,
    is_html,
    shown_url,
)
from sensor.registry.listings import Listings
from sensor.registry.login import Basic, Credential
from sensor.registry.native import Native
from sensor.registry.port import FetchedManifest, Listing, ManifestHead, Method, Ping, Standing, covers
from sensor.registry.quirks import Quirks
from sensor.registry.session import Session
from sensor.transport import Reply

_QUOTA_PAUSE = 1800.0
"""Seconds until a spent quota is looked at again; it comes back little by little over its window."""
_GENERIC_TYPES = frozenset({"", "application/json", "text/plain", "application/octet-stream"})


class RegistryClient:
    """A registry over HTTP. Owns its session's transport: close it when done."""

    def __init__(  # noqa: PLR0913 - what a kind knows of its provider, each with a plain default
        self,
        session: Session,
        quirks: Quirks | None = None,
        native: Native | None = None,
        *,
        method: Callable[[Credential | None], Method] = lambda _credential: Method(name=""),
        leave: float = 0.0,
        listing_rate: Rate | None = None,
        namespaces: tuple[str, ...] = (),
        api_fault: Callable[[SensorError], str] = lambda _error: "",
    ) -> None:
        """`native` lists by the provider's own API; the distribution protocol's listings are used where it cannot.

        `leave` is the share of a pull quota that is left to others, `listing_rate` what the provider allows of the protocol's listings,
        `namespaces` what the catalogue is bounded to; a native listing keeps to them by itself. `api_fault` says what a failure of the
        provider's API tells about the settings for it.
        """
        self.session = session
        self._quirks = quirks or Quirks()
        self._native = native
        self._method = method
        self._leave = leave
        self._namespaces = namespaces
        self._api_fault = api_fault
        self._listings = Listings(session, self._quirks, listing_rate)
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
        credential = await self.session.credential()
        method = self._method(credential)
        return method if credential is not None else replace(method, complaint=self.session.missing or method.complaint)

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
        if self._native is None:
            return self._noted(self._wanted(await self._listings.repositories()))
        try:
            return self._noted(self._inside(await self._native.repositories()))
        except CannotEnumerate as cannot:
            fault = self._api_fault(cannot)
            if self._quirks.catalog:
                return self._noted(self._wanted(await self._catalog_instead(cannot, fault)), fault)
            if not fault:
                raise
            raise _faulty(cannot.message, cannot.advice, fault) from cannot
        except (RegistryUnauthorized, RegistryForbidden, NotARegistry) as error:
            if not (fault := self._api_fault(error)):
                raise
            raise type(error)(error.message, _first_mend(fault, error.advice)) from error

    async def _catalog_instead(self, cannot: CannotEnumerate, fault: str) -> Listing:
        """`_catalog` where the provider's API cannot be used; when that fails too, the advice is the provider's."""
        try:
            return await self._listings.repositories()
        except CannotEnumerate as error:
            message = f"{cannot.message}; {error.message}"
            raise _faulty(message, cannot.advice or error.advice, fault) from cannot

    def _noted(self, listing: Listing, fault: str = "") -> Listing:
        """With what the operator should know: a fault of the API's settings, and wanted namespaces in which there is nothing."""
        notes = [f"{fault}; {listing.source} was used instead"] if fault else []
        wanted = self._namespaces or tuple(filter(None, (self.namespace,)))
        if listing.complete and wanted:
            names = [name.casefold() for name in (*listing.names, *listing.withheld)]
            empty = [one for one in wanted if not any(covers(one.casefold(), name) for name in names)]
            # where none fits, although there are names, the provider's names do not begin with what it calls a namespace
            if not names or len(empty) < len(wanted):
                notes += [
                    f"namespace {one}: nothing there is shown to this credential; check its spelling, and the right"
                    for one in empty
                ]
        return replace(listing, notes=(*listing.notes, *notes)) if notes else listing

    def _wanted(self, catalog: Listing) -> Listing:
        """Of the catalogue, which shows everything, what lies in the wanted namespaces."""
        listing, wanted = self._inside(catalog), self._namespaces
        if not wanted:
            return listing
        return replace(listing, names=tuple(name for name in listing.names if any(covers(one, name) for one in wanted)))

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
        return await self._listings.tags(self._checked(repository), self._pull(repository))

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

    async def _get(
        self,
        url: str,
        scope: str,
        *,
        accept: str = "application/json",
        most_bytes: int | None = None,
    ) -> Reply:
        reply = await self.session.fetch("GET", url, scope=scope, headers={"Accept": accept}, most_bytes=most_bytes)
        if reply.status != 200:
            raise await self.session.error("GET", reply, scope)
        return reply

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


def _faulty(message: str, advice: str, fault: str) -> CannotEnumerate:
    """The error with what is wrong with the settings of the API, which is the first thing to mend."""
    error = CannotEnumerate(message, _first_mend(fault, advice) if fault else advice)
    error.fault = fault
    return error


def _first_mend(fault: str, advice: str) -> str:
    return f"{fault.partition(': ')[0]}: mend that first" + (f"; {advice}" if advice else "")


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


def _media_type(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def _checked_target(target: str) -> str:
    if not (is_tag(target) or is_digest(target)):
        message = f"neither a tag nor a digest: {target[:200]!r}"
        raise DataError(message)
    return target
