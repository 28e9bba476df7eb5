"""ports.Submission: each promise held by the fake and by the adapter on the demo's server; Sent also in Dovecot."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailagent.adapters.smtp import SmtpSubmission
from mailagent.config import Smtp
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import Outgoing
from mailagent.demo.mailserver import MailServer
from mailagent.demo.mailstore import Faults
from mailagent.ports import Submission
from tests.fakes.mail import FakeSubmission
from tests.integration.dovecot import HOST, PASSWORD, Dovecot, dovecot  # noqa: F401
from tests.mail_peers import as_other_client, contents, imap_settings

AGENT = "agent@mail.test"
CUSTOMER = "customer@mail.test"
ID = "<ma.token.hash@mail.test>"
DATA = b"From: agent@mail.test\r\nMessage-ID: %s\r\nSubject: Re: x\r\n\r\n.dot\r\nend\r\n" % ID.encode()
MAIL = Outgoing(ID, AGENT, CUSTOMER, DATA)


class Peer(Protocol):
    """A server under test, and what has come of the mails handed to it."""

    @property
    def submission(self) -> Submission: ...

    @property
    def faults(self) -> Faults: ...

    async def delivered(self) -> list[bytes]: ...

    async def filed(self) -> list[bytes]: ...

    async def go_away(self) -> None: ...


class FakePeer:
    """The fake."""

    def __init__(self) -> None:
        self.submission = FakeSubmission()
        self.faults = self.submission.faults

    async def delivered(self) -> list[bytes]:
        return [mail.data for mail in self.submission.sent]

    async def filed(self) -> list[bytes]:
        return [mail.data for mail in self.submission.filed]

    async def go_away(self) -> None:
        self.submission.away = True


class ServerPeer:
    """The adapter on the demo's server, with its own Sent folder or that of Dovecot."""

    def __init__(self, server: MailServer, sent: Dovecot | None) -> None:
        self._server = server
        self._imap = imap_settings(server.imap_port if sent is None else sent.imap_port)
        if sent is not None:
            self._imap = self._imap.model_copy(update={"user": sent.user()})
        self.faults = server.faults
        self.submission = self.by("auto")

    def by(self, sent_copy: str) -> SmtpSubmission:
        """The adapter with this way of keeping copies."""
        smtp = smtp_settings(self._server.smtp_port, sent_copy=sent_copy)
        return SmtpSubmission(smtp, self._imap, PASSWORD, PASSWORD)

    async def delivered(self) -> list[bytes]:
        """Without what the server put on top."""
        return [data[data.index(b"From: ") :] for data in self._server.messages(CUSTOMER)]

    async def filed(self) -> list[bytes]:
        return await self.folder("Sent")

    async def folder(self, name: str) -> list[bytes]:
        """Its messages; none when it is not there."""
        return await as_other_client(self._imap, lambda client: contents(client, name))

    async def append(self, name: str, data: bytes) -> None:
        """File a message, as another client does."""
        await as_other_client(self._imap, lambda client: client.append(name, None, None, data))

    async def drop(self, name: str) -> None:
        """Delete a folder."""
        await as_other_client(self._imap, lambda client: client.delete(name))

    async def go_away(self) -> None:
        await self._server.stop()


def smtp_settings(port: int, **more: object) -> Smtp:
    """Plain text on loopback unless told otherwise."""
    return Smtp.model_validate({"host": HOST, "port": port, "security": "none", "user": AGENT} | more)


@asynccontextmanager
async def on_server(sent: Dovecot | None, *, keeps_sent: bool = False) -> AsyncIterator[ServerPeer]:
    async with MailServer({AGENT: PASSWORD, CUSTOMER: PASSWORD}, keeps_sent=keeps_sent) as server:
        yield ServerPeer(server, sent)


@pytest.fixture(params=["fake", "mailserver", "dovecot"])
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    if request.param == "fake":
        yield FakePeer()
        return
    async with on_server(request.getfixturevalue("dovecot") if request.param == "dovecot" else None) as peer:
        yield peer


