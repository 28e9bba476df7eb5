"""Mails that wait in a Dovecot folder: fetched, parsed, screened and queued, beside the same mails parsed alone.

    python -m tests.bench.intake [MAILS]

Prints mails per second of both (parsing alone: the mean of before and after) and the ratio; the goal is at least 0.4.
Ends with an error when a mail is missing or was taken twice."""

import asyncio
import sys
import time

from mailagent.adapters.parser import ChildParser
from tests.bench.account import Account, account, delivered, request
from tests.unprivileged import go_on


async def parsing(parser: ChildParser, mails: list[bytes]) -> float:
    """Seconds that parsing alone takes."""
    started = time.perf_counter()
    for raw in mails:
        await parser.parse(raw)
    return time.perf_counter() - started


async def taking(at: Account) -> float:
    """Seconds until every mail in the folder is durably in the queue, the connection included."""
    started = time.perf_counter()
    await at.intake.take_new(await at.inbox.open())
    return time.perf_counter() - started


async def check(at: Account, ids: list[str]) -> None:
    """None missing, none twice."""
    jobs = [await at.parts.jobs.find(one) for one in ids]
    assert None not in jobs, f"{jobs.count(None)} of {len(ids)} mails are missing"
    assert len({job.id for job in jobs if job}) == len(ids), "a mail has the job of another"
    waiting = (await at.parts.jobs.counts())["turns"]
    assert waiting == len(ids), f"{waiting} jobs wait for {len(ids)} mails"
    before = await at.parts.jobs.counts()
    await at.intake.take_new(await at.inbox.open())
    assert await at.parts.jobs.counts() == before, "a second look took mails once more"


async def main(count: int) -> None:
    async with account() as at:
        mails = [request(number) for number in range(1, count + 1)]
        with at.box() as box:
            raw = [delivered(box, mail) for mail in mails]
        await at.parts.parser.parse(raw[0])  # the child is there before anybody's clock runs
        before = await parsing(at.parts.parser, raw)
        took = await taking(at)
        alone = (before + await parsing(at.parts.parser, raw)) / 2
        await check(at, [mail["Message-ID"] for mail in mails])
    print(f"parsing alone  {count / alone:7.0f} mails/s   ({count} mails of {len(raw[0])} bytes in {alone:.2f} s)")
    print(
        f"taken over     {count / took:7.0f} mails/s   (fetched, parsed, screened, on disk and in Redis, {took:.2f} s)"
    )
    print(f"ratio          {alone / took:7.2f}           (goal: at least 0.4)")


if __name__ == "__main__":
    go_on("-m", "tests.bench.intake", *sys.argv[1:])
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
