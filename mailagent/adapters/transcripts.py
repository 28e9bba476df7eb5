"""The transcripts of agent sessions in Redis: a session store of the Claude Agent SDK; any host can resume them."""

import json
import re

from claude_agent_sdk import (
    SessionKey,
    SessionListSubkeysKey,
    SessionStore,
    SessionStoreEntry,
    project_key_for_directory,
)
from redis.asyncio import Redis

from mailagent.adapters.redis import PREFIX, script, store_errors
from mailagent.core.values import SessionId

MAX_TURN_BYTES = 64 * 1024 * 1024
ENTRY_BYTES = 256
"""What an entry takes beside its text, here and in Redis."""

BESIDE = re.compile(r"[\w./-]{1,200}", re.ASCII)
"""A name beside the session's own transcript: on resume the SDK makes a file of it."""

MAX_BESIDE = 100


class RedisTranscripts(SessionStore):
    """Keeps the SDK's SessionStore: what is appended twice is there once, in the order of its first arrival.

    A session is forgotten `retention_seconds` after its last append. TemporaryError when Redis is away."""

    # The SDK takes these for absent: sessions are never listed, since none is continued but by its id.
    list_sessions = SessionStore.list_sessions
    list_session_summaries = SessionStore.list_session_summaries

    def __init__(self, client: Redis, *, retention_seconds: int, prefix: str = PREFIX) -> None:
        self._client = client
        self._retention = retention_seconds
        self._prefix = prefix
        self._append = script(client, "append")
        self._delete = script(client, "delete")

    async def exists(self, directory: str, session: SessionId) -> bool:
        """Whether the session has a transcript: then it is resumed, else begun. `directory` is the session's `cwd`."""
        key = SessionKey(project_key=project_key_for_directory(directory), session_id=session)
        with store_errors():
            return await self._client.exists(self._key("log", key)) == 1

    def only(self, directory: str, session: SessionId) -> "OneTranscript":
        """The store as one session may see it."""
        return OneTranscript(
            self._client,
            retention_seconds=self._retention,
            prefix=self._prefix,
            project=project_key_for_directory(directory),
            session=session,
        )

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        if not entries:
            return
        pairs = [text for entry in entries for text in (entry.get("uuid") or "", json.dumps(entry))]
        with store_errors():
            await self._append(keys=[self._prefix], args=[_session(key), _path(key), self._retention, *pairs])

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        with store_errors():
            entries = await self._client.lrange(self._key("log", key), 0, -1)
        return [json.loads(entry) for entry in entries] or None

    async def delete(self, key: SessionKey) -> None:
        with store_errors():
            await self._delete(keys=[self._prefix], args=[_session(key), _path(key)])

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        with store_errors():
            paths = await self._client.smembers(f"{self._prefix}:paths:{_session(key)}")
        return sorted(str(path).removeprefix("/") for path in paths if path)

    def _key(self, kind: str, key: SessionKey) -> str:
        return f"{self._prefix}:{kind}:{_session(key)}{_path(key)}"


class OneTranscript(RedisTranscripts):
    """One session's transcript and no other: what is to be appended comes from the CLI's output, into which code in the
    sandbox can write, and it may name any session. ValueError for another one, and for more than a turn can say."""

    def __init__(self, client: Redis, *, retention_seconds: int, prefix: str, project: str, session: SessionId) -> None:
        super().__init__(client, retention_seconds=retention_seconds, prefix=prefix)
        self._own = (project, session)
        self._left = MAX_TURN_BYTES
        self._beside: set[str] = set()

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        self._check(key)
        self._left -= len(json.dumps(entries)) + ENTRY_BYTES * len(entries)
        if self._left < 0:
            raise ValueError(f"more than {MAX_TURN_BYTES} bytes of transcript in one turn")
        await super().append(key, entries)

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        self._check(key)
        return await super().load(key)

    async def delete(self, key: SessionKey) -> None:
        self._check(key)
        await super().delete(key)

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        self._check(key)
        return await super().list_subkeys(key)

    def _check(self, key: SessionKey | SessionListSubkeysKey) -> None:
        if (key["project_key"], key["session_id"]) != self._own:
            raise ValueError("this transcript is another session's")
        if path := key.get("subpath"):
            self._beside.add(str(path))
            if len(self._beside) > MAX_BESIDE or not BESIDE.fullmatch(str(path)):
                raise ValueError("more transcripts beside this session's than it can have, or under an odd name")


def _session(key: SessionKey | SessionListSubkeysKey) -> str:
    return f"{key['project_key']}/{key['session_id']}"


def _path(key: SessionKey) -> str:
    return f"/{key['subpath']}" if key.get("subpath") else ""
