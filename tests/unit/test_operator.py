"""What an operator may do with a mail in each stage, and in which words the rest is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from mailagent.commands.store import find
from mailagent.commands.words import life, row, span
from mailagent.core.errors import PermanentError
from mailagent.core.job import (
    PLACES,
    Answered,
    Bounced,
    Composed,
    Dead,
    Held,
    Job,
    Merged,
    Received,
    Sending,
    Sent,
    Stage,
    decode,
    encode,
)
from mailagent.core.operator import advice, held, released, requeued, resolved
from mailagent.core.values import BlobId, JobId, Usage
from mailagent.ports import Listed
from tests.fakes.jobs import FakeJobs, a_job, composed, sent

USAGE = Usage("rules", 1, 2, 3, 0.1)
COMPOSED = Composed(BlobId("1" * 64), "<r@x>", ("a@b.test", "c@d.test"), USAGE)
DOUBTFUL = Sending(COMPOSED, 1, (), "a@b.test")
STAGES: dict[str, Stage] = {
    "received": Received(),
    "answered": Answered(BlobId("2" * 64), USAGE, (JobId("j2"),)),
    "composed": COMPOSED,
    "sending": Sending(COMPOSED, 2, ("a@b.test",)),
    "uncertain": DOUBTFUL,
    "sent": Sent(COMPOSED, "250 ok"),
    "bounced": Bounced(COMPOSED, "550 no"),
    "merged": Merged(JobId("j2")),
    "held": Held("why", Answered(BlobId("2" * 64), USAGE)),
    "held, uncertain": Held("why", DOUBTFUL),
    "held, sorry": Held("why", Sent(COMPOSED, "250 ok")),
    "dead": Dead("why"),
}


def job(stage: Stage) -> Job:
    return replace(a_job(), stage=stage, attempts=3, interrupted=4)


def deliver(sent: bool) -> Callable[[Job, float], Job]:
    return lambda job, now: resolved(job, sent, now)


ALLOWED: dict[str, tuple[Callable[[Job, float], Job], dict[str, type[Stage]]]] = {
    "hold": (held, dict.fromkeys(["received", "answered", "composed", "sending", "uncertain"], Held)),
    "release": (released, {"held": Answered, "bounced": Composed}),
    "requeue": (requeued, dict.fromkeys(["held", "held, sorry", "dead", "bounced"], Received)),
    "resolve": (deliver(sent=True), {"held, uncertain": Sending}),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("act", ALLOWED)
def test_each_stage_allows_what_makes_sense_and_refuses_the_rest_in_words(act: str, name: str) -> None:
    change, allowed = ALLOWED[act]
    before = job(STAGES[name])
    if name not in allowed:
        with pytest.raises(PermanentError, match=f"job {before.id} .*: it is {type(before.stage).__name__}"):
            change(before, 9.0)
        return
    after = change(before, 9.0)
    assert type(after.stage) is allowed[name]
    assert after.history[-1].at == 9.0
    if act != "hold":
        assert (after.attempts, after.interrupted) == (0, 0)


def test_held_and_released_is_as_before() -> None:
    for name in ("received", "answered", "composed", "sending"):
        assert released(held(job(STAGES[name]), 1.0), 2.0).stage == STAGES[name]


def test_the_word_of_an_operator_counts() -> None:
    doubtful = job(Held("why", DOUBTFUL))
    assert resolved(doubtful, True, 1.0).stage == replace(DOUBTFUL, done=("a@b.test",), to="")
    assert resolved(doubtful, False, 1.0).stage == replace(DOUBTFUL, to="")


def test_a_refusal_that_is_requeued_is_still_one() -> None:
    assert requeued(job(Held("why", Received("too large"))), 1.0).stage == Received("too large")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_stored_and_read_back(name: str) -> None:
    assert decode(encode(job(STAGES[name]))) == job(STAGES[name])


def test_no_stage_is_forgotten() -> None:
    assert set(PLACES) == {type(stage) for stage in STAGES.values()} == set(get_args(Stage))


@pytest.mark.parametrize("name", ["held", "held, uncertain", "held, sorry", "bounced", "dead"])
def test_whoever_sees_trouble_is_told_what_to_do(name: str) -> None:
    assert "mailagent re" in advice(job(STAGES[name]))
    assert any("what to do" in line for line in life(Listed(job(STAGES[name]), at_work=False, due=None), 9.0))


HOSTILE = "\x1b[2J\x1b]0;owned\x07 a\r\nb \u202etxt.exe [bold]x[/bold]"


def test_a_stranger_s_words_cannot_move_the_cursor_of_an_operator() -> None:
    evil = replace(a_job(), subject=HOSTILE * 9, sender=HOSTILE, stage=Dead(HOSTILE))
    seen = Listed(evil, at_work=False, due=None)
    shown = [*life(seen, 9.0), row(seen, 9.0).subject, row(seen, 9.0).sender, row(seen, 9.0).reason]
    for line in shown:
        assert line.isprintable()
    assert len(row(seen, 9.0).subject) <= 60


@pytest.mark.parametrize(
    ("at_work", "due", "stage", "state"),
    [
        (True, None, Received(), "at work on host-17"),
        (False, None, Received(), "waits"),
        (False, 100.0, COMPOSED, "again in 1 min 31 s"),
        (False, 12.5, DOUBTFUL, "uncertain, again in 3.50 s"),
        (True, None, DOUBTFUL, "at work on host-17"),
        (False, None, Held("why", COMPOSED), "held"),
        (False, None, Sent(COMPOSED, "250"), "sent"),
    ],
)
def test_what_is_going_on(at_work: bool, due: float | None, stage: Stage, state: str) -> None:
    assert row(Listed(job(stage), at_work=at_work, due=due, holder="host-17"), 9.0).state == state


def test_the_life_of_a_mail_has_the_length_of_every_stage() -> None:
    lived = a_job().at(Sent(COMPOSED, "250 taken"), "sent", 63.0)
    lines = list(life(Listed(lived, at_work=False, due=None), 70.0))
    assert lines[-2:] == [
        "  1970-01-01 00:00:01.500 UTC             received",
        "  1970-01-01 00:01:03.000 UTC  +1 min 1 s  sent",
    ]
    assert "  the server said: 250 taken" in lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.25 s"), (42.4, "42 s"), (3599, "59 min 59 s"), (7300, "2 h 1 min"), (3e5, "3 d 11 h")],
)
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert span(seconds) == words


async def test_a_mail_is_found_by_its_names_and_while_it_matters_by_the_beginning_of_one() -> None:
    jobs = FakeJobs()
    for name in ("abc1", "abd2", "xyz3"):
        await jobs.accept(a_job(name, f"thread of {name}"), None)
    claim = await jobs.claim("turns", 0.0)
    assert claim
    for key in ("abc1", "abc", "ABC", "<abc1@customer.test>", "abc1@customer.test"):
        found = await find(jobs, key)
        assert (found.job.id, found.at_work, found.holder) == ("abc1", True, "fake")
    with pytest.raises(PermanentError, match="2 mails have an id that begins with ab: give more"):
        await find(jobs, "ab")
    with pytest.raises(PermanentError, match="no mail with the id ac is known; `mailagent queue`"):
        await find(jobs, "ac")
    await jobs.hand_over(claim, composed(claim.job))
    delivery = await jobs.claim("delivery", 0.0)
    assert delivery
    await jobs.finish(delivery, sent(delivery.job))
    assert (await find(jobs, "<reply-abc1@example.org>")).job.id == "abc1"
    with pytest.raises(PermanentError):
        await find(jobs, "abc")
