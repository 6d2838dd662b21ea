"""What a control plane can answer instead of what was asked for, each with what to do about it.

Three questions decide what happens next, and the classes answer them: is it this message or the whole link; does waiting help; and, for an upload,
may something have been stored (sections 2.4, 5.5, 5.7)?
"""

from __future__ import annotations

from sensor.errors import ControlPlaneError


class Unauthorized(ControlPlaneError):
    """401: the key is missing, unknown, expired, or its agent was made inactive. Retried slowly: a key may be enabled again."""


class Forbidden(ControlPlaneError):
    """403. `is_demo`: the server is in demo mode and refuses everything but reading; polling must stop, because the poll would still claim jobs."""

    def __init__(self, message: str, advice: str = "", *, is_demo: bool = False) -> None:
        super().__init__(message, advice)
        self.is_demo = is_demo


class PlanLimit(ControlPlaneError):
    """402: the organisation's plan does not allow more."""


class NotFound(ControlPlaneError):
    """404. `is_route`: the path itself is unknown (the answer is no JSON error), so the URL leads elsewhere; else the thing asked for is."""

    def __init__(self, message: str, advice: str = "", *, is_route: bool = False) -> None:
        super().__init__(message, advice)
        self.is_route = is_route


class Refused(ControlPlaneError):
    """400, 422: this message will never be taken."""


class WrongAddress(ControlPlaneError):
    """A redirect, 405, or a page that is not from a control plane: the configured URL is not its base URL."""


class NoSuchCall(WrongAddress):
    """405: there is something, and it does not take this method."""


class AlreadyDone(ControlPlaneError):
    """409: the job is already finalised (fine), or the scan id is taken (fine only if this very upload was tried before)."""


class TooLarge(ControlPlaneError):
    """413: a proxy in front of the control plane takes less than the envelope; nothing was stored."""


class Unavailable(ControlPlaneError):
    """No answer, or one that says so (408, 429, 5xx): the same call may succeed later. For an upload: surely nothing was stored."""

    retryable = True


class NothingStored(ControlPlaneError):
    """An upload was answered by 500 with a JSON error: nothing of the envelope was stored, it may be sent again as it is."""

    retryable = True


class OutcomeUnknown(ControlPlaneError):
    """An upload may have been stored, whole or in part. `is_half`: the server failed on the way (500 without a JSON error), so probably in part."""

    def __init__(self, message: str, advice: str = "", *, is_half: bool = False) -> None:
        super().__init__(message, advice)
        self.is_half = is_half
