"""The analysis.py that the stand-in model writes: fixed blocks of Python below constants that hold what is foreign."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from mailagent.demo import blocks
from mailagent.demo.plan import Plan

STEPS = {
    "day": ("D", "on %Y-%m-%d", "%Y-%m-%d"),
    "week": ("W-MON", "in the week of %Y-%m-%d", "%Y-%m-%d"),
    "month": ("MS", "in %B %Y", "%Y-%m"),
    "quarter": ("QS", "in the quarter from %B %Y", "%Y-%m"),
    "year": ("YS", "in %Y", "%Y"),
}
"""Grain -> its pandas frequency, how a sentence names a step, how a table does."""

HOWS = {
    "sum": ("", "Total "),
    "mean": ("average ", "Average "),
    "median": ("median ", "Median "),
    "max": ("highest ", "Highest "),
    "min": ("lowest ", "Lowest "),
}
"""How -> what stands before the measure's name: for one group or step, and for all rows."""


UNSTATED = ("grain", "understood")


def write(plan: Plan, notes: Sequence[str], *, blanks: bool = False, copies: bool = False, earlier: str = "") -> str:
    """The script for this plan. `notes` are lines of Markdown for the end of the answer; `blanks` says that the measure
    lacks values, `copies` that there are duplicate rows; `earlier` is the facts.jsonl of the conversation's first
    answer when it tells the same measure."""
    constants = {**_stated(plan), **_labels(plan), **({"earlier": earlier} if earlier else {}), "notes": list(notes)}
    summed = plan.how == "sum"
    end = [blocks.BASIS, blocks.FROM * bool(plan.measure), blocks.SPAN * bool(plan.date), blocks.BLANKS * blanks]
    end += [
        blocks.COPIES * copies,
        blocks.EARLIER * bool(earlier),
        blocks.EARLIER_SHARE * bool(earlier and summed),
        blocks.END,
    ]
    return "".join([blocks.START, _constants(constants), blocks.TOOLS, *_rows(plan), *_body(plan, summed), *end])


def _body(plan: Plan, summed: bool) -> list[str]:
    step, when, day = STEPS[plan.grain]
    line = blocks.LINE.replace("STEP", step).replace("WHEN", when).replace("DAY", day)
    chosen = {"line": line, "scatter": blocks.SCATTER, "histogram": blocks.HISTOGRAM, "bar": ""}
    body = [chosen[kind] for kind in plan.charts]
    if plan.group:
        bar = blocks.BAR * ("bar" in plan.charts)
        return [*body, blocks.GROUPS, bar, blocks.TOP, blocks.SHARES * summed, blocks.BOTTOM]
    return [*body, blocks.SUMMARY] if plan.measure and "line" not in plan.charts else body


def _rows(plan: Plan) -> list[str]:
    return [
        blocks.KEEP * bool(plan.keep),
        blocks.MEASURED if plan.measure else blocks.COUNTED,
        blocks.SECOND * bool(plan.second),
        blocks.DATED * bool(plan.date),
        blocks.GROUPED * bool(plan.group),
        blocks.YEARS * bool(plan.years),
        blocks.TOTAL,
    ]


def totals(plan: Plan) -> str:
    """A simpler script for when the first one failed: the rows counted, every number column summed."""
    return blocks.TOTALS.format(constants=_constants({"table": plan.table}))


def look(table: str, columns: Sequence[str]) -> str:
    """A script that prints the values of these columns, as the JSON that `values` reads."""
    return blocks.LOOK.format(constants=_constants({"table": table, "columns": list(columns)}))


def values(printed: str) -> Mapping[str, tuple[str, ...]]:
    """Column -> values, as a `look` printed them; nothing when it printed something else."""
    try:
        found = json.loads(printed)
    except ValueError:
        return {}
    return {name: tuple(map(str, each)) for name, each in found.items()} if isinstance(found, dict) else {}


def read(script: str) -> Plan | None:
    """The plan that `write` put into this script; None when it is no such script."""
    names = {each.name.upper(): each.name for each in fields(Plan)}
    try:
        said = {
            names[node.targets[0].id]: ast.literal_eval(node.value)
            for node in ast.parse(script).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names
        }
        return Plan(**said) if "question" in said else None
    except (SyntaxError, ValueError, TypeError):
        return None


def _stated(plan: Plan) -> Mapping[str, Any]:
    """The fields that say something; TOOLS cannot do without the unit and the format."""
    always = {"question", "table", "how", "unit", "format", "charts"} | ({"grain"} if "line" in plan.charts else set())
    return {name: value for name, value in asdict(plan).items() if name in always or (value and name not in UNSTATED)}


def _labels(plan: Plan) -> Mapping[str, str]:
    label = HOWS[plan.how][0] + (named(plan.measure) if plan.measure else "number of rows")
    return {
        "label": label[:1].upper() + label[1:],
        "axis": f"{label} ({plan.unit})" if plan.unit else label,
        "overall": overall_name(plan),
        "scope": scope(plan),
        **({"by": named(plan.group)} if plan.group else {}),
        **({"across": named(plan.second)} if plan.second else {}),
    }


def overall_name(plan: Plan) -> str:
    """What the figure for all rows is called: "Total revenue", but never "Total total"."""
    name = named(plan.measure) if plan.measure else "Number of rows"
    before = HOWS[plan.how][1] if plan.measure else ""
    return name if name.casefold().startswith(before.casefold()) else before + name


def scope(plan: Plan) -> str:
    """What a title adds for the filters: ", only South, 2025"; "" without one."""
    values = [named(value) for each in plan.keep.values() for value in each] + [str(year) for year in plan.years]
    return f", only {' and '.join(values)}" if values else ""


def named(name: str) -> str:
    """A column or value as readers see it: one line, no underscores, not too long."""
    words = " ".join("".join(c if c.isprintable() else " " for c in name.replace("_", " ")).split())
    return words if len(words) <= 40 else words[:39] + "…"


def _constants(values: Mapping[str, Any]) -> str:
    """One assignment a line. repr() makes any text one literal on one line, so that a stranger's text never is code."""
    return "".join(f"{name.upper()} = {value!r}\n" for name, value in values.items())
