"""Which lanes a worker looks into: the policy alone. Leaves the waiting to `queue` and the workers themselves to the daemon."""

from __future__ import annotations

from sensor.model.request import Lane

ALL_LANES: tuple[Lane, ...] = tuple(Lane)
"""Most urgent first."""


def lanes_for(worker: int, workers: int) -> tuple[Lane, ...]:
    """The lanes of worker number `worker` (from 0) of `workers`.

    The first one is kept for what was pushed or asked for by hand: a sweep over everything may take days, and a fresh push must not wait
    behind it. The last one leaves re-scans alone while there is a third, so that they cannot fill all the others. A single worker does
    everything, in order of urgency.

    Raises:
        ValueError: no such worker.
    """
    if not 0 <= worker < workers:
        message = f"there is no worker {worker} of {workers}"
        raise ValueError(message)
    if workers == 1:
        return ALL_LANES
    if worker == 0:
        return (Lane.NOW,)
    if worker == workers - 1 and workers > 2:
        return (Lane.NOW, Lane.NEW)
    return ALL_LANES
