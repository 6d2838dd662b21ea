import typer
from typer.testing import CliRunner

from sensor.cli.commands import app
from tests.cli.conftest import Run

COMMANDS = ("run", "scan", "test", "plan", "check", "status", "advisories", "secret", "support", "demo", "console")


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    shown = run("--help")
    assert shown.status == 0
    assert all(f"\n  {command} " in shown.stdout for command in COMMANDS)
    assert "3 could not do it" in shown.stdout.replace("\n  ", " ")


def test_every_command_has_help_that_says_what_it_does_and_what_to_type(run: Run) -> None:
    for command in COMMANDS:
        shown = run(command, "--help")
        assert shown.status == 0, command
        assert len(shown.stdout.splitlines()) > 6, command
        assert f"\n    harborguard-sensor {command}" in shown.stdout, command


def test_every_option_is_explained(run: Run) -> None:
    for command in COMMANDS:
        for line in run(command, "--help").stdout.splitlines():
            words = line.split()
            if words and words[0].startswith("--"):
                # a long name pushes its explanation to the next line; a short one stands before it
                assert len(words) > 1 or len(line) > 20, (command, line)


def test_the_version_is_shown(run: Run) -> None:
    assert run("--version").stdout.startswith("harborguard-sensor 0.")


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    assert run("frobnicate").status == 2


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    assert run("check", "--nope").status == 2


def test_no_arguments_show_the_help(run: Run) -> None:
    shown = run()
    assert "Usage: harborguard-sensor" in shown.stdout + shown.stderr


def test_an_unexpected_error_shows_no_values_of_variables() -> None:
    assert app.pretty_exceptions_enable is False
    assert isinstance(typer.main.get_command(app).name, str | None)
    assert CliRunner().invoke(app, ["--help"]).exception is None
