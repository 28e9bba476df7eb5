"""Turns a raw table of texts into a table of types, and leaves out the rows that are no data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from profiling.kinds import Hints, Kind, Type, decide, hints, is_value
from profiling.quoting import literal
from profiling.raw import Raw

SAMPLE_ROWS = 5_000
SAMPLE_CELLS = 400_000
TAIL = 8
"""Rows at the end among which totals and closing remarks are looked for."""

_WORDS = (
    "total|totals|totale|totaux|totaal|sum|sums|somme|suma|summe|gesamt|gesamtsumme|gesamtergebnis|insgesamt|"
    "average|mean|mittelwert|durchschnitt|moyenne"
)
TOTAL = re.compile(
    rf"(?i:(?:grand|overall|net|general)?\W*(?:{_WORDS})(?:\W+(?:general|général))?)\b[^a-zäöüß]{{0,20}}"
)
"""A cell that labels a row of totals: "Total", "Grand total:", "Summe 2025 EUR"; not "Total loss"."""

REMARK = re.compile(
    r"(?i:source|note|notes|quelle|hinweis|stand|exported|created|generated|erstellt|page|seite)\b|[*©]"
)
"""How a line below a narrow table begins that is none of its rows."""


@dataclass(frozen=True, slots=True)
class Typed:
    """A table whose columns have types: DuckDB's `table` with columns c0 …"""

    table: str
    names: tuple[str, ...]
    types: tuple[Type, ...]
    dropped: tuple[str, ...]
    """The raw text of the rows of totals that were left out."""
    notes: tuple[str, ...]
    decimal: str


def convert(con: duckdb.DuckDBPyConnection, raw: Raw) -> Typed:
    """The raw table with the types its texts show. Every row that is left out and every text that could not be read is
    said in `dropped` or `notes`."""
    names, columns, known = _used(con, raw)
    repeated = _repeated_headers(con, raw, columns, names)
    tail = _tail(con, raw, columns)
    unwanted = [*repeated, *tail.totals, *tail.remarks]
    keep = f"coalesce({', '.join(f'CAST({c} AS VARCHAR)' for c in columns)}) IS NOT NULL"
    if unwanted:
        keep += f" AND rowid NOT IN ({', '.join(map(str, unwanted))})"
    data = _Data(con, raw.table, f"typed_{raw.table}", keep, columns)
    samples = _samples(data, known)
    hint = hints([values for values in samples.values() if values is not None], raw.separator)
    kinds = {c: Kind(k) if k else decide(samples[c] or {}, hint) for c, k in known.items()}
    kinds, failures = _settle(data, kinds, samples, hint)
    types = [_midnight(data, c, kinds[c].type) for c in columns]
    dropped = [raw.separator.join(cell or "" for cell in row) for row in tail.totals.values()]
    if total := _silent_total(data, types):
        dropped.append(raw.separator.join(cell or "" for cell in total))
    notes = [*raw.notes, *_row_notes(repeated, tail.remarks)]
    for name, column in zip(names, columns, strict=True):
        said = [*kinds[column].notes, *([failures[column]] if column in failures else [])]
        notes += [f"{name}{' ' if said[0].startswith('mixes') else ': '}{'; '.join(said)}"] if said else []
    decimal = "," if hint.decimal == "comma" else "."
    return Typed(data.table, tuple(names), tuple(types), tuple(dropped), tuple(notes), decimal)


@dataclass(frozen=True, slots=True)
class _Data:
    con: duckdb.DuckDBPyConnection
    raw: str
    table: str
    keep: str
    columns: list[str]


def _used(con: duckdb.DuckDBPyConnection, raw: Raw) -> tuple[list[str], list[str], dict[str, Type | None]]:
    # A nameless column without a value is the trace of a separator at the end of each line.
    counts = _counts(con, raw.table, [f"c{i}" for i in range(len(raw.names))])
    kept = [i for i, name in enumerate(raw.names) if counts[i] or name != f"column_{i + 1}"]
    columns = [f"c{i}" for i in kept]
    return [raw.names[i] for i in kept], columns, {f"c{i}": raw.known[i] for i in kept}


def _counts(con: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], where: str = "true") -> tuple[int, ...]:
    if not columns:
        return ()
    listed = ", ".join(f"count({c})" for c in columns)
    return tuple(con.execute(f"SELECT {listed} FROM {table} WHERE {where}").fetchall()[0])


