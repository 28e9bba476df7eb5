"""Holds the package to its ceilings: sizes, opening sentences, who may import what, one broad `except`."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).parents[2] / "mailagent"
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
LINES = {name: len((PACKAGE / name).read_text().splitlines()) for name in MODULES}

Function = ast.FunctionDef | ast.AsyncFunctionDef

DATA = ("pandas", "duckdb", "numpy", "pyarrow", "matplotlib", "openpyxl", "python_calamine", "scipy")
IO = ("os", "pathlib", "time", "random", "uuid", "secrets", "socket", "subprocess", "shutil", "tempfile")
VENDORS = {
    "claude_agent_sdk": r"adapters/(claude|transcripts)\.py",
    "redis": r"adapters/(redis\w*|transcripts)\.py",
    "imapclient": r"adapters/(imap|sent)\.py",
    "obstore": r"adapters/s3\.py",
}
"""Vendor -> the modules that may know it."""


def body(node: ast.Module | Function) -> list[ast.stmt]:
    """The statements below the docstring."""
    return node.body[1:] if ast.get_docstring(node) is not None else node.body


def height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def functions() -> Iterator[tuple[str, int]]:
    """Name and length of every function that does something; its docstring does not count, it may explain at length."""
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function) and (doing := body(node)):
                yield f"{module}:{node.name}", height(node) - (0 if doing is node.body else height(node.body[0]))


def imports(tree: ast.AST) -> set[str]:
    """The top-level names of what is imported anywhere in the module, in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def pure(module: str) -> bool:
    return module.startswith(("core/", "flow/")) or module in ("ports.py", "config.py")


def one_sentence(docstring: str) -> bool:
    opening = re.sub(r"`[^`]*`", "", docstring.partition("\n\n")[0])
    return opening.endswith(".") and not re.search(r"[.!?]\s+[A-Z]", opening)


def test_functions_are_short() -> None:
    sizes = dict(functions())
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert median(sizes.values()) <= 10


def test_modules_are_short() -> None:
    assert {name: size for name, size in LINES.items() if size > 400} == {}
    assert median(size for name, size in LINES.items() if body(MODULES[name])) <= 150


def test_every_module_opens_with_one_sentence() -> None:
    openings = {name: ast.get_docstring(tree) or "" for name, tree in MODULES.items()}
    assert {name: text for name, text in openings.items() if not one_sentence(text)} == {}


@pytest.mark.parametrize(("names", "banned_from"), [(IO, pure), (DATA, bool)], ids=["IO", "data"])
def test_what_is_kept_out(names: tuple[str, ...], banned_from: Callable[[str], bool]) -> None:
    found = {name: imports(tree).intersection(names) for name, tree in MODULES.items() if banned_from(name)}
    assert {name: bad for name, bad in found.items() if bad} == {}


@pytest.mark.parametrize("vendor", VENDORS)
def test_one_vendor_one_adapter(vendor: str) -> None:
    users = [name for name, tree in MODULES.items() if vendor in imports(tree)]
    assert [name for name in users if not re.fullmatch(VENDORS[vendor], name)] == []


def calls(tree: ast.AST) -> list[str]:
    """The names of what is called, as written."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_pure_modules_open_nothing_and_ask_no_clock() -> None:
    effect = re.compile(r"open|print|input|(datetime\.)*(datetime|date)\.(now|utcnow|today)")
    found = {
        name: [call for call in calls(tree) if effect.fullmatch(call)] for name, tree in MODULES.items() if pure(name)
    }
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_core_is_synchronous() -> None:
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    core = {name: tree for name, tree in MODULES.items() if name.startswith("core/")}
    assert [name for name, tree in core.items() if any(isinstance(node, waiting) for node in ast.walk(tree))] == []


def breadth(node: ast.AST) -> str:
    """Of a handler for anything at all: whether it raises that "again", "another" error in its place, or "none", like a
    suppress() of the same breadth; "" for what is not so broad."""
    if isinstance(node, ast.ExceptHandler):
        caught, last = ast.unparse(node.type) if node.type else "Exception", node.body[-1]
        if not re.search(r"\b(Base)?Exception\b", caught):
            return ""
        return "none" if not isinstance(last, ast.Raise) else "another" if last.exc else "again"
    broad = isinstance(node, ast.Call) and re.fullmatch(r".*\bsuppress\((Base)?Exception\)", ast.unparse(node))
    return "none" if broad else ""


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        pytest.param("none", "flow/worker.py", id="the loop that owns a job"),
        pytest.param("another", "adapters/claude.py", id="the SDK raises a bare Exception for what code inside said"),
    ],
)
def test_one_broad_except_in_the_whole_package(kind: str, where: str) -> None:
    assert [name for name, tree in MODULES.items() for node in ast.walk(tree) if breadth(node) == kind] == [where]
