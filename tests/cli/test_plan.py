import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sensor.catalog.crawl import crawl
from sensor.catalog.diff import Snapshot, diff_catalogue
from sensor.catalog.snapshots import Snapshots
from sensor.cli.commands import app
from sensor.config.load import load_config
from sensor.config.schema import Http
from sensor.registry.kinds import open_registry
from sensor.storage import open_storage
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
    assert "1 layer, " in shown.stdout
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


@pytest.fixture
def versions(tmp_path: Path) -> ImageStore:
    """Versions of one application, and `latest` in two repositories."""
    store = ImageStore(tmp_path / "versions")
    for number, tag in enumerate(("1.2.0", "1.10.0", "2.0.0", "latest", "pr-7")):
        store.image("app", tag, [layer(file("version", str(number).encode()))])
    store.image("web", "latest", [layer(file("version", b"web"))])
    return store


def configured(tmp_path: Path, store: ImageStore, selection: str) -> str:
    path = tmp_path / "selection.yaml"
    state = tmp_path / "state"
    path.write_text(
        f"registries: [{{name: main, url: 'oci:{store.root}', schedule: manual, {selection}}}]\n"
        f"state: {{directory: {state}}}\nhealth: {{listen: 'off'}}\n"
    )
    return str(path)


def test_rules_and_what_is_kept_are_shown_tag_by_tag(run: Run, versions: ImageStore, tmp_path: Path) -> None:
    selection = "rules: [{regex: 'pr-[0-9]+', action: exclude}, {semver: '1.x', keep: {last: 1, max_age: 90d}}]"
    path = configured(tmp_path, versions, selection)
    document = run("plan", "-c", path, "-o", "json").json()[0]
    rows = {f"{row['repository']}:{row['tag']}": (row["decidedBy"], row["rule"]) for row in document["tags"]}
    assert rows["app:pr-7"] == ("rule", "rule 1 excludes regex pr-[0-9]+")
    assert rows["app:1.10.0"][1].startswith(
        "rule 2 includes semver 1.x; keep last 1 by version (no push dates are told)"
    )
    assert rows["app:1.2.0"] == (
        "keep",
        "keep last 1 by version (no push dates are told): not among them; rule 2 includes semver 1.x",
    )
    assert rows["web:latest"] == ("no-rule", "fits none of the 2 rules")
    assert (document["images"], document["imagesNew"]) == (1, 1)
    shown = run("plan", "-c", path)
    assert shown.status == 0
    text = " ".join(shown.stdout.split())
    assert "`latest` of 2 repositories fits no rule" in text
    assert "a rule of its own, {tags: latest}, names it" in text
    assert "keep max_age does not apply to 1 tag:" in text
    assert "1 image selected, 1 of them new" in text


def test_latest_that_keep_leaves_out_is_pointed_out(run: Run, versions: ImageStore, tmp_path: Path) -> None:
    document = run("plan", "-c", configured(tmp_path, versions, "keep: {last: 2}"), "-o", "json").json()[0]
    assert document["notices"][:1] == [
        "`latest` of 1 repository is not among what keep leaves; a rule of its own, with `keep: {}`, keeps it"
    ]
    named = "rules: [{tags: latest, keep: {}}, {tags: '*'}], keep: {last: 2}"
    document = run("plan", "-c", configured(tmp_path, versions, named), "-o", "json").json()[0]
    assert not any("latest" in notice for notice in document["notices"])
    assert [row["tag"] for row in document["tags"] if row["selected"]] == ["1.10.0", "2.0.0", "latest", "latest"]


async def test_what_a_sensor_here_knows_is_not_new(versions: ImageStore, tmp_path: Path) -> None:
    path = configured(tmp_path, versions, "tags: {include: ['*.0']}")
    settings = load_config(Path(path), {}).config.registries[0]
    client = open_registry(settings, Http())
    seen = await crawl(client, settings)
    storage = await open_storage(tmp_path / "state")
    snapshots = Snapshots(storage)
    async with storage.transaction() as connection:
        await snapshots.advance(connection, diff_catalogue(Snapshot(), seen), datetime.now(UTC))
    await storage.close()
    versions.image("app", "3.0", [layer(file("version", b"3"))])
    document = await asyncio.to_thread(planned, path)
    assert (document["images"], document["imagesNew"]) == (4, 1)


