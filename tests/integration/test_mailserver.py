"""The demo's mail server, met by the standard library's clients; where it can be asked, Dovecot says what is right."""

import asyncio
import email
import email.policy
import imaplib
import re
import smtplib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imapclient import IMAPClient

from mailagent.demo.mailserver import MailServer
from mailagent.demo.smtpserver import stamp
from tests.integration.dovecot import HOST, PASSWORD, Dovecot, dovecot  # noqa: F401
from tests.mail_peers import DEADLINE

T = TypeVar("T")
AGENT, CUSTOMER = "agent@mail.test", "customer@example.test"
AUTHSERV = "mx.mail.test"


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer({AGENT: PASSWORD, "Customer@Example.test": PASSWORD}, authserv_id=AUTHSERV) as server:
        yield server


@contextmanager
def imap(port: int, user: str = AGENT, folder: str = "INBOX") -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4(HOST, port, timeout=DEADLINE) as client:
        client.login(user, PASSWORD)
        if folder:
            client.select(folder)
        yield client


def send(server: MailServer, data: bytes, *, to: str = AGENT, user: str = CUSTOMER, sender: str = CUSTOMER) -> None:
    with smtplib.SMTP(HOST, server.smtp_port, timeout=DEADLINE) as client:
        if user:
            client.login(user, PASSWORD)
        client.sendmail(sender, [to], data)


async def delivered(server: MailServer, data: bytes, **how: str) -> email.message.EmailMessage:
    """The mail as it lies in the agent's mailbox."""
    await asyncio.to_thread(lambda: send(server, data, **how))
    message = email.message_from_bytes(server.messages(AGENT)[-1], policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage)
    return message


def verdicts(message: email.message.EmailMessage) -> list[str]:
    return [str(value) for value in message.get_all("Authentication-Results", [])]


PASS = f"{AUTHSERV}; dmarc=pass header.from=example.test"
FAIL = f"{AUTHSERV}; dmarc=fail header.from=example.test"


async def test_a_mail_is_stamped_as_by_a_receiving_server(server: MailServer) -> None:
    message = await delivered(server, b"From: Customer <customer@example.test>\r\nTo: x\r\n\r\n.body\r\n")
    assert message.keys() == ["Return-Path", "Authentication-Results", "Received", "From", "To"]
    assert message["Return-Path"] == f"<{CUSTOMER}>"
    assert f"by {AUTHSERV} with ESMTPA for <{AGENT}>; " in message["Received"]
    assert verdicts(message) == [PASS]
    assert message.get_content() == ".body\r\n"


@pytest.mark.parametrize("to", ["agent+TOKEN@mail.test", "Agent@Mail.Test", "agent+a+b@mail.test"])
async def test_plus_addresses_and_capitals_reach_the_mailbox(server: MailServer, to: str) -> None:
    message = await delivered(server, b"From: customer@example.test\r\n\r\nx\r\n", to=to)
    assert f"for <{to}>" in message["Received"]


@pytest.mark.parametrize(
    "sender",
    [
        b"From: customer@example.test\r\n",
        b"FROM: CUSTOMER@Example.test\r\n",
        b"From:\r\n Customer <customer@example.test>\r\n",
        b'From: "The Customer" <customer@example.test>\r\n',
    ],
)
async def test_who_logged_in_may_be_who_he_is(server: MailServer, sender: bytes) -> None:
    assert verdicts(await delivered(server, sender + b"\r\nx\r\n"))[0].startswith(f"{AUTHSERV}; dmarc=pass")


@pytest.mark.parametrize(
    "sender",
    [
        b"From: boss@example.test\r\n",
        b"From: boss@example.test, customer@example.test\r\n",
        b"From: customer@example.test <boss@example.test>\r\n",
        b"From: boss@example.test <customer@example.test>\r\n",
        b"From: boss@example.test\r\nFrom: customer@example.test\r\n",
        b"From: customer@example.test\r\nFrom: boss@example.test\r\n",
        b"From: customer@example.test.evil.test\r\n",
        b"From: boss(customer@example.test)@example.test\r\n",
        b"X-From: customer@example.test\r\n",
        b"",
    ],
)
async def test_nobody_may_be_anybody_else(server: MailServer, sender: bytes) -> None:
    assert verdicts(await delivered(server, sender + b"\r\nx\r\n"))[0].startswith(f"{AUTHSERV}; dmarc=fail")


