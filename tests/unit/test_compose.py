"""The reply as bytes: threaded, marked, addressed to one, the same each time; read back by the standard library."""

import random
import re
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailagent.core.compose import compose, reply_id
from mailagent.core.parse import REPLY_MARKER, parse
from mailagent.core.screen import Rule, screen
from mailagent.core.values import Attachment, Ignore, Image, Inbound, Reply
from tests.unit.test_screen import PLAIN
from tests.unit.test_thread import OUTLOOK, ids

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
TEXT = Reply("North leads.\n", "", (), ())
FULL = Reply(
    f"{REPLY_MARKER}\n\nNördliche Werte führen.\n",
    '<p>Nördliche Werte führen.</p><img src="cid:chart-1@mailagent" alt="north leads">' + "<td>1</td>" * 300,
    (Image("chart-1@mailagent", "chart.png", "north leads", PNG),),
    (Attachment("Umsätze.csv", "text/csv", b"a,b\n1,2\n"), Attachment("analysis.py.txt", "text/plain", b"print(1)\n")),
)


def composed(
    reply: Reply,
    inbound: Inbound = PLAIN,
    *,
    job: str = "abcdefgh234567ij",
    name: str = "mailagent",
    instance: str = "one",
    reply_to: str = "",
    also: tuple[str, ...] = (),
    cc: tuple[str, ...] = (),
) -> bytes:
    outgoing = compose(
        reply,
        inbound=inbound,
        sender="agent@example.test",
        sender_name=name,
        message_id=reply_id(job, "example.test"),
        date=1_740_996_000.25,
        instance=instance,
        reply_to=reply_to,
        also=also,
        cc=cc,
    )
    assert (outgoing.sender, outgoing.recipient) == ("agent@example.test", inbound.sender)
    assert outgoing.message_id == f"<ma.{job}@example.test>"
    return outgoing.data


def read(data: bytes) -> EmailMessage:
    return message_from_bytes(data, policy=policy.default)


def shape(message: MIMEPart) -> object:
    parts = [shape(part) for part in message.iter_parts()] if message.is_multipart() else []
    return (message.get_content_subtype(), *parts) if parts else message.get_content_type()


