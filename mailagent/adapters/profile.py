"""What the profile script found out, read as hostile: code of an earlier turn may have had a hand in it."""

import json
from pathlib import Path

from mailagent.adapters import trees
from mailagent.core.errors import PermanentError
from mailagent.core.values import Profile

TABLE_BYTES = 2048
"""What one table's profile may take in the prompt."""
MAX_BYTES = 128 * 1024
"""What all of them may take: the prompt has room for more besides."""
MAX_NAMED = 200
"""Tables, and files that are none, that are named; and the characters of a name."""
CUT = "\n\n(This is not all of it: the rest is in work/profile.md.)"
UNREADABLE = "Your files could not be read. Please send them as CSV, XLSX or Parquet."


def read_profile(line: str, workspace: Path) -> Profile:
    """The line that the script printed, and the text that it wrote to work/. PermanentError when they make no sense."""
    try:
        report = json.loads(line)
        tables = tuple(_short(name) for name in report["tables"][:MAX_NAMED])
        refused = tuple((_short(each["file"]), _short(each["reason"])) for each in report["unreadable"][:MAX_NAMED])
        text = _read(workspace, TABLE_BYTES * max(1, len(tables) + len(refused)))
    except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
        raise PermanentError(UNREADABLE) from error
    return Profile(text, tables, refused)


def _short(text: object) -> str:
    return str(text)[:MAX_NAMED]


def _read(workspace: Path, limit: int) -> str:
    """No more is read than there is room for."""
    limit = min(limit, MAX_BYTES)
    text = trees.read(workspace, "work/profile.md", limit + 1)
    return text[:limit].decode("utf-8", "replace") + (CUT if len(text) > limit else "")
