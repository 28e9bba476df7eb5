"""What each sender has used and was told, counted in Redis; any number of daemons share one account."""

import hashlib

from mailagent.adapters.redis import PREFIX, Redis, script, store_errors
from mailagent.core.quota import HOUR, Spent, day_of
from mailagent.core.screen import Kind
from mailagent.core.values import JobId, Usage

__all__ = ["RedisLedger"]

_KEEP_SECONDS = 2 * 86400
"""How long anything is kept: a day, and another one for daemons and clocks that are late."""


class RedisLedger:
    """Keeps `ports.Ledger` in one Redis; everything in it is forgotten after two days."""

    def __init__(self, client: Redis, *, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = prefix
        self._count = script(client, "count")

    async def spent(self, sender: str, now: float) -> Spent:
        with store_errors():
            async with self._client.pipeline(transaction=True) as both:
                both.hmget(self._key("day", _hashed(sender), day_of(now)), ["mails", "tokens", "microdollars"])
                both.zrange(self._key("hours", _hashed(sender)), *_last_hour(now), byscore=True, withscores=True)
                today, hour = await both.execute()
        mails, tokens, microdollars = (int(value or 0) for value in today)
        return Spent(mails, tokens, microdollars / 1e6, tuple(float(at) for _, at in hour))

    async def took(self, sender: str, job: JobId, now: float) -> None:
        await self._add("took", sender, job, now, "mails", 1)

    async def used(self, sender: str, job: JobId, usage: Usage, now: float) -> None:
        tokens = usage.input_tokens + usage.output_tokens
        # Whole numbers, since sums of decimal fractions drift.
        await self._add("used", sender, job, now, "tokens", tokens, "microdollars", round(usage.cost_usd * 1e6))

    async def may_tell(self, sender: str, kind: Kind, job: JobId, now: float) -> bool:
        key = self._key("told", _hashed(sender), kind, day_of(now))
        with store_errors():
            before = await self._client.set(key, job, nx=True, get=True, ex=_KEEP_SECONDS)
        return before in (None, job)

    async def overall_last_hour(self, now: float) -> int:
        with store_errors():
            return int(await self._client.zcount(self._key("hours"), *_last_hour(now)))

    async def _add(self, what: str, sender: str, job: JobId, now: float, *amounts: str | int) -> None:
        arguments = (what, job, _hashed(sender), day_of(now), now, _KEEP_SECONDS, *amounts)
        with store_errors():
            await self._count(keys=[self._prefix], args=arguments)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, "ledger", *parts))


def _hashed(sender: str) -> str:
    """Of any length and with any character in the mail; not for every reader of the store to see."""
    return hashlib.sha256(sender.encode("utf-8", "surrogatepass")).hexdigest()


def _last_hour(now: float) -> tuple[str, float]:
    """The bounds of an hour, its first instant left out."""
    return f"({now - HOUR!r}", now
