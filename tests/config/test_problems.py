from sensor.config.problems import Findings, Problem, show_path


def test_paths_are_shown_inert() -> None:
    assert show_path(("registries", 2, "tags", "include", 0)) == "registries[2].tags.include[0]"
    assert show_path(("a\x1b[2J",)) == "'a\\x1b[2J'"
    assert show_path(()) == ""


def test_findings_are_collected() -> None:
    found = Findings()
    found.wrong(("a", 0), "is wrong")
    found.warn(("a", 1), "is odd")
    found.between(("b",), 5.0, 5.0, 60.0)
    found.between(("c",), 4.9, 5.0, 60.0)
    found.between(("d",), 61.0, 5.0, 60.0)
    assert found.problems == [
        Problem(("a", 0), "is wrong"),
        Problem(("c",), "expected 5s to 1m"),
        Problem(("d",), "expected 5s to 1m"),
    ]
    assert found.warnings == ["a[1]: is odd"]
