"""Reads one file from end to end: raw tables, types, description, Parquet."""

from pathlib import Path
from typing import Any

import duckdb

from profiling.columnar import read_parquet
from profiling.contents import format_of
from profiling.convert import Typed, convert
from profiling.delimited import read_text
from profiling.describe import describe
from profiling.quoting import identifier, literal
from profiling.raw import Raw
from profiling.workbook import read_workbook

MEMORY = "1200MB"


def read_file(path: Path, scratch: Path, limit: int) -> list[dict[str, Any]]:
    """The descriptions of the tables in this file, whose data is then in scratch/0.parquet, …; at most `limit`.

    Raises UnreadableError with the reason when there is none."""
    con = duckdb.connect()
    con.execute("SET python_enable_replacements=false")
    con.execute(f"SET threads=2; SET memory_limit='{MEMORY}'; SET temp_directory={literal(scratch / 'spill')}")
    found = []
    raws = _raw(con, path, scratch)
    for number, raw in enumerate(raws[:limit]):
        typed = convert(con, raw)
        con.execute(f"DROP TABLE {raw.table}")
        described = describe(con, typed).plain()
        about = raw.source.replace("{decimal}", typed.decimal)
        found.append(described | {"about": about, "sheet": raw.sheet})
        _save(con, typed, scratch / f"{number}.parquet")
        con.execute(f"DROP TABLE {typed.table}")
    if len(raws) > limit:
        found[0]["notes"] = (*found[0]["notes"], f"{len(raws) - limit} more sheets were not read")
    return found


def _raw(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> list[Raw]:
    match format_of(path):
        case "text":
            return [read_text(con, path, scratch)]
        case "xlsx":
            return read_workbook(con, path, scratch)
        case "parquet":
            return [read_parquet(con, path)]


def _save(con: duckdb.DuckDBPyConnection, typed: Typed, target: Path) -> None:
    # Dates are stored as timestamps at midnight: pandas makes plain objects, without .dt, of Parquet's dates.
    columns = [row[0] for row in con.execute(f"DESCRIBE {typed.table}").fetchall()]
    casts = [f"CAST({c} AS TIMESTAMP)" if kind == "date" else c for c, kind in zip(columns, typed.types, strict=True)]
    named = [f"{cast} AS {identifier(name)}" for cast, name in zip(casts, typed.names, strict=True)]
    query = f"SELECT {', '.join(named)} FROM {typed.table}"
    con.execute(f"COPY ({query}) TO {literal(target)} (FORMAT parquet, COMPRESSION zstd)")
