"""Decides from a column's distinct texts what they mean, and says it as SQL that converts the whole column."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from profiling import dates

Type = Literal["integer", "number", "date", "datetime", "boolean", "text"]
Style = Literal["point", "comma"]

SPACE = "[ \u00a0\u202f\u2009]"
NAMES = (
    "EUR USD GBP CHF JPY CNY INR SEK NOK DKK PLN CZK HUF RON TRY AUD CAD NZD ZAR BRL MXN SGD HKD KRW ILS AED SAR UAH"
)
CURRENCY = "(?:US[$]|[$€£¥₹₺₩₽]|kr|zł|Kč|" + "|".join(NAMES.split()) + ")"
SIGNS = {"US$": "USD", "$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR"}
WHOLE = "(?:0|[1-9][0-9]*)"
GROUPS: dict[Style, str] = {
    "point": f"[1-9][0-9]{{0,2}}(?:(?:[,'’]|{SPACE})[0-9]{{3}})+|[1-9][0-9]?(?:,[0-9]{{2}})+,[0-9]{{3}}",
    "comma": f"[1-9][0-9]{{0,2}}(?:(?:[.'’]|{SPACE})[0-9]{{3}})+",
}
MARK: dict[Style, str] = {"point": "[.]", "comma": ","}
EXPONENT = "[+-]?[0-9]+(?:[.][0-9]+[eE][+-]?[0-9]{1,3}|[eE][+-][0-9]{1,3})"
PLAIN_INTEGER = "[+-]?(?:0|[1-9][0-9]{0,14})"
PLAIN_NUMBER = f"[+-]?(?:{WHOLE}(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?"
MINUS = "[(\u2212-]"


def _pattern(style: Style) -> str:
    fraction = "[.][0-9]*" if style == "point" else ",[0-9]+"
    core = f"(?:(?:{GROUPS[style]}|{WHOLE})(?:{fraction})?|{MARK[style]}[0-9]+)"
    sign, gap = "[+\u2212-]?", f"{SPACE}*"
    bare = f"{sign}{gap}{CURRENCY}?{gap}{sign}{core}{gap}(?:%|{CURRENCY})?{gap}-?"
    return f"(?:{bare}|[(]{bare}[)])"


PATTERN: dict[Style, str] = {"point": _pattern("point"), "comma": _pattern("comma")}
"""Numbers as people and programs write them; in the common subset of Python's and RE2's syntax, used in both."""

_NUMBER = {style: re.compile(pattern) for style, pattern in PATTERN.items()}
_EXPONENT = re.compile(EXPONENT)
_PLAIN_INTEGER = re.compile(PLAIN_INTEGER)
_PLAIN_NUMBER = re.compile(PLAIN_NUMBER)
_CURRENCY = re.compile(CURRENCY)
_CODE = re.compile("0[0-9]+|[+][0-9]{7,}|[0-9]{16,}")
_COMPACT_DATE = re.compile("(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")

ENOUGH = 0.8
"""A column is of a type when this share of its texts is, and the rest are words such as "n/a" …"""
NEARLY_ALL = 0.95
"""… or, when the rest has digits in it and might be codes, this share."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column is: its type, the SQL that converts text `{x}` (NULL where it cannot), and what was assumed."""

    type: Type
    sql: str = "{x}"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hints:
    """What the other columns of the file show: the decimal sign and the order of day and month, if anything does."""

    decimal: Style | None = None
    day_first: bool | None = None
    separator: str = ","


@dataclass(slots=True)
class Numbers:
    """How often a column's texts are numbers, and in whose manner of writing."""

    count: int = 0
    plain: int = 0
    only: Counter[Style] = field(default_factory=Counter)
    """Texts that are a number in this style alone."""
    unclear: Counter[str] = field(default_factory=Counter)
    """Texts such as 1,234 that are different numbers in the two styles."""
    percent: int = 0
    codes: int = 0
    currencies: Counter[str] = field(default_factory=Counter)


def is_value(text: str) -> bool:
    """True for a number or a date, which no header cell is."""
    return any(pattern.fullmatch(text) for pattern in _NUMBER.values()) or dates.form_of(text) is not None


def numbers(values: Mapping[str, int]) -> Numbers:
    """The evidence that these texts (with how often each occurs) are numbers."""
    found = Numbers()
    for text, times in values.items():
        if not any(c.isdigit() for c in text):
            continue
        if _CODE.fullmatch(text):
            found.codes += times
            found.count += times
        elif _PLAIN_INTEGER.fullmatch(text):
            found.plain += times
            found.count += times
        else:
            _written(text, times, found)
    return found


def _written(text: str, times: int, found: Numbers) -> None:
    point = bool(_NUMBER["point"].fullmatch(text) or _EXPONENT.fullmatch(text))
    comma = bool(_NUMBER["comma"].fullmatch(text))
    if not (point or comma):
        return
    found.count += times
    found.plain += times if _PLAIN_NUMBER.fullmatch(text) else 0
    found.percent += times if "%" in text else 0
    if sign := _CURRENCY.search(text):
        found.currencies[SIGNS.get(sign[0], sign[0])] += times
    if point != comma:
        found.only["point" if point else "comma"] += times
    elif "," in text or "." in text:
        found.unclear[text] += times


