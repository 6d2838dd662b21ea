"""The reading part of Test Connection: a listing, the tags of one repository, one manifest, the first byte of one blob.

`read_sample` stops at the first repository that can be read, because one is proof enough; `Walk` remembers what came of every step.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from sensor.errors import SensorError
from sensor.model.manifest import Descriptor, Index, Manifest, is_attestation
from sensor.registry.check_findings import clock_skew, problem_of
from sensor.registry.check_report import STEPS, Notice, Source, Step
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
)
from sensor.registry.login import Credential
from sensor.registry.port import Listing, Method, Registry, Standing
from sensor.registry.session import Session

_MOST_TRIES = 3
"""Repositories, and tags of each, that are tried until one can be read: the first may be empty, withheld or out of bounds."""
_MOST_NAMES = 25
"""Configured names that are looked for, besides those that are read."""
REFUSALS = (RegistryUnauthorized, RegistryForbidden, RegistryNotFound, CannotEnumerate)
"""Answers that say no, as against none or a passing one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What to try: repositories that the configuration names, else the first listed ones that a sweep would look at."""

    names: tuple[str, ...] = ()
    wanted: Callable[[str], bool] = lambda _name: True

    @property
    def kept_names(self) -> tuple[str, ...]:
        """The names that the patterns leave."""
        return tuple(name for name in self.names if self.wanted(name))


@dataclass(slots=True, kw_only=True)
class Walk:
    """What has come of it so far."""

    registry: Registry
    sample: Sample
    stranger: Callable[[], Registry] | None
    now: Callable[[], float]
    steps: dict[str, Step] = field(default_factory=dict)
    failures: list[SensorError] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    credential: Credential | None = None
    method: Method = field(default_factory=lambda: Method(name=""))
    standing: Standing = field(default_factory=Standing)
    other: Standing | None = None
    """What is told of the credential of the provider's API, where that is another one."""
    source: Source | None = None
    can_list: bool | None = None
    can_pull: bool | None = None
    read: tuple[str, str] | None = None
    """Repository and digest of the manifest that could be read."""
    unlisted: SensorError | None = None
    """Why the repositories could not be listed."""
    requests: int = 0
    """Those of the stranger."""

    @property
    def session(self) -> Session | None:
        """The conversation, where there is one over HTTP."""
        return self.registry.session if isinstance(self.registry, RegistryClient) else None

    @property
    def skew(self) -> float | None:
        """By how much our clock is ahead of the registry's."""
        base = self.session.base if self.session else None
        return clock_skew(base, self.now()) if base else None

    def ok(self, name: str, detail: str = "") -> None:
        """A step went well."""
        self.steps[name] = Step(name=name, outcome="ok", detail=detail)

    def skipped(self, name: str, detail: str) -> None:
        """A step was not needed."""
        self.steps[name] = Step(name=name, outcome="skipped", detail=detail)

    def forget(self, *names: str) -> None:
        """Steps that are tried anew."""
        for name in names:
            self.steps.pop(name, None)

    def failed(self, name: str, error: SensorError) -> None:
        """A step failed."""
        self.failures.append(error)
        self.steps[name] = Step(name=name, outcome="failed", detail=error.message, advice=error.advice)

    def do_without_list(self) -> None:
        """A registry that lists nothing is no fault where the configuration names what to look at, and that can be read."""
        error = self.unlisted
        if not (self.can_pull and self.sample.names and isinstance(error, REFUSALS)):
            return
        if isinstance(error, CannotEnumerate) and error.fault:
            return
        self.failures.remove(error)
        self.unlisted = None
        self.skipped("catalog", f"the configured names are used; listing is not allowed here: {error.message}")

    def finish(self, reason: str) -> tuple[Step, ...]:
        """All steps in order; those that were not reached are skipped with the reason."""
        return tuple(self.steps.get(name) or Step(name=name, outcome="skipped", detail=reason) for name in STEPS)


