"""Rendering: what an agent left in out/ becomes a mail that is readable and does no harm."""

import csv
import html as html_entities
import io
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it.token import Token
from selectolax.lexbor import LexborHTMLParser

from mailagent.core.answer import read_answer, to_html
from mailagent.core.enclosures import MAX_BYTES, MAX_FILES, Enclosures
from mailagent.core.errors import ConfigError
from mailagent.core.plain import file_name, one_line
from mailagent.core.render import MAX_HTML, Style, render, standalone
from mailagent.core.values import Outcome, OutFile, Reply, Usage

ROOT = Path(__file__).parents[2]
OUT = ROOT / "tests/data/reply/out"
STYLE = Style((ROOT / "config/reply.html").read_text(), (ROOT / "config/reply.css").read_text())
MARKER = "-- reply above this line --"


def png(width: int = 8, height: int = 8, *, end: bool = True) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + b"\xff" * min(width, 9) for _ in range(min(height, 9)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + (chunk(b"IEND", b"") if end else b"")
    )


def of(answer: str, files: dict[str, bytes]) -> Outcome:
    listed = tuple(OutFile(path, data) for path, data in files.items())
    return Outcome(answer, listed, Usage("model", 1, 1, 1, 0.0), 0.0)


def reply_to(answer: str, files: dict[str, bytes] | None = None, **words: str) -> Reply:
    return render(of(answer, files or {}), STYLE, **words)


def sample() -> Outcome:
    files = {str(path.relative_to(OUT)): path.read_bytes() for path in sorted(OUT.rglob("*")) if path.is_file()}
    return of((OUT / "answer.md").read_text(), files)


def cells(page: str) -> list[list[str]]:
    """The rows of the last table of data in the page, as a reader sees them."""
    table = LexborHTMLParser(page).css("table.data")[-1]
    return [[cell.text() for cell in row.css("th, td")] for row in table.css("tr")]


