"""The scripts that the stand-in model writes, run for real: true figures, and foreign text stays text."""

import ast
import csv
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import correlation, mean, median
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailagent.core.facts import Fact, fact_faults, fill, read_facts
from mailagent.demo import script
from mailagent.demo.plan import Plan
from mailagent.demo.steps import DONE, GIVEN_UP
from tests.talk import PROFILE, run, talk

HOSTILE = st.text(max_size=30) | st.sampled_from(
    ["'''", '"""', "\\", "\n", "{{total}}", "${x}", "'; import os #", "\ud800"]
)


def skeleton(source: str) -> str:
    """The structure of a script, its literals aside."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = 0
        if isinstance(node, ast.List | ast.Tuple):
            node.elts = []
        if isinstance(node, ast.Dict):
            node.keys, node.values = [], []
    return ast.dump(tree)


@given(HOSTILE.filter(bool), HOSTILE.filter(bool), HOSTILE, st.sampled_from(["line", "bar", "scatter", "histogram"]))
@settings(max_examples=50)
def test_foreign_text_stays_text_in_the_script(name: str, value: str, question: str, chart: str) -> None:
    def made(name: str, value: str, question: str) -> tuple[Plan, str]:
        plan = Plan(question, "t", name, name, "sum", "", ",.2f", name, "month", name, {name: (value,)}, (), (chart,))
        return plan, script.write(plan, [question], copies=True)

    plan, source = made(name, value, question)
    assert skeleton(source) == skeleton(made("a", "b", "c")[1])
    assert script.read(source) == plan


def test_a_script_of_someone_else_is_no_plan() -> None:
    for source in ("", "print(1)", "QUESTION = open('x')", "def", "QUESTION = 'a'", "TABLE = QUESTION = 'a'"):
        assert script.read(source) is None


@dataclass
class Answer:
    """What a turn left in out/, read by other means than the script's."""

    text: str
    facts: Mapping[str, Any]
    codes: Mapping[str, str]
    charts: list[str]
    tables: Mapping[str, list[list[str]]]


def collected(workspace: Path) -> Answer:
    out = workspace / "out"
    lines = (out / "facts.jsonl").read_bytes()
    facts: tuple[Fact, ...] = read_facts(lines)
    assert fact_faults(lines) == ()
    written = (out / "answer.md").read_text(encoding="utf-8")
    filled = fill(written, facts)
    assert filled.unresolved == ()
    charts = sorted(path.name for path in (out / "charts").glob("*")) if (out / "charts").exists() else []
    assert all((out / "charts" / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in charts)
    found = {path.name: list(csv.reader(path.read_text("utf-8").splitlines())) for path in (out / "tables").glob("*")}
    assert all(
        f"]({folder}/{name})" in written for folder, names in (("charts", charts), ("tables", found)) for name in names
    )
    assert "fixed rules, no AI" in written
    values = {fact.id: fact.value for fact in facts}
    return Answer(filled.text, values, {fact.id: fact.code for fact in facts}, charts, found)


def profiled(frame: pd.DataFrame, kinds: Mapping[str, str]) -> str:
    """The profile that the daemon would put into the prompt, in the grammar that it keeps to."""
    lines = ["## Table 1: data", "- source: in/data.csv (CSV)", "- parquet: work/tables/data.parquet"]
    lines.append(f"- rows: {len(frame)}; columns: {frame.shape[1]}; duplicate rows: {frame.duplicated().sum()}")
    lines += [
        '- dropped: 1 total row: "Total;;9"',
        "| column | type | nulls | distinct | summary |",
        "|---|---|---|---|---|",
    ]
    for name, kind in kinds.items():
        column = frame[name].dropna()
        if kind == "text":
            summary = ", ".join(f"{value} {count}" for value, count in column.value_counts().items())
        elif kind == "date":
            summary = f"{min(column)} .. {max(column)}"
        else:
            summary = f"min {min(column)}, mean {mean(column)}, max {max(column)}, sum {sum(column)}"
        told = [name, kind, str(frame[name].isna().sum()), str(column.nunique()), summary]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in told) + " |")
    return "\n".join(lines)


AMOUNT = """re|ve"nue' {{total}} $x$ ![a](http://e.test/x.png)"""
GROUP = """'''; import os #\\"""
VALUES = ["=cmd|' /C calc'!A0", "{{total}}", "<script>x</script>", "$\\frac{1}{2}$", "漢字 🙂"]


