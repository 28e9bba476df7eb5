"""Mail bodies: bytes in any charset to text, HTML to text without what is hidden in it, own words apart from quoted."""

import re

import charset_normalizer
import quotequail
from selectolax.lexbor import LexborHTMLParser, LexborNode

from mailagent.core.errors import PermanentError
from mailagent.core.headers import CONTROL, decoded, text_codec

REPLY_MARKER = "-- reply above this line --"
"""The first line of every reply of ours, text and HTML: what stands below it in an answer is history."""

MAX_TEXT = 1_000_000
MAX_QUOTE_CHARS, MAX_QUOTE_LINES, MAX_QUOTE_LINE = 64 * 1024, 2_000, 1_000
"""What quotequail gets to see: 1 MB of "> " lines would keep it busy for more than 8 s."""

_SAMPLE = 64 * 1024
_MARKER = re.compile(r"[\s>|*_-]*reply above this line[\s*_-]*", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\n\r\f]+")

_NOT_SHOWN = frozenset({"script", "style", "head", "title", "template", "iframe", "object", "svg", "-comment", None})
_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|center|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6r]|header|li|main|nav|ol"
    "|p|pre|section|table|tbody|tfoot|thead|tr|ul"
).fullmatch
_HIDDEN = re.compile(
    r"display:none|visibility:(?:hidden|collapse)|(?:^|;)font-size:0(?![.]?[1-9])|(?:^|;)opacity:0(?![.]?[1-9])|mso-hide:all"
)
_WHITE = re.compile(r"(?:^|;)color:(?:white|transparent|#fff(?:fff)?|rgb\(255,255,255\))(?:;|!|$)")
_TAG = re.compile(r"<(/?)([a-z][a-z0-9:]*)", re.IGNORECASE)
_NOT_NESTING = re.compile(
    "area|base|body|br|col|colgroup|dd|dt|embed|head|hr|html|img|input|li|link|meta|option|p|source|tbody|td|tfoot|th"
    "|thead|tr|wbr",
    re.IGNORECASE,
).fullmatch
"""Elements that are empty, or whose end may be left out: many of them open are no depth."""

_MAX_QUOTE_DEPTH = 5
_MAX_NESTING = 1_000


