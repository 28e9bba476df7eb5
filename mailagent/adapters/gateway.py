"""The only way from a sandbox to the model: one unix socket per session that lets through POST /v1/messages alone."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from mailagent.config import Model

log = logging.getLogger(__name__)

PASSED_ON = ("accept", "anthropic-beta", "anthropic-version", "content-type")
"""Headers of the sandbox that reach the model; all others are dropped."""

PASSED_BACK = ("content-type", "request-id", "retry-after", "x-should-retry")
MAX_BODY = 32 * 1024 * 1024
MAX_AT_ONCE = 4
"""Requests of one session under way together: the CLI makes one or two, code that floods us makes more."""
INLINE = ("base64", "text", "content")
"""Sources of content that stand in the request; others (a URL, a file) the model's server would fetch itself."""


@dataclass(slots=True)
class Meter:
    """What one session has used so far: a count of requests and of tokens, and when it first asked (Unix seconds)."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    first_request_at: float = 0.0
    at_once: int = 0
    refused: bool = False
    """A request was refused because the turn had used what it may."""


@dataclass(slots=True)
class Tally:
    """Reads token counts out of an answer as it streams by (server-sent events of the Messages API) or stands whole."""

    meter: Meter
    rest: bytes = b""
    told: bool = False
    """The final count was seen."""
    seen: dict[str, int] = field(default_factory=dict)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and b'"usage"' in line:
                self._read(line[5:])

    def close(self, most: int) -> None:
        """The answer is over: add what it used to the meter; one that broke off before it said so used all it might."""
        if self.rest.startswith(b"{"):
            self._read(self.rest)
        cached = self.seen.get("cache_read_input_tokens", 0) + self.seen.get("cache_creation_input_tokens", 0)
        self.meter.input_tokens += self.seen.get("input_tokens", 0) + cached
        self.meter.output_tokens += self.seen.get("output_tokens", 0) if self.told else most

    def _read(self, text: bytes) -> None:
        try:
            event = json.loads(text)
        except ValueError:
            return
        holder = event.get("message", event) if isinstance(event, dict) else {}
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self.told = self.told or event.get("type") != "message_start"
            self.seen.update({name: value for name, value in usage.items() if isinstance(value, int)})


class Gateway:
    """Opens sockets; holds the key and the connections to the model's server, which no sandbox sees."""

    def __init__(self, model: Model, key: str) -> None:
        self._model = model
        self._key = key
        self._upstream: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the pool of connections (proxies of the environment are honoured)."""
        timeout = aiohttp.ClientTimeout(total=self._model.timeout_seconds, connect=20)
        self._upstream = aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False)

    async def stop(self) -> None:
        """Close the pool."""
        if self._upstream:
            await self._upstream.close()

    @asynccontextmanager
    async def listen(self, socket: Path) -> AsyncIterator[Meter]:
        """Serve one session on this unix socket, mode 0600, until the context ends; yields its meter."""
        meter = Meter()
        app = web.Application(client_max_size=MAX_BODY)

        async def messages(request: web.Request) -> web.StreamResponse:
            return await self._messages(request, meter)

        app.router.add_post("/v1/messages", messages)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1)
        await runner.setup()
        socket.unlink(missing_ok=True)
        try:
            await web.UnixSite(runner, str(socket)).start()
            socket.chmod(0o600)
            yield meter
        finally:
            await runner.cleanup()
            socket.unlink(missing_ok=True)

    async def _messages(self, request: web.Request, meter: Meter) -> web.StreamResponse:
        if meter.at_once >= MAX_AT_ONCE:
            return refusal(529, f"no more than {MAX_AT_ONCE} requests at once")
        meter.at_once += 1
        try:
            return await self._admitted(request, meter)
        finally:
            meter.at_once -= 1

    async def _admitted(self, request: web.Request, meter: Meter) -> web.StreamResponse:
        meter.refused = self._is_used_up(meter)
        if meter.requests >= self._model.max_requests:
            return refusal(403, f"this turn has used its {self._model.max_requests} model requests")
        if meter.output_tokens >= self._model.max_output_tokens:
            return refusal(403, f"this turn has used its {self._model.max_output_tokens} output tokens")
        meter.requests += 1
        try:
            raw = await request.read()
            body = await asyncio.to_thread(lambda: admit(json.loads(raw), self._model.name))
        except (ValueError, RecursionError) as error:
            return refusal(400, str(error))
        meter.first_request_at = meter.first_request_at or time.time()
        try:
            return await self._pass_on(request, body, Tally(meter))
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("the model cannot be reached: %s", error)
            return refusal(529, "the model cannot be reached")

    def _is_used_up(self, meter: Meter) -> bool:
        model = self._model
        return meter.requests >= model.max_requests or meter.output_tokens >= model.max_output_tokens

    async def _pass_on(self, request: web.Request, body: dict[str, Any], usage: Tally) -> web.StreamResponse:
        assert self._upstream is not None, "start() comes first"  # noqa: S101
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        if self._key:
            headers["x-api-key"] = self._key
        url = f"{self._model.base_url.rstrip('/')}/v1/messages"
        async with self._upstream.post(url, json=body, params=request.query, headers=headers) as upstream:
            back = {name: upstream.headers[name] for name in PASSED_BACK if name in upstream.headers}
            response = web.StreamResponse(status=upstream.status, headers=back)
            await response.prepare(request)
            try:
                async for chunk in upstream.content.iter_any():
                    usage.feed(chunk)
                    await response.write(chunk)
                await response.write_eof()
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                log.warning("an answer of the model broke off: %s", error)
                if request.transport:  # half an answer must not look like a whole one
                    request.transport.abort()
            finally:
                usage.close(int(body.get("max_tokens") or 0) if upstream.status == 200 else 0)
            return response


def admit(body: object, model: str) -> dict[str, Any]:
    """The request as it may leave: the daemon's model whatever was asked for, and no tool that the model's server would
    run itself (web search, web fetch, remote MCP), since those reach the network. ValueError when it is no request."""
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise ValueError("not a Messages API request")
    if _fetches(body):
        raise ValueError("content from elsewhere is not allowed: send it in the request")
    kept = {name: value for name, value in body.items() if name not in ("mcp_servers", "container")}
    tools = kept.get("tools")
    if isinstance(tools, list):
        kept["tools"] = [tool for tool in tools if isinstance(tool, dict) and tool.get("type", "custom") == "custom"]
    return {**kept, "model": model}


def _fetches(value: object) -> bool:
    """Whether the model's server would have to fetch something to read this."""
    if isinstance(value, list):
        return any(map(_fetches, value))
    if not isinstance(value, dict):
        return False
    source = value.get("source")
    if value.get("type") in ("image", "document") and isinstance(source, dict) and source.get("type") not in INLINE:
        return True
    return any(_fetches(each) for each in value.values() if isinstance(each, dict | list))


def refusal(status: int, message: str) -> web.Response:
    """An error in the form of the Messages API."""
    kind = {400: "invalid_request_error", 403: "permission_error"}.get(status, "overloaded_error")
    return web.json_response({"type": "error", "error": {"type": kind, "message": message}}, status=status)
