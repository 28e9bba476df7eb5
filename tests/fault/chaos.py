"""Three daemons on one store and one mailbox, and everything that can go wrong with them, at random: `make chaos`.

    python -m tests.fault.chaos [SEED [MINUTES]]

Daemons and their Redis are killed (-9), daemons stand still past their leases, connections are cut, half closed and
slowed down, mails are delivered again while they are being answered. The seed says what goes wrong and when;
without one ten seeds are run. MINUTES is how long each may take until all is answered. Prints what became of the
mails; exit code 1 when one promise is broken."""

import asyncio
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from mailagent.adapters.redis_server import PrivateRedis
from tests.fault import leftovers
from tests.fault.checker import Asked, Verdict
from tests.fault.failpoints import Plan, Script
from tests.fault.proxy import Proxy, relaying
from tests.fault.sink import Delivery, sinking
from tests.fault.world import DOMAIN, DOVECOT, Host, World, a_place, append, dial, host, load, settings_of, share
from tests.unprivileged import go_on

LEASE = 4.0
AGENT_SECONDS = 0.4
SEEDS = range(1, 11)
MINUTES = 5.0
AGAIN = 0.3
"""The share of the mails that is delivered twice."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to do: `storm` is for how many seconds things go wrong, while mail comes in."""

    threads: int = 60
    mails: int = 6
    storm: float = 40.0


class Store(PrivateRedis):
    """The Redis that all daemons share."""

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def kill(self) -> None:
        """kill -9."""
        if self._process:
            self._process.kill()


