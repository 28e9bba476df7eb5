"""The promises of `ports.Jobs` hold in any order of arrivals, claims, writes, deaths and operators' commands."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.errors import LeaseLostError
from mailagent.core.job import PLACES, Composed, Dead, Held, Job, Merged, Received, Stamp, Waiting
from mailagent.core.values import JobId, Thread, ThreadId
from mailagent.ports import LANES, Claim, CursorMove, Jobs, Lane
from tests.fakes.jobs import INBOX, FakeJobs, a_job, composed, sent

T = TypeVar("T")
Place = tuple[Lane, ThreadId]
THREADS = [ThreadId("t1"), ThreadId("t2"), ThreadId("t3")]


class Time(Protocol):
    """Time that passes when we say so: leases and delays are an hour long otherwise."""

    async def lease_runs_out(self, place: Place) -> None: ...

    async def delay_ends(self, place: Place) -> None: ...


class RedisTime:
    def __init__(self, client: Redis) -> None:
        self.client = client

    async def lease_runs_out(self, place: Place) -> None:
        await self.client.zadd(f"{{ma}}:leases:{place[0]}", {place[1]: 0})

    async def delay_ends(self, place: Place) -> None:
        await self.client.zadd(f"{{ma}}:later:{place[0]}", {place[1]: 0})


class FakeTime:
    def __init__(self, jobs: FakeJobs) -> None:
        self.shelf = jobs.shelf

    async def lease_runs_out(self, place: Place) -> None:
        self.shelf.leases[place] = (self.shelf.leases[place][0], 0.0)

    async def delay_ends(self, place: Place) -> None:
        self.shelf.later[place] = 0.0


async def an_empty_redis(url: str) -> Redis:
    client, _ = await connect(url)
    await client.flushall()
    return client


async def lose_all_that_is_derived(client: Redis) -> None:
    kinds = ("due", "later", "leases", "tokens", "last", "bell", "index")
    await client.delete(*[f"{{ma}}:{kind}:{place}" for kind in kinds for place in PLACES.values()])


def on_redis(client: Redis) -> Jobs:
    return RedisJobs(client, owner="a", lease_seconds=3600.0, retention_seconds=60)


def picked(pick: int, things: Iterable[T]) -> T:
    things = list(things)
    return things[pick % len(things)]


class Histories(RuleBasedStateMachine):
    """Any history, beside a model that is a few dictionaries."""

    threads = st.sampled_from(THREADS)
    lanes = st.sampled_from(LANES)
    picks = st.integers(min_value=0, max_value=100)

    url: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client: Redis | None = None
        if self.url:
            self.client = self.run(an_empty_redis(self.url))
            self.jobs: Jobs = on_redis(self.client)
            self.time: Time = RedisTime(self.client)
        else:
            self.jobs = fake = FakeJobs(lease_seconds=3600.0)
            self.time = FakeTime(fake)
        self.stored: dict[JobId, Job] = {}
        self.lists: dict[Place, list[JobId]] = defaultdict(list)
        self.claims: dict[Place, Claim] = {}
        self.silent: set[Place] = set()
        """Claimed, and the lease ran out."""
        self.lost: list[Claim] = []
        self.delayed: set[Place] = set()
        self.overdue: set[Place] = set()
        """Delayed, and the delay is over: the next claim finds out."""
        self.turns: Counter[ThreadId] = Counter()
        self.cursor = 0

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    def teardown(self) -> None:
        self.all_is_looked_at()
        if self.client:
            self.run(self.client.aclose())
        self.runner.close()

    # Arrivals

    @rule(thread=threads)
    def arrives(self, thread: ThreadId) -> None:
        job = a_job(f"j{len(self.stored)}", thread)
        assert self.run(self.jobs.accept(job, None)) == "new"
        self.waits(job)

    @rule(into=st.lists(threads, min_size=1, max_size=4), moved=st.booleans())
    def arrive_together(self, into: list[ThreadId], moved: bool) -> None:
        jobs = [a_job(f"j{len(self.stored) + number}", thread) for number, thread in enumerate(into)]
        move = CursorMove(INBOX, self.cursor + moved, self.cursor + len(jobs))
        assert self.run(self.jobs.take_over(jobs, move)) == (None if moved else [job.id for job in jobs])
        if not moved:
            self.cursor = move.uid
            for job in jobs:
                self.waits(job)

    def waits(self, job: Job) -> None:
        self.stored[job.id] = job
        self.lists["turns", job.thread].append(job.id)

    @precondition(lambda self: self.stored)
    @rule(pick=picks)
    def arrives_again(self, pick: int) -> None:
        assert self.run(self.jobs.accept(picked(pick, self.stored.values()), None)) == "known"

    # Workers

    @rule(lane=lanes)
    def claimed(self, lane: Lane) -> None:
        over = {place for place in self.overdue if place[0] == lane}
        self.overdue -= over
        self.delayed -= over
        works = {place for place, jobs in self.lists.items() if place[0] == lane and jobs}
        silent = works & self.silent
        free = silent or works - {*self.claims, *self.delayed}
        claim = self.run(self.jobs.claim(lane, 0))
        assert (claim is None) == (not free)
        if claim:
            place = (claim.lane, claim.thread)
            assert place in free
            assert claim.job == self.stored[self.lists[place][0]]
            waiting = [self.stored[job] for job in self.lists[place][1:]]
            assert list(self.run(self.jobs.waiting(claim))) == waiting
            if place in self.silent:
                self.silent.remove(place)
                self.lost.append(self.claims[place])
            self.claims[place] = claim

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def saved(self, pick: int) -> None:
        claim = picked(pick, self.claims.values())
        self.stored[claim.job.id] = job = self.stored[claim.job.id].stamped(Stamp("saved", pick))
        self.run(self.jobs.save(claim, job))

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def renewed(self, pick: int) -> None:
        place = picked(pick, self.claims)
        self.run(self.jobs.renew(self.claims[place]))
        self.silent.discard(place)

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def falls_silent(self, pick: int) -> None:
        place = picked(pick, self.claims)
        self.run(self.time.lease_runs_out(place))
        self.silent.add(place)

    @precondition(lambda self: self.lost)
    @rule(pick=picks)
    def writes_too_late(self, pick: int) -> None:
        claim = picked(pick, self.lost)
        job = claim.job
        for write in (
            self.jobs.renew(claim),
            self.jobs.save(claim, job),
            self.jobs.hand_over(claim, composed(job)) if claim.lane == "turns" else self.jobs.renew(claim),
            self.jobs.finish(claim, job.at(Dead("no"), "dead", 1.0)),
            self.jobs.retry(claim, job, 1.0),
        ):
            with pytest.raises(LeaseLostError):
                self.run(write)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, delay=st.sampled_from([0, 3600]))
    def tried_later(self, pick: int, delay: int) -> None:
        claim = self.given_back(pick)
        self.stored[claim.job.id] = job = replace(self.stored[claim.job.id], attempts=pick)
        self.run(self.jobs.retry(claim, job, delay))
        if delay:
            self.delayed.add((claim.lane, claim.thread))

    @precondition(lambda self: self.delayed)
    @rule(pick=picks)
    def delay_ends(self, pick: int) -> None:
        place = picked(pick, sorted(self.delayed))
        self.run(self.time.delay_ends(place))
        self.overdue.add(place)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, merges=st.booleans())
    def done(self, pick: int, merges: bool) -> None:
        claim = self.given_back(pick)
        place, job = (claim.lane, claim.thread), self.stored[claim.job.id]
        if claim.lane == "delivery":
            self.ends(place, sent(job))
            self.run(self.jobs.finish(claim, self.stored[job.id]))
            return
        behind = self.lists[place][1:] if merges else []
        merged = [self.stored[each].at(Merged(job.id), "merged", 1.0) for each in behind]
        for each in (composed(job), *merged):
            self.ends(place, each)
        self.run(self.jobs.hand_over(claim, composed(job), merged))
        self.lists["delivery", claim.thread].append(job.id)
        self.turns[claim.thread] += 1

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def given_up(self, pick: int) -> None:
        claim = self.given_back(pick)
        self.ends((claim.lane, claim.thread), self.stored[claim.job.id].at(Dead("no"), "dead", 1.0))
        self.run(self.jobs.finish(claim, self.stored[claim.job.id]))

    def given_back(self, pick: int) -> Claim:
        place = picked(pick, self.claims)
        self.silent.discard(place)
        return self.claims.pop(place)

    def ends(self, place: Place, job: Job) -> None:
        self.stored[job.id] = job
        self.lists[place].remove(job.id)

    # Operators

    @precondition(lambda self: any(self.lists.values()))
    @rule(pick=picks)
    def taken_out(self, pick: int) -> None:
        place = picked(pick, [place for place, jobs in self.lists.items() if jobs])
        job = self.stored[picked(pick // 3, self.lists[place])]
        assert isinstance(job.stage, Waiting)
        after = job.at(Held("an operator said so", job.stage), "held", 1.0)
        assert self.run(self.jobs.change(job, after)) == (place not in self.claims)
        if place not in self.claims:
            if self.lists[place][0] == job.id:
                self.delayed.discard(place)
                self.overdue.discard(place)
            self.ends(place, after)

    @precondition(lambda self: any(isinstance(job.stage, Dead | Held) for job in self.stored.values()))
    @rule(pick=picks)
    def put_back(self, pick: int) -> None:
        job = picked(pick, [job for job in self.stored.values() if isinstance(job.stage, Dead | Held)])
        stage = job.stage.before if isinstance(job.stage, Held) else Received()
        after = job.at(stage, "put back", 1.0)
        assert self.run(self.jobs.change(job, after))
        self.stored[job.id] = after
        self.lists["delivery" if isinstance(stage, Composed) else "turns", job.thread].append(job.id)

    @precondition(lambda self: self.stored)
    @rule(pick=picks)
    def changed_meanwhile(self, pick: int) -> None:
        job = picked(pick, self.stored.values())
        assert not self.run(self.jobs.change(replace(job, attempts=-1), job.at(Dead("no"), "dead", 1.0)))

    # Losses

    @precondition(lambda self: self.client)
    @rule()
    def all_that_is_derived_is_lost(self) -> None:
        assert self.client
        self.run(lose_all_that_is_derived(self.client))
        self.run(on_redis(self.client).repair())
        self.lost += self.claims.values()
        for of_threads in (self.claims, self.silent, self.delayed, self.overdue):
            of_threads.clear()

    @invariant()
    def all_are_counted(self) -> None:
        waiting = Counter(PLACES[type(job.stage)] for job in self.stored.values())
        expected = {place: waiting[place] for place in PLACES.values() if place} | {"later": len(self.delayed)}
        assert self.run(self.jobs.counts()) == expected

    @rule()
    def all_is_looked_at(self) -> None:
        """Not an invariant, since it takes longer than all the rest."""
        assert self.run(self.jobs.check()) == []
        for job in self.stored.values():
            assert self.run(self.jobs.find(job.id)) == job
            thread = Thread(job.thread, job.sender, self.turns[job.thread])
            assert self.run(self.jobs.thread_of([job.message_id])) == thread
        for place in set(PLACES.values()) - {""}:
            listed = self.run(self.jobs.listed(place, 1000))
            expected = {job.id for job in self.stored.values() if PLACES[type(job.stage)] == place}
            assert {each.job.id for each in listed} == expected
            at_work = {self.lists[claimed][0] for claimed in self.claims if claimed[0] == place}
            assert {each.job.id for each in listed if each.at_work} == at_work
        heads = {self.lists[place][0] for place in self.delayed}
        assert {each.job.id for each in self.run(self.jobs.listed("later", 1000))} == heads
        assert self.run(self.jobs.depth()) == len(self.run(self.jobs.listed("turns", 1000)))


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_any_history_keeps_the_promises(store: str, request: pytest.FixtureRequest) -> None:
    class Here(Histories):
        url = request.getfixturevalue("redis_url") if store == "redis" else None

    run_state_machine_as_test(Here, settings=settings(max_examples=40, stateful_step_count=40))


SENDERS = [f"{name}@example.org" for name in "abcde"]
STEPS = st.lists(st.sampled_from([*SENDERS, *SENDERS, "", ""]), max_size=25)
"""A sender's mail in a thread of its own, or "" for a claim; a claimed thread is done at once."""


