"""The job queue in memory: keeps the promises of `ports.Jobs` for any number of workers of one process."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mailagent.core.errors import LeaseLostError
from mailagent.core.job import Bounced, Composed, Dead, Job, Received, Sent, Stamp
from mailagent.core.values import BlobId, JobId, Mailbox, Thread, ThreadId, Usage
from mailagent.ports import Claim, CursorMove, Lane

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
    jobs: dict[JobId, Job] = field(default_factory=dict)
    threads: dict[ThreadId, Thread] = field(default_factory=dict)
    ids: dict[str, JobId] = field(default_factory=dict)
    lanes: dict[Lane, dict[ThreadId, list[JobId]]] = field(default_factory=lambda: {"turns": {}, "delivery": {}})
    leases: dict[tuple[Lane, ThreadId], tuple[str, float]] = field(default_factory=dict)
    later: dict[tuple[Lane, ThreadId], float] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeJobs:
    """One worker's queue; workers that share a `shelf` share the work. Its clock is the event loop's."""

    def __init__(self, *, owner: str = "fake", lease_seconds: float = 30.0, shelf: Shelf | None = None) -> None:
        self.shelf = shelf or Shelf()
        self._owner = owner
        self._lease = lease_seconds
        self._fences = itertools.count(1)

    async def cursor(self, mailbox: Mailbox) -> int | None:
        return self.shelf.cursors.get(mailbox)

    async def knows(self, account: str, folder: str) -> bool:
        return any((mailbox.account, mailbox.folder) == (account, folder) for mailbox in self.shelf.cursors)

    async def advance(self, move: CursorMove) -> bool:
        if self.shelf.cursors.get(move.mailbox, 0) != move.seen:
            return False
        self.shelf.cursors[move.mailbox] = move.uid
        return True

    async def accept(self, job: Job, move: CursorMove | None) -> Literal["new", "known", "rewound"]:
        if move and not await self.advance(move):
            return "rewound"
        if job.id in self.shelf.jobs:
            return "known"
        thread = self.shelf.threads.setdefault(job.thread, Thread(job.thread, job.sender, 0))
        participants = thread.participants | set(job.colleagues)
        self.shelf.threads[job.thread] = replace(thread, participants=participants)
        if job.message_id:
            self.shelf.ids.setdefault(job.message_id, job.id)
        self._put("turns", job)
        return "new"

    async def take_over(self, jobs: Sequence[Job], move: CursorMove) -> bool:
        moved = await self.advance(move)
        for job in jobs if moved else ():
            await self.accept(job, None)
        return moved

    async def thread_of(self, message_ids: Sequence[str]) -> Thread | None:
        jobs = [self.shelf.ids[message_id] for message_id in message_ids if message_id in self.shelf.ids]
        return self.shelf.threads[self.shelf.jobs[jobs[0]].thread] if jobs else None

    async def thread(self, thread: ThreadId) -> Thread | None:
        return self.shelf.threads.get(thread)

    async def claim(self, lane: Lane, wait: float) -> Claim | None:
        until = self._now() + wait
        while True:
            for thread, jobs in self.shelf.lanes[lane].items():
                if self._free(lane, thread):
                    return self._take(lane, thread, jobs[0])
            if self._now() >= until:
                return None
            await self._news(until)

    def _free(self, lane: Lane, thread: ThreadId) -> bool:
        _, leased_until = self.shelf.leases.get((lane, thread), ("", 0.0))
        return max(leased_until, self.shelf.later.get((lane, thread), 0.0)) <= self._now()

    def _take(self, lane: Lane, thread: ThreadId, job: JobId) -> Claim:
        token = f"{self._owner}:{next(self._fences)}"
        self.shelf.leases[lane, thread] = (token, self._now() + self._lease)
        self.shelf.later.pop((lane, thread), None)
        return Claim(lane, thread, token, "", self.shelf.jobs[job])

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
        for each in merged:
            self.shelf.jobs[each.id] = each
            self.shelf.lanes[claim.lane][claim.thread].remove(each.id)
        self.shelf.ids[job.stage.message_id] = job.id
        self._put("delivery", job)
        self._leave(claim, job)

    async def finish(self, claim: Claim, job: Job) -> None:
        self._check(claim)
        self.shelf.jobs[job.id] = job
        self._leave(claim, job)

    async def retry(self, claim: Claim, job: Job, delay: float) -> None:
        self._check(claim)
        self.shelf.jobs[job.id] = job
        self.shelf.later[claim.lane, claim.thread] = self._now() + delay
        self._release(claim)

    async def find(self, key: str) -> Job | None:
        return self.shelf.jobs.get(self.shelf.ids.get(key, JobId(key)))

    async def bounced(self, message_id: str, reason: str, now: float) -> Job | None:
        job = await self.find(message_id)
        if job is None or not isinstance(job.stage, Sent) or job.stage.composed.message_id != message_id:
            return None
        self.shelf.jobs[job.id] = job.at(Bounced(job.stage.composed, reason), "bounced", now)
        return self.shelf.jobs[job.id]

    async def counts(self) -> dict[str, int]:
        counts: dict[str, int] = {lane: sum(map(len, threads.values())) for lane, threads in self.shelf.lanes.items()}
        dead = sum(isinstance(job.stage, Dead) for job in self.shelf.jobs.values())
        bounced = sum(isinstance(job.stage, Bounced) for job in self.shelf.jobs.values())
        return {**counts, "later": len(self.shelf.later), "dead": dead, "bounced": bounced}

    async def repair(self) -> int:
        return 0

    def _put(self, lane: Lane, job: Job) -> None:
        self.shelf.jobs[job.id] = job
        self.shelf.lanes[lane].setdefault(job.thread, []).append(job.id)
        self._notify()

    def _leave(self, claim: Claim, job: Job) -> None:
        jobs = self.shelf.lanes[claim.lane].pop(claim.thread)
        jobs.remove(job.id)
        if jobs:
            self.shelf.lanes[claim.lane][claim.thread] = jobs
        self._release(claim)

    def _release(self, claim: Claim) -> None:
        self.shelf.leases.pop((claim.lane, claim.thread))
        self._notify()

    def _notify(self) -> None:
        self.shelf.changed.set()
        self.shelf.changed = asyncio.Event()

    def _check(self, claim: Claim) -> None:
        token, until = self.shelf.leases.get((claim.lane, claim.thread), ("", 0.0))
        if token != claim.token or until <= self._now():
            raise LeaseLostError(claim.token)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
