"""Which mails came back: reports of mail servers, as Postfix, Exim and Exchange write them, and what only looks so."""

import pytest

from mailagent.core.parse import parse
from tests.unit.mails import OURS, REPORT, raw


def report(status: str, returned_type: str, returned: str, fields: str = "") -> str:
    return f"""From: MAILER-DAEMON@mx.example.org
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: text/plain

It did not work.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org

{status}

--b
Content-Type: {returned_type}
{fields}
{returned}
--b--
"""


FAILED = "Final-Recipient: rfc822; a@example.org\nAction: failed\nStatus: 5.1.1"
RETURNED = f"Subject: Re: data\nMessage-ID: {OURS}\nReferences: <first@example.org>\n"


def test_a_returned_mail_is_named_and_the_report_is_a_machine_s() -> None:
    found = parse(raw(REPORT))
    assert found.bounces == (OURS,)
    assert found.automatic


@pytest.mark.parametrize(
    "text",
    [
        report(FAILED, "text/rfc822-headers", RETURNED),
        report(FAILED, "text/rfc822-headers; charset=us-ascii", RETURNED, "Content-Transfer-Encoding: 7bit\n"),
        report(FAILED, "message/rfc822", RETURNED + "\nNorth leads."),
        report(FAILED, "message/global-headers", RETURNED),
        report(FAILED.replace("failed", "Failed (for good)"), "message/rfc822", RETURNED),
        report(FAILED.replace("failed", "delayed") + "\n\n" + FAILED, "message/rfc822", RETURNED),
        report(FAILED, "text/rfc822-headers", RETURNED.replace("ID: ", "ID:\n ")),
    ],
    ids=["headers", "7bit", "whole", "global", "comment", "one of two", "folded"],
)
def test_the_header_or_the_whole_mail_may_come_back(text: str) -> None:
    found = parse(raw(text))
    assert found.bounces == (OURS,)
    assert found.automatic


@pytest.mark.parametrize(
    "text",
    [
        report(FAILED.replace("failed", "delayed"), "message/rfc822", RETURNED),
        report(FAILED.replace("failed", "delivered"), "message/rfc822", RETURNED),
        report("", "message/rfc822", RETURNED),
        report(FAILED, "text/plain", RETURNED),
        report(FAILED, "text/rfc822-headers", "Subject: none\n"),
        report(FAILED, "text/rfc822-headers", "Message-ID: <a b>\n"),
        REPORT.replace("multipart/report", "multipart/mixed"),
        REPORT.replace("message/delivery-status", "message/disposition-notification"),
        REPORT.replace("boundary=", "border="),
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b--\n",
    ],
    ids=["delayed", "delivered", "silent", "text", "without", "odd", "mixed", "read", "unbounded", "empty"],
)
def test_what_does_not_say_that_a_mail_came_back_names_none(text: str) -> None:
    assert parse(raw(text)).bounces == ()


@pytest.mark.parametrize(("path", "genuine"), [("<>", True), ("", True), ("<who@elsewhere.test>", False)])
def test_a_report_with_a_return_path_was_written_by_no_mail_server(path: str, genuine: bool) -> None:
    found = parse(raw(f"Return-Path: {path}\n" + report(FAILED, "text/rfc822-headers", RETURNED)))
    assert (found.is_report, bool(found.bounces)) == (genuine, genuine)


def test_a_report_is_told_by_its_header_alone() -> None:
    head = report(FAILED, "text/rfc822-headers", RETURNED).partition("\n\n")[0]
    assert parse(raw(head + "\n\n")).is_report
    assert not parse(raw("From: a@example.org\n\nwords")).is_report
