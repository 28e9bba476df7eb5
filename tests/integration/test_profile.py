"""The profile script reads what people send: run as in the sandbox, its figures against ones computed here."""

import csv
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from shutil import copy

import openpyxl
import pandas
import pytest

from mailagent.demo.reading import tables as read_by_stand_in
from tests.profiled import Profiled, german, profiled, workspace

DATA = Path(__file__).parents[1] / "data" / "tables"
SECTION_BYTES = 2048


# --- files as people send them ---


@dataclass(frozen=True)
class Expected:
    """What the profile must make of a file of tests/data/tables."""

    types: str
    rows: int
    sums: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    says: Sequence[str] = ()


EXPECTED = {
    "german": Expected(
        "Auftrag integer, Datum date, Kunde text, Betrag number, PLZ text",
        4,
        {"Betrag": "3322.40"},
        'CSV, cp1252, separator ";", decimal ",", header row 1',
        ['- dropped: 1 total row: "Summe;;;3.322,40;"'],
    ),
    "utf16": Expected("stadt text, umsatz integer", 2, {"umsatz": "30"}, r'TSV, utf-16, separator "\t"'),
    "shift_jis": Expected("支店 text, 売上 integer", 3, {"売上": "600"}, "CSV, cp932"),
    "preamble": Expected(
        "region text, revenue integer",
        2,
        {"revenue": "271000"},
        "header row 4",
        ['- dropped: 1 total row: "Total,271000"', '"Sales report / Created: 2025-04-01"'],
    ),
    "declared": Expected(
        "name text, share number", 3, {"share": "100"}, "header row 2", ["percent signs removed: 12.5 means 12.5 %"]
    ),
    "two_headers": Expected(
        "Region text, Umsatz netto integer, Umsatz brutto integer, Kosten netto integer, Kosten brutto integer",
        2,
        {"Umsatz netto": "6", "Kosten brutto": "12"},
        "header row 2",
    ),
    "ragged": Expected(
        "a integer, b integer, c integer",
        4,
        {"a": "21", "c": "23"},
        says=['rows with too many cells: 1; the extra ones left out, first: "6,7,8,9"', "rows with too few cells: 1"],
    ),
    "codes": Expected("zip text, phone text, account text, n integer", 2, {"n": "11"}),
    "money": Expected(
        "price number, change number, mixed text",
        3,
        {"price": "1253.75", "change": "-899.5"},
        says=["price: amounts are in USD", "mixed mixes currencies (EUR, USD): left as text"],
    ),
    "odd_quote": Expected(
        "id integer, size integer, n integer", 4, {"size": "26", "n": "30"}, says=["quotation marks were ignored"]
    ),
    "blank_lines": Expected("a integer, b integer", 3, {"a": "9", "b": "12"}),
    "silent_total": Expected(
        "id integer, region text, amount integer", 4, {"amount": "100"}, says=['- dropped: 1 total row: ",,100"']
    ),
    "closing_lines": Expected(
        "id integer, region text, amount integer",
        3,
        {"amount": "60"},
        says=['- dropped: 1 total row: "Grand total,,60"', 'closing line left out: "Source: ERP export of 1 April"'],
    ),
    "glued": Expected("day date, amount integer", 3, {"amount": "12"}, says=["repeated 1 times"]),
    "month_first": Expected("day date, n integer", 3, says=["day: dates are MM/DD/YYYY", "2025-01-31 .. 2025-12-24"]),
    "short_years": Expected("day date, n integer", 3, says=["mixes 2 formats", "| 2025-02-01 .. 2025-03-15 |"]),
    "ambiguous": Expected("day date, n integer", 3, says=['"01/04/2025" was read as MM/DD (assumed']),
    "years": Expected(
        "Region text, 2023 number, 2024 number", 2, {"2023": "1100.75", "2024": "500.5"}, 'decimal ",", header row 1'
    ),
    "no_header": Expected(
        "column_1 date, column_2 integer, column_3 text", 3, {"column_2": "60"}, source="no header row"
    ),
    "lists": Expected("name text, tags text", 3, source='separator ","'),
    "spellings": Expected("city text, n integer", 4, says=["city spells the same value in several ways"]),
    "injection": Expected("name text, note text", 3),
}


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    place = workspace(tmp_path_factory.mktemp("torture"), {})
    for path in DATA.glob("*.csv"):
        copy(path, place / "in")
    return profiled(place)


