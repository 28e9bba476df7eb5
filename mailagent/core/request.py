"""What of a request to the model leaves the sandbox: nothing that reaches the network, or costs more than is known."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

FIELDS = (
    *("model", "messages", "system", "tools", "tool_choice", "max_tokens", "stream", "stop_sequences"),
    *("temperature", "top_k", "top_p", "thinking", "context_management", "output_config", "output_format", "metadata"),
)
"""Fields of a request that are passed on. Not among them: what reaches the network (mcp_servers, container), and what
costs more than the price list says (service_tier, speed, inference_geo)."""

BETAS = frozenset(
    {
        *("advanced-tool-use", "cache-diagnosis", "claude-code", "claude-code-side-query", "context-hint"),
        *("context-management", "dangerous-tool-use", "effort", "extended-cache-ttl", "fine-grained-tool-streaming"),
        *("inline-tools", "interleaved-thinking", "message-threads", "mid-conversation-system"),
        *("mid-conversation-system-clear-at", "mid-conversation-tool-changes", "per-turn-control"),
        *("program-use-case-ids", "prompt-caching-evict", "prompt-caching-scope", "redact-thinking", "resumption"),
        *("structured-outputs", "task-budgets", "thinking-binding-controls", "thinking-display-updates"),
        *("thinking-resumption", "thinking-token-count", "timing", "token-efficient-tools", "tool-provenance"),
        "tool-search-tool",
    }
)
"""Beta features that the CLI uses, without their dates, and that neither reach the network nor cost more than the price
list says, as a larger window, a faster answer, another model or an adviser would."""

MESSAGE = frozenset({"role", "content", "clear_at", "output_config"})
"""What a message has."""

FORM = frozenset({"effort", "format", "task_budget", "timing"})
"""What there is in output_config, of a request or of a message."""

BLOCKS = frozenset(
    {
        *("text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"),
        *("connector_text", "mid_conv_system", "fallback"),
    }
)
"""What the content of a message is made of."""

CHANGES = frozenset({"tool_reference", "tool_addition", "tool_removal", "tool_definition"})
"""How a conversation takes up a tool that it has, and gives it back."""

WITHIN = frozenset(
    {
        *("base64", "content"),  # sources, beside text
        *("ephemeral", "direct", "custom"),  # how long it is cached, who called a tool, a tool of the CLI's own
        *("char_location", "page_location", "content_block_location", "search_result_location"),  # citations
    }
)
"""What there is within a block."""

KNOWN = BLOCKS | CHANGES | WITHIN

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

TOOL = (
    *("name", "description", "input_schema", "type", "strict", "cache_control", "defer_loading", "input_examples"),
    "eager_input_streaming",
)
"""What is passed on of a tool."""

APART = {"tool_use": "input", "tool_definition": "definition"}
"""What in a block is no content: the model's own text with which it called a tool, whatever that looks like; a tool."""

ELSEWHERE = "schemas that refer to others elsewhere are not allowed"

_DATE = re.compile(r"-20\d{2}-?\d{2}-?\d{2}")


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
    body = _parsed(raw)
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise NotAdmittedError("not a Messages API request")
    if body.get("model") != model:
        raise NotAdmittedError(f"only the model {model} may be asked", 404, "not_found_error")
    for message in body["messages"]:
        if not isinstance(message, dict) or not message.keys() <= MESSAGE:
            raise NotAdmittedError(f"a message may have {', '.join(sorted(MESSAGE))}, and nothing else")
    contents = list(_objects([body.get("system"), *(message.get("content") for message in body["messages"])]))
    for each in contents:
        _check(each)
    kept = _kept(body)
    writes = min(kept["max_tokens"], max_tokens)
    data = to_json({**kept, "max_tokens": writes})
    return Admitted(data, min(_most_read(contents, len(data)), context_tokens), writes)


def _kept(body: dict[str, Any]) -> dict[str, Any]:
    """Of its fields those that are known, and in them what is."""
    kept = {name: body[name] for name in FIELDS if name in body}
    if "tools" in kept:
        kept["tools"] = _own_tools(kept["tools"])
    forms = [each.get("output_config") for each in (*body["messages"], kept)]
    if not all(form is None or (isinstance(form, dict) and form.keys() <= FORM) for form in forms):
        raise NotAdmittedError(f"output_config may have {', '.join(sorted(FORM))}, and nothing else")
    if _refers_elsewhere([kept.get("tools"), kept.get("output_format"), *forms]):
        raise NotAdmittedError(ELSEWHERE)
    if "context_management" in kept:
        kept["context_management"] = {"edits": _own_edits(kept["context_management"])}
    wanted = kept.get("max_tokens")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise NotAdmittedError("max_tokens must be a positive whole number")
    return kept


