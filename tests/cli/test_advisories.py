from pathlib import Path

from sensor.advisories.update import demo_advisories
from tests.cli.conftest import Run, in_thread
from tests.fakes.osv_mirror import OsvMirror, status


def test_the_demo_set_is_imported_and_shown(run: Run, tmp_path: Path) -> None:
    made = run("advisories", "import", "--demo", "--state", str(tmp_path))
    assert made.status == 0
    assert "database ready: " in made.stdout
    shown = run("advisories", "status", "--state", str(tmp_path))
    assert shown.status == 0
    assert "records, revision" in shown.stdout
    assert any(line.startswith("PyPI ") for line in shown.stdout.splitlines())


def test_json_tells_the_same(run: Run, tmp_path: Path) -> None:
    made = run("advisories", "import", str(demo_advisories()), "--state", str(tmp_path / "new"), "-o", "json").json()
    shown = run("advisories", "status", "--state", str(tmp_path / "new"), "-o", "json").json()
    assert made["records"] == shown["records"] > 400
    assert made["revision"] == shown["revision"]
    assert {source["name"] for source in made["sources"]} == {"Debian", "PyPI"}
    assert sum(shown["ecosystems"].values()) == shown["records"]


def test_what_could_not_be_read_is_said(run: Run, tmp_path: Path) -> None:
    records = tmp_path / "osv" / "PyPI"
    records.mkdir(parents=True)
    (records / "A-1.json").write_text(
        '{"id":"PYSEC-1","modified":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"PyPI","name":"[red]x"},'
        '"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"1"}]}]}]}'
    )
    (records / "A-2.json").write_text('{"id": "PYSEC-2", "modified": 1, \x1b[31m')
    shown = run("advisories", "import", str(tmp_path / "osv"), "--state", str(tmp_path / "state"))
    assert shown.status == 0
    assert "1 not readable" in shown.stdout
    assert "not read:" in shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr


def test_old_data_is_warned_about(run: Run, state: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("advisories: {max_age: 1h}\n")
    shown = run("advisories", "status", "--state", str(state), "--config", str(path))
    assert shown.status == 0
    assert "older than advisories.max_age" in shown.stderr


def test_nothing_to_import_and_nowhere_to_fetch_from_are_mistakes_of_the_user(run: Run, tmp_path: Path) -> None:
    for command in ("import", "update"):
        shown = run("advisories", command, "--state", str(tmp_path), "-o", "json")
        assert shown.status == 2, command
        assert shown.json()["error"] in shown.stderr


def test_no_database_and_no_such_files_are_failures(run: Run, tmp_path: Path) -> None:
    shown = run("advisories", "status", "--state", str(tmp_path), "-o", "json")
    assert (shown.status, "no advisory database" in shown.json()["error"]) == (3, True)
    assert run("advisories", "import", str(tmp_path / "nope"), "--state", str(tmp_path)).status == 3


def test_a_source_is_fetched_once_and_what_failed_is_said(run: Run, tmp_path: Path) -> None:
    state = tmp_path / "state"
    path = tmp_path / "c.yaml"
    update = ("advisories", "update", "--config", str(path), "--state", str(state))
    path.write_text(f"advisories: {{sources: ['{demo_advisories()}']}}\n")
    first = run(*update)
    assert first.status == 0
    assert "database ready" in first.stdout
    again = run(*update)
    assert "nothing changed" in again.stdout
    assert run(*update, "-o", "json").json()["changed"] is False
    with in_thread(OsvMirror) as mirror:
        path.write_text(f"advisories: {{sources: ['{mirror.url}'], ecosystems: [PyPI]}}\n")
        nothing = run(*update)
        path.write_text(f"advisories: {{sources: ['{demo_advisories()}', '{mirror.url}'], ecosystems: [npm]}}\n")
        mirror.answers["npm"] = [status(403), status(403)]
        partly = run(*update)
        told = run(*update, "-o", "json")
    assert nothing.status == 3
    assert "the old advisories stay in use" in nothing.stderr
    assert partly.status == told.status == 3
    assert "npm from" in partly.stdout
    assert {source["state"] for source in told.json()["sources"]} >= {"failed"}
