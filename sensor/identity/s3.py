"""Objects into an S3 bucket, by the real SDK: the same credentials, proxies and authorities as for everything else at AWS.

With an endpoint of its own (MinIO, Ceph, ...) the bucket stands in the path, because such hosts rarely have a name for each bucket.
"""

from __future__ import annotations

from sensor.config.logins import Aws
from sensor.config.schema import S3
from sensor.identity.aws import AwsIdentity, Patience, Place
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.route import Route

_REGION = "us-east-1"
"""What the dashboard takes too when none is set."""
_PATIENCE = Patience(attempts=2, seconds=20.0)


class S3Bucket:
    """One bucket. Nothing is imported or asked before the first object."""

    def __init__(self, settings: S3, route: Route, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._bucket = settings.bucket
        aws = Aws(
            access_key_id=settings.access_key_id,
            secret_access_key=settings.secret_access_key,
            session_token=settings.session_token,
        )
        place = Place(
            region=settings.region or _REGION,
            endpoints={"s3": settings.endpoint} if settings.endpoint else {},
            path_style=bool(settings.endpoint),
        )
        self._identity = AwsIdentity(aws, place, route, patience=_PATIENCE, limits=limits)

    async def put(self, key: str, body: bytes, content_type: str) -> None:
        """Store one object, within 20 seconds.

        Raises:
            SensorError: no credentials, no access, no bucket, or no answer in time.
        """
        await self._identity.call("s3", "put_object", Bucket=self._bucket, Key=key, Body=body, ContentType=content_type)
