"""The job queue in memory: keeps the promises of `ports.Jobs` for any number of workers of one process."""

import asyncio
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mailagent.core.errors import LeaseLostError
from mailagent.core.job import PLACES, Bounced, Composed, Job, Received, Sending, Sent, Stamp
from mailagent.core.values import BlobId, JobId, Mailbox, Thread, ThreadId, Usage
from mailagent.ports import LANES, Claim, CursorMove, Lane, Listed

INBOX = Mailbox("agent@example.org", "INBOX", 7)


def a_job(name: str = "j1", thread: str = "t1", **changes: Any) -> Job:
    """A job that has just arrived."""
    job = Job(
        id=JobId(name),
        thread=ThreadId(thread),
        message=BlobId("0" * 64),
        message_id=f"<{name}@customer.test>",
        sender="customer@example.org",
        subject="Umsätze – Q3",
        mailbox=INBOX,
        uid=1,
        stage=Received(),
        history=(Stamp("received", 1.5),),
    )
    return replace(job, **changes)


def composed(job: Job) -> Job:
    """The same job at the end of its turn; the reply's Message-ID is <reply-{id}@example.org>."""
    stage = Composed(BlobId("1" * 64), f"<reply-{job.id}@example.org>", (job.sender,), Usage("rules", 3, 100, 20, 0.01))
    return job.at(stage, "composed", 2.0)


def sent(job: Job) -> Job:
    """The same composed job, delivered."""
    assert isinstance(job.stage, Composed)
    return job.at(Sent(job.stage, "250 ok"), "sent", 3.0)


