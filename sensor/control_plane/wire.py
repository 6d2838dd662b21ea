"""The documents of the HarborGuard protocol, defined once for both sides: the client here and the console there.

Writers are strict (only these fields, in these types); readers are tolerant, because two servers with different habits speak this
protocol: answers may be wrapped in `data`, errors may be text or an object, and a list of jobs may be bare, null or absent. The field names are
the control plane's, spelled in camel case on the wire. No input or output happens here.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from sensor.errors import DataError

ENVELOPE_VERSION: Literal["1.0"] = "1.0"
"""A string. Any other value sends the document down the server's legacy path."""

NATIVE_SOURCE = "harborguard-sensor"
"""The `source` of everything that the sensor's own engine finds."""

JobOutcome: TypeAlias = Literal["completed", "failed"]
"""The only two words that the job status accepts, in lower case."""

_LONGEST_ID = 128
_LONGEST_ERROR = 500


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Camel case on the wire, every field written."""


class _Sparse(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Camel case on the wire, optional fields left out when they hold nothing."""


class Registration(_Document, frozen=True, kw_only=True):
    """`POST /api/agent/register`: every call overwrites everything; an absent `capabilities` would reset it to none."""

    name: str
    version: str
    hostname: str = ""
    os: str = "linux"
    arch: str = ""
    scanner_versions: dict[str, str] = {}
    capabilities: tuple[str, ...] = ("scan",)
    s3_configured: bool = False


class Heartbeat(_Document, frozen=True, kw_only=True):
    """`POST /api/agent/heartbeat`: the only call besides register that keeps the agent online. `status` is idle or scanning."""

    agent_id: str
    status: Literal["idle", "scanning"] = "idle"
    active_scans: int = 0
    uptime_seconds: int = 0


class JobScan(_Sparse, frozen=True, kw_only=True):
    """What a scan job names. Credentials in a job are not read: the sensor has its own, and these would end up in its memory and logs."""

    image_ref: str = ""
    source: str = "registry"
    tar_path: str = ""
    scanners: tuple[str, ...] = ()
    s3_key: str = ""


class Job(_Sparse, frozen=True, kw_only=True):
    """One claimed job. `scan` is None where the job named nothing to scan (another type, or a broken one)."""

    id: str
    type: str = ""
    created_at: str = ""
    scan: JobScan | None = None


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll claimed. `unreadable` counts entries without a usable id, which nobody can answer for."""

    jobs: tuple[Job, ...] = ()
    cancelled: tuple[str, ...] = ()
    unreadable: int = 0


class JobStatus(_Sparse, frozen=True, kw_only=True):
    """`POST /api/agent/jobs/{id}/status`."""

    status: JobOutcome
    error: str = ""


class UploadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A stored envelope: 200 for the scan of a job, 201 for a new scan. Ids are empty where the server does not tell them."""

    status: int
    scan_id: str = ""
    image_id: str = ""


class Sensor(_Sparse, frozen=True, kw_only=True):
    """Who made the envelope. `scanner_versions` is stored by the server, and shown."""

    version: str
    scanner_versions: dict[str, str]
    id: str = ""
    name: str = ""


class Image(_Sparse, frozen=True, kw_only=True):
    """What was scanned. `digest` is bare (`sha256:...`) and that of the index where there is one."""

    ref: str
    name: str
    tag: str
    digest: str = ""
    platform: str = ""
    size_bytes: int = 0


class Scan(_Sparse, frozen=True, kw_only=True):
    """`id` is the job's id for jobs, else a UUID used once. Times are UTC with `Z`."""

    id: str
    started_at: str
    finished_at: str
    status: Literal["SUCCESS", "PARTIAL", "FAILED"]


class Vulnerability(_Sparse, frozen=True, kw_only=True):
    """One row of `findings.vulnerabilities`."""

    source: str
    cve_id: str
    package_name: str
    severity: str
    installed_version: str = ""
    fixed_version: str = ""
    cvss_score: float | None = None
    title: str = ""
    description: str = ""
    vulnerability_url: str = ""


