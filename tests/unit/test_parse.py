"""What parse makes of good mail, of odd mail and of mail written to break it."""

import base64
import re
from email.message import EmailMessage

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailagent.core.errors import PermanentError
from mailagent.core.names import MAX_BYTES, distinct, safe_name
from mailagent.core.parse import MAX_DEPTH, MAX_HEADER, MAX_PARTS, REPLY_MARKER, parse
from mailagent.core.values import Inbound
from tests.unit.mails import COMPLETE

FROM = b"From: Customer <customer@example.org>"
CSV = b"region,revenue\r\nnorth,1\r\nsouth,2\r\n"


def mail(*fields: bytes, body: bytes = b"hello\r\n", sender: bytes = FROM) -> bytes:
    return b"\r\n".join([sender, b"To: agent@example.test", *fields, b"", body])


def multipart(kind: str, *parts: bytes, boundary: str = "b") -> tuple[bytes, bytes]:
    """Content-Type field and body."""
    lines = b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"'.encode(), lines + f"--{boundary}--\r\n".encode()


def part(content_type: str, body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([f"Content-Type: {content_type}".encode(), *fields, b"", body])


def attached(name: bytes, content_type: str = "text/csv") -> bytes:
    return part(content_type, CSV, b"Content-Disposition: attachment; " + name)


def parsed(kind: str, *parts: bytes) -> Inbound:
    field, body = multipart(kind, *parts)
    return parse(mail(field, body=body))


def html(body: str) -> str:
    return parse(mail(b"Content-Type: text/html; charset=utf-8", body=body.encode())).text


def names(*fields: bytes) -> list[str]:
    return [a.name for a in parsed("mixed", *(attached(field) for field in fields)).attachments]


def test_a_plain_mail_is_understood() -> None:
    raw = mail(
        b"Cc: Colleague <Second@Example.ORG>",
        b"Subject: =?utf-8?q?Ums=C3=A4tze?=",
        b"Message-ID: <1@example.org>",
        b"In-Reply-To: <0@example.test>",
        b"References: <a@example.test>\r\n <0@example.test>",
        b"Authentication-Results: mx.example.test; dmarc=pass",
        b"Authentication-Results: other.test; none",
    )
    assert parse(raw) == Inbound(
        message_id="<1@example.org>",
        sender="customer@example.org",
        sender_name="Customer",
        recipients=("agent@example.test", "second@example.org"),
        subject="Umsätze",
        text="hello",
        quoted="",
        in_reply_to=("<0@example.test>",),
        references=("<a@example.test>", "<0@example.test>"),
        attachments=(),
        automatic="",
        authentication=("mx.example.test; dmarc=pass", "other.test; none"),
        defects=(),
    )


def test_lines_may_end_in_lf_alone() -> None:
    found = parse(mail(b"Message-ID: <1@example.org>", body=b"one\r\ntwo").replace(b"\r\n", b"\n"))
    assert (found.message_id, found.text) == ("<1@example.org>", "one\ntwo")


# Message-ID


@pytest.mark.parametrize(
    "field",
    [b"Message-ID: <>", b"Message-ID: <a\r\n b@c>", b"Message-ID:", b"Message-ID: <" + b"x" * 300 + b"@a>", b"X: y"],
    ids=["empty", "folded inside", "blank", "long", "missing"],
)
def test_an_unusable_message_id_is_replaced_by_one_made_from_the_bytes(field: bytes) -> None:
    found = parse(mail(field)).message_id
    assert re.fullmatch(r"<[0-9a-f]{32}@missing\.invalid>", found)
    assert found == parse(mail(field)).message_id
    assert found != parse(mail(field, body=b"other")).message_id


@pytest.mark.parametrize("written", ["<[x]@[y]>", "<no-at-sign>", "<" + "A" * 64 + "@prod.outlook.test>"])
def test_an_odd_message_id_is_kept(written: str) -> None:
    assert parse(mail(f"Message-ID:\r\n {written}".encode())).message_id == written


# The sender


@pytest.mark.parametrize(
    ("written", "address", "name"),
    [
        ("customer@example.org", "customer@example.org", ""),
        ("<Customer@EXAMPLE.org>", "customer@example.org", ""),
        ('"Doe, Jane (Sales)" <jane.doe@example.org>', "jane.doe@example.org", "Doe, Jane (Sales)"),
        (r'"a \"b\" c" <a@example.org>', "a@example.org", 'a "b" c'),
        ("a@example.org (Jane (the elder))", "a@example.org", ""),
        ("=?utf-8?q?J=C3=BCrgen?= =?utf-8?b?IE0=?= <a@example.org>", "a@example.org", "Jürgen M"),
        ("=?utf-8?q?J=C3?= =?utf-8?q?=BC?= <a@example.org>", "a@example.org", "Jü"),
        ("=?iso-8859-1*en?Q?Ren=E9?= <a@example.org>", "a@example.org", "René"),
        ("=?utf-8?q?Bob=0D=0ABcc=3A_x?= <a@example.org>", "a@example.org", "Bob Bcc: x"),
        ('"a@example.org" <a@example.org>', "a@example.org", "a@example.org"),
        ("Jürgen <a@bücher.example>", "a@xn--bcher-kva.example", "Jürgen"),
        ("a@straße.example", "a@xn--strae-oqa.example", ""),
    ],
)
def test_one_clear_sender_is_believed(written: str, address: str, name: str) -> None:
    found = parse(mail(sender=f"From: {written}".encode()))
    assert (found.sender, found.sender_name, found.defects) == (address, name, ())


@pytest.mark.parametrize(
    "sender",
    [
        b"From: a@example.org <evil@example.test>",
        b'From: "a@example.org" <evil@example.test>',
        b"From: =?utf-8?q?a=40example.org?= <evil@example.test>",
        b"From: a@example.org, evil@example.test",
        b"From: A <a@example.org>, B <evil@example.test>",
        b"From: friends: a@example.org;",
        b"From: undisclosed-recipients:;",
        b"From: <a@example.org",
        b"From: A <a@example.org> <evil@example.test>",
        b"From: <@relay.test:a@example.org>",
        b"From: a@[127.0.0.1]",
        b"From: a@example.org\0",
        b'From: "a b"@example.org',
        b"From: a@example..org",
        b"From: MAILER-DAEMON",
        b"From:",
        b"From: " + b"(" * 3000 + b"a@example.org",
        b'From: "unending <a@example.org>',
        b"From: \xff\xfe <\xff@example.org>",
        b"From: a@example.org\r\nFrom: evil@example.test",
        b"Sender: a@example.org",
    ],
)
def test_a_sender_that_two_readers_could_take_for_two_is_a_defect(sender: bytes) -> None:
    found = parse(mail(sender=sender))
    assert (found.sender, len(found.defects)) == ("", 1)


# Fields


def test_a_subject_cannot_carry_line_breaks() -> None:
    found = parse(mail(b"Subject: =?utf-8?q?hi=0D=0ABcc:_victim=40example.test?=")).subject
    assert found == "hi Bcc: victim@example.test"


@pytest.mark.parametrize(
    ("field", "subject"),
    [
        (b"Subject: Ums\xc3\xa4tze", "Umsätze"),
        (b"Subject: Ums\xe4tze", "Umsätze"),
        (b"Subject: =?x-unknown?q?Ums=C3=A4tze?=", "Umsätze"),
        (b"Subject: =?idna?b?//8=?= x", "\ufffd\ufffd x"),
        (b"Subject: =?utf-8?b?a?= x", "a x"),
        (b"Subject: two\r\n\tlines", "two lines"),
        (b"Subject: =?utf-8?q?a?= =?iso-8859-1?q?=E4?= =?utf-8?q?=00b=1Bc?=", "aä b c"),
        (b"Subject: a =?utf-8?q?b?= c =?utf-8?q?d?=\r\n =?utf-8?q?e?=", "a b c de"),
        (b"Subject: \xe2\x80\xaenot hidden", "\u202enot hidden"),
    ],
)
def test_subjects_are_decoded(field: bytes, subject: str) -> None:
    assert parse(mail(field)).subject == subject


def test_a_huge_subject_is_cut() -> None:
    assert parse(mail(b"Subject: " + b"a " * 30_000)).subject == ("a " * 500).strip()


def test_three_thousand_recipients_are_cut() -> None:
    to = b"Cc: " + b", ".join(b"u%d@example.test" % n for n in range(3_000))
    found = parse(mail(to)).recipients
    assert found[:2] == ("agent@example.test", "u0@example.test")
    assert len(found) < 1000


def test_recipients_are_the_plain_addresses_in_whatever_else_stands_there() -> None:
    field = b'Cc: "x@hidden.test, y" <One@example.test>, group: two@example.test;, (c@c.test) broken@, =?x?=, @'
    assert parse(mail(field)).recipients == ("agent@example.test", "one@example.test", "two@example.test")


def test_where_servers_delivered_it_is_told_apart_from_whom_it_was_written_to() -> None:
    noted = b"Delivered-To: agent+tag@example.test\nDelivered-To: team@example.test\nX-Original-To: <a@example.test>"
    found = parse(mail(noted))
    assert found.delivered_to == ("agent+tag@example.test", "team@example.test", "a@example.test")
    assert found.recipients == ("agent@example.test",)


def test_ids_that_are_none_are_left_out() -> None:
    found = parse(mail(b"References: junk <a@x><b@x>\r\n <c d@x> <> <a@x>", b"In-Reply-To: Your message of Monday"))
    assert (found.references, found.in_reply_to) == (("<a@x>", "<b@x>"), ())


# Limits


def nested(levels: int) -> bytes:
    types = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(levels))
    return FROM + b"\r\n" + b"".join(types)


