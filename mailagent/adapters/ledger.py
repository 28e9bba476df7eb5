"""What each sender has used and was told, counted in Redis; any number of daemons share one account."""

import hashlib
from collections.abc import Collection, Sequence

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
        self._scripts = {name: script(client, name) for name in ("took", "used")}

    async def spent(self, senders: Collection[str], now: float) -> dict[str, Spent]:
        if not senders:
            return {}
        with store_errors():
            async with self._client.pipeline(transaction=True) as asked:
                for sender in map(_hashed, senders):
                    asked.hmget(self._key("day", sender, day_of(now)), ["mails", "tokens", "microdollars"])
                    asked.zrange(self._key("hours", sender), *_last_hour(now), byscore=True, withscores=True)
                answers = await asked.execute()
        return {
            sender: _spent(today, hour)
            for sender, today, hour in zip(senders, answers[::2], answers[1::2], strict=True)
        }

    async def took(self, jobs: Sequence[tuple[str, JobId]], now: float) -> None:
        pairs = [text for sender, job in jobs for text in (_hashed(sender), job)]
        await self._run("took", day_of(now), now, *pairs)

    async def used(self, sender: str, job: JobId, usage: Usage, now: float) -> None:
        tokens = usage.input_tokens + usage.output_tokens
        # Whole numbers, since sums of decimal fractions drift.
        await self._run("used", day_of(now), now, _hashed(sender), job, tokens, round(usage.cost_usd * 1e6))

    async def may_tell(self, sender: str, kind: Kind, job: JobId, now: float) -> bool:
        key = self._key("told", _hashed(sender), kind, day_of(now))
        with store_errors():
            before = await self._client.set(key, job, nx=True, get=True, ex=_KEEP_SECONDS)
        return before in (None, job)

    async def overall_last_hour(self, now: float) -> int:
        with store_errors():
            return int(await self._client.zcount(self._key("hours"), *_last_hour(now)))

    async def _run(self, name: str, *arguments: str | float) -> None:
        with store_errors():
            await self._scripts[name](keys=[self._prefix], args=[_KEEP_SECONDS, *arguments])

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, "ledger", *parts))


def _spent(today: list[str | None], hour: list[tuple[str, float]]) -> Spent:
    mails, tokens, microdollars = (int(value or 0) for value in today)
    return Spent(mails, tokens, microdollars / 1e6, tuple(float(at) for _, at in hour))


def _hashed(sender: str) -> str:
    """Of any length and with any character in the mail; not for every reader of the store to see."""
    return hashlib.sha256(sender.encode("utf-8", "surrogatepass")).hexdigest()


def _last_hour(now: float) -> tuple[str, float]:
    """The bounds of an hour, its first instant left out."""
    return f"({now - HOUR!r}", now
