"""Figures: reads what the analysis computed and puts it where the answer names it."""

import json
import re
from dataclasses import dataclass

from mailagent.core.plain import one_line

MAX_FACTS = 1000
MAX_LINE = 4096
MAX_STRING = 200

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
# Anything in double braces claims to be a figure; what is not one is named, never passed over.
_PLACEHOLDER = re.compile(r"\{\{([^{}\n]{1,200})\}\}")
# No fill, no width, two digits of precision: a spec can shape a number, never flood a mail.
_SPEC = re.compile(r"(?P<sign>[+ -]?)(?P<comma>,?)(?P<precision>(?:\.[0-9]{1,2})?)(?P<type>[dfeg%]?)")
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


@dataclass(frozen=True, slots=True)
class Fact:
    """One computed figure: its value in full precision, its unit, and the line of the script that made it."""

    id: str
    value: int | float | str
    unit: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Filled:
    """The answer with its figures in place, and the placeholders for which there was none."""

    text: str
    unresolved: tuple[str, ...]


def read_facts(lines: bytes) -> tuple[Fact, ...]:
    """The facts of a facts.jsonl, each id once, the last line winning (a script that ran twice appends).

    Never raises: what is not a fact is left out here and told by `fact_faults`.
    """
    facts = {fact.id: fact for fact in map(_read, _lines(lines)[:MAX_FACTS]) if isinstance(fact, Fact)}
    return tuple(facts.values())


def fact_faults(lines: bytes) -> tuple[str, ...]:
    """Why lines of a facts.jsonl are no facts, in plain words; empty when all are."""
    numbered = [(number, _read(line)) for number, line in enumerate(_lines(lines)[:MAX_FACTS], 1)]
    faults = [f"line {number}: {fact}" for number, fact in numbered if isinstance(fact, str)]
    if len(_lines(lines)) > MAX_FACTS:
        faults.append(f"more than {MAX_FACTS} facts")
    return tuple(faults)


def fill(answer: str, facts: tuple[Fact, ...]) -> Filled:
    """Put figures into the Markdown `answer`: `{{id}}`, or `{{id|,.1f}}` with a format.

    A format is [sign][,][.precision][d f e g %], two decimals unless it says so; any other gives way to the default:
    thousands separators, and for fractions two decimals (three digits below 1). Text goes in as it is, escaped so
    that it stays text. The unit is not added: the answer's own words say it.
    """
    known = {fact.id: fact.value for fact in facts}
    missing: dict[str, None] = {}

    def figure(match: re.Match[str]) -> str:
        name, _, spec = match[1].partition("|")
        value = known.get(name.strip())
        if value is None:
            missing[one_line(name, MAX_STRING)] = None
            return rf"\[no figure: {_escaped(name)}\]"
        return _escaped(value) if isinstance(value, str) else format_number(value, spec.strip())

    return Filled(_PLACEHOLDER.sub(figure, answer), tuple(missing))


def format_number(value: int | float, spec: str = "") -> str:
    """The number as readers see it; `spec` as in `fill`."""
    wanted = _SPEC.fullmatch(spec)
    if not spec or wanted is None:
        return _default(value)
    sign, comma, precision, kind = wanted.groups()
    if isinstance(value, int) and kind in ("", "d") and not precision:
        return format(value, f"{sign}{comma}d")
    if kind == "d":
        precision, kind = ".0", "f"
    # "z": a rounded -0.001 is 0.0, not -0.0 (PEP 682).
    return format(value, f"{sign}z{comma}{precision or '.2'}{kind or 'f'}")


def _default(value: int | float) -> str:
    if isinstance(value, int):
        return format(value, ",")
    if abs(value) >= 1e15 or 0 < abs(value) < 1:
        return format(value, ".3g")
    return format(value, "z,.0f" if value.is_integer() else ",.2f")


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data[: (MAX_FACTS + 1) * MAX_LINE].split(b"\n") if line.strip()]


def _read(line: bytes) -> Fact | str:
    """The fact in a line, or why there is none."""
    if len(line) > MAX_LINE:
        return f"longer than {MAX_LINE} bytes"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not _ID.fullmatch(entry["id"]):
        return "no id of letters, digits, '_', '.' and '-'"
    value = _value(entry.get("value"))
    if value is None:
        return f"{entry['id']} is neither a finite number nor a short text"
    return Fact(
        entry["id"],
        value,
        one_line(str(entry.get("unit", "")), MAX_STRING),
        one_line(str(entry.get("code", "")), MAX_STRING),
    )


def _value(value: object) -> int | float | str | None:
    match value:
        case bool():
            return None
        case int() | float():
            # Whatever is below (a NaN is not) can be shown in any format without an OverflowError.
            return value if abs(value) < 1e300 else None
        case str() if len(value) <= MAX_STRING:
            return one_line(value, MAX_STRING)
        case _:
            return None


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is (CommonMark 2.4: any ASCII punctuation may be escaped)."""
    return _PUNCTUATION.sub(r"\\\1", one_line(text, MAX_STRING))