@dataclass
class Storm:
    """What goes wrong, when, and with whom."""

    dice: random.Random
    world: World
    store: Store
    proxies: Sequence[Sequence[Proxy]]
    """Of each host: to Redis, to the mailbox, to the mail server."""
    events: list[tuple[float, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    mending_store: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def blow(self, seconds: float) -> None:
        """Do one thing after the other; at the end everything is as it was."""
        kinds: dict[str, tuple[int, Callable[[], Coroutine[None, None, None]]]] = {
            "daemon killed": (4, self._kill),
            "daemon frozen": (2, self._freeze),
            "Redis killed": (1, self._kill_store),
            "connections cut": (4, self._cut),
            "connections half closed": (1, self._half_close),
            "cut within DATA": (1, self._cut_data),
            "slow": (1, self._slow),
        }
        names, weights = list(kinds), [weight for weight, _ in kinds.values()]
        until = time.monotonic() + seconds
        at_work: set[asyncio.Task[None]] = set()
        while time.monotonic() < until:
            await asyncio.sleep(self.dice.uniform(0.2, 1.5))
            name = self.dice.choices(names, weights)[0]
            self.events.append((time.time(), name))
            self.counts[name] += 1
            at_work.add(asyncio.create_task(kinds[name][1]()))
        await asyncio.gather(*at_work)
        for proxy in itertools.chain(*self.proxies):
            proxy.trap = None

    async def _kill(self) -> None:
        self._host().kill()

    async def _freeze(self) -> None:
        victim = self._host()
        victim.freeze()
        await asyncio.sleep(LEASE * self.dice.uniform(1.2, 2.0))
        victim.thaw()
        self.events.append((time.time(), "daemon thawed"))

    async def _kill_store(self) -> None:
        pause = self.dice.uniform(0.1, 1.5)
        async with self.mending_store:
            self.store.kill()
            await self.store.wait()
            await asyncio.sleep(pause)
            await self.store.start()
            self.world.known.add(self.store.pid)

    async def _cut(self) -> None:
        self._proxy().drop()

    async def _half_close(self) -> None:
        self._proxy().half_close()

    async def _cut_data(self) -> None:
        self.dice.choice(self.proxies)[2].cut_after(b"DATA", self.dice.randint(0, 60))

    async def _slow(self) -> None:
        proxy = self._proxy()
        proxy.delay = self.dice.uniform(0.05, 0.5)
        await asyncio.sleep(self.dice.uniform(1, 4))
        proxy.delay = 0.0

    def _host(self) -> Host:
        return self.dice.choice(self.world.hosts)

    def _proxy(self) -> Proxy:
        return self.dice.choice(self.dice.choice(self.proxies))


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one seed."""

    seed: int
    verdict: Verdict
    stuck: str
    dead: int
    unexplained: tuple[str, ...]
    explained: tuple[str, ...]
    leftovers: tuple[str, ...]
    again: int
    counts: Counter[str]
    seconds: float

    def good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.verdict.faults() or self.stuck or self.dead or self.unexplained or self.leftovers)


async def run(seed: int, size: Size, bound: float) -> Result:
    """One seed; all is to be answered within `bound` seconds."""
    began, dice = time.monotonic(), random.Random(seed)
    async with three_hosts(dice) as storm:
        world, stuck, again = storm.world, "", 0
        plan = schedule(dice, size)
        blowing = asyncio.create_task(storm.blow(size.storm))
        try:
            async with asyncio.timeout(bound):
                again = await deliver(world, plan, size.storm * 0.8)
                await blowing
                for each in world.hosts:
                    await each.up()
                await world.until(lambda: not world.verdict().lost, "unanswered mails", bound)
                await world.quiet(bound)
        except (TimeoutError, AssertionError) as error:
            blowing.cancel()
            stuck = str(error) or f"not all answered within {bound:.0f} s"
        verdict = world.verdict()
        told = [explain(pair, storm.events) for pair in verdict.repeats]
        return Result(
            seed,
            verdict,
            stuck,
            await world.ended_badly(),
            tuple(words for words, event in told if not event),
            tuple(f"{words}: {event}" for words, event in told if event),
            tuple(await world.leftovers()),
            again,
            storm.counts,
            time.monotonic() - began,
        )


def schedule(dice: random.Random, size: Size) -> list[Asked]:
    """The mails in the order of their delivery: threads mixed, each in its own order; some come again later."""
    order = [thread for thread in range(1, size.threads + 1) for _ in range(size.mails)]
    dice.shuffle(order)
    counts: Counter[int] = Counter()
    mails: list[Asked] = []
    for thread in order:
        counts[thread] += 1
        mails.append(Asked(thread, counts[thread], f"customer{thread}@{DOMAIN}"))
    for mail in dice.sample(mails, round(AGAIN * len(mails))):
        first = mails.index(mail)
        # Soon, while it is being answered, or at any time after that.
        mails.insert(dice.choice((first + 1, first + 5, dice.randint(first + 1, len(mails)))), mail)
    return mails


async def deliver(world: World, plan: Sequence[Asked], seconds: float) -> int:
    """Deliver the mails over so many seconds; returns how many came again."""
    steps = max(1, round(seconds / 0.2))
    for step in range(steps):
        batch = plan[len(plan) * step // steps : len(plan) * (step + 1) // steps]
        answers = {mail.name: Asked(mail.thread, mail.number - 1, "").message_id for mail in batch if mail.number > 1}
        await world.send(*batch, answers=answers)
        await asyncio.sleep(0.2)
    return len(plan) - len(world.asked)


def explain(pair: tuple[Delivery, Delivery], events: Sequence[tuple[float, str]]) -> tuple[str, str]:
    """A reply that was handed over twice: which one, and what went wrong between the two, or just before the first, so
    that it could not be known that it was taken; "" for nothing."""
    first, later = pair
    words = f"to {first.recipient} again after {later.at - first.at:.1f} s"
    guilty = [f"{name} {at - first.at:+.1f} s" for at, name in events if first.at - 2 * LEASE < at < later.at]
    return words, ", ".join(guilty)


@asynccontextmanager
async def three_hosts(dice: random.Random) -> AsyncIterator[Storm]:
    """Everything started: one mailbox, one store, one mail server, and three daemons, each behind its own relays."""
    from tests.integration.dovecot import _running  # not above: it brings pytest, which runs as another user at once

    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(a_place())
        sink = await stack.enter_async_context(sinking())
        stack.enter_context(leftovers.adopting())
        dovecot = stack.enter_context(_running(DOVECOT))
        # As the large providers do: what became of an uncertain reply can be seen there.
        sink.file = lambda data: asyncio.to_thread(append, dovecot.imap_port, [data], "Sent")
        store = Store(place / "store", place / "store")
        await store.start()
        stack.push_async_callback(store.stop)
        script = Script(place)
        script.write(Plan("chaos"))
        ways = [
            lambda: asyncio.open_unix_connection(place / "store/redis/redis.sock"),
            dial(dovecot.imap_port),
            dial(sink.port),
        ]
        proxies = [[await stack.enter_async_context(relaying(way)) for way in ways] for _ in range(3)]
        texts = [
            settings_of(
                place / str(number),
                lease=LEASE,
                imap_port=imap.port,
                smtp_port=smtp.port,
                more=f'[redis]\nurl = "redis://127.0.0.1:{redis.port}"\n',
            )
            for number, (redis, imap, smtp) in enumerate(proxies)
        ]
        hosts = [host(place / str(n), place, text, AGENT_SECONDS) for n, text in enumerate(texts)]
        share(place, [each.place for each in hosts])
        known = set(leftovers.children(os.getpid()))
        settings = load(settings_of(place, lease=LEASE, more=f'[redis]\nurl = "{store.url}"\n'))
        world = World(place, sink, dovecot.imap_port, script, hosts, settings, known, frozenset(leftovers.cgroups()))
        for each in hosts:
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in hosts))
        yield Storm(dice, world, store, proxies)


def show(results: Sequence[Result]) -> None:
    """The table, and what is to be said about single mails."""
    columns = ("seed", "mails", "again", "replies", "lost", "twice", "out of order", "stuck", "dead", "duplicates")
    table = Table(*columns, "unexplained", "left over", "s")
    for each in results:
        v = each.verdict
        numbers = (len(v.lost), len(v.twice), len(v.disorder), int(bool(each.stuck)), each.dead, len(v.repeats))
        last = (len(each.unexplained), len(each.leftovers), round(each.seconds))
        table.add_row(*map(str, (each.seed, v.mails, each.again, v.replies, *numbers, *last)))
    Console(width=140).print(table)
    for each in results:
        storm = ", ".join(f"{count} x {name}" for name, count in sorted(each.counts.items()))
        tell(f"seed {each.seed}: {storm}")
        for words in each.explained:
            tell(f"  duplicate {words}")
        wrong = [*each.verdict.faults(), *each.unexplained, *each.leftovers, *([each.stuck] if each.stuck else [])]
        for words in wrong:
            tell(f"  BROKEN {words}")


def tell(words: str) -> None:
    print(words, flush=True)


async def main(seeds: Sequence[int], minutes: float) -> int:
    """Run the seeds and print what became of them."""
    results = []
    for seed in seeds:
        results.append(await run(seed, Size(), minutes * 60))
        show(results[-1:])
    if len(results) > 1:
        show(results)
    mails = sum(each.verdict.mails for each in results)
    tell(f"{mails} mails, {sum(len(each.verdict.lost) for each in results)} lost")
    return 0 if all(each.good() for each in results) else 1


if __name__ == "__main__":
    go_on("-m", "tests.fault.chaos", *sys.argv[1:])
    chosen, minutes = (*sys.argv[1:], "", "")[:2]
    sys.exit(asyncio.run(main([int(chosen)] if chosen else SEEDS, float(minutes or MINUTES))))
