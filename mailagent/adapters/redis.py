"""The job queue in Redis: a list of jobs per thread, and sorted sets of those that are due, delayed and leased."""

import asyncio
import hashlib
import itertools
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from typing import Any, Literal

from redis.asyncio import Redis

from mailagent.adapters.redis_client import connect, script, store_errors
from mailagent.core.errors import ConfigError, LeaseLostError, PermanentError
from mailagent.core.job import PLACES, Bounced, Composed, Job, Sending, Sent, decode, encode
from mailagent.core.values import JobId, Mailbox, Thread, ThreadId
from mailagent.ports import LANES, Claim, CursorMove, Lane, Listed

log = logging.getLogger(__name__)

__all__ = ["PREFIX", "Redis", "RedisJobs", "connect", "script", "store_errors"]

PREFIX = "{ma}"
"""The hash tag puts all keys into one slot, as a script needs it (redis.io/docs/reference/cluster-spec)."""

_PATIENCE = 5.0
"""How long one read waits for the bell: less than the time after which a silent server is given up."""
_LOOK_SECONDS = 3600.0
"""After so long the janitor looks at everything again, without any reason."""
_SCRIPTS = (
    "server",
    "listed",
    "look",
    "begin",
    "accept",
    "claim",
    "renew",
    "save",
    "waiting",
    "hand_over",
    "finish",
    "bounced",
    "retry",
    "change",
)
_INDEXES = sorted(set(PLACES.values()) - {""})
_UNREADABLE_SECONDS = 3600.0
"""How long a job waits that this version of us cannot read: until an upgrade, say, is made again."""
_CHUNK = 500
"""How many things one script looks at: about a millisecond in which nobody else is served."""