async def test_a_name_without_a_password_proves_nothing(server: MailServer) -> None:
    message = await delivered(server, b"From: customer@example.test\r\n\r\nx\r\n", user="")
    assert verdicts(message) == [FAIL]
    assert verdicts(await delivered(server, b"\r\nx\r\n", user="")) == [f"{AUTHSERV}; dmarc=fail"]
    assert "with ESMTP for" in message["Received"]
    assert verdicts(await delivered(server, b"From: customer@example.test\r\n\r\nx\r\n", user=AGENT)) == [FAIL]


FORGED = [
    b"Authentication-Results: mx.mail.test; dmarc=pass\r\n",
    b"AUTHENTICATION-RESULTS: MX.Mail.Test; dmarc=pass\r\n",
    b"Authentication-Results:\r\n mx.mail.test;\r\n\tdmarc=pass\r\n",
    b"Authentication-Results: (a comment) mx.mail.test 1; dmarc=pass\r\n",
    b'Authentication-Results: "mx.mail.test"; dmarc=pass\r\n',
    b"Authentication-Results : mx.mail.test; dmarc=pass\r\n",
]


@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_verdict_in_our_name_is_taken_out_and_those_of_others_stay(
    server: MailServer, forged: bytes
) -> None:
    others = b"Authentication-Results: elsewhere.test; dkim=pass\r\n"
    data = forged + others + forged + b"From: boss@example.test\r\nReturn-Path: <boss@example.test>\r\n\r\n" + forged
    message = await delivered(server, data)
    assert verdicts(message) == [FAIL, "elsewhere.test; dkim=pass"]
    assert message.get_all("Return-Path") == [f"<{CUSTOMER}>"]
    assert message.get_payload(decode=True) == forged


@pytest.mark.parametrize("end", [b"\n", b"\r"])
async def test_lines_that_other_parsers_would_end_elsewhere_are_refused(server: MailServer, end: bytes) -> None:
    data = b"From: boss@example.test\r\nX: y" + end + FORGED[0] + b"\r\nx\r\n"

    def raw() -> tuple[int, bytes]:
        with smtplib.SMTP(HOST, server.smtp_port, timeout=DEADLINE) as client:
            client.ehlo()
            client.mail(CUSTOMER)
            client.rcpt(AGENT)
            return client.data(data)

    assert (await asyncio.to_thread(raw))[0] == 554
    assert server.messages(AGENT) == []


FIELD = st.tuples(
    st.sampled_from(["From", "Authentication-Results", "authentication-results", "Subject", "X-A"]),
    st.text('mx.ailtesb@ ;=<>,\t()"', max_size=20),
    st.sampled_from(["", AUTHSERV, CUSTOMER]),
).map(lambda parts: f"{parts[0]}: {parts[1]}{parts[2]}\r\n".encode())


@given(fields=st.lists(FIELD | st.sampled_from(FORGED), max_size=6), body=st.binary(max_size=40))
def test_whatever_a_mail_says_the_only_verdict_in_our_name_is_ours(fields: list[bytes], body: bytes) -> None:
    body = re.sub(rb"[\r\n]", b"", body) + b"\r\n"
    stamped = stamp(b"".join(fields) + b"\r\n" + body, (f"<{CUSTOMER}>", "by us; now"), "boss@example.test", AUTHSERV)
    message = email.message_from_bytes(stamped)
    ours = [value for value in message.get_all("Authentication-Results", []) if AUTHSERV in str(value).lower()]
    assert len(ours) == 1
    assert str(ours[0]).startswith(f"{AUTHSERV}; dmarc=fail")
    assert stamped.endswith(b"\r\n" + body)