class PackageRow(_Sparse, frozen=True, kw_only=True):
    """One row of `findings.packages`. `license` is one string: a list fails the whole insert."""

    source: str
    name: str
    version: str = ""
    type: str = ""
    purl: str = ""
    license: str = ""


class Compliance(_Sparse, frozen=True, kw_only=True):
    """One row of `findings.compliance`."""

    source: str
    rule_id: str
    rule_name: str
    severity: str
    category: str = ""
    message: str = ""


class Efficiency(_Sparse, frozen=True, kw_only=True):
    """One row of `findings.efficiency`."""

    source: str
    finding_type: str
    severity: str = "INFO"
    size_bytes: int = 0
    details: str = ""
    title: str = ""


class Findings(_Document, frozen=True, kw_only=True):
    """The four lists; all are always written."""

    vulnerabilities: tuple[Vulnerability, ...] = ()
    packages: tuple[PackageRow, ...] = ()
    compliance: tuple[Compliance, ...] = ()
    efficiency: tuple[Efficiency, ...] = ()


class Counts(_Document, frozen=True, kw_only=True):
    """Findings by severity, of exactly the rows that are uploaded."""

    critical: int = 0
    high: int = 0
    medium: int = 0
    low: int = 0
    info: int = 0


class Aggregates(_Document, frozen=True, kw_only=True):
    """Sums that the server shows without recomputing them."""

    vulnerability_counts: Counts
    risk_score: int
    total_packages: int


class Layer(_Sparse, frozen=True, kw_only=True):
    """One layer, lowest first. The hosted product shows them, the open-source one ignores them."""

    index: int
    command: str
    size_bytes: int
    file_count: int
    top_files: tuple[dict[str, str], ...]
    digest: str = ""


class GapRow(_Document, frozen=True, kw_only=True):
    """Something that could not be judged. No server reads this yet; it stands here so that a stored envelope explains its PARTIAL."""

    kind: str
    subject: str
    reason: str


class Artifacts(_Sparse, frozen=True, kw_only=True):
    """What lies in the bucket that the control plane reads (section 7). All below `s3_prefix`, exactly `scans/<scan id>/`, is deleted in time."""

    s3_prefix: str
    raw_results: dict[str, str] = {}
    sbom: str = ""


class Envelope(_Sparse, frozen=True, kw_only=True):
    """A scan result, format 1.0 (sections 5.3 and 5.4). `layers` and `gaps` are extra fields that older servers ignore."""

    version: Literal["1.0"]
    sensor: Sensor
    image: Image
    scan: Scan
    findings: Findings
    aggregates: Aggregates
    artifacts: Artifacts | None = None
    layers: tuple[Layer, ...] = ()
    gaps: tuple[GapRow, ...] = ()


_ENCODER = msgspec.json.Encoder()
_ENVELOPE = msgspec.json.Decoder(Envelope)


def encode(document: msgspec.Struct) -> bytes:
    """The document's JSON, UTF-8, compact."""
    return _ENCODER.encode(document)


def read_envelope(body: bytes) -> Envelope:
    """Read an envelope back; unknown fields are dropped.

    Raises:
        DataError: not an envelope 1.0.
    """
    try:
        return _ENVELOPE.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        message = f"not an envelope: {str(error)[:200]}"
        raise DataError(message) from error


def with_scan_id(body: bytes, scan_id: str) -> bytes:
    """The same envelope under another scan id. What lies in a bucket under the former one is not its own any more, and that is a gap."""
    envelope = read_envelope(body)
    scan = msgspec.structs.replace(envelope.scan, id=scan_id)
    if envelope.artifacts is not None and scan_id != envelope.scan.id:
        reason = f"the upload needed another id; the files are under {envelope.artifacts.s3_prefix}"
        gaps = (*envelope.gaps, GapRow(kind="artifacts", subject="s3", reason=reason))
        scan = msgspec.structs.replace(scan, status="FAILED" if scan.status == "FAILED" else "PARTIAL")
        envelope = msgspec.structs.replace(envelope, artifacts=None, gaps=gaps)
    return encode(msgspec.structs.replace(envelope, scan=scan))


