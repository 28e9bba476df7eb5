"""The answer: Markdown read once, its charts, tables and links resolved to what goes along, and shown as HTML."""

import re
from collections.abc import Iterator, MutableMapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from mailagent.core.enclosures import Enclosures, png_width
from mailagent.core.plain import one_line, readable
from mailagent.core.tables import are_figures, as_html, shown, table_note

CONTENT_WIDTH = 592
"""Pixels between the margins of reply.html."""

_MAX_DEPTH = 16
_MAX_CELLS = 20_000
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?(?::\d{1,5})?")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,250}")
_TEXT_TAGS = {"p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "code", "pre", "blockquote"}
_OTHER_TAGS = {"ul", "ol", "li", "a", "img", "span", "div"}
_TABLE_TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
_ATTRIBUTES = {
    "a": {"href"},
    "img": {"src", "alt", "width", "class"},
    "ol": {"start"},
    "th": {"scope", "align"},
    "td": {"align"},
    "table": {"class"},
    "p": {"class"},
    "div": {"class"},
    "span": {"class"},
}


class _Html(RendererHTML):
    """CommonMark as HTML, and the tokens that `read_answer` adds."""

    def chart(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        image, token = tokens[idx].meta["image"], tokens[idx]
        pixels = min(png_width(image.data) or CONTENT_WIDTH, CONTENT_WIDTH)
        return f'<img class="chart" src="cid:{image.content_id}" alt="{escape(token.content)}" width="{pixels}">'

    def data_table(self, tokens: Sequence[Token], idx: int, _: OptionsDict, env: MutableMapping[str, Any]) -> str:
        table, name = tokens[idx].meta["table"], tokens[idx].meta["name"]
        rows = min(env["rows"], len(table.rows))
        note = table_note(table, rows, len(table.header), name)
        html = as_html(table, tokens[idx].content, rows)
        return f'<div class="scroll">{html}</div><p class="note">{escape(note)}</p>'

    def note(self, tokens: Sequence[Token], idx: int, *_: object) -> str:
        return f'<span class="note">{escape(tokens[idx].content)}</span>'

    host = note

    def table_open(self, *_: object) -> str:
        return '<div class="scroll"><table class="data">'

    def table_close(self, *_: object) -> str:
        return "</table></div>"


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Html)
_WITH_TABLES = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Html).enable("table")


def read_answer(markdown: str, enclosures: Enclosures) -> list[Token]:
    """The answer's tokens (CommonMark and tables) after charts, tables and files were taken from `enclosures`.

    Beside markdown-it's own tokens there are `chart` and `data_table` (meta holds the Image and the Table), `note` for
    what is missing, and `host` after a link (meta holds its address); links lead to https and mailto alone.
    """
    tokens = (_WITH_TABLES if _cells(markdown) <= _MAX_CELLS else _MARKDOWN).parse(markdown)
    _align_tables(tokens)
    resolved: list[Token] = []
    for token in tokens:
        if token.type == "paragraph_close" and resolved[-1].type == "data_table":
            continue
        if token.type == "inline":
            table = _data_table(token, enclosures) if resolved[-1].type == "paragraph_open" else None
            if table:
                resolved[-1] = table
                continue
            token.children = _shallow(_resolve(token.children or [], enclosures))
        resolved.append(token)
    return resolved


def to_html(tokens: list[Token], rows: int) -> str:
    """The tokens as HTML, tables with at most `rows` rows: only known tags, no style, no picture but those attached."""
    html = str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {"rows": rows}))
    sources = {
        f"cid:{child.meta['image'].content_id}"
        for token in tokens
        for child in token.children or []
        if child.type == "chart"
    }

    def attribute(tag: str, name: str, value: str) -> str | None:
        return value if (tag, name) != ("img", "src") or value in sources else None

    return nh3.clean(
        readable(html),
        tags=_TEXT_TAGS | _OTHER_TAGS | _TABLE_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=attribute,
        url_schemes={"https", "mailto", "cid"},
        url_relative="deny",
        link_rel="noopener noreferrer",
    )


def _cells(markdown: str) -> int:
    """How many cells the tables of an answer can have: short rows are filled up, few bytes can make millions."""
    blocks = (block.split("\n") for block in markdown.split("\n\n"))
    return sum(len(lines) * max(line.count("|") for line in lines) for lines in blocks)


