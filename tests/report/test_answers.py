"""What is put into the outbox: results, answers to jobs, and refusals."""

from __future__ import annotations

import json
from typing import Any

from sensor.limits import DEFAULT_LIMITS
from sensor.model.digest import Digest
from sensor.model.request import JobRequest
from sensor.report.answers import answer, refusal, standalone
from sensor.report.document import FailedScan
from sensor.report.entries import Kind, NewEntry
from tests.report.results import DIGEST, SENSOR, finding, result

JOB = JobRequest(link="cp", job="job-7", reference="acme/app:1.4", scanners=("trivy", "dockle"))


def body_of(entry: NewEntry) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(entry.body)
    return found


def test_a_result_gets_an_id_of_its_own_each_time() -> None:
    first, second = (standalone("cp", result(finding()), sensor=SENSOR, limits=DEFAULT_LIMITS) for _ in range(2))
    assert (first.link, first.kind, first.digest) == ("cp", Kind.STANDALONE, DIGEST)
    assert first.scan_id != second.scan_id
    assert body_of(first)["scan"]["id"] == first.scan_id


def test_an_answer_has_the_jobs_id_and_says_which_scanners_were_not_run() -> None:
    entry = answer(JOB, result(finding()), sensor=SENSOR, limits=DEFAULT_LIMITS)
    assert (entry.kind, entry.scan_id, entry.reference, entry.outcome) == (
        Kind.JOB,
        "job-7",
        JOB.reference,
        "completed",
    )
    assert body_of(entry)["scan"]["id"] == "job-7"
    assert body_of(entry)["scan"]["status"] == "PARTIAL"
    assert entry.error.startswith("compliance is not served: dockle was asked for")
    assert entry.error.endswith("trivy: vulnerabilities, packages by harborguard-sensor 0.1.0")


def test_an_answer_that_lacks_nothing_has_no_text_and_says_in_the_result_who_did_the_work() -> None:
    job = JobRequest(link="cp", job="job-7", reference="acme/app:1.4", scanners=("trivy",))
    entry = answer(job, result(finding()), sensor=SENSOR, limits=DEFAULT_LIMITS)
    assert (entry.error, body_of(entry)["scan"]["status"]) == ("", "SUCCESS")
    versions = body_of(entry)["sensor"]["scannerVersions"]
    assert versions["trivy"] == "vulnerabilities, packages by harborguard-sensor 0.1.0"
    assert versions["harborguard-sensor"] == "0.1.0"


def test_remarks_are_for_the_jobs_text_alone() -> None:
    job = JobRequest(link="cp", job="job-7", reference="acme/app:1.4")
    entry = answer(job, result(finding()), sensor=SENSOR, limits=DEFAULT_LIMITS, remarks=("found elsewhere",))
    assert (entry.error, body_of(entry)["scan"]["status"]) == ("found elsewhere", "SUCCESS")


def test_a_refusal_says_why_and_has_no_findings() -> None:
    failed = FailedScan(
        reference=JOB.reference,
        error="no such image",
        digest="",
        started_at="2026-05-01T00:00:00.000Z",
        finished_at="2026-05-01T00:00:01.000Z",
    )
    entry = refusal(JOB, failed, sensor=SENSOR, limits=DEFAULT_LIMITS)
    assert (entry.outcome, entry.error, entry.digest) == ("failed", "no such image", "")
    assert body_of(entry)["scan"]["status"] == "FAILED"
    known = refusal(JOB, failed, digest=Digest(DIGEST), sensor=SENSOR, limits=DEFAULT_LIMITS)
    assert known.digest == DIGEST