async def read_sample(walk: Walk) -> str:
    """Catalogue, tags, manifest, blob. Returns why the steps that were not reached are skipped."""
    listing = await _list(walk)
    before = len(walk.failures)
    reason = "no repository to try"
    first: dict[str, Step] = {}
    candidates = _candidates(walk.sample, listing)
    if not candidates and (notice := _nothing_selected(walk, listing)):
        walk.notices.append(notice)
    for tried, repository in enumerate(candidates, 1):
        walk.forget("tags", "manifest", "blob")
        reason = await _read_one(walk, repository)
        failures = walk.failures[before:]
        if walk.can_pull:
            await _look_at_others(walk, before, walk.sample.kept_names[tried:] or candidates[tried:])
            return reason
        if failures and not first:
            first = dict(walk.steps)
        if any(not isinstance(error, REFUSALS) for error in failures):
            break
    if first:
        walk.steps, reason = first, "an earlier step failed"
    return reason


async def _look_at_others(walk: Walk, before: int, others: tuple[str, ...]) -> None:
    """One repository can be read. What cannot be is worth a warning among listed ones; of those that are named, each one must be there.

    So it is with a way to log in that pulls only what is public: the first one that could be read proves nothing.
    """
    strict = bool(walk.sample.names) or (walk.credential is not None and not walk.method.pulls)
    for name in others[:_MOST_NAMES] if strict else ():
        try:
            await walk.registry.tags(name)
        except ImageWithheld as error:
            walk.notices.append(Notice(code="withheld", message=error.message, advice=error.advice))
        except SensorError as error:
            walk.failures.append(error)
            if not isinstance(error, REFUSALS):
                break
    failures = walk.failures[before:]
    if failures and strict:
        worst = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        detail = f"not everything can be read: {worst.message}{more}"
        walk.steps["tags"] = Step(name="tags", outcome="failed", detail=detail, advice=worst.advice)
        return
    del walk.failures[before:]
    walk.notices += [
        Notice(code=problem_of(error), message=f"not everything can be read: {error.message}", advice=error.advice)
        for error in failures
    ]
    if strict and len(others) > _MOST_NAMES:
        message = f"{len(others) - _MOST_NAMES} of the configured names were not tried"
        walk.notices.append(Notice(code="not_all_tried", message=message, advice="`plan` looks at all of them"))


def _candidates(sample: Sample, listing: Listing) -> tuple[str, ...]:
    if sample.names:
        return sample.kept_names[:_MOST_TRIES]
    listed = (name for name in listing.names if name not in listing.withheld and sample.wanted(name))
    return tuple(itertools.islice(listed, _MOST_TRIES))


def _nothing_selected(walk: Walk, listing: Listing) -> Notice | None:
    """What to say when a sweep would look at nothing although nothing has failed."""
    if walk.sample.names:
        what = f"none of the {len(walk.sample.names)} repositories in repositories.names"
    elif listing.names:
        what = f"none of the {len(listing.names)} listed repositories"
    elif walk.can_list and listing.complete:
        message = "nothing is selected: the registry lists no repository to this credential"
        advice = "if it is not empty, give the credential the right to read, or name repositories in repositories.names"
        return Notice(code="nothing_selected", message=message, advice=advice)
    else:
        return None
    message = f"nothing is selected: {what} passes repositories.include and exclude, or can be had"
    return Notice(
        code="nothing_selected", message=message, advice="check the patterns of repositories.include and exclude"
    )


