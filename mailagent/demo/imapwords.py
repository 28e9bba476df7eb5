"""The words of IMAP for the demo's mail server: commands parsed, messages chosen, searched and shown (RFC 3501)."""

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from email.parser import BytesHeaderParser
from imaplib import Time2Internaldate

from mailagent.demo.mailstore import Mail

Token = bytes | list["Token"]

_TOKEN = re.compile(
    rb'"(?P<quoted>(?:[^"\\]|\\.)*)"'
    rb"|\{(?P<size>\d+)\+?\}\r\n"
    rb"|(?P<open>\()|(?P<close>\))"
    rb'|(?P<atom>(?:[^\s()"\[{]|\[[^\]]*\])+)'  # BODY[HEADER.FIELDS (TO CC)]<0.9> is one atom here
)
_SECTION = re.compile(
    r"BODY(?P<peek>\.PEEK)?\[(?P<part>TEXT|HEADER(?P<fields>\.FIELDS(?P<no>\.NOT)? \((?P<names>[^)]*)\))?|)\]"
    r"(?:<(?P<first>\d+)\.(?P<count>\d+)>)?"
)
_OLD_NAMES = {"RFC822": "BODY[]", "RFC822.HEADER": "BODY.PEEK[HEADER]", "RFC822.TEXT": "BODY[TEXT]"}
_FIELD = re.compile(rb"[^\r\n]+\r\n(?:[ \t][^\r\n]*\r\n)*")


class Refusal(Exception):
    """The tagged answer, NO or BAD, that ends a command."""


def parse(command: bytes) -> list[Token]:
    """The words of a command with its literals in it, parentheses as lists (RFC 3501 section 4). Raises Refusal."""
    stack: list[list[Token]] = [[]]
    command, at = command.removesuffix(b"\n").removesuffix(b"\r"), 0
    while at < len(command):
        if command[at : at + 1] == b" ":
            at += 1
            continue
        match = _TOKEN.match(command, at)
        if not match or (match["close"] and len(stack) == 1):
            raise Refusal("BAD this is not a command")
        at = match.end()
        if match["open"]:
            stack.append([])
        elif match["close"]:
            inner = stack.pop()
            stack[-1].append(inner)
        elif match["size"]:
            stack[-1].append(command[at : at + int(match["size"])])
            at += int(match["size"])
        elif match["quoted"] is not None:
            stack[-1].append(re.sub(rb"\\(.)", rb"\1", match["quoted"]))
        else:
            stack[-1].append(match["atom"])
    if len(stack) > 1:
        raise Refusal("BAD a parenthesis is missing")
    return stack[0]


def text(token: Token) -> str:
    """The token as a string, byte for byte. Raises Refusal for a list."""
    if isinstance(token, list):
        raise Refusal("BAD a list where a string should be")
    return token.decode("latin-1")


def listed(token: Token) -> list[str]:
    """The members of a parenthesised list, or the one that stands without parentheses."""
    return [text(item) for item in (token if isinstance(token, list) else [token])]


def quoted(name: str) -> str:
    """The name as a quoted string."""
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def flag(name: str) -> str:
    r"""A flag in the case it is kept in: \SEEN is \Seen, keywords stay as they are."""
    return "\\" + name[1:].capitalize() if name.startswith("\\") else name


def choose(view: Sequence[Mail], which: str, *, by_uid: bool) -> list[tuple[int, Mail]]:
    """Sequence numbers and mails of a sequence set, which counts UIDs or sequence numbers (RFC 3501 section 9)."""
    counted = [(mail.uid if by_uid else number, number, mail) for number, mail in enumerate(view, 1)]
    highest = counted[-1][0] if counted else 0
    ranges = [sorted(highest if end == "*" else int(end) for end in part.split(":")) for part in which.split(",")]
    return [(number, mail) for n, number, mail in counted if any(r[0] <= n <= r[-1] for r in ranges)]


def search(view: Sequence[Mail], keys: list[Token]) -> set[Mail]:
    """The mails that fit all of these keys (RFC 3501 section 6.4.4); uses `keys` up. Raises Refusal."""
    found = set(view)
    while keys:
        found &= _fitting(view, keys)
    return found


