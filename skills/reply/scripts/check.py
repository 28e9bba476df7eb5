#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Checks an answer in out/ before it is handed over.

Files that answer.md names exist and open, every placeholder has its fact, analysis.py compiles, nothing is too large.
Prints {"ok": bool, "faults": [text, …], "warnings": [text, …]}. Exit codes: 0 no faults, 1 faults, 2 wrong arguments.
"""

import argparse
import csv
import json
import math
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

MAX_FILES = 50
MAX_BYTES = 20_000_000
MAX_TEXT = 200
MAX_LISTED = 30

LINK = re.compile(r"(!?)\[((?:[^\[\]\\]|\\.)*)\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
PLACEHOLDER = re.compile(r"\{\{([^{}\n]{1,200})\}\}")
ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
FORMAT = re.compile(r"[+ -]?,?(?:\.[0-9]{1,2})?[dfeg%]?")
NUMBER = re.compile(r"(?<![\w.,/-])[$€£]?\d[\d.,]*(?: ?%)?(?![\w/-])")
YEAR_OR_DATE = re.compile(r"(?:19|20)\d\d|\d{1,2}\.\d{1,2}\.(?:\d\d)?\d\d")

Facts = dict[str, int | float | str]


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder to check (default: out)")
    out = parser.parse_args().out
    if not out.is_dir():
        parser.error(f"{out} is no folder: run this from the workspace")
    faults, warnings = check(out)
    shown = [*faults[:MAX_LISTED], *([f"and {len(faults) - MAX_LISTED} more"] if len(faults) > MAX_LISTED else [])]
    print(json.dumps({"ok": not faults, "faults": shown, "warnings": warnings[:MAX_LISTED]}))
    return 1 if faults else 0


def check(out: Path) -> tuple[list[str], list[str]]:
    """What is wrong with the answer in `out`, and what looks doubtful."""
    facts: Facts = {}
    faults = [*_script(out / "analysis.py"), *_facts(out / "facts.jsonl", facts), *_files(out)]
    path = out / "answer.md"
    try:
        answer = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return [*faults, "answer.md is missing or not UTF-8"], []
    if not answer.strip():
        faults.append("answer.md is empty")
    faults += [*_placeholders(answer, facts), *_links(answer, out)]
    return faults, list(_typed(answer))


def _script(path: Path) -> Iterator[str]:
    try:
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except OSError:
        yield "analysis.py is missing: one script makes everything in out/"
    except (SyntaxError, ValueError) as error:
        yield f"analysis.py is no valid Python: {error}"


def _facts(path: Path, facts: Facts) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        yield "facts.jsonl is missing or not UTF-8"
        return
    for number, line in enumerate(lines, 1):
        if line.strip() and (fault := _fact(line, facts)):
            yield f"facts.jsonl line {number}: {fault}"


def _fact(line: str, facts: Facts) -> str:
    try:
        fact = json.loads(line)
    except ValueError:
        return "is not JSON"
    if not isinstance(fact, dict) or not isinstance(fact.get("id"), str) or not ID.fullmatch(fact["id"]):
        return "has no id of letters, digits, '_', '.' and '-' that starts with a letter"
    value = fact.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return f"the value of {fact['id']} is neither a number nor a text"
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"the value of {fact['id']} is longer than {MAX_TEXT} characters"
    if isinstance(value, float) and not math.isfinite(value):
        return f"the value of {fact['id']} is not finite: say in words that there is none"
    if not fact.get("code"):
        return f"{fact['id']} has no code: name the line that computes it"
    facts[fact["id"]] = value
    return ""


def _files(out: Path) -> Iterator[str]:
    files = [path for path in out.rglob("*") if not path.is_dir()]
    for path in files:
        if path.is_symlink():
            yield f"{path.relative_to(out)} is a link: write the file itself"
    if len(files) > MAX_FILES:
        yield f"out/ holds {len(files)} files; {MAX_FILES} may go along"
    size = sum(path.stat().st_size for path in files if path.is_file())
    if size > MAX_BYTES:
        yield f"out/ holds {size // 1_000_000} MB; {MAX_BYTES // 1_000_000} MB may go along"


def _placeholders(answer: str, facts: Facts) -> Iterator[str]:
    for match in PLACEHOLDER.finditer(answer):
        name, bar, wanted = (part.strip() for part in match[1].partition("|"))
        if name not in facts:
            yield f"{{{{{name}}}}} has no fact in facts.jsonl"
        elif bar and (not FORMAT.fullmatch(wanted) or isinstance(facts[name], str)):
            yield f"{{{{{match[1]}}}}} has a format that does not fit its value"
    if re.search(r"(?<!\{)\{[A-Za-z_][\w.-]*\}(?!\})", answer):
        yield "answer.md has {name} in single braces: a figure is {{name}} (an f-string halves the braces)"


def _links(answer: str, out: Path) -> Iterator[str]:
    for match in LINK.finditer(answer):
        picture, text, target = match.groups()
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            if picture:
                yield f"{target} is not in out/: pictures from elsewhere are not shown"
            continue
        path = out / unquote(parts.path)
        if not path.resolve().is_relative_to(out.resolve()) or not path.is_file():
            yield f"{parts.path} does not exist in out/"
        elif picture:
            yield from _chart(path, text, parts.path)
        elif path.suffix == ".csv":
            yield from _table(path, parts.path)


def _chart(path: Path, text: str, name: str) -> Iterator[str]:
    if len(text.split()) < 3:
        yield f"{name} has no alternative text that says what it shows"
    if fault := png_fault(path.read_bytes()):
        yield f"{name} is no good picture: {fault}"


def png_fault(data: bytes) -> str:
    """Why these bytes are no complete PNG (ISO/IEC 15948, clauses 5 and 10), "" when they are one."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "it is not a PNG"
    at, packed, last = 8, b"", b""
    while at + 12 <= len(data) and last != b"IEND":
        length, last = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        checksum = data[at + 8 + length : at + 12 + length]
        if len(checksum) < 4:
            return "it is cut off"
        if checksum != struct.pack(">I", zlib.crc32(last + body)):
            return "it is damaged"
        packed += body if last == b"IDAT" else b""
        at += 12 + length
    try:
        pixels = zlib.decompressobj()
        pixels.decompress(packed, 1 << 28)
    except zlib.error:
        return "its pixels cannot be unpacked"
    return "" if last == b"IEND" and pixels.eof else "it is cut off"


def _table(path: Path, name: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error):
        yield f"{name} is not CSV in UTF-8"
        return
    if len(rows) < 2:
        yield f"{name} has no rows"
    elif any(len(row) != len(rows[0]) for row in rows if row):
        yield f"{name} has rows of different lengths"


def _typed(answer: str) -> Iterator[str]:
    # Dates, years, ordinals and small counts are often the reader's own words; larger or finer numbers rarely are.
    for number, line in enumerate(answer.splitlines(), 1):
        text = re.sub(r"`[^`]*`", " ", LINK.sub(r" \2 ", PLACEHOLDER.sub(" ", line)))
        for match in NUMBER.finditer(re.sub(r"^\s*\d+[.)]\s", " ", text)):
            digits = re.sub(r"\D", "", match[0])
            plain = match[0].rstrip(".,")
            if not YEAR_OR_DATE.fullmatch(plain) and (len(digits) > 2 or "%" in plain or re.search(r"\d[.,]\d", plain)):
                yield f'line {number}: "{plain}" looks typed: make it a fact'


if __name__ == "__main__":
    sys.exit(main())
