"""The skills are valid, their scripts say what they do, and what their parts promise holds for any input."""

import csv
import importlib
import io
import json
import re
import struct
import subprocess
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skills_ref import validate

ROOT = Path(__file__).parents[2]
SKILLS = sorted(path for path in (ROOT / "skills").iterdir() if path.is_dir())
SCRIPTS = sorted((ROOT / "skills").glob("*/scripts/*.py"))
ANALYSIS = ROOT / ".analysis" / "bin" / "python"
FENCE = "`" * 3


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script as the sandbox runs it; fails, never skips, when the analysis environment is not there."""
    assert ANALYSIS.exists(), f"{ANALYSIS} is missing: run make setup"
    command = [str(ANALYSIS), "-I", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


def profiling(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the profile skill's script that needs nothing but Python."""
    monkeypatch.syspath_prepend(str(ROOT / "skills" / "profile" / "scripts"))
    return importlib.import_module(f"profiling.{name}")


# --- the folders ---


def test_every_skill_of_the_house_is_there() -> None:
    assert [path.name for path in SKILLS] == ["charts", "profile", "reply", "sql", "tables"]


@pytest.mark.parametrize("skill", SKILLS, ids=lambda path: path.name)
def test_a_skill_keeps_the_specification(skill: Path) -> None:
    text = (skill / "SKILL.md").read_text(encoding="utf-8")
    description = re.search(r"^description: (.+)$", text, re.MULTILINE)
    assert validate(skill) == []
    assert description
    assert 1 <= len(description[1]) <= 1024
    assert "Use it" in description[1]
    assert len(text.splitlines()) < 500