@dataclass
class Shelf:
    """What several FakeJobs share."""

    cursors: dict[Mailbox, int] = field(default_factory=dict)
    since: dict[tuple[str, str], float] = field(default_factory=dict)
    jobs: dict[JobId, Job] = field(default_factory=dict)
    threads: dict[ThreadId, Thread] = field(default_factory=dict)
    ids: dict[str, JobId] = field(default_factory=dict)
    lanes: dict[Lane, dict[ThreadId, list[JobId]]] = field(default_factory=lambda: {"turns": {}, "delivery": {}})
    leases: dict[tuple[Lane, ThreadId], tuple[str, float]] = field(default_factory=dict)
    later: dict[tuple[Lane, ThreadId], float] = field(default_factory=dict)
    due: dict[Lane, dict[ThreadId, int]] = field(default_factory=lambda: {"turns": {}, "delivery": {}})
    last: dict[tuple[Lane, str], int] = field(default_factory=dict)
    """The highest place among the due that each sender was given."""
    places: dict[str, list[JobId]] = field(default_factory=lambda: {place: [] for place in PLACES.values()})
    returned: dict[JobId, Job] = field(default_factory=dict)
    """How those end that came back while they were still in the outbox."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeJobs:
    """One worker's queue; workers that share a `shelf` share the work. Its clock is the event loop's."""

    def __init__(
        self,
        *,
        owner: str = "fake",
        lease_seconds: float = 30.0,
        retention_seconds: float = 90 * 86400.0,
        shelf: Shelf | None = None,
    ) -> None:
        self.shelf = shelf or Shelf()
        self._retention = retention_seconds
        self._owner = owner
        self._lease = lease_seconds
        self._fences = itertools.count(1)

    async def cursor(self, mailbox: Mailbox) -> int | None:
        return self.shelf.cursors.get(mailbox)

    async def since(self, mailbox: Mailbox, now: float) -> float | None:
        since = self.shelf.since.get((mailbox.account, mailbox.folder))
        return None if since is None else max(since, now - self._retention)

    async def begin(self, mailbox: Mailbox, uid: int, since: float) -> int:
        self.shelf.since.setdefault((mailbox.account, mailbox.folder), since)
        return self.shelf.cursors.setdefault(mailbox, uid)

    def _advance(self, move: CursorMove) -> bool:
        if self.shelf.cursors.get(move.mailbox, 0) != move.seen:
            return False
        self.shelf.cursors[move.mailbox] = move.uid
        return True

    async def accept(self, job: Job, move: CursorMove | None) -> Literal["new", "known", "rewound"]:
        if move and not self._advance(move):
            return "rewound"
        if job.id in self.shelf.jobs:
            return "known"
        thread = self.shelf.threads.setdefault(job.thread, Thread(job.thread, job.sender, 0))
        participants = thread.participants | set(job.colleagues)
        self.shelf.threads[job.thread] = replace(thread, participants=participants)
        if job.message_id:
            self.shelf.ids.setdefault(job.message_id, job.id)
        self._enqueue("turns", job)
        self._store(job)
        return "new"

    async def take_over(self, jobs: Sequence[Job], move: CursorMove) -> Collection[JobId] | None:
        if not self._advance(move):
            return None
        return [job.id for job in jobs if await self.accept(job, None) == "new"]

    async def thread_of(self, message_ids: Sequence[str]) -> Thread | None:
        jobs = [self.shelf.ids[message_id] for message_id in message_ids if message_id in self.shelf.ids]
        return self.shelf.threads[self.shelf.jobs[jobs[0]].thread] if jobs else None

    async def thread(self, thread: ThreadId) -> Thread | None:
        return self.shelf.threads.get(thread)

    async def claim(self, lane: Lane, wait: float, but: Collection[ThreadId] = ()) -> Claim | None:
        until = self._now() + wait
        while True:
            if thread := self._next(lane, but):
                return self._take(lane, thread)
            if self._now() >= until:
                return None
            await self._news(until)

    def _next(self, lane: Lane, but: Collection[ThreadId]) -> ThreadId | None:
        over = [thread for (of, thread), ends in self.shelf.later.items() if of == lane and ends <= self._now()]
        for thread in over:
            del self.shelf.later[lane, thread]
            self._announce(lane, thread)
        for (of, thread), (_, until) in self.shelf.leases.items():
            if of == lane and until <= self._now() and thread not in but:
                return thread
        due = self.shelf.due[lane]
        return min(due, key=lambda thread: (due[thread], thread)) if due else None

    def _take(self, lane: Lane, thread: ThreadId) -> Claim:
        token = f"{self._owner}:{next(self._fences)}"
        self.shelf.leases[lane, thread] = (token, self._now() + self._lease)
        self.shelf.due[lane].pop(thread, None)
        return Claim(lane, thread, token, self.shelf.jobs[self.shelf.lanes[lane][thread][0]])

    async def _news(self, until: float) -> None:
        ends = [end for _, end in self.shelf.leases.values()] + list(self.shelf.later.values())
        soonest = min([until, *(end for end in ends if end > self._now())])
        try:
            async with asyncio.timeout_at(soonest):
                await self.shelf.changed.wait()
        except TimeoutError:
            pass

    async def renew(self, claim: Claim) -> None:
        self._check(claim)
        self.shelf.leases[claim.lane, claim.thread] = (claim.token, self._now() + self._lease)

    async def save(self, claim: Claim, job: Job) -> None:
        self._check(claim)
        self.shelf.jobs[job.id] = job

    async def waiting(self, claim: Claim) -> tuple[Job, ...]:
        return tuple(self.shelf.jobs[job] for job in self.shelf.lanes[claim.lane][claim.thread][1:])

    async def hand_over(self, claim: Claim, job: Job, merged: Sequence[Job] = ()) -> None:
        self._check(claim)
        if not isinstance(job.stage, Composed):
            raise TypeError("not composed")
        thread = self.shelf.threads[job.thread]
        self.shelf.threads[job.thread] = replace(thread, turns=thread.turns + 1)
        self.shelf.ids[job.stage.message_id] = job.id
        self._enqueue("delivery", job)
        self._leave(claim, job, *merged)

    async def finish(self, claim: Claim, job: Job) -> None:
        self._check(claim)
        if PLACES[type(job.stage)] in LANES:
            raise TypeError("not at its end")
        is_sent = isinstance(job.stage, Sent)
        self._leave(claim, self.shelf.returned.get(job.id, job) if is_sent else job)

    async def retry(self, claim: Claim, job: Job, delay: float) -> None:
        self._check(claim)
        self.shelf.jobs[job.id] = job
        if delay > 0:
            self.shelf.later[claim.lane, claim.thread] = self._now() + delay
        else:
            self._announce(claim.lane, claim.thread)
        self._release(claim)

    async def find(self, key: str) -> Job | None:
        return self.shelf.jobs.get(self.shelf.ids.get(key, JobId(key)))

    async def bounced(self, message_id: str, reason: str, now: float) -> Job | None:
        job = await self.find(message_id)
        if job is None or not isinstance(job.stage, Sending | Sent) or job.stage.composed.message_id != message_id:
            return None
        later = job.at(Bounced(job.stage.composed, reason), "bounced", now)
        if isinstance(job.stage, Sending):
            self.shelf.returned[job.id] = later
        else:
            self._store(later)
        return later

    async def change(self, job: Job, after: Job) -> bool:
        before, to, thread = PLACES[type(job.stage)], PLACES[type(after.stage)], job.thread
        if self.shelf.jobs.get(job.id) != job or (before in LANES and to in LANES):
            return False
        for lane in LANES:
            if before == lane and (lane, thread) in self.shelf.leases:
                return False
            if before == lane:
                self._take_out(lane, job)
            if to == lane:
                self._enqueue(lane, after)
        self._store(after)
        self.shelf.returned.pop(job.id, None)
        return True

    def _take_out(self, lane: Lane, job: Job) -> None:
        jobs = self.shelf.lanes[lane][job.thread]
        if jobs[0] == job.id:
            self.shelf.later.pop((lane, job.thread), None)
        jobs.remove(job.id)
        if not jobs:
            del self.shelf.lanes[lane][job.thread]
            self.shelf.due[lane].pop(job.thread, None)
        elif (lane, job.thread) not in self.shelf.later:
            self._announce(lane, job.thread)

    async def depth(self) -> int:
        return len(self.shelf.places["turns"])

    async def counts(self) -> dict[str, int]:
        counts = {place: len(jobs) for place, jobs in self.shelf.places.items() if place}
        return {**counts, "later": len(self.shelf.later)}

    async def listed(self, place: str, limit: int) -> tuple[Listed, ...]:
        if place == "later":
            delayed = sorted(self.shelf.later, key=self.shelf.later.__getitem__)
            jobs = [self.shelf.lanes[lane][thread][0] for lane, thread in delayed]
        else:
            jobs = self.shelf.places[place]
        return tuple(self._seen(self.shelf.jobs[job]) for job in jobs[:limit])

    def _seen(self, job: Job) -> Listed:
        for lane in LANES:
            if PLACES[type(job.stage)] == lane:
                at_work = (lane, job.thread) in self.shelf.leases and self.shelf.lanes[lane][job.thread][0] == job.id
                holder = self.shelf.leases[lane, job.thread][0].partition(":")[0] if at_work else ""
                return Listed(job, at_work, self.shelf.later.get((lane, job.thread)), holder)
        return Listed(job, at_work=False, due=None)

    async def check(self) -> list[str]:
        return []

    async def repair(self) -> int:
        return 0

    def _enqueue(self, lane: Lane, job: Job) -> None:
        jobs = self.shelf.lanes[lane].setdefault(job.thread, [])
        jobs.append(job.id)
        if len(jobs) == 1:
            self._announce(lane, job.thread)

    def _announce(self, lane: Lane, thread: ThreadId) -> None:
        """Due at a place that is fair: those of one sender two apart, a newcomer's one behind the first."""
        due, sender = self.shelf.due[lane], self.shelf.threads[thread].owner
        if thread in due:
            return
        first = min(due.values(), default=-1)
        if not due:
            self.shelf.last = {key: last for key, last in self.shelf.last.items() if key[0] != lane}
        due[thread] = max(first + 1, self.shelf.last.get((lane, sender), -2) + 2)
        self.shelf.last[lane, sender] = due[thread]
        self._notify()

    def _store(self, job: Job) -> None:
        place = self.shelf.places[PLACES[type(job.stage)]]
        self.shelf.jobs[job.id] = job
        if job.id not in place:
            for jobs in self.shelf.places.values():
                if job.id in jobs:
                    jobs.remove(job.id)
            place.append(job.id)

    def _leave(self, claim: Claim, *jobs: Job) -> None:
        """Store these jobs, all of this lane and thread, in their new stages, and give the lease back."""
        left = self.shelf.lanes[claim.lane].pop(claim.thread)
        for job in jobs:
            self._store(job)
            left.remove(job.id)
        if left:
            self.shelf.lanes[claim.lane][claim.thread] = left
            self._announce(claim.lane, claim.thread)
        self._release(claim)

    def _release(self, claim: Claim) -> None:
        self.shelf.leases.pop((claim.lane, claim.thread))
        self._notify()

    def _notify(self) -> None:
        self.shelf.changed.set()
        self.shelf.changed = asyncio.Event()

    def _check(self, claim: Claim) -> None:
        token, _ = self.shelf.leases.get((claim.lane, claim.thread), ("", 0.0))
        if token != claim.token:
            raise LeaseLostError(claim.token)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