async def _list(walk: Walk) -> Listing:
    """The repositories, or an empty listing when they cannot be listed."""
    configured = len(walk.sample.names)
    try:
        listing = await walk.registry.repositories()
    except SensorError as error:
        walk.can_list = False if isinstance(error, REFUSALS) else None
        walk.failed("catalog", error)
        walk.unlisted = error
        name = "configured names" if configured else ""
        walk.source = Source(name=name, repositories=configured, complete=bool(configured), reason=error.message)
        return Listing(names=())
    walk.can_list = True
    found = len(listing.names)
    walk.source = Source(name=listing.source, repositories=found, complete=listing.complete, reason=listing.reason)
    advice = "mend what is named there, or take it out of the configuration"
    walk.notices += [Notice(code="listing", message=note, advice=advice) for note in listing.notes]
    by = f" by {listing.source}" if listing.source else ""
    cut = walk.session is not None and f"more than {walk.session.limits.pages} pages" in listing.reason
    amount = f"{found}{' or more' if cut else ''} repositor{'y' if found == 1 and not cut else 'ies'}"
    walk.ok("catalog", amount + by + ("" if listing.complete or cut else f" (partial: {listing.reason})"))
    if not listing.complete and not cut:
        walk.notices.append(
            Notice(code="partial_listing", message=f"the list of repositories is partial: {listing.reason}")
        )
    return listing


async def _read_one(walk: Walk, repository: str) -> str:
    """Tags, a manifest and the start of a blob of one repository. Returns why the steps that were not reached are skipped."""
    try:
        tags = await walk.registry.tags(repository)
    except SensorError as error:
        return _unread(walk, "tags", error)
    by = f" by {tags.source}" if tags.source else ""
    walk.ok("tags", f"{repository}: {len(tags.names)} tag{'' if len(tags.names) == 1 else 's'}{by}")
    usable = [tag for tag in reversed(tags.names) if tag not in tags.withheld]
    if not usable:
        return f"{repository} has no tags" + (" that can be had" if tags.names else "")
    for last, tag in enumerate(usable[:_MOST_TRIES], 1):
        try:
            manifest = await _some_manifest(walk, repository, tag)
        except (RegistryNotFound, ImageWithheld) as error:
            if last < min(len(usable), _MOST_TRIES):
                continue  # a tag without its manifest, or an image held back: another tag tells more
            return _unread(walk, "manifest", error)
        except SensorError as error:
            return _unread(walk, "manifest", error)
        if manifest is None:
            return "an empty index"
        try:
            await _touch_blob(walk.registry, repository, manifest.config)
        except SensorError as error:
            return _unread(walk, "blob", error)
        walk.ok("blob", f"{manifest.config.digest} can be read")
        walk.can_pull = True
        break
    return "an earlier step failed"


def _unread(walk: Walk, step: str, error: SensorError) -> str:
    if isinstance(error, ImageWithheld):  # a sweep skips it with this reason
        walk.skipped(step, error.message)
        walk.notices.append(Notice(code="withheld", message=error.message, advice=error.advice))
        return "held back by the registry"
    walk.can_pull = False if isinstance(error, REFUSALS) else None
    walk.failed(step, error)
    return "an earlier step failed"


async def _some_manifest(walk: Walk, repository: str, tag: str) -> Manifest | None:
    """The manifest behind a tag, by HEAD and then by digest; of an index, that of its first image."""
    head = await walk.registry.head(repository, tag)
    fetched = await walk.registry.manifest(repository, head.digest)
    walk.ok("manifest", f"{repository}:{tag} is {head.digest}")
    walk.read = repository, head.digest
    for _ in range(2):
        if isinstance(fetched.document, Manifest):
            return fetched.document
        child = _first_image(fetched.document)
        if child is None:
            return None
        fetched = await walk.registry.manifest(repository, child.digest)
    return fetched.document if isinstance(fetched.document, Manifest) else None


def _first_image(index: Index) -> Descriptor | None:
    return next((child for child in index.manifests if not is_attestation(child)), None)


async def _touch_blob(registry: Registry, repository: str, descriptor: Descriptor) -> None:
    """Read the start of a blob, which takes every redirect that a layer would take."""
    chunks = registry.blob(repository, descriptor)
    if isinstance(chunks, AsyncGenerator):
        async with contextlib.aclosing(chunks):
            await anext(chunks, b"")
    else:
        await anext(chunks, b"")