def assert_harmless(reply: Reply) -> None:
    """Nothing runs, nothing is fetched, every picture is one that goes along."""
    tree = LexborHTMLParser(reply.html)
    attached = {f"cid:{image.content_id}" for image in reply.images}
    assert not tree.css("script, iframe, object, embed, form, input, link, base, svg, video, audio, meta[http-equiv]")
    assert "<script" not in reply.html.lower()
    assert {image.attributes.get("src") for image in tree.css("img")} <= attached
    assert len(tree.css("style")) == 1
    for node in tree.css("body, body *"):
        assert not any(name.startswith("on") or name in ("background", "srcset", "action") for name in node.attributes)
        assert "url(" not in (node.attributes.get("style") or "")
    for link in tree.css("a"):
        assert re.match(r"https://|mailto:", link.attributes.get("href") or "")
    assert all(node.tag == "img" for node in tree.css("[src]"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", reply.html + reply.text)
    assert len(reply.html.encode()) <= MAX_HTML
    images, attachments = sum(len(i.data) for i in reply.images), sum(len(a.data) for a in reply.attachments)
    assert images + attachments <= MAX_BYTES
    assert len(reply.attachments) <= MAX_FILES
    names = [file.name for file in reply.attachments]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert not re.search(r'[\x00-\x1f\x7f<>:"/\\|?*\u202a-\u202e]', name)
        assert name not in ("", ".", "..")


# --- the whole sample ---------------------------------------------------------------------------------------------


def test_the_sample_is_a_whole_mail() -> None:
    reply = render(sample(), STYLE, notice="Stand-in model: fixed rules, no AI.", quoted_intro="Hello?", marker=MARKER)
    assert_harmless(reply)
    assert [file.name for file in reply.attachments] == ["products.csv", "method.txt", "analysis.py.txt"]
    assert reply.attachments[-1].data == (OUT / "analysis.py").read_bytes()
    [chart] = reply.images
    assert chart.data == (OUT / "charts/revenue.png").read_bytes()
    assert chart.alt.startswith("Line chart: 2024 is above 2023")
    for part in (reply.html, reply.text):
        assert "5,836,650 EUR" in part
        assert "+11.9%" in part
        assert "20 of 137 rows; all in products.csv" in part
        assert "analysis.py.txt (attached), 7 figures computed." in part
        assert "no figure" not in part
        assert part.index(MARKER) < part.index("Revenue in 2024") < part.index("Hello?") < part.index("Stand-in model")
    assert reply.text.startswith(MARKER + "\n")


def test_the_same_outcome_gives_the_same_reply() -> None:
    assert render(sample(), STYLE, marker=MARKER) == render(sample(), STYLE, marker=MARKER)


def test_the_standalone_page_has_its_charts_inside() -> None:
    page = standalone(render(sample(), STYLE))
    sources = [image.attributes["src"] for image in LexborHTMLParser(page).css("img")]
    assert len(sources) == 1
    assert str(sources[0]).startswith("data:image/png;base64,iVBOR")
    assert "cid:" not in page
    assert "charset" in page[:100]


def test_marker_quote_and_notice_are_only_there_when_given() -> None:
    reply = reply_to("Hello")
    assert reply.text == "Hello\n"
    assert LexborHTMLParser(reply.html).css(".marker, .quoted, .foot") == []


def test_words_around_the_answer_are_escaped() -> None:
    reply = reply_to("x", notice="<script>1</script>", quoted_intro="<img src=x>\r\nBcc: y", marker="<b>")
    assert_harmless(reply)
    assert "> <img src=x> Bcc: y" in reply.text
    assert "&lt;script&gt;1&lt;/script&gt;" in reply.html


@pytest.mark.parametrize("template", ["{% if %}", "{{ nobody }}", "{{ frame.nothing }}"])
def test_a_broken_template_is_a_fault_of_the_set_up(template: str) -> None:
    with pytest.raises(ConfigError, match=r"reply\.html"):
        render(of("x", {}), replace(STYLE, template=template))


def test_styles_are_inlined_and_only_media_rules_remain() -> None:
    tree = LexborHTMLParser(reply_to("# Title\n\ntext").html)
    assert "font-size" in str(tree.css("h1")[0].attributes["style"])
    rules = tree.css("style")[0].text()
    assert "prefers-color-scheme: dark" in rules
    assert re.split(r"\{", rules)[0].strip().startswith("@media")
    assert all(
        table.attributes.get("role") == "presentation" for table in tree.css("table") if not table.css_matches(".data")
    )


# --- charts -------------------------------------------------------------------------------------------------------


def test_a_chart_is_shown_by_its_content_id() -> None:
    reply = reply_to("![Up **and** up](charts/a.png)", {"charts/a.png": png(1280, 640)})
    [image] = LexborHTMLParser(reply.html).css("img")
    assert image.attributes["src"] == f"cid:{reply.images[0].content_id}"
    assert image.attributes["alt"] == reply.images[0].alt == "Up and up"
    assert image.attributes["width"] == "592"
    assert re.fullmatch(r"[0-9a-f]{32}@mailagent", reply.images[0].content_id)
    assert reply.text == "[chart: Up and up]\n"
    assert reply.attachments == ()


def test_a_content_id_tells_the_content() -> None:
    first = reply_to("![a](a.png) ![b](b.png) ![c](c.png)", {"a.png": png(), "b.png": png(9, 9), "c.png": png()})
    assert len(first.images) == 2
    assert first.images[0].content_id != first.images[1].content_id
    assert reply_to("![z](z.png)", {"z.png": png()}).images[0].content_id == first.images[0].content_id


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x89PNG\r\n\x1a\n",
        png(end=False),
        png() + b"<script>alert(1)</script>",
        png(0, 5),
        png(100_000, 100_000),
    ],
)
def test_what_is_no_sound_png_is_missing_and_said_so(data: bytes) -> None:
    reply = reply_to("![Sales <b>up</b>](charts/a.png)", {"charts/a.png": data})
    assert_harmless(reply)
    assert reply.images == ()
    assert "Sales ‹b›up‹/b› (chart missing)" in reply.text
    assert "Sales ‹b›up‹/b› (chart missing)" in reply.html


@pytest.mark.parametrize(
    "source",
    [
        "https://tracker.test/p.png",
        "http://tracker.test/p.png",
        "//tracker.test/p.png",
        "cid:00000000000000000000000000000000@mailagent",
        "data:image/png;base64,iVBORw0KGgo=",
        "file:///etc/passwd",
        "../charts/a.png",
        "charts/../../a.png",
        "/charts/a.png",
        "charts/gone.png",
        "<charts/a b.png>",
    ],
)
def test_no_picture_but_those_of_the_folder(source: str) -> None:
    reply = reply_to(f"![alt]({source})", {"charts/a.png": png()})
    assert_harmless(reply)
    assert reply.images == ()
    assert "<img" not in reply.html


