"""The order of apk: `digits(.digits)*[letter](_suffix[number])*[~hash][-rN]` (apk-package(5), "Package version").

A key is the list of tokens, each (rank of its kind, value). Where two versions go on with tokens of different kinds, the rank decides: a
pre-release suffix is below the end, everything else above it. Texts that break the grammar occur in real secdb data (`2.7.16-33`,
`0.8.21.r2`); apk compares them up to the first token that it cannot read, and so does this key.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sensor.versions.order import COMPARABLE, KEYS_KEPT, LONGEST_VERSION, Key, VersionOrder, unparsable_key

_GRAMMAR = re.compile(
    r"[0-9]+(?:\.[0-9]+)*[a-z]?(?:_(?:alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]*)*(?:~[0-9a-f]+)?(?:-r[0-9]+)?"
)
