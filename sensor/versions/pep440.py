"""The order of Python packages: PEP 440 by way of `packaging`, below it the legacy texts that old records still hold."""

from __future__ import annotations

from functools import lru_cache

from packaging.version import InvalidVersion, Version

from sensor.versions.order import COMPARABLE, KEYS_KEPT, LONGEST_VERSION, Key, VersionOrder, unparsable_key


def _parse(version: str) -> Version | None:
    if len(version) > LONGEST_VERSION:
        return None
    try:
        return Version(version)
    except InvalidVersion:
        return None


def is_valid(version: str) -> bool:
    """Whether PEP 440 knows the version, in normal form or not."""
    return _parse(version) is not None


@lru_cache(maxsize=KEYS_KEPT)
def key(version: str) -> Key:
    """PEP 440's order; a text outside it is below every version, among its like in the order of the text."""
    parsed = _parse(version)
    return unparsable_key(version) if parsed is None else (COMPARABLE, parsed)


def seen_by(installed: str, bound: str) -> str:
    """The installed version without its local part where the bound has none: `2.0.1+cu118` is a build of `2.0.1`."""
    return installed if "+" in bound else installed.partition("+")[0]


def read_bound(bound: str) -> str:
    """`2.6.0-NA` and `2.6.0-cu124` mean 2.6.0: ranges made from CPE names carry the update part, which is no version.

    A text without a dot before the dash (`2024-09-25`) is left alone: the first number of a date says too little.
    """
    release, dash, _ = bound.partition("-")
    return release if dash and "." in release and not is_valid(bound) and is_valid(release) else bound


PEP440 = VersionOrder(name="pep440", key=key, is_valid=is_valid, seen_by=seen_by, read_bound=read_bound)
