"""Keeps one link alive: registers for ever, then beats, on a transport of its own.

The beat starts with the first second and waits for nothing else: not for a scan, not for an upload, not for another link. What is told
upstream (how busy the sensor is) comes from a callable; the state of the link goes out as events.

It also decides under which address the control plane is spoken to: one that does not answer is left for the next (all clients of the link
follow), and the preferred one is asked now and then whether it is back. And it notices a changed key: at each beat, and every few seconds
while the key is refused. A new key is another agent, so it registers.
"""

from __future__ import annotations

import asyncio
import platform
import random
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime

from sensor import events
from sensor.control_plane import wire
from sensor.control_plane.client import ControlPlaneClient
from sensor.control_plane.errors import Unauthorized, Unavailable
from sensor.errors import ControlPlaneError, SecretError, SensorError
from sensor.events import Publish

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds between two attempts at the most: a key may be re-enabled at any time, so refusals are retried too, slowly."""
_HOMESICK_SECONDS = 300.0
"""Between two looks whether the preferred address is back."""
_PROBE_SECONDS = 5.0
_KEY_SECONDS = 5.0
"""Between two looks at a refused key."""
_SKEW_STEP = 1.5
"""Seconds by which a clock must have moved to be told again; the header that tells has whole ones."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class LinkKeeper:
    """One link's registration and heartbeat."""

    def __init__(
        self,
        client: ControlPlaneClient,
        *,
        version: str,
        active_scans: Callable[[], int],
        publish: Publish,
        clock: Callable[[], datetime],
        registered_as: Callable[[str], None] = lambda _agent: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._link = client.link
        self._version = version
        self._active_scans = active_scans
        self._publish = publish
        self._clock = clock
        self._registered_as = registered_as
        self._sleep = sleep
        self._started = clock()
        self._state = ("", "")
        self._skew: float | None = None
        self._key_mark = ""
        self._look_home = 0.0
        self._agent = ""
        self._registered = asyncio.Event()

    @property
    def agent(self) -> str:
        """The agent id that the control plane gave; empty before, and where it gives none."""
        return self._agent

    async def registered(self) -> None:
        """Wait until the control plane knows this sensor."""
        await self._registered.wait()

    async def run(self) -> None:
        """Register and beat until cancelled. A beat that is refused leads back to registering."""
        failures = 0
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            try:
                await self._prefer_home(began)
                if self._registered.is_set() and self._client.key_mark() != self._key_mark:
                    self._registered.clear()
                if not self._registered.is_set():
                    await self._register()
                    failures = 0
                await self._beat()
                failures = 0
                # counted from the beginning: a slow answer must not make the next beat late
                await self._sleep(max(0.0, self._link.heartbeat - (now() - began)))
            except (ControlPlaneError, SecretError) as error:
                failures += 1
                self._fail(error)
                if isinstance(error, Unavailable) and self._client.addresses.advance():
                    self._look_home = now() + _HOMESICK_SECONDS
                    self._registered.clear()
                await self._rest(
                    self._pause(failures, error), is_about_the_key=isinstance(error, (Unauthorized, SecretError))
                )

    async def _prefer_home(self, now: float) -> None:
        """From a fallback, look whether the preferred address is back, and go there."""
        addresses = self._client.addresses
        if addresses.is_preferred or now < self._look_home or not self._registered.is_set():
            return
        self._look_home = now + _HOMESICK_SECONDS
        former = addresses.current
        addresses.reset()
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._client.probe()
        except (TimeoutError, ControlPlaneError):
            while addresses.current != former:
                addresses.advance()
        else:
            self._registered.clear()

    async def _rest(self, pause: float, *, is_about_the_key: bool) -> None:
        """Pause after a failure; a refused key that changes ends it."""
        refused = self._mark()
        while is_about_the_key and pause > _KEY_SECONDS:
            await self._sleep(_KEY_SECONDS)
            pause -= _KEY_SECONDS
            if self._mark() != refused:
                return
        await self._sleep(pause)

    def _mark(self) -> str:
        try:
            return self._client.key_mark()
        except SecretError:
            return ""

    async def _register(self) -> None:
        registration = wire.Registration(
            name=self._link.sensor_name or socket.gethostname(),
            version=self._version,
            hostname=socket.gethostname(),
            os=platform.system().lower(),
            arch=_ARCHITECTURES.get(platform.machine(), platform.machine()),
            scanner_versions={"harborguard-sensor": self._version},
            s3_configured=self._link.has_bucket,
            capabilities=("scan", "discovery") if self._link.reports_catalogue else ("scan",),
        )
        # the mark first: a key that changes in between is noticed at the next beat
        self._key_mark = self._client.key_mark()
        self._agent = await self._client.register(registration)
        self._registered_as(self._agent)
        self._registered.set()
        self._change("registered")

    async def _beat(self) -> None:
        active = self._active_scans()
        now = self._clock()
        await self._client.heartbeat(
            wire.Heartbeat(
                agent_id=self._agent,
                status="scanning" if active else "idle",
                active_scans=active,
                uptime_seconds=max(0, int((now - self._started).total_seconds())),
            )
        )
        self._publish(events.HeartbeatSent(at=now, link=self._link.name))
        self._compare_clocks()
        self._change("registered")

    def _fail(self, error: SensorError) -> None:
        refused = not error.retryable
        if refused:
            # the key was revoked, or the agent removed: say who we are again as soon as that is possible
            self._registered.clear()
        self._change("refused" if refused else "down", error)

    def _change(self, state: str, error: SensorError | None = None) -> None:
        """Tell once when the state changes, or the address that works, not on every attempt."""
        address = self._client.addresses.current if error is None else ""
        if (state, address) == self._state:
            return
        self._state = (state, address)
        message, advice = (error.message, error.advice) if error else ("", "")
        self._publish(
            events.LinkChanged(
                at=self._clock(), link=self._link.name, state=state, error=message, advice=advice, address=address
            )
        )

    def _compare_clocks(self) -> None:
        skew = self._client.skew
        if skew is not None and (self._skew is None or abs(skew - self._skew) > _SKEW_STEP):
            self._skew = skew
            self._publish(events.ClockCompared(at=self._clock(), link=self._link.name, seconds=round(skew, 1)))

    def _pause(self, failures: int, error: SensorError) -> float:
        # a beat may not be later than its interval because of a backoff: two minutes of silence mean offline
        most = _LONGEST_PAUSE if not self._registered.is_set() else min(_LONGEST_PAUSE, self._link.heartbeat)
        ceiling = min(most, _FIRST_PAUSE * 2 ** min(failures, 10))
        return max(random.uniform(ceiling / 2, ceiling), min(error.retry_after or 0.0, most))
