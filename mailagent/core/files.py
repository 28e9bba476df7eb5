"""The files that came with a mail: named safely, told from pictures of its text, unpacked from winmail.dat."""

import re
from collections.abc import Sequence
from email.message import Message
from urllib.parse import unquote

from mailagent.core.headers import field
from mailagent.core.names import distinct, safe_name
from mailagent.core.parts import data_of, file_name, is_body
from mailagent.core.values import Attachment
from mailagent.core.winmail import MEDIA_TYPES as TNEF
from mailagent.core.winmail import opened

_EXTENSIONS = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.apache.parquet": ".parquet",
}
_NOT_FILES = re.compile(
    r"multipart/.*|text/(calendar|x-calendar|vcard|x-vcard)"
    r"|application/(ics|(x-)?pkcs7-signature|pgp-signature|pgp-keys|pgp-encrypted)"
)
_NOT_FILE_NAMES = re.compile(r".*\.(?:ics|vcf|p7s|sig)|(?:signature|openpgp_.*|publickey.*)\.asc", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,120}")
_CID = re.compile(rb"cid:([^\"'\s<>)]{1,250})", re.IGNORECASE)

_OCTETS = "application/octet-stream"


def attachments(leaves: Sequence[Message], tables: Sequence[bytes]) -> tuple[Attachment, ...]:
    """The files among these parts, then the tables pasted into the words, no two under one name."""
    pages = (part for part in leaves if part.get_content_type() == "text/html" and is_body(part))
    shown = {unquote(cid.decode("latin-1")) for page in pages for cid in _CID.findall(data_of(page))}
    files = [
        file for part in leaves if _is_file(part) and not _is_inline_image(part, shown) for file in _unpacked(part)
    ]
    named = [
        (safe_name(name, f"attachment-{n}{_EXTENSIONS.get(kind, '')}"), kind, data)
        for n, (name, kind, data) in enumerate(files, start=1)
    ]
    named += [(_table_name(n), "text/csv", data) for n, data in enumerate(tables, start=1)]
    names = distinct(name for name, _, _ in named)
    return tuple(Attachment(name, kind, data) for name, (_, kind, data) in zip(names, named, strict=True))


def _table_name(number: int) -> str:
    return "pasted table.csv" if number == 1 else f"pasted table {number}.csv"


def _unpacked(part: Message) -> list[tuple[str, str, bytes]]:
    """Name, media type and bytes of the file; of the files in it when it is a winmail.dat that can be opened."""
    name, data = file_name(part), data_of(part)
    if part.get_content_type() in TNEF or name.lower() == "winmail.dat":
        inside = opened(data)
        if inside is not None:
            return [(one, _OCTETS, content) for one, content in inside if not _NOT_FILE_NAMES.fullmatch(one)]
    return [(name, _media_type(part), data)]


def _is_file(part: Message) -> bool:
    kind, name = part.get_content_type(), file_name(part)
    if is_body(part) or _NOT_FILES.fullmatch(kind) or _NOT_FILE_NAMES.fullmatch(name):
        return False
    named = bool(name) or part.get_content_disposition() == "attachment"
    return named or kind in _EXTENSIONS or part.get_content_maintype() not in ("text", "message")


def _is_inline_image(part: Message, shown: set[str]) -> bool:
    """True for a picture that belongs to the text: a signature's logo, a screenshot."""
    if part.get_content_maintype() != "image":
        return False
    return part.get_content_disposition() == "inline" or field(part, "content-id").strip("<>") in shown


def _media_type(part: Message) -> str:
    kind = part.get_content_type()
    return kind if _MEDIA_TYPE.fullmatch(kind) else _OCTETS
