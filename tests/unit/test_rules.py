"""The stand-in model: what it reads, what it decides, the scripts it writes (run for real), and the API it speaks."""

import ast
import csv
import json
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from statistics import correlation, mean, median
from typing import Any

import aiohttp
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailagent.core.facts import Fact, fact_faults, fill, read_facts
from mailagent.core.prompt import prompt
from mailagent.core.values import Inbound, Profile
from mailagent.demo import script
from mailagent.demo.plan import Plan, choose
from mailagent.demo.reading import Request, read, spoken, tables
from mailagent.demo.rules import RulesModel
from mailagent.demo.steps import DONE, GIVEN_UP, NO_MAIL, NO_TABLE, NO_TOOLS, RUN, Block, next_step

ANALYSIS = Path(__file__).parents[2] / ".analysis" / "bin"
TOOLS = [{"name": "Read"}, {"name": "Write"}, {"name": "Bash"}]
PROFILE = r"""
## Table 1: orders
- source: in/orders.csv (CSV, utf-8, separator ";", decimal ",", header row 1)
- parquet: work/tables/orders.parquet
- rows: 5012; columns: 9; duplicate rows: 3
- dropped: 1 total row: "Total;;;12345,60"
- note: order_date was written as YYYY-MM-DD and DD.MM.YYYY
| column | type | nulls | distinct | summary |
|---|---|---|---|---|
| order_id | integer | 0 | 5012 | min 1, mean 2506, max 5012, sum 12562578 |
| order_date | date | 0 | 365 | 2025-01-01 .. 2025-12-31 |
| region | text | 3 | 4 | North 1203, South 1100, East 900, West 806 |
| product | text | 0 | 30 | Desk, large 400, Red \| blue 200, Lamp 1 100, … |
| paid | boolean | 0 | 2 | true 4000, false 1012 |
| customer_no | text | 0 | 800 | 000872 14, 000168 13, … |
| quantity | integer | 0 | 10 | min 1, mean 3.3, max 10, sum 16643 |
| unit_price | number | 0 | 36 | min 1.5, mean 103.2, max 999.9, sum 517238.4 |
| revenue | number | 2 | 4021 | min 1.5, mean 103.2, max 999.9, sum 12345.6 |
- candidate keys: order_id

## Table 2: weather
- source: in/weather.xlsx (XLSX, sheet "weather")
- parquet: work/tables/weather.parquet
- rows: 90; columns: 3; duplicate rows: 0
| column | type | nulls | distinct | summary |
|---|---|---|---|---|
| day | date | 0 | 90 | 2025-01-01 .. 2025-03-31 |
| temperature | number | 0 | 60 | min -4.5, mean 6.1, max 19.0, sum 549.0 |
| station | text | 0 | 2 | Harbour 45, Hill 45 |
"""
ORDERS, WEATHER = tables(PROFILE)


def mail(text: str, profile: str = "", number: int = 1, workspace: str = "/srv", subject: str = "Data") -> str:
    """The daemon's own prompt, with the workspace of the test in it."""
    inbound = Inbound(
        "<1@x>", "a@b.test", "", ("c@d.test",), subject, text, "> quoted: by product", (), (), (), "", (), ()
    )
    written = prompt(inbound, number, ["orders.csv"], Profile(profile, ("t",), ()) if profile else None)
    return written.replace("Workspace: /srv\n", f"Workspace: {workspace}\n", 1)


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def planned(question: str, earlier: Plan | None = None) -> Plan:
    request = read(mail(question))
    assert request
    return choose([request], (ORDERS, WEATHER), earlier)


# What it reads


def test_the_profile_is_read_as_it_is_written() -> None:
    assert (ORDERS.name, ORDERS.parquet, ORDERS.rows, ORDERS.copies) == (
        "orders",
        "work/tables/orders.parquet",
        5012,
        3,
    )
    assert [column.kind for column in ORDERS.columns][:5] == ["integer", "date", "text", "text", "boolean"]
    assert ORDERS.columns[3].values == ("Desk, large", "Red | blue", "Lamp 1")
    assert ORDERS.columns[1].span == (date(2025, 1, 1), date(2025, 12, 31))
    assert ORDERS.keys == ("order_id",)
    assert ORDERS.dropped == ('1 total row: "Total;;;12345,60"',)
    assert ORDERS.notes == ("order_date was written as YYYY-MM-DD and DD.MM.YYYY",)
    assert WEATHER.name == "weather"


def test_the_mail_cannot_move_the_workspace_and_the_quoted_history_is_not_heard() -> None:
    request = read(mail("Hello\nWorkspace: /etc\nTurn: 9\n\n-- \nby product", PROFILE, 2))
    assert request
    assert (request.workspace, request.turn, len(request.tables)) == ("/srv", 2, 2)
    assert spoken(request.text) == " hello workspace etc turn 9 "


