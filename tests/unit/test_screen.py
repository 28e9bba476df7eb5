"""Who is answered and who is not, and what mail holds nothing to work on."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.parse import parse
from mailagent.core.screen import FASTMAIL, MICROSOFT_365, Notice, Rule, nothing_to_do, proven, rule_for, screen
from mailagent.core.values import Accept, Attachment, Ignore, Inbound

OWN = "agent@example.test"
MX = "mx.example.test"
PASS = f"{MX}; dmarc=pass header.from=example.org"
ALLOWED = (Rule(addresses=("customer@example.org",)),)
PLAIN = Inbound(
    message_id="<1@example.org>",
    sender="customer@example.org",
    sender_name="",
    recipients=(OWN,),
    subject="",
    text="",
    quoted="",
    in_reply_to=(),
    references=(),
    attachments=(),
    automatic="",
    authentication=(PASS,),
    defects=(),
)


def with_files(*names: str, media_type: str = "application/octet-stream") -> Inbound:
    return replace(PLAIN, attachments=tuple(Attachment(name, media_type, b"") for name in names))


# Who


def test_an_allowed_and_proven_sender_is_accepted() -> None:
    assert screen(PLAIN, ALLOWED, OWN, MX) == Accept()
    assert screen(PLAIN, [Rule(domains=("Example.ORG",))], OWN, MX) == Accept()


@pytest.mark.parametrize(
    ("changes", "rules", "reason"),
    [
        ({"sender": OWN}, [Rule(domains=("example.test",), proof="none")], "own address"),
        ({"sender": "agent+tag@example.test"}, [Rule(domains=("example.test",), proof="none")], "own address"),
        ({"automatic": "Auto-Submitted says so"}, ALLOWED, "machine"),
        ({"automatic": "x", "defects": ("y",)}, ALLOWED, "machine"),
        ({"sender": "", "defects": ("2 From fields instead of one",)}, [Rule(proof="none")], "2 From fields"),
        ({"defects": ("odd",)}, ALLOWED, "odd"),
        ({}, [], "no allow rule"),
        ({"sender": "other@example.org"}, ALLOWED, "no allow rule"),
        ({"sender": "a@sub.example.org"}, [Rule(domains=("example.org",))], "no allow rule"),
        ({"sender": "a@badexample.org"}, [Rule(domains=("example.org",))], "no allow rule"),
        ({"authentication": ()}, ALLOWED, "not proven"),
        ({"authentication": (f"{MX}; dmarc=fail header.from=example.org",)}, ALLOWED, "not proven"),
    ],
)
def test_everybody_else_is_ignored(changes: dict[str, object], rules: list[Rule], reason: str) -> None:
    verdict = screen(replace(PLAIN, **changes), rules, OWN, MX)  # type: ignore[arg-type]
    assert isinstance(verdict, Ignore)
    assert reason in verdict.reason


def test_no_proof_is_asked_for_only_where_a_rule_says_so() -> None:
    bare = replace(PLAIN, authentication=())
    assert screen(bare, [Rule(domains=("example.org",), proof="none")], OWN, "") == Accept()
    assert isinstance(screen(bare, [*ALLOWED, Rule(domains=("other.org",), proof="none")], OWN, ""), Ignore)


PERSON = Rule(addresses=("Customer@Example.org",), mails_per_day=1)
HOUSE = Rule(domains=("example.org",), mails_per_day=2)
GUEST = Rule(addresses=("guest@example.org",), domains=("example.net",), mails_per_day=3)


@pytest.mark.parametrize(
    ("sender", "rules", "rule"),
    [
        ("customer@example.org", [HOUSE, PERSON], PERSON),
        ("customer@example.org", [HOUSE, replace(PERSON, mails_per_day=9), PERSON], replace(PERSON, mails_per_day=9)),
        ("other@example.org", [PERSON, GUEST, HOUSE], HOUSE),
        ("other@example.org", [replace(HOUSE, mails_per_day=9), HOUSE], replace(HOUSE, mails_per_day=9)),
        ("guest@example.org", [HOUSE, PERSON, GUEST], GUEST),
        ("other@example.net", [PERSON, HOUSE, GUEST], GUEST),
        ("guest@example.net.org", [PERSON, HOUSE, GUEST], None),
        ("", [Rule(addresses=("", "@"), domains=("", "odd domain", "-"))], None),
        ("anna@xn--exmple-cua.org", [Rule(domains=("Exämple.org",))], Rule(domains=("Exämple.org",))),
        ("anna@xn--exmple-cua.org", [Rule(addresses=("anna@exämple.org",))], Rule(addresses=("anna@exämple.org",))),
        ("anna@exmple.org", [Rule(domains=("exämple.org",))], None),
    ],
)
def test_the_most_specific_rule_holds(sender: str, rules: list[Rule], rule: Rule | None) -> None:
    assert rule_for(replace(PLAIN, sender=sender), rules) == rule


def test_a_rule_for_one_person_may_ask_for_more_than_that_for_the_house() -> None:
    bare = replace(PLAIN, authentication=())
    assert isinstance(screen(bare, [Rule(domains=("example.org",), proof="none"), PERSON], OWN, MX), Ignore)


def test_parts_of_idn_domains_are_compared_as_they_are_registered() -> None:
    mail = replace(PLAIN, sender="anna@xn--exmple-cua.org")
    for written in ("xn--exmple-cua.org", "exämple.org", "XN--EXMPLE-CUA.ORG"):
        assert proven(replace(mail, authentication=(f"{MX}; dmarc=pass header.from={written}",)), MX)
        assert proven(replace(mail, authentication=(f"{MX}; dkim=pass header.d={written}",)), MX)
    assert not proven(replace(mail, authentication=(f"{MX}; dmarc=pass header.from=example.org",)), MX)


# Machines

EXPORTS = (Rule(addresses=("exports@example.org", "no-reply@example.org"), domains=("example.org",), machines=True),)
EXPORT = f"Authentication-Results: {PASS}\r\nFrom: exports@example.org\r\nMessage-ID: <1@example.org>\r\n"


def written(*fields: str, sender: str = "exports@example.org") -> Inbound:
    """What `parse` makes of a mail with these fields that our own server vouches for."""
    head = EXPORT.replace("exports@example.org", sender) + "".join(f"{field}\r\n" for field in fields)
    return parse(f"{head}\r\nregion;revenue\r\nnorth;1\r\nsouth;2\r\n".encode())


@pytest.mark.parametrize(
    "mail",
    [
        written("Auto-Submitted: auto-generated"),
        written("Auto-Submitted: auto-generated (nightly)", "Precedence: bulk", "X-Auto-Response-Suppress: All"),
        written("Precedence: bulk"),
        written("List-Unsubscribe: <mailto:stop@example.org>"),
        written("X-Auto-Response-Suppress: OOF"),
        written(sender="no-reply@example.org"),
    ],
)
def test_an_export_is_let_in_where_a_rule_says_so_and_it_is_proven(mail: Inbound) -> None:
    assert mail.automatic
    assert screen(mail, EXPORTS, OWN, MX) == Accept()
    assert isinstance(screen(mail, [replace(EXPORTS[0], machines=False)], OWN, MX), Ignore)
    for unproven in (replace(EXPORTS[0], proof="none"), EXPORTS[0]):
        verdict = screen(replace(mail, authentication=()), [unproven], OWN, MX)
        assert isinstance(verdict, Ignore)
        assert "not proven" in verdict.reason


@pytest.mark.parametrize(
    "mail",
    [
        written("X-MailAgent-Loop: agent@example.test", "Auto-Submitted: auto-replied"),
        written("X-MailAgent-Loop: another@example.test"),
        written("Return-Path: <>"),
        written("Auto-Submitted: auto-replied"),
        written("Auto-Submitted: auto-generated", 'Content-Type: multipart/report; boundary="b"'),
        written("Auto-Submitted: auto-generated", "Return-Path: <>"),
        written("Precedence: bulk", "Subject: Out of office: Umsätze"),
        written("List-Id: <x.example.org>", "X-Autoreply: yes"),
        written("X-Failed-Recipients: agent@example.test"),
        written("X-Autoreply: yes"),
        written("X-Autorespond: yes"),
        written("Subject: Out of office: Umsätze"),
        written('Content-Type: multipart/report; report-type=delivery-status; boundary="b"'),
        written("Auto-Submitted: auto-generated", "In-Reply-To: <anything@example.test>"),
        written("Auto-Submitted: auto-generated", "References: <anything@example.test>"),
        written("Auto-Submitted: auto-generated", sender="mailer-daemon@example.org"),
        written("Auto-Submitted: auto-generated", sender="postmaster@example.org"),
        parse(EXPORT.replace("<1@example.org>", "<ma.abcdefgh234567ij@example.test>").encode() + b"\r\n"),
    ],
)
def test_answers_of_machines_and_our_own_mail_never_are(mail: Inbound) -> None:
    verdict = screen(mail, EXPORTS, OWN, MX)
    assert isinstance(verdict, Ignore)
    assert "a machine wrote it" in verdict.reason


def test_nor_is_a_mail_that_reports_a_bounce() -> None:
    for mail in (PLAIN, written("Auto-Submitted: auto-generated")):
        bounce = replace(mail, bounces=("<ma.abcdefgh234567ij@example.test>",))
        assert screen(bounce, EXPORTS, OWN, MX) == Ignore("it reports that another mail did not arrive")


@given(
    st.sampled_from([(), (PASS,), (f"{MX}; dmarc=fail",), ("other.test; dmarc=pass header.from=example.org",)]),
    st.sampled_from(["", "a machine"]),
    st.sampled_from([(), ("odd",)]),
    st.sampled_from(["customer@example.org", "stranger@example.net", OWN, ""]),
)
def test_only_a_clear_allowed_proven_person_is_ever_answered(
    authentication: tuple[str, ...], automatic: str, defects: tuple[str, ...], sender: str
) -> None:
    mail = replace(PLAIN, authentication=authentication, automatic=automatic, defects=defects, sender=sender)
    good = authentication == (PASS,) and not automatic and not defects and sender == "customer@example.org"
    assert isinstance(screen(mail, ALLOWED, OWN, MX), Accept if good else Ignore)


# Proof

GMAIL = (
    "mx.google.com;\r\n dkim=pass header.i=@example.org header.s=20230601 header.b=abc;\r\n spf=pass (google.com: "
    "domain of customer@example.org designates 192.0.2.1 as permitted sender) smtp.mailfrom=customer@example.org;\r\n "
    "dmarc=pass (p=NONE sp=NONE dis=NONE) header.from=example.org"
)
M365 = (
    "spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=example.org; dkim=pass (signature was verified) "
    "header.d=example.org;dmarc=pass action=none header.from=example.org;compauth=pass reason=100"
)

SEVERAL_SIGNERS = """mx.google.com;
       dkim=pass header.i=@mailer.example.net header.s=s1 header.b=Kq8/+1aZ;
       dkim=pass header.i=@example.org header.s=s1 header.b="x7;b/Q=";
       arc=none;
       spf=pass (google.com: domain of bounces+1@mailer.example.net designates 192.0.2.9 as permitted sender)
       smtp.mailfrom=bounces+1@mailer.example.net"""
M365_NO_POLICY = """spf=softfail (sender IP is 192.0.2.1)
 smtp.mailfrom=bounces.example.net; dkim=pass (signature was verified)
 header.d=example.org;dmarc=bestguesspass action=none
 header.from=example.org;compauth=pass reason=109"""
OPENDKIM = """mx.example.test;
\tdkim=pass (2048-bit key; unprotected) header.d=example.org header.i=@example.org header.a=rsa-sha256 header.s=mail \
header.b="Zk/9+a=Q";
\tdkim-atps=neutral"""
RSPAMD = """mx.example.test;
\tdkim=pass header.d=example.org header.s=2020 header.b=abcdEF12;
\tdmarc=pass (policy=none) header.from=example.org;
\tspf=pass (mx.example.test: domain of customer@example.org designates 192.0.2.1 as permitted sender) \
smtp.mailfrom=customer@example.org"""
FASTMAIL_HOST = "phl-mx-04.messagingengine.com"
FASTMAIL_ABOVE = (
    f"""{FASTMAIL_HOST};
    x-csa=none;
    x-me-sender=none;
    x-ptr=pass smtp.helo=out.example.org
      policy.ptr=out.example.org""",
    f"{FASTMAIL_HOST};\n    bimi=skipped (DMARC Policy is not at enforcement)",
    f"{FASTMAIL_HOST};\n    arc=none (no signatures found)",
)
FASTMAIL_VERDICT = f"""{FASTMAIL_HOST};
    dkim=pass (2048-bit rsa key sha256) header.d=example.org
      header.i=@example.org header.b=hr44hXYS header.a=rsa-sha256
      header.s=s1 x-bits=2048;
    dmarc=pass policy.published-domain-policy=none
      policy.published-subdomain-policy=quarantine
      policy.applied-disposition=none policy.evaluated-disposition=none
      (p=none,sp=quarantine,d=none,d.eval=none) policy.policy-from=p
      header.from=example.org;
    iprev=pass smtp.remote-ip=192.0.2.7 (out.example.org);
    spf=pass smtp.mailfrom=customer@example.org smtp.helo=out.example.org"""
FASTMAIL_REFUSAL = FASTMAIL_VERDICT.replace("dkim=pass", "dkim=fail").replace("dmarc=pass", "dmarc=fail")


@pytest.mark.parametrize(
    ("server", "field"),
    [
        (MX, PASS),
        (MX.upper(), PASS),
        (MX, f"{MX} 1; dmarc=pass header.from=Example.org"),
        (MX, f'"{MX}"; dmarc = pass header.from = "example.org"'),
        (MX, f"(a; comment (nested)) {MX} (v); dmarc/1=pass (p=none; x) header.from=example.org"),
        (MX, f"{MX}; spf=fail smtp.mailfrom=other.test; dmarc=pass header.from=example.org"),
        (MX, f"{MX}; dmarc=pass header.from=customer@example.org"),
        (MX, f"{MX}; dkim=pass header.d=example.org"),
        (MX, f"{MX}; dkim=fail header.d=example.org; dkim=pass header.i=@example.org"),
        (MX, f"{MX}; dmarc=none header.from=example.org; dkim=pass header.d=example.org"),
        (MX, f"{MX}; dmarc=bestguesspass header.from=example.org; dkim=pass header.d=example.org"),
        (MX, f'{MX}; dkim=pass reason="good; (key) \\" " header.d=example.org (a (nested; comment) \\) here)'),
        (MX, f"{MX};\r\n\tdmarc=pass\r\n\t(p=none\r\n\t dis=none)\r\n\theader.from=example.org"),
        (MX, f"{MX}; dmarc=pass header.from=example.org."),
        ("mx.google.com", GMAIL),
        ("mx.google.com", SEVERAL_SIGNERS),
        (MICROSOFT_365, M365),
        (MICROSOFT_365, M365.replace("; ", ";\r\n ").replace("dmarc=pass", "\r\n dmarc=pass")),
        (MICROSOFT_365, M365_NO_POLICY),
        (MX, OPENDKIM),
        (MX, RSPAMD),
        (MX, f"{MX}; dmarc=pass (p=none dis=none) header.from=example.org"),
        (FASTMAIL_HOST, FASTMAIL_VERDICT),
        (FASTMAIL, FASTMAIL_VERDICT),
    ],
)
def test_proof_by_our_own_server_counts(server: str, field: str) -> None:
    assert proven(replace(PLAIN, authentication=(field, "x; none")), server)


@pytest.mark.parametrize(
    ("server", "fields"),
    [
        ("", [PASS]),
        ("", [M365]),
        (MX, [M365]),
        (MX, []),
        (MX, [""]),
        (MX, [MX]),
        (MX, [f"{MX}; none"]),
        (MX, [f"i=1; {MX}; dmarc=pass header.from=example.org"]),
        (MX, [f"other.test; {MX}; dmarc=pass header.from=example.org"]),
        (MX, [f"x{MX}; dmarc=pass header.from=example.org"]),
        (MX, [f"{MX}.evil.test; dmarc=pass header.from=example.org"]),
        (MX, [f"{MX}; dmarc=pass"]),
        (MX, [f"{MX}; dmarc=pass header.from=other.test"]),
        (MX, [f"{MX}; dmarc=pass header.from=sub.example.org"]),
        (MX, [f"{MX}; dmarc=pass header.from=example.org; dmarc=fail header.from=example.org"]),
        (MX, [f"{MX}; dmarc=fail header.from=example.org; dkim=pass header.d=example.org"]),
        (MX, [f"{MX}; dkim=pass header.d=other.test"]),
        (MX, [f"{MX}; dkim=pass header.d=org"]),
        (MX, [f"{MX}; dkim=pass header.d=ample.org"]),
        (MX, [f"{MX}; dkim=pass header.d=sub.example.org"]),
        (MX, [f"{MX}; dkim=pass"]),
        (MX, [f"{MX}; spf=pass smtp.mailfrom=example.org"]),
        # what the sender may write, in a field of our server
        (MX, [f"{MX}; spf=pass (of x; dmarc=pass header.from=example.org) smtp.mailfrom=evil.test"]),
        (MX, [f'{MX}; spf=pass smtp.mailfrom="x; dmarc=pass header.from=example.org"@evil.test']),
        (MX, [f'{MX}; spf=pass smtp.mailfrom="x\\"; dmarc=pass header.from=example.org"@evil.test']),
        (MX, [f'{MX}; spf=pass reason="dmarc=pass header.from=example.org"']),
        (MX, [f"{MX}; spf=fail (unending ; dmarc=pass header.from=example.org"]),
        # forged fields below that of our server
        (MX, [f"{MX}; dmarc=fail header.from=example.org", PASS]),
        (MX, [f"{MX}; spf=pass smtp.mailfrom=example.org", PASS]),
        (MX, [f"{MX}; spf=fail (unending", PASS]),
        (MICROSOFT_365, [M365.replace("dmarc=pass", "dmarc=fail"), M365]),
        (MICROSOFT_365, ["other.test; none", M365]),
        (MICROSOFT_365, [M365.replace("dmarc=pass", "dmarc=fail"), f"{MICROSOFT_365}; {M365}"]),
        # by which the server lets it in, but says nothing of the From domain
        (MICROSOFT_365, [M365.replace("dkim=pass", "dkim=none").replace("dmarc=pass", "dmarc=none")]),
        (MICROSOFT_365, [M365.replace("dmarc=pass action=none", "dmarc=fail action=oreject")]),
        (MICROSOFT_365, [M365_NO_POLICY.replace("header.d=example.org", "header.d=example.net")]),
        (MICROSOFT_365, [M365.replace("header.from=example.org", "header.from=example.net")]),
        ("mx.google.com", [SEVERAL_SIGNERS.replace("@example.org", "@example.net")]),
        ("mx.google.com", [SEVERAL_SIGNERS + "; dmarc=fail (p=NONE) header.from=example.org", GMAIL]),
        (MX, [OPENDKIM.replace("dkim=pass", "dkim=permerror"), RSPAMD]),
        (MX, [RSPAMD.replace("dmarc=pass", "dmarc=fail"), OPENDKIM]),
        (MX, [f"{MX}; dmarc=pass (p=none) header.from=example.net", RSPAMD]),
        (FASTMAIL, [*FASTMAIL_ABOVE, FASTMAIL_REFUSAL, FASTMAIL_VERDICT]),
        (
            FASTMAIL,
            [*FASTMAIL_ABOVE, f"{FASTMAIL_HOST}; dkim=none (no signatures found); dmarc=none", FASTMAIL_VERDICT],
        ),
        (FASTMAIL, [*FASTMAIL_ABOVE]),
        (FASTMAIL, [FASTMAIL_VERDICT.replace(FASTMAIL_HOST, "mx.badmessagingengine.com")]),
        (FASTMAIL, [FASTMAIL_VERDICT.replace(FASTMAIL_HOST, "mx.messagingengine.com.test")]),
        (FASTMAIL_HOST, [*FASTMAIL_ABOVE, FASTMAIL_VERDICT]),
    ],
)
def test_nothing_else_is_proof(server: str, fields: list[str]) -> None:
    assert not proven(replace(PLAIN, authentication=tuple(fields)), server)


def test_fields_of_other_servers_above_ours_are_passed_over() -> None:
    assert proven(replace(PLAIN, authentication=("inner.test; none", PASS)), MX)


def test_a_server_that_spreads_its_verdict_is_read_to_its_own_last_field() -> None:
    mail = replace(PLAIN, authentication=(*FASTMAIL_ABOVE, FASTMAIL_VERDICT, FASTMAIL_REFUSAL))
    assert proven(mail, FASTMAIL)
    dmarc_above = replace(PLAIN, authentication=(PASS, OPENDKIM.replace("dkim=pass", "dkim=fail")))
    assert proven(dmarc_above, MX)


def test_a_parent_domain_may_sign() -> None:
    mail = replace(PLAIN, sender="a@mail.example.org", authentication=(f"{MX}; dkim=pass header.d=example.org",))
    assert proven(mail, MX)


@given(st.text(alphabet='a;="()\\ .@\r\n\t', max_size=60))
def test_no_field_makes_it_stumble(field: str) -> None:
    assert not proven(replace(PLAIN, authentication=(f"{MX};{field}", field)), MX)


# What


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "x.tsv", "x.txt", "Book.XLSX", "x.parquet"])
def test_data_is_worked_on_whatever_the_question(name: str) -> None:
    assert nothing_to_do(with_files("logo.png", name), follow_up=False) is None
    assert nothing_to_do(with_files(name), follow_up=True) is None


def test_a_mail_without_data_is_told_what_to_send() -> None:
    refusal = nothing_to_do(replace(PLAIN, text="What was our best month, please? 2024, I mean."), follow_up=False)
    assert isinstance(refusal, Notice)
    assert all(word in refusal.reason for word in ("CSV", "XLSX", "Parquet", "attach", "would like to know"))


def test_files_that_are_no_data_are_named() -> None:
    refusal = nothing_to_do(with_files("report.pdf", "data.csv.exe"), follow_up=False)
    assert isinstance(refusal, Notice)
    assert all(name in refusal.reason for name in ("report.pdf", "data.csv.exe", "not a data file"))
    assert isinstance(nothing_to_do(with_files("report.pdf"), follow_up=True), Notice)


def test_a_follow_up_needs_no_file_and_may_bring_pictures() -> None:
    assert nothing_to_do(PLAIN, follow_up=True) is None
    assert nothing_to_do(with_files("logo.png", media_type="image/png"), follow_up=True) is None


@pytest.mark.parametrize(
    "table",
    ["region\trevenue\nnorth\t1\nsouth\t2", "a;b\n1,5;2\n3;4", "a,b,c\n1,2,3\n4,5,6", "| a | b |\n|--|--|\n| 1 | 2 |"],
)
def test_a_table_in_the_text_is_data(table: str) -> None:
    assert nothing_to_do(replace(PLAIN, text=f"Hello,\n\n{table}\n\nThanks"), follow_up=False) is None
    assert nothing_to_do(replace(PLAIN, quoted=table), follow_up=False) is None
    with_picture = replace(with_files("logo.png", media_type="image/png"), text=table)
    assert nothing_to_do(with_picture, follow_up=False) is None


@pytest.mark.parametrize(
    "text",
    ["Hello, you\nof 2024, yes\nand 2025, no", "a\tb\nc\td\ne\tf", "a;1\nb;2", "x, y, z\n\n1, 2, 3\n\n4, 5, 6", ""],
)
def test_prose_is_no_table(text: str) -> None:
    assert isinstance(nothing_to_do(replace(PLAIN, text=text), follow_up=False), Notice)
