"""A session in its sandbox beside a bare, unsandboxed query() of the same script, with a zero-latency model.

    python -m tests.bench.session [ROUNDS]

Prints seconds (median of interleaved rounds) and their ratio to bare: the first turn of a thread, the next one, and the
next one on a host that has nothing of the thread; each with its workspace made ready before, and kept as a checkpoint
after. One small CSV, one Bash call. The goals are at most 1.15, 1.6 and 1.8."""

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from mailagent.core.job import session_id
from mailagent.core.values import ThreadId, Turn
from tests.bench.turn import DATA, SCRIPT, bare
from tests.integration.test_session import PAYER, Desk, desk
from tests.unprivileged import go_on

GOALS = {"first turn": 1.15, "resumed": 1.6, "resumed on a new host": 1.8}


async def turn(at: Desk, thread: ThreadId, number: int) -> float:
    """Seconds of a whole turn, from the lease to the checkpoint."""
    token = await at.leases.take(thread)
    started = time.perf_counter()
    workspace = await at.workspaces.open(thread, token)
    await at.workspaces.clear_out(workspace, number)
    await at.workspaces.add(workspace, [("orders.csv", DATA)])
    async with at.agent.session(workspace, PAYER) as session:
        await session.ask(Turn(thread, number, session_id(thread), "What is the revenue?"))
    files = await at.workspaces.collect(workspace)
    await at.workspaces.snapshot(workspace)
    assert files[0].data == b"Revenue is 125000.0."
    return time.perf_counter() - started


async def main(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    seconds: dict[str, list[float]] = defaultdict(list)
    try:
        async with desk(place, SCRIPT * 3 * (rounds + 1)) as at:
            for round_ in range(rounds + 1):
                thread = ThreadId(f"thread{round_}")
                seconds["bare"].append(await bare(place / f"bare{round_}"))
                seconds["first turn"].append(await turn(at, thread, 1))
                seconds["resumed"].append(await turn(at, thread, 2))
                shutil.rmtree(place / "threads")
                seconds["resumed on a new host"].append(await turn(at, thread, 3))
                await at.leases.end(thread)
    finally:
        shutil.rmtree(place)
    median = {name: statistics.median(each[1:]) for name, each in seconds.items()}  # the first warms the page cache
    print(f"bare query(): {median['bare']:.3f} s")
    for name, goal in GOALS.items():
        print(f"{name}: {median[name]:.3f} s, {median[name] / median['bare']:.2f} (goal {goal})")


if __name__ == "__main__":
    go_on("-m", "tests.bench.session", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