def planned(path: str) -> dict[str, Any]:
    """`plan` of the only registry, from a thread without an event loop."""
    result = CliRunner().invoke(app, ["plan", "-c", path, "-o", "json"], prog_name="harborguard-sensor")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)[0]
    return document


def test_a_state_that_cannot_be_read_does_not_stop_a_plan(run: Run, versions: ImageStore, tmp_path: Path) -> None:
    path = configured(tmp_path, versions, "tags: {include: ['*.0']}")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_bytes(b"not a database" * 100)
    document = run("plan", "-c", path, "-o", "json")
    assert document.status == 0
    assert document.json()[0]["imagesNew"] is None
    assert "of them new" not in run("plan", "-c", path).stdout


def test_the_listing_that_worked_is_named(run: Run, machine_layout: Path, tmp_path: Path) -> None:
    behaviour = Behaviour(auth="basic", no_catalog=True)
    with in_thread(lambda: FakeRegistry(machine_layout, behaviour)) as registry:
        path = tmp_path / "c.yaml"
        path.write_text(
            f"registries: [{{name: prod, url: '{registry.url}', insecure: true, username: sensor, "
            "password: {env: PROD}, repositories: {names: [demo/base]}}]\n"
            f"state: {{directory: {tmp_path / 'state'}}}\n"
        )
        document = run("plan", "-c", str(path), "-o", "json", PROD="secret").json()[0]
        shown = run("plan", "-c", str(path), PROD="secret")
    assert document["source"].startswith("repositories.names (it cannot be listed: ")
    assert document["tagSources"] == ["tags/list"]
    assert "repositories listed by repositories.names" in shown.stdout


def test_a_plan_that_fails_says_what_to_do_and_shows_no_empty_table(run: Run, machine_layout: Path) -> None:
    with in_thread(lambda: FakeRegistry(machine_layout, Behaviour(no_catalog=True, auth="bearer"))) as registry:
        shown = run("plan", registry.url, "--insecure")
        document = run("plan", registry.url, "--insecure", "-o", "json").json()[0]
    assert shown.status == 3
    assert "repository  tag" not in shown.stdout
    assert "costs no more" not in shown.stdout
    assert "  try: " in shown.stderr
    assert document["advice"]


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ("repositories: {include: ['taem/**']}", "include and exclude leave none of 2 repositories"),
        ("tags: {include: ['9.*']}", "the rules keep none of 6 tags in 2 repositories"),
    ],
)
def test_a_selection_that_keeps_nothing_is_said(
    run: Run, versions: ImageStore, tmp_path: Path, selection: str, says: str
) -> None:
    path = configured(tmp_path, versions, selection)
    notices = run("plan", "-c", path, "-o", "json").json()[0]["notices"]
    assert notices[0].startswith(f"nothing is selected: {says}")
    assert f"note: {notices[0][:30]}" in run("plan", "-c", path).stdout


def test_tags_are_in_the_order_of_their_numbers(run: Run, versions: ImageStore, tmp_path: Path) -> None:
    versions.image("app", "1.9.0", [layer(file("version", b"9"))])
    document = run("plan", "-c", configured(tmp_path, versions, "tags: {include: ['*']}"), "-o", "json").json()[0]
    assert [row["tag"] for row in document["tags"] if row["repository"] == "app"] == [
        *("1.2.0", "1.9.0", "1.10.0", "2.0.0", "latest", "pr-7")
    ]


def test_what_holds_new_images_back_is_told(run: Run, versions: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"state: {{directory: '{tmp_path}/state'}}\n"
        f"registries: [{{name: a, url: 'oci:{versions.root}', max_new_per_day: 1, schedule: manual}}]\n"
    )
    document = run("plan", "a", "-c", str(path), "-o", "json").json()[0]
    new = document["imagesNew"]
    assert new > 1
    assert f"max_new_per_day 1: these {new} new images take {new} days" in document["notices"]
    assert "schedule manual: new images are noticed only when a scan is asked for" in document["notices"]
    assert f"note: max_new_per_day 1: these {new} new images" in run("plan", "a", "-c", str(path)).stdout
