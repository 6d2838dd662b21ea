"""Raw report and SBOM of a result, put where the control plane reads them: an S3 bucket that both know (section 7 of the wire contract).

Done before the envelope is made, because an envelope must not name what is not there. It never holds up a result: it is bounded in time, and after
a failure the bucket is left alone for a while. What could not be kept is said in the envelope. The control plane deletes everything below the
prefix that an envelope names, so the prefix belongs to one scan alone, and an id that would make another one is not used.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from sensor.control_plane import wire
from sensor.errors import SensorError
from sensor.model.finding import ImageResult
from sensor.report.cyclonedx import cyclonedx
from sensor.report.document import Kept
from sensor.version import VERSION

REPORT = wire.NATIVE_SOURCE
"""The scanner that the raw report is of."""
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_PAUSE = 300.0
"""Seconds for which a bucket that failed is not tried."""

log = structlog.get_logger()


class Bucket(Protocol):
    """Where objects are put; `identity.s3` implements it."""

    async def put(self, key: str, body: bytes, content_type: str) -> None:
        """Store one object, in bounded time; SensorError when that fails."""


class ArtifactStore:
    """One bucket, for the links that it is for."""

    def __init__(
        self, bucket: Bucket | None, serves: Callable[[str], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bucket = bucket
        self._serves = serves
        self._clock = clock
        self._failed = ""
        self._again = 0.0

    async def keep(self, link: str, scan_id: str, result: ImageResult) -> Kept | None:
        """Store what belongs to a scan; None: nothing is kept for this link."""
        if self._bucket is None or not self._serves(link):
            return None
        if not _SAFE_ID.fullmatch(scan_id):
            return Kept(trouble="raw report and SBOM are not kept: the scan's id is no name of a folder")
        if self._clock() < self._again:
            return Kept(trouble=f"raw report and SBOM are not kept: {self._failed}")
        prefix = f"scans/{scan_id}/"
        artifacts = wire.Artifacts(
            s3_prefix=prefix, raw_results={REPORT: f"{prefix}raw/{REPORT}.json"}, sbom=f"{prefix}sbom.cdx.json"
        )
        report, sbom = await asyncio.to_thread(_documents, result)
        try:
            await self._bucket.put(artifacts.raw_results[REPORT], report, "application/json")
            await self._bucket.put(artifacts.sbom, sbom, "application/vnd.cyclonedx+json")
        except SensorError as error:
            self._failed, self._again = error.message, self._clock() + _PAUSE
            log.warning("artifacts not kept", error=error.message, advice=error.advice)
            return Kept(trouble=f"raw report and SBOM are not kept: {error.message}")
        if self._failed:
            self._failed = ""
            log.info("artifacts kept again")
        return Kept(artifacts=artifacts)


def _documents(result: ImageResult) -> tuple[bytes, bytes]:
    return msgspec.json.encode(result), cyclonedx(result, version=VERSION)


NOWHERE = ArtifactStore(None, lambda _link: False)
"""Where there is no bucket."""