def _repeated_headers(con: duckdb.DuckDBPyConnection, raw: Raw, columns: list[str], names: list[str]) -> list[int]:
    # Exports glued together carry their header again in the middle.
    if any(raw.known) or not columns or all(name.startswith("column_") for name in names):
        return []
    same = " AND ".join(f"{column} = {literal(name)}" for column, name in zip(columns, names, strict=True))
    query = f"SELECT rowid FROM {raw.table} WHERE {same} LIMIT 10000"
    return [row[0] for row in con.execute(query).fetchall()]


@dataclass(frozen=True, slots=True)
class _Tail:
    totals: dict[int, Sequence[str | None]]
    remarks: dict[int, Sequence[str | None]]


def _tail(con: duckdb.DuckDBPyConnection, raw: Raw, columns: list[str]) -> _Tail:
    count = con.execute(f"SELECT count(*) FROM {raw.table}").fetchall()[0][0]
    texts = ", ".join(f"CAST({c} AS VARCHAR)" for c in columns)
    query = f"SELECT rowid, {texts} FROM {raw.table} WHERE rowid >= {count - TAIL} ORDER BY rowid DESC"
    tail = _Tail({}, {})
    for rowid, *cells in con.execute(query).fetchall():
        above = _counts(con, raw.table, columns, f"rowid < {rowid}")
        if not any(cells):
            continue
        if not any(above):
            break
        full = [n >= 0.9 * max(above) for n in above]
        if _labels_total(con, raw.table, columns, cells, full):
            tail.totals[rowid] = cells
        elif _is_remark(cells, sum(above) / max(above)):
            tail.remarks[rowid] = cells
        else:
            break
    return tail


def _is_remark(cells: Sequence[str | None], usual: float) -> bool:
    texts = [cell for cell in cells if cell]
    return len(texts) == 1 and not is_value(texts[0]) and (usual > 2 or bool(REMARK.match(texts[0])))


def _labels_total(
    con: duckdb.DuckDBPyConnection, table: str, columns: list[str], cells: Sequence[str | None], full: Sequence[bool]
) -> bool:
    labels = [i for i, cell in enumerate(cells) if cell and TOTAL.fullmatch(cell)]
    if not labels or not any(is_value(cell) for cell in cells if cell):
        return False
    if any(expected and not cell for expected, cell in zip(full, cells, strict=True)):
        return True
    # Nothing is blank: then the label must be a stranger in its column, or "Total" is one of the column's values.
    column, label = columns[labels[0]], literal(cells[labels[0]])
    same: int = con.execute(f"SELECT count(*) FROM {table} WHERE {column} = {label}").fetchall()[0][0]
    return same == 1


