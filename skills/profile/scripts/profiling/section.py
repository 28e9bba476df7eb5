"""Writes a described table as the section of work/profile.md: at most 2 kB, with every cell made harmless."""

import re
from collections.abc import Sequence
from typing import Any

LIMIT = 2048
SAMPLE_LIMIT = 520
NOTES_LIMIT = 560

_UNSAFE = re.compile(r"[\x00-\x20\x7f-\xa0`|\u2028\u2029\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


def clean(text: str, limit: int) -> str:
    """Text from a file as it may be shown: one line without backticks, pipes and control characters, cut to `limit`.

    A cell may hold an order to the reader; it must not be able to leave the place where data is shown."""
    text = _UNSAFE.sub(" ", text).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def section(number: int, name: str, source: str, parquet: str, table: dict[str, Any]) -> str:
    """The section of one table; `table` is `Description.plain()` with its "about": how the file was read."""
    head = [
        f"## Table {number}: {name}",
        f"- source: {clean(source, 120)} ({clean(table['about'], 160)})",
        f"- parquet: {parquet}",
        f"- rows: {table['rows']}; columns: {len(table['names'])}; duplicate rows: {table['duplicates']}",
    ]
    head += _dropped(table["dropped"])
    keys = ", ".join(clean(name, 40) for name in table["keys"])
    foot = [f"- candidate keys: {keys}"] if keys else []
    foot += _sample(table)
    notes = _notes(table["notes"])
    columns = _columns(table, LIMIT - _size([*head, *notes, *foot]) - 80)
    missing = len(table["names"]) - (len(columns) - 2)
    if missing:
        notes.append(f"- note: {missing} more columns are not shown: see work/manifest.json")
    return "\n".join([*head, *notes, *columns, *foot]) + "\n"


def _size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _fitting(text: str, limit: int) -> str:
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore").rstrip() + "…"


def _dropped(rows: Sequence[str]) -> list[str]:
    if not rows:
        return []
    what = "1 total row" if len(rows) == 1 else f"{len(rows)} total rows"
    return [f'- dropped: {what}: "{_fitting(clean(rows[0], 120), 150)}"']


def _notes(notes: Sequence[str]) -> list[str]:
    lines = [f"- note: {_fitting(clean(note, 200), 210)}" for note in notes]
    kept = len(lines)
    while _size(lines[:kept]) > NOTES_LIMIT:
        kept -= 1
    if kept < len(lines):
        return [*lines[:kept], f"- note: {len(lines) - kept} more notes: see work/manifest.json"]
    return lines


def _columns(table: dict[str, Any], budget: int) -> list[str]:
    # All columns with shorter summaries are worth more than some columns with long ones.
    header = ["| column | type | nulls | distinct | summary |", "|---|---|---|---|---|"]
    lines: list[str] = []
    for width in (110, 80, 60, 44, 30, 16):
        lines = [_column(column, width) for column in table["columns"]]
        if _size([*header, *lines]) <= budget:
            return header + lines
    while lines and _size([*header, *lines]) > budget:
        lines.pop()
    return header + lines


def _column(column: dict[str, Any], width: int) -> str:
    name = column["name"].replace("|", r"\|")
    facts = f"{column['type']} | {column['nulls']} | {column['distinct']}"
    return f"| {name} | {facts} | {_fitting(clean(column['summary'], width), 2 * width)} |"


def _sample(table: dict[str, Any]) -> list[str]:
    names = [clean(name, 24) for name in table["names"]]
    for width, cell in ((len(names), 20), (len(names), 12), (len(names), 8), (8, 12), (4, 12), (2, 8)):
        rows = [names, *table["head"], *table["tail"]]
        cut = [" | ".join(clean(text, cell) for text in row[:width]) for row in rows]
        cut[0] = " | ".join(names[:width])
        lines = ["```first rows", *cut, "```"]
        if _size(lines) <= SAMPLE_LIMIT:
            return lines
    return []
