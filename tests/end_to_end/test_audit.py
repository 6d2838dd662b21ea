"""The offline audit of the locked dependencies: what it finds, and that not being able to judge never passes for nothing found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.advisories.database import database_path
from sensor.advisories.update import demo_advisories, import_sources
from tests.advisories.archives import entry, record, write_zip

ROOT = Path(__file__).parents[2]
ANY_AGE = "--max-age=100000"


def audit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


def lock(room: Path, *entries: str) -> Path:
    path = room / "some.lock"
    path.write_text("# made by a test\n" + "".join(f"{each} \\\n    --hash=sha256:{'0' * 64}\n" for each in entries))
    return path


def test_a_vulnerable_pin_is_found_by_its_normal_name(tmp_path: Path) -> None:
    done = audit(demo_advisories(), lock(tmp_path, "PyYAML==5.3.1", "six==1.17.0 ; python_version < '4'"), ANY_AGE)
    assert done.returncode == 1, done.stderr
    assert "CVE-2020-14343" in done.stdout
    assert "PyYAML 5.3.1 (some.lock), fixed in 5.4" in done.stdout
    assert "2 pinned distributions of some.lock; 1 findings; 148 PyPI records" in done.stdout


def test_the_locks_of_this_project_are_read_whole() -> None:
    done = audit(demo_advisories(), ANY_AGE)
    assert done.returncode == 0, done.stdout + done.stderr
    pins = sum(
        line[:1].isalnum() for path in ROOT.glob("requirements/*.lock") for line in path.read_text().splitlines()
    )
    assert (
        f"audit: {pins} pinned distributions of bench.lock, build.lock, dev.lock, runtime.lock, slim.lock; 0 findings"
        in done.stdout
    )
    assert "not looked at: libraries inside of wheels" in done.stdout


def test_the_database_of_a_sensor_is_taken(tmp_path: Path) -> None:
    import_sources([demo_advisories()], database_path(tmp_path))
    assert audit(tmp_path, lock(tmp_path, "jinja2==3.1.4"), ANY_AGE).returncode == 1
    assert audit(tmp_path, lock(tmp_path, "jinja2==3.1.6"), ANY_AGE).returncode == 0


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (["pyyaml>=5"], "not a pinned version: pyyaml>=5"),
        (["pkg @ https://packages.example/pkg-1.whl"], "not a pinned version"),
        ([], "pins nothing"),
        (["weird==1"], "1 gaps"),
    ],
)
def test_what_cannot_be_judged_is_not_good(tmp_path: Path, entries: list[str], reason: str) -> None:
    affected = entry("PyPI", "weird", "no version at all")
    data = tmp_path / "data"
    write_zip(data / "PyPI" / "all.zip", {"PYSEC-1.json": record("PYSEC-2024-1", affected)})
    done = audit(data, lock(tmp_path, *entries), ANY_AGE)
    assert done.returncode == 3, done.stdout
    assert f"not judged: {'' if entries == ['weird==1'] else 'some.lock'}" in done.stderr
    assert reason in done.stderr


def test_old_foreign_or_missing_data_is_not_good(tmp_path: Path) -> None:
    pins = lock(tmp_path, "six==1.17.0")
    old = audit(demo_advisories(), pins, "--max-age=0.0001")
    assert (old.returncode, "days old" in old.stderr) == (3, True)
    missing = audit(tmp_path / "nowhere", pins)
    assert (missing.returncode, "cannot read advisories" in missing.stderr) == (3, True)
    foreign = audit(demo_advisories() / "Debian" / "all.zip", pins)
    assert (foreign.returncode, "not about PyPI" in foreign.stderr) == (3, True)
    unread = audit(demo_advisories(), tmp_path / "no.lock")
    assert (unread.returncode, "cannot read" in unread.stderr) == (3, True)
