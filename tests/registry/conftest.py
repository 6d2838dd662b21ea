"""Fixtures of the registry tests: a layout with a few images, fakes that serve it, and clients that never really sleep."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from sensor.config.schema import Http, Registry
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import RegistryClient
from sensor.registry.credentials import ConfiguredCredential
from sensor.registry.login import Answer
from sensor.registry.native import Native
from sensor.registry.quirks import Quirks
from sensor.registry.session import Session
from sensor.registry.terms import Terms, parse_address
from sensor.route import Route
from sensor.secret import InPlace, Secret
from sensor.transport import Transport
from tests.fakes.images import Built, ImageStore
from tests.fakes.layers import file, layer


class Pauses:
    """Instead of asyncio.sleep: remembers and returns at once."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


class Images:
    """A layout with one image under two tags, another repository, a multi-platform image, a chart and a signature."""

    def __init__(self, root: Path) -> None:
        self.store = ImageStore(root)
        self.blob = layer(file("usr/share/data", bytes(range(256)) * 2000), compression="none")
        self.app: Built = self.store.image("team/app", "v1", [self.blob])
        self.store.tag(self.app, "team/app", "latest")
        self.other: Built = self.store.image("team/other", "v1", [layer(file("a", b"other"))])
        self.multi: Built = self.store.multi_platform(
            "multi", "v2", {"linux/amd64": [self.blob], "linux/arm64/v8": [layer(file("a", b"arm"))]}, attest=True
        )
        self.chart: Built = self.store.helm_chart("charts/app", "1.0.0")
        self.signature: Built = self.store.cosign_signature("team/app", self.app)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "layout")


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


class Connect(Protocol):
    def __call__(self, url: str, **options: Any) -> contextlib.AbstractAsyncContextManager[RegistryClient]: ...


@pytest.fixture
def connect(pauses: Pauses) -> Connect:
    """Open a client: `connect(url, username=, password=, token=, trusted_realms=, insecure=, limits=, quirks=, native=, expired=)`."""

    @contextlib.asynccontextmanager
    async def open_client(
        url: str,
        *,
        limits: Limits = DEFAULT_LIMITS,
        quirks: Quirks | None = None,
        native: Callable[[Session], Native] | None = None,
        expired: Callable[[Answer], bool] = lambda _answer: False,
        insecure: bool = True,
        leave: float = 0.0,
        namespaces: tuple[str, ...] = (),
        ca_file: str = "",
        proxy: str = "",
        **settings: Any,
    ) -> AsyncIterator[RegistryClient]:
        for name in ("password", "token"):
            if isinstance(settings.get(name), str):
                settings[name] = InPlace(Secret(settings[name]))
        configured = Registry.model_validate({"name": "fake", "url": url, **settings})
        transport = Transport(Route(ca_file=ca_file, proxy=proxy), limits=limits, sleep=pauses)
        session = Session(
            parse_address(url),
            transport,
            ConfiguredCredential(configured),
            terms=Terms(insecure=insecure, trusted_realms=configured.trusted_realms, expired=expired),
            limits=limits,
        )
        client = RegistryClient(
            session, quirks, native(session) if native else None, leave=leave, namespaces=namespaces
        )
        try:
            yield client
        finally:
            await client.close()

    return open_client


@pytest.fixture
def http() -> Http:
    return Http()
