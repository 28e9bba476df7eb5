"""The SMTP adapter where servers differ or misbehave: TLS, logins, answers that make no sense."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailagent.adapters.smtp import SmtpSubmission
from mailagent.config import Smtp
from mailagent.core.errors import ConfigError, PermanentError, TemporaryError
from mailagent.core.values import Outgoing
from mailagent.demo.mailserver import MailServer
from tests.integration.dovecot import HOST, OLD_HOST, PASSWORD, certificate
from tests.listening import listening
from tests.mail_peers import DEADLINE, imap_settings

AGENT, CUSTOMER = "agent@mail.test", "customer@mail.test"
MAIL = Outgoing("<1@mail.test>", AGENT, CUSTOMER, b"From: agent@mail.test\r\n\r\nbody\r\n")


def submission(port: int, password: str = PASSWORD, **more: object) -> SmtpSubmission:
    smtp = Smtp.model_validate({"host": HOST, "port": port, "security": "none", "timeout_seconds": 5} | more)
    return SmtpSubmission(smtp, imap_settings(1), password, "", smtp.timeout_seconds)


async def refusal(submission: SmtpSubmission) -> str:
    """Why the server cannot be used now."""
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(TemporaryError) as caught:
            await submission.send(MAIL)
    assert not caught.value.uncertain
    return str(caught.value)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Certificate and key."""
    return certificate(tmp_path_factory.mktemp("tls"), "submission")


