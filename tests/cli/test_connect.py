import pytest

from sensor.cli.connect import registry_named
from sensor.config.schema import Config, Registry
from sensor.errors import ConfigError

CONFIG = Config(registries=(Registry(name="prod", url="https://reg.example:5000/"),))


@pytest.mark.parametrize("target", ["prod", "reg.example:5000", "https://reg.example:5000"])
def test_a_configured_registry_is_found_by_name_and_by_address(target: str) -> None:
    assert registry_named(CONFIG, target) is CONFIG.registries[0]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("other.example", "other.example"),
        ("localhost", "localhost"),
        ("oci:/tmp/x", "oci-tmp-x"),
        ("http://h:1/", "h-1"),
    ],
)
def test_an_address_that_is_not_configured_becomes_a_registry(target: str, name: str) -> None:
    made = registry_named(CONFIG, target, insecure=True)
    assert (made.name, made.url, made.insecure, made.username) == (name, target, True, "")


def test_a_mistyped_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="configured are: prod"):
        registry_named(CONFIG, "prdo")
