"""What an answer says about itself: how the question was read, what was left out, what it builds on."""

import re
from collections.abc import Sequence

from mailagent.demo.plan import Plan, strangers
from mailagent.demo.reading import Table
from mailagent.demo.script import named, overall_name, scope

MAX_NOTES = 4
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def remarks(plan: Plan, text: str, tables: Sequence[Table], earlier: Plan | None) -> list[str]:
    """What to say of this plan for a mail's text: lines of Markdown, each a sentence; what comes from the mail or the
    data is escaped."""
    table = next(each for each in tables if each.parquet == plan.table)
    unknown = strangers(text, table)[:MAX_NOTES]
    others = [named(each.name) for each in tables if each is not table]
    return [
        *([f"Builds on your earlier question “{_quoted(earlier.question)}”."] if earlier else []),
        f"Read as: {plain(reading(plan))}.",
        *([] if plan.understood else [_overview(earlier)]),
        *([f"Not found in the table: {plain(', '.join(unknown))}."] if unknown else []),
        *(f"Left out: {plain(_dropped(each))}." for each in table.dropped),
        *(f"{plain(_line(each, 200).rstrip('.'))}." for each in table.notes[:MAX_NOTES]),
        *([f"Not used: {plain(', '.join(others))}."] if others else []),
    ]


def reading(plan: Plan) -> str:
    """The plan in words: "total revenue by month and by region, only South"."""
    measure = overall_name(plan)
    if "scatter" in plan.charts:
        return f"{named(plan.measure or '')} against {named(plan.second or '')}{scope(plan)}"
    if "histogram" in plan.charts:
        return f"distribution of {named(plan.measure or '')}{scope(plan)}"
    by = [plan.grain] if "line" in plan.charts else []
    by += [named(plan.group)] if plan.group else []
    return measure[:1].lower() + measure[1:] + " and".join(f" by {each}" for each in by) + scope(plan)


def plain(text: str) -> str:
    """Text in which Markdown finds no markup (CommonMark 2.4: any ASCII punctuation may be escaped)."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _overview(earlier: Plan | None) -> str:
    what = "the earlier analysis again" if earlier else "an overview"
    return f"Your words named no column or value of the table that the rules know, so this is {what}."


def _dropped(text: str) -> str:
    """ "1 total row: Total;;12" as "one total row": the cells themselves would be figures that nobody computed."""
    count, _, what = _line(text.partition(":")[0], 60).partition(" ")
    return f"{NUMBERS[int(count)]} {what}" if count.isdigit() and int(count) < len(NUMBERS) else f"{count} {what}"


def _quoted(text: str) -> str:
    return plain(_line(text, 120))


def _line(text: str, limit: int) -> str:
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
