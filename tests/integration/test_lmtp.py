"""The LMTP server: what was answered 250 is on disk, whatever happens; what must not come in does not.

`python -m tests.integration.test_lmtp SOCKET SPOOL` serves by itself, for tests that end it or give it a small disk."""

import asyncio
import itertools
import os
import re
import resource
import smtplib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.adapters.dkim import DkimCheck
from mailagent.adapters.lmtp import MAX_RECIPIENTS, EndOfData, LmtpServer
from mailagent.adapters.spool import Spool, SpoolInbox
from mailagent.config import Lmtp, Mail
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.screen import proven
from tests.dns_peer import name_server
from tests.fakes.parser import FakeParser
from tests.fakes.room import FakeRoom
from tests.mail_peers import DEADLINE
from tests.unit.test_flow import House

ROOT = Path(__file__).parents[2]
AGENT, CUSTOMER, MX = "agent@demo.test", "customer@example.org", "mx.demo.test"
HEADER = b"From: customer@example.org\r\nTo: agent@demo.test\r\nSubject: Data\r\nMessage-ID: <%d@example.org>\r\n"
VERDICT = b"Authentication-Results: mx.demo.test;\r\n\tdkim="
FORGED = b"Authentication-Results: mx.demo.test;\r\n\tdmarc=pass header.from=example.org\r\n"


def message(number: int = 1, body: bytes = b"hello\r\n") -> bytes:
    return HEADER % number + b"\r\n" + body


def server(spool: Path, listen: str = "127.0.0.1:0", dns: str = "", **mail: object) -> LmtpServer:
    lmtp = Lmtp(listen=listen, trust_dkim=bool(dns))
    settings = Mail.model_validate({"address": AGENT, "authserv_id": MX, "max_message_mb": 0.5} | mail)
    return LmtpServer(lmtp, settings, Spool(spool), DkimCheck([dns] if dns else [], cpu_seconds=2), FakeRoom())


@asynccontextmanager
async def running(one: LmtpServer) -> AsyncIterator[LmtpServer]:
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def lmtp(tmp_path: Path) -> AsyncIterator[LmtpServer]:
    async with running(server(tmp_path / "spool")) as one:
        yield one


@contextmanager
def client(place: int | str) -> Iterator[smtplib.LMTP]:
    connection = smtplib.LMTP(str(place), 0) if isinstance(place, str) else smtplib.LMTP("127.0.0.1", place)
    connection.timeout = DEADLINE
    with closing(connection):
        connection.ehlo_or_helo_if_needed()
        yield connection
        connection.quit()


def send(place: int | str, *mails: bytes, to: str = AGENT, sender: str = CUSTOMER) -> None:
    with client(place) as connection:
        for mail in mails:
            connection.sendmail(sender, [to], mail)


async def deliver(lmtp: LmtpServer, *mails: bytes, **how: str) -> list[bytes]:
    """What lies in the spool after these were handed over."""
    await asyncio.to_thread(lambda: send(lmtp.port, *mails, **how))
    return kept(lmtp.spool)


def kept(spool: Spool) -> list[bytes]:
    return [spool.read(number) or b"" for number in spool.numbers()]


class Dialogue:
    """A connection spoken byte by byte, for what no client says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes, answers: int = 1) -> list[bytes]:
        """The last lines of this many answers."""
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE):
            return [await self.answer() for _ in range(answers)]

    async def answer(self) -> bytes:
        while (line := await self.reader.readline())[3:4] == b"-":
            pass
        return line.rstrip()


@asynccontextmanager
async def dialogue(lmtp: LmtpServer, *recipients: str) -> AsyncIterator[Dialogue]:
    """As far as 354 when there are recipients, else only greeted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lmtp.port)
    talk = Dialogue(reader, writer)
    try:
        await talk.say(b"LHLO mta.demo.test\r\n", 2)
        if recipients:
            await talk.say(b"MAIL FROM:<customer@example.org>\r\n")
            for recipient in recipients:
                assert (await talk.say(b"RCPT TO:<%s>\r\n" % recipient.encode()))[0].startswith(b"250")
            assert (await talk.say(b"DATA\r\n"))[0].startswith(b"354")
        yield talk
    finally:
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()