@pytest.mark.parametrize(
    "raw",
    [
        nested(2_000),
        nested(MAX_DEPTH + 2),
        FROM + b"\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 1_000,
        mail(*multipart("mixed", *[b"\r\nx"] * 100_000)[:1], body=multipart("mixed", *[b"\r\nx"] * 100_000)[1]),
        mail(*multipart("mixed", *[b"\r\nx"] * (MAX_PARTS + 1))[:1], body=b"--b\r\n\r\nx\r\n" * (MAX_PARTS + 1)),
        mail(b"Subject: " + b"a " * 500_000),
        mail(b"Cc: " + b", ".join(b"u%d@example.test" % n for n in range(30_000))),
        b"no header and no empty line " * 5_000,
        mail(b"Content-Type: multipart/mixed; boundary*" + b"9" * 5_000 + b"=x"),
        mail(b"Content-Disposition: attachment; filename*" + b"9" * 5_000 + b"=x"),
        mail(b"Content-Type: text/html", body=b"<div>" * 300_000),
    ],
    ids=[
        "2000 levels",
        "22 levels",
        "1000 messages",
        "100000 parts",
        "101 parts",
        "1 MB subject",
        "30000 recipients",
        "no header",
        "boundary*9…",
        "name*9…",
        "divs",
    ],
)
def test_what_cannot_be_understood_is_refused_in_plain_words(raw: bytes) -> None:
    with pytest.raises(PermanentError, match=r"^The mail.*\.$"):
        parse(raw)