def _data_table(inline: Token, enclosures: Enclosures) -> Token | None:
    """The table that stands for a link alone in its paragraph, None when this is none."""
    children = inline.children or []
    if len(children) < 2 or children[0].type != "link_open" or children[-1].type != "link_close":
        return None
    if any(child.type not in ("text", "code_inline") for child in children[1:-1]):
        return None
    path = enclosures.find(str(children[0].attrGet("href")))
    table = enclosures.table(path) if path else None
    if path is None or table is None:
        return None
    title = one_line("".join(child.content for child in children[1:-1]), 200)
    return Token(
        "data_table", "", 0, content=title, block=True, meta={"table": shown(table), "name": enclosures.attach(path)}
    )


def _resolve(children: list[Token], enclosures: Enclosures) -> Iterator[Token]:
    """Inline tokens with charts and links made real; links cannot nest (CommonMark 6.3)."""
    after: list[Token] = []
    start = 0
    for index, token in enumerate(children):
        match token.type:
            case "image":
                yield _chart(token, enclosures)
            case "link_open":
                start = index
                target, after = _target(str(token.attrGet("href")), enclosures)
                if target:
                    yield Token("link_open", "a", 1, attrs={"href": target})
            case "link_close":
                text = "".join(child.content for child in children[start + 1 : index])
                yield from _link_end(text, after)
            case _:
                yield token


def _link_end(text: str, after: list[Token]) -> Iterator[Token]:
    for token in after:
        # A bare address shows its host already; a text that only looks like one does not.
        if token.type != "host" or token.meta["address"] != text:
            yield token


def _target(href: str, enclosures: Enclosures) -> tuple[str, list[Token]]:
    """Where a link leads, "" for nowhere, and what is said after its text: the host, or the name of the attachment."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return "", []
    match parts.scheme:
        case "https" if _HOST.fullmatch(parts.netloc.lower()):
            return href, _ended(href, parts.netloc.lower())
        case "mailto" if _ADDRESS.fullmatch(parts.path):
            return f"mailto:{parts.path}", _ended(parts.path, parts.path)
        case "" if parts.path and not parts.netloc:
            path = enclosures.find(href)
            name = enclosures.attach(path) if path else None
            return "", [_note(f" ({name}, attached)" if name else " (file left out)" if path else " (file missing)")]
        case _:
            return "", []


def _ended(address: str, host: str) -> list[Token]:
    meta = {"address": address}
    return [Token("link_close", "a", -1, meta=meta), Token("host", "", 0, content=f" ({host})", meta=meta)]


def _chart(token: Token, enclosures: Enclosures) -> Token:
    alt = one_line(_alt(token), 300) or "Chart"
    path = enclosures.find(str(token.attrGet("src")))
    image = enclosures.chart(path, alt) if path else None
    return Token("chart", "", 0, content=alt, meta={"image": image}) if image else _note(f"{alt} (chart missing)")


def _alt(token: Token) -> str:
    text = "".join(" " if child.type in ("softbreak", "hardbreak") else child.content for child in token.children or [])
    # HTML leaves these bare in attributes (section 13.3); filters on the way might take them for tags.
    return text.replace("<", "‹").replace(">", "›")


def _note(text: str) -> Token:
    return Token("note", "", 0, content=text)


def _shallow(tokens: Iterator[Token]) -> list[Token]:
    """The tokens without emphasis nested deeper than anybody writes: nothing downstream has to bear it."""
    kept, depth = [], 0
    for token in tokens:
        if token.type in ("em_open", "strong_open"):
            depth += 1
        if token.type not in ("em_open", "strong_open", "em_close", "strong_close") or depth <= _MAX_DEPTH:
            kept.append(token)
        if token.type in ("em_close", "strong_close"):
            depth -= 1
    return kept


def _align_tables(tokens: list[Token]) -> None:
    """Give header cells their scope, and set columns of figures right unless the answer says otherwise."""
    cells: dict[int, list[Token]] = {}
    column = 0
    for index, token in enumerate(tokens):
        match token.type:
            case "table_open":
                cells = {}
            case "tr_open":
                column = 0
            case "th_open" | "td_open":
                cells.setdefault(column, []).extend(tokens[index : index + 2])
                column += 1
            case "table_close":
                for opened in cells.values():
                    _align_column(opened[::2], [text.content.strip("*_` ") for text in opened[3::2]])
            case _:
                pass


def _align_column(opened: list[Token], texts: list[str]) -> None:
    style = str(opened[0].attrGet("style") or "").removeprefix("text-align:")
    align = style or ("right" if are_figures(texts) else "")
    for token in opened:
        token.attrs = {"align": align} if align else {}
        if token.type == "th_open":
            token.attrs["scope"] = "col"
