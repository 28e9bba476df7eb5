"""ports.Agent without a model: what it leaves in out/ and how it fails is the test's choice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mailagent.core.errors import TemporaryError
from mailagent.core.quota import Payer
from mailagent.core.values import Outcome, Profile, Turn, Usage
from mailagent.ports import Workspace

USAGE = Usage("fake", 1, 10, 5, 0.01)


class FakeAgent:
    """Says `answer`, leaves `files` in out/; fails the first `failures` times; waits for `go_on` when that is set."""

    def __init__(self) -> None:
        self.answer = "The answer is 42."
        self.files: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.unreadable: dict[str, str] = {}
        self.turns: list[Turn] = []
        self.open = 0
        self.skills: tuple[str, ...] = ()
        self.payers: list[Payer] = []
        self.go_on: asyncio.Event | None = None

    @asynccontextmanager
    async def session(
        self, workspace: Workspace, payer: Payer, skills: Sequence[str] = ()
    ) -> AsyncIterator["FakeSession"]:
        """A session that is counted while it is open."""
        self.open += 1
        self.skills = tuple(skills)
        self.payers.append(payer)
        try:
            yield FakeSession(self, workspace)
        finally:
            self.open -= 1


class FakeSession:
    """Keeps ports.Session."""

    def __init__(self, agent: FakeAgent, workspace: Workspace) -> None:
        self._agent = agent
        self._workspace = workspace
        self.known = any(turn.thread == workspace.thread for turn in agent.turns)

    async def profile(self) -> Profile:
        """Every attachment is a table, but those that are `unreadable`."""
        names = sorted(path.name for path in (Path(self._workspace.path) / "in").iterdir())
        tables = tuple(name for name in names if name not in self._agent.unreadable)
        return Profile("profile of " + ", ".join(tables), tables, tuple(self._agent.unreadable.items()))

    async def ask(self, turn: Turn) -> Outcome:
        """What the test chose."""
        self._agent.turns.append(turn)
        if self._agent.go_on:
            await self._agent.go_on.wait()
        if self._agent.failures:
            raise self._agent.failures.pop(0)
        for name, data in self._agent.files.items():
            path = Path(self._workspace.path) / "out" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Outcome(self._agent.answer, (), USAGE, 2.0)


AWAY = TemporaryError("the model is away")
