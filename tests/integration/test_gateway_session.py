"""The gateway around a real session: what the CLI makes of refusals and failures, and what code in a sandbox can do."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mailagent.core.errors import PermanentError
from mailagent.demo.rules import RulesModel
from tests.integration.test_session import THREAD, Blocks, bash, desk, text

FOREVER = [bash(f"echo {n}") for n in range(30)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limits": "turn_requests = 3"}, "may use 3 requests to the model, and this one came to 3"),
        ({"limits": "thread_dollars = 0.01", "model": "price_input = 1"}, "Please begin a new one: write a new mail"),
        ({"limits": "dollars_per_day = 0.01", "model": "price_input = 1"}, "again at midnight UTC, in "),
    ],
)
async def test_a_turn_that_has_used_what_it_may_ends_in_words_for_the_sender(
    short_path: Path, settings: dict[str, Any], words: str
) -> None:
    async with desk(short_path, FOREVER, **settings) as at:
        with pytest.raises(PermanentError, match=words):
            await at.turn("hello")
        made = len(at.model.requests)
        assert 1 < made < 10
        with pytest.raises(PermanentError, match=words):
            await at.turn("hello again")
        assert len(at.model.requests) == made, "the turn that is tried again has no more than that"


class Failing(RulesModel):
    """Fails at the first request, then answers."""

    failed = False

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        if self.failed:
            return await super()._messages(request)
        self.failed = True
        return await self.fail(request)

    async def fail(self, request: web.Request) -> web.StreamResponse:
        """In one way."""
        raise NotImplementedError


class Busy(Failing):
    async def fail(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"type": "error"}, status=429, headers={"retry-after": "1"})


class Overloaded(Failing):
    async def fail(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"type": "error", "error": {"type": "overloaded_error", "message": ""}}, status=529)


class Gone(Failing):
    async def fail(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


class BreaksOff(Failing):
    async def fail(self, request: web.Request) -> web.StreamResponse:
        message = {"type": "message", "id": "m", "role": "assistant", "content": [], "model": "rules"}
        event = {"type": "message_start", "message": {**message, "usage": {"input_tokens": 1, "output_tokens": 1}}}
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"event: message_start\ndata: {json.dumps(event)}\n\n".encode())
        assert request.transport is not None
        request.transport.abort()
        return response


@pytest.mark.parametrize("kind", [Busy, Overloaded, Gone, BreaksOff])
async def test_the_cli_asks_again_when_the_model_fails_once(short_path: Path, kind: type[Failing]) -> None:
    async with desk(short_path, [text("there it is")], kind) as at:
        outcome = await at.turn("hello")
        assert outcome.answer == "there it is"
        assert outcome.usage.requests == 2


ATTACK = (Path(__file__).parent / "socket_attack.py").read_text()


async def test_code_in_the_sandbox_that_asks_the_model_itself_has_the_same_limits(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mailagent.audit")
    replay: list[Blocks] = [bash(f"python3 - <<'END'\n{ATTACK}\nEND"), *[text("ok")] * 100]
    async with desk(short_path, replay, limits="turn_requests = 25", model="max_tokens = 4000") as at:
        with pytest.raises(PermanentError, match="may use 25 requests"):
            await at.turn("hello")
        said = json.loads((short_path / "threads" / THREAD / "files" / "out" / "said.json").read_text())
        assert set(said.pop("all at once")) <= {"200", "403", "429"}
        assert said == {
            "other paths": [["404"]] * 5,
            "another model": ["404"],
            "a url": ["400"],
            "both lengths": ["400"],
            "headers": ["200"],
            "chunked": ["200"],
            "in one breath": ["200"] * 3,
            "hung up": [],
            "at the end": ["403"],
        }
        assert 7 <= len(at.model.requests) <= 25
        for headers, body in at.model.requests:
            _as_the_cli_asks(headers, body)
    lines = [record.getMessage() for record in caplog.records if record.name == "mailagent.audit"]
    assert len(at.model.requests) <= len(lines) <= 25
    assert "ATTACK" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def _as_the_cli_asks(headers: dict[str, str], body: dict[str, Any]) -> None:
    lower = {name.lower(): value for name, value in headers.items()}
    assert lower["x-api-key"] == "the-real-key"
    assert not {"authorization", "cookie"} & set(lower)
    assert "context-1m" not in lower.get("anthropic-beta", "")
    assert body["max_tokens"] <= 4000
    assert not {"mcp_servers", "service_tier"} & set(body)
    assert not [tool for tool in body.get("tools", []) if tool.get("type", "custom") != "custom"]


async def test_code_that_uses_up_the_turn_takes_nothing_from_another_one(short_path: Path) -> None:
    ask = "b'POST /v1/messages HTTP/1.1\\r\\nHost: m\\r\\nContent-Length: 2\\r\\n\\r\\n{}'"
    flood = f"s = socket.socket(socket.AF_UNIX); s.connect('/run/model.sock'); s.sendall({ask}); s.recv(9); s.close()"
    flood = f"import socket\nfor _ in range(60):\n {flood}"
    replay = [bash(f'python3 -c "{flood}"'), text("never")]
    async with desk(short_path, replay, limits="turn_requests = 20") as at:
        with pytest.raises(PermanentError, match="may use 20 requests"):
            await at.turn("hello")
        assert len(at.model.requests) == 1
        assert (await at.turn("hello")).answer == "never", "what was not sent is on no account"
