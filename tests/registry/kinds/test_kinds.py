"""The table of kinds: every kind keeps the rules, and the right one is opened."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from sensor.config.schema import Http, Registry
from sensor.errors import ConfigError, SecretError
from sensor.registry.client import RegistryClient
from sensor.registry.kinds import KINDS, detect, find_kind, open_registry
from sensor.registry.kinds.kind import ConfiguredCredential, Opening, RegistryKind
from sensor.registry.kinds.layout import LayoutRegistry
from sensor.registry.login import Basic, StaticToken
from sensor.secret import FromEnv, FromFile, Secret
from tests.registry.conftest import Images


def settings(**more: object) -> Registry:
    return Registry.model_validate({"name": "one", "url": "registry.example", **more})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_can_be_named_in_the_configuration(kind: RegistryKind) -> None:
    assert kind.name in get_args(Registry.model_fields["provider"].annotation)
    assert find_kind(settings(provider=kind.name, url="oci:/x")) is kind


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_detection_takes_any_text_and_gives_a_reason(kind: RegistryKind) -> None:
    for url in ("", "registry.example", "https://[::1", "oci:/x", "\x00", "a" * 5000):
        reason = kind.detect(url)
        assert reason is None or reason


def test_names_are_unique_and_the_last_kind_takes_everything() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert names[-1] == "distribution"


def test_detects_by_url_and_says_why() -> None:
    kind, reason = detect("oci:/images")
    assert kind.name == "layout"
    assert "oci:" in reason
    kind, reason = detect("registry.example:5000")
    assert kind.name == "distribution"
    assert reason


async def test_a_named_provider_wins_over_the_url() -> None:
    assert find_kind(settings(provider="distribution", url="oci:/images")).name == "distribution"
    assert isinstance(open_registry(settings(provider="layout", url="oci:/images")), LayoutRegistry)
    client = open_registry(settings())
    assert isinstance(client, RegistryClient)
    assert client.host == "registry.example"
    await client.close()


def test_an_unknown_provider_is_refused() -> None:
    odd = settings().model_copy(update={"provider": "elsewhere"})
    with pytest.raises(ConfigError, match="elsewhere"):
        find_kind(odd)


def test_own_route_settings_win_over_the_general_ones() -> None:
    http = Http(ca_file="/general.pem", proxy="http://proxy:3128", no_proxy=("x",))
    general = Opening(settings=settings(), http=http).route
    assert (general.ca_file, general.proxy, general.no_proxy) == ("/general.pem", "http://proxy:3128", ("x",))
    own = Opening(settings=settings(ca_file="/own.pem", proxy="direct"), http=http).route
    assert (own.ca_file, own.proxy) == ("/own.pem", "direct")
    assert own.proxy_for("registry.example") is None


def test_plain_http_needs_the_operators_word() -> None:
    with pytest.raises(ConfigError, match="plain HTTP"):
        open_registry(settings(url="http://registry.example"))


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


async def test_a_registry_is_opened_and_used(images: Images) -> None:
    from sensor.registry.serve import serve

    async with serve(images.store.root) as url:
        registry = open_registry(settings(url=url, insecure=True), Http(), connections_per_host=2)
        assert "v1" in (await registry.tags("team/app")).names
        assert registry.requests == 2
        await registry.close()
