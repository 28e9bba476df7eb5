"""The account of the senders in memory: keeps the promises of `ports.Ledger`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mailagent.core.quota import HOUR, Account, Spend, Spent, day_of
from mailagent.core.screen import Kind
from mailagent.core.values import JobId

Name = tuple[str, str, str]
"""Scope, whose, and the day of those that are for one."""


@dataclass
class FakeLedger:
    """The first word on a job stands."""

    mails: dict[JobId, tuple[str, float]] = field(default_factory=dict)
    charged: dict[str, tuple[set[Name], Spend]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    told: dict[tuple[str, Kind, str], JobId] = field(default_factory=dict)

    async def spent(self, senders: Collection[str], now: float) -> dict[str, Spent]:
        return {sender: self._spent(sender, now) for sender in senders}

    def _spent(self, sender: str, now: float) -> Spent:
        today = day_of(now)
        mails = [at for who, at in self.mails.values() if who == sender]
        used = self._used(("sender", sender, today))
        return Spent(
            mails=sum(day_of(at) == today for at in mails),
            tokens=used.tokens,
            dollars=used.dollars,
            last_hour=tuple(sorted(at for at in mails if now - HOUR < at <= now)),
            requests=used.requests,
        )

    async def took(self, jobs: Sequence[tuple[str, JobId]], now: float) -> None:
        for sender, job in jobs:
            self.mails.setdefault(job, (sender, now))

    async def charge(
        self, request: str, accounts: Sequence[Account], most: Spend, now: float
    ) -> tuple[Account, Spend] | None:
        if request in self.charged:
            return None
        names = [_name(each, now) for each in accounts]
        for account, name in zip(accounts, names, strict=True):
            used, budget = self._used(name), account.budget
            if used.requests >= budget.requests or used.tokens >= budget.tokens or used.dollars >= budget.dollars:
                return account, used
        self.charged[request] = (set(names), most)
        return None

    async def settle(self, request: str, used: Spend) -> None:
        if request in self.charged and request not in self.settled:
            self.settled.add(request)
            self.charged[request] = (self.charged[request][0], used)

    def _used(self, name: Name) -> Spend:
        spends = [spend for names, spend in self.charged.values() if name in names]
        dollars = round(sum(spend.dollars for spend in spends), 6)
        return Spend(len(spends), sum(spend.tokens for spend in spends), dollars)

    async def may_tell(self, sender: str, kind: Kind, job: JobId, now: float) -> bool:
        return self.told.setdefault((sender, kind, day_of(now)), job) == job

    async def overall_last_hour(self, now: float) -> int:
        return sum(now - HOUR < at <= now for _, at in self.mails.values())


def _name(account: Account, now: float) -> Name:
    daily = account.scope in ("sender", "everybody")
    return account.scope, account.of, day_of(now) if daily else ""
