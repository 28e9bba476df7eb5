"""The gateway over real sockets: one path is open, the key is added outside, streams stream, use is counted."""

import asyncio
import contextlib
import gzip
import io
import json
import logging
import socket
import ssl
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mailagent.adapters import gateway as module
from mailagent.adapters import upstream as adapter
from mailagent.adapters.charges import Charges
from mailagent.adapters.gateway import Gateway, Meter
from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.redis import connect
from mailagent.config import Model
from mailagent.core.errors import ConfigError, TemporaryError
from mailagent.core.quota import Limits, Payer, Spend, Spent, accounts
from mailagent.core.values import JobId, ThreadId
from mailagent.ports import Ledger
from tests.fakes.ledger import FakeLedger

SAYS = [{"type": "text", "text": "hello"}]
ASK = {"model": "rules", "max_tokens": 10, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
ROOM = Spend(10**6, 10**9, 1e6)
PAYER = Payer(JobId("job"), ThreadId("thread"), "anna@example.org", ROOM)
TWO = Limits(turn_requests=2)
Handler = Callable[[web.Request], Any]


def _within(content: Any) -> dict[str, Any]:
    return {**ASK, "messages": [{"role": "user", "content": content}]}


@dataclass
class Served:
    """A session's socket, and what is asked on it."""

    client: aiohttp.ClientSession
    meter: Meter
    socket: Path
    gateway: Gateway
    ledger: Ledger

    async def post(self, body: Any = ASK, **headers: str) -> tuple[int, bytes]:
        data = io.BytesIO(json.dumps(body).encode())
        async with self.client.post("http://model/v1/messages?beta=true", data=data, headers=headers) as response:
            return response.status, await response.read()

    async def raw(self, data: bytes) -> bytes:
        """What comes back for these very bytes, until the gateway closes or is silent."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(data)
        back = b""
        with contextlib.suppress(TimeoutError):
            while chunk := await asyncio.wait_for(reader.read(65536), 1):
                back += chunk
        writer.close()
        return back


@asynccontextmanager
async def served(
    url: str, socket: Path, *, limits: Limits | None = None, ledger: Ledger | None = None, **model: Any
) -> AsyncIterator[Served]:
    settings, account = Model(**{"base_url": url, "name": "rules", **model}), ledger or FakeLedger()
    gateway = Gateway(settings, "the-key", limits or Limits(), account)
    await gateway.start()
    try:
        async with (
            gateway.listen(socket, PAYER) as meter,
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket), limit=0)) as client,
        ):
            yield Served(client, meter, socket, gateway, account)
    finally:
        await gateway.stop()


@dataclass
class Upstream:
    """A model's server with a handler of the test's own."""

    handler: Handler
    tls: ssl.SSLContext | None = None
    url: str = ""
    asked: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def __aenter__(self) -> "Upstream":
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((dict(request.headers), json.loads(await request.read())))
        response: web.StreamResponse = await self.handler(request)
        return response


def usage(**counts: Any) -> dict[str, Any]:
    return {"type": "message", "usage": counts}


async def whole(_: web.Request) -> web.Response:
    return web.json_response(usage(input_tokens=5, output_tokens=7))


async def events(request: web.Request, *data: dict[str, Any]) -> web.StreamResponse:
    """A stream of these events, each in two pieces."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for each in data:
        line = f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode()
        await response.write(line[:30])
        await response.write(line[30:])
    return response


def started(**counts: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": usage(output_tokens=1, **counts)}


async def spent(ledger: Ledger) -> Spent:
    """What the sender has used today."""
    return (await ledger.spent([PAYER.sender], time.time()))[PAYER.sender]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


BETA = (
    "effort-2025-11-24, context-1m-2025-08-07,Context-1M-2025-08-07,fast-mode-2026-02-01,FAST-MODE-2026-02-01,"
    "server-side-fallback-2026-06-01,later,claude-code-20250219"
)


async def test_the_key_is_added_outside_and_the_sandbox_s_own_headers_are_dropped(short_path: Path) -> None:
    mine = {"x-api-key": "mine", "authorization": "Bearer x", "cookie": "a=b", "x-forwarded-for": "1.2.3.4"}
    kept = {"anthropic-version": "2023-06-01", "anthropic-beta": BETA}
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post(**mine, **kept))[0] == 200
        sent = {name.lower(): value for name, value in upstream.asked[0][0].items()}
        assert sent.pop("user-agent").startswith("Python")
        assert sent == {
            "host": upstream.url.removeprefix("http://"),
            "x-api-key": "the-key",
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "effort-2025-11-24,claude-code-20250219",
            "content-type": "application/json",
            "content-length": sent["content-length"],
            "accept": "*/*",
            "accept-encoding": "identity",
        }


async def test_nothing_of_one_answer_s_cookies_comes_with_the_next_request(short_path: Path) -> None:
    async def cookie(_: web.Request) -> web.Response:
        return web.json_response({}, headers={"set-cookie": "who=anna"})

    # A jar takes no cookies from a mere address.
    async with (
        Upstream(cookie) as upstream,
        served(upstream.url.replace("127.0.0.1", "localhost"), short_path / "s") as at,
    ):
        async with at.client.post("http://model/v1/messages", json=ASK) as response:
            assert "set-cookie" not in response.headers
        await at.post()
        assert "Cookie" not in upstream.asked[1][0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/files"),
        ("GET", "/"),
        ("POST", "//v1/messages"),
        ("POST", "/v1/%6dessages"),
        ("CONNECT", "/v1/messages"),
    ],
)
async def test_no_other_path_is_open(short_path: Path, method: str, path: str) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: model\r\nContent-Length: 2\r\n\r\n".encode()
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.raw(head + b"{}")).split()[1:2] in ([b"404"], [b"400"])
        assert upstream.asked == []