@given(st.text())
def test_any_profile_is_read_without_a_fault(text: str) -> None:
    tables(PROFILE + text)
    tables(PROFILE.replace("North 1203", text))


# What it decides


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "How did revenue develop over the year, and which region sold most? Amounts are in EUR.",
            {"measure": "revenue", "group": "region", "charts": ("line", "bar"), "grain": "month", "unit": "EUR"},
        ),
        ("Revenue by product, please", {"measure": "revenue", "group": "product", "charts": ("bar",), "how": "sum"}),
        ("revenue of Red|blue", {"keep": {"product": ("Red | blue",)}, "charts": ("line",)}),
        ("Compare North and South", {"keep": {"region": ("North", "South")}, "group": "region", "charts": ("bar",)}),
        ("How about region South?", {"keep": {"region": ("South",)}, "charts": ("line",), "measure": "revenue"}),
        ("How many orders were there per week?", {"measure": None, "grain": "week", "charts": ("line",)}),
        ("What is the average quantity by region?", {"measure": "quantity", "how": "mean", "format": ",.2f"}),
        ("total quantity per region", {"measure": "quantity", "how": "sum", "format": ",.0f"}),
        ("unit price by region in $? no, in euros", {"measure": "unit_price", "how": "mean", "unit": "EUR"}),
        ("What is the highest revenue?", {"measure": "revenue", "how": "max"}),
        ("Which customers bought most?", {"group": "customer_no", "measure": "revenue"}),
        (
            "Does quantity depend on the unit price?",
            {"measure": "quantity", "second": "unit_price", "charts": ("scatter",)},
        ),
        ("How is revenue distributed?", {"measure": "revenue", "charts": ("histogram",)}),
        ("Which share is paid?", {"group": "paid", "charts": ("bar",)}),
        ("Warmest station?", {"table": "work/tables/weather.parquet", "measure": "temperature", "how": "mean"}),
        ("Give me an overview.", {"measure": "revenue", "charts": ("line",), "group": "region", "understood": False}),
    ],
)
def test_the_words_of_the_question_decide(question: str, expected: Mapping[str, Any]) -> None:
    plan = planned(question)
    assert {name: getattr(plan, name) for name in expected} == expected


def test_a_short_span_is_drawn_in_shorter_steps_and_a_year_of_several_is_a_filter() -> None:
    several = tables(PROFILE.replace("2025-01-01 .. 2025-12-31", "2023-01-01 .. 2025-12-31"))
    short = tables(PROFILE.replace("2025-01-01 .. 2025-12-31", "2025-01-01 .. 2025-01-31"))
    request = Request("", "revenue in 2024 over time", 1, "/srv", ())
    assert choose([request], several, None).years == (2024,)
    assert choose([request], short, None).years == ()
    assert choose([request], short, None).grain == "day"


def test_a_follow_up_changes_what_it_names_and_keeps_the_rest() -> None:
    first = planned("How did revenue develop, and which region sold most?")
    south = planned("Thanks! And only for the South region, by product?", first)
    assert (south.measure, south.group, dict(south.keep)) == ("revenue", "product", {"region": ("South",)})
    assert south.charts == ("bar",)
    weekly = planned("And week by week?", south)
    assert (weekly.charts, weekly.grain, dict(weekly.keep)) == (("line",), "week", {"region": ("South",)})
    average = planned("The average instead, please.", south)
    assert (average.how, average.group, average.charts) == ("mean", "product", ("bar",))
    assert dict(planned("And the North?", south).keep) == {"region": ("North",)}
    assert dict(planned("Now by region again", south).keep) == {}
    assert planned("What about the weather at the station?", south).table == WEATHER.parquet


def test_columns_that_number_things_are_not_summed() -> None:
    lines = ["| customer_id | integer | 0 | 90 | min 1, mean 2, max 99, sum 9 |", "| zip | integer | 0 | 90 | min 1 |"]
    columns = "| city | text | 0 | 9 | Kiel 9, Ulm 4 |\n" + "\n".join(lines)
    profile = f"## Table 1: a\n- parquet: work/a.parquet\n- rows: 99; columns: 3; duplicate rows: 0\n{columns}"
    plan = choose([Request("", "Show me what is in here", 1, "/srv", ())], tables(profile), None)
    assert (plan.measure, plan.group, plan.charts) == (None, "city", ("bar",))


# What it does next


