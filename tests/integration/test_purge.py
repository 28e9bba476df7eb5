"""Threads are forgotten with all that was kept of them, and nothing else is."""

import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailagent import config
from mailagent.adapters.blobs import DiskBlobs
from mailagent.adapters.checkpoints import RedisCheckpoints
from mailagent.adapters.ledger import RedisLedger
from mailagent.adapters.redis import Redis, RedisJobs, connect
from mailagent.adapters.retention import RedisRetention
from mailagent.adapters.transcripts import RedisTranscripts
from mailagent.adapters.workspaces import DiskWorkspaces
from mailagent.commands.purge import Wanted, purged
from mailagent.core.errors import PermanentError
from mailagent.core.job import Job, session_id
from mailagent.core.policy import WORKSPACE
from mailagent.core.quota import Account, Spend
from mailagent.core.values import BlobId, ThreadId
from mailagent.flow.retention import sweep
from tests.contracts.test_checkpoints import entry
from tests.daemon import mailagent
from tests.fakes.jobs import a_job, composed, sent
from tests.settings import settings_text

YEAR = 365 * 86400.0
A, B = ThreadId("a"), ThreadId("b")


@dataclass
class House:
    """The store of a daemon with finished threads in it."""

    place: Path
    client: Redis
    url: str

    def __post_init__(self) -> None:
        self.jobs = RedisJobs(self.client, owner="x", lease_seconds=60, retention_seconds=1000)
        self.blobs = DiskBlobs(self.place / "state/blobs")
        checkpoints = RedisCheckpoints(self.client, retention_seconds=1000)
        self.spaces = DiskWorkspaces(
            self.place / "state/threads", self.blobs, checkpoints, max_bytes=10**9, max_out_bytes=1, max_out_files=1
        )
        self.text = settings_text(self.place, model_url="http://model", more=f'[redis]\nurl = "{self.url}"\n')

    async def thread(self, thread: ThreadId, sender: str, *, over: bool = True) -> Job:
        """A whole thread with one mail; its blobs are old."""
        message = await self.blobs.put(f"mail of {thread}".encode())
        job = a_job(f"job-{thread}", thread, sender=sender, message=message)
        await self.jobs.accept(job, None)
        claim = await self.jobs.claim("turns", 1)
        assert claim
        workspace = await self.spaces.open(thread, claim.token)
        for name, text in (("common", "in both"), ("own", f"file of {thread}")):
            (Path(workspace.path) / "work" / name).write_text(text)
        transcript = RedisTranscripts(self.client, retention_seconds=1000).only(
            WORKSPACE, session_id(thread), workspace
        )
        await transcript.append({"project_key": "-srv", "session_id": session_id(thread)}, [entry("1")])
        await self.spaces.snapshot(workspace)
        self.spaces.close(thread)
        ledger, one = RedisLedger(self.client), Spend(1, 1, 1.0)
        await ledger.charge(job.id, [Account("thread", thread, one)], one, 0.0)
        await ledger.settle(job.id, one)
        await self.jobs.hand_over(claim, composed(job))
        claim = await self.jobs.claim("delivery", 1)
        assert claim
        if over:
            await self.jobs.finish(claim, sent(claim.job))
        return job

    def age(self) -> None:
        """All blobs were put long ago."""
        for path in (self.place / "state/blobs").glob("??/*"):
            os.utime(path, (1, 1))

    async def purge(self, wanted: Wanted, *, dry_run: bool = False) -> tuple[list[str], list[str], int]:
        settings = config.load(self.text, {"MAILAGENT_IMAP_PASSWORD": "x"}, {})
        found = await purged(settings, wanted, dry_run=dry_run)
        return [kept.thread for kept in found.threads], [kept.thread for kept in found.busy], found.blobs

    async def state(self) -> tuple[set[str], set[str], set[BlobId]]:
        """All that is kept: keys, directories, blobs."""
        keys = {str(key) async for key in self.client.scan_iter()}
        directories = {path.name for path in (self.place / "state/threads").iterdir()}
        return keys, directories, set(await self.blobs.older(time.time() + YEAR))


@pytest.fixture
async def house(redis_url: str, short_path: Path) -> AsyncIterator[House]:
    client, _ = await connect(redis_url)
    async with client:
        house = House(short_path, client, redis_url)
        await house.jobs.belong_to(await house.blobs.identity())
        yield house


