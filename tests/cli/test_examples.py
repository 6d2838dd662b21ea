import pytest

from sensor.cli.commands import COMMANDS
from sensor.cli.examples import EXAMPLES
from tests.cli.command_lines import problem_of


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_what_the_help_shows_can_be_typed(example: str) -> None:
    assert problem_of(f"harborguard-sensor {example}") == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("harborguard-sensor scna x", "no command 'scna'"),
        ("harborguard-sensor advisories frob", "no command 'frob'"),
        ("harborguard-sensor scan x --fail-om high", "no option --fail-om"),
        ("harborguard-sensor scan x --fail-on", "needs a value"),
        ("harborguard-sensor scan x y", "takes 1 arguments"),
        ("harborguard-sensor --verison", "no option --verison"),
    ],
)
def test_what_could_not_be_typed_is_noticed(line: str, problem: str) -> None:
    assert problem in problem_of(line)
