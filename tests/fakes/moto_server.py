"""moto's server on loopback: AWS's own API shapes (STS, ECR, instance metadata) for the real SDK. One for the whole process, empty when handed out.

What it lacks (pages, signatures, trust policies, `/v2/`) is in `aws` and `registries/ecr`.
"""

from __future__ import annotations

import contextlib
import logging
import urllib.request
from collections.abc import Iterator


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Run it in a thread of its own; gives its URL."""
    from moto.server import ThreadedMotoServer  # half a second of imports, for the tests that need it

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=10):
            pass
        yield url
    finally:
        server.stop()
