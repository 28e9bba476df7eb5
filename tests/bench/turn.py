"""One turn through the daemon beside a bare, unsandboxed query() of the same script, with a zero-latency model.

    python -m tests.bench.turn [ROUNDS]

Prints seconds (median of interleaved rounds) and their ratio: a mail accepted until its reply is handed to SMTP, one
small CSV, one Bash call; the goal is at most 2.0."""

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query

from mailagent.adapters.host import share
from mailagent.demo import story
from mailagent.demo.rules import RulesModel
from tests.e2e.test_conversation import AGENT, world
from tests.unprivileged import go_on

DATA = b"region;revenue\n" + b"".join(b"%s;%d,5\n" % (b"NS"[n % 2 : n % 2 + 1], n) for n in range(500))
CODE = (
    "import pandas as pd; t = pd.read_csv('in/orders.csv', sep=';', decimal=','); "
    "open('out/answer.md', 'w').write(f'Revenue is {t.revenue.sum()}.')"
)
SCRIPT: list[list[dict[str, Any]]] = [
    [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": f'python3 -c "{CODE}"'}}],
    [{"type": "text", "text": "Done."}],
]


async def bare(place: Path) -> float:
    """Seconds of a plain query() with the SDK's own CLI, no sandbox, no store."""
    for name in ("in", "out", "home"):
        (place / name).mkdir(parents=True)
    (place / "in/orders.csv").write_bytes(DATA)
    async with RulesModel(replay=SCRIPT) as model:
        options = ClaudeAgentOptions(
            cwd=place,
            tools=["Bash", "Read", "Write"],
            permission_mode="bypassPermissions",
            setting_sources=[],
            env={
                "ANTHROPIC_BASE_URL": model.url,
                "ANTHROPIC_API_KEY": "placeholder",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "CLAUDE_CONFIG_DIR": str(place / "home"),
                "HOME": str(place / "home"),
                "PATH": f"{share() / '.analysis/bin'}:{os.environ['PATH']}",
            },
        )
        started = time.perf_counter()
        async for event in query(prompt="What is the revenue?", options=options):
            if isinstance(event, ResultMessage):
                took = time.perf_counter() - started
        assert (place / "out/answer.md").read_text() == "Revenue is 125000.0."
    return took


async def main(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    bare_seconds: list[float] = []
    daemon_seconds: list[float] = []
    stages: dict[str, list[float]] = {}
    try:
        async with world(place, replay=SCRIPT * (rounds + 1)) as at:
            for round_ in range(rounds + 1):  # the first warms the page cache and is not counted
                alone = await bare(place / f"bare-{round_}")
                mail = story.request(AGENT, "What is the revenue?", [("orders.csv", DATA)])
                await at.send(mail)
                await at.reply_to(mail)
                job = await at.show(mail)
                moments = {stamp["name"]: stamp["at"] for stamp in job["history"]}
                if round_:
                    bare_seconds.append(alone)
                    daemon_seconds.append(moments["sent"] - moments["received"])
                    for name, moment in moments.items():
                        stages.setdefault(name, []).append(moment - moments["received"])
    finally:
        shutil.rmtree(place, ignore_errors=True)
    one, two = statistics.median(bare_seconds), statistics.median(daemon_seconds)
    print(f"bare query()   {one:6.3f} s   (median of {rounds})")
    print(
        f"daemon turn    {two:6.3f} s   ", {name: round(statistics.median(times), 3) for name, times in stages.items()}
    )
    print(f"ratio          {two / one:6.2f}     (goal: at most 2.0)")


if __name__ == "__main__":
    go_on("-m", "tests.bench.turn", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