def test_names_with_spaces_and_umlauts_are_found() -> None:
    reply = reply_to("![a](<out/charts/größe 1.png>)", {"charts/größe 1.png": png()})
    assert len(reply.images) == 1


def test_an_alt_text_is_no_tag() -> None:
    reply = reply_to('![<script> "x](a.png)', {"a.png": png()})
    assert_harmless(reply)
    assert LexborHTMLParser(reply.html).css("img")[0].attributes["alt"] == '‹script› "x'


def test_the_last_wall_lets_only_attached_pictures_through() -> None:
    """Markdown cannot say this; should anything ever get as far, it ends here."""
    raw = (
        '<img src="https://t.test/p.png"><img src="cid:other"><img src="//t.test"><script>1</script>'
        '<p style="color:red" onclick="x"><a href="javascript:1">a</a><a href="/b">b</a><iframe src="https://t.test"></iframe>'
    )
    clean = to_html([Token("html_block", "", 0, content=raw)], rows=0)
    assert clean.replace(' rel="noopener noreferrer"', "") == "<img><img><img><p><a>a</a><a>b</a></p>"


# --- tables -------------------------------------------------------------------------------------------------------


def test_a_link_alone_is_a_table_and_the_file_goes_along() -> None:
    data = "name,sold\n" + "".join(f"item {n},{n * 1000}\n" for n in range(1, 138))
    reply = reply_to("Before\n\n[The <i>sales</i>](tables/x.csv)\n\nAfter", {"tables/x.csv": data.encode()})
    assert_harmless(reply)
    shown = cells(reply.html)
    assert shown[:2] == [["name", "sold"], ["item 1", "1,000"]]
    assert len(shown) == 1 + 20
    tree = LexborHTMLParser(reply.html)
    assert [head.attributes["scope"] for head in tree.css("th")] == ["col", "col"]
    assert [head.attributes.get("align") for head in tree.css("th")] == [None, "right"]
    assert tree.css("caption")[0].text() == "The <i>sales</i>"
    assert "20 of 137 rows; all in x.csv" in reply.html
    assert "item 20  20,000\n20 of 137 rows; all in x.csv\n\nAfter" in reply.text
    assert "name       sold\n-------  ------\nitem 1    1,000\n" in reply.text
    [file] = reply.attachments
    assert list(csv.reader(io.StringIO(file.data.decode("utf-8-sig")))) == list(csv.reader(io.StringIO(data)))


def test_a_short_table_names_its_file() -> None:
    reply = reply_to("[T](x.csv)", {"x.csv": b"a\n1\n"})
    assert "attached as x.csv" in reply.text


def test_figures_of_a_table_equal_the_file() -> None:
    values = [0.5, -1234.5678, 99999.0, 12.344999]
    data = "id,v\n" + "".join(f"{10000 + n},{value!r}\n" for n, value in enumerate(values))
    shown = cells(reply_to("[T](x.csv)", {"x.csv": data.encode()}).html)[1:]
    assert [row[0] for row in shown] == ["10000", "10001", "10002", "10003"]
    assert [float(row[1].replace(",", "")) for row in shown] == pytest.approx(values, abs=0.005)
    assert [row[1] for row in shown] == ["0.50", "-1,234.57", "99,999.00", "12.34"]


