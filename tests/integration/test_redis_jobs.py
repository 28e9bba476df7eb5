"""What the job queue promises of Redis alone: it survives losses, forgets in time, and names what is wrong."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.errors import ConfigError, LeaseLostError, TemporaryError
from mailagent.core.job import Dead
from mailagent.core.values import ThreadId
from mailagent.ports import CursorMove, Jobs
from tests.fakes.jobs import INBOX, a_job, composed, sent

READY = "{ma}:ready:turns"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client, _ = await connect(redis_url)
    async with client:
        yield client


def on(client: Redis, owner: str = "a", lease: float = 30.0, prefix: str = "{ma}") -> Jobs:
    return RedisJobs(client, owner=owner, lease_seconds=lease, retention_seconds=1000, prefix=prefix)


@pytest.fixture
def jobs(client: Redis) -> Jobs:
    return on(client)


async def done(jobs: Jobs) -> list[str]:
    """Do all turns that there are; returns the jobs in the order in which they were handed out."""
    ids: list[str] = []
    while claim := await jobs.claim("turns", 0):
        ids.append(claim.job.id)
        await jobs.hand_over(claim, composed(claim.job))
    return ids


async def ttls(client: Redis) -> set[int]:
    """How long the keys of threads are kept; -1 is for ever."""
    streams_and_cursors = ("{ma}:ready:turns", "{ma}:ready:delivery", "{ma}:cursors")
    return {await client.ttl(key) async for key in client.scan_iter() if key not in streams_and_cursors}


# Losses


async def test_work_goes_on_after_all_data_was_lost(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), CursorMove(INBOX, 0, 5))
    claim = await jobs.claim("turns", 0)
    assert claim
    await client.flushall()
    assert await jobs.claim("turns", 0) is None
    assert await jobs.cursor(INBOX) is None
    assert await jobs.accept(a_job("j2"), CursorMove(INBOX, 5, 6)) == "rewound"
    assert await jobs.accept(a_job("j1"), CursorMove(INBOX, 0, 5)) == "new"
    assert await done(jobs) == ["j1"]


async def test_a_lost_group_delivers_what_was_announced_once_more(client: Redis, jobs: Jobs) -> None:
    for name in ("j1", "j2"):
        await jobs.accept(a_job(name, name), None)
    at_work = await jobs.claim("turns", 0)
    assert at_work
    await client.xgroup_destroy(READY, "workers")
    assert await done(jobs) == ["j2"]
    await jobs.renew(at_work)
    await jobs.hand_over(at_work, composed(at_work.job))


async def test_the_janitor_announces_what_lost_its_announcement(client: Redis, jobs: Jobs) -> None:
    for name in ("j1", "j2", "j3", "j4"):
        await jobs.accept(a_job(name, f"t{name}"), None)
    at_work, delayed, handed_over = [await jobs.claim("turns", 0) for _ in range(3)]
    assert at_work
    assert delayed
    assert handed_over
    await jobs.retry(delayed, delayed.job, 3600)
    await jobs.hand_over(handed_over, composed(handed_over.job))
    await client.delete(READY, "{ma}:ready:delivery")
    assert await jobs.claim("turns", 0) is None
    assert await jobs.repair() == 2
    assert await jobs.repair() == 0
    assert await done(jobs) == ["j4"]
    assert await jobs.claim("delivery", 0)
    await jobs.renew(at_work)
    await jobs.hand_over(at_work, composed(at_work.job))


async def test_the_janitor_announces_what_a_dead_worker_left_unannounced(client: Redis) -> None:
    jobs = on(client, lease=0.1)
    await jobs.accept(a_job(), None)
    assert await jobs.claim("turns", 0)
    await client.delete(READY)
    async with asyncio.timeout(20):
        while not await jobs.repair():
            assert await jobs.claim("turns", 0.01) is None
    assert await done(jobs) == ["j1"]


async def test_a_thread_that_is_announced_many_times_is_handed_out_once(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    await jobs.accept(a_job("j2"), None)
    for _ in range(5):
        await client.xadd(READY, {"thread": "t1"})
        await client.xadd(READY, {"thread": "unknown"})
    claim = await jobs.claim("turns", 0)
    assert claim
    assert await on(client, "b").claim("turns", 0) is None
    await jobs.retry(claim, claim.job, 3600)
    await client.xadd(READY, {"thread": "t1"})
    assert await jobs.claim("turns", 0) is None


async def test_surplus_announcements_do_not_stay(client: Redis) -> None:
    jobs = on(client, lease=0.1)
    await jobs.accept(a_job("j1"), None)
    for _ in range(5):
        await client.xadd(READY, {"thread": "t1"})
    claim = await jobs.claim("turns", 0)
    assert claim
    await jobs.hand_over(claim, composed(claim.job))
    async with asyncio.timeout(20):
        while await client.xlen(READY):
            assert await jobs.claim("turns", 0.01) is None


async def test_an_announcement_that_nobody_will_ever_get_is_none(client: Redis, jobs: Jobs) -> None:
    """A torn log may bring back an entry that the group takes for delivered and acknowledged."""
    await jobs.accept(a_job(), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    await client.xack(READY, "workers", claim.entry)
    await client.delete("{ma}:lease:turns:t1")
    assert await jobs.claim("turns", 0) is None
    assert await jobs.repair() == 1
    assert await done(jobs) == ["j1"]
    assert await client.xlen(READY) == 0


async def test_a_list_that_a_torn_log_brought_back_is_not_believed(client: Redis, jobs: Jobs) -> None:
    """The first writes of a script may survive alone: a job in a list, its record missing or already elsewhere."""
    await jobs.accept(a_job("j1"), None)
    assert await done(jobs) == ["j1"]
    delivery = await jobs.claim("delivery", 0)
    assert delivery
    await jobs.finish(delivery, sent(delivery.job))
    await client.rpush("{ma}:turns:t1", "j1", "never-stored")
    await client.rpush("{ma}:delivery:t1", "j1")
    await jobs.accept(a_job("j2"), None)
    assert await jobs.repair() == 2
    assert await done(jobs) == ["j2"]
    claim = await jobs.claim("delivery", 0)
    assert claim
    assert claim.job.id == "j2"


async def test_a_lease_given_before_a_loss_is_no_lease_after_it(client: Redis) -> None:
    """Two processes of one name, the second started after the data of the first was lost: their tokens must differ."""
    before, after = on(client, "same-name"), on(client, "same-name")
    await before.accept(a_job(), None)
    lost = await before.claim("turns", 0)
    assert lost
    await client.flushall()
    await after.accept(a_job(), None)
    assert await after.claim("turns", 0)
    with pytest.raises(LeaseLostError):
        await before.save(lost, lost.job)


async def test_the_announcement_is_renewed_with_the_lease(client: Redis) -> None:
    """Otherwise every waiting worker would take it over, find the lease, and try again, for as long as a turn lasts."""
    jobs = on(client)
    await jobs.accept(a_job(), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    await client.xclaim(READY, "workers", "another", 0, [claim.entry], idle=3_600_000, justid=True)
    await jobs.renew(claim)
    assert await client.xpending_range(READY, "workers", "-", "+", 1, idle=1_800_000) == []
    assert len(await client.xpending_range(READY, "workers", "-", "+", 1)) == 1


# Forgetting


async def test_a_thread_with_work_is_kept_and_one_without_expires_as_a_whole(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    assert await ttls(client) == {-1}
    await done(jobs)
    assert await ttls(client) == {-1}
    delivery = await jobs.claim("delivery", 0)
    assert delivery
    await jobs.finish(delivery, sent(delivery.job))
    assert await ttls(client) == {1000}
    async for key in client.scan_iter("*j1*"):
        await client.expire(key, 10)
    await jobs.accept(a_job("j2"), None)
    assert await ttls(client) == {-1}
    claim = await jobs.claim("turns", 0)
    assert claim
    await jobs.finish(claim, claim.job.at(Dead("no"), "dead", 2.0))
    assert await ttls(client) == {1000, -1}
    assert await client.persist("{ma}:job:j1")


async def test_an_expired_thread_is_unknown(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    await done(jobs)
    await client.delete("{ma}:thread:t1")
    assert await jobs.thread_of(["<j1@customer.test>"]) is None
    assert await jobs.thread(ThreadId("t1")) is None


async def test_the_janitor_forgets_workers_of_long_ago(
    client: Redis, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailagent.adapters.redis._CONSUMER_IDLE", 0.0)
    await jobs.accept(a_job("j0"), None)
    assert await done(on(client, "gone")) == ["j0"]
    await jobs.accept(a_job("j1"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    async with asyncio.timeout(20):
        while any(worker["idle"] < 5 for worker in await client.xinfo_consumers(READY, "workers")):
            await jobs.find("j1")
    assert await jobs.repair() == 0
    (worker,) = await client.xinfo_consumers(READY, "workers")
    assert worker["pending"] == 1
    assert await client.xlen(READY) == 1


async def test_the_janitor_forgets_dead_jobs_of_long_ago(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    await jobs.finish(claim, claim.job.at(Dead("no"), "dead", 2.0))
    await client.zadd("{ma}:dead", {"long-ago": 1})
    assert (await jobs.counts())["dead"] == 2
    assert await jobs.repair() == 0
    assert (await jobs.counts())["dead"] == 1


async def test_two_queues_may_share_a_server(client: Redis, jobs: Jobs) -> None:
    other = on(client, prefix="{other}")
    await jobs.accept(a_job("j1"), CursorMove(INBOX, 0, 1))
    assert await other.claim("turns", 0) is None
    assert await other.cursor(INBOX) is None
    assert await other.counts() == {"turns": 0, "delivery": 0, "later": 0, "dead": 0, "bounced": 0}


# Errors


@pytest.mark.parametrize(
    ("setting", "broken", "good"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
    ids=["OOM", "replicas"],
)
async def test_a_server_that_takes_no_writes_does_nothing_by_halves(
    client: Redis, jobs: Jobs, setting: str, broken: str, good: str
) -> None:
    await jobs.accept(a_job("j1"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    keys = {key async for key in client.scan_iter()}
    await client.config_set(setting, broken)
    try:
        for write in (
            jobs.accept(a_job("j2"), None),
            jobs.hand_over(claim, composed(claim.job)),
            jobs.finish(claim, claim.job),
            jobs.retry(claim, claim.job, 1),
            jobs.claim("turns", 1),
        ):
            with pytest.raises(TemporaryError):
                await write
        assert {key async for key in client.scan_iter()} == keys
    finally:
        await client.config_set(setting, good)
    await jobs.hand_over(claim, composed(claim.job))


async def test_a_replica_is_a_temporary_error(client: Redis, jobs: Jobs) -> None:
    await client.slaveof("127.0.0.1", 1)
    try:
        with pytest.raises(TemporaryError):
            await jobs.accept(a_job(), None)
    finally:
        await client.slaveof()


async def test_a_server_that_is_away_is_a_temporary_error(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError):
        await connect(f"unix://{tmp_path}/nowhere")


async def test_a_bug_is_not_a_temporary_error(client: Redis, jobs: Jobs) -> None:
    await client.set("{ma}:cursors", "not a hash")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await jobs.advance(CursorMove(INBOX, 0, 1))


# Connecting


async def test_all_that_must_change_is_said_at_once(client: Redis, redis_url: str) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru", "appendonly", "no")
    try:
        with pytest.raises(ConfigError) as caught:
            await connect(redis_url)
    finally:
        await client.config_set("maxmemory-policy", "noeviction", "appendonly", "yes")
    memory, log = caught.value.faults
    assert "maxmemory-policy noeviction" in memory
    assert "appendonly yes" in log


async def test_a_log_that_lags_is_only_a_warning(redis_url: str) -> None:
    client, warnings = await connect(redis_url)
    async with client:
        assert len(warnings) == 1
        assert "appendfsync always" in warnings[0]


async def test_a_server_that_does_not_tell_its_settings_is_taken_with_a_warning(client: Redis, redis_url: str) -> None:
    await client.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-config"])
    try:
        other, warnings = await connect(redis_url.replace("unix://", "unix://plain:x@"))
        async with other:
            assert "does not tell" in warnings[0]
    finally:
        await client.acl_deluser("plain")


async def test_a_wrong_password_and_a_wrong_url_are_faults_of_the_settings(client: Redis, redis_url: str) -> None:
    with pytest.raises(ConfigError, match="user or the password"):
        await connect(redis_url.replace("unix://", "unix://nobody:wrong@"))
    await client.config_set("requirepass", "secret")
    try:
        with pytest.raises(ConfigError, match="user or the password"):
            await connect(redis_url)
    finally:
        await client.config_set("requirepass", "")
    with pytest.raises(ConfigError, match="not valid"):
        await connect("http://example.org")