async def test_strangers_and_wrong_passwords_are_refused(server: MailServer) -> None:
    def act() -> None:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="550"):
            send(server, b"\r\n", to="nobody@mail.test")
        with smtplib.SMTP(HOST, server.smtp_port, timeout=DEADLINE) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
                client.login(AGENT, "wrong")
            client.user, client.password = AGENT, PASSWORD
            assert client.auth("LOGIN", client.auth_login)[0] == 235
        with imaplib.IMAP4(HOST, server.imap_port, timeout=DEADLINE) as imap4:
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                imap4.login(AGENT, "wrong")
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                imap4.authenticate("PLAIN", lambda _: f"\0{CUSTOMER}\0wrong".encode())
            assert imap4.authenticate("PLAIN", lambda _: f"\0{CUSTOMER}\0{PASSWORD}".encode())[0] == "OK"

    await asyncio.to_thread(act)


async def test_mails_outlive_a_restart_on_the_same_ports(server: MailServer) -> None:
    await delivered(server, b"From: customer@example.test\r\n\r\nx\r\n")
    ports = (server.imap_port, server.smtp_port)
    await server.stop()
    await server.stop()
    await server.start()
    assert (server.imap_port, server.smtp_port) == ports
    assert await asyncio.to_thread(lambda: count(server)) == 1


def count(server: MailServer) -> int:
    with imap(server.imap_port) as client:
        return int((client.select()[1][0] or b"0").decode())


async def test_idle_tells_at_once_and_noop_tells_what_others_did(server: MailServer) -> None:
    def watch(send_now: Callable[[], None]) -> None:
        with IMAPClient(HOST, server.imap_port, ssl=False, timeout=DEADLINE) as client:
            client.login(AGENT, PASSWORD)
            client.select_folder("INBOX")
            for number in (1, 2):
                client.idle()
                send_now()
                assert (number, b"EXISTS") in client.idle_check(DEADLINE)
                client.idle_done()
            with imap(server.imap_port) as other:
                other.store("1", "+FLAGS", r"(\Deleted)")
                other.expunge()
            assert (1, b"EXPUNGE") in client.noop()[1]

    await asyncio.to_thread(watch, lambda: send(server, b"\r\nx\r\n"))


async def test_nonsense_is_answered_and_the_session_goes_on(server: MailServer) -> None:
    def talk() -> None:
        with imap(server.imap_port, folder="") as client:
            client.append("INBOX", None, None, b"\r\nx\r\n")
            client.select()
            for line in NONSENSE:
                client.send(b"x " + line + b"\r\n")
                assert client.readline().startswith((b"x BAD ", b"x NO ")), line
            client.send(b"\r\n(\r\n\xff\r\n")
            assert [client.readline()[:6] for _ in range(3)] == [b"* BAD "] * 3
            assert client.noop()[0] == "OK"

    await asyncio.to_thread(talk)


NONSENSE = [
    b"",
    b"WHAT",
    b"UID",
    b"UID WHAT",
    b"LOGIN one",
    b"FETCH 1",
    b"FETCH one FLAGS",
    b"FETCH 1 BODYSTRUCTURE",
    b"SEARCH WHAT",
    b"SEARCH",
    b"SEARCH SINCE yesterday",
    b"STORE 1 LABELS (x)",
    b"APPEND INBOX",
    b"APPEND Nowhere {1+}\r\nx",
    b"COPY 1 Nowhere",
    b"CREATE INBOX",
    b"DELETE INBOX",
    b"DELETE Nowhere",
    b"SELECT Nowhere",
    b"FETCH 1 FLAGS",  # nothing is selected now
    b"AUTHENTICATE GSSAPI",
    b'"',
    b")",
    b"__class__",
]


async def test_what_is_open_for_reading_only_is_not_changed(server: MailServer) -> None:
    await delivered(server, b"From: customer@example.test\r\n\r\nx\r\n")

    def talk() -> None:
        with imap(server.imap_port, folder="") as client:
            client.select("INBOX", readonly=True)
            client.fetch("1", "(BODY[])")
            for line in (b"STORE 1 +FLAGS (\\Deleted)", b"EXPUNGE", b"MOVE 1 Sent"):
                client.send(b"x " + line + b"\r\n")
                assert client.readline().startswith(b"x NO "), line
            assert client.search(None, "UNSEEN UNDELETED") == ("OK", [b"1"])

    await asyncio.to_thread(talk)


