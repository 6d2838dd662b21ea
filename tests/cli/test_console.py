import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.processes import Running, running

KEY = re.compile(r"hg_admin_[0-9a-f]{20,}")


def serve(directory: Path, *more: str) -> tuple[str, ...]:
    return ("console", "--listen", "127.0.0.1:0", "--directory", str(directory), *more)


def keys(console: Running) -> list[str]:
    return KEY.findall("\n".join(console.err + console.out))


def test_the_admin_key_is_shown_once_and_works(tmp_path: Path) -> None:
    with running(*serve(tmp_path)) as console:
        url = console.wait_for("console on ").removeprefix("console on ")
        key = KEY.findall(console.wait_for("admin key (shown once)"))[0]
        request = urllib.request.Request(f"{url}/api/agents", headers={"X-API-Key": key})
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert reply.status == 200
        assert console.end(signal.SIGTERM) == 0
    with running(*serve(tmp_path)) as again:
        again.wait_for("console on ")
        assert again.end(signal.SIGINT) == 0
        assert keys(again) == []
    with running(*serve(tmp_path, "--new-admin-key")) as renewed:
        renewed.wait_for("admin key (shown once)")
        assert renewed.end(signal.SIGTERM) == 0
        assert len(keys(renewed)) == 1
        assert keys(renewed) != [key]


@pytest.mark.parametrize("address", ["", "3456", "localhost:", "localhost:http", "localhost:65536"])
def test_an_address_that_is_none_is_a_usage_error(run: Run, tmp_path: Path, address: str) -> None:
    shown = run("console", "--listen", address, "--directory", str(tmp_path))
    assert shown.status == 2
    assert "not an address" in shown.stderr


def test_a_port_that_is_taken_is_a_failure(run: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = run("console", "--listen", f"127.0.0.1:{port}", "--directory", str(tmp_path))
    assert shown.status == 3
    assert "cannot listen on" in shown.stderr
