"""A message's bytes to an Inbound: who writes, what is new in it, which files came along; or one plain refusal."""

import hashlib
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32
from itertools import islice
from urllib.parse import unquote

from mailagent.core.automatic import automatic
from mailagent.core.bodies import MAX_TEXT, REPLY_MARKER, split_quoted, text_of, text_of_html
from mailagent.core.errors import PermanentError
from mailagent.core.headers import (
    MESSAGE_ID,
    MISSING_ID,
    CutFields,
    addresses,
    decoded,
    decoded_words,
    field,
    fields,
    mailbox,
    message_ids,
    words,
)
from mailagent.core.names import distinct, safe_name
from mailagent.core.values import Attachment, Inbound

__all__ = ["MAX_DEPTH", "MAX_PARTS", "REPLY_MARKER", "parse"]

MAX_PARTS = 100
MAX_DEPTH = 20

_MAX_RESULTS = 20
_STUMBLES = (ValueError, LookupError, RecursionError, TypeError, AttributeError, AssertionError)
"""What the standard library's parser was seen to raise on hostile mail, or may: LookupError for an odd charset or a
multipart without parts, ValueError (UnicodeError, binascii.Error) for RFC 2231 numbers and names, RecursionError."""

_EXTENSIONS = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.apache.parquet": ".parquet",
}
_NOT_FILES = re.compile(
    r"multipart/.*|text/(calendar|x-calendar|vcard|x-vcard)|application/(ics|(x-)?pkcs7-signature|pgp-signature|pgp-keys)"
)
_NOT_FILE_NAMES = (".ics", ".vcf", ".p7s")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,120}")
_CID = re.compile(rb"cid:([^\"'\s<>)]{1,250})", re.IGNORECASE)


def parse(raw: bytes) -> Inbound:
    """The message understood (RFC 5322, RFC 2045 to 2047, RFC 2231).

    Raises PermanentError, in plain words, and nothing else: for more than 100 parts, for parts nested more than 20
    deep, and for what the standard library's parser cannot read. A sender that cannot be told is no error but a
    defect, a Message-ID that cannot be used is replaced by one made from the bytes."""
    try:
        return _inbound(raw, _read(raw))
    except _STUMBLES as error:
        raise PermanentError("The mail is damaged: its structure cannot be read.") from error


def _read(raw: bytes) -> Message:
    cut = CutFields()
    count = -2  # the parser makes one message to try this function out, and the mail itself is none of its parts

    def part(policy: Compat32 = cut) -> Message:
        nonlocal count
        count += 1
        if count > MAX_PARTS:  # while it parses: 100,000 parts take the parser 11 s, 2,000 levels its stack
            raise PermanentError(f"The mail has more than {MAX_PARTS} parts.")
        return Message(policy=policy)

    return BytesParser(part, policy=cut).parsebytes(raw)


def _inbound(raw: bytes, message: Message) -> Inbound:
    parts = list(_parts(message))
    name, sender, defects = _sender(message)
    text, quoted = split_quoted(_words(message))
    forwarded = [_forwarded(part) for part, _ in parts if part.get_content_type() == "message/rfc822"]
    found = MESSAGE_ID.fullmatch(field(message, "message-id"))
    subject = words(field(message, "subject"))
    return Inbound(
        message_id=found[0] if found else f"<{hashlib.sha256(raw).hexdigest()[:32]}{MISSING_ID}",
        sender=sender,
        sender_name=name,
        recipients=tuple(dict.fromkeys(to for key in ("to", "cc") for to in addresses(field(message, key)))),
        subject=subject,
        text=text,
        quoted="\n\n".join([quoted, *forwarded] if quoted else forwarded)[:MAX_TEXT],
        in_reply_to=message_ids(field(message, "in-reply-to")),
        references=message_ids(field(message, "references")),
        attachments=_attachments([part for part, leaf in parts if leaf]),
        automatic=automatic(message, sender, subject),
        authentication=tuple(islice(fields(message, "authentication-results"), _MAX_RESULTS)),
        defects=defects,
    )


