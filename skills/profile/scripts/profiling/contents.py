"""Tells by its first bytes what a file is, and turns text in any encoding into UTF-8."""

import codecs
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from profiling import UnreadableError

Format = Literal["text", "xlsx", "parquet"]

HEAD = 1 << 18
MAX_BYTES = 2_000_000_000
MAX_ENTRIES = 5_000
MAX_UNPACKED = 800_000_000
MAX_RATIO = 150
SMALL_UNPACKED = 20_000_000
"""Below this a ratio says nothing: an empty sheet also packs a hundredfold."""

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "looks like a PDF, not a table"),
    (b"\x89PNG", "looks like a picture, not a table"),
    (b"\xff\xd8\xff", "looks like a picture, not a table"),
    (b"GIF8", "looks like a picture, not a table"),
    (b"II*\0", "looks like a picture, not a table"),
    (b"MM\0*", "looks like a picture, not a table"),
    (b"BM", "looks like a picture, not a table"),
    (b"\x1f\x8b", "is a compressed file: please send what is in it"),
    (b"7z\xbc\xaf", "is a compressed file: please send what is in it"),
    (b"Rar!", "is a compressed file: please send what is in it"),
    (b"{\\rtf", "looks like a text document, not a table"),
    (b"SQLite format 3", "is a database file: please export its tables as CSV"),
)
MARKUP: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "looks like a web page, not a table"),
    (b"<html", "looks like a web page, not a table"),
    (b"<", "looks like XML, not a table: please send it as CSV or XLSX"),
    (b"{", "looks like JSON, not a table: please send it as CSV or XLSX"),
    (b"[{", "looks like JSON, not a table: please send it as CSV or XLSX"),
)
PACKED: tuple[tuple[str, str], ...] = (
    ("word/", "looks like a Word document, not a table"),
    ("ppt/", "looks like a presentation, not a table"),
    ("xl/workbook.bin", "is a binary Excel file (.xlsb): please save it as .xlsx"),
    ("content.xml", "is an OpenDocument file: please save it as .xlsx"),
)
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
CJK = {
    "cp932": "cp932",
    "shift_jis": "cp932",
    "shift_jis_2004": "cp932",
    "euc_jp": "euc_jp",
    "euc_jis_2004": "euc_jp",
    "big5": "big5",
    "big5hkscs": "big5hkscs",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "cp949": "cp949",
    "euc_kr": "cp949",
    "johab": "cp949",
}
"""What charset-normalizer may say, and the wider codec of the same family to decode with."""
CJK_TEXT = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True, slots=True)
class Text:
    """A UTF-8 file: the original when it was one, else a copy; `encoding` is what the original was in."""

    path: Path
    encoding: str
    guessed: bool


def format_of(path: Path) -> Format:
    """What kind of table file this is. Raises UnreadableError with the reason when it is none."""
    size = path.stat().st_size
    if size == 0:
        raise UnreadableError("is empty")
    if size > MAX_BYTES:
        raise UnreadableError(f"is too large ({size // 1_000_000} MB; {MAX_BYTES // 1_000_000} MB can be read)")
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return _packed(path)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise UnreadableError(_compound(path))
    _refuse(head)
    return "text"


def _refuse(head: bytes) -> None:
    for signature, reason in SIGNATURES:
        if head.startswith(signature) and not (signature == b"BM" and b"\0" not in head):
            raise UnreadableError(reason)
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start:
        raise UnreadableError("has nothing but blanks in it")
    for signature, reason in MARKUP:
        if start[: len(signature)].lower() == signature:
            raise UnreadableError(reason)


def _compound(path: Path) -> str:
    # [MS-OFFCRYPTO] 2.3.4: an encrypted workbook is a compound file with a stream named EncryptedPackage.
    with path.open("rb") as file:
        data = file.read(8_000_000)
    if "EncryptedPackage".encode("utf-16-le") in data:
        return "is password-protected: please send it without a password"
    return "is an old Office file: please save it as .xlsx or CSV"


def _packed(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise UnreadableError("is damaged and cannot be opened") from None
    names = [entry.filename for entry in entries]
    if "xl/workbook.xml" not in names:
        raise UnreadableError(_not_a_workbook(names))
    if any(entry.flag_bits & 1 for entry in entries):
        raise UnreadableError("is password-protected: please send it without a password")
    unpacked = sum(entry.file_size for entry in entries)
    packed = max(1, sum(entry.compress_size for entry in entries))
    bomb = unpacked > SMALL_UNPACKED and unpacked / packed > MAX_RATIO
    if len(entries) > MAX_ENTRIES or unpacked > MAX_UNPACKED or bomb:
        raise UnreadableError("is packed far too tightly to be opened safely: please send it as CSV")
    return "xlsx"


def _not_a_workbook(names: list[str]) -> str:
    for part, reason in PACKED:
        if any(name.startswith(part) for name in names):
            return reason
    return "is a ZIP archive: please send the files in it on their own"


def utf8(path: Path, scratch: Path) -> Text:
    """The file as UTF-8, by: byte order mark, NULs of UTF-16, strict UTF-8, a CJK family that the detector names and
    that decodes strictly, Windows-1252. Detectors are wrong on short western text, so none is asked about it.

    Raises UnreadableError when the file is not text."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    encoding, guessed = _encoding(path, head)
    if encoding == "utf-8":
        return Text(path, "utf-8", guessed=False)
    copy = scratch / "text.csv"
    try:
        _transcode(path, copy, encoding)
    except UnicodeError:
        raise UnreadableError("is not readable text") from None
    return Text(copy, encoding.removesuffix("-sig"), guessed)


def _encoding(path: Path, head: bytes) -> tuple[str, bool]:
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, False
    if b"\0" in head:
        return _wide(head), True
    if _decodes(path, "utf-8"):
        return "utf-8", False
    family = _cjk(head)
    if family and _decodes(path, family):
        return family, True
    return "cp1252", True


def _wide(head: bytes) -> str:
    half = max(1, len(head) // 2)
    even, odd = head[0::2].count(0) / half, head[1::2].count(0) / half
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    if even > 0.3 and odd < 0.05:
        return "utf-16-be"
    raise UnreadableError("is not a text or table file")


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                if b"\0" in chunk:
                    raise UnreadableError("is not a text or table file")
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _cjk(head: bytes) -> str:
    # A western accent stands alone between ASCII letters; East Asian text has its high bytes in runs.
    runs = re.findall(rb"[\x80-\xff]+", head)
    if sum(len(run) == 1 for run in runs) > 0.8 * len(runs):
        return ""
    from charset_normalizer import from_bytes

    sample = head[: 1 << 15]
    best = from_bytes(sample[: sample.rfind(b"\n") + 1] or sample).best()
    family = CJK.get(best.encoding, "") if best else ""
    if not family:
        return ""
    text = sample.decode(family, "ignore")
    foreign = [c for c in text if ord(c) > 127]
    return family if len(CJK_TEXT.findall(text)) > 0.6 * len(foreign) else ""


def _transcode(source: Path, target: Path, encoding: str) -> None:
    # Windows-1252 leaves five bytes undefined: those become U+FFFD rather than an unread file.
    errors = "replace" if encoding == "cp1252" else "strict"
    with (
        source.open("r", encoding=encoding, errors=errors, newline="") as old,
        target.open("w", encoding="utf-8", newline="") as new,
    ):
        while chunk := old.read(1 << 20):
            new.write(chunk)