def test_a_hundred_parts_and_twenty_levels_are_understood() -> None:
    assert len(parsed("mixed", *[attached(b"filename=x.csv")] * MAX_PARTS).attachments) == MAX_PARTS
    assert parse(nested(MAX_DEPTH)).text == ""


def test_a_field_of_many_parameters_is_cut() -> None:
    assert parse(mail(b"Content-Type: text/plain" + b"; a=b" * 10_000)).text == "hello"
    assert parsed("mixed", part("text/plain" + "; a=b" * 200_000, b"hello")).text == "hello"


def header_of(size: int, end: bytes) -> bytes:
    """A mail whose header, the line end of its last field included, has this many bytes."""
    start = FROM + end + b"X: "
    return start + b"x" * (size - len(start) - len(end)) + end + end + b"hello"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_64_kb_of_header_are_read_and_no_more(end: bytes) -> None:
    assert parse(header_of(MAX_HEADER, end)).text == "hello"
    with pytest.raises(PermanentError, match=r"^The mail's header has more than 64 KB\.$"):
        parse(header_of(MAX_HEADER + 2, end) + b"x" * MAX_HEADER)


# Charsets


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("iso-8859-1", "Umsätze – „gut“".encode("cp1252"), "Umsätze – „gut“"),
        ("us-ascii", "Umsätze".encode(), "Umsätze"),
        ("unknown-8bit", "Umsätze".encode(), "Umsätze"),
        ("X-UNKNOWN", "Umsätze im Süden".encode("latin-1"), "Umsätze im Süden"),
        ("base64", b"plain", "plain"),
        ("idna", b"plain", "plain"),
        ("utf-7", b"+AGE-", "+AGE-"),
        ("unicode_escape", rb"\u0041", r"\u0041"),
        ("\0", b"plain", "plain"),
        ("utf-8", b"\xef\xbb\xbfBOM", "BOM"),
        ("gb2312", "你好，世界".encode("gb18030"), "你好，世界"),
        ("iso-2022-jp", "売上".encode("iso-2022-jp"), "売上"),
        ("utf-8", b"a\x00b\x1b[31mc\r\nd\re", "ab[31mc\nd\ne"),
    ],
)
def test_text_is_decoded_as_declared_or_as_it_is(charset: str, body: bytes, text: str) -> None:
    assert parse(mail(f'Content-Type: text/plain; charset="{charset}"'.encode(), body=body)).text == text


