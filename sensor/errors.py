"""The one error tree. Every error says what happened, what to do, and whether trying again helps.

    SensorError
    ├── ConfigError            the file, an environment variable or an option is wrong (exit code 2)
    ├── SecretError            a credential could not be read from where the configuration says it is
    ├── NetworkError           no answer: DNS, TLS, refused, reset, time-out
    ├── RegistryError          a registry answered, but not what we need        (refined in registry/errors.py)
    ├── ControlPlaneError      a control plane answered, but not what we need   (refined in control_plane/errors.py)
    ├── DataError              bytes from outside break their format or a limit
    ├── AdvisoryError          no usable advisory database, or an import that failed
    └── StateError             our own state database: full disk, locked, newer schema, corrupt

Leaves everything about *where* an error is shown to the command line, the log and the health page.
"""

from __future__ import annotations


class SensorError(Exception):
    """Base of all expected failures.

    `message` says what happened, `advice` what the operator can do about it (empty when there is nothing to do but wait),
    `retryable` whether the same attempt may succeed later without a change of configuration. `retry_after` is the pause in
    seconds that the other side asked for, if it asked.
    """

    retryable: bool = False

    def __init__(
        self, message: str, advice: str = "", *, retryable: bool | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message} ({self.advice})" if self.advice else self.message


class ConfigError(SensorError):
    """The configuration is wrong; the process must not start (or reload) with it."""


class SecretError(SensorError):
    """A credential could not be read from its source."""


class NetworkError(SensorError):
    """No answer arrived: name resolution, connection, TLS, or a time-out."""

    retryable = True


class RegistryError(SensorError):
    """A registry answered in a way that stops this request."""


class ControlPlaneError(SensorError):
    """A control plane answered in a way that stops this request."""


class DataError(SensorError):
    """Bytes from outside break their format, a digest, or a limit."""


class AdvisoryError(SensorError):
    """There is no usable advisory database, or an import of advisories failed."""


class StateError(SensorError):
    """The state database cannot be used: full disk, locked, made by a newer version, or damaged."""
