"""`check`: is the configuration right? Reads the file and the environment, opens no connection."""

from __future__ import annotations

from sensor.cli.options import ConfigOption, OutputOption, load, show_warnings
from sensor.cli.output import ExitCode, OutputFormat, clean, err, leave, out, print_json, reporting_errors
from sensor.cli.secret import unreadable
from sensor.config.notation import show_schedule
from sensor.config.problems import InvalidConfig, Problem, show_path
from sensor.errors import ConfigError


def check(config: ConfigOption = None, output: OutputOption = OutputFormat.TEXT) -> None:
    """Validate the configuration: every problem at once, with its path and line.

    Nothing is contacted: `test` does that. Secrets that cannot be read here are warned about. Exit status 2 when something is wrong.
    """
    if output is OutputFormat.JSON:
        try:
            loaded = load(config, required=True)
        except ConfigError as error:
            print_json({"valid": False, "problems": _problems(error), "advice": error.advice})
            leave(ExitCode.USAGE)
        names = [registry.name for registry in loaded.config.registries]
        warnings = [*loaded.warnings, *unreadable(loaded.config)]
        print_json({"valid": True, "warnings": warnings, "sources": loaded.sources, "registries": names})
        return
    with reporting_errors():
        loaded = load(config, required=True)
    show_warnings(loaded)
    for problem in unreadable(loaded.config):
        err.print(f"[yellow]warning:[/] {clean(problem)}")
    for source in loaded.sources:
        out.print(f"[dim]{clean(source)}[/]")
    for registry in loaded.config.registries:
        out.print(
            f"registry [bold]{clean(registry.name)}[/]: {clean(registry.url)}, {show_schedule(registry.schedule)}"
        )
    out.print("[green]the configuration is valid[/]")


def _problems(error: ConfigError) -> list[dict[str, object]]:
    """What is wrong, one by one: place, line of the file, words. What no place or line can be named for has none."""
    if isinstance(error, InvalidConfig):
        return [_problem(problem) for problem in error.problems]
    return [{"path": "", "line": None, "text": error.message}]


def _problem(problem: Problem) -> dict[str, object]:
    shown: dict[str, object] = {"path": show_path(problem.path), "line": problem.line, "text": problem.text}
    return shown | ({"variable": problem.variable} if problem.variable else {})
