"""Two hosts with one Redis and one store of blobs take turns in one thread: files and transcript stay a pair."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from claude_agent_sdk import SessionKey, SessionStoreEntry, project_key_for_directory
from redis.asyncio import Redis

from mailagent.adapters.blobs import DiskBlobs
from mailagent.adapters.checkpoints import RedisCheckpoints
from mailagent.adapters.redis import PREFIX, connect
from mailagent.adapters.s3 import S3Blobs
from mailagent.adapters.transcripts import OneTranscript, RedisTranscripts
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.core.errors import LeaseLostError
from mailagent.core.job import Dead, session_id
from mailagent.core.policy import WORKSPACE
from mailagent.core.values import ThreadId
from mailagent.ports import Blobs, Workspace
from tests.contracts.test_workspaces import tree
from tests.fakes.jobs import a_job
from tests.leases import Leases

THREAD = ThreadId("thread")
RETENTION = 1000
KEY = SessionKey(project_key=project_key_for_directory(WORKSPACE), session_id=session_id(THREAD))


@dataclass
class Host:
    """A state directory of its own, and the store that it shares."""

    name: str
    client: Redis
    leases: Leases
    spaces: DiskWorkspaces

    async def open(self) -> tuple[Workspace, OneTranscript]:
        """Take the lease from whoever holds it, then the workspace."""
        workspace = await self.spaces.open(THREAD, await self.leases.take(THREAD))
        store = RedisTranscripts(self.client, retention_seconds=RETENTION)
        return workspace, store.only(WORKSPACE, session_id(THREAD), workspace)

    async def turn(self, number: int) -> Path:
        """A whole turn that writes a file and says so."""
        workspace, transcript = await self.open()
        await self.spaces.clear_out(workspace, number)
        (Path(workspace.path) / "out/answer.md").write_text(f"{self.name} {number}")
        await transcript.append(KEY, [entry(f"{self.name}-{number}")])
        await self.spaces.snapshot(workspace)
        return Path(workspace.path)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client, _ = await connect(redis_url)
    async with client:
        yield client


@pytest.fixture(params=["disk", "s3"])
def hosts(request: pytest.FixtureRequest, client: Redis, tmp_path: Path) -> tuple[Host, Host]:
    leases = Leases(client)
    bucket = request.getfixturevalue("bucket") if request.param == "s3" else ""

    def host(name: str) -> Host:
        blobs: Blobs = S3Blobs(bucket) if bucket else DiskBlobs(tmp_path / "blobs")
        checkpoints = RedisCheckpoints(client, retention_seconds=RETENTION)
        spaces = DiskWorkspaces(
            tmp_path / name, blobs, checkpoints, max_bytes=10**9, max_out_bytes=1000, max_out_files=9
        )
        return Host(name, client, leases, spaces)

    return host("a"), host("b")


def entry(uuid: str, *results: str) -> SessionStoreEntry:
    blocks = [{"type": "tool_result", "tool_use_id": each, "content": "done"} for each in results]
    made = {"type": "user", "uuid": uuid, "message": {"role": "user", "content": blocks}}
    return cast("SessionStoreEntry", made)


async def said(client: Redis) -> list[str]:
    entries = await RedisTranscripts(client, retention_seconds=RETENTION).load(KEY) or []
    return [entry["uuid"] for entry in entries]


async def test_hosts_that_take_turns_have_the_same_files(hosts: tuple[Host, Host], client: Redis) -> None:
    a, b = hosts
    for number, host in enumerate([a, b, b, a, b, a], 1):
        root = await host.turn(number)
        assert (root / "out/answer.md").read_text() == f"{host.name} {number}"
        other = b if host is a else a
        there, _ = await other.open()
        assert tree(Path(there.path)) == tree(root)
    assert await said(client) == ["a-1", "b-2", "b-3", "a-4", "b-5", "a-6"]
    assert sorted(path.name for path in (root / "work/earlier").iterdir()) == ["1", "2", "3", "4", "5"]


async def test_the_host_that_went_on_keeps_its_directory(hosts: tuple[Host, Host]) -> None:
    a, _ = hosts
    root = await a.turn(1)
    (root / "work/new").write_text("since the checkpoint")
    inode = root.stat().st_ino
    await a.open()
    assert root.stat().st_ino == inode
    assert (root / "work/new").exists()


async def test_what_was_done_beyond_the_checkpoint_is_forgotten_with_its_files(
    hosts: tuple[Host, Host], client: Redis
) -> None:
    a, b = hosts
    await a.turn(1)
    workspace, transcript = await a.open()
    (Path(workspace.path) / "work/lost").write_text("x")
    await transcript.append(KEY, [entry("a-2")])
    assert await said(client) == ["a-1", "a-2"]
    there, _ = await b.open()
    assert await said(client) == ["a-1"]
    assert not (Path(there.path) / "work/lost").exists()
    there, transcript = await b.open()
    await transcript.append(KEY, [entry("a-2")])
    assert await said(client) == ["a-1", "a-2"], "what was cut off may be said again"


async def test_a_thread_without_a_checkpoint_starts_anew_elsewhere(hosts: tuple[Host, Host], client: Redis) -> None:
    a, b = hosts
    _, transcript = await a.open()
    await transcript.append(KEY, [entry("a-1")])
    await b.open()
    assert await said(client) == []


async def test_a_tool_s_files_and_its_result_are_saved_together(hosts: tuple[Host, Host], client: Redis) -> None:
    a, b = hosts
    workspace, transcript = await a.open()
    work = Path(workspace.path) / "work"
    for number in (1, 2):
        (work / "state").write_text(f"after {number}")
        look = await a.spaces.look(workspace)
        transcript.belongs(f"toolu_{number}", asyncio.create_task(a.spaces.keep(workspace, look)))
        (work / "state").write_text("while it is stored")
        await transcript.append(KEY, [entry(f"call {number}")])
        if number == 1:
            await transcript.append(KEY, [entry("result 1", "toolu_1"), entry("after result 1")])
    (work / "state").write_text("after the third")
    there, _ = await b.open()
    assert await said(client) == ["call 1", "result 1"]
    assert (Path(there.path) / "work/state").read_text() == "after 1"


async def test_whatever_renews_a_thread_renews_its_conversation(hosts: tuple[Host, Host], client: Redis) -> None:
    """A mail that is refused, say: else the thread would be known longer than what was said in it."""
    a, _ = hosts
    await a.turn(1)
    _, transcript = await a.open()
    await transcript.append({**KEY, "subpath": "subagents/agent-1"}, [entry("b")])
    await a.leases.end(THREAD)
    of_thread = [key async for key in client.scan_iter() if await client.ttl(key) > 0]
    assert {str(key).split(":")[1] for key in of_thread} > {"thread", "log", "seen", "paths", "checkpoint"}
    assert {await client.ttl(key) for key in of_thread} == {RETENTION}
    for key in of_thread:
        await client.expire(key, 10)
    await a.leases.jobs.accept(a_job("refused", THREAD), None)
    assert {await client.ttl(key) for key in of_thread} == {-1}, "a thread with work never expires"
    refused = await a.leases.jobs.claim("turns", 5.0)
    assert refused
    await a.leases.jobs.finish(refused, refused.job.at(Dead("refused"), "dead", 1.0))
    assert {await client.ttl(key) for key in of_thread} == {RETENTION}


async def test_a_checkpoint_that_is_gone_is_told_until_a_turn_has_ended(
    hosts: tuple[Host, Host], client: Redis
) -> None:
    a, b = hosts
    assert not (await a.open())[0].lost, "a new thread has lost nothing"
    await a.turn(1)
    assert not (await b.open())[0].lost
    await client.delete(f"{PREFIX}:checkpoint:{THREAD}")
    for host in (a, a, b):
        assert (await host.open())[0].lost
    await b.turn(2)
    assert not (await a.open())[0].lost


async def test_without_the_lease_nothing_is_written(hosts: tuple[Host, Host], client: Redis) -> None:
    a, b = hosts
    workspace, transcript = await a.open()
    await transcript.append(KEY, [entry("a-1")])
    await b.turn(1)
    before = await client.hgetall(f"{PREFIX}:checkpoint:{THREAD}")
    with pytest.raises(LeaseLostError):
        await transcript.append(KEY, [entry("zombie")])
    with pytest.raises(LeaseLostError):
        await a.spaces.snapshot(workspace)
    with pytest.raises(LeaseLostError):
        await a.spaces.open(THREAD, workspace.token)
    assert await client.hgetall(f"{PREFIX}:checkpoint:{THREAD}") == before
    assert await said(client) == ["b-1"]
