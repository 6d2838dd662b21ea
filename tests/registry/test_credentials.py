"""Credentials from the configuration: read when they are used, read again when they were refused, refused when they cannot be sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config.schema import Registry
from sensor.errors import SecretError
from sensor.registry.credentials import Anonymous, ConfiguredCredential
from sensor.registry.login import Basic, StaticToken
from sensor.secret import FromEnv, FromFile, Secret


def settings(**more: object) -> Registry:
    return Registry.model_validate({"name": "one", "url": "registry.example", **more})


async def test_secrets_are_read_at_use_and_again_after_a_refusal(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    source = ConfiguredCredential(settings(username="u", password=FromFile(str(file))))
    with pytest.raises(SecretError):
        await source.credential(renew=False)
    file.write_text("first\n")
    assert await source.credential(renew=False) == Basic(username="u", password=Secret("first"))
    file.write_text("second\n")
    assert await source.credential(renew=False) == Basic(username="u", password=Secret("first"))
    assert await source.credential(renew=True) == Basic(username="u", password=Secret("second"))


async def test_the_kinds_of_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abc")
    assert await ConfiguredCredential(settings()).credential(renew=False) is None
    token = await ConfiguredCredential(settings(token=FromEnv("SOME_TOKEN"))).credential(renew=False)
    assert token == StaticToken(token=Secret("abc"))
    monkeypatch.setenv("SOME_TOKEN", "two\nlines")
    with pytest.raises(SecretError, match="line breaks"):
        await ConfiguredCredential(settings(token=FromEnv("SOME_TOKEN"))).credential(renew=False)
    with pytest.raises(SecretError, match="colon"):
        await ConfiguredCredential(settings(username="a:b", password=FromEnv("SOME_TOKEN"))).credential(renew=False)
    with pytest.raises(SecretError, match="user name of registry one contains line breaks"):
        await ConfiguredCredential(settings(username="a\nb", password=FromEnv("SOME_TOKEN"))).credential(renew=False)


async def test_a_password_that_is_a_json_file_keeps_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text('{\n  "type": "service_account"\n}\n')
    given = await ConfiguredCredential(settings(username="_json_key", password=FromFile(str(file)))).credential(
        renew=False
    )
    assert given == Basic(username="_json_key", password=Secret('{\n  "type": "service_account"\n}'))


async def test_anonymous_is_never_anybody() -> None:
    assert await Anonymous().credential(renew=True) is None