# Taken


async def test_a_mail_is_on_disk_below_its_envelope_when_it_is_answered(lmtp: LmtpServer) -> None:
    (found,) = await deliver(lmtp, message(), to="Agent+token@DEMO.test")
    assert found == b"Return-Path: <customer@example.org>\r\nDelivered-To: Agent+token@DEMO.test\r\n" + message()


async def test_a_mail_that_comes_again_has_the_same_bytes(lmtp: LmtpServer) -> None:
    first, again = await deliver(lmtp, message(), message())
    assert first == again


async def test_a_bounce_shows_as_one(lmtp: LmtpServer) -> None:
    (found,) = await deliver(lmtp, b"Return-Path: <forged@example.org>\r\n" + message(), sender="")
    assert (await FakeParser().parse(found)).automatic == "its Return-Path is empty"


async def test_a_thousand_mails_on_four_connections_are_all_kept(lmtp: LmtpServer) -> None:
    mails = [message(n) for n in range(1000)]
    shares = (mails[n::4] for n in range(4))
    await asyncio.gather(*(asyncio.to_thread(send, lmtp.port, *share) for share in shares))
    assert sorted(found.partition(AGENT.encode() + b"\r\n")[2] for found in kept(lmtp.spool)) == sorted(mails)


async def test_two_of_our_addresses_are_one_mail_and_two_answers(lmtp: LmtpServer) -> None:
    async with dialogue(lmtp, AGENT, "agent+more@demo.test") as talk:
        answers = await talk.say(message() + b".\r\n", 2)
        assert [answer[:9] for answer in answers] == [b"250 2.0.0"] * 2
        assert await talk.say(b"NOOP\r\n") == [b"250 OK"]
    (found,) = kept(lmtp.spool)
    assert re.findall(rb"Delivered-To: (\S+)", found) == [AGENT.encode(), b"agent+more@demo.test"]


async def test_long_lines_8_bit_and_dots_come_through(lmtp: LmtpServer) -> None:
    body = b".\r\n..\r\n.x\r\n" + b"y" * 200_000 + b"\r\n\xff\x80\r\n.\n\r\n\r\n"
    async with dialogue(lmtp, AGENT) as talk:
        stuffed = stuff(message(2, body))
        assert (await talk.say(stuffed + b".\r\n"))[0].startswith(b"250")
    assert kept(lmtp.spool)[0].endswith(message(2, body))


def stuff(mail: bytes) -> bytes:
    """As a client sends it (RFC 5321 section 4.5.2)."""
    return (b"\r\n" + mail).replace(b"\r\n.", b"\r\n..")[2:]


LINES = st.lists(st.text("\r\n.a", max_size=6).map(str.encode), max_size=8)


@given(LINES, st.lists(st.integers(0, 60), max_size=8))
def test_the_end_of_a_mail_is_found_wherever_its_blocks_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    mail = b"".join(line + b"\r\n" for line in lines)
    stream = stuff(mail) + b".\r\nNOOP\r\n"
    places = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    data, out, rest = EndOfData(), b"", b""
    for start, stop in itertools.pairwise(places):
        if data.found:
            rest += stream[start:stop]
        else:
            out += data.feed(stream[start:stop])
    assert data.found
    assert (out, data.rest + rest) == (mail, b"NOOP\r\n")


# Refused, each for good or for now


