"""Whose words are whose: what each mail program quotes is history, what the writer put anywhere around it is not."""

import pytest

from mailagent.core.parse import parse
from mailagent.core.values import Inbound
from tests.unit.mails import ANSWERS, HEADER, OUR_REPLY, alternative, raw


def page(html: str) -> Inbound:
    return parse(raw(f"{HEADER}Content-Type: text/html; charset=utf-8\n\n{html}"))


@pytest.mark.parametrize("client", ANSWERS)
def test_the_history_in_a_complete_answer_is_told_apart(client: str) -> None:
    found = parse(raw(HEADER + ANSWERS[client]))
    assert found.text.partition("\n")[0] == "And by month?"
    assert "North leads." not in found.text
    assert "North leads." in found.quoted
    assert "Data desk" in found.quoted  # the words that announce it go with it, whatever the language


@pytest.mark.parametrize("client", ANSWERS)
def test_an_answer_without_words_keeps_its_whole_text(client: str) -> None:
    found = parse(raw(HEADER + ANSWERS[client].replace("And by month?", "")))
    assert "North leads." in found.text or found.text.startswith("month\tunits")  # Gmail's has a table of its own
    assert "region" not in b"".join(file.data for file in found.attachments).decode()


QUOTE = "<blockquote {0}><p>{1}</p></blockquote>"
INLINE = {
    "Gmail": '<div class="gmail_quote"><div class="gmail_attr">On Mon, Data desk wrote:</div>'
    + QUOTE.format('class="gmail_quote"', "Which region?")
    + "<div>The north.</div>"
    + QUOTE.format('class="gmail_quote"', "Which year?")
    + "<div>2024.</div></div>",
    "Thunderbird": '<div class="moz-cite-prefix">On Mon, Data desk wrote:</div>'
    + QUOTE.format('type="cite"', "Which region?")
    + "<p>The north.</p>"
    + QUOTE.format('type="cite"', "Which year?")
    + "<p>2024.</p>",
    "Proton": '<div class="protonmail_quote">On Mon, Data desk wrote:<br>'
    + QUOTE.format('type="cite"', "Which region?")
    + "<p>The north.</p>"
    + QUOTE.format('type="cite"', "Which year?")
    + "<p>2024.</p></div>",
}


@pytest.mark.parametrize("client", INLINE)
def test_answers_between_quotes_keep_the_whole_text(client: str) -> None:
    found = page(INLINE[client])
    assert [line for line in found.text.split("\n") if line.strip("> ")] == [
        "> On Mon, Data desk wrote:",
        "> Which region?",
        "The north.",
        "> Which year?",
        "2024.",
    ]
    assert found.quoted == ""


@pytest.mark.parametrize(
    "body",
    [
        "On Mon, 3 Mar 2025, Data desk wrote:\n> Which region?\n> Tell us.\n\nThe north.\n\n> Which year?\n2024.",
        "> -- reply above this line --\n> Which region?\n\nThe north.\n\n> Which year?\n2024.",
    ],
    ids=["announced", "with our marker"],
)
def test_answers_between_quotes_in_plain_text_keep_the_whole_text(body: str) -> None:
    found = parse(raw(f"{HEADER}\n{body}"))
    assert (found.text, found.quoted) == (body, "")


def test_words_below_a_quote_are_the_writer_s() -> None:
    found = page(
        f'<div class="moz-cite-prefix">Data desk:</div><blockquote type="cite">{OUR_REPLY}</blockquote><p>And 2023?'
    )
    assert found.text == "And 2023?"
    assert "North leads." in found.quoted


def test_one_short_quote_is_enough_where_it_is_marked() -> None:
    found = page('<p>Yes.</p><blockquote type="cite">Shall I?</blockquote>')
    assert (found.text, found.quoted) == ("Yes.", "> Shall I?")


def test_a_quotation_of_the_writer_s_own_is_no_history() -> None:
    found = page("<p>The report says:</p><blockquote>North leads.</blockquote><p>Is that so?</p>")
    assert found.text == "The report says:\n\n> North leads.\nIs that so?"


def test_a_forwarded_mail_in_the_text_is_history_as_a_whole() -> None:
    html = (
        '<div>Which month is best?</div><div class="gmail_quote"><div class="gmail_attr">------ Weitergeleitet</div>'
        "<p>Figures:</p><table><tr><td>2024-01</td><td>1</td></tr><tr><td>2024-02</td><td>2</td></tr></table></div>"
    )
    found = page(html)
    assert (found.text, found.attachments) == ("Which month is best?", ())
    assert "2024-02\t2" in found.quoted


def test_our_marker_counts_where_no_program_marks_anything() -> None:
    found = page(f"<div>And by month?</div><div>{OUR_REPLY}</div>")
    assert found.text == "And by month?"
    assert "North leads." in found.quoted


def test_plain_text_stands_in_for_html_that_is_nested_too_deeply() -> None:
    assert parse(raw(HEADER + alternative("And by month?", "<div>" * 2_000))).text == "And by month?"


def test_of_two_alternatives_the_one_that_marks_history_is_read() -> None:
    plain = "And by month?\n\nLe lun. 3 mars 2025, Data desk a écrit :\n\nregion\trevenue\nnorth\t1200"
    found = parse(raw(HEADER + alternative(plain, "<p>And by month?</p>" + QUOTE.format("type=cite", "region"))))
    assert (found.text, found.quoted.strip("\n>"), found.attachments) == ("And by month?", " region", ())


def test_words_hidden_in_what_is_marked_stay_hidden() -> None:
    assert page('<p>seen</p><div class="gmail_quote" style="display:none">hidden</div>').text == "seen"


def test_a_wrapper_in_a_wrapper_costs_nothing() -> None:
    wrappers = '<div class="gmail_quote"><blockquote></blockquote>' * 450
    found = page(f"<p>words</p>{wrappers}{'x<br>' * 5_000}")
    assert found.text.startswith("words")
