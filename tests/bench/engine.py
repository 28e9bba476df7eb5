"""The queue alone, with an agent that answers at once, beside plain XADD, XREADGROUP and XACK of the same payloads.

    python -m tests.bench.engine [MAILS] [PLACES]

Each of PLACES tasks carries MAILS / PLACES mails from accept over claim, save, hand_over and claim to finish, or from
XADD over XREADGROUP to XACK, on a private Redis that waits for the disk at each write; both by turns, in five rounds.
Then the same behind 100 and behind 100,000 waiting mails, one thread each, of 1,000 senders. Prints mails a second and
ratios; goals: at least 0.25 of the plain stream, and behind 100,000 within 20 % of behind 100."""

import asyncio
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.adapters.redis_server import PrivateRedis
from mailagent.core.job import Answered, Job, encode
from mailagent.core.values import BlobId, Usage
from tests.fakes.jobs import a_job, composed, sent
from tests.unprivileged import go_on

ROUNDS = 5
SENDERS = 1000
NUMBERS = itertools.count()
ANSWERED = Answered(BlobId("2" * 64), Usage("rules", 3, 100, 20, 0.01))


def new_job() -> Job:
    """One thread each, as most mail is."""
    number = next(NUMBERS)
    return a_job(f"job{number:013}", f"thread{number:010}", sender=f"sender{number % SENDERS}@example.org")


async def by_the_queue(jobs: RedisJobs) -> None:
    """One mail in, one mail out: whichever comes first in each lane."""
    assert await jobs.accept(new_job(), None) == "new"
    turn = await jobs.claim("turns", 60)
    assert turn
    answered = turn.job.at(ANSWERED, "answered", 1.5)
    await jobs.save(turn, answered)
    await jobs.hand_over(turn, composed(answered))
    delivery = await jobs.claim("delivery", 60)
    assert delivery
    await jobs.finish(delivery, sent(delivery.job))


async def by_a_stream(client: Redis) -> None:
    await client.xadd("plain", {"body": encode(new_job())})
    reply: Any = await client.xreadgroup("workers", "bench", {"plain": ">"}, count=1, block=60_000)
    ((_, ((entry, _),)),) = reply
    await client.xack("plain", "workers", entry)


async def rate(one: Callable[[], Awaitable[None]], mails: int, places: int) -> float:
    """Mails per second, so many at a time."""

    async def place() -> None:
        for _ in range(mails // places):
            await one()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(places):
            group.create_task(place())
    return mails / (time.perf_counter() - started)


async def behind(client: Redis, depth: int) -> RedisJobs:
    """A queue in which so many mails wait."""
    jobs = RedisJobs(client, owner="bench", lease_seconds=600.0, retention_seconds=600, prefix=f"{{behind-{depth}}}")

    async def one() -> None:
        await jobs.accept(new_job(), None)

    await rate(one, depth, 50)
    return jobs


async def settle(client: Redis) -> None:
    """Let the server write its log anew, so that it does not do so while we measure."""
    await client.bgrewriteaof()
    while (await client.info("persistence"))["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.1)


def said(name: str, rates: list[float]) -> float:
    """Print a line; returns the median."""
    middle = statistics.median(rates)
    print(f"{name:24} {middle:7.0f} mails/s   ({min(rates):.0f} to {max(rates):.0f})")
    return middle


async def measure(client: Redis, mails: int, places: int) -> None:
    jobs = RedisJobs(client, owner="bench", lease_seconds=600.0, retention_seconds=600)
    await client.xgroup_create("plain", "workers", mkstream=True)
    streams, queues = [], []
    for _ in range(ROUNDS):
        streams.append(await rate(lambda: by_a_stream(client), mails, places))
        queues.append(await rate(lambda: by_the_queue(jobs), mails, places))
    plain, ours = said("plain stream", streams), said("the queue", queues)
    print(f"{'ratio':24} {ours / plain:7.2f}           (goal: at least 0.25; {mails} mails, {places} at a time)")
    await client.config_set("appendfsync", "no")
    few, many = await behind(client, 100), await behind(client, 100_000)
    await client.config_set("appendfsync", "always")
    await settle(client)
    shallow, deep = [], []
    for _ in range(ROUNDS):
        shallow.append(await rate(lambda: by_the_queue(few), mails, places))
        deep.append(await rate(lambda: by_the_queue(many), mails, places))
    assert (await few.depth(), await many.depth()) == (100, 100_000)
    flat = said("behind 100,000 mails", deep) / said("behind 100 mails", shallow)
    print(f"{'ratio':24} {flat:7.2f}           (goal: at least 0.8)")


async def main(mails: int, places: int) -> None:
    place = Path(tempfile.mkdtemp(prefix="ma-", dir="/tmp"))
    server = PrivateRedis(place / "state", place / "run")
    try:
        await server.start()
        client, _ = await connect(server.url)
        async with client:
            await measure(client, mails, places)
    finally:
        await server.stop()
        shutil.rmtree(place)


if __name__ == "__main__":
    go_on("-m", "tests.bench.engine", *sys.argv[1:])
    given = [int(word) for word in sys.argv[1:3]]
    asyncio.run(main(*given, *(2000, 16)[len(given) :]))