async def test_who_is_not_known_here_is_refused_and_the_others_are_served(lmtp: LmtpServer) -> None:
    def act() -> None:
        with client(lmtp.port) as connection:
            assert connection.sendmail(CUSTOMER, ["who@demo.test", AGENT], message())["who@demo.test"][0] == 550
            for unknown in ("who@demo.test", "agent@example.org", "agent", "x+agent@demo.test"):
                with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                    connection.sendmail(CUSTOMER, [unknown], message())
                assert refused.value.recipients[unknown][0] == 550

    await asyncio.to_thread(act)
    assert len(kept(lmtp.spool)) == 1


async def test_without_a_known_recipient_there_is_no_data(lmtp: LmtpServer) -> None:
    async with dialogue(lmtp) as talk:
        assert (await talk.say(b"DATA\r\n"))[0].startswith(b"503")
        await talk.say(b"MAIL FROM:<>\r\nRCPT TO:<who@demo.test>\r\n", 2)
        assert (await talk.say(b"DATA\r\n"))[0].startswith(b"503")


async def test_recipients_are_counted(lmtp: LmtpServer) -> None:
    async with dialogue(lmtp) as talk:
        await talk.say(b"MAIL FROM:<>\r\n")
        said = await talk.say(b"RCPT TO:<agent@demo.test>\r\n" * (MAX_RECIPIENTS + 1), MAX_RECIPIENTS + 1)
    assert [answer[:3] for answer in said] == [b"250"] * MAX_RECIPIENTS + [b"452"]


async def test_a_mail_that_is_too_large_is_refused_once_per_recipient_and_the_next_one_is_taken(
    lmtp: LmtpServer,
) -> None:
    large = message(1, b"x" * 70 + b"\r\n" * 300_000)
    with pytest.raises(smtplib.SMTPSenderRefused) as announced:
        await deliver(lmtp, large)
    assert announced.value.smtp_code == 552
    async with dialogue(lmtp, AGENT, "agent+2@demo.test") as talk:
        assert [answer[:3] for answer in await talk.say(large + b".\r\n", 2)] == [b"552"] * 2
        await talk.say(b"MAIL FROM:<>\r\nRCPT TO:<agent@demo.test>\r\nDATA\r\n", 3)
        assert (await talk.say(message() + b".\r\n"))[0].startswith(b"250")
    assert len(kept(lmtp.spool)) == 1


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r"])
async def test_what_is_not_the_end_of_a_mail_smuggles_nothing_in(lmtp: LmtpServer, ending: bytes) -> None:
    smuggled = b"MAIL FROM:<ceo@example.org>\r\nRCPT TO:<agent@demo.test>\r\nDATA\r\nFrom: ceo@example.org\r\n\r\npay"
    async with dialogue(lmtp, AGENT) as talk:
        assert (await talk.say(message(1, b"hello" + ending + smuggled) + b"\r\n.\r\n"))[0].startswith(b"250")
        assert await talk.say(b"NOOP\r\n") == [b"250 OK"]
    (found,) = kept(lmtp.spool)
    assert smuggled in found


async def test_what_follows_a_mail_before_its_answer_is_not_obeyed(lmtp: LmtpServer) -> None:
    async with dialogue(lmtp, AGENT) as talk:
        more = b"MAIL FROM:<>\r\nRCPT TO:<agent@demo.test>\r\nDATA\r\n" + message(2) + b".\r\n"
        answers = await talk.say(message() + b".\r\n" + more, 2)
        assert [answer[:3] for answer in answers] == [b"250", b"421"]
        assert await talk.reader.read() == b""
    assert len(kept(lmtp.spool)) == 1


async def test_a_mail_that_breaks_off_is_not_kept(lmtp: LmtpServer, tmp_path: Path) -> None:
    async with dialogue(lmtp, AGENT) as talk:
        talk.writer.write(message() * 100)
        await talk.writer.drain()
    async with dialogue(lmtp, AGENT) as talk:
        talk.writer.write(message() + b".\r")
        await talk.writer.drain()
        await lmtp.stop()
        with suppress(ConnectionResetError):
            assert await talk.reader.read() == b""
    assert os.listdir(tmp_path / "spool" / "new") == []


# Disks and ends