async def test_nothing_is_shown_before_the_login(server: MailServer) -> None:
    def talk() -> None:
        with imaplib.IMAP4(HOST, server.imap_port, timeout=DEADLINE) as client:
            for line in (b'LIST "" *', b"SELECT INBOX", b"STATUS INBOX (MESSAGES)", b"FETCH 1 FLAGS", b"NAMESPACE"):
                client.send(b"x " + line + b"\r\n")
                assert client.readline().startswith(b"x BAD "), line

    await asyncio.to_thread(talk)


CORPUS = [
    b"Subject: one\r\nMessage-ID: <1@a.test>\r\nFrom: a@a.test\r\n\r\nbody one\r\n",
    b"Subject: two\r\n folded\r\nMessage-ID: <2@a.test>\r\nTo: b@a.test\r\n\r\nbody two\r\n",
    b"Subject: three\r\n\r\n",
    b"Subject: four\r\nTo: B@A.test\r\nTo: second@a.test\r\n\r\n" + b"line\r\n" * 50,
]
FLAGS = [r"(\Seen)", r"(\Seen \Flagged $Done)", "()", r"(\Answered \Draft)"]
DATES = ['"01-Feb-2026 10:00:00 +0000"', '"02-Feb-2026 10:00:00 +0000"', '"03-Feb-2026 10:00:00 +0000"', None]

COMMANDS = [
    *(
        f"UID SEARCH {criteria}"
        for criteria in [
            "ALL",
            "2:3",
            "3:*",
            "*",
            "UID *",
            "UID 3:*",
            "UID 100:*",
            "UID 1,4",
            "UNSEEN",
            "SEEN",
            "NOT SEEN",
            "FLAGGED UNANSWERED",
            "OR DRAFT FLAGGED",
            "KEYWORD $Done",
            "UNKEYWORD $Done",
            "HEADER Message-ID <2@a.test>",
            'HEADER Subject "two folded"',
            'HEADER Message-ID ""',
            "HEADER To b@a",
            "TO second",
            "SUBJECT O",
            "FROM a@a.test SEEN",
            "SINCE 2-Feb-2026",
            "BEFORE 2-Feb-2026",
            "ON 2-Feb-2026",
            "NOT (SEEN SUBJECT one)",
            "CHARSET UTF-8 SUBJECT two",
        ]
    ),
    "SEARCH 2:* SEEN",
    "UID FETCH 1:* (FLAGS)",
    "UID FETCH 2 (UID RFC822.SIZE INTERNALDATE BODY.PEEK[])",
    "UID FETCH 2,4 (BODY.PEEK[HEADER])",
    "UID FETCH 2 BODY.PEEK[HEADER.FIELDS (SUBJECT)]",
    'UID FETCH 2 BODY.PEEK[HEADER.FIELDS ("to" "Nothing")]',
    "UID FETCH 2 BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT TO)]",
    "UID FETCH 4 BODY.PEEK[TEXT]",
    "UID FETCH 4 BODY.PEEK[]<10.20>",
    "UID FETCH 4 BODY.PEEK[]<0.100000>",
    "UID FETCH 4 BODY.PEEK[]<100000.5>",
    "UID FETCH 3 BODY.PEEK[TEXT]",
    "UID FETCH 99 (FLAGS)",
    "FETCH 3 (UID FLAGS)",
    "UID FETCH 3 BODY[]",
    "UID FETCH 3 (FLAGS)",
    "UID STORE 3 -FLAGS (\\Seen)",
    "UID STORE 3 +FLAGS.SILENT (\\Flagged)",
    "UID STORE 3 FLAGS (\\Deleted)",
    "UID STORE 99 +FLAGS (\\Seen)",
    "STORE 1 +FLAGS (\\Deleted)",
    "STATUS INBOX (MESSAGES UIDNEXT UNSEEN)",
    "UID EXPUNGE 1",
    "UID SEARCH ALL",
    "EXPUNGE",
    "UID SEARCH ALL",
    "UID COPY 2 Sent",
    "UID MOVE 4 Sent",
    "UID MOVE 4 Sent",
    "UID MOVE 2 Nowhere",
    "SEARCH ALL",
    "STATUS Sent (MESSAGES)",
    "CREATE Other",
    "CREATE Other",
    "SUBSCRIBE Other",
    'LIST "" Oth*',
    "EXAMINE Sent",
    "FETCH 1:* FLAGS",
    "CLOSE",
    "FETCH 1 FLAGS",
    "SELECT INBOX",
    "UNSELECT",
    "DELETE Other",
    "SELECT Other",
    "NAMESPACE",
    'LIST "" ""',
]


