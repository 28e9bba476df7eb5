"""What the Claude Agent SDK asks of a session store, and what we ask on top."""

from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import pytest
from claude_agent_sdk import SessionKey, SessionStoreEntry, project_key_for_directory
from claude_agent_sdk.testing import run_session_store_conformance
from redis.asyncio import Redis

from mailagent.adapters.redis import connect
from mailagent.adapters.transcripts import (
    ENTRY_BYTES,
    MAX_BESIDE,
    MAX_ENTRY_BYTES,
    MAX_THREAD_BYTES,
    MAX_TURN_BYTES,
    VALUE_BYTES,
    OneTranscript,
    RedisTranscripts,
)
from mailagent.core.errors import PermanentError, TemporaryError
from mailagent.core.values import SessionId, ThreadId
from mailagent.ports import Workspace
from tests.leases import Leases

SESSION = SessionId(str(UUID(int=5)))
PROJECT = project_key_for_directory("/workspace")
MAIN = SessionKey(project_key=PROJECT, session_id=SESSION)
SUBAGENT = SessionKey(project_key=PROJECT, session_id=SESSION, subpath="subagents/agent-1")


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client, _ = await connect(redis_url)
    async with client:
        yield client


@pytest.fixture
def transcripts(client: Redis) -> RedisTranscripts:
    return RedisTranscripts(client, retention_seconds=1000)


@pytest.fixture
async def workspace(client: Redis) -> Workspace:
    """One under a lease."""
    thread = ThreadId("thread")
    return Workspace(thread, "", await Leases(client).take(thread))


def entry(uuid: str = "", **more: Any) -> SessionStoreEntry:
    made = {"type": "user", **more, **({"uuid": uuid} if uuid else {})}
    return cast("SessionStoreEntry", made)


async def test_it_conforms(client: Redis) -> None:
    async def fresh() -> RedisTranscripts:
        await client.flushall()
        return RedisTranscripts(client, retention_seconds=1000)

    await run_session_store_conformance(fresh)


async def test_an_append_that_is_repeated_changes_nothing(transcripts: RedisTranscripts) -> None:
    batch = [entry("a", n=1), entry("b", n=2), entry("a", n=1)]
    await transcripts.append(MAIN, batch)
    await transcripts.append(MAIN, batch)
    await transcripts.append(MAIN, [entry("b", n=2), entry("c", n=3)])
    assert await transcripts.load(MAIN) == [entry("a", n=1), entry("b", n=2), entry("c", n=3)]


async def test_the_same_uuid_may_be_in_two_transcripts(transcripts: RedisTranscripts) -> None:
    await transcripts.append(MAIN, [entry("a")])
    await transcripts.append(SUBAGENT, [entry("a")])
    assert await transcripts.load(SUBAGENT) == [entry("a")]


async def test_entries_without_uuid_are_all_kept(transcripts: RedisTranscripts) -> None:
    await transcripts.append(MAIN, [entry(n=1), entry(n=1)])
    await transcripts.append(MAIN, [entry(n=1)])
    assert await transcripts.load(MAIN) == [entry(n=1)] * 3


async def test_entries_are_opaque(transcripts: RedisTranscripts) -> None:
    strange = entry("a", text="Ü\ud800\0\r\n", deep={"list": [1.5, None, True, {}], "big": 2**60}, empty=[])
    await transcripts.append(MAIN, [strange])
    assert await transcripts.load(MAIN) == [strange]


async def test_a_session_exists_once_something_was_appended(transcripts: RedisTranscripts) -> None:
    assert not await transcripts.exists("/workspace", SESSION)
    await transcripts.append(MAIN, [])
    assert not await transcripts.exists("/workspace", SESSION)
    await transcripts.append(MAIN, [entry("a")])
    assert await transcripts.exists("/workspace", SESSION)
    assert not await transcripts.exists("/elsewhere", SESSION)
    await transcripts.delete(MAIN)
    assert not await transcripts.exists("/workspace", SESSION)


async def test_a_session_expires_as_a_whole_after_its_last_append(transcripts: RedisTranscripts, client: Redis) -> None:
    await transcripts.append(MAIN, [entry("a")])
    await transcripts.append(SUBAGENT, [entry("b")])
    keys = [key async for key in client.scan_iter()]
    assert len(keys) == 5
    for key in keys:
        await client.expire(key, 10)
    await transcripts.append(SUBAGENT, [entry("b")])
    assert {await client.ttl(key) for key in keys} == {1000}


async def test_deleting_leaves_nothing_behind(transcripts: RedisTranscripts, client: Redis) -> None:
    await transcripts.append(MAIN, [entry("a")])
    await transcripts.append(SUBAGENT, [entry("b")])
    await transcripts.delete(MAIN)
    assert await client.dbsize() == 0


async def test_a_store_that_is_away_is_a_temporary_error(tmp_path: Any) -> None:
    async with Redis.from_url(f"unix://{tmp_path}/nowhere") as nowhere:
        transcripts = RedisTranscripts(nowhere, retention_seconds=1000)
        with pytest.raises(TemporaryError):
            await transcripts.append(MAIN, [entry("a")])


