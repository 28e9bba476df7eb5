"""docs/security.md names what holds each claim, and it is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.fault.escapes.survey import GROUPS

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "security.md").read_text().partition("## What holds each claim")[2].partition("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]
NAMED = re.compile(r"`([a-z_/]+\.py)::(test_\w+)`")
ESCAPES = {each.name for escapes, _ in GROUPS.values() for each in escapes}


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_there_is_a_table() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: cells(row)[0])
def test_what_a_claim_names_is_there(row: str) -> None:
    _, escapes, tests = cells(row)
    assert set(re.findall(r"`(\w+)`", escapes)) <= ESCAPES
    ((file, name),) = NAMED.findall(tests)
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
