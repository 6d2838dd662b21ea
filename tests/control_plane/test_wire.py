import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.control_plane import wire
from sensor.errors import DataError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)

JOB = {"id": "j1", "type": "SCAN", "createdAt": "2026-05-22T18:04:11.532Z", "scan": {"imageRef": "a/b:1"}}


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        ({"jobs": [JOB]}, ["j1"]),
        ([JOB], ["j1"]),
        ({"data": {"jobs": [JOB]}}, ["j1"]),
        ({"data": [JOB]}, ["j1"]),
        ({"jobs": None}, []),
        ({"jobs": []}, []),
        ({}, []),
    ],
)
def test_every_form_of_a_poll_is_read(answer: object, ids: list[str]) -> None:
    assert [job.id for job in wire.parse_jobs(json.dumps(answer).encode()).jobs] == ids


def test_a_job_is_read_whole() -> None:
    scan = {
        "imageRef": "acme/app:1",
        "source": "tar",
        "tarPath": "/tmp/x",
        "scanners": ["trivy", 5],
        "s3Key": "k",
        "registryCredentials": {"username": "u", "password": "hunter2"},
    }
    poll = wire.parse_jobs(json.dumps({"jobs": [JOB | {"scan": scan}], "cancelJobs": ["a", 5, "", ".."]}).encode())
    expected = wire.JobScan(image_ref="acme/app:1", source="tar", tar_path="/tmp/x", scanners=("trivy",), s3_key="k")
    assert poll.jobs[0].scan == expected
    assert poll.jobs[0].created_at == JOB["createdAt"]
    assert poll.cancelled == ("a",)
    assert "hunter2" not in repr(poll)


def test_one_broken_job_does_not_lose_the_others() -> None:
    jobs = [5, {"type": "SCAN"}, {"id": ""}, {"id": "a\nb"}, {"id": ".."}, {"id": "x" * 129}, {"id": "ok", "scan": []}]
    poll = wire.parse_jobs(json.dumps({"jobs": jobs}).encode())
    assert [(job.id, job.scan) for job in poll.jobs] == [("ok", None)]
    assert poll.unreadable == 6


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"jobs": 5}', b'{"jobs": {}}', b"5", b"\xff", b"[" * 100_000])
def test_other_answers_to_a_poll_are_refused(body: bytes) -> None:
    with pytest.raises(DataError):
        wire.parse_jobs(body)


@given(JSON_VALUES)
@settings(max_examples=150, deadline=None)
def test_no_json_breaks_the_readers(value: object) -> None:
    body = json.dumps(value).encode()
    for reader in (wire.parse_jobs, wire.parse_registered, lambda data: wire.parse_uploaded(200, data)):
        try:
            reader(body)
        except DataError:
            continue
    assert isinstance(wire.error_text(body), str)
    assert isinstance(wire.is_json_error(body), bool)


@given(st.binary(max_size=50))
@settings(max_examples=100, deadline=None)
def test_no_bytes_break_the_error_reader(body: bytes) -> None:
    assert wire.error_text(body).isprintable()


@pytest.mark.parametrize(
    ("body", "agent"),
    [(b'{"agentId":"a"}', "a"), (b'{"data":{"agentId":"a"}}', "a"), (b'{"registry":1}', ""), (b'{"agentId":5}', "")],
)
def test_registrations_are_read_tolerantly(body: bytes, agent: str) -> None:
    assert wire.parse_registered(body) == agent


def test_a_list_is_no_registration() -> None:
    with pytest.raises(DataError):
        wire.parse_registered(b"[]")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"success":true,"scanId":"s","imageId":"i"}', ("s", "i")),
        (b'{"data":{"scanId":"s"}}', ("s", "")),
        (b'{"ok":true}', ("", "")),
        (b"", ("", "")),
        (b"[]", ("", "")),
    ],
)
def test_upload_answers_are_read_tolerantly(body: bytes, expected: tuple[str, str]) -> None:
    answer = wire.parse_uploaded(201, body)
    assert (answer.scan_id, answer.image_id) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":"plain"}', "plain"),
        (b'{"error":{"code":"PLAN_LIMIT","message":"too many"}}', "PLAN_LIMIT: too many"),
        (b'{"error":{"message":"bad","issues":[{"path":"a.b","message":"is bad"},5]}}', "bad: a.b: is bad"),
        (b'{"error":"line\\nbreak \\u001b[31m"}', "line break [31m"),
        (b'{"error":null}', ""),
        (b'{"error":7}', ""),
        (b"<html>", ""),
        (b"", ""),
    ],
)
def test_error_texts(body: bytes, expected: str) -> None:
    assert wire.error_text(body) == expected


