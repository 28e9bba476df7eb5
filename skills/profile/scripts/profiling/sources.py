"""Reads a file into DuckDB as raw tables: columns c0, c1, … of trimmed text, or of their own type from Parquet."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import duckdb

from profiling import UnreadableError, contents
from profiling.kinds import Type, is_value
from profiling.layout import LOOK, Layout, csv_rows, declared_separator, layout_of, separator_of, unique
from profiling.quoting import identifier, literal

MAX_COLUMNS = 2_000
MAX_ROWS = 30_000_000
CHUNK = 20_000
DAMAGED = "is damaged and cannot be read"

PARQUET_TYPES: dict[str, tuple[Type | None, str]] = {
    "BOOLEAN": ("boolean", "{x}"),
    "DATE": ("date", "{x}"),
    "FLOAT": ("number", "CASE WHEN isfinite({x}) THEN CAST({x} AS DOUBLE) END"),
    "DOUBLE": ("number", "CASE WHEN isfinite({x}) THEN {x} END"),
    "DECIMAL": ("number", "CAST({x} AS DOUBLE)"),
    "UBIGINT": ("number", "CAST({x} AS DOUBLE)"),
    "HUGEINT": ("number", "CAST({x} AS DOUBLE)"),
    "TIMESTAMP WITH TIME ZONE": ("datetime", "timezone('UTC', {x})"),
    "TIMESTAMP": ("datetime", "CAST({x} AS TIMESTAMP)"),
}
INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}


@dataclass(frozen=True, slots=True)
class Raw:
    """One table as it was read: DuckDB's `table` with columns c0 … named `names`, whose type is `known` or text."""

    table: str
    names: tuple[str, ...]
    known: tuple[Type | None, ...]
    source: str
    """How it was read, for people; `{decimal}` stands for the decimal sign."""
    sheet: str = ""
    separator: str = ","
    notes: list[str] = field(default_factory=list)