@contextmanager
def serving(place: Path, spool: Path, *wrapped: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server in a process of its own, and its socket."""
    socket = str(place / "lmtp.sock")
    command = [*wrapped, sys.executable, "-m", "tests.integration.test_lmtp", socket, str(spool)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process, socket
        finally:
            process.kill()
            process.communicate()


async def test_a_full_disk_puts_the_mail_off_and_a_smaller_one_still_fits(short_path: Path) -> None:
    spool = short_path / "spool"
    spool.mkdir()
    # A file system of 1 MB in a namespace of its own: the kernel itself says that it is full.
    small_disk = ["bwrap", "--dev-bind", "/", "/", "--size", str(1 << 20), "--tmpfs", str(spool), "--die-with-parent"]
    with serving(short_path, spool, *small_disk) as (_, socket), client(socket) as connection:
        for body in (b"x" * 70 + b"\r\n" * 330_000, b"y" * 70 + b"\r\n" * 2_000_000):  # full in the copy, in the draft
            with pytest.raises(smtplib.SMTPDataError) as full:
                connection.sendmail(CUSTOMER, [AGENT], message(1, body))
            assert (full.value.smtp_code, full.value.smtp_error) == (452, b"4.3.1 the disk is full")
        connection.sendmail(CUSTOMER, [AGENT], message())


async def test_a_disk_that_cannot_be_written_puts_the_mail_off(short_path: Path) -> None:
    spool = short_path / "spool"
    Spool(spool)
    read_only = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(spool), str(spool), "--die-with-parent"]
    with serving(short_path, spool, *read_only) as (_, socket), client(socket) as connection:
        with pytest.raises(smtplib.SMTPDataError) as error:
            connection.sendmail(CUSTOMER, [AGENT], message())
        assert (error.value.smtp_code, error.value.smtp_error) == (451, b"4.3.0 the mail cannot be kept now")


async def test_after_a_fault_of_ours_the_mail_comes_again_on_another_connection(lmtp: LmtpServer) -> None:
    threads = ThreadPoolExecutor()
    asyncio.get_running_loop().set_default_executor(threads)
    threads.shutdown()  # as when the daemon ends: nothing can be kept any more
    async with dialogue(lmtp, AGENT) as talk:
        assert (await talk.say(message() + b".\r\n"))[0].startswith(b"421 4.3.0")
        assert await talk.reader.read() == b""
    assert kept(lmtp.spool) == []


async def test_a_disk_that_cannot_be_looked_at_puts_the_mail_off(lmtp: LmtpServer) -> None:
    lmtp.room = Unsaid()
    async with dialogue(lmtp) as talk:
        assert (await talk.say(b"MAIL FROM:<>\r\nRCPT TO:<agent@demo.test>\r\n", 2))[1].startswith(b"421 4.3.0")


class Unsaid(FakeRoom):
    """Nobody can say whether there is room."""

    async def free(self) -> bool:
        raise TemporaryError("the disk is gone")


@pytest.mark.parametrize("answered", [0, 1, 7, 30])
def test_what_was_answered_outlives_a_kill(short_path: Path, answered: int) -> None:
    with serving(short_path, short_path / "spool") as (process, socket):
        connection = smtplib.LMTP(socket, 0)
        with closing(connection):
            for n in range(answered):
                connection.sendmail(CUSTOMER, [AGENT], message(n))
            connection.mail(CUSTOMER)
            connection.rcpt(AGENT)
            connection.putcmd("data")
            connection.getreply()
            connection.send(message(answered) + b".\r\n")
            process.kill()
    found = kept(Spool(short_path / "spool"))
    assert [mail.endswith(message(n)) for n, mail in enumerate(found)] == [True] * len(found)
    assert len(found) in (answered, answered + 1)


def test_thirty_million_bytes_of_empty_lines_take_little_memory(short_path: Path) -> None:
    with serving(short_path, short_path / "spool") as (process, socket):
        before = peak(process.pid)
        send(socket, message(1, b"\r\n" * 15_000_000))
        assert peak(process.pid) - before < 30 << 20
    assert [len(mail) for mail in kept(Spool(short_path / "spool"))] > [30_000_000]


def peak(pid: int) -> int:
    """The most memory that the process had, in bytes (proc(5))."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


async def test_a_socket_that_was_left_is_taken_over_and_goes_with_the_server(tmp_path: Path, short_path: Path) -> None:
    place = short_path / "lmtp.sock"
    left = await asyncio.start_unix_server(lambda *_: None, place)
    left.close()
    assert place.exists()
    async with running(server(tmp_path, listen=str(place))) as one:
        await asyncio.to_thread(send, str(place), message())
        assert len(kept(one.spool)) == 1
    assert not place.exists()


@pytest.mark.parametrize("listen", ["/nowhere/lmtp.sock", "127.0.0.1:%d", "127.0.0.1:99999"])
async def test_a_place_where_nobody_can_listen_is_a_fault_of_the_settings(
    lmtp: LmtpServer, tmp_path: Path, listen: str
) -> None:
    other = server(tmp_path / "other", listen=listen.replace("%d", str(lmtp.port)))
    with pytest.raises(ConfigError, match=r"lmtp\.listen"):
        await other.start()
    await other.stop()


# Proof


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """A private key, and the record with the public one (RFC 6376 section 3.6.1)."""
    path = tmp_path_factory.mktemp("key") / "key.pem"
    generate = ["openssl", "genrsa", "-traditional", "-out", str(path), "2048"]
    subprocess.run(generate, check=True, capture_output=True)
    public = ["openssl", "rsa", "-in", str(path), "-pubout", "-outform", "PEM"]
    pem = subprocess.run(public, check=True, capture_output=True, text=True).stdout
    return path.read_bytes(), "v=DKIM1; k=rsa; p=" + "".join(pem.splitlines()[1:-1])


SIGNED = (b"from", b"to", b"subject", b"message-id")


def signed(mail: bytes, private: bytes, selector: bytes = b"s", domain: bytes = b"example.org", **how: Any) -> bytes:
    options = {"include_headers": list(SIGNED), "canonicalize": (b"relaxed", b"relaxed")} | how
    signature: bytes = dkim.sign(mail, selector, domain, private, **options)
    return signature + mail


@asynccontextmanager
async def proving(place: Path, key: tuple[bytes, str]) -> AsyncIterator[LmtpServer]:
    """A server that checks signatures by the keys of example.org and example.net; of the selectors of each, one is in
    test, one is silent."""
    record = key[1]
    names = {"s": record, "test": record.replace("k=rsa", "k=rsa; t=s:y"), "odd": "p=!!", "silent": None}
    domains = ("example.org", "example.net")
    records = {f"{name}._domainkey.{domain}.": value for name, value in names.items() for domain in domains}
    async with name_server(records) as dns, running(server(place, dns=dns)) as one:
        yield one


async def result(found: bytes) -> tuple[str, bool]:
    """The verdict on top of a kept mail, and whether it makes the sender proven."""
    inbound = await FakeParser().parse(found)
    return inbound.authentication[0].replace("\t", " "), proven(inbound, MX)


async def test_a_good_signature_is_written_on_top_and_counts(tmp_path: Path, key: tuple[bytes, str]) -> None:
    async with proving(tmp_path, key) as lmtp:
        (found,) = await deliver(lmtp, signed(message(), key[0]))
    assert found.startswith(
        b"Authentication-Results: mx.demo.test;\r\n\tdkim=pass header.d=example.org\r\nReturn-Path:"
    )
    assert await result(found) == ("mx.demo.test; dkim=pass header.d=example.org", True)


async def test_a_forged_verdict_never_survives(tmp_path: Path, key: tuple[bytes, str]) -> None:
    other = b"Authentication-Results: mx.other.test; dkim=fail\r\n"
    folded = FORGED.replace(b": mx", b":\r\n (x)\r\n\tMX")
    async with proving(tmp_path, key) as lmtp:
        unsigned, good = await deliver(lmtp, FORGED + other + folded + message(), FORGED + signed(message(), key[0]))
    assert await result(unsigned) == ("mx.demo.test; dkim=none", False)
    assert (unsigned.count(b"Authentication-Results"), unsigned.count(other)) == (2, 1)
    assert await result(good) == ("mx.demo.test; dkim=pass header.d=example.org", True)
    assert good.count(b"Authentication-Results") == 1


async def test_where_the_other_server_writes_the_verdict_it_stays(lmtp: LmtpServer) -> None:
    (found,) = await deliver(lmtp, FORGED + message())
    assert (await result(found))[1]


# Each is a mail of the customer's that a stranger got hold of, or that leaves open what it should not.
DOUBTFUL: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "another body": ("fail", lambda mail: mail.replace(b"hello", b"hullo")),
    "another subject": ("fail", lambda mail: mail.replace(b"Data", b"Date")),
    "a second From": ("fail", lambda mail: b"From: ceo@example.org\r\n" + mail),
    "a second Subject": ("policy", lambda mail: b"Subject: pay\r\n" + mail),
    "a second Content-Type": ("policy", lambda mail: b"Content-Type: text/plain\r\nContent-Type: text/html\r\n" + mail),
    "a body behind a lone CR": ("policy", lambda mail: mail.replace(b"\r\n\r\n", b"\r\nX: a\r\rpay\r\n\r\n", 1)),
    "a body behind a lone LF": ("fail", lambda mail: mail.replace(b"\r\n\r\n", b"\r\nX: a\n\r\n\r\n", 1)),
    "a line that one parser skips": ("policy", lambda mail: mail.replace(b"\r\n\r\n", b"\r\nFrom me pay\r\n\r\n", 1)),
    "a header without form": ("permerror", lambda mail: mail.replace(b"\r\n\r\n", b"\r\nno field\r\n\r\n", 1)),
    "a folded line first": ("permerror", lambda mail: b" dkim=pass header.d=example.org\r\n" + mail),
}