async def test_a_purged_thread_leaves_nothing_and_the_others_everything(house: House) -> None:
    await house.thread(B, "b@example.org")
    before = await house.state()
    await house.thread(A, "a@example.org")
    house.age()
    with_both = await house.state()
    assert await house.purge(lambda kept: kept.thread == A, dry_run=True) == ([A], [], 3)
    assert await house.state() == with_both
    assert await house.purge(lambda kept: kept.thread == A) == ([A], [], 3)
    assert await house.state() == before
    assert await house.purge(lambda kept: kept.thread == A) == ([], [], 0)


async def test_room_can_be_made_in_a_server_that_is_full(house: House) -> None:
    await house.thread(B, "b@example.org")
    before = await house.state()
    await house.thread(A, "a@example.org")
    house.age()
    await house.client.config_set("maxmemory", "1")
    try:
        assert await house.purge(lambda kept: kept.thread == A) == ([A], [], 3)
    finally:
        await house.client.config_set("maxmemory", "0")
    assert await house.state() == before


async def test_a_record_of_another_version_keeps_its_blobs_and_is_not_taken_for_an_old_one(house: House) -> None:
    job = await house.thread(A, "a@example.org")
    await house.thread(B, "b@example.org")
    house.age()
    name = f"{{ma}}:job:{job.id}"
    later = {"message": job.message, "a": "word of tomorrow"}
    await house.client.hset(name, "body", json.dumps(later))
    before = await house.state()
    with pytest.raises(PermanentError, match="cannot read"):
        await house.purge(lambda kept: kept.thread == B)
    assert await house.state() == before
    named = await RedisRetention(house.client, house.blobs).named([B])
    assert job.message in named


async def test_what_was_put_a_short_time_ago_stays(house: House) -> None:
    await house.thread(A, "a@example.org")
    assert await house.purge(lambda kept: True) == ([A], [], 0)


async def test_a_thread_with_work_is_left(house: House) -> None:
    await house.thread(A, "a@example.org", over=False)
    house.age()
    before = await house.state()
    assert await house.purge(lambda kept: True) == ([], [A], 0)
    assert await house.state() == before


async def test_the_command_says_what_it_removed(house: House) -> None:
    await house.thread(A, "a@example.org")
    await house.thread(B, "b@example.org")
    house.age()
    settings = house.place / "mailagent.toml"
    settings.write_text(house.text)
    code, output, _ = await mailagent(house.place, "purge", settings, "--older-than", "1w", "--dry-run")
    assert (code, "would be removed: 2 threads" in output) == (0, True)
    code, output, _ = await mailagent(house.place, "purge", settings, "--sender", "A@example.org")
    assert code == 0
    assert output.splitlines()[0] == "thread a of a@example.org: 1 mails, 1 transcript entries"
    assert "removed: 1 threads with 1 mails" in output
    assert await house.jobs.find("job-a") is None
    assert await house.jobs.find("job-b")


async def test_the_sweep_takes_what_nothing_names(house: House) -> None:
    job = await house.thread(A, "a@example.org")
    loose = await house.blobs.put(b"an earlier version of a file")
    retention = RedisRetention(house.client, house.blobs)
    assert await sweep(retention, house.blobs, time.time() - 60) == (0, 0), "too young"
    house.age()
    assert await sweep(retention, house.blobs, time.time() - 60) == (1, 28)
    assert loose not in await house.blobs.older(time.time() + YEAR)
    assert await house.blobs.get(job.message) == b"mail of a"
    assert [await retention.turn_to_sweep(60) for _ in range(2)] == [True, False]


async def test_directories_that_nobody_goes_on_in_are_removed(house: House) -> None:
    await house.thread(A, "a@example.org")
    await house.thread(B, "b@example.org")
    assert await house.spaces.forget(1.0) == 0, "they were touched since"
    assert await house.spaces.forget(time.time() + 60) == 0, "they may go on here"
    await house.client.hset("{ma}:checkpoint:b", "copy", "another host's")
    assert await house.spaces.forget(time.time() + 60) == 1
    assert [path.name for path in (house.place / "state/threads").iterdir()] == ["a"]