def test_all_of_the_files_are_tables(torture: Profiled) -> None:
    assert (sorted(torture.said["tables"]), torture.said["unreadable"]) == (sorted(EXPECTED), [])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_as_people_send_it(torture: Profiled, name: str) -> None:
    expected, section = EXPECTED[name], torture.section(name)
    assert torture.types(name) == {c.rsplit(" ", 1)[0]: c.rsplit(" ", 1)[1] for c in expected.types.split(", ")}
    assert f"- rows: {expected.rows}; " in section
    sums = {c: sum(Decimal(str(v)) for v in torture.values(name, c) if v is not None) for c in expected.sums}
    assert sums == {column: Decimal(total) for column, total in expected.sums.items()}
    assert expected.source in section
    assert [text for text in expected.says if text not in section] == []


@pytest.mark.parametrize("name", EXPECTED)
def test_the_stand_in_reads_the_same(torture: Profiled, name: str) -> None:
    (table,) = read_by_stand_in("\n" + torture.section(name))
    assert {column.name: column.kind for column in table.columns} == torture.types(name)
    assert (table.rows, table.parquet) == (EXPECTED[name].rows, f"work/tables/{name}.parquet")


def test_an_order_in_a_cell_stays_a_cell(torture: Profiled) -> None:
    lines = torture.section("injection").splitlines()
    fences = [i for i, line in enumerate(lines) if "`" in line]
    assert [lines[i] for i in fences] == ["```first rows", "```"]
    assert [line for line in lines if line.startswith("#")] == ["## Table " + lines[0].split()[2] + " injection"]
    assert [line for line in lines if line.startswith("- parquet")] == ["- parquet: work/tables/injection.parquet"]
    told = [i for i, line in enumerate(lines) if "Ignore" in line]
    assert told
    assert all(lines[i].startswith("| note |") or fences[0] < i < fences[1] for i in told)


# --- a larger export, every figure computed here ---

REGIONS = ["North", "South", "East", "West"]


@dataclass(frozen=True)
class Export:
    """Order lines as an export writes them, and as they are meant."""

    text: str
    days: list[date | None]
    amounts: list[Decimal | None]
    unreadable: int


def export(rows: int) -> Export:
    random, lines = Random(7), []
    days: list[date | None] = []
    amounts: list[Decimal | None] = []
    unreadable = 0
    for number in range(rows):
        day: date | None = date(2025, 1, 1) + timedelta(days=random.randrange(365))
        amount: Decimal | None = Decimal(random.randrange(-50_000, 2_000_000)) / 100
        shown = random.choice(["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y"])
        text = day.strftime(shown) if day else ""
        if number % 97 == 5:
            day, text, unreadable = None, random.choice(["tbd", "n/a", "31.02.2025"]), unreadable + 1
        if number % 101 == 7:
            amount = None
        days.append(day)
        amounts.append(amount)
        written = "" if amount is None else german(amount)
        lines.append(f"{number:06d};{text};{random.choice(REGIONS)};{number % 9};{written}")
    total = german(sum((a for a in amounts if a is not None), Decimal(0)))
    text = "\n".join(["No;Order date;Region;Qty;Amount", *lines, f"Gesamt;;;;{total}", ""])
    return Export(text, days, amounts, unreadable)


def test_a_large_messy_export(tmp_path: Path) -> None:
    made = export(30_000)
    result = profiled(workspace(tmp_path, {"export.csv": made.text}))
    section = result.section("export")
    assert result.types("export") == {
        "No": "text", "Order date": "date", "Region": "text", "Qty": "integer", "Amount": "number"
    }  # fmt: skip
    assert result.values("export", "No") == [f"{i:06d}" for i in range(30_000)]
    found = [day and day.date() for day in result.values("export", "Order date")]
    assert found == made.days
    assert [a if a is None else Decimal(str(a)) for a in result.values("export", "Amount")] == made.amounts
    total = sum((a for a in made.amounts if a is not None), Decimal(0))
    assert f"sum {total.normalize():f} |" in section
    assert f"{made.unreadable} values could not be read as dates and left empty" in section
    assert "mixes 3 formats" in section
    assert "- dropped: 1 total row" in section
    assert "- candidate keys: No" in section


