"""What goes into the outbox: a result of a sweep, the answer to a job, the answer to a job that could not be done.

Pure; making the envelope of a large image takes a while, so callers do it in a thread and before they hold the write lock.
"""

from __future__ import annotations

import msgspec

from sensor.control_plane import wire
from sensor.control_plane.jobs import scanner_notes, served_scanners
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.finding import ImageResult
from sensor.model.request import JobRequest
from sensor.report.document import FailedScan, Kept, envelope, failed_envelope
from sensor.report.entries import Kind, NewEntry
from sensor.report.outbox import new_scan_id

CANCELLED = "cancelled by the control plane"
"""The reason of a cancelled job. Its status is `failed`: the protocol has no other word, and refuses `cancelled` (section 4.5)."""


def standalone(
    link: str, result: ImageResult, *, sensor: wire.Sensor, limits: Limits, scan_id: str = "", kept: Kept | None = None
) -> NewEntry:
    """A result that nobody asked for, for one link; under a new id, where none was made for it before."""
    scan_id = scan_id or new_scan_id()
    document = envelope(result, sensor=sensor, limits=limits, scan_id=scan_id, kept=kept)
    return NewEntry(
        link=link,
        kind=Kind.STANDALONE,
        scan_id=scan_id,
        reference=result.reference,
        digest=result.digest,
        body=document.body,
    )


def answer(
    work: JobRequest,
    result: ImageResult,
    *,
    sensor: wire.Sensor,
    limits: Limits,
    remarks: tuple[str, ...] = (),
    kept: Kept | None = None,
) -> NewEntry:
    """The answer to a job: its result, with a note for each scanner that was asked for and not run.

    For the others the result says who did their work. `remarks` are for the job's status text alone.
    """
    notes = scanner_notes(work.scanners)
    served = served_scanners(work.scanners, sensor.version)
    sensor = msgspec.structs.replace(sensor, scanner_versions=sensor.scanner_versions | served)
    if notes:
        # a job without anything to complain about has no text: it is shown as an error
        remarks = (*remarks, *(f"{name}: {what}" for name, what in served.items()))
    document = envelope(result, sensor=sensor, limits=limits, scan_id=work.job, notes=notes, kept=kept)
    return NewEntry(
        link=work.link,
        kind=Kind.JOB,
        scan_id=work.job,
        reference=work.reference,
        digest=result.digest,
        body=document.body,
        outcome="completed",
        error="; ".join((*notes, *document.shortened, *remarks)),
    )


def refusal(
    work: JobRequest, failed: FailedScan, *, digest: Digest | None = None, sensor: wire.Sensor, limits: Limits
) -> NewEntry:
    """The answer to a job that could not be done."""
    document = failed_envelope(failed, scan_id=work.job, sensor=sensor, limits=limits)
    return NewEntry(
        link=work.link,
        kind=Kind.JOB,
        scan_id=work.job,
        reference=work.reference,
        digest=digest or "",
        body=document.body,
        outcome="failed",
        error=failed.error,
    )
