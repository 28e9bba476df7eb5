"""Finds out how a sheet or a text file is laid out: separator, lines above the header, header rows, column names."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from profiling import UnreadableError, one_line
from profiling.kinds import is_value

Row = Sequence[str]

SEPARATORS = ("\t", ";", "|", ",")
"""In the order of preference when two explain a file equally well: a comma is the likeliest to be something else."""
LOOK = 200
"""Rows that are looked at."""
NAME_LENGTH = 60
PROSE = "looks like text, not a table"
_YEAR = re.compile("(?:19|20)[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the data begins among the rows looked at (`first`), which rows name the columns, and the names."""

    names: tuple[str, ...]
    first: int
    header: int | None
    """Index of the (last) header row; None when there is none and the names are made up."""
    above: tuple[str, ...]
    """The text of the rows above the header that are not blank."""


def csv_rows(text: str, separator: str) -> list[list[str]]:
    """The rows of this text; a field may hold a line break."""
    csv.field_size_limit(1 << 24)
    return list(csv.reader(text.splitlines(keepends=True), delimiter=separator))


def declared_separator(text: str) -> str:
    """The separator that a first line `sep=;` declares, as Excel writes it; "" without one."""
    first = text.split("\n", 1)[0].rstrip("\r").strip('"')
    return (first[4:5] or "\t") if re.fullmatch("(?i)sep=.?", first) else ""


def separator_of(text: str, trusted: bool) -> str:
    """The separator of the fields in this start of a file; `trusted` when its name already says that it is a table.

    Raises UnreadableError when the text is prose."""
    lines = "".join(text.splitlines(keepends=True)[:LOOK])
    scores = {separator: _score(lines, separator) for separator in SEPARATORS}
    best = max(SEPARATORS, key=lambda separator: (scores[separator], -SEPARATORS.index(separator)))
    splits, values, _, share, width = scores[best]
    if not splits:
        _refuse_prose(lines, trusted)
        return ","
    if not trusted and not values and best != "\t" and (share < 0.95 or width < 3):
        raise UnreadableError(PROSE)
    return best


def _score(text: str, separator: str) -> tuple[bool, float, int, float, int]:
    # Does it split most rows into equally many fields; how many of these are values (a wrong separator cuts numbers
    # apart, and glues others together); from how early a row on; how regularly; into how many.
    rows = [row for row in csv_rows(text, separator) if any(cell.strip() for cell in row)]
    counts = Counter(len(row) for row in rows if len(row) > 1)
    if not counts:
        return False, 0, 0, 0, 0
    width, times = counts.most_common(1)[0]
    start = next(i for i, row in enumerate(rows) if len(row) == width)
    share = times / (len(rows) - start)
    data = rows[start + 1 : start + 50]
    values = sum(is_value(cell.strip()) for row in data for cell in row) / max(1, len(data))
    return share >= 0.5, round(values, 1), -start, round(share, 1), width


def _refuse_prose(text: str, trusted: bool) -> None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    values = sum(is_value(line) for line in lines)
    long = median(map(len, lines)) > 40 or any(len(line) > 200 for line in lines)
    if values < 0.5 * len(lines) and (long or not trusted):
        raise UnreadableError(PROSE)


def layout_of(rows: Sequence[Row]) -> Layout:
    """The layout of a table that starts with these rows (up to LOOK of them)."""
    filled = [sum(bool(cell.strip()) for cell in row) for row in rows]
    usual = median([n for n in filled if n] or [0])
    start = next((i for i, n in enumerate(filled) if n and n >= 0.6 * usual), 0)
    width = _width(rows[start:])
    if not rows or not _names_columns(rows, start):
        start = next((i for i, n in enumerate(filled) if n >= min(2, width)), 0)
        return Layout(unique([""] * width), start, None, _above(rows, start))
    cells = _named(rows, start, width)
    first = last = start
    if _is_group_row(rows, start):
        last = start + 1
        cells = _combined(cells, _padded(rows[last], width))
    elif start and _stands_above(rows[start - 1], rows[start]):
        first = start - 1
        cells = _combined(_padded(rows[first], width), cells)
    return Layout(unique(cells), last + 1, last, _above(rows, first))


