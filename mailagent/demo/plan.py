"""What to compute: fixed rules choose columns, grouping, filter and charts from the words of a question; no AI."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mailagent.demo.reading import DATES, NUMBERS, WORDS, Column, Request, Table, find, spoken
from mailagent.demo.words import (
    BY,
    COUNTS,
    EXTREMES,
    GRAINS,
    GROUPS,
    HOWS,
    LABELS,
    MEASURES,
    MONEY,
    NOT_SUMMED,
    OVER_TIME,
    RELATION,
    SPREAD,
    TIME,
    UNITS,
)

LISTED = 200
"""Columns with more distinct values are not looked through for names in a question."""

FEW = 60
"""More distinct values than this make no grouping, unless the question names the column."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One analysis of the Parquet file `table`. `measure` None counts rows; `keep` filters: column -> values; `charts`
    of "line", "bar", "scatter", "histogram"; `understood` is False when the question named nothing of the table."""

    question: str
    table: str
    measure: str | None = None
    second: str | None = None
    how: str = "sum"
    unit: str = ""
    format: str = ",.2f"
    date: str | None = None
    grain: str = "month"
    group: str | None = None
    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)
    years: Sequence[int] = ()
    charts: Sequence[str] = ()
    understood: bool = True


@dataclass(frozen=True, slots=True)
class Heard:
    """What a question names of one table, in the order of its words."""

    measures: tuple[Column, ...]
    groups: tuple[Column, ...]
    dates: tuple[Column, ...]
    keep: Mapping[str, tuple[str, ...]]
    grain: str
    words: frozenset[str]
    counts: bool
    time: bool
    """The question is about a course in time."""

    @property
    def shape(self) -> bool:
        """True when the question says how to lay the figures out, so that an earlier lay-out gives way."""
        return bool(self.time or self.groups or len(self.measures) > 1 or self.words & (SPREAD | RELATION))


def choose(requests: Sequence[Request], tables: Sequence[Table], earlier: Plan | None) -> Plan:
    """The plan for the last of these requests on the best of these tables (one at least of both); what the words leave
    open is as it was in the `earlier` plan of the conversation, or a default that fits the types of the columns."""
    request = requests[-1]
    text = spoken(request.text or request.subject)
    known = earlier.table if earlier else ""
    table = max(
        tables, key=lambda each: (_named(each, text), each.parquet == known, _measure(each) is not None, each.rows)
    )
    plan = _plan(request, table, hear(table, text), earlier if table.parquet == known else None)
    return replace(plan, unit=_unit(plan.measure, [each.text for each in reversed(requests)]))


def _named(table: Table, text: str) -> int:
    heard = hear(table, text)
    return len(heard.measures) + len(heard.groups) + len(heard.dates) + len(heard.keep)


def hear(table: Table, text: str) -> Heard:
    """What the spoken `text` names: columns by their name or a word that only they have, and values by column."""
    columns = {column.name: column for column in table.columns}
    found = find([*_phrases(table), *_values(table)], text)
    keep: dict[str, tuple[str, ...]] = {}
    for _, (name, value) in found:
        if value:
            keep[name] = (*keep.get(name, ()), value)
    named = [(columns[name], text[: start + 1].split()[-1:]) for start, (name, value) in found if not value]
    groups = [
        column for column, before in named if _grouping(column, before, table) and len(keep.get(column.name, ())) != 1
    ]
    dates = tuple(c for c, _ in named if c.kind in DATES)
    rest = text  # a column named "year" asks for itself, not for a course in time
    for column, _ in named:
        rest = rest.replace(spoken(column.name), " ") if column.kind not in DATES else rest
    grain = next((GRAINS[grain] for grain in GRAINS if f" {grain} " in rest), "")
    words = frozenset(text.split())
    return Heard(
        measures=tuple(c for c, _ in named if c.kind in NUMBERS and c not in groups and not _is_label(c)),
        groups=(*groups, *(columns[name] for name in keep if len(keep[name]) > 1 and columns[name] not in groups)),
        dates=dates,
        keep=keep,
        grain=grain,
        words=words,
        counts=any(phrase in text for phrase in COUNTS),
        time=bool(dates or grain or TIME & set(rest.split()) or OVER_TIME in rest),
    )


def strangers(text: str, table: Table) -> list[str]:
    """The names in a question (capitals inside a sentence, words behind "only") that the table does not know."""
    found = re.findall(r"\w,? ([A-Z]\w+)|\b(?:only|just) (?:the |for )*(\w+)", text)
    known = {word for phrase, _ in [*_phrases(table), *_values(table)] for word in phrase.split()} | set(UNITS)
    names = dict.fromkeys(name for pair in found for name in pair if name)
    return [name for name in names if not set(spoken(name).split()) <= known]


def unlisted(text: str, table: Table) -> list[str]:
    """The text columns that may hold a stranger of the question, since the profile lists their values in part only."""
    if not strangers(text, table):
        return []
    return [c.name for c in table.of("text") if len(c.values) < c.distinct <= LISTED]


def _phrases(table: Table) -> list[tuple[str, tuple[str, str]]]:
    """What names a column: its whole name, or a word of it that no other column's name has."""
    names = {column.name: spoken(column.name) for column in table.columns}
    every = [word for name in names.values() for word in set(name.split())]
    whole = [(phrase, (name, "")) for name, phrase in names.items()]
    single = [
        (f" {word} ", (name, ""))
        for name, phrase in names.items()
        for word in phrase.split()
        if len(word) > 3 and every.count(word) == 1 and word not in TIME
    ]
    return whole + single


