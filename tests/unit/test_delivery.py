"""The outbox over fakes: what is retried, for how long, what becomes of the uncertain; and jobs that nobody can end."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from email.message import EmailMessage

import pytest

from mailagent.core.errors import TemporaryError
from mailagent.core.job import Bounced, Held, Received, Sending, Sent, decode, encode
from mailagent.core.operator import released
from mailagent.core.values import Outgoing
from mailagent.flow.delivery import PATIENCE_SECONDS
from mailagent.flow.worker import INTERRUPTIONS
from tests.fakes.mail import FakeSubmission
from tests.unit.test_flow import COLLEAGUE, CUSTOMER, House, Ticking, house, mail

__all__ = ["house"]


def names(house: House, question: EmailMessage) -> list[str]:
    """The moments of the outbox."""
    all_ = [stamp.name for stamp in house.job(question).history]
    return all_[all_.index("composed") + 1 :]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


class Lossy(FakeSubmission):
    """The connection is lost after DATA, the first so many times that `whom` is sent something."""

    def __init__(self, times: int, whom: str = CUSTOMER) -> None:
        super().__init__()
        self._left = times
        self._whom = whom

    async def send(self, outgoing: Outgoing) -> str:
        lost = self._left > 0 and outgoing.recipient == self._whom
        self.faults.drop = "after" if lost else ""
        self._left -= lost
        return await super().send(outgoing)


async def asked(house: House, cc: str = "") -> EmailMessage:
    """A mail, answered until nothing waits any more."""
    question = mail()
    if cc:
        question["Cc"] = cc
    await house.deliver(question)
    await house.settle()
    return question


async def test_a_copy_that_the_server_put_into_sent_proves_that_it_took_the_reply(house: House) -> None:
    house.submission, house.on_uncertain = Lossy(1), "hold"
    house.submission.keeps_sent = True
    question = await asked(house)
    assert len(house.submission.sent) == 1
    assert isinstance(house.job(question).stage, Sent)
    assert names(house, question) == ["sending", "uncertain", "sent"]


async def test_without_a_copy_the_same_bytes_go_out_once_more(house: House) -> None:
    house.submission = Lossy(1)
    question = await asked(house)
    assert len(house.submission.sent) == 2
    assert house.submission.sent[0] == house.submission.sent[1]
    assert isinstance(house.job(question).stage, Sent)
    assert names(house, question) == ["sending", "uncertain", "sending", "sent"]


async def test_what_is_uncertain_twice_is_held_and_the_thread_goes_on(house: House) -> None:
    house.submission = Lossy(2)
    question = await asked(house)
    assert len(house.submission.sent) == 2
    stage = house.job(question).stage
    assert isinstance(stage, Held)
    assert isinstance(stage.before, Sending)
    assert stage.before.to == CUSTOMER
    again = mail("Again?", reply_to=question["Message-ID"], files=[])
    await house.deliver(again)
    await house.settle()
    assert isinstance(house.job(again).stage, Sent)
    assert house.job(again).thread == house.job(question).thread


async def test_where_the_operator_wants_to_know_nothing_is_sent_twice(house: House) -> None:
    house.submission, house.on_uncertain = Lossy(9), "hold"
    question = await asked(house)
    assert len(house.submission.sent) == 1
    held = house.job(question)
    assert isinstance(held.stage, Held)
    assert CUSTOMER in held.stage.reason
    assert decode(encode(held)) == held


async def test_a_copy_proves_nothing_of_the_second_envelope(house: House) -> None:
    house.submission = Lossy(1, COLLEAGUE)
    house.submission.keeps_sent = True
    question = await asked(house, cc=COLLEAGUE)
    assert [sent.recipient for sent in house.submission.sent] == [CUSTOMER, COLLEAGUE, COLLEAGUE]
    assert isinstance(house.job(question).stage, Sent)


async def test_a_sent_folder_out_of_reach_is_asked_again(house: House) -> None:
    class Blind(Lossy):
        looks = 0

        async def was_sent(self, outgoing: Outgoing) -> bool:
            self.looks += 1
            if self.looks == 1:
                raise TemporaryError("no such luck")
            return await super().was_sent(outgoing)

    house.submission = Blind(1)
    house.submission.keeps_sent = True
    await asked(house)
    assert len(house.submission.sent) == 1


async def test_a_daemon_that_died_while_sending_leaves_it_uncertain(house: House) -> None:
    house.submission.may_go_on = asyncio.Event()
    question = mail()
    await house.deliver(question)
    async with house.running(drain=0.05):
        await until(lambda: house.job(question).times("sending"))
    stage = house.job(question).stage
    assert isinstance(stage, Sending)
    assert stage.to == CUSTOMER
    house.submission.may_go_on = None
    await house.settle()
    assert names(house, question) == ["sending", "uncertain", "sending", "sent"]
    assert len(house.submission.sent) == 1


async def test_a_server_that_surely_took_nothing_leaves_nothing_uncertain(house: House) -> None:
    house.submission.faults.data_reply = "451 later"
    question = mail()
    await house.deliver(question)
    async with house.running():
        await until(lambda: house.job(question).attempts >= 2)
    stage = house.job(question).stage
    assert isinstance(stage, Sending)
    assert stage.to == ""
    assert "uncertain" not in names(house, question)


async def test_after_five_days_a_reply_has_bounced(house: House) -> None:
    house.submission.faults.data_reply = "451 later"
    question = mail()
    await house.deliver(question)
    async with house.running():
        await until(lambda: house.job(question).attempts >= 2)
        assert isinstance(house.clock, Ticking)
        house.clock.skip(PATIENCE_SECONDS)
        await until(lambda: isinstance(house.job(question).stage, Bounced))
    stage = house.job(question).stage
    assert isinstance(stage, Bounced)
    assert "451" in stage.reason
    assert not any(house.shelf.lanes["delivery"])


class Full(FakeSubmission):
    """A server that has no room for one of the recipients, until there `is_room`."""

    is_room = False

    async def send(self, outgoing: Outgoing) -> str:
        if outgoing.recipient == COLLEAGUE and not self.is_room:
            raise TemporaryError("452 the mailbox is full")
        return await super().send(outgoing)


async def test_who_is_put_off_keeps_the_reply_from_nobody_and_alone_gets_it_again(house: House) -> None:
    house.submission = submission = Full()
    question, last = mail(), "last@example.org"
    question["Cc"] = f"{COLLEAGUE}, {last}"
    await house.deliver(question)
    async with house.running():
        await until(lambda: house.job(question).attempts >= 2)
        assert isinstance(house.clock, Ticking)
        house.clock.skip(PATIENCE_SECONDS)
        await until(lambda: isinstance(house.job(question).stage, Bounced))
    job = house.job(question)
    assert decode(encode(job)) == job
    assert [sent.recipient for sent in submission.sent] == [CUSTOMER, last]
    submission.is_room = True
    assert await house.jobs.change(job, released(job, house.clock.now()))
    await house.settle()
    assert [sent.recipient for sent in submission.sent] == [CUSTOMER, last, COLLEAGUE]
    assert isinstance(house.job(question).stage, Sent)


async def test_a_slow_mail_server_holds_no_place_of_the_agent(house: House) -> None:
    house.submission.may_go_on = asyncio.Event()
    questions = [mail(sender=f"customer{number}@example.org") for number in range(6)]
    for question in questions:
        await house.deliver(question)
    async with house.running():
        await until(lambda: len(house.agent.turns) == 6)
        await until(lambda: not house.shelf.lanes["turns"])
        assert house.submission.sent == []
        house.submission.may_go_on.set()
        await until(lambda: len(house.submission.sent) == 6)


async def test_whoever_got_an_apology_is_shown_to_the_operator(house: House) -> None:
    house.agent.failures = [TemporaryError("the sandbox died")] * 2
    question = await asked(house)
    assert "I am sorry" in house.texts()[0]
    stage = house.job(question).stage
    assert isinstance(stage, Held)
    assert isinstance(stage.before, Sent)
    assert "the sandbox died (2 attempts)" in stage.reason
    assert names(house, question) == ["sending", "sent", "held"]


async def test_a_job_is_marked_while_it_is_at_work_and_cleared_when_it_is_given_back(house: House) -> None:
    house.agent.go_on = asyncio.Event()
    question = mail()
    await house.deliver(question)
    async with house.running(drain=0.05):
        await until(lambda: house.agent.turns)
        assert house.job(question).interrupted == 1
    assert house.job(question).interrupted == 0
    assert house.job(question).attempts == 0


@pytest.mark.parametrize(("before", "replies"), [(INTERRUPTIONS - 1, 1), (INTERRUPTIONS, 1), (INTERRUPTIONS + 1, 0)])
async def test_a_job_that_kills_the_daemon_again_and_again_is_held(house: House, before: int, replies: int) -> None:
    question = mail()
    await house.deliver(question)
    job = house.job(question)
    house.shelf.jobs[job.id] = replace(job, interrupted=before)
    await house.settle()
    assert len(house.replies()) == replies
    stage = house.job(question).stage
    if before < INTERRUPTIONS:
        assert isinstance(stage, Sent)
    else:
        assert isinstance(stage, Held)
        assert "the daemon died" in stage.reason
        assert house.agent.turns == []
    if not replies:
        assert isinstance(stage, Held)
        assert stage.before == Received()


class Forgetful(FakeSubmission):
    """The first copy for Sent ends the step, as a daemon's death would."""

    async def file_sent(self, outgoing: Outgoing) -> None:
        if not self.faults.data_reply:
            self.faults.data_reply = "554 nothing more is taken"
            raise RuntimeError("died")
        await super().file_sent(outgoing)


async def test_a_daemon_that_dies_before_the_sent_copy_makes_it_at_the_next_start(house: House) -> None:
    house.submission = Forgetful()
    question = await asked(house)
    assert len(house.submission.sent) == 1
    assert house.submission.filed == house.submission.sent
    stage = house.job(question).stage
    assert isinstance(stage, Sent)
    assert stage.response.startswith("250")
