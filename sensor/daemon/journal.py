"""Writes events to the log: one constant sentence an event, everything else in fields. Progress and skipped tags are for debugging only."""

from __future__ import annotations

import dataclasses
import logging

import structlog

from sensor import events

log = structlog.get_logger()

_LINES: dict[type[events.Event], tuple[int, str]] = {
    events.SensorStarted: (logging.INFO, "sensor started"),
    events.SweepStarted: (logging.INFO, "sweep started"),
    events.SweepFinished: (logging.INFO, "sweep finished"),
    events.SweepRemembered: (logging.DEBUG, "sweep remembered"),
    events.LedgerChanged: (logging.DEBUG, "ledger changed"),
    events.RepositoryVanished: (logging.WARNING, "repository vanished"),
    events.TagSkipped: (logging.DEBUG, "tag skipped"),
    events.CredentialChecked: (logging.DEBUG, "credential checked"),
    events.IntakeChanged: (logging.INFO, "intake changed"),
    events.QuotaChanged: (logging.DEBUG, "quota changed"),
    events.ImageStarted: (logging.INFO, "image started"),
    events.ImageProgressed: (logging.DEBUG, "image progressed"),
    events.ImageStopped: (logging.DEBUG, "image stopped"),
    events.ImageScanned: (logging.INFO, "image scanned"),
    events.ImageFailed: (logging.ERROR, "image failed"),
    events.ImagesRematched: (logging.INFO, "images matched again"),
    events.AdvisoriesChanged: (logging.INFO, "advisories in force"),
    events.LinkChanged: (logging.INFO, "link changed"),
    events.ClockCompared: (logging.DEBUG, "clock compared"),
    events.HeartbeatSent: (logging.DEBUG, "heartbeat sent"),
    events.JobClaimed: (logging.INFO, "job claimed"),
    events.JobFinished: (logging.INFO, "job finished"),
    events.ResultDelivered: (logging.INFO, "result delivered"),
    events.ResultRefused: (logging.ERROR, "result refused"),
    events.OutboxCounted: (logging.DEBUG, "outbox counted"),
    events.ConfigReloaded: (logging.INFO, "configuration reloaded"),
}
"""Every event has a line; a test keeps the table complete."""


def log_event(event: events.Event, *, is_old: bool = False) -> None:
    """One log line for one event; an event that carries an error is at least a warning, and one that says what was said is for debugging."""
    level, text = _LINES[type(event)]
    if isinstance(event, events.ConfigReloaded) and event.error:
        level, text = logging.ERROR, "configuration kept"
    # `at` is the log's own timestamp
    fields = {
        field.name: value
        for field in dataclasses.fields(event)
        if field.name != "at" and (value := getattr(event, field.name)) not in ("", None, (), {})
    }
    if fields.get("error"):
        level = max(level, logging.WARNING)
    log.log(logging.DEBUG if is_old else level, text, **fields)
