"""`plan`: the dry run. Lists a registry as the daemon would and shows, tag by tag, which rule decides; scans nothing.

What is new is told from the state that a sensor on this machine left, where there is one that can be read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from sensor.catalog.crawl import crawl
from sensor.catalog.diff import Crawl, Snapshot, TagState
from sensor.catalog.keep import UNDATED
from sensor.catalog.select import Cause
from sensor.catalog.snapshots import Snapshots
from sensor.cli.connect import registry_named
from sensor.cli.options import ConfigOption, OutputOption, load, show_warnings, state_directory
from sensor.cli.output import (
    ExitCode,
    OutputFormat,
    clean,
    err,
    grid,
    leave,
    out,
    plain,
    print_json,
    reporting_errors,
    show_bytes,
    show_table,
)
from sensor.config.schema import Config, Registry
from sensor.errors import SensorError, StateError
from sensor.model.digest import Digest
from sensor.model.manifest import Index, Manifest, artifact_class, parse_platform, select_platform
from sensor.registry.kinds import open_registry
from sensor.registry.port import Registry as Client
from sensor.storage import open_storage
from sensor.work.forecast import forecast

SizesOption = Annotated[
    bool,
    typer.Option(
        "--sizes", help="Also fetch each selected manifest, to tell the bytes (counts as a pull on Docker Hub)."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    registry: Registry
    seen: Crawl
    known: Snapshot | None
    """What a sensor here knows of the registry; None where its state cannot be read."""
    layers: dict[Digest, int]
    """Layer digests of the selected images, with their compressed bytes; empty without --sizes."""
    classes: dict[Digest, str]
    requests: int


def plan(
    target: Annotated[
        str | None,
        typer.Argument(metavar="REGISTRY|URL", help="A registry's name or address; without it, all configured."),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = OutputFormat.TEXT,
    sizes: SizesOption = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain HTTP, for an address that is not configured.")
    ] = False,
) -> None:
    """Show each repository and tag with the rule that decides about it, and what a first sweep would cost.

    Runs the daemon's own listing and filters; scans and stores nothing. Exit status 3 when a listing is not complete.
    """
    with reporting_errors(output):
        loaded = load(config, required=target is None)
        chosen = (registry_named(loaded.config, target, insecure=insecure),) if target else loaded.config.registries
        state = state_directory(loaded, None)
        plans = asyncio.run(_plan_all(loaded.config, chosen, state, sizes=sizes))
    if output is OutputFormat.JSON:
        print_json([_document(entry) for entry in plans])
    else:
        if target is None:
            show_warnings(loaded)
        for entry in plans:
            _show(entry, sizes=sizes)
    if not all(entry.seen.complete for entry in plans):
        leave(ExitCode.FAILED)


async def _plan_all(config: Config, registries: tuple[Registry, ...], state: Path, *, sizes: bool) -> list[_Plan]:
    plans = []
    for settings in registries:
        known = await _known(state, settings.name)
        client = open_registry(settings, config.http)
        try:
            seen = await crawl(client, settings, known=known)
            layers: dict[Digest, int] = {}
            classes: dict[Digest, str] = {}
            if sizes:
                platform = config.platforms_of(settings)[0]
                for repository, digest in _selected(seen):
                    classes[digest] = await _weigh(client, repository, digest, platform, layers)
            made = _Plan(
                registry=settings, seen=seen, known=known, layers=layers, classes=classes, requests=client.requests
            )
            plans.append(made)
        finally:
            await client.close()
    return plans


async def _known(directory: Path, registry: str) -> Snapshot | None:
    """What a sensor here knows of a registry. A state that is broken or another user's is not this command's business."""
    if not (directory / "state.db").exists():
        return Snapshot()
    try:
        storage = await open_storage(directory, shared=True)
        try:
            return await Snapshots(storage).known(registry)
        finally:
            await storage.close()
    except StateError:
        return None


def _selected(seen: Crawl) -> Iterator[tuple[str, Digest]]:
    known: set[Digest] = set()
    for repository in seen.repositories:
        for tag in repository.tags:
            if tag.digest is not None and tag.digest not in known:
                known.add(tag.digest)
                yield repository.name, tag.digest


async def _weigh(client: Client, repository: str, digest: Digest, platform: str, layers: dict[Digest, int]) -> str:
    """Add the layers of one image; returns its class, or why it could not be told."""
    try:
        document: Manifest | Index = (await client.manifest(repository, digest)).document
        if isinstance(document, Index):
            child = select_platform(document, parse_platform(platform))
            if child is None:
                return f"no {platform}"
            document = (await client.manifest(repository, child.digest)).document
    except SensorError as error:
        return error.message
    if isinstance(document, Index):
        return "nested index"
    layers.update({layer.digest: layer.size for layer in document.layers})
    return artifact_class(document).value


def _rows(entry: _Plan) -> Iterator[dict[str, object]]:
    for repository in sorted(entry.seen.repositories, key=lambda one: one.name):
        for tag in sorted(repository.tags, key=lambda one: _natural(one.tag)):
            row: dict[str, object] = {
                "repository": repository.name,
                "tag": tag.tag,
                "selected": tag.decision.selected,
                "rule": tag.decision.rule,
                "decidedBy": tag.decision.cause,
                "pushed": tag.pushed,
                "digest": tag.digest,
                "error": tag.error,
            }
            if tag.digest in entry.classes:
                row["class"] = entry.classes[tag.digest]
            yield row


def _new(entry: _Plan) -> int | None:
    """Selected images that no sweep has seen yet; None where that cannot be told."""
    if entry.known is None:
        return None
    looked_at = {TagState.SELECTED, TagState.FAILED}
    known = {tag.digest for tags in entry.known.tags.values() for tag in tags.values() if tag.state in looked_at}
    return sum(digest not in known for _, digest in _selected(entry.seen))


def _tag_sources(seen: Crawl) -> list[str]:
    return sorted({repository.source for repository in seen.repositories if repository.source})


def _notices(entry: _Plan) -> Iterator[str]:
    """What nobody may have meant: nothing selected, `latest` that falls through the rules, ages that cannot be told."""
    yield from entry.seen.notes
    if entry.seen.complete and (nothing := _nothing(entry.seen)):
        yield nothing
    tags = [tag for repository in entry.seen.repositories for tag in repository.tags]
    latest = [tag.decision.cause for tag in tags if tag.tag == "latest"]
    if unnamed := latest.count(Cause.NO_RULE):
        yield (
            f"`latest` of {_count(unnamed, 'repository')} fits no rule, so it is not looked at: it is in no range of versions; "
            "a rule of its own, {tags: latest}, names it"
        )
    if lost := latest.count(Cause.KEEP):
        yield f"`latest` of {_count(lost, 'repository')} is not among what keep leaves; a rule of its own, with `keep: {{}}`, keeps it"
    if undated := sum(tag.decision.selected and UNDATED in tag.decision.rule for tag in tags):
        yield f"keep max_age does not apply to {_count(undated, 'tag')}: the registry does not tell when they were pushed"
    new = _new(entry)
    images = sum(1 for _ in _selected(entry.seen)) if new is None else new
    yield from forecast(entry.registry, images, datetime.now().astimezone())


def _nothing(seen: Crawl) -> str:
    """That nothing is selected, and what came before; empty when something is."""
    if any(tag.decision.selected for repository in seen.repositories for tag in repository.tags):
        return ""
    if not seen.repositories and not seen.excluded:
        return "nothing is selected: the registry lists no repository to this credential"
    if not seen.repositories:
        return (
            f"nothing is selected: include and exclude leave none of {_count(len(seen.excluded), 'repository')}; "
            "check repositories.include and exclude"
        )
    kept = _count(len(seen.repositories), "repository")
    return f"nothing is selected: the rules keep none of {_count(seen.tags, 'tag')} in {kept}; check rules"


def _count(number: int, what: str) -> str:
    """A number with its noun, one or many."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """A sort key in which 1.9 comes before 1.10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(not part.isdecimal(), int(part[:18]) if part.isdecimal() else 0, part) for part in parts]


