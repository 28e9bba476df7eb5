"""What `ports.Jobs` promises, asked of the fake and of Redis."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from mailagent.adapters.redis import RedisJobs, connect
from mailagent.core.errors import LeaseLostError
from mailagent.core.job import PLACES, Bounced, Composed, Dead, Job, Merged, Received, Sending
from mailagent.core.values import Mailbox, Thread, ThreadId
from mailagent.ports import Claim, CursorMove, Jobs, Lane, Listed
from tests.fakes.jobs import INBOX, FakeJobs, Shelf, a_job, composed, sent

Hire = Callable[..., Jobs]
"""A worker of this name, with leases of this many seconds; all share the work."""


@pytest.fixture(params=["memory", "redis"])
async def hire(request: pytest.FixtureRequest) -> AsyncIterator[Hire]:
    if request.param == "memory":
        shelf = Shelf()
        yield lambda owner="a", lease=30.0: FakeJobs(
            owner=owner, lease_seconds=lease, retention_seconds=60, shelf=shelf
        )
        return
    client, _ = await connect(request.getfixturevalue("redis_url"))
    async with client:
        yield lambda owner="a", lease=30.0: on_redis(client, owner, lease)


def on_redis(client: Redis, owner: str, lease: float) -> RedisJobs:
    return RedisJobs(client, owner=owner, lease_seconds=lease, retention_seconds=60)


@pytest.fixture
def jobs(hire: Hire) -> Jobs:
    return hire()


def counts(**some: int) -> dict[str, int]:
    """These, and nothing anywhere else."""
    places = sorted({*PLACES.values(), "later"} - {""})
    return {place: some.get(place, 0) for place in places}


async def claimed(jobs: Jobs, lane: Lane = "turns") -> Claim:
    claim = await jobs.claim(lane, 20.0)
    assert claim is not None
    return claim


# The cursor


async def test_a_mailbox_never_seen_has_no_cursor_and_starts_at_0(jobs: Jobs) -> None:
    assert await jobs.cursor(INBOX) is None
    assert await jobs.begin(INBOX, 0, 1.0) == 0
    assert await jobs.cursor(INBOX) == 0
    assert await jobs.begin(INBOX, 5, 1.0) == 0, "another was quicker"


async def test_the_cursor_moves_only_from_where_it_was_seen(jobs: Jobs) -> None:
    assert await jobs.take_over([], CursorMove(INBOX, 0, 12)) == []
    assert await jobs.take_over([], CursorMove(INBOX, 0, 13)) is None
    assert await jobs.take_over([], CursorMove(INBOX, 13, 14)) is None
    assert await jobs.cursor(INBOX) == 12


@pytest.mark.parametrize(
    "other",
    [replace(INBOX, uidvalidity=8), replace(INBOX, folder="INBOX, 7"), replace(INBOX, account="INBOX", folder="x")],
)
async def test_each_mailbox_has_its_own_cursor(jobs: Jobs, other: Mailbox) -> None:
    await jobs.begin(INBOX, 12, 1.0)
    assert await jobs.cursor(other) is None


async def test_since_when_a_folder_s_mail_is_ours_outlives_its_numbers(jobs: Jobs) -> None:
    assert await jobs.since(INBOX, 1000.5) is None
    await jobs.begin(INBOX, 12, 1000.5)
    after = replace(INBOX, uidvalidity=8)
    assert await jobs.since(after, 1010.0) == 1000.5
    await jobs.begin(after, 3, 1010.0)
    assert await jobs.since(INBOX, 1010.0) == 1000.5
    assert await jobs.since(replace(INBOX, folder="x"), 1010.0) is None
    assert await jobs.since(after, 2000.0) == 1940.0, "no longer than jobs are remembered"


# Taking over


async def test_accepting_a_job_stores_it_opens_its_thread_and_moves_the_cursor(jobs: Jobs) -> None:
    job = a_job()
    assert await jobs.accept(job, CursorMove(INBOX, 0, 5)) == "new"
    assert await jobs.find(job.id) == job
    assert await jobs.find(job.message_id) == job
    assert await jobs.thread(job.thread) == Thread(job.thread, job.sender, 0)
    assert await jobs.cursor(INBOX) == 5
    assert (await claimed(jobs)).job == job


async def test_without_a_mailbox_no_cursor_moves(jobs: Jobs) -> None:
    assert await jobs.accept(a_job(), None) == "new"
    assert await jobs.cursor(INBOX) is None


async def test_a_job_met_again_is_known_and_the_cursor_moves_all_the_same(jobs: Jobs) -> None:
    await jobs.accept(a_job(), CursorMove(INBOX, 0, 5))
    claim = await claimed(jobs)
    later = a_job(stage=Received("changed"))
    assert await jobs.accept(later, CursorMove(INBOX, 5, 6)) == "known"
    assert await jobs.cursor(INBOX) == 6
    assert await jobs.find(later.id) == a_job()
    await jobs.finish(claim, sent(composed(a_job())))
    assert await jobs.accept(later, CursorMove(INBOX, 6, 7)) == "known"
    assert await jobs.claim("turns", 0) is None


async def test_taking_over_says_which_jobs_are_new(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    taken = await jobs.take_over([a_job("j2"), a_job("j1"), a_job("j3"), a_job("j2")], CursorMove(INBOX, 0, 5))
    assert taken == ["j2", "j3"]


async def test_a_cursor_that_stands_elsewhere_stores_nothing(jobs: Jobs) -> None:
    await jobs.begin(INBOX, 3, 1.0)
    job = a_job()
    assert await jobs.accept(job, CursorMove(INBOX, 4, 5)) == "rewound"
    assert await jobs.cursor(INBOX) == 3
    assert await jobs.find(job.id) is None
    assert await jobs.thread(job.thread) is None
    assert await jobs.claim("turns", 0) is None


# Threads


async def test_a_thread_is_found_by_what_was_received_and_by_what_was_sent(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1", "t1"), None)
    await jobs.accept(a_job("j2", "t2", sender="other@example.org"), None)
    claim = await claimed(jobs)
    await jobs.hand_over(claim, composed(claim.job))
    first, second = Thread(ThreadId("t1"), "customer@example.org", 1), Thread(ThreadId("t2"), "other@example.org", 0)
    assert await jobs.thread_of(["<j1@customer.test>"]) == first
    assert await jobs.thread_of(["<reply-j1@example.org>"]) == first
    assert await jobs.thread_of(["<x@y.test>", "<j2@customer.test>", "<j1@customer.test>"]) == second
    assert await jobs.thread_of(["<x@y.test>"]) is None
    assert await jobs.thread_of([]) is None
    assert await jobs.thread(ThreadId("t3")) is None


async def test_a_message_id_stays_with_the_thread_that_had_it_first(jobs: Jobs) -> None:
    """A Message-ID is the sender's choice: a copy of another's must not draw his replies into a stranger's thread."""
    await jobs.accept(a_job("j1", "t1"), None)
    await jobs.accept(a_job("j2", "t2", sender="stranger@example.net", message_id="<j1@customer.test>"), None)
    found = await jobs.thread_of(["<j1@customer.test>"])
    assert found
    assert found.id == "t1"
    assert await jobs.find("<j1@customer.test>") == a_job("j1", "t1")


