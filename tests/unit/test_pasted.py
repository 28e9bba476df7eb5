"""Tables pasted into the words of a mail become files; lists, layouts, signatures and history do not."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailagent.core.parse import parse
from mailagent.core.pasted import pasted_tables
from mailagent.core.values import Attachment, Inbound
from tests.unit.mails import GMAIL, HEADER, TABLE, alternative, raw

CSV = b'month,units,price\r\n2024-01,12,"1,5"\r\n2024-02,,"2,5"\r\n'


def page(html: str) -> Inbound:
    return parse(raw(f"{HEADER}Content-Type: text/html; charset=utf-8\n\n{html}"))


def plain(text: str) -> Inbound:
    return parse(raw(f"{HEADER}Content-Type: text/plain; charset=utf-8\n\n{text}"))


def tables(inbound: Inbound) -> list[str]:
    return [file.data.decode() for file in inbound.attachments]


def test_a_table_in_html_is_a_file_and_stays_in_the_text() -> None:
    found = page(f"<p>Which month is best?</p>{TABLE}<p>Thanks</p>")
    assert found.attachments == (Attachment("pasted table.csv", "text/csv", CSV),)
    assert found.text == "Which month is best?\n\nmonth\tunits\tprice\n2024-01\t12\t1,5\n2024-02\t\t2,5\nThanks"


def test_a_table_that_the_plain_text_beside_it_lost_is_found() -> None:
    found = parse(raw(HEADER + alternative("Best month?\nmonth\nunits\n2024-01\n12", f"<p>Best month?</p>{TABLE}")))
    assert tables(found) == [CSV.decode()]
    assert "2024-01\t12" in found.text


def test_lines_with_tabs_are_a_table() -> None:
    found = plain('Best month?\n\n\tunits\tsaid\n2024-01\t12\tso "so"\n2024-02\t13\t\n\nThanks')
    assert tables(found) == [',units,said\r\n2024-01,12,"so ""so"""\r\n2024-02,13,\r\n']


def test_a_table_at_the_very_beginning_and_end_keeps_its_empty_cells() -> None:
    assert tables(plain("\tQ1\tQ2\nnorth\t1\t\nsouth\t\t")) == [",Q1,Q2\r\nnorth,1,\r\nsouth,,\r\n"]


def test_two_tables_are_two_files_and_a_file_of_that_name_keeps_its_own() -> None:
    html = f"<p>Compare</p>{TABLE}{TABLE}"
    attached = (
        "Content-Type: multipart/mixed; boundary=mix\n\n--mix\nContent-Type: text/html\n\n"
        f'{html}\n--mix\nContent-Type: text/csv; name="pasted table.csv"\n\na,b\n--mix--\n'
    )
    names = [file.name for file in parse(raw(HEADER + attached)).attachments]
    assert names == ["pasted table.csv", "pasted table (2).csv", "pasted table 2.csv"]


def test_a_table_of_two_columns_may_be_about_telephones() -> None:
    assert tables(plain("Which is best?\nweb\t500\nmail\t300\nphone\t20")) == ["web,500\r\nmail,300\r\nphone,20\r\n"]


@pytest.mark.parametrize(
    "html",
    [
        "<table><tr><td>one row</td><td>1</td></tr></table>",
        "<table><tr><td>1</td></tr><tr><td>2</td></tr></table>",
        "<table role=presentation><tr><td>left 1</td><td>right</td></tr><tr><td>a</td><td>b</td></tr></table>",
        "<table><tr><td><table><tr><td>x</td></tr></table></td><td>1</td></tr><tr><td>2</td><td><table></table></table>",
        "<table><tr><td><img src=cid:1></td><td>Jan 1</td></tr><tr><td><img src=cid:2></td><td>2</td></tr></table>",
        f"<table><tr><td>{'prose and 1 ' * 9}</td><td>{'prose ' * 9}</td></tr><tr><td>{'more ' * 9}</td><td>b</table>",
        '<div class="moz-signature"><table><tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></table></div>',
        '<div id="Signature"><table><tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></table></div>',
        "<table><tr><td>Tel.:</td><td>030 1</td></tr><tr><td>E-Mail:</td><td>a@example.org</td></tr></table>",
        '<div class="gmail_quote"><table><tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></table></div>',
        '<div style="display:none"><table><tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></table></div>',
    ],
    ids=[
        "row",
        "column",
        "layout",
        "nested",
        "pictures",
        "prose",
        "moz-signature",
        "Signature",
        "contact",
        "history",
        "hidden",
    ],
)
def test_what_only_looks_like_a_table_is_none(html: str) -> None:
    assert page(f"<p>Hello,</p>{html}").attachments == ()


@pytest.mark.parametrize(
    "text",
    [
        "Hello,\n\tan indented line 1\n\tand one more",
        "Hello,\n1.\tFirst\n2.\tSecond\n10.\tLast",
        "Hello,\n•\tFirst 1\n•\tSecond",
        "Hello,\nname\tcity\nAnn\tRome",
        "Hello,\n-- \na\t1\nb\t2",
        "Hello,\nPhone:\t1\nFax:\t2",
        "Hello,\nPhone\t+49 30 1234567\nWeb\twww.example.org\nMail\ta@example.org",
        "> a\t1\n> b\t2\n> c\t3",
        "Hello,\nOn Mon, 3 Mar 2025, Data desk wrote:\n> a\t1\n> b\t2\n> c\t3",
        "-- reply above this line --\na\t1\nb\t2",
        "Hello,\none\t1\n\ntwo\t2",
        "\t" * 20_000 + "1\n" + "a\t1\n" * 20_000,
    ],
    ids=[
        "indented",
        "numbered",
        "bullets",
        "words",
        "signature",
        "contact",
        "labels",
        "all quoted",
        "quoted",
        "ours",
        "apart",
        "wide",
    ],
)
def test_lines_with_tabs_that_are_no_data_stay_words(text: str) -> None:
    assert plain(text).attachments == ()


def test_what_a_signature_lays_out_is_read_line_by_line() -> None:
    found = parse(raw(HEADER + GMAIL))
    assert tables(found) == [CSV.decode()]
    assert "Phone\n030 1" in found.text


CELL = st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=12)


@given(st.integers(3, 5).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=6)))
def test_what_was_pasted_is_read_back_cell_by_cell(rows: list[list[str]]) -> None:
    rows = [["0" for _ in rows[0]], *rows]
    pasted = "\n".join("\t".join(row) for row in rows)
    if any(line.startswith(">") for line in pasted.split("\n")):
        return
    (found,) = pasted_tables(pasted)
    assert list(csv.reader(io.StringIO(found.decode(), newline=""))) == rows