def fields(data: bytes) -> list[bytes]:
    return [line.split(b":")[0] for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n") if not line.startswith(b" ")]


def test_the_fields_of_a_reply() -> None:
    mail = replace(PLAIN, subject="Umsätze", in_reply_to=ids("b"), references=ids("a", "b"))
    found = read(composed(TEXT, mail, name="Müller, Agent"))
    assert dict(found.items()) == {
        "Message-ID": "<ma.abcdefgh234567ij@example.test>",
        "In-Reply-To": "<1@example.org>",
        "References": "<a@x> <b@x> <1@example.org>",
        "From": '"Müller, Agent" <agent@example.test>',
        "To": "customer@example.org",
        "Subject": "Re: Umsätze",
        "Date": "Mon, 03 Mar 2025 10:00:00 +0000",
        "Auto-Submitted": "auto-replied",
        "X-Auto-Response-Suppress": "All",
        "X-MailAgent-Loop": "one",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
    }
    assert "Precedence" not in found


def test_answers_go_to_the_address_with_the_token() -> None:
    address = f"agent+{'a' * 37}@example.test"
    found = read(composed(TEXT, name="Müller, Agent", reply_to=address))
    assert found["Reply-To"] == f'"Müller, Agent" <{address}>'
    assert (found["From"], found["To"]) == ('"Müller, Agent" <agent@example.test>', "customer@example.org")


def test_several_mails_are_answered_at_once() -> None:
    found = read(composed(TEXT, replace(PLAIN, references=ids("a")), also=ids("k", "l")))
    assert found["In-Reply-To"] == "<1@example.org>"
    assert found["References"] == "<a@x> <k@x> <l@x> <1@example.org>"


def test_colleagues_are_shown_and_the_envelope_stays() -> None:
    colleagues = ("one@example.org", "two@example.org")
    assert read(composed(TEXT, cc=colleagues))["Cc"] == "one@example.org, two@example.org"


@given(
    st.integers(1, 24),
    st.integers(1, 60),
    st.sampled_from(["", "mailagent", "Müller, Agent", "name " * 40]),
    st.lists(st.integers(1, 60).map(lambda n: f"{'c' * n}@{'d' * n}.example.org"), max_size=12, unique=True),
)
def test_long_addresses_stay_whole(local: int, domain: int, name: str, cc: list[str]) -> None:
    address = f"{'l' * local}+{'t' * 37}@{'d' * domain}.example.test"
    data = composed(TEXT, name=name, reply_to=address, cc=tuple(cc))
    assert data == composed(TEXT, name=name, reply_to=address, cc=tuple(cc))
    found = read(data)
    assert found["Reply-To"].addresses[0].addr_spec == address
    assert parse(data).recipients == ("customer@example.org", *cc)
    assert max(map(len, data.split(b"\r\n"))) <= 998


def test_a_mail_without_id_is_answered_without_in_reply_to() -> None:
    found = read(composed(TEXT, replace(PLAIN, message_id="<0@missing.invalid>")))
    assert "In-Reply-To" not in found
    assert "References" not in found


@pytest.mark.parametrize("long", [OUTLOOK, "<" + "x" * 250 + ">", "<[x]@[y]>"])
def test_ids_survive_as_they_are(long: str) -> None:
    data = composed(TEXT, replace(PLAIN, message_id=long, references=(*ids("a"), OUTLOOK)))
    assert f"\r\nIn-Reply-To: {long}\r\n".encode() in data
    assert f"\r\nReferences: <a@x>\r\n {OUTLOOK}\r\n".encode() in data
    assert parse(data).in_reply_to == (long,)


@pytest.mark.parametrize(
    ("subject", "answer"),
    [
        ("data", "Re: data"),
        ("Re: data", "Re: data"),
        ("RE: AW: Antw: SV: re[2]: data", "Re: data"),
        ("Re：data", "Re: data"),
        ("Fwd: data", "Re: Fwd: data"),
        ("Regions: north", "Re: Regions: north"),
        ("", "Re:"),
        ("a\r\nBcc: victim@example.test", "Re: a Bcc: victim@example.test"),
        ("x" * 5_000, "Re: " + "x" * 200),
    ],
)
def test_the_subject_says_re_once(subject: str, answer: str) -> None:
    assert read(composed(TEXT, replace(PLAIN, subject=subject)))["Subject"] == answer


def test_the_parts_are_one_in_the_other() -> None:
    image, file = FULL.images, FULL.attachments
    assert shape(read(composed(FULL))) == (
        "mixed",
        ("related", ("alternative", "text/plain", "text/html"), "image/png"),
        "text/csv",
        "text/plain",
    )
    assert shape(read(composed(TEXT))) == "text/plain"
    assert shape(read(composed(Reply("a", "<p>a", (), ())))) == ("alternative", "text/plain", "text/html")
    assert shape(read(composed(Reply("a", "<p>a", image, ()))))[0] == "related"  # type: ignore[index]
    assert shape(read(composed(Reply("a", "", (), file[:1])))) == ("mixed", "text/plain", "text/csv")


def test_charts_are_shown_by_content_id_and_files_are_attached() -> None:
    found = [part for part in read(composed(FULL)).walk() if not part.is_multipart()]
    _, html, chart, table, script = found
    assert "cid:chart-1@mailagent" in html.get_content()
    assert (chart["Content-ID"], chart.get_content_disposition()) == ("<chart-1@mailagent>", "inline")
    assert (chart.get_content(), chart.get_filename()) == (PNG, "chart.png")
    assert (table.get_filename(), table.get_payload(decode=True)) == ("Umsätze.csv", b"a,b\n1,2\n")
    assert (script.get_filename(), script.get_content_disposition()) == ("analysis.py.txt", "attachment")


def test_the_wire_form_is_what_every_server_takes() -> None:
    data = composed(FULL, replace(PLAIN, subject="Ü" * 190))
    assert data.isascii()
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data)
    body = data.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= 78
    assert all(len(word) <= 75 for word in re.findall(rb"=\?[^ ]*\?=", data))


