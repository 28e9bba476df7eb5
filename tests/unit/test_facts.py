"""Figures: what is computed is what is shown, whatever else stands in the file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mailagent.core.facts import MAX_FACTS, MAX_LINE, MAX_STRING, Fact, fact_faults, fill, format_number, read_facts


def lines(*entries: object) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def test_facts_are_read_in_full_precision() -> None:
    data = lines(
        {"id": "rev", "value": 2610153101.0499997, "unit": "EUR", "code": "analysis.py:12"}, {"id": "n", "value": 3}
    )
    assert read_facts(data) == (Fact("rev", 2610153101.0499997, "EUR", "analysis.py:12"), Fact("n", 3))
    assert fact_faults(data) == ()


def test_a_line_number_is_a_source_too() -> None:
    assert read_facts(lines({"id": "a", "value": "x", "code": 12})) == (Fact("a", "x", "", "12"),)


def test_the_last_line_of_an_id_wins() -> None:
    assert read_facts(lines({"id": "a", "value": 1}, {"id": "a", "value": 2})) == (Fact("a", 2),)


@pytest.mark.parametrize(
    "bad",
    [
        b"not json",
        b"[1, 2]",
        b'"text"',
        b'{"value": 1}',
        b'{"id": 7, "value": 1}',
        b'{"id": "a b", "value": 1}',
        b'{"id": "' + b"a" * 65 + b'", "value": 1}',
        b'{"id": "a"}',
        b'{"id": "a", "value": null}',
        b'{"id": "a", "value": true}',
        b'{"id": "a", "value": NaN}',
        b'{"id": "a", "value": -Infinity}',
        b'{"id": "a", "value": 1e999}',
        b'{"id": "a", "value": ' + b"9" * 400 + b"}",
        b'{"id": "a", "value": ' + b"9" * 4000 + b"}",
        b'{"id": "a", "value": {"b": 1}}',
        json.dumps({"id": "a", "value": "x" * (MAX_STRING + 1)}).encode(),
        b'{"id": "a", "value": 1, "code": "' + b"x" * MAX_LINE + b'"}',
        b"\xff\xfe\x00",
        b"[" * 4000,
    ],
)
def test_what_is_no_fact_is_told_and_spoils_no_other(bad: bytes) -> None:
    data = lines({"id": "good", "value": 1}) + bad + b"\n"
    assert read_facts(data) == (Fact("good", 1),)
    [fault] = fact_faults(data)
    assert fault.startswith("line 2: ")


def test_there_is_a_limit_and_it_is_told() -> None:
    data = lines(*({"id": f"f{number}", "value": number} for number in range(MAX_FACTS + 5)))
    assert len(read_facts(data)) == MAX_FACTS
    assert fact_faults(data) == (f"more than {MAX_FACTS} facts",)


@given(st.binary(max_size=500))
def test_reading_never_raises(data: bytes) -> None:
    read_facts(data)
    fact_faults(data)


@pytest.mark.parametrize(
    ("value", "spec", "shown"),
    [
        (1234567, "", "1,234,567"),
        (1234.0, "", "1,234"),
        (1234.567, "", "1,234.57"),
        (0.12345, "", "0.123"),
        (0.0, "", "0"),
        (-0.0, "", "0"),
        (1e20, "", "1e+20"),
        (1234.567, ",.1f", "1,234.6"),
        (1234.567, ",.0f", "1,235"),
        (1234.567, ",d", "1,235"),
        (1234567, "d", "1234567"),
        (12345678901234567890, ",d", "12,345,678,901,234,567,890"),
        (0.1234, ".1%", "12.3%"),
        (0.1234, "+.1%", "+12.3%"),
        (-0.001, ".1f", "0.0"),
        (1234.5, ".3g", "1.23e+03"),
        (1234.5, ",", "1,234.50"),
        (5, "+", "+5"),
    ],
)
def test_formats(value: float, spec: str, shown: str) -> None:
    assert format_number(value, spec) == shown


@pytest.mark.parametrize(
    "spec", ["99999999f", ".999f", "x", "c", "_", "=10", "<5", "{0}", "!r", "n", ".1f.1f", "٣f", ".٣f"]
)
def test_a_format_that_is_not_allowed_gives_way_to_the_default(spec: str) -> None:
    assert format_number(1234.567, spec) == "1,234.57"


def test_figures_come_where_they_are_named() -> None:
    facts = (Fact("rev", 5836649.65, "EUR"), Fact("best", "December"))
    filled = fill("**{{rev|,.0f}}** EUR, most in {{ best }}.", facts)
    assert filled.text == "**5,836,650** EUR, most in December."
    assert filled.unresolved == ()


def test_a_figure_that_is_not_there_is_shown_and_listed_once() -> None:
    filled = fill("{{gone}} and {{gone|,d}} and {{<b>x}}", ())
    assert filled.unresolved == ("gone", "<b>x")
    html = MarkdownIt("commonmark").render(filled.text)
    assert html == "<p>[no figure: gone] and [no figure: gone] and [no figure: &lt;b&gt;x]</p>\n"


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://tracker.test/p.png)",
    "[click](https://evil.test)",
    "<https://evil.test>",
    "**bold** `code` | cell |",
    "# heading\n\n- list",
    "{{other}}",
    "a\u202egnp.exe",
    "\\",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_text_stays_text(value: str) -> None:
    html = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render("x " + fill("{{a}}", (Fact("a", value),)).text)
    )
    for mark in ("<script", "<img", "<a ", "<strong", "<code", "<h1", "<li", "<td", "\u202e"):
        assert mark not in html


def test_a_fact_does_not_name_another() -> None:
    assert "secret" not in fill("{{a}}", (Fact("a", "{{b}}"), Fact("b", "secret"))).text


@given(st.one_of(st.integers(-(10**15), 10**15), st.floats(-1e15, 1e15, allow_nan=False)), st.integers(0, 6))
def test_a_figure_shown_equals_its_fact(value: float, decimals: int) -> None:
    data = lines({"id": "a", "value": value})
    shown = fill(f"{{{{a|,.{decimals}f}}}}", read_facts(data)).text
    assert abs(float(shown.replace(",", "")) - value) <= 0.5 * 10**-decimals + abs(value) * 1e-15


@given(st.text(max_size=200), st.text(max_size=30), st.text("fdeg%,.+- 0123456789", max_size=6))
def test_filling_never_raises(answer: str, value: str, spec: str) -> None:
    fill(
        f"{answer}{{{{a|{spec}}}}}{{{{b|{spec}}}}}{{{{c|{spec}}}}}",
        (Fact("a", value), Fact("b", 1e299), Fact("c", -(10**299))),
    )
