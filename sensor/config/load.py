"""Reads the configuration: one YAML file, completed by the environment variables that HarborGuard sensors have always had.

The file ranks first, the environment below it, the schema's defaults last. All problems are found at once, each with its path and the line of
the file; no message ever holds a value, because the value may be a secret. Leaves the rules that need more than one key to `validate`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml
from pydantic import ValidationError

from sensor.config.environment import complete
from sensor.config.mend import concerns, mended, section_at
from sensor.config.problems import InvalidConfig, KeyPath, Problem, show_path
from sensor.config.schema import Config, Registry
from sensor.config.validate import find_problems
from sensor.errors import ConfigError
from sensor.limits import MIB
from sensor.secret import is_private_file
from sensor.vault import key_beside_data

_MOST_BYTES = 1 * MIB
_MOST_NODES = 50_000
"""Values in the file after aliases are written out: an alias bomb stops here."""
_MOST_NESTED = 16

_ADVICE = "correct the configuration; config.example.yaml documents every key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration in force.

    `warnings` are sentences for the operator, `sources` say which environment variable gave which key (never its value).
    """

    config: Config
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """A configuration on its way: raw values, the lines they stand on, and what is to be said about them."""

    raw: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sources: dict[KeyPath, str] = field(default_factory=dict)


Examine: TypeAlias = Callable[[Registry], Iterable[Problem]]
"""What else is wrong with one registry; the paths begin below it."""


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    required: bool = True,
    examine: Examine = lambda _registry: (),
) -> Loaded:
    """Read, complete and check a configuration.

    Without a file the environment alone may be enough. With neither, `required=False` gives the defaults (for one-shot commands).
    `examine` is asked about every registry: what a key means to its provider is not known here.

    Raises:
        InvalidConfig: anything in it is wrong; it lists all problems.
        ConfigError: there is none, or the file cannot be read.
    """
    text = None if path is None else _read_text(path)
    draft = _Draft()
    if text is not None:
        _YamlReader(draft).read(text)
    if draft.raw or not draft.problems:
        overlay = complete(draft.raw, environ)
        draft.raw, draft.sources = overlay.raw, overlay.sources
        draft.problems += overlay.problems
        draft.warnings += overlay.warnings
        if text is None and required and not draft.sources and not draft.problems:
            message = f"there is no configuration file {path}" if path else "no configuration file was named"
            raise ConfigError(message, "write one (see config.example.yaml), or set HARBORGUARD_URL and REGISTRY_URL")
    config = None if draft.problems and not draft.raw else _build(draft, examine, private=_is_private(path, text))
    if config is not None and (complaint := key_beside_data(environ, Path(config.state.directory))):
        draft.problems.append(Problem(("state", "directory"), f"{complaint}; keep it elsewhere"))
    if config is None or draft.problems:
        raise _invalid(draft, path if text is not None else None)
    sources = tuple(f"{show_path(key)} from {name}" for key, name in draft.sources.items())
    return Loaded(config=config, warnings=tuple(draft.warnings), sources=sources)


