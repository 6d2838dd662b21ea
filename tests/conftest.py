"""What every test finds: logging as the libraries leave it, and no secret read yet. Commands that run in-process change both."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from sensor import secret
from sensor.log import Routed

# a busy machine draws examples slowly; that says nothing about the code
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background of a shell: the programs that tests start would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if isinstance(handler, Routed)]:
        root.removeHandler(handler)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def no_secret_read_yet() -> Iterator[None]:
    """What an earlier test read as a secret ("two words") is masked in no later test's text, nor its variables kept from programs."""
    before = secret._SEEN, secret._VARIABLES
    secret._SEEN, secret._VARIABLES = secret._Seen(), set(secret._VARIABLES)
    yield
    secret._SEEN, secret._VARIABLES = before
