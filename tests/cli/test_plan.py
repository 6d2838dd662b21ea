from pathlib import Path

from tests.cli.conftest import Run


def test_each_tag_is_shown_with_the_rule_that_decided(run: Run, config: Path) -> None:
    document = run("plan", "demo", "-c", str(config), "-o", "json", "--sizes").json()[0]
    rows = {f"{row['repository']}:{row['tag']}": row for row in document["tags"]}
    assert rows["demo/machine:1.0"]["selected"]
    assert not rows["demo/machine:1.1-dev"]["selected"]
    assert "exclude tags: *-dev" in rows["demo/machine:1.1-dev"]["rule"]
    assert any("signature" in row["rule"] for row in rows.values())
    assert rows["demo/chart:0.1.0"]["class"] == "helm-chart"
    assert document["excludedRepositories"][0]["repository"] == "scratch/experiment"
    assert document["layerBytes"] > 0


def test_the_text_names_the_cost(run: Run, config: Path) -> None:
    shown = run("plan", "-c", str(config))
    assert shown.status == 0
    assert "6 tags listed, 3 images selected" in shown.stdout
    assert "scratch/experiment: not listed" in shown.stdout


def test_a_registry_that_cannot_be_listed_is_not_empty_but_a_failure(run: Run, tmp_path: Path) -> None:
    shown = run("plan", f"oci:{tmp_path}")
    assert shown.status == 3
    assert "not complete" in shown.stderr
