"""What the store names, and how a thread is forgotten: with everything that finds it, its mails and its blobs."""

import re
from collections.abc import AsyncIterator, Collection

from mailagent.adapters import snapshots
from mailagent.adapters.redis import PREFIX, Redis, script, store_errors
from mailagent.adapters.transcripts import transcript_of
from mailagent.core.errors import PermanentError
from mailagent.core.job import Job, decode, session_id
from mailagent.core.policy import WORKSPACE
from mailagent.core.values import BlobId, ThreadId
from mailagent.ports import Blobs, Kept

_BLOB = re.compile(r"\b[0-9a-f]{64}\b")


class RedisRetention:
    """Keeps `ports.Retention` in the Redis of `RedisJobs`."""

    def __init__(self, client: Redis, blobs: Blobs, *, prefix: str = PREFIX) -> None:
        self._client = client
        self._blobs = blobs
        self._prefix = prefix
        self._forget = script(client, "common", "forget", flags="allow-oom")

    async def threads(self) -> AsyncIterator[Kept]:
        with store_errors():
            async for name in self._client.scan_iter(match=self._key("thread", "*"), count=1000, _type="hash"):
                yield await self._kept(ThreadId(str(name).removeprefix(self._key("thread", ""))))

    async def forget(self, thread: ThreadId) -> bool:
        with store_errors():
            arguments = (thread, transcript_of(WORKSPACE, session_id(thread)))
            return bool(await self._forget(keys=[self._prefix], args=arguments))

    async def named(self, but: Collection[ThreadId] = ()) -> set[BlobId]:
        found = set()
        with store_errors():
            async for name in self._client.scan_iter(match=self._key("job", "*"), count=1000, _type="hash"):
                body, thread = await self._client.hmget(name, ["body", "thread"])
                if thread not in but:
                    found |= set(_BLOB.findall(str(body)))
            start = self._key("checkpoint", "")
            async for name in self._client.scan_iter(match=f"{start}*", count=1000, _type="hash"):
                if str(name).removeprefix(start) not in but:
                    found |= await self._files(str(await self._client.hget(name, "manifest") or ""))
        return {BlobId(each) for each in found}

    async def turn_to_sweep(self, seconds: float) -> bool:
        with store_errors():
            return bool(await self._client.set(self._key("swept"), "", nx=True, ex=round(seconds)))

    async def _kept(self, thread: ThreadId) -> Kept:
        owner = await self._client.hget(self._key("thread", thread), "owner")
        waits = await self._client.exists(self._key("turns", thread), self._key("delivery", thread))
        entries = await self._client.llen(self._key("log", transcript_of(WORKSPACE, session_id(thread))))
        return Kept(thread, str(owner), await self._jobs(thread), entries, waits > 0)

    async def _jobs(self, thread: ThreadId) -> tuple[Job, ...]:
        start = self._key("job", "")
        names = [str(name) for name in await self._client.smembers(self._key("names", thread))]
        bodies = [await self._client.hget(name, "body") for name in sorted(names) if name.startswith(start)]
        return tuple(decode(str(body)) for body in bodies if body is not None)

    async def _files(self, manifest: str) -> set[str]:
        """The manifest and what it names; one that is lost names nothing."""
        if not manifest:
            return set()
        try:
            wanted = await snapshots.named(BlobId(manifest), self._blobs)
        except PermanentError:
            return {manifest}
        return {manifest, *(file.blob for file in wanted.files)}

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))
