"""Enclosures: which files of out/ go along with a reply, under which names, checked by content, within the budget."""

import hashlib
import struct
from dataclasses import dataclass
from urllib.parse import unquote

from mailagent.core.plain import file_name, one_line
from mailagent.core.tables import Csv, read_csv
from mailagent.core.values import Attachment, Image, OutFile

MAX_BYTES = 7_000_000
MAX_FILES = 10
MAX_CHARTS = 10
SCRIPT = "analysis.py"
_MAX_PIXELS = 25_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB\x60\x82"

# What leaves as it is: extension -> media type and how the content must begin. The rest leaves as .txt if it is text.
_OFFICE = "application/vnd.openxmlformats-officedocument"
_TYPES: dict[str, tuple[str, bytes]] = {
    "png": ("image/png", _PNG),
    "jpg": ("image/jpeg", b"\xff\xd8\xff"),
    "pdf": ("application/pdf", b"%PDF-"),
    "xlsx": (f"{_OFFICE}.spreadsheetml.sheet", b"PK\x03\x04"),
    "docx": (f"{_OFFICE}.wordprocessingml.document", b"PK\x03\x04"),
    "pptx": (f"{_OFFICE}.presentationml.presentation", b"PK\x03\x04"),
    "zip": ("application/zip", b"PK\x03\x04"),
    "parquet": ("application/vnd.apache.parquet", b"PAR1"),
}
_TEXTS = {"txt": "text/plain", "md": "text/markdown", "json": "application/json", "jsonl": "application/jsonl"}
_TABLES = {"csv": "text/csv", "tsv": "text/tab-separated-values"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that does not go along, and why, in plain words."""

    name: str
    reason: str


class Enclosures:
    """Gathers charts and attachments of one reply; what does not fit or is not what it claims is left out and named."""

    def __init__(self, files: tuple[OutFile, ...]) -> None:
        self._files = {file.path: file.data for file in files if _is_plain(file.path)}
        self._bytes = 0
        self._names: set[str] = set()
        self._tables: dict[str, Csv | None] = {}
        self._read = 0
        self._shown = 0
        self._images: dict[str, Image] = {}
        self._attached: dict[str, Attachment | LeftOut] = {
            file.path: LeftOut(file_name(file.path), "its path is odd") for file in files if not _is_plain(file.path)
        }

    @property
    def images(self) -> tuple[Image, ...]:
        """The charts shown, each content once, in the order of the answer."""
        return tuple(self._images.values())

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files attached, in the order they were asked for."""
        return tuple(file for file in self._attached.values() if isinstance(file, Attachment))

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The files asked for that do not go along."""
        return tuple(file for file in self._attached.values() if isinstance(file, LeftOut))

    def names(self, folder: str) -> list[str]:
        """The paths below `folder`, sorted."""
        return sorted(path for path in self._files if path.startswith(f"{folder}/"))

    def find(self, link: str) -> str | None:
        """The path that a link in the answer means, None when there is no such file."""
        path = unquote(link[:1000]).removeprefix("./").removeprefix("out/")
        return path if path in self._files else None

    def chart(self, path: str, alt: str) -> Image | None:
        """The PNG to show inline (RFC 2392), None when it is no sound PNG or there is no room for it."""
        data = self._files[path]
        content_id = f"{hashlib.sha256(data).hexdigest()[:32]}@mailagent"
        if content_id not in self._images:
            if png_width(data) is None or len(self._images) >= MAX_CHARTS or self._bytes + len(data) > MAX_BYTES:
                return None
            self._bytes += len(data)
            self._images[content_id] = Image(content_id, file_name(path), alt, data)
        return self._images[content_id]

    def table(self, path: str) -> Csv | None:
        """The table in a CSV file, the first time it is asked for and of a few files; None when there is none."""
        if path in self._attached or _extension(path) not in _TABLES or self._shown >= MAX_FILES:
            return None
        self._shown += 1
        return self._csv(path)

    def attach(self, path: str) -> str | None:
        """Attach the file, once; returns the name it goes under, None when it is left out."""
        if path not in self._attached:
            self._attached[path] = self._packed(path)
        file = self._attached[path]
        return file.name if isinstance(file, Attachment) else None

    def _packed(self, path: str) -> Attachment | LeftOut:
        name, size = file_name(path), len(self._files[path])
        too_large = LeftOut(name, f"{size / 1e6:,.1f} MB: a mail carries {MAX_BYTES / 1e6:.0f} MB in all")
        if len(self._names) >= MAX_FILES:
            return LeftOut(name, f"a mail carries {MAX_FILES} files at most")
        if self._bytes + size > MAX_BYTES:
            return too_large
        file = self._outgoing(path, name)
        if file is None:
            return LeftOut(name, "its content is not what its name says, or of a kind that mail does not carry")
        if self._bytes + len(file.data) > MAX_BYTES:
            return too_large
        self._bytes += len(file.data)
        return Attachment(self._free(file.name), file.media_type, file.data)

    def _outgoing(self, path: str, name: str) -> Attachment | None:
        """The file as it may leave: known types by content, tables guarded, other text as .txt; None for the rest."""
        data, extension = self._files[path], _extension(name)
        if extension in _TABLES:
            table = self._csv(path)
            return Attachment(name, _TABLES[extension], table.guarded) if table else None
        if extension in _TYPES:
            media_type, magic = _TYPES[extension]
            return Attachment(name, media_type, data) if data.startswith(magic) else None
        if not _is_text(data):
            return None
        known = extension in _TEXTS
        return Attachment(name if known else f"{name}.txt", _TEXTS[extension] if known else "text/plain", data)

    def _csv(self, path: str) -> Csv | None:
        """The table in the file, read once; no more bytes are read than could be sent twice."""
        if path not in self._tables:
            self._read += len(self._files[path])
            self._tables[path] = read_csv(self._files[path]) if self._read <= 2 * MAX_BYTES else None
        return self._tables[path]

    def _free(self, name: str) -> str:
        stem, dot, extension = name.partition(".")
        names = [name, *(f"{stem}-{number}{dot}{extension}" for number in range(2, MAX_FILES + 2))]
        free = next(free for free in names if free.casefold() not in self._names)
        self._names.add(free.casefold())
        return free


def png_width(data: bytes) -> int | None:
    """The width in pixels of a whole PNG of sane size; None for anything else (PNG specification 5.2 and 11.2.1).

    It must end with its last chunk: neither cut off nor followed by something else.
    """
    if not data.startswith(_PNG + b"\x00\x00\x00\x0dIHDR") or len(data) < 33 or not data.endswith(_PNG_END):
        return None
    width, height = struct.unpack(">II", data[16:24])
    return int(width) if width and height and width * height <= _MAX_PIXELS else None


def _extension(name: str) -> str:
    extension = name.rpartition(".")[2].lower()
    return {"jpeg": "jpg", "ndjson": "jsonl"}.get(extension, extension)


def _is_plain(path: str) -> bool:
    """True for a relative path that stays where it is and can be shown."""
    parts = path.split("/")
    return path == one_line(path, 300) and "\\" not in path and not any(part in ("", ".", "..") for part in parts)


def _is_text(data: bytes) -> bool:
    if b"\x00" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
