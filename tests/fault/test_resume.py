"""kill -9 in a turn of ten steps: the next sandbox goes on, and the model is told of every step once.

Each step is one command. At a point of the turn, while step k runs or while the model thinks about step k + 1, the CLI,
its bubblewrap or the whole daemon is killed. `RESUME=all` (as `make resume` says) tries every point with every victim,
else one point each. What the CLI has not stored yet, which takes it a tenth of a second, is done again instead."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web

from mailagent.adapters.redis import PREFIX, Redis
from mailagent.adapters.redis_server import PrivateRedis
from mailagent.demo.mailserver import MailServer
from mailagent.demo.rules import RulesModel
from mailagent.demo.steps import Block
from tests.daemon import Daemon, daemon
from tests.e2e.test_conversation import ACCOUNTS, World, _mail, _text
from tests.settings import settings_text

STEPS = 10
Victim = Literal["cli", "bwrap", "daemon"]
When = Literal["running", "thinking"]
EVERYTHING = os.environ.get("RESUME") == "all"
SOME: list[tuple[Victim, When, int]] = [("cli", "running", 4), ("bwrap", "thinking", 7), ("daemon", "running", 2)]
ALL: list[tuple[Victim, When, int]] = [
    (victim, when, step)
    for victim in ("cli", "bwrap", "daemon")
    for when in ("running", "thinking")
    for step in range(1, STEPS + 1)
]


class Stepwise(RulesModel):
    """Asks for the first step whose result it was not told; once, it thinks for ever about what follows `stop`."""

    def __init__(self, hang: int, stop: int) -> None:
        super().__init__()
        self.hang = hang
        self.stop = stop
        self.thinking = asyncio.Event()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        done = told(json.loads(await request.read()))
        if self.stop and f"did-{self.stop}" in done:
            self.stop = 0
            self.thinking.set()
            await asyncio.Event().wait()
        return await super()._messages(request)

    def _answer(self, body: Mapping[str, Any]) -> Sequence[Block]:
        done = told(body)
        left = [step for step in range(1, STEPS + 1) if f"did-{step}" not in done]
        if not left:
            return [{"type": "text", "text": "All steps are done."}]
        pause = "mkdir work/hang 2>/dev/null && until false; do /usr/bin/sleep 0.01; done; " * (left[0] == self.hang)
        step = f"{pause}echo {left[0]} >> work/log; echo did-$(({left[0]}))"
        return [{"type": "tool_use", "name": "Bash", "input": {"command": step}}]


def told(body: Mapping[str, Any]) -> str:
    """All results of tools in a request."""
    blocks = [b for each in body["messages"] for b in each["content"] if isinstance(each["content"], list)]
    return "\n".join(json.dumps(block["content"]) + "|" for block in blocks if block.get("type") == "tool_result")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("victim", "when", "step"), ALL if EVERYTHING else SOME)
async def test_the_turn_goes_on(short_path: Path, victim: Victim, when: When, step: int) -> None:
    hang, stop = (step, 0) if when == "running" else (0, step)
    async with MailServer(ACCOUNTS, authserv_id="mx.demo.test") as server, Stepwise(hang, stop) as model:
        text = settings_text(
            short_path,
            model_url=model.url,
            imap_port=server.imap_port,
            smtp_port=server.smtp_port,
            attempts=9,
            agent="drain_seconds = 0.5",
            more="[redis]\nlease_seconds = 3.0\n",
        )
        mail = _mail("Ten steps, please.", [("a.csv", b"name,x\nn,1\nm,2\n")])
        async with daemon(short_path, text) as running:
            await World(server, model, running, short_path).send(mail)
            await _reached(model, short_path, when, step)
            _kill(running, victim)
            if victim != "daemon":
                reply = await World(server, model, running, short_path).reply_to(mail, 120)
            else:
                await running.process.wait()
        if victim == "daemon":
            async with daemon(short_path, text) as running:
                reply = await World(server, model, running, short_path).reply_to(mail, 120)
        assert "All steps are done." in _text(reply)
        results = told(model.requests[-1][1])
        assert [results.count(f'did-{n}"') for n in range(1, STEPS + 1)] == [1] * STEPS
        assert results.count("|") == STEPS + (when == "running"), "the step that was cut off is told as one that failed"
        (log,) = (short_path / "state/threads").glob("*/files/work/log")
        assert log.read_text().split() == [str(n) for n in range(1, STEPS + 1)]
        assert list((short_path / "state/tmp").iterdir()) == []


async def _reached(model: Stepwise, place: Path, when: When, step: int) -> None:
    """The turn stands at its point, and what was before it is stored."""
    async with asyncio.timeout(120), Redis.from_url(PrivateRedis(place / "state", place / "run").url) as client:
        if when == "thinking":
            await model.thinking.wait()
        else:
            while not list((place / "state/threads").glob("*/files/work/hang")):
                await asyncio.sleep(0.01)
        last = f"did-{step}" if when == "thinking" else f"did-$(({step}))"
        while last not in await _stored(client):
            await asyncio.sleep(0.01)


async def _stored(client: Redis) -> str:
    """All transcripts there are."""
    keys = [key async for key in client.scan_iter(match=f"{PREFIX}:log:*")]
    return str([entry for key in keys for entry in await client.lrange(key, 0, -1)])


def _kill(running: Daemon, victim: Victim) -> None:
    if victim == "daemon":
        running.process.kill()
        return
    name = {"cli": "/opt/claude/claude", "bwrap": "bwrap"}[victim]
    found = [pid for pid in _below(running.process.pid) if Path(_command(pid).split("\0")[0]).match(name)]
    os.kill(found[0], signal.SIGKILL)


def _below(parent: int) -> Iterator[int]:
    """The processes that descend from this one, the oldest first."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _below(int(child))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""
