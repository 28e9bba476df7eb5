"""Logging in with access tokens: a program prints them, servers that want XOAUTH2 take or refuse them."""

import asyncio
import base64
import logging
import re
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mailagent.adapters.imap import ImapInbox
from mailagent.adapters.oauth import access_token
from mailagent.adapters.smtp import SmtpSubmission
from mailagent.config import Imap, Smtp
from mailagent.core.errors import TemporaryError
from mailagent.core.values import Outgoing
from mailagent.demo.mailserver import MailServer
from tests.integration.dovecot import HOST, PASSWORD
from tests.listening import listening
from tests.mail_peers import DEADLINE, imap_settings, mail_settings

AGENT, CUSTOMER = "agent@mail.test", "customer@mail.test"
MAIL = Outgoing("<1@mail.test>", AGENT, CUSTOMER, b"Message-ID: <1@mail.test>\r\n\r\nbody\r\n")
REASON = base64.b64encode(b'{"status":"400","schemes":"Bearer"}').decode()


@dataclass
class Gate:
    """Takes whoever shows a token that begins with `good`, and notes each answer it was given."""

    good: str = "token-"
    answers: list[str] = field(default_factory=list)

    def opens(self, answer: bytes) -> bool:
        self.answers.append(base64.b64decode(answer).decode())
        return self.answers[-1].startswith(f"user={AGENT}\1auth=Bearer {self.good}")

    @asynccontextmanager
    async def imap(self) -> AsyncIterator[tuple[MailServer, int]]:
        """A mail server and the port of the gate before it."""
        async with MailServer({AGENT: PASSWORD}) as server:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2] hello\r\n")
                while (command := await reader.readline()).split()[1:] != [b"AUTHENTICATE", b"XOAUTH2"]:
                    writer.write(b"* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n%b OK done\r\n" % command.split()[0])
                tag = command.split()[0]
                writer.write(b"+ \r\n")
                if not self.opens(await reader.readline()):
                    writer.write(f"+ {REASON}\r\n".encode())
                    self.answers.append((await reader.readline()).decode())
                    writer.write(tag + b" NO [AUTHENTICATIONFAILED] that token is no good\r\n")
                    return
                behind, ahead = await asyncio.open_connection(HOST, server.imap_port)
                await behind.readline()
                ahead.write(tag + f" LOGIN {AGENT} {PASSWORD}\r\n".encode())
                await asyncio.gather(_pump(reader, ahead), _pump(behind, writer))

            async with listening(serve) as port:
                yield server, port

    @asynccontextmanager
    async def smtp(self) -> AsyncIterator[tuple[list[str], int]]:
        """Whom a server behind the gate took mail for, and its port."""
        taken: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            said, open_now = "220 hello", False
            while True:
                writer.write(f"{said}\r\n".encode())
                line = (await reader.readline()).decode("ascii")
                match line.split():
                    case ["ehlo" | "EHLO", _]:
                        said = "250-here\r\n250 AUTH LOGIN XOAUTH2"
                    case ["AUTH", "XOAUTH2", answer] if self.opens(answer.encode()):
                        said, open_now = "235 welcome", True
                    case ["AUTH", "XOAUTH2", _]:
                        writer.write(f"334 {REASON}\r\n".encode())
                        self.answers.append((await reader.readline()).decode())
                        said = "535 5.7.8 that token is no good"
                    case _ if not (open_now and line):
                        return
                    case ["rcpt" | "RCPT", recipient]:
                        taken.append(recipient)
                        said = "250 known"
                    case ["data" | "DATA"]:
                        writer.write(b"354 go on\r\n")
                        await reader.readuntil(b"\r\n.\r\n")
                        said = "250 taken"
                    case ["quit" | "QUIT"]:
                        return
                    case _:
                        said = "250 ok"

        async with listening(serve) as port:
            yield taken, port


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture
def counting(tmp_path: Path) -> tuple[str, ...]:
    """A program that prints token-1 at its first run, token-2 at its second …"""
    return ("/bin/sh", "-c", f"echo >> {tmp_path}/runs; echo token-$(wc -l < {tmp_path}/runs)")


def by_token(port: int, command: tuple[str, ...]) -> Imap:
    return imap_settings(port, auth="xoauth2", token_command=command)


def submission(port: int, command: tuple[str, ...], imap: Imap | None = None) -> SmtpSubmission:
    smtp = {"host": HOST, "port": port, "security": "none", "user": AGENT, "auth": "xoauth2", "token_command": command}
    return SmtpSubmission(Smtp.model_validate(smtp | {"sent_copy": "always"}), imap or imap_settings(1), "", "")


