"""Prometheus metrics, computed from a status snapshot at the moment they are asked for.

Follows the Prometheus naming guide: base units, `_total` for counters, one label set a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sensor.status import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(snapshot: Snapshot, *, tasks: int | None = None) -> bytes:
    """The text exposition of one snapshot, of how many tasks its process has, and of what the kernel counts of it (`process_...`)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(lambda: snapshot))
    if tasks is not None:
        registry.register(_TaskCollector(tasks))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _TaskCollector(Collector):
    def __init__(self, tasks: int) -> None:
        self._tasks = tasks

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("harborguard_sensor_tasks", "Tasks of the event loop", value=self._tasks)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        state = self._snapshot()
        yield GaugeMetricFamily(
            "harborguard_sensor_ready", "1 when the sensor can judge images", value=float(state.ready)
        )
        yield GaugeMetricFamily(
            "harborguard_sensor_uptime_seconds", "Seconds since the start", value=state.uptime_seconds
        )
        yield GaugeMetricFamily("harborguard_sensor_scans_running", "Images in work", value=len(state.running))
        yield _counters("harborguard_sensor_images", "Images judged, by outcome", "outcome", state.images)
        yield _counters("harborguard_sensor_layers", "Layers needed, by where they came from", "source", {
            "fetched": state.layers.get("fetched", 0), "cached": state.layers.get("cached", 0),
        })  # fmt: skip
        yield CounterMetricFamily(
            "harborguard_sensor_fetched_bytes",
            "Compressed layer bytes read",
            value=state.layers.get("bytes_fetched", 0),
        )
        yield _counters("harborguard_sensor_findings", "Findings reported, by severity", "severity", state.findings)
        yield _counters("harborguard_sensor_jobs", "Jobs of control planes", "state", state.jobs)
        yield CounterMetricFamily(
            "harborguard_sensor_rematched_images", "Images matched again after new advisories", value=state.rematched
        )
        newest = state.advisories.newest
        if newest is not None:
            yield GaugeMetricFamily(
                "harborguard_sensor_advisories_newest_timestamp_seconds",
                "Time of the newest advisory record",
                value=newest.timestamp(),
            )
        yield from _registry_metrics(state)
        yield from _quota_metrics(state)
        yield from _link_metrics(state)
        yield from _outbox_metrics(state)


def _registry_metrics(state: Snapshot) -> Iterable[Metric]:
    ledger = GaugeMetricFamily(
        "harborguard_sensor_ledger_digests",
        "Digests by state; listed is the sum of the others",
        labels=["registry", "state"],
    )
    sweep = GaugeMetricFamily(
        "harborguard_sensor_last_sweep_timestamp_seconds", "End of the last sweep", labels=["registry"]
    )
    complete = GaugeMetricFamily(
        "harborguard_sensor_listing_complete", "1 when the last listing was complete", labels=["registry"]
    )
    requests = GaugeMetricFamily(
        "harborguard_sensor_sweep_requests", "Requests that the last sweep cost", labels=["registry"]
    )
    held = GaugeMetricFamily(
        "harborguard_sensor_intake_held", "1 while no new image of the registry is scanned", labels=["registry"]
    )
    expires = GaugeMetricFamily(
        "harborguard_sensor_credential_expiry_timestamp_seconds",
        "End of the registry's credential",
        labels=["registry"],
    )
    for registry in state.registries:
        if registry.credential_expires is not None:
            expires.add_metric([registry.name], registry.credential_expires.timestamp())
        held.add_metric([registry.name], float(bool(registry.held)))
        for name, count in sorted(registry.ledger.items()):
            ledger.add_metric([registry.name, name], count)
        if registry.last_sweep is not None:
            sweep.add_metric([registry.name], registry.last_sweep.timestamp())
            complete.add_metric([registry.name], float(registry.complete))
        if registry.requests:
            requests.add_metric([registry.name], registry.requests)
    return ledger, sweep, complete, requests, held, expires


def _quota_metrics(state: Snapshot) -> Iterable[Metric]:
    limit = GaugeMetricFamily("harborguard_sensor_quota_limit", "Requests or pulls that a host allows", labels=["host"])
    remaining = GaugeMetricFamily("harborguard_sensor_quota_remaining", "What is left of them", labels=["host"])
    for quota in state.quotas:
        limit.add_metric([quota.host], quota.limit)
        remaining.add_metric([quota.host], quota.remaining)
    return limit, remaining


def _link_metrics(state: Snapshot) -> Iterable[Metric]:
    up = GaugeMetricFamily("harborguard_sensor_link_up", "1 when registered at the control plane", labels=["link"])
    beat = GaugeMetricFamily(
        "harborguard_sensor_last_heartbeat_timestamp_seconds", "Last accepted heartbeat", labels=["link"]
    )
    delivered = CounterMetricFamily("harborguard_sensor_results_delivered", "Results delivered", labels=["link"])
    refused = CounterMetricFamily("harborguard_sensor_results_refused", "Results refused for good", labels=["link"])
    skew = GaugeMetricFamily(
        "harborguard_sensor_link_clock_skew_seconds", "How far the control plane's clock is ahead", labels=["link"]
    )
    for link in state.links:
        if link.clock_skew is not None:
            skew.add_metric([link.name], link.clock_skew)
        up.add_metric([link.name], float(link.state == "registered"))
        if link.last_heartbeat is not None:
            beat.add_metric([link.name], link.last_heartbeat.timestamp())
        delivered.add_metric([link.name], link.delivered)
        refused.add_metric([link.name], link.refused)
    return up, beat, delivered, refused, skew


def _outbox_metrics(state: Snapshot) -> Iterable[Metric]:
    entries = GaugeMetricFamily(
        "harborguard_sensor_outbox_entries", "Results by where their delivery stands", labels=["link", "state"]
    )
    size = GaugeMetricFamily("harborguard_sensor_outbox_bytes", "Stored results, compressed", labels=["link"])
    oldest = GaugeMetricFamily(
        "harborguard_sensor_outbox_oldest_timestamp_seconds", "Oldest result still to be delivered", labels=["link"]
    )
    for part in state.outbox:
        for name, count in sorted(part.counts.items()):
            entries.add_metric([part.link, name], count)
        size.add_metric([part.link], part.bytes)
        if part.oldest is not None:
            oldest.add_metric([part.link], part.oldest.timestamp())
    return entries, size, oldest


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key.lower()], value)
    return family