async def test_a_signature_that_leaves_doubt_proves_nothing(tmp_path: Path, key: tuple[bytes, str]) -> None:
    mail = signed(message(), key[0])
    async with proving(tmp_path, key) as lmtp:
        found = await deliver(lmtp, *(change(mail) for _, change in DOUBTFUL.values()))
    for (name, (said, _)), one in zip(DOUBTFUL.items(), found, strict=True):
        verdict, is_proven = await result(one)
        assert (name, verdict.split()[1].removeprefix("dkim="), is_proven) == (name, said, False)


WEAK: dict[str, tuple[str, dict[str, Any]]] = {
    "part of the body": ("policy", {"length": True}),
    "SHA-1": ("policy", {"signature_algorithm": b"rsa-sha1"}),
    "a key in test": ("fail", {"selector": b"test"}),
    "a key that is none": ("fail", {"selector": b"odd"}),
    "a key that is not there": ("fail", {"selector": b"gone"}),
}


async def test_a_weak_signature_proves_nothing(tmp_path: Path, key: tuple[bytes, str]) -> None:
    async with proving(tmp_path, key) as lmtp:
        found = await deliver(lmtp, *(signed(message(), key[0], **how) for _, how in WEAK.values()))
    for (name, (said, _)), one in zip(WEAK.items(), found, strict=True):
        assert (name, await result(one)) == (name, (f"mx.demo.test; dkim={said} header.d=example.org", False))


