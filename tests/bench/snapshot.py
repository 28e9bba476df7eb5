"""What checkpoints cost a turn: a workspace of 100 MB, one file changed by each of five commands.

    python -m tests.bench.snapshot [ROUNDS]

Prints the share of a turn's time (median of rounds) for which the agent waits for its snapshots, with a model that
answers in no time and with one that thinks for a second; the goal is at most 2 %."""

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from aiohttp import web

from mailagent.adapters.snapshots import Look
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.demo.rules import RulesModel
from mailagent.ports import Workspace
from tests.integration.test_session import Desk, bash, desk, text
from tests.unprivileged import go_on

STEPS = 5
SCRIPT = [*[bash(f"head -c 100000 /dev/urandom > work/changed; echo {n}") for n in range(STEPS)], text("done")]
plain_look, plain_messages = DiskWorkspaces.look, RulesModel._messages


async def turn(at: Desk, number: int, think: float) -> tuple[float, list[float]]:
    """Seconds of one turn, and those for which the agent waited for a snapshot in it."""
    kept: list[float] = []

    async def look(spaces: DiskWorkspaces, workspace: Workspace) -> Look:
        started = time.perf_counter()
        found = await plain_look(spaces, workspace)
        kept.append(time.perf_counter() - started)
        return found

    with patch.object(DiskWorkspaces, "look", look), patch(f"{__name__}.think", think):
        started = time.perf_counter()
        await at.turn("question", number)
        return time.perf_counter() - started, kept


think = 0.0


async def messages(model: RulesModel, request: web.Request) -> web.StreamResponse:
    """The model, after it has thought."""
    await asyncio.sleep(think)
    return await plain_messages(model, request)


async def main(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    try:
        with patch.object(RulesModel, "_messages", messages):
            async with desk(place, SCRIPT * (2 * rounds + 1)) as at:
                workspace = await at.open()
                for number in range(100):
                    (Path(workspace.path) / f"work/{number}").write_bytes(os.urandom(1_000_000))
                await turn(at, 1, 0.0)  # warms the page cache, and stores the 100 MB
                for seconds in (0.0, 1.0):
                    found = [await turn(at, 2 + n, seconds) for n in range(rounds)]
                    share = statistics.median(sum(kept) / took for took, kept in found)
                    each = statistics.median(one for _, kept in found for one in kept)
                    whole = statistics.median(took for took, _ in found)
                    told = f"{share:6.1%} of a turn of {whole:.2f} s, {each * 1000:.1f} ms each"
                    print(f"model thinks {seconds:.0f} s: {STEPS} snapshots are {told}")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    go_on("-m", "tests.bench.snapshot", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
