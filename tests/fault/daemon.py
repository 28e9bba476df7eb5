"""The daemon as `mailagent run` runs it, with failpoints between the flow and its ports.

    python -m tests.fault.daemon SETTINGS SCRIPT [SECONDS]

With SECONDS the agent is a light one: no sandbox and no model, an answer after so long at most."""

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast

from mailagent import config, daemon
from mailagent.adapters import telemetry
from mailagent.core.values import Outcome, Profile, Turn, Usage
from tests.fault.failpoints import Failpoints, Script

T = TypeVar("T")

ASKED = re.compile(r"Q:(t\d+m\d+)")


def answer_to(prompt: str) -> str:
    """Names each question of the prompt, so that a reply shows which mails the agent was given."""
    return "This answers " + " ".join(f"A:{name}" for name in ASKED.findall(prompt)) + "."


class LightAgent:
    """ports.Agent: it answers by naming the questions."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    @asynccontextmanager
    async def session(self, *_: object) -> AsyncIterator["LightSession"]:
        """Nothing is started, whatever for."""
        yield LightSession(self._seconds)


class LightSession:
    """ports.Session."""

    known = False

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def profile(self) -> Profile:
        """There is a table."""
        return Profile("a table", ("t",), ())

    async def ask(self, turn: Turn) -> Outcome:
        """The answer, after a while."""
        asked_at = time.time()
        await asyncio.sleep(random.uniform(0, self._seconds))
        return Outcome(answer_to(turn.prompt), (), Usage("light", 1, 1, 1, 0.0), asked_at)


def main(settings: str, script: str, *light: str) -> None:
    """Serve until told to stop."""
    telemetry.start()
    points = Failpoints(Script(Path(script)))

    def wrap(name: str, port: T) -> T:
        watched = cast("T", LightAgent(float(light[0]))) if name == "agent" and light else port
        return points.wrap(name, watched)

    asyncio.run(daemon.run(config.load(Path(settings).read_text(), os.environ, {}), wrap))


if __name__ == "__main__":
    main(*sys.argv[1:])
