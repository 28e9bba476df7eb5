"""HTML to the text that its reader sees: without what is hidden in it, history behind ">", tabs between cells."""

import re
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from mailagent.core.bodies import Words
from mailagent.core.clients import mark_of
from mailagent.core.errors import PermanentError

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


def words_of_html(html: str) -> Words:
    """The text that a reader of this HTML sees: lines for blocks, tabs between the cells of a row, ">" before what is
    in a blockquote or marked as history; nothing of what is hidden, since hidden words are not the writer's.

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
            page.text(node)
        elif page.open(node):
            todo.append(node.tag or "")
            todo.extend(reversed(list(node.iter(include_text=True))))
    return Words("\n".join(page.lines), page.marked)


def _nesting(html: str) -> int:
    """How deep the elements are open at most; those whose end may be left out are not counted."""
    depth = deepest = 0
    for end, name in _TAG.findall(html):
        if _NOT_NESTING(name):
            continue
        depth = max(depth - 1, 0) if end else depth + 1
        deepest = max(deepest, depth)
    return deepest


@dataclass(frozen=True, slots=True)
class _Within:
    """What is known of everything inside an element that is open."""

    painted: bool = False
    history: bool = False
    signature: bool = False
    layout: bool = False


class _Page:
    """The lines of text that a walk over HTML makes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.marked = False
        self._line: list[str] = []
        self._line_quotes = 0
        self._quotes = 0
        self._verbatim = 0
        self._rest = False
        self._lead: set[int] = set()
        """The nodes that stand in a wrapper around history, above and with its first blockquote: history too."""
        self._open = [_Within()]
        self._cells: list[int | None] = []
        """For each open row the number of cells so far; None for a row of a table that only lays out the page."""

    def open(self, node: LexborNode) -> bool:
        """An element begins; False when it is not shown, and nothing in it is."""
        tag, attributes = node.tag or "", node.attributes
        style = "".join((attributes.get("style") or "").lower().split())
        painted = self._open[-1].painted or "background" in style or "bgcolor" in attributes
        hidden = "hidden" in attributes or _HIDDEN.search(style) or (_WHITE.search(style) and not painted)
        if tag in _NOT_SHOWN or hidden:
            return False
        if tag in ("td", "th"):
            self._cell()
        elif _BLOCKS(tag):
            self._break()
        self._open.append(self._within(node, tag, painted))
        self._verbatim += tag == "pre"
        self._quotes += tag == "blockquote"
        if tag == "li":
            self._put("- ")
        elif tag == "br":
            self._break(blank=True)
        elif tag == "table" and self.lines and "\t" in self.lines[-1] and not self._in_row():
            self.lines.append("")  # or two tables would be one
        elif tag == "tr":
            self._cells.append(0 if self._is_data(node) else None)
        return True

    def close(self, tag: str) -> None:
        """An element that was opened ends."""
        if tag == "tr":
            self._cells.pop()
        if _BLOCKS(tag):
            self._break()
        if tag == "p":
            self._break(blank=True)
        self._open.pop()
        self._verbatim -= tag == "pre"
        self._quotes -= tag == "blockquote"

    def text(self, node: LexborNode) -> None:
        """Words begin."""
        self._add(node.text_content or "", history=node.mem_id in self._lead)

    def _within(self, node: LexborNode, tag: str, painted: bool) -> _Within:
        """What holds inside the element from here on."""
        above, mark = self._open[-1], mark_of(tag, node.attributes)
        history = above.history or mark == "history" or node.mem_id in self._lead
        if mark == "around" and not history:
            lead = _lead(node)
            self._lead |= lead
            history = not lead
        self._rest = self._rest or mark == "rest"
        self.marked = self.marked or history or self._rest
        layout = node.attributes.get("role") in ("presentation", "none") if tag == "table" else above.layout
        return _Within(painted, history, above.signature or mark == "signature", layout)

    def _is_data(self, row: LexborNode) -> bool:
        """True for a row of a table that holds data; one that lays out the page has one cell, or tables in it."""
        if self._open[-1].layout or self._open[-1].signature:
            return False
        return sum(child.tag in ("td", "th") for child in row.iter()) > 1 and row.css_first("table") is None

    def _add(self, text: str, history: bool = False) -> None:
        """Words, their space folded as a browser does, except in <pre>."""
        if self._verbatim and not self._in_row():
            first, *rest = text.replace("\r\n", "\n").split("\n")
            self._put(first, history)
            for line in rest:
                self._break(blank=True)
                self._put(line, history)
            return
        text = _SPACE.sub(" ", text)
        if not self._line or self._line[-1].endswith((" ", "\t")):
            text = text.lstrip(" ")
        if text:
            self._put(text, history)

    def _put(self, text: str, history: bool = False) -> None:
        self._line.append(text)
        self._line_quotes = max(self._line_quotes, self._depth(history))

    def _depth(self, history: bool = False) -> int:
        marked = history or self._rest or self._open[-1].history
        return min(max(self._quotes, int(marked)), _MAX_QUOTE_DEPTH)

    def _cell(self) -> None:
        if not self._in_row():
            self._break()
        elif self._cells[-1] is not None:
            if self._cells[-1]:
                self._put("\t")
            self._cells[-1] += 1

    def _in_row(self) -> bool:
        return bool(self._cells) and self._cells[-1] is not None

    def _break(self, blank: bool = False) -> None:
        """End the line; in the row of a table a line is not ended, and a blank line is made only if asked for."""
        if self._in_row():
            self._add(" ")
            return
        line = "".join(self._line).replace("\xa0", " ").replace(" \t", "\t").rstrip(" ")
        depth = self._line_quotes if line else self._depth()
        self._line, self._line_quotes = [], 0
        if line or (blank and self.lines and self.lines[-1].strip("> ")):
            quote = ">" * depth
            self.lines.append(f"{quote} {line}".strip(" ") if quote else line)


def _lead(wrapper: LexborNode) -> set[int]:
    """The children of a wrapper down to its first blockquote: what stands between it and the next was written there.

    Nothing without a blockquote: a forwarded message, all of it history."""
    lead: set[int] = set()
    for child in wrapper.iter(include_text=True):
        lead.add(child.mem_id)
        if child.tag == "blockquote":
            return lead
    return set()