def _values(table: Table) -> list[tuple[str, tuple[str, str]]]:
    """What names a value: its words; a single letter or digit only behind its column's name ("class 3")."""
    return [
        (spoken(value) if len(value) > 2 else spoken(f"{column.name} {value}"), (column.name, value))
        for column in table.of("text")
        for value in column.values
    ]


def _grouping(column: Column, before: list[str], table: Table) -> bool:
    if column.kind in WORDS:
        return True
    asked = bool(BY & set(before))
    return column.kind in NUMBERS and (asked or _is_label(column)) and column.distinct <= max(FEW, table.rows // 20)


def _is_label(column: Column) -> bool:
    return bool(LABELS & set(spoken(column.name).split()))


def _plan(request: Request, table: Table, heard: Heard, base: Plan | None) -> Plan:
    measure = _wanted(table, heard, base)
    keep = _keep(heard, base)
    day = next(iter(heard.dates or table.of(*DATES)), None)
    group = next(iter(heard.groups), None) or (None if base and not heard.shape else _group(table, keep))
    charts = _charts(heard, day, group, measure) if heard.shape or base is None else base.charts
    second = next((c.name for c in heard.measures if c is not measure), None) if "scatter" in charts else None
    how = _how(heard, measure, base)
    return Plan(
        question=" ".join((request.text or request.subject).split())[:200],
        table=table.parquet,
        measure=measure.name if measure else None,
        second=second or (base.second if base and "scatter" in charts else None),
        how=how,
        format=_format(measure, how),
        date=day.name if day else None,
        grain=heard.grain or (base.grain if base and not heard.time else _grain(day)),
        group=group.name if group else base.group if base else None,
        keep=keep,
        years=_years(request.text, day) or (base.years if base else ()),
        charts=charts,
        understood=bool(heard.shape or heard.measures or heard.keep or heard.counts or heard.words & set(HOWS)),
    )


def _wanted(table: Table, heard: Heard, base: Plan | None) -> Column | None:
    """The column to compute; None to count rows."""
    if heard.measures:
        return heard.measures[0]
    if heard.counts:
        return None
    if base:
        return next((c for c in table.columns if c.name == base.measure), None)
    return _measure(table)


def _measure(table: Table) -> Column | None:
    """The column most worth computing: by its name, then the one with the largest variety."""
    able = [c for c in table.of(*NUMBERS) if not _is_label(c) and not (c.kind == "integer" and c.name in table.keys)]
    return min(able, key=lambda c: (_rank(c, MEASURES), c.kind != "number", -c.distinct), default=None)


def _group(table: Table, keep: Mapping[str, Sequence[str]]) -> Column | None:
    able = [c for c in table.of(*WORDS) if c.distinct <= FEW and c.distinct * 2 <= table.rows and c.name not in keep]
    return min(able, key=lambda c: _rank(c, GROUPS), default=None)


def _rank(column: Column, names: Sequence[str]) -> int:
    words = spoken(column.name)
    return next((rank for rank, name in enumerate(names) if f" {name} " in words), len(names))


def _keep(heard: Heard, base: Plan | None) -> Mapping[str, Sequence[str]]:
    """The filters: what was filtered before stays, unless the question now asks for that column as a whole."""
    whole = {column.name for column in heard.groups}
    before = {name: values for name, values in (base.keep if base else {}).items() if name not in whole}
    return {**before, **heard.keep}


def _charts(heard: Heard, day: Column | None, group: Column | None, measure: Column | None) -> tuple[str, ...]:
    if len(heard.measures) > 1 and (heard.words & RELATION or not (heard.time or heard.groups)):
        return ("scatter",)
    if measure and heard.words & SPREAD:
        return ("histogram",)
    line = ("line",) if day and (heard.time or not heard.groups) else ()
    bar = ("bar",) if group and (heard.groups or not line) else ()
    return line + bar or (("histogram",) if measure else ())


def _how(heard: Heard, measure: Column | None, base: Plan | None) -> str:
    if measure is None:
        return "sum"
    said = next((HOWS[word] for word in HOWS if word in heard.words), "")
    if not (said or heard.time or heard.groups):
        said = next((EXTREMES[word] for word in EXTREMES if word in heard.words), "")
    if base and base.measure == measure.name:
        return said or base.how
    return said or ("mean" if NOT_SUMMED & set(spoken(measure.name).split()) else "sum")


def _unit(measure: str | None, mails: Sequence[str]) -> str:
    """The unit as the column's name tells it, or for money the mails, newest first; "" when none does."""
    money = MONEY & set(spoken(measure or "").split())
    for place in [measure or "", *(mails if money else ())]:
        words = {*spoken(place).split(), *re.findall(r"[€£%]", place)}
        found = next((UNITS[word] for word in UNITS if word in words), "")
        if found:
            return found
    return ""


def _format(measure: Column | None, how: str) -> str:
    if measure is None or (measure.kind == "integer" and how in ("sum", "max", "min")):
        return ",.0f"
    return ",.4f" if 0 < measure.largest < 1 else ",.2f"


def _grain(day: Column | None) -> str:
    """Steps that make a readable line over the column's span."""
    if day is None or day.span is None:
        return "month"
    days = (day.span[1] - day.span[0]).days
    return "day" if days <= 45 else "week" if days <= 200 else "month" if days <= 3000 else "year"


def _years(text: str, day: Column | None) -> tuple[int, ...]:
    """The years that the question names, of those that the dates cover; () when they cover one only."""
    if day is None or day.span is None or day.span[0].year == day.span[1].year:
        return ()
    first, last = day.span[0].year, day.span[1].year
    return tuple(sorted({int(year) for year in re.findall(r"\b(?:19|20)\d\d\b", text) if first <= int(year) <= last}))
