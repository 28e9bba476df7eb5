"""Who is answered and who is not, and what mail holds nothing to work on."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.screen import MICROSOFT_365, Rule, nothing_to_do, proven, screen
from mailagent.core.values import Accept, Attachment, Ignore, Inbound, Refuse

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
    assert screen(bare, [*ALLOWED, Rule(domains=("example.org",), proof="none")], OWN, "") == Accept()
    assert isinstance(screen(bare, [*ALLOWED, Rule(domains=("other.org",), proof="none")], OWN, ""), Ignore)


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
        ("mx.google.com", GMAIL),
        (MICROSOFT_365, M365),
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
    ],
)
def test_nothing_else_is_proof(server: str, fields: list[str]) -> None:
    assert not proven(replace(PLAIN, authentication=tuple(fields)), server)


def test_fields_of_other_servers_above_ours_are_passed_over() -> None:
    assert proven(replace(PLAIN, authentication=("inner.test; none", PASS)), MX)


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
    assert isinstance(refusal, Refuse)
    assert all(word in refusal.reason for word in ("CSV", "XLSX", "Parquet", "attach", "would like to know"))


def test_files_that_are_no_data_are_named() -> None:
    refusal = nothing_to_do(with_files("report.pdf", "data.csv.exe"), follow_up=False)
    assert isinstance(refusal, Refuse)
    assert all(name in refusal.reason for name in ("report.pdf", "data.csv.exe", "not a data file"))
    assert isinstance(nothing_to_do(with_files("report.pdf"), follow_up=True), Refuse)


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
    assert isinstance(nothing_to_do(replace(PLAIN, text=text), follow_up=False), Refuse)
