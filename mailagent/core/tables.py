"""Tables: reads a CSV, guards it against formulas, and lays it out as HTML and as aligned text."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mailagent.core.facts import format_number
from mailagent.core.plain import one_line, width

SHOWN_ROWS = 20
SHOWN_COLUMNS = 10
_TEXT_WIDTH = 100
_HTML_CELL = 80
_TEXT_CELL = 32

_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d{1,20})?")
_FIGURE = re.compile(r"[-+−(]?\s?[$€£¥]?\s?\d[\d.,' ]{0,24}(e[-+]?\d{1,3})?\)?\s?[%$€£¥]?", re.IGNORECASE)
_CODE = re.compile(
    r"(.*[^a-z])?(id|code|zip|postcode|phone|account|order|invoice|customer|year|key|no|nr|number)", re.IGNORECASE
)
_BLANK = ("", "-", "–", "—", "n/a", "N/A")
# A spreadsheet may take what follows any of its separators for a formula (OWASP, "CSV Injection"; the full-width
# forms count in some of them too), so each part of a cell is looked at. A signed number is data.
_FORMULA = re.compile(r"(^|[,;\t\r\n])([ \x00\xa0\ufeff]{0,4}[=+\-@＝＋－＠][^,;\t\r\n]*)")
_SIGNED_NUMBER = re.compile(r"-|[-+]\d[\d.]{0,30}(e[-+]?\d{1,3})?\s?%?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Csv:
    """A CSV file read once: header and first rows, its extent without the header, and the whole made safe to open.

    `guarded` is for a spreadsheet: UTF-8 with BOM, CRLF, and an apostrophe before whatever it would run as a formula.
    """

    head: tuple[tuple[str, ...], ...]
    all_rows: int
    all_columns: int
    guarded: bytes


@dataclass(frozen=True, slots=True)
class Table:
    """What of a table is shown: cells ready for the eye, which columns are figures, and how much there is in all."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: tuple[bool, ...]
    all_rows: int
    all_columns: int


def read_csv(data: bytes) -> Csv | None:
    """The table in a CSV file (RFC 4180, also with ';' or TAB; blank lines dropped), None when there is none in it."""
    text = _decode(data)
    delimiter = max(",;\t", key=text[:4096].partition("\n")[0].count)
    head: list[tuple[str, ...]] = []
    rows = columns = 0
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if any(row):
                writer.writerow(map(_guard, row))
                rows, columns = rows + 1, max(columns, len(row))
                if rows <= SHOWN_ROWS + 1:
                    head.append(tuple(row))
    except csv.Error:
        return None
    return Csv(tuple(head), rows - 1, columns, out.getvalue().encode("utf-8-sig", errors="replace")) if rows else None


def shown(table: Csv) -> Table:
    """The first rows and columns of a CSV, its numbers laid out for reading: the file keeps their full precision."""
    columns = min(table.all_columns, SHOWN_COLUMNS)
    header, *rows = [(row + ("",) * columns)[:columns] for row in table.head]
    laid_out = [_column(name, [row[index] for row in rows]) for index, name in enumerate(header)]
    return Table(
        header=tuple(one_line(name, _HTML_CELL) for name in header),
        rows=tuple(zip(*laid_out, strict=True)) if rows else (),
        figures=tuple(are_figures(column) for column in laid_out),
        all_rows=table.all_rows,
        all_columns=table.all_columns,
    )


def are_figures(cells: Sequence[str]) -> bool:
    """True when every cell that is not blank reads as a number, a percentage or an amount: the column is set right."""
    filled = [cell for cell in cells if cell not in _BLANK]
    return bool(filled) and all(_FIGURE.fullmatch(cell) for cell in filled)


