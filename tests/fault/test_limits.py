"""What happens to code that takes too much; `make sandbox` tries all of it and prints it."""

import os

import pytest

from tests.fault.limits.rows import ROWS, Row, tried

USUAL = {
    "memory: one large object",
    "memory: many small processes",
    "processes: a fork bomb",
    "work/: many files",
    "the agent's own directory",
    "100,000 files",
    "directories that cannot be opened",
}
CHOSEN = [row for row in ROWS if row.name in USUAL or os.environ.get("LIMITS") == "all"]


@pytest.mark.parametrize("row", CHOSEN, ids=[row.name for row in CHOSEN])
async def test_who_takes_too_much_harms_nobody_else(row: Row) -> None:
    assert (await tried(row)).fault(row) == ""


def test_the_usual_ones_are_there() -> None:
    assert {row.name for row in ROWS} >= USUAL