def hostile() -> tuple[pd.DataFrame, dict[str, str]]:
    """A year of rows whose column names and values try to be code, markup and formulas."""
    count = 400
    frame = pd.DataFrame(
        {
            "wh@en `day`": [date(2025, 1, 1) + timedelta(days=(n * 7) % 365) for n in range(count)],
            GROUP: [None if n % 50 == 0 else VALUES[n % 5] for n in range(count)],
            AMOUNT: [None if n % 90 == 7 else round((n * 37 % 101) * 1.1 + n % 5 * 20, 2) for n in range(count)],
            "weight; DROP": [n * 13 % 97 for n in range(count)],
        }
    )
    frame = pd.concat([frame, frame.iloc[[5]]], ignore_index=True)
    return frame, {"wh@en `day`": "date", GROUP: "text", AMOUNT: "number", "weight; DROP": "integer"}


def answered(tmp_path: Path, frame: pd.DataFrame, kinds: Mapping[str, str], *questions: str) -> list[Answer]:
    at, answers = talk(tmp_path), []
    frame.to_parquet(at.workspace / "work/tables/data.parquet", index=False)
    for number, question in enumerate(questions):
        at.mail(question, profiled(frame, kinds) if number == 0 else "")
        assert at.finish() == DONE
        answers.append(collected(at.workspace))
    return answers


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): None if pd.isna(v) else v for name, v in row.items()} for row in frame.to_dict("records")]


def test_hostile_names_and_values_over_time_and_by_group(tmp_path: Path) -> None:
    frame, kinds = hostile()
    (answer,) = answered(tmp_path, frame, kinds, f"How did {AMOUNT} develop by month, and by {GROUP}?")
    months: dict[str, float] = defaultdict(float)
    groups: dict[str, float] = defaultdict(float)
    for row in rows(frame):
        months[row["wh@en `day`"].strftime("%Y-%m")] += row[AMOUNT] or 0
        groups[row[GROUP] or "(blank)"] += row[AMOUNT] or 0
    total = sum(months.values())
    named = {name: value for name, value in groups.items() if name != "(blank)"}
    top = max(named, key=lambda name: named[name])
    low = min(named, key=lambda name: named[name])
    assert answer.facts["total"] == pytest.approx(total)
    assert (answer.facts["first"], answer.facts["last"]) == pytest.approx((months["2025-01"], months["2025-12"]))
    assert (answer.facts["peak"], answer.facts["low"]) == pytest.approx((max(months.values()), min(months.values())))
    assert (answer.facts["top_name"], answer.facts["bottom_name"]) == (top, low)
    assert (answer.facts["top"], answer.facts["top_share"]) == pytest.approx((groups[top], 100 * groups[top] / total))
    assert (answer.facts["blank"], answer.facts["copies"]) == (sum(row[AMOUNT] is None for row in rows(frame)), 1)
    assert answer.charts == ["by_group.png", "by_month.png"]
    shown = {line[0]: float(line[1]) for line in answer.tables["by_month.csv"][1:]}
    assert shown == pytest.approx(dict(months))
    by_group = {line[0].removeprefix("'"): float(line[2]) for line in answer.tables["by_group.csv"][1:]}
    assert by_group == pytest.approx(dict(groups))
    assert not any(line[0].startswith(("=", "+", "@", "-")) for line in answer.tables["by_group.csv"])
    assert "![a](" not in answer.text
    assert "<script>" not in answer.text
    assert "one total row" in answer.text


def test_the_figures_are_what_their_code_gives(tmp_path: Path) -> None:
    frame, kinds = hostile()
    answered(tmp_path, frame, kinds, "Show everything by month")
    check = (
        "import runpy\n"
        "space = runpy.run_path('out/analysis.py')\n"
        "for fact in space['facts']:\n"
        "    assert eval(fact['code'], space) == fact['value'], fact\n"
        "print(len(space['facts']))"
    )
    done = run(f"python3 -c {shlex.quote(check)}", tmp_path / "ws")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 8


def test_two_numbers_are_set_against_each_other(tmp_path: Path) -> None:
    frame, kinds = hostile()
    (answer,) = answered(tmp_path, frame, kinds, f"Does {AMOUNT} depend on the weight?")
    pairs = [(row[AMOUNT], row["weight; DROP"]) for row in rows(frame) if row[AMOUNT] is not None]
    assert answer.charts == ["scatter.png"]
    assert answer.facts["pairs"] == len(pairs)
    assert answer.facts["correlation"] == pytest.approx(correlation(*map(list, zip(*pairs, strict=True))))


