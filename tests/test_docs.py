"""What the documentation shows can be typed, loaded and found: snippets, command lines, links, providers, and the tests behind promises."""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from sensor.config.problems import Problem
from sensor.config.schema import Config, Registry
from sensor.config.validate import find_problems
from sensor.registry.kinds import KINDS, find_kind, open_registry
from tests.cli.command_lines import PROGRAM, problem_of
from tests.fakes.registries import FAKES

ROOT = Path(__file__).parents[1]
REGISTRIES = ROOT / "docs" / "registries.md"
PROMISES = ROOT / "docs" / "promises.md"
DEFECTS = ROOT / "docs" / "go-sensor-defects.md"
SECURITY = ROOT / "docs" / "security.md"
TESTED = (PROMISES, DEFECTS, SECURITY)
"""Pages that name the test behind each claim."""
GO_DEFECTS = {"S": 10, "L": 20, "N": 17, "C": 15, "O": 10}
"""Defects of each group."""
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/registries/*.md")])
PROVIDERS = sorted(set(get_args(Registry.model_fields["provider"].annotation)) - {"auto"})
ON_DISK = {"layout", "archive"}
"""They share a page."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
_NODE = re.compile(r"`(?P<path>tests/[\w/]+(?:\.py)?)(?:::(?P<name>\w+)(?:\[(?P<case>[^\]]+)\])?)?`")
_INLINE = re.compile(rf"`(?P<line>{PROGRAM} [^`]+)`")
_ABSENT = ("there is no such file",)
"""What a machine lacks on which the documentation is only read."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block, and where it stands."""

    page: Path
    line: int
    language: str
    text: str


@cache
def snippets() -> tuple[Snippet, ...]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in _FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            found.append(Snippet(page, line, fence["language"], textwrap.dedent(fence["text"])))
    return tuple(found)


def in_language(*languages: str) -> list[Any]:
    chosen = [one for one in snippets() if one.language in languages]
    return [pytest.param(one, id=f"{one.page.relative_to(ROOT)}:{one.line}") for one in chosen]


def configurations() -> list[Any]:
    return [one for one in in_language("yaml") if "registries:" in one.values[0].text]


def command_lines() -> Iterator[tuple[str, str]]:
    for snippet in snippets():
        if snippet.language in {"sh", "console"}:
            for line in snippet.text.replace("\\\n", " ").splitlines():
                typed = line.removeprefix("$ ")
                if typed.startswith(f"{PROGRAM} "):
                    yield str(snippet.page.relative_to(ROOT)), typed
    for page in PAGES:
        for found in _INLINE.finditer(_FENCE.sub("", page.read_text())):
            yield str(page.relative_to(ROOT)), found["line"].replace("\n", " ")


def page_of(provider: str) -> Path:
    return ROOT / "docs" / "registries" / f"{'files' if provider in ON_DISK else provider}.md"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_there_are_snippets_of_every_kind() -> None:
    assert len(configurations()) > 40
    assert len(in_language("json")) > 5
    assert len(list(command_lines())) > 20


@pytest.mark.parametrize("snippet", in_language("json"))
def test_json_parses(snippet: Snippet) -> None:
    assert json.loads(snippet.text)


@pytest.mark.parametrize("snippet", in_language("yaml"))
def test_yaml_parses(snippet: Snippet) -> None:
    assert yaml.safe_load(snippet.text)


@pytest.mark.parametrize("snippet", configurations())
async def test_configurations_load_and_nothing_is_wrong_with_them(snippet: Snippet) -> None:
    config = Config.model_validate(yaml.safe_load(snippet.text))
    problems, _ = find_problems(config)
    assert [problem for problem in problems if not is_absence(problem)] == []
    for settings in config.registries:
        if snippet.page.parent.name == "registries":
            assert page_of(find_kind(settings).name) == snippet.page, f"{settings.name} is taken for another provider"
        await open_registry(settings, config.http).close()  # raises where the kind refuses what the schema takes


def is_absence(problem: Problem) -> bool:
    return problem.text.startswith(_ABSENT)


@pytest.mark.parametrize(("page", "line"), list(command_lines()))
def test_command_lines_can_be_typed(page: str, line: str) -> None:
    assert problem_of(line) == "", page


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_has_a_page_and_a_row(provider: str) -> None:
    page = page_of(provider)
    assert page.is_file()
    rows = [line for line in REGISTRIES.read_text().splitlines() if line.startswith("|") and f"`{provider}` |" in line]
    assert len(rows) == 1
    assert f"(registries/{page.name})" in rows[0]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert len(cells) == 8
    assert all(cells)
    title = next((kind.title for kind in KINDS if kind.name == provider), "")
    assert title
    assert f"registries/{page.name}" in (ROOT / "README.md").read_text()


def test_no_page_is_without_its_provider() -> None:
    assert {page_of(provider) for provider in PROVIDERS} == set(ROOT.glob("docs/registries/*.md"))


def test_every_page_of_a_provider_tells_the_same_things() -> None:
    for provider in sorted(set(PROVIDERS) - ON_DISK):
        headings = re.findall(r"^## (.+)$", page_of(provider).read_text(), re.MULTILINE)
        assert {"What to grant", "Push events", "Known limits"} <= set(headings), provider


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def conformance_cases() -> frozenset[str]:
    names = ((fake.kind, name) for fake in FAKES for name in (*fake.login_names, *fake.mistake_names))
    return frozenset(f"{kind}-{name.replace(' ', '_')}" for kind, name in names)


def nodes() -> list[Any]:
    found = {match.group(): match for page in TESTED for match in _NODE.finditer(page.read_text())}
    return [pytest.param(match, id=text.strip("`")) for text, match in found.items()]


@pytest.mark.parametrize("node", nodes())
def test_the_tests_behind_claims_exist(node: re.Match[str]) -> None:
    path = ROOT / node["path"]
    assert path.exists()
    if node["name"]:
        assert node["name"] in functions(path)
    if node["case"]:
        assert path.name == "test_conformance.py", "cases of other tests are not looked up"
        assert node["case"] in conformance_cases()


@pytest.mark.parametrize("page", TESTED, ids=lambda page: page.name)
def test_no_test_is_named_in_another_form(page: Path) -> None:
    assert len(_NODE.findall(page.read_text())) == page.read_text().count("tests/")


def rows_of(page: Path) -> list[list[str]]:
    """The cells of all tables of a page, without headings."""
    lines = page.read_text().splitlines()
    tables = [line for line, below in zip(lines, [*lines[1:], ""], strict=True) if not below.startswith("|---")]
    # `\\|` is no border
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in tables
        if line.startswith("|") and not line.startswith("|---")
    ]


def test_the_defects_of_the_go_sensor_are_all_answered() -> None:
    rows = rows_of(DEFECTS)
    numbers = [f"{group}{number}" for group, count in GO_DEFECTS.items() for number in range(1, count + 1)]
    assert len(numbers) == 72
    assert [row[0] for row in rows] == numbers
    for row in rows:
        assert len(row) == 4, row
        assert all(row), row
        assert _NODE.search(row[3]), row
    # what is open is said in the row, with the part of the plan that covers it, and once more at the top
    still = [row[0] for row in rows if "**Open**" in row[2]]
    assert all(re.search(r"\*\*Open\*\*: .*\(plan: .+\)", row[2]) for row in rows if row[0] in still)
    (told,) = re.findall(r"^\*\*Open now\*\*: (.*)\.$", DEFECTS.read_text(), re.MULTILINE)
    assert re.findall(r"\b[A-Z]\d+\b", told) == still


def test_every_claim_about_security_has_a_test() -> None:
    claims = [row for row in rows_of(SECURITY) if len(row) == 2]
    assert len(claims) > 50
    for claim, shown in claims:
        assert claim
        assert _NODE.search(shown), claim


def test_every_promise_says_how_it_is_kept() -> None:
    promises = PROMISES.read_text().partition("## 2.")[0]
    rows = [line.strip("|").split(" | ") for line in promises.splitlines() if re.match(r"\| (?!promise)", line)]
    assert len(rows) > 80
    for row in rows:
        assert len(row) == 3, row
        assert row[1].strip(), row
    # what no test shows is said not to be there yet, not to be possible, or not to be the sensor's business
    untested = [row[1].strip() for row in rows if not _NODE.search(row[2])]
    assert all(re.search(r"later version|cannot be kept|this is the sensor|^schedules$", how) for how in untested), (
        untested
    )


def test_links_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        text = page.read_text()
        for link in _LINK.finditer(_FENCE.sub("", text)):
            target, _, anchor = link["target"].partition("#")
            if "://" in target:
                continue
            there = (page.parent / target).resolve() if target else page
            if not there.exists():
                dead.append(f"{page.name}: {link['target']}")
            elif anchor:
                headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
                if anchor not in {slug(heading) for heading in headings}:
                    dead.append(f"{page.name}: {link['target']}")
    assert dead == []


def test_shell_lines_are_closed() -> None:
    for snippet in snippets():
        if snippet.language == "sh" and "<<" not in snippet.text:
            shlex.split(snippet.text, comments=True)  # ValueError: a quotation mark is missing


def test_commands_of_the_documentation_are_those_of_this_version() -> None:
    known = {line.split()[1] for _, line in command_lines() if not line.split()[1].startswith("-")}
    assert {"check", "test", "plan", "run", "status", "pause", "resume"} <= known
