"""What of a request to the model leaves the sandbox: nothing that reaches the network, or costs more than is known."""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

FIELDS = (
    *("model", "messages", "system", "tools", "tool_choice", "max_tokens", "stream", "stop_sequences"),
    *("temperature", "top_k", "top_p", "thinking", "context_management", "output_config", "output_format", "metadata"),
)
"""Fields of a request that are passed on. Not among them: what reaches the network (mcp_servers, container), and what
costs more than the price list says (service_tier, speed, inference_geo)."""

DEARER = ("context-1m", "fast-mode")
"""Beta features that cost more than the price list says."""

INLINE = ("base64", "text", "content")
"""Sources of content that stand in the request; others (a URL, a file) the model's server would fetch itself."""

MAX_VALUES = 1_000_000
"""Values in one body: each takes up to a hundred bytes of memory, whatever it takes in the body."""
MAX_NESTED = 200_000
"""Lists and objects among them: Python's collector goes through all of them while they are made, and nothing else goes
on meanwhile."""

IMAGE_TOKENS = 5_000
"""More than the largest picture is (4,784; for older models 1,600)."""
EXTRA_TOKENS = 2_000
"""What the model's server adds, such as how tools are to be used, is less."""

_HOSTED = re.compile(r"(?:\w+_20\d{6}|mcp_\w+)")
"""Types of tools that the model's server knows by itself, each with a date: web_search_20250305."""


class NotAdmittedError(ValueError):
    """The request may not leave; the words are for the CLI, with the status and the type of error to answer with."""

    def __init__(self, words: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(words)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request as it may leave, and the most tokens that the model reads and writes for it."""

    data: bytes
    reads: int
    writes: int


def admit(raw: bytes | bytearray, model: str, max_tokens: int, context_tokens: int) -> Admitted:
    """The request as it may leave: for this model, with at most so many tokens to write, and without the tools that the
    model's server would run itself (web search, web fetch, remote MCP). Raises NotAdmittedError."""
    body = _judged(_parsed(raw), model)
    writes = min(body["max_tokens"], max_tokens)
    data = to_json({**body, "max_tokens": writes})
    return Admitted(data, min(_most_read(body, len(data)), context_tokens), writes)


def _judged(body: object, model: str) -> dict[str, Any]:
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise NotAdmittedError("not a Messages API request")
    if body.get("model") != model:
        raise NotAdmittedError(f"only the model {model} may be asked", 404, "not_found_error")
    if _reaches_out(body["messages"]) or _reaches_out(body.get("system")):
        raise NotAdmittedError("content and tools from elsewhere are not allowed")
    kept = {name: body[name] for name in FIELDS if name in body}
    if "tools" in kept:
        kept["tools"] = _own_tools(kept["tools"])
    if "context_management" in kept:
        kept["context_management"] = {"edits": _own_edits(kept["context_management"])}
    wanted = kept.get("max_tokens")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise NotAdmittedError("max_tokens must be a positive whole number")
    return kept


def betas(header: str) -> str:
    """The beta features that may be asked for (the header anthropic-beta), without those that cost more."""
    wanted = [each.strip() for each in header.split(",")]
    return ",".join(each for each in wanted if each and not each.startswith(DEARER))


def _parsed(raw: bytes | bytearray) -> object:
    nested = sum(map(raw.count, (b"[", b"{"))) if len(raw) > MAX_NESTED else 0
    if nested > MAX_NESTED or nested + raw.count(b",") > MAX_VALUES:
        raise NotAdmittedError("the request has too many parts", 413, "request_too_large")
    try:
        return from_json(raw)
    except ValueError as error:
        raise NotAdmittedError("the request is not JSON") from error


def _most_read(body: dict[str, Any], size: int) -> int:
    """The most tokens that a request of so many bytes may be.

    A token of text is a byte at least. Usual text has four to a token, but code can write some that has one, so a
    smaller figure would be an estimate, and no bound; that a request seems to cost four times too much until its answer
    says what it did, keeps nobody from asking (adapters/charges.py). A picture's bytes tell nothing: a few hundred may
    be as large as there are, and those of a chart would be more than the model can read. A document may have any number
    of pages: it counts as all that the model can read, which bounds the whole anyway."""
    tokens = size + EXTRA_TOKENS
    for each in _objects([body["messages"], body.get("system")]):
        source = each.get("source")
        if isinstance(source, dict) and source.get("type") == "base64":
            if each.get("type") != "image":
                return sys.maxsize
            data = source.get("data")
            tokens += IMAGE_TOKENS - (len(data) if isinstance(data, str) else 0)
    return tokens


def _own_tools(tools: object) -> list[dict[str, Any]]:
    listed = tools if isinstance(tools, list) else []
    return [tool for tool in listed if isinstance(tool, dict) and tool.get("type", "custom") == "custom"]


def _own_edits(management: object) -> list[dict[str, Any]]:
    """What only leaves something out. To sum up (compact_20260112), the server would ask the model once more."""
    edits = management.get("edits") if isinstance(management, dict) else None
    listed = edits if isinstance(edits, list) else []
    return [edit for edit in listed if isinstance(edit, dict) and str(edit.get("type")).startswith("clear_")]


def _reaches_out(value: object) -> bool:
    """Whether the model's server would have to fetch or run something to read this."""
    for each in _objects(value):
        source = each.get("source")
        if each.get("type") in ("image", "document") and isinstance(source, dict):
            if source.get("type") not in INLINE:
                return True
        elif _HOSTED.fullmatch(str(each.get("type", ""))):
            return True
    return False


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """All objects in it, but those that a tool was called with: they are the model's own text, whatever they look
    like."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        inner: Iterable[object] = each if isinstance(each, list) else ()
        if isinstance(each, dict):
            yield each
            called = each.get("type") == "tool_use"
            inner = (part for name, part in each.items() if not (called and name == "input"))
        waiting += [part for part in inner if isinstance(part, dict | list)]