@pytest.mark.parametrize(
    ("header", "raw", "shown"),
    [
        ("year", ["2023", "2024"], ["2023", "2024"]),
        ("zip", ["01067", "80331"], ["01067", "80331"]),
        ("count", ["12345.0", ""], ["12,345", ""]),
        ("p", ["0.000123456", "0.25"], ["0.00012", "0.25000"]),
        ("big", ["123456789012345678", "1"], ["123,456,789,012,345,678", "1"]),
        ("mixed", ["1", "one"], ["1", "one"]),
        ("share", ["12.5%", "-"], ["12.5%", "-"]),
        ("text", ["a\nb", "\u202ex"], ["a b", "x"]),
    ],
)
def test_columns_are_laid_out_for_reading(header: str, raw: list[str], shown: list[str]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([[header, "k"], *([value, "k"] for value in raw)])
    page = reply_to("[T](x.csv)", {"x.csv": out.getvalue().encode()}).html
    assert [row[0] for row in cells(page)[1:]] == shown


def test_cells_and_headers_are_escaped() -> None:
    data = b'<script>h</script>,b\n<script>alert(1)</script>,"<img src=x onerror=y>"\n'
    reply = reply_to("[<script>](x.csv)", {"x.csv": data})
    assert_harmless(reply)
    assert cells(reply.html) == [["<script>h</script>", "b"], ["<script>alert(1)</script>", "<img src=x onerror=y>"]]
    assert "<script>alert(1)</script>" in reply.text


def test_wide_tables_are_cut_and_say_so() -> None:
    header = ",".join(f"column number {n}" for n in range(40))
    reply = reply_to("[T](x.csv)", {"x.csv": f"{header}\n{'1,' * 39}1\n".encode()})
    assert len(cells(reply.html)[0]) == 10
    assert "10 of 40 columns; all in x.csv" in reply.html
    assert max(map(len, reply.text.splitlines())) <= 100
    assert re.search(r"\d of 40 columns; all in x\.csv", reply.text)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1+1", "-1-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "=", "+49 30 1", "＝1", "-x"]
)
def test_formulas_are_made_text_in_what_is_attached(cell: str) -> None:
    assert attached_cell(cell) == "'" + cell or attached_cell(cell).replace("'", "") == cell
    assert attached_cell(cell).startswith("'")


@pytest.mark.parametrize(
    "cell", ["-5", "+5", "-1234.5", "-1,234.5", "-1e-05", "-12%", "-", "a-b", "1=2", "x@y.test", "'=1"]
)
def test_numbers_and_words_stay_as_they_are(cell: str) -> None:
    assert attached_cell(cell) == cell


@pytest.mark.parametrize("cell", ["x;=1+1", "x,=1+1", "x\t=1+1", "x\n=1+1", "x\r=1+1"])
def test_a_formula_does_not_hide_behind_another_separator(cell: str) -> None:
    assert "'=1+1" in attached_cell(cell)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_the_guard_holds_in_every_encoding(encoding: str) -> None:
    data = "größe,b\n=1+1,x\n".encode(encoding)
    [file] = reply_to("[T](x.csv)", {"x.csv": data}).attachments
    assert file.data.decode("utf-8-sig") == "größe,b\r\n'=1+1,x\r\n"


