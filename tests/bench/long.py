"""A turn of a long thread in its sandbox beside a turn of a warm client: one of the plain SDK, kept connected, with the
same conversation. With a zero-latency model.

    python -m tests.bench.long [ROUNDS]

Two real turns are made longer, through the store, by what the CLI wrote in the second of them, again and again under
new names; that it goes on from all of it is seen in the request. Prints for each size seconds (median of interleaved
rounds) and their ratio, what the store alone needs to read the transcript, how many times as much turn and transcript
are than at the size before, and what each megabyte more than the smallest costs. The goal is that no turn grows more
than its transcript."""

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    InMemorySessionStore,
    ResultMessage,
    SessionKey,
    SessionStoreEntry,
    project_key_for_directory,
)

from mailagent.core.job import session_id
from mailagent.core.policy import WORKSPACE
from mailagent.core.quota import Payer, Spend
from mailagent.core.values import JobId, ThreadId, Turn
from mailagent.demo.rules import RulesModel
from mailagent.demo.steps import Block
from tests.integration.test_session import Desk, bash, desk, text
from tests.unprivileged import go_on

SIZES = (10, 100, 1_000, 5_000)
"""Entries that a transcript has at least; that of two turns has more than the first."""
BATCH = 500
MUCH = 10**12
LIMITS = ("turn_requests", "turn_tokens", "thread_requests", "thread_tokens", "requests_per_day", "tokens_per_day")
SETTINGS = {
    "model": "context_tokens = 1_000_000\nprice_input = 0\nprice_output = 0",
    "limits": "\n".join(f"{name} = {MUCH}" for name in LIMITS),
}
QUESTION = "Which region grew, and by how much? " * 15
ANSWER = text("The north grew by a third, the south by a quarter. " * 10)
LOOK = bash("seq 200")


class Answering(RulesModel):
    """Answers, in the second turn after one look."""

    def _answer(self, body: Mapping[str, Any]) -> Sequence[Block]:
        return LOOK if [message["role"] for message in body["messages"]].count("user") == 2 else ANSWER

    def asked(self) -> int:
        """How many messages were in the last request, beside those that the CLI adds; it is forgotten."""
        _, body = self.requests[-1]
        self.requests.clear()
        return sum(message["role"] != "system" for message in body["messages"])


@dataclass
class Thread:
    """One size, the messages of its conversation, and what was measured."""

    name: ThreadId
    messages: int = 0
    entries: list[SessionStoreEntry] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)

    def key(self, directory: str = WORKSPACE) -> SessionKey:
        """Of its transcript, for a session in this directory."""
        return SessionKey(project_key=project_key_for_directory(directory), session_id=session_id(self.name))


async def turn(at: Desk, name: ThreadId, number: int) -> float:
    """Seconds of a whole turn, from the lease to the checkpoint."""
    token = await at.leases.take(name)
    payer = Payer(JobId("job"), name, "anna@example.org", Spend(MUCH, MUCH, MUCH))
    started = time.perf_counter()
    workspace = await at.workspaces.open(name, token)
    await at.workspaces.clear_out(workspace, number)
    async with at.agent.session(workspace, payer) as session:
        await session.ask(Turn(name, number, session_id(name), QUESTION))
    await at.workspaces.snapshot(workspace)
    return time.perf_counter() - started


async def begun(at: Desk, model: Answering, size: int) -> Thread:
    """A thread with at least so many entries in the store."""
    thread = Thread(ThreadId(f"long{size}"))
    await turn(at, thread.name, 1)
    before = len(await at.transcripts.load(thread.key()) or ())
    await turn(at, thread.name, 2)
    entries: list[Any] = await at.transcripts.load(thread.key()) or []
    said = [entry for entry in entries[before:] if entry["type"] in ("user", "assistant")]
    more = list(again(said, size - len(entries)))
    for start in range(0, len(more), BATCH):
        await at.transcripts.append(thread.key(), more[start : start + BATCH])
    thread.entries = entries + more
    thread.messages = model.asked() + 1 + len(more)
    return thread


