"""Mail bodies: bytes in any charset to text, and the writer's own words apart from the history quoted with them."""

import re
from dataclasses import dataclass

import charset_normalizer
import quotequail

from mailagent.core.headers import CONTROL, decoded, text_codec

REPLY_MARKER = "-- reply above this line --"
"""The first line of every reply of ours, text and HTML: what stands below it in an answer is history."""

MAX_TEXT = 1_000_000
MAX_QUOTE_CHARS, MAX_QUOTE_LINES, MAX_QUOTE_LINE = 64 * 1024, 2_000, 1_000
"""What quotequail gets to see: 1 MB of "> " lines would keep it busy for more than 8 s."""

_SAMPLE = 64 * 1024
_MARKER = re.compile(r"[\s>|*_-]*reply above this line[\s*_-]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Words:
    """The text of a mail; `marked` when the program that wrote it says that all its lines with ">" are history."""

    text: str
    marked: bool = False


def text_of(data: bytes, charset: str) -> str:
    """The bytes as text: in the declared charset, else UTF-8, else as guessed, else cp1252; newlines are "\\n"."""
    text = decoded(data, charset) if charset else None
    if text is None:
        text = decoded(data, "utf-8-sig")
    if text is None:
        guess = charset_normalizer.from_bytes(data[:_SAMPLE]).best()
        text = data.decode(text_codec(guess.encoding if guess else "") or "cp1252", "replace")
    return CONTROL.sub("", text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


def split_quoted(words: Words) -> tuple[str, str]:
    """What the writer wrote now, and the history quoted with it; both cut to a million characters.

    Losing the writer's words is worse than leaving a quote: words below a quote are kept; where they stand between
    quotes, as answers point by point do, and when nothing of their own is left, the whole text is theirs."""
    lines = _without_blank_ends(words.text).split("\n")
    history = _history(lines, words.marked)
    quoted = [line for part in history for line in lines[part.start : part.stop]]
    gaps = zip([0, *(part.stop for part in history)], [*(part.start for part in history), len(lines)], strict=True)
    own = _without_blank_ends("\n".join(line for start, stop in gaps for line in lines[start:stop]))
    below = lines[history[-1].stop :] if history else []
    if not own or any(map(_is_quoted, below)):
        return "\n".join(lines)[:MAX_TEXT], ""
    return own[:MAX_TEXT], "\n".join(quoted).strip()[:MAX_TEXT]


def above_marker(text: str) -> str:
    """The text without what stands below the first line of a reply of ours."""
    lines = text.split("\n")
    at = _marker(lines)
    return text if at is None else "\n".join(lines[:at])


def _marker(lines: list[str]) -> int | None:
    return next((n for n, line in enumerate(lines[:MAX_QUOTE_LINES]) if _MARKER.fullmatch(line[:MAX_QUOTE_LINE])), None)


def _history(lines: list[str], marked: bool) -> list[range]:
    """Which lines are history: from our marker, or from what is marked as such, whichever comes first; what announces
    it above; all that quotequail finds where there is neither."""
    first = next((n for n, line in enumerate(lines) if _is_quoted(line)), None) if marked else None
    starts = [at for at in (_marker(lines), first) if at is not None]
    if not starts:
        return _found(lines)
    at = min(starts)
    return [*_found(lines[:at]), range(at, _end_of_history(lines, at))]


def _is_quoted(line: str) -> bool:
    return line.lstrip().startswith(">")


def _without_blank_ends(text: str) -> str:
    """The text without blank lines around it; the space in its lines is kept: it may be the empty cells of a table."""
    words = text.lstrip()
    start = text.rfind("\n", 0, len(text) - len(words)) + 1
    end = text.find("\n", len(text.rstrip()))
    return text[start : end if end >= 0 else len(text)].rstrip(" \r\f\v") if words else ""


def _end_of_history(lines: list[str], start: int) -> int:
    """The line after the history that starts here: where its ">" end, or the end of the mail without them."""
    if not _is_quoted(lines[start]):
        return len(lines)
    return next((n for n in range(start, len(lines)) if lines[n].strip() and not _is_quoted(lines[n])), len(lines))


def _found(lines: list[str]) -> list[range]:
    """The history that quotequail finds; it sees the first part only, the rest belongs to what that ends in."""
    seen = _head(lines)
    found = quotequail.unwrap("\n".join(line[:MAX_QUOTE_LINE] for line in seen))
    if not found:
        return []
    top, bottom = (len(found[key].split("\n")) if found.get(key) else 0 for key in ("text_top", "text_bottom"))
    return [range(top, len(seen) - bottom if bottom else len(lines))]


def _head(lines: list[str]) -> list[str]:
    """The lines quotequail may see, the last one not blank."""
    room, count = MAX_QUOTE_CHARS, 0
    for line in lines[:MAX_QUOTE_LINES]:
        room -= min(len(line), MAX_QUOTE_LINE) + 1
        if room < 0:
            break
        count += 1
    while count and not lines[count - 1].strip():
        count -= 1
    return lines[:count]
