"""Computes what the profile of a typed table says: counts, ranges, common values, candidate keys, sample rows."""

from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import duckdb

from profiling.convert import TOTAL, Typed
from profiling.kinds import Type

SMALL = 200_000
"""Rows up to which all distinct values are counted …"""
MANY = 20_000
"""… and above which a column with more than this many has them estimated."""
SHOWN = 40
"""Columns that are described: more never fit into a profile's 2 kB."""
FEW = 200
"""Distinct texts up to which all of them are looked at."""
LISTED, LISTED_LENGTH = 8, 90
"""Common texts that are listed, and how long the list may get for more than three of them."""


@dataclass(frozen=True, slots=True)
class Column:
    """One line of the profile's table."""

    name: str
    type: Type
    nulls: int
    distinct: int
    summary: str


@dataclass(frozen=True, slots=True)
class Description:
    """All that is said of a table, but for its name and place."""

    rows: int
    duplicates: int
    names: tuple[str, ...]
    types: tuple[Type, ...]
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    head: tuple[tuple[str, ...], ...]
    tail: tuple[tuple[str, ...], ...]

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return asdict(self)


def describe(con: duckdb.DuckDBPyConnection, typed: Typed) -> Description:
    """The description of this table; all is exact but some distinct counts of a large table, which a note says."""
    columns = [row[0] for row in con.execute(f"DESCRIBE {typed.table}").fetchall()]
    shown = columns[:SHOWN]
    rows = con.execute(f"SELECT count(*) FROM {typed.table}").fetchall()[0][0]
    distinct = _distinct(con, typed, shown, rows)
    described, notes = [], list(typed.notes)
    figures = _figures(con, typed, shown)
    for i, column in enumerate(shown):
        present, low, high, mean, total = figures[i]
        summary = _range(typed.types[i], low, high, mean, total)
        if typed.types[i] in ("text", "boolean"):
            common = _common(con, typed.table, column)
            summary = _texts(common, present, distinct[i])
            notes += _warnings(typed.names[i], common)
        described.append(Column(typed.names[i], typed.types[i], rows - present, distinct[i], summary))
    if rows > SMALL:
        notes.append(f"distinct counts above {MANY} are estimates but for candidate keys; all other figures are exact")
    return Description(
        rows=rows,
        duplicates=_duplicates(con, typed.table, columns),
        names=typed.names,
        types=typed.types,
        columns=tuple(described),
        keys=tuple(_keys(described, rows)),
        dropped=typed.dropped,
        notes=tuple(notes),
        head=_rows(con, typed.table, shown, f"rowid < {min(3, rows)}"),
        tail=_rows(con, typed.table, shown, f"rowid >= {max(3, rows - 2)}") if rows > 3 else (),
    )


def _figures(con: duckdb.DuckDBPyConnection, typed: Typed, shown: list[str]) -> list[tuple[Any, ...]]:
    parts = []
    for column, kind in zip(shown, typed.types, strict=False):
        number = kind in ("integer", "number")
        ranged = kind not in ("text", "boolean")
        parts.append(f"count({column})")
        parts += [f"min({column})", f"max({column})"] if ranged else ["NULL", "NULL"]
        # Kahan's sum: the plain one over DOUBLE differs from run to run with the order of the threads.
        add = "fsum" if kind == "number" else "sum"
        parts += [f"favg({column})", f"{add}({column})"] if number else ["NULL", "NULL"]
    if not parts:
        return []
    row = con.execute(f"SELECT {', '.join(parts)} FROM {typed.table}").fetchall()[0]
    return [row[i : i + 5] for i in range(0, len(row), 5)]