def betas(header: str) -> str:
    """The beta features that may be asked for (the header anthropic-beta), of those that are asked for."""
    wanted = [each.strip() for each in header.split(",")]
    return ",".join(each for each in wanted if _DATE.sub("", each) in BETAS)


def _parsed(raw: bytes | bytearray) -> object:
    nested = raw.count(b"[") + raw.count(b"{") if len(raw) > MAX_NESTED * len("{},") else 0
    if nested > MAX_NESTED or (len(raw) > MAX_VALUES and nested + raw.count(b",") > MAX_VALUES):
        raise NotAdmittedError("the request has too many parts", 413, "request_too_large")
    try:
        return from_json(raw)
    except ValueError as error:
        raise NotAdmittedError("the request is not JSON") from error


def _most_read(contents: Iterable[dict[str, Any]], size: int) -> int:
    """The most tokens that a request of so many bytes with these contents may be.

    A token of text is a byte at least. Usual text has four to a token, but code can write some that has one, so a
    smaller figure would be an estimate, and no bound; that a request seems to cost four times too much until its answer
    says what it did, keeps nobody from asking (adapters/charges.py). A picture's bytes tell nothing: a few hundred may
    be as large as there are, and those of a chart would be more than the model can read. A document may have any number
    of pages: it counts as all that the model can read, which bounds the whole anyway."""
    tokens = size + EXTRA_TOKENS
    for each in contents:
        source = each.get("source")
        if isinstance(source, dict) and source.get("type") == "base64":
            if each.get("type") != "image":
                return sys.maxsize
            data = source.get("data")
            tokens += IMAGE_TOKENS - (len(data) if isinstance(data, str) else 0)
    return tokens


def _own_tools(tools: object) -> list[dict[str, Any]]:
    listed = tools if isinstance(tools, list) else []
    own = [tool for tool in listed if isinstance(tool, dict) and tool.get("type", "custom") == "custom"]
    return [{name: tool[name] for name in TOOL if name in tool} for tool in own]


def _own_edits(management: object) -> list[dict[str, Any]]:
    """What only leaves something out. To sum up (compact_20260112), the server would ask the model once more."""
    edits = management.get("edits") if isinstance(management, dict) else None
    listed = edits if isinstance(edits, list) else []
    return [edit for edit in listed if isinstance(edit, dict) and str(edit.get("type")).startswith("clear_")]


def _check(each: dict[str, Any]) -> None:
    """Raises NotAdmittedError for what the model's server would have to fetch or run something to read, and for what is
    not known to be different."""
    kind, source = each.get("type", "text"), each.get("source")
    if not isinstance(kind, str) or kind not in KNOWN:
        raise NotAdmittedError(f"content of the type {kind!r:.60} is not allowed")
    if isinstance(source, list) or (isinstance(source, dict) and source.get("type") not in INLINE):
        raise NotAdmittedError("content from elsewhere is not allowed")
    if kind == "tool_definition" and _own_tools([each.get("definition")]) != [each.get("definition")]:
        raise NotAdmittedError("only tools of the CLI's own are allowed")
    if kind == "tool_definition" and _refers_elsewhere(each):
        raise NotAdmittedError(ELSEWHERE)


def _refers_elsewhere(schemas: object) -> bool:
    """Whether somebody who resolves the references of these JSON schemas would have to fetch something."""
    found = [each.get(name) for each in _objects(schemas, {}) for name in ("$ref", "$dynamicRef", "$recursiveRef")]
    return any(isinstance(reference, str) and not reference.startswith("#") for reference in found)


def _objects(value: object, apart: Mapping[str, str] = APART) -> Iterator[dict[str, Any]]:
    """All objects in it, but those that are looked at apart."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            kind = each.get("type")
            other = apart.get(kind) if isinstance(kind, str) else None
            waiting += [part for name, part in each.items() if isinstance(part, dict | list) and name != other]
        elif isinstance(each, list):
            waiting += [part for part in each if isinstance(part, dict | list)]
