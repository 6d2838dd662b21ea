import json

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from sensor.cli.output import ExitCode, clean, plain, print_json, reporting_errors, show_bytes
from sensor.errors import ConfigError, NetworkError


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("bad", "mend"), ExitCode.USAGE), (NetworkError("down"), ExitCode.FAILED)]
)
def test_errors_become_exit_codes_with_advice(
    error: Exception, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as left, reporting_errors():
        raise error
    assert left.value.exit_code == code
    assert ("try: mend" in capsys.readouterr().err) is isinstance(error, ConfigError)


@given(st.text())
def test_text_from_outside_cannot_steer_a_terminal_or_add_markup(text: str) -> None:
    shown = Text.from_markup(clean(text)).plain
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert plain(text).spans == []
    assert all(c.isprintable() for c in plain(text).plain)


def test_markup_is_inert() -> None:
    assert Text.from_markup(clean("[bold]x[/bold]")).plain == "[bold]x[/bold]"


def test_json_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"b": 1, "a": [None]})
    assert json.loads(capsys.readouterr().out) == {"a": [None], "b": 1}


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 1024**2, "5.0 MiB"), (3 * 1024**4, "3072.0 GiB")],
)
def test_sizes_are_binary(size: int, text: str) -> None:
    assert show_bytes(size) == text