def text_of(data: bytes, charset: str) -> str:
    """The bytes as text: in the declared charset, else UTF-8, else as guessed, else cp1252; newlines are "\\n"."""
    text = decoded(data, charset) if charset else None
    if text is None:
        text = decoded(data, "utf-8-sig")
    if text is None:
        guess = charset_normalizer.from_bytes(data[:_SAMPLE]).best()
        text = data.decode(text_codec(guess.encoding if guess else "") or "cp1252", "replace")
    return CONTROL.sub("", text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


def split_quoted(text: str) -> tuple[str, str]:
    """What the writer wrote now, and the history quoted with it; both cut to a million characters.

    Losing the writer's words is worse than leaving a quote: words below a quote are kept, and when nothing of their
    own is left, the whole text is theirs."""
    lines = _without_blank_ends(text).split("\n")
    at = next((n for n, line in enumerate(lines[:MAX_QUOTE_LINES]) if _MARKER.fullmatch(line[:MAX_QUOTE_LINE])), None)
    if at is None:
        own, quoted = _unquoted(lines)
    else:
        above, attribution = _unquoted(lines[:at])
        end = _end_of_history(lines, at)
        own, quoted = [*above, *lines[end:]], [*attribution, *lines[at:end]]
    words = "\n".join(own).strip()
    if not words:
        return "\n".join(lines)[:MAX_TEXT], ""
    return words[:MAX_TEXT], "\n".join(quoted).strip()[:MAX_TEXT]


def _without_blank_ends(text: str) -> str:
    """The text from its first line with words, the space before these kept: it may be an empty cell of a table."""
    words = text.lstrip()
    return text[text.rfind("\n", 0, len(text) - len(words)) + 1 :].rstrip()


def _end_of_history(lines: list[str], marker: int) -> int:
    """The line after the history that starts at the marker: where its ">" end, or the end of the mail without them."""
    if not lines[marker].lstrip().startswith(">"):
        return len(lines)
    rest = range(marker, len(lines))
    return next((n for n in rest if lines[n].strip() and not lines[n].lstrip().startswith(">")), len(lines))


def _unquoted(lines: list[str]) -> tuple[list[str], list[str]]:
    """Own lines and quoted lines by quotequail, which sees the first part only; the rest belongs to what it ends in."""
    seen = _head(lines)
    found = quotequail.unwrap("\n".join(line[:MAX_QUOTE_LINE] for line in seen))
    if not found:
        return lines, []
    top, bottom = (len(found[key].split("\n")) if found.get(key) else 0 for key in ("text_top", "text_bottom"))
    start = len(seen) - bottom if bottom else len(lines)
    return [*lines[:top], *lines[start:]], lines[top:start]


def _head(lines: list[str]) -> list[str]:
    """The lines quotequail may see, the last one not blank."""
    room, count = MAX_QUOTE_CHARS, 0
    for line in lines[:MAX_QUOTE_LINES]:
        room -= min(len(line), MAX_QUOTE_LINE) + 1
        if room < 0:
            break
        count += 1
    while count and not lines[count - 1].strip():
        count -= 1
    return lines[:count]


def text_of_html(html: str) -> str:
    """The text that a reader of this HTML sees: lines for blocks, tabs between the cells of a row, ">" before what is
    in a blockquote; nothing of what is hidden, since hidden words are not the writer's.

    Raises PermanentError for elements nested more than 1,000 deep: 300,000 keep the parser busy for half a minute."""
    if _nesting(html) > _MAX_NESTING:
        raise PermanentError("The mail's HTML is nested too deeply.")
    page, body = _Page(), LexborHTMLParser(html).body
    # Not by recursion: how deep the elements nest is the sender's choice.
    todo: list[LexborNode | str] = [body] if body else []
    while todo:
        node = todo.pop()
        if isinstance(node, str):
            page.close(node)
        elif node.tag == "-text":
            page.add(node.text_content or "")
        elif page.open(node):
            todo.append(node.tag or "")
            todo.extend(reversed(list(node.iter(include_text=True))))
    return "\n".join(page.lines)


def _nesting(html: str) -> int:
    """How deep the elements are open at most; those whose end may be left out are not counted."""
    depth = deepest = 0
    for end, name in _TAG.findall(html):
        if _NOT_NESTING(name):
            continue
        depth = max(depth - 1, 0) if end else depth + 1
        deepest = max(deepest, depth)
    return deepest


class _Page:
    """The lines of text that a walk over HTML makes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._line: list[str] = []
        self._quotes = 0
        self._verbatim = 0
        self._painted = [False]
        self._cells: list[int | None] = []
        """For each open row the number of cells so far; None for a row of a table that only lays out the page."""

    def open(self, node: LexborNode) -> bool:
        """An element begins; False when it is not shown, and nothing in it is."""
        tag, attributes = node.tag or "", node.attributes
        style = "".join((attributes.get("style") or "").lower().split())
        painted = self._painted[-1] or "background" in style or "bgcolor" in attributes
        hidden = "hidden" in attributes or _HIDDEN.search(style) or (_WHITE.search(style) and not painted)
        if tag in _NOT_SHOWN or hidden:
            return False
        self._painted.append(painted)
        if tag in ("td", "th"):
            self._cell()
        elif _BLOCKS(tag):
            self._break()
        self._verbatim += tag == "pre"
        self._quotes += tag == "blockquote"
        if tag == "li":
            self._line.append("- ")
        elif tag == "br":
            self._break(blank=True)
        elif tag == "tr":
            cells = sum(child.tag in ("td", "th") for child in node.iter())
            self._cells.append(0 if cells > 1 and node.css_first("table") is None else None)
        return True

    def close(self, tag: str) -> None:
        """An element that was opened ends."""
        self._painted.pop()
        if tag == "tr":
            self._cells.pop()
        if _BLOCKS(tag):
            self._break()
        if tag == "p":
            self._break(blank=True)
        self._verbatim -= tag == "pre"
        self._quotes -= tag == "blockquote"

    def add(self, text: str) -> None:
        """Words, their space folded as a browser does, except in <pre>."""
        if self._verbatim and not self._in_row():
            first, *rest = text.replace("\r\n", "\n").split("\n")
            self._line.append(first)
            for line in rest:
                self._break(blank=True)
                self._line.append(line)
            return
        text = _SPACE.sub(" ", text)
        if not self._line or self._line[-1].endswith((" ", "\t")):
            text = text.lstrip(" ")
        if text:
            self._line.append(text)

    def _cell(self) -> None:
        if not self._in_row():
            self._break()
        elif self._cells[-1] is not None:
            if self._cells[-1]:
                self._line.append("\t")
            self._cells[-1] += 1

    def _in_row(self) -> bool:
        return bool(self._cells) and self._cells[-1] is not None

    def _break(self, blank: bool = False) -> None:
        """End the line; in the row of a table a line is not ended, and a blank line is made only if asked for."""
        if self._in_row():
            self.add(" ")
            return
        line = "".join(self._line).replace("\xa0", " ").replace(" \t", "\t").rstrip(" ")
        self._line = []
        if line or (blank and self.lines and self.lines[-1].strip("> ")):
            quote = ">" * min(self._quotes, _MAX_QUOTE_DEPTH)
            self.lines.append(f"{quote} {line}".strip(" ") if quote else line)
