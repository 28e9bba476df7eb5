"""The queue after Redis lost something: a log torn at any byte, a replica that took over too early, a server that will
not do what it is told for a while."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.errors import LeaseLostError, TemporaryError
from mailagent.core.job import PLACES, Dead, Merged
from mailagent.core.values import JobId
from mailagent.ports import LANES, CursorMove
from tests.fakes.jobs import INBOX, a_job, composed, sent
from tests.listening import free_port

EVERY_BYTE = os.environ.get("AOF_CUTS") == "all"
"""Otherwise only some of the cuts are tried."""
TAIL = 4096


@dataclass
class Server:
    """A redis-server of its own, on a loopback port."""

    directory: Path
    port: int
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        (log,) = (self.directory / "appendonlydir").glob("*.incr.aof")
        return log


@asynccontextmanager
async def a_server(directory: Path, *settings: str, sentinel: Path | None = None) -> AsyncIterator[Server]:
    """One that keeps a log, or a sentinel with these settings."""
    directory.mkdir(exist_ok=True)
    port = free_port()
    kept = ("--save", "", "--appendonly", "yes", "--enable-debug-command", "yes", *settings)
    command = ["setpriv", "--pdeathsig", "KILL", "redis-server", *([str(sentinel), "--sentinel"] if sentinel else kept)]
    command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    server = Server(directory, port, process)
    try:
        retry = Retry(ConstantBackoff(0.01), 3000)
        async with Redis.from_url(server.url, retry=retry, retry_on_error=[ConnectionError]) as client:
            await client.ping()
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def on(client: Redis, owner: str = "a", lease: float = 3600.0) -> RedisJobs:
    return RedisJobs(client, owner=owner, lease_seconds=lease, retention_seconds=1000)


# A log torn by a crash


async def a_history(client: Redis, last: str) -> set[JobId]:
    """Every script, the `last` ones within the end that is cut; returns the jobs that ended."""
    jobs = on(client, "before")
    for number in range(8):
        for name in (f"j{number}", f"k{number}"):
            await jobs.accept(a_job(name, f"t{number}", sender=f"{number % 3}@example.org"), None)
    for _ in range(2):
        await handed_over(jobs, merging=False)
    for _ in range(2):
        claim = await jobs.claim("delivery", 0)
        assert claim
        await jobs.finish(claim, sent(claim.job))
    merged = await handed_over(jobs, merging=True)
    delayed, saved, at_work = [await jobs.claim("turns", 0) for _ in range(3)]
    assert delayed
    assert saved
    assert at_work
    await jobs.retry(delayed, replace(delayed.job, attempts=1), 3600)
    await jobs.save(saved, replace(saved.job, attempts=1))
    await jobs.retry(saved, saved.job, 0)
    dead = at_work.job.at(Dead("no"), "dead", 1.0)
    await jobs.finish(at_work, dead)
    assert await jobs.change(dead, at_work.job)
    out = a_job("j7", "t7", sender="1@example.org")
    assert await jobs.change(out, out.at(Dead("no"), "dead", 1.0))
    await jobs.accept(a_job("j8", "t8"), None)
    if last == "hand_over and finish":
        merged += await handed_over(jobs, merging=True)
        claim = await jobs.claim("delivery", 0)
        assert claim
        await jobs.finish(claim, sent(claim.job))
    assert await jobs.claim("turns", 0)
    return {*merged, dead.id, *[job for job in await every_job(client) if await ended(jobs, job)]}


async def handed_over(jobs: RedisJobs, *, merging: bool) -> list[JobId]:
    claim = await jobs.claim("turns", 0)
    assert claim
    behind = await jobs.waiting(claim) if merging else ()
    merged = [job.at(Merged(claim.job.id), "merged", 1.0) for job in behind]
    await jobs.hand_over(claim, composed(claim.job), merged)
    return [job.id for job in merged]


async def every_job(client: Redis) -> set[JobId]:
    return {JobId(str(key).removeprefix("{ma}:job:")) async for key in client.scan_iter(match="{ma}:job:*")}


async def ended(jobs: RedisJobs, name: JobId) -> bool:
    job = await jobs.find(name)
    assert job
    return PLACES[type(job.stage)] not in LANES


async def all_that_can_be_claimed(client: Redis, jobs: RedisJobs) -> set[JobId]:
    """Time passes: every lease runs out and every delay ends."""
    found = set()
    for lane in LANES:
        for times in ("leases", "later"):
            for thread in await client.zrange(f"{{ma}}:{times}:{lane}", 0, -1):
                await client.zadd(f"{{ma}}:{times}:{lane}", {str(thread): 0})
        while claim := await jobs.claim(lane, 0):
            found.add(claim.job.id)
            await jobs.finish(claim, claim.job.at(Dead("drained"), "dead", 1.0))
    return found


async def work_goes_on(client: Redis) -> None:
    jobs = on(client, "between")
    await jobs.accept(a_job("between-1", "t1"), None)
    await jobs.accept(a_job("between-2", "t-new"), None)
    if claim := await jobs.claim("turns", 0):
        await jobs.hand_over(claim, composed(claim.job))


async def survives(directory: Path, *, repaired: bool, had_ended: set[JobId]) -> None:
    """Two crashes, the first of which tore the log; work goes on between them, after the janitor or before it."""
    async with a_server(directory) as server, (await connect(server.url))[0] as client:
        kept = await every_job(client)
        if repaired:
            await on(client).repair()
            assert await on(client).check() == []
        await work_goes_on(client)
        await client.execute_command("DEBUG LOADAOF")  # type: ignore[no-untyped-call]
        jobs = on(client, "after")
        await jobs.repair()
        assert await jobs.check() == []
        names = await every_job(client)
        assert names >= {*kept, "between-1", "between-2"}
        waiting = {name for name in names if not await ended(jobs, name)}
        assert names - waiting <= had_ended
        assert await all_that_can_be_claimed(client, jobs) == waiting
        assert await jobs.check() == []


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("last", ["retry and change", "hand_over and finish"])
async def test_a_log_cut_at_any_byte_of_its_end_wedges_and_loses_nothing(short_path: Path, last: str) -> None:
    directory = short_path / "redis"
    async with a_server(directory) as server, (await connect(server.url))[0] as client:
        had_ended = await a_history(client, last)
        log, whole = server.log, server.log.read_bytes()
    assert len(whole) > 2 * TAIL
    # A step that is no round number, so that cuts meet scripts at different places.
    for cut in range(0, TAIL, 1 if EVERY_BYTE else 151):
        log.write_bytes(whole[: len(whole) - cut])
        await survives(directory, repaired=cut % 2 == 0, had_ended=had_ended)


# A replica that takes over without the last writes


class Mailbox:
    """Whoever reads it remembers where he was, as intake does, and starts over when the store says otherwise."""

    def __init__(self) -> None:
        self.uid = 0
        self.rewound = 0

    async def take(self, jobs: RedisJobs, newest: int) -> None:
        while self.uid < newest:
            uid = self.uid + 1
            answer = await jobs.accept(a_job(f"j{uid}", f"t{uid % 5}"), CursorMove(INBOX, self.uid, uid))
            self.rewound += answer == "rewound"
            self.uid = (await jobs.cursor(INBOX) or 0) if answer == "rewound" else uid


async def detached(replica: Redis, master: Redis) -> None:
    """The replica has all there is, and gets nothing more."""
    written = (await master.info("replication"))["master_repl_offset"]
    async with asyncio.timeout(30):
        while (await replica.info("replication"))["slave_repl_offset"] < written:
            await asyncio.sleep(0.01)
    await replica.replicaof("127.0.0.1", "1")


async def test_a_replica_that_takes_over_without_the_last_writes_loses_no_mail(short_path: Path) -> None:
    async with a_server(short_path / "one") as one, a_server(short_path / "two") as two:
        mailbox = Mailbox()
        async with Redis.from_url(two.url) as replica, (await connect(one.url))[0] as client:
            await replica.replicaof("127.0.0.1", str(one.port))
            async with asyncio.timeout(30):
                while (await replica.info("replication"))["master_link_status"] != "up":
                    await asyncio.sleep(0.01)
            jobs = on(client)
            await mailbox.take(jobs, 20)
            early = await jobs.claim("turns", 0)
            assert early
            await detached(replica, client)
            await mailbox.take(jobs, 40)
            await jobs.hand_over(early, composed(early.job))
            late = await jobs.claim("turns", 0)
            assert late
            with pytest.raises(TemporaryError, match="replica"):
                await on(replica).accept(a_job("j41"), None)
            one.process.kill()
            await one.process.wait()
            with pytest.raises(TemporaryError):
                await mailbox.take(jobs, 41)
            await replica.replicaof("NO", "ONE")
        async with (await connect(two.url))[0] as client:
            jobs = on(client)
            await mailbox.take(jobs, 60)
            assert mailbox.rewound == 1
            await jobs.repair()
            assert await jobs.check() == []
            assert await jobs.depth() == 60
            # Its lease was there when the link was cut: it goes on. The late one's was given after that.
            await jobs.hand_over(early, composed(early.job))
            with pytest.raises(LeaseLostError):
                await jobs.hand_over(late, composed(late.job))
            assert await all_that_can_be_claimed(client, jobs) == {f"j{uid}" for uid in range(1, 61)}


# A server that will not for a while


async def test_a_server_that_loads_its_data_is_a_temporary_error(short_path: Path) -> None:
    async with a_server(short_path / "redis") as server, (await connect(server.url))[0] as client:
        jobs = on(client)
        async with Redis.from_url(server.url, socket_timeout=60) as other:
            async with other.pipeline(transaction=False) as writes:
                for number in range(4000):
                    writes.set(f"key-{number}", "x")
                await writes.execute()
            await other.config_set("key-load-delay", 100)
            loading = asyncio.create_task(other.execute_command("DEBUG LOADAOF"))  # type: ignore[no-untyped-call]
            said = ""
            while not said and not loading.done():
                try:
                    await jobs.claim("turns", 0)
                except TemporaryError as error:
                    said = str(error)
            assert "loading" in said
            await loading
        assert await jobs.accept(a_job(), None) == "new"


async def test_a_server_that_cannot_save_is_a_temporary_error(short_path: Path) -> None:
    directory = short_path / "redis"
    async with a_server(directory) as server, (await connect(server.url))[0] as client:
        jobs = on(client)
        await client.config_set("save", "900 1")
        directory.chmod(0o500)
        try:
            await client.bgsave()
            async with asyncio.timeout(30):
                while (await client.info("persistence"))["rdb_last_bgsave_status"] == "ok":
                    await asyncio.sleep(0.01)
            with pytest.raises(TemporaryError, match="MISCONF"):
                await jobs.accept(a_job(), None)
        finally:
            directory.chmod(0o700)
            await client.config_set("save", "")
        assert await jobs.accept(a_job(), None) == "new"