class RedisJobs:
    """Keeps `ports.Jobs` in one Redis; any number of daemons may share it.

    `owner` is shown in leases, say host and pid; it is made unique here. `retention_seconds` after the last write to a
    thread without work, all of it is forgotten."""

    def __init__(
        self, client: Redis, *, owner: str, lease_seconds: float, retention_seconds: int, prefix: str = PREFIX
    ) -> None:
        self._client = client
        # Unique: after a loss of data a lease of before must not pass for a new one, nor one of an earlier process.
        self._owner = f"{owner}:{secrets.token_hex(4)}"
        self._fences = itertools.count(1)
        self._lease = lease_seconds
        self._retention = retention_seconds
        self._prefix = prefix
        self._looked: tuple[str, float] | None = None
        self._scripts = {name: script(client, "common", name) for name in _SCRIPTS}

    async def belong_to(self, blobs: str) -> None:
        """Say once which store of blobs these jobs name. ConfigError when it is another one, where their files are
        not."""
        with store_errors():
            known = await self._client.get(self._key("blobs"))
            if known is None:  # where the server is full, it refuses also to set what is set
                known = str(await self._client.set(self._key("blobs"), blobs, nx=True, get=True) or blobs)
        if known != blobs:
            raise ConfigError("redis.url: this Redis serves a mailagent with another storage.blobs: share both or none")

    async def cursor(self, mailbox: Mailbox) -> int | None:
        with store_errors():
            uid = await self._client.hget(self._key("cursors"), _field(mailbox))
        return None if uid is None else int(uid)

    async def since(self, mailbox: Mailbox, now: float) -> float | None:
        with store_errors():
            since = await self._client.hget(self._key("since"), _folder(mailbox))
            fields = await self._client.hkeys(self._key("cursors"))
        if since is None and all(json.loads(name)[:2] != [mailbox.account, mailbox.folder] for name in fields):
            return None
        return max(float(since or 0), now - self._retention)

    async def begin(self, mailbox: Mailbox, uid: int, since: float) -> int:
        return int(await self._run("begin", _field(mailbox), uid, _folder(mailbox), repr(since)))

    async def accept(self, job: Job, move: CursorMove | None) -> Literal["new", "known", "rewound"]:
        news = await self._accept([job], move)
        if news is None:
            return "rewound"
        return "new" if news else "known"

    async def take_over(self, jobs: Sequence[Job], move: CursorMove) -> Collection[JobId] | None:
        return await self._accept(jobs, move)

    async def _accept(self, jobs: Sequence[Job], move: CursorMove | None) -> Collection[JobId] | None:
        values = [value for job in jobs for value in self._new(job)]
        news: list[JobId] | None = await self._run("accept", *(_move(move) if move else ("", 0, 0)), *values)
        return news

    def _new(self, job: Job) -> tuple[str, ...]:
        index = self._index(job.message_id) if job.message_id else ""
        return job.id, job.thread, encode(job), job.sender, index, json.dumps(job.colleagues)

    async def thread_of(self, message_ids: Sequence[str]) -> Thread | None:
        for message_id in message_ids:
            with store_errors():
                thread = await self._client.hget(self._index(message_id), "thread")
            found = await self.thread(ThreadId(str(thread))) if thread else None
            if found:
                return found
        return None

    async def thread(self, thread: ThreadId) -> Thread | None:
        with store_errors():
            owner, turns = await self._client.hmget(self._key("thread", thread), ["owner", "turns"])
            others = await self._client.smembers(self._key("participants", thread))
        participants = frozenset(map(str, others))
        return None if owner is None else Thread(thread, str(owner), int(turns or 0), participants)

    async def claim(self, lane: Lane, wait: float, but: Collection[ThreadId] = ()) -> Claim | None:
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        token = f"{self._owner}:{next(self._fences)}"
        while True:
            first, second, *job = await self._run("claim", lane, token, _milliseconds(self._lease), *but)
            if job:  # of the thread that is first, with the body that is second
                try:
                    return Claim(lane, ThreadId(first), token, decode(second))
                except PermanentError as error:
                    log.error("job %s: put off for an hour: %s", *job, error)
                    await self._run("retry", lane, first, token, *job, second, _milliseconds(_UNREADABLE_SECONDS))
                    continue
            # Else where the bell stands, and how long until there may be something.
            left = until - clock()
            if left <= 0:
                return None
            # A lease that another takes from now on runs out no earlier than one of ours would.
            await self._bell(lane, first, min(left, self._lease, _PATIENCE, second / 1000 if second >= 0 else left))

    async def _bell(self, lane: Lane, last: str, timeout: float) -> None:
        with store_errors():
            await self._client.xread({self._key("bell", lane): last}, count=1, block=_milliseconds(timeout))

    async def renew(self, claim: Claim) -> None:
        await self._write("renew", claim, _milliseconds(self._lease))

    async def save(self, claim: Claim, job: Job) -> None:
        await self._write("save", claim, job.id, encode(job))

    async def waiting(self, claim: Claim) -> tuple[Job, ...]:
        bodies = await self._run("waiting", claim.lane, claim.thread, claim.job.id)
        jobs: list[Job] = []
        with suppress(PermanentError):  # who comes behind one that cannot be read waits with it
            for body in bodies:
                jobs.append(decode(body))
        return tuple(jobs)

    async def hand_over(self, claim: Claim, job: Job, merged: Sequence[Job] = ()) -> None:
        if not isinstance(job.stage, Composed):
            raise TypeError(f"a job is handed over when it is composed, not {type(job.stage).__name__}")
        others = [text for each in merged for text in (each.id, encode(each))]
        await self._write("hand_over", claim, job.id, encode(job), self._index(job.stage.message_id), *others)

    async def finish(self, claim: Claim, job: Job) -> None:
        place = PLACES[type(job.stage)]
        if place in LANES:
            raise TypeError(f"a job that is {type(job.stage).__name__} is not at its end")
        await self._write("finish", claim, job.id, encode(job), place, self._retention)

    async def retry(self, claim: Claim, job: Job, delay: float) -> None:
        await self._write("retry", claim, job.id, encode(job), round(delay * 1000))

    async def find(self, key: str) -> Job | None:
        with store_errors():
            job = await self._client.hget(self._index(key), "job") or key
            body = await self._client.hget(self._key("job", str(job)), "body")
        return None if body is None else decode(str(body))

    async def bounced(self, message_id: str, reason: str, now: float) -> Job | None:
        job = await self.find(message_id)
        if job is None or not isinstance(job.stage, Sending | Sent) or job.stage.composed.message_id != message_id:
            return None
        later = job.at(Bounced(job.stage.composed, reason), "bounced", now)
        return later if await self._run("bounced", job.id, encode(later)) else None

    async def change(self, job: Job, after: Job) -> bool:
        with store_errors():
            body = await self._client.hget(self._key("job", job.id), "body")
        # What is compared is the text that was read: another version of us may have written it in other words.
        if body is None or decode(str(body)) != job:
            return False
        place = PLACES[type(after.stage)]
        return bool(await self._run("change", job.id, job.thread, str(body), encode(after), place, self._retention))

    async def depth(self) -> int:
        with store_errors():
            return int(await self._client.zcard(self._key("index", "turns")))

    async def counts(self) -> dict[str, int]:
        """As promised; turns and delivery include jobs that are worked at or delayed, later counts delayed threads."""
        with store_errors():
            places = {name: await self._client.zcard(self._key("index", name)) for name in _INDEXES}
            later = sum([await self._client.zcard(self._key("later", lane)) for lane in LANES])
        return {**places, "later": later}

    async def listed(self, place: str, limit: int) -> tuple[Listed, ...]:
        lanes = LANES if place == "later" else (place,)
        found = [each for lane in lanes for each in await self._run("listed", place, lane, limit)]
        listed = []
        for body, holder, due in found:
            try:
                ends = float(due) / 1000 if due else None
                listed.append(Listed(decode(body), bool(holder), ends, holder.partition(":")[0]))
            except PermanentError as error:
                log.warning("not listed: %s", error)
        if place == "later":
            listed.sort(key=lambda each: each.due or 0.0)
        return tuple(listed[:limit])

    async def check(self) -> list[str]:
        return await self._look(mend=False)

    async def repair(self) -> int:
        """As promised. Only a loss of data makes it necessary, so all is looked at when the server is another one than
        at the last look, or was started again, and once an hour."""
        server, now = await self._run("server"), time.monotonic()
        if self._looked and self._looked[0] == server and now < self._looked[1] + _LOOK_SECONDS:
            return 0
        found = await self._look(mend=True)
        self._looked = server, now
        return len(found)

    async def _look(self, *, mend: bool) -> list[str]:
        """All findings. The lists come first, so that no job is put back beside another that is taken out."""
        found = []
        for lane in LANES:
            found += await self._look_at(mend, "list", lane, self._named(lane, "list"))
        found += await self._look_at(mend, "job", "", self._named("job", "hash"))
        for lane in LANES:
            for name in ("due", "later", "leases"):
                found += await self._look_at(mend, "thread", lane, self._members(name, lane))
            found += await self._look_at(mend, "thread", lane, self._holders(lane))
        for place in _INDEXES:
            found += await self._look_at(mend, "entry", place, self._members("index", place))
        return found

    async def _look_at(self, mend: bool, what: str, place: str, names: AsyncIterator[str]) -> list[str]:
        found: list[str] = []
        chunk: list[str] = []
        async for name in names:
            chunk.append(name)
            if len(chunk) == _CHUNK:
                found += await self._run("look", int(mend), what, place, self._retention, *chunk)
                chunk = []
        return found + (await self._run("look", int(mend), what, place, self._retention, *chunk) if chunk else [])

    async def _named(self, kind: str, type_: str) -> AsyncIterator[str]:
        """What follows `kind` in the names of keys: by looking at all keys, since an index could be lost itself."""
        start = self._key(kind, "")
        with store_errors():
            async for key in self._client.scan_iter(match=f"{start}*", count=1000, _type=type_):
                yield str(key).removeprefix(start)

    async def _members(self, *parts: str) -> AsyncIterator[str]:
        with store_errors():
            async for member, _ in self._client.zscan_iter(self._key(*parts), count=1000):
                yield str(member)

    async def _holders(self, lane: Lane) -> AsyncIterator[str]:
        with store_errors():
            async for thread, _ in self._client.hscan_iter(self._key("tokens", lane), count=1000):
                yield str(thread)

    async def _write(self, name: str, claim: Claim, *arguments: str | int) -> None:
        if not await self._run(name, claim.lane, claim.thread, claim.token, *arguments):
            raise LeaseLostError(f"{claim.token} no longer holds {claim.thread} in {claim.lane}")

    async def _run(self, name: str, *arguments: str | int) -> Any:
        with store_errors():
            return await self._scripts[name](keys=[self._prefix], args=arguments)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _index(self, message_id: str) -> str:
        """Hashed, because a stranger chose it: of any length, and with any character."""
        return self._key("mid", hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).hexdigest())


def _field(mailbox: Mailbox) -> str:
    return json.dumps([mailbox.account, mailbox.folder, mailbox.uidvalidity])


def _folder(mailbox: Mailbox) -> str:
    return json.dumps([mailbox.account, mailbox.folder])


def _move(move: CursorMove) -> tuple[str, int, int]:
    return _field(move.mailbox), move.seen, move.uid


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
