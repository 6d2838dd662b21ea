from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from sensor.report.outbox import Outbox
from sensor.storage import Storage, open_storage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    opened = await open_storage(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def outbox(storage: Storage) -> Outbox:
    """With new ids that are new-1, new-2, ..."""
    numbers = count(1)
    return Outbox(storage, new_id=lambda: f"new-{next(numbers)}")
