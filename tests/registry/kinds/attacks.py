"""What the security tests share: every fake with every login, a walk through all that a sweep does, and all that it gives away on the way."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.errors import SensorError
from sensor.model.manifest import Manifest
from sensor.registry.kinds import open_registry
from sensor.registry.port import Registry
from sensor.secret import Secret
from sensor.transport import Retry
from tests.fakes.registries import FAKES
from tests.fakes.registries.provider import Login, Mistake, ProviderFake

ONCE = Retry(attempts=1)
QUICK = Retry(attempts=3, first=0.001, most=0.01)

each_fake = pytest.mark.parametrize("fake_type", FAKES, ids=lambda fake: fake.__name__)


def each(what: str) -> Any:
    """Every fake with each of its logins (nobody's excepted) or mistakes."""
    return pytest.mark.parametrize(
        ("fake_type", "index"),
        [
            pytest.param(fake, index, id=f"{fake.__name__}-{name.replace(' ', '_')}")
            for fake in FAKES
            for index, name in enumerate(getattr(fake, f"{what}_names"))
            if not name.startswith("anonymous")
        ],
    )


sdk_connections = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""urllib3, below the SDK of AWS, loses the connection on which a redirect came that it may not follow."""


def forget_connections() -> None:
    """Have those found lost here, and not in the middle of some other test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def environment(login: Login | Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a login has in the environment."""
    for name, value in login.env.items():
        monkeypatch.setenv(name, value)


@contextlib.asynccontextmanager
async def opening(settings: Settings, retry: Retry = ONCE, http: Http | None = None) -> AsyncIterator[Registry]:
    """An open registry."""
    registry = open_registry(settings, http or Http(), retry=retry)
    try:
        yield registry
    finally:
        await registry.close()


@dataclass(slots=True)
class Walk:
    """What came of a walk."""

    errors: list[SensorError] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    def words(self) -> Iterator[str]:
        """All that anybody could be shown of it."""
        for error in self.errors:
            cause: BaseException | None = error
            for _ in range(10):
                if cause is None:
                    break
                yield str(cause)
                yield getattr(cause, "advice", "")
                cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
            yield repr(error)
        yield from map(repr, self.results)


async def everything(
    registry: Registry,
    fake: ProviderFake,
    *,
    midway: Callable[[], None] = lambda: None,
    into: Walk | None = None,
    brief: bool = False,
) -> Walk:
    """All that a sweep does, or (`brief`) a little of each. Anything else than a SensorError ends the test."""
    walk = into or Walk()

    async def attempt(work: Awaitable[Any]) -> None:
        try:
            walk.results.append(await work)
        except SensorError as error:
            walk.errors.append(error)

    async def pull(repository: str) -> None:
        await registry.head(repository, "v1")
        fetched = await registry.manifest(repository, "v1")
        assert isinstance(fetched.document, Manifest)
        await registry.config(repository, fetched.document.config)
        midway()
        async for _ in registry.blob(repository, fetched.document.layers[0]):
            pass

    if brief:
        for work in (registry.ping(), registry.repositories(), registry.tags(fake.names[0]), pull(fake.names[0])):
            await attempt(work)
        return walk
    for work in (registry.ping, registry.standing, registry.method, registry.repositories):
        await attempt(work())
    for repository in (*fake.names[:2], "team/nosuch"):
        await attempt(registry.tags(repository))
        await attempt(pull(repository))
    await attempt(registry.repositories())
    return walk


def insides(thing: Any, depth: int = 8) -> Iterator[str]:
    """How an object shows itself, and everything of ours that it holds. Only a Secret may hold a secret."""
    yield repr(thing)
    if depth == 0 or isinstance(thing, Secret):
        return
    if isinstance(thing, dict):
        held = [*thing, *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        held = list(thing)
    elif type(thing).__module__.startswith("sensor."):
        names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        held = [*vars(thing).values()] if hasattr(thing, "__dict__") else [getattr(thing, n, None) for n in names]
    else:
        return
    for one in held:
        yield from insides(one, depth - 1)
