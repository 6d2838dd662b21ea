"""Checks a raw configuration and gives what was found as text."""

from __future__ import annotations

from typing import Any

from sensor.config.problems import show_path
from sensor.config.schema import Config
from sensor.config.validate import find_problems

PLANE = {"url": "https://h.example", "api_key": {"env": "KEY"}}


def registry(**keys: Any) -> dict[str, Any]:
    """A registry with these keys besides a name and a URL."""
    return {"name": "a", "url": "a.example.net", **keys}


def problems(private: bool = True, **raw: Any) -> list[str]:
    """All problems, each with its place."""
    found, _ = find_problems(Config.model_validate(raw), private=private)
    return [f"{show_path(problem.path)}: {problem.text}" for problem in found]


def warnings(**raw: Any) -> list[str]:
    """All warnings."""
    return find_problems(Config.model_validate(raw))[1]


def of_registry(**keys: Any) -> list[str]:
    """The problems of a configuration with one registry, without the registry's own place."""
    return [problem.removeprefix("registries[0].") for problem in problems(registries=[registry(**keys)])]


def warned(**keys: Any) -> list[str]:
    """The warnings about it."""
    return [warning.removeprefix("registries[0].") for warning in warnings(registries=[registry(**keys)])]
