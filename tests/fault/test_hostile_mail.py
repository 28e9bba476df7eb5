"""Hostile mail through a real IMAP server and the daemon: each ends as it must, and the next good one is answered.

`make fault` sends all of it, `make test` those that stand for the others."""

import asyncio
import imaplib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import pytest

from mailagent import commands, config
from mailagent.core.prompt import FENCE
from mailagent.demo import story
from mailagent.demo.rules import RulesModel
from mailagent.flow.turns import APOLOGY
from tests.daemon import SECRETS, Daemon, daemon
from tests.e2e.test_dovecot import AGENT, DATA, Receiver, append, receiving
from tests.fault.hostile_mail import ALL, DOMAIN, Hostile
from tests.integration.dovecot import PASSWORD, Dovecot
from tests.settings import settings_text

EVERYTHING = os.environ.get("HOSTILE_MAIL") == "all"
SECONDS = 1500 if EVERYTHING else 110
MEMORY_MB = 250
ANSWER = "Here is what the model says."
REPLAY = [[{"type": "text", "text": ANSWER}]] * 1000
FOLDERS = {"processed": "Processed", "refused": "Refused", "held": "Held"}
EPOCH = 1_700_000_000
"""The internal date of the first mail; each of the others is one second younger, and known by that wherever it goes."""


@dataclass
class Scene:
    """An account on Dovecot, the daemon that serves it, its model, and the server that takes its replies."""

    dovecot: Dovecot
    user: str
    model: RulesModel
    receiver: Receiver
    daemon: Daemon
    settings: config.Config

    @contextmanager
    def box(self) -> Iterator[imaplib.IMAP4]:
        """The account, as somebody else sees it."""
        with imaplib.IMAP4("127.0.0.1", self.dovecot.imap_port, timeout=60) as box:
            box.login(self.user, PASSWORD)
            yield box

    def deliver(self, mails: Sequence[Hostile]) -> None:
        """Put them into the inbox, byte by byte as they are: append() would mend their line ends."""
        with self.box() as box:
            for number, mail in enumerate(mails):
                box.literal = mail.data()  # type: ignore[assignment]
                done, said = box.xatom("APPEND", "INBOX", imaplib.Time2Internaldate(EPOCH + number))
                assert done == "OK", (mail.name, said)

    def numbers(self, folder: str) -> set[int]:
        """Which of the delivered mails, by their number, lie in a folder."""
        with self.box() as box:
            known, count = box.select(folder, readonly=True)
            if known != "OK" or count == [b"0"]:
                return set()
            found = box.fetch("1:*", "(INTERNALDATE)")[1]
        dates = [imaplib.Internaldate2tuple(line) for line in found if isinstance(line, bytes)]
        return {int(time.mktime(date)) - EPOCH for date in dates if date}

    async def rest(self) -> None:
        """Return when every mail was taken out of the inbox and no job waits any more."""
        while await asyncio.to_thread(self.numbers, "INBOX") or await self._waiting():
            assert self.daemon.process.returncode is None, "the daemon ended:\n" + "\n".join(self.daemon.log)
            await asyncio.sleep(1.0)

    async def _waiting(self) -> int:
        counts = await commands.status(self.settings)
        return counts["turns"] + counts["delivery"] + counts["later"]

    def replies(self) -> dict[str, list[EmailMessage]]:
        """What each recipient got so far."""
        found: dict[str, list[EmailMessage]] = {}
        while not self.receiver.mails.empty():
            recipients, mail = self.receiver.mails.get_nowait()
            for recipient in recipients:
                found.setdefault(recipient, []).append(mail)
        return found

    def peak_mb(self) -> float:
        """The most memory the daemon ever had resident (proc(5))."""
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        return int(peak[1]) / 1024


