"""Reads the sheets of a workbook into DuckDB as text, in which numbers and dates are written unmistakably."""

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from profiling import UnreadableError
from profiling.kinds import is_value
from profiling.layout import LOOK, layout_of
from profiling.raw import DAMAGED, Raw, above, check_width, cleaned, header_text, load_rows

if TYPE_CHECKING:
    from python_calamine import CalamineSheet


def read_workbook(con: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> list[Raw]:
    """The tables in the sheets of this workbook, hidden ones too. Raises UnreadableError when there is none."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

    try:
        book = CalamineWorkbook.from_path(str(path))
        found, left_out = [], []
        for number, about in enumerate(book.sheets_metadata):
            if about.typ != SheetTypeEnum.WorkSheet:
                continue
            raw = _sheet(con, f"raw{number}", book.get_sheet_by_name(about.name), str(about.visible), scratch)
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


def _sheet(
    con: duckdb.DuckDBPyConnection, table: str, sheet: "CalamineSheet", visible: str, scratch: Path
) -> Raw | None:
    if not sheet.height or sheet.start is None:
        return None
    top, _ = sheet.start
    rows = ([_cell(cell) for cell in row] for row in sheet.to_python(skip_empty_area=True))
    head = list(islice(rows, LOOK))
    layout = layout_of(head)
    check_width(len(layout.names))
    data = head[layout.first :]
    if not any(map(any, data)) or (len(layout.names) == 1 and not any(is_value(cell) for row in data for cell in row)):
        return None
    width = len(layout.names)
    load_rows(con, table, width, (cleaned(row, width) for row in chain(data, rows)), scratch)
    notes = above(layout)
    ranges = sheet.merged_cell_ranges or []
    if merged := sum(first[0] >= top + layout.first for first, _ in ranges):
        notes.append(f"merged areas in the data: {merged}; only the first cell of each has the value")
    name = sheet.name
    shown = "visible" if visible.endswith("Visible") and "Very" not in visible else "hidden"
    source = f'XLSX, sheet "{name}", {shown}, {header_text(layout, offset=1 + top)}'
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
