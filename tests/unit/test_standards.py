"""docs/standards.md names a test for each row, and the test is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs" / "standards.md").read_text().splitlines() if line.startswith("| RFC")]
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_\w+)`")


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_there_is_a_table() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: cells(row)[0])
def test_each_row_says_what_is_done_and_names_a_test_that_is_there(row: str) -> None:
    assert len(cells(row)) == 4
    assert cells(row)[1]
    (named,) = NAMED.findall(cells(row)[3])
    assert named[1] in set(functions(ROOT / "tests" / named[0]))
