"""Writes a described table as the section of work/profile.md: at most 2,000 bytes, every cell made harmless."""

from collections.abc import Sequence
from typing import Any

from profiling import one_line

LIMIT = 2000
SAMPLE_LIMIT = 520
SAMPLES = ((99, 20), (99, 12), (99, 8), (8, 12), (4, 12), (2, 8))
"""Columns and characters of a cell in the sample rows, from generous to scant."""
WIDE, NOTE_ROOM = 110, 80
NOTES_LIMIT = 560


def clean(text: str, limit: int) -> str:
    """Text from a file as it may be shown: one line without backticks, pipes and control characters, cut to `limit`.

    A cell may hold an order to the reader; it must not be able to leave the place where data is shown."""
    text = one_line(text, without="`|")
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def section(number: int, name: str, source: str, parquet: str, table: dict[str, Any]) -> str:
    """The section of one table; `table` is `Description.plain()` with its "about": how the file was read."""
    head = [
        f"## Table {number}: {name}",
        f"- source: {_fitting(clean(source, 120), 160)} ({_fitting(clean(table['about'], 160), 220)})",
        f"- parquet: {parquet}",
        f"- rows: {table['rows']}; columns: {len(table['names'])}; duplicate rows: {table['duplicates']}",
    ]
    head += _dropped(table["dropped"])
    keys = ", ".join(_fitting(clean(name, 40), 60) for name in table["keys"])
    foot = [f"- candidate keys: {keys}"] if keys else []
    notes = _notes(table["notes"])
    columns, sample = _fitted(table, LIMIT - _size([*head, *notes, *foot]))
    missing = len(table["names"]) - (len(columns) - 2)
    if missing:
        notes.append(f"- note: {missing} more columns are not shown: see work/manifest.json")
    return "\n".join([*head, *notes, *columns, *foot, *sample]) + "\n"


def _fitted(table: dict[str, Any], budget: int) -> tuple[list[str], list[str]]:
    # All columns come first, then as much of the sample rows as fits beside them.
    samples = [_sample(table, width, cell) for width, cell in SAMPLES]
    for sample in samples:
        columns = _columns(table, WIDE)
        if _size([*columns, *sample]) <= budget and len(columns) - 2 == len(table["names"]):
            return columns, sample
    sample = next((sample for sample in samples if _size(sample) <= SAMPLE_LIMIT), [])
    room = budget - _size(sample) - NOTE_ROOM
    for width in (80, 60, 44, 30, 16):
        columns = _columns(table, width)
        if _size(columns) <= room:
            return columns, sample
    while len(columns) > 2 and _size(columns) > room:
        columns.pop()
    return columns, sample


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


def _columns(table: dict[str, Any], width: int) -> list[str]:
    header = ["| column | type | nulls | distinct | summary |", "|---|---|---|---|---|"]
    return header + [_column(column, width) for column in table["columns"]]


def _column(column: dict[str, Any], width: int) -> str:
    name = column["name"].replace("|", r"\|")
    facts = f"{column['type']} | {column['nulls']} | {column['distinct']}"
    return f"| {name} | {facts} | {_shortened(clean(column['summary'], 300), width)} |"


def _shortened(summary: str, limit: int) -> str:
    # Cut between figures: half a number is a wrong number.
    if len(summary.encode()) <= limit:
        return summary
    parts = summary.split(", ")
    while len(parts) > 1 and len(", ".join(parts).encode()) > limit - 5:
        parts.pop()
    kept = ", ".join(parts)
    return f"{kept}, …" if len(kept.encode()) <= limit else "…"


def _sample(table: dict[str, Any], width: int, cell: int) -> list[str]:
    rows = [row[:width] for row in (*table["head"], *table["tail"])]
    lines = [" | ".join(clean(name, 24) for name in table["names"][: min(width, len(table["columns"]))])]
    lines += [" | ".join(clean(text, cell) for text in row) for row in rows]
    # No line of data may look like a line of the profile to whoever reads it line by line.
    return ["```first rows", *(f" {line}" if line[:1] in ("#", "-", "<", "|") else line for line in lines), "```"]
