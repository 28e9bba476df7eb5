"""Turns that are cancelled, at any moment and more than once: whatever they began on this host is ended.

That happens to one that is out of time while its lease is lost or the daemon stops. `CANCEL=all` tries more moments."""

import asyncio
import gc
import itertools
import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from mailagent.adapters import bubblewrap
from mailagent.adapters.endings import whole
from mailagent.core.errors import TemporaryError
from mailagent.core.job import session_id
from mailagent.core.policy import Policy
from mailagent.core.values import ThreadId, Turn
from mailagent.ports import Workspace
from tests.integration.test_session import LIMITS, PAYER, Desk, bash, desk, processes_of, text

MOMENTS, STEP = (200, 0.01) if os.environ.get("CANCEL") == "all" else (24, 0.06)
"""How many moments in the life of a turn, and the seconds between two of them."""
AGAIN = (0.0, 0.03, 0.15)
"""Seconds until the second cancellation."""
AT_ONCE = 4


def held(place: Path) -> list[str]:
    """What this process has open that a session opens: pipes, processes and namespaces, and sockets of the gateway; and
    the children that are not the store."""
    sockets = {line.split()[6]: line.split()[7:] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        listens = any(path.startswith(f"{place}/run") for path in sockets.get(target[8:-1], []))
        if target.startswith(("pipe:", "pid:", "anon_inode:[pidfd]", tempfile.gettempdir())) or listens:
            found.append(target)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sorted(found) + [f"child {child}" for child in children]


def kinds(found: list[str]) -> list[str]:
    """Without the numbers, which differ."""
    return [each.partition(":")[0].partition(" ")[0] for each in found]


async def cancelled(doing: Coroutine[Any, Any, object], seconds: float, again: float) -> None:
    """Cancel it after so many seconds, and again after so many more; it may have ended by then."""
    task = asyncio.create_task(doing)
    for moment in (seconds, again):
        await asyncio.wait({task}, timeout=moment)
        task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.done()
    assert task.cancelled() or task.exception() is None


async def asked(at: Desk, workspace: Workspace) -> None:
    async with at.agent.session(workspace, PAYER) as session:
        await session.ask(Turn(workspace.thread, 1, session_id(workspace.thread), "question"))


async def test_a_turn_that_is_cancelled_twice_leaves_nothing(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with desk(short_path, [bash("echo a > work/a; sleep 0.3"), text("ok")] * MOMENTS) as at:
        before = kinds(held(short_path))
        numbers = iter(range(MOMENTS))
        while batch := list(itertools.islice(numbers, AT_ONCE)):
            turns = {number: asked(at, await at.open(ThreadId(f"thread {number}"))) for number in batch}
            await asyncio.gather(*(cancelled(turns[n], n * STEP, AGAIN[n % len(AGAIN)]) for n in batch))
            assert processes_of(short_path) == {}
        assert list(tmp_path.iterdir()) == []
        assert [path.name for path in (short_path / "run").glob("*.sock") if path.name != "redis.sock"] == []
        async with asyncio.timeout(10):  # a pipe is closed when its end was read
            while kinds(held(short_path)) != before:
                gc.collect()
                await asyncio.sleep(0.05)


async def test_a_program_that_is_cancelled_twice_leaves_nothing(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with desk(short_path, []) as at:
        workspace = await at.open()
        before = kinds(held(short_path))
        for number in range(12):
            program = bubblewrap.run(Policy(at.host, workspace.path, "", LIMITS), ["sleep", "60"], timeout=30)
            await cancelled(program, number * 0.02, AGAIN[number % len(AGAIN)] / 10)
            assert processes_of(short_path) == {}
        assert list(tmp_path.iterdir()) == []
        async with asyncio.timeout(10):
            while kinds(held(short_path)) != before:
                gc.collect()
                await asyncio.sleep(0.05)


async def test_what_is_done_to_its_end_is_done_whoever_is_cancelled() -> None:
    go_on, ended = asyncio.Event(), []

    async def ending() -> str:
        await go_on.wait()
        ended.append("ended")
        return "result"

    waiting = asyncio.create_task(whole(ending()))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["ended"]
    assert await whole(ending()) == "result"


async def test_what_fails_at_its_end_fails_for_who_waits() -> None:
    async def ending() -> None:
        raise TemporaryError("the disk")

    with pytest.raises(TemporaryError, match="the disk"):
        await whole(ending())
