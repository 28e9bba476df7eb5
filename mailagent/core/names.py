"""File names out of mails, made safe for every file system, every shell and every reader."""

import re
import unicodedata
from collections.abc import Iterable

MAX_BYTES = 100

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"|?*]')


def safe_name(raw: str, fallback: str) -> str:
    """The last component of the name, whatever the separator, in NFC, without controls, bidi marks and what Windows
    forbids, 100 bytes at most with its extension kept; `fallback` when nothing is left."""
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", raw)[-1])
    # C: controls, format (bidi overrides, zero width), half surrogates, private; Zl and Zp: line separators.
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp"))
    name = " ".join(_FORBIDDEN.sub("_", name).split()).strip(". ")
    if _RESERVED.match(name) or name.startswith(("-", "~")):  # a name that starts so is an option or a home directory
        name = f"_{name}"
    return _cut(name, "") or fallback


def distinct(names: Iterable[str]) -> list[str]:
    """The names in their order, each one made different from those before it: "x.csv", "x (2).csv"."""
    taken: set[str] = set()
    out = []
    for name in names:
        one, number = name, 1
        while one.casefold() in taken:
            number += 1
            one = _cut(name, f" ({number})")
        taken.add(one.casefold())
        out.append(one)
    return out


def _cut(name: str, mark: str) -> str:
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 20:
        stem, dot, extension = name, "", ""
    room = MAX_BYTES - len(f"{mark}{dot}{extension}".encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + mark + dot + extension
