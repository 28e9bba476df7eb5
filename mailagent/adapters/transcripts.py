"""The transcripts of agent sessions in Redis: a session store of the Claude Agent SDK; any host can resume them."""

import asyncio
import itertools
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from claude_agent_sdk import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
    project_key_for_directory,
)
from redis.asyncio import Redis

from mailagent.adapters.redis import PREFIX, script, store_errors
from mailagent.core.errors import LeaseLostError, PermanentError, TemporaryError
from mailagent.core.values import BlobId, SessionId
from mailagent.ports import Workspace

Keeping = asyncio.Task[BlobId]

log = logging.getLogger(__name__)

MAX_TURN_BYTES = 32 << 20
MAX_THREAD_BYTES = 32 << 20
"""What a session may have said before it goes on: all of it is read into memory then, twice."""
MAX_ENTRY_BYTES = 4 << 20
"""The largest that the CLI writes is an image that was looked at, with 1.4 MB."""
MAX_KEPT = 1000
"""Tool uses of one turn whose results may still come: code in the sandbox can claim any number."""
ENTRY_BYTES = 256
"""What an entry takes beside its text, here and in Redis."""
VALUE_BYTES = 64
"""What each value in it takes in memory, beside its text."""

TOO_MUCH = "Your question took more room than one answer may have. Please ask for less at once."
TOO_LONG = (
    "This conversation has become longer than one may be.\n\n"
    "Please begin a new one: write a new mail, instead of a reply, and attach your data again."
)

BESIDE = re.compile(r"[\w./-]{1,200}", re.ASCII)
"""A name beside the session's own transcript: on resume the SDK makes a file of it."""

MAX_BESIDE = 100


class RedisTranscripts(SessionStore):
    """Keeps the SDK's SessionStore: what is appended twice is there once, in the order of its first arrival.

    A session is forgotten with its thread; one of no thread `retention_seconds` after its last append. TemporaryError
    when Redis is away."""

    # The SDK takes these for absent: sessions are never listed, since none is continued but by its id.
    list_sessions = SessionStore.list_sessions
    list_session_summaries = SessionStore.list_session_summaries

    def __init__(self, client: Redis, *, retention_seconds: int, prefix: str = PREFIX) -> None:
        self._client = client
        self._retention = retention_seconds
        self._prefix = prefix
        self._append = script(client, "common", "append")
        self._delete = script(client, "delete")

    async def exists(self, directory: str, session: SessionId) -> bool:
        """Whether the session has a transcript: then it is resumed, else begun. `directory` is the session's `cwd`."""
        key = SessionKey(project_key=project_key_for_directory(directory), session_id=session)
        with store_errors():
            return await self._client.exists(self._key("log", key)) == 1

    def only(self, directory: str, session: SessionId, workspace: Workspace) -> "OneTranscript":
        """The store as one session may see it, under the lease of its turn."""
        return OneTranscript(
            self._client,
            retention_seconds=self._retention,
            prefix=self._prefix,
            project=project_key_for_directory(directory),
            session=session,
            workspace=workspace,
        )

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        if entries:
            await self._write(
                _session(key), [_Line(_path(key), str(e.get("uuid") or ""), json.dumps(e)) for e in entries]
            )

    async def _write(self, session: str, lines: "Sequence[_Line]", thread: str = "", token: str = "") -> None:
        values = [text for line in lines for text in (line.path, line.uuid, line.entry, line.manifest)]
        with store_errors():
            held = await self._append(keys=[self._prefix], args=[session, self._retention, thread, token, *values])
        if not held:
            raise LeaseLostError(f"{token} no longer holds {thread}")

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        return [json.loads(text) for text in await self._said(key)] or None

    async def _said(self, key: SessionKey) -> list[str]:
        with store_errors():
            return list(map(str, await self._client.lrange(self._key("log", key), 0, -1)))

    async def delete(self, key: SessionKey) -> None:
        with store_errors():
            await self._delete(keys=[self._prefix], args=[_session(key), _path(key)])

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        with store_errors():
            paths = await self._client.smembers(f"{self._prefix}:paths:{_session(key)}")
        return sorted(str(path).removeprefix("/") for path in paths if path)

    def _key(self, kind: str, key: SessionKey) -> str:
        return f"{self._prefix}:{kind}:{_session(key)}{_path(key)}"


@dataclass(slots=True)
class _Line:
    """One entry on its way to the store; with a manifest, once that is stored, it is a checkpoint too."""

    path: str
    uuid: str
    entry: str
    keeping: Keeping | None = None
    manifest: str = ""


