"""What the job queue promises of Redis alone: it survives losses, forgets in time, and names what is wrong."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.errors import ConfigError, LeaseLostError, PermanentError, TemporaryError
from mailagent.core.job import Dead
from mailagent.core.values import ThreadId
from mailagent.ports import Claim, CursorMove, Jobs
from tests.fakes.jobs import INBOX, a_job, composed, sent

DUE = "{ma}:due:turns"


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
    of_threads = re.compile(r"{ma}:(job|mid|thread|names|participants):")
    return {await client.ttl(key) async for key in client.scan_iter() if of_threads.match(key)}


async def lose_all_that_is_derived(client: Redis) -> None:
    """What a torn log can break, and more."""
    for kind in ("due", "later", "leases", "tokens", "last", "bell", "index"):
        async for key in client.scan_iter(match=f"{{ma}}:{kind}:*"):
            await client.delete(key)


async def test_a_folder_that_was_watched_before_this_was_noted_is_ours_as_long_as_jobs_are_kept(
    client: Redis, jobs: Jobs
) -> None:
    await client.hset("{ma}:cursors", json.dumps([INBOX.account, INBOX.folder, 6]), "12")
    assert await jobs.since(INBOX, 5000.0) == 4000.0


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


async def test_the_janitor_makes_again_all_that_is_derived(client: Redis, jobs: Jobs) -> None:
    for name in ("j1", "j2", "j3", "j4"):
        await jobs.accept(a_job(name, f"t{name}"), None)
    dead, handed_over, at_work = [await jobs.claim("turns", 0) for _ in range(3)]
    assert dead
    assert handed_over
    assert at_work
    await jobs.finish(dead, dead.job.at(Dead("no"), "dead", 2.0))
    await jobs.hand_over(handed_over, composed(handed_over.job))
    before = await jobs.counts()
    await lose_all_that_is_derived(client)
    assert await jobs.claim("turns", 0) is None
    assert sorted(await jobs.check()) == [
        "job j1 is in dead but not in its index",
        "job j2 is in delivery but not in its index",
        "job j3 is in turns but not in its index",
        "job j4 is in turns but not in its index",
        "thread tj2 has work in delivery but is neither due nor delayed nor leased",
        "thread tj3 has work in turns but is neither due nor delayed nor leased",
        "thread tj4 has work in turns but is neither due nor delayed nor leased",
    ]
    assert await jobs.repair() == 7
    assert await jobs.check() == []
    assert await jobs.counts() == before
    with pytest.raises(LeaseLostError):
        await jobs.save(at_work, at_work.job)
    assert set(await done(jobs)) == {"j3", "j4"}
    assert await jobs.claim("delivery", 0)


async def test_a_worker_goes_on_when_only_its_lease_was_lost(client: Redis, jobs: Jobs) -> None:
    """Who shows the token may write, until another takes the thread; his next heartbeat makes the lease again."""
    await jobs.accept(a_job("j1"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    await client.delete("{ma}:leases:turns")
    assert await jobs.repair() == 1
    await jobs.renew(claim)
    assert await on(client, "b").claim("turns", 0) is None
    await jobs.hand_over(claim, composed(claim.job))
    assert await jobs.check() == []


async def test_a_thread_that_is_due_without_work_is_passed_over(client: Redis, jobs: Jobs) -> None:
    await client.zadd(DUE, {"unknown": -1})
    await client.zadd("{ma}:leases:turns", {"also-unknown": 1})
    await jobs.accept(a_job("j1"), None)
    assert await done(jobs) == ["j1"]
    assert not await client.exists(DUE, "{ma}:leases:turns")


async def test_a_thread_that_is_due_too_early_waits(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    await jobs.accept(a_job("j2"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    await client.zadd(DUE, {"t1": 1})
    assert await on(client, "b").claim("turns", 0) is None
    await jobs.retry(claim, claim.job, 3600)
    await client.zadd(DUE, {"t1": 1})
    assert await jobs.claim("turns", 0) is None


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
    for lane in ("turns", "delivery"):
        await client.zadd(f"{{ma}}:due:{lane}", {"t1": 1})
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


async def test_a_job_that_a_torn_log_left_twice_in_its_list_is_not_merged_with_itself(
    client: Redis, jobs: Jobs
) -> None:
    """Its first entry survived without its record, so it was fetched and stored again."""
    await client.rpush("{ma}:turns:t1", "j1")
    await jobs.accept(a_job("j1"), None)
    await jobs.accept(a_job("j2"), None)
    await jobs.repair()
    await client.rpush("{ma}:turns:t1", "j1", "never-stored")
    claim = await jobs.claim("turns", 0)
    assert claim
    assert [job.id for job in await jobs.waiting(claim)] == ["j2"]
    await jobs.hand_over(claim, composed(claim.job))
    assert await done(jobs) == ["j2"]


# The look at everything


FINDINGS = {
    "no record": (
        ("rpush", "{ma}:turns:t1", "j9"),
        ["job j9 stands in turns of thread t1 but has no record"],
    ),
    "in two lanes": (
        ("rpush", "{ma}:delivery:t1", "j1"),
        [
            "job j1 stands in delivery of thread t1 but is in turns of thread t1",
            "thread t1 has work in delivery but is neither due nor delayed nor leased",
        ],
    ),
    "in another thread": (
        ("rpush", "{ma}:turns:t1", "j2"),
        ["job j2 stands in turns of thread t1 but is in turns of thread t2"],
    ),
    "twice": (("rpush", "{ma}:turns:t1", "j1"), ["job j1 stands twice in turns of thread t1"]),
    "ended": (
        ("hset", "{ma}:job:j1", "place", ""),
        [
            "job j1 stands in turns of thread t1 but is in no place of thread t1",
            "job j1 is in the index of turns but its record is not",
        ],
    ),
    "in no list": (
        ("lrem", "{ma}:turns:t1", 0, "j3"),
        ["job j3 is in turns but not in the list of thread t1"],
    ),
    "in no index": (("zrem", "{ma}:index:turns", "j1"), ["job j1 is in turns but not in its index"]),
    "stuck": (
        ("zrem", "{ma}:due:turns", "t2"),
        ["thread t2 has work in turns but is neither due nor delayed nor leased"],
    ),
    "leased without work": (
        ("zadd", "{ma}:leases:delivery", "5", "t1"),
        ["thread t1 is in leases of delivery but has no work there"],
    ),
    "held without work": (
        ("hset", "{ma}:tokens:delivery", "t1", "x"),
        ["thread t1 is held in delivery but has no work there"],
    ),
    "indexed without record": (
        ("zadd", "{ma}:index:dead", "99999999999999", "j9"),
        ["job j9 is in the index of dead but its record is not"],
    ),
}


@pytest.mark.parametrize(("harm", "words"), FINDINGS.values(), ids=FINDINGS)
async def test_what_does_not_agree_is_found_and_mended(
    client: Redis, jobs: Jobs, harm: tuple[str, ...], words: list[str]
) -> None:
    for name, thread in (("j1", "t1"), ("j2", "t2"), ("j3", "t1")):
        await jobs.accept(a_job(name, thread), None)
    assert await jobs.check() == []
    await client.execute_command(*harm)  # type: ignore[no-untyped-call]
    before = {key: await client.dump(key) async for key in client.scan_iter()}
    assert await jobs.check() == words
    assert {key: await client.dump(key) async for key in client.scan_iter()} == before
    assert await jobs.repair() >= 1
    assert await jobs.check() == []


async def test_a_look_at_many_things_disturbs_nobody(client: Redis, jobs: Jobs) -> None:
    """Each script looks at some; what moves meanwhile is no finding."""
    for number in range(1200):
        await jobs.accept(a_job(f"j{number}", f"t{number % 700}", message_id=""), None)
    looking = asyncio.create_task(on(client, "look").check())
    while not looking.done():
        if claim := await jobs.claim("turns", 0):
            await jobs.hand_over(claim, composed(claim.job))
    assert await looking == []


async def test_the_janitor_looks_at_all_only_when_the_server_is_another_one(
    client: Redis, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await jobs.repair() == 0
    await jobs.accept(a_job("j1"), None)
    await client.delete(DUE)
    assert await jobs.repair() == 0
    monkeypatch.setattr("mailagent.adapters.redis._LOOK_SECONDS", 0.0)
    assert await jobs.repair() == 1


# Waiting


async def blocked(client: Redis, claim: "asyncio.Task[Claim | None]") -> None:
    """Until Redis has this claim wait."""
    async with asyncio.timeout(20):
        while not (await client.info("clients"))["blocked_clients"]:
            assert not claim.done()
            await asyncio.sleep(0.01)


async def test_the_bell_wakes_who_waits(client: Redis, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unheard, a claim would wait longer here than any answer of the server may take."""
    monkeypatch.setattr("mailagent.adapters.redis._PATIENCE", 60.0)
    waiting = asyncio.create_task(jobs.claim("turns", 60.0))
    await blocked(client, waiting)
    await jobs.accept(a_job("j1"), None)
    claim = await waiting
    assert claim
    again = asyncio.create_task(on(client, "b").claim("turns", 60.0))
    await blocked(client, again)
    await jobs.retry(claim, claim.job, 0.2)
    assert await again


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
    assert await ttls(client) == {1000}
    assert await client.persist("{ma}:job:j1")