def _fitting(view: Sequence[Mail], keys: list[Token]) -> set[Mail]:
    key = keys.pop(0)
    if isinstance(key, list):
        return search(view, list(key))
    match name := text(key).upper():
        case "ALL":
            return set(view)
        case "NOT":
            return set(view) - _fitting(view, keys)
        case "OR":
            return _fitting(view, keys) | _fitting(view, keys)
        case "UID":
            return {mail for _, mail in choose(view, text(keys.pop(0)), by_uid=True)}
        case "HEADER":
            return _with_header(view, text(keys.pop(0)), text(keys.pop(0)))
        case "FROM" | "TO" | "CC" | "SUBJECT":
            return _with_header(view, name, text(keys.pop(0)))
        case "SINCE" | "BEFORE" | "ON":
            return _dated(view, name, datetime.strptime(text(keys.pop(0)), "%d-%b-%Y").date())
        case "KEYWORD" | "UNKEYWORD":
            return _flagged(view, text(keys.pop(0)), wanted=name == "KEYWORD")
        case _:
            return _by_name(view, name)


def _by_name(view: Sequence[Mail], name: str) -> set[Mail]:
    if (system := name.removeprefix("UN")) in ("ANSWERED", "FLAGGED", "DELETED", "SEEN", "DRAFT"):
        return _flagged(view, "\\" + system, wanted=system == name)
    if re.fullmatch(r"[\d:*,]+", name):
        return {mail for _, mail in choose(view, name, by_uid=False)}
    raise Refusal(f"BAD the search key {name} is not known here")


def _with_header(view: Sequence[Mail], name: str, part: str) -> set[Mail]:
    def has(mail: Mail) -> bool:
        values = BytesHeaderParser().parsebytes(mail.data[: header_end(mail.data)]).get_all(name, [])
        return any(part.lower() in re.sub(r"\r?\n", "", str(value)).lower() for value in values)

    return {mail for mail in view if has(mail)}


def _dated(view: Sequence[Mail], key: str, day: date) -> set[Mail]:
    fits: dict[str, Callable[[date], bool]] = {"SINCE": day.__le__, "BEFORE": day.__gt__, "ON": day.__eq__}
    return {mail for mail in view if fits[key](mail.at.date())}


def _flagged(view: Sequence[Mail], name: str, *, wanted: bool) -> set[Mail]:
    return {mail for mail in view if (name.lower() in {f.lower() for f in mail.flags}) == wanted}


def header_end(data: bytes) -> int:
    """Where the header section ends, the empty line not included (RFC 5322 section 2.1)."""
    if data.startswith(b"\r\n"):
        return 0
    end = data.find(b"\r\n\r\n")
    return len(data) if end < 0 else end + 2


def header_fields(data: bytes) -> list[bytes]:
    """The header fields, each with its folded lines (RFC 5322 section 2.2.3)."""
    return _FIELD.findall(data[: header_end(data)])


def field_name(field: bytes) -> str:
    """The name of a header field, in lower case."""
    return field.partition(b":")[0].strip().lower().decode("latin-1")


def reads(item: str) -> bool:
    r"""True for a FETCH item that sets \Seen."""
    return _OLD_NAMES.get(item, item).startswith("BODY[")


def show(mail: Mail, item: str) -> bytes:
    """A FETCH item, in upper case, with its value for this mail (RFC 3501 section 7.4.2). Raises Refusal."""
    match item:
        case "UID":
            return b"UID %d" % mail.uid
        case "FLAGS":
            return f"FLAGS ({' '.join(sorted(mail.flags))})".encode("latin-1")
        case "RFC822.SIZE":
            return b"RFC822.SIZE %d" % len(mail.data)
        case "INTERNALDATE":
            return b"INTERNALDATE " + Time2Internaldate(mail.at).encode()
        case _:
            return _show_section(mail, item)


def _show_section(mail: Mail, item: str) -> bytes:
    section = _SECTION.fullmatch(_OLD_NAMES.get(item, item))
    if not section:
        raise Refusal(f"BAD the item {item} is not known here")
    data, origin = _part(mail.data, section), ""
    if section["first"]:
        first, count = int(section["first"]), int(section["count"])
        data, origin = data[first : first + count], f"<{first}>"
    name = item if item in _OLD_NAMES else f"BODY[{section['part']}]{origin}"
    return b"%b {%d}\r\n%b" % (name.encode("latin-1"), len(data), data)


def _part(data: bytes, section: re.Match[str]) -> bytes:
    end = header_end(data)
    if section["fields"]:
        names = set(section["names"].replace('"', "").lower().split())
        fields = [field for field in header_fields(data) if (field_name(field) in names) != bool(section["no"])]
        return b"".join(fields) + b"\r\n"
    return {"": data, "HEADER": data[: end + 2], "TEXT": data[end + 2 :]}[section["part"]]
