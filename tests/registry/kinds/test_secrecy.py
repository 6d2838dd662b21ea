"""Nothing secret in what people are shown: errors and their causes, results, logs, representations. Even when the other side repeats it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.log import configure_logging
from tests.fakes.hostile import configured_secrets, held, issued_secrets, repeating, twisted
from tests.fakes.registries.provider import Mistake, ProviderFake
from tests.registry.kinds.attacks import (
    ONCE,
    QUICK,
    Walk,
    each,
    environment,
    everything,
    insides,
    opening,
    sdk_connections,
)

pytestmark = sdk_connections


class Heard(logging.Handler):
    """Every record that gets as far as the root, as it is."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(record.getMessage() + str(record.exc_info or ""))


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged at the level debug: the sensor's own lines, and those of libraries before they are masked."""
    stream, heard = io.StringIO(), Heard()
    configure_logging("debug", "json", stream)
    logging.getLogger().addHandler(heard)
    lines: list[str] = []
    yield lines
    logging.getLogger().removeHandler(heard)
    lines += [*heard.lines, stream.getvalue()]


def given_away(fake: ProviderFake, login: Any, words: Iterator[str]) -> list[str]:
    """Where something secret is among the words."""
    secrets = {**configured_secrets(fake, login), **issued_secrets(fake)}
    texts = set(words)
    if not held("\n".join(texts), secrets):
        return []
    return [f"{what} in {text[:1000]}" for text in texts for what in held(text, secrets)]


@each("login")
async def test_no_secret_is_shown_even_when_it_is_repeated_to_us(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    async with twisted(fake_type)(tmp_path) as fake:
        login = fake.logins[index]
        environment(login, monkeypatch)
        walk = Walk()
        fake.after = repeating()
        async with opening(fake.settings(login)) as registry:  # refused from the beginning
            await everything(registry, fake, into=walk, brief=True)
        fake.after = None
        async with opening(fake.settings(login), QUICK) as registry:  # let in first
            await everything(registry, fake, into=walk, brief=True)
            objects = [*insides(fake.settings(login)), *insides(registry)]
            fake.after = repeating()
            await everything(registry, fake, into=walk)
            fake.expire()
            await everything(registry, fake, into=walk, brief=True)
        assert len(walk.errors) > 5
        assert given_away(fake, login, iter(objects)) == []
        assert given_away(fake, login, walk.words()) == []
    assert given_away(fake, login, iter(log)) == []


@each("mistake")
async def test_a_mistake_is_not_shown(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    async with fake_type(tmp_path) as fake:
        mistake: Mistake = fake.mistakes[index]
        environment(mistake, monkeypatch)
        async with opening(fake.settings(mistake), ONCE) as registry:
            walk = await everything(registry, fake, brief=True)
        assert walk.errors
        assert given_away(fake, mistake, walk.words()) == []
    assert given_away(fake, mistake, iter(log)) == []
