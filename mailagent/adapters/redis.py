"""The job queue in Redis: a list of jobs per thread, a stream that announces threads, a lease on each one at work."""

import asyncio
import hashlib
import itertools
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from importlib import resources
from typing import Any, Literal

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from mailagent.core.errors import ConfigError, LeaseLostError, TemporaryError
from mailagent.core.job import Bounced, Composed, Dead, Job, Sent, decode, encode
from mailagent.core.values import Mailbox, Thread, ThreadId
from mailagent.ports import Claim, CursorMove, Lane

__all__ = ["PREFIX", "Redis", "RedisJobs", "connect", "script", "store_errors"]

PREFIX = "{ma}"
"""The hash tag puts all keys into one slot, as a script needs it (redis.io/docs/reference/cluster-spec)."""

_LANES: tuple[Lane, ...] = ("turns", "delivery")
_PASSING = ("MISCONF", "BUSY ", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
_LOOK = 1.0
"""Seconds after which a waiting claim looks again for threads of dead workers and delays that others set."""
_CONSUMER_IDLE = 3600.0
"""Seconds of silence after which a consumer without announcements is forgotten; a live one asks every second."""


async def connect(url: str) -> tuple[Redis, list[str]]:
    """A client for a server that is fit to keep mail, and warnings about what could be better.

    Raises ConfigError naming every setting that must change, TemporaryError when the server cannot be reached."""
    try:
        # A script that redis-py sent again after a lost answer would run twice: every failure goes to the caller.
        client = Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="surrogatepass",
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
        )
    except ValueError as error:
        raise ConfigError(f"redis.url is not valid: {error}") from error
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        with store_errors():
            warnings = await _check(client)
        stack.pop_all()
    return client, warnings


async def _check(client: Redis) -> list[str]:
    try:
        # INFO, since hosted servers often forbid CONFIG.
        info = await client.info()
    except ConnectionError as error:
        if isinstance(error.__cause__ or error, AuthenticationError):
            raise ConfigError(f"redis.url: the server refuses the user or the password: {error}") from error
        raise
    faults = []
    version = str(info["redis_version"])
    if int(version.partition(".")[0]) < 7:
        faults.append(f"redis.url: the server is Redis {version}, but 7 or newer is needed: upgrade it")
    if info["maxmemory_policy"] != "noeviction":
        faults.append("redis.url: the server may drop keys when memory is short: set maxmemory-policy noeviction")
    if not info["aof_enabled"]:
        faults.append("redis.url: the server does not log its writes: set appendonly yes")
    if faults:
        raise ConfigError(*faults)
    return await _warnings(client)


async def _warnings(client: Redis) -> list[str]:
    try:
        fsync = (await client.config_get("appendfsync"))["appendfsync"]
    except (NoPermissionError, ResponseError):
        return ["redis.url: the server does not tell its appendfsync; with less than always a crash may repeat work"]
    if fsync == "always":
        return []
    return [f"redis.url: with appendfsync {fsync} a crash of the server may repeat work: set appendfsync always"]


@contextmanager
def store_errors() -> Iterator[None]:
    """Maps what Redis says when it is away, busy, full or read-only to TemporaryError; what else it says is a bug."""
    try:
        yield
    except (ConnectionError, TimeoutError, ReadOnlyError, OutOfMemoryError) as error:
        raise TemporaryError(f"Redis: {error}") from error
    except ResponseError as error:
        if not str(error).startswith(_PASSING):
            raise
        raise TemporaryError(f"Redis: {error}") from error


