"""`demo` as a user runs it: the real process, from nothing to delivered results, and out again without a trace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.processes import running

PROGRAM = (sys.executable, "-m", "sensor")


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Where the demo puts its temporary directory; nothing may be left in it."""
    room = tmp_path / "room"
    room.mkdir()
    return room


def demo(room: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(room), "COLUMNS": "80"}
    return subprocess.run(
        [*PROGRAM, "demo", *arguments], capture_output=True, text=True, check=False, env=environment, timeout=100
    )


def test_one_sweep_scans_and_delivers_everything_and_is_told_as_json(room: Path) -> None:
    done = demo(room, "--once", "--output", "json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["settled"] is True
    assert summary["failed"] == []
    assert summary["images"] == summary["delivered"] == 2
    assert summary["findings"] > 0
    ledger = summary["ledger"]
    assert ledger["listed"] == sum(count for state, count in ledger.items() if state != "listed") == 6
    assert list(room.iterdir()) == []


def test_one_sweep_is_told_in_order_for_people(room: Path) -> None:
    done = demo(room, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    order = [next(n for n, line in enumerate(lines) if line.startswith(word)) for word in (
        "registry ", "console ", "enumerated ", "scanned ", "delivered ", "severity ", "2 images scanned", "ledger: ",
    )]  # fmt: skip
    assert order == sorted(order)
    assert any(line.startswith("registered ") for line in lines)
    assert "heartbeat    accepted" in lines
    assert "dropped      demo/machine:1.1-dev: exclude tags: *-dev" in lines
    assert not any("scratch/experiment" in line for line in lines)
    # piped: no colours, and no cell goes on in the next line
    assert "\x1b" not in done.stdout
    table = lines[order[5] + 1 :][:12]
    assert all(re.match(r"(CRITICAL|HIGH|MEDIUM|LOW|INFO) +\S+ ", row) for row in table)
    assert list(room.iterdir()) == []


def test_it_keeps_running_says_where_to_look_and_ends_with_ctrl_c(room: Path) -> None:
    with running("demo", TMPDIR=str(room)) as process:
        key = re.search(r"X-API-Key: (\S+?)'", process.wait_for("/api/images"))
        images = re.search(r"http://\S+/api/images", process.wait_for("/api/images"))
        metrics = re.search(r"http://\S+/metrics", process.wait_for("/metrics"))
        assert key is not None
        assert images is not None
        assert metrics is not None
        request = urllib.request.Request(images[0], headers={"X-API-Key": key[1]})
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert len(json.load(reply)["images"]) == 2
        with urllib.request.urlopen(metrics[0], timeout=10) as reply:
            assert b"sensor" in reply.read()
        assert process.end(signal.SIGINT) == 0
        assert process.err == []
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["registry ", "sweep "])
def test_stopped_in_the_middle_it_leaves_nothing_behind(room: Path, moment: str, number: signal.Signals) -> None:
    with running("demo", "--once", TMPDIR=str(room)) as process:
        process.wait_for(moment)
        # the sweep may have been faster than the signal
        assert process.end(number) in {0, 130}
        assert process.err == []
    assert list(room.iterdir()) == []


def test_advisories_that_cannot_be_read_are_a_failure_also_for_machines(room: Path) -> None:
    done = demo(room, "--once", "--output", "json", "--advisories", str(room / "nope"))
    assert done.returncode == 3
    assert "cannot read advisories" in json.loads(done.stdout)["error"]
    assert done.stderr.startswith("error: cannot read advisories")
    assert list(room.iterdir()) == []


def test_a_full_set_of_advisories_can_be_named(room: Path, tmp_path: Path) -> None:
    records = tmp_path / "osv" / "PyPI"
    records.mkdir(parents=True)
    affected = {
        "package": {"ecosystem": "PyPI", "name": "urllib3"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
    }
    record = {"id": "PYSEC-2026-1", "modified": "2026-01-01T00:00:00Z", "affected": [affected]}
    (records / "PYSEC-2026-1.json").write_text(json.dumps(record))
    done = demo(room, "--once", "--advisories", str(tmp_path / "osv"))
    assert done.returncode == 0
    assert "advisories   1 records in force" in done.stdout
    assert "PYSEC-2026-1" in done.stdout


def test_a_reader_that_leaves_ends_it_after_the_sweep(room: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*PROGRAM, "demo"], stdout=writer, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(room)}
    )
    os.close(writer)
    assert process.communicate(timeout=100)[1] == ""
    assert process.returncode == 0
    assert list(room.iterdir()) == []
