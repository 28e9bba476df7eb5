"""The promises of `ports.Jobs` hold in any order of arrivals, claims and writes."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.job import Job, Stamp
from mailagent.core.values import JobId, Thread, ThreadId
from mailagent.ports import Claim, Jobs, Lane
from tests.fakes.jobs import FakeJobs, a_job, composed, sent

T = TypeVar("T")


async def an_empty_redis(url: str) -> Redis:
    client, _ = await connect(url)
    await client.flushall()
    return client


async def lose_the_announcements(client: Redis) -> None:
    await client.delete("{ma}:ready:turns", "{ma}:ready:delivery")


def on_redis(client: Redis) -> Jobs:
    return RedisJobs(client, owner="a", lease_seconds=60.0, retention_seconds=60)


class Histories(RuleBasedStateMachine):
    """Any order of arrivals, claims and writes, beside a model that is three dictionaries."""

    threads = st.sampled_from(["t1", "t2", "t3"]).map(ThreadId)
    lanes = st.sampled_from(["turns", "delivery"])
    picks = st.integers(min_value=0)

    url: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = self.run(an_empty_redis(self.url)) if self.url else None
        self.jobs = on_redis(self.client) if self.client else FakeJobs(lease_seconds=60.0)
        self.stored: dict[JobId, Job] = {}
        self.lists: dict[tuple[str, ThreadId], list[JobId]] = defaultdict(list)
        self.claims: dict[tuple[str, ThreadId], Claim] = {}
        self.delayed: set[tuple[str, ThreadId]] = set()
        self.turns: Counter[ThreadId] = Counter()

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    def teardown(self) -> None:
        if self.client:
            self.run(self.client.aclose())
        self.runner.close()

    @rule(thread=threads)
    def arrives(self, thread: ThreadId) -> None:
        job = a_job(f"j{len(self.stored)}", thread)
        assert self.run(self.jobs.accept(job, None)) == "new"
        self.stored[job.id] = job
        self.lists["turns", thread].append(job.id)

    @precondition(lambda self: self.stored)
    @rule(pick=picks)
    def arrives_again(self, pick: int) -> None:
        job = self.stored[JobId(f"j{pick % len(self.stored)}")]
        assert self.run(self.jobs.accept(job, None)) == "known"

    @rule(lane=lanes)
    def claimed(self, lane: Lane) -> None:
        free = {place for place in self.lists if place[0] == lane and self.lists[place]} - {*self.claims, *self.delayed}
        claim = self.run(self.jobs.claim(lane, 0))
        assert (claim is None) == (not free)
        if claim:
            place = (claim.lane, claim.thread)
            assert place in free
            assert claim.job == self.stored[self.lists[place][0]]
            self.claims[place] = claim

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def saved(self, pick: int) -> None:
        claim = self.claims[sorted(self.claims)[pick % len(self.claims)]]
        self.stored[claim.job.id] = job = self.stored[claim.job.id].stamped(Stamp("saved", pick))
        self.run(self.jobs.save(claim, job))

    @precondition(lambda self: self.claims)
    @rule(pick=picks, delay=st.sampled_from([0, 3600]))
    def tried_later(self, pick: int, delay: int) -> None:
        claim = self.given_back(pick)
        self.stored[claim.job.id] = job = replace(self.stored[claim.job.id], attempts=pick)
        self.run(self.jobs.retry(claim, job, delay))
        if delay:
            self.delayed.add((claim.lane, claim.thread))

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def done(self, pick: int) -> None:
        claim = self.given_back(pick)
        job = self.stored[claim.job.id]
        self.lists[claim.lane, claim.thread].pop(0)
        if claim.lane == "turns":
            self.stored[job.id] = job = composed(job)
            self.run(self.jobs.hand_over(claim, job))
            self.lists["delivery", claim.thread].append(job.id)
            self.turns[claim.thread] += 1
        else:
            self.stored[job.id] = job = sent(job)
            self.run(self.jobs.finish(claim, job))

    def given_back(self, pick: int) -> Claim:
        return self.claims.pop(sorted(self.claims)[pick % len(self.claims)])

    @rule()
    def announcements_are_lost(self) -> None:
        if self.client:
            self.run(lose_the_announcements(self.client))
        self.run(self.jobs.repair())

    @invariant()
    def nothing_is_lost(self) -> None:
        counts = self.run(self.jobs.counts())
        for lane in ("turns", "delivery"):
            assert counts[lane] == sum(len(ids) for (of, _), ids in self.lists.items() if of == lane)
        for job in self.stored.values():
            assert self.run(self.jobs.find(job.id)) == job
            thread = Thread(job.thread, job.sender, self.turns[job.thread])
            assert self.run(self.jobs.thread_of([job.message_id])) == thread


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_any_history_keeps_the_promises(store: str, request: pytest.FixtureRequest) -> None:
    class Here(Histories):
        url = request.getfixturevalue("redis_url") if store == "redis" else None

    run_state_machine_as_test(Here, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))