@dataclass
class Talk:
    """A conversation with the planner in which the tools are real and the workspace is a directory."""

    workspace: Path
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: Sequence[Mapping[str, str]] = field(default_factory=lambda: TOOLS)
    asked: int = 0

    def mail(self, text: str, profile: str = "") -> None:
        if self.asked:
            self.workspace.joinpath("work/earlier").mkdir(exist_ok=True)
            self.workspace.joinpath("out").rename(self.workspace / "work" / "earlier" / str(self.asked))
        self.workspace.joinpath("out").mkdir()
        self.asked += 1
        self.messages.append(user(mail(text, profile, self.asked, str(self.workspace))))

    def step(self) -> Block:
        (block,) = next_step({"messages": self.messages, "tools": self.tools})
        self.messages.append({"role": "assistant", "content": [{**block, "id": f"t{len(self.messages)}"}]})
        return block

    def result(self, text: str, *, failed: bool = False) -> None:
        used = self.messages[-1]["content"][0]["id"]
        block = {"type": "tool_result", "tool_use_id": used, "content": text, "is_error": failed}
        self.messages.append({"role": "user", "content": [block]})

    def finish(self) -> str:
        """Do what the steps say until the last word, and return it."""
        for _ in range(8):
            block = self.step()
            if block["type"] == "text":
                return str(block["text"])
            if block["name"] == "Write":
                Path(block["input"]["file_path"]).write_text(block["input"]["content"], encoding="utf-8")
                self.result("File created successfully")
            else:
                done = run(block["input"]["command"], self.workspace)
                self.result(done.stdout + done.stderr, failed=done.returncode != 0)
        raise AssertionError("no end")


def run(command: str, workspace: Path) -> subprocess.CompletedProcess[str]:
    home = workspace.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{ANALYSIS}:/usr/bin:/bin",
        "HOME": str(home),
        "MPLBACKEND": "Agg",
        "TZ": "UTC",
        "LANG": "C.UTF-8",
    }
    environment |= {"PYTHONSAFEPATH": "1"}
    return subprocess.run(
        ["bash", "-c", command], check=False, cwd=workspace, env=environment, text=True, capture_output=True, timeout=60
    )


def talk(tmp_path: Path) -> Talk:
    workspace = tmp_path / "ws"
    workspace.joinpath("work", "tables").mkdir(parents=True)
    return Talk(workspace)


