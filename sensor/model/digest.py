"""Content digests, as the OCI image specification writes them (descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from sensor.errors import DataError

Digest = NewType("Digest", str)
"""`sha256:<64 lower-case hex>` or `sha512:<128 lower-case hex>`; only `parse_digest` and `sha256_digest` make one."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def parse_digest(text: str) -> Digest:
    """Check a digest that came from outside.

    Raises:
        DataError: another algorithm, another length, or upper-case hex.
    """
    if not _DIGEST.fullmatch(text):
        message = f"not a digest: {text[:100]!r}"
        raise DataError(message, "expected sha256:<64 hex> or sha512:<128 hex>")
    return Digest(text)


def is_digest(text: str) -> bool:
    """Whether the text is a digest in canonical form."""
    return _DIGEST.fullmatch(text) is not None


def sha256_digest(data: bytes) -> Digest:
    """The digest of some bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
