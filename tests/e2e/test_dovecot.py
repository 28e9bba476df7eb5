"""`mailagent run` on a real IMAP server with IDLE and a real SMTP server: what comes to one leaves by the other."""

import asyncio
import imaplib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from mailagent.demo import story
from mailagent.demo.rules import RulesModel
from tests.daemon import daemon, mailagent
from tests.integration.dovecot import Dovecot
from tests.settings import settings_text

AGENT = "agent@demo.test"
PROOF = b"Authentication-Results: mx.demo.test; dmarc=pass header.from=example.org\r\n"
DATA = b"region;revenue\nNorth;1,5\nSouth;2,5\nNorth;3\n"


class Receiver:
    """A real SMTP server that keeps what it is given."""

    def __init__(self) -> None:
        self.mails: asyncio.Queue[tuple[list[str], EmailMessage]] = asyncio.Queue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.original_content or b"", _class=EmailMessage, policy=policy.default)
        self.mails.put_nowait((envelope.rcpt_tos, mail))
        return "250 taken"


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[int, Receiver]]:
    receiver = Receiver()
    async with await asyncio.get_running_loop().create_server(lambda: SMTP(receiver), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], receiver


def append(dovecot: Dovecot, user: str, mail: EmailMessage) -> None:
    """Deliver into the account, with the proof that its receiving server would write."""
    with imaplib.IMAP4("127.0.0.1", dovecot.imap_port, timeout=20) as box:
        box.login(user, "secret")
        box.append("INBOX", "", imaplib.Time2Internaldate(time.time()), PROOF + mail.as_bytes(policy=policy.SMTP))


async def test_an_account_on_dovecot_is_served_over_idle(dovecot: Dovecot, short_path: Path) -> None:
    user = dovecot.user()
    async with RulesModel() as model, receiving() as (smtp_port, receiver):
        text = settings_text(
            short_path, model_url=model.url, imap_port=dovecot.imap_port, smtp_port=smtp_port, user=user
        ).replace("[smtp]", "idle_seconds = 3600\n[smtp]")  # only IDLE can bring the news in time
        async with daemon(short_path, text) as running:
            for number in (1, 2):
                mail = story.request(AGENT, f"Revenue by region, please ({number})", [("sales.csv", DATA)])
                await asyncio.to_thread(append, dovecot, user, mail)
                async with asyncio.timeout(90):
                    recipients, reply = await receiver.mails.get()
                assert recipients == [story.CUSTOMER]
                assert reply["In-Reply-To"] == mail["Message-ID"]
                assert "4.5" in str(reply)
                await running.logged(f"sent job={await _job(short_path, running.settings, mail)}")
            assert await running.stop() == 0
    with imaplib.IMAP4("127.0.0.1", dovecot.imap_port, timeout=20) as box:
        box.login(user, "secret")
        box.select("INBOX", readonly=True)
        assert box.search(None, "UNSEEN")[1][0].split() == [b"1", b"2"], "a person can still see what is new"
        assert box.search(None, "KEYWORD", "$MailAgentDone")[1][0].split() == [b"1", b"2"]


async def _job(place: Path, settings: Path, mail: EmailMessage) -> str:
    code, output, _ = await mailagent(place, "show", settings, mail["Message-ID"])
    assert code == 0
    return output.split("job ")[1].split(",")[0]