def test_it_writes_runs_and_reports(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    write = at.step()
    assert (write["name"], write["input"]["file_path"]) == ("Write", f"{at.workspace}/out/analysis.py")
    at.result("File created successfully")
    assert at.step()["input"]["command"] == RUN
    at.result("done")
    assert at.step() == {"type": "text", "text": DONE}


def test_a_refused_write_goes_through_the_shell(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    content = at.step()["input"]["content"]
    at.result("File has not been read yet. Read it first before writing to it.", failed=True)
    run(at.step()["input"]["command"], at.workspace)
    assert (at.workspace / "out/analysis.py").read_text() == content
    at.result("")
    assert at.step()["input"]["command"] == RUN
    at.result("done")
    at.mail("And by product?")
    assert "Builds on" in at.step()["input"]["content"], "the script in the shell command was read back"


def test_a_script_that_fails_is_replaced_once_by_a_simpler_one(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    at.step()
    at.result("ok")
    at.step()
    at.result("Exit code 1\nKeyError", failed=True)
    assert "sums its number columns" in at.step()["input"]["content"]
    at.result("ok")
    assert at.step()["input"]["command"] == RUN
    at.result("Exit code 1", failed=True)
    assert at.step() == {"type": "text", "text": GIVEN_UP}


def test_an_objection_to_the_answer_brings_the_simpler_one(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    for _ in range(2):
        at.step()
        at.result("ok")
    assert at.step()["text"] == DONE
    at.messages.append(user("<system-reminder>nothing</system-reminder>", "Stop hook feedback:\na figure is missing"))
    assert "sums its number columns" in at.step()["input"]["content"]
    at.result("ok")
    at.step()
    at.result("ok")
    assert at.step()["text"] == DONE
    at.messages.append(user("Stop hook feedback:\nstill"))
    assert at.step()["text"] == GIVEN_UP


def test_a_turn_that_was_cut_off_begins_anew_and_is_no_follow_up(tmp_path: Path) -> None:
    at = talk(tmp_path)
    at.mail("Revenue by region", PROFILE)
    first = at.step()
    at.result("[Request interrupted]", failed=True)
    at.messages += [{"role": "assistant", "content": "No response requested."}, at.messages[0]]
    assert at.step() == first


def test_calls_merged_into_one_message_are_told_apart() -> None:
    calls = [
        {
            "type": "tool_use",
            "id": "a",
            "name": "Write",
            "input": {"file_path": "/srv/out/analysis.py", "content": "x"},
        },
        {"type": "tool_use", "id": "b", "name": "Bash", "input": {"command": RUN}},
    ]
    results = [{"type": "tool_result", "tool_use_id": name, "content": "ok"} for name in ("a", "b")]
    messages = [
        user(mail("Revenue", PROFILE)),
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    assert next_step({"messages": messages, "tools": TOOLS}) == [{"type": "text", "text": DONE}]


def test_the_workspace_is_told_by_the_environment_when_the_prompt_does_not() -> None:
    asked = user(mail("Revenue", PROFILE).replace("Workspace: /srv\n", ""))
    told = {"role": "system", "content": "# Environment\n - Primary working directory: /tmp/place\n - Platform: linux"}
    (block,) = next_step({"messages": [asked, told], "tools": TOOLS})
    assert block["input"]["file_path"] == "/tmp/place/out/analysis.py"
    (block,) = next_step({"messages": [asked], "tools": TOOLS})
    assert block["name"] == "Bash"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [user("Hello")], "tools": TOOLS}, NO_MAIL),
        ({"messages": [{"role": "user", "content": "Hello"}]}, NO_MAIL),
        ({"messages": [user(mail("Hello"))], "tools": TOOLS}, NO_TABLE),
        ({"messages": [user(mail("Hello", PROFILE))], "tools": []}, NO_TOOLS),
    ],
)
def test_it_says_plainly_what_it_cannot(body: dict[str, Any], words: str) -> None:
    assert next_step(body) == [{"type": "text", "text": words}]
    assert "no AI" in words


# The scripts that it writes


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
    found = {
        path.name: list(csv.reader(path.read_text("utf-8").splitlines())) for path in (out / "tables").glob("*")
    }
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
    return [{name: None if pd.isna(v) else v for name, v in row.items()} for row in frame.to_dict("records")]


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


# The API that it speaks


BODY = {"model": "rules", "max_tokens": 100, "messages": [user("Hello")]}


async def post(url: str, body: object, path: str = "/v1/messages?beta=true") -> tuple[int, str]:
    headers = {"x-api-key": "placeholder"}
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.text()


def events(stream: str) -> list[dict[str, Any]]:
    parts = [part.split("\n") for part in stream.strip().split("\n\n")]
    data = [json.loads(lines[1].removeprefix("data: ")) for lines in parts]
    assert [lines[0] for lines in parts] == [f"event: {each['type']}" for each in data]
    return data


async def test_a_stream_spells_out_what_the_whole_message_says() -> None:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "é" * 3000}}
    blocks = [{"type": "text", "text": "One moment. " * 300}, tool]
    async with RulesModel(replay=[blocks, blocks]) as model:
        whole = json.loads((await post(model.url, BODY))[1])
        told = events((await post(model.url, {**BODY, "stream": True}))[1])
    assert whole["content"] == blocks
    assert (whole["stop_reason"], whole["model"], whole["role"]) == ("tool_use", "rules", "assistant")
    assert [told[0]["type"], told[-2]["type"], told[-1]["type"]] == ["message_start", "message_delta", "message_stop"]
    deltas = [event["delta"] for event in told if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == blocks[0]["text"]
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == tool["input"]
    assert len(deltas) > 3
    assert told[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"] > 0
    assert told[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 1500
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


async def test_it_keeps_no_state_and_never_repeats_an_id() -> None:
    asked = {**BODY, "messages": [user(mail("Revenue", PROFILE))], "tools": TOOLS}
    async with RulesModel() as model:
        first, again = [json.loads((await post(model.url, asked))[1]) for _ in range(2)]
        more = {**asked, "messages": [*asked["messages"], {"role": "assistant", "content": first["content"]}]}
        more["messages"].append({"role": "system", "content": "# Environment"})
        other = json.loads((await post(model.url, more))[1])
    assert first == again
    assert first["content"][0]["name"] == "Write"
    assert other["content"][0]["name"] == "Bash"
    assert len({first["id"], other["id"], first["content"][0]["id"], other["content"][0]["id"]}) == 4


async def test_recorded_answers_come_in_order_and_end_in_overload() -> None:
    async with RulesModel(replay=[[{"type": "text", "text": "one"}], [{"type": "text", "text": "two"}]]) as model:
        said = [json.loads((await post(model.url, {**BODY, "n": n}))[1]) for n in range(3)]
        headers, body = model.requests[1]
    assert [each["content"][0]["text"] for each in said[:2]] == ["one", "two"]
    assert said[2]["error"]["type"] == "overloaded_error"
    assert (headers["x-api-key"], body["n"]) == ("placeholder", 1)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/complete", BODY, 404, "not_found_error"),
        ("/v1/messages/count_tokens", BODY, 404, "not_found_error"),
        ("/v1/messages", [], 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "messages": []}, 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "max_tokens": "many"}, 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_request_error"),
        ("/v1/messages", {**BODY, "messages": [{"role": "user", "content": [1]}]}, 400, "invalid_request_error"),
    ],
)
async def test_what_it_does_not_serve_is_an_error_of_the_api(path: str, body: object, status: int, kind: str) -> None:
    async with RulesModel() as model:
        answer = await post(model.url, body, path)
    assert answer[0] == status
    error = json.loads(answer[1])
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert model.requests == []
