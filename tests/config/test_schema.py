import pytest
from pydantic import ValidationError

from sensor.config.schema import Config, Registry


def test_sections_are_frozen_and_refuse_unknown_keys() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.platforms = ()  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Config.model_validate({"nonsense": 1})


def test_registries_by_name_and_their_platforms() -> None:
    own = Registry(name="b", url="b.example", platforms=("linux/arm64",))
    config = Config(registries=(Registry(name="a", url="a.example"),)).with_registry(own)
    assert config.registry("b") is own
    assert config.registry("c") is None
    assert [config.platforms_of(registry) for registry in config.registries] == [("linux/amd64",), ("linux/arm64",)]


def test_empty_secrets_of_a_registry_are_not_set() -> None:
    assert Registry.model_validate({"name": "a", "url": "u", "password": None, "token": None}).password is None
    nested = Registry.model_validate({"name": "a", "url": "u", "aws": {"secret_access_key": None}})
    assert nested.aws.secret_access_key is None
    with pytest.raises(ValidationError):
        Registry.model_validate("words")
