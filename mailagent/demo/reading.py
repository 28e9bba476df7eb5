"""What the stand-in model can read of a prompt: the mail, where to work, and the tables that the profile tells of."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

Meaning = TypeVar("Meaning")

NUMBERS = ("integer", "number")
DATES = ("date", "datetime")
WORDS = ("text", "boolean")

_FENCED = re.compile(r"<(mail|quoted|profile)>\n?(.*?)\n?</\1>", re.DOTALL)
_PIPE = re.compile(r"(?<!\\)\|")
_VALUE = re.compile(r"(.+?) \d+(?:, |$)")
_SPAN = re.compile(r"(\d{4}-\d\d-\d\d)\S*(?: [\d:.]+)? \.\. (\d{4}-\d\d-\d\d)")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SIGNATURE = re.compile(r"^-- ?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Column:
    """One line of a profile's table of columns."""

    name: str
    kind: str
    nulls: int
    distinct: int
    summary: str
    looked_up: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        """The values that were looked up, else those that the summary names; none for numbers and dates."""
        listed = _VALUE.findall(self.summary.replace("…, rarest ", "")) if self.kind in WORDS else []
        return self.looked_up or tuple(value for value in listed if not value.endswith("…"))

    @property
    def span(self) -> tuple[date, date] | None:
        """The first and the last day, None when this is no date or the summary does not say."""
        found = _SPAN.search(self.summary) if self.kind in DATES else None
        try:
            return (date.fromisoformat(found[1]), date.fromisoformat(found[2])) if found else None
        except ValueError:
            return None

    @property
    def largest(self) -> float:
        """The greatest magnitude that the summary of a number tells, 0.0 when it does not."""
        return max(
            (abs(float(n)) for n in re.findall(r"\bm(?:in|ax) (-?\d[\d.]*(?:e[+-]?\d+)?)", self.summary)), default=0.0
        )


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the profile: where it lies, its columns, and what was noted when it was read."""

    name: str
    parquet: str
    rows: int
    copies: int
    columns: tuple[Column, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    keys: tuple[str, ...]

    def of(self, *kinds: str) -> tuple[Column, ...]:
        """The columns of these kinds that hold more than one value."""
        return tuple(c for c in self.columns if c.kind in kinds and c.distinct > 1)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt of the daemon: the mail's subject and words, the number of its turn, the directory, the tables."""

    subject: str
    text: str
    turn: int
    workspace: str
    tables: tuple[Table, ...]


def read(prompt: str) -> Request | None:
    """The prompt taken apart; None when it holds no mail."""
    fenced: dict[str, str] = {}
    for name, text in _FENCED.findall(prompt):
        fenced.setdefault(name, text)
    if "mail" not in fenced:
        return None
    frame = _FENCED.sub("", prompt)
    turn = re.search(r"^Turn: (\d+)$", frame, re.MULTILINE)
    workspace = re.search(r"^Workspace: (/.*?)/?$", frame, re.MULTILINE)
    head, _, text = fenced["mail"].partition("\n\n")
    return Request(
        subject=head.removeprefix("Subject:").strip(),
        text=_SIGNATURE.split(text)[0].strip(),
        turn=int(turn[1]) if turn else 0,
        workspace=workspace[1] if workspace else "",
        tables=tables(fenced.get("profile", "")),
    )


def tables(profile: str) -> tuple[Table, ...]:
    """The tables of a profile that were read and have columns."""
    sections = re.split(r"^## Table \d+: ", profile, flags=re.MULTILINE)[1:]
    return tuple(table for table in map(_table, sections) if table.parquet and table.columns)


def _table(section: str) -> Table:
    lines = section.splitlines()
    said = [line.removeprefix("- ").partition(": ")[::2] for line in lines if line.startswith("- ")]
    counts = next((line for line in lines if line.startswith("- rows: ")), "")
    return Table(
        name=lines[0].strip() if lines else "",
        parquet=next((text.strip() for name, text in said if name == "parquet"), ""),
        rows=_count(r"rows: (\d+)", counts),
        copies=_count(r"duplicate rows: (\d+)", counts),
        columns=tuple(c for c in map(_column, lines) if c),
        dropped=tuple(text for name, text in said if name == "dropped"),
        notes=tuple(text for name, text in said if name == "note"),
        keys=tuple(key for name, text in said if name == "candidate keys" for key in text.split(", ")),
    )


def _column(line: str) -> Column | None:
    cells = [cell.replace(r"\|", "|").strip() for cell in _PIPE.split(line)[1:-1]]
    if len(cells) != 5 or not cells[2].isdigit() or not cells[3].isdigit():
        return None
    return Column(cells[0], cells[1], int(cells[2]), int(cells[3]), cells[4])


def _count(pattern: str, text: str) -> int:
    found = re.search(rf"\b{pattern}", text)
    return int(found[1]) if found else 0


def spoken(text: str) -> str:
    """The text as lower-case words without plural endings, one space around each: " which region sold most "."""
    words = re.findall(r"[^\W_]+", _CAMEL.sub(" ", text))
    return " ".join(["", *(_singular(word.casefold()) for word in words), ""])


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def find(phrases: Sequence[tuple[str, Meaning]], text: str) -> list[tuple[int, Meaning]]:
    """What the spoken text says, as (position, meaning) in order: of spoken phrases and their meanings, those whose
    words it holds; a long phrase hides a shorter one inside it."""
    found: dict[Meaning, int] = {}
    taken: set[int] = set()
    for phrase, meaning in sorted(phrases, key=lambda each: -len(each[0])):
        start = text.find(phrase) if phrase.strip() else -1
        letters = set(range(start + 1, start + len(phrase) - 1))
        if start >= 0 and not letters & taken and meaning not in found:
            found[meaning] = start
            taken |= letters
    return sorted(((start, meaning) for meaning, start in found.items()), key=lambda each: each[0])
