"""What operators meet and do beside a running daemon: replies that may have arrived, mails held, or sent again."""

import asyncio
import imaplib
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailagent import cli
from mailagent.demo import story
from mailagent.demo.mailserver import MailServer
from tests.daemon import Daemon, daemon, mailagent
from tests.settings import settings_text

AGENT, CUSTOMER = "agent@demo.test", story.CUSTOMER
PROOF = b"Authentication-Results: mx.demo.test; dmarc=pass header.from=example.org\r\n"
MODEL = "http://127.0.0.1:9"
"""None is needed: a mail without data gets a reply that no model made."""


@dataclass
class World:
    """A daemon, its mail server, and an operator's shell."""

    server: MailServer
    daemon: Daemon

    async def ask(self) -> str:
        """A mail without data comes in; its Message-ID."""
        mail = story.request(AGENT, "What is my revenue?", ())
        await asyncio.to_thread(deliver, self.server.imap_port, mail)
        return str(mail["Message-ID"])

    async def run(self, command: str, *more: str) -> str:
        """What the command says."""
        code, output, errors = await asyncio.to_thread(shell, command, self.daemon.settings, *more)
        assert code == 0, errors
        return output

    async def refused(self, command: str, *more: str) -> str:
        """Why it is not done."""
        code, output, errors = await asyncio.to_thread(shell, command, self.daemon.settings, *more)
        assert code == 1, output
        return errors

    async def until(self, message_id: str, stage: str, words: str = "sent job=") -> dict[str, Any]:
        """What `mailagent show` says once the mail has this stage, of which the daemon logs these words."""
        await self.daemon.logged(words)
        async with asyncio.timeout(60):
            while True:
                job: dict[str, Any] = json.loads(await self.run("show", "--json", message_id))
                if job["is"] == stage:
                    return job

    def replies(self) -> list[bytes]:
        """What the customer got, without what the server put on top."""
        return [data[data.index(b"From: ") :] for data in self.server.messages(CUSTOMER)]


