"""What a crawl changes; above all, what it must not delete."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensor.catalog.diff import (
    Crawl,
    Diff,
    Kind,
    KnownTag,
    RepositoryState,
    SeenRepository,
    SeenTag,
    Snapshot,
    TagState,
    diff_catalogue,
)
from sensor.catalog.select import Decision
from sensor.model.digest import Digest, sha256_digest

KEPT = Decision(selected=True, rule="include tags: *")
DEV = Decision(selected=False, rule="exclude tags: *-dev")
OLD = Decision(selected=False, rule="exclude repositories: old/*")


def digest(text: str) -> Digest:
    return sha256_digest(text.encode())


def tag(name: str, content: str = "", **more: object) -> SeenTag:
    return SeenTag(tag=name, decision=KEPT, digest=digest(content) if content else None, **more)  # type: ignore[arg-type]


def one(*tags: SeenTag, name: str = "app", **more: object) -> SeenRepository:
    return SeenRepository(name=name, tags=tags, **more)  # type: ignore[arg-type]


def crawl(*repositories: SeenRepository, **more: object) -> Crawl:
    return Crawl(registry="main", repositories=repositories, **more)  # type: ignore[arg-type]


def known(name: str = "app", state: RepositoryState = RepositoryState.PRESENT, **tags: KnownTag) -> Snapshot:
    return Snapshot(tags={name: tags}, repositories={name: state})


def selected(content: str, missing: int = 0) -> KnownTag:
    return KnownTag(state=TagState.SELECTED, digest=digest(content), reason=KEPT.rule, missing=missing)


def kinds(diff: Diff) -> list[tuple[str, Kind, TagState]]:
    return [(change.tag, change.kind, change.state) for change in diff.changes]


def test_the_first_crawl_adds_everything() -> None:
    diff = diff_catalogue(Snapshot(), crawl(one(tag("v1", "a", media_type="index"), tag("v2", "b"))))
    assert kinds(diff) == [("v1", Kind.ADDED, TagState.SELECTED), ("v2", Kind.ADDED, TagState.SELECTED)]
    assert diff.added == diff.changes
    assert (diff.added[0].digest, diff.added[0].media_type, diff.added[0].previous) == (digest("a"), "index", None)
    assert [(change.repository, change.state, change.vanished) for change in diff.repositories] == [
        ("app", RepositoryState.PRESENT, False)
    ]


def test_an_unchanged_registry_changes_nothing() -> None:
    diff = diff_catalogue(known(v1=selected("a")), crawl(one(tag("v1", "a"))))
    assert diff == Diff(registry="main", unchanged=1)


def test_a_moved_tag_names_both_digests() -> None:
    diff = diff_catalogue(known(v1=selected("a")), crawl(one(tag("v1", "b"))))
    (change,) = diff.moved
    assert (change.digest, change.previous, change.state) == (digest("b"), digest("a"), TagState.SELECTED)


def test_a_tag_is_gone_only_after_two_complete_listings() -> None:
    first = diff_catalogue(known(v1=selected("a")), crawl(one()))
    (change,) = first.changes
    assert (change.kind, change.state, change.missing, change.reason) == (
        Kind.MISSING,
        TagState.SELECTED,
        1,
        KEPT.rule,
    )
    assert first.removed == ()
    second = diff_catalogue(known(v1=selected("a", missing=1)), crawl(one()))
    (change,) = second.removed
    assert (change.digest, change.state, change.missing) == (digest("a"), TagState.GONE, 2)
    third = diff_catalogue(known(v1=KnownTag(state=TagState.GONE, digest=digest("a"), missing=2)), crawl(one()))
    assert third.changes == ()


def test_a_tag_that_comes_back_in_time_was_never_gone() -> None:
    diff = diff_catalogue(known(v1=selected("a", missing=1)), crawl(one(tag("v1", "a"))))
    assert kinds(diff) == [("v1", Kind.SEEN, TagState.SELECTED)]
    assert diff.changes[0].missing == 0


def test_a_tag_that_comes_back_after_it_was_gone_is_new() -> None:
    gone = KnownTag(state=TagState.GONE, digest=digest("a"), missing=2)
    assert kinds(diff_catalogue(known(v1=gone), crawl(one(tag("v1", "a"))))) == [("v1", Kind.ADDED, TagState.SELECTED)]


def test_a_partial_list_of_tags_deletes_nothing() -> None:
    diff = diff_catalogue(known(v1=selected("a", missing=1)), crawl(one(complete=False, reason="capped")))
    assert diff.changes == ()


def test_a_refused_repository_deletes_nothing_and_is_told_once() -> None:
    for state in (RepositoryState.DENIED, RepositoryState.NOT_FOUND):
        refused = crawl(one(state=state, complete=False, reason="403"))
        diff = diff_catalogue(known(v1=selected("a", missing=1)), refused)
        assert diff.changes == ()
        (vanished,) = diff.vanished
        assert (vanished.repository, vanished.reason) == ("app", "403")
        assert diff_catalogue(known(state=state, v1=selected("a")), refused).vanished == ()


def test_a_repository_that_fails_has_not_vanished() -> None:
    diff = diff_catalogue(known(v1=selected("a")), crawl(one(state=RepositoryState.FAILED, complete=False)))
    assert diff.vanished == ()
    assert len(diff.repositories) == 1


def test_a_repository_missing_from_a_complete_list_vanishes_and_its_tags_go_the_second_time() -> None:
    first = diff_catalogue(known(v1=selected("a")), crawl())
    assert [change.repository for change in first.vanished] == ["app"]
    assert kinds(first) == [("v1", Kind.MISSING, TagState.SELECTED)]
    second = diff_catalogue(known(state=RepositoryState.MISSING, v1=selected("a", missing=1)), crawl())
    assert second.vanished == ()
    assert kinds(second) == [("v1", Kind.REMOVED, TagState.GONE)]


def test_a_partial_list_of_repositories_deletes_nothing() -> None:
    diff = diff_catalogue(known(v1=selected("a", missing=1)), crawl(repositories_complete=False))
    assert diff == Diff(registry="main")


def test_a_repository_without_tags_can_vanish_too() -> None:
    before = Snapshot(repositories={"empty": RepositoryState.PRESENT})
    assert [change.repository for change in diff_catalogue(before, crawl()).vanished] == ["empty"]


def test_an_excluded_tag_is_skipped_with_its_rule_and_told_once() -> None:
    seen = SeenTag(tag="v1-dev", decision=DEV)
    (change,) = diff_catalogue(Snapshot(), crawl(one(seen))).changes
    assert (change.kind, change.state, change.reason, change.digest) == (
        Kind.SKIPPED,
        TagState.SKIPPED,
        DEV.rule,
        None,
    )
    before = Snapshot(
        tags={"app": {"v1-dev": KnownTag(state=TagState.SKIPPED, reason=DEV.rule)}},
        repositories={"app": RepositoryState.PRESENT},
    )
    assert diff_catalogue(before, crawl(one(seen))) == Diff(registry="main", unchanged=1)


def test_a_changed_rule_rewrites_the_reason_and_keeps_the_digest() -> None:
    seen = SeenTag(tag="v1", decision=DEV)
    for before in (selected("a"), KnownTag(state=TagState.SKIPPED, digest=digest("a"), reason="exclude tags: v*")):
        (change,) = diff_catalogue(known(v1=before), crawl(one(seen))).changes
        assert (change.kind, change.digest, change.reason) == (Kind.SKIPPED, digest("a"), DEV.rule)


def test_a_tag_included_again_needs_no_scan_if_its_digest_is_the_same() -> None:
    skipped = KnownTag(state=TagState.SKIPPED, digest=digest("a"), reason=DEV.rule)
    assert kinds(diff_catalogue(known(v1=skipped), crawl(one(tag("v1", "a"))))) == [
        ("v1", Kind.SEEN, TagState.SELECTED)
    ]
    never = KnownTag(state=TagState.SKIPPED, reason=DEV.rule)
    assert kinds(diff_catalogue(known(v1=never), crawl(one(tag("v1", "a"))))) == [("v1", Kind.ADDED, TagState.SELECTED)]


def test_an_excluded_repository_is_not_gone() -> None:
    excluded = crawl(excluded=(("app", OLD),))
    skipped = KnownTag(state=TagState.SKIPPED, reason=OLD.rule)
    gone = KnownTag(state=TagState.GONE)
    diff = diff_catalogue(known(v1=selected("a", missing=1), v2=skipped, v3=gone), excluded)
    assert kinds(diff) == [("v1", Kind.SKIPPED, TagState.SKIPPED)]
    assert diff.changes[0].reason == OLD.rule
    assert diff.vanished == ()


def test_a_failed_look_up_keeps_what_is_known() -> None:
    (change,) = diff_catalogue(known(v1=selected("a")), crawl(one(tag("v1", error="502")))).changes
    assert (change.kind, change.state, change.digest, change.reason) == (
        Kind.FAILED,
        TagState.FAILED,
        digest("a"),
        "502",
    )
    failed = KnownTag(state=TagState.FAILED, digest=digest("a"), reason="502")
    assert diff_catalogue(known(v1=failed), crawl(one(tag("v1", error="502")))).unchanged == 1
    assert kinds(diff_catalogue(known(v1=failed), crawl(one(tag("v1", "a"))))) == [("v1", Kind.SEEN, TagState.SELECTED)]


def test_a_tag_nobody_came_to_ask_for_stays_as_it_was() -> None:
    unasked = tag("v1", error="not looked up: 429", asked=False)
    diff = diff_catalogue(known(v1=selected("a")), crawl(one(unasked)))
    assert diff == Diff(registry="main", unchanged=1)
    (change,) = diff_catalogue(known(), crawl(one(unasked))).changes
    assert (change.kind, change.reason) == (Kind.FAILED, "not looked up: 429")


def test_a_crawl_is_complete_when_nothing_asked_for_is_left_out() -> None:
    assert crawl(one(tag("v1", "a"), SeenTag(tag="x", decision=DEV))).complete
    # registries that cannot be listed are looked at by name, and that is all that was asked for
    assert crawl(one(tag("v1", "a")), repositories_complete=False).complete
    for partial in (
        crawl(error="the crawl was ended early"),
        crawl(one(complete=False, reason="capped")),
        crawl(one(state=RepositoryState.DENIED, complete=False, reason="403")),
        crawl(one(tag("v1", error="502"))),
    ):
        assert not partial.complete


def test_troubles_are_told_with_their_place() -> None:
    seen = crawl(
        one(tag("v1", error="502"), tag("v2", "a")), one(name="b", reason="403"), error="the crawl was ended early"
    )
    assert list(seen.troubles()) == ["the crawl was ended early", "app:v1: 502", "b: 403"]
    assert seen.tags == 2


CONTENTS = st.sampled_from(["", "a", "b"])
TAGS = st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), CONTENTS)


@given(st.dictionaries(st.sampled_from(["x", "y"]), TAGS), st.dictionaries(st.sampled_from(["x", "y"]), TAGS))
def test_every_listed_and_every_known_tag_is_accounted_for(
    before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]
) -> None:
    snapshot = Snapshot(
        tags={
            name: {each: selected(content or "z") for each, content in tags.items()} for name, tags in before.items()
        },
        repositories=dict.fromkeys(before, RepositoryState.PRESENT),
    )
    seen = crawl(
        *(
            one(*(tag(each, content, error="" if content else "502") for each, content in tags.items()), name=name)
            for name, tags in now.items()
        )
    )
    diff = diff_catalogue(snapshot, seen)
    changed = {(change.repository, change.tag) for change in diff.changes}
    everything = {(name, each) for tags in (before, now) for name in tags for each in tags[name]}
    assert len(changed) == len(diff.changes)
    assert changed <= everything
    assert len(changed) + diff.unchanged == len(everything)
    assert diff.removed == ()
