"""One Agent SDK session in a sandbox: the official SDK drives the bundled CLI, its events become an Outcome."""

import asyncio
import json
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    HookCallback,
    HookContext,
    HookInput,
    HookJSONOutput,
    HookMatcher,
    Message,
    ResultMessage,
    SessionStore,
    TextBlock,
)

from mailagent import config
from mailagent.adapters.bubblewrap import clear
from mailagent.adapters.endings import whole
from mailagent.adapters.gateway import Gateway, Meter
from mailagent.adapters.host import limits
from mailagent.adapters.keeper import Keeper
from mailagent.adapters.profile import UNREADABLE, read_profile
from mailagent.adapters.sandbox import Held, Sandbox
from mailagent.adapters.transcripts import OneTranscript, RedisTranscripts
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.job import session_id
from mailagent.core.policy import PLUGIN, PROFILE_SCRIPT, SKILLS, WORKSPACE, Host, Policy
from mailagent.core.quota import Payer
from mailagent.core.values import Outcome, Profile, SessionId, Turn, Usage
from mailagent.ports import Workspace

log = logging.getLogger(__name__)

# The CLI is pinned and bundled with the SDK; asking its version at each start would cost a second sandbox.
os.environ.setdefault("CLAUDE_AGENT_SDK_SKIP_VERSION_CHECK", "1")

TOOLS = ("Bash", "Read", "Write", "Edit", "Glob", "Grep", "Skill")
WRITING = ("Bash", "Write", "Edit")
SETTINGS = {"includeCoAuthoredBy": False, "includeGitInstructions": False}
PROFILE_SECONDS = 120.0
START_SECONDS = 30.0
INTERRUPT_SECONDS = 5.0
CLOSE_SECONDS = 30.0
"""The SDK gives the CLI 15 s to end, but what is to be stored any time."""
MAX_LINE = 8 << 20
"""Bytes of a line that the CLI says; as a value it takes up to 24 times as much. An image has 1.4 MB at most there; an
edit tells the whole file as it was before."""

MAX_REASON = 500
"""Characters of why a turn failed that are told on: code inside can give a reason as long as a line."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session needs of the configuration, and where it may write on this host."""

    model: config.Model
    agent: config.Agent
    sandbox: config.Sandbox
    host: Host
    system_prompt: str
    runtime_dir: Path


