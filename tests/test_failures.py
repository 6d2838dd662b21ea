"""The client library's exceptions in words. Those of real sockets and proxies are in test_transport and registry/test_check."""

from __future__ import annotations

import ssl

import aiohttp
import pytest

from sensor.errors import NetworkError
from sensor.failures import ProxyRefused, TimedOut, proxy_refused, translate, was_never_sent

URL = "https://r.example:5000/x?secret=1"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        aiohttp.ConnectionTimeoutError(),
        aiohttp.SocketTimeoutError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.InvalidURL("x"),
        ConnectionResetError(),
        ssl.SSLError("odd"),
        OSError(5, "odd"),
    ],
)
def test_every_failure_names_the_host_and_nothing_secret(error: Exception) -> None:
    told = translate(error, URL)
    assert "r.example:5000" in told.message
    assert "secret" not in str(told)


def test_no_connection_is_told_from_no_answer() -> None:
    unconnected = translate(aiohttp.ConnectionTimeoutError(), URL)
    silent = translate(aiohttp.SocketTimeoutError(), URL)
    assert isinstance(unconnected, TimedOut)
    assert isinstance(silent, TimedOut)
    assert (unconnected.connected, silent.connected) == (False, True)
    assert "no connection" in unconnected.message
    assert "firewall" in unconnected.advice
    assert unconnected.retryable
    unconnected.__cause__ = aiohttp.ConnectionTimeoutError()
    assert was_never_sent(unconnected)
    silent.__cause__ = aiohttp.SocketTimeoutError()
    assert not was_never_sent(silent)


@pytest.mark.parametrize(
    ("status", "words", "retryable"),
    [(407, "wants a login", False), (403, "proxy's rules", False), (502, "may not resolve", True)],
)
def test_what_a_proxy_says_is_told_apart(status: int, words: str, retryable: bool) -> None:
    told = proxy_refused("r.example", status)
    assert isinstance(told, ProxyRefused)
    assert isinstance(told, NetworkError)
    assert (told.status, told.retryable) == (status, retryable)
    assert words in told.advice
