"""The gateway over real sockets: one path is open, the key is added outside, streams stream, use is counted."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mailagent.adapters.gateway import Gateway, Meter, admit
from mailagent.config import Model
from mailagent.demo.rules import RulesModel

SAYS = [{"type": "text", "text": "hello"}]
ASK = {"model": "any", "max_tokens": 10, "stream": True, "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def _served(model: Model, socket: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, Meter]]:
    gateway = Gateway(model, "the-key")
    await gateway.start()
    try:
        connector = aiohttp.UnixConnector(str(socket))
        async with gateway.listen(socket) as meter, aiohttp.ClientSession(connector=connector) as client:
            yield client, meter
    finally:
        await gateway.stop()


async def _post(client: aiohttp.ClientSession, body: Any = ASK, **headers: str) -> tuple[int, bytes]:
    async with client.post("http://model/v1/messages?beta=true", json=body, headers=headers) as response:
        return response.status, await response.read()


async def test_the_key_is_added_outside_and_the_sandbox_s_own_headers_are_dropped(tmp_path: Path) -> None:
    headers = {"x-api-key": "placeholder", "authorization": "Bearer x", "anthropic-version": "2023-06-01"}
    async with (
        RulesModel(replay=[SAYS]) as upstream,
        _served(Model(base_url=upstream.url, name="rules"), tmp_path / "s") as (
            client,
            meter,
        ),
    ):
        status, answer = await _post(client, **headers)
        assert status == 200
        assert b"hello" in answer
        sent, body = upstream.requests[0]
    lower = {name.lower(): value for name, value in sent.items()}
    assert lower["x-api-key"] == "the-key"
    assert lower["anthropic-version"] == "2023-06-01"
    assert "authorization" not in lower
    assert body["model"] == "rules", "the daemon's model, whatever was asked for"
    assert (meter.requests, meter.input_tokens > 0, meter.output_tokens > 0) == (1, True, True)
    assert meter.first_request_at > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1/files"),
        ("GET", "/"),
        ("POST", "//v1/messages"),
    ],
)
async def test_no_other_path_is_open(tmp_path: Path, method: str, path: str) -> None:
    async with (
        RulesModel(replay=[SAYS]) as upstream,
        _served(Model(base_url=upstream.url), tmp_path / "s") as (client, _),
    ):
        async with client.request(method, f"http://model{path}", json=ASK) as response:
            assert response.status in (404, 405)
        assert upstream.requests == []


async def test_requests_and_tokens_are_capped(tmp_path: Path) -> None:
    async with RulesModel(replay=[SAYS, SAYS, SAYS]) as upstream:
        async with _served(Model(base_url=upstream.url, max_requests=2), tmp_path / "s") as (client, _):
            assert [(await _post(client))[0] for _ in range(3)] == [200, 200, 403]
        async with _served(Model(base_url=upstream.url, max_output_tokens=1), tmp_path / "s") as (client, _):
            assert [(await _post(client))[0] for _ in range(2)] == [200, 403]


async def test_a_request_that_is_none_is_refused(tmp_path: Path) -> None:
    async with RulesModel(replay=[]) as upstream, _served(Model(base_url=upstream.url), tmp_path / "s") as (client, _):
        bodies: list[Any] = [[], {}, {"messages": "x"}, "x"]
        for body in bodies:
            assert (await _post(client, body))[0] == 400
        async with client.post("http://model/v1/messages", data=b"{") as response:
            assert response.status == 400


async def test_a_model_that_is_away_tells_the_cli_to_try_again(tmp_path: Path) -> None:
    async with _served(Model(base_url="http://127.0.0.1:9"), tmp_path / "s") as (client, _):
        status, answer = await _post(client)
    assert status == 529
    assert json.loads(answer)["error"]["type"] == "overloaded_error"


async def test_an_error_of_the_model_passes_with_its_retry_after(tmp_path: Path) -> None:
    async def busy(_: web.Request) -> web.Response:
        return web.json_response({"type": "error"}, status=429, headers={"retry-after": "7", "set-cookie": "x=1"})

    async with (
        _upstream(busy) as url,
        _served(Model(base_url=url), tmp_path / "s") as (client, _),
        client.post("http://model/v1/messages", json=ASK) as response,
    ):
        assert response.status == 429
        assert response.headers["retry-after"] == "7"
        assert "set-cookie" not in response.headers


async def test_a_stream_is_not_held_back(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await go_on.wait()
        await response.write(b"data: second\n\n")
        return response

    async with (
        _upstream(slow) as url,
        _served(Model(base_url=url), tmp_path / "s") as (client, _),
        client.post("http://model/v1/messages", json=ASK) as response,
    ):
        assert await response.content.readany() == b"data: first\n\n"
        go_on.set()
        assert await response.read() == b"data: second\n\n"


async def test_an_answer_that_breaks_off_does_not_look_whole(tmp_path: Path) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with _upstream(broken) as url, _served(Model(base_url=url), tmp_path / "s") as (client, _):
        with pytest.raises(aiohttp.ClientError):
            await _post(client)


async def test_the_socket_is_the_owner_s_alone_and_gone_afterwards(tmp_path: Path) -> None:
    async with _served(Model(), tmp_path / "s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "s").exists()


async def test_many_requests_at_once_are_counted_before_any_is_read(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await go_on.wait()
        return web.json_response({})

    async with _upstream(slow) as url, _served(Model(base_url=url, max_requests=3), tmp_path / "s") as (client, meter):
        asked = [asyncio.create_task(_post(client)) for _ in range(20)]
        async with asyncio.timeout(10):
            while sum(task.done() for task in asked) < 17:
                await asyncio.sleep(0.01)
        go_on.set()
        statuses = sorted([(await task)[0] for task in asked])
    assert statuses.count(200) == 3
    assert meter.requests == 3


async def test_an_answer_that_is_not_read_to_its_end_counts_as_all_that_it_might_be(tmp_path: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n')
                await asyncio.sleep(0)
        return response

    async with _upstream(endless) as url, _served(Model(base_url=url), tmp_path / "s") as (client, meter):
        async with client.post("http://model/v1/messages", json={**ASK, "max_tokens": 777}) as response:
            await response.content.readany()
            response.close()
        async with asyncio.timeout(10):
            while meter.output_tokens != 777:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["url", "file"])
async def test_content_that_the_model_s_server_would_fetch_is_refused(tmp_path: Path, kind: str) -> None:
    source = {"type": "image", "source": {"type": kind, "url": "https://elsewhere.test/?data", "file_id": "f"}}
    messages = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [source]}]}]
    async with (
        RulesModel(replay=[SAYS]) as upstream,
        _served(Model(base_url=upstream.url), tmp_path / "s") as (client, _),
    ):
        assert (await _post(client, {**ASK, "messages": messages}))[0] == 400
        assert upstream.requests == []


def test_tools_that_the_model_s_server_would_run_are_taken_out() -> None:
    tools = [
        {"name": "Bash"},
        {"name": "X", "type": "custom"},
        {"type": "web_search_20250305"},
        {"type": "web_fetch_x"},
    ]
    body = admit({**ASK, "tools": tools, "mcp_servers": [{"url": "https://x"}], "container": "c"}, "m")
    assert body["tools"] == tools[:2]
    assert "mcp_servers" not in body
    assert "container" not in body


@asynccontextmanager
async def _upstream(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/messages", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