def test_the_same_arguments_give_the_same_bytes() -> None:
    random.seed(1)
    first = composed(FULL)
    random.seed(2)
    assert composed(FULL) == first
    assert composed(FULL, job="bbcdefgh234567ij") != first


def test_a_boundary_never_ends_a_part() -> None:
    boundaries = re.findall(rb'boundary="([^"]+)"', composed(FULL))
    assert len(set(boundaries)) == 3
    text = b"\n".join(b"--" + boundary + b"--" for boundary in boundaries).decode()
    other = read(composed(replace(FULL, text=text, html=text), job="bbcdefgh234567ij"))
    assert shape(other) == shape(read(composed(FULL)))


@example(subject="", name="", instance="", file="a\r\nX: y.csv", media_type="text/csv")
@given(
    subject=st.text(max_size=60),
    name=st.text(max_size=60),
    instance=st.text(max_size=30),
    file=st.text(min_size=1, max_size=60),
    media_type=st.one_of(st.text(max_size=20), st.sampled_from(["message/rfc822", "multipart/mixed", "text/csv; x=y"])),
)
def test_no_text_of_others_adds_a_field(subject: str, name: str, instance: str, file: str, media_type: str) -> None:
    reply = replace(TEXT, attachments=(Attachment(file, media_type, b"x"),))
    data = composed(reply, replace(PLAIN, subject=subject), name=name, instance=instance)
    expected = fields(composed(replace(TEXT, attachments=FULL.attachments)))
    assert fields(data) == expected
    assert data.count(b"Content-Disposition:") == 1
    assert shape(read(data))[0] == "mixed"  # type: ignore[index]
    assert not re.search(r"[\x00-\x1f]", list(read(data).iter_attachments())[-1].get_filename() or "")


def test_what_was_composed_is_understood_and_never_answered() -> None:
    found = parse(composed(FULL, replace(PLAIN, subject="Umsätze")))
    assert found.message_id == "<ma.abcdefgh234567ij@example.test>"
    assert (found.sender, found.recipients, found.defects) == ("agent@example.test", ("customer@example.org",), ())
    assert (found.subject, found.references) == ("Re: Umsätze", ("<1@example.org>",))
    assert found.attachments == FULL.attachments
    assert found.automatic
    allowed = [Rule(domains=("example.test",), proof="none")]
    assert isinstance(screen(found, allowed, "agent@example.test", ""), Ignore)
    assert isinstance(screen(found, allowed, "other@example.test", ""), Ignore)


def test_our_message_id_alone_gives_a_mail_away() -> None:
    data = composed(TEXT)
    for field in (b"Auto-Submitted", b"X-Auto-Response-Suppress", b"X-MailAgent-Loop"):
        data = data.replace(field, b"X-Removed")
    assert parse(data).automatic


def test_an_answer_to_a_reply_of_ours_is_told_apart_from_it() -> None:
    quoted = "".join(f"> {line}\n" for line in FULL.text.splitlines())
    answer = f"From: customer@example.org\r\n\r\nAnd by month?\n\nOn Monday mailagent wrote:\n{quoted}".encode()
    assert parse(answer).text == "And by month?"


@pytest.mark.parametrize("subject", ["é =?us-ascii?q?=80?=", "Zahlen für =?utf-8?q?=E4?=", "=?x?b?=?="])
def test_a_subject_with_an_encoded_word_in_it_can_be_answered(subject: str) -> None:
    composed(Reply("Hello", "", (), ()), replace(PLAIN, subject=subject)).decode("ascii")