def clean_text(text: str) -> str:
    """Text that PostgreSQL stores: without NUL, and with every lone surrogate replaced (section 5.4). Pairs of surrogates become their character."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_job_id(value: object) -> bool:
    """Whether a job's id is text that can stand in a URL path as one segment of its own."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable() and value not in {".", ".."}


def parse_jobs(body: bytes) -> Poll:
    """Read the answer of a poll in any of its forms (section 4.2). One broken entry does not lose the others: they are claimed too.

    Raises:
        DataError: not JSON, or JSON that is no answer to a poll.
    """
    answer = parse_answer(body)
    cancelled: object = None
    if isinstance(answer, dict):
        jobs, cancelled = answer.get("jobs"), answer.get("cancelJobs")
    else:
        jobs = answer
    if jobs is not None and not isinstance(jobs, list):
        raise DataError("the answer to the job poll holds no list of jobs")
    read = [_parse_job(entry) for entry in jobs or ()]
    return Poll(
        jobs=tuple(job for job in read if job is not None),
        cancelled=tuple(entry for entry in cancelled if is_job_id(entry)) if isinstance(cancelled, list) else (),
        unreadable=sum(job is None for job in read),
    )


def parse_registered(body: bytes) -> str:
    """The agent id of a registration; empty where the server tells none.

    Raises:
        DataError: not a JSON object.
    """
    answer = parse_answer(body)
    if not isinstance(answer, dict):
        raise DataError("the answer to the registration is not a JSON object")
    return _text(answer.get("agentId"))


def parse_uploaded(status: int, body: bytes) -> UploadAnswer:
    """The answer of an upload that was stored; the documented form (`{"ok": true}`) tells no ids.

    Raises:
        DataError: not JSON.
    """
    answer = parse_answer(body) if body.strip() else None
    found = answer if isinstance(answer, dict) else {}
    return UploadAnswer(status=status, scan_id=_text(found.get("scanId")), image_id=_text(found.get("imageId")))


def parse_answer(body: bytes) -> object:
    """The JSON of an answer, taken out of the documented `data` wrapper if it is in one.

    Raises:
        DataError: not JSON.
    """
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DataError("the answer is not JSON") from error
    return answer["data"] if isinstance(answer, dict) and isinstance(answer.get("data"), (dict, list)) else answer


def error_text(body: bytes) -> str:
    """What an error body says: `{"error": "text"}`, `{"error": {"code", "message", "issues"}}`; empty for anything else."""
    error = _error_of(body)
    if isinstance(error, dict):
        issues = error.get("issues")
        said = [error.get("code"), error.get("message")]
        if isinstance(issues, list):
            said += [f"{i.get('path')}: {i.get('message')}" for i in issues[:3] if isinstance(i, dict)]
        error = ": ".join(part for part in said if isinstance(part, str) and part)
    return _one_line(error) if isinstance(error, str) else ""


def is_json_error(body: bytes) -> bool:
    """Whether a body is a JSON object with an `error`: after such a 500 nothing of an envelope was stored (section 5.5)."""
    return bool(_error_of(body))


def _error_of(body: bytes) -> Any:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return answer.get("error") if isinstance(answer, dict) else None


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST_ERROR]).split())[:_LONGEST_ERROR]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _parse_job(entry: object) -> Job | None:
    if not isinstance(entry, dict) or not is_job_id(entry.get("id")):
        return None
    scan = entry.get("scan")
    return Job(
        id=entry["id"],
        type=_text(entry.get("type")),
        created_at=_text(entry.get("createdAt")),
        scan=_parse_job_scan(scan) if isinstance(scan, dict) else None,
    )


def _parse_job_scan(scan: dict[str, object]) -> JobScan:
    scanners = scan.get("scanners")
    return JobScan(
        image_ref=_text(scan.get("imageRef")),
        source=_text(scan.get("source")) or "registry",
        tar_path=_text(scan.get("tarPath")),
        scanners=tuple(name for name in scanners if isinstance(name, str)) if isinstance(scanners, list) else (),
        s3_key=_text(scan.get("s3Key")),
    )