def test_bytes_in_no_charset_become_some_text() -> None:
    assert parse(mail(b"Content-Type: text/plain; charset=utf-8", body=bytes(range(128, 256)) * 3)).text


# Text


def test_plain_text_is_preferred_to_html() -> None:
    found = parsed("alternative", part("text/html", b"<p>rich"), part("text/plain", b"plain"))
    assert (found.text, found.attachments) == ("plain", ())


def test_html_is_read_when_the_plain_text_is_blank() -> None:
    assert parsed("alternative", part("text/plain", b" \r\n"), part("text/html", b"<p>rich")).text == "rich"


def test_words_after_an_attachment_are_words_too() -> None:
    found = parsed("mixed", part("text/plain", b"above"), attached(b"filename=x.csv"), part("text/plain", b"below"))
    assert found.text == "above\n\n\nbelow".replace("\n\n\n", "\n\n")


@pytest.mark.parametrize("field", [b"Content-Type: multipart/mixed", b"Content-Type: multipart/mixed; boundary=never"])
def test_the_words_of_a_multipart_without_parts_are_kept(field: bytes) -> None:
    assert parse(mail(field)).text == "hello"


def test_html_becomes_lines_and_tables_become_tabs() -> None:
    found = html(
        "<style>p{}</style><script>x()</script><!-- no --><p>Hello  <b>you</b>,\n there</p><div>one<br>two</div>"
        "<ul><li>a<li>b</ul><table><tr><th></th><th>Q1</th></tr><tr><td><p>north</p></td><td>1&nbsp;000</td></tr>"
        "</table><pre>x  y\n z</pre>end"
    )
    assert found == "Hello you, there\n\none\ntwo\n- a\n- b\n\tQ1\nnorth\t1 000\nx  y\n z\nend"


@pytest.mark.parametrize(
    "style",
    ["display:none", "DISPLAY : None", "visibility:hidden", "font-size:0", "font-size: 0px", "opacity:0", "color:#FFF",
     "color:white;margin:0", "mso-hide:all", "color: rgb(255, 255, 255)"],
)  # fmt: skip
def test_what_html_hides_is_not_read(style: str) -> None:
    assert html(f'<p>seen<span style="{style}">hidden<b>deeper</b></span></p>') == "seen"
    assert html("<p>seen</p><p hidden>hidden</p><template>hidden</template>") == "seen"


@pytest.mark.parametrize(
    "style", ["font-size:0.9em", "opacity:0.5", "color:#fff;background:#000", "background-color:#fff"]
)
def test_what_html_shows_is_read(style: str) -> None:
    assert html(f'<div style="{style}">seen</div>') == "seen"
    assert html('<table bgcolor="#000"><tr><td style="color:#fff">seen</td></tr></table>') == "seen"


# Own words and history


REPLY = f"{REPLY_MARKER}\nNorth leads.\n\nregion revenue\nnorth 1"
QUOTED = "".join(f"> {line}\n" for line in REPLY.split("\n"))


@pytest.mark.parametrize(
    "history",
    [
        f"On Mon, 3 Mar 2025 at 10:00, mailagent <agent@example.test>\nwrote:\n{QUOTED}",
        f"Am 03.03.25 um 10:00 schrieb mailagent:\n{QUOTED}",
        f"-----Original Message-----\nFrom: mailagent\nTo: Customer\nSubject: Re: data\n\n{REPLY}",
        f"From: mailagent <agent@example.test>\nSent: Monday\nTo: Customer\nSubject: Re: data\n\n{REPLY}",
        f"________________________________\nVon: mailagent\nGesendet: Montag\n\n{REPLY}",
        QUOTED,
        REPLY,
        "\n".join(f"> *{line}*" for line in REPLY.split("\n")),
    ],
    ids=["gmail", "thunderbird-de", "outlook-old", "outlook", "owa-de", "bare", "cut", "starred"],
)
def test_the_history_below_an_answer_is_told_apart(history: str) -> None:
    found = parse(mail(body=f"And by region?\n\n{history}".encode()))
    assert found.text == "And by region?"
    assert "North leads." in found.quoted