def read(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> list[Raw]:
    """The tables of this file. Raises UnreadableError with the reason when there is none."""
    match contents.format_of(path):
        case "text":
            return [_text(con, path, scratch)]
        case "xlsx":
            return _workbook(con, path)
        case "parquet":
            return [_parquet(con, path)]


def _text(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> Raw:
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
    _check_width(len(layout.names))
    skip = layout.first + bool(declared)
    notes = _above(layout)
    if text.guessed:
        notes.append(f"the encoding was guessed: {text.encoding}")
    if not _fast(con, text.path, separator, skip, rows, layout):
        notes += _slow(con, text.path, separator, skip, len(layout.names))
    kind = "TSV" if separator == "\t" else "CSV"
    shown = "\\t" if separator == "\t" else separator
    where = _header(layout, offset=1 + bool(declared))
    source = f'{kind}, {text.encoding}, separator "{shown}", decimal "{{decimal}}", {where}'
    return Raw("raw0", layout.names, (None,) * len(layout.names), source, "", separator, notes)


def _head(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        head = file.read(contents.HEAD)
        cut = bool(file.read(1))
    return head[: head.rfind("\n") + 1] or head if cut else head


def _check_width(width: int) -> None:
    if width > MAX_COLUMNS:
        raise UnreadableError(f"has {width} columns; {MAX_COLUMNS} can be read")


def _above(layout: Layout) -> list[str]:
    if not layout.above:
        return []
    many = f"{len(layout.above)} lines" if len(layout.above) > 1 else "1 line"
    return [f'{many} above the table left out: "{" / ".join(layout.above)}"']


def _header(layout: Layout, offset: int) -> str:
    return "no header row" if layout.header is None else f"header row {layout.header + offset}"


def _fast(
    con: duckdb.DuckDBPyConnection, path: Path, separator: str, skip: int, rows: Sequence[Sequence[str]], layout: Layout
) -> bool:
    # DuckDB reads well-formed files in no time. It is told everything and guesses nothing (left alone it takes a file with
    # a preamble or one odd row for a single column), stops at the first irregular row, and must find the first row that
    # we found (it miscounts lines to skip when a quoted field above holds a line break).
    width = len(layout.names)
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width))
    trimmed = ", ".join(f"nullif(trim(c{i}), '') AS c{i}" for i in range(width))
    options = f"auto_detect=false, header=false, quote='\"', escape='\"', delim={literal(separator)}, skip={skip}"
    call = f"read_csv({literal(path)}, {options}, columns={{{columns}}})"
    try:
        con.execute(f"CREATE TABLE raw0 AS SELECT {trimmed} FROM {call}")
    except duckdb.Error:
        return False
    found = con.execute("SELECT * FROM raw0 LIMIT 1").fetchall()
    mine = next((row for row in rows[layout.first :] if any(cell.strip() for cell in row)), None)
    if (tuple(_clean(mine, width)) if mine else None) == (found[0] if found else None):
        return True
    con.execute("DROP TABLE raw0")
    return False


def _clean(row: Sequence[str], width: int) -> list[str | None]:
    cells = [cell.strip() or None for cell in row[:width]]
    return [*cells, *[None] * (width - len(cells))]


@dataclass(slots=True)
class _Ragged:
    short: int = 0
    long: int = 0
    example: str = ""

    def notes(self) -> list[str]:
        notes = []
        if self.long:
            notes.append(f'{self.long} rows have too many cells, the last were left out; the first: "{self.example}"')
        if self.short:
            notes.append(f"{self.short} rows have too few cells: the missing ones are empty")
        return notes


def _slow(con: duckdb.DuckDBPyConnection, path: Path, separator: str, skip: int, width: int) -> list[str]:
    # Python's reader takes anything; an odd quote swallows the rest of a file, though, so then quotes mean nothing.
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        ragged = _Ragged()
        con.execute("DROP TABLE IF EXISTS raw0")
        with path.open(encoding="utf-8", newline="") as file:
            rows = islice(csv.reader(file, delimiter=separator, quoting=quoting), skip, None)
            try:
                _load(con, "raw0", width, _even(rows, width, separator, ragged))
            except (csv.Error, _SwallowedError):
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
        yield _clean(row, width)


def _holds_rows(cell: str, separator: str, width: int) -> bool:
    return any(line.count(separator) >= max(1, width - 1) for line in cell.splitlines()[1:-1] or cell.splitlines()[1:])


def _load(con: duckdb.DuckDBPyConnection, table: str, width: int, rows: Iterable[Sequence[str | None]]) -> None:
    import pyarrow

    columns = [f"c{i}" for i in range(width)]
    con.execute(f"CREATE TABLE {table} ({', '.join(f'{name} VARCHAR' for name in columns)})")
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        arrays = [pyarrow.array(column, pyarrow.string()) for column in zip(*chunk, strict=True)]
        con.register("chunk", pyarrow.table(arrays, names=columns))
        con.execute(f"INSERT INTO {table} SELECT * FROM chunk")
        con.unregister("chunk")


def _workbook(con: duckdb.DuckDBPyConnection, path: Path) -> list[Raw]:
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

    try:
        book = CalamineWorkbook.from_path(str(path))
        found, left_out = [], []
        for number, about in enumerate(book.sheets_metadata):
            if about.typ != SheetTypeEnum.WorkSheet:
                continue
            raw = _sheet(con, f"raw{number}", book.get_sheet_by_name(about.name), str(about.visible))
            if raw:
                found.append(raw)
            elif book.get_sheet_by_name(about.name).height:
                left_out.append(f'sheet "{about.name}" left out: it holds no table')
    except PasswordError:
        raise UnreadableError("is password-protected: please send it without a password") from None
    except (CalamineError, OSError, ValueError):
        raise UnreadableError(DAMAGED) from None
    if not found:
        raise UnreadableError("has no table in it: its sheets are empty")
    found[0].notes.extend(left_out)
    return found


def _sheet(con: duckdb.DuckDBPyConnection, table: str, sheet: object, visible: str) -> Raw | None:
    if not sheet.height or sheet.start is None:  # type: ignore[attr-defined]
        return None
    top, left = sheet.start  # type: ignore[attr-defined]
    rows = ([_cell(cell) for cell in row] for row in sheet.to_python(skip_empty_area=True))  # type: ignore[attr-defined]
    head = list(islice(rows, LOOK))
    layout = layout_of(head)
    _check_width(len(layout.names))
    data = head[layout.first :]
    if not any(map(any, data)) or (len(layout.names) == 1 and not any(is_value(cell) for row in data for cell in row)):
        return None
    _load(con, table, len(layout.names), (_clean(row, len(layout.names)) for row in chain(data, rows)))
    notes = _above(layout)
    ranges = sheet.merged_cell_ranges or []  # type: ignore[attr-defined]
    if merged := sum(first[0] >= top + layout.first for first, _ in ranges):
        notes.append(f"{merged} merged areas in the data: only the first cell of each has the value, the rest are empty")
    name = sheet.name  # type: ignore[attr-defined]
    shown = "visible" if visible.endswith("Visible") and "Very" not in visible else "hidden"
    source = f'XLSX, sheet "{name}", {shown}, {_header(layout, offset=1 + top)}'
    return Raw(table, layout.names, (None,) * len(layout.names), source, name, ",", notes)


def _cell(value: object) -> str:
    # Three decimals would read as thousands where the file's texts have decimal commas: a fourth digit settles it.
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        text = repr(value)
        return text + "0" if text[-4:-3] == "." else text
    return str(value)


def _parquet(con: duckdb.DuckDBPyConnection, path: Path) -> Raw:
    file = literal(path)
    try:
        rows = con.execute(f"SELECT num_rows FROM parquet_file_metadata({file})").fetchall()[0][0]
        if rows > MAX_ROWS:
            raise UnreadableError(f"has {rows} rows; {MAX_ROWS} can be read")
        described = con.execute(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
        _check_width(len(described))
        known, casts = [], []
        for index, (name, kind, *_) in enumerate(described):
            type_, cast = _parquet_type(kind)
            known.append(type_)
            casts.append(f"{cast.replace('{x}', identifier(name))} AS c{index}")
        con.execute(f"CREATE TABLE raw0 AS SELECT {', '.join(casts)} FROM read_parquet({file})")
    except duckdb.Error:
        raise UnreadableError(DAMAGED) from None
    return Raw("raw0", unique([row[0] for row in described]), tuple(known), "Parquet")


def _parquet_type(kind: str) -> tuple[Type | None, str]:
    if kind in INTEGERS:
        return "integer", "CAST({x} AS BIGINT)"
    if kind in ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        kind = "TIMESTAMP"
    base = kind.split("(")[0]
    return PARQUET_TYPES.get(base if "[" not in kind else kind, (None, "nullif(trim(CAST({x} AS VARCHAR)), '')"))
