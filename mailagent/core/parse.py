"""A message's bytes to an Inbound: who writes, what is new in it, which files came along; or one plain refusal."""

import hashlib
from collections.abc import Iterator
from email.message import Message
from itertools import islice

from mailagent.core.automatic import automatic
from mailagent.core.bodies import MAX_TEXT, REPLY_MARKER, Words, above_marker, split_quoted, text_of
from mailagent.core.bounces import bounces, is_report
from mailagent.core.errors import PermanentError
from mailagent.core.files import attachments
from mailagent.core.headers import MESSAGE_ID, MISSING_ID, addresses, field, fields, mailbox, message_ids, words
from mailagent.core.htmltext import words_of_html
from mailagent.core.parts import (
    MAX_DEPTH,
    MAX_HEADER,
    MAX_PARTS,
    Reader,
    children,
    data_of,
    header_of,
    is_body,
    is_message,
)
from mailagent.core.pasted import pasted_tables
from mailagent.core.values import Inbound

__all__ = ["MAX_DEPTH", "MAX_HEADER", "MAX_PARTS", "REPLY_MARKER", "header_of", "parse"]

_MAX_RESULTS = 20
_STUMBLES = (ValueError, LookupError, RecursionError, TypeError, AttributeError, AssertionError)
"""What the standard library's parser was seen to raise on hostile mail, or may: LookupError for an odd charset or a
multipart without parts, ValueError (UnicodeError, binascii.Error) for RFC 2231 numbers and names, RecursionError."""


def parse(raw: bytes) -> Inbound:
    """The message understood (RFC 5322, RFC 2045 to 2047, RFC 2231).

    Raises PermanentError, in plain words, and nothing else: for more than 64 KB of header, for more than 100 parts, for
    parts nested more than 20 deep, and for what the standard library's parser cannot read. A sender that cannot be
    told is no error but a defect, a Message-ID that cannot be used is replaced by one made from the bytes."""
    reader = Reader()
    try:
        return _inbound(raw, reader, reader.read(raw))
    except _STUMBLES as error:
        raise PermanentError("The mail is damaged: its structure cannot be read.") from error


def _inbound(raw: bytes, reader: Reader, message: Message) -> Inbound:
    parts = list(reader.parts(message))
    name, sender, defects = _sender(message)
    text, quoted = split_quoted(_words(message))
    forwarded = [_forwarded(part) for part, _ in parts if is_message(part)]
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
        attachments=attachments([part for part, leaf in parts if leaf], pasted_tables(above_marker(text))),
        automatic=automatic(message, sender, subject),
        authentication=tuple(islice(fields(message, "authentication-results"), _MAX_RESULTS)),
        defects=defects,
        bounces=bounces(message),
        delivered_to=tuple(dict.fromkeys(to for value in _deliveries(message) for to in addresses(value))),
        is_report=is_report(message),
    )


def _deliveries(message: Message) -> Iterator[str]:
    names = ("delivered-to", "x-original-to", "envelope-to")
    return islice((value for name in names for value in fields(message, name)), _MAX_RESULTS)


def _sender(message: Message) -> tuple[str, str, tuple[str, ...]]:
    """Display name, address and defects: whom to believe is not guessed where two readers could differ."""
    senders = fields(message, "from")
    if len(senders) != 1:
        return "", "", (f"{len(senders)} From fields instead of one",)
    try:
        return *mailbox(senders[0]), ()
    except ValueError as reason:
        return "", "", (f"From: {reason}",)


def _words(part: Message) -> Words:
    """The text of a message: of alternatives the one that says most, of other parts all (RFC 2046 section 5.1)."""
    if part.is_multipart():
        if part.get_content_maintype() != "multipart":
            return Words("")
        if part.get_content_type() == "multipart/alternative":
            return _most_telling(part)
        found = [one for one in map(_words, children(part)) if one.text.strip()]
        return Words("\n\n".join(one.text for one in found), any(one.marked for one in found))
    if not is_body(part):
        return Words("")
    text = text_of(data_of(part), part.get_content_charset() or "")
    return words_of_html(text) if part.get_content_type() == "text/html" else Words(text)


def _most_telling(alternatives: Message) -> Words:
    """The alternative in which history is marked, else one with the cells of a table, else the plain one."""
    found: list[Words] = []
    for child in sorted(children(alternatives), key=lambda child: child.get_content_type() != "text/plain"):
        try:
            one = _words(child)
        except PermanentError:  # HTML nested too deeply, which the plain text beside it makes good
            if not found:
                raise
            continue
        if one.text.strip():
            found.append(one)
    return min(found, key=lambda one: (not one.marked, "\t" not in one.text), default=Words(""))


def _forwarded(part: Message) -> str:
    """A forwarded message as history: its own files are attachments like the others."""
    message = next(iter(children(part)), part)
    sender, subject = (words(field(message, key)) for key in ("from", "subject"))
    return f"Forwarded message\nFrom: {sender}\nSubject: {subject}\n\n{_words(message).text}".strip()
