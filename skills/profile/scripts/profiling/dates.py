"""Recognises the ways in which a column writes dates, and says as SQL how to read all of them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

CLOCK = "[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.][0-9]{1,6})?)?(?: ?[AaPp][Mm])?"
TIME = f"(?:(?:T|,? +)({CLOCK})( ?(?:Z|UTC|[+-][0-9]{{2}}:?[0-9]{{2}}))?)?"
MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
ISO = "YYYY-MM-DD"

FORMS: dict[str, str] = {
    ISO: "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}",
    "YYYY/MM/DD": "[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}",
    "YYYY.MM.DD": "[0-9]{4}[.][0-9]{1,2}[.][0-9]{1,2}",
    "DD.MM.YYYY": "[0-9]{1,2}[.][0-9]{1,2}[.][0-9]{4}",
    "DD.MM.YY": "[0-9]{1,2}[.][0-9]{1,2}[.][0-9]{2}",
    "a/b/YYYY": "([0-9]{1,2})/([0-9]{1,2})/[0-9]{4}",
    "a/b/YY": "([0-9]{1,2})/([0-9]{1,2})/[0-9]{2}",
    "a-b-YYYY": "([0-9]{1,2})-([0-9]{1,2})-[0-9]{4}",
    "a-b-YY": "([0-9]{1,2})-([0-9]{1,2})-[0-9]{2}",
    "D Month YYYY": f"(?i:[0-9]{{1,2}}[. -]+{MONTH}[. -]+[0-9]{{4}})",
    "D Month YY": f"(?i:[0-9]{{1,2}}[. -]+{MONTH}[. -]+[0-9]{{2}})",
    "Month D, YYYY": f"(?i:{MONTH}[.]? +[0-9]{{1,2}},? +[0-9]{{4}})",
}
"""How dates are written; a and b are day and month in the order that the column or the file shows."""

_FORMS = {name: re.compile(f"({pattern}){TIME}") for name, pattern in FORMS.items()}
_ORDERED = {name: re.compile(pattern) for name, pattern in FORMS.items() if name.startswith("a")}
_LIKELY = re.compile(
    r"[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]|[0-9]{1,2}[. -]+[A-Za-z]{3}|[A-Za-z]{3,9}[.]? +[0-9]{1,2},? +[0-9]{4}"
)


@dataclass(slots=True)
class Evidence:
    """How often each form occurs in a column, and what tells the order of day and month."""

    forms: Counter[str] = field(default_factory=Counter)
    day_first: int = 0
    month_first: int = 0
    timed: bool = False
    half_days: bool = False
    offsets: bool = False
    example: str = ""
    """A text that is a date either way round."""

    @property
    def count(self) -> int:
        """How many texts are dates."""
        return sum(self.forms.values())

    @property
    def dotted(self) -> int:
        """How many are in the dotted form, which is always day first."""
        return self.forms["DD.MM.YYYY"] + self.forms["DD.MM.YY"]


def form_of(text: str) -> str | None:
    """The name of the form in which this text is a date, None when it is none."""
    if not _LIKELY.match(text):
        return None
    return next((name for name, pattern in _FORMS.items() if pattern.fullmatch(text)), None)


def evidence(values: Mapping[str, int]) -> Evidence:
    """What these texts (with how often each occurs) show of the column's dates."""
    seen = Evidence()
    for text, times in values.items():
        if form := form_of(text):
            seen.forms[form] += times
            _look(text, form, times, seen)
    return seen


def _look(text: str, form: str, times: int, seen: Evidence) -> None:
    match = _FORMS[form].fullmatch(text)
    assert match
    *_, clock, offset = match.groups()
    seen.timed |= clock is not None
    seen.half_days |= clock is not None and clock[-1] in "mM"
    seen.offsets |= offset is not None
    if form not in _ORDERED:
        return
    first, second = int(match[2]), int(match[3])
    if first > 12 >= second:
        seen.day_first += times
    elif second > 12 >= first:
        seen.month_first += times
    elif first != second:
        seen.example = seen.example or match[1]