async def test_a_mail_whose_proof_cannot_be_had_now_comes_again(tmp_path: Path, key: tuple[bytes, str]) -> None:
    silent, foreign = (signed(message(), key[0], b"silent", domain) for domain in (b"example.org", b"example.net"))
    async with proving(tmp_path, key) as lmtp:
        for unproven in (silent, signed(silent, key[0], domain=b"example.net")):
            with pytest.raises(smtplib.SMTPDataError) as error:
                await deliver(lmtp, unproven)
            assert (error.value.smtp_code, error.value.smtp_error) == (451, b"4.3.0 the mail cannot be checked now")
        found = await deliver(lmtp, signed(silent, key[0]), foreign)
    assert [(await result(one))[1] for one in found] == [True, False], "no other signature would change that"


async def test_one_good_signature_among_bad_ones_is_enough(tmp_path: Path, key: tuple[bytes, str]) -> None:
    bad = b"DKIM-Signature: v=1; a=rsa-sha256; d=EXAMPLE.net; s=s; h=from; bh=eA==; b=eA==\r\n"
    async with proving(tmp_path, key) as lmtp:
        two, nine = await deliver(lmtp, bad + signed(message(), key[0]), bad * 9 + signed(message(), key[0]))
    assert (await result(two))[1]
    assert re.findall(r"dkim=(\w+ header.d=\S+?);?(?= |$)", (await result(two))[0]) == [
        "fail header.d=example.net",
        "pass header.d=example.org",
    ]
    assert not (await result(nine))[1]  # it is beyond those that are looked at


