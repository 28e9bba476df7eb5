"""What the agent is told at the start of a turn: the mail and the profile, each fenced, since both may hold orders."""

import re
from collections.abc import Sequence

from mailagent.core.policy import WORKSPACE
from mailagent.core.values import Inbound, Profile

FENCE = re.compile(r"<(?=/?(?:mail|quoted|profile)\b)", re.IGNORECASE)
MAX_TEXT = 32 * 1024
MAX_QUOTED = 16 * 1024


def prompt(inbound: Inbound, number: int, new_files: Sequence[str], profile: Profile | None) -> str:
    """The user message of turn `number`: where the workspace is, the writer's words, the history they quoted, which
    files came along, and what these hold (None when no file is new: the session knows the others)."""
    parts = [
        f"Workspace: {WORKSPACE}\nTurn: {number}",
        fenced("mail", f"Subject: {inbound.subject}\n\n{_words(inbound)}"),
    ]
    if inbound.quoted:
        parts.append(fenced("quoted", inbound.quoted[:MAX_QUOTED]))
    if new_files:
        parts.append("New files in in/: " + ", ".join(new_files))
    if profile:
        parts.append(fenced("profile", profile.text))
    return "\n\n".join(parts)


def fenced(name: str, text: str) -> str:
    """The text between `<name>` and `</name>`; a fence inside it loses its bracket, so that it cannot end this one."""
    return f"<{name}>\n{FENCE.sub('‹', text).strip()}\n</{name}>"


def _words(inbound: Inbound) -> str:
    if not inbound.text.strip():
        return "(The mail says nothing. Give an overview of the data.)"
    return inbound.text[:MAX_TEXT]
