"""The example documents every key of the schema, with its true default, and is a valid configuration as it stands."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sensor.config.load import load_config
from sensor.config.schema import Config

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
KEY_LINE = re.compile(r"^(?P<indent> *)(?P<item>- )?(?P<off>#)?(?P<key>[a-z0-9_]+):(?: .*)?$")


def uncommented() -> str:
    """The example with every commented-out key switched on."""
    return re.sub(r"(?m)^( *)#(?=[a-z0-9_]+:)", r"\1", EXAMPLE.read_text())


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from sections(inner)


def keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every key of the schema that stands in a file, with the section it belongs to."""
    for name, field in model.model_fields.items():
        yield (*path, name), model
        if name not in {"schedule", "update"}:  # their sections are spelled out in the comments
            for section in sections(field.annotation):
                yield from keys(section, (*path, name))


def at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value[0] if isinstance(value, (list, tuple)) else value
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def holds_sections(value: Any) -> bool:
    """Whether a value is made of sections: their keys are compared one by one."""
    return isinstance(value, BaseModel) or (isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value))


ALL_KEYS = dict(keys(Config))
ILLUSTRATED = {("registries", "username"), ("registries", "rules", "tags")}
"""Keys whose default would make no usable example."""


def test_the_schema_walk_finds_nested_keys() -> None:
    assert ("registries", "repositories", "names") in ALL_KEYS
    assert ("registries", "control_plane", "api_key") in ALL_KEYS
    assert len(ALL_KEYS) > 60


@pytest.mark.parametrize("path", ALL_KEYS, ids=".".join)
def test_every_key_is_documented_with_its_default(path: tuple[str, ...]) -> None:
    raw = yaml.safe_load(uncommented())
    at(raw, path)  # KeyError: the key is missing from the example
    field = ALL_KEYS[path].model_fields[path[-1]]
    value = at(Config.model_validate(raw), path)
    compared = field.default not in (PydanticUndefined, None) and path not in ILLUSTRATED and not holds_sections(value)
    assert not compared or value == field.default


def test_the_example_is_valid_as_it_stands() -> None:
    loaded = load_config(EXAMPLE, {})
    assert loaded.warnings == ()
    assert loaded.config.registries[0].name == "production"
    assert loaded.config.control_plane is not None
    assert loaded.config.model_copy(update={"registries": (), "control_plane": None}) == Config()


def test_every_key_line_has_a_comment_above_it() -> None:
    lines = EXAMPLE.read_text().splitlines()
    undocumented = [
        line
        for before, line in itertools.pairwise(lines)
        if KEY_LINE.match(line) and not before.lstrip().startswith("# ")
    ]
    assert undocumented == []


def test_no_key_stands_in_the_example_that_the_schema_does_not_know() -> None:
    config = Config.model_validate(yaml.safe_load(uncommented()))  # unknown keys are refused
    assert config.registries[0].control_plane is not None