async def test_hostile_signatures_take_little_and_the_next_mail_is_proven(
    tmp_path: Path, key: tuple[bytes, str]
) -> None:
    unsigned = b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; s=s; h=from; bh=eA==; b=eA==; d="
    hostile = [
        b"DKIM-Signature: " + b"a=b;" * 100_000 + b"\r\n" + message(),
        b"DKIM-Signature: v=1; d=\xff\xfe; s=\x00; b=eA==\r\n" + message(),
        b"dkim-signature :\r\n" + message(),
        unsigned + b"a" * 400 + b".example.org\r\n" + message(),
        unsigned + b"example.org\r\n" + message(1, b" " * 400_000 + b"x\r\n"),  # quadratic in dkimpy
    ]  # fmt: skip
    async with proving(tmp_path, key) as lmtp:
        *found, good = await deliver(lmtp, *hostile, signed(message(), key[0]))
    assert (await result(good))[1]
    assert [one.startswith(VERDICT) and not one.startswith(VERDICT + b"pass") for one in found] == [True] * len(hostile)


async def test_with_little_room_left_the_other_server_keeps_the_mail(lmtp: LmtpServer) -> None:
    room = FakeRoom()
    lmtp.room = room
    room.is_free = False
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        await deliver(lmtp, message())
    assert refused.value.recipients[AGENT] == (452, b"4.3.1 the disk is full")
    room.is_free = True
    assert len(await deliver(lmtp, message())) == 1


# The way on


async def test_what_is_handed_over_becomes_jobs_one_for_each_mail(tmp_path: Path) -> None:
    async with running(server(tmp_path / "spool", dns="")) as lmtp:
        inbox = SpoolInbox(lmtp.spool)
        house = House(tmp_path, inbox=inbox)  # type: ignore[arg-type]
        ready = asyncio.Event()
        watching = asyncio.ensure_future(house.intake().run(ready.set))
        async with asyncio.timeout(DEADLINE):
            await ready.wait()
            table = b"a,b,c\r\n1,2,3\r\n4,5,6\r\n"
            await deliver(lmtp, *(FORGED + message(n, table) for n in (1, 2, 2)), message(3, table))
            while len(list((tmp_path / "spool" / "processed").iterdir())) < 3:
                await asyncio.sleep(0)
            while not list((tmp_path / "spool" / "refused").iterdir()):
                await asyncio.sleep(0)
        watching.cancel()
    assert (await house.jobs.counts())["turns"] == 2
    assert lmtp.spool.numbers() == []


async def _serve(socket: str, spool: str) -> None:
    async with running(server(Path(spool), listen=socket, max_message_mb=36.0)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
