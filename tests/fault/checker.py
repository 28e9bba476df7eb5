"""The invariants: what must be true of the mails sent and the replies taken, whatever went wrong meanwhile."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from functools import cache

from tests.fault.sink import Delivery

ANSWERED = re.compile(r"\bA:(t\d+m\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A mail that was sent: the `number`-th of its thread, counted from 1."""

    thread: int
    number: int
    sender: str

    @property
    def name(self) -> str:
        """What the question and its answer are known by."""
        return f"t{self.thread}m{self.number}"

    @property
    def message_id(self) -> str:
        return f"<{self.name}@asked.test>"


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: which questions it answers, in its own words, and which it names as such in its fields."""

    message_id: str
    names: tuple[str, ...]
    references: frozenset[str]
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. All but the counts must be empty; `repeats` are the same reply handed over again."""

    mails: int
    replies: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    altered: tuple[str, ...]
    misled: tuple[str, ...]
    unasked: tuple[str, ...]
    disorder: tuple[str, ...]
    repeats: tuple[tuple[Delivery, Delivery], ...]

    def faults(self) -> list[str]:
        """In words, all that must not be."""
        kinds = ("lost", "twice", "altered", "misled", "unasked", "disorder")
        return [f"{kind}: {', '.join(found)}" for kind in kinds if (found := getattr(self, kind))]


def judge(asked: Sequence[Asked], history: Sequence[Delivery]) -> Verdict:
    """Hold the history of the server that took the replies against the mails that were sent."""
    mails = {mail.name: mail for mail in asked}
    copies: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
    answers = []
    for delivery in history:
        answer = read(delivery)
        copies[answer.message_id, delivery.recipient].append(delivery)
        if len(copies[answer.message_id, delivery.recipient]) == 1:
            answers.append(answer)
    given = [name for answer in answers for name in answer.names]
    return Verdict(
        mails=len(mails),
        replies=len(answers),
        lost=tuple(name for name in mails if name not in given),
        twice=tuple(sorted({name for name in given if given.count(name) > 1})),
        altered=tuple(key[0] for key, same in copies.items() if len({each.data for each in same}) > 1),
        misled=tuple(answer.message_id for answer in answers if not _fits(answer, mails)),
        unasked=tuple(answer.message_id for answer in answers if not answer.names),
        disorder=tuple(_disorder(given, mails)),
        repeats=tuple((same[0], later) for same in copies.values() for later in same[1:]),
    )


@cache
def read(delivery: Delivery) -> Answer:
    """The reply understood."""
    mail = BytesParser().parsebytes(delivery.data)
    text = next((part for part in mail.walk() if part.get_content_type() == "text/plain"), mail)
    fields = f"{mail['In-Reply-To']} {mail['References']}"
    return Answer(
        str(mail["Message-ID"]).strip(),
        tuple(ANSWERED.findall(_decoded(text))),
        frozenset(re.findall(r"<[^<>\s]+>", fields)),
        delivery,
    )


def _decoded(part: Message) -> str:
    data = part.get_payload(decode=True)
    return data.decode(errors="replace") if isinstance(data, bytes) else ""


def _fits(answer: Answer, mails: dict[str, Asked]) -> bool:
    """It went to whom it answers, and names every mail that it answers."""
    answered = [mails.get(name) for name in answer.names]
    return all(
        mail and mail.sender == answer.delivery.recipient and mail.message_id in answer.references for mail in answered
    )


def _disorder(given: Sequence[str], mails: dict[str, Asked]) -> list[str]:
    """The answers that came after that to a later mail of their thread."""
    latest: dict[int, int] = {}
    found = []
    for name in given:
        mail = mails.get(name)
        if mail is None:
            continue
        if mail.number < latest.get(mail.thread, 0):
            found.append(name)
        latest[mail.thread] = max(mail.number, latest.get(mail.thread, 0))
    return found
