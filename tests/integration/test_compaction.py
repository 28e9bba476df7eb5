"""A conversation that fills the model's window goes on from a summary, which the CLI asks the model for by itself."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from claude_agent_sdk import SessionKey, project_key_for_directory

from mailagent.core.errors import TemporaryError
from mailagent.core.job import session_id
from mailagent.core.policy import WORKSPACE
from mailagent.core.values import Outcome, Turn
from mailagent.demo.rules import ApiError, RulesModel
from mailagent.demo.steps import Block
from tests.integration.test_session import PAYER, THREAD, Desk, bash, desk, processes_of, text

SMALL = "context_tokens = 50000"
"""A window that is full with some 17,000 tokens, 33,000 before its end."""
LONG = "One of very many words. " * 2500
SUMMARY = text("<analysis>All of it.</analysis><summary>WHAT WAS SAID</summary>")
WISH = "create a detailed summary of the conversation"


async def turn(at: Desk, prompt: str, number: int = 1) -> Outcome:
    """A turn and its checkpoint, as the daemon makes them."""
    workspace = await at.open()
    await at.workspaces.clear_out(workspace, number)
    async with at.agent.session(workspace, PAYER) as session:
        outcome = await session.ask(Turn(THREAD, number, session_id(THREAD), prompt))
    await at.workspaces.snapshot(workspace)
    return outcome


def said(at: Desk, number: int) -> str:
    """The conversation in one of the requests that reached the model."""
    return json.dumps(at.model.requests[number][1]["messages"])


async def boundaries(at: Desk) -> int:
    """How often the transcript in the store says that a summary takes the place of what was before."""
    key = SessionKey(project_key=project_key_for_directory(WORKSPACE), session_id=session_id(THREAD))
    return [entry.get("subtype") for entry in await at.transcripts.load(key) or ()].count("compact_boundary")


async def test_later_turns_on_any_host_go_on_from_the_summary(short_path: Path) -> None:
    replay = [text("first"), text("second"), SUMMARY, text("third"), text("fourth"), text("fifth")]
    async with desk(short_path, replay, model=SMALL) as at:
        await turn(at, "question one")
        await turn(at, f"question two {LONG}", 2)
        assert await boundaries(at) == 0
        third = await turn(at, "question three", 3)
        assert third.answer == "third", "not the summary"
        assert WISH in said(at, 2)
        assert "question one" in said(at, 2)
        assert third.usage.requests == 2, "the summary is on the account of the turn that needed it"
        assert third.usage.input_tokens > (len(said(at, 2)) + len(said(at, 3))) // 4
        assert await boundaries(at) == 1
        shutil.rmtree(short_path / "threads")  # as on a host that has nothing of the thread
        assert (await turn(at, "question four", 4)).answer == "fourth"
        assert (await turn(at, "question five", 5)).answer == "fifth"
        for number, question in ((3, "three"), (4, "four"), (5, "five")):
            assert "WHAT WAS SAID" in said(at, number)
            assert f"question {question}" in said(at, number)
            assert "question one" not in said(at, number)
            assert LONG not in said(at, number)
        assert "third" in said(at, 4)
        assert "fourth" in said(at, 5)
        assert await boundaries(at) == 1


async def test_a_turn_that_fills_the_window_itself_goes_on_with_its_work(short_path: Path) -> None:
    replay = [text("first"), bash("echo kept > work/kept; seq 5000"), SUMMARY, bash("cat work/kept"), text("done")]
    async with desk(short_path, [*replay, text("after")], model=SMALL) as at:
        await turn(at, "question one")
        outcome = await turn(at, f"question two {LONG[:36_000]}", 2)
        assert (outcome.answer, outcome.usage.requests) == ("done", 4)
        assert WISH in said(at, 2)
        assert "WHAT WAS SAID" in said(at, 4)
        assert "4999" in said(at, 4), "the step that was under way is still told"
        assert "kept" in said(at, 4)
        shutil.rmtree(short_path / "threads")
        assert (await turn(at, "question three", 3)).answer == "after"
        assert "WHAT WAS SAID" in said(at, 5)
        assert "question one" not in said(at, 5)


class Smaller(RulesModel):
    """Its window is smaller than the settings say."""

    def _answer(self, body: Mapping[str, Any]) -> Sequence[Block]:
        if len(json.dumps(body["messages"])) > 120_000:
            self.requests.pop()
            raise ApiError(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
        return super()._answer(body)


async def test_a_conversation_that_the_server_finds_too_long_is_summed_up(short_path: Path) -> None:
    async with desk(short_path, [text("first"), text("second"), SUMMARY, text("third")], Smaller) as at:
        await turn(at, f"question one {LONG[:50_000]}")
        await turn(at, f"question two {LONG[:50_000]}", 2)
        assert (await turn(at, f"question three {LONG[:50_000]}", 3)).answer == "third"
        assert "question one" in said(at, 2)
        assert "WHAT WAS SAID" in said(at, 3)
        assert "question three" in said(at, 3)
        assert "question one" not in said(at, 3)


class Refusing(RulesModel):
    """Sums nothing up."""

    def _answer(self, body: Mapping[str, Any]) -> Sequence[Block]:
        if WISH in json.dumps(body["messages"][-1]):
            raise ApiError(400, "invalid_request_error", "no")
        return text(f"answer {len(self.requests)}")


async def test_without_a_summary_the_answer_comes_all_the_same(short_path: Path) -> None:
    async with desk(short_path, [], Refusing, model=SMALL) as at:
        await turn(at, "question one")
        await turn(at, f"question two {LONG}", 2)
        assert (await turn(at, "question three", 3)).answer.startswith("answer")
        assert WISH in said(at, 2)
        assert "question one" in said(at, -1)
        assert "question three" in said(at, -1)


class Thinking(RulesModel):
    """Sums up or answers; once, it thinks for ever: about the summary, or about the answer after it."""

    about: str
    thinking: asyncio.Event | None = None

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        said = json.dumps(json.loads(await request.read())["messages"])
        if self.thinking and self.about in said:
            self.thinking.set()
            self.thinking = None
            await asyncio.Event().wait()
        return await super()._messages(request)

    def _answer(self, body: Mapping[str, Any]) -> Sequence[Block]:
        return SUMMARY if WISH in json.dumps(body["messages"][-1]) else text(f"answer {len(self.requests)}")


@pytest.mark.parametrize("how", ["deadline", "kill", "host lost"])
@pytest.mark.parametrize("about", [WISH, "WHAT WAS SAID"])
async def test_what_was_said_survives_the_end_of_a_turn_that_was_summing_up(
    short_path: Path, about: str, how: str
) -> None:
    async with desk(short_path, [], Thinking, model=SMALL) as at:
        await turn(at, "question one")
        await turn(at, f"question two {LONG}", 2)
        assert isinstance(at.model, Thinking)
        at.model.about, at.model.thinking = about, (thinking := asyncio.Event())
        running = asyncio.create_task(turn(at, "question three", 3))
        await thinking.wait()
        if how == "deadline":
            running.cancel()
        else:
            for pid in processes_of(short_path):
                os.kill(pid, signal.SIGKILL)
        with pytest.raises((asyncio.CancelledError, TemporaryError)):
            await running
        if how == "host lost":
            shutil.rmtree(short_path / "threads")
        assert (await turn(at, "question three", 3)).answer.startswith("answer")
        assert "WHAT WAS SAID" in said(at, -1)
        assert "question three" in said(at, -1)
        wishes = [number for number in range(len(at.model.requests)) if WISH in said(at, number)]
        assert all("question one" in said(at, number) for number in wishes)


async def test_a_mail_cannot_command_the_cli(short_path: Path) -> None:
    async with desk(short_path, [text("first"), text("second")]) as at:
        await turn(at, "question one")
        assert (await turn(at, "/compact", 2)).answer == "second"
        assert '"/compact"' in said(at, 1)
        assert await boundaries(at) == 0