class ClaudeAgent:
    """Keeps ports.Agent: each session is a new process in a new sandbox, resumed from the store when it is known."""

    def __init__(
        self,
        settings: Settings,
        sandbox: Sandbox,
        gateway: Gateway,
        transcripts: RedisTranscripts,
        workspaces: DiskWorkspaces,
    ) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._gateway = gateway
        self._transcripts = transcripts
        self._workspaces = workspaces

    @asynccontextmanager
    async def session(
        self, workspace: Workspace, payer: Payer, skills: Sequence[str] = ()
    ) -> AsyncIterator["ClaudeSession"]:
        """A sandbox on this workspace; the CLI starts at once, so that its start is hidden behind the profile."""
        session = session_id(workspace.thread)
        store = self._transcripts.only(WORKSPACE, session, workspace)
        known = await self._transcripts.exists(WORKSPACE, session)
        place = Path(tempfile.mkdtemp(prefix="session-"))
        ending = AsyncExitStack()
        ending.push_async_callback(clear, place)
        try:
            socket = self._settings.runtime_dir / f"{secrets.token_hex(6)}.sock"
            meter = await whole(ending.enter_async_context(self._gateway.listen(socket, payer)))
            policy = self._policy(Path(workspace.path), socket)
            options = self._options(session, store, place, known=known, skills=skills or SKILLS)
            keeper = Keeper(self._workspaces, workspace, store)
            ending.push_async_callback(keeper.end)
            writing = HookMatcher(matcher="|".join(WRITING), hooks=[_keeping(keeper)])
            options.hooks = {"PostToolUse": [writing], "PostToolUseFailure": [writing]}
            client = ClaudeSDKClient(options)
            inside = self._sandbox.launch(place, policy)
            connecting = asyncio.create_task(client.connect())
            ending.push_async_callback(_close, client, connecting)
            ending.push_async_callback(_end, inside, connecting)
            yield ClaudeSession(
                policy,
                self._sandbox,
                client,
                connecting,
                store,
                meter,
                inside,
                model=self._settings.model.name,
                known=known,
            )
            await whole(_close(client, connecting))
            await store.settle()
        finally:
            await whole(ending.aclose())

    def _policy(self, root: Path, socket: Path) -> Policy:
        settings = self._settings
        return Policy(settings.host, str(root), str(socket), limits(settings.sandbox), settings.model.context_tokens)

    def _options(
        self, session: SessionId, store: SessionStore, place: Path, *, known: bool, skills: Sequence[str]
    ) -> ClaudeAgentOptions:
        """The CLI's directory is made anew for each session: on resume the SDK, outside the sandbox, copies files that
        it finds there, and would follow the links that an earlier turn left."""
        transcript = place / "claude"
        transcript.mkdir(mode=0o700)
        return ClaudeAgentOptions(
            cli_path=place / "launch",
            cwd=WORKSPACE,
            env={"CLAUDE_CONFIG_DIR": str(transcript)},
            session_id=None if known else session,
            resume=session if known else None,
            session_store=store,
            session_store_flush="eager",
            model=self._settings.model.name,
            system_prompt=self._settings.system_prompt,
            max_turns=self._settings.agent.max_steps,
            tools=list(TOOLS),
            permission_mode="bypassPermissions",
            plugins=[{"type": "local", "path": PLUGIN}],
            skills=[f"mailagent:{name}" for name in SKILLS if name in skills],
            setting_sources=[],
            settings=json.dumps(SETTINGS),
            strict_mcp_config=True,
            verbatim_prompts=True,
            max_buffer_size=MAX_LINE,
            stderr=_note,
        )


class ClaudeSession:
    """Keeps ports.Session."""

    def __init__(
        self,
        policy: Policy,
        sandbox: Sandbox,
        client: ClaudeSDKClient,
        connecting: "asyncio.Task[None]",
        store: OneTranscript,
        meter: Meter,
        inside: Held,
        *,
        model: str,
        known: bool,
    ) -> None:
        self.known = known
        self._model = model
        self._policy = policy
        self._sandbox = sandbox
        self._client = client
        self._connecting = connecting
        self._store = store
        self._meter = meter
        self._inside = inside

    async def profile(self) -> Profile:
        """Run the profile script on in/ in a sandbox of its own that has no model; read what it wrote to work/."""
        command = ["/opt/analysis/bin/python", "-I", PROFILE_SCRIPT]
        finished = await self._sandbox.run(replace(self._policy, model_socket=""), command, timeout=PROFILE_SECONDS)
        if finished.code != 0:
            log.warning("profile: exit %d: %s", finished.code, finished.errors[-2000:])
            raise PermanentError(UNREADABLE)
        return read_profile(finished.output, Path(self._policy.workspace))

    async def ask(self, turn: Turn) -> Outcome:
        """Let the agent answer this turn's prompt and report what it said last and what it used."""
        try:
            with _sdk_errors():
                await asyncio.shield(self._connecting)
            await self._store.settle()
            self._inside.seize()
            outcome = await self._asked(turn)
            await self._inside.look()
            return outcome
        except TemporaryError as error:
            if self._inside.failure:
                raise self._inside.failure from error
            raise

    async def _asked(self, turn: Turn) -> Outcome:
        try:
            with _sdk_errors():
                await self._client.query(turn.prompt)
            return await self._outcome()
        except asyncio.CancelledError:  # the deadline, or a daemon that stops
            await self._interrupt()
            raise

    async def _interrupt(self) -> None:
        """Let the agent stop by itself, so that its transcript says so; what has not stopped soon is killed later."""
        with suppress(TemporaryError, TimeoutError):
            async with asyncio.timeout(INTERRUPT_SECONDS):
                with _sdk_errors():
                    await self._client.interrupt()
                async for _ in self._events():
                    pass

    async def _events(self) -> AsyncIterator[Message]:
        """What the CLI says, or code inside in its place."""
        with _sdk_errors():
            async for event in self._client.receive_response():
                yield event

    async def _outcome(self) -> Outcome:
        """Whether the transcript is whole its store says in the end, and not the SDK, which gives up what waits for a
        checkpoint for a minute: it was taken, and is written when its turn has come."""
        said = ""
        async for event in self._events():
            self._store.check()
            match event:
                case AssistantMessage():
                    said = _text(event) or said
                case ResultMessage():
                    _raise_unless_done(event, self._meter)
                    await self._store.settle()
                    await self._meter.settled()
                    return Outcome(_words(event.result) or said, (), self._usage(), self._meter.first_request_at)
                case _:
                    pass
        raise TemporaryError("the agent's process ended without a result")

    def _usage(self) -> Usage:
        """By the gateway's account: what the CLI says, code in the sandbox can say in its place."""
        meter = self._meter
        return Usage(self._model, meter.requests, meter.input_tokens, meter.output_tokens, meter.dollars)


