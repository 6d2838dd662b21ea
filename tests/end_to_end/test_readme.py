"""What the documents show is what there is.

Blocks fenced as `console` hold commands (lines that begin with `$ `) followed by expected output, in which `...` stands for anything; every
command of a block is run, in order, in one directory. Blocks fenced as `sh` are only shown, but what they name must exist.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sensor.cli.output import ExitCode
from tests.cli.command_lines import PROGRAM, problem_of
from tests.cli.conftest import Run, run

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`((?:\.venv/bin/)?{PROGRAM} [^`\n]+)`")
_MAKE = re.compile(r"(?:^|`|&& |\$ )make ((?:[A-Z]+=\S+ |[a-z]+ ?)+)", re.MULTILINE)


@dataclass
class Step:
    """A command and what it prints."""

    command: str
    expected: list[str] = field(default_factory=list)


def blocks(document: Path, language: str) -> list[str]:
    return [body for name, body in _FENCE.findall(document.read_text()) if name == language]


def steps(block: str) -> list[Step]:
    found: list[Step] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Step(line.removeprefix("$ ")))
        elif line.strip():
            assert found, f"output before any command: {line}"
            found[-1].expected.append(line)
    return found


def occurs(fragment: str, output: str) -> bool:
    """Whether a line of the output is the fragment, in which `...` is anything."""
    pattern = ".*".join(re.escape(part) for part in fragment.strip().split("..."))
    return any(re.fullmatch(pattern, line.strip()) for line in output.splitlines())


def command_lines(document: Path) -> list[str]:
    """Every command line of the sensor that a document shows, in blocks and in sentences."""
    text = document.read_text()
    shown = [line.removeprefix("$ ") for _, body in _FENCE.findall(text) for line in body.splitlines()]
    lines = [part.strip() for line in shown for part in line.split("&&")]
    lines += _INLINE.findall(_FENCE.sub("", text))
    return [line for line in lines if re.match(rf"(\S*/)?{PROGRAM} ", line)]


RUNNABLE = [(document, block) for document in DOCUMENTS for block in blocks(document, "console")]


@pytest.mark.parametrize(
    ("document", "block"), RUNNABLE, ids=[f"{document.name}-{n}" for n, (document, _) in enumerate(RUNNABLE)]
)
def test_what_a_document_runs_prints_what_it_says(document: Path, block: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for step in steps(block):
        done = subprocess.run(
            step.command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            timeout=100,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == 0, (step.command, output)
        for fragment in step.expected:
            assert occurs(fragment, output), (step.command, fragment, output)


def test_the_readme_runs_something() -> None:
    assert any(document == README and steps(block) for document, block in RUNNABLE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_and_option_that_a_document_shows_exists(document: Path) -> None:
    assert [(line, problem) for line in command_lines(document) if (problem := problem_of(line))] == []


def test_the_documents_show_commands() -> None:
    named = {line.split()[1] for document in DOCUMENTS for line in command_lines(document)}
    assert {"scan", "test", "plan", "check", "run", "status", "advisories", "secret", "console"} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for found in _MAKE.findall(document.read_text()) for word in found.split()[:1] if "=" not in word}
    assert named <= targets
    if document == README:
        assert {"demo", "test"} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", _FENCE.sub("", document.read_text()))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_the_example_configuration_is_accepted(run: Run, tmp_path: Path) -> None:
    shown = run("check", "--config", str(ROOT / "config.example.yaml"))
    assert (shown.status, "the configuration is valid" in shown.stdout) == (0, True)


def test_the_configurations_in_the_documents_are_accepted(run: Run, tmp_path: Path) -> None:
    whole = [
        body
        for document in DOCUMENTS
        for body in blocks(document, "yaml")
        if re.search("^registries:", body, re.MULTILINE)
    ]
    assert whole
    for number, body in enumerate(whole):
        path = tmp_path / f"{number}.yaml"
        # files that a site would have
        path.write_text(re.sub(r"ca_file: \S+", f"ca_file: {__file__}", body))
        path.chmod(0o600)
        shown = run("check", "--config", str(path))
        assert shown.status == 0, (body, shown.stderr)


def test_the_exit_statuses_in_the_readme_are_the_real_ones() -> None:
    shown = {int(number) for number in re.findall(r"^\| (\d+) \|", README.read_text(), re.MULTILINE)}
    # 128 and above are the shell's own numbers for signals
    assert {int(code) for code in ExitCode if code < 128} <= shown <= {int(code) for code in ExitCode}


@pytest.mark.parametrize(
    ("fragment", "output", "found"),
    [
        ("a ... z", "x\n  a b z\n", True),
        ("a ... z", "a b\nz", False),
        ("491 records, ...", "491 records, revision 1", True),
        ("[x]", "x", False),
    ],
)
def test_fragments_are_compared_line_by_line(fragment: str, output: str, found: bool) -> None:
    assert occurs(fragment, output) is found
