"""ports.Parser: the fake in this process and the child behind the wall give the same; the wall holds."""

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from mailagent.adapters.parser import ChildParser, Limits
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import Attachment, Inbound
from mailagent.ports import Parser
from tests.fakes.parser import FakeParser
from tests.unit.mails import COMPLETE

FROM = b"From: Customer <customer@example.org>\r\n"
GOOD = FROM + "Subject: Umsätze\r\nMessage-ID: <1@example.org>\r\n\r\nhällo\r\n".encode()
TWO_FILES = (
    FROM
    + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b"--b\r\nContent-Type: text/csv; name=a.csv\r\n\r\na,b\r\n"
    + b"--b\r\nContent-Type: application/octet-stream; name=b.parquet\r\n\r\n\x00\xff\r\n--b--\r\n"
)


@pytest.fixture(params=["fake", "child"])
async def parser(request: pytest.FixtureRequest) -> AsyncIterator[Parser]:
    if request.param == "fake":
        yield FakeParser()
        return
    async with walled(Limits(wall_seconds=100)) as child:
        yield child


@asynccontextmanager
async def walled(limits: Limits) -> AsyncIterator[ChildParser]:
    child = ChildParser(limits)
    yield child
    await child.close()


def mutant(raw: bytes, seed: int) -> bytes:
    """The mail with a few of its pieces cut out, doubled and changed, the same for the same seed."""
    random = Random(seed)
    for _ in range(random.randint(1, 6)):
        start, at = random.randrange(len(raw)), random.randrange(len(raw))
        piece = raw[start : start + random.randint(1, 60)] + bytes([random.randrange(256)])
        raw = raw[:at] + piece + raw[at + random.randint(0, 30) :]
    return raw


async def told(parser: Parser, raw: bytes) -> Inbound | str:
    try:
        return await parser.parse(raw)
    except PermanentError as error:
        return str(error)


def levels(count: int) -> bytes:
    return b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(count))


async def test_a_message_is_understood(parser: Parser) -> None:
    found = await parser.parse(GOOD)
    assert (found.subject, found.text, found.sender) == ("Umsätze", "hällo", "customer@example.org")
    assert found == await FakeParser().parse(GOOD)


async def test_attachments_arrive_byte_for_byte(parser: Parser) -> None:
    found = await parser.parse(TWO_FILES)
    assert found.attachments == (
        Attachment("a.csv", "text/csv", b"a,b"),
        Attachment("b.parquet", "application/octet-stream", b"\x00\xff"),
    )


async def test_no_bytes_are_a_message_too(parser: Parser) -> None:
    assert (await parser.parse(b"")).defects


SUB = FROM + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
HTML = FROM + b"Content-Type: text/html\r\n\r\n"
HOSTILE = {
    "a subject of 60 KB": FROM + b"Subject: " + b"a " * 30_000 + b"\r\n\r\nhello",
    "an unknown field of 60 KB": FROM + b"X: " + b"=?utf-8?q?a?= " * 4_000 + b"\r\n\r\nhello",
    "an unknown field of 1 MB in a part": SUB + b"X: " + b"=?utf-8?q?a?= " * 70_000 + b"\r\n\r\nhello",
    "4,000 recipients": FROM + b"To: " + b", ".join(b"u%d@x.test" % n for n in range(4_000)) + b"\r\n\r\nhello",
    "3,000 open comments": b"From: " + b"(" * 3_000 + b"a@example.org\r\n\r\nhello",
    "300,000 quoted lines": FROM + b"\r\n" + b"> \n" * 300_000,
    "On On On": FROM + b"\r\n" + b"On " * 200_000,
    "300 KB of spaces": FROM + b"\r\n" + b" " * 300_000 + b"x",
    "lines of spaces": FROM + b"\r\n" + (b" " * 999 + b"\n") * 300 + b"x",
    "header lines": FROM + b"\r\n" + b"From: a\n" * 100_000,
    "a million newlines": FROM + b"\r\n" + b"\n" * 1_000_000,
    "200,000 parameters": SUB + b"Content-Type: text/plain" + b"; a=b" * 200_000 + b"\r\n\r\nhello",
    "2,000 levels": FROM + levels(2_000),
    "1,000 forwarded": FROM + b"Content-Type: message/rfc822\r\n\r\n" * 1_000,
    "100,000 parts": FROM + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 100_000,
    "300,000 elements": HTML + b"<div>" * 300_000,
    "999 elements": HTML + b"<div>" * 999 + b"x<br>" * 20_000,
    "400 wrappers": HTML + b"<div class=gmail_quote><blockquote></blockquote>" * 400 + b"x<br>" * 20_000,
    "quotes and answers": HTML + b"<blockquote type=cite>a</blockquote>b" * 20_000,
    "200,000 cells": HTML + b"<table>" + b"<tr><td>1<td>2" * 100_000,
    "a million tabs": FROM + b"\r\n" + b"\t" * 500_000 + b"1\n" + b"1\t2\n" * 100_000,
    "a subject of 1 MB": FROM + b"Subject: " + b"a " * 500_000 + b"\r\n\r\nhello",
    "30,000 recipients": FROM + b"To: " + b", ".join(b"u%d@x.test" % n for n in range(30_000)) + b"\r\n\r\nhello",
    "36 MB of fields": FROM + b"a: b\n" * 7_200_000,
}
REFUSED = (
    "2,000 levels",
    "1,000 forwarded",
    "100,000 parts",
    "300,000 elements",
    "a subject of 1 MB",
    "30,000 recipients",
    "36 MB of fields",
)