@asynccontextmanager
async def scripted(
    script: Callable[[str], str], tls: ssl.SSLContext | None = None, *, implicit: bool = False, host: str = HOST
) -> AsyncIterator[int]:
    """A server that answers commands as a script says, mostly with 250; `tls` at once or by STARTTLS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (hello := script("") or "220 hello") == "close":
            return
        writer.write(hello.encode() + b"\r\n")
        usual = {"DATA": "354 go on", "QUIT": "221 bye", "STARTTLS": "220 go on"}
        while line := (await reader.readline()).decode("latin-1").strip():
            answer = script(line) or usual.get(line.upper(), "250 ok")
            if answer == "close":
                return
            writer.write(answer.encode() + b"\r\n")
            if line.upper() == "STARTTLS" and tls:
                await writer.drain()
                await writer.start_tls(tls)
            if answer.startswith("354"):
                await reader.readuntil(b"\r\n.\r\n")
                answer = script(".") or "250 taken"
                if answer == "close":
                    return
                writer.write(answer.encode() + b"\r\n")

    async with listening(serve, tls if implicit else None, host) as port:
        yield port


@pytest.mark.parametrize("security", ["tls", "starttls"])
class TestTls:
    @pytest.fixture(params=[HOST])
    async def port(self, request: pytest.FixtureRequest, security: str, files: tuple[str, str]) -> AsyncIterator[int]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*files)
        script = {"ehlo": "250-here\r\n250-STARTTLS\r\n250 AUTH PLAIN", "auth": "235 welcome"}

        def say(line: str) -> str:
            return script.get(line[:4].lower(), "")

        async with scripted(say, context, implicit=security == "tls", host=request.param) as port:
            yield port

    @pytest.mark.parametrize("host", ["localhost", HOST])
    async def test_a_trusted_certificate_is_accepted(
        self, port: int, security: str, files: tuple[str, str], host: str
    ) -> None:
        trusting = submission(port, security=security, ca_file=files[0], host=host, user=AGENT)
        assert await trusting.send(MAIL) == "250 taken"

    async def test_another_authority_is_refused_in_plain_words(self, port: int, security: str, tmp_path: Path) -> None:
        other, _ = certificate(tmp_path, "other")
        reason = await refusal(submission(port, security=security, ca_file=other))
        assert reason == "127.0.0.1: the certificate cannot be trusted: self-signed certificate"

    @pytest.mark.parametrize("port", [OLD_HOST], indirect=True)
    async def test_a_certificate_for_another_name_is_refused(
        self, port: int, security: str, files: tuple[str, str]
    ) -> None:
        reason = await refusal(submission(port, security=security, ca_file=files[0], host=OLD_HOST))
        assert "mismatch" in reason

    async def test_a_server_without_tls_gets_neither_password_nor_mail(self, port: int, security: str) -> None:
        heard: list[str] = []

        def script(line: str) -> str:
            heard.append(line)
            return ""

        async with scripted(script) as plain:
            await refusal(submission(plain, security=security, user=AGENT, timeout_seconds=0.5))
        assert not [line for line in heard if line.upper().startswith(("AUTH", "MAIL"))]


def test_a_missing_file_of_authorities_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.pem cannot be used"):
        submission(1, security="tls", ca_file=str(tmp_path / "no.pem"))


@pytest.mark.parametrize("password", ["not-the-password", "not-the-p\xe4ssword"])
async def test_a_refused_login_is_no_fault_of_the_mail(password: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with MailServer({AGENT: PASSWORD}) as server:
        reason = await refusal(submission(server.smtp_port, password, user=AGENT))
    assert "535" in reason or "ASCII" in reason
    assert "not-the" not in reason + caplog.text
    assert "\xe4" not in reason


async def test_no_login_without_a_user_and_an_unknown_recipient_is_refused_for_good() -> None:
    async with MailServer({CUSTOMER: PASSWORD}) as server:
        await submission(server.smtp_port).send(MAIL)
        assert len(server.messages(CUSTOMER)) == 1
        with pytest.raises(PermanentError, match=r"550 5\.1\.1 there is no such mailbox"):
            await submission(server.smtp_port).send(Outgoing("<1@x>", AGENT, "nobody@mail.test", MAIL.data))


@pytest.mark.parametrize(
    ("at", "answer", "error"),
    [
        ("", "554 go away", "554 go away"),
        ("", "close", "closed"),
        ("", "what", "-1"),
        ("ehlo", "close", "closed"),
        ("mail", "421 closing", "421 closing"),
        ("rcpt", "450 later", "450 later"),
        ("rcpt", "close", "closed"),
        ("data", "451 not now", "451 not now"),
        (".", "421 closing", "421 closing"),
        (".", "452 full", "452 full"),
    ],
)
async def test_it_may_work_later(at: str, answer: str, error: str) -> None:
    async with scripted(lambda line: answer if line[:4].lower() == at else "") as port:
        assert error in await refusal(submission(port))


@pytest.mark.parametrize(("at", "answer"), [("rcpt", "553 no"), ("data", "554 no"), (".", "552-too\r\n552 large")])
async def test_it_will_never_work(at: str, answer: str) -> None:
    async with scripted(lambda line: answer if line[:4].lower() == at else "") as port:
        with pytest.raises(PermanentError, match=answer[:3]):
            await submission(port).send(MAIL)


@pytest.mark.parametrize("answer", ["close", "what", "354 go on", "250" + "x" * 10_000])
async def test_it_is_uncertain(answer: str) -> None:
    async with scripted(lambda line: answer if line == "." else "") as port:
        with pytest.raises(TemporaryError, match=r"^127\.0\.0\.1: ") as caught:
            await submission(port).send(MAIL)
    assert caught.value.uncertain


async def test_no_answer_in_time_is_uncertain() -> None:
    async with listening(deaf_after_data) as port:
        with pytest.raises(TemporaryError) as caught:
            await submission(port, timeout_seconds=0.3).send(MAIL)
    assert caught.value.uncertain


async def test_a_stop_does_not_wait_for_a_server_that_says_no_more() -> None:
    has_all, is_alone = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        while line := await reader.readline():
            writer.write(b"354 go on\r\n" if line.upper().startswith(b"DATA") else b"250 ok\r\n")
            if line.upper().startswith(b"DATA"):
                await reader.readuntil(b"\r\n.\r\n")
                has_all.set()
                await reader.read(-1)
                is_alone.set()

    async with asyncio.timeout(DEADLINE), listening(silent) as port:
        sending = asyncio.create_task(submission(port, timeout_seconds=60).send(MAIL))
        await has_all.wait()
        sending.cancel()
        await is_alone.wait()
        with pytest.raises(TemporaryError) as caught:
            await sending
    assert caught.value.uncertain


async def deaf_after_data(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello\r\n")
    while line := await reader.readline():
        if line.upper().startswith(b"DATA"):
            writer.write(b"354 go on\r\n")
            await reader.read(-1)
        writer.write(b"250 ok\r\n")


@pytest.mark.parametrize("answer", ["close", "500 what", "what"])
async def test_what_is_said_to_quit_never_matters(answer: str) -> None:
    async with scripted(lambda line: answer if line.upper() == "QUIT" else "") as port:
        assert await submission(port).send(MAIL) == "250 taken"


async def test_one_recipient_and_one_mail_a_connection() -> None:
    heard: list[str] = []

    def script(line: str) -> str:
        heard.append(line.partition(" ")[0].lower())
        return ""

    async with scripted(script) as port:
        await asyncio.gather(*(submission(port).send(MAIL) for _ in range(3)))
    assert sorted(heard) == sorted(["", "ehlo", "mail", "rcpt", "data", ".", "quit"] * 3)
