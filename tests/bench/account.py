"""An account on a private Dovecot with the daemon's own intake on it, in this process, and nothing that runs turns."""

import imaplib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from mailagent import config, daemon
from mailagent.adapters.imap import ImapInbox
from mailagent.demo import story
from mailagent.flow.intake import Intake
from tests.daemon import SECRETS
from tests.settings import settings_text

AGENT = "agent@demo.test"
HOST, USER, PASSWORD = "127.0.0.1", "bench", "secret"
PROOF = b"Authentication-Results: mx.demo.test; dmarc=pass header.from=example.org\r\n"


@dataclass(frozen=True)
class Account:
    """The parts of a daemon that take mail in, with a real Redis that waits for the disk at each write."""

    parts: daemon.Parts
    inbox: ImapInbox
    intake: Intake
    port: int

    @contextmanager
    def box(self) -> Iterator[imaplib.IMAP4]:
        """The account, for deliveries."""
        with imaplib.IMAP4(HOST, self.port, timeout=60) as box:
            box.login(USER, PASSWORD)
            yield box


@asynccontextmanager
async def account() -> AsyncIterator[Account]:
    """Everything started; everything stopped and removed at the end."""
    from tests.integration.dovecot import _running  # not above: it brings pytest, which runs as another user at once

    program = shutil.which("dovecot", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("Dovecot is not installed: make test does it")
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    try:
        with _running(program) as dovecot:
            text = settings_text(
                place,
                model_url="http://127.0.0.1:9",
                imap_port=dovecot.imap_port,
                user=USER,
                allow='domains = ["example.org"]',
            ).replace("[imap]", 'start = "all"\n[imap]')
            settings = config.load(text, SECRETS, {})
            async with daemon.build(settings) as parts:
                inbox = ImapInbox(settings.imap, settings.mail, PASSWORD)
                try:
                    yield Account(parts, inbox, daemon.watch(parts, inbox), dovecot.imap_port)
                finally:
                    await inbox.close()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def request(number: int) -> EmailMessage:
    """A question with a small table, unlike any other."""
    lines = b"".join(b"%s;%d,5\n" % (b"NS"[n % 2 : n % 2 + 1], n * number) for n in range(100))
    return story.request(
        AGENT,
        f"Revenue by region, please ({number})",
        [(f"sales-{number}.csv", b"region;revenue\n" + lines)],
        sender=f"customer-{number}@example.org",
    )


def delivered(box: imaplib.IMAP4, mail: EmailMessage) -> bytes:
    """Put the mail into the inbox; returns its bytes as they lie there."""
    raw = PROOF + mail.as_bytes(policy=SMTP)
    done, said = box.append("INBOX", "", "", raw)
    assert done == "OK", said
    return raw
