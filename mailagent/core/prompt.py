"""What the agent is told at the start of a turn: the mail and the profile, each fenced, since both may hold orders."""

import re
from collections.abc import Sequence

from mailagent.core.policy import WORKSPACE
from mailagent.core.values import Inbound, Profile

FENCE = re.compile(r"[<＜﹤](?=[^\w<>]{0,8}(?:mail|quoted|profile|files)\b)", re.IGNORECASE)
MAX_TEXT = 32 * 1024
MAX_QUOTED = 16 * 1024


def prompt(mails: Sequence[Inbound], number: int, new_files: Sequence[str], profile: Profile | None) -> str:
    """The user message of turn `number`: where the workspace is, the writers' words and the history they quoted, oldest
    mail first, which files came along, and what these hold (None when no file is new: the session knows the others)."""
    parts = [f"Workspace: {WORKSPACE}\nTurn: {number}"]
    if len(mails) > 1:
        parts.append(f"{len(mails)} mails came in before you could answer. Answer all of them in one reply.")
    for mail in mails:
        parts.append(fenced("mail", f"Subject: {mail.subject}\n\n{_words(mail)}"))
        if mail.quoted:
            parts.append(fenced("quoted", mail.quoted[:MAX_QUOTED]))
    if new_files:
        parts.append("New files in in/:\n" + fenced("files", "\n".join(new_files)))
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