def test_history_in_html_is_told_apart() -> None:
    found = parse(
        mail(
            b"Content-Type: text/html",
            body=b'<div>And by region?<div><br></div></div><div class="gmail_quote"><div>On Mon, mailagent wrote:</div>'
            b"<blockquote><p>-- reply above this line --</p><p>North leads.</p></blockquote></div>",
        )
    )
    assert found.text == "And by region?"
    assert "> North leads." in found.quoted


def test_words_below_a_quote_are_not_lost() -> None:
    found = parse(mail(body=f"On Mon, mailagent wrote:\n{QUOTED}\nAnd by region?\n".encode()))
    assert found.text == "And by region?"
    assert "North leads." in found.quoted
    unmarked = parse(mail(body=b"On Mon, mailagent wrote:\n> a\n> b\n\nAnd by region?\n"))
    assert unmarked.text == "And by region?"


@pytest.mark.parametrize("body", [QUOTED, "Begin forwarded message:\n\nFrom: a\nTo: b\n\nnorth 1\n", "> a\n> b\n> c"])
def test_when_nothing_of_ones_own_is_left_the_whole_text_is(body: str) -> None:
    found = parse(mail(body=body.encode()))
    assert (found.text, found.quoted) == (body.strip(), "")


def test_a_sentence_about_the_marker_is_no_marker() -> None:
    assert parse(mail(body=b"Why does it say reply above this line there?\nTell me.")).quoted == ""


def test_words_behind_what_quotequail_sees_are_kept() -> None:
    body = "\n".join(f"{n} words of my own" for n in range(5_000))
    assert parse(mail(body=body.encode())).text == body
    answered = f"On Mon, mailagent wrote:\n{QUOTED}\n{body}"
    assert parse(mail(body=answered.encode())).text == body


@pytest.mark.parametrize(
    "body",
    [("w" * 900 + "\n") * 100 + "On Monday mailagent wrote:\n> old", "words\nOn " + "x" * 2_000 + " wrote:\n> a\n> b"],
    ids=["far below", "in a long line"],
)
def test_a_quote_is_not_looked_for_where_looking_costs_too_much(body: str) -> None:
    assert parse(mail(body=body.encode())).text == body


# Attachments


def test_attachments_come_with_name_type_and_bytes() -> None:
    packed = part("application/octet-stream", base64.encodebytes(b"PAR1"), b"Content-Transfer-Encoding: base64",
                  b"Content-Disposition: attachment; filename=y.parquet")  # fmt: skip
    found = parsed("mixed", part("text/plain", b"hi"), attached(b"filename=x.csv"), packed)
    assert [(a.name, a.media_type, a.data) for a in found.attachments] == [
        ("x.csv", "text/csv", CSV),
        ("y.parquet", "application/octet-stream", b"PAR1"),
    ]
    assert found.text == "hi"


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b'filename="../../etc/passwd"', "passwd"),
        (b"filename*=utf-8''..%2F..%2Fx.csv", "x.csv"),
        (rb'filename="C:\\temp\\x.csv"', "x.csv"),
        (b"filename*=utf-8''a%00b.csv", "ab.csv"),
        (b"filename*=utf-16''x.csv", "x.csv"),
        (b"filename*=idna''x.csv", "x.csv"),
        (b'filename="=?utf-8?q?a=0D=0Ab.csv?="', "ab.csv"),
        (b'filename="=?utf-8?b?w7x4LmNzdg==?="', "üx.csv"),
        (b"filename*=utf-8''%e2%80%aevsc.exe", "vsc.exe"),
        (b"filename*0=\"a\"; filename*1=\"b.csv\"", "ab.csv"),
        (b'filename="u\xcc\x88.csv"', "ü.csv"),
        (b'filename="CON.csv"', "_CON.csv"),
        (b'filename="nul"', "_nul"),
        (b'filename="a<b>:c|d?.csv"', "a_b__c_d_.csv"),
        (b'filename="-rf.csv"', "_-rf.csv"),
        (b'filename=".. "', "attachment-1.csv"),
        (b'filename=".htaccess"', "htaccess"),
        (b'filename=""', "attachment-1.csv"),
        (b'filename="x.csv. . ."', "x.csv"),
        (b'filename="' + b"x" * 5_000 + b'.csv"', "x" * 96 + ".csv"),
        (b'filename="' + b"\xc3\xbc" * 500 + b'.csv"', "ü" * 48 + ".csv"),
    ],
)  # fmt: skip
def test_names_are_made_safe(field: bytes, name: str) -> None:
    assert names(field) == [name]


