"""Policies for sandboxes under test, and a bubblewrap with holes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mailagent import config
from mailagent.adapters import host
from mailagent.core.policy import Policy
from tests.settings import settings_text

LAX = """#!/usr/bin/python3
import os, sys
told = "\\0".join(["", *sys.argv[1:]]) + "\\0"
for forgotten in {forgotten!r}:
    old, _, new = (part.strip().replace(" ", "\\0") for part in forgotten.partition("->"))
    assert f"\\0{{old}}\\0" in told
    told = told.replace(f"\\0{{old}}\\0", f"\\0{{new}}\\0" if new else "\\0")
os.execv("/usr/bin/bwrap", ["bwrap", *told.strip("\\0").split("\\0")])
"""
"""A bubblewrap that forgets some of what it is told."""


def policy_at(place: Path, **sandbox: Any) -> Policy:
    """What the daemon would give a thread whose workspace lies below `place`, with these settings of [sandbox]."""
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in sandbox.items())
    text = settings_text(place, model_url="http://127.0.0.1:1", more=f"[sandbox]\n{lines}")
    settings = config.load(text, {"MAILAGENT_IMAP_PASSWORD": "x"}, {})
    for name in ("in", "work", "out"):
        (place / "files" / name).mkdir(parents=True)
    return Policy(host.parts(settings), str(place / "files"), "", host.limits(settings.sandbox))


def lax_bubblewrap(place: Path, forgotten: Sequence[str]) -> str:
    """A program in place of bubblewrap that leaves arguments out, or puts others ("old -> new") in their place."""
    lax = place / "bwrap"
    lax.write_text(LAX.format(forgotten=list(forgotten)))
    lax.chmod(0o755)
    return str(lax)
