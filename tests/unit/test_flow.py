"""The flow over fakes: what becomes of a mail, step by step, and of every error on the way."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import pytest

from mailagent.adapters.blobs import DiskBlobs
from mailagent.adapters.host import share
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import Bounced, Held, Job, Merged, Sent
from mailagent.core.quota import DAY, Account, Limits, Payer, Spend, daily
from mailagent.core.render import Style
from mailagent.core.screen import Rule
from mailagent.core.token import Key
from mailagent.core.values import BlobId, Outgoing, RawMessage
from mailagent.flow.admission import Admission
from mailagent.flow.delivery import Delivery
from mailagent.flow.intake import Intake
from mailagent.flow.reading import FRUITLESS, Reading
from mailagent.flow.turns import Turns
from mailagent.flow.worker import Worker
from mailagent.ports import Clock, Folder, Head
from tests.fakes.agent import FakeAgent
from tests.fakes.checkpoints import FakeCheckpoints
from tests.fakes.jobs import FakeJobs, Shelf
from tests.fakes.ledger import FakeLedger
from tests.fakes.mail import FakeInbox, FakeSubmission
from tests.fakes.parser import FakeParser
from tests.fakes.room import FakeRoom

AGENT, CUSTOMER, COLLEAGUE = "agent@demo.test", "customer@example.org", "colleague@example.org"
NUMBERS = itertools.count(1)
KEYS = (Key(1, b"k" * 32),)


class Ticking(Clock):
    """A clock that moves on by a second whenever it is asked."""

    def __init__(self) -> None:
        self._seconds = itertools.count(1_700_000_000)

    def now(self) -> float:
        return float(next(self._seconds))

    def skip(self, seconds: float) -> None:
        """So much later."""
        self._seconds = itertools.count(int(self.now() + seconds))


@dataclass
class House:
    """All rooms of the flow, with fakes for the world."""

    place: Path
    shelf: Shelf = field(default_factory=Shelf)
    inbox: FakeInbox = field(default_factory=FakeInbox)
    submission: FakeSubmission = field(default_factory=FakeSubmission)
    agent: FakeAgent = field(default_factory=FakeAgent)
    clock: Clock = field(default_factory=Ticking)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    rules: list[Rule] = field(default_factory=lambda: [Rule(domains=("example.org",))])
    limits: Limits = field(default_factory=lambda: Limits(10, 30, 300))
    attempts: int = 2
    template: str = ""
    turn_seconds: float = 30.0
    most_mb: float = 36.0
    room: FakeRoom = field(default_factory=FakeRoom)
    memory: FakeRoom = field(default_factory=FakeRoom)
    grace: float = 0.01
    on_uncertain: Literal["resend", "hold"] = "resend"

    def __post_init__(self) -> None:
        self.jobs = FakeJobs(shelf=self.shelf)
        self.blobs = DiskBlobs(self.place / "blobs")
        self.checkpoints = FakeCheckpoints()
        self.spaces = DiskWorkspaces(
            self.place / "threads", self.blobs, self.checkpoints, max_bytes=10**9, max_out_bytes=10**6, max_out_files=20
        )

    def intake(self, start: str = "all") -> Intake:
        rules, limits, ledger, clock = self.rules, self.limits, self.ledger, self.clock
        reading = Reading(self.inbox, FakeParser(), self.blobs, clock, rules, AGENT, "mx.demo.test", self.most_mb)
        admission = Admission(self.jobs, ledger, rules, AGENT, limits, self.most_mb, KEYS, True)
        return Intake(
            self.inbox,
            reading,
            admission,
            self.jobs,
            ledger,
            clock,
            start,
            600.0,
            limits.mails_per_hour,
            limits.waiting_mails,
            self.room,
        )

    def turns(self) -> Worker:
        template = self.template or (share() / "config" / "reply.html").read_text()
        turns = Turns(
            jobs=self.jobs,
            blobs=self.blobs,
            parser=FakeParser(),
            workspaces=self.spaces,
            agent=self.agent,
            clock=self.clock,
            style=Style(template, ""),
            sender=AGENT,
            sender_name="Agent",
            notice="",
            turn_seconds=self.turn_seconds,
            rules=self.rules,
            keys=KEYS,
        )
        return Worker(
            self.jobs, self.clock, "turns", turns.step, turns.give_up, self.often_enough, 0.01, 0.05, 0.05, self.memory
        )

    def often_enough(self, job: Job) -> bool:
        return job.attempts >= self.attempts

    def delivery(self) -> Worker:
        delivery = Delivery(self.jobs, self.blobs, self.submission, self.clock, AGENT, self.grace, self.on_uncertain)
        return Worker(
            self.jobs, self.clock, "delivery", delivery.step, delivery.give_up, delivery.enough, 0.01, 0.05, 0.05
        )

    async def deliver(self, mail: EmailMessage) -> None:
        """The mail arrives and is taken over."""
        self.inbox.deliver(mail.as_bytes(policy=policy.SMTP))
        await self.intake().take_new(await self.inbox.open())

    async def settle(self) -> None:
        """Until nothing waits any more."""
        async with self.running():
            async with asyncio.timeout(20):
                while any(self.shelf.lanes[lane] for lane in ("turns", "delivery")):
                    await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self, drain: float = 5.0) -> AsyncIterator[asyncio.Event]:
        stopping = asyncio.Event()
        loops = [asyncio.create_task(worker.run(2, stopping, drain)) for worker in (self.turns(), self.delivery())]
        try:
            yield stopping
        finally:
            stopping.set()
            await asyncio.gather(*loops)

    def job(self, mail: EmailMessage) -> Job:
        return self.shelf.jobs[self.shelf.ids[mail["Message-ID"]]]

    def replies(self) -> list[EmailMessage]:
        return [
            message_from_bytes(sent.data, _class=EmailMessage, policy=policy.default) for sent in self.submission.sent
        ]

    def texts(self) -> list[str]:
        return [str(body.get_content()) for reply in self.replies() if (body := reply.get_body(("plain",)))]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def mail(text: str = "How much?", sender: str = CUSTOMER, proof: str = "dmarc=pass", **more: Any) -> EmailMessage:
    message = EmailMessage()
    message["Authentication-Results"] = f"mx.demo.test; {proof} header.from={sender.partition('@')[2]}"
    message["From"], message["To"], message["Subject"] = sender, AGENT, more.get("subject", "Sales")
    message["Message-ID"] = f"<{next(NUMBERS)}@example.org>"
    if more.get("reply_to"):
        message["In-Reply-To"] = more["reply_to"]
    message.set_content(text)
    for name, data in more.get("files", [("a.csv", b"x;y\n1;2\n")]):
        message.add_attachment(data, maintype="text", subtype="csv", filename=name)
    return message


async def test_a_mail_becomes_one_reply(house: House) -> None:
    house.agent.files = {"answer.md": b"It is **42**.", "analysis.py": b"print(42)"}
    question = mail()
    await house.deliver(question)
    await house.settle()
    [reply] = house.replies()
    assert reply["In-Reply-To"] == question["Message-ID"]
    assert reply["To"] == CUSTOMER
    assert "It is 42." in house.texts()[0]
    assert isinstance(house.job(question).stage, Sent)
    names = [stamp.name for stamp in house.job(question).history]
    assert names == [
        *("received", "parsed", "begun", "ingested", "first model request", "answered", "composed", "sending", "sent")
    ]
    assert house.submission.filed == house.submission.sent
    assert house.inbox.filed == {1: "processed"}
    assert house.agent.open == 0
    assert "profile of a.csv" in house.agent.turns[0].prompt


async def test_what_the_agent_said_is_the_answer_when_it_wrote_none(house: House) -> None:
    await house.deliver(mail())
    await house.settle()
    assert "The answer is 42." in house.texts()[0]


async def test_a_reply_goes_on_in_its_thread_and_only_its_owner_can(house: House) -> None:
    first = mail()
    await house.deliver(first)
    await house.settle()
    again = mail("And now?", reply_to=house.replies()[0]["Message-ID"], files=[], subject="Something else")
    await house.deliver(again)
    other = mail("Me too?", sender=COLLEAGUE, reply_to=house.replies()[0]["Message-ID"])
    await house.deliver(other)
    await house.settle()
    assert house.job(again).thread == house.job(first).thread
    assert house.job(other).thread != house.job(first).thread
    numbers = {turn.prompt.split("\n")[1]: turn.session for turn in house.agent.turns}
    assert [turn.number for turn in house.agent.turns if turn.thread == house.job(first).thread] == [1, 2]
    assert len(set(numbers.values())) == 2
    assert "profile" not in next(t.prompt for t in house.agent.turns if t.number == 2)


@pytest.mark.parametrize(
    "stranger",
    [
        mail(sender="who@elsewhere.test"),
        mail(proof="dmarc=fail"),
        mail(sender=AGENT),
        mail(text="auto", sender="mailer-daemon@example.org"),
    ],
    ids=["not allowed", "unproven", "ourselves", "a machine"],
)
async def test_whoever_may_not_ask_gets_nothing(house: House, stranger: EmailMessage, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        await house.deliver(stranger)
        await house.settle()
    assert house.replies() == []
    assert house.shelf.jobs == {}
    assert house.inbox.filed == {1: "refused"}
    assert len([record for record in caplog.records if "no reply to uid=1" in record.message]) == 1


async def test_nothing_to_analyse_is_said_without_an_agent(house: House) -> None:
    await house.deliver(mail(files=[]))
    await house.deliver(mail(files=[("brochure.docx", b"PK")], sender=COLLEAGUE))
    await house.settle()
    assert "CSV" in house.texts()[0]
    assert any("brochure.docx" in text for text in house.texts())
    assert house.agent.turns == []


async def test_a_refusal_of_a_kind_is_told_once_a_day(house: House) -> None:
    for _ in range(3):
        await house.deliver(mail(files=[]))
    await house.settle()
    assert len(house.replies()) == 1
    assert list(house.inbox.filed.values()) == ["refused"] * 3


async def test_over_the_quota_one_plain_reply_says_when_it_frees_up(house: House) -> None:
    house.rules = [Rule(domains=("example.org",), mails_per_day=2)]
    for _ in range(4):
        await house.deliver(mail())
    await house.settle()
    assert len(house.agent.turns) == 2
    assert len(house.replies()) == 3
    assert "UTC" in house.texts()[2]
    await house.deliver(mail(sender=COLLEAGUE))
    await house.settle()
    assert len(house.agent.turns) == 3, "another sender's quota is another one"


async def test_each_attempt_at_a_turn_is_charged_to_its_mail_its_thread_and_its_sender(house: House) -> None:
    house.rules = [Rule(domains=("example.org",), tokens_per_day=15)]
    house.agent.failures = [TemporaryError("the model is away")]
    question = mail()
    await house.deliver(question)
    await house.settle()
    job = house.job(question)
    assert house.agent.payers == [Payer(job.id, job.thread, CUSTOMER, Spend(1_000, 15, 20.0))] * 2


async def test_who_has_used_up_the_day_is_told_before_an_agent_runs(house: House) -> None:
    house.rules = [Rule(domains=("example.org",), tokens_per_day=15)]
    account = Account("sender", CUSTOMER, daily(house.rules[0]))
    await house.ledger.charge("1", [account], Spend(1, 15, 0.0), house.clock.now())
    await house.deliver(mail())
    await house.settle()
    assert house.agent.turns == []
    assert "token" in house.texts()[0]


async def test_above_the_cap_for_all_mail_is_held_in_the_mailbox(house: House) -> None:
    house.limits = Limits(10, 30, 2)
    for _ in range(3):
        await house.deliver(mail())
    assert len(house.shelf.jobs) == 2
    assert 3 not in house.inbox.filed
    house.limits = Limits(10, 30, 300)
    await house.intake().take_new(await house.inbox.open())
    assert len(house.shelf.jobs) == 3


async def test_a_message_larger_than_the_rule_allows_is_refused_in_words(house: House) -> None:
    house.rules = [Rule(domains=("example.org",), max_message_mb=0.0001)]
    await house.deliver(mail(files=[("a.csv", b"x;y\n" + b"1;2\n" * 1000)]))
    await house.settle()
    assert "MB" in house.texts()[0]
    assert house.agent.turns == []


async def test_allowed_colleagues_get_the_reply_in_envelopes_of_their_own_and_may_go_on(house: House) -> None:
    question = mail()
    question["Cc"] = f"{COLLEAGUE}, outsider@elsewhere.test, {AGENT}"
    await house.deliver(question)
    await house.settle()
    assert [sent.recipient for sent in house.submission.sent] == [CUSTOMER, COLLEAGUE]
    assert len({sent.data for sent in house.submission.sent}) == 1
    assert house.replies()[0]["Cc"] == COLLEAGUE
    again = mail("And by month?", sender=COLLEAGUE, reply_to=house.replies()[0]["Message-ID"], files=[])
    await house.deliver(again)
    await house.settle()
    assert house.job(again).thread == house.job(question).thread
    assert house.agent.turns[-1].number == 2


async def test_a_colleague_whose_server_says_no_keeps_the_reply_from_nobody(house: House) -> None:
    house.submission = Picky(COLLEAGUE)
    question = mail()
    question["Cc"] = COLLEAGUE
    await house.deliver(question)
    await house.settle()
    assert [sent.recipient for sent in house.submission.sent] == [CUSTOMER]
    assert isinstance(house.job(question).stage, Sent)


class Picky(FakeSubmission):
    """A server that does not know one of the recipients."""

    def __init__(self, unknown: str) -> None:
        super().__init__()
        self._unknown = unknown

    async def send(self, outgoing: Outgoing) -> str:
        if outgoing.recipient == self._unknown:
            raise PermanentError("550 no such user")
        return await super().send(outgoing)


async def test_a_reply_to_the_signed_address_goes_on_without_any_message_id(house: House) -> None:
    first = mail()
    await house.deliver(first)
    await house.settle()
    address = str(house.replies()[0]["Reply-To"])
    assert address != AGENT
    again, thief = mail("And now?", files=[]), mail("Me too?", sender=COLLEAGUE)
    for each in (again, thief):
        del each["To"]
        each["To"] = address
        await house.deliver(each)
    await house.settle()
    assert house.job(again).thread == house.job(first).thread
    assert house.job(thief).thread != house.job(first).thread, "the token is bound to its sender"


async def test_a_bounce_marks_the_reply_and_is_not_answered(house: House) -> None:
    question = mail()
    await house.deliver(question)
    await house.settle()
    reply = house.replies()[0]
    await house.deliver(bounce(reply["Message-ID"]))
    await house.settle()
    assert isinstance(house.job(question).stage, Bounced)
    assert len(house.agent.turns) == 1
    assert len(house.replies()) == 1


class Overtaken(FakeSubmission):
    """A server whose bounce arrives while the copy is being filed."""

    house: House

    async def file_sent(self, outgoing: Outgoing) -> None:
        await self.house.deliver(bounce(outgoing.message_id))
        await super().file_sent(outgoing)


async def test_a_bounce_that_overtakes_the_end_of_its_job_is_not_lost(house: House) -> None:
    house.submission = submission = Overtaken()
    submission.house = house
    question = mail()
    await house.deliver(question)
    await house.settle()
    assert isinstance(house.job(question).stage, Bounced)


class Forgetful(FakeJobs):
    """A store that is away when it is first told of a bounce."""

    told = False

    async def bounced(self, message_id: str, reason: str, now: float) -> Job | None:
        if not self.told:
            self.told = True
            raise TemporaryError("the store is away")
        return await super().bounced(message_id, reason, now)


async def test_a_bounce_that_cannot_be_noted_now_is_looked_at_again(house: House) -> None:
    house.jobs = Forgetful(shelf=house.shelf)
    question = mail()
    await house.deliver(question)
    await house.settle()
    with pytest.raises(TemporaryError):
        await house.deliver(bounce(house.replies()[0]["Message-ID"]))
    await house.intake().take_new(await house.inbox.open())
    assert isinstance(house.job(question).stage, Bounced)


def bounce(message_id: str) -> EmailMessage:
    """A delivery status notification as Postfix writes it (RFC 3464)."""
    report = EmailMessage()
    report["From"], report["To"], report["Subject"] = "MAILER-DAEMON@example.org", AGENT, "Undelivered Mail"
    report["Message-ID"], report["Auto-Submitted"] = f"<{next(NUMBERS)}@mx.example.org>", "auto-replied"
    report["Return-Path"] = "<>"
    lines = [
        *("--b", "Content-Type: text/plain", "", "It could not be delivered.", "--b"),
        *("Content-Type: message/delivery-status", "", "Reporting-MTA: dns; mx.example.org", ""),
        *("Final-Recipient: rfc822; customer@example.org", "Action: failed", "Status: 5.1.1", "--b"),
        *("Content-Type: text/rfc822-headers", "", f"Message-ID: {message_id}", f"From: {AGENT}", "", "--b--", ""),
    ]
    report["Content-Type"] = 'multipart/report; report-type=delivery-status; boundary="b"'
    report.set_payload("\r\n".join(lines))
    return report


async def test_the_skills_of_the_rule_are_those_that_the_agent_gets(house: House) -> None:
    house.rules = [Rule(domains=("example.org",), skills=("reply", "sql"))]
    await house.deliver(mail())
    await house.settle()
    assert house.agent.skills == ("reply", "sql")


async def test_an_unreadable_file_is_named_with_its_reason(house: House) -> None:
    house.agent.unreadable = {"a.csv": "is empty"}
    await house.deliver(mail())
    await house.settle()
    assert "a.csv" in house.texts()[0]
    assert "is empty" in house.texts()[0]
    assert house.agent.turns == []


async def test_a_failed_attempt_is_tried_again(house: House) -> None:
    house.agent.failures = [TemporaryError("away")]
    await house.deliver(mail())
    await house.settle()
    assert "The answer is 42." in house.texts()[0]
    assert len(house.agent.turns) == 2


@pytest.mark.parametrize("failure", [TemporaryError("away"), RuntimeError("a bug")])
async def test_a_turn_that_keeps_failing_ends_in_one_apology_and_the_thread_goes_on(
    house: House, failure: Exception
) -> None:
    house.agent.failures = [failure] * 2
    await house.deliver(mail())
    await house.settle()
    assert len(house.agent.turns) == 2
    [text] = house.texts()
    assert "I am sorry" in text
    assert str(failure) not in text, "details are for the log"
    again = mail("And now?", reply_to=house.replies()[0]["Message-ID"], files=[])
    await house.deliver(again)
    await house.settle()
    assert "The answer is 42." in house.texts()[1]


async def test_a_permanent_error_is_told_at_once_in_its_own_words(house: House) -> None:
    house.agent.failures = [PermanentError("Please ask for less at once.")]
    await house.deliver(mail())
    await house.settle()
    assert "Please ask for less at once." in house.texts()[0]
    assert len(house.agent.turns) == 1


async def test_a_turn_past_its_deadline_is_a_failed_attempt(house: House) -> None:
    house.turn_seconds, house.attempts = 0.05, 1
    house.agent.go_on = asyncio.Event()
    await house.deliver(mail())
    await house.settle()
    assert "I am sorry" in house.texts()[0]
    assert house.agent.open == 0


async def test_a_mail_taken_over_twice_is_answered_once(house: House) -> None:
    await house.deliver(mail())
    house.shelf.cursors.clear()
    await house.intake().take_new(await house.inbox.open())
    await house.settle()
    assert len(house.replies()) == 1


async def test_a_message_that_cannot_be_parsed_is_set_aside_and_the_next_one_answered(house: House) -> None:
    house.inbox.deliver(b"Content-Type: multipart/mixed; boundary=a\r\n\r\n" + b"--a\r\n\r\nx\r\n" * 300 + b"--a--\r\n")
    await house.deliver(mail())
    await house.settle()
    assert house.inbox.filed == {1: "held", 2: "processed"}
    assert len(house.replies()) == 1


async def test_a_server_that_says_later_gets_the_same_bytes_again(house: House) -> None:
    question = mail()
    house.submission.away = True
    await house.deliver(question)
    async with house.running():
        while house.job(question).attempts == 0:
            await asyncio.sleep(0.005)
        assert type(house.job(question).stage).__name__ == "Sending"
        house.submission.away = False
        while not house.submission.sent:
            await asyncio.sleep(0.005)
    assert len(house.replies()) == 1


async def test_a_server_that_says_no_ends_the_job_and_not_the_thread(house: House) -> None:
    question = mail()
    house.submission.faults.data_reply = "550 no"
    await house.deliver(question)
    await house.settle()
    stage = house.job(question).stage
    assert isinstance(stage, Bounced)
    assert stage.reason == "550 no"
    house.submission.faults.data_reply = ""
    again = mail("Again?", reply_to=question["Message-ID"], files=[])
    await house.deliver(again)
    await house.settle()
    assert isinstance(house.job(again).stage, Sent)
    assert house.job(again).thread == house.job(question).thread


async def test_a_reply_that_cannot_even_be_laid_out_ends_its_job_and_not_the_loop(house: House) -> None:
    house.template = "{% broken"
    first, second = mail(), mail(sender=COLLEAGUE)
    await house.deliver(first)
    await house.deliver(second)
    await house.settle()
    assert isinstance(house.job(first).stage, Held)
    assert isinstance(house.job(second).stage, Held)
    assert house.replies() == []


async def test_a_new_uidvalidity_loses_nothing_and_answers_nothing_twice(house: House) -> None:
    await house.deliver(mail())
    house.inbox.deliver(mail("Second?").as_bytes(policy=policy.SMTP))
    house.inbox.renumber()
    await house.intake("new").take_new(await house.inbox.open())
    await house.settle()
    assert len(house.replies()) == 2


@pytest.mark.parametrize("start", ["new", "unseen", "all"])
async def test_a_new_uidvalidity_answers_nothing_from_before_the_first_start(house: House, start: str) -> None:
    for n in range(3):
        house.inbox.seen.add(house.inbox.deliver(mail(sender=f"{n}@example.org").as_bytes(policy=policy.SMTP), at=n))
    intake = house.intake(start)
    await intake.take_new(await house.inbox.open())
    before = len(house.shelf.jobs)
    assert before == (3 if start == "all" else 0)
    question = mail()
    house.inbox.renumber()
    arrive(house, question)
    await intake.take_new(await house.inbox.open())
    assert len(house.shelf.jobs) == before + 1
    assert house.job(question)


async def test_a_mail_that_is_met_again_is_neither_counted_nor_told_again(house: House) -> None:
    await house.deliver(mail())
    await house.deliver(mail(files=[], sender=COLLEAGUE))
    await house.settle()
    assert isinstance(house.clock, Ticking)
    house.clock.skip(DAY)
    house.ledger = FakeLedger()  # which forgets in two days
    house.inbox.renumber()
    await house.intake().take_new(await house.inbox.open())
    assert (house.ledger.mails, house.ledger.told) == ({}, {})
    await house.deliver(mail("Without data?", files=[], sender=COLLEAGUE))
    await house.settle()
    assert len(house.replies()) == 3


class Unfiled(FakeInbox):
    """A server that refuses to file."""

    async def file(self, uids: Sequence[int], folder: Folder) -> None:
        raise TemporaryError("no such folder")


async def test_a_mail_that_cannot_be_filed_is_answered_all_the_same(house: House) -> None:
    house.inbox = Unfiled()
    await house.deliver(mail())
    await house.settle()
    assert len(house.replies()) == 1


async def test_a_reply_in_a_thread_that_was_forgotten_starts_anew_and_says_so(house: House) -> None:
    first = mail()
    await house.deliver(first)
    await house.settle()
    ours = house.replies()[0]["Message-ID"]
    await house.deliver(mail("And now?", reply_to=ours))
    await house.settle()
    assert "do not have the conversation" not in "".join(house.texts())
    house.shelf.ids.clear()
    house.shelf.threads.clear()
    await house.deliver(mail("And then?", reply_to=ours))
    await house.settle()
    assert ["do not have the conversation" in text for text in house.texts()] == [False, False, True]
    assert "The answer is 42." in house.texts()[2]


async def test_a_thread_whose_files_are_lost_says_so(house: House) -> None:
    await house.deliver(mail())
    await house.settle()
    shutil.rmtree(house.place / "threads")
    manifest = next(iter(house.checkpoints.kept.values())).manifest
    (house.place / "blobs" / manifest[:2] / manifest).unlink()
    await house.deliver(mail("And now?", reply_to=house.replies()[0]["Message-ID"]))
    await house.settle()
    assert "do not have the conversation" in house.texts()[1]


async def test_a_thread_whose_conversation_is_gone_says_so_once_also_when_it_is_tried_again(house: House) -> None:
    await house.deliver(mail())
    await house.settle()
    house.checkpoints.kept.clear()
    house.agent.failures = [TemporaryError("the model is away")]
    for text in ("And now?", "And then?"):
        await house.deliver(mail(text, reply_to=house.replies()[-1]["Message-ID"]))
        await house.settle()
    assert ["do not have the conversation" in text for text in house.texts()] == [False, True, False]


async def test_a_thread_that_began_with_a_refusal_has_forgotten_nothing(house: House) -> None:
    await house.deliver(mail(files=[]))
    await house.settle()
    await house.deliver(mail("With data?", reply_to=house.replies()[0]["Message-ID"]))
    await house.settle()
    assert len({job.thread for job in house.shelf.jobs.values()}) == 1
    assert "The answer is 42." in house.texts()[1]
    assert "do not have the conversation" not in house.texts()[1]


@pytest.mark.parametrize("failure", [TemporaryError("away"), PermanentError("too much"), ValueError("a fault")])
async def test_a_turn_that_is_over_holds_no_workspace_whatever_way_it_ended(house: House, failure: Exception) -> None:
    house.agent.failures = [failure]
    await house.deliver(mail())
    await house.settle()
    assert len(house.replies()) == 1
    assert (house.spaces._open, house.spaces._copies) == (set(), {})


async def test_a_question_that_no_model_answered_comes_back_with_the_next_mail(house: House) -> None:
    house.agent.unreadable = {"a.csv": "is empty"}
    await house.deliver(mail("What is the median of x?"))
    await house.settle()
    assert "> What is the median of x?" in house.texts()[0]


async def test_a_stop_gives_the_running_turn_back_and_the_next_start_ends_it(house: House) -> None:
    question = mail()
    house.agent.go_on = asyncio.Event()
    await house.deliver(question)
    async with house.running(drain=0.05):
        while not house.agent.turns:
            await asyncio.sleep(0.005)
    assert house.agent.open == 0
    assert house.shelf.leases == {}
    assert house.replies() == []
    house.agent.go_on = None
    await house.settle()
    assert len(house.replies()) == 1
    assert house.job(question).attempts == 0


async def test_work_whose_lease_was_lost_is_dropped_in_silence(house: House) -> None:
    question = mail()
    house.agent.go_on = asyncio.Event()
    await house.deliver(question)
    async with house.running():
        while not house.agent.turns:
            await asyncio.sleep(0.005)
        house.shelf.leases[("turns", house.job(question).thread)] = ("another", float("inf"))
        while house.agent.open:
            await asyncio.sleep(0.005)
    assert house.replies() == []
    assert house.shelf.leases[("turns", house.job(question).thread)][0] == "another"


async def test_mails_that_wait_together_are_answered_in_one_reply(house: House) -> None:
    first, second, third = mail("One?"), mail("Two?", files=[("b.csv", b"x\n2\n")]), mail("Three?", files=[])
    await house.deliver(first)
    house.agent.go_on = asyncio.Event()
    async with house.running():
        while not house.agent.turns:
            await asyncio.sleep(0.005)
        for waiting in (second, third):
            waiting["In-Reply-To"] = first["Message-ID"]
            await house.deliver(waiting)
        house.agent.go_on.set()
        while len(house.submission.sent) < 2:
            await asyncio.sleep(0.005)
    assert [turn.number for turn in house.agent.turns] == [1, 2]
    prompt = house.agent.turns[1].prompt
    assert prompt.index("Two?") < prompt.index("Three?")
    assert "b.csv" in prompt
    reply = house.replies()[1]
    assert reply["In-Reply-To"] == third["Message-ID"]
    assert second["Message-ID"] in reply["References"]
    assert isinstance(house.job(second).stage, Sent)
    assert house.job(third).stage == Merged(house.job(second).id)


async def test_one_thread_at_work_does_not_hold_up_another(house: House) -> None:
    house.agent.go_on = asyncio.Event()
    first, second = mail(), mail(sender=COLLEAGUE)
    await house.deliver(first)
    await house.deliver(second)
    async with house.running():
        while len(house.agent.turns) < 2:
            await asyncio.sleep(0.005)
        house.agent.go_on.set()
    assert {turn.thread for turn in house.agent.turns} == {house.job(first).thread, house.job(second).thread}


async def test_the_store_s_cursor_wins_over_ours(house: House) -> None:
    for _ in range(3):
        house.inbox.deliver(mail().as_bytes(policy=policy.SMTP))
    mailbox = await house.inbox.open()
    house.shelf.cursors[mailbox] = 2
    await house.intake().take_new(mailbox)
    assert [job.uid for job in house.shelf.jobs.values()] == [3]


def arrive(house: House, *mails: EmailMessage) -> None:
    """These mails lie in the mailbox and nobody has looked yet."""
    for each in mails:
        house.inbox.deliver(each.as_bytes(policy=policy.SMTP))


async def test_mails_that_wait_together_are_taken_over_as_if_they_had_come_one_by_one(house: House) -> None:
    house.rules = [Rule(domains=("example.org",), mails_per_day=2)]
    first = mail()
    answer = mail("And then?", reply_to=first["Message-ID"], files=[])
    strangers = [mail(sender=f"{n}@elsewhere.test") for n in range(3)]
    others = [mail(sender=f"{n}@example.org") for n in range(60)]
    arrive(house, first, *strangers, first, answer, *others, mail())
    await house.intake().take_new(await house.inbox.open())
    assert house.job(answer).thread == house.job(first).thread
    assert house.shelf.lanes["turns"][house.job(first).thread] == [house.job(first).id, house.job(answer).id]
    assert len(house.shelf.jobs) == 63
    refused = [uid for uid, folder in house.inbox.filed.items() if folder == "refused"]
    assert refused == [2, 3, 4, 67]
    assert len(house.inbox.filed) == 67


async def test_the_cap_for_all_mail_ends_a_look_in_the_middle(house: House) -> None:
    house.limits = Limits(10, 30, 7)
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(20)))
    await house.intake().take_new(await house.inbox.open())
    assert sorted(house.inbox.filed) == list(range(1, 8))
    assert len(house.shelf.jobs) == 7


async def test_of_a_stranger_no_more_is_read_than_the_beginning(house: House) -> None:
    big = [("a.csv", b"x;y\n" + b"1;2\n" * 50_000)]
    arrive(house, mail(sender="who@elsewhere.test", files=big), mail(proof="dmarc=fail", files=big), mail(files=big))
    await house.intake().take_new(await house.inbox.open())
    assert house.inbox.fetched == [3]
    assert house.inbox.filed == {1: "refused", 2: "refused", 3: "processed"}


async def test_a_proven_sender_of_too_much_is_told_so_and_only_once(house: House) -> None:
    house.most_mb = 0.1
    big = [("a.csv", b"x;y\n" + b"1;2\n" * 50_000)]
    question = mail(files=big)
    arrive(house, question, mail(files=big), mail(sender="who@elsewhere.test", files=big))
    await house.intake().take_new(await house.inbox.open())
    await house.settle()
    assert house.inbox.fetched == []
    assert list(house.inbox.filed.values()) == ["refused"] * 3
    [reply] = house.replies()
    assert reply["In-Reply-To"] == question["Message-ID"]
    assert "0.1 MB at most" in house.texts()[0]


class Stumbling(FakeInbox):
    """A server that loses the connection whenever it is asked for one of these messages."""

    stuck: Collection[int] = (2,)

    async def heads(self, uids: Sequence[int]) -> list[Head]:
        if set(self.stuck) & set(uids):
            raise TemporaryError("the connection is lost")
        return await super().heads(uids)

    async def fetch(self, uids: Sequence[int], *, now: float) -> list[RawMessage]:
        if set(self.stuck) & set(uids):
            raise TemporaryError("the connection is lost")
        return await super().fetch(uids, now=now)


async def test_a_message_that_the_server_cannot_hand_over_keeps_no_other_from_being_answered(house: House) -> None:
    house.inbox = Stumbling()
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(3)))
    intake = house.intake()
    for _ in range(FRUITLESS + 3):
        with pytest.raises(TemporaryError):
            await intake.take_new(await house.inbox.open())
    assert house.inbox.filed == {1: "processed"}
    await intake.take_new(await house.inbox.open())
    assert house.inbox.filed == {1: "processed", 2: "held", 3: "processed"}


async def look_often(house: House, intake: Intake, times: int) -> None:
    """As the intake does that finds the server, or the store, away."""
    for _ in range(times):
        with suppress(TemporaryError):
            await intake.take_new(await house.inbox.open())


async def test_two_that_the_server_cannot_hand_over_keep_no_other_from_being_answered(house: House) -> None:
    house.inbox = inbox = Stumbling()
    inbox.stuck = (2, 3)
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(5)))
    await look_often(house, house.intake(), 4 * FRUITLESS)
    assert inbox.filed == {1: "processed", 2: "held", 3: "held", 4: "processed", 5: "processed"}


async def test_all_mail_waits_for_a_server_that_hands_over_none(house: House) -> None:
    house.inbox = inbox = Stumbling()
    inbox.stuck = (1, 2, 3)
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(3)))
    await look_often(house, house.intake(), 5 * FRUITLESS)
    assert inbox.filed == {}


async def test_when_a_server_hands_over_again_no_mail_is_set_aside(house: House) -> None:
    house.inbox = inbox = Stumbling()
    inbox.stuck = (1, 2, 3)
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(3)))
    intake = house.intake()
    await look_often(house, intake, 5 * FRUITLESS)
    inbox.stuck = ()
    await look_often(house, intake, 1)
    assert inbox.filed == {1: "processed", 2: "processed", 3: "processed"}


async def test_when_a_message_that_was_not_handed_over_is_gone_the_next_one_is_not_blamed(house: House) -> None:
    house.inbox = inbox = Stumbling()
    inbox.stuck = (1,)
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(3)))
    intake = house.intake()
    await look_often(house, intake, FRUITLESS + 2)
    assert inbox.filed == {}
    del inbox.mails[1]
    await look_often(house, intake, 1)
    assert inbox.filed == {2: "processed", 3: "processed"}


class FullDisk(DiskBlobs):
    """Nothing can be kept."""

    async def put(self, data: bytes) -> BlobId:
        raise TemporaryError("the disk is full")


async def test_all_mail_waits_for_a_store_that_is_away(house: House) -> None:
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(3)))
    blobs, house.blobs = house.blobs, FullDisk(house.place / "blobs")
    intake = house.intake()
    await look_often(house, intake, 5 * FRUITLESS)
    assert house.inbox.filed == {}
    intake.reading.blobs = blobs
    await look_often(house, intake, 1)
    assert list(house.inbox.filed.values()) == ["processed"] * 3


async def test_no_more_is_read_at_once_than_fits_into_memory(house: House) -> None:
    big = [("a.csv", b"x;y\n" + b"1;2\n" * 1_500_000)]
    arrive(house, *(mail(sender=f"{n}@example.org", files=big) for n in range(5)))
    await house.intake().take_new(await house.inbox.open())
    assert house.inbox.fetches == [[1], [2], [3], [4], [5]]
    assert len(house.shelf.jobs) == 5


async def test_mail_waits_in_the_mailbox_while_too_much_waits_for_the_agent(house: House) -> None:
    house.limits = Limits(waiting_mails=7)
    arrive(house, *(mail(sender=f"{n}@example.org") for n in range(20)))
    assert not await house.intake().take_new(await house.inbox.open())
    assert len(house.shelf.jobs) == 7
    await house.settle()
    assert not await house.intake().take_new(await house.inbox.open())
    await house.settle()
    assert await house.intake().take_new(await house.inbox.open())
    assert len(house.shelf.jobs) == 20


async def test_mail_waits_in_the_mailbox_while_the_disk_is_full(house: House) -> None:
    house.room.is_free = False
    arrive(house, mail())
    assert not await house.intake().take_new(await house.inbox.open())
    assert (house.shelf.jobs, house.inbox.filed) == ({}, {})
    house.room.is_free = True
    assert await house.intake().take_new(await house.inbox.open())
    assert len(house.shelf.jobs) == 1


async def test_without_memory_for_another_session_turns_run_one_after_the_other(house: House) -> None:
    house.agent.go_on = asyncio.Event()
    house.memory.is_free = False
    await house.deliver(mail())
    await house.deliver(mail(sender=COLLEAGUE))
    async with house.running():
        async with asyncio.timeout(10):
            while not house.agent.turns:
                await asyncio.sleep(0.005)
            for _ in range(20):
                await asyncio.sleep(0.005)
                assert len(house.agent.turns) == 1
            house.memory.is_free = True
            while len(house.agent.turns) < 2:
                await asyncio.sleep(0.005)
        house.agent.go_on.set()
        async with asyncio.timeout(10):
            while len(house.replies()) < 2:
                await asyncio.sleep(0.005)
