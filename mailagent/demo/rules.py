"""A stand-in model for demo and tests: fixed rules, no AI, behind the Messages API on a loopback port."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from mailagent.demo.steps import Block, next_step

MODEL = "rules"
MAX_BODY = 64 * 1024 * 1024
PIECE = 2000
"""Characters in one delta: enough to see that it streams."""


class ApiError(Exception):
    """What the Messages API answers instead of a message: a status, the type of the error, and words."""

    def __init__(self, status: int, kind: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.kind = kind


class RulesModel:
    """A server for as long as its context lasts, at `url`. It keeps no state between requests: each answer follows from
    its request alone. With `replay` it gives these recorded answers (lists of content blocks) in their order instead,
    one a request, and is overloaded after the last. `requests` are the (headers, body) that it has met."""

    def __init__(self, replay: Sequence[Sequence[Block]] | None = None) -> None:
        self.url = ""
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self._replay = None if replay is None else list(replay)
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_as_api_error])
        app.router.add_post("/v1/messages", self._messages)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages, streaming or not (the Messages API of Anthropic, version 2023-06-01)."""
        body = _checked(await request.read())
        self.requests.append((dict(request.headers), body))
        answer = _message(body, self._answer(body))
        if not body.get("stream"):
            return web.json_response(answer)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for name, data in _events(answer):
            await response.write(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode())
        await response.write_eof()
        return response

    def _answer(self, body: Mapping[str, Any]) -> Sequence[Block]:
        if self._replay is None:
            return next_step(body)
        if len(self.requests) > len(self._replay):
            raise ApiError(529, "overloaded_error", "The recorded answers are used up.")
        return self._replay[len(self.requests) - 1]


@web.middleware
async def _as_api_error(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _error(error.status, error.kind, str(error))
    except web.HTTPException as error:
        kind = {404: "not_found_error", 413: "request_too_large"}.get(error.status, "invalid_request_error")
        return _error(error.status, kind, f"{request.method} {request.path}: {error.reason}")


def _error(status: int, kind: str, words: str) -> web.Response:
    return web.json_response({"type": "error", "error": {"type": kind, "message": words}}, status=status)


def _checked(data: bytes) -> dict[str, Any]:
    """The request's body, in the shape that the rules rely on. Raises ApiError for any other."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_request_error", "The body is not JSON.") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise ApiError(400, "invalid_request_error", "model: a text is required.")
    if not isinstance(body.get("max_tokens"), int):
        raise ApiError(400, "invalid_request_error", "max_tokens: a whole number is required.")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "invalid_request_error", "messages: at least one message is required.")
    for number, message in enumerate(messages):
        if not _is_message(message):
            raise ApiError(400, "invalid_request_error", f"messages.{number}: a role and content are required.")
    return body


def _is_message(message: object) -> bool:
    """The CLI sends system messages among the others, with its environment and its listings."""
    if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in content)
    return isinstance(content, str)


def _message(body: Mapping[str, Any], blocks: Sequence[Block]) -> dict[str, Any]:
    """The answer as a message object; its ids follow from the request, so that they never repeat in a conversation."""
    asked = json.dumps(body["messages"])
    digest = hashlib.sha256(asked.encode()).hexdigest()[:24]
    content = [
        {"id": f"toolu_{digest}{number:02}", **block} if block["type"] == "tool_use" else dict(block)
        for number, block in enumerate(blocks)
    ]
    return {
        "id": f"msg_{digest}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": "tool_use" if any(block["type"] == "tool_use" for block in content) else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": _tokens(json.dumps([body.get("system"), body.get("tools")]) + asked),
            "output_tokens": _tokens(json.dumps(content)),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


def _tokens(text: str) -> int:
    """An estimate: four characters make a token."""
    return len(text) // 4 + 1


def _events(answer: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The message as the events of a stream: empty first, then block by block in pieces, then how it ended."""
    usage = {**answer["usage"], "output_tokens": 1}
    yield "message_start", {"message": {**answer, "content": [], "stop_reason": None, "usage": usage}}
    for index, block in enumerate(answer["content"]):
        if block["type"] == "tool_use":
            empty, kind, key, whole = (
                {**block, "input": {}},
                "input_json_delta",
                "partial_json",
                json.dumps(block["input"]),
            )
        else:
            empty, kind, key, whole = {**block, "text": ""}, "text_delta", "text", block["text"]
        yield "content_block_start", {"index": index, "content_block": empty}
        for start in range(0, len(whole), PIECE):
            yield "content_block_delta", {"index": index, "delta": {"type": kind, key: whole[start : start + PIECE]}}
        yield "content_block_stop", {"index": index}
    ended = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"delta": ended, "usage": {"output_tokens": answer["usage"]["output_tokens"]}}
    yield "message_stop", {}