@pytest.fixture(params=["mailserver", "dovecot"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ServerPeer]:
    async with on_server(request.getfixturevalue("dovecot") if request.param == "dovecot" else None) as peer:
        yield peer


async def test_a_sent_mail_arrives_byte_for_byte_and_the_servers_answer_is_told(peer: Peer) -> None:
    assert await peer.submission.send(MAIL) == "250 2.0.0 OK, stored"
    assert await peer.delivered() == [DATA]


async def test_a_mail_sent_again_is_the_same_mail(peer: Peer) -> None:
    await peer.submission.send(MAIL)
    await peer.submission.send(MAIL)
    assert await peer.delivered() == [DATA, DATA]


@pytest.mark.parametrize(
    ("reply", "error"), [("451 4.3.0 later", TemporaryError), ("550 5.7.1 we do not want that", PermanentError)]
)
async def test_what_the_server_says_to_a_mail(peer: Peer, reply: str, error: type[Exception]) -> None:
    peer.faults.data_reply = reply
    with pytest.raises(error, match=reply) as caught:
        await peer.submission.send(MAIL)
    assert not getattr(caught.value, "uncertain", False)
    assert await peer.delivered() == []
    peer.faults.data_reply = ""
    await peer.submission.send(MAIL)
    assert await peer.delivered() == [DATA]


@pytest.mark.parametrize(("drop", "arrived"), [("before", []), ("after", [DATA])])
async def test_a_connection_lost_after_data_is_uncertain(peer: Peer, drop: str, arrived: list[bytes]) -> None:
    peer.faults.drop = drop  # type: ignore[assignment]
    with pytest.raises(TemporaryError) as caught:
        await peer.submission.send(MAIL)
    assert caught.value.uncertain
    assert await peer.delivered() == arrived


async def test_a_server_that_is_away(peer: Peer) -> None:
    await peer.go_away()
    with pytest.raises(TemporaryError) as caught:
        await peer.submission.send(MAIL)
    assert not caught.value.uncertain


@pytest.mark.parametrize("address", ["a@b.test\r\nRCPT TO:<x@mail.test>", "a@b.test\nDATA"])
async def test_an_address_with_a_line_break_never_gets_to_the_server(peer: Peer, address: str) -> None:
    for mail in (Outgoing(ID, AGENT, address, DATA), Outgoing(ID, address, CUSTOMER, DATA)):
        with pytest.raises(PermanentError):
            await peer.submission.send(mail)
    assert await peer.delivered() == []


async def test_a_copy_is_filed_once(peer: Peer) -> None:
    await peer.submission.file_sent(MAIL)
    await peer.submission.file_sent(MAIL)
    assert await peer.filed() == [DATA]


async def test_copies_of_other_mails_do_not_matter(peer: Peer) -> None:
    other = Outgoing("<other@mail.test>", AGENT, CUSTOMER, DATA.replace(ID.encode(), b"<other@mail.test>"))
    await peer.submission.file_sent(other)
    await peer.submission.file_sent(MAIL)
    assert await peer.filed() == [other.data, DATA]


async def test_a_copy_in_sent_is_found_by_its_message_id_alone(peer: Peer) -> None:
    assert not await peer.submission.was_sent(MAIL)
    other = Outgoing("<other@mail.test>", AGENT, CUSTOMER, DATA.replace(ID.encode(), b"<other@mail.test>"))
    await peer.submission.file_sent(other)
    assert not await peer.submission.was_sent(MAIL)
    await peer.submission.file_sent(MAIL)
    assert await peer.submission.was_sent(MAIL)


async def test_a_copy_that_another_client_filed_counts_too(server: ServerPeer) -> None:
    await server.append("Sent", DATA)
    assert await server.submission.was_sent(MAIL)


@pytest.fixture(params=["fake", "mailserver"])
async def keeping(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    """A server that puts copies into Sent itself."""
    if request.param == "fake":
        fake = FakePeer()
        fake.submission.keeps_sent = True
        yield fake
        return
    async with on_server(None, keeps_sent=True) as peer:
        yield peer


@pytest.mark.parametrize(("drop", "taken"), [("before", False), ("after", True)])
async def test_the_copy_of_a_server_that_keeps_them_tells_what_became_of_the_uncertain(
    keeping: Peer, drop: str, taken: bool
) -> None:
    keeping.faults.drop = drop  # type: ignore[assignment]
    with pytest.raises(TemporaryError):
        await keeping.submission.send(MAIL)
    assert await keeping.submission.was_sent(MAIL) is taken


async def test_a_server_that_keeps_copies_gets_no_second_one(keeping: Peer) -> None:
    await keeping.submission.send(MAIL)
    await keeping.submission.file_sent(MAIL)
    assert await keeping.filed() == [DATA]


@pytest.mark.parametrize(("sent_copy", "copies"), [("always", 2), ("never", 0)])
async def test_copies_as_configured(server: ServerPeer, sent_copy: str, copies: int) -> None:
    for _ in range(2):
        await server.by(sent_copy).file_sent(MAIL)
    assert len(await server.filed()) == copies


ATTACKS = [
    'x"\r\nZZ1 CREATE pwned\r\nZZ2 NOOP "',
    "<x>\r\nZZ1 CREATE pwned",
    '<"> OR ALL HEADER X "@y>',
    "<a\\@b>",
    "<" + "a" * 300 + ">",
    "<\xe4@b>",
    "",
]


@pytest.mark.parametrize("message_id", ATTACKS)
async def test_a_message_id_cannot_carry_a_command(server: ServerPeer, message_id: str) -> None:
    await server.submission.file_sent(Outgoing(message_id, AGENT, CUSTOMER, DATA))
    assert await server.filed() == [DATA]
    assert not await server.submission.was_sent(Outgoing(message_id, AGENT, CUSTOMER, DATA))
    assert await server.folder("pwned") == []


async def test_an_account_without_a_sent_folder() -> None:
    async with on_server(None) as server:
        await server.drop("Sent")
        with pytest.raises(TemporaryError, match="no Sent folder"):
            await server.submission.file_sent(MAIL)
        assert not await server.submission.was_sent(MAIL)


async def test_the_sent_folder_is_out_of_reach(server: ServerPeer) -> None:
    server.submission._imap = imap_settings(1)
    for errand in (server.submission.file_sent(MAIL), server.submission.was_sent(MAIL)):
        with pytest.raises(TemporaryError):
            await errand


LINES = st.lists(st.one_of(st.just(b"."), st.binary(max_size=30)).map(lambda line: line.translate(None, b"\r\n")))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(LINES, min_size=1, max_size=4), ends=st.booleans())
async def test_every_body_arrives_as_it_was_frozen(bodies: Sequence[list[bytes]], ends: bool) -> None:
    mails = [b"From: agent@mail.test\r\n\r\n" + b"\r\n".join(lines) for lines in bodies]
    async with on_server(None) as peer:
        for data in mails:
            await peer.submission.send(Outgoing(ID, AGENT, CUSTOMER, data + b"\r\n" * ends))
        whole = [data if data.endswith(b"\r\n") else data + b"\r\n" for data in (m + b"\r\n" * ends for m in mails)]
        assert await peer.delivered() == whole
