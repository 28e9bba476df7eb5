"""The text part: the tokens of an answer as plain text that reads well in a fixed-width font."""

import textwrap

from markdown_it.token import Token

from mailagent.core.plain import readable, width
from mailagent.core.tables import Table, as_text, table_note

WIDTH = 76
_INDENT = "    "
_MAX_TABLE_ROWS = 100


def to_text(tokens: list[Token]) -> str:
    """The tokens of `answer.read_answer` as text: wrapped, links with address, tables aligned, charts by their alt."""
    page = _Page()
    for index, token in enumerate(tokens):
        match token.type:
            case "inline" if not page.in_table:
                page.text(_inline(token), tokens[index - 1])
            case "inline":
                page.cell(_inline(token), tokens[index - 1])
            case "data_table":
                page.table(token.content, token.meta["table"], token.meta["name"])
            case "code_block" | "fence":
                page.block([_INDENT + line for line in token.content.splitlines()])
            case "hr":
                page.block(["-" * 20])
            case _:
                page.structure(token)
    return readable("\n".join(page.lines)).strip("\n") + "\n"


class _Page:
    """Lines as they grow, the prefixes of the lists and quotes that are open, and the table that is being read."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.in_table = False
        self._prefixes: list[tuple[str, str, str]] = []
        """Of each open list item or quote: what stands before its first line, its next lines, an empty line above."""
        self._numbers: list[int | None] = []
        self._gap = False
        self._rows: list[list[str]] = []
        self._figures: list[bool] = []

    def structure(self, token: Token) -> None:
        match token.type:
            case "bullet_list_open":
                self._numbers.append(None)
            case "ordered_list_open":
                self._numbers.append(int(token.attrGet("start") or 1))
            case "bullet_list_close" | "ordered_list_close":
                self._numbers.pop()
                self._gap = self._gap or not self._numbers
            case "list_item_open":
                self._prefixes.append(self._item())
            case "blockquote_open":
                self._prefixes.append(("> ", "> ", ""))
            case "list_item_close" | "blockquote_close":
                self._prefixes.pop()
            case "table_open":
                self.in_table, self._rows, self._figures = True, [], []
            case "tr_open":
                self._rows.append([])
            case "table_close":
                self.in_table = False
                self._markdown_table()
            case _:
                pass

    def text(self, text: str, opened: Token) -> None:
        lines = [line for part in text.split("\n") for line in self._wrap(part)]
        if opened.type == "heading_open" and lines:
            mark = "=" if opened.tag == "h1" else "-"
            lines.append(mark * max(3, *map(width, lines)))
        self.block(lines, tight=opened.hidden)

    def cell(self, text: str, opened: Token) -> None:
        if len(self._rows) == 1:
            self._figures.append(opened.attrGet("align") == "right")
        self._rows[-1].append(text.replace("\n", " "))

    def table(self, title: str, table: Table, name: str | None = "") -> None:
        lines, columns = as_text(table)
        note = table_note(table, len(table.rows), columns, name)
        self.block([*([title, ""] if title else []), *lines, *([note] if note else [])])

    def block(self, lines: list[str], *, tight: bool = False) -> None:
        """Add lines under the open prefixes, with an empty line before unless the list is a tight one."""
        if not lines:
            return
        if self._gap and self.lines:
            self.lines.append("".join(empty for _, _, empty in self._prefixes).rstrip())
        for line in lines:
            self.lines.append(("".join(first for first, _, _ in self._prefixes) + line).rstrip())
            self._prefixes = [(rest, rest, rest) for _, rest, _ in self._prefixes]
        self._gap = not tight

    def _item(self) -> tuple[str, str, str]:
        number = self._numbers[-1]
        bullet = "- " if number is None else f"{number}. "
        if number is not None:
            self._numbers[-1] = number + 1
        return bullet, " " * len(bullet), ""

    def _wrap(self, text: str) -> list[str]:
        room = max(20, WIDTH - sum(len(rest) for _, rest, _ in self._prefixes))
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)

    def _markdown_table(self) -> None:
        header, *rows = (tuple(row) for row in self._rows[: _MAX_TABLE_ROWS + 1])
        self.table("", Table(header, tuple(rows), tuple(self._figures), len(self._rows) - 1, len(header)))


def _inline(token: Token) -> str:
    text = ""
    for child in token.children or []:
        match child.type:
            case "text" | "code_inline" | "note":
                text += child.content
            case "softbreak":
                text += " "
            case "hardbreak":
                text += "\n"
            case "chart":
                text += f"[chart: {child.content}]"
            case "link_close" if not text.endswith(child.meta["address"]):
                text += f" <{child.meta['address']}>"
    return text