def table_note(table: Table, rows: int, columns: int, name: str | None = "") -> str:
    """How much of the table is shown and where it all is: "20 of 137 rows; all in x.csv".

    `name` is the attachment, None when it is left out, "" when the table comes from no file.
    """
    parts = []
    if rows < table.all_rows:
        parts.append(f"{rows} of {table.all_rows:,} rows")
    if columns < table.all_columns:
        parts.append(f"{columns} of {table.all_columns:,} columns")
    where = f"{'all in' if parts else 'attached as'} {name}" if name else "the file is left out" if name is None else ""
    return "; ".join(filter(None, (", ".join(parts), where)))


def as_html(table: Table, caption: str, rows: int) -> str:
    """The table with at most `rows` rows as HTML, every cell escaped."""
    head = "".join(_cell("th", name, figure, ' scope="col"') for name, figure in _columns(table.header, table.figures))
    body = "".join(
        "<tr>" + "".join(_cell("td", cell, figure) for cell, figure in _columns(row, table.figures)) + "</tr>"
        for row in table.rows[:rows]
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<table class="data">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def as_text(table: Table) -> tuple[list[str], int]:
    """The table as lines for a fixed-width font, and how many columns found room in them."""
    lines = [[one_line(cell, _TEXT_CELL) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(width(cell) for cell in column) for column in zip(*lines, strict=True)]
    fitting = max(1, sum(sum(widths[: n + 1]) + 2 * n <= _TEXT_WIDTH for n in range(len(widths))))
    lines.insert(1, ["-" * size for size in widths])
    return [_aligned(line[:fitting], widths, table.figures) for line in lines], fitting


def _aligned(line: Sequence[str], widths: Sequence[int], figures: Sequence[bool]) -> str:
    cells = []
    for cell, size, figure in zip(line, widths, figures, strict=False):
        gap = " " * (size - width(cell))
        cells.append(gap + cell if figure else cell + gap)
    return "  ".join(cells).rstrip()


def _columns(row: Sequence[str], figures: Sequence[bool]) -> list[tuple[str, bool]]:
    return list(zip(row, figures, strict=True))


def _cell(tag: str, text: str, figure: bool, attributes: str = "") -> str:
    align = ' align="right"' if figure else ""
    return f"<{tag}{attributes}{align}>{escape(text)}</{tag}>"


def _column(name: str, cells: Sequence[str]) -> list[str]:
    """The cells of one column as they are shown; plain numbers with the same decimals throughout."""
    cells = [one_line(cell, _HTML_CELL) for cell in cells]
    numbers = [cell for cell in cells if cell not in _BLANK]
    if not numbers or not all(_PLAIN_NUMBER.fullmatch(cell) for cell in numbers):
        return cells
    decimals = _decimals(numbers)
    if decimals:
        return [cell if cell in _BLANK else format_number(float(cell), f",.{decimals}f") for cell in cells]
    # 10023 may be a number or the name of an order, 2024 a year: those get no separators.
    whole = [cell.partition(".")[0] for cell in cells]
    counted = not _CODE.fullmatch(name.strip()) and not all(1900 <= float(cell) <= 2100 for cell in numbers)
    return [cell if cell in _BLANK else format(int(cell), "," if counted else "") for cell in whole]


def _decimals(cells: Sequence[str]) -> int:
    """Two decimals at most, more only where the smallest number would vanish, fewer where all are whole."""
    present = max(len(cell.partition(".")[2].rstrip("0")) for cell in cells)
    smallest = min((abs(float(cell)) for cell in cells if float(cell)), default=1.0)
    return min(present, 6, max(2, 1 - math.floor(math.log10(smallest))))


def _guard(cell: str) -> str:
    guarded = _FORMULA.sub(_guard_part, cell)
    return f"'{guarded}" if cell[:1] in ("\t", "\r") else guarded


def _guard_part(match: re.Match[str]) -> str:
    return match[0] if _SIGNED_NUMBER.fullmatch(match[2].strip()) else f"{match[1]}'{match[2]}"


def _decode(data: bytes) -> str:
    """Text whatever the encoding: a byte that cannot be read must not carry a formula past the guard."""
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