def _samples(data: _Data, known: dict[str, Type | None]) -> dict[str, dict[str, int] | None]:
    count = data.con.execute(f"SELECT count(*) FROM {data.raw}").fetchall()[0][0]
    size = min(SAMPLE_ROWS, max(200, SAMPLE_CELLS // max(1, len(data.columns))))
    step = max(1, 2 * count // size)
    part = f"(rowid < {size // 3} OR rowid >= {count - size // 6} OR rowid % {step} = 0)" if count > size else "true"
    data.con.execute(f"CREATE OR REPLACE TEMP TABLE sample AS SELECT * FROM {data.raw} WHERE {data.keep} AND {part}")
    return {c: None if known[c] else _values(data, "sample", c, "true") for c in data.columns}


def _values(data: _Data, table: str, column: str, where: str) -> dict[str, int]:
    # Nothing long is a number or a date, and a column of letters need not come over whole.
    query = f"SELECT left({column}, 80), count(*) AS n FROM {table} WHERE {column} IS NOT NULL AND {where}"
    rows = data.con.execute(f"{query} GROUP BY 1 ORDER BY n DESC, 1 LIMIT {SAMPLE_ROWS}").fetchall()
    return dict(rows)


def _settle(
    data: _Data, kinds: dict[str, Kind], samples: dict[str, dict[str, int] | None], hint: Hints
) -> tuple[dict[str, Kind], dict[str, str]]:
    # The sample proposes, all rows decide: what a column's SQL cannot read goes back as evidence until nothing changes.
    present = dict(zip(data.columns, _counts(data.con, data.raw, data.columns, data.keep), strict=True))
    for _ in range(4):
        _build(data, kinds)
        read = dict(zip(data.columns, _counts(data.con, data.table, data.columns), strict=True))
        failed = {c: _failing(data, c, kinds[c]) for c in data.columns if read[c] < present[c]}
        revised = {c: decide(_weighed(samples[c] or {}, values, present[c]), hint) for c, values in failed.items()}
        if all(revised[c] == kinds[c] for c in failed):
            break
        kinds = {**kinds, **revised}
    else:
        kinds = {**kinds, **{c: Kind("text") for c in failed}}
        _build(data, kinds)
        failed = {}
    return kinds, {c: _failure(kinds[c].type, present[c] - read[c], values) for c, values in failed.items()}


def _build(data: _Data, kinds: dict[str, Kind]) -> None:
    listed = ", ".join(f"{kinds[c].sql.replace('{x}', c)} AS {c}" for c in data.columns)
    data.con.execute(f"CREATE OR REPLACE TABLE {data.table} AS SELECT {listed} FROM {data.raw} WHERE {data.keep}")


def _failing(data: _Data, column: str, kind: Kind) -> dict[str, int]:
    return _values(data, data.raw, column, f"{data.keep} AND ({kind.sql.replace('{x}', column)}) IS NULL")


def _weighed(sample: dict[str, int], failing: dict[str, int], present: int) -> dict[str, int]:
    good = {text: n for text, n in sample.items() if text not in failing}
    scale = (present - sum(failing.values())) / max(1, sum(good.values()))
    return {text: max(1, round(n * scale)) for text, n in good.items()} | failing


def _failure(kind: Type, count: int, failing: dict[str, int]) -> str:
    what = {"date": "dates", "datetime": "times", "boolean": "true or false"}.get(kind, "numbers")
    shown = ", ".join(f'"{text}"' for text in list(failing)[:3])
    return f"{count} value{'s' * (count > 1)} could not be read as {what} and left empty: {shown}"


def _midnight(data: _Data, column: str, kind: Type) -> Type:
    if kind != "datetime":
        return kind
    query = f"SELECT bool_and({column} = date_trunc('day', {column})) FROM {data.table}"
    if data.con.execute(query).fetchall() != [(True,)]:
        return kind
    data.con.execute(f"ALTER TABLE {data.table} ALTER {column} TYPE DATE")
    return "date"


def _silent_total(data: _Data, types: Sequence[Type]) -> Sequence[str | None]:
    # A last row whose keys are blank and whose numbers are the sums of all above it is a total without the word.
    count, last = data.con.execute(f"SELECT count(*), max(rowid) FROM {data.table}").fetchall()[0]
    if count < 4:
        return ()
    numeric = [t in ("integer", "number") for t in types]
    row = data.con.execute(f"SELECT {', '.join(data.columns)} FROM {data.table} WHERE rowid = {last}").fetchall()[0]
    filled = _counts(data.con, data.table, data.columns, f"rowid < {last}")
    blank_key = any(
        cell is None and n == count - 1 and not number for cell, n, number in zip(row, filled, numeric, strict=True)
    )
    if not blank_key or not any(number and cell is not None for cell, number in zip(row, numeric, strict=True)):
        return ()
    sums = ", ".join(f"sum({c})" if number else "NULL" for c, number in zip(data.columns, numeric, strict=True))
    above = data.con.execute(f"SELECT {sums} FROM {data.table} WHERE rowid < {last}").fetchall()[0]
    pairs = [(cell, total) for cell, total in zip(row, above, strict=True) if cell and total]
    if not any(abs(cell - total) <= 1e-6 * abs(total) for cell, total in pairs):
        return ()
    data.con.execute(f"DELETE FROM {data.table} WHERE rowid = {last}")
    return [None if cell is None else str(cell) for cell in row]


def _row_notes(repeated: Sequence[int], remarks: dict[int, Sequence[str | None]]) -> list[str]:
    notes = [f"the header row is repeated {len(repeated)} times in the data: left out"] if repeated else []
    for cells in remarks.values():
        notes.append(f'closing line left out: "{next(filter(None, cells))}"')
    return notes