def test_one_number_is_shown_by_its_spread(tmp_path: Path) -> None:
    frame = pd.DataFrame({"na<me>": [(n * n) % 1009 / 7 for n in range(300)]})
    (answer,) = answered(tmp_path, frame, {"na<me>": "number"}, "What is in here?")
    values = list(frame["na<me>"])
    assert answer.charts == ["histogram.png"]
    expected = {
        "total": sum(values),
        "median": median(values),
        "mean": mean(values),
        "min": min(values),
        "max": max(values),
    }
    assert {name: answer.facts[name] for name in expected} == pytest.approx(expected)
    assert [line[0] for line in answer.tables["summary.csv"]] == [
        "figure",
        "count",
        "mean",
        "std",
        "min",
        "25%",
        "50%",
        "75%",
        "max",
    ]


def test_many_groups_are_cut_to_the_largest_and_negative_totals_have_no_shares(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"shop": [f"Shop {n % 30}" for n in range(300)], "profit": [float(n % 30 - 20) for n in range(300)]}
    )
    (answer,) = answered(tmp_path, frame, {"shop": "text", "profit": "number"}, "profit by shop in GBP")
    assert len(answer.tables["by_group.csv"]) == 31
    assert answer.tables["by_group.csv"][0] == ["shop", "rows", "profit (GBP)"]
    assert (answer.facts["top_name"], answer.facts["top"]) == ("Shop 29", 90.0)
    assert "top_share" not in answer.facts
    assert "Read as: total profit by shop" in answer.text


def test_sums_beyond_64_bits_do_not_wrap(tmp_path: Path) -> None:
    frame = pd.DataFrame({"site": ["a", "b"] * 20, "bytes": [2**61 + n for n in range(40)]})
    (answer,) = answered(tmp_path, frame, {"site": "text", "bytes": "integer"}, "bytes by site")
    assert answer.facts["total"] == pytest.approx(sum(2**61 + n for n in range(40)))


def test_a_follow_up_filters_regroups_and_compares_with_the_first_answer(tmp_path: Path) -> None:
    frame, kinds = hostile()
    frame["region"] = ["South" if n % 3 else "North" for n in range(len(frame))]
    first, second = answered(
        tmp_path, frame, {**kinds, "region": "text"}, "weight by region?", f"Thanks! And only the South, by {GROUP}?"
    )
    south = [row for row in rows(frame) if row["region"] == "South"]
    groups: dict[str, int] = defaultdict(int)
    for row in south:
        groups[row[GROUP] or "(blank)"] += row["weight; DROP"]
    assert first.facts["total"] == sum(row["weight; DROP"] for row in rows(frame))
    assert second.facts["total"] == sum(groups.values())
    assert second.facts["earlier_total"] == first.facts["total"]
    assert second.facts["share_of_earlier"] == pytest.approx(100 * sum(groups.values()) / first.facts["total"])
    assert {line[0].removeprefix("'"): int(line[2]) for line in second.tables["by_group.csv"][1:]} == groups
    assert "Builds on your earlier question “weight by region" in second.text
    assert "only South" in second.text


def test_a_value_that_the_profile_leaves_out_is_looked_up_once(tmp_path: Path) -> None:
    frame, kinds = hostile()
    frame["place"] = ["Kiel" if n % 3 else "Ulm" for n in range(len(frame))]
    at = talk(tmp_path)
    frame.to_parquet(at.workspace / "work/tables/data.parquet", index=False)
    profile = re.sub(r", Ulm \d+", ", …", profiled(frame, {**kinds, "place": "text"}))
    at.mail("Show me only ulm", profile)
    look = at.step()
    assert look["name"] == "Bash"
    at.result(run(look["input"]["command"], at.workspace).stdout)
    assert at.finish() == DONE
    ulm = [row["weight; DROP"] for row in rows(frame) if row["place"] == "Ulm"]
    assert collected(at.workspace).facts["rows"] == len(ulm)
    at.mail("And Kiel?")
    assert at.step()["name"] == "Write", "known by now"


def test_a_look_up_that_tells_nothing_is_passed_over(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue of Atlantis", PROFILE)
    at.step()
    at.result("Exit code 1\nno such file", failed=True)
    assert "Not found in the table: Atlantis." in at.step()["input"]["content"]


def test_data_that_does_not_fit_its_profile_still_gets_an_answer(tmp_path: Path) -> None:
    frame = pd.DataFrame({"other": [1, 2, 3], "word": ["a", "b", "c"]})
    at = talk(tmp_path)
    frame.to_parquet(at.workspace / "work/tables/orders.parquet", index=False)
    at.mail("Revenue by region", PROFILE)
    assert at.finish() == DONE
    answer = collected(at.workspace)
    assert "did not succeed" in answer.text
    assert answer.tables["totals.csv"][1][:3] == ["other", "3.0", "6.0"]
    at.mail("And the South?")
    at.workspace.joinpath("work/tables/orders.parquet").unlink()
    assert at.finish() == GIVEN_UP