async def test_the_mailbox_is_read_and_each_connection_has_a_token_of_its_own(
    counting: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gate = Gate()
    async with gate.imap() as (server, port):
        inbox = ImapInbox(
            by_token(port, counting), mail_settings(moves=False).model_copy(update={"folder": "INBOX"}), ""
        )
        async with asyncio.timeout(DEADLINE):
            mailbox = await inbox.open()
            assert mailbox.account == f"{AGENT}@{HOST}"
            await submission(1, counting, by_token(port, counting)).file_sent(MAIL)
            assert server.messages(AGENT, "Sent") == [MAIL.data]
            await inbox.open()
            await inbox.close()
    assert gate.answers == [f"user={AGENT}\1auth=Bearer token-{n}\1\1" for n in (1, 2, 3)]
    secret = base64.b64encode(gate.answers[0].encode()).decode()
    assert "token-" not in caplog.text
    assert secret[20:] not in caplog.text


async def test_a_token_that_the_mailbox_refuses() -> None:
    gate = Gate()
    async with gate.imap() as (_, port):
        inbox = ImapInbox(by_token(port, ("/bin/echo", "wrong")), mail_settings(moves=False), "")
        with pytest.raises(TemporaryError, match="that token is no good") as caught:
            await inbox.open()
        await inbox.close()
    assert "wrong" not in str(caught.value)
    assert gate.answers[1:] == ["\r\n"], "the server's reason is answered with nothing, or it waits"


async def test_mail_is_sent(counting: tuple[str, ...]) -> None:
    gate = Gate()
    async with gate.smtp() as (taken, port):
        way_out = submission(port, counting)
        await _send(way_out)
        await _send(way_out)
    assert taken == [f"TO:<{CUSTOMER}>"] * 2
    assert [answer.split("Bearer ")[1] for answer in gate.answers] == ["token-1\1\1", "token-2\1\1"]


async def test_a_token_that_the_way_out_refuses() -> None:
    gate = Gate()
    async with gate.smtp() as (taken, port):
        with pytest.raises(TemporaryError, match=f"{HOST}: 535") as caught:
            await _send(submission(port, ("/bin/echo", "wrong")))
    assert "wrong" not in str(caught.value)
    assert (taken, gate.answers[1:]) == ([], ["\r\n"])


async def test_a_server_that_knows_no_tokens(counting: tuple[str, ...]) -> None:
    async with MailServer({AGENT: PASSWORD}) as server:
        with pytest.raises(TemporaryError, match=HOST):
            await _send(submission(server.smtp_port, counting))
        inbox = ImapInbox(by_token(server.imap_port, counting), mail_settings(moves=False), "")
        with pytest.raises(TemporaryError, match="PLAIN is the only mechanism"):
            await inbox.open()
        await inbox.close()


async def _send(way_out: SmtpSubmission) -> Any:
    async with asyncio.timeout(DEADLINE):
        return await way_out.send(MAIL)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo secret >&2; echo secret; exit 3", "exit code 3"),
        ("true", "something else than one token"),
        ("echo secret two", "something else than one token"),
        ("echo secret; echo two", "something else than one token"),
        ("printf 'secret\\1'", "something else than one token"),
        ("printf 'sécret'", "something else than one token"),
        ("kill -9 $$", "exit code -9"),
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(script: str, reason: str) -> None:
    with pytest.raises(TemporaryError, match=reason) as caught:
        access_token(("/bin/sh", "-c", script), DEADLINE)
    assert "secret" not in str(caught.value)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(TemporaryError, match="/nowhere/token cannot be run: No such file"):
        access_token(("/nowhere/token",), DEADLINE)


def test_a_program_that_hangs_is_ended_with_what_it_started() -> None:
    with pytest.raises(TemporaryError, match=r"no token in 0\.2 s"):
        access_token(("/bin/sh", "-c", "sleep 600 & sleep 600"), 0.2)


def test_the_program_does_not_see_our_own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    show = "import os; print(os.environ.get('ANTHROPIC_API_KEY', 'none') + os.environ['CREDENTIALS_DIRECTORY'])"
    assert access_token((sys.executable, "-c", show), DEADLINE) == "none/run/credentials"


async def test_the_program_in_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manual = Path(__file__).parents[2] / "docs" / "operations.md"
    blocks = re.findall(r"```python\n(.*?)```", manual.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "oauth-request" in block]
    program = tmp_path / "mailagent-token"
    program.write_text(textwrap.dedent(block))
    program.chmod(0o755)
    (tmp_path / "oauth-request").write_text("grant_type=refresh_token&refresh_token=a%2Fb\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0])))
        body = b'{"access_token": "token-1", "expires_in": 3599, "token_type": "Bearer"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with listening(serve) as port:
        command = (str(program), f"http://{HOST}:{port}/token")
        assert await asyncio.to_thread(access_token, command, DEADLINE) == "token-1"
    assert asked == [b"grant_type=refresh_token&refresh_token=a%2Fb"]
