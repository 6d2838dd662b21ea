"""The table of kinds: every kind keeps the rules, and the right one is opened."""

from __future__ import annotations

from typing import get_args

import pytest

from sensor.config.schema import Http, Registry
from sensor.errors import ConfigError
from sensor.registry.client import RegistryClient
from sensor.registry.kinds import KINDS, detect, find_kind, open_registry
from sensor.registry.kinds.kind import Opening, RegistryKind
from sensor.registry.kinds.layout import LayoutRegistry
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
        found = kind.detect(url)
        assert found is None or found.reason


def test_names_are_unique_and_the_last_kind_takes_everything() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert names[-1] == "distribution"


def test_detects_by_url_and_says_why() -> None:
    kind, found = detect("oci:/images")
    assert kind.name == "layout"
    assert "oci:" in found.reason
    kind, found = detect("registry.example:5000")
    assert kind.name == "distribution"
    assert found.reason


async def test_a_named_provider_wins_over_the_url() -> None:
    assert find_kind(settings(provider="distribution", url="oci:/images")).name == "distribution"
    assert isinstance(open_registry(settings(provider="layout", url="oci:/images")), LayoutRegistry)
    client = open_registry(settings())
    assert isinstance(client, RegistryClient)
    assert client.host == "registry.example"
    await client.close()


@pytest.mark.parametrize("provider", ["artifactory", "gitlab", "harbor", "nexus", "quay"])
async def test_an_api_in_plain_http_gets_no_credential_beside_a_registry_that_is_spoken_to_in_https(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_OF_HUB", "a password")
    client = open_registry(
        settings(
            provider=provider,
            url="https://registry.example",
            insecure=True,
            username="$oauthtoken",
            password={"env": "PASSWORD_OF_HUB"},
            api={"url": "http://127.0.0.1:9"},
            repositories={"namespaces": ["team"]},
        )
    )
    with pytest.raises(ConfigError, match="plain HTTP"):
        await client.repositories()
    assert client.requests == 0
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


async def test_a_registry_is_opened_and_used(images: Images) -> None:
    from sensor.registry.serve import serve

    async with serve(images.store.root) as url:
        registry = open_registry(settings(url=url, insecure=True), Http(), connections_per_host=2)
        assert "v1" in (await registry.tags("team/app")).names
        assert registry.requests == 2
        await registry.close()
