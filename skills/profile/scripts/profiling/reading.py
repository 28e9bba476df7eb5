"""Reads one file from end to end: raw tables, types, description, Parquet."""

from pathlib import Path
from typing import Any

import duckdb

from profiling.convert import Typed, convert
from profiling.describe import describe
from profiling.quoting import identifier, literal
from profiling.sources import read

MEMORY = "1200MB"


def read_file(path: Path, scratch: Path, limit: int) -> list[dict[str, Any]]:
    """The descriptions of the tables in this file, whose data is then in scratch/0.parquet, …; at most `limit`.

    Raises UnreadableError with the reason when there is none."""
    con = duckdb.connect()
    con.execute("SET python_enable_replacements=false")
    con.execute(f"SET threads=2; SET memory_limit='{MEMORY}'; SET temp_directory={literal(scratch / 'spill')}")
    found = []
    raws = read(con, path, scratch)
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


def _save(con: duckdb.DuckDBPyConnection, typed: Typed, target: Path) -> None:
    columns = [row[0] for row in con.execute(f"DESCRIBE {typed.table}").fetchall()]
    named = [f"{c} AS {identifier(name)}" for c, name in zip(columns, typed.names, strict=True)]
    query = f"SELECT {', '.join(named)} FROM {typed.table}"
    con.execute(f"COPY ({query}) TO {literal(target)} (FORMAT parquet, COMPRESSION zstd)")

