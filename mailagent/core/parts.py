"""A message's bytes as the tree of its parts, read within limits; forwarded messages are opened where encoded."""

import binascii
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32

from mailagent.core.errors import PermanentError
from mailagent.core.headers import CutFields, decoded, decoded_words, field

MAX_HEADER = 64 * 1024
MAX_PARTS = 100
MAX_DEPTH = 20

_HEADER_ENDS = re.compile(rb"\n\r?\n")
_FIELD = re.compile(rb"[\x21-\x39\x3b-\x7e]{1,100}:")


def header_of(raw: bytes) -> bytes:
    """The header of a message, the empty line after it included."""
    end = _HEADER_ENDS.search(b"\n" + raw)
    return raw[: end.end() - 1] if end else raw


class Reader:
    """Reads one mail, and the messages encoded in it, with one limit on the number of parts."""

    def __init__(self) -> None:
        self._policy = CutFields()
        self._count = -1  # the mail itself is none of its parts

    def read(self, raw: bytes) -> Message:
        """The message. PermanentError for more than 64 KB of header or too many parts."""
        if len(raw) > MAX_HEADER and not _HEADER_ENDS.search(b"\n" + raw[: MAX_HEADER + 2]):
            # before it parses: 36 MB of fields take the parser its 20 s
            raise PermanentError(f"The mail's header has more than {MAX_HEADER // 1024} KB.")
        self._count -= 1  # the parser makes one message more, to try the function out
        return BytesParser(self._part, policy=self._policy).parsebytes(raw)

    def parts(self, part: Message, depth: int = 0) -> Iterator[tuple[Message, bool]]:
        """Every part and whether it is a leaf, forwarded messages included.

        message/partial and message/external-body (RFC 2046 section 5.2) say what is not here: they are passed over."""
        if depth > MAX_DEPTH:
            raise PermanentError(f"The mail's parts are nested more than {MAX_DEPTH} deep.")
        self._open(part)
        yield part, not part.is_multipart()
        if part.get_content_maintype() == "multipart" or is_message(part):
            for child in children(part):
                yield from self.parts(child, depth + 1)

    def _part(self, policy: Compat32 | None = None) -> Message:
        self._count += 1
        if self._count > MAX_PARTS:  # while it parses: 100,000 parts take the parser 11 s, 2,000 levels its stack
            raise PermanentError(f"The mail has more than {MAX_PARTS} parts.")
        return Message(policy=policy or self._policy)

    def _open(self, part: Message) -> None:
        """Make a message/rfc822 part of one that holds a message in base64, which RFC 2046 section 5.2.1 forbids and
        some senders do, or as a file called .eml."""
        data = _encoded_message(part)
        if not _FIELD.match(data):
            return
        part.set_payload([self.read(data)])
        del part["content-transfer-encoding"], part["content-type"]
        part["Content-Type"] = "message/rfc822"


def _encoded_message(part: Message) -> bytes:
    if is_message(part):
        inner = next(iter(children(part)), part)
        text = inner.get_payload()
        if inner.keys() or not isinstance(text, str) or field(part, "content-transfer-encoding").lower() != "base64":
            return b""
        try:
            return binascii.a2b_base64(text.encode("ascii", "ignore"))
        except binascii.Error:
            return b""
    is_file = part.get_content_type() == "application/octet-stream" and not part.is_multipart()
    return data_of(part) if is_file and file_name(part).lower().endswith(".eml") else b""


def is_message(part: Message) -> bool:
    """True for a forwarded message (RFC 2046 section 5.2.1, RFC 6532 section 3.7)."""
    return part.get_content_type() in ("message/rfc822", "message/global")


def children(part: Message) -> list[Message]:
    """The parts directly inside."""
    payload = part.get_payload()
    return [child for child in payload if isinstance(child, Message)] if isinstance(payload, list) else []


def is_body(part: Message) -> bool:
    """True for words; also for a multipart whose boundary never comes: its words are there all the same."""
    shown = part.get_content_type() in ("text/plain", "text/html") or part.get_content_maintype() == "multipart"
    return shown and part.get_content_disposition() != "attachment" and not file_name(part)


def file_name(part: Message) -> str:
    """The name as the sender wrote it (RFC 2183, RFC 2231; RFC 2047 too, since most senders use that)."""
    for parameter, name in (("filename", "content-disposition"), ("name", "content-type")):
        value = part.get_param(parameter, header=name)
        if isinstance(value, tuple):
            data = value[2].encode("latin-1", "replace")
            return decoded(data, value[0] or "utf-8") or data.decode("utf-8", "replace")
        if value:
            return decoded_words(str(value))
    return ""


def data_of(part: Message) -> bytes:
    """The bytes of a leaf, its transfer encoding undone."""
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""
