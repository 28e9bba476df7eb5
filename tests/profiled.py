"""A workspace in which the profile script has run, as in the sandbox; and what it left there."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pyarrow import parquet

ROOT = Path(__file__).parents[1]
ANALYSIS = ROOT / ".analysis" / "bin" / "python"
SCRIPT = ROOT / "skills" / "profile" / "scripts" / "profile_tables.py"


def python(place: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python of the analysis environment, isolated; fails, never skips, when it is not there."""
    assert ANALYSIS.exists(), f"{ANALYSIS} is missing: run make setup"
    command = [str(ANALYSIS), "-I", *map(str, arguments)]
    variables = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **environment}
    return subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, timeout=100, check=False)


@dataclass(frozen=True)
class Profiled:
    """A workspace after the profile script ran in it."""

    place: Path
    said: Mapping[str, Any]

    @property
    def text(self) -> str:
        return (self.place / "work" / "profile.md").read_text(encoding="utf-8")

    def section(self, name: str) -> str:
        parts = re.split(r"\n(?=## Table \d+: )", "\n" + self.text)
        return next(part for part in parts if re.match(rf"## Table \d+: {name}\n", part))

    def table(self, name: str) -> Mapping[str, Any]:
        files = json.loads((self.place / "work" / "manifest.json").read_text(encoding="utf-8"))["files"]
        found: Mapping[str, Any] = next(t for entry in files for t in entry["tables"] if t["name"] == name)
        return found

    def types(self, name: str) -> dict[str, str]:
        return dict(zip(self.table(name)["names"], self.table(name)["types"], strict=True))

    def values(self, name: str, column: str) -> list[Any]:
        read = parquet.read_table(self.place / "work" / "tables" / f"{name}.parquet")
        values: list[Any] = read.column(column).to_pylist()
        return values

    def reason(self, file: str) -> str:
        return next(str(u["reason"]) for u in self.said["unreadable"] if u["file"] == file)


def profiled(place: Path) -> Profiled:
    done = python(place, SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return Profiled(place, json.loads(done.stdout))


def workspace(place: Path, files: Mapping[str, bytes | str]) -> Path:
    (place / "in").mkdir(parents=True)
    for name, data in files.items():
        (place / "in" / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return place


def german(amount: Decimal) -> str:
    """The amount as a German writes it: 1.234,50."""
    return f"{amount:,.2f}".translate(str.maketrans(",.", ".,"))
