"""The daemon takes mail by LMTP (RFC 2033) beside its mailbox, and answers it the same way."""

import asyncio
import smtplib
from email import policy
from pathlib import Path

from mailagent.demo import story
from mailagent.demo.mailserver import MailServer
from mailagent.demo.rules import RulesModel
from tests.daemon import daemon
from tests.e2e.test_conversation import ACCOUNTS, AGENT, World, _text
from tests.settings import settings_text

PROOF = b"Authentication-Results: mx.demo.test; dmarc=pass header.from=example.org\r\n"


def deliver(socket: Path, data: bytes) -> None:
    with smtplib.LMTP(str(socket)) as client:
        client.sendmail("customer@example.org", [AGENT], data)


async def test_a_mail_by_lmtp_is_answered_and_a_follow_up_by_imap_goes_on(short_path: Path) -> None:
    socket = short_path / "lmtp.sock"
    async with MailServer(ACCOUNTS, authserv_id="mx.demo.test") as server, RulesModel() as model:
        text = settings_text(
            short_path,
            model_url=model.url,
            imap_port=server.imap_port,
            smtp_port=server.smtp_port,
            more=f'[lmtp]\nlisten = "{socket}"\ntrust_dkim = false\n',
        )
        async with daemon(short_path, text) as running:
            at = World(server, model, running, short_path)
            mail = story.request(AGENT, "Revenue by region", [("s.csv", b"region;revenue\nN;1,5\nS;2,5\n")])
            await asyncio.to_thread(deliver, socket, PROOF + mail.as_bytes(policy=policy.SMTP))
            reply = await at.reply_to(mail)
            assert "2.50" in _text(reply)
            again = story.follow_up(reply, "Only S, please")
            await at.send(again)
            await at.reply_to(again)
            assert (await at.show(mail))["thread"] == (await at.show(again))["thread"]
            assert await running.stop() == 0
