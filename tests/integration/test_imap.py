"""The IMAP adapter where servers misbehave: TLS, lost connections, IDLE that lies, answers that make no sense."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailagent.adapters.imap import ImapInbox
from mailagent.config import Imap
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.demo.mailserver import MailServer
from tests.integration.dovecot import HOST, OLD_HOST, PASSWORD, Dovecot, certificate, dovecot  # noqa: F401
from tests.listening import listening
from tests.mail_peers import DEADLINE, FOREVER, ServerPeer, follow, imap_settings, mail_settings

ADDRESS = "agent@mail.test"


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer({ADDRESS: PASSWORD}) as server:
        yield server


@pytest.fixture
async def peer(server: MailServer) -> AsyncIterator[ServerPeer]:
    peer = ServerPeer(imap_settings(server.imap_port), mail_settings(moves=False))
    await peer.create()
    yield peer
    await peer.inbox.close()


def inbox(imap: Imap, password: str = PASSWORD, folder: str = "INBOX") -> ImapInbox:
    return ImapInbox(imap, mail_settings(moves=False).model_copy(update={"folder": folder}), password)


async def refusal(inbox: ImapInbox) -> str:
    """Why it does not open."""
    with pytest.raises(TemporaryError) as caught:
        await inbox.open()
    with pytest.raises(TemporaryError):
        await inbox.uids_after(0)
    await inbox.close()
    return str(caught.value)


@pytest.mark.parametrize("security", ["tls", "starttls"])
class TestTls:
    @pytest.fixture
    def imap(self, dovecot: Dovecot, security: str) -> Imap:  # noqa: F811
        port = dovecot.imaps_port if security == "tls" else dovecot.imap_port
        return imap_settings(port, security=security, user=dovecot.user(), ca_file=dovecot.ca_file)

    @pytest.mark.parametrize("host", ["localhost", HOST])
    async def test_a_trusted_certificate_is_accepted_and_idle_works(
        self,
        imap: Imap,
        host: str,
        dovecot: Dovecot,  # noqa: F811
    ) -> None:
        peer = ServerPeer(imap.model_copy(update={"host": host}), mail_settings(moves=False), dovecot.imap_port)
        await peer.create()
        await peer.inbox.open()
        uid = 0
        async with asyncio.timeout(DEADLINE):
            for _ in range(3):
                waiting = asyncio.ensure_future(follow(peer.inbox, uid))
                uid = await peer.deliver(b"Subject: x\r\n\r\n" + b"y" * 50_000)
                assert await waiting == uid
        [raw] = await peer.inbox.fetch([uid], now=0)
        assert len(raw.data) == 50_014
        await peer.inbox.close()

    async def test_another_authority_is_refused_in_plain_words(self, imap: Imap, tmp_path: Path) -> None:
        other, _ = certificate(tmp_path, "other")
        reason = await refusal(inbox(imap.model_copy(update={"ca_file": other})))
        assert reason == "127.0.0.1: the certificate cannot be trusted: self-signed certificate"

    async def test_the_systems_authorities_do_not_know_it(self, imap: Imap) -> None:
        assert "cannot be trusted" in await refusal(inbox(imap.model_copy(update={"ca_file": ""})))

    async def test_a_certificate_for_another_name_is_refused(self, imap: Imap) -> None:
        reason = await refusal(inbox(imap.model_copy(update={"host": OLD_HOST})))
        assert "cannot be trusted" in reason
        assert "mismatch" in reason

    async def test_a_server_without_tls_does_not_get_the_password(
        self, server: MailServer, security: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "imapclient")
        reason = await refusal(inbox(imap_settings(server.imap_port, security=security, timeout_seconds=5)))
        assert "TLS" in reason
        assert "LOGIN" not in caplog.text


def test_a_missing_file_of_authorities_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.pem cannot be used: No such file"):
        inbox(imap_settings(1, security="tls", ca_file=str(tmp_path / "no.pem")))


@pytest.mark.parametrize("password", ["not-the-password", "not-the-p\xe4ssword"])
async def test_a_refused_login_says_so_and_nobody_learns_the_password(
    server: MailServer, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reason = await refusal(inbox(imap_settings(server.imap_port), password))
    assert "wrong name or password" in reason or "ASCII" in reason
    assert "not-the" not in reason + caplog.text
    assert "\xe4" not in reason + caplog.text


async def test_a_login_leaves_no_password_in_the_log(peer: ServerPeer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await peer.inbox.open()
    assert "LOGIN" in caplog.text
    assert PASSWORD not in caplog.text


async def test_a_folder_that_is_not_there(server: MailServer) -> None:
    assert "no such mailbox" in await refusal(inbox(imap_settings(server.imap_port), folder="Nowhere"))


async def test_a_server_that_is_not_there(server: MailServer) -> None:
    await server.stop()
    assert "refused" in await refusal(inbox(imap_settings(server.imap_port)))


async def test_the_end_of_the_connection_while_listening_is_noticed_and_open_connects_again(
    server: MailServer, peer: ServerPeer
) -> None:
    await peer.inbox.open()
    await peer.inbox.changed(0.01)
    listening = asyncio.ensure_future(peer.inbox.changed(FOREVER))
    await peer.inbox.uids_after(0)
    await server.stop()
    async with asyncio.timeout(DEADLINE):
        await listening
    for attempt in (peer.inbox.uids_after(0), peer.inbox.fetch([1], now=0), peer.inbox.file([1], "processed")):
        with pytest.raises(TemporaryError):
            await attempt
    with pytest.raises(TemporaryError):
        await peer.inbox.open()
    await server.start()
    await peer.inbox.open()
    async with asyncio.timeout(DEADLINE):
        waiting = asyncio.ensure_future(follow(peer.inbox, 0))
        assert await peer.deliver(b"\r\nx\r\n") == await waiting


async def test_a_server_that_says_bye_in_idle_is_still_followed(server: MailServer, peer: ServerPeer) -> None:
    await peer.inbox.open()
    server.faults.bye_in_idle = True
    async with asyncio.timeout(DEADLINE):
        await peer.inbox.changed(FOREVER)
        await peer.inbox.changed(FOREVER)
        waiting = asyncio.ensure_future(follow(peer.inbox, 0))
        uid = await peer.deliver(b"\r\n1\r\n")
        assert await waiting == uid
        server.faults.bye_in_idle = False
        waiting = asyncio.ensure_future(follow(peer.inbox, uid))
        assert await peer.deliver(b"\r\n2\r\n") == await waiting


async def test_two_connections_are_enough_however_much_news_there_is(
    peer: ServerPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "imapclient")
    await peer.inbox.open()
    uid = 0
    async with asyncio.timeout(DEADLINE):
        for _ in range(3):
            waiting = asyncio.ensure_future(follow(peer.inbox, uid))
            uid = await peer.deliver(b"\r\nx\r\n")
            assert await waiting == uid
    assert caplog.text.count("LOGIN") == 2


async def test_a_new_uidvalidity_ends_listening(server: MailServer, peer: ServerPeer) -> None:
    before = await peer.inbox.open()
    await peer.inbox.changed(0.01)
    listening = asyncio.ensure_future(peer.inbox.changed(FOREVER))
    await peer.inbox.uids_after(0)
    server.renumber(ADDRESS, before.folder)
    async with asyncio.timeout(DEADLINE):
        await listening
    with pytest.raises(TemporaryError):
        await peer.inbox.uids_after(0)
    assert (await peer.inbox.open()).uidvalidity != before.uidvalidity


@pytest.mark.parametrize("news", ["* 2 EXISTS\r\n", "* 2 EXI"], ids=["whole", "split"])
async def test_news_that_come_in_one_packet_with_the_answer_to_idle_are_heard(news: str) -> None:
    def script(command: str) -> str:
        return {"IDLE": f"+ idling\r\n{news}", "CAPABILITY": "* CAPABILITY IMAP4rev1 IDLE\r\n%s OK done\r\n"}.get(
            command, ""
        )

    async with scripted(script) as (imap, _):
        box = inbox(imap)
        await box.open()
        async with asyncio.timeout(DEADLINE):
            await box.changed(FOREVER)
            await box.changed(FOREVER)
        await box.close()


async def test_moving_without_move_leaves_what_others_deleted(dovecot: Dovecot) -> None:  # noqa: F811
    imap = imap_settings(dovecot.imap_port, user=dovecot.user(), host=OLD_HOST)
    peer = ServerPeer(imap, mail_settings(moves=True))
    await peer.create()
    await peer.inbox.open()
    deleted, uid = [await peer.deliver(b"\r\n%d\r\n" % n) for n in range(2)]
    await peer.flag(deleted, r"\Deleted")
    assert await peer.inbox.uids_after(0) == [deleted, uid]
    await peer.inbox.file([uid], "held")
    assert await peer.filed("Held") == [b"\r\n1\r\n"]
    assert await peer.inbox.uids_after(0) == [deleted]
    await peer.inbox.close()


async def test_nothing_that_could_carry_news_away_is_asked_between_the_last_look_and_idle() -> None:
    script = {"IDLE": "+ idling\r\n* 2 EXISTS\r\n", "CAPABILITY": "* CAPABILITY IMAP4rev1 IDLE\r\n%s OK done\r\n"}
    async with scripted(script.get) as (imap, heard):
        box = inbox(imap)
        await box.open()
        await box.changed(FOREVER)
        await box.changed(FOREVER)
        await box.close()
    commands = [line.split()[1] for line in heard if line != "DONE"]
    assert commands[commands.index("EXAMINE") + 1] == "IDLE"


async def test_without_idle_the_mailbox_is_polled(dovecot: Dovecot) -> None:  # noqa: F811
    imap = imap_settings(dovecot.imap_port, user=dovecot.user(), host=OLD_HOST)
    peer = ServerPeer(imap, mail_settings(moves=False))
    await peer.create()
    await peer.inbox.open()
    async with asyncio.timeout(DEADLINE):
        uid = 0
        for _ in range(4):
            waiting = asyncio.ensure_future(follow(peer.inbox, uid, poll=0.05))
            uid = await peer.deliver(b"\r\nx\r\n")
            assert await waiting == uid
    await peer.inbox.close()


Script = Callable[[str], str | None]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[Imap, list[str]]]:
    """A server that answers commands as a script says, %s being the tag; it logs in anybody and selects anything."""
    heard: list[str] = []
    usual = {
        "CAPABILITY": "* CAPABILITY IMAP4rev1\r\n",
        "SELECT": "* 1 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] ok\r\n* OK [PERMANENTFLAGS (\\Seen)] ok\r\n",
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK hello\r\n")
        tag = ""
        while line := (await reader.readline()).decode().strip():
            heard.append(line)
            if line == "DONE":
                writer.write(f"{tag} OK done\r\n".encode())
                continue
            tag, command = line.split(" ", 1)
            answer = script(command) or usual.get(command.split()[0], "") + "%s OK done\r\n"
            if answer == "close":
                break
            writer.write(answer.replace("%s", tag).encode("latin-1"))

    async with listening(serve) as port:
        yield imap_settings(port, timeout_seconds=0.5), heard


ODD_SEARCHES = [
    "* SEARCH one two\r\n%s OK done\r\n",
    "%s NO [SERVERBUG] internal error\r\n",
    "%s BAD what\r\n",
    "* BYE good night\r\n",
    "close",
    "what a nice day\r\n",
    "\xff\xfe\x00\r\n",
    "* SEARCH " + "1" * 2_000_000 + "\r\n%s OK done\r\n",
    "* SEARCH 1\r\n",
    "+ go on\r\n",
    "not-the-tag OK done\r\n",
]


@pytest.mark.parametrize("answer", ODD_SEARCHES, ids=range(len(ODD_SEARCHES)))
async def test_an_odd_answer_is_a_temporary_error_and_the_end_of_the_connection(answer: str) -> None:
    async with scripted(lambda command: answer if command.startswith("UID SEARCH") else "") as (imap, _):
        box = inbox(imap)
        await box.open()
        with pytest.raises(TemporaryError):
            await box.uids_after(0)
        with pytest.raises(TemporaryError, match="lost"):
            await box.uids_after(0)
        await box.open()
        await box.close()


ODD_FETCHES = [
    "* 1 FETCH (UID 1 FLAGS ())\r\n%s OK done\r\n",
    "* 1 FETCH (UID 1 RFC822.SIZE 10 BODY[] NIL)\r\n%s OK done\r\n",
    "* 1 FETCH (UID 1 RFC822.SIZE 10 BODY[] {100}\r\nshort\r\n)\r\n%s OK done\r\n",
    "* 1 FETCH (UID one)\r\n%s OK done\r\n",
    "* 1 FETCH (UID 1 RFC822.SIZE\r\n%s OK done\r\n",
    "* 1 FETCH UID\r\n%s OK done\r\n",
    "* 1 FETCH (UID 1 RFC822.SIZE ten)\r\n%s OK done\r\n",
    '* 1 FETCH (UID 1 RFC822.SIZE 10 BODY[] "unclosed)\r\n%s OK done\r\n',
    "%s NO [UNAVAILABLE] try again\r\n",
    "close",
]


@pytest.mark.parametrize("answer", ODD_FETCHES, ids=range(len(ODD_FETCHES)))
async def test_an_odd_message_is_a_temporary_error(answer: str) -> None:
    there = "* SEARCH 1\r\n%s OK done\r\n"

    def said(command: str) -> str:
        return answer if command.startswith("UID FETCH") else there if command.startswith("UID SEARCH") else ""

    async with scripted(said) as (imap, _):
        box = inbox(imap)
        await box.open()
        with pytest.raises(TemporaryError):
            await box.fetch([1], now=0)
        with pytest.raises(TemporaryError, match="lost"):
            await box.heads([1])
        await box.open()
        with pytest.raises(TemporaryError):
            await box.heads([1])
        await box.close()


async def test_what_others_do_meanwhile_is_not_taken_for_the_message() -> None:
    answers = {
        "UID FETCH 5 (BODY.PEEK[])": "* 2 FETCH (UID 6 BODY[] {1}\r\nn)\r\n* 2 FETCH (FLAGS (\\Seen))\r\n"
        "* 1 FETCH (UID 5 BODY[] {3}\r\nyes)\r\n"
        "%s OK done\r\n",
    }
    async with scripted(lambda command: answers.get(command, "")) as (imap, _):
        box = inbox(imap)
        await box.open()
        assert [raw.data for raw in await box.fetch([5], now=0)] == [b"yes"]
        await box.close()


async def test_keywords_are_not_stored_where_they_do_not_last() -> None:
    async with scripted(lambda command: "") as (imap, heard):
        box = inbox(imap)
        await box.open()
        await box.file([1], "processed")
        await box.close()
        assert not [line for line in heard if "STORE" in line]


async def test_a_server_that_hangs_up_at_once_is_not_called_without_end() -> None:
    calls = 0

    async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1

    async with listening(hang_up) as port:
        box = inbox(imap_settings(port))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    await box.changed(FOREVER)
        assert 1 <= calls <= 2
        await box.close()


@pytest.mark.parametrize("act", [ImapInbox.open, lambda box: box.changed(FOREVER)], ids=["open", "changed"])
async def test_a_server_that_is_silent_does_not_hold_up_who_gives_up(
    act: Callable[[ImapInbox], Awaitable[object]],
) -> None:
    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silence) as port:
        box = inbox(imap_settings(port, timeout_seconds=0.5))
        giving_up = asyncio.ensure_future(act(box))
        async with asyncio.timeout(DEADLINE):
            await asyncio.wait({giving_up}, timeout=0.05)
            giving_up.cancel()
            await asyncio.wait({giving_up})
            await box.close()
