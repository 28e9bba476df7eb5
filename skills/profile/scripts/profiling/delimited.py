"""Reads a text file with separators into DuckDB: fast when it is regular, patiently when it is not."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb

from profiling import UnreadableError, contents
from profiling.layout import LOOK, Layout, csv_rows, declared_separator, layout_of, separator_of
from profiling.raw import DAMAGED, Raw, above, check_width, cleaned, header_text, load_csv, load_rows

Rows = Sequence[Sequence[str]]


def read_text(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> Raw:
    """The table in this text file. Raises UnreadableError when there is none."""
    text = contents.utf8(path, scratch)
    head = _head(text.path)
    declared = declared_separator(head)
    if declared:
        head = head.split("\n", 1)[1] if "\n" in head else ""
    suffix = path.suffix.lower()
    separator = declared or separator_of(head, trusted=suffix in (".csv", ".tsv"))
    rows = csv_rows(head, separator)
    layout = layout_of(rows[:LOOK])
    if not layout.names:
        raise UnreadableError("has no table in it")
    check_width(len(layout.names))
    skip = layout.first + bool(declared)
    notes = above(layout)
    if text.guessed:
        notes.append(f"the encoding was guessed: {text.encoding}")
    if not _fast(con, text.path, separator, skip, rows, layout):
        notes += _slow(con, text.path, separator, skip, len(layout.names), scratch)
    if con.execute("SELECT count(*) FROM raw0").fetchall() == [(0,)]:
        raise UnreadableError("has column names but no rows")
    kind = "TSV" if separator == "\t" else "CSV"
    shown = "\\t" if separator == "\t" else separator
    where = header_text(layout, offset=1 + bool(declared))
    source = f'{kind}, {text.encoding}, separator "{shown}", decimal "{{decimal}}", {where}'
    return Raw("raw0", layout.names, (None,) * len(layout.names), source, "", separator, notes)


def _head(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        head = file.read(contents.HEAD)
        cut = bool(file.read(1))
    return head[: head.rfind("\n") + 1] or head if cut else head


def _fast(con: duckdb.DuckDBPyConnection, path: Path, separator: str, skip: int, rows: Rows, layout: Layout) -> bool:
    # DuckDB reads regular files in no time. It must find the first row that we found: it miscounts the lines to skip
    # when a quoted field above holds a line break.
    width = len(layout.names)
    try:
        load_csv(con, "raw0", path, width, separator, skip)
    except duckdb.Error:
        return False
    found = con.execute("SELECT * FROM raw0 LIMIT 1").fetchall()
    mine = next((row for row in rows[layout.first :] if any(cell.strip() for cell in row)), None)
    return (tuple(cleaned(mine, width)) if mine else None) == (found[0] if found else None)


@dataclass(slots=True)
class _Ragged:
    short: int = 0
    long: int = 0
    example: str = ""

    def notes(self) -> list[str]:
        notes = []
        if self.long:
            notes.append(f'rows with too many cells: {self.long}; the extra ones left out, first: "{self.example}"')
        if self.short:
            notes.append(f"rows with too few cells: {self.short}; the missing cells are empty")
        return notes


def _slow(
    con: duckdb.DuckDBPyConnection, path: Path, separator: str, skip: int, width: int, scratch: Path
) -> list[str]:
    # Python's reader takes anything; an odd quote swallows the rest of a file, though, so then quotes mean nothing.
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        ragged = _Ragged()
        with path.open(encoding="utf-8", newline="") as file:
            rows: Iterable[list[str]] = islice(csv.reader(file, delimiter=separator, quoting=quoting), skip, None)
            if quoting == csv.QUOTE_NONE:
                rows = ([cell.strip('"') for cell in row] for row in rows)
            try:
                load_rows(con, "raw0", width, _even(rows, width, separator, ragged), scratch)
            except (csv.Error, duckdb.Error, _SwallowedError):
                continue
        odd = ["a quotation mark has no partner: quotation marks were ignored"] if quoting == csv.QUOTE_NONE else []
        return [*odd, *ragged.notes()]
    raise UnreadableError(DAMAGED)


class _SwallowedError(Exception):
    """A field holds whole rows: its opening quote was none."""


def _even(rows: Iterable[list[str]], width: int, separator: str, ragged: _Ragged) -> Iterator[list[str | None]]:
    for row in rows:
        if any("\n" in cell and _holds_rows(cell, separator, width) for cell in row):
            raise _SwallowedError
        if len(row) < width:
            ragged.short += bool(row)
        elif len(row) > width and any(cell.strip() for cell in row[width:]):
            ragged.example = ragged.example or separator.join(row)
            ragged.long += 1
        yield cleaned(row, width)


def _holds_rows(cell: str, separator: str, width: int) -> bool:
    return any(line.count(separator) >= max(1, width - 1) for line in cell.splitlines()[1:-1] or cell.splitlines()[1:])
