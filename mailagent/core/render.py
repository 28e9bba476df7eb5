"""Rendering: an Outcome becomes a Reply, the same answer as text and as HTML, with its charts, tables and files."""

import textwrap
from base64 import b64encode
from dataclasses import dataclass
from html import escape

import css_inline
from jinja2 import Environment, StrictUndefined, TemplateError
from markdown_it.token import Token
from markupsafe import Markup

from mailagent.core.answer import read_answer, to_html
from mailagent.core.enclosures import SCRIPT, Enclosures
from mailagent.core.errors import ConfigError
from mailagent.core.facts import fact_faults, fill, read_facts
from mailagent.core.plain import one_line
from mailagent.core.tables import SHOWN_ROWS
from mailagent.core.textpart import WIDTH, to_text
from mailagent.core.values import Image, Outcome, OutFile, Reply

MAX_HTML = 90_000
"""Bytes; webmail cuts off what is longer than about 100 kB."""
MAX_ANSWER = 40_000
MAX_SOURCE = 2 * MAX_ANSWER
"""Of the answer as the agent wrote it, before its figures are filled in."""
_MAX_PLAIN = 10_000
_ANSWER = "answer.md"
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Style:
    """The look of a reply: the texts of config/reply.html (jinja2) and config/reply.css."""

    template: str
    css: str


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the answer: marker above it, then what it answers, how it was made, warnings and notice."""

    marker: str
    quoted: str
    made: str
    warnings: tuple[str, ...]
    notice: str


def render(outcome: Outcome, style: Style, *, notice: str = "", quoted_intro: str = "", marker: str = "") -> Reply:
    """The reply to an outcome, a function of its arguments alone; hostile answers and files only ever show as text.

    `marker` is the first line of both parts (replies are cut there), `quoted_intro` the words that are answered, shown
    in short below the answer, `notice` the last line. Content-IDs are without angle brackets. Raises ConfigError when
    the style cannot be used.
    """
    facts_file = next((file.data for file in outcome.files if file.path == "facts.jsonl"), b"")
    facts = read_facts(facts_file)
    filled = fill(outcome.answer[:MAX_SOURCE], facts)
    whole = filled.text + outcome.answer[MAX_SOURCE:]
    enclosures = Enclosures((*outcome.files, OutFile(_ANSWER, whole.encode(errors="replace"))))
    script = enclosures.attach(SCRIPT) if enclosures.find(SCRIPT) else None
    tokens = read_answer(_cut(whole, MAX_ANSWER, f"all of it is in {_ANSWER}"), enclosures)
    if len(whole) > MAX_ANSWER:
        enclosures.attach(_ANSWER)
    for path in enclosures.names("attachments"):
        enclosures.attach(path)
    frame = _Frame(
        marker=one_line(marker, 200),
        quoted=one_line(quoted_intro, 300),
        made=_made(script, len(facts)),
        warnings=_warnings(filled.unresolved, fact_faults(facts_file), enclosures),
        notice=one_line(notice, 500),
    )
    text = _cut(to_text(tokens), 2 * MAX_ANSWER)
    return Reply(
        text=_text_page(text, frame),
        html=_html_page(tokens, text, enclosures.images, style, frame),
        images=enclosures.images,
        attachments=tuple(sorted(enclosures.attachments, key=lambda file: file.name == script)),
    )


def standalone(reply: Reply) -> str:
    """The reply's HTML with its charts inside (RFC 2397): one file that opens in a browser."""
    # Browsers look for the charset in the first kilobyte (HTML, section 4.2.5.4), where css-inline puts the rules.
    html = reply.html.replace("<head>", '<head><meta charset="utf-8">', 1)
    for image in reply.images:
        html = html.replace(
            f'src="cid:{image.content_id}"', f'src="data:image/png;base64,{b64encode(image.data).decode()}"'
        )
    return html


def _html_page(tokens: list[Token], text: str, images: tuple[Image, ...], style: Style, frame: _Frame) -> str:
    """The page with as many table rows as a mail holds; an answer too big even without them is shown as text."""
    for rows in (SHOWN_ROWS, SHOWN_ROWS // 2, 3, 0):
        body = to_html(tokens, rows)
        if len(body) <= MAX_HTML and len((page := _page(body, style, frame)).encode()) <= MAX_HTML:
            return page
    charts = "".join(
        f'<p><img class="chart" src="cid:{image.content_id}" alt="{escape(image.alt)}" width="592"></p>'
        for image in images
    )
    return _page(f'<pre class="plain">{escape(_cut(text, _MAX_PLAIN), quote=False)}</pre>{charts}', style, frame)


def _page(body: str, style: Style, frame: _Frame) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    try:
        # Both are ours or cleaned: the style sheet is the operator's, the body went through nh3 or escape.
        page = environment.from_string(style.template).render(
            css=Markup(style.css),  # noqa: S704
            body=Markup(body),  # noqa: S704
            frame=frame,
        )
        return css_inline.inline(page, load_remote_stylesheets=False, keep_at_rules=True)
    except (TemplateError, css_inline.InlineError) as error:
        raise ConfigError(
            f"reply.html or reply.css cannot be used: {error}; mend it or take the one that is shipped"
        ) from error


def _text_page(text: str, frame: _Frame) -> str:
    quoted = "You wrote:\n" + _wrapped(frame.quoted, "> ") if frame.quoted else ""
    foot = "\n".join(_wrapped(line, "") for line in (frame.made, *frame.warnings, frame.notice) if line)
    parts = (frame.marker, text.strip("\n"), quoted, f"{'-' * 20}\n{foot}" if foot else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def _wrapped(line: str, prefix: str) -> str:
    return textwrap.fill(
        line, WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False, break_on_hyphens=False
    )


def _made(script: str | None, figures: int) -> str:
    count = f"{figures:,} figure{'s' * (figures != 1)} computed"
    if script:
        return f"How this was made: {script} (attached), {count}."
    return f"How this was made: {count}; there is no script." if figures else ""


def _warnings(unresolved: tuple[str, ...], faults: tuple[str, ...], enclosures: Enclosures) -> tuple[str, ...]:
    left_out = [f"{file.name} ({file.reason})" for file in enclosures.left_out]
    warnings = {
        "No figure was computed for": ", ".join(_first(unresolved)),
        "Not readable in facts.jsonl": "; ".join(_first(faults)),
        "Left out": "; ".join(_first(left_out)),
    }
    return tuple(f"{title}: {what}." for title, what in warnings.items() if what)


def _first(names: tuple[str, ...] | list[str]) -> list[str]:
    more = [f"and {len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return [one_line(name, 160) for name in names[:_NAMED]] + more


def _cut(text: str, limit: int, rest: str = "cut here") -> str:
    if len(text) <= limit:
        return text
    end = text.rfind("\n", limit // 2, limit)
    return text[: end if end > 0 else limit] + f"\n\n(Too long for a mail: {rest}.)\n"
