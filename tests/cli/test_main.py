from tests.cli.conftest import Run

COMMANDS = ("run", "scan", "test", "plan", "check", "status", "advisories", "secret", "demo", "console")


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    shown = run("--help")
    assert shown.status == 0
    assert all(f"\n  {command} " in shown.stdout for command in COMMANDS)
    assert "3 could not do it" in shown.stdout.replace("\n  ", " ")


def test_every_command_has_help_that_says_what_it_does(run: Run) -> None:
    for command in COMMANDS:
        shown = run(command, "--help")
        assert shown.status == 0, command
        assert len(shown.stdout.splitlines()) > 6, command


def test_the_version_is_shown(run: Run) -> None:
    assert run("--version").stdout.startswith("harborguard-sensor 0.")


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    assert run("frobnicate").status == 2


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    assert run("check", "--nope").status == 2