def converse(port: int, user: str) -> list[tuple[str, list[str]]]:
    """What a server answers to all these commands, the words it is free to choose left out."""
    with imap(port, user, "") as client:
        for data, flags, date in zip(CORPUS, FLAGS, DATES, strict=True):
            client.append("INBOX", flags, date, data)
        client.select("INBOX")
        return [(command, answers(client, command)) for command in COMMANDS]


def answers(client: imaplib.IMAP4, command: str) -> list[str]:
    client.send(b"x " + command.encode() + b"\r\n")
    lines: list[str] = []
    while not lines or not lines[-1].startswith("x "):
        line = client.readline()
        while match := re.search(rb"\{(\d+)\}\r\n$", line):
            line = line[: match.start()] + repr(client.read(int(match[1]))).encode() + client.readline()
        lines.append(normal(line.decode()))
    return sorted(line for line in lines if line)


def normal(line: str) -> str:
    """Without what may differ: free text, the order of flags and items, response codes with numbers of their own."""
    line = re.sub(r"\\Recent ?| ?\\HasNoChildren|\\Sent", "", line.strip())
    line = re.sub(r'"?\b(INBOX|Sent|Other)\b"?', r"\1", line)
    if status := re.match(r"(x|\*) (OK|NO|BAD)( \[(COPYUID|READ-ONLY|READ-WRITE|TRYCREATE|UIDNEXT)[^]]*\])?", line):
        kind = "NO" if status[2] == "BAD" else status[2]
        code = status[4] if status[4] in ("READ-ONLY", "READ-WRITE", "UIDNEXT") else ""
        return f"{status[1]} {kind} {code}" if status[1] == "x" or code else ""
    if re.match(r"\* (FLAGS|\d+ RECENT)", line):
        return ""
    line = re.sub(r"FLAGS \(([^)]*)\)", lambda match: "FLAGS=" + ",".join(sorted(match[1].split())), line)
    return " ".join(sorted(re.findall(r"BODY\[[^]]*\](?:<\d+>)? (?:b'[^']*'|\"\")|[^\s()]+(?: \"[^\"]*\")?", line)))


async def test_the_same_conversation_goes_as_with_dovecot(server: MailServer, dovecot: Dovecot) -> None:  # noqa: F811
    ours, theirs = await asyncio.gather(
        asyncio.to_thread(converse, server.imap_port, AGENT),
        asyncio.to_thread(converse, dovecot.imap_port, dovecot.user()),
    )
    differences = [(mine, right) for mine, right in zip(ours, theirs, strict=True) if mine != right]
    assert differences == []


async def test_fifty_connections_and_a_large_mail(server: MailServer) -> None:
    data = b"From: customer@example.test\r\n\r\n" + b"x" * 78 + b"\r\n" * 100_000

    def act(number: int) -> int:
        with imap(server.imap_port) as client:
            client.append("INBOX", None, None, data)
            client.select()
            fetched = client.fetch("1", "(BODY.PEEK[])")[1][0]
            assert isinstance(fetched, tuple)
            return len(fetched[1])

    assert await asyncio.gather(*(asyncio.to_thread(act, n) for n in range(20))) == [len(data)] * 20
