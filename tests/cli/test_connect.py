from pathlib import Path

import pytest

from sensor.cli.connect import locate_image, registry_named
from sensor.config.schema import Config, ControlPlane, Registry
from sensor.errors import ConfigError
from sensor.secret import FromEnv

CONFIG = Config(registries=(Registry(name="prod", url="https://reg.example:5000/"),))
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize("target", ["prod", "reg.example:5000", "https://reg.example:5000"])
def test_a_configured_registry_is_found_by_name_and_by_address(target: str) -> None:
    assert registry_named(CONFIG, target) is CONFIG.registries[0]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("other.example", "other.example"),
        ("localhost", "localhost"),
        ("oci:/tmp/x", "oci-tmp-x"),
        ("archive:/tmp/x.tar", "archive-tmp-x.tar"),
        ("http://h:1/", "h-1"),
    ],
)
def test_an_address_that_is_not_configured_becomes_a_registry(target: str, name: str) -> None:
    made = registry_named(CONFIG, target, insecure=True)
    assert (made.name, made.url, made.insecure, made.username) == (name, target, True, "")


def test_a_mistyped_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="configured are: prod"):
        registry_named(CONFIG, "prdo")


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a registry address"):
        registry_named(CONFIG, "https://user@h.example/?q")


@pytest.mark.parametrize(
    ("image", "reference", "registry"),
    [
        ("reg.example:5000/team/app:1", "reg.example:5000/team/app:1", "prod"),
        ("https://reg.example:5000/team/app:1", "reg.example:5000/team/app:1", "prod"),
        (f"reg.example:5000/app:{DIGEST}", f"reg.example:5000/app@{DIGEST}", "prod"),
        ("other.example/app", "other.example/app", "other.example"),
        ("oci:/i/layout", "", "oci-i-layout"),
        ("oci:/i/layout:1.4", ":1.4", "oci-i-layout"),
        ("oci:/i/layout:team/app", "team/app", "oci-i-layout"),
        ("oci:/i/layout:app:1.4", "app:1.4", "oci-i-layout"),
        ("oci:/i/layout:team/app:1.4", "team/app:1.4", "oci-i-layout"),
        (f"oci:/i/layout:team/app@{DIGEST}", f"team/app@{DIGEST}", "oci-i-layout"),
        (f"oci:/i/layout@{DIGEST}", f"@{DIGEST}", "oci-i-layout"),
        ("archive:/i/app.tar", "", "archive-i-app.tar"),
        ("archive:/i/app.tar:1.4", ":1.4", "archive-i-app.tar"),
        ("archive:/i/app.tar:app:1.4", "app:1.4", "archive-i-app.tar"),
        ("archive:/i/app.tar:team/app:1.4", "team/app:1.4", "archive-i-app.tar"),
        ("archive:/i/app.tar:host.example:5000/team/app:1.4", "team/app:1.4", "archive-i-app.tar"),
        ("archive:/i/app.tar:host.example/app", "app", "archive-i-app.tar"),
        (f"archive:/i/app.tar:app@{DIGEST}", f"app@{DIGEST}", "archive-i-app.tar"),
        ("docker-archive:/i/app.tar:docker.io/library/app:1", "library/app:1", "archive-i-app.tar"),
        ("oci-archive:/i/drop:1", ":1", "archive-i-drop"),
    ],
)
def test_an_image_is_located(image: str, reference: str, registry: str) -> None:
    found, settings = locate_image(CONFIG, image)
    assert (str(found), settings.name) == (reference, registry)


def test_a_relative_layout_is_found_from_the_working_directory() -> None:
    _, settings = locate_image(CONFIG, "oci:some/layout:app:1")
    assert settings.url == f"oci:{Path.cwd()}/some/layout"


@pytest.mark.parametrize("scheme", ["archive", "oci-archive", "docker-archive"])
def test_a_configured_archive_is_found_in_whatever_words(scheme: str) -> None:
    config = Config(registries=(Registry(name="drop", url="docker-archive:/var/drop/"),))
    assert registry_named(config, f"{scheme}:/var/drop") is config.registries[0]
    assert locate_image(config, f"{scheme}:/var/drop:app:1")[1] is config.registries[0]


def test_a_relative_archive_is_found_from_the_working_directory() -> None:
    _, settings = locate_image(CONFIG, "archive:app.tar:app:1")
    assert settings.url == f"archive:{Path.cwd()}/app.tar"


@pytest.mark.parametrize(
    "image",
    ["archive:/i/app.tar:a:b:c", "archive:/i/app.tar:Team/App", "archive:/i/app.tar:app:", "archive:/i/app.tar@md5:1"],
)
def test_what_is_no_image_of_an_archive_is_a_mistake_of_the_command_line(image: str) -> None:
    with pytest.raises(ConfigError, match=r"archive|reference|digest"):
        locate_image(CONFIG, image)


@pytest.mark.parametrize(
    "image",
    ["", "Team/App", "reg.example/app:", "nginx:latest", "oci:/i/layout:a:b:c", "oci:/i/layout:a/b@sha256:1", "a b"],
)
def test_what_is_no_image_is_a_mistake_of_the_command_line(image: str) -> None:
    with pytest.raises(ConfigError):
        locate_image(CONFIG, image)


def test_a_short_name_is_completed_only_by_a_configured_default() -> None:
    plane = ControlPlane(url="https://hg.example", api_key=FromEnv("X"), default_registry="docker.io")
    found, settings = locate_image(Config(control_plane=plane), "nginx:1")
    assert (str(found), settings.url) == ("docker.io/library/nginx:1", "docker.io")


def test_on_a_shared_host_an_image_gets_the_registry_with_its_namespace() -> None:
    config = Config(registries=(
        Registry(name="disk", url="oci:/images"),
        Registry(name="whole", url="quay.io"),
        Registry(name="acme", url="quay.io/acme"),
        Registry(name="hub", url="https://index.docker.io/v1/"),
        Registry(name="team", url="harbor.example/team", provider="harbor"),
    ))  # fmt: skip
    for image, name in (
        ("quay.io/acme/app:1", "acme"),
        ("quay.io/acmes/app:1", "whole"),
        ("docker.io/acme/app:1", "hub"),
        ("registry-1.docker.io/library/nginx:1", "hub"),
        ("harbor.example/other/app:1", "harbor.example"),
    ):
        assert locate_image(config, image)[1].name == name, image
