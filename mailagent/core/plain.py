"""Strangers' words made safe to show: one line of bounded text, and file names that no file system minds."""

import re
import unicodedata

# Whitespace, C0 and C1 controls, zero-width and bidirectional characters (they hide and reorder: Unicode TR 36).
# The zero-width joiners stay, since Persian and Indic words and many emoji are spelled with them.
_INVISIBLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]+")
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]+')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_NAME_BYTES = 100


def one_line(text: str, limit: int) -> str:
    """The text on one line of at most `limit` characters, without invisible ones; what is cut ends with "…"."""
    line = _INVISIBLE.sub(" ", text[: limit * 4]).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def readable(text: str) -> str:
    """Text of many lines without control characters, reordering and broken characters; tabs and line feeds stay."""
    return _UNREADABLE.sub("", text)


def file_name(path: str) -> str:
    """The last part of a path as a name, at most 100 bytes, that is safe on every file system; "file" if none is left.

    Reserved names: https://learn.microsoft.com/windows/win32/fileio/naming-a-file.
    """
    base = re.split(r"[/\\]", path[-1000:])[-1]
    name = _FORBIDDEN.sub("_", _INVISIBLE.sub(" ", unicodedata.normalize("NFC", base))).strip(" .")
    if _RESERVED.fullmatch(name):
        name = "_" + name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > 10:
        stem, dot, extension = name, "", ""
    room = _NAME_BYTES - len((dot + extension).encode())
    return (stem.encode()[:room].decode(errors="ignore").strip(" .") + dot + extension) or "file"


def width(text: str) -> int:
    """Columns the text takes in a fixed-width font (Unicode TR 11: wide is two, combining none)."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
