"""How many of a repository's selected tags are kept: the newest so many, and those pushed since. Pure; costs no request.

Newest means pushed last where the registry's listing tells of every tag when that was; else (or when the configuration says so) it means the
highest version: semantic versions first, below them all other names in natural order (`build-10` above `build-9`). Which order was used is
part of the answer, because it decides what is missing.

`last` counts images: tags on one digest count once where the listing tells digests along with the tags (`1`, `1.4` and `1.4.2` are one
image, and `last: 3` is meant to be three), and a tag on a digest that is kept anyway is kept too. Without digests each tag counts; finding
them out would take a request a tag. A tag of which the date is not told is never too old.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sensor.config.notation import show_duration
from sensor.config.schema import Keep
from sensor.model.digest import Digest
from sensor.versions.order import Key
from sensor.versions.semver import is_valid, key

UNDATED = "does not apply: its push date is not told"
"""Said of a tag that `max_age` could not judge."""

_PARTS = re.compile(r"[0-9]+|[^0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """The candidates of one repository, and what the listing told of them."""

    names: Collection[str]
    pushed: Mapping[str, float]
    """Unix times."""
    digests: Mapping[str, Digest]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a tag is kept, and what there is to say about it; words are empty when nothing was asked for."""

    kept: bool
    words: str = ""


def keep_newest(tags: Tags, keep: Keep, *, now: float) -> dict[str, Outcome]:
    """The outcome of every candidate. `now` is Unix time."""
    pushed = {name: tags.pushed[name] for name in tags.names if math.isfinite(tags.pushed.get(name, math.nan))}
    outcomes = {name: _by_age(pushed.get(name), keep, now) for name in tags.names}
    if not keep.last:
        return outcomes
    young = [name for name, outcome in outcomes.items() if outcome.kept]
    by_date = keep.order == "pushed" and all(name in pushed for name in young)
    limit = f"keep last {keep.last} by {'push date' if by_date else 'version'}"
    if keep.order == "pushed" and not by_date:
        limit += f" ({'no' if not pushed else 'not all'} push dates are told)"
    newest = _sorted(young, (lambda name: pushed[name]) if by_date else lambda _name: 0.0)
    images: set[str] = set()
    for name in newest:
        image = tags.digests.get(name, name)
        if len(images) < keep.last:
            images.add(image)
        if image in images:
            said = outcomes[name].words
            outcomes[name] = Outcome(kept=True, words=f"{limit}; {said}" if said else limit)
        else:
            outcomes[name] = Outcome(kept=False, words=f"{limit}: not among them")
    return outcomes


def version_key(tag: str) -> tuple[int, Key]:
    """Sorts tags by version: semantic versions above all other names, those in natural order."""
    if is_valid(tag):
        return 1, key(tag)
    parts = _PARTS.findall(tag)
    return 0, tuple((1, int(part), "") if part[0] in "0123456789" else (0, 0, part) for part in parts)


def _by_age(pushed: float | None, keep: Keep, now: float) -> Outcome:
    if keep.max_age is None:
        return Outcome(kept=True)
    age = f"keep max_age {show_duration(keep.max_age)}"
    if pushed is None:
        return Outcome(kept=True, words=f"{age} {UNDATED}")
    if now - pushed > keep.max_age:
        return Outcome(kept=False, words=f"{age}: pushed before that")
    return Outcome(kept=True, words=age)


def _sorted(names: Sequence[str], date: Callable[[str], float]) -> list[str]:
    """The newest first; the name itself only settles a draw, so that two crawls agree."""
    return sorted(names, key=lambda name: (date(name), version_key(name), name), reverse=True)
