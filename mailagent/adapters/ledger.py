"""What each sender has used and was told, counted in Redis; any number of daemons share one account."""

import hashlib
from collections.abc import Collection, Sequence

from mailagent.adapters.redis import PREFIX, Redis, script, store_errors
from mailagent.core.quota import DAY, HOUR, Account, Spend, Spent, day_of
from mailagent.core.screen import Kind
from mailagent.core.values import JobId

__all__ = ["RedisLedger"]

_KEEP_SECONDS = 2 * 86400
"""How long anything is kept: a day, and another one for daemons and clocks that are late."""

_COUNTED = ["mails", "tokens", "microdollars", "requests"]


class RedisLedger:
    """Keeps `ports.Ledger` in one Redis; everything in it is forgotten after two days, but the account of a thread,
    which lasts `thread_seconds` from its last request."""

    def __init__(self, client: Redis, *, thread_seconds: float = 90 * DAY, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = prefix
        self._thread_seconds = int(thread_seconds)
        self._took = script(client, "took")
        self._charge = script(client, "charge")
        self._settle = script(client, "settle")

    async def spent(self, senders: Collection[str], now: float) -> dict[str, Spent]:
        if not senders:
            return {}
        with store_errors():
            async with self._client.pipeline(transaction=True) as asked:
                for sender in map(_hashed, senders):
                    asked.hmget(self._key("day", sender, day_of(now)), _COUNTED)
                    asked.zrange(self._key("hours", sender), *_last_hour(now), byscore=True, withscores=True)
                answers = await asked.execute()
        return {
            sender: _spent(today, hour)
            for sender, today, hour in zip(senders, answers[::2], answers[1::2], strict=True)
        }

    async def took(self, jobs: Sequence[tuple[str, JobId]], now: float) -> None:
        pairs = [text for sender, job in jobs for text in (_hashed(sender), job)]
        with store_errors():
            await self._took(keys=[self._prefix], args=[_KEEP_SECONDS, day_of(now), now, *pairs])

    async def charge(
        self, request: str, accounts: Sequence[Account], most: Spend, now: float
    ) -> tuple[Account, Spend] | None:
        keys = [self._key("request", request), *(self._account(each, now) for each in accounts)]
        limits = [
            limit for each in accounts for limit in (self._seconds(each), each.budget.requests, *_amounts(each.budget))
        ]
        with store_errors():
            full = await self._charge(keys=keys, args=[_KEEP_SECONDS, *_amounts(most), *limits])
        if not full:
            return None
        place, requests, tokens, microdollars = full
        return accounts[place], Spend(requests, tokens, microdollars / 1e6)

    async def settle(self, request: str, used: Spend) -> None:
        with store_errors():
            await self._settle(keys=[self._key("request", request)], args=_amounts(used))

    async def may_tell(self, sender: str, kind: Kind, job: JobId, now: float) -> bool:
        key = self._key("told", _hashed(sender), kind, day_of(now))
        with store_errors():
            before = await self._client.set(key, job, nx=True, get=True, ex=_KEEP_SECONDS)
        return before in (None, job)

    async def overall_last_hour(self, now: float) -> int:
        with store_errors():
            return int(await self._client.zcount(self._key("hours"), *_last_hour(now)))

    def _account(self, account: Account, now: float) -> str:
        match account.scope:
            case "sender":
                return self._key("day", _hashed(account.of), day_of(now))
            case "everybody":
                return self._key("day", day_of(now))
            case _:
                return self._key(account.scope, account.of)

    def _seconds(self, account: Account) -> int:
        return self._thread_seconds if account.scope == "thread" else _KEEP_SECONDS

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, "ledger", *parts))


def _spent(today: list[str | None], hour: list[tuple[str, float]]) -> Spent:
    mails, tokens, microdollars, requests = (int(value or 0) for value in today)
    return Spent(mails, tokens, microdollars / 1e6, tuple(float(at) for _, at in hour), requests)


def _hashed(sender: str) -> str:
    """Of any length and with any character in the mail; not for every reader of the store to see."""
    return hashlib.sha256(sender.encode("utf-8", "surrogatepass")).hexdigest()


def _amounts(spend: Spend) -> tuple[int, int]:
    """Tokens and microdollars: whole numbers, since sums of decimal fractions drift."""
    return spend.tokens, round(spend.dollars * 1e6)


def _last_hour(now: float) -> tuple[str, float]:
    """The bounds of an hour, its first instant left out."""
    return f"({now - HOUR!r}", now