@asynccontextmanager
async def scene(place: Path, dovecot: Dovecot) -> AsyncIterator[Scene]:
    user = dovecot.user()
    async with RulesModel(replay=REPLAY) as model, receiving() as (smtp_port, receiver):
        text = settings_text(
            place,
            model_url=model.url,
            imap_port=dovecot.imap_port,
            smtp_port=smtp_port,
            user=user,
            allow=f'domains = ["{DOMAIN}"]',
        ).replace("[imap]", "".join(f'{key}_folder = "{name}"\n' for key, name in FOLDERS.items()) + "[imap]")
        async with daemon(place, text) as running:
            yield Scene(dovecot, user, model, receiver, running, config.load(text, SECRETS, {}))


@pytest.mark.timeout(SECONDS + 60)
async def test_hostile_mail_ends_as_it_must_and_the_next_mail_is_answered(dovecot: Dovecot, short_path: Path) -> None:
    mails = ALL if EVERYTHING else [mail for mail in ALL if mail.quick]
    async with scene(short_path, dovecot) as at:
        async with asyncio.timeout(SECONDS):
            await asyncio.to_thread(at.deliver, mails)
            await at.rest()
        replies = at.replies()
        held, ignored = at.numbers("Held"), at.numbers("Refused")
        fates = {}
        for number, mail in enumerate(mails):
            got = replies.get(mail.sender, [])
            fates[mail.name] = (
                _fate(got) if got else "held" if number in held else "ignored" if number in ignored else "lost"
            )
        wrong = {mail.name: (fates[mail.name], mail.fate) for mail in mails if fates[mail.name] != mail.fate}
        assert not wrong, "found and expected:\n" + json.dumps(wrong, indent=1) + "\n" + "\n".join(at.daemon.log)

        assert replies.keys() <= {mail.sender for mail in mails}
        assert all(len(got) == 1 for got in replies.values())
        for name, got in replies.items():
            _is_ours(got[0], name)
        assert b"pwned" not in b"".join(line for line in _folders(at) if isinstance(line, bytes))
        _prompts_are_fenced(at.model)
        assert at.peak_mb() < MEMORY_MB

        at.model._replay = None
        good = story.request(AGENT, "Revenue by region, please", [("sales.csv", DATA)])
        await asyncio.to_thread(append, dovecot, at.user, good)
        async with asyncio.timeout(90):
            recipients, reply = await at.receiver.mails.get()
        assert recipients == [story.CUSTOMER]
        assert reply["In-Reply-To"] == good["Message-ID"]
        assert "4.5" in str(reply)
        counts = await commands.status(at.settings)
        assert counts["dead"] == 0
        print(f"{len(mails)} mails, peak {at.peak_mb():.0f} MB")


def _fate(got: list[EmailMessage]) -> str:
    text = _text(got[0])
    return "apologised" if APOLOGY[:40] in text else "answered" if ANSWER in text else "refused"


def _text(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


def _is_ours(reply: EmailMessage, recipient: str) -> None:
    """It is to the sender alone, marked as automatic, and has no field that a mail smuggled in."""
    assert [one.addr_spec for one in reply["To"].addresses] == [recipient]
    assert reply["Auto-Submitted"] == "auto-replied"
    known = {"from", "to", "subject", "date", "auto-submitted", "x-auto-response-suppress", "x-mailagent-loop"}
    known |= {"message-id", "in-reply-to", "references", "reply-to", "mime-version"}
    assert {name.lower() for name in reply if not name.lower().startswith("content-")} <= known


def _folders(at: Scene) -> list[bytes | tuple[bytes, bytes] | None]:
    with at.box() as box:
        return list(box.list()[1])


def _prompts_are_fenced(model: RulesModel) -> None:
    """What strangers wrote can neither end its fence nor make the CLI read files of the host."""
    seen = json.dumps([body for _, body in model.requests])
    assert "root:x:0" not in seen
    prompts = re.findall(r'"Workspace: (?:[^"\\]|\\.)*"', seen)
    assert prompts
    for prompt in prompts:
        found = [match.start() for match in FENCE.finditer(prompt)]
        assert len(found) % 2 == 0
        assert len(found) <= 8