def attached_cell(cell: str) -> str:
    """What a spreadsheet reads where the agent wrote `cell`, in a file that is attached without being shown."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b"], ["k", cell]])
    [file] = reply_to("x", {"attachments/x.csv": out.getvalue().encode()}).attachments
    assert file.data.startswith(b"\xef\xbb\xbf")
    return list(csv.reader(io.StringIO(file.data.decode("utf-8-sig"), newline="")))[1][1]


def test_semicolons_and_tabs_separate_too() -> None:
    for separator in ";\t":
        page = reply_to("[T](x.csv)", {"x.csv": f"a{separator}b\n1,5{separator}2\n".encode()}).html
        assert cells(page) == [["a", "b"], ["1,5", "2"]]


def test_a_table_is_shown_once() -> None:
    reply = reply_to("[T](x.csv)\n\n[T](x.csv)", {"x.csv": b"a,b\n1,2\n"})
    assert len(LexborHTMLParser(reply.html).css("table.data")) == 1
    assert "T (x.csv, attached)" in reply.text


def test_only_a_few_tables_are_shown() -> None:
    names = [f"t{number}.csv" for number in range(30)]
    reply = reply_to("\n\n".join(f"[T]({name})" for name in names), dict.fromkeys(names, b"a,b\n1,2\n"))
    assert_harmless(reply)
    assert len(LexborHTMLParser(reply.html).css("table.data")) == MAX_FILES
    assert reply.text.count("(file left out)") == 20


def test_a_table_too_large_to_go_along_is_shown_all_the_same() -> None:
    data = b"a,b\n" + b"1,2\n" * 1_700_000
    reply = reply_to("[T](x.csv)", {"x.csv": data})
    assert_harmless(reply)
    assert reply.attachments == ()
    assert "20 of 1,700,000 rows; the file is left out" in reply.text
    assert "Left out: x.csv (6.8 MB" in reply.text


def test_other_tables_are_attached_only() -> None:
    reply = reply_to(
        "[Book](tables/x.xlsx) and [cols](y.parquet)", {"tables/x.xlsx": b"PK\x03\x04", "y.parquet": b"PAR1"}
    )
    assert "Book (x.xlsx, attached) and cols (y.parquet, attached)" in reply.text
    assert [file.name for file in reply.attachments] == ["x.xlsx", "y.parquet"]


def test_a_missing_table_is_said() -> None:
    reply = reply_to("[T](tables/gone.csv)")
    assert "T (file missing)" in reply.text
    assert "T<span" in reply.html


def test_tables_of_the_answer_itself() -> None:
    reply = reply_to("| a | b | c |\n|---|---|:--|\n| **x** | 1,000 | 2 |\n| [y](https://e.test) | -5% | 3 |\n")
    assert [head.attributes.get("align") for head in LexborHTMLParser(reply.html).css("th")] == [None, "right", "left"]
    assert "a                       b  c\n" in reply.text
    assert "x                   1,000  2\ny <https://e.test>    -5%  3\n" in reply.text


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("[here](https://evil.test/x)", "here <https://evil.test/x>"),
        ("<https://e.test/a>", "https://e.test/a"),
        ("[write](mailto:a@b.test?bcc=c@d.test)", "write <a@b.test>"),
        ("<a@b.test>", "a@b.test"),
        ("[x](javascript:alert\\(1\\))", "[x](javascript:alert(1))"),
        ("[x](data:text/html,1)", "[x](data:text/html,1)"),
        ("[x](http://e.test)", "x"),
        ("[x](https://bank.test@evil.test)", "x"),
        ("[x](https://a\\\\@evil.test)", "x"),
        ("[x](ftp://e.test)", "x"),
        ("[x](//e.test)", "x"),
        ("[x](#top)", "x"),
        ("[x](https://a]b)", "x"),
        ("[x](https://[::1)", "x"),
        ("[x](cid:a@b)", "x"),
    ],
)
def test_links(markdown: str, text: str) -> None:
    reply = reply_to(markdown)
    assert_harmless(reply)
    assert reply.text.strip() == text
    assert bool(LexborHTMLParser(reply.html).css("a")) == (
        "<" in text or ("@" in text and "x" not in text) or text[:5] == "https"
    )


def test_a_link_shows_its_host() -> None:
    page = reply_to("[https://bank.test](https://evil.test/login) <https://e.test/a>").html
    body = LexborHTMLParser(page).css("td.body")[0].text().strip()
    assert body == "https://bank.test (evil.test) https://e.test/a"


# --- files --------------------------------------------------------------------------------------------------------


def test_what_is_attached_and_what_is_not() -> None:
    files = {
        "answer.md": b"x",
        "facts.jsonl": b"",
        "analysis.py": b"print()",
        "tables/unused.csv": b"a\n",
        "charts/unused.png": png(),
        "attachments/a.pdf": b"%PDF-1.7",
        "attachments/deep/b.json": b"{}",
        "notes.txt": b"x",
    }
    reply = reply_to("x", files)
    assert [(file.name, file.media_type) for file in reply.attachments] == [
        ("a.pdf", "application/pdf"),
        ("b.json", "application/json"),
        ("analysis.py.txt", "text/plain"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "sent"),
    [
        ("run.exe", b"MZ\x00\x00", None),
        ("run.bat", b"echo", "run.bat.txt"),
        ("page.html", b"<script>", "page.html.txt"),
        ("fake.pdf", b"MZ", None),
        ("fake.xlsx", b"<html>", None),
        ("macro.xlsm", b"PK\x03\x04\x00", None),
        ("pic.svg", b"<svg/>", "pic.svg.txt"),
        ("empty.csv", b"", None),
        ("latin.txt", b"gr\xf6\xdfe", None),
        ("noextension", b"x", "noextension.txt"),
    ],
)
def test_types_are_told_by_content(name: str, data: bytes, sent: str | None) -> None:
    reply = reply_to("x", {f"attachments/{name}": data})
    assert [file.name for file in reply.attachments] == ([sent] if sent else [])
    assert ("Left out: " + name in reply.text) == (sent is None)


def test_equal_names_are_told_apart() -> None:
    files = {f"attachments/{folder}/Data.txt": b"x" for folder in "abc"} | {"attachments/d/data.TXT": b"x"}
    assert [file.name for file in reply_to("x", files).attachments] == [
        "Data.txt",
        "Data-2.txt",
        "Data-3.txt",
        "data-4.TXT",
    ]


def test_what_is_over_the_budget_is_left_out_and_named() -> None:
    files = {f"attachments/{n}.txt": b"x" * 3_000_000 for n in range(3)} | {"analysis.py": b"print()"}
    reply = reply_to("x", files)
    assert_harmless(reply)
    assert [file.name for file in reply.attachments] == ["0.txt", "1.txt", "analysis.py.txt"]
    for part in (reply.html, reply.text.replace("\n", " ")):
        assert "Left out: 2.txt (3.0 MB: a mail carries 7 MB in all)." in part


def test_charts_count_too() -> None:
    chart = png()[:-12] + b"\x00" * 6_000_000 + png()[-12:]
    reply = reply_to("![c](c.png)", {"c.png": chart, "attachments/a.txt": b"x" * 2_000_000})
    assert_harmless(reply)
    assert (len(reply.images), reply.attachments) == (1, ())


def test_thousands_of_files_are_ten() -> None:
    reply = reply_to("x", {f"attachments/{n:05}.txt": b"x" for n in range(5000)})
    assert_harmless(reply)
    assert len(reply.attachments) == MAX_FILES
    assert "and 4,985 more" in reply.text.replace("\n", " ")


@pytest.mark.parametrize(
    "path",
    [
        "attachments/../../../etc/passwd",
        "attachments/\x00.txt",
        "attachments/a\r\nBcc: x@y.test",
        "/attachments/a.txt",
        "attachments//a.txt",
        "attachments/..\\..\\a.txt",
        "attachments/\u202etxt.exe",
        "attachments/" + "a" * 5000,
    ],
)
def test_odd_paths_are_left_out(path: str) -> None:
    reply = reply_to(f"![x](<{path}>) [y](<{path}>)", {path: png()})
    assert_harmless(reply)
    assert (reply.images, reply.attachments) == ((), ())
    assert "its path is odd" in reply.text.replace("\n", " ")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.txt", "b.txt"),
        ("..", "file"),
        ("", "file"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("a<b>:c.txt", "a_b_c.txt"),
        (" .hidden. ", "hidden"),
        ("C:\\x\\y.csv", "y.csv"),
        ("u\u0308.csv", "ü.csv"),
        ("\ud800.txt", "txt"),
    ],
)
def test_file_names(path: str, name: str) -> None:
    assert file_name(path) == name


@given(st.text(max_size=300))
def test_every_name_is_safe(path: str) -> None:
    name = file_name(path)
    assert name not in ("", ".", "..")
    assert len(name.encode()) <= 100
    assert not re.search(r'[\x00-\x1f\x7f/\\<>:"|?*]', name)


@given(st.text(max_size=300), st.integers(1, 50))
def test_one_line_is_one_short_line(text: str, limit: int) -> None:
    assert len(one_line(text, limit)) <= limit
    assert len(one_line(text, limit).splitlines()) <= 1


# --- the receipt --------------------------------------------------------------------------------------------------


def test_unresolved_figures_are_named() -> None:
    reply = reply_to("It is {{gone}}.", {"facts.jsonl": b'{"id": "a", "value": 1}\nbroken\n'})
    for part in (reply.html, reply.text):
        assert "[no figure: gone]" in part
        assert "No figure was computed for: gone." in part
        assert "Not readable in facts.jsonl: line 2: not JSON." in part
        assert "1 figure computed; there is no script." in part


def test_facts_are_text_in_html() -> None:
    value = b'"<script>alert(1)</script> ![x](https://t.test/p.png) [c](https://e.test)"'
    reply = reply_to("It is {{a}}.", {"facts.jsonl": b'{"id": "a", "value": ' + value + b"}"})
    assert_harmless(reply)
    assert "It is <script>alert(1)</script>" in html_entities.unescape(reply.html)
    assert LexborHTMLParser(reply.html).css("a") == []


# --- text ---------------------------------------------------------------------------------------------------------


def test_markdown_as_text() -> None:
    answer = """# Title

