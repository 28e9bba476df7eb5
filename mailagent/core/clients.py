"""How mail programs mark, in the HTML they write, what is quoted history and what is a signature."""

import re
from collections.abc import Mapping
from typing import Literal

Mark = Literal["", "history", "around", "rest", "signature"]
"""What an element is: history, a wrapper around history that the writer may have written into, the first of what is
history down to the end of the mail, or a signature; "" for the writer's words."""

_HISTORY = {
    "gmail_attr",
    "moz-cite-prefix",
    "moz-forward-container",
    "yahoo_quoted",
    "ms-outlook-mobile-reference-message",
}
_AROUND = {"gmail_quote", "protonmail_quote"}
_SIGNATURE = {"gmail_signature", "moz-signature", "protonmail_signature_block", "AppleMailSignature"}
_SIGNATURE_IDS = {"Signature", "AppleMailSignature", "ms-outlook-mobile-signature"}
_REST_IDS = {"appendonsend", "divRplyFwdMsg", "mail-editor-reference-message-container"}
_ZIMBRA = {"__DIVIDER__", "__HEADERS__", "__QUOTED_TEXT__"}
_OUTLOOK_RULE = re.compile(r"border:none;border-top:solid#(?:e1e1e1|b5c4df)1\.0pt;padding:3\.0pt", re.IGNORECASE)
"""The line that Outlook on the desktop draws above From, Sent, To and Subject of what is answered."""


def mark_of(tag: str, attributes: Mapping[str, str | None]) -> Mark:
    """What the program that wrote this element says that it is."""
    classes = set((attributes.get("class") or "").split())
    name = attributes.get("id") or ""
    if tag == "blockquote":
        return "history" if _is_cited(classes, attributes) else ""
    if name in _REST_IDS or _OUTLOOK_RULE.match("".join((attributes.get("style") or "").split())):
        return "rest"
    if classes & _HISTORY or name.startswith("yahoo_quoted") or attributes.get("data-marker") in _ZIMBRA:
        return "history"
    if classes & _AROUND:
        return "around"
    signed = classes & _SIGNATURE or name in _SIGNATURE_IDS or "data-smartmail" in attributes
    return "signature" if signed else ""


def _is_cited(classes: set[str], attributes: Mapping[str, str | None]) -> bool:
    return (attributes.get("type") or "").lower() == "cite" or bool(classes & _AROUND)
