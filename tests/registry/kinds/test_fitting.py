"""Every kind says which login sections it uses; what it does not use is refused instead of passed over."""

from __future__ import annotations

from typing import Any

import pytest

from sensor.config.problems import show_path
from sensor.config.schema import Registry
from sensor.errors import ConfigError
from sensor.registry.kinds import KINDS, open_registry, unused
from sensor.registry.kinds.kind import RegistryKind

SECRET = {"env": "S"}
SECTIONS: dict[str, dict[str, Any]] = {
    "aws": {"region": "eu-central-1"},
    "gcp": {"impersonate": "a@b.example"},
    "azure": {"tenant_id": "example.com"},
    "github_app": {"app_id": "1", "private_key": SECRET},
    "api": {"url": "https://api.example", "token": SECRET},
}
USED = {
    "layout": set(),
    "archive": set(),
    "dockerhub": {"api"},
    "gar": {"gcp", "api"},
    "ghcr": {"github_app", "api"},
    "acr": {"azure"},
    "artifactory": {"api"},
    "gitlab": {"api"},
    "harbor": {"api"},
    "ecr": {"aws", "api.url"},
    "nexus": {"api"},
    "quay": {"api"},
    "distribution": set(),
}


def told(**keys: Any) -> dict[str, str]:
    settings = Registry.model_validate({"name": "one", "url": "registry.example", **keys})
    return {show_path(problem.path): problem.text for problem in unused(settings)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_refuses_the_sections_that_it_does_not_use(kind: RegistryKind) -> None:
    assert kind.uses == USED[kind.name]
    for section, keys in SECTIONS.items():
        found = told(provider=kind.name, **{section: keys})
        if section in kind.uses:
            assert found == {}
        elif section == "api" and "api.url" in kind.uses:
            assert list(found) == ["api.token"]
        else:
            assert list(found) == [section]
            assert found[section].endswith(f"this is {kind.name}; leave it out")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_every_kind_refuses_the_identity_of_a_cloud_that_is_not_its_own(kind: RegistryKind, cloud: str) -> None:
    assert (told(provider=kind.name, auth=cloud) == {}) is (cloud in kind.uses)


def test_every_section_is_some_kinds() -> None:
    assert {name.partition(".")[0] for kind in KINDS for name in kind.uses} == set(SECTIONS)


def test_a_provider_that_was_only_guessed_may_be_the_wrong_one() -> None:
    owner = {"aws": "ecr", "gcp": "gar", "azure": "acr"}
    for cloud, provider in owner.items():
        (text,) = told(auth=cloud).values()
        assert f"{cloud} is for provider {provider}, and this is taken for distribution" in text
        assert f"; set provider: {provider}, or leave it out" in text
    assert "gitlab, harbor" in told(api=SECTIONS["api"])["api"]


def test_a_provider_that_the_address_tells_is_right() -> None:
    (text,) = told(url="myregistry.azurecr.io", auth="aws").values()
    assert text == "aws is for provider ecr, and this is acr; leave it out"
    assert told(url="myregistry.azurecr.io", auth="azure") == {}
    assert told(url="123456789012.dkr.ecr.eu-central-1.amazonaws.com", auth="aws") == {}


@pytest.mark.parametrize("auth", ["auto", "anonymous"])
def test_what_every_registry_knows_is_used(auth: str) -> None:
    assert told(auth=auth) == {}
    assert told(username="u", password=SECRET, trusted_realms=["auth.example"]) == {}


def test_a_plain_registry_has_no_path() -> None:
    assert told(url="https://registry.example/v2/") == {}
    (text,) = told(url="registry.example/team").values()
    assert 'choose repositories with repositories.include: ["team/**"], or set provider:' in text
    (text,) = told(url="registry.example/team", provider="distribution").values()
    assert text.endswith('["team/**"]')
    assert told(url="registry.example/team", provider="harbor") == {}
    assert told(url="https://u:p@registry.example/team") == {}  # no address: told elsewhere


@pytest.mark.parametrize(
    ("url", "registry"),
    [("https://hub.docker.com/r/library/nginx", "docker.io"), ("github.com/team", "ghcr.io")],
)
@pytest.mark.parametrize("provider", ["auto", "distribution", "dockerhub"])
def test_the_web_site_of_a_provider_is_not_its_registry(url: str, registry: str, provider: str) -> None:
    found = told(url=url, provider=provider, auth="aws")
    assert list(found) == ["url"]
    assert f"write {registry}, its registry" in found["url"]


def test_nothing_is_opened_with_a_setting_that_would_be_passed_over() -> None:
    settings = Registry.model_validate({"name": "one", "url": "registry.example", "auth": "azure"})
    with pytest.raises(ConfigError, match="registry one: auth: azure is for provider acr") as caught:
        open_registry(settings)
    assert caught.value.advice == "set provider: acr, or leave it out"