def conversion(seen: Evidence, default_day_first: bool) -> tuple[str, list[str]]:
    """SQL that reads text `{x}` as a date (or timestamp), NULL where it is none, and what was assumed."""
    ordered = any(form in _ORDERED for form in seen.forms)
    day_first = seen.day_first > seen.month_first
    decided = seen.day_first != seen.month_first
    if not decided:
        day_first = seen.dotted > 0 or default_day_first
    formats = _formats(seen, day_first)
    notes = _notes(seen, day_first, decided) if ordered or len(seen.forms) > 1 or seen.offsets else []
    return _sql(seen, formats), notes


def _formats(seen: Evidence, day_first: bool) -> list[str]:
    orders = ["dm"] if day_first else ["md"]
    if seen.day_first and seen.month_first:
        orders.append("md" if day_first else "dm")
    found = [name for name in seen.forms if name != ISO]
    # %y goes first: it refuses a four-digit year, while %Y takes "25" for the year 25.
    found.sort(key=lambda name: (not name.endswith("YY") or name.endswith("YYYY"), name))
    return [pattern for name in found for pattern in _strptime(name, orders)]


def _strptime(name: str, orders: list[str]) -> list[str]:
    if "Month" in name:
        year = "%Y" if name.endswith("YYYY") else "%y"
        days = ("%d %b", "%d %B") if name.startswith("D") else ("%b %d", "%B %d")
        return [f"{day} {year}" for day in days]
    if name.startswith("a"):
        sign, year = name[1], "%Y" if name.endswith("YYYY") else "%y"
        return [sign.join((f"%{order[0]}", f"%{order[1]}", year)) for order in orders]
    return [name.replace("YYYY", "%Y").replace("YY", "%y").replace("MM", "%m").replace("DD", "%d")]


def _sql(seen: Evidence, formats: list[str]) -> str:
    value = _other(seen, formats) if formats else "NULL"
    if ISO in seen.forms:
        value = f"CASE WHEN regexp_matches({{x}}, '^{FORMS[ISO]}') THEN {_iso(seen)} ELSE {value} END"
    checked = f"CASE WHEN year({value}) BETWEEN 1000 AND 9999 THEN {value} END"
    return checked if seen.timed else f"CAST({checked} AS DATE)"


def _other(seen: Evidence, formats: list[str]) -> str:
    listed = ", ".join(f"'{day}{clock}'" for day in formats for clock in _clocks(seen))
    text = "regexp_replace({x}, '[, ]+', ' ', 'g')"
    if any("%b" in pattern for pattern in formats):
        spaced = "regexp_replace({x}, '[-., ]+', ' ', 'g')"
        text = f"CASE WHEN regexp_matches({{x}}, '[A-Za-z]{{3}}') THEN {spaced} ELSE {text} END"
    return f"try_strptime({text}, [{listed}])"


def _iso(seen: Evidence) -> str:
    if not seen.half_days:
        return "TRY_CAST({x} AS TIMESTAMP)"
    clocks = ", ".join(f"'%Y-%m-%d{clock}'" for clock in _clocks(seen))
    return f"coalesce(TRY_CAST({{x}} AS TIMESTAMP), try_strptime({{x}}, [{clocks}]))"


def _clocks(seen: Evidence) -> list[str]:
    if not seen.timed:
        return [""]
    clocks = ["", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f"]
    return [*clocks, " %I:%M %p", " %I:%M:%S %p", " %I:%M%p", " %I:%M:%S%p"] if seen.half_days else clocks


def _notes(seen: Evidence, day_first: bool, decided: bool) -> list[str]:
    order = ("DD", "MM") if day_first else ("MM", "DD")
    names = [name.replace("a", order[0]).replace("b", order[1]) if name in _ORDERED else name for name in seen.forms]
    notes = []
    if len(names) > 1:
        notes.append(f"mixes {len(names)} formats ({', '.join(names)})")
    if seen.day_first and seen.month_first:
        notes.append(f"has both orders of day and month: where both are possible, {'/'.join(order)} was read")
    if seen.example and not decided:
        why = "as the dotted ones" if seen.dotted else "no value in the column tells"
        notes.append(f'"{seen.example}" was read as {"/".join(order)} (assumed: {why})')
    elif seen.example and len(names) == 1:
        notes.append(f"dates are {names[0]}")
    if seen.offsets:
        notes.append("UTC offsets were left out: times are as written")
    return notes
