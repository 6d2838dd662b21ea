"""What is wrong with a configuration, and where: collected, so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from sensor.config.notation import show_duration
from sensor.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and (if known) in which line of the file, or from which environment variable."""

    path: KeyPath
    text: str
    line: int | None = None
    variable: str = ""


def show_path(path: KeyPath) -> str:
    """`registries[2].tags.include[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part[:80] if part[:80].isprintable() else repr(part[:80])
            text += f".{word}" if text else word
    return text


class InvalidConfig(ConfigError):
    """All that is wrong with a configuration. The message lists it for people, `problems` one by one, in the order of the file."""

    def __init__(self, problems: Iterable[Problem], origin: str, advice: str = "") -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{count} in {origin}:", *map(_row, self.problems)]), advice)


def _row(problem: Problem) -> str:
    where = f" (line {problem.line})" if problem.line else f" (from {problem.variable})" if problem.variable else ""
    place = show_path(problem.path)
    return f"  {place}{where}: {problem.text}" if place else f"  {problem.text}{where}"


@dataclass(slots=True)
class Findings:
    """Problems stop the sensor, warnings do not."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def wrong(self, path: KeyPath, text: str) -> None:
        """One more problem."""
        self.problems.append(Problem(path, text))

    def warn(self, path: KeyPath, text: str) -> None:
        """One more warning."""
        self.warnings.append(f"{show_path(path)}: {text}")

    def between(self, path: KeyPath, value: float, least: float, most: float) -> None:
        """A problem unless a duration lies between two others; all are seconds."""
        if not least <= value <= most:
            self.wrong(path, f"expected {show_duration(least)} to {show_duration(most)}")
