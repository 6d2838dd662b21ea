"""What to do with an undelivered result after an answer, or after none. Pure.

An upload is not idempotent (sections 5.5 and 5.7 of the wire contract): for a job a second copy adds every finding again, and a standalone scan id is
used up by an upload that failed half-way. So what may be sent again, and under which id, depends on the answer and on what was tried before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sensor.report.entries import Kind

MOST_STRIKES = 12
"""Failures of one entry on a link that works. With pauses of up to 15 minutes that is some hours."""
MOST_HALVES = 3
"""Half-stored standalone uploads: each leaves an incomplete scan on the dashboard, and the fourth would hardly go better."""


class Answer(StrEnum):
    """What an upload came to."""

    STORED = "stored"
    ALREADY_THERE = "already there"
    NOTHING_STORED = "nothing stored"
    LOST = "lost"
    HALF_STORED = "half stored"
    REFUSED = "refused"
    TOO_LARGE = "too large"
    LINK_AT_FAULT = "link at fault"


class Step(StrEnum):
    """What to do with the entry then."""

    SETTLE = "settle"
    """Delivered; a job's status is due."""
    AGAIN = "again"
    """The same upload under the same id, later."""
    AGAIN_NEW_ID = "again under a new id"
    CLOSE = "close"
    """A job: send the envelope without its findings, then report the job failed (docs/adr/0006)."""
    GIVE_UP = "give up"
    """Keep it aside with the reason; a job is reported failed."""
    WAIT = "wait"
    """The link is at fault: pause it, keep the entry as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known before an answer. `lost` and `burnt` concern the present scan id, `strikes` the entry.

    `closing`: this upload was the closing one, without findings. `has_rows`: a second copy of this upload would double rows.
    """

    lost: bool = False
    burnt: bool = False
    strikes: int = 0
    closing: bool = False
    has_rows: bool = True


def next_step(kind: Kind, history: History, answer: Answer) -> Step:
    """The decision table (sections 5.5 and 5.7; docs/adr/0006 for jobs). Pure."""
    if answer is Answer.STORED:
        return Step.SETTLE
    if answer is Answer.LINK_AT_FAULT:
        return Step.WAIT
    if kind is Kind.STANDALONE:
        return _standalone_step(history, answer)
    return _job_step(history, answer)


def _standalone_step(history: History, answer: Answer) -> Step:
    more = history.strikes + 1 < MOST_STRIKES
    match answer:
        case Answer.ALREADY_THERE if history.lost and not history.burnt:
            # our own upload, whose answer we never saw; a half-stored one would answer so too, therefore not when burnt
            return Step.SETTLE
        case Answer.ALREADY_THERE:
            return Step.AGAIN_NEW_ID if more else Step.GIVE_UP
        case Answer.HALF_STORED:
            return Step.AGAIN_NEW_ID if history.strikes + 1 < MOST_HALVES else Step.GIVE_UP
        case Answer.NOTHING_STORED | Answer.LOST:
            return Step.AGAIN if more else Step.GIVE_UP
        case _:
            return Step.GIVE_UP


def _job_step(history: History, answer: Answer) -> Step:
    may_repeat = history.closing or not history.has_rows
    again = Step.AGAIN if history.strikes + 1 < MOST_STRIKES else Step.GIVE_UP
    match answer:
        case Answer.ALREADY_THERE:
            # the dashboard's scan is gone, and an upload of ours has made another: nothing is left to do there
            return Step.SETTLE if history.closing or history.lost else Step.GIVE_UP
        case Answer.NOTHING_STORED:
            return again
        case Answer.LOST | Answer.HALF_STORED:
            return again if may_repeat else Step.CLOSE
        case Answer.TOO_LARGE:
            return Step.GIVE_UP if may_repeat else Step.CLOSE
        case _:
            return Step.GIVE_UP