def test_the_name_may_stand_in_the_content_type() -> None:
    found = parsed("mixed", part('text/plain; name="notes.txt"', b"a"), part("application/octet-stream", b"b"))
    assert [a.name for a in found.attachments] == ["notes.txt", "attachment-2"]


def test_two_attachments_of_one_name_are_kept_apart() -> None:
    given = [b"filename=x.csv", b"filename=X.csv", b'filename="x (2).csv"', b"filename=x.csv"]
    assert names(*given) == ["x.csv", "X (2).csv", "x (2) (2).csv", "x (3).csv"]


def test_pictures_of_the_text_signatures_and_calendars_are_no_files() -> None:
    found = parsed(
        "mixed",
        part("text/html", b'<p>hi<img src="cid:logo%40x">'),
        part("image/png", b"1", b"Content-ID: <logo@x>", b"Content-Disposition: attachment; filename=logo.png"),
        part("image/png", b"2", b"Content-Disposition: inline; filename=shot.png"),
        part("image/jpeg", b"3", b"Content-ID: <not-shown>", b"Content-Disposition: attachment; filename=photo.jpg"),
        part("text/calendar; method=REQUEST", b"BEGIN:VCALENDAR"),
        part("application/octet-stream; name=invite.ics", b"BEGIN:VCALENDAR"),
        part("application/pkcs7-signature; name=smime.p7s", b"s"),
        part("application/pgp-signature", b"s"),
        part(
            "message/external-body; access-type=url; url=http://example.test/x.csv", b"Content-Type: text/csv\r\n\r\n"
        ),
        part("text/csv; name=x.csv", CSV, b"Content-Disposition: inline; filename=x.csv"),
    )
    assert [a.name for a in found.attachments] == ["photo.jpg", "x.csv"]


def test_a_forwarded_mail_gives_its_words_as_history_and_its_files() -> None:
    field, body = multipart("mixed", part("text/plain", b"please look"), attached(b"filename=x.csv"), boundary="inner")
    inner = b"From: Colleague <c@example.org>\r\nSubject: figures\r\n" + field + b"\r\n\r\n" + body
    wrapped = part("message/rfc822", inner, b"Content-Disposition: attachment; filename=mail.eml")
    found = parsed("mixed", part("text/plain", b"see below"), attached(b"filename=x.csv"), wrapped)
    assert found.text == "see below"
    assert found.quoted == "Forwarded message\nFrom: Colleague <c@example.org>\nSubject: figures\n\nplease look"
    assert [a.name for a in found.attachments] == ["x.csv", "x (2).csv"]


def forwarded_mail() -> bytes:
    field, body = multipart("mixed", part("text/plain", b"please look"), attached(b"filename=x.csv"), boundary="inner")
    return b"From: Colleague <c@example.org>\r\nSubject: figures\r\n" + field + b"\r\n\r\n" + body


BASE64 = b"Content-Transfer-Encoding: base64"


@pytest.mark.parametrize("encoding", [BASE64, b"Content-Transfer-Encoding: 8bit"])
@pytest.mark.parametrize(
    "kind", ["message/rfc822", "message/rfc822; name=mail.eml", "application/octet-stream; name=Mail.EML"]
)
def test_a_forwarded_mail_is_opened_however_it_is_wrapped(kind: str, encoding: bytes) -> None:
    inner = base64.encodebytes(forwarded_mail()) if encoding == BASE64 else forwarded_mail()
    found = parsed("mixed", part("text/plain", b"see below"), part(kind, inner, encoding))
    assert (found.text, found.quoted.split("\n")[0]) == ("see below", "Forwarded message")
    assert "please look" in found.quoted
    assert [(a.name, a.data) for a in found.attachments] == [("x.csv", CSV)]


@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [
        ("message/rfc822", b"not base64, not a mail", []),
        ("message/rfc822", b"AAAA", []),
        ("application/octet-stream; name=x.eml", base64.encodebytes(b"\x00 no mail"), ["x.eml"]),
    ],
)
def test_what_is_no_mail_is_not_opened(kind: str, data: bytes, name: list[str]) -> None:
    found = parsed("mixed", part("text/plain", b"see below"), part(kind, data, BASE64))
    assert (found.text, [a.name for a in found.attachments]) == ("see below", name)


def test_mails_wrapped_in_one_another_are_counted_like_any_parts() -> None:
    inner = forwarded_mail()
    for _ in range(MAX_DEPTH):
        inner = b"From: a@example.org\r\n" + part("message/rfc822", base64.encodebytes(inner), BASE64)
    with pytest.raises(PermanentError, match="more than 20 deep"):
        parse(inner)
    wide = part("application/octet-stream; name=a.eml", base64.encodebytes(forwarded_mail()), BASE64)
    assert len(parsed("mixed", *[wide] * 20).attachments) == 20
    with pytest.raises(PermanentError, match="more than 100 parts"):
        parsed("mixed", *[wide] * 40)