async def test_a_message_without_id_belongs_to_no_thread(jobs: Jobs) -> None:
    await jobs.accept(a_job(message_id=""), None)
    assert await jobs.thread_of([""]) is None


async def test_a_message_id_may_be_anything(jobs: Jobs) -> None:
    strange = "<" + "ä\udcff \r\n*:{}" * 500 + ">"
    await jobs.accept(a_job(message_id=""), None)
    claim = await claimed(jobs)
    assert await jobs.thread_of([strange]) is None
    assert await jobs.find(strange) is None
    await jobs.retry(claim, claim.job, 0)
    assert await jobs.accept(a_job("j2", message_id="<" + "ä *:{}" * 500 + ">"), None) == "new"
    assert await jobs.thread_of(["<" + "ä *:{}" * 500 + ">"])


async def test_the_first_sender_owns_the_thread(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    await jobs.accept(a_job("j2", sender="other@example.org"), None)
    assert await jobs.thread(ThreadId("t1")) == Thread(ThreadId("t1"), "customer@example.org", 0)


# Leases


async def test_nothing_to_do_is_none(jobs: Jobs) -> None:
    assert await jobs.claim("turns", 0) is None
    assert await jobs.claim("delivery", 0.05) is None


async def test_a_waiting_claim_gets_what_comes(jobs: Jobs) -> None:
    waiting = asyncio.create_task(jobs.claim("turns", 20.0))
    await jobs.accept(a_job(), None)
    claim = await waiting
    assert claim
    assert claim.job == a_job()
    assert claim.lane == "turns"
    assert claim.thread == "t1"


async def test_threads_go_in_parallel_and_jobs_of_a_thread_in_order(hire: Hire) -> None:
    jobs, other = hire("a"), hire("b")
    for name, thread in (("j1", "t1"), ("j2", "t1"), ("j3", "t2")):
        await jobs.accept(a_job(name, thread), None)
    first, second = await claimed(jobs), await claimed(other)
    assert {first.job.id, second.job.id} == {"j1", "j3"}
    assert await jobs.claim("turns", 0) is None
    of_t1 = first if first.thread == "t1" else second
    await jobs.hand_over(of_t1, composed(of_t1.job))
    assert (await claimed(other)).job.id == "j2"


async def test_what_is_saved_is_what_the_next_worker_finds(hire: Hire) -> None:
    jobs = hire("a")
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    job = composed(claim.job)
    await jobs.save(claim, job)
    assert await jobs.find(job.id) == job
    assert await jobs.claim("turns", 0) is None
    await jobs.retry(claim, job, 0)
    assert (await claimed(hire("b"))).job == job


async def test_a_silent_worker_loses_its_lease_and_can_write_no_more(hire: Hire) -> None:
    slow, quick = hire("slow", 0.2), hire("quick", 2.0)
    await slow.accept(a_job(), None)
    lost = await claimed(slow)
    claim = await claimed(quick)
    await quick.renew(claim)
    assert claim.job == lost.job
    assert claim.token != lost.token
    job = composed(lost.job)
    for write in (
        slow.renew(lost),
        slow.save(lost, job),
        slow.hand_over(lost, job),
        slow.finish(lost, sent(job)),
        slow.retry(lost, job, 0),
    ):
        with pytest.raises(LeaseLostError):
            await write
    assert await quick.find(job.id) == a_job()
    assert await quick.counts() == counts(turns=1)
    await quick.hand_over(claim, job)
    assert (await claimed(quick, "delivery")).job == job


async def test_a_lease_that_ran_out_is_left_to_whoever_is_still_at_work(hire: Hire) -> None:
    """As after an outage of the store: another place of the same daemon would take the work away from it."""
    ours, other = hire("ours", 0.2), hire("other", 2.0)
    await ours.accept(a_job(), None)
    claim = await claimed(ours)
    assert await ours.claim("turns", 0.6, [claim.thread]) is None
    await ours.renew(claim)
    assert await other.claim("turns", 0) is None
    assert (await claimed(other)).thread == claim.thread
    with pytest.raises(LeaseLostError):
        await ours.renew(claim)


async def test_a_lease_that_was_given_back_is_lost(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    await jobs.finish(claim, sent(composed(claim.job)))
    with pytest.raises(LeaseLostError):
        await jobs.save(claim, claim.job)


async def test_a_renewed_lease_is_kept(hire: Hire) -> None:
    slow, other = hire("slow", 0.8), hire("other", 0.8)
    await slow.accept(a_job(), None)
    claim = await claimed(slow)
    rival = asyncio.create_task(other.claim("turns", 1.7))
    while not rival.done():
        await slow.renew(claim)
        await asyncio.wait([rival], timeout=0.05)
    assert rival.result() is None
    await slow.save(claim, claim.job)


# The ways out


async def test_handing_over_moves_the_job_to_delivery_and_counts_the_turn(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    job = composed(claim.job)
    await jobs.hand_over(claim, job)
    assert await jobs.counts() == counts(delivery=1)
    assert await jobs.claim("turns", 0) is None
    thread = await jobs.thread(job.thread)
    assert thread
    assert thread.turns == 1
    for key in (job.id, job.message_id, "<reply-j1@example.org>"):
        assert await jobs.find(key) == job
    delivery = await claimed(jobs, "delivery")
    assert (delivery.job, delivery.lane) == (job, "delivery")


async def test_the_next_turn_does_not_wait_for_the_delivery(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    await jobs.accept(a_job("j2"), None)
    claim = await claimed(jobs)
    await jobs.hand_over(claim, composed(claim.job))
    delivery, turn = await claimed(jobs, "delivery"), await claimed(jobs)
    assert (delivery.job.id, turn.job.id) == ("j1", "j2")
    await jobs.hand_over(turn, composed(turn.job))
    assert await jobs.claim("delivery", 0) is None
    await jobs.finish(delivery, sent(delivery.job))
    assert (await claimed(jobs, "delivery")).job.id == "j2"


async def test_only_a_composed_job_is_handed_over(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    with pytest.raises(TypeError):
        await jobs.hand_over(claim, claim.job)


async def test_a_finished_job_is_kept_but_waits_no_more(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    job = claim.job.at(Dead("the attachment is broken"), "dead", 2.0)
    await jobs.finish(claim, job)
    assert await jobs.find("<j1@customer.test>") == job
    assert await jobs.counts() == counts(dead=1)
    assert await jobs.claim("turns", 0) is None


async def test_a_delayed_job_and_those_behind_it_wait(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    claim = await claimed(jobs)
    await jobs.retry(claim, replace(claim.job, attempts=1), 3600.0)
    await jobs.accept(a_job("j2"), None)
    assert await jobs.claim("turns", 0) is None
    assert await jobs.counts() == counts(turns=2, later=1)
    with pytest.raises(LeaseLostError):
        await jobs.renew(claim)


async def test_a_delayed_job_comes_back_with_its_attempts(hire: Hire) -> None:
    jobs = hire()
    await jobs.accept(a_job("j1"), None)
    await jobs.accept(a_job("j2"), None)
    claim = await claimed(jobs)
    job = replace(claim.job, attempts=1)
    await jobs.retry(claim, job, 0.2)
    again = await claimed(hire("b"))
    assert again.job == job
    assert (await jobs.counts())["later"] == 0


async def test_the_janitor_leaves_alone_what_is_well(jobs: Jobs) -> None:
    for name in ("j1", "j2", "j3"):
        await jobs.accept(a_job(name, f"t{name}"), None)
    await claimed(jobs)
    delayed = await claimed(jobs)
    await jobs.retry(delayed, delayed.job, 3600.0)
    assert await jobs.repair() == 0
    await claimed(jobs)
    assert await jobs.claim("turns", 0) is None


# Many at once


async def test_many_workers_do_each_job_once_and_each_thread_in_order(hire: Hire) -> None:
    threads, each = 30, 5
    done: dict[Lane, dict[str, list[str]]] = {"turns": defaultdict(list), "delivery": defaultdict(list)}
    at_work: set[tuple[Lane, ThreadId]] = set()
    all_done = asyncio.Event()

    async def work(jobs: Jobs, lane: Lane) -> None:
        while not all_done.is_set():
            if (claim := await jobs.claim(lane, 0.2)) is None:
                continue
            assert (lane, claim.thread) not in at_work
            at_work.add((lane, claim.thread))
            await jobs.renew(claim)
            done[lane][claim.thread].append(claim.job.id)
            at_work.remove((lane, claim.thread))
            if lane == "turns":
                await jobs.hand_over(claim, composed(claim.job))
            else:
                await jobs.finish(claim, sent(claim.job))
            if sum(map(len, done["delivery"].values())) == threads * each:
                all_done.set()

    async def arrive(jobs: Jobs, thread: int) -> None:
        for number in range(each):
            assert await jobs.accept(a_job(f"{thread}-{number}", f"t{thread}"), None) == "new"

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for owner, lane in itertools.product("abcd", ("turns", "turns", "delivery")):
            group.create_task(work(hire(owner), lane))  # type: ignore[arg-type]
        for thread in range(threads):
            group.create_task(arrive(hire("intake"), thread))
    expected = {f"t{thread}": [f"{thread}-{number}" for number in range(each)] for thread in range(threads)}
    assert done == {"turns": expected, "delivery": expected}
    assert await hire().counts() == counts()


# Turns that answer several mails, and replies that come back


async def test_jobs_that_wait_behind_a_claim_are_seen_in_order_and_end_with_it(jobs: Jobs) -> None:
    for name in ("j1", "j2", "j3"):
        await jobs.accept(a_job(name), None)
    claim = await claimed(jobs)
    first, second, third = claim.job, *await jobs.waiting(claim)
    assert [second.id, third.id] == ["j2", "j3"]
    await jobs.hand_over(claim, composed(first), [second.at(Merged(first.id), "merged", 2.0)])
    assert (await claimed(jobs)).job == third
    assert (await claimed(jobs, "delivery")).job.id == first.id
    found = await jobs.find(second.message_id)
    assert found is not None
    assert found.stage == Merged(first.id)
    thread = await jobs.thread(first.thread)
    assert thread is not None
    assert thread.turns == 1


async def test_a_merge_under_a_lost_lease_changes_nothing(hire: Hire) -> None:
    quick = hire("quick", 0.02)
    for name in ("j1", "j2"):
        await quick.accept(a_job(name), None)
    claim = await claimed(quick)
    [second] = await quick.waiting(claim)
    other = await claimed(hire("other", 0.02))
    with pytest.raises(LeaseLostError):
        await quick.hand_over(claim, composed(claim.job), [second.at(Merged(claim.job.id), "merged", 2.0)])
    assert await hire().waiting(other) == (second,)


async def test_colleagues_of_every_mail_are_participants_of_the_thread(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1", colleagues=("a@example.org",)), None)
    await jobs.accept(a_job("j2", colleagues=("b@example.org", "a@example.org")), None)
    thread = await jobs.thread(ThreadId("t1"))
    assert thread is not None
    assert thread.participants == {"a@example.org", "b@example.org"}
    assert thread == await jobs.thread_of(["<j2@customer.test>"])


async def test_a_reply_that_came_back_is_marked_once_and_counted(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    await jobs.hand_over(claim, composed(claim.job))
    assert await jobs.bounced("<reply-j1@example.org>", "no such user", 9.0) is None, "it is not sent yet"
    claim = await claimed(jobs, "delivery")
    await jobs.finish(claim, sent(claim.job))
    assert await jobs.bounced("<j1@customer.test>", "not a reply of ours", 9.0) is None
    assert await jobs.bounced("<unknown@example.org>", "no such user", 9.0) is None
    marked = await jobs.bounced("<reply-j1@example.org>", "no such user", 9.0)
    assert marked is not None
    assert isinstance(marked.stage, Bounced)
    assert await jobs.find("j1") == marked
    assert await jobs.bounced("<reply-j1@example.org>", "again", 10.0) is None
    assert (await jobs.counts())["bounced"] == 1


async def test_a_reply_that_came_back_before_its_job_ended_ends_as_bounced(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    await jobs.hand_over(claim, composed(claim.job))
    claim = await claimed(jobs, "delivery")
    await jobs.save(claim, sending(claim.job))
    marked = await jobs.bounced("<reply-j1@example.org>", "no such user", 9.0)
    assert await jobs.find("j1") == sending(claim.job)
    await jobs.finish(claim, sent(claim.job))
    assert marked is not None
    assert isinstance(marked.stage, Bounced)
    assert await jobs.find("j1") == marked
    assert await jobs.counts() == counts(bounced=1)
    assert await jobs.change(marked, composed(marked))
    claim = await claimed(jobs, "delivery")
    await jobs.finish(claim, sent(claim.job))
    assert await jobs.counts() == counts(), "it was sent again, and did not come back"


def sending(job: Job) -> Job:
    """The same composed job, with its first envelope under way."""
    assert isinstance(job.stage, Composed)
    return job.at(Sending(job.stage, 1, to=job.sender), "sending", 2.5)


# Operators


async def test_a_dead_job_is_put_back_at_the_end_of_a_lane(jobs: Jobs) -> None:
    dead = await a_dead_one(jobs)
    await jobs.accept(a_job("j2"), None)
    assert await jobs.change(dead, a_job("j1"))
    assert await jobs.counts() == counts(turns=2)
    first = await claimed(jobs)
    assert [first.job.id, *(job.id for job in await jobs.waiting(first))] == ["j2", "j1"]


async def test_what_was_composed_goes_back_to_delivery(jobs: Jobs) -> None:
    dead = await a_dead_one(jobs)
    assert await jobs.change(dead, composed(dead))
    assert (await claimed(jobs, "delivery")).job == composed(dead)
    assert await jobs.counts() == counts(delivery=1)


async def test_an_ending_is_changed_into_another(jobs: Jobs) -> None:
    dead = await a_dead_one(jobs)
    after = sent(composed(dead))
    assert await jobs.change(dead, after)
    assert await jobs.find("j1") == after
    assert await jobs.counts() == counts()


async def test_a_waiting_job_is_taken_out_of_its_lane(jobs: Jobs) -> None:
    for name in ("j1", "j2"):
        await jobs.accept(a_job(name), None)
    out = a_job("j1").at(Dead("an operator said so"), "dead", 2.0)
    assert await jobs.change(a_job("j1"), out)
    assert await jobs.find("j1") == out
    claim = await claimed(jobs)
    assert claim.job.id == "j2"
    assert await jobs.waiting(claim) == ()


async def test_the_last_job_of_a_thread_is_taken_out(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    assert await jobs.change(a_job("j1"), a_job("j1").at(Dead("no"), "dead", 2.0))
    assert await jobs.claim("turns", 0) is None
    assert await jobs.check() == []


async def test_with_the_job_that_failed_its_delay_goes(jobs: Jobs) -> None:
    for name in ("j1", "j2", "j3"):
        await jobs.accept(a_job(name), None)
    claim = await claimed(jobs)
    await jobs.retry(claim, claim.job, 3600.0)
    assert await jobs.change(a_job("j2"), a_job("j2").at(Dead("no"), "dead", 2.0))
    assert await jobs.claim("turns", 0) is None
    assert await jobs.change(claim.job, claim.job.at(Dead("no"), "dead", 2.0))
    assert (await claimed(jobs)).job.id == "j3"


async def test_nothing_of_a_thread_at_work_is_taken_out(jobs: Jobs) -> None:
    for name in ("j1", "j2"):
        await jobs.accept(a_job(name), None)
    claim = await claimed(jobs)
    for name in ("j1", "j2"):
        assert not await jobs.change(a_job(name), a_job(name).at(Dead("no"), "dead", 2.0))
    assert [job.id for job in await jobs.waiting(claim)] == ["j2"]
    await jobs.finish(claim, sent(composed(claim.job)))
    assert (await claimed(jobs)).job.id == "j2"


async def test_what_was_changed_meanwhile_or_is_unknown_is_left_alone(jobs: Jobs) -> None:
    dead = await a_dead_one(jobs)
    assert not await jobs.change(a_job("j1"), a_job("j1"))
    assert not await jobs.change(a_job("j9"), a_job("j9"))
    assert await jobs.find("j1") == dead
    assert await jobs.counts() == counts(dead=1)


async def test_no_job_goes_from_lane_to_lane_by_hand(jobs: Jobs) -> None:
    await jobs.accept(a_job("j1"), None)
    assert not await jobs.change(a_job("j1"), composed(a_job("j1")))
    assert await jobs.counts() == counts(turns=1)


async def a_dead_one(jobs: Jobs) -> Job:
    await jobs.accept(a_job("j1"), None)
    claim = await claimed(jobs)
    dead = claim.job.at(Dead("the attachment is broken"), "dead", 2.0)
    await jobs.finish(claim, dead)
    return dead


async def test_the_depth_is_what_waits_for_the_agent(jobs: Jobs) -> None:
    assert await jobs.depth() == 0
    for name, thread in (("j1", "t1"), ("j2", "t1"), ("j3", "t2")):
        await jobs.accept(a_job(name, thread), None)
    claim = await claimed(jobs)
    assert await jobs.depth() == 3
    await jobs.hand_over(claim, composed(claim.job))
    assert await jobs.depth() == 2


async def test_jobs_are_listed_with_what_becomes_of_them(hire: Hire) -> None:
    jobs = hire()
    for name, thread in (("j1", "t1"), ("j2", "t2"), ("j3", "t1"), ("j4", "t3")):
        await jobs.accept(a_job(name, thread), None)
    for delay in (7200.0, 3600.0):
        claim = await claimed(jobs)
        await jobs.retry(claim, claim.job, delay)
    at_work = await claimed(jobs)
    turns = await jobs.listed("turns", 10)
    assert {each.job.id for each in turns} == {"j1", "j2", "j3", "j4"}
    assert [each.job.id for each in turns if each.at_work] == [at_work.job.id]
    assert [each.holder for each in turns if each.at_work] == ["a"]
    later = await jobs.listed("later", 10)
    assert len(later) == 2
    due = [each.due for each in later]
    assert due[0]
    assert due[1]
    assert 3590 < due[1] - due[0] < 3610
    assert later[0].job == claim.job
    assert [each.due for each in turns if each.job == claim.job] == due[:1]
    assert len(await jobs.listed("turns", 3)) == 3
    assert len(await jobs.listed("later", 1)) == 1
    assert await jobs.listed("dead", 10) == ()


async def test_endings_that_people_must_see_are_listed_in_their_order(jobs: Jobs) -> None:
    for name in ("j1", "j2", "j3"):
        await jobs.accept(a_job(name, f"t{name}"), None)
    order = []
    while claim := await jobs.claim("turns", 0):
        order.append(claim.job.at(Dead("no"), "dead", 2.0))
        await jobs.finish(claim, order[-1])
        await jobs.claim("delivery", 0.002)  # no two in one millisecond
    assert await jobs.listed("dead", 2) == tuple(Listed(job, at_work=False, due=None) for job in order[:2])


async def test_only_what_is_at_its_end_is_finished(jobs: Jobs) -> None:
    await jobs.accept(a_job(), None)
    claim = await claimed(jobs)
    with pytest.raises(TypeError):
        await jobs.finish(claim, claim.job)


# More of leases


async def test_a_lease_that_ran_out_is_as_good_as_before_until_another_takes_the_thread(hire: Hire) -> None:
    slow = hire("slow", 0.01)
    await slow.accept(a_job(), None)
    claim = await claimed(slow)
    assert await slow.claim("delivery", 0.05) is None
    await slow.save(claim, claim.job)
    await slow.renew(claim)
    await slow.hand_over(claim, composed(claim.job))


async def test_the_thread_of_a_silent_worker_comes_before_all_that_are_due(hire: Hire) -> None:
    slow = hire("slow", 0.01)
    await slow.accept(a_job("j1", "t9"), None)
    await claimed(slow)
    assert await slow.claim("delivery", 0.05) is None
    await slow.accept(a_job("j2", "t1"), None)
    assert (await claimed(hire())).job.id == "j1"


async def test_a_waiting_claim_hears_of_a_delay_that_was_set_meanwhile(hire: Hire) -> None:
    jobs = hire()
    for name in ("j1", "j2"):
        await jobs.accept(a_job(name, f"t{name}"), None)
    first, second = await claimed(jobs), await claimed(jobs)
    await jobs.retry(first, first.job, 3600.0)
    waiting = asyncio.create_task(hire("b").claim("turns", 20.0))
    await jobs.retry(second, second.job, 0.2)
    claim = await waiting
    assert claim
    assert claim.job == second.job