async def test_hostile_mail_is_a_value_or_a_permanent_error_within_the_limits() -> None:
    async with walled(Limits(cpu_seconds=8, wall_seconds=100)) as parser:
        for name, raw in HOSTILE.items():
            if name in REFUSED:  # for what is wrong with it: it was not killed
                with pytest.raises(PermanentError, match=r"has more than|are nested more than|too deeply"):
                    await parser.parse(raw)
            else:
                found = await parser.parse(raw)
                assert found.defects or found.sender == "customer@example.org"
        assert (await parser.parse(GOOD)).text == "hällo"


@pytest.mark.parametrize(
    ("limits", "raw"),
    [
        (Limits(memory=300 << 20, wall_seconds=100), SUB + b"a: b\n" * 2_000_000),
        (Limits(cpu_seconds=1, wall_seconds=100), FROM + levels(60) + b"x\n" * 4_000_000),
        (Limits(wall_seconds=0.001), GOOD),
    ],
    ids=["memory", "cpu", "clock"],
)
async def test_a_message_beyond_a_limit_is_refused_and_the_next_one_is_read(limits: Limits, raw: bytes) -> None:
    async with walled(limits) as parser:
        with pytest.raises(PermanentError, match=r"^The mail cannot be read within the limits"):
            await parser.parse(raw)
        parser._limits = Limits(wall_seconds=100)
        assert (await parser.parse(GOOD)).text == "hällo"


async def test_a_child_that_dies_between_two_messages_is_replaced() -> None:
    async with walled(Limits(wall_seconds=100)) as parser:
        await parser.parse(GOOD)
        child = parser._child
        assert child
        child.kill()
        await child.wait()
        assert (await parser.parse(GOOD)).text == "hällo"


async def test_the_child_is_there_before_the_first_message() -> None:
    async with walled(Limits(wall_seconds=100)) as parser:
        await parser.start()
        child = parser._child
        assert child
        await parser.start()
        assert (await parser.parse(GOOD)).text == "hällo"
        assert parser._child is child


async def test_a_child_that_cannot_be_started_may_be_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with walled(Limits(wall_seconds=100)) as parser:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/nonexistent/python")
            with pytest.raises(TemporaryError):
                await parser.start()
        assert (await parser.parse(GOOD)).text == "hällo"


@pytest.mark.parametrize("name", COMPLETE)
async def test_complete_mails_are_the_same_on_both_sides_of_the_wall(name: str) -> None:
    async with walled(Limits(wall_seconds=100)) as parser:
        for raw in (COMPLETE[name], *(mutant(COMPLETE[name], seed) for seed in range(20))):
            assert await told(parser, raw) == await told(FakeParser(), raw)


async def test_the_child_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    async with walled(Limits(wall_seconds=100)) as parser:
        await parser.parse(GOOD)
        assert parser._child
        proc = Path(f"/proc/{parser._child.pid}")
        assert (proc / "environ").read_bytes() == b"LANG=C.UTF-8\0"
        assert sorted(fd.name for fd in (proc / "fd").iterdir()) == ["0", "1", "2"]
        assert (proc / "cwd").readlink() == Path("/")


LIAR = """#!{python}
import sys
sys.stdin.buffer.read(8)
sys.stdout.buffer.write({answer})
sys.stdout.buffer.flush()
sys.stdin.buffer.read()
"""


def said(head: object, *, surplus: int = 0, files: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("!QQ", 8 + len(text) + len(files) + surplus, len(text)) + text + files


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (said({"inbound": None, "error": "an honest word", "sizes": []}), "an honest word"),
        (said({"inbound": None, "error": "x", "sizes": []}, surplus=1), "within the limits"),
        (said({"inbound": None, "error": "x", "sizes": [-1]}, surplus=-1), "within the limits"),
        (said({"inbound": None, "error": "x", "sizes": []}, surplus=1 << 40), "within the limits"),
        (said({"inbound": {"sender": "boss@example.org"}, "error": "", "sizes": []}), "within the limits"),
        (said([]), "within the limits"),
        (struct.pack("!QQ", 8, 9), "within the limits"),
        (b"", "within the limits"),
    ],
)
async def test_a_child_that_lies_is_not_believed(
    answer: bytes, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    liar = tmp_path / "python"
    liar.write_text(LIAR.format(python=sys.executable, answer=answer))
    liar.chmod(0o755)
    limits = Limits(wall_seconds=100 if answer else 2)
    async with walled(limits) as parser:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(liar))
            with pytest.raises(PermanentError, match=outcome):
                await parser.parse(GOOD)


async def test_two_at_once_get_each_their_own() -> None:
    async with walled(Limits(wall_seconds=100)) as parser:
        first, second = await asyncio.gather(parser.parse(GOOD), parser.parse(TWO_FILES))
    assert (first.text, len(second.attachments)) == ("hällo", 2)


async def test_who_stops_waiting_leaves_no_answer_behind() -> None:
    async with walled(Limits(wall_seconds=100)) as parser:
        await parser.parse(GOOD)
        waiting = asyncio.create_task(parser.parse(FROM + b"\r\n" + b"late\n" * 500_000))
        while not parser._turn.locked():
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await parser.parse(GOOD)).text == "hällo"