@pytest.mark.parametrize(
    "signature",
    [
        part("application/pkcs7-signature; name=smime.p7s", b"MIAG", BASE64),
        part("application/x-pkcs7-signature; name=smime.p7s", b"MIAG", BASE64),
        part("application/pgp-signature; name=signature.asc", b"-----BEGIN PGP SIGNATURE-----"),
        part("application/octet-stream; name=signature.asc", b"-----BEGIN PGP SIGNATURE-----"),
        part("application/pgp-keys; name=OpenPGP_0x1.asc", b"-----BEGIN PGP PUBLIC KEY BLOCK-----"),
    ],
)
def test_a_signed_mail_is_what_was_signed(signature: bytes) -> None:
    field, body = multipart("mixed", part("text/plain", b"signed"), attached(b"filename=x.csv"), boundary="inner")
    found = parsed(
        'signed; protocol="application/pkcs7-signature"; micalg=sha-256', field + b"\r\n\r\n" + body, signature
    )
    assert (found.text, [a.name for a in found.attachments]) == ("signed", ["x.csv"])


def test_an_invitation_beside_the_words_is_no_file_and_no_words() -> None:
    calendar = part(
        "text/calendar; method=REQUEST; name=meeting.ics", b"BEGIN:VCALENDAR", b"Content-Disposition: inline"
    )
    found = parsed("alternative", part("text/plain", b"let us meet"), part("text/html", b"<p>let us meet"), calendar)
    assert (found.text, found.attachments) == ("let us meet", ())
    assert parsed("mixed", calendar).text == ""


@pytest.mark.parametrize("content_type", ["weird", "a/b/c", "text/x\xff", "x" * 300 + "/y", "/"])
def test_an_odd_media_type_is_none(content_type: str) -> None:
    found = parsed("mixed", attached(b"filename=x.csv", content_type))
    assert [(a.name, a.media_type in ("text/plain", "application/octet-stream")) for a in found.attachments] == [
        ("x.csv", True)
    ]


@given(st.text(max_size=300))
@example("..\u202e/\x00")
@example("COM¹.x")
def test_no_name_is_unsafe(raw: str) -> None:
    name = safe_name(raw, "attachment-1")
    assert 0 < len(name.encode()) <= MAX_BYTES
    assert not re.search(r'[/\\<>:"|?*\x00-\x1f\u202a-\u202e\u2066-\u2069]', name)
    assert not name.startswith((".", "-", "~"))
    assert not name.endswith((".", " "))


@given(st.lists(st.sampled_from(["x.csv", "X.CSV", "x (2).csv", "y" * 100, "ß", "ss"]), max_size=20))
def test_names_differ_even_where_case_does_not_count(given: list[str]) -> None:
    found = distinct(given)
    assert len({name.casefold() for name in found}) == len(given)
    assert all(len(name.encode()) <= MAX_BYTES for name in found)


# Machines


@pytest.mark.parametrize(
    "fields",
    [
        [b"Auto-Submitted: auto-replied"],
        [b"Auto-Submitted: auto-generated; type=report"],
        [b"Auto-Submitted:"],
        [b"Auto-Submitted: no", b"Auto-Submitted: auto-notified"],
        [b"Return-Path: <>"],
        [b"Return-Path:"],
        [b"Content-Type: multipart/report; report-type=delivery-status; boundary=b"],
        [b"Content-Type: multipart/report; report-type=disposition-notification; boundary=b"],
        [b"X-Failed-Recipients: customer@example.org"],
        [b"Precedence: bulk"],
        [b"Precedence: Junk"],
        [b"Precedence: list"],
        [b"X-Precedence: auto_reply"],
        [b"List-Id: <list.example.org>"],
        [b"List-Post: <mailto:list@example.org>"],
        [b"List-Unsubscribe: <https://example.org/>"],
        [b"X-Autoreply: yes"],
        [b"X-Autorespond: yes"],
        [b"X-Auto-Response-Suppress: All"],
        [b"X-MailAgent-Loop: other-instance"],
        [b"Message-ID: <ma.abcdefgh234567ij@example.test>"],
        [b"Subject: Automatic reply: your data"],
        [b"Subject: Out of Office"],
        [b"Subject: Out of Office AutoReply: your data"],
        [b"Subject: =?utf-8?q?Abwesenheitsnotiz=3A_Ihre_Daten?="],
        [b"Subject: Automatische Antwort: Daten"],
        ["Subject: Réponse automatique : données".encode()],
        ["Subject: Respuesta automática: datos".encode()],
        ["Subject: Resposta automática: dados".encode()],
        [b"Subject: Risposta automatica: dati"],
        [b"Subject: Automatisch antwoord: data"],
        [b"Subject: Autosvar: data"],
        [b"Subject: Automaattinen vastaus: data"],
        ["Subject: Automatyczna odpowiedź: dane".encode()],
        ["Subject: Автоответ: данные".encode()],
        ["Subject: 自動応答: データ".encode()],
        ["Subject: 自动答复：数据".encode()],
    ],
)  # fmt: skip
def test_what_a_machine_wrote_is_known(fields: list[bytes]) -> None:
    assert parse(mail(*fields)).automatic


