"""Says in the log what is news: what fails again as it failed before is said once, and so is that it works again.

`status` and the metrics show all the while what is wrong; the log is where changes stand. Names the work that lines belong to, too.
Leaves words and levels to `journal`.
"""

from __future__ import annotations

import re
import secrets
from typing import assert_never

import structlog

from sensor import events
from sensor.daemon.journal import log_event
from sensor.log import CORRELATION, settle_repeats
from sensor.model.request import JobRequest, RematchRequest, ScanRequest, SweepRequest, Work
from sensor.repeats import States

log = structlog.get_logger()

_VARIES = re.compile(r"[0-9a-fA-F]{8}[0-9a-fA-F-]*|\d+")
"""Request ids, times, counts: another one of these makes no other failure."""


class Announcer:
    """Told every event; one a process."""

    def __init__(self) -> None:
        self._states = States()

    def __call__(self, event: events.Event) -> None:
        """Log one event, and what else is due."""
        settle_repeats()
        match event:
            case events.SweepFinished():
                is_news = self._states.change(("sweep", event.registry), _kind_of(event.error))
                log_event(event, is_old=bool(event.error) and not is_news)
                if is_news and not event.error:
                    log.info("registry recovered", registry=event.registry)
            case events.IntakeChanged():
                log_event(event, is_old=not self._states.change(("intake", event.registry), _kind_of(event.reason)))
            case events.ImageFailed():
                log_event(event, is_old=not self._states.change(("image", event.digest), _kind_of(event.error)))
            case events.ImageScanned():
                is_news = self._states.change(("image", event.digest), "")
                log_event(event)
                if is_news:
                    log.info("image recovered", digest=event.digest, reference=event.reference)
            case _:
                log_event(event)


def name_work(work: Work) -> None:
    """Have all further lines of this task, and of what it starts, say which piece of work they belong to."""
    forget_work()
    match work:
        case SweepRequest():
            structlog.contextvars.bind_contextvars(sweep_id=secrets.token_hex(4))
        case ScanRequest():
            structlog.contextvars.bind_contextvars(image_id=work.digest.partition(":")[2][:12])
        case JobRequest():
            structlog.contextvars.bind_contextvars(job_id=work.job)
        case RematchRequest():
            structlog.contextvars.bind_contextvars(rematch_id=work.revision[:12])
        case _:
            assert_never(work)


def forget_work() -> None:
    """What this task logs from here on belongs to no work."""
    structlog.contextvars.unbind_contextvars(*CORRELATION)


def _kind_of(error: str) -> str:
    return _VARIES.sub("#", error)
