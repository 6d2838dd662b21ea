"""Tell systemd how it goes: sd_notify(3), the datagram protocol of Type=notify services, and the watchdog's interval.

A few lines on purpose: the packages that offer this are stale.
"""

from __future__ import annotations

import asyncio
import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1`, `STOPPING=1`, `RELOADING=1`, `WATCHDOG=1` or `STATUS=...`; False when not run by systemd.

    A service manager that is gone, or reads nothing, must not stop the sensor, so a failed send is False too.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        # a manager that does not read must not stop the event loop
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
            channel.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def watchdog_seconds() -> float | None:
    """Half of the interval that systemd's watchdog grants this process, None without one (sd_watchdog_enabled(3))."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2_000_000 or None


async def feed_watchdog(interval: float) -> None:
    """Tell systemd that the event loop turns, every `interval` seconds, for ever."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
