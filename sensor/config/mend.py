"""Stand-ins for what is wrong in shape, so that the rules can be checked on all the rest of a configuration at once.

A value of the wrong type stops the schema, and with it every rule about its neighbours. Here each one is replaced by something of the right
type, in its own place: nothing moves in a list, and nothing around it is lost. What the rules then say about a stand-in means nothing, and is
left out (`concerns`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from sensor.config.problems import KeyPath, show_path
from sensor.config.schema import Config

_OMIT = object()
"""The key goes, and the schema's default takes its place."""


def mended(raw: dict[str, Any], bad: Collection[KeyPath]) -> dict[str, Any]:
    """A copy in which every bad value is left out, or replaced by a stand-in where leaving it out would be wrong in itself."""
    copied = copy.deepcopy(raw)
    for number, path in enumerate(sorted(bad, key=lambda path: (len(path), show_path(path)))):
        *parents, key = path
        try:
            place: Any = copied
            for part in parents:
                place = place[part]
            value = _stand_in(path, f"stand-in-{number}", place)
            if value is _OMIT:
                place.pop(key, None)
            else:
                place[key] = value
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # went with an enclosing value
    return copied


def concerns(path: KeyPath, bad: Collection[KeyPath]) -> bool:
    """Whether a rule spoke about a stand-in: about a bad value, or about something in it."""
    return any(path[: len(known)] == known for known in bad)


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """The model that describes the mapping at a path; None where that is no section."""
    section: type[BaseModel] | None = Config
    for part in path:
        if isinstance(part, str):
            section = _section_of(section, part) if section is not None else None
    return section


def _stand_in(path: KeyPath, word: str, place: Any) -> Any:
    """Something of the right type for the value at a path; `word` is one that stands nowhere else, `place` what holds the value."""
    *parents, key = path
    if key == "schedule" or path == ("advisories", "update"):
        return _OMIT
    if isinstance(key, int):
        element = section_at(path)
        return word if element is None else _least(element, word)
    section = section_at(tuple(parents))
    if section is None:
        return word  # a variable of a plug-in: its name may be wrong too
    known = section.model_fields.get(key)
    if known is None:
        return _OMIT
    if key == "insecure":
        return not str(place.get("url", "")).startswith("https:")
    if known.annotation is Any:
        return {"env": "STAND_IN"}
    if known.annotation is str or known.is_required():
        return word
    inner = _section_of(section, key)
    return _OMIT if inner is None or _is_list(known.annotation) else _least(inner, word)


def _least(section: type[BaseModel], word: str) -> dict[str, Any]:
    """The smallest section of that kind: what it demands, and nothing else."""
    required = {name: known for name, known in section.model_fields.items() if known.is_required()}
    return {name: {"env": "STAND_IN"} if known.annotation is Any else word for name, known in required.items()}


def _section_of(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model behind a key: itself, the element of a tuple, or the model of an optional one."""
    known = section.model_fields.get(key)
    kinds = [known.annotation] if known is not None else []
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        kinds.extend(getattr(kind, "__args__", ()))
    return None


def _is_list(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) is tuple