@pytest.mark.parametrize(
    "local", ["mailer-daemon", "MAILER-DAEMON", "postmaster", "no-reply", "noreply+x", "do_not_reply"]
)
def test_what_a_machine_s_address_wrote_is_known(local: str) -> None:
    assert parse(mail(sender=f"From: x <{local}@example.org>".encode())).automatic


@pytest.mark.parametrize(
    "field",
    [
        b"Auto-Submitted: no",
        b"Auto-Submitted: No (really)",
        b"Return-Path: <customer@example.org>",
        b"Precedence: first-class",
        b"Subject: Out of office days per team in 2024",
        b"Subject: Automatic replies by month",
        b"Message-ID: <ma.not-one-of-ours@example.org>",
    ],
)
def test_a_person_is_not_taken_for_a_machine(field: bytes) -> None:
    assert parse(mail(field)).automatic == ""


# Everything else


def samples() -> list[bytes]:
    message = EmailMessage()
    message["From"], message["To"] = "Jürgen <customer@example.org>", "agent@example.test"
    message["Subject"], message["Message-ID"] = "Umsätze", "<1@example.org>"
    message.set_content("Hällo\n> quoted\n")
    message.add_alternative("<p>Hi<blockquote>old</blockquote>", subtype="html")
    message.add_attachment(CSV, "text", "csv", filename="Umsätze.csv")
    outer = EmailMessage()
    outer["From"] = "a@example.org"
    outer.set_content("see")
    outer.add_attachment(message)
    folded = mail(b"Content-Disposition: attachment; filename*0*=utf-8''a%20; filename*1=b", b"Content-Type: text/html")
    wrapped = mail(BASE64, b"Content-Type: message/rfc822", body=base64.encodebytes(forwarded_mail()))
    return [bytes(message), bytes(outer), folded, wrapped, *COMPLETE.values()]


TOKENS = (
    b'\r\n|\r\n\r\n|--|=?utf-8?b?|?=|boundary=|multipart/|message/rfc822|charset=|\x00|\xff|"|(|<|>|filename*0*=|'
    b"utf-16''%ff|From: |base64|<table>|<td>|</blockquote>|<blockquote type=cite>|<div class=gmail_quote>|\t1\n\t2|"
    b"x-uuencode|Content-Type: |Content-Transfer-Encoding: "
).split(b"|")
EDIT = st.tuples(st.integers(0, 4_000), st.integers(0, 40), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8)))


@settings(max_examples=300)
@given(st.sampled_from(samples()), st.lists(EDIT, min_size=1, max_size=12))
def test_a_mutated_mail_is_a_value_or_a_permanent_error(raw: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for at, length, new in edits:
        at %= len(raw) + 1
        raw = raw[:at] + new + raw[at + length :]
    try:
        found = parse(raw)
    except PermanentError:
        return
    repr(found).encode()  # no half surrogates: it can be stored
    assert all("\r" not in value and "\n" not in value for value in (found.subject, found.sender, found.sender_name))
    assert bool(found.sender) != bool(found.defects)
    assert re.fullmatch(r"<[\x21-\x7e]{1,250}>", found.message_id)
    assert len({a.name.casefold() for a in found.attachments}) == len(found.attachments)
    assert all(re.fullmatch(r"<[\x21-\x7e]{1,250}>", one) for one in found.bounces)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_stumble(raw: bytes) -> None:
    try:
        parse(raw)
        parse(FROM + b"\r\nContent-Type: " + raw)
    except PermanentError:
        pass
