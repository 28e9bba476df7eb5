"""What the profile script leaves behind is taken as hostile."""

import json
from pathlib import Path
from typing import Any

import pytest

from mailagent.adapters.profile import CUT, MAX_BYTES, read_profile
from mailagent.core.errors import PermanentError
from mailagent.core.values import Profile


def read(place: Path, text: str, **report: Any) -> Profile:
    (place / "work").mkdir(exist_ok=True)
    (place / "work" / "profile.md").write_text(text)
    return read_profile(json.dumps({"tables": [], "unreadable": [], **report}), place)


def test_a_short_one_is_whole(tmp_path: Path) -> None:
    refused = [{"file": "b.pdf", "reason": "looks like a PDF"}]
    profile = read(tmp_path, "## Table 1", tables=["a"], unreadable=refused)
    assert profile == Profile("## Table 1", ("a",), (("b.pdf", "looks like a PDF"),))


def test_however_many_tables_there_are_it_has_a_bound_and_says_so(tmp_path: Path) -> None:
    refused = [{"file": "b" * 10_000, "reason": "c" * 10_000}] * 10_000
    profile = read(tmp_path, "ü" * 10_000_000, tables=["a" * 10_000] * 100_000, unreadable=refused)
    assert len(profile.text.encode()) <= MAX_BYTES + len(CUT)
    assert profile.text.endswith(CUT)
    assert sum(map(len, profile.tables)) <= 40_000
    assert sum(len(name) + len(reason) for name, reason in profile.unreadable) <= 80_000


@pytest.mark.parametrize("line", ["", "[]", "{}", "[" * 100_000, '{"tables": 1}', '{"tables": {}, "unreadable": []}'])
def test_what_makes_no_sense_is_refused_in_plain_words(tmp_path: Path, line: str) -> None:
    with pytest.raises(PermanentError, match="Please send them"):
        read_profile(line, tmp_path)


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "profile.md").symlink_to("/etc/passwd")
    with pytest.raises(PermanentError):
        read_profile('{"tables": ["a"], "unreadable": []}', tmp_path)
