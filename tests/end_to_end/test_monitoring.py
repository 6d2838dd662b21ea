"""The alert rules and the dashboard against what the sensor exposes. Prometheus' own promtool parses and runs the rules."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sensor import events
from sensor.health.metrics import render
from sensor.model.delivery import OutboxPart
from sensor.status import StatusBoard

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "harborguard-sensor.json"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PREFIX = "harborguard_sensor_"
SCRAPED = {"job", "instance"}
"""Labels that Prometheus itself adds."""


def exposed() -> dict[str, set[str]]:
    """The labels of every metric, by the name of its samples, from a sensor to which everything has happened."""
    board = StatusBoard()
    for event in (
        events.SensorStarted(at=NOW, version="1", registries=("prod",)),
        events.AdvisoriesChanged(at=NOW, revision="r", records=1, newest=NOW),
        events.SweepFinished(
            at=NOW, registry="prod", complete=True, repositories=1, tags=1, ledger={"listed": 1, "queued": 1}, requests=7
        ),
        events.IntakeChanged(at=NOW, registry="prod", reason="paused"),
        events.QuotaChanged(at=NOW, host="hub.example", limit=100, remaining=42, window_seconds=0.0, source=""),
        events.CredentialChecked(at=NOW, registry="prod", method="password", identity="", expires=NOW, may_write=False),
        events.LinkChanged(at=NOW, link="plane", state="registered"),
        events.HeartbeatSent(at=NOW, link="plane"),
        events.ClockCompared(at=NOW, link="plane", seconds=2.0),
        events.OutboxCounted(at=NOW, parts=(OutboxPart(link="plane", counts={"waiting": 1}, bytes=1, oldest=NOW),)),
        events.ImageScanned(
            at=NOW, registry="prod", reference="a:1", digest="sha256:0", status="SUCCESS", packages=1, counts={"HIGH": 1}, gaps=(),
            layers_fetched=1, layers_cached=0, bytes_fetched=1, seconds=1.0,
        ),
    ):  # fmt: skip
        board.handle(event)
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(render(board.snapshot(NOW), tasks=1).decode())
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def expressions() -> list[str]:
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    return [
        *(rule["expr"] for rule in rules()),
        *dashboard_expressions(),
        *(one["definition"] for one in variables if one["type"] == "query"),
    ]


def used(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, with the labels by which they are selected."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(rf"\b({PREFIX}\w+)(?:{{([^}}]*)}})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", selector))
    return found


def test_every_metric_that_is_asked_for_exists_with_its_labels() -> None:
    known = exposed()
    for expression in expressions():
        metrics = used(expression)
        assert metrics, expression
        for name, labels in metrics.items():
            assert name in known, expression
            assert labels - SCRAPED <= known[name], expression
        grouped = {
            label.strip() for text in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in text.split(",")
        }
        shown = set.union(*(known[name] for name in metrics))
        assert grouped - SCRAPED <= shown, expression


def test_texts_name_labels_that_are_there() -> None:
    known = exposed()
    texts = [
        (rule["expr"], " ".join(re.findall(r"\$labels\.\w+", json.dumps(rule["annotations"])))) for rule in rules()
    ] + [(target["expr"], target["legendFormat"]) for panel in panels() for target in panel.get("targets", [])]
    for expression, text in texts:
        there = set.union(SCRAPED, *(known[name] for name in used(expression)))
        assert set(re.findall(r"(?:\$labels\.|{{)(\w+)", text)) <= there, expression


def test_every_metric_is_documented_and_shown() -> None:
    known = exposed()
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = {
        PREFIX + name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(\w+)` \| (?:gauge|counter) \|([^|]*)\|", page, re.MULTILINE)
    }
    assert documented == known
    shown = {name for expression in dashboard_expressions() for name in used(expression)}
    assert shown == known.keys()


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for one, other in combinations((panel["gridPos"] for panel in panels()), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())
    sources = {json.dumps(panel["datasource"]) for panel in panels() if "targets" in panel}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert {"datasource", *(name for text in expressions() for name in re.findall(r"\$([a-z]+)", text))} == variables


def test_prometheus_takes_the_rules() -> None:
    ran = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(rules())} rules found" in ran.stdout


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    texts = [re.sub(r"\$__rate_interval", "5m", text) for text in dashboard_expressions()]
    records = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    ran = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(texts)} rules found" in ran.stdout


UP = {"uptime_seconds": "0+60x20000"}
SLOW = 30
"""Minutes between two samples, and two evaluations, of the cases that last for days."""
DAY = 24 * 60 // SLOW
SECONDS_OF_A_DAY = 86400

# alert, what makes it fire (series and their values, one a step), at which step, and a change after which it is silent
Case = tuple[str, dict[str, str], int, dict[str, str]]

BY_MINUTES: list[Case] = [
    ("Absent", {}, 11, UP),
    ("Gone", {"uptime_seconds": "0+60x100 _x100"}, 120, UP),
    ("NotReady", {"ready": "0x100"}, 61, {"ready": "1x100"}),
    ("Restarts", {"uptime_seconds": "0 60 0 60 0 60 0 60 0 60 120"}, 10, UP),
    ("LinkDown", {"link_up{link='a'}": "0x20"}, 16, {"link_up{link='a'}": "0x10 1x10"}),
    (
        "HeartbeatLate",
        {"last_heartbeat_timestamp_seconds{link='a'}": "0x20"}, 9,
        {"last_heartbeat_timestamp_seconds{link='a'}": "0+60x20"},
    ),
    ("ResultsRefused", {"results_refused_total{link='a'}": "0x20 1x20"}, 30, {"results_refused_total{link='a'}": "1x40"}),
    (
        "OutboxOld",
        {"outbox_oldest_timestamp_seconds{link='a'}": "0x500"}, 400,
        {"outbox_oldest_timestamp_seconds{link='a'}": "0+60x500"},
    ),
    (
        "ClockSkew",
        {"link_clock_skew_seconds{link='a'}": "-70x40"}, 20, {"link_clock_skew_seconds{link='a'}": "-70x10 -50x30"},
    ),
    (
        "Stalled",
        {
            "ledger_digests{registry='a',state='queued'}": "5x600",
            "images_total{outcome='success'}": "7x600",
            "intake_held{registry='a'}": "0x600",
        },
        500,
        {"intake_held{registry='a'}": "1x600"},
    ),
    (
        "Stalled",
        {"ledger_digests{registry='a',state='queued'}": "5x600", "images_total{outcome='success'}": "7x600"}, 500,
        {"images_total{outcome='success'}": "7+1x600"},
    ),
    (
        "CredentialEnds",
        {"credential_expiry_timestamp_seconds{registry='a'}": f"{13 * SECONDS_OF_A_DAY}x20"}, 1,
        {"credential_expiry_timestamp_seconds{registry='a'}": f"{15 * SECONDS_OF_A_DAY}x20"},
    ),
    (
        "QuotaLow",
        {"quota_limit{host='h'}": "100x90", "quota_remaining{host='h'}": "9x90"}, 61,
        {"quota_remaining{host='h'}": "11x90"},
    ),
]  # fmt: skip
BY_DAYS: list[Case] = [
    (
        "SweepStale",
        {"last_sweep_timestamp_seconds{registry='a'}": f"0x{3 * DAY}"}, 3 * DAY,
        {"last_sweep_timestamp_seconds{registry='a'}": f"{SECONDS_OF_A_DAY}x{3 * DAY}"},
    ),
    (
        "ListingIncomplete",
        {"listing_complete{registry='a'}": f"0x{2 * DAY}"}, DAY + 1, {"listing_complete{registry='a'}": f"1x{2 * DAY}"},
    ),
    (
        "ImagesFail",
        {"ledger_digests{registry='a',state='failed'}": f"2x{2 * DAY}"}, DAY + 1,
        {
            "ledger_digests{registry='a',state='failed'}": f"0x{2 * DAY}",
            "ledger_digests{registry='a',state='queued'}": f"2x{2 * DAY}",
        },
    ),
    (
        "IntakeHeld",
        {"intake_held{registry='a'}": f"1x{4 * DAY}"}, 3 * DAY + 1, {"intake_held{registry='a'}": f"1x{DAY} 0 1x{3 * DAY}"},
    ),
    (
        "AdvisoriesOld",
        {"advisories_newest_timestamp_seconds": f"0x{8 * DAY}"}, 7 * DAY + 3,
        {"advisories_newest_timestamp_seconds": f"{SECONDS_OF_A_DAY}x{8 * DAY}"},
    ),
]  # fmt: skip


def case(name: str, series: dict[str, str], step: int, minutes: int, count: int) -> dict[str, Any]:
    """One test of promtool: whether an alert fires at a step."""
    labels = "job='sensor',instance='host:9180'"
    full = {
        (f"{PREFIX}{key[:-1]},{labels}}}" if key.endswith("}") else f"{PREFIX}{key}{{{labels}}}"): values
        for key, values in series.items()
    }
    alert = f"ALERTS{{alertname='HarborguardSensor{name}', alertstate='firing'}}"
    return {
        "name": name,
        "interval": f"{minutes}m",
        "input_series": [{"series": key, "values": values} for key, values in full.items()],
        "promql_expr_test": [
            {
                "expr": f"count({alert}) or vector(0)",
                "eval_time": f"{step * minutes}m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
        ],
    }


@pytest.mark.parametrize(("cases", "minutes"), [(BY_MINUTES, 1), (BY_DAYS, SLOW)], ids=["minutes", "days"])
def test_each_alert_fires_when_it_should_and_only_then(cases: list[Case], minutes: int, tmp_path: Path) -> None:
    tests = []
    for name, series, step, change in cases:
        tests += [case(name, series, step, minutes, 1), case(name, series | change, step, minutes, 0)]
    path = tmp_path / "test.yaml"
    every = f"{minutes}m"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": every, "tests": tests}))
    ran = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_has_such_a_case() -> None:
    assert {f"HarborguardSensor{name}" for name, *_ in BY_MINUTES + BY_DAYS} == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith((".", "?"))
