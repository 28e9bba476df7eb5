"""A raw table: what a file's reader hands on, as columns c0, c1, … of trimmed text or of a type known already."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from profiling import UnreadableError
from profiling.kinds import Type
from profiling.layout import Layout
from profiling.quoting import literal

MAX_COLUMNS = 2_000
MAX_ROWS = 30_000_000
MAX_LINE = 10_000_000
DAMAGED = "is damaged and cannot be read"


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


def check_width(width: int) -> None:
    """Raises UnreadableError for a table with too many columns."""
    if width > MAX_COLUMNS:
        raise UnreadableError(f"has {width} columns; {MAX_COLUMNS} can be read")


def above(layout: Layout) -> list[str]:
    """The note on what stands above the header, if anything does."""
    if not layout.above:
        return []
    many = f"{len(layout.above)} lines" if len(layout.above) > 1 else "1 line"
    return [f'{many} above the table left out: "{" / ".join(layout.above)}"']


def header_text(layout: Layout, offset: int) -> str:
    """Where the header is, counted as people count."""
    return "no header row" if layout.header is None else f"header row {layout.header + offset}"


def cleaned(row: Sequence[str], width: int) -> list[str | None]:
    """The row trimmed, with None for a blank cell, and as wide as the table."""
    cells = [cell.strip() or None for cell in row[:width]]
    return [*cells, *[None] * (width - len(cells))]


def load_csv(
    con: duckdb.DuckDBPyConnection, table: str, path: Path, width: int, separator: str = ",", skip: int = 0
) -> None:
    """Create the table from a regular CSV file without a header. Raises duckdb.Error at the first irregular row.

    DuckDB is told everything and guesses nothing: left alone it takes a file with one odd row for a single column."""
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width))
    trimmed = ", ".join(f"nullif(trim(c{i}), '') AS c{i}" for i in range(width))
    options = f"auto_detect=false, header=false, quote='\"', escape='\"', delim={literal(separator)}, skip={skip}"
    call = f"read_csv({literal(path)}, {options}, max_line_size={MAX_LINE}, columns={{{columns}}})"
    con.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {trimmed} FROM {call}")


def load_rows(
    con: duckdb.DuckDBPyConnection, table: str, width: int, rows: Iterable[Sequence[str | None]], scratch: Path
) -> None:
    """Create the table from these rows, by way of a file: for a million cells still the fastest way in."""
    path = scratch / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_MINIMAL, lineterminator="\n").writerows(rows)
    load_csv(con, table, path, width)
    path.unlink()