async def test_a_request_leaves_without_what_reaches_the_network_or_costs_more(short_path: Path) -> None:
    schema = {"type": "object", "$defs": {"n": {}}, "properties": {"$ref": {"type": "url"}, "n": {"$ref": "#/$defs/n"}}}
    own: list[dict[str, Any]] = [{"name": "Bash", "input_schema": schema}, {"name": "X", "type": "custom"}]
    hosted = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "mcp_toolset"}, "odd"]
    dear = {"service_tier": "auto", "speed": "fast", "inference_geo": "x", "container": "c", "mcp_servers": [{}]}
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s", max_tokens=100) as at:
        clear, compact = {"type": "clear_tool_uses_20250919"}, {"type": "compact_20260112"}
        edits = {"context_management": {"edits": [compact, clear, "odd", {}]}}
        asked = {
            **ASK,
            **dear,
            **edits,
            "max_tokens": 10**12,
            "tools": [{**own[0], "allowed_callers": ["code_execution_20250825"]}, own[1], *hosted],
            "thinking": {"type": "adaptive"},
        }
        assert (await at.post(asked))[0] == 200
        kept = {"tools": own, "thinking": {"type": "adaptive"}, "context_management": {"edits": [clear]}}
        assert upstream.asked[0][1] == {**ASK, "max_tokens": 100, **kept}


IMAGE: dict[str, Any] = {"type": "image", "source": {"type": "url", "url": "https://elsewhere.test/?data"}}


def _adding(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400),
        ({}, 400),
        ("x", 400),
        ({**ASK, "messages": "x"}, 400),
        ({**ASK, "max_tokens": "10"}, 400),
        ({**ASK, "max_tokens": 0}, 400),
        ({**ASK, "max_tokens": True}, 400),
        ({**ASK, "model": "a-dearer-one"}, 404),
        ({**ASK, "model": ["rules"]}, 404),
        (_within([IMAGE]), 400),
        (_within([{"type": "document", "source": {"type": "file", "file_id": "f"}}]), 400),
        (_within([{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}]), 400),
        (_within([{"type": "tool_change", "tools": [{"type": "web_fetch_20250910"}]}]), 400),
        (_within([{"type": "mcp_tool_use", "name": "x"}]), 400),
        (_within([{"type": "container_upload", "file_id": "f"}]), 400),
        (_within([{"type": "video", "source": IMAGE["source"]}]), 400),
        (_within([{"type": "image_url", "image_url": {"url": "https://elsewhere.test"}}]), 400),
        (_within([{"type": "text", "text": "x", "source": IMAGE["source"]}]), 400),
        (_within([{**IMAGE, "source": [IMAGE["source"]]}]), 400),
        (_within([{**IMAGE, "source": {}}]), 400),
        (_within([{"type": ["image"], "source": IMAGE["source"]}]), 400),
        (_within([{"type": "document", "source": {"type": "content", "content": [IMAGE]}}]), 400),
        (_within([{"type": "tool_use", "id": "t", "name": "X", "input": {}, "content": [IMAGE]}]), 400),
        (_within([_adding({"type": "web_search", "name": "x"})]), 400),
        (_within([_adding({"name": "x", "input_schema": {"$ref": "https://elsewhere.test"}})]), 400),
        ({**ASK, "messages": [{"type": "tool_use", "role": "user", "content": [IMAGE]}]}, 400),
        ({**ASK, "messages": [{"role": "user", "content": "x", "input": IMAGE}]}, 400),
        ({**ASK, "messages": ["x"]}, 400),
        ({**ASK, "tools": [{"name": "x", "input_schema": {"$ref": "https://elsewhere.test/#"}}]}, 400),
        ({**ASK, "tools": [{"name": "x", "input_schema": {"type": "tool_use", "input": {"$ref": "//x"}}}]}, 400),
        ({**ASK, "output_config": {"format": {"schema": {"items": [{"$dynamicRef": "file:///"}]}}}}, 400),
        ({**ASK, "output_config": {"effort": "low", "speed": "fast"}}, 400),
        ({**ASK, "messages": [{"role": "system", "content": [], "output_config": {"speed": "fast"}}]}, 400),
        ({**ASK, "system": {"type": "web_search_20250305"}}, 400),
        ({**ASK, "system": [{"type": "document", "source": {"type": "url"}}]}, 400),
        ({**ASK, "metadata": [0] * 1_000_001}, 413),
        ({**ASK, "metadata": [[]] * 200_001}, 413),
    ],
)
async def test_what_is_not_admitted_is_not_sent(short_path: Path, body: Any, status: int) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        answer = await at.post(body)
        assert answer[0] == status
        assert json.loads(answer[1])["type"] == "error"
        assert upstream.asked == []


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGVsbG8="}}
TOLD = [
    {
        "role": "user",
        "content": [PICTURE, DOCUMENT, {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
    },
    {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [PICTURE, {"type": "tool_reference", "tool_name": "X"}],
            }
        ],
    },
    {"role": "system", "clear_at": "next_user_message", "content": "x"},
    {
        "role": "system",
        "content": [_adding({"name": "X", "input_schema": {"type": "object"}})],
        "output_config": {"timing": {"type": "now"}},
    },
    {
        "role": "user",
        "content": [
            {"type": "document", "source": {"type": "content", "content": [PICTURE]}, "citations": {"enabled": True}}
        ],
    },
]