async def after(jobs: Jobs, steps: Sequence[str]) -> list[str]:
    """Whose threads are left, one entry for each."""
    left: list[str] = []
    for number, sender in enumerate(steps):
        if sender:
            await jobs.accept(a_job(f"j{number}", f"t{number}", sender=sender, message_id=""), None)
            left.append(sender)
        elif claim := await jobs.claim("turns", 0):
            await jobs.finish(claim, claim.job.at(Dead("no"), "dead", 1.0))
            left.remove(claim.job.sender)
    return left


async def claims_until(jobs: Jobs, sender: str) -> int:
    """How many others are handed out before a thread of this sender."""
    for others in range(1000):
        claim = await jobs.claim("turns", 0)
        assert claim
        await jobs.finish(claim, claim.job.at(Dead("no"), "dead", 1.0))
        if claim.job.sender == sender:
            return others
    raise AssertionError("never")


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("redis_url")) if request.param == "redis" else ""


@asynccontextmanager
async def a_queue(store: str) -> AsyncIterator[Jobs]:
    """An empty one."""
    if not store:
        yield FakeJobs(lease_seconds=3600.0)
        return
    async with await an_empty_redis(store) as client:
        yield on_redis(client)


def test_somebody_new_waits_for_one_thread_of_each_other_sender_at_most(store: str) -> None:
    async def here(steps: list[str]) -> None:
        async with a_queue(store) as jobs:
            left = await after(jobs, steps)
            await jobs.accept(a_job("new", "new", sender="new@example.org"), None)
            assert await claims_until(jobs, "new@example.org") <= len(set(left))

    for_all(here)


def test_those_who_come_later_hold_nobody_up_for_ever(store: str) -> None:
    """With a new sender before each claim, all that were there before are served all the same."""

    async def here(steps: list[str]) -> None:
        async with a_queue(store) as jobs:
            left = Counter(await after(jobs, steps))
            for number in range(1000):
                if not left.total():
                    return
                name = f"n{number}"
                await jobs.accept(a_job(name, name, sender=f"{name}@x.test", message_id=""), None)
                claim = await jobs.claim("turns", 0)
                assert claim
                left -= Counter([claim.job.sender])
            raise AssertionError(f"still waiting: {left}")

    for_all(here)


def for_all(here: Callable[[list[str]], Coroutine[Any, Any, None]]) -> None:
    @settings(max_examples=20)
    @given(STEPS)
    def each(steps: list[str]) -> None:
        asyncio.run(here(steps))

    each()


async def test_one_with_200_mails_holds_nobody_up(store: str) -> None:
    async with a_queue(store) as jobs:
        await after(jobs, ["many@example.org"] * 200)
        await jobs.accept(a_job("new", "new", sender="new@example.org"), None)
        assert await claims_until(jobs, "new@example.org") <= 1