def _distinct(con: duckdb.DuckDBPyConnection, typed: Typed, shown: list[str], rows: int) -> list[int]:
    estimates = [rows] * len(shown)
    if rows > SMALL and shown:
        listed = ", ".join(f"approx_count_distinct({column})" for column in shown)
        estimates = list(con.execute(f"SELECT {listed} FROM {typed.table}").fetchall()[0])
    # Estimates err by a tenth: they will do for many values only, and not where a key may be.
    exact = [
        rows <= SMALL or estimate <= MANY or (estimate > 0.85 * rows and kind != "number")
        for estimate, kind in zip(estimates, typed.types, strict=False)
    ]
    listed = ", ".join(f"count(DISTINCT {column})" for column, count in zip(shown, exact, strict=True) if count)
    counts = iter(con.execute(f"SELECT {listed} FROM {typed.table}").fetchall()[0] if listed else ())
    return [next(counts) if count else min(rows, estimates[i]) for i, count in enumerate(exact)]


def _duplicates(con: duckdb.DuckDBPyConnection, table: str, columns: list[str]) -> int:
    if not columns:
        return 0
    query = f"SELECT count(*) - count(DISTINCT hash({', '.join(columns)})) FROM {table}"
    count: int = con.execute(query).fetchall()[0][0]
    return count


def _rows(con: duckdb.DuckDBPyConnection, table: str, shown: list[str], where: str) -> tuple[tuple[str, ...], ...]:
    query = f"SELECT {', '.join(shown)} FROM {table} WHERE {where} ORDER BY rowid"
    return tuple(tuple(map(_plain, row)) for row in con.execute(query).fetchall()) if shown else ()


def _common(con: duckdb.DuckDBPyConnection, table: str, column: str) -> list[tuple[str, int]]:
    grouped = f"SELECT {column} AS text, count(*) AS n FROM {table} WHERE {column} IS NOT NULL GROUP BY 1"
    query = f"SELECT left(CAST(text AS VARCHAR), 80), n FROM ({grouped}) ORDER BY n DESC, text LIMIT {FEW + 1}"
    rows: list[tuple[str, int]] = con.execute(query).fetchall()
    return rows


def _range(kind: Type, low: Any, high: Any, mean: Any, total: Any) -> str:
    if low is None:
        return "all empty"
    if kind in ("integer", "number"):
        return f"min {_plain(low)}, mean {_short(mean)}, max {_plain(high)}, sum {_plain(total)}"
    return f"{_plain(low)} .. {_plain(high)}"


def _texts(common: list[tuple[str, int]], present: int, distinct: int) -> str:
    if not present:
        return "all empty"
    if common[0][1] == 1:
        return "all different: " + ", ".join(_cut(text) for text, _ in common[:3])
    shown = [f"{_cut(text)} {count}" for text, count in common[:LISTED]]
    while len(shown) > 3 and (distinct > 10 * LISTED or len(", ".join(shown)) > LISTED_LENGTH):
        shown.pop()
    if len(shown) < distinct:
        shown.append("…")
        rare, count = common[-1]
        if distinct <= FEW and count <= 0.01 * present:
            shown.append(f"rarest {_cut(rare)} {count}")
    return ", ".join(shown)


def _warnings(name: str, common: list[tuple[str, int]]) -> list[str]:
    if len(common) > FEW:
        return []
    notes = []
    spellings: dict[str, list[str]] = {}
    for text, _ in common:
        spellings.setdefault(" ".join(text.casefold().split()), []).append(text)
    variants = [texts for texts in spellings.values() if len(texts) > 1]
    if variants:
        shown = ", ".join(f'"{_cut(text)}"' for text in variants[0][:3])
        notes.append(f"{name} spells the same value in several ways: {shown}")
    totals = [(text, count) for text, count in common if TOTAL.fullmatch(text)]
    if totals:
        count = sum(count for _, count in totals)
        notes.append(f'{name} is "{_cut(totals[0][0])}" in {count} row{"s" * (count > 1)}: may double a sum')
    return notes


def _keys(columns: list[Column], rows: int) -> list[str]:
    if rows < 2:
        return []
    unique = [c.name for c in columns if c.distinct == rows and not c.nulls and c.type != "number"]
    return unique[:3]


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def _short(value: float) -> str:
    return _plain(float(f"{value:.6g}"))


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # Twelve digits are what adding in another order leaves alone.
        text = f"{value:.12g}"
        return text if "e" not in text or abs(value) < 1e-4 else f"{value:.0f}"
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)