def _keeping(keeper: Keeper) -> HookCallback:
    async def kept(_event: HookInput, tool_use: str | None, _context: HookContext) -> HookJSONOutput:
        """The agent goes on when this returns."""
        await keeper.keep(tool_use or "")
        return {}

    return kept


def _note(line: str) -> None:
    """Into the log with what the CLI complains of; code inside can write there too."""
    log.info("cli: %.500s", line)


def _raise_unless_done(result: ResultMessage, meter: Meter) -> None:
    if result.subtype == "error_max_turns":
        raise PermanentError("Your question took more steps than one answer may have. Please ask for less at once.")
    if result.is_error or result.subtype != "success":
        if meter.refused:
            raise PermanentError(meter.refused)
        status = f" (HTTP {result.api_error_status})" if result.api_error_status else ""
        errors = "; ".join(map(str, result.errors)) if isinstance(result.errors, list) else ""
        reason = f"the model could not answer{status}: {errors or result.result or result.subtype}"
        raise TemporaryError(_words(reason)[:MAX_REASON])


def _text(event: AssistantMessage) -> str:
    return "\n".join(_words(block.text) for block in event.content if isinstance(block, TextBlock))


def _words(said: object) -> str:
    """What was said where the SDK promises a text: it passes on anything, and half characters, that no store takes."""
    return said.encode(errors="replace").decode() if isinstance(said, str) else ""


@contextmanager
def _sdk_errors() -> Iterator[None]:
    """Around all that the SDK does with what the CLI says. Code inside can say things in its place for which the SDK
    raises anything at all: a bare Exception with the words of that code, or whatever Python does with values that are
    not of the kind that was meant."""
    try:
        yield
    except Exception as error:
        reason = f"the agent's process failed: {type(error).__name__}: {error}"
        raise TemporaryError(_words(reason)[:MAX_REASON]) from error


async def _end(inside: Held, connecting: "asyncio.Task[None]") -> None:
    """End what is inside; not before the launcher has opened its end of the pipe: without a reader it would wait there
    for ever."""
    await asyncio.wait({connecting}, timeout=START_SECONDS)
    await inside.end()


async def _close(client: ClaudeSDKClient, connecting: "asyncio.Task[None]") -> None:
    """End the CLI; what is closed may be closed again. A start under way is let finish: cancelled half-way, the SDK
    waits for ever."""
    await asyncio.wait({connecting}, timeout=START_SECONDS)
    if not connecting.done():
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=START_SECONDS)
    elif not connecting.cancelled() and connecting.exception():
        log.info("the agent's process did not start: %s", connecting.exception())
    process = getattr(getattr(client, "_transport", None), "_process", None)
    with suppress(TemporaryError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            with _sdk_errors():
                await client.disconnect()
                if process:  # the SDK leaves a pipe that it did not read to its end to the garbage collector
                    await process.aclose()