def _sender(message: Message) -> tuple[str, str, tuple[str, ...]]:
    """Display name, address and defects: whom to believe is not guessed where two readers could differ."""
    senders = fields(message, "from")
    if len(senders) != 1:
        return "", "", (f"{len(senders)} From fields instead of one",)
    try:
        return *mailbox(senders[0]), ()
    except ValueError as reason:
        return "", "", (f"From: {reason}",)


def _parts(part: Message, depth: int = 0) -> Iterator[tuple[Message, bool]]:
    """Every part and whether it is a leaf, forwarded messages included.

    message/partial and message/external-body (RFC 2046 section 5.2) say what is not here: they are passed over."""
    if depth > MAX_DEPTH:
        raise PermanentError(f"The mail's parts are nested more than {MAX_DEPTH} deep.")
    yield part, not part.is_multipart()
    if part.get_content_maintype() == "multipart" or part.get_content_type() == "message/rfc822":
        for child in _children(part):
            yield from _parts(child, depth + 1)


def _children(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [child for child in payload if isinstance(child, Message)] if isinstance(payload, list) else []


def _words(part: Message) -> str:
    """The text of a message: of alternatives the plain one if it says anything, of other parts all (RFC 2046 5.1)."""
    if part.is_multipart():
        if part.get_content_maintype() != "multipart":
            return ""
        if part.get_content_type() == "multipart/alternative":
            plain_first = sorted(_children(part), key=lambda child: child.get_content_type() != "text/plain")
            return next((text for text in map(_words, plain_first) if text.strip()), "")
        return "\n\n".join(text for text in map(_words, _children(part)) if text.strip())
    if not _is_body(part):
        return ""
    text = text_of(_data(part), part.get_content_charset() or "")
    return text_of_html(text) if part.get_content_type() == "text/html" else text


def _is_body(part: Message) -> bool:
    """True for words; also for a multipart whose boundary never comes: its words are there all the same."""
    shown = part.get_content_type() in ("text/plain", "text/html") or part.get_content_maintype() == "multipart"
    return shown and part.get_content_disposition() != "attachment" and not _file_name(part)


def _forwarded(part: Message) -> str:
    """A forwarded message as history: its own files are attachments like the others."""
    message = next(iter(_children(part)), part)
    sender, subject = (words(field(message, key)) for key in ("from", "subject"))
    return f"Forwarded message\nFrom: {sender}\nSubject: {subject}\n\n{_words(message)}".strip()


def _attachments(leaves: list[Message]) -> tuple[Attachment, ...]:
    pages = (part for part in leaves if part.get_content_type() == "text/html" and _is_body(part))
    shown = {unquote(cid.decode("latin-1")) for page in pages for cid in _CID.findall(_data(page))}
    files = [part for part in leaves if _is_file(part) and not _is_inline_image(part, shown)]
    types = [_media_type(part) for part in files]
    names = distinct(
        safe_name(_file_name(part), f"attachment-{n}{_EXTENSIONS.get(kind, '')}")
        for n, (part, kind) in enumerate(zip(files, types, strict=True), start=1)
    )
    return tuple(Attachment(*item) for item in zip(names, types, map(_data, files), strict=True))


def _is_file(part: Message) -> bool:
    kind, name = part.get_content_type(), _file_name(part)
    if _is_body(part) or _NOT_FILES.fullmatch(kind) or name.lower().endswith(_NOT_FILE_NAMES):
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
    return kind if _MEDIA_TYPE.fullmatch(kind) else "application/octet-stream"


def _file_name(part: Message) -> str:
    """The name as the sender wrote it (RFC 2183, RFC 2231; RFC 2047 too, since most senders use that)."""
    for parameter, name in (("filename", "content-disposition"), ("name", "content-type")):
        value = part.get_param(parameter, header=name)
        if isinstance(value, tuple):
            data = value[2].encode("latin-1", "replace")
            return decoded(data, value[0] or "utf-8") or data.decode("utf-8", "replace")
        if value:
            return decoded_words(str(value))
    return ""


def _data(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""
