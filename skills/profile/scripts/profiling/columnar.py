"""Reads a Parquet file into DuckDB, its types brought down to the six of a profile."""

from pathlib import Path

import duckdb

from profiling import UnreadableError
from profiling.kinds import Type
from profiling.layout import unique
from profiling.quoting import identifier, literal
from profiling.raw import DAMAGED, MAX_ROWS, Raw, check_width

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


def read_parquet(con: duckdb.DuckDBPyConnection, path: Path) -> Raw:
    """The table in this Parquet file. Raises UnreadableError when it is damaged or too large."""
    file = literal(path)
    try:
        rows = con.execute(f"SELECT num_rows FROM parquet_file_metadata({file})").fetchall()[0][0]
        if rows > MAX_ROWS:
            raise UnreadableError(f"has {rows} rows; {MAX_ROWS} can be read")
        described = con.execute(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
        check_width(len(described))
        known, casts = [], []
        for index, (name, kind, *_) in enumerate(described):
            type_, cast = _parquet_type(kind)
            known.append(type_)
            casts.append(f"{cast.replace('{x}', identifier(name))} AS c{index}")
        con.execute(f"CREATE TABLE raw0 AS SELECT {', '.join(casts)} FROM read_parquet({file})")
    except duckdb.Error:
        raise UnreadableError(DAMAGED) from None
    names = unique([row[0] for row in described])
    zoned = [names[i] for i, row in enumerate(described) if row[1] == "TIMESTAMP WITH TIME ZONE"]
    notes = [f"{name}: times are in UTC" for name in zoned]
    return Raw("raw0", names, tuple(known), "Parquet", notes=notes)


def _parquet_type(kind: str) -> tuple[Type | None, str]:
    if kind in INTEGERS:
        return "integer", "CAST({x} AS BIGINT)"
    if kind in ("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"):
        kind = "TIMESTAMP"
    base = kind.split("(")[0]
    return PARQUET_TYPES.get(base if "[" not in kind else kind, (None, "nullif(trim(CAST({x} AS VARCHAR)), '')"))