class OneTranscript(RedisTranscripts):
    """One session's transcript and no other: what is to be appended comes from the CLI's output, into which code in the
    sandbox can write. It may name another session, which is a TemporaryError, and be more than a transcript can be: a
    PermanentError in words for the sender.

    What cannot be written stays here, in its order, and goes first with whatever comes next: a hole in a transcript
    would cut off all before it. So an append does not fail, or the SDK would try it again and then drop it; `settle`
    fails. For the same reason nothing is taken any more after what could not be taken."""

    def __init__(
        self,
        client: Redis,
        *,
        retention_seconds: int,
        prefix: str,
        project: str,
        session: SessionId,
        workspace: Workspace,
    ) -> None:
        super().__init__(client, retention_seconds=retention_seconds, prefix=prefix)
        self._own = (project, session)
        self._workspace = workspace
        self._left = MAX_TURN_BYTES
        self._before: dict[str, int] = {}
        self._refused: PermanentError | TemporaryError | None = None
        self._beside: set[str] = set()
        self._waiting: list[_Line] = []
        self._writing = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._kept: dict[str, Keeping] = {}

    def belongs(self, tool_use: str, keeping: Keeping) -> None:
        """When the tool had ended, the workspace was as in the manifest that is being stored: together with the entry
        that tells the tool's result it makes a checkpoint."""
        if len(self._kept) < MAX_KEPT:
            self._kept[tool_use] = keeping

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        if self._refused:
            return
        try:
            self._take(key, entries)
        except (PermanentError, TemporaryError) as error:
            log.warning("%s: no more of the transcript is taken: %s", self._own[1], error)
            self._refused = error
            return
        try:
            await self.settle()
        except TemporaryError as error:
            log.warning("%s: %d entries wait to be stored: %s", self._own[1], len(self._waiting), error)

    def _take(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """All of it, or none."""
        self._check(key)
        if not all(isinstance(entry, dict) for entry in entries):
            raise TemporaryError("what is no entry cannot be in a transcript")
        lines = [self._line(_path(key), entry) for entry in entries]
        sizes = [_size(line.entry, entry) for line, entry in zip(lines, entries, strict=True)]
        self._left -= sum(sizes)
        if self._left < 0 or max(sizes, default=0) > MAX_ENTRY_BYTES:
            raise PermanentError(TOO_MUCH)
        self._waiting += lines

    def check(self) -> None:
        """Raise why no more is taken."""
        if self._refused:
            raise self._refused

    async def settle(self) -> None:
        """Write what waits. TemporaryError when that cannot be: then the transcript is not whole. What `check` raises
        when no more is taken."""
        self.check()
        async with self._writing:
            lines = list(self._waiting)
            for line in lines:
                line.manifest = await _manifest(line.keeping)
            if lines:
                await self._write("/".join(self._own), lines, self._workspace.thread, self._workspace.token)
                del self._waiting[: len(lines)]

    def _line(self, path: str, entry: SessionStoreEntry) -> _Line:
        """Without a uuid of its own it gets one, since it may be written twice when an answer of Redis is lost; so does
        one whose uuid is nothing that Redis can be told."""
        uuid = entry.get("uuid")
        if not isinstance(uuid, str) or not uuid.isascii() or not uuid:
            uuid = f"{self._workspace.token} {next(self._numbers)}"
        told = [self._kept.pop(each) for each in _results(entry) if each in self._kept]
        return _Line(path, uuid, json.dumps(entry), told[-1] if told else None)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """What was said before. Where that is too much, nothing can be added to it."""
        self._check(key)
        said = await self._said(key)
        entries = [json.loads(text) for text in said]
        self._before[_path(key)] = sum(map(_size, said, entries))
        if sum(self._before.values()) > MAX_THREAD_BYTES:
            self._refused = PermanentError(TOO_LONG)
        return entries or None

    async def delete(self, key: SessionKey) -> None:
        self._check(key)
        await super().delete(key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        self._check(key)
        return await super().list_subkeys(key)

    def _check(self, key: SessionKey | SessionListSubkeysKey) -> None:
        if (key["project_key"], key["session_id"]) != self._own:
            raise TemporaryError("this transcript is another session's")
        if path := key.get("subpath"):
            self._beside.add(str(path))
            if len(self._beside) > MAX_BESIDE or not BESIDE.fullmatch(str(path)):
                raise TemporaryError("more transcripts beside this session's than it can have, or under an odd name")


def transcript_of(directory: str, session: SessionId) -> str:
    """The name of a session's transcript in its keys."""
    return _session(SessionKey(project_key=project_key_for_directory(directory), session_id=session))


async def _manifest(keeping: Keeping | None) -> str:
    """What was stored; "" for nothing. Who waits may be cancelled, and it goes on."""
    if keeping is None:
        return ""
    await asyncio.wait({keeping})
    return keeping.result()


def _size(text: str, entry: SessionStoreEntry) -> int:
    """What the entry takes in memory, about: of `{}` a million fit into a short text."""
    values, waiting = 0, [cast("object", entry)]
    while waiting:
        each = waiting.pop()
        values += 1
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return ENTRY_BYTES + len(text) + values * VALUE_BYTES


def _results(entry: SessionStoreEntry) -> list[str]:
    """The tool uses whose results the entry tells; it may be anything that code in the sandbox wrote."""
    message: object = entry.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return [str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]


def _session(key: SessionKey | SessionListSubkeysKey) -> str:
    return f"{key['project_key']}/{key['session_id']}"


def _path(key: SessionKey) -> str:
    return f"/{key['subpath']}" if key.get("subpath") else ""
