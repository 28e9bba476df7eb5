"""Tables pasted into a mail's words: lines with tabs become CSV, lists and addresses stay words."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import groupby, islice

Row = list[str]

MAX_TABLES = 20
MAX_CELLS = 1_000_000
_PROSE = 40
"""Characters of a cell that rather holds a sentence; a table of mostly such cells lays out a page."""

_BULLET = re.compile(r"[*•·◦▪o–—-]|\(?(?:\d{1,3}|[A-Za-z]|[ivx]{1,5})[.)]")
_LABEL = re.compile(
    r"(?:tel|telephone|telefon|phone|mobile|mobil|cell|office|direct|fax|e-?mail|mail|web|website|www|address|adresse"
    r"|from|sent|to|cc|subject|date|von|gesendet|an|betreff|datum|de|envoyé|à|objet)\.?\s*(:?)",
    re.IGNORECASE,
)
"""What stands before the parts of a signature, and of a message quoted without a mark."""
_CONTACT = re.compile(r"[+0(][\d\s()/.-]{5,}|\S+@\S+|(?:https?://|www\.)\S+", re.IGNORECASE)


def pasted_tables(text: str) -> list[bytes]:
    """The tables in the writer's own words, each as CSV (RFC 4180) in UTF-8: at least two rows and two columns that
    hold something, figures among it. What stands below a signature's "-- " (RFC 3676 section 4.3) is none."""
    tables = (_table(run) for run in _runs(text))
    return [_csv(rows) for rows in islice((rows for rows in tables if _is_data(rows)), MAX_TABLES)]


def _runs(text: str) -> Iterator[list[Row]]:
    """The lines with tabs that follow one another, as cells."""
    lines = text.split("\n")
    end = next((n for n, line in enumerate(lines) if line in ("--", "-- ")), len(lines))
    for tabbed, run in groupby(lines[:end], key=lambda line: "\t" in line and not line.startswith(">")):
        if tabbed:
            yield [[cell.strip() for cell in line.split("\t")] for line in run]


def _table(rows: list[Row]) -> list[Row]:
    """The rows made equally long, without empty rows and columns; none when there is no room for so many cells."""
    width = max(map(len, rows))
    if width * len(rows) > MAX_CELLS:
        return []
    full = [row + [""] * (width - len(row)) for row in rows if any(row)]
    used = [n for n in range(width) if any(row[n] for row in full)]
    return [[row[n] for n in used] for row in full]


def _is_data(rows: list[Row]) -> bool:
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    if len(rows[0]) == 2 and (_is_list(rows) or 2 * sum(map(_is_label, rows)) >= len(rows)):
        return False
    cells = [cell for row in rows for cell in row if cell]
    short = sum(len(cell) <= _PROSE for cell in cells)
    return 2 * short >= len(cells) and any(c.isdigit() for cell in cells for c in cell)


def _is_list(rows: list[Row]) -> bool:
    return all(_BULLET.fullmatch(row[0]) for row in rows)


def _is_label(row: Row) -> bool:
    """True for "Phone: 12" and "Phone +49 30 …", not for "Phone 12", which may be what was sold by phone."""
    label = _LABEL.fullmatch(row[0])
    return label is not None and (bool(label[1]) or _CONTACT.fullmatch(row[1]) is not None)


def _csv(rows: list[Row]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()
