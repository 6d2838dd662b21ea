import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.processes import running

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, machine_layout: Path) -> Write:
    def make(*, listen: str = "127.0.0.1:0", state: str = "state", style: str = "auto") -> Path:
        path = tmp_path / "sensor.yaml"
        path.write_text(
            f"registries: [{{name: demo, url: 'oci:{machine_layout}', schedule: manual}}]\n"
            f"health: {{listen: '{listen}'}}\nstate: {{directory: {tmp_path / state}}}\nlogging: {{format: {style}}}\n"
        )
        return path

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_runs_until_it_is_told_to_end(write: Write, number: signal.Signals) -> None:
    with running("run", "--config", str(write())) as sensor:
        sensor.wait_for("sensor started")
        assert sensor.end(number) == 0
        assert sensor.out == []
        assert '"stopped"' in sensor.err[-1]


def test_lines_say_which_work_they_belong_to(write: Write) -> None:
    with running("run", "--config", str(write())) as sensor:
        sensor.wait_for("sensor started")
        os.kill(sensor.pid, signal.SIGUSR1)
        sensor.wait_for("image scanned")
        assert sensor.end(signal.SIGTERM) == 0
    rows = [json.loads(line) for line in sensor.err]
    sweeps = [row["sweep_id"] for row in rows if row["event"] in {"sweep started", "sweep finished"}]
    assert len(sweeps) == 2
    assert len(set(sweeps)) == 1
    images = [row for row in rows if row["event"] in {"image started", "image scanned"}]
    assert images
    assert all(row["digest"].startswith(f"sha256:{row['image_id']}") and "sweep_id" not in row for row in images)
    assert all("image_id" not in row for row in rows if row["event"] in {"sensor started", "draining", "stopped"})


def test_the_journal_gets_its_own_format(write: Write) -> None:
    with running("run", "--config", str(write(style="journald"))) as sensor:
        sensor.wait_for("<6>sensor started  version=")
        assert sensor.end(signal.SIGTERM) == 0
    assert all(line.startswith("<") for line in sensor.err)


def test_a_wrong_configuration_is_status_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("registries: [{name: a, url: a.example, shedule: daily}]\n")
    shown = run("run", "--config", str(path))
    assert shown.status == 2
    assert "did you mean schedule" in shown.stderr


def test_a_port_that_is_taken_is_status_3(run: Run, write: Write) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        shown = run("run", "--config", str(write(listen=f"127.0.0.1:{taken.getsockname()[1]}")))
    assert shown.status == 3
    assert "cannot listen on" in shown.stderr
    assert "change health.listen" in shown.stderr


def test_a_state_directory_in_use_is_status_3_and_names_the_process(run: Run, write: Write) -> None:
    with running("run", "--config", str(write())) as first:
        first.wait_for("sensor started")
        shown = run("run", "--config", str(write()))
        assert shown.status == 3
        assert f"(process {first.pid})" in shown.stderr
        assert first.end(signal.SIGTERM) == 0
