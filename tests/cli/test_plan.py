import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, in_thread
from tests.fakes.images import ImageStore
from tests.fakes.layers import file, layer
from tests.fakes.registry import Behaviour, FakeRegistry


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


@pytest.fixture
def mixed(tmp_path: Path) -> ImageStore:
    """A multi-platform image, one for another platform only, an index of indexes, and an image whose manifest is lost."""
    store = ImageStore(tmp_path / "mixed")
    layers = [layer(file("etc/os-release", b"ID=debian\n"))]
    both = store.multi_platform("app", "both", {"linux/amd64": layers, "linux/arm64": layers})
    store.multi_platform("app", "arm", {"linux/arm64": layers})
    store.tag(store.index({"linux/amd64": both}), "app", "nested")
    lost = store.multi_platform("app", "lost", {"linux/amd64": [layer(file("x", b"y"))]})
    store.remove(json.loads(lost.data)["manifests"][0]["digest"])
    return store


def test_sizes_look_into_indexes_and_say_what_cannot_be_scanned(run: Run, mixed: ImageStore) -> None:
    document = run("plan", f"oci:{mixed.root}", "--sizes", "-o", "json").json()[0]
    classes = {row["tag"]: row["class"] for row in document["tags"]}
    assert classes["both"] == "image"
    assert classes["arm"] == "no linux/amd64"
    assert "nested" in classes["nested"] or "index" in classes["nested"]
    assert classes["lost"]
    assert document["layers"] == 1
    shown = run("plan", f"oci:{mixed.root}", "--sizes")
    assert shown.status == 0
    assert "1 layers, " in shown.stdout
    assert "no linux/amd64" in shown.stdout


def test_a_denied_repository_makes_the_plan_incomplete_and_warnings_are_said(
    run: Run, machine_layout: Path, tmp_path: Path
) -> None:
    behaviour = Behaviour(auth="bearer", forbidden=("demo/base",))
    with in_thread(lambda: FakeRegistry(machine_layout, behaviour)) as registry:
        path = tmp_path / "c.yaml"
        path.write_text(
            f"registries: [{{name: prod, url: '{registry.url}', insecure: true, username: sensor, password: {{env: PROD}}}}]\n"
        )
        shown = run("plan", "-c", str(path), REGISTRY_URL="other.example", PROD="secret")
        document = run("plan", "-c", str(path), "-o", "json", PROD="secret")
    assert (shown.status, document.status) == (3, 3)
    assert "not complete:" in shown.stderr
    assert "REGISTRY_URL" in shown.stderr
    assert any("demo/base" in trouble for trouble in document.json()[0]["troubles"])