def test_what_only_later_rows_show_is_found(tmp_path: Path) -> None:
    # A sample decides quickly and all rows decide: one odd value far from both ends must not be lost.
    code = [f"{i}" for i in range(1, 20_000)]
    code[11_003] = "00042"
    share = ["5"] * 19_999
    share[11_009] = "5,25"
    day = ["01/02/2025"] * 19_999
    day[11_017] = "13/02/2025"
    rows = zip(code, share, day, strict=True)
    text = "code;share;day\n" + "\n".join(";".join(row) for row in rows) + "\n"
    result = profiled(workspace(tmp_path, {"late.csv": text}))
    assert result.types("late") == {"code": "text", "share": "number", "day": "date"}
    assert result.values("late", "code")[11_003] == "00042"
    assert result.values("late", "share")[11_009] == 5.25
    days = result.values("late", "day")
    assert (days[0], days[11_017]) == (datetime(2025, 2, 1), datetime(2025, 2, 13))


def test_fast_and_patient_reading_agree(tmp_path: Path) -> None:
    # One ragged row sends the file to the patient reader; nothing else may change.
    rows = [[f"{i}", f'say "{i}"', f"a\nb{i}", f"{i / 7:.3f}"] for i in range(3000)]
    for name, extra in (("regular.csv", []), ("ragged.csv", ["surplus"])):
        (tmp_path / "in").mkdir(exist_ok=True)
        with (tmp_path / "in" / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([["n", "said", "lines", "x"], *rows[:1000], rows[1000] + extra, *rows[1001:]])
    result = profiled(tmp_path)
    for column in ("n", "said", "lines", "x"):
        assert result.values("regular", column) == result.values("ragged", column)
    assert result.values("regular", "lines") == [row[2] for row in rows]
    assert "too many cells: 1" in result.section("ragged")
    assert "too many" not in result.section("regular")


def test_wide_tables_stay_small(tmp_path: Path) -> None:
    header = ",".join(f"a rather long name of measure {i}" for i in range(500))
    rows = "\n".join(",".join(f"{i * j}" for i in range(500)) for j in range(1, 40))
    result = profiled(workspace(tmp_path, {"wide.csv": f"{header}\n{rows}\n"}))
    section = result.section("wide")
    assert len(section.encode()) <= SECTION_BYTES
    assert "rows: 39; columns: 500" in section
    shown = len([line for line in section.splitlines() if line.startswith("| a rather")])
    assert f"- note: {500 - shown} more columns are not shown: see work/manifest.json" in section
    assert shown > 10
    assert len(result.types("wide")) == 500


# --- workbooks, Parquet, several files ---


def workbook(path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Sales 2025"
    sheet.append(["Quarterly report"])
    sheet.append([])
    sheet.append([None, "Region", "Sales", None, "Day", "Code"])
    sheet.append([None, None, "net", "gross", None, None])
    sheet.merge_cells("C3:D3")
    for i in range(6):
        sheet.append([None, REGIONS[i % 4], 100.125 + i, 120 + i, date(2025, 1, 1 + i), f"0{i}"])
    sheet.append([None, "Total", sum(100.125 + i for i in range(6)), 735, None, None])
    hidden = book.create_sheet("Rates")
    hidden.sheet_state = "hidden"
    for row in (["key", "when", "flag"], ["a", datetime(2025, 1, 1, 8, 30), True], ["b", datetime(2025, 1, 2), False]):
        hidden.append(row)
    book.create_sheet("Empty")
    book.create_sheet("Read me").append(["This workbook is for you"])
    book.save(path)


def test_a_workbook(tmp_path: Path) -> None:
    workbook(workspace(tmp_path, {}) / "in" / "Year 2025.xlsx")
    result = profiled(tmp_path)
    assert result.said["tables"] == ["year_2025_sales_2025", "year_2025_rates"]
    sales, rates = (result.section(name) for name in result.said["tables"])
    assert '(XLSX, sheet "Sales 2025", visible, header row 4)' in sales
    assert '(XLSX, sheet "Rates", hidden, header row 1)' in rates
    assert result.types("year_2025_sales_2025") == {
        "Region": "text", "Sales net": "number", "Sales gross": "integer", "Day": "date", "Code": "text"
    }  # fmt: skip
    assert result.types("year_2025_rates") == {"key": "text", "when": "datetime", "flag": "boolean"}
    assert result.values("year_2025_sales_2025", "Sales net") == [100.125 + i for i in range(6)]
    assert '- dropped: 1 total row: "Total,615.75' in sales
    assert 'sheet "Read me" left out: it holds no table' in sales


def test_a_parquet_file(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "id": [1, 2, 3],
            "share": [0.5, float("nan"), 1.5],
            "at": pandas.to_datetime(["2025-01-01 00:30", "2025-01-02 00:00", None], utc=True),  # type: ignore[arg-type]
            "kind": pandas.Categorical(["x", "y", "x"]),
            "day": ["01.02.2025", "02.02.2025", "03.02.2025"],
            'we"ird | name': [True, False, None],
        }
    )
    frame.to_parquet(workspace(tmp_path, {}) / "in" / "data.parquet")
    result = profiled(tmp_path)
    assert list(result.types("data").items()) == [
        ("id", "integer"),
        ("share", "number"),
        ("at", "datetime"),
        ("kind", "text"),
        ("day", "date"),
        ('we"ird | name', "boolean"),
    ]
    assert result.values("data", "share") == [0.5, None, 1.5]
    assert result.values("data", "at") == [datetime(2025, 1, 1, 0, 30), datetime(2025, 1, 2), None]
    assert r'| we"ird \| name | boolean | 1 | 2 |' in result.section("data")
    assert "at: times are in UTC" in result.section("data")


def test_several_files_get_names_of_their_own(tmp_path: Path) -> None:
    table = "a,b\n1,2\n"
    files = {"Über sicht.csv": table, "über-sicht.tsv": "a\tb\n1\t2\n", "2025.csv": table, "東京.txt": "a;b\n1;2\n"}
    result = profiled(workspace(tmp_path, files))
    names = result.said["tables"]
    assert sorted(names) == ["t_2025", "table", "ueber_sicht", "ueber_sicht_2"]
    assert {path.stem for path in (tmp_path / "work" / "tables").iterdir()} == set(names)
    assert [int(n) for n in re.findall(r"^## Table (\d+)", result.text, re.MULTILINE)] == [1, 2, 3, 4]


# --- what cannot be read ---


def bomb() -> dict[str, bytes]:
    return {"xl/workbook.xml": b"<x/>", "xl/worksheets/sheet1.xml": b"0" * 30_000_000}


def packed(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": (b"\n \n\r\n", "has nothing but blanks in it"),
    "names.csv": (b"a,b,c\n", "has column names but no rows"),
    "report.pdf": (b"%PDF-1.7\n...", "looks like a PDF, not a table"),
    "logo.png": (b"\x89PNG\r\n\x1a\n", "looks like a picture, not a table"),
    "letter.txt": (b"Dear team,\nplease find the figures attached, as always.\nThe sales team\n", "looks like text"),
    "page.csv": (b"<!DOCTYPE html><html><table></table></html>", "looks like a web page"),
    "data.json": (b'[{"a": 1}]', "looks like JSON"),
    "noise.csv": (bytes(range(256)) * 8, "is not a text or table file"),
    "locked.xlsx": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le"),
        "is password-protected",
    ),
    "old.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "Workbook".encode("utf-16-le"), "save it as .xlsx"),
    "torn.xlsx": (b"PK\x03\x04" + bytes(100), "is damaged and cannot be opened"),
    "torn.parquet": (b"PAR1" + bytes(50) + b"PAR1", "is damaged and cannot be read"),
    "wide.csv": (b",".join(b"c%d" % i for i in range(2100)) + b"\n" + b",".join([b"1"] * 2100) + b"\n", "2100 columns"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    files: dict[str, bytes | str] = {name: data for name, (data, _) in UNREADABLE.items()}
    place = workspace(tmp_path_factory.mktemp("refused"), {**files, "good.csv": "a,b\n1,2\n"})
    packed(place / "in" / "bomb.xlsx", bomb())
    packed(place / "in" / "letter.docx", {"word/document.xml": b"<x/>"})
    packed(place / "in" / "files.zip", {"a.csv": b"a,b\n1,2\n"})
    (place / "in" / "gone.csv").symlink_to("/etc/passwd")
    return profiled(place)


REASONS = {
    **{name: reason for name, (_, reason) in UNREADABLE.items()},
    "bomb.xlsx": "far too tightly",
    "letter.docx": "looks like a Word document",
    "files.zip": "is a ZIP archive",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_read_is_told_in_plain_words(refused: Profiled, name: str) -> None:
    assert REASONS[name] in refused.reason(name)
    assert f"- unreadable: in/{name} ({refused.reason(name)})" in refused.text


def test_what_can_be_read_beside_it_is_read(refused: Profiled) -> None:
    assert refused.said["tables"] == ["good"]
    assert "passwd" not in refused.text
    assert len(refused.said["unreadable"]) == len(REASONS)


def test_nothing_to_read(tmp_path: Path) -> None:
    assert profiled(tmp_path).said == {"tables": [], "unreadable": []}


# --- again and again ---


def stamps(place: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (place / "work" / "tables").iterdir()}


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    place = workspace(tmp_path, {"b.csv": "x,y\n1,2\n", "c.csv": "x,y\n3,4\n"})
    first = profiled(place)
    before, text = stamps(place), first.text
    assert profiled(place).text == text
    assert stamps(place) == before
    (place / "in" / "a.csv").write_text("x,y\n5,6\n")
    (place / "in" / "c.csv").write_text("x,y\n7,8\n9,10\n")
    second = profiled(place)
    assert second.said["tables"] == ["b", "c", "a"]
    assert second.values("c", "x") == [7, 9]
    assert stamps(place)["b.parquet"] == before["b.parquet"]
    assert second.section("b") == first.section("b")


def test_a_lost_or_foreign_manifest_is_no_obstacle(tmp_path: Path) -> None:
    place = workspace(tmp_path, {"b.csv": "x,y\n1,2\n"})
    text = profiled(place).text
    whole = (place / "work" / "manifest.json").read_text()
    many = json.loads(whole)
    many["files"][0]["tables"] *= 41
    for broken in (
        "[]",
        "[" * 100_000,
        json.dumps(many),
        '{"version": 0, "files": []}',
        whole.replace('"notes"', '"x"'),
        whole.replace('"sha256"', '"bytes"'),
    ):
        (place / "work" / "manifest.json").write_text(broken)
        assert profiled(place).text == text
    (place / "work" / "tables" / "b.parquet").unlink()
    assert profiled(place).values("b", "x") == [1]


def test_tables_made_by_others_are_left_alone(tmp_path: Path) -> None:
    place = workspace(tmp_path, {"a.csv": "x,y\n1,2\n", "b.csv": "x,y\n1,2\n"})
    profiled(place)
    (place / "work" / "tables" / "joined.parquet").write_bytes(b"the agent's own")
    (place / "in" / "a.csv").unlink()
    assert profiled(place).said["tables"] == ["b"]
    assert {path.name for path in (place / "work" / "tables").iterdir()} == {"b.parquet", "joined.parquet"}


def test_what_was_given_is_left_alone(tmp_path: Path) -> None:
    place = workspace(tmp_path, {"b.csv": "x;y\n1;ä\n".encode("cp1252"), "c.csv": "x,y\n1\n"})
    before = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in (place / "in").iterdir()}
    for path in (place / "in").iterdir():
        path.chmod(0o444)
    os.chmod(place / "in", 0o555)
    try:
        profiled(place)
        after = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in (place / "in").iterdir()}
    finally:
        os.chmod(place / "in", 0o755)
    assert after == before
    assert sorted(p.name for p in (place / "work").iterdir()) == ["manifest.json", "profile.md", "tables"]