def _width(rows: Sequence[Row]) -> int:
    # The usual length of a row; a header may be longer, a few odd rows may not.
    lengths = Counter(len(row) for row in rows[1:] if any(cell.strip() for cell in row))
    usual = lengths.most_common(1)[0][0] if lengths else 0
    return max(usual, len(rows[0]) if rows else 0)


def _named(rows: Sequence[Row], index: int, width: int) -> list[str]:
    # R writes row names without a name for them: one header cell fewer than cells.
    if len(rows[index]) == width - 1:
        data = [row for row in rows[index + 1 :] if len(row) == width]
        if sum(bool(row[-1].strip()) for row in data) > 0.5 * len(data):
            return ["row", *rows[index]]
    return _padded(rows[index], width)


def _stands_above(above: Row, names: Row) -> bool:
    groups = [cell.strip() for cell in above if cell.strip()]
    repeated = len({name.strip() for name in names}) < len(names)
    return len(groups) > 1 and repeated and not any(map(is_value, groups))


def _above(rows: Sequence[Row], start: int) -> tuple[str, ...]:
    joined = (" ".join(cell.strip() for cell in row if cell.strip()) for row in rows[:start])
    return tuple(text for text in joined if text)


def _names_columns(rows: Sequence[Row], index: int) -> bool:
    cells = [cell.strip() for cell in rows[index]]
    values = [(i, cell) for i, cell in enumerate(cells) if cell and is_value(cell)]
    if not values:
        return any(cells)
    if (cells[0] and len(values) == sum(map(bool, cells))) or not all(_YEAR.fullmatch(cell) for _, cell in values):
        return False
    # Years as names, as in "Region;2023;2024": distinct, over columns that hold something else than years.
    below = [row[i].strip() for row in rows[index + 1 : index + 20] for i, _ in values if i < len(row)]
    distinct = len({cell for _, cell in values}) == len(values)
    return distinct and sum(bool(_YEAR.fullmatch(cell)) for cell in below) < 0.5 * len(below)


def _is_group_row(rows: Sequence[Row], index: int) -> bool:
    # "Sales,,Costs," above "net,gross,net,gross": blanks or repetitions that the next row, itself no data, resolves.
    above = [cell.strip() for cell in rows[index]]
    while above and not above[-1]:
        above.pop()
    repeats = len(set(filter(None, above))) < sum(map(bool, above))
    if index + 1 >= len(rows) or not ("" in above[1:] or repeats) or not _names_columns(rows, index + 1):
        return False
    data = rows[index + 1 : index + 22]
    used = [any(row[i : i + 1] not in ([], [""]) for row in data) for i in range(len(above))]
    resolved = all(data[0][i : i + 1] != [""] for i, cell in enumerate(above) if used[i] and not cell)
    return resolved and any(is_value(cell.strip()) for row in data[1:] for cell in row)


def _combined(groups: Row, names: Row) -> list[str]:
    joined, group = [], ""
    for above, below in zip(groups, names, strict=True):
        group = above.strip() or group
        joined.append(f"{group} {below.strip()}".strip() if below.strip() != group else group)
    return joined


def _padded(row: Row, width: int) -> list[str]:
    return [*row[:width], *[""] * (width - len(row))]


def unique(cells: Sequence[str]) -> tuple[str, ...]:
    """Column names from header cells: no control characters or backticks, none blank, none twice (whatever the case:
    SQL does not tell them apart)."""
    names: list[str] = []
    taken: set[str] = set()
    for number, cell in enumerate(cells, 1):
        base = one_line(cell)[:NAME_LENGTH].strip() or f"column_{number}"
        name, again = base, 2
        while name.casefold() in taken:
            name, again = f"{base}_{again}", again + 1
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)