def shell(command: str, settings: Path, *more: str) -> tuple[object, str, str]:
    """What `mailagent COMMAND` comes to: exit code, output, errors. Not a process, which takes two seconds to start."""
    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["mailagent", command, "--config", str(settings), *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code, output.getvalue(), errors.getvalue()


def deliver(imap_port: int, mail: EmailMessage) -> None:
    with imaplib.IMAP4("127.0.0.1", imap_port, timeout=20) as box:
        box.login(AGENT, "secret")
        box.append("INBOX", "", imaplib.Time2Internaldate(time.time()), PROOF + mail.as_bytes(policy=policy.SMTP))


@asynccontextmanager
async def world(place: Path, smtp: str = "", *, keeps_sent: bool = False) -> AsyncIterator[World]:
    accounts = {AGENT: "secret", CUSTOMER: "secret"}
    async with MailServer(accounts, "mx.demo.test", keeps_sent=keeps_sent) as server:
        text = settings_text(
            place,
            model_url=MODEL,
            imap_port=server.imap_port,
            smtp_port=server.smtp_port,
            smtp=f'user = "{AGENT}"\nuncertain_seconds = 0.2\n{smtp}',
        )
        async with daemon(place, text) as running:
            yield World(server, running)


async def test_with_hold_a_reply_that_may_have_arrived_waits_for_the_word_of_an_operator(short_path: Path) -> None:
    async with world(short_path, 'on_uncertain = "hold"') as at:
        at.server.faults.drop = "after"
        message_id = await at.ask()
        job = await at.until(message_id, "Held", "held: sent to")
        assert len(at.replies()) == 1
        [row] = [json.loads(line) for line in (await at.run("queue", "--held", "--json")).splitlines()]
        assert row["id"] == job["id"]
        assert row["state"] == "held"
        assert CUSTOMER in row["reason"]
        start = job["id"][:5]
        assert f"mailagent resolve {job['id']} --sent" in await at.run("show", start)
        assert "resolve" in await at.refused("release", start)
        assert "resolve" in await at.refused("requeue", start)
        at.server.faults.drop = ""
        await at.run("resolve", start, "--sent")
        await at.until(message_id, "Sent")
        assert len(at.replies()) == 1
        assert "nothing waits" in await at.run("queue")


async def test_with_resend_the_same_bytes_go_out_once_more_and_then_no_more(short_path: Path) -> None:
    async with world(short_path, 'on_uncertain = "resend"') as at:
        at.server.faults.drop = "after"
        message_id = await at.ask()
        await at.until(message_id, "Held", "twice, both times")
        first, second = at.replies()
        assert first == second
        at.server.faults.drop = ""
        await at.run("resolve", message_id, "--resend")
        job = await at.until(message_id, "Sent")
        assert at.replies() == [first] * 3
        names = [stamp["name"] for stamp in job["history"]]
        assert names[names.index("composed") + 1 :] == [
            *("sending", "uncertain", "sending", "uncertain", "held", "resolved", "sending", "sent")
        ]


async def test_a_server_that_keeps_copies_is_believed_and_nothing_is_sent_twice(short_path: Path) -> None:
    async with world(short_path, 'on_uncertain = "hold"', keeps_sent=True) as at:
        at.server.faults.drop = "after"
        await at.until(await at.ask(), "Sent")
        assert len(at.replies()) == 1
        assert len(at.server.messages(AGENT, "Sent")) == 1


class Silent:
    """A server that takes a mail and says nothing, but to the second."""

    def __init__(self) -> None:
        self.mails: list[bytes] = []
        self.has_one = asyncio.Event()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.mails.append(envelope.original_content or b"")
        self.has_one.set()
        if len(self.mails) == 1:
            await asyncio.get_running_loop().create_future()
        return "250 taken"


@pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
async def test_a_daemon_that_ends_before_the_server_s_answer_sends_the_same_bytes_again(
    short_path: Path, stopped: bool
) -> None:
    silent = Silent()
    loop = asyncio.get_running_loop()
    async with (
        MailServer({AGENT: "secret"}, "mx.demo.test") as server,
        await loop.create_server(lambda: SMTP(silent), "127.0.0.1", 0) as out,
    ):
        text = settings_text(
            short_path,
            model_url=MODEL,
            imap_port=server.imap_port,
            smtp_port=out.sockets[0].getsockname()[1],
            smtp="uncertain_seconds = 0.2",
            agent="drain_seconds = 0.2",
            more="[redis]\nlease_seconds = 2",
        )
        async with daemon(short_path, text) as running:
            message_id = await World(server, running).ask()
            async with asyncio.timeout(60):
                await silent.has_one.wait()
            if stopped:
                assert await running.stop() == 0, "it does not wait for the server"
            else:
                running.process.kill()
                await running.process.wait()
        async with daemon(short_path, text) as running:
            assert "1 in the outbox" in await running.logged("found")
            job = await World(server, running).until(message_id, "Sent")
    assert len(silent.mails) == 2
    assert silent.mails[0] == silent.mails[1]
    assert "uncertain" in [stamp["name"] for stamp in job["history"]]


async def test_a_mail_is_held_released_refused_by_the_server_and_answered_again(short_path: Path) -> None:
    async with world(short_path) as at:
        at.server.faults.data_reply = "451 later"
        message_id = await at.ask()
        await at.daemon.logged("attempt failed: 127.0.0.1: 451 later")
        await held(at, message_id)
        assert "cannot be held: it is Held" in await at.refused("hold", message_id)
        assert "by an operator" in await at.run("queue")
        at.server.faults.data_reply = "550 5.7.1 no such luck"
        assert "goes on" in await at.run("release", message_id)
        await at.until(message_id, "Bounced", "given up: ")
        assert "550 5.7.1 no such luck" in await at.run("queue", "--bounced")
        at.server.faults.data_reply = ""
        assert "is answered again" in await at.run("requeue", message_id)
        job = await at.until(message_id, "Sent")
        assert job["stage"]["composed"]["message_id"] == f"<ma.{job['id']}.1@demo.test>"
        assert len(at.replies()) == 1
        again = message_from_bytes(at.server.messages(CUSTOMER)[0], _class=EmailMessage, policy=policy.default)
        assert again["In-Reply-To"] == message_id
        assert "all agrees" in await at.run("fsck", "--repair")
        [file] = (short_path / "state" / "blobs").rglob(job["message"])
        away = file.rename(short_path / "away")
        left = short_path / "state" / "tmp" / "session-old"
        left.mkdir()
        os.utime(left, (0, 0))
        code, told, _ = await asyncio.to_thread(shell, "fsck", at.daemon.settings)
        assert code == 1
        assert f"job {job['id']}: its file {job['message']} is lost" in told
        assert f"{left} is of no session" in told
        assert "2 findings, 0 mended" in told
        away.rename(file)
        left.rmdir()
        assert "all agrees" in await at.run("fsck")
        assert "it is Sent" in await at.refused("release", message_id)
        assert "mailagent queue" in await at.refused("show", "zzz")


async def held(at: World, message_id: str) -> None:
    """Hold it in a moment when no worker has it."""
    async with asyncio.timeout(60):
        while True:
            code, output, errors = await asyncio.to_thread(shell, "hold", at.daemon.settings, message_id)
            if code == 0:
                assert "is held" in output
                return
            assert "try again" in errors


async def test_without_a_daemon_that_is_said(short_path: Path) -> None:
    settings = short_path / "mailagent.toml"
    settings.write_text(settings_text(short_path, model_url=MODEL))
    code, _, errors = await mailagent(short_path, "queue", settings)
    assert code == 1
    assert f"no daemon runs on {short_path}/state" in errors
