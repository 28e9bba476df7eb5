"""The demo's story: the sample is as messy as it says, and the mails thread as a mail client's do."""

import csv
import re
from collections import Counter
from email import message_from_bytes, policy
from email.message import EmailMessage

from mailagent.demo import story
from mailagent.demo.story import FOLLOW_UPS, QUESTION, follow_up, request, sample_csv


def lines(data: bytes) -> list[list[str]]:
    return list(csv.reader(data.decode("utf-8-sig").splitlines(), delimiter=";"))


def sent(mail: EmailMessage) -> EmailMessage:
    """The mail after a journey as bytes."""
    parsed = message_from_bytes(mail.as_bytes(policy=policy.SMTP), policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    return parsed


def test_the_sample_is_the_same_for_the_same_seed() -> None:
    assert sample_csv() == sample_csv()
    assert sample_csv(1) != sample_csv(2)


def test_the_sample_is_messy_as_a_real_export() -> None:
    data = sample_csv()
    header, *orders, total = lines(data)
    assert data.startswith(b"\xef\xbb\xbf")
    assert len(header) == 10
    assert 4900 < len(orders) < 5100
    assert {len(order) for order in orders} == {10}
    dates = [order[1] for order in orders]
    assert sum(bool(re.fullmatch(r"2025-\d\d-\d\d", day)) for day in dates) > 1000
    assert sum(bool(re.fullmatch(r"\d\d\.\d\d\.2025", day)) for day in dates) > 500
    assert all(re.fullmatch(r"\d+,\d\d", order[8]) for order in orders)
    assert all(re.fullmatch(r"0\d{5}", order[5]) for order in orders)
    assert 5 <= sum(order[2] == "" for order in orders) < 40
    assert sum(times - 1 for times in Counter(map(tuple, orders)).values()) == story.COPIES
    assert any(letter in data.decode("utf-8-sig") for letter in "äöüßøå")
    assert total[0] == "Total"


def test_the_sample_adds_up() -> None:
    _, *orders, total = lines(sample_csv())
    cents = [int(order[8].replace(",", "")) for order in orders]
    assert sum(cents) == int(total[8].replace(",", ""))
    assert all(int(o[6]) * int(o[7].replace(",", "")) == paid for o, paid in zip(orders, cents, strict=True))


def test_the_question_has_a_clear_answer() -> None:
    _, *orders, _ = lines(sample_csv())
    sold: Counter[str] = Counter()
    for order in orders:
        sold[order[2]] += int(order[8].replace(",", ""))
    (best, most), (_, next_most) = sold.most_common(2)
    assert best == "South"
    assert most > 1.1 * next_most


def test_the_request_carries_question_and_files() -> None:
    files = [("orders.csv", b"a;b\n"), ("Täble.XLSX", b"PK"), ("t.parquet", b"PAR1"), ("what.bin", b"\0")]
    mail = sent(request("agent@demo.test", files=files))
    assert (mail["From"], mail["To"]) == ("customer@example.org", "agent@demo.test")
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Date"].datetime is not None
    body = mail.get_body(("plain",))
    assert body is not None
    assert QUESTION in body.get_content()
    parts = list(mail.iter_attachments())
    assert [part.get_filename() for part in parts] == [name for name, _ in files]
    assert [part.get_payload(decode=True) for part in parts] == [data for _, data in files]
    assert [part.get_content_type() for part in parts] == [
        "text/csv",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.apache.parquet",
        "application/octet-stream",
    ]


def test_the_first_request_carries_the_sample_unchanged() -> None:
    (part,) = sent(request("agent@demo.test")).iter_attachments()
    assert part.get_payload(decode=True) == sample_csv()


def reply_to(mail: EmailMessage) -> EmailMessage:
    reply = EmailMessage()
    reply["From"] = "mailagent <agent@demo.test>"
    reply["Reply-To"] = "agent+token@demo.test"
    reply["Subject"] = f"Re: {mail['Subject']}"
    reply["Message-ID"] = "<reply-1@demo.test>"
    reply["In-Reply-To"] = mail["Message-ID"]
    reply["References"] = mail["Message-ID"]
    reply["Date"] = mail["Date"]
    reply.set_content("South sold most.\n\nüber alles\n")
    reply.add_alternative("<p>South sold most.</p>", subtype="html")
    return sent(reply)


def test_a_follow_up_stays_in_the_thread_and_quotes_below() -> None:
    first = sent(request("agent@demo.test"))
    second = sent(follow_up(reply_to(first)))
    assert second["To"] == "agent+token@demo.test"
    assert second["Subject"] == "Re: Orders 2025"
    assert second["In-Reply-To"] == "<reply-1@demo.test>"
    assert second["References"].split() == [first["Message-ID"], "<reply-1@demo.test>"]
    assert second["Message-ID"] not in (first["Message-ID"], "<reply-1@demo.test>")
    text = second.get_content().replace("\r\n", "\n")
    assert text.startswith(FOLLOW_UPS[0])
    assert "agent@demo.test> wrote:\n> South sold most.\n>\n> über alles\n" in text


def test_a_follow_up_to_a_reply_without_references_or_text() -> None:
    bare = EmailMessage()
    bare["From"] = "agent@demo.test"
    bare["Subject"] = "Orders"
    bare["Message-ID"] = "<r@demo.test>"
    mail = follow_up(sent(bare), "And now?", sender="someone@example.net")
    assert (mail["References"], mail["Subject"], mail["To"]) == ("<r@demo.test>", "Re: Orders", "agent@demo.test")
    assert mail["Message-ID"].endswith("@example.net>")
