"""Notices when somebody pauses or resumes a registry by hand: `status` shows it at once, and what waited starts."""

from __future__ import annotations

from sensor import events
from sensor.daemon.app import App
from sensor.work.intake import paused_reason


async def follow_pauses(app: App) -> None:
    """Tell what was paused or resumed since the last call.

    Raises:
        StateError: the state database cannot be used.
    """
    paused, resumed = app.pipeline.intake.follow_pauses(app.engine.sites.names())
    for name in sorted(paused):
        app.publish(events.IntakeChanged(at=app.clock(), registry=name, reason=paused_reason(name)))
    for name in sorted(resumed):
        await app.queue.ripen(name)
        app.publish(events.IntakeChanged(at=app.clock(), registry=name))