@pytest.mark.parametrize("skill", SKILLS, ids=lambda path: path.name)
def test_a_skill_runs_anywhere(skill: Path) -> None:
    text = (skill / "SKILL.md").read_text(encoding="utf-8")
    named = re.findall(r"\bscripts/[\w/.-]+\.py", text)
    assert [name for name in named if not (skill / name).is_file()] == []
    assert re.findall(r"(?<![\w`.*\"'])/(?:opt|srv|usr|home|tmp|run)\b", text) == []
    assert not re.search(r"mailagent|CLAUDE_|pip install", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_explains_itself(script: Path, tmp_path: Path) -> None:
    shown = python(script, "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Exit codes" in shown.stdout
    assert list(tmp_path.iterdir()) == []
    assert "# /// script" in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_refuses_unknown_arguments(script: Path, tmp_path: Path) -> None:
    assert python(script, "--nonsense", cwd=tmp_path).returncode == 2


# --- check.py ---


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = zlib.compress((b"\0" + b"\xff" * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


GOOD: dict[str, bytes] = {
    "analysis.py": b"print('all of it')\n",
    "answer.md": (
        b"{{region}} leads with {{total|,.0f}} EUR, up {{growth|+.1%}} since 2024. It is well ahead.\n\n"
        b"![Bars of revenue by region](charts/bars.png)\n\n[Revenue](tables/revenue.csv)\n\nRead on 31.12.2025.\n"
    ),
    "facts.jsonl": b"".join(
        json.dumps({"id": name, "value": value, "unit": "", "code": "df.x.sum()"}).encode() + b"\n"
        for name, value in {"region": "North", "total": 12345.678, "growth": 0.123}.items()
    ),
    "charts/bars.png": png(),
    "tables/revenue.csv": b"Region,Revenue\nNorth,1\n",
}


def checked(out: Path, changes: dict[str, bytes | None]) -> tuple[int, dict[str, Any]]:
    for name, data in {**GOOD, **changes}.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
    done = python(ROOT / "skills" / "reply" / "scripts" / "check.py", "--out", out, cwd=out)
    return done.returncode, json.loads(done.stdout)


def test_a_good_answer_passes(tmp_path: Path) -> None:
    assert checked(tmp_path / "out", {}) == (0, {"ok": True, "faults": [], "warnings": []})


FAULTS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no answer": ({"answer.md": None}, "answer.md is missing"),
    "no script": ({"analysis.py": None}, "analysis.py is missing"),
    "a script that is none": ({"analysis.py": b"def (:\n"}, "no valid Python"),
    "a chart that is not there": ({"charts/bars.png": None}, "charts/bars.png does not exist"),
    "a chart cut short": ({"charts/bars.png": png()[:-20]}, "cut off"),
    "a chart with a flipped bit": ({"charts/bars.png": png().replace(b"IDAT", b"IDAX", 1)}, "damaged"),
    "a chart that is a page": ({"charts/bars.png": b"<html>"}, "not a PNG"),
    "no alternative text": ({"answer.md": b"![x](charts/bars.png)"}, "alternative text"),
    "a table that is not there": ({"tables/revenue.csv": None}, "tables/revenue.csv does not exist"),
    "a table without rows": ({"tables/revenue.csv": b"Region\n"}, "has no rows"),
    "a figure without a fact": ({"answer.md": b"It is {{nothing}}."}, "{{nothing}} has no fact"),
    "half the braces": ({"answer.md": b"It is {total}."}, "single braces"),
    "a format that does not fit": ({"answer.md": b"{{region|,.0f}}"}, "format"),
    "a format that floods": ({"answer.md": b"{{total|999999d}}"}, "format"),
    "a fact without code": ({"facts.jsonl": b'{"id": "total", "value": 1}\n'}, "no code"),
    "a fact that is no number": ({"facts.jsonl": b'{"id": "a", "value": NaN, "code": "x"}\n'}, "not finite"),
    "a line that is no fact": ({"facts.jsonl": b"total = 1\n"}, "not JSON"),
    "a way out": ({"answer.md": b"[x](../../etc/passwd)"}, "does not exist in out/"),
    "a picture from elsewhere": ({"answer.md": b"![a b c](https://example.org/x.png)"}, "from elsewhere"),
}


@pytest.mark.parametrize(("changes", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named(tmp_path: Path, changes: dict[str, bytes | None], reason: str) -> None:
    code, said = checked(tmp_path / "out", changes)
    assert (code, said["ok"]) == (1, False)
    assert any(reason in fault for fault in said["faults"]), said


def test_a_typed_number_is_a_warning(tmp_path: Path) -> None:
    answer = b"{{region}} leads with 12,345 EUR and 3.5 %.\n\n1. In 2024 there were 12 regions.\n"
    code, said = checked(tmp_path / "out", {"answer.md": answer})
    assert code == 0
    assert [re.findall(r'"(.+?)"', warning)[0] for warning in said["warnings"]] == ["12,345", "3.5 %"]


def test_a_link_in_out_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "passwd").symlink_to("/etc/passwd")
    code, said = checked(tmp_path / "out", {})
    assert (code, said["faults"]) == (1, ["passwd is a link: write the file itself"])


# --- the parts of profile_tables.py ---

CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
NAMES = st.lists(CELLS, min_size=1, max_size=60)


@given(cells=NAMES, notes=st.lists(CELLS, max_size=12), source=CELLS, count=st.integers(1, 600))
def test_a_section_stays_small_and_closed(cells: list[str], notes: list[str], source: str, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        names = profiling("layout", patch).unique(cells)
        table = {
            "about": source,
            "rows": 3,
            "duplicates": 0,
            "names": [*names, *(f"more_{i}" for i in range(count))],
            "columns": [{"name": n, "type": "text", "nulls": 0, "distinct": 3, "summary": c * 9}
                        for n, c in zip(names[:40], cells[:40], strict=True)],
            "keys": names[:3],
            "dropped": notes[:2],
            "notes": notes,
            "head": [cells[:40]] * 3,
            "tail": [cells[:40]] * 2,
        }  # fmt: skip
        text = profiling("section", patch).section(1, "orders", source, "work/tables/orders.parquet", table)
    assert len(text.encode()) <= 2048
    lines = text.splitlines()
    assert text.count("`") in (0, 6)
    assert [line for line in lines if line.startswith("#")] == ["## Table 1: orders"]
    assert [line for line in lines if line.startswith("- parquet")] == ["- parquet: work/tables/orders.parquet"]
    fences = [i for i, line in enumerate(lines) if line.startswith(FENCE)]
    assert fences in ([], [fences[0] if fences else 0, len(lines) - 1])
    outside = lines[: fences[0]] if fences else lines
    assert all(line.startswith(("## Table", "- ", "| ", "|-")) for line in outside)


@given(cells=NAMES)
def test_column_names_are_distinct_and_harmless(cells: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        names = profiling("layout", patch).unique(cells)
    assert len({name.casefold() for name in names}) == len(cells)
    assert all(name and name == name.strip() and name.isprintable() and "`" not in name for name in names)


WORDS = st.text("abcdefghijklm", min_size=2, max_size=8)


@given(
    header=st.lists(WORDS, min_size=2, max_size=6, unique=True),
    rows=st.integers(3, 30),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    above=st.lists(WORDS, max_size=3),
)
def test_separator_and_header_are_found(
    header: list[str], rows: int, separator: str, decimal: str, above: list[str]
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerows([title] for title in above)
    writer.writerow(header)
    writer.writerows([f"{i}{decimal}5", *(f"x{i}" for _ in header[1:])] for i in range(rows))
    with pytest.MonkeyPatch.context() as patch:
        layout = profiling("layout", patch)
        assert layout.separator_of(out.getvalue(), True) == separator
        found = layout.layout_of(layout.csv_rows(out.getvalue(), separator))
    assert (found.names, found.first, found.above) == (tuple(header), len(above) + 1, tuple(above))


@given(value=st.integers(-(10**12), 10**12), style=st.sampled_from(["point", "comma"]))
def test_a_written_amount_is_a_number_in_its_style_alone(value: int, style: str) -> None:
    written = f"{value / 100:,.2f}"
    text = written if style == "point" else written.translate(str.maketrans(",.", ".,"))
    with pytest.MonkeyPatch.context() as patch:
        found = profiling("kinds", patch).numbers({text: 1})
    assert (found.count, dict(found.only)) == (1, {style: 1})


@pytest.mark.parametrize("text", ["007", "+4915112345678", "4111111111111111"])
def test_codes_are_no_numbers(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = profiling("kinds", monkeypatch)
    assert kinds.decide({text: 1, "5": 20}, kinds.Hints()).type == "text"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2025-01-31", "YYYY-MM-DD"),
        ("2025-01-31T10:00:00Z", "YYYY-MM-DD"),
        ("31.01.2025", "DD.MM.YYYY"),
        ("31.01.25 09:30", "DD.MM.YY"),
        ("1/31/2025 3:05 PM", "a/b/YYYY"),
        ("5 Mar 2025", "D Month YYYY"),
        ("March 5, 2025", "Month D, YYYY"),
        ("12.5", None),
        ("1.234.567", None),
        ("10:30", None),
        ("2025", None),
    ],
)
def test_forms_of_dates(text: str, form: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiling("dates", monkeypatch).form_of(text) == form