def _read_text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        message = f"cannot read the configuration file {path}: {reason}"
        raise ConfigError(message, "check the path and that this user may read it") from error
    if len(data) > _MOST_BYTES:
        message = f"the configuration file {path} is larger than {_MOST_BYTES // MIB} MiB"
        raise ConfigError(message, "is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the configuration file {path} is not UTF-8 text"
        raise ConfigError(message, "save it as UTF-8") from error


def _is_private(path: Path | None, text: str | None) -> bool:
    return text is None or path is None or is_private_file(path)


def _invalid(draft: _Draft, path: Path | None) -> InvalidConfig:
    located = [
        replace(problem, line=_line_of(draft, problem), variable=draft.sources.get(problem.path, ""))
        for problem in draft.problems
    ]
    located.sort(key=lambda problem: (problem.line or 0, show_path(problem.path)))
    return InvalidConfig(located, str(path or "the environment"), _ADVICE)


def _line_of(draft: _Draft, problem: Problem) -> int | None:
    if problem.line:
        return problem.line
    if problem.path in draft.sources:
        return None
    # a missing key has no line of its own: the nearest enclosing one helps
    return next(
        (draft.lines[problem.path[:n]] for n in range(len(problem.path), 0, -1) if problem.path[:n] in draft.lines),
        None,
    )


# --- YAML -------------------------------------------------------------------------------------------------------------------------


class _YamlReader:
    """Turns YAML into plain values and remembers the lines.

    Scalars follow YAML 1.2, where only true and false are booleans: `listen: off` stays a word. Keys without a value count as not set.
    """

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self._nodes = 0

    def read(self, text: str) -> None:
        """Fill the draft's `raw` and `lines`, or its `problems`."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            value = None if root is None else self._value(root, ())
        except yaml.YAMLError as error:
            self._draft.problems.append(_syntax_problem(error))
            return
        except RecursionError:
            self._draft.problems.append(Problem((), "the file is nested too deeply"))
            return
        except _Stop as stop:
            self._draft.problems.append(stop.problem)
            return
        if value is not None and not isinstance(value, dict):
            self._draft.problems.append(Problem((), "expected keys such as `registries:` at the top of the file"))
            return
        self._draft.raw = value or {}

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        self._draft.lines.setdefault(path, line)
        self._nodes += 1
        if self._nodes > _MOST_NODES or len(path) > _MOST_NESTED:
            raise _Stop(Problem(path[:2], "too many or too deeply nested values (are aliases used in a circle?)", line))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(cast("yaml.ScalarNode", node), path, line)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                text = "keys must be plain words; merge keys (<<) and composed keys are not supported"
                self._draft.problems.append(Problem(path, text, line))
                continue
            key = key_node.value
            here = (*path, key)
            if key in first:
                self._draft.problems.append(Problem(here, f"this key stands twice, first in line {first[key]}", line))
                continue
            first[key] = self._draft.lines[here] = line
            value = self._value(value_node, here)
            if value is not None:
                result[key] = value
        return result

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, line: int) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text: str = node.value
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        if kind == "int" and re.fullmatch(r"[-+]?[0-9]{1,18}", text):
            return int(text)
        if kind == "float" and re.fullmatch(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}", text):
            return float(text)
        if kind in {"str", "bool", "int", "float", "timestamp", "value", "merge"}:
            return text
        self._draft.problems.append(Problem(path, "YAML tags (!...) are not supported", line))
        return text


class _Stop(Exception):
    """Leaves the recursion, never the reader."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else None
    # the parser quotes what it read (an alias, a tag, a character), and that may be part of a secret
    said = re.sub(
        r"""['"].*['"]""",
        "...",
        str(getattr(error, "problem", None) or "a character that is not allowed"),
        flags=re.DOTALL,
    )
    context = str(getattr(error, "context", None) or "")
    if "alias" in said or "alias" in context:
        said += "; a value that begins with * must stand in quotes"
    elif "mapping values" in said:
        said += "; a value that holds ': ' must stand in quotes"
    elif "tab" in said or "\\t" in str(error):
        said += "; indent with spaces"
    return Problem((), f"not YAML: {said}", line)


# --- the schema's own complaints, in words ----------------------------------------------------------------------------------------

_SCHEDULE = "expected daily, weekly, manual, {every: 6h} or {cron: '30 2 * * *'}"
_WORDS = {
    "missing": "is missing",
    "string_type": "should be text; put it in quotes",
    "tuple_type": "should be a list",
    "model_type": "should hold keys of its own",
    "model_attributes_type": "should hold keys of its own",
    "string_pattern_mismatch": "expected lower-case letters, digits, dots, dashes and underscores, at most 63, a letter or digit first",
}


def _build(draft: _Draft, examine: Examine, *, private: bool) -> Config | None:
    """Make the configuration and check all rules; what is wrong goes to the draft's problems."""
    bad: set[KeyPath] = set()
    try:
        config = Config.model_validate(draft.raw)
    except ValidationError as error:
        found = _in_words(error)
        draft.problems.extend(found)
        bad = {problem.path for problem in found}
        try:
            # the rules are still worth checking on what is well-typed
            config = Config.model_validate(mended(draft.raw, bad))
        except ValidationError:
            return None
    problems, warnings = find_problems(config, private=private, elsewhere=frozenset(draft.sources))
    told = {problem.path for problem in problems}
    for place, registry in enumerate(config.registries):
        here = ("registries", place)
        if not bad.isdisjoint({here, (*here, "url"), (*here, "provider")}):
            continue  # whose it is is not known
        further = (replace(found, path=(*here, *found.path)) for found in examine(registry))
        # where the general rules object to a key already, the provider's would only repeat it
        problems.extend(problem for problem in further if problem.path not in told)
    draft.problems.extend(problem for problem in problems if not concerns(problem.path, bad))
    draft.warnings.extend(warnings)
    return None if draft.problems else config


def _in_words(error: ValidationError) -> list[Problem]:
    found: dict[KeyPath, Problem] = {}
    for item in error.errors(include_input=False, include_url=False):
        path, kind = item["loc"], item["type"]
        for place, part in enumerate(path):
            # a union reports once for each of its members: one sentence says it
            if part == "schedule" or path[max(place - 1, 0) : place + 1] == ("advisories", "update"):
                path, kind = path[: place + 1], "schedule"
                break
        if kind == "schedule":
            text = _SCHEDULE
        elif kind == "extra_forbidden":
            text = "unknown key" + _nearest(path)
        else:
            said = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
            text = _WORDS.get(kind, said)
        found.setdefault(path, Problem(path, text))
    return list(found.values())


def _nearest(path: KeyPath) -> str:
    """` (did you mean ...?)` for a key that the schema does not know."""
    section = section_at(path[:-1])
    if section is None:
        return ""
    near = difflib.get_close_matches(str(path[-1]), section.model_fields, 1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(section.model_fields)}"