async def test_all_that_the_cli_says_passes(short_path: Path) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post({**ASK, "messages": TOLD, "output_config": {"effort": "low"}}))[0] == 200
        assert upstream.asked[0][1]["messages"] == TOLD


async def test_what_a_tool_was_called_with_may_look_like_anything(short_path: Path) -> None:
    called = {"type": "tool_use", "id": "t", "name": "X", "input": {"type": "web_search_20250305", "a": [IMAGE]}}
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post(_within([called])))[0] == 200
        assert upstream.asked[0][1] == _within([called])


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b""])
async def test_what_is_no_json_is_refused(short_path: Path, body: bytes) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        async with at.client.post("http://model/v1/messages", data=body) as response:
            assert response.status == 400
        assert upstream.asked == []


STREAM = [
    started(input_tokens=100, cache_read_input_tokens=1000, cache_creation_input_tokens=30),
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": '"usage": {"output_tokens": 9}'}},
    {"type": "message_delta", "usage": {"output_tokens": 20}},
    {"type": "message_stop"},
]
HOUR_STREAM = [
    started(
        input_tokens=1,
        cache_creation_input_tokens=30,
        cache_creation={"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    ),
    {"type": "message_delta", "usage": {"input_tokens": 2, "output_tokens": 20}},
]


@pytest.mark.parametrize(
    ("stream", "tokens", "dollars"),
    [(STREAM, (1130, 20), 100 + 20 * 10 + 30 * 4 + 1000 * 0.5), (HOUR_STREAM, (32, 20), 2 + 200 + 10 * 4 + 20 * 2)],
)
async def test_a_stream_is_charged_by_what_it_says_of_itself(
    short_path: Path, redis_url: str, stream: list[dict[str, Any]], tokens: tuple[int, int], dollars: float
) -> None:
    prices: dict[str, Any] = {"price_input": 1, "price_output": 10, "price_cache_write": 4, "price_cache_read": 0.5}
    client, _ = await connect(redis_url)
    async with (
        client,
        Upstream(lambda request: events(request, *stream)) as upstream,
        served(upstream.url, short_path / "s", ledger=RedisLedger(client), **prices) as at,
    ):
        await at.post()
        await at.meter.settled()
        charged = await spent(at.ledger)
        assert (at.meter.input_tokens, at.meter.output_tokens) == tokens
        assert at.meter.dollars == pytest.approx(dollars / 1e6)
        assert charged == Spent(tokens=sum(tokens), dollars=round(dollars / 1e6, 6), requests=1)
        assert at.meter.first_request_at > 0
        assert await client.keys("*request*") == []


async def test_an_answer_in_one_piece_is_charged_too(short_path: Path) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        await at.post({**ASK, "stream": False})
        await at.meter.settled()
        assert (at.meter.requests, at.meter.input_tokens, at.meter.output_tokens) == (1, 5, 7)


async def test_a_request_is_charged_before_it_is_made(short_path: Path, redis_url: str) -> None:
    """A daemon that dies while the model works has paid for it: another one sees that."""
    seen: list[Spent] = []
    client, _ = await connect(redis_url)
    other, _ = await connect(redis_url)
    free: dict[str, Any] = {"price_input": 0, "price_cache_write": 0, "price_cache_read": 0}

    async def look(_: web.Request) -> web.Response:
        seen.append(await spent(RedisLedger(other)))
        return web.json_response(usage(input_tokens=1, output_tokens=1))

    async with (
        client,
        other,
        Upstream(look) as upstream,
        served(upstream.url, short_path / "s", ledger=RedisLedger(client), price_output=10**6, **free) as at,
    ):
        await at.post()
        await at.meter.settled()
        assert [(each.requests, each.dollars) for each in seen] == [(1, 10.0)]
        assert (await spent(at.ledger)).dollars == 1.0


@pytest.mark.parametrize(
    ("content", "read"),
    [("tokens of a byte: " + "^" * 9_000, 9_000), ([PICTURE] * 5, 5 * 4_784), ([DOCUMENT], 50_000)],
)
async def test_who_hangs_up_before_the_answer_has_paid_the_most_that_it_may_have_cost(
    short_path: Path, content: Any, read: int
) -> None:
    """Whatever it was, and were it all put into the cache for an hour."""
    asked = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    prices: dict[str, Any] = {"price_input": 10, "price_output": 50, "price_cache_write": 12.5, "price_cache_read": 1}
    async with (
        Upstream(silent) as upstream,
        served(upstream.url, short_path / "s", context_tokens=50_000, **prices) as at,
    ):
        asking = asyncio.create_task(at.post({**_within(content), "max_tokens": 100}))
        await asked.wait()
        asking.cancel()
        await until(lambda: at.meter.output_tokens == 100)
        charged = await spent(at.ledger)
        assert read + 100 <= charged.tokens < 3 * read
        assert charged.dollars >= (read * 20 + 100 * 50) / 1e6


@pytest.fixture(params=[True, False], ids=["soon", "late"])
def soon(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether what a server does is done soon."""
    monkeypatch.setattr(adapter, "SOON_MS", 60_000 if request.param else 0)
    return bool(request.param)


async def test_a_model_that_closes_after_it_was_asked_may_have_worked_unless_it_was_soon(
    short_path: Path, soon: bool
) -> None:
    async def closes(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with Upstream(closes) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post({**ASK, "max_tokens": 77}))[0] == 502
        await at.meter.settled()
        assert at.meter.output_tokens == (0 if soon else 77)
        assert at.meter.input_tokens > 0


@pytest.mark.parametrize(("dollars", "statuses"), [(0.05, [200] * 4), (0.03, [200, 200, 200, 403]), (0.005, [200])])
async def test_a_limit_is_passed_by_one_request_at_most_also_of_four_at_once(
    short_path: Path, redis_url: str, dollars: float, statuses: list[int]
) -> None:
    """And none is refused since others might have used what is left."""

    async def dear(_: web.Request) -> web.Response:
        return web.json_response(usage(input_tokens=1000, output_tokens=0))

    client, _ = await connect(redis_url)
    async with (
        client,
        Upstream(dear) as upstream,
        served(
            upstream.url,
            short_path / "s",
            ledger=RedisLedger(client),
            limits=Limits(turn_dollars=dollars),
            price_input=10,
            price_output=50,
        ) as at,
    ):
        answers = await asyncio.gather(*(at.post(_within([PICTURE])) for _ in range(4)))
        assert sorted(status for status, _ in answers) == [*statuses, *[403] * (4 - len(statuses))]
        await at.meter.settled()
        assert (await spent(at.ledger)).dollars == pytest.approx(0.01 * statuses.count(200))


@pytest.mark.parametrize(
    ("limits", "budget", "words"),
    [
        (Limits(turn_requests=2), ROOM, "one answer may use 2 requests to the model, and this one came to 2"),
        (Limits(turn_tokens=24), ROOM, "one answer may use 24 tokens, and this one came to 24"),
        (Limits(turn_dollars=0.000024), ROOM, "one answer may use $0.00"),
        (Limits(thread_requests=2), ROOM, "one conversation may use 2 requests"),
        (Limits(thread_tokens=24), ROOM, "Please begin a new one"),
        (Limits(thread_dollars=0.000024), ROOM, "one conversation may use $0.00"),
        (Limits(), Spend(2, 10**9, 1e6), "my answers to you may use 2 requests to the model a day, and today they"),
        (Limits(), Spend(10**9, 24, 1e6), "There is room again at midnight UTC, in "),
        (Limits(), Spend(10**9, 10**9, 0.000024), "my answers to you may use $0.00 a day"),
        (Limits(requests_per_day=2), ROOM, "all my answers together may use 2 requests to the model a day"),
        (Limits(tokens_per_day=24), ROOM, "all my answers together may use 24 tokens a day"),
        (Limits(dollars_per_day=0.000024), ROOM, "all my answers together may use $0.00 a day"),
    ],
)
async def test_every_limit_stops_the_turn_in_words_for_the_sender(
    short_path: Path, limits: Limits, budget: Spend, words: str
) -> None:
    ledger = FakeLedger()
    payer = Payer(PAYER.job, PAYER.thread, PAYER.sender, budget)
    async with Upstream(whole) as upstream:
        gateway = Gateway(
            Model(base_url=upstream.url, name="rules", price_input=1, price_output=1), "the-key", limits, ledger
        )
        await gateway.start()
        async with gateway.listen(short_path / "s", payer) as meter:
            connector = aiohttp.UnixConnector(str(short_path / "s"))
            async with aiohttp.ClientSession(connector=connector) as client:
                at = Served(client, meter, short_path / "s", gateway, ledger)
                assert [(await at.post())[0] for _ in range(3)] == [200, 200, 403]
        await gateway.stop()
    assert len(upstream.asked) == 2
    assert words in meter.refused


async def test_a_turn_that_is_tried_again_goes_on_with_what_is_left(short_path: Path) -> None:
    ledger, limits = FakeLedger(), Limits(turn_requests=3)
    async with Upstream(whole) as upstream:
        async with served(upstream.url, short_path / "s", ledger=ledger, limits=limits) as at:
            assert [(await at.post())[0] for _ in range(2)] == [200, 200]
        async with served(upstream.url, short_path / "s", ledger=ledger, limits=limits) as at:
            assert [(await at.post())[0] for _ in range(2)] == [200, 403]


async def test_requests_that_are_not_admitted_count_as_well(short_path: Path) -> None:
    async with (
        Upstream(whole) as upstream,
        served(upstream.url, short_path / "s", limits=Limits(turn_requests=2)) as at,
    ):
        assert [(await at.post({}))[0] for _ in range(3)] == [400, 400, 403]


async def test_without_an_account_there_is_no_request_but_another_try(short_path: Path, redis_url: str) -> None:
    client, _ = await connect(redis_url)
    async with (
        client,
        Upstream(whole) as upstream,
        served(upstream.url, short_path / "s", ledger=RedisLedger(client)) as at,
    ):
        await client.config_set("maxmemory", 1)
        try:
            assert (await at.post())[0] == 503
        finally:
            await client.config_set("maxmemory", 0)
        assert upstream.asked == []
        assert at.meter.refused == ""
        assert (await at.post())[0] == 200


async def test_a_model_that_is_away_tells_the_cli_to_try_again_and_costs_nothing(short_path: Path) -> None:
    async with served("http://127.0.0.1:9", short_path / "s") as at:
        status, answer = await at.post()
        await at.meter.settled()
        assert status == 502
        assert json.loads(answer)["error"]["type"] == "api_error"
        assert await spent(at.ledger) == Spent(requests=1)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_an_error_of_the_model_passes_with_its_retry_after_and_costs_nothing(
    short_path: Path, status: int
) -> None:
    async def busy(_: web.Request) -> web.Response:
        return web.json_response({"type": "error"}, status=status, headers={"retry-after": "7", "x-should-retry": "no"})

    async with Upstream(busy) as upstream, served(upstream.url, short_path / "s") as at:
        async with at.client.post("http://model/v1/messages", json=ASK) as response:
            assert (response.status, await response.json()) == (status, {"type": "error"})
            assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("7", "no")
        await at.meter.settled()
        assert await spent(at.ledger) == Spent(requests=1)


async def test_a_request_that_is_cancelled_while_it_is_charged_costs_nothing() -> None:
    """The ledger has charged it by then, or the answer that says so is lost."""

    class Slow(FakeLedger):
        fails = False

        async def charge(self, *charged: Any) -> Any:
            full = await super().charge(*charged)
            await asyncio.sleep(0)
            if self.fails:
                raise TemporaryError("the answer was lost")
            return full

    ledger, all_of_it = Slow(), accounts(PAYER, Limits())
    charges = Charges(ledger)
    charging = asyncio.create_task(charges.charge("one", all_of_it, Spend(1, 1000, 1.0)))
    await asyncio.sleep(0)
    charging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await charging
    ledger.fails = True
    with pytest.raises(TemporaryError):
        await charges.charge("two", all_of_it, Spend(1, 1000, 1.0))
    ledger.fails = False
    assert await charges.charge("three", all_of_it, Spend(1, 10, 0.1)) is None
    assert (await spent(ledger)).tokens == 10


async def test_a_redirection_is_not_followed(short_path: Path) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=303, headers={"location": "/v1/elsewhere"})

    async with Upstream(elsewhere) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post())[0] == 502
        assert len(upstream.asked) == 1


async def test_a_stream_is_not_held_back(short_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        response.enable_compression()  # it does so only if it may
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await go_on.wait()
        await response.write(b"data: second\n\n")
        return response

    async with (
        Upstream(slow) as upstream,
        served(upstream.url, short_path / "s") as at,
        at.client.post("http://model/v1/messages", json=ASK) as response,
    ):
        assert await response.content.readany() == b"data: first\n\n"
        go_on.set()
        assert await response.read() == b"data: second\n\n"


PING = {"type": "ping"}
HIDDEN = {**ASK, "max_tokens": 7777, "thinking": {"type": "enabled", "budget_tokens": 7000, "display": "omitted"}}


async def test_an_answer_that_breaks_off_does_not_look_whole_and_costs_all_that_it_might(short_path: Path) -> None:
    """Of thoughts that are not shown, nothing but signs of life comes."""

    async def broken(request: web.Request) -> web.StreamResponse:
        response = await events(request, started(input_tokens=3), PING)
        assert request.transport is not None
        request.transport.abort()
        return response

    async with Upstream(broken) as upstream, served(upstream.url, short_path / "s") as at:
        with pytest.raises(aiohttp.ClientError):
            await at.post(HIDDEN)
        await at.meter.settled()
        assert (at.meter.input_tokens, at.meter.output_tokens) == (3, 7777)


async def test_an_answer_that_the_server_breaks_off_costs_all_that_it_might_unless_it_was_soon(
    short_path: Path, soon: bool
) -> None:
    async def failed(request: web.Request) -> web.StreamResponse:
        return await events(request, started(input_tokens=3), PING, {"type": "error"})

    async with Upstream(failed) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post(HIDDEN))[0] == 200
        await at.meter.settled()
        assert (at.meter.input_tokens, at.meter.output_tokens) == (3, 0 if soon else 7777)


async def test_an_answer_that_is_not_read_to_its_end_costs_all_that_it_might(short_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = await events(request, started(input_tokens=3))
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n')
                await asyncio.sleep(0)
        return response

    async with Upstream(endless) as upstream, served(upstream.url, short_path / "s") as at:
        async with at.client.post("http://model/v1/messages", json={**ASK, "max_tokens": 7777}) as response:
            await response.content.readany()
            response.close()
        await until(lambda: at.meter.output_tokens == 7777)
        assert at.meter.input_tokens == 3


async def test_a_model_that_is_silent_for_too_long_may_have_worked(short_path: Path) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with Upstream(silent) as upstream, served(upstream.url, short_path / "s", timeout_seconds=0.2) as at:
        assert (await at.post({**ASK, "max_tokens": 77}))[0] == 502
        await at.meter.settled()
        assert at.meter.output_tokens == 77


async def test_a_stream_that_takes_too_long_is_cut(short_path: Path) -> None:
    async def stuck(request: web.Request) -> web.StreamResponse:
        await events(request, started(input_tokens=3))
        await asyncio.Event().wait()
        raise AssertionError

    async with Upstream(stuck) as upstream, served(upstream.url, short_path / "s", timeout_seconds=0.5) as at:
        back = await at.raw(INNER)
        await at.meter.settled()
        assert back.count(b"HTTP/1.1") == 1
        assert not back.endswith(b"\r\n0\r\n\r\n"), "it must not look whole"
        assert (at.meter.input_tokens, at.meter.output_tokens) == (3, ASK["max_tokens"])


async def test_a_session_that_ends_meanwhile_has_paid(short_path: Path) -> None:
    asked = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    ledger = FakeLedger()
    async with Upstream(silent) as upstream:
        async with served(upstream.url, short_path / "s", ledger=ledger) as at:
            asking = asyncio.create_task(at.post({**ASK, "max_tokens": 77}))
            await asked.wait()
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert (await spent(ledger)).tokens > 77


async def test_the_socket_is_the_owner_s_alone_and_gone_afterwards(short_path: Path) -> None:
    async with served("http://127.0.0.1:9", short_path / "s"):
        assert (short_path / "s").stat().st_mode & 0o777 == 0o600
    assert not (short_path / "s").exists()


async def test_many_requests_at_once_wait_outside(short_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await go_on.wait()
        return web.json_response({})

    async with Upstream(slow) as upstream, served(upstream.url, short_path / "s") as at:
        asked = [asyncio.create_task(at.post()) for _ in range(12)]
        await until(lambda: sum(task.done() for task in asked) == 8)
        go_on.set()
        statuses = [(await task)[0] for task in asked]
        assert (statuses.count(200), statuses.count(429)) == (4, 8)
        assert at.meter.requests == 4


async def test_connections_too_many_are_closed(short_path: Path) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        open_ones = [await asyncio.open_unix_connection(str(at.socket)) for _ in range(40)]
        ended = [asyncio.create_task(reader.read()) for reader, _ in open_ones]
        await until(lambda: sum(task.done() for task in ended) == 24)
        for _, writer in open_ones:
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)
        await until(lambda: not [task for task in ended if not task.done()])
        assert (await at.post())[0] == 200


async def test_connections_too_many_at_once_are_closed_too(short_path: Path) -> None:
    """All of them before the first is taken up."""
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        ours = [socket.socket(socket.AF_UNIX) for _ in range(90)]
        for each in ours:
            each.setblocking(False)
            each.connect(str(at.socket))
        await until(lambda: sum(map(_is_closed, ours)) == 74)
        for each in ours:
            each.close()


def _is_closed(ours: socket.socket) -> bool:
    try:
        return ours.recv(1) == b""
    except BlockingIOError:
        return False


async def test_who_sends_files_is_hung_up_on(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nobody reads what comes with them, since one request is under way and many others wait."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    asked = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with Upstream(silent) as upstream, served(upstream.url, short_path / "s") as at:
        with (
            socket.socket(socket.AF_UNIX) as ours,
            socket.socket(socket.AF_UNIX) as other,
            tempfile.TemporaryFile() as f,
        ):
            for each in (ours, other):
                each.connect(str(at.socket))
                each.setblocking(False)
            ours.sendall(INNER)
            await asked.wait()
            other.sendall(HEAD)
            await until(lambda: _is_hung_up_on(ours, f.fileno()))
            assert not _is_closed(other)


def _is_hung_up_on(ours: socket.socket, file: int) -> bool:
    """Sends more requests, and this file with them, while there is room."""
    try:
        return socket.send_fds(ours, [INNER * 10], [file]) == 0
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


HALF = b'POST /v1/messages HTTP/1.1\r\nHost: m\r\n%s\r\n\r\n{"a": "' + b"x" * 1_000_000
LARGE = {**ASK, "system": "x" * 1_500_000}
UNFINISHED = {"said": b"Content-Length: 1900000", "not said": b"Transfer-Encoding: chunked\r\n\r\nffffff"}


async def test_what_is_too_large_is_not_taken(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 2_000_000)
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        assert (await at.post({**ASK, "system": "x" * 2_000_000}))[0] == 413
        back = await at.raw(HALF % b"Transfer-Encoding: chunked\r\n\r\nffffff" + b"x" * 2_000_000)
        assert back.startswith(b"HTTP/1.1 413 ")
        assert (await at.post(LARGE))[0] == 200


@pytest.mark.parametrize("size", UNFINISHED)
async def test_bodies_of_a_session_that_need_more_than_it_may_hold_wait_for_each_other(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 2_000_000)
    monkeypatch.setattr(module, "BODY_SECONDS", 1.0)
    ended: list[Any] = []

    async def noted(asking: Coroutine[Any, Any, Any]) -> None:
        ended.append(await asking)

    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        reader, writer = await asyncio.open_unix_connection(str(at.socket))
        writer.write(HALF % UNFINISHED[size])
        await asyncio.gather(noted(reader.readline()), noted(at.post(LARGE)), noted(at.post()))
        writer.close()
    assert ended[0] == b"HTTP/1.1 408 Request Timeout\r\n", "it had taken the room"
    assert [status for status, _ in ended[1:]] == [200, 200]


@pytest.mark.parametrize("size", [500_000, 1_500_000])
async def test_nothing_of_a_request_stays_in_memory_while_its_answer_comes(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 2_000_000)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        asked.set()
        await go_on.wait()
        return web.json_response(usage(input_tokens=5, output_tokens=7))

    body = {**ASK, "system": "x" * size}
    async with Upstream(slow) as upstream, served(upstream.url, short_path / "s") as at:
        tracemalloc.start()
        first = asyncio.create_task(at.post(body))
        await asked.wait()
        await until(lambda: _kept_by_us() < size // 3)
        tracemalloc.stop()
        others = [asyncio.create_task(at.post(body)) for _ in range(3)]
        await until(lambda: len(upstream.asked) == 4)
        go_on.set()
        assert [(await each)[0] for each in (first, *others)] == [200] * 4


def _kept_by_us() -> int:
    """Bytes of memory that our modules have taken, while they are traced."""
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/mailagent/*")])
    return sum(trace.size for trace in snapshot.traces)


async def test_a_session_cannot_take_the_room_of_another(short_path: Path) -> None:
    """Hostile code begins as many of the largest bodies as there may be requests, and ends none."""
    head = b"POST /v1/messages HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % module.MAX_BODY
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        open_ones = [await asyncio.open_unix_connection(str(at.socket)) for _ in range(module.MAX_AT_ONCE)]
        for _, writer in open_ones:
            writer.write(head + b"x" * (module.MAX_BODY - 1))
        await until(lambda: any(not writer.transport.get_write_buffer_size() for _, writer in open_ones))
        async with (
            at.gateway.listen(short_path / "t", PAYER) as meter,
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(short_path / "t"))) as client,
        ):
            assert (await Served(client, meter, short_path / "t", at.gateway, at.ledger).post(LARGE))[0] == 200
        for _, writer in open_ones:
            writer.transport.abort()


async def test_a_body_that_does_not_arrive_is_not_waited_for(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.2)
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        back = await at.raw(b"POST /v1/messages HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n{")
        assert back.startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_does_not_arrive_is_not_waited_for(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        reader, writer = await asyncio.open_unix_connection(str(at.socket))
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                writer.write(b"POST /v1/messages HTTP/1.1\r\n")
                assert await reader.read() == b""
        writer.close()


async def test_a_body_that_is_compressed_is_not_opened(short_path: Path) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        bomb = gzip.compress(json.dumps({**ASK, "system": "x" * 10**7}).encode())
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        async with at.client.post("http://model/v1/messages", data=bomb, headers=headers) as response:
            assert response.status == 415
        assert upstream.asked == []


BODY = json.dumps(ASK).encode()
HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: model\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
INNER = HEAD + b"x-api-key: mine\r\n" + LENGTH + b"\r\n" + BODY
SMUGGLED = {
    "both lengths": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "two lengths": HEAD + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "odd coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY,
    "folded header": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + INNER,
    "blank before the colon": HEAD + b"Content-Length : 3\r\n\r\n" + BODY,
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "nul in a header": HEAD + b"a: \0b\r\n" + LENGTH + b"\r\n" + BODY,
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a very long line": b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_what_could_be_read_in_two_ways_is_not_read(short_path: Path, name: str) -> None:
    async with Upstream(whole) as upstream, served(upstream.url, short_path / "s") as at:
        back = await at.raw(SMUGGLED[name])
        assert back.startswith(b"HTTP/1.0 400 ") or back.startswith(b"HTTP/1.1 400 ")
        assert back.count(b"HTTP/1.") == 1
        assert upstream.asked == []


async def test_requests_in_one_breath_are_answered_one_by_one_and_all_are_counted(short_path: Path) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    async with (
        Upstream(whole) as upstream,
        served(upstream.url, short_path / "s", limits=Limits(turn_requests=2)) as at,
    ):
        back = await at.raw(INNER + chunked + INNER + INNER)
        assert [part.split()[0] for part in back.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"403", b"403"]
        assert len(upstream.asked) == 2
        assert {headers["x-api-key"] for headers, _ in upstream.asked} == {"the-key"}


async def test_each_request_is_a_line_of_the_audit_trail_without_a_word_of_the_mail(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mailagent.audit")

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"request-id": "req_1"})
        await response.prepare(request)
        await response.write(json.dumps({"content": "SECRET", **usage(input_tokens=5, output_tokens=7)}).encode())
        return response

    async with Upstream(answer) as upstream, served(upstream.url, short_path / "s") as at:
        await at.post({**ASK, "system": "SECRET"})
        await at.meter.settled()
    (record,) = [each for each in caplog.records if each.name == "mailagent.audit"]
    line = json.loads(record.getMessage())
    assert "SECRET" not in caplog.text
    assert PAYER.sender not in caplog.text
    assert {name: line[name] for name in ("job", "thread", "model", "status", "upstream_id", "error")} == {
        "job": "job",
        "thread": "thread",
        "model": "rules",
        "status": 200,
        "upstream_id": "req_1",
        "error": "",
    }
    assert line["tokens"] == {"input": 5, "output": 7, "cache_write": 0, "cache_hour": 0, "cache_read": 0}
    assert line["dollars"] == pytest.approx((5 * 3 + 7 * 15) / 1e6)
    assert 0 <= line["first_byte_ms"] <= line["total_ms"]


async def test_the_model_s_server_must_show_a_certificate_that_is_trusted(
    short_path: Path, authority: tuple[Path, ssl.SSLContext]
) -> None:
    certificate, tls = authority
    async with Upstream(whole, tls) as upstream:
        async with served(upstream.url, short_path / "s", ca_file=str(certificate)) as at:
            assert [(await at.post())[0] for _ in range(2)] == [200, 200]
        async with served(upstream.url, short_path / "s") as at:
            assert (await at.post())[0] == 502
        elsewhere = upstream.url.replace("127.0.0.1", "localhost")
        async with served(elsewhere, short_path / "s", ca_file=str(certificate)) as at:
            assert (await at.post())[0] == 502, "the certificate is for another name"
        assert len(upstream.asked) == 2


async def test_authorities_that_cannot_be_read_are_a_fault_of_the_settings(short_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca_file"):
        async with served("https://127.0.0.1:9", short_path / "s", ca_file="/nowhere"):
            pass


async def test_the_proxy_of_the_environment_is_used(
    short_path: Path, authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, tls = authority
    met: list[bytes] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        met.append(head.split(b"\r\n")[0])
        host, port = head.split()[1].decode().split(":")
        back, forth = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, forth), pipe(back, writer))

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with Upstream(whole, tls) as upstream:
        async with served(upstream.url, short_path / "s", ca_file=str(certificate)) as at:
            assert (await at.post())[0] == 200
        assert met == [f"CONNECT {upstream.url.removeprefix('https://')} HTTP/1.1".encode()]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with served(upstream.url, short_path / "s", ca_file=str(certificate)) as at:
            assert (await at.post())[0] == 200
        assert len(met) == 1
    server.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that only who is told of it trusts, and a server's context with it."""
    place = tmp_path_factory.mktemp("tls")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request += ["-keyout", str(place / "key"), "-out", str(place / "cert"), "-days", "2", "-subj", "/CN=model"]
    subprocess.run([*request, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(place / "cert", place / "key")
    return place / "cert", tls
