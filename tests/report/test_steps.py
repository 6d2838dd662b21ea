"""The whole table, written out once more and by other means: by what each rule promises."""

import itertools

import pytest

from sensor.report.entries import Kind
from sensor.report.steps import MOST_HALVES, MOST_STRIKES, Answer, History, Step, next_step

HISTORIES = [
    History(lost=lost, burnt=burnt, strikes=strikes, closing=closing, has_rows=rows)
    for lost, burnt, closing, rows in itertools.product([False, True], repeat=4)
    for strikes in (0, 1, MOST_HALVES - 2, MOST_HALVES - 1, MOST_STRIKES - 2, MOST_STRIKES - 1, MOST_STRIKES + 5)
]
EVERYTHING = list(itertools.product(Kind, HISTORIES, Answer))
FRESH, LAST = History(), History(strikes=MOST_STRIKES - 1)


@pytest.mark.parametrize(
    ("kind", "history", "answer", "expected"),
    [
        (Kind.STANDALONE, FRESH, Answer.STORED, Step.SETTLE),
        (Kind.STANDALONE, FRESH, Answer.ALREADY_THERE, Step.AGAIN_NEW_ID),
        (Kind.STANDALONE, History(lost=True), Answer.ALREADY_THERE, Step.SETTLE),
        (Kind.STANDALONE, History(lost=True, burnt=True), Answer.ALREADY_THERE, Step.AGAIN_NEW_ID),
        (Kind.STANDALONE, History(burnt=True), Answer.ALREADY_THERE, Step.AGAIN_NEW_ID),
        (Kind.STANDALONE, LAST, Answer.ALREADY_THERE, Step.GIVE_UP),
        (Kind.STANDALONE, FRESH, Answer.NOTHING_STORED, Step.AGAIN),
        (Kind.STANDALONE, LAST, Answer.NOTHING_STORED, Step.GIVE_UP),
        (Kind.STANDALONE, FRESH, Answer.LOST, Step.AGAIN),
        (Kind.STANDALONE, LAST, Answer.LOST, Step.GIVE_UP),
        (Kind.STANDALONE, FRESH, Answer.HALF_STORED, Step.AGAIN_NEW_ID),
        (Kind.STANDALONE, History(strikes=MOST_HALVES - 1), Answer.HALF_STORED, Step.GIVE_UP),
        (Kind.STANDALONE, FRESH, Answer.REFUSED, Step.GIVE_UP),
        (Kind.STANDALONE, FRESH, Answer.TOO_LARGE, Step.GIVE_UP),
        (Kind.STANDALONE, LAST, Answer.LINK_AT_FAULT, Step.WAIT),
        (Kind.JOB, FRESH, Answer.STORED, Step.SETTLE),
        (Kind.JOB, FRESH, Answer.ALREADY_THERE, Step.GIVE_UP),
        (Kind.JOB, History(lost=True, has_rows=False), Answer.ALREADY_THERE, Step.SETTLE),
        (Kind.JOB, History(closing=True, has_rows=False), Answer.ALREADY_THERE, Step.SETTLE),
        (Kind.JOB, FRESH, Answer.NOTHING_STORED, Step.AGAIN),
        (Kind.JOB, LAST, Answer.NOTHING_STORED, Step.GIVE_UP),
        (Kind.JOB, FRESH, Answer.LOST, Step.CLOSE),
        (Kind.JOB, FRESH, Answer.HALF_STORED, Step.CLOSE),
        (Kind.JOB, FRESH, Answer.TOO_LARGE, Step.CLOSE),
        (Kind.JOB, History(has_rows=False), Answer.LOST, Step.AGAIN),
        (Kind.JOB, History(has_rows=False), Answer.TOO_LARGE, Step.GIVE_UP),
        (Kind.JOB, History(closing=True, has_rows=False), Answer.HALF_STORED, Step.AGAIN),
        (Kind.JOB, History(closing=True, has_rows=False, strikes=MOST_STRIKES), Answer.LOST, Step.GIVE_UP),
        (Kind.JOB, FRESH, Answer.REFUSED, Step.GIVE_UP),
        (Kind.JOB, LAST, Answer.LINK_AT_FAULT, Step.WAIT),
    ],
)
def test_the_table(kind: Kind, history: History, answer: Answer, expected: Step) -> None:
    assert next_step(kind, history, answer) is expected


def test_what_is_stored_is_settled_and_a_link_at_fault_costs_nothing() -> None:
    for kind, history, answer in EVERYTHING:
        step = next_step(kind, history, answer)
        assert (step is Step.WAIT) == (answer is Answer.LINK_AT_FAULT)
        if answer is Answer.STORED:
            assert step is Step.SETTLE


def test_rows_of_a_job_are_never_sent_twice() -> None:
    for history, answer in itertools.product(HISTORIES, (Answer.LOST, Answer.HALF_STORED)):
        if history.has_rows and not history.closing:
            assert next_step(Kind.JOB, history, answer) is Step.CLOSE


def test_a_409_counts_as_delivered_only_for_our_own_whole_upload() -> None:
    for history in HISTORIES:
        settled = next_step(Kind.STANDALONE, history, Answer.ALREADY_THERE) is Step.SETTLE
        assert settled == (history.lost and not history.burnt)


def test_a_half_stored_id_is_not_used_again() -> None:
    for history in HISTORIES:
        assert next_step(Kind.STANDALONE, history, Answer.HALF_STORED) in {Step.AGAIN_NEW_ID, Step.GIVE_UP}


def test_nothing_is_tried_for_ever_on_a_link_that_works() -> None:
    for kind, history, answer in EVERYTHING:
        if history.strikes >= MOST_STRIKES - 1 and answer is not Answer.LINK_AT_FAULT:
            assert next_step(kind, history, answer) in {Step.SETTLE, Step.GIVE_UP, Step.CLOSE}


def test_only_what_has_its_own_id_gets_a_new_one_and_only_jobs_are_closed() -> None:
    for kind, history, answer in EVERYTHING:
        step = next_step(kind, history, answer)
        assert (step is not Step.AGAIN_NEW_ID) or kind is Kind.STANDALONE
        assert (step is not Step.CLOSE) or (kind is Kind.JOB and not history.closing)