First *line*
goes on.\\
Next `line`.

- one

  more
- two
  1. a
  2. b

> quoted
>
> - item

```
code  <b>
```

***

End &amp; &lt;script&gt;.
"""
    assert (
        reply_to(answer).text
        == """Title
=====

First line goes on.
Next line.

- one

  more

- two

  1. a
  2. b

> quoted
>
> - item

    code  <b>

--------------------

End & <script>.
"""
    )


def test_text_is_wrapped_and_long_addresses_are_not() -> None:
    address = "https://e.test/" + "a" * 100
    text = reply_to("- " + "word " * 100 + f"<{address}>").text
    assert address in text
    assert all(len(line) <= 76 for line in text.splitlines() if address not in line)


# --- anything -----------------------------------------------------------------------------------------------------

PIECES = [
    *(
        "# ",
        "\n",
        "\n\n",
        "- ",
        "1. ",
        "> ",
        "| a | b |\n|---|---|\n| ",
        " | ",
        "**",
        "*",
        "`",
        "```",
        "~~~",
        "\\",
        "    ",
    ),
    *(
        "![alt](charts/a.png)",
        "![<script>](charts/b.png)",
        "![x](https://t.test/p.png)",
        "[T](tables/x.csv)",
        "[",
        "](",
    ),
    *(
        "<script>alert(1)</script>",
        "<img src=https://t.test onerror=x>",
        "<https://e.test>",
        "[l](https://e.test)",
        "![",
    ),
    *("[r]: https://e.test/p.png\n", "![r]", "{{a}}", "{{b|,.1f}}", "{{gone}}", "{{", "}}", "&lt;", "&#0;", "&#x202e;"),
    *(
        "\x00",
        "\x1b",
        "\u202e",
        "javascript:alert(1)",
        "mailto:a@b.test",
        "cid:x",
        "漢字",
        "\ud800",
        "\r\n",
        "\t",
        "<!--",
    ),
]
MARKDOWN = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=40).map("".join)
PATHS = st.one_of(
    st.sampled_from(
        ["charts/a.png", "charts/b.png", "tables/x.csv", "facts.jsonl", "analysis.py", "attachments/x.csv"]
    ),
    st.builds("attachments/{}".format, st.text(max_size=20)),
    st.text(max_size=20),
)
DATA = st.one_of(
    st.just(png()),
    st.just(b"a,b\n<script>,=1\n"),
    st.just(b'{"id": "a", "value": "<script>"}\n{"id": "b", "value": 1.5}'),
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode(errors="replace")),
)


@settings(max_examples=300)
@given(MARKDOWN, st.dictionaries(PATHS, DATA, max_size=6), st.text(max_size=40))
def test_whatever_the_agent_leaves_the_reply_is_harmless(answer: str, files: dict[str, bytes], words: str) -> None:
    reply = reply_to(answer, files, notice=words, quoted_intro=words, marker=MARKER)
    assert_harmless(reply)
    assert "{{gone}}" not in reply.text
    assert reply.text.startswith(MARKER)
    for image in LexborHTMLParser(standalone(reply)).css("img"):
        assert str(image.attributes["src"]).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "answer",
    [
        "<" * 40_000,
        "&" * 200_000,
        "*\n" * 20_000,
        "a\n\n" * 15_000,
        "*a **b " * 3_000 + "b** a*" * 3_000,
        ("|a" * 300 + "|\n" + "|-" * 300 + "|\n" + "|x\n" * 600 + "\n") * 16,
        "[T](tables/x.csv)\n\n" * 2_000,
        "![c](charts/a.png)\n\n" * 2_000,
        "漢" * 60_000,
        "{{" * 20_000,
    ],
    ids=lambda answer: answer[:8],
)
def test_the_page_keeps_its_size(answer: str) -> None:
    reply = reply_to(answer, {"tables/x.csv": b"a,b\n" + b"1,2\n" * 50, "charts/a.png": png()})
    assert_harmless(reply)
    assert "Too long for a mail" in reply.text + reply.html or "tables" in answer or len(reply.text) < 45_000


def test_few_bytes_do_not_make_millions_of_cells() -> None:
    answer = "|a" * 300 + "|\n" + "|-" * 300 + "|\n" + "|x\n" * 600
    assert len(read_answer(answer, Enclosures(()))) < 10


def test_emphasis_is_not_nested_for_ever() -> None:
    page = reply_to("*a **b " * 500 + "b** a*" * 500).html
    depth, deepest = 0, 0
    for tag in re.findall(r"<(/?)(?:em|strong)>", page):
        depth += -1 if tag else 1
        deepest = max(deepest, depth)
    assert (depth, deepest) == (0, 16)


def test_an_answer_too_long_goes_along_whole() -> None:
    answer = "A line of words.\n\n" * 5_000
    reply = reply_to(answer)
    [file] = reply.attachments
    assert (file.name, file.data) == ("answer.md", answer.encode())
    assert "all of it is in answer.md" in reply.text