def script(client: Redis, *names: str) -> AsyncScript:
    """The script that is written in these files, one after the other."""
    folder = resources.files("mailagent.adapters") / "redis_scripts"
    return client.register_script("\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names))


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
        names = ("advance", "accept", "bounced", "claim", "renew", "save", "hand_over", "finish", "retry", "repair")
        self._scripts = {name: script(client, "common", name) for name in names}

    async def belong_to(self, state: str) -> None:
        """Say once whose jobs these are. ConfigError when they are another's: their files lie in its state directory,
        which we cannot read."""
        with store_errors():
            owner = await self._client.set(self._key("state"), state, nx=True, get=True)
        if owner not in (None, state):
            raise ConfigError(
                "redis.url: this Redis serves a mailagent with another storage.state_dir: take another one"
            )

    async def cursor(self, mailbox: Mailbox) -> int | None:
        with store_errors():
            uid = await self._client.hget(self._key("cursors"), _field(mailbox))
        return None if uid is None else int(uid)

    async def knows(self, account: str, folder: str) -> bool:
        with store_errors():
            fields = await self._client.hkeys(self._key("cursors"))
        return any(json.loads(name)[:2] == [account, folder] for name in fields)

    async def advance(self, move: CursorMove) -> bool:
        return bool(await self._run("advance", *_move(move)))

    async def accept(self, job: Job, move: CursorMove | None) -> Literal["new", "known", "rewound"]:
        news = await self._accept([job], move)
        if news is None:
            return "rewound"
        return "new" if news else "known"

    async def take_over(self, jobs: Sequence[Job], move: CursorMove) -> bool:
        return await self._accept(jobs, move) is not None

    async def _accept(self, jobs: Sequence[Job], move: CursorMove | None) -> int | None:
        """How many of the jobs are new; None when the cursor is elsewhere."""
        values = [value for job in jobs for value in self._new(job)]
        news: int | None = await self._run("accept", self._retention, *(_move(move) if move else ("", 0, 0)), *values)
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

    async def claim(self, lane: Lane, wait: float) -> Claim | None:
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        token = f"{self._owner}:{next(self._fences)}"
        while True:
            found = await self._run("claim", lane, self._owner, token, _milliseconds(self._lease))
            if len(found) == 3:
                return Claim(lane, ThreadId(found[1]), token, found[0], decode(found[2]))
            newest, due = found
            left = until - clock()
            if left <= 0:
                return None
            await self._news(lane, newest, min(left, _LOOK, self._lease, due / 1000 if due >= 0 else left))

    async def _news(self, lane: Lane, newest: str, timeout: float) -> None:
        with store_errors():
            await self._client.xread({self._key("ready", lane): newest}, count=1, block=_milliseconds(timeout))

    async def renew(self, claim: Claim) -> None:
        await self._write("renew", claim, self._owner, _milliseconds(self._lease))

    async def save(self, claim: Claim, job: Job) -> None:
        await self._write("save", claim, job.id, encode(job))

    async def waiting(self, claim: Claim) -> tuple[Job, ...]:
        with store_errors():
            jobs = await self._client.lrange(self._key(claim.lane, claim.thread), 1, -1)
            bodies = [await self._client.hget(self._key("job", str(job)), "body") for job in jobs]
        return tuple(decode(str(body)) for body in bodies if body is not None)

    async def hand_over(self, claim: Claim, job: Job, merged: Sequence[Job] = ()) -> None:
        if not isinstance(job.stage, Composed):
            raise TypeError(f"a job is handed over when it is composed, not {type(job.stage).__name__}")
        index = self._index(job.stage.message_id)
        others = [text for each in merged for text in (each.id, encode(each))]
        await self._write("hand_over", claim, job.id, encode(job), index, self._retention, *others)

    async def finish(self, claim: Claim, job: Job) -> None:
        dead = int(isinstance(job.stage, Dead))
        await self._write("finish", claim, job.id, encode(job), dead, self._retention)

    async def retry(self, claim: Claim, job: Job, delay: float) -> None:
        await self._write("retry", claim, job.id, encode(job), int(delay * 1000))

    async def find(self, key: str) -> Job | None:
        with store_errors():
            job = await self._client.hget(self._index(key), "job") or key
            body = await self._client.hget(self._key("job", str(job)), "body")
        return None if body is None else decode(str(body))

    async def bounced(self, message_id: str, reason: str, now: float) -> Job | None:
        job = await self.find(message_id)
        if job is None or not isinstance(job.stage, Sent) or job.stage.composed.message_id != message_id:
            return None
        later = job.at(Bounced(job.stage.composed, reason), "bounced", now)
        return later if await self._run("bounced", job.id, encode(job), encode(later)) else None

    async def counts(self) -> dict[str, int]:
        """As promised; turns and delivery include jobs that are worked at or delayed, later counts delayed threads."""
        with store_errors():
            turns, delivery = [
                sum([await self._client.llen(self._key(lane, thread)) for thread in await self._busy(lane)])
                for lane in _LANES
            ]
            later = sum([await self._client.zcard(self._key("later", lane)) for lane in _LANES])
            dead, bounced = [await self._client.zcard(self._key(name)) for name in ("dead", "bounced")]
        return {"turns": turns, "delivery": delivery, "later": later, "dead": dead, "bounced": bounced}

    async def repair(self) -> int:
        with store_errors():
            busy = {lane: await self._busy(lane) for lane in _LANES}
        idle = _milliseconds(_CONSUMER_IDLE)
        return sum([await self._run("repair", lane, idle, self._retention, *busy[lane]) for lane in _LANES])

    async def _busy(self, lane: Lane) -> list[str]:
        """The threads with work in this lane: found by looking at all keys, since an index could be lost itself."""
        start = self._key(lane, "")
        found = [key async for key in self._client.scan_iter(match=f"{start}*", count=1000, _type="list")]
        return sorted({key.removeprefix(start) for key in found})

    async def _write(self, name: str, claim: Claim, *arguments: str | int) -> None:
        if not await self._run(name, claim.lane, claim.thread, claim.token, claim.entry, *arguments):
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


def _move(move: CursorMove) -> tuple[str, int, int]:
    return _field(move.mailbox), move.seen, move.uid


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
