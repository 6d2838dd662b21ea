import json
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from sensor.cli.output import (
    ExitCode,
    OutputFormat,
    as_text,
    clean,
    grid,
    plain,
    print_json,
    printable,
    reporting_errors,
    show_bytes,
    write,
)
from sensor.errors import ConfigError, NetworkError, SensorError, StateError


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


def test_for_machines_a_failure_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, reporting_errors(OutputFormat.JSON):
        raise StateError("full", "make room")
    assert left.value.exit_code == ExitCode.FAILED
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "full", "advice": "make room"}
    assert shown.err == "error: full\n  try: make room\n"


def test_of_several_tasks_that_failed_the_first_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [ConfigError("first")]), NetworkError("second")])
    with pytest.raises(typer.Exit) as left, reporting_errors():
        raise nested
    assert left.value.exit_code == ExitCode.USAGE
    assert capsys.readouterr().err == "error: first\n"


@pytest.mark.parametrize("also", [[], [SensorError("expected")]])
def test_what_nobody_expected_is_not_hidden(also: list[Exception]) -> None:
    with pytest.raises(ExceptionGroup, match="tasks"), reporting_errors():
        raise ExceptionGroup("tasks", [ValueError("a mistake of ours"), *also])


def test_ctrl_c_has_a_status_of_its_own() -> None:
    with pytest.raises(typer.Exit) as left, reporting_errors():
        raise KeyboardInterrupt
    assert left.value.exit_code == 130


def test_several_problems_keep_their_lines_but_nothing_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reporting_errors():
        raise ConfigError("two:\n  one \x1b[31m\n  other [red]x")
    assert capsys.readouterr().err == "error: two:\n  one \\x1b[31m\n  other [red]x\n"


def test_colons_are_not_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reporting_errors():
        raise NetworkError("host:b:1 :skull:")
    assert ":b:1 :skull:" in capsys.readouterr().err
    table = grid("a")
    table.add_row(plain(":skull:"))
    assert as_text(table) == "a\n:skull:\n"


@given(st.lists(st.text(max_size=300), min_size=1, max_size=4))
def test_a_row_of_a_table_is_one_line(cells: list[str]) -> None:
    table = grid(*("column" for _ in cells))
    table.add_row(*(plain(cell) for cell in cells))
    lines = as_text(table).splitlines()
    assert len(lines) == 2
    assert lines[1].split() == " ".join(printable(cell) for cell in cells).split()


def test_a_result_goes_to_a_file_or_the_file_is_named(tmp_path: Path) -> None:
    write("é\n", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    with pytest.raises(StateError, match="cannot write"):
        write("x", tmp_path)
