"""Header fields of a mail that may be hostile: cut, unfolded and decoded before anything costly meets them."""

import binascii
import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message
from email.policy import Compat32

MAX_FIELD = 8 * 1024
MAX_WORDS = 1_000
MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>")
"""A Message-ID that is safe to keep, compare and send on (RFC 5322 section 3.6.4): no space, no bracket inside."""
MISSING_ID = "@missing.invalid>"
"""How the Message-ID ends that parse gives to a mail without a usable one; it means nothing to anybody else."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters except tab and newline, and half surrogates, which no UTF-8 can hold."""

_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAILBOX = re.compile(r"(?P<name>(?:\"(?:[^\"\\]|\\.)*\"|[^\"<>@,;:\\])*)<(?P<address>[^<>]*)>")
_ROUGH_ADDRESS = re.compile(r"[^\s<>,;:\"'()\[\]@]{1,64}@[^\s<>,;:\"'()\[\]@]{1,255}")
_ENCODED_WORD = re.compile(r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]*)\?=")
_TEXT_CODEC = re.compile(
    r"ascii|utf-(8|16|32)(-[lb]e)?|utf-8-sig|iso8859-\d+|cp\d+|koi8-[rtu]|mac-\w+|shift_jis\w*|euc_\w+|gbk|gb\d+"
    r"|big5\w*|hz|iso2022_\w+|tis-620|johab|kz1048|ptcp154|hp-roman8"
)
_SUPERSET = {"iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}
"""What senders mean by the charset they declare (WHATWG Encoding Standard section 4.2)."""


class CutFields(Compat32):
    """compat32 with every field cut to 8 KB where it is read, and read as plain text where it is asked for.

    `policy.default` needs 27 s of CPU for one field of 1 MB and raises on hostile ones; this never parses a field."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Name and value of a field, the value cut."""
        name, value = super().header_source_parse(sourcelines)
        return name, value[:MAX_FIELD]

    def header_fetch_parse(self, name: str, value: str) -> str:  # noqa: ARG002
        """The value unfolded (RFC 5322 section 2.2.3), bytes beyond ASCII read as UTF-8 (RFC 6532), else as cp1252."""
        unfolded = value.replace("\r", "").replace("\n", "")
        if unfolded.isascii():
            return unfolded
        data = unfolded.encode("ascii", "surrogateescape")
        try:  # incremental, since the cut may have gone through a character
            return codecs.getincrementaldecoder("utf-8")().decode(data)
        except UnicodeDecodeError:
            return data.decode("cp1252", "replace")


def fields(message: Message, name: str) -> list[str]:
    """The values of every field of this name, topmost first."""
    return [str(value) for value in message.get_all(name, [])]


def field(message: Message, name: str) -> str:
    """The value of the topmost field of this name, "" without one."""
    return next(iter(fields(message, name)), "").strip()


def words(value: str) -> str:
    """A field for people to read (RFC 2047): encoded words decoded, controls and doubled space gone, cut."""
    return " ".join(CONTROL.sub(" ", decoded_words(value)).split())[:MAX_WORDS].strip()


def decoded_words(value: str) -> str:
    """The text with its encoded words decoded (RFC 2047 section 6.2: the space between two of them is not text)."""
    out: list[str] = []
    run, charset, end = b"", "", 0
    for match in _ENCODED_WORD.finditer(value):
        between = value[end : match.start()]
        if charset and (between.strip() or match[1].lower() != charset):
            out.append(_decoded(run, charset))
            run = b""
        if between.strip() or not charset:
            out.append(between)
        # Two words of one charset may share a character: their bytes are joined before they are decoded.
        run, charset, end = run + _word_bytes(match[2], match[3]), match[1].lower(), match.end()
    return "".join(out) + _decoded(run, charset) + value[end:]


def _word_bytes(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return data


def _decoded(data: bytes, charset: str) -> str:
    return decoded(data, charset) or data.decode("utf-8", "replace")


def decoded(data: bytes, charset: str) -> str | None:
    """The bytes in the declared charset; None when they are not in it, or when it is none that text may be in
    (idna, punycode, utf-7, base64 … are codecs too)."""
    codec = text_codec(charset)
    if not codec:
        return None
    try:
        return data.decode(codec)
    except (UnicodeError, LookupError):
        return None


def text_codec(charset: str) -> str:
    """The codec for a declared charset, "" for one that is unknown or not for text."""
    try:
        name = codecs.lookup(charset.strip().strip("\"'")[:40]).name
    except (LookupError, ValueError):
        return ""
    return _SUPERSET.get(name, name) if _TEXT_CODEC.fullmatch(name) else ""


def message_ids(value: str) -> tuple[str, ...]:
    """The Message-IDs in a field, as they come, each once."""
    return tuple(dict.fromkeys(MESSAGE_ID.findall(value)))


def mailbox(value: str) -> tuple[str, str]:
    """Display name and address of a field that must hold exactly one mailbox (RFC 5322 section 3.4).

    Raises ValueError, with the reason, for everything that two parsers could read in two ways."""
    bare = without_comments(value).strip()
    match = _MAILBOX.fullmatch(bare)
    if not match:
        return "", address(bare)
    one = address(match["address"].strip())
    name = words(re.sub(r"\\(.)|\"", r"\1", match["name"]))
    if any(other.lower() != one for other in _ROUGH_ADDRESS.findall(name)):
        raise ValueError("the display name holds another address")
    return name, one


def address(text: str) -> str:
    """The address in lower case, its domain in A-labels (RFC 5890). Raises ValueError when it is not a plain one."""
    local, _, domain = text.lower().rpartition("@")
    try:
        domain = ".".join(_a_label(label) for label in domain.split("."))
    except UnicodeError:
        raise ValueError("the domain cannot be written in ASCII") from None
    if len(local) > 64 or len(domain) > 253 or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise ValueError("not exactly one plain address")
    return f"{local}@{domain}"


def _a_label(label: str) -> str:
    # Not the codec "idna": it maps (RFC 3490) where the DNS of today does not (RFC 5891), "ß" to "ss".
    return label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")


def addresses(value: str) -> Iterator[str]:
    """The plain addresses in a field, whatever else stands in it."""
    with suppress(ValueError):
        value = without_comments(value)
    for rough in _ROUGH_ADDRESS.findall(re.sub(r'"(?:[^"\\]|\\.)*"', " ", value)):
        try:
            yield address(rough)
        except ValueError:
            continue


def without_comments(value: str) -> str:
    """A structured field without its comments (RFC 5322 section 3.2.2).

    Raises ValueError when a comment or a quoted string does not end."""
    out: list[str] = []
    depth, quoted, escaped = 0, False, False
    for c in value:
        if escaped:
            escaped = False
        elif c == "\\" and (depth or quoted):
            escaped = True
        elif c == '"' and not depth:
            quoted = not quoted
        elif c == "(" and not quoted:
            depth += 1
        elif c == ")" and depth:
            depth -= 1
            c = " "
        if not depth:
            out.append(c)
    if depth or quoted:
        raise ValueError("a comment or a quoted string does not end")
    return "".join(out)