async def test_a_session_writes_its_own_transcript_and_no_other(
    transcripts: RedisTranscripts, workspace: Workspace
) -> None:
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.append(MAIN, [entry("a")])
    await own.append(SUBAGENT, [entry("b")])
    assert await transcripts.load(MAIN) == [entry("a")]
    assert await transcripts.list_subkeys({"project_key": PROJECT, "session_id": SESSION}) == ["subagents/agent-1"]
    others = (SessionKey(project_key=PROJECT, session_id="x"), SessionKey(project_key="-etc", session_id=SESSION))
    for other in others:
        own = transcripts.only("/workspace", SESSION, workspace)
        await own.append(other, [entry("c")])
        assert not await transcripts.exists("/workspace", SessionId("x"))
        await refuses(own, transcripts, TemporaryError, "another session")


async def refuses(
    own: OneTranscript, transcripts: RedisTranscripts, kind: type[PermanentError | TemporaryError], why: str
) -> None:
    """It takes nothing any more, and says why to whoever asks whether it is whole."""
    before = await transcripts.load(MAIN)
    await own.append(MAIN, [entry("after that")])
    with pytest.raises(kind, match=why):
        own.check()
    with pytest.raises(kind, match=why):
        await own.settle()
    assert await transcripts.load(MAIN) == before


@pytest.mark.parametrize("odd", [1, None, "x", [entry("a")]])
async def test_what_is_no_entry_is_not_taken_and_neither_is_what_follows(
    transcripts: RedisTranscripts, workspace: Workspace, odd: Any
) -> None:
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.append(MAIN, [entry("a")])
    await own.append(MAIN, [entry("b"), odd])
    await refuses(own, transcripts, TemporaryError, "no entry")
    assert await transcripts.load(MAIN) == [entry("a")]


@pytest.mark.parametrize("uuid", ["\ud800", "ü", {"a": 1}, 5])
async def test_an_odd_uuid_stands_in_nobody_s_way(
    transcripts: RedisTranscripts, workspace: Workspace, uuid: Any
) -> None:
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.append(MAIN, [entry("a"), entry(uuid)])
    await own.append(MAIN, [entry("b")])
    await own.settle()
    assert await transcripts.load(MAIN) == [entry("a"), entry(uuid), entry("b")]


@pytest.mark.parametrize("name", ["a" * 201, "a b", "a\nb", "ü"])
async def test_beside_it_only_names_that_a_file_can_have(
    transcripts: RedisTranscripts, workspace: Workspace, name: str
) -> None:
    """The SDK makes a file of each when the session is resumed: one that cannot be made would end the thread."""
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.append({**MAIN, "subpath": name}, [entry("a")])
    await refuses(own, transcripts, TemporaryError, "odd name")
    assert await transcripts.list_subkeys({"project_key": PROJECT, "session_id": SESSION}) == []


async def test_beside_it_no_more_than_redis_can_bear(transcripts: RedisTranscripts, workspace: Workspace) -> None:
    own = transcripts.only("/workspace", SESSION, workspace)
    for number in range(MAX_BESIDE):
        await own.append({**MAIN, "subpath": f"subagents/agent-{number}"}, [entry("a")])
    await own.append({**MAIN, "subpath": "subagents/one-more"}, [entry("a")])
    await refuses(own, transcripts, TemporaryError, "more transcripts")


async def test_many_small_entries_are_as_much_as_a_large_one(
    transcripts: RedisTranscripts, workspace: Workspace
) -> None:
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.append(MAIN, [entry()] * (MAX_TURN_BYTES // ENTRY_BYTES))
    await refuses(own, transcripts, PermanentError, "more room")


@pytest.mark.parametrize(
    "large", [{"text": "x" * MAX_ENTRY_BYTES}, {"values": [{}] * (MAX_ENTRY_BYTES // VALUE_BYTES)}]
)
async def test_after_an_entry_that_is_too_large_there_is_no_hole(
    transcripts: RedisTranscripts, workspace: Workspace, large: dict[str, Any]
) -> None:
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.append(MAIN, [entry("a", text="x" * (MAX_ENTRY_BYTES - 1000))])
    await own.append(MAIN, [entry("b"), entry("c", **large)])
    await refuses(own, transcripts, PermanentError, "more room")
    again = transcripts.only("/workspace", SESSION, workspace)
    assert [each.get("uuid") for each in await again.load(MAIN) or []] == ["a"]
    await again.append(MAIN, [entry("d")])
    await again.settle()


async def test_who_has_said_too_much_may_say_no_more(transcripts: RedisTranscripts, workspace: Workspace) -> None:
    for key in (MAIN, SUBAGENT):
        await transcripts.append(key, [entry(text="x" * (MAX_THREAD_BYTES // 2))])
    own = transcripts.only("/workspace", SESSION, workspace)
    await own.load(MAIN)
    await own.settle()
    await own.load(SUBAGENT)
    with pytest.raises(PermanentError, match="begin a new one"):
        await own.settle()