def test_error_texts_are_bounded() -> None:
    assert len(wire.error_text(json.dumps({"error": "x" * 10_000}).encode())) == 500


def test_only_a_json_error_says_that_nothing_was_stored() -> None:
    assert wire.is_json_error(b'{"error":"x"}')
    assert wire.is_json_error(b'{"error":{"code":"INTERNAL_ERROR"}}')
    assert not wire.is_json_error(b"")
    assert not wire.is_json_error(b"<html>500</html>")
    assert not wire.is_json_error(b"{}")


def test_documents_have_the_names_of_the_wire() -> None:
    registration = wire.Registration(name="n", version="1", hostname="h", arch="amd64", scanner_versions={"a": "1"})
    assert json.loads(wire.encode(registration)) == {
        "name": "n",
        "version": "1",
        "hostname": "h",
        "os": "linux",
        "arch": "amd64",
        "scannerVersions": {"a": "1"},
        "capabilities": ["scan"],
        "s3Configured": False,
    }
    beat = wire.Heartbeat(agent_id="a", status="scanning", active_scans=1, uptime_seconds=5)
    assert json.loads(wire.encode(beat)) == {
        "agentId": "a",
        "status": "scanning",
        "activeScans": 1,
        "uptimeSeconds": 5,
    }
    assert json.loads(wire.encode(wire.JobStatus(status="failed", error="e"))) == {"status": "failed", "error": "e"}
    assert json.loads(wire.encode(wire.JobStatus(status="completed"))) == {"status": "completed"}
    job = wire.Job(id="j", type="SCAN", created_at="t", scan=wire.JobScan(image_ref="a/b:1", s3_key="k", tar_path="p"))
    assert json.loads(wire.encode(job)) == {
        "id": "j",
        "type": "SCAN",
        "createdAt": "t",
        "scan": {"imageRef": "a/b:1", "s3Key": "k", "tarPath": "p"},
    }


EXAMPLE = {
    "version": "1.0",
    "sensor": {"version": "1", "scannerVersions": {}},
    "image": {"ref": "a/b:1", "name": "a/b", "tag": "1", "sizeBytes": 5},
    "scan": {
        "id": "old",
        "startedAt": "2026-05-22T18:04:20Z",
        "finishedAt": "2026-05-22T18:04:21Z",
        "status": "FAILED",
    },
    "findings": {"vulnerabilities": [], "packages": [], "compliance": [], "efficiency": []},
    "aggregates": {
        "vulnerabilityCounts": {"critical": 0, "high": 0, "medium": 0, "low": 0, "info": 0},
        "riskScore": 0,
        "totalPackages": 0,
    },
}


def test_an_envelope_survives_a_change_of_its_id() -> None:
    body = wire.with_scan_id(json.dumps(EXAMPLE).encode(), "new")
    assert json.loads(body) == EXAMPLE | {"scan": EXAMPLE["scan"] | {"id": "new"}}  # type: ignore[operator]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"version":"1.1"}', b"[" * 100_000])
def test_what_is_no_envelope_is_refused(body: bytes) -> None:
    with pytest.raises(DataError):
        wire.read_envelope(body)


@given(st.text(alphabet=st.characters(), max_size=30) | st.text(alphabet="\0\ud800\udc00\udfffa€", max_size=12))
@settings(max_examples=200, deadline=None)
def test_clean_text_can_be_stored(text: str) -> None:
    clean = wire.clean_text(text)
    clean.encode()
    assert "\0" not in clean
    assert wire.clean_text(clean) == clean


def test_pairs_of_surrogates_become_their_character() -> None:
    assert wire.clean_text("a\ud83d\ude00b\ud800c\0") == "a😀b\ufffdc"