def _document(entry: _Plan) -> dict[str, object]:
    return {
        "registry": entry.registry.name,
        "complete": entry.seen.complete,
        "source": entry.seen.source,
        "tagSources": _tag_sources(entry.seen),
        "notices": list(_notices(entry)),
        "troubles": list(entry.seen.troubles()),
        "advice": entry.seen.advice,
        "excludedRepositories": [{"repository": name, "rule": decision.rule} for name, decision in entry.seen.excluded],
        "tags": list(_rows(entry)),
        "images": sum(1 for _ in _selected(entry.seen)),
        "imagesNew": _new(entry),
        "requests": entry.requests,
        "layers": len(entry.layers) or None,
        "layerBytes": sum(entry.layers.values()) or None,
    }


def _show(entry: _Plan, *, sizes: bool) -> None:
    out.print(f"[bold]{clean(entry.registry.name)}[/] {clean(entry.registry.url)}")
    rows = list(_rows(entry))
    if rows:
        _show_rows(rows)
    for name, decision in entry.seen.excluded:
        out.print(f"[dim]{clean(name)}: not listed, {clean(decision.rule)}[/]")
    for trouble in entry.seen.troubles():
        err.print(f"[yellow]not complete:[/] {clean(trouble)}")
    if entry.seen.advice:
        err.print(f"  [bold]try:[/] {clean(entry.seen.advice)}")
    for notice in _notices(entry):
        out.print(f"[yellow]note:[/] {clean(notice)}")
    if entry.seen.source:
        tags = ", ".join(_tag_sources(entry.seen))
        told = entry.seen.source
        if entry.seen.complete and not entry.seen.notes:  # where names are configured, all is as it should be
            told = told.partition(" (it cannot be listed")[0]
        out.print(clean(f"repositories listed by {told}" + (f", tags by {tags}" if tags else "")))
    images, new = sum(1 for _ in _selected(entry.seen)), _new(entry)
    cost = "" if new is None else f", {new} of them new"
    if sizes:
        read = show_bytes(sum(entry.layers.values()))
        cost += f", {_count(len(entry.layers), 'layer')}, {read} to read at the most"
    took = f"the listing took {_count(entry.seen.requests, 'request')}"
    took += "; an unchanged registry costs no more each time" if entry.seen.complete else ""
    out.print(f"{_count(entry.seen.tags, 'tag')} listed, {_count(images, 'image')} selected{cost}; {took}")


def _show_rows(rows: list[dict[str, object]]) -> None:
    table = grid("repository", "tag", "", "rule", "digest")
    for column in (table.columns[2], table.columns[4]):  # where room is scarce, names and rules go on in the next line
        column.no_wrap = True
    for row in rows:
        digest = str(row["digest"] or "")
        mark = "[green]scan[/]" if row["selected"] and digest else "[red]error[/]" if row["error"] else "[dim]skip[/]"
        rule = str(row["error"] or row["rule"])
        if "class" in row and row["class"] != "image":
            mark, rule = "[dim]skip[/]", str(row["class"])
        table.add_row(plain(str(row["repository"])), plain(str(row["tag"])), mark, plain(rule), plain(digest[:19]))
    show_table(table)