def hints(columns: Sequence[Mapping[str, int]], separator: str) -> Hints:
    """What all columns of a file together show."""
    styles: Counter[Style] = Counter()
    days, months = 0, 0
    for values in columns:
        styles.update(numbers(values).only)
        seen = dates.evidence(values)
        days += seen.day_first + seen.dotted
        months += seen.month_first
    style = styles.most_common(1)[0][0] if styles else None
    return Hints(style, days > months if days + months else None, separator)


def decide(values: Mapping[str, int], hint: Hints) -> Kind:
    """What a column with these texts is."""
    total = sum(values.values())
    if not total:
        return Kind("text")
    if {text.lower() for text in values} <= {"true", "false"}:
        return Kind("boolean", "CASE lower({x}) WHEN 'true' THEN true WHEN 'false' THEN false END")
    seen = dates.evidence(values)
    if seen.count and _convinces(seen.count, total, [v for v in values if dates.form_of(v) is None]):
        return _dates(seen, hint)
    found = numbers(values)
    if found.count and _convinces(found.count, total, [v for v in values if not _is_number(v)]):
        return _compact(values) or _numbers(values, found, hint)
    return Kind("text")


def _is_number(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in (*_NUMBER.values(), _EXPONENT, _CODE))


def _convinces(count: int, total: int, rest: list[str]) -> bool:
    words_only = not any(c.isdigit() for text in rest for c in text)
    return count >= (ENOUGH if words_only else NEARLY_ALL) * total


def _dates(seen: dates.Evidence, hint: Hints) -> Kind:
    day_first = hint.day_first
    if day_first is None:
        day_first = hint.decimal == "comma" or hint.separator == ";"
    sql, notes = dates.conversion(seen, default_day_first=day_first)
    return Kind("datetime" if seen.timed else "date", sql, tuple(notes))


def _compact(values: Mapping[str, int]) -> Kind | None:
    if len(values) < 5 or not all(_COMPACT_DATE.fullmatch(text) for text in values):
        return None
    note = f"numbers such as {next(iter(values))} were read as dates (YYYYMMDD)"
    return Kind("date", "CAST(try_strptime({x}, '%Y%m%d') AS DATE)", (note,))


def _numbers(values: Mapping[str, int], found: Numbers, hint: Hints) -> Kind:
    if found.codes:
        return Kind("text")
    if len(found.currencies) > 1:
        listed = ", ".join(sorted(found.currencies))
        return Kind("text", notes=(f"mixes currencies ({listed}): left as text, do not add them up",))
    styles, assumed = _styles(found, hint)
    whole = all(_is_whole(text, styles) for text in values)
    notes = [*assumed, *_units(found)]
    kind: Type = "integer" if whole else "number"
    if found.plain == found.count and styles[0] == "point":
        return Kind(kind, _plain_sql(whole), tuple(notes))
    return Kind(kind, _written_sql(styles, whole), tuple(notes))


def _styles(found: Numbers, hint: Hints) -> tuple[list[Style], list[str]]:
    if found.only:
        ranked = [style for style, _ in found.only.most_common()]
        return ranked, ["mixes 1,234.56 and 1.234,56"] if len(ranked) > 1 else []
    if not found.unclear:
        return ["point"], []
    text = next(iter(found.unclear))
    style: Style = hint.decimal or ("comma" if hint.separator == ";" else "point")
    mark = "." if style == "point" else ","
    meaning = f"with decimal {mark}" if mark in text else "as thousands"
    return [style], [f'"{text}" was read {meaning}' + ("" if hint.decimal else " (assumed: nothing in the file tells)")]


def _is_whole(text: str, styles: Sequence[Style]) -> bool:
    for style in styles:
        if _NUMBER[style].fullmatch(text):
            return ("." if style == "point" else ",") not in text
    return not _is_number(text)


def _units(found: Numbers) -> list[str]:
    notes = []
    if found.percent:
        some = "" if found.percent == found.count else ", though not all values carry one"
        notes.append(f"percent signs removed: 12.5 means 12.5 %{some}")
    if found.currencies:
        notes.append(f"amounts are in {next(iter(found.currencies))}")
    return notes


def _plain_sql(whole: bool) -> str:
    if whole:
        return f"CASE WHEN regexp_full_match({{x}}, '{PLAIN_INTEGER}') THEN CAST({{x}} AS BIGINT) END"
    return f"CASE WHEN regexp_full_match({{x}}, '{PLAIN_NUMBER}') THEN TRY_CAST({{x}} AS DOUBLE) END"


def _written_sql(styles: Sequence[Style], whole: bool) -> str:
    cases = " ".join(_case(style, whole) for style in styles)
    signed = f"(CASE WHEN regexp_matches({{x}}, '{MINUS}') THEN -1 ELSE 1 END) * CASE {cases} END"
    if whole:
        return signed
    return f"CASE WHEN regexp_full_match({{x}}, '{EXPONENT}') THEN TRY_CAST({{x}} AS DOUBLE) ELSE {signed} END"


def _case(style: Style, whole: bool) -> str:
    mark = "." if style == "point" else ","
    guard = "regexp_full_match({x}, '" + PATTERN[style].replace("'", "''") + "')"
    if whole:
        digits = "regexp_replace({x}, '[^0-9]', '', 'g')"
        return f"WHEN {guard} AND NOT contains({{x}}, '{mark}') THEN TRY_CAST({digits} AS BIGINT)"
    digits = f"replace(regexp_replace({{x}}, '[^0-9{mark}]', '', 'g'), ',', '.')"
    return f"WHEN {guard} THEN TRY_CAST({digits} AS DOUBLE)"
