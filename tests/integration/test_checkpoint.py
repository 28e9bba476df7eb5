"""Checkpoints of a real session: made after each tool, whole in the end, and good on another host."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from claude_agent_sdk._internal.transcript_mirror_batcher import TranscriptMirrorBatcher

from mailagent.adapters import redis, snapshots
from mailagent.core.errors import TemporaryError
from mailagent.core.job import session_id
from mailagent.core.values import BlobId
from mailagent.demo.rules import RulesModel
from tests.integration.test_session import THREAD, Blocks, Desk, bash, desk, results, text

CHECKPOINT = f"{redis.PREFIX}:checkpoint:{THREAD}"


async def transcript(at: Desk) -> str:
    """All that is stored of it."""
    keys = [key async for key in at.client.scan_iter(match=f"{redis.PREFIX}:log:*{session_id(THREAD)}")]
    return "\n".join([str(entry) for key in keys for entry in await at.client.lrange(key, 0, -1)])


async def until(at: Desk, words: str) -> None:
    """Wait until these words are stored: the CLI tells results a tenth of a second later. (A command says `did-$((1))`
    for `did-1`, so that only its result has the words.)"""
    async with asyncio.timeout(20):
        while words not in await transcript(at):
            await asyncio.sleep(0.005)


async def there(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.005)


def work(place: Path) -> Path:
    return place / "threads" / THREAD / "files" / "work"


def lose(place: Path) -> None:
    """Everything that only this host has."""
    shutil.rmtree(place / "threads")


WAIT = "until test -e work/go; do /usr/bin/sleep 0.01; done"


async def test_another_host_goes_on_after_the_last_tool_that_ended(short_path: Path) -> None:
    replay = [
        bash("echo one > work/state; echo did-$((1))"),
        bash(f"echo two > work/state; touch work/begun; {WAIT}; echo did-$((2)); kill -9 $CLAUDE_PID; read"),
        bash("cat work/state; ls work"),
        text("done"),
    ]
    async with desk(short_path, replay) as at:
        turn = asyncio.create_task(at.turn("question"))
        await until(at, "did-1")
        await there(work(short_path) / "begun")
        (work(short_path) / "go").touch()
        with pytest.raises(TemporaryError):
            await turn
        lose(short_path)
        assert (await at.turn("question")).answer == "done"
        after, last = results(at.model.requests[2][1]), results(at.model.requests[3][1])
        assert after.count("did-1") == 1
        assert "did-2" not in after
        assert "one" in last
        assert "begun" not in last


async def test_after_a_whole_turn_another_host_has_all_of_it(short_path: Path) -> None:
    replay = [bash("echo 1 > out/answer.md"), text("first"), bash("cat work/earlier/1/answer.md"), text("second")]
    async with desk(short_path, replay) as at:
        await at.turn("one")
        await at.workspaces.snapshot(await at.open())
        lose(short_path)
        await at.turn("two", 2)
        last = at.model.requests[-1][1]
        assert "first" in json.dumps(last)
        assert "1" in results(last)


class Closing(RulesModel):
    """Redis takes no writes any more from its answer to one request on, which the gateway has charged by then."""

    client: redis.Redis
    last = 0

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        if len(self.requests) + 1 == self.last:
            await self.client.config_set("min-replicas-to-write", 1)
        return await super()._messages(request)


@asynccontextmanager
async def closing(place: Path, replay: list[Blocks], last: int) -> AsyncIterator[Desk]:
    async with desk(place, replay, kind=Closing) as at:
        assert isinstance(at.model, Closing)
        at.model.client, at.model.last = at.client, last
        yield at


async def test_a_store_that_is_away_for_a_while_misses_nothing(short_path: Path, caplog: Any) -> None:
    replay = [bash("echo did-$((1))"), bash(f"touch work/stop; {WAIT}; echo did-$((2))"), text("done"), text("later")]
    async with closing(short_path, replay, 2) as at:
        turn = asyncio.create_task(at.turn("question"))
        await there(work(short_path) / "stop")
        async with asyncio.timeout(20):
            while "wait to be stored" not in caplog.text:
                await asyncio.sleep(0.005)
        await at.client.config_set("min-replicas-to-write", 0)
        (work(short_path) / "go").touch()
        assert (await turn).answer == "done"
        await at.turn("again", 2)
        told = results(at.model.requests[-1][1])
        assert [told.count(f"did-{n}") for n in (1, 2)] == [1, 1]


async def test_a_transcript_that_cannot_be_stored_fails_the_turn_and_has_no_hole(short_path: Path) -> None:
    replay = [bash("echo did-$((1))"), text("lost"), text("found")]
    async with closing(short_path, replay, 2) as at:
        with pytest.raises(TemporaryError, match="NOREPLICAS"):
            await at.turn("question")
        await at.client.config_set("min-replicas-to-write", 0)
        assert "lost" not in await transcript(at)
        assert (await at.turn("question")).answer == "found"


async def test_a_checkpoint_that_takes_the_store_long_does_not_cost_the_turn(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The SDK waits for a minute, here less, then says that an append has failed which is only waiting."""
    hurried = partial(TranscriptMirrorBatcher, send_timeout=0.1)
    monkeypatch.setattr("claude_agent_sdk._internal.session_resume.TranscriptMirrorBatcher", hurried)
    held = asyncio.Event()
    async with desk(short_path, [bash("echo a > work/a; echo did-$((1))"), text("done"), text("later")]) as at:
        put = at.workspaces._blobs.put

        async def slow(data: bytes) -> BlobId:
            await held.wait()
            return await put(data)

        monkeypatch.setattr(at.workspaces._blobs, "put", slow)
        turn = asyncio.create_task(at.turn("question"))
        async with asyncio.timeout(20):
            while len(at.model.requests) < 2 or "flush failed" not in caplog.text:
                await asyncio.sleep(0.005)
        held.set()
        assert (await turn).answer == "done"
        assert await at.client.hget(CHECKPOINT, "manifest")
        lose(short_path)
        await at.turn("again", 2)
        assert results(at.model.requests[-1][1]).count("did-1") == 1


async def test_a_tool_that_failed_is_kept_too(short_path: Path) -> None:
    write = [{"type": "tool_use", "name": "Write", "input": {"file_path": "/srv/work/b", "content": "written"}}]
    async with desk(short_path, [bash("echo failed > work/a; exit 3"), write, text("done")]) as at:
        await at.turn("question")
        manifest = BlobId(str(await at.client.hget(CHECKPOINT, "manifest")))
        kept = await snapshots.named(manifest, at.workspaces._blobs)
        assert [file.path for file in kept.files] == ["work/a", "work/b"]
        place = int(await at.client.hget(CHECKPOINT, "entries") or 0)
        (log,) = [key async for key in at.client.scan_iter(match=f"{redis.PREFIX}:log:*")]
        assert '"tool_result"' in (await at.client.lrange(log, 0, -1))[place - 1]