def again(said: Sequence[Mapping[str, Any]], entries: int) -> Iterator[Any]:
    """What one turn said, so often that it makes so many entries; each time under new names, after what was last."""
    last = said[-1]["uuid"]
    for number in range(0, entries, len(said)):
        copy = json.dumps(said)
        for name in names(said):
            copy = copy.replace(name, f"{name[:-6]}{number:06}")
        for entry in json.loads(copy):
            yield {**entry, "parentUuid": last}
            last = entry["uuid"]


def names(said: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of the entries, of the model's messages, and of the uses of its tools."""
    for entry in said:
        yield entry["uuid"]
        if entry["type"] == "assistant":
            yield entry["message"]["id"]
            yield from (block["id"] for block in entry["message"]["content"] if block["type"] == "tool_use")


async def warm(place: Path, url: str, thread: Thread) -> ClaudeSDKClient:
    """A client outside any sandbox that has the thread's conversation."""
    home, store = place / f"warm-{thread.name}", InMemorySessionStore()
    home.mkdir()
    await store.append(thread.key(str(home)), thread.entries)
    options = ClaudeAgentOptions(
        cwd=home,
        resume=session_id(thread.name),
        session_store=store,
        model="rules",
        tools=["Bash", "Read", "Write"],
        permission_mode="bypassPermissions",
        setting_sources=[],
        stderr=lambda _: None,
        env={
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "placeholder",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CONFIG_DIR": str(home),
            "HOME": str(home),
            "PATH": os.environ["PATH"],
        },
    )
    return ClaudeSDKClient(options)


async def ask(client: ClaudeSDKClient) -> float:
    """Seconds of one more turn."""
    started = time.perf_counter()
    await client.query(QUESTION)
    async for event in client.receive_response():
        if isinstance(event, ResultMessage):
            assert event.subtype == "success"
    return time.perf_counter() - started


async def loading(at: Desk, thread: Thread) -> float:
    """Seconds in which the store reads the transcript."""
    started = time.perf_counter()
    assert await at.transcripts.load(thread.key())
    return time.perf_counter() - started


async def measure(at: Desk, model: Answering, place: Path, rounds: int) -> list[Thread]:
    """All sizes, one after the other in each round."""
    threads = [await begun(at, model, size) for size in SIZES]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await warm(place, model.url, thread)) for thread in threads]
        for round_ in range(rounds + 1):
            for thread, client in zip(threads, clients, strict=True):
                thread.resumed.append(await turn(at, thread.name, 3 + round_))
                assert model.asked() == thread.messages + 1 + 2 * round_, "not all of the transcript was resumed"
                thread.warm.append(await ask(client))
                assert model.asked() == thread.messages + 1 + 2 * round_
                thread.load.append(await loading(at, thread))
    return threads


def report(threads: Sequence[Thread]) -> None:
    """One line for each size, and whether the goal is reached."""
    print("entries     MB  resumed     warm  ratio    store  turn grows  transcript grows  for each MB more")
    lines = [
        (thread, megabytes(thread), statistics.median(thread.resumed[1:])) for thread in threads
    ]  # the first round warms up
    reached = True
    for (thread, size, took), (_, size_before, took_before) in zip(lines, [lines[0], *lines], strict=False):
        warmed, load = statistics.median(thread.warm[1:]), statistics.median(thread.load[1:])
        line = f"{len(thread.entries):7} {size:6.2f} {took:6.3f} s {warmed:6.3f} s {took / warmed:6.1f} {load:6.3f} s"
        if size > size_before:
            line += f" {took / took_before:9.2f} x {size / size_before:15.2f} x"
            line += f" {(took - lines[0][2]) / (size - lines[0][1]):15.3f} s"
            reached = reached and took / took_before <= size / size_before
        print(line)
    print(f"no turn grows more than its transcript (the goal): {'yes' if reached else 'NO'}")


def megabytes(thread: Thread) -> float:
    """The transcript as it was when it was measured first."""
    return sum(len(json.dumps(entry)) for entry in thread.entries) / 1e6


async def main(rounds: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    try:
        async with desk(place, [], Answering, **SETTINGS) as at:
            assert isinstance(at.model, Answering)
            report(await measure(at, at.model, place, rounds))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    go_on("-m", "tests.bench.long", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