async def test_an_expired_thread_is_unknown(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    await done(jobs)
    await client.delete("{ma}:thread:t1")
    assert await jobs.thread_of(["<j1@customer.test>"]) is None
    assert await jobs.thread(ThreadId("t1")) is None


async def test_endings_are_no_longer_listed_when_their_jobs_expired(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    await jobs.finish(claim, claim.job.at(Dead("no"), "dead", 2.0))
    await client.zadd("{ma}:index:dead", {"long-ago": 1})
    assert [listed.job.id for listed in await jobs.listed("dead", 10)] == ["j1"]
    assert await jobs.check() == []
    assert await jobs.repair() == 0
    assert (await jobs.counts())["dead"] == 1


async def test_what_is_put_back_is_kept_again(client: Redis, jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    claim = await jobs.claim("turns", 0)
    assert claim
    dead = claim.job.at(Dead("no"), "dead", 2.0)
    await jobs.finish(claim, dead)
    assert await ttls(client) == {1000}
    assert await jobs.change(dead, claim.job)
    assert await ttls(client) == {-1}
    assert await jobs.change(claim.job, dead)
    assert await ttls(client) == {1000}


async def test_how_senders_take_turns_is_forgotten_with_their_work(client: Redis, jobs: Jobs) -> None:
    for number in range(50):
        await jobs.accept(a_job(f"j{number}", f"t{number}", sender=f"{number % 10}@example.org"), None)
    assert await client.zcard("{ma}:last:turns") == 10
    assert len(await done(jobs)) == 50
    await jobs.accept(a_job("j50", "t50", sender="new@example.org"), None)
    assert await client.zrange("{ma}:last:turns", 0, -1) == ["new@example.org"]


async def test_two_queues_may_share_a_server(client: Redis, jobs: Jobs) -> None:
    other = on(client, prefix="{other}")
    await jobs.accept(a_job("j1"), CursorMove(INBOX, 0, 1))
    assert await other.claim("turns", 0) is None
    assert await other.cursor(INBOX) is None
    assert not any((await other.counts()).values())


# Errors


async def test_a_record_of_another_version_waits_for_it_and_keeps_nobody_else(
    client: Redis, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    for job in (a_job("j1"), a_job("j2"), a_job("j3"), a_job("other", "t2")):
        await jobs.accept(job, None)
    ours = {name: str(await client.hget(f"{{ma}}:job:{name}", "body")) for name in ("j1", "j3")}
    for name in ours:
        await client.hset(f"{{ma}}:job:{name}", "body", json.dumps({"a": "word of tomorrow"}))
    claim = await jobs.claim("turns", 0)
    assert claim
    assert claim.job.id == "other"
    assert "job j1: put off for an hour" in caplog.text
    assert [each.job.id for each in await jobs.listed("turns", 10)] == ["j2", "other"]
    assert caplog.text.count("not listed") == 2
    with pytest.raises(PermanentError, match="cannot read"):
        await jobs.find("j1")
    assert await jobs.check() == []

    await client.hset("{ma}:job:j1", "body", ours["j1"])
    await client.zadd("{ma}:later:turns", {"t1": 1})
    claim = await jobs.claim("turns", 0)
    assert claim
    assert claim.job.id == "j1"
    assert [job.id for job in await jobs.waiting(claim)] == ["j2"]  # and not j3, which cannot be read yet


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
            jobs.finish(claim, claim.job.at(Dead("no"), "dead", 2.0)),
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
        await jobs.begin(INBOX, 1, 1.0)


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


async def test_one_redis_serves_one_store_of_blobs(client: Redis) -> None:
    for _ in range(2):
        await RedisJobs(client, owner="a", lease_seconds=1, retention_seconds=1).belong_to("one store")
    with pytest.raises(ConfigError, match=r"storage\.blobs"):
        await RedisJobs(client, owner="b", lease_seconds=1, retention_seconds=1).belong_to("another")


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
