#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["duckdb>=1.5,<2", "python-calamine", "charset-normalizer"]
# ///
"""Reads every file in in/ into work/tables/*.parquet and says in work/profile.md what is in them.

Prints one line of JSON: {"tables": [name, …], "unreadable": [{"file": name, "reason": text}, …]}. Files that have not
changed since the last run are not read again. Exit codes: 0 done (even if no file could be read), 2 wrong arguments,
3 a Python package is missing.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from profiling import UnreadableError
from profiling.section import clean, section

VERSION = 1
"""Raised when the same file would be read differently; older manifests are then read anew."""
FILE_SECONDS = 240
MEMORY_BYTES = 6 << 30
MAX_TABLES = 40
PACKAGES = {"duckdb": "duckdb<2", "python_calamine": "python-calamine"}

Entry = dict[str, Any]
ENTRY_KEYS = {"file", "sha256", "bytes", "tables", "unreadable"}


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="given", type=Path, default=Path("in"), help="the files (default: in)")
    parser.add_argument("--work", type=Path, default=Path("work"), help="where the results go (default: work)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    missing = [pip for name, pip in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        quoted = " ".join(f"'{name}'" for name in missing)
        print(f"missing Python packages; install them with: python3 -m pip install {quoted}", file=sys.stderr)
        return 3
    if arguments.one:
        return read_one(arguments.one, arguments.work)
    print(json.dumps(profile(arguments.given, arguments.work)))
    return 0


def profile(given: Path, work: Path) -> Entry:
    """Bring work/ in line with the files in `given`; returns what is printed."""
    tables = work / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in given.rglob("*") if p.is_file() and not p.is_symlink() and not p.name.startswith("."))
    known = _manifest(work)
    with ThreadPoolExecutor(2) as pool:
        entries = list(pool.map(lambda path: _entry(path, given, work, known), files))
    order = list(known)
    entries.sort(key=lambda entry: order.index(entry["file"]) if entry["file"] in known else len(order))
    _name(entries, tables)
    _forget(known, entries, tables)
    _write(work / "manifest.json", json.dumps({"version": VERSION, "files": entries}, ensure_ascii=False, indent=1))
    _write(work / "profile.md", _profile(entries, given, tables))
    return {
        "tables": [table["name"] for entry in entries for table in entry["tables"]],
        "unreadable": [
            {"file": entry["file"], "reason": entry["unreadable"]} for entry in entries if entry["unreadable"]
        ],
    }


def _manifest(work: Path) -> dict[str, Entry]:
    # work/ is a scratch folder: whatever has become of the manifest there, the files can be read again.
    try:
        manifest = json.loads((work / "manifest.json").read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            return {}
        known = {entry["file"]: entry for entry in manifest["files"]}
        _profile(list(known.values()), Path("in"), Path("tables"))
        complete = all(set(e) == ENTRY_KEYS and len(e["tables"]) <= MAX_TABLES for e in known.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError):
        return {}
    return known if complete else {}


def _entry(path: Path, given: Path, work: Path, known: dict[str, Entry]) -> Entry:
    name = path.relative_to(given).as_posix()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    old = known.get(name)
    if old and old["sha256"] == digest and all((work / "tables" / t["file"]).is_file() for t in old["tables"]):
        return old
    entry = {"file": name, "sha256": digest, "bytes": path.stat().st_size, "tables": [], "unreadable": ""}
    return entry | _read(path, work)


def _read(path: Path, work: Path) -> Entry:
    # In a process of its own: whatever a file does to a parser, the other files are still read.
    scratch = Path(tempfile.mkdtemp(prefix=".reading-", dir=work))
    flags = ["-I"] if sys.flags.isolated else []
    command = [sys.executable, *flags, str(Path(__file__).resolve()), "--one", str(path), "--work", str(scratch)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FILE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"unreadable": "takes too long to read", "scratch": str(scratch)}
    if done.returncode:
        print(f"{path.name}: exit {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}", file=sys.stderr)
        return {"unreadable": "could not be read: it is damaged or too large", "scratch": str(scratch)}
    answer: Entry = json.loads(done.stdout)
    return answer | {"scratch": str(scratch)}


def read_one(path: Path, scratch: Path) -> int:
    """Read one file into scratch/0.parquet, …; prints its descriptions or why there are none. Returns the exit code."""
    _limit_memory()
    from profiling.reading import read_file

    try:
        answer: Entry = {"tables": read_file(path, scratch, MAX_TABLES)}
    except UnreadableError as error:
        answer = {"unreadable": str(error)}
    print(json.dumps(answer))
    return 0


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (MEMORY_BYTES, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))


def _name(entries: list[Entry], tables: Path) -> None:
    # Names that were given stay; new tables get the file's name, and the sheet's where there are several.
    taken = {table["name"] for entry in entries if "scratch" not in entry for table in entry["tables"]}
    for entry in entries:
        scratch = entry.pop("scratch", None)
        if scratch is None:
            continue
        stem = Path(entry["file"]).stem
        for number, table in enumerate(entry["tables"]):
            several = len(entry["tables"]) > 1 and table["sheet"]
            table["name"] = _unique(_safe(f"{stem} {table['sheet']}" if several else stem), taken)
            table["file"] = f"{table['name']}.parquet"
            os.replace(Path(scratch) / f"{number}.parquet", tables / table["file"])
        shutil.rmtree(scratch, ignore_errors=True)


def _safe(text: str) -> str:
    for umlaut, letters in {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}.items():
        text = text.replace(umlaut, letters).replace(umlaut.upper(), letters)
    ascii_ = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub("[^a-z0-9]+", "_", ascii_).strip("_")[:40].strip("_")
    return f"t_{name}" if name[:1].isdigit() else name or "table"


def _unique(name: str, taken: set[str]) -> str:
    chosen, again = name, 2
    while chosen in taken:
        chosen, again = f"{name}_{again}", again + 1
    taken.add(chosen)
    return chosen


def _forget(known: dict[str, Entry], entries: list[Entry], tables: Path) -> None:
    wanted = {table["file"] for entry in entries for table in entry["tables"]}
    for name in {table["file"] for entry in known.values() for table in entry["tables"]} - wanted:
        (tables / Path(name).name).unlink(missing_ok=True)


def _profile(entries: list[Entry], given: Path, tables: Path) -> str:
    parts: list[str] = []
    refused: list[str] = []
    for entry in entries:
        source = f"{given.as_posix()}/{entry['file']}"
        for table in entry["tables"]:
            parquet = f"{tables.as_posix()}/{table['file']}"
            parts.append(section(len(parts) + 1, table["name"], source, parquet, table))
        if entry["unreadable"]:
            refused.append(f"- unreadable: {clean(source, 120)} ({entry['unreadable']})\n")
    return "\n".join([*parts, "".join(refused)] if refused else parts)


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


if __name__ == "__main__":
    sys.exit(main())
